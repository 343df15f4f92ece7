"""`plait.sync.watch_deadlocks`: circles of threads, tasks and processes that wait for one another's locks.

The machine is in `plait._core`: it notes who has what, and finds circles. Here is what speaks to people, and what only Python
knows: names, lines, and whether a task will be cancelled.
"""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from plait import _core, errors
from plait.sync import _common, _condition, _locks, _shared

if TYPE_CHECKING:
    import asyncio
    from typing import Self

__all__ = ["DeadlockReport", "DeadlockWatch", "Inversion", "unwatch_deadlocks", "watch_deadlocks"]

_logger = logging.getLogger("plait.sync")

_Site = tuple[CodeType, int]


@dataclass(frozen=True, slots=True)
class Inversion:
    """Locks that were taken in orders which do not agree: a deadlock that has not happened yet."""

    locks: tuple[str, ...]
    """The locks, each taken by somebody who had the one before, and the first by somebody who had the last."""
    taken: tuple[str, ...]
    """Where each of them was held when the next one was taken: the lines that took it."""
    stacks: tuple[traceback.StackSummary, ...]
    """Where the next one was taken, innermost call last."""

    def __str__(self) -> str:
        steps: list[str] = []
        for number, (lock, taken, stack) in enumerate(zip(self.locks, self.taken, self.stacks, strict=True)):
            following = self.locks[(number + 1) % len(self.locks)]
            where = "".join(stack.format()).rstrip("\n")
            steps.append(f"  {following}\n  was taken after {lock}{taken}, here:\n{where}")
        return f"{len(self.locks)} locks were taken in orders that can end in a deadlock:\n" + "\n".join(steps)


@dataclass(frozen=True, slots=True)
class DeadlockReport:
    """What a watch has found so far."""

    watching: bool
    """Whether deadlocks are watched for."""
    deadlocks: tuple[errors.DeadlockError, ...]
    """Those that were broken up, in this process."""
    inversions: tuple[Inversion, ...]
    """Orders of locks that do not agree."""


Report = Callable[[Inversion | errors.DeadlockError], object]


class DeadlockWatch:
    """What `watch_deadlocks` returns: a watch that can be ended, also by leaving a `with` block."""

    __slots__ = ("_deadlocks", "_inversions", "_key", "_tell")

    def __init__(self, key: int, tell: Report | None) -> None:
        self._key = key
        self._tell = tell
        self._deadlocks: list[errors.DeadlockError] = []
        self._inversions: list[Inversion] = []

    def cancel(self) -> None:
        """Watch no more."""
        with _guard:
            _watches.pop(self._key, None)
            if not _watches:
                _core.deadlocks_end()
                _look_at_ends(False)
                _orders.clear()

    def report(self) -> DeadlockReport:
        """Return what was found since the watch began."""
        return DeadlockReport(self._key in _watches, tuple(self._deadlocks), tuple(self._inversions))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()

    def _told(self, found: Inversion | errors.DeadlockError) -> None:
        if self._tell is not None:
            try:
                self._tell(found)
            except Exception:
                _logger.exception("the report of a deadlock failed")


_watches: dict[int, DeadlockWatch] = {}
_numbers = itertools.count(1)
_guard = threading.Lock()


