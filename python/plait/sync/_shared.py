"""Channels and locks in shared memory: their classes, and how they travel.

A pickle of one names its segment, which travels as `plait.shared._segment` says: held by pools and by letters until it has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import plait.shared._segment  # noqa: F401  # pyright: ignore[reportUnusedImport]  # how segments travel
from plait import _core
from plait.sync._channel import Channel
from plait.sync._locks import Lock, RLock, _check_timeout, _within

__all__ = ["SharedChannel", "SharedLock", "SharedRLock"]

T = TypeVar("T")


class SharedChannel(_core.SharedChannelCore[T], Channel[T]):
    """A channel of any number of processes."""

    __slots__ = ()

    def __new__(cls, capacity: int, segment: _core.Segment | None = None) -> SharedChannel[T]:
        """Make one, or find the one in `segment`."""
        return _core.SharedChannelCore.__new__(cls, capacity, segment)

    def __reduce__(self) -> tuple[Callable[..., SharedChannel[Any]], tuple[Any, ...]]:
        return SharedChannel, (self.maxsize, self.segment)

    def __copy__(self) -> SharedChannel[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedChannel[T]:
        return self


class SharedLock(_core.SharedLockCore):
    """A `plait.Lock` of any number of processes."""

    __slots__ = ()

    _reentrant = False

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
        _check_timeout(timeout)
        return self._atry() or await _within(timeout, self._aacquire())

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return type(self), (self._segment,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class SharedRLock(SharedLock):
    """A `plait.RLock` of any number of processes."""

    __slots__ = ()

    _reentrant = True


Lock.register(SharedLock)
RLock.register(SharedRLock)
