"""Calls that were submitted one by one."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from plait.auto._calls import Call, Part, Raised
from plait.auto._flow import SLICE_NS, Flow

if TYPE_CHECKING:
    from plait._future import Future
    from plait.auto._engine import Engine
    from plait.auto._flow import Seat
    from plait.auto._function import Function
    from plait.auto._meter import Meter

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
        self._seen += 1
        self._calls.append((call, future))
        # A thread that gives up its seat looks for calls once more afterwards: one of both sees the other.
        if len(self.seats) < self.room:
            self.fill()

    def pop(self, most: int) -> Part | None:
        """Take out calls."""
        if self.state.figures.wall > _ALONE:
            most = min(most, 1)
        taken: list[tuple[Call, Future[Any]]] = []
        while len(taken) < most:
            try:
                taken.append(self._calls.popleft())
            except IndexError:
                break
        return Part([call for call, _ in taken], [future for _, future in taken]) if taken else None

    def make_next(self, seat: Seat, meter: Meter) -> bool:
        """Make calls for a seat, without a lock while there are some."""
        if self.state.decision is None:
            return super().make_next(seat, meter)
        end = meter.began + SLICE_NS
        now = 0
        while now < end and len(self.seats) <= self.most and not self._kept:
            try:
                call, future = self._calls.popleft()
            except IndexError:
                break
            if not future.set_running_or_notify_cancel():
                continue
            meter.running = True
            began = time.perf_counter_ns()
            try:
                result = call.context.run(call.function, *call.args, **call.kwargs)  # type: ignore[union-attr]
            except BaseException as error:  # it is the caller's
                now = meter.ended(1, began)
                future.set_exception(error)
            else:
                now = meter.ended(1, began)
                future.set_result(result)
                del result
            self.made += 1
            del call, future
        return True if now >= end else super().make_next(seat, meter)

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
        while (part := self.pop(1)) is not None:
            for future in part.sinks:
                future.cancel()
                future.set_running_or_notify_cancel()
        self._tell_rest()