def _forked() -> None:
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def watch_deadlocks(*, report: Report | None = None) -> DeadlockWatch:
    """Find threads, tasks and processes that wait for one another's locks for ever, and let one of them go on.

    Of a circle of waits for `Lock` and `RLock`, shared or not, those of conditions included, the one that began last
    raises `DeadlockError` instead of waiting on, and without the lock. It does so within a tenth of a second where no thread
    computes; beside those that do it needs the interpreter lock two or three times, each in its turn. Its `with` blocks then
    give back what it has, and the others go on. The message names the threads, tasks and processes, the locks, and the lines
    where each waits and where each lock was taken.

    Locks that are taken in orders which do not agree are told of before that ends in a deadlock, once for each circle of locks,
    with the stacks of both. Orders that one more lock keeps apart, held around them, are fine.

    Only a circle that nobody in it can leave counts. A wait with a timeout is none, nor is one of a task in an
    `asyncio.timeout` or `wait_for`. A lock that was ever given back by another thread or task than had taken it is none,
    and a `Lock` that somebody waits for who has it is only one if it was taken by `with`.

    Channels, semaphores, events and notices of a condition belong to nobody, so to wait for one is no step of a circle: any
    thread could end it. It is a deadlock where none is left that could: where every thread of the process waits, without a
    timeout, for such things or locks that are not shared, in `Thread.join` or for the end of all threads at the end of the
    program, and there are neither sleeping loops nor pools nor signal handlers.

    It lasts until it is cancelled, in forked children too, and in every process that waits for a shared lock which a watching
    process has used, where `unwatch_deadlocks` ends it. While nobody watches it costs nothing; a lock costs some ten
    nanoseconds more while somebody does.

    Args:
        report: Called with each `Inversion` and each `DeadlockError`, in the thread that has found it. It must not wait for
            anybody: deadlocks are found by one thread, which goes on when it returns. Both are logged as warnings of the logger
            "plait.sync" anyway, so the same goes for handlers of that.

    Returns:
        The watch: `cancel()` ends it, and so does leaving it as a `with` block; `report()` returns what it has found.

    Raises:
        TypeError: `report` is not callable.
        OSError: There is no descriptor or no memory for it.

    >>> import threading, plait, plait.sync
    >>> one, other, both = plait.Lock(), plait.Lock(), threading.Barrier(2)
    >>> def work(first, second):
    ...     try:
    ...         with first:
    ...             both.wait()
    ...             with second:
    ...                 done.append("went on")
    ...     except plait.DeadlockError:
    ...         done.append("gave up")
    >>> done = []
    >>> with plait.sync.watch_deadlocks():
    ...     threads = [threading.Thread(target=work, args=locks) for locks in [(one, other), (other, one)]]
    ...     for thread in threads:
    ...         thread.start()
    ...     for thread in threads:
    ...         thread.join()
    >>> sorted(done)
    ['gave up', 'went on']
    """
    if report is not None and not callable(report):
        raise TypeError(f"report must be callable, not {report!r}")
    with _guard:
        _core.deadlocks_begin(_skipped)
        _look_at_ends(True)
        watch = DeadlockWatch(next(_numbers), report)
        _watches[watch._key] = watch
    return watch


def unwatch_deadlocks() -> None:
    """End all watches of `watch_deadlocks`."""
    for watch in list(_watches.values()):
        watch.cancel()


def join_in() -> None:
    """Watch from now on: another process does, which uses the same lock."""
    watch_deadlocks()


def _codes(things: Iterable[Any]) -> list[CodeType]:
    return [thing.__code__ for thing in things]


# Ends of threads, which may leave others alone.

_join: Any = threading.Thread.join
_delete: Any = threading.Thread._delete  # type: ignore[attr-defined]
_shutdown: Any = threading._shutdown  # type: ignore[attr-defined]
_registered = False


@functools.wraps(_join)
def _observed_join(self: threading.Thread, timeout: float | None = None) -> None:
    if timeout is None:
        _core.deadlocks_again()
    _join(self, timeout)


def _observed_delete(self: threading.Thread) -> None:
    _core.deadlocks_again()
    _delete(self)


def _look_at_ends(looks: bool) -> None:
    """Have waits that began long ago looked at again when a thread ends, or waits for the end of others."""
    global _registered
    thread: Any = threading.Thread
    changes = (("join", _join, _observed_join), ("_delete", _delete, _observed_delete))
    for name, ours, theirs in changes:
        # Not where somebody else has put something in its place.
        if getattr(thread, name) is (ours if looks else theirs):
            setattr(thread, name, theirs if looks else ours)
    if looks and not _registered:
        _registered = True
        module: Any = threading
        try:
            module._register_atexit(_core.deadlocks_again)
        except RuntimeError:  # the program ends already
            pass


# Code that takes locks for its callers, or makes them.
_skipped = _codes(
    [
        _locks.Lock.__new__,
        _locks.RLock.__new__,
        _locks.Lock.aacquire,
        _locks.Lock._aacquire_unless,
        _locks.Lock.recover,
        _locks.Lock.arecover,
        _shared._AnyLock.__new__,
        _common.within,
        _common.shared_kind,
        _condition.Condition.__init__,
        _condition.AnyCondition.__init__,
        _condition.AnyCondition.__enter__,
        _condition.AnyCondition.__aenter__,
        _condition.AnyCondition.aacquire,
        _condition.AnyCondition._acquire_again,
        _condition.AnyCondition.wait,
        _condition.AnyCondition.wait_for,
        _condition.AnyCondition.await_,
        _condition.AnyCondition.await_for,
        _condition.AnyCondition._regain,
    ]
)


def tell(found: Inversion | errors.DeadlockError) -> None:
    """Log what was found, and report it."""
    _logger.warning("%s", found)
    for watch in list(_watches.values()):
        watch._told(found)


# Lines and names.


def _line(site: _Site | None) -> str:
    return "" if site is None else f" in {site[0].co_qualname}, {site[0].co_filename}:{site[1]}"


def _frame_line(frame: FrameType | None) -> str:
    while frame is not None and frame.f_code in _skipped:
        frame = frame.f_back
    return "" if frame is None else _line((frame.f_code, frame.f_lineno))


