"""`plait.watch_loop`: who blocks the event loop, told while it happens."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from plait import _core
from plait.loop._loop import EventLoop

if TYPE_CHECKING:
    from typing import Self

_logger = logging.getLogger("plait.loop")


@dataclass(frozen=True, slots=True)
class Blocked:
    """A callback, or several in one turn of the loop, that let nothing else run."""

    loop: asyncio.AbstractEventLoop
    over: bool
    """False while it blocks, True in the second report, when it has ended."""
    seconds: float
    """How long until now, or in all."""
    waiting: int
    """How many callbacks were ready behind it when it was first reported."""
    task: asyncio.Task[Any] | None
    """The task that ran, if it was one."""
    stack: traceback.StackSummary
    """Where it was when it was first reported, innermost call last; the loop itself where the callback is no Python code."""

    def __str__(self) -> str:
        who = "a callback" if self.task is None else f"the task {self.task.get_name()!r}"
        if self.over:
            return f"the event loop was blocked for {self.seconds:.3f} s by {who}"
        behind = "1 callback waits" if self.waiting == 1 else f"{self.waiting} callbacks wait"
        where = "".join(self.stack.format()).rstrip("\n")
        return f"the event loop has been blocked for {self.seconds:.3f} s by {who}; {behind} behind it, which is here:\n{where}"


Report = Callable[[Blocked], object]


def _log(blocked: Blocked) -> None:
    _logger.warning("%s", blocked)


class LoopWatch:
    """What `watch_loop` returns: a watch that can be ended, also by leaving a `with` block."""

    __slots__ = ("_key", "_watchers")

    def __init__(self, watchers: _Watchers, key: int) -> None:
        self._watchers = watchers
        self._key = key

    def cancel(self) -> None:
        """Watch no more."""
        self._watchers.end(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()


@dataclass(slots=True)
class _Entry:
    loop: weakref.ref[EventLoop]
    report: Report
    first: Blocked | None = None

    def look(self, loop: EventLoop, over: bool, seconds: float) -> Blocked:
        """What there is to tell: of a turn that takes long, or of the end of the one that was told of."""
        first = self.first
        if over and first is not None:
            self.first = None
            return replace(first, over=True, seconds=seconds)
        frame = sys._current_frames().get(loop._thread_id or 0)
        waiting, task = loop._waiting()[0], asyncio.current_task(loop)
        self.first = Blocked(loop, over, seconds, waiting, task, _stack(frame))
        return self.first


class _Watchers:
    """The loops of this process that are watched, and the thread that does it."""

    def __init__(self) -> None:
        self.process: int = os.getpid()
        self._dog = _core.LoopWatchdog()
        self._entries: dict[int, _Entry] = {}
        self._numbers = itertools.count(1)
        # It sleeps outside the interpreter, and goes with the process.
        threading.Thread(target=self._watch, name="plait-watch", daemon=True).start()

    def begin(self, loop: EventLoop, threshold: float, report: Report) -> int:
        for key, entry in list(self._entries.items()):
            if entry.loop() is loop:
                self.end(key)
        key = next(self._numbers)

        def gone(_: object, is_over: Callable[[], bool] = sys.is_finalizing) -> None:
            if not is_over():  # or this module may have lost what is in it
                self.end(key)

        self._entries[key] = _Entry(weakref.ref(loop, gone), report)
        self._dog.add(loop, key, threshold, loop._thread_id == threading.get_ident())
        return key

    def end(self, key: int) -> None:
        if self.process != os.getpid():
            return  # a child's copy: nobody watches here, and a lock of the watcher's may be taken for ever
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.first = None
            self._dog.remove(entry.loop(), key)

    def _watch(self) -> None:
        while True:
            for key, over, seconds in self._dog.wait():
                self._tell(key, over, seconds)

    def _tell(self, key: int, over: bool, seconds: float) -> None:
        entry = self._entries.get(key)
        loop = None if entry is None else entry.loop()
        if entry is None or loop is None:
            return
        try:
            entry.report(entry.look(loop, over, seconds))
        except BaseException:  # one that ends a thread would end the watch of all loops
            _logger.exception("the report of a blocked event loop failed")


def _stack(frame: FrameType | None) -> traceback.StackSummary:
    """The calls from the loop inwards, or the loop's own where the callback is not Python's; all, if it is in no loop."""
    frames = [] if frame is None else list(traceback.walk_stack(frame))
    turns = [n for n, (each, _) in enumerate(frames) if each.f_code is EventLoop.run_forever.__code__]
    inner = frames[: max(turns[0], 1)] if turns else frames
    return traceback.StackSummary.extract(iter(reversed(inner)))


_watchers: _Watchers | None = None
_guard = threading.Lock()


def _forked() -> None:
    global _guard, _watchers
    _guard = threading.Lock()
    _watchers = None


os.register_at_fork(after_in_child=_forked)


def check_threshold(threshold: object) -> None:
    """Raise TypeError or ValueError unless it is one."""
    if not isinstance(threshold, (int, float)):
        raise TypeError(f"threshold must be a number of seconds, not {threshold!r}")
    if not (0 < threshold < math.inf):
        raise ValueError(f"threshold must be a finite number of seconds above 0, not {threshold!r}")


def watch_loop(
    threshold: float = 0.1, *, loop: asyncio.AbstractEventLoop | None = None, report: Report | None = None
) -> LoopWatch:
    """Tell when a callback blocks the event loop, while it does.

    A thread beside the loop looks whether its turns end in time; one thread watches all loops of the process, and
    sleeps while they do. For a turn that takes longer than `threshold` it reports once where the loop is stuck, how long so
    far and how many callbacks wait behind, and once more how long it took in all. A watched loop pays some
    nanoseconds for each turn. A child that is forked watches nothing.

    Code that does not let go of the interpreter lock is reported when it does.

    Args:
        threshold: Seconds that a turn may take.
        loop: The loop, one of plait's; by default the running one. It is watched until the watch is cancelled, or with
            another threshold if it is watched already.
        report: Called in the watching thread with what there is to tell, which has `loop`, `over`, `seconds`, `waiting`,
            `task` and `stack`, and says it as `str`. By default that is logged as a warning of the logger "plait.loop".

    Returns:
        The watch: `cancel()` ends it, and so does leaving it as a `with` block.

    Raises:
        RuntimeError: No loop is given, and none is running.
        TypeError: `loop` is not a loop of plait, `threshold` is no number, or `report` cannot be called.
        ValueError: `threshold` is not above 0, or not finite.

    >>> import asyncio, time
    >>> async def main():
    ...     with plait.watch_loop(0.01, report=told.append):
    ...         await asyncio.sleep(0)
    ...         time.sleep(0.1)
    ...         await asyncio.sleep(0.01)
    >>> told = []
    >>> plait.run(main())
    >>> [each.over for each in told]
    [False, True]
    >>> told[0].stack[-1].line
    'time.sleep(0.1)'
    """
    global _watchers
    check_threshold(threshold)
    if loop is None:
        loop = asyncio.get_running_loop()
    if not isinstance(loop, EventLoop):
        raise TypeError(f"loop must be an event loop of plait, not {loop!r}")
    if report is not None and not callable(report):
        raise TypeError(f"report must be callable, not {report!r}")
    with _guard:
        if _watchers is None:
            _watchers = _Watchers()
        watchers = _watchers
        return LoopWatch(watchers, watchers.begin(loop, float(threshold), report or _log))
