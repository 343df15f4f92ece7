"""`plait.Barrier`: threads and tasks that wait for one another.

Each filling of the barrier is a `_Round` of its own, so that nobody who arrives has to wait until those of the last
round have left. The mutex is held for moments only, and never while code of the user runs, so that tasks take it too.
"""

from __future__ import annotations

from abc import ABCMeta
from typing import TYPE_CHECKING, Any, NoReturn

from plait import _core
from plait.sync._common import refuse_pickling, shared_kind, within

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Self, TypedDict

    class BarrierStatistics(TypedDict):
        """What `Barrier.statistics()` returns."""

        parties: int
        waiting: int
        broken: bool


__all__ = ["Barrier"]


class _Round:
    """Those who arrive until there are enough."""

    __slots__ = ("arrived", "event", "full", "left", "over", "waiting")

    def __init__(self) -> None:
        self.event = _core.EventCore()  # set when it is over
        self.arrived = 0
        self.waiting = 0
        self.left: list[int] = []  # numbers of those who gave up
        self.full = False  # all are here, and only the action can go wrong
        self.over: bool | None = None  # True when it has come to its end, False when it was broken


def _broken() -> Exception:
    from plait.errors import BrokenBarrierError

    return BrokenBarrierError("the barrier is broken")


class Barrier(metaclass=ABCMeta):  # noqa: B024 -- shared ones count as such by `register`
    """A point that threads and asyncio tasks pass together, when as many as `parties` have arrived.

    It is a `threading.Barrier` and an `asyncio.Barrier` in one: `wait()` for threads, `await barrier.await_()` for
    tasks, or `with` and `async with`, which wait at the start of the block. It can be used again and again.

    Who gives up because of its timeout breaks the barrier for all; a task that is cancelled leaves, and another may
    come instead.

    With `shared=True` it works between processes too: forked children have it, and it can be passed to the tasks of a
    `ProcessPool` and to processes of `multiprocessing`. A process that dies while one of its threads or tasks waits, or
    in the action, breaks the barrier: nobody waits for it.

    Args:
        parties: How many pass together. Of a shared barrier at most 4096.
        action: Called by the last to arrive, before the others go on. If it raises, the barrier is broken. That of a shared
            barrier is called in the process that was last: it travels with the barrier and so has to be one that can be
            pickled, unless all processes are forked.
        timeout: Seconds that each waits at most, unless its own call says otherwise; `None` waits as long as it takes.
        shared: Whether other processes can have it too.

    Raises:
        ValueError: `parties` is below 1, or above 4096 for a shared barrier.

    >>> import asyncio, threading
    >>> start = plait.Barrier(2)
    >>> async def main():
    ...     threading.Thread(target=start.wait).start()
    ...     return await start.await_() in {0, 1}
    >>> asyncio.run(main())
    True
    """

    __slots__ = ("__weakref__", "_acting", "_action", "_before", "_mutex", "_parties", "_round", "_timeout", "_whole")

    def __new__(
        cls,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        shared: bool = False,
    ) -> Self:
        if shared:
            made: Self = shared_kind(cls, Barrier, "SharedBarrier", parties, action, timeout)
            return made
        return super().__new__(cls)

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        shared: bool = False,  # noqa: ARG002  # see __new__
    ) -> None:
        if parties < 1:
            raise ValueError(f"parties must be at least 1, not {parties}")
        self._parties = parties
        self._action = action
        self._timeout = timeout
        self._mutex = _core.LockCore()
        self._round = _Round()
        self._acting: list[_Round] = []  # rounds that are full, and whose action has not ended
        self._before = _Round()  # the one that ended last
        self._whole = True

    def _arrive(self) -> tuple[_Round, int, bool]:
        """Take a number in the round; whether all have arrived, after which the next round begins."""
        with self._mutex:
            if not self._whole:
                raise _broken()
            now = self._round
            if now.left:
                number = now.left.pop()
            else:
                number = now.arrived
                now.arrived += 1
            now.waiting += 1
            if now.waiting == self._parties:
                now.full = True
                self._acting.append(now)
                self._round = _Round()
            return now, number, now.full

    def _finish(self, now: _Round) -> None:
        """Call the action, and let the others go.

        Raises:
            BrokenBarrierError: It was broken meanwhile.
        """
        good = False
        try:
            if self._action is not None:
                self._action()
            good = True
        finally:
            with self._mutex:
                if not good:
                    self._break()
                self._end(now, good)
                self._acting.remove(now)
                self._before = now
        if not now.over:
            raise _broken()

    def _end(self, now: _Round, good: bool) -> None:
        """Say to a round how it ended, with the mutex held."""
        if now.over is None:
            now.over = good
            now.event.set()

    def _break(self) -> None:
        self._whole = False
        self._end(self._round, False)

    def _leave(self, now: _Round, number: int) -> None:
        """Somebody was interrupted or cancelled: another may come instead."""
        with self._mutex:
            if now.over is None and not now.full:
                now.waiting -= 1
                now.left.append(number)

    def _give_up(self, now: _Round) -> None:
        """Somebody has waited long enough, which breaks the barrier, unless all have arrived just now."""
        with self._mutex:
            if now.over is None and not now.full:
                self._break()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until as many as `parties` have arrived; return a number from 0 to `parties - 1`, another for each.

        Args:
            timeout: Seconds to wait at most; `None` for what the barrier was made with. If too few come in time the
            barrier is broken.

        Raises:
            BrokenBarrierError: The barrier is broken, or was broken or reset meanwhile.
        """
        now, number, last = self._arrive()
        if last:
            self._finish(now)
            return number
        try:
            if not now.event.wait(self._timeout if timeout is None else timeout):
                self._give_up(now)
                now.event.wait()  # at once, but for the action
        except BaseException:
            self._leave(now, number)
            raise
        if not now.over:
            raise _broken()
        return number

    async def await_(self, timeout: float | None = None) -> int:
        """Wait in a task until as many as `parties` have arrived; return a number from 0 to `parties - 1`, another for each.

        Args:
            timeout: Seconds to wait at most; `None` for what the barrier was made with. If too few come in time the
            barrier is broken.

        Raises:
            BrokenBarrierError: The barrier is broken, or was broken or reset meanwhile.
        """
        now, number, last = self._arrive()
        if last:
            self._finish(now)
            return number
        timeout = self._timeout if timeout is None else timeout
        try:
            if timeout is None:
                await now.event._await()
            elif not await within(timeout, now.event._await()):
                self._give_up(now)
                await now.event._await()  # at once, but for the action
        except BaseException:
            self._leave(now, number)
            raise
        if not now.over:
            raise _broken()
        return number

    def reset(self) -> None:
        """Make it as new: whole, and nobody waits. Who did gets a BrokenBarrierError."""
        with self._mutex:
            before = self._round
            self._round = _Round()
            self._whole = True
            self._end(before, False)

    def abort(self) -> None:
        """Break it: who waits or has not left yet, and who comes until `reset`, gets a BrokenBarrierError."""
        with self._mutex:
            self._break()
            for now in self._acting:
                self._end(now, False)
            self._before.over = False

    @property
    def parties(self) -> int:
        """How many pass together."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        return self._round.waiting if self._whole else 0

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return not self._whole

    def __enter__(self) -> int:
        return self.wait()

    def __exit__(  # noqa: B027 -- nothing is abstract here
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def __aenter__(self) -> Coroutine[Any, Any, int]:
        return self.await_()

    async def __aexit__(  # noqa: B027 -- nothing is abstract here
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def statistics(self) -> BarrierStatistics:
        """Return what goes on: how many `parties` there are to be, who is `waiting`, and whether it is `broken`.

        >>> plait.Barrier(2).statistics()
        {'parties': 2, 'waiting': 0, 'broken': False}
        """
        return {"parties": self._parties, "waiting": self.n_waiting, "broken": self.broken}

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self._parties}"
        return f"<plait.{type(self).__name__} at {id(self):#x}: {state}>"

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self)
