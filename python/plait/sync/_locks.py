"""`plait.Lock` and `RLock`, for threads and tasks together.

The machines of this room are in `plait._core`. What is here gives them names, the forms of their methods that take time and are
therefore rare, and a look that people can read.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from plait import _core
from plait.sync._common import check_timeout, owner_name, refuse_pickling, shared_kind, within

if TYPE_CHECKING:
    from typing import Self, TypedDict

    class LockStatistics(TypedDict):
        """What `Lock.statistics()` and `RLock.statistics()` return."""

        locked: bool
        owner: str | None
        waiting: int
        waits: int
        handed_over: int


__all__ = ["Lock", "RLock"]


class _OwnedLock:
    """What both locks do: the forms of `acquire` for tasks that take time, and no pickling."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _atry(self) -> bool: ...
        def _aacquire(self) -> Coroutine[Any, Any, bool]: ...
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def aacquire(self, blocking: bool = True, timeout: float = -1) -> Coroutine[Any, Any, bool]:
        """Take the lock in a task, which waits until it may have it; for `await`, which returns whether it was taken.

        An `RLock` that is the task's own already is taken once more.

        Args:
            blocking: False does not wait.
            timeout: Seconds to wait at most; -1 waits as long as it takes.

        Raises:
            ValueError: `timeout` is negative, or given for a call that does not wait.
        """
        if blocking and timeout == -1:
            return self._aacquire()
        return self._aacquire_unless(blocking, timeout)

    def recover(self) -> bool:
        """Take a shared lock over from a process that died while it had it, and return True.

        Otherwise take it as `acquire` does, and return False: nobody died, or somebody else has taken it over before and
        put right what it protects.

        Raises:
            RuntimeError: The caller has the lock, an `RLock`.
        """
        self._refuse_owner()
        self.acquire()
        return False

    async def arecover(self) -> bool:
        """As `recover`, in a task."""
        self._refuse_owner()
        await self.aacquire()
        return False

    def _refuse_owner(self) -> None:
        """Refuse to recover what the caller has itself."""

    async def _aacquire_unless(self, blocking: bool, timeout: float) -> bool:
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return self._atry()
        check_timeout(timeout)
        return self._atry() or await within(timeout, self._aacquire())

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self)


class Lock(_core.LockCore, _OwnedLock, metaclass=ABCMeta):
    """A lock for threads and asyncio tasks, in any combination and in any number of loops.

    It is a `threading.Lock` and an `asyncio.Lock` in one: `with lock` and `acquire` for threads, `async with lock`
    and `await lock.aacquire()` for tasks. Threads and tasks wait in one line. It is not bound to a loop, and a
    cancelled `aacquire` has not taken it. Any thread or task may release it, whoever took it.

    Nobody starves: a lock that is released is there for whoever comes first, but goes to the one that has waited
    longest once that one has waited for a millisecond. Among the tasks of one loop it always does.

    `with lock` in a task stops its whole loop for as long as others have the lock; `async with lock` does not.

    With `shared=True` it lies in shared memory and works between processes too: forked children have it, and it can be
    passed to the tasks of a `ProcessPool` and to processes of `multiprocessing`, whatever their start method. When the
    process that has it dies, whoever takes it next gets `OwnerDied` and does not have it: what it protects may be half
    changed. `recover()` takes it over; it returns False to who comes second, when somebody else has done so meanwhile.

    Not for: taking it twice by one owner, which `RLock` allows.

    Args:
        shared: Whether other processes can have it too.

    >>> import asyncio, threading, plait
    >>> lock, total = plait.Lock(), 0
    >>> def in_a_thread():
    ...     global total
    ...     for _ in range(1000):
    ...         with lock:
    ...             total += 1
    >>> async def in_a_task():
    ...     global total
    ...     for _ in range(1000):
    ...         async with lock:
    ...             total += 1
    >>> thread = threading.Thread(target=in_a_thread)
    >>> thread.start()
    >>> asyncio.run(in_a_task())
    >>> thread.join()
    >>> total
    2000
    """

    __slots__ = ()

    def __new__(cls, *, shared: bool = False) -> Self:
        if shared:
            made: Self = shared_kind(cls, Lock, "SharedLock")
            return made
        return super().__new__(cls)

    def statistics(self) -> LockStatistics:
        """Return what goes on: a plain dict.

        Whether it is `locked`, the `owner` (the thread's or task's name), how many are `waiting`, and since it was
        made the `waits` and how many of these were `handed_over` to the one that had waited longest.

        >>> plait.Lock().statistics()
        {'locked': False, 'owner': None, 'waiting': 0, 'waits': 0, 'handed_over': 0}
        """
        owner = owner_name(self._owner)
        waiting, waits, handed_over = self._figures()
        return {
            "locked": owner is not None,
            "owner": owner,
            "waiting": waiting,
            "waits": waits,
            "handed_over": handed_over,
        }

    def __repr__(self) -> str:
        now = self.statistics()
        held = f" owner={now['owner']!r}" if now["locked"] else ""
        state = "locked" if now["locked"] else "unlocked"
        return f"<{state} plait.{type(self).__name__} object{held} waiting={now['waiting']} at {id(self):#x}>"


class RLock(_core.RLockCore, _OwnedLock, metaclass=ABCMeta):
    """A lock that its owner may take again, for threads and asyncio tasks.

    It is a `threading.RLock` that tasks can take too. Its owner is the task if it was taken by `async with` or
    `aacquire` in a task, and the thread otherwise; only the owner can release it, as often as it took it. It waits as
    `Lock` does.

    A task that has it may take it again in either way. Taken by `with` in a task it is the thread's: then the loop's
    other tasks can take it by `with` too, as with `threading.RLock`, and none of them by `async with`.

    With `shared=True` it works between processes too, as a shared `Lock` does.

    Args:
        shared: Whether other processes can have it too.

    >>> lock = plait.RLock()
    >>> with lock, lock:
    ...     lock.statistics()["count"]
    2
    """

    __slots__ = ()

    def __new__(cls, *, shared: bool = False) -> Self:
        if shared:
            made: Self = shared_kind(cls, RLock, "SharedRLock")
            return made
        return super().__new__(cls)

    def _refuse_owner(self) -> None:
        if self._is_owned():
            raise RuntimeError("the caller has the lock: there is nothing to recover")

    def statistics(self) -> dict[str, Any]:
        """Return what goes on: as of `Lock`, and the `count` of times that the owner has it.

        >>> plait.RLock().statistics()
        {'locked': False, 'owner': None, 'count': 0, 'waiting': 0, 'waits': 0, 'handed_over': 0}
        """
        owner = owner_name(self._owner)
        waiting, waits, handed_over = self._figures()
        return {
            "locked": owner is not None,
            "owner": owner,
            "count": self._count,
            "waiting": waiting,
            "waits": waits,
            "handed_over": handed_over,
        }

    def __repr__(self) -> str:
        now = self.statistics()
        held = f" owner={now['owner']!r}" if now["locked"] else ""
        state, count, waiting = "locked" if now["locked"] else "unlocked", now["count"], now["waiting"]
        return f"<{state} plait.{type(self).__name__} object{held} count={count} waiting={waiting} at {id(self):#x}>"
