"""Calls that were submitted one by one."""

from __future__ import annotations

import time
from collections import deque
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from plait._executor import uninterrupted
from plait.auto._calls import Call, Lot, Part, not_awaited
from plait.auto._choice import PROCESSES, THREADS
from plait.auto._errors import Raised
from plait.auto._flow import SLICE_NS, Flow

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from plait._future import Future
    from plait.auto._engine import Engine
    from plait.auto._function import Function
    from plait.auto._meter import Meter
    from plait.auto._seat import Seat

_Queued = tuple["Callable[..., Any]", tuple[Any, ...], dict[str, Any], "Context", "Future[Any]"]
"""A function, its arguments, the context it was submitted in, and the future of what comes of it. Plain: it is soon made."""

#: Calls longer than so many seconds travel alone: what comes of one is not held back by another.
_ALONE = 0.002

#: Seconds of calls that travel together, at most, and of how many such rounds there are enough calls.
_LONG_SLICE, _ROUNDS = 0.006, 8

#: Calls after which it is decided anew, and again for each time that they have doubled.
_MANY = 64


class Backlog(Flow):
    """Submitted calls of one function, each with its future."""

    def __init__(self, state: Function, engine: Engine) -> None:
        super().__init__(state, engine)
        self._calls: deque[_Queued] = deque()
        self._seen = 0
        """Calls that came, about: nothing is counted on it but how many more may come."""
        self._many = _MANY if state.prior is None else 1
        """So many calls have come when it is decided anew, since there are so many more of them."""
        prior = state.prior
        self._expected = prior.calls if prior is not None and prior.model in (PROCESSES, THREADS) else 0
        """So many calls came to another pool that had several workers for them: these start with the first one then."""

    def add(self, queued: _Queued) -> None:
        """Queue a call, and hand over what there is room for."""
        self._seen += 1
        self._calls.append(queued)
        if self._seen >= self._many:
            uninterrupted(self._become_many)
        # A thread that gives up its seat looks for calls once more afterwards: one of both sees the other.
        if len(self.seats) < self.room and not self.full:
            self.fill()

    def _become_many(self) -> None:
        # Where it is a finalizer that submits, its thread may have locks that come after this one.
        if self.state.lock.acquire(blocking=False):
            try:
                self._many = 2 * self._seen  # first: were it to fail, it would for each call that comes
                self.take_up()
                self._many = max(2 * self._seen, 0 if self.state.decision is None else _MANY)
            finally:
                self.state.lock.release()

    def _batch(self) -> int:
        """As many as travel together, and more while there are many: each message costs the caller's process some time."""
        wall, decision = self.state.figures.wall, self.state.decision
        if wall > _ALONE or decision is None or decision.plan.model != PROCESSES:
            return 1
        fewest, many = super()._batch(), self.waiting() // (_ROUNDS * decision.plan.workers)
        return max(fewest, min(many, int(_LONG_SLICE / wall))) if wall else fewest

    def pop(self, most: int) -> Part | None:
        """Take out calls."""
        taken: list[_Queued] = []
        while len(taken) < most:
            try:
                taken.append(self._calls.popleft())
            except IndexError:
                break
        return Part([Call(*queued[:4]) for queued in taken], [queued[4] for queued in taken]) if taken else None

    def make_next(self, seat: Seat, meter: Meter) -> bool:
        """Make calls for a seat, without a lock while there are some."""
        if self.state.decision is None:
            return super().make_next(seat, meter)
        end = time.perf_counter_ns() + SLICE_NS
        now, patient = 0, self.state.figures.wall < _ALONE
        while now < end and len(self.seats) <= self.most and not self._kept:
            try:
                function, args, kwargs, context, future = self._calls.popleft()
            except IndexError:
                if not patient:
                    break
                # Who submits goes on meanwhile: to leave and to come back for each call would take longer than the calls.
                patient = False
                time.sleep(0)
                continue
            if not future.set_running_or_notify_cancel():
                continue
            meter.running = True
            began = time.perf_counter_ns()
            try:
                result = context.run(function, *args, **kwargs)
            except BaseException as error:  # it is the caller's
                now = meter.ended(1, began)
                future.set_exception(error)
            else:
                now = meter.ended(1, began)
                if type(result) is CoroutineType:
                    future.set_exception(not_awaited(function, result))
                else:
                    future.set_result(result)
                del result
            with self._tally:
                self.made += 1
            del function, args, kwargs, context, future
            if self.made >= self._next_look:
                self._look_at_pace()
        return True if now >= end else super().make_next(seat, meter)

    def begin(self, part: Part) -> Part | None:
        """The calls that were not cancelled meanwhile."""
        kept = [
            (call, future)
            for call, future in zip(part.calls, part.sinks, strict=True)
            if future.running() or future.set_running_or_notify_cancel()
        ]
        return Part([call for call, _ in kept], [future for _, future in kept]) if kept else None

    def _hands_over_early(self) -> bool:
        """Where processes are about to be there: a call that was handed over cannot be cancelled any more."""
        return self.engine.starts_soon()

    def waiting(self) -> int:
        """Those that were not handed over."""
        return len(self._calls)

    def left(self) -> int:
        """Those that wait; and as many as came until now may come again, or as came to another pool."""
        return len(self._calls) + max(self._seen, self._expected - self._seen)

    def deliver(self, part: Part | Lot, outcomes: list[Any], *, raised: bool) -> None:  # noqa: ARG002
        """Give each future its outcome."""
        assert isinstance(part, Part)
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
