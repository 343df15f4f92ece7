"""Tasks of the standard library's pool of processes: the stations that they pass, in the program and in its workers.

Each task is pickled by a thread of the program, travels through a pipe, and is unpickled by a worker; its result goes the same
way back. All of that passes through `ForkingPickler` and `Connection._recv`, and what passes there is known by its type. The
worker sends its times along with the result, as an attribute that nobody else looks at; from a worker that is not observed none
come, and then running is what is not known otherwise.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from plait import _core
from plait.observe import _messages, _patches

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["look_at"]

_POOL = "ProcessPoolExecutor"
_TIMES = "_plait_times"
"""The attribute of a result: when its task came, and how long it was moved, was unpickled, and ran."""


class _Here(threading.local):
    """What the last message of this thread was."""

    task: Any = None
    result: Any = None


class _Task:
    """A task, in the program; stands before a method of its future until that is called."""

    def __init__(self, future: Any, function: Any) -> None:
        self._future: Any = future
        self.function = function
        self._at = self._begun = time.monotonic_ns()
        self.pickling = 0

    def begins(self) -> Any:
        """Do what `set_running_or_notify_cancel` does: the task goes to the workers, or was cancelled."""
        self._begun = time.monotonic_ns()
        future, self._future = self._future, None
        del future.set_running_or_notify_cancel
        goes = future.set_running_or_notify_cancel()
        if goes:
            _here.task = self
            future.add_done_callback(self._ended)
        return goes

    def _ended(self, _: Any) -> None:
        (times, moved, unpickled), _here.result = _here.result or (None, 0, 0), None
        pickling = self.pickling + unpickled
        if times is None:
            queue, run = self._begun - self._at, time.monotonic_ns() - self._begun - unpickled - moved
        else:
            came, moved_there, unpickled_there, run = times
            queue = came - self._at - self.pickling
            moved += moved_there
            pickling += unpickled_there
        _core.observe_pooled(_POOL, self.function, 1, (max(queue, 0), max(run, 0), pickling, moved))


class _Ran(NamedTuple):
    """In a worker: the task that was unpickled last."""

    times: tuple[int, int, int]
    begun: int
    function: Any


_here = _Here()
_sent: dict[int, _Task] = {}
"""Tasks that wait to be pickled, by the number of what is pickled."""


def look_at(module: ModuleType) -> None:
    """Look at the tasks of all pools of `concurrent.futures.process`, in the program and where this process is a worker."""
    items: Any = module
    if _messages.look(_Messages(module), items._CallItem, items._ResultItem):
        _look_at_items(module)


def _look_at_items(module: Any) -> None:
    """What `submit` and `map` of the pool make of a task is the one place that both pass; another is made for the worker."""
    begin, send = module._WorkItem.__init__, module._CallItem.__init__

    def submitted(self: Any, future: Any, fn: Any, args: Any, kwargs: Any) -> None:
        begin(self, future, fn, args, kwargs)
        chunk = getattr(fn, "func", None) is module._process_chunk
        task = _Task(future, fn.args[0] if chunk else fn)
        future.set_running_or_notify_cancel = task.begins

    def sent(self: Any, *arguments: Any) -> None:
        send(self, *arguments)
        task, _here.task = _here.task, None
        if task is not None:
            _sent[id(self)] = task

    _patches.replace(module._WorkItem, "__init__", submitted)
    _patches.replace(module._CallItem, "__init__", sent)


class _Messages:
    """Tasks and results, each where it is pickled and where it is unpickled."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._ran: _Ran | None = None

    def goes(self, message: Any) -> Callable[[int, bool], bytes] | None:
        """Send a worker's times along with the result."""
        ran = self._ran
        if type(message) is not self._module._ResultItem:
            return _pickled(_sent.pop(id(message), None))
        if ran is None:
            return None
        setattr(message, _TIMES, (*ran.times, time.monotonic_ns() - ran.begun))

        def pickled(took: int, _done: bool) -> bytes:
            _core.observe_pooled(_POOL, ran.function, 0, (0, 0, took, 0))
            return b""

        return pickled

    def came(self, message: Any, came: _messages.Came) -> None:
        """Remember a task, in the worker, and the times of a result, in the program."""
        moved, began, ended, _ = came
        if type(message) is self._module._ResultItem:
            _here.result = (getattr(message, _TIMES, None), moved, ended - began)
            return
        function = message.fn
        if getattr(function, "func", None) is self._module._process_chunk:
            function = function.args[0]
        self._ran = _Ran((began - moved, moved, ended - began), ended, function)


def _pickled(task: _Task | None) -> Callable[[int, bool], bytes] | None:
    if task is None:
        return None

    def pickled(took: int, _done: bool) -> bytes:
        task.pickling = took
        return b""

    return pickled