def _task_line(task: asyncio.Task[Any]) -> str:
    """Where a task waits that does not run."""
    at: Any = task.get_coro()
    frame: FrameType | None = None
    while at is not None:
        found = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None) or getattr(at, "ag_frame", None)
        if found is not None and found.f_code not in _skipped:
            frame = found
        at = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None) or getattr(at, "ag_await", None)
    return _frame_line(frame)


def _party(thread: int, task: asyncio.Task[Any] | None) -> str:
    if task is not None:
        return f"task {task.get_name()!r} of process {os.getpid()}"
    return f"thread {_common.owner_name(thread)!r} ({thread}) of process {os.getpid()}"


def _owner(lock: Any) -> str:
    owner = getattr(lock, "_owner", None)
    if owner is None:
        return ""
    return f" by {_party(owner, None) if isinstance(owner, int) else _party(0, owner)}"


def _waits(party: str, lock: object, where: str) -> str:
    return f"{party} waits for {lock!r}{where}"


def posted(
    lock: object, task: asyncio.Task[Any] | None, site: _Site | None, holds: list[tuple[object, _Site | None]]
) -> str:
    """What other processes are to say of a wait here."""
    text = _waits(_party(threading.get_ident(), task), lock, _line(site))
    return text + "".join(f"\n    it has {held!r}, taken{_line(taken)}" for held, taken in holds)


# Deadlocks.


def deadlock(steps: list[tuple[Any, ...]]) -> errors.DeadlockError:
    """Make what tells of a circle."""
    frames = sys._current_frames()
    parties: list[str] = []
    told: list[str] = []
    for step in steps:
        if len(step) == 2:
            pid, text = step
            text = text or f"somebody of process {pid} waits for a shared lock"
            parties.append(text.split(" waits for ")[0])
            told.append(f"  {text}")
            continue
        thread, task, lock, taken, made = step
        where = _frame_line(frames.get(thread)) if task is None else _task_line(task)
        party = _party(thread, task)
        parties.append(party)
        text = f"  {_waits(party, lock, where)}"
        owner = _owner(lock)
        if taken is not None or owner:
            text += f"\n    that lock was taken{owner}{_line(taken)}"
        if made is not None:
            text += f"\n    it was made{_line(made)}"
        told.append(text)
    del frames
    many = "1 waits for itself" if len(told) == 1 else f"{len(told)} wait for one another"
    message = f"{many}, and none can go on:\n" + "\n".join(told)
    return errors.DeadlockError(message, parties=tuple(parties))


def everybody(waiting: list[tuple[int, object]]) -> errors.DeadlockError | None:
    """Make what tells that all threads of this process wait; None where one may still come, or somebody from outside."""
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    waits = dict(waiting)
    if not _core.gil_is_on():
        return None
    # What costs least first: this is asked of each long wait.
    ends: dict[int, str] = {}
    for thread, frame in frames.items():
        if thread not in waits:
            joined = _joins(frame)
            if frame.f_code is _shutdown.__code__ and _awaited_at_exit(thread, frames):
                ends[thread] = "of all threads"
            elif joined is not None and joined.ident in frames:
                ends[thread] = f"of thread {joined.name!r}"
            else:
                return None
    if _others_may_come(len(frames)):
        return None
    told: list[str] = []
    parties: list[str] = []
    for thread, frame in frames.items():
        if thread in waits:
            text = _waits(_party(thread, None), waits[thread], _frame_line(frame))
        else:
            text = f"{_party(thread, None)} waits for the end {ends[thread]}"
        parties.append(_party(thread, None))
        told.append(f"  {text}")
    who = "the only thread of the process waits" if len(told) == 1 else f"all {len(told)} threads of the process wait"
    message = f"{who}, and nobody is left to let one go on:\n" + "\n".join(told)
    return errors.DeadlockError(message, parties=tuple(parties))


# Threads of plait that never let anybody go on by themselves.
_SILENT = frozenset({"plait-deadlocks", "plait-deadlock", "plait-peers"})


def _others_may_come(threads: int) -> bool:
    """Whether there are threads besides those that Python knows, or signal handlers of the program."""
    import signal

    known = {signal.SIG_DFL, signal.SIG_IGN, None, signal.default_int_handler}
    if any(signal.getsignal(number) not in known for number in signal.valid_signals()):
        return True
    others = 0
    for number in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{number}/comm") as file:
                others += file.read().strip() not in _SILENT
        except OSError:
            return True  # it has just ended: somebody runs
    return others != threads


def _awaited_at_exit(thread: int, frames: dict[int, FrameType]) -> bool:
    """Whether there are others that a thread waits for when the interpreter ends: not daemons."""
    return any(not each.daemon and each.ident in frames and each.ident != thread for each in threading.enumerate())


