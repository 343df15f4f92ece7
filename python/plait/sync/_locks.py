"""`plait.Lock`, `RLock`, `Semaphore`, `BoundedSemaphore`, `Event` and `Condition`, for threads and tasks together.

The machines are in `plait._core`. What is here gives them names, the forms of their methods that take time and are
therefore rare, and a look that people can read. `plait.Barrier` is in `_barrier.py`.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from plait import _core

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, TypedDict

    class LockStatistics(TypedDict):
        """What `Lock.statistics()` and `RLock.statistics()` return."""

        locked: bool
        owner: str | None
        waiting: int
        waits: int
        handed_over: int

    class SemaphoreStatistics(TypedDict):
        """What `Semaphore.statistics()` returns."""

        value: int
        waiting: int
        waits: int
        handed_over: int

    class EventStatistics(TypedDict):
        """What `Event.statistics()` returns."""

        set: bool
        waiting: int

    class ConditionStatistics(TypedDict):
        """What `Condition.statistics()` returns."""

        locked: bool
        owner: str | None
        waiting: int


__all__ = ["BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]

T = TypeVar("T")


class _AnyLock(Protocol):
    """What a condition needs of its lock. That of `threading` will do, without the forms for tasks."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...


class _TaskLock(_AnyLock, Protocol):
    """A lock that tasks can wait for."""

    def aacquire(self) -> Coroutine[Any, Any, bool]: ...
    def __aenter__(self) -> Any: ...


def _owner_name(owner: Any) -> str | None:
    """Return the name of a thread, by its number, or of a task."""
    if owner is None:
        return None
    if not isinstance(owner, int):
        return str(owner.get_name())
    import threading

    for thread in threading.enumerate():
        if thread.ident == owner:
            return thread.name
    return f"thread {owner}"


def _refuse_pickling(thing: object) -> NoReturn:
    raise TypeError(f"cannot pickle {type(thing).__name__!r} object")


async def _within(timeout: float, waiting: Coroutine[Any, Any, bool]) -> bool:
    """Await a form of waiting; False when it took longer than `timeout` seconds."""
    import asyncio

    try:
        async with asyncio.timeout(timeout):
            return await waiting
    except TimeoutError:
        return False


def _shared(cls: type, base: type, name: str, *arguments: Any) -> Any:
    """Make the shared kind of `base`: a class of its own, which counts as `base`, but not as what a program makes of that."""
    if cls is not base:
        raise TypeError(f"{cls.__name__} cannot be shared: a shared {base.__name__} has a class of its own")
    from plait.sync import _shared

    return getattr(_shared, name)(*arguments)


def _check_timeout(timeout: float) -> None:
    """Check what `acquire` of a lock takes as a timeout, which is not -1."""
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")


class Lock(_core.LockCore, metaclass=ABCMeta):
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
            made: Self = _shared(cls, Lock, "SharedLock")
            return made
        return super().__new__(cls)

    def aacquire(self, blocking: bool = True, timeout: float = -1) -> Coroutine[Any, Any, bool]:
        """Take the lock in a task, which waits until it is free; for `await`, which returns whether it was taken.

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
        """
        self.acquire()
        return False

    async def arecover(self) -> bool:
        """As `recover`, in a task."""
        await self.aacquire()
        return False

    async def _aacquire_unless(self, blocking: bool, timeout: float) -> bool:
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return self._atry()
        _check_timeout(timeout)
        return self._atry() or await _within(timeout, self._aacquire())

    def statistics(self) -> LockStatistics:
        """Return what goes on: a plain dict.

        Whether it is `locked`, the `owner` (the thread's or task's name), how many are `waiting`, and since it was
        made the `waits` and how many of these were `handed_over` to the one that had waited longest.

        >>> plait.Lock().statistics()
        {'locked': False, 'owner': None, 'waiting': 0, 'waits': 0, 'handed_over': 0}
        """
        owner = _owner_name(self._owner)
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

    def __reduce__(self) -> NoReturn:
        _refuse_pickling(self)


