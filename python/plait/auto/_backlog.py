"""Calls that were submitted one by one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from plait.auto._calls import Call, Part, Raised
from plait.auto._flow import Flow

if TYPE_CHECKING:
    from plait._future import Future
    from plait.auto._engine import Engine
    from plait.auto._function import Function

#: Calls longer than so many seconds travel alone: what comes of one is not held back by another.
_ALONE = 0.001


class Backlog(Flow):
    """Submitted calls of one function, each with its future."""

    def __init__(self, state: Function, engine: Engine) -> None:
        super().__init__(state, engine)
        self._calls: deque[tuple[Call, Future[Any]]] = deque()
        self._seen = 0

    def add(self, call: Call, future: Future[Any]) -> None:
        """Queue a call, and hand over what there is room for."""
        with self.lock:
            if self.engine.closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._seen += 1
            self._calls.append((call, future))
        self.fill()

    def pop(self, most: int) -> Part | None:
        """Take out calls."""
        if self.state.figures.wall > _ALONE:
            most = min(most, 1)
        taken = [self._calls.popleft() for _ in range(min(most, len(self._calls)))]
        return Part([call for call, _ in taken], [future for _, future in taken]) if taken else None

    def begin(self, part: Part) -> Part | None:
        """The calls that were not cancelled meanwhile."""
        kept = [
            (call, future)
            for call, future in zip(part.calls, part.sinks, strict=True)
            if future.running() or future.set_running_or_notify_cancel()
        ]
        return Part([call for call, _ in kept], [future for _, future in kept]) if kept else None

    def waiting(self) -> int:
        """Those that were not handed over."""
        return len(self._calls)

    def left(self) -> int:
        """Those that wait; and as many as came until now may come again."""
        return len(self._calls) + self._seen

    def deliver(self, part: Part, outcomes: list[Any]) -> None:
        """Give each future its outcome."""
        for future, outcome in zip(part.sinks, outcomes, strict=True):
            if isinstance(outcome, Raised):
                future.set_exception(outcome.error)
            else:
                future.set_result(outcome)

    def cancel(self) -> None:
        """Cancel what was not handed over."""
        with self.lock:
            futures = [future for _, future in self._calls]
            self._calls.clear()
        for future in futures:
            future.cancel()
            future.set_running_or_notify_cancel()
        self._tell_rest()