def _joins(frame: FrameType) -> threading.Thread | None:
    """The thread whose end a thread waits for, without a timeout."""
    join, wait = _join, getattr(threading.Thread, "_wait_for_tstate_lock", None)
    if wait is not None and frame.f_code is wait.__code__:
        if frame.f_locals.get("timeout") != -1 or not frame.f_locals.get("block"):
            return None
    elif frame.f_code is not join.__code__ or frame.f_locals.get("timeout") is not None:
        return None
    of = frame.f_locals.get("self")
    return of if isinstance(of, threading.Thread) else None


def found(error: errors.DeadlockError) -> errors.DeadlockError:
    """Record that somebody is about to raise `error`; return what is to be told of it, without where it is raised."""
    told = errors.DeadlockError(*error.args, parties=error.parties)
    for watch in list(_watches.values()):
        watch._deadlocks.append(told)
    return told


def lost(told: errors.DeadlockError) -> None:
    """Nobody raises what was recorded: the one that was to has gone on by itself."""
    for watch in list(_watches.values()):
        watch._deadlocks[:] = [each for each in watch._deadlocks if each is not told]


def is_timed(task: asyncio.Task[Any]) -> bool:
    """Whether a task, or one that waits for it, is in the scope of a timeout. To be asked when all of them wait."""
    import asyncio

    seen: set[int] = set()
    due: list[Any] = [task]
    while due:
        waiting: Any = due.pop()
        if id(waiting) in seen:
            continue
        seen.add(id(waiting))
        if isinstance(waiting, asyncio.Task) and _in_timeout(waiting):  # pyright: ignore[reportUnknownArgumentType]
            return True
        callbacks: list[tuple[Any, Any]] = getattr(waiting, "_callbacks", None) or []  # pyright: ignore[reportUnknownArgumentType]
        for callback, _ in callbacks:
            if getattr(getattr(callback, "func", None), "__name__", "") == "_release_waiter":
                return True  # `wait_for` of Python 3.11
            of: Any = getattr(callback, "__self__", None)
            cells: Any = getattr(callback, "__closure__", None) or ()
            # Who awaits it, the group that it is in, and what `gather` makes of several.
            awaiting: list[Any] = [of, getattr(of, "_parent_task", None), *(cell.cell_contents for cell in cells)]
            due += [each for each in awaiting if isinstance(each, asyncio.Future)]
    return False


def _in_timeout(task: asyncio.Task[Any]) -> bool:
    import asyncio

    referrers: list[Any] = gc.get_referrers(task)
    for referrer in referrers:
        state: Any = getattr(referrer, "__dict__", None) or referrer
        if not isinstance(state, dict):
            continue
        timeout = isinstance(referrer, asyncio.Timeout) or "_timeout_handler" in state
        if timeout and state.get("_task") is task and state.get("_timeout_handler") is not None:  # pyright: ignore[reportUnknownMemberType]
            return True
    return False


# Orders.


@dataclass(slots=True)
class _Order:
    locks: tuple[str, str]
    taken: str
    stack: traceback.StackSummary


_orders: dict[tuple[int, int], _Order] = {}


def ordered(
    order: tuple[int, int],
    locks: tuple[object | None, object | None],
    made: tuple[_Site | None, _Site | None],
    site: _Site | None,
    gone: list[tuple[int, int]],
) -> None:
    """One lock was taken by somebody who has another, for the first time. `gone` are the orders of locks that are no more."""
    for each in gone:
        _orders.pop(each, None)
    names = [
        f"{'a lock that is gone' if lock is None else _name(lock)}{', made' + _line(line) if line else ''}"
        for lock, line in zip(locks, made, strict=True)
    ]
    frame = sys._getframe(1)
    walk = [each for each in traceback.walk_stack(frame) if each[0].f_code not in _skipped]
    stack = traceback.StackSummary.extract(iter(reversed(walk[:20])), lookup_lines=False)
    where = f" ({_line(site).strip()})" if site else ""
    _orders[order] = _Order((names[0], names[1]), where, stack)


def _name(lock: object) -> str:
    return f"plait.{type(lock).__name__.removeprefix('Shared')} at {id(lock):#x}"


def inverted(circle: list[tuple[int, int]]) -> None:
    """Orders that do not agree were seen."""
    orders = [_orders[each] for each in circle if each in _orders]
    inversion = Inversion(
        tuple(order.locks[0] for order in orders),
        tuple(order.taken for order in orders),
        tuple(order.stack for order in orders),
    )
    for watch in list(_watches.values()):
        watch._inversions.append(inversion)
    tell(inversion)
