"""Calls that were submitted one by one and wait to be handed over."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from plait.auto import _slices
from plait.auto._flow import Flow, Part, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._future import Future
    from plait.auto._engine import Executors, Function


class Backlog(Flow):
    """Submitted calls of one function, each with its future."""

    def __init__(self, function: Callable[..., Any], state: Function, executors: Executors, watch: Watch) -> None:
        super().__init__(function, state, executors, watch)
        self._calls: deque[tuple[_slices.Call, Future[Any]]] = deque()
        self._seen = 0

    def add(self, call: _slices.Call, future: Future[Any]) -> None:
        """Queue a call, and hand over what there is room for."""
        self._seen += 1
        self._calls.append((call, future))
        self.fill()

    def take(self, most: int) -> Part | None:
        """Cut off calls, but those that were cancelled meanwhile."""
        part = Part([], [])
        while self._calls and len(part.calls) < most:
            try:
                call, future = self._calls.popleft()
            except IndexError:
                break
            if future.set_running_or_notify_cancel():
                part.calls.append(call)
                part.sinks.append(future)
        return part if part.calls else None

    def left(self) -> int:
        """Those that wait; and as many as came until now may come again."""
        return len(self._calls) + self._seen

    def goes_on(self) -> bool:
        """While calls wait."""
        return bool(self._calls)

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._calls

    def deliver(self, part: Part, outcomes: list[Any]) -> None:
        """Give each future its outcome."""
        for future, outcome in zip(part.sinks, outcomes, strict=True):
            if isinstance(outcome, _slices.Raised):
                future.set_exception(outcome.error)
            else:
                future.set_result(outcome)

    def cancelled(self, part: Part) -> None:
        """Tell them that their calls were cancelled after all."""
        import concurrent.futures

        for future in part.sinks:
            future.set_exception(concurrent.futures.CancelledError())

    def cancel(self) -> None:
        """Cancel what was not handed over."""
        while self._calls:
            _, future = self._calls.popleft()
            future.cancel()
            future.set_running_or_notify_cancel()