class RLock(_core.RLockCore, metaclass=ABCMeta):
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
            made: Self = _shared(cls, RLock, "SharedRLock")
            return made
        return super().__new__(cls)

    def aacquire(self, blocking: bool = True, timeout: float = -1) -> Coroutine[Any, Any, bool]:
        """Take the lock in a task, which waits unless it is free or its own; for `await`, which returns whether it was taken.

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
        """
        if self._is_owned():
            raise RuntimeError("the caller has the lock: there is nothing to recover")
        self.acquire()
        return False

    async def arecover(self) -> bool:
        """As `recover`, in a task."""
        if self._is_owned():
            raise RuntimeError("the caller has the lock: there is nothing to recover")
        await self.aacquire()
        return False

    async def _aacquire_unless(self, blocking: bool, timeout: float) -> bool:
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return self._atry()
        _check_timeout(timeout)
        return self._atry() or await _within(timeout, self._aacquire())

    def statistics(self) -> dict[str, Any]:
        """Return what goes on: as of `Lock`, and the `count` of times that the owner has it.

        >>> plait.RLock().statistics()
        {'locked': False, 'owner': None, 'count': 0, 'waiting': 0, 'waits': 0, 'handed_over': 0}
        """
        owner = _owner_name(self._owner)
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
        held = f" owner={now['owner']!r} count={now['count']}" if now["locked"] else ""
        state = "locked" if now["locked"] else "unlocked"
        return f"<{state} plait.{type(self).__name__} object{held} waiting={now['waiting']} at {id(self):#x}>"

    def __reduce__(self) -> NoReturn:
        _refuse_pickling(self)


class Semaphore(_core.SemaphoreCore, metaclass=ABCMeta):
    """A number of permits for threads and asyncio tasks to take and give back.

    It is a `threading.Semaphore` and an `asyncio.Semaphore` in one, and waits as `Lock` does. `release` may be called
    by anybody, also more often than `acquire`: `BoundedSemaphore` refuses that.

    With `shared=True` it works between processes too, as a shared `Lock` does. Permits belong to nobody: those that a
    process had taken when it died stay taken.

    Args:
        value: How many can be taken before somebody has to wait.
        shared: Whether other processes can have it too.

    Raises:
        ValueError: `value` is negative.

    >>> import asyncio
    >>> few = plait.Semaphore(2)
    >>> async def fetch(number):
    ...     async with few:  # no more than two at a time
    ...         await asyncio.sleep(0)
    ...         return number
    >>> async def main():
    ...     return await asyncio.gather(*map(fetch, range(5)))
    >>> asyncio.run(main())
    [0, 1, 2, 3, 4]
    """

    __slots__ = ()

    def __new__(cls, value: int = 1, *, shared: bool = False) -> Self:
        if shared:
            made: Self = _shared(cls, Semaphore, "SharedSemaphore", value)
            return made
        return super().__new__(cls, value, False)

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
        return self._atry() or await _within(timeout, self._aacquire())

    def statistics(self) -> SemaphoreStatistics:
        """Return what goes on: a plain dict.

        The `value`, how many are `waiting`, and since it was made the `waits` and how many of these were
        `handed_over` to the one that had waited longest.

        >>> plait.Semaphore(3).statistics()
        {'value': 3, 'waiting': 0, 'waits': 0, 'handed_over': 0}
        """
        waiting, waits, handed_over = self._figures()
        return {"value": self._value, "waiting": waiting, "waits": waits, "handed_over": handed_over}

    def _value_text(self) -> str:
        return str(self._value)

    def __repr__(self) -> str:
        value = self._value_text()
        waiting = self._figures()[0]
        more = f" waiting={waiting}" if waiting else ""
        return f"<plait.{type(self).__name__} at {id(self):#x}: value={value}{more}>"

    def __reduce__(self) -> NoReturn:
        _refuse_pickling(self)


class BoundedSemaphore(Semaphore):
    """A `Semaphore` whose value never exceeds its initial one: `release` raises ValueError instead.

    Args:
        value: How many can be taken before somebody has to wait.
        shared: Whether other processes can have it too.

    Raises:
        ValueError: `value` is negative.

    >>> plait.BoundedSemaphore(2).release()
    Traceback (most recent call last):
    ...
    ValueError: Semaphore released too many times
    """

    __slots__ = ()

    def __new__(cls, value: int = 1, *, shared: bool = False) -> Self:
        if shared:
            made: Self = _shared(cls, BoundedSemaphore, "SharedBoundedSemaphore", value)
            return made
        return _core.SemaphoreCore.__new__(cls, value, True)

    def _value_text(self) -> str:
        return f"{self._value}/{self._initial_value}"


