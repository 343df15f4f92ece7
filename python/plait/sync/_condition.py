"""`plait.Condition`, for threads and tasks together, and what all conditions do."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from plait import _core
from plait.sync._common import owner_name, refuse_pickling, shared_kind, within
from plait.sync._locks import Lock, RLock

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, TypedDict

    class ConditionStatistics(TypedDict):
        """What `Condition.statistics()` returns."""

        locked: bool
        owner: str | None
        waiting: int


__all__ = ["AnyCondition", "Condition"]

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


def _has(lock: Any) -> bool:
    """Whether the calling thread, or the task that runs in it, has the lock."""
    has = getattr(lock, "_is_mine", None) or getattr(lock, "_is_owned", None)
    return has is None or bool(has())


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
    _was_lost: bool
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
        self._was_lost = False  # type: ignore[misc]  # likewise
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
        if not self._is_lost():
            self.release()

    def _is_lost(self) -> bool:
        """Whether the lock is not the caller's to give back: a wait ended without it, which else would have lasted for ever.

        What the wait raised does not say so: the program may have caught it, and raised something else.
        """
        return self._was_lost and not _has(self._lock)

    def __aenter__(self) -> Any:
        return self._task_lock().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_lost():
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
        return self._wait(self._release_save, self._take_back, timeout)

    def _take_back(self, saved: Any) -> None:
        try:
            self._restore(saved)
        except RuntimeError:
            self._was_lost = True  # type: ignore[misc]  # a slot of every condition
            raise

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
                told = await (notice if timeout is None else within(timeout, notice))
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
            except RuntimeError:
                self._was_lost = True  # type: ignore[misc]  # a slot of every condition
                raise
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
        owner = owner_name(getattr(self._lock, "_owner", None))
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
        "_was_lost": "Whether a wait ever ended without the lock.",
        "acquire": "Take the lock: its own method.",
        "release": "Give the lock back: its own method.",
    }

    def __new__(cls, lock: _AnyLock | None = None, *, shared: bool = False) -> Self:
        if shared:
            made: Self = shared_kind(cls, Condition, "SharedCondition", lock)
            return made
        return super().__new__(cls)

    def __init__(self, lock: _AnyLock | None = None, *, shared: bool = False) -> None:  # noqa: ARG002  # see __new__
        super().__init__(RLock() if lock is None else lock)

    def _at_fork_reinit(self) -> None:
        lock: Any = self._lock
        lock._at_fork_reinit()
        self._forget()

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self)
