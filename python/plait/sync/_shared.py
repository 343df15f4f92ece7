"""Channels and locks in shared memory: their classes, and how they travel.

A pickle of one names its segment, which travels as `plait.shared._segment` says: held by pools and by letters until it
has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import plait.shared._segment  # noqa: F401  # pyright: ignore[reportUnusedImport]  # how segments travel
from plait import _core
from plait.sync._barrier import Barrier
from plait.sync._channel import Channel
from plait.sync._common import check_timeout, within
from plait.sync._condition import AnyCondition, Condition
from plait.sync._event import Event
from plait.sync._locks import Lock, RLock
from plait.sync._semaphores import BoundedSemaphore, Semaphore

__all__ = [
    "SharedBarrier",
    "SharedBoundedSemaphore",
    "SharedChannel",
    "SharedCondition",
    "SharedEvent",
    "SharedLock",
    "SharedRLock",
    "SharedSemaphore",
]

T = TypeVar("T")


class _Itself:
    """Something whose copies are itself: there is one of it, wherever it is."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class SharedChannel(_Itself, _core.SharedChannelCore[T], Channel[T]):
    """A channel of any number of processes."""

    __slots__ = ()

    def __new__(cls, capacity: int, segment: _core.Segment | None = None) -> SharedChannel[T]:
        """Make one, or find the one in `segment`."""
        return _core.SharedChannelCore.__new__(cls, capacity, segment)

    def __reduce__(self) -> tuple[Callable[..., SharedChannel[Any]], tuple[Any, ...]]:
        return SharedChannel, (self.maxsize, self.segment)


class _AnyLock(_Itself, _core.SharedLockCore):
    """A lock of any number of processes."""

    __slots__ = ()

    _reentrant: bool

    def __new__(cls, segment: _core.Segment | None = None) -> Self:
        """Make one, or find the one in `segment`."""
        return _core.SharedLockCore.__new__(cls, cls._reentrant, segment)

    def aacquire(self, blocking: bool = True, timeout: float = -1) -> Coroutine[Any, Any, bool]:
        """Take the lock in a task, which waits until it is free; for `await`, which returns whether it was taken.

        Args:
            blocking: False does not wait.
            timeout: Seconds to wait at most; -1 waits as long as it takes.

        Raises:
            OwnerDied: The process that had the lock died. The lock is not taken: see `recover`.
            ValueError: `timeout` is negative, or given for a call that does not wait.
        """
        if blocking and timeout == -1:
            return self._aacquire()
        return self._aacquire_unless(blocking, timeout)

    async def _aacquire_unless(self, blocking: bool, timeout: float) -> bool:
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return self._atry()
        check_timeout(timeout)
        return self._atry() or await within(timeout, self._aacquire())

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return type(self), (self._segment,)


class SharedLock(_AnyLock):
    """A `plait.Lock` of any number of processes."""

    __slots__ = ()

    _reentrant = False


class SharedRLock(_AnyLock):
    """A `plait.RLock` of any number of processes."""

    __slots__ = ()

    _reentrant = True


