"""Tasks of the standard library's pool of processes: the stations that they pass, in the program and in its workers.

Each task is pickled by a thread of the program, travels through a pipe, and is unpickled by a worker; its result goes the same
way back. All of that passes through `ForkingPickler` and `Connection._recv`, and what passes there is known by its type. The
worker sends its times along with the result, as an attribute that nobody else looks at; from a worker that is not observed none
come, and then running is what is not known otherwise.
"""

from __future__ import annotations

import multiprocessing.connection
import multiprocessing.reduction
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from plait import _core
from plait.observe import _patches

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["look_at"]

_POOL = "ProcessPoolExecutor"
_TIMES = "_plait_times"
"""The attribute of a result: when its task came, and how long it was moved, was unpickled, and ran."""

_HEADER = 8
"""What is not longer is the length of a message, for which a receiver waits."""


class _Here(threading.local):
    """What the last message of this thread was."""

    moved = 0
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
    _look_at_items(module)
    _look_at_pickles(module)
    _look_at_pipes()


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


def _look_at_pickles(module: Any) -> None:
    pickler: Any = multiprocessing.reduction.ForkingPickler
    call, result = module._CallItem, module._ResultItem
    # A class that extends it has reducers of its own.
    dumps, loads = pickler.__dict__["dumps"].__func__, pickler.loads
    ran: _Ran | None = None

    def observed_dumps(cls: Any, obj: Any, protocol: Any = None) -> Any:
        nonlocal ran
        kind = type(obj)  # pyright: ignore[reportUnknownVariableType]
        if kind is not call and kind is not result:
            return dumps(cls, obj, protocol)
        began = time.monotonic_ns()
        if kind is result and ran is not None:
            setattr(obj, _TIMES, (*ran.times, began - ran.begun))
        try:
            return dumps(cls, obj, protocol)
        finally:
            took = time.monotonic_ns() - began
            if kind is result and ran is not None:
                _core.observe_pooled(_POOL, ran.function, 0, (0, 0, took, 0))
            elif (task := _sent.pop(id(obj), None)) is not None:
                task.pickling = took

    def observed_loads(data: Any, /, **options: Any) -> Any:
        nonlocal ran
        moved, _here.moved = _here.moved, 0
        began = time.monotonic_ns()
        obj = loads(data, **options)
        kind = type(obj)  # pyright: ignore[reportUnknownVariableType]
        if kind is call:
            now = time.monotonic_ns()
            function = obj.fn
            if getattr(function, "func", None) is module._process_chunk:
                function = function.args[0]
            ran = _Ran((began - moved, moved, now - began), now, function)
        elif kind is result:
            _here.result = (getattr(obj, _TIMES, None), moved, time.monotonic_ns() - began)
        return obj

    _patches.replace(pickler, "dumps", classmethod(observed_dumps))
    _patches.replace(pickler, "loads", staticmethod(observed_loads))


def _look_at_pipes() -> None:
    """How long it takes to read a message whose length has come: the other side writes it meanwhile."""
    connection: Any = multiprocessing.connection.Connection
    receive = connection._recv

    def observed(self: Any, size: int, *rest: Any) -> Any:
        if size <= _HEADER:
            _here.moved = 0
            return receive(self, size, *rest)
        began = time.monotonic_ns()
        received = receive(self, size, *rest)
        _here.moved = time.monotonic_ns() - began
        return received

    _patches.replace(connection, "_recv", observed)