class Event(_core.EventCore, metaclass=ABCMeta):
    """A flag that threads and asyncio tasks wait for.

    It is a `threading.Event` and an `asyncio.Event` in one: `wait()` for threads, `await event.await_()` for tasks.
    `set()` lets all go on who wait at that moment, also when it is cleared right afterwards. Signal handlers may set
    it.

    With `shared=True` it works between processes too, as a shared `Lock` does.

    Args:
        shared: Whether other processes can have it too.

    >>> import asyncio, threading
    >>> ready = plait.Event()
    >>> async def main():
    ...     threading.Timer(0.01, ready.set).start()
    ...     return await ready.await_()
    >>> asyncio.run(main())
    True
    """

    __slots__ = ()

    def __new__(cls, *, shared: bool = False) -> Self:
        if shared:
            made: Self = _shared(cls, Event, "SharedEvent")
            return made
        return super().__new__(cls)

    def await_(self, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        """Wait in a task until it is set; for `await`, which returns whether it was.

        Args:
            timeout: Seconds to wait at most; `None` waits as long as it takes.
        """
        return self._await() if timeout is None else self._await_within(timeout)

    async def _await_within(self, timeout: float) -> bool:
        return self.is_set() or await _within(timeout, self._await())

    def statistics(self) -> EventStatistics:
        """Return what goes on: whether it is `set`, and who is `waiting`.

        >>> plait.Event().statistics()
        {'set': False, 'waiting': 0}
        """
        return {"set": self.is_set(), "waiting": self._waiting()}

    def __repr__(self) -> str:
        waiting = self._waiting()
        more = f" waiting={waiting}" if waiting else ""
        return f"<plait.{type(self).__name__} at {id(self):#x}: {'set' if self.is_set() else 'unset'}{more}>"

    def __reduce__(self) -> NoReturn:
        _refuse_pickling(self)


class AnyCondition:
    """What all conditions do; what differs is who can wait at them."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _wait(
            self, release: Callable[[], Any], restore: Callable[[Any], object], timeout: float | None
        ) -> bool: ...
        def _await(self, release: Callable[[], object]) -> Coroutine[Any, Any, bool]: ...
        def _wake(self, count: int) -> object: ...
        def _waiting(self) -> int: ...

    _lock: _AnyLock
    acquire: Callable[..., bool]
    release: Callable[[], None]
    _is_owned: Callable[[], bool]
    _release_save: Callable[[], Any]
    _restore: Callable[[Any], object]

    def __init__(self, lock: _AnyLock) -> None:
        try:
            self.acquire = lock.acquire
            self.release = lock.release
        except AttributeError:
            raise TypeError(f"lock must be a lock or None, not {lock!r}") from None
        self._lock = lock  # type: ignore[misc]  # a slot of every condition
        self._release_save = getattr(lock, "_release_save", lock.release)
        self._restore = getattr(lock, "_acquire_restore", self._acquire_again)
        if isinstance(lock, Lock):
            self._is_owned = lock.locked
        else:
            self._is_owned = getattr(lock, "_is_owned", self._seems_owned)

    def _acquire_again(self, _saved: object) -> None:
        self._lock.acquire()

    def _seems_owned(self) -> bool:
        if self._lock.acquire(False):
            self._lock.release()
            return False
        return True

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __aenter__(self) -> Any:
        return self._task_lock().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _task_lock(self) -> _TaskLock:
        lock: Any = self._lock
        if not hasattr(lock, "aacquire"):
            raise TypeError(f"tasks cannot wait for {lock!r}: give the condition a plait.Lock or a plait.RLock")
        checked: _TaskLock = lock
        return checked

    def aacquire(self, blocking: bool = True, timeout: float = -1) -> Coroutine[Any, Any, bool]:
        """Take the lock in a task: its own method."""
        lock: Any = self._task_lock()
        taking: Coroutine[Any, Any, bool] = lock.aacquire(blocking, timeout)
        return taking

    def locked(self) -> bool:
        """Return whether somebody has the lock."""
        lock: Any = self._lock
        return bool(lock.locked()) if hasattr(lock, "locked") else self._seems_owned()

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back, wait for a notice, and take the lock again; return whether there was a notice.

        Args:
            timeout: Seconds to wait for the notice at most; `None` waits as long as it takes.

        Raises:
            RuntimeError: The caller does not have the lock.
        """
        if not self._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        return self._wait(self._release_save, self._restore, timeout)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until `predicate()` is true; return what it returned last.

        Args:
            predicate: Called with the lock held, at first and after each notice.
            timeout: Seconds to wait in all; `None` waits as long as it takes.

        Raises:
            RuntimeError: The caller does not have the lock.
        """
        result = predicate()
        if result or timeout is None:
            while not result:
                self.wait()
                result = predicate()
            return result
        import time

        end = time.monotonic() + timeout
        while not result and (left := end - time.monotonic()) > 0:
            self.wait(left)
            result = predicate()
        return result

    async def await_(self, timeout: float | None = None) -> bool:
        """Give the lock back, wait for a notice in a task, and take the lock again; return whether there was a notice.

        Args:
            timeout: Seconds to wait for the notice at most; `None` waits as long as it takes.

        Raises:
            RuntimeError: The caller does not have the lock.
            TypeError: The lock is one that tasks cannot wait for.
        """
        self._task_lock()
        if not self._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        saved: list[Any] = []
        notice = self._await(lambda: saved.append(self._release_save()))
        told = False
        try:
            try:
                told = await (notice if timeout is None else _within(timeout, notice))
            finally:
                for each in saved:
                    await self._regain(each)
        except BaseException:
            if told:
                self._wake(1)  # Who was notified does not come to act on it.
            raise
        return told

    async def _regain(self, saved: Any) -> None:
        """Take the lock as often as before, also when the task is cancelled; then say so."""
        lock: Any = self._lock
        cancelled = None
        import asyncio

        while True:
            try:
                await (lock._aacquire(saved[0]) if isinstance(lock, RLock) else lock.aacquire())
                break
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                cancelled = None  # The exception has this frame, and this frame must not have the exception.

    async def await_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait in a task until `predicate()` is true; return what it returned last.

        Args:
            predicate: Called with the lock held, at first and after each notice.
            timeout: Seconds to wait in all; `None` waits as long as it takes.

        Raises:
            RuntimeError: The caller does not have the lock.
            TypeError: The lock is one that tasks cannot wait for.
        """
        result = predicate()
        if result or timeout is None:
            while not result:
                await self.await_()
                result = predicate()
            return result
        import time

        end = time.monotonic() + timeout
        while not result and (left := end - time.monotonic()) > 0:
            await self.await_(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Notify as many as `n` of those who wait. They go on when they have the lock.

        Raises:
            RuntimeError: The caller does not have the lock.
        """
        if not self._is_owned():
            raise RuntimeError("cannot notify on un-acquired lock")
        if n > 0:
            self._wake(n)

    def notify_all(self) -> None:
        """Notify all who wait.

        Raises:
            RuntimeError: The caller does not have the lock.
        """
        self.notify(self._waiting())

    async def anotify(self, n: int = 1) -> None:
        """As `notify`, for code that awaits everything. It does not wait.

        Raises:
            RuntimeError: The caller does not have the lock.
        """
        self.notify(n)

    async def anotify_all(self) -> None:
        """As `notify_all`, for code that awaits everything. It does not wait.

        Raises:
            RuntimeError: The caller does not have the lock.
        """
        self.notify_all()

    def statistics(self) -> ConditionStatistics:
        """Return what goes on: if the lock is `locked`, its `owner` where that is known, how many are `waiting` for a notice.

        >>> plait.Condition().statistics()
        {'locked': False, 'owner': None, 'waiting': 0}
        """
        owner = _owner_name(getattr(self._lock, "_owner", None))
        return {"locked": self.locked(), "owner": owner, "waiting": self._waiting()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock!r}, {self._waiting()})>"


class Condition(_core.ConditionCore, AnyCondition, metaclass=ABCMeta):
    """A condition variable for threads and asyncio tasks.

    It is a `threading.Condition` and an `asyncio.Condition` in one: `wait` and `wait_for` for threads, `await_` and
    `await_for` for tasks, `notify` for both. Who waits gives the lock back meanwhile, and has it again afterwards,
    however the waiting ended. Notices go to those who wait, oldest first. A notice is not lost when the wait that it
    was for is cancelled: another gets it.

    With `shared=True` it works between processes too, as a shared `Lock` does, and takes a shared lock. Who waits while a
    process dies may find the lock's owner dead when it takes the lock again: then the wait raises `OwnerDied`, and has not
    got the lock, which `recover()` takes over.

    Args:
        lock: A `plait.Lock` or `plait.RLock`, `None` for an RLock of its own. With a lock of `threading` only threads can use
            the condition.
        shared: Whether other processes can have it too.

    Raises:
        TypeError: `lock` has no `acquire` and `release`; or, from the forms for tasks, it is one that tasks cannot wait for.

    >>> import threading
    >>> condition, items = plait.Condition(), []
    >>> def produce():
    ...     with condition:
    ...         items.append("something")
    ...         condition.notify()
    >>> with condition:
    ...     threading.Thread(target=produce).start()
    ...     condition.wait_for(lambda: items)
    ['something']
    """

    __slots__ = {
        "_is_owned": "Whether the caller has the lock.",
        "_lock": "The lock.",
        "_release_save": "Gives the lock back altogether.",
        "_restore": "Takes the lock as often as before, with what `_release_save` returned.",
        "acquire": "Take the lock: its own method.",
        "release": "Give the lock back: its own method.",
    }

    def __new__(cls, lock: _AnyLock | None = None, *, shared: bool = False) -> Self:
        if shared:
            made: Self = _shared(cls, Condition, "SharedCondition", lock)
            return made
        return super().__new__(cls)

    def __init__(self, lock: _AnyLock | None = None, *, shared: bool = False) -> None:  # noqa: ARG002  # see __new__
        super().__init__(RLock() if lock is None else lock)

    def _at_fork_reinit(self) -> None:
        lock: Any = self._lock
        lock._at_fork_reinit()
        self._forget()

    def __reduce__(self) -> NoReturn:
        _refuse_pickling(self)