class SharedSemaphore(_Itself, _core.SharedSemaphoreCore):
    """A `plait.Semaphore` of any number of processes."""

    __slots__ = ()

    _bounded = False

    def __new__(cls, value: int = 1, segment: _core.Segment | None = None) -> Self:
        """Make one, or find the one in `segment`."""
        return _core.SharedSemaphoreCore.__new__(cls, value, cls._bounded, segment)

    def aacquire(self, blocking: bool = True, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        """Take one from the value in a task, which waits until it is above 0; for `await`, which returns whether it was taken.

        Args:
            blocking: False does not wait.
            timeout: Seconds to wait at most; `None` waits as long as it takes.

        Raises:
            ValueError: `timeout` is given for a call that does not wait.
        """
        if blocking and timeout is None:
            return self._aacquire()
        return self._aacquire_unless(blocking, timeout)

    async def _aacquire_unless(self, blocking: bool, timeout: float | None) -> bool:
        if not blocking:
            if timeout is not None:
                raise ValueError("can't specify timeout for non-blocking acquire")
            return self._atry()
        assert timeout is not None
        return self._atry() or await within(timeout, self._aacquire())

    def statistics(self) -> dict[str, int]:
        """Return what goes on: the `value`, who is `waiting`, and past `waits`."""
        waiting, waits = self._figures()
        return {"value": self._value, "waiting": waiting, "waits": waits}

    def __repr__(self) -> str:
        value = f"{self._value}/{self._initial_value}" if self._bounded else str(self._value)
        name = type(self).__name__.removeprefix("Shared")
        return f"<plait.{name} at {id(self):#x}: shared, value={value} waiting={self._figures()[0]}>"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return type(self), (self._initial_value, self._segment)


class SharedBoundedSemaphore(SharedSemaphore):
    """A `plait.BoundedSemaphore` of any number of processes."""

    __slots__ = ()

    _bounded = True


class SharedEvent(_Itself, _core.SharedEventCore):
    """A `plait.Event` of any number of processes."""

    __slots__ = ()

    def await_(self, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        """Wait in a task until it is set; for `await`, which returns whether it was.

        Args:
            timeout: Seconds to wait at most; `None` waits as long as it takes.
        """
        return self._await() if timeout is None else self._await_within(timeout)

    async def _await_within(self, timeout: float) -> bool:
        return self.is_set() or await within(timeout, self._await())

    def statistics(self) -> dict[str, Any]:
        """Return what goes on: whether it is `set`, and who is `waiting`."""
        return {"set": self.is_set(), "waiting": self._waiting()}

    def __repr__(self) -> str:
        state = "set" if self.is_set() else "unset"
        return f"<plait.Event at {id(self):#x}: shared, {state} waiting={self._waiting()}>"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return type(self), (self._segment,)


class SharedCondition(_Itself, _core.SharedConditionCore, AnyCondition):
    """A `plait.Condition` of any number of processes."""

    __slots__ = ("_is_owned", "_lock", "_release_save", "_restore", "_was_lost", "acquire", "release")

    def __new__(cls, lock: Any = None, segment: _core.Segment | None = None) -> Self:  # noqa: ARG004  # see __init__
        """Make one, or find the one in `segment`."""
        return _core.SharedConditionCore.__new__(cls, segment)

    def __init__(self, lock: Any = None, segment: _core.Segment | None = None) -> None:  # noqa: ARG002  # __new__ takes it
        if not isinstance(lock, _AnyLock | None):
            raise TypeError(f"lock of a shared condition must be a shared plait.Lock or plait.RLock, not {lock!r}")
        super().__init__(SharedRLock() if lock is None else lock)

    def statistics(self) -> Any:
        """Return what goes on: whether the lock is `locked`, its `owner`, and who is `waiting` for a notice."""
        lock: Any = self._lock
        figures = lock.statistics()
        return {"locked": figures["locked"], "owner": figures["owner"], "waiting": self._waiting()}

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return type(self), (self._lock, self._segment)


class SharedBarrier(_Itself, _core.SharedBarrierCore):
    """A `plait.Barrier` of any number of processes."""

    __slots__ = ("_action", "_timeout")

    _action: Callable[[], object] | None
    _timeout: float | None

    def __new__(
        cls,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        segment: _core.Segment | None = None,
    ) -> Self:
        """Make one, or find the one in `segment`."""
        self = _core.SharedBarrierCore.__new__(cls, parties, segment)
        self._action = action
        self._timeout = timeout
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Wait until as many as `parties` have arrived; return a number from 0 to `parties - 1`, another for each.

        Args:
            timeout: Seconds to wait at most; `None` for what the barrier was made with. If too few come in time the
            barrier is broken.

        Raises:
            BrokenBarrierError: The barrier is broken, or was broken or reset meanwhile.
        """
        timeout = self._timeout if timeout is None else timeout
        return self._pass(*self._wait(self._action is not None, timeout))

    async def await_(self, timeout: float | None = None) -> int:
        """Wait in a task until as many as `parties` have arrived; return a number from 0 to `parties - 1`, another for each.

        Args:
            timeout: Seconds to wait at most; `None` for what the barrier was made with. If too few come in time the
            barrier is broken.

        Raises:
            BrokenBarrierError: The barrier is broken, or was broken or reset meanwhile.
        """
        timeout = self._timeout if timeout is None else timeout
        return self._pass(*await self._await(self._action is not None, timeout))

    def _pass(self, number: int, acts: int) -> int:
        """Call the action, if that is to be done here; return the number unless the barrier is broken."""
        if acts:
            good = False
            try:
                assert self._action is not None
                self._action()
                good = True
            finally:
                whole = self._finish(acts, good)
            if not whole:
                number = -1
        if number < 0:
            from plait.errors import BrokenBarrierError

            raise BrokenBarrierError("the barrier is broken")
        return number

    def __enter__(self) -> int:
        return self.wait()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def __aenter__(self) -> Coroutine[Any, Any, int]:
        return self.await_()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def statistics(self) -> dict[str, Any]:
        """Return what goes on: how many `parties` there are to be, who is `waiting`, and whether it is `broken`."""
        return {"parties": self.parties, "waiting": self.n_waiting, "broken": self.broken}

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<plait.Barrier at {id(self):#x}: shared, {state}>"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return type(self), (self.parties, self._action, self._timeout, self._segment)


Barrier.register(SharedBarrier)
Lock.register(SharedLock)
Condition.register(SharedCondition)
RLock.register(SharedRLock)
Semaphore.register(SharedSemaphore)
BoundedSemaphore.register(SharedBoundedSemaphore)
Event.register(SharedEvent)
