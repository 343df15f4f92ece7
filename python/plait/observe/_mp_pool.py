"""Tasks of `multiprocessing.Pool`: the stations that they pass, in the program and in its workers.

A task is a tuple that a thread of the pool pickles, and so is its result: they are known by who sends and receives them. A
worker writes its times behind the pickle of the result, where nobody else looks; from a worker that is not observed none come,
and then running is what is not known otherwise. Nothing of the pool is replaced but the constructor of results, which tells
when a task was handed in.
"""

from __future__ import annotations

import struct
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from plait import _core
from plait.observe import _messages, _patches

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["look_at"]

_POOL = "Pool"
_TASK, _RESULT = 5, 3
"""How long the tuples are: job, index, function, arguments and named ones; job, index, result."""
_TIMES = struct.Struct("=16s5Q")
_MOST = 1 << 16
"""Tasks that are remembered at most until their results come."""
_SIGN = bytes.fromhex("0c3f7a5b91d64e02b8a3d5f0176e24c9")
"""Stands before the times of a worker."""


class _Call(NamedTuple):
    """What a task calls: a function, for so many items."""

    function: Any
    items: int


class _Ran(NamedTuple):
    """In a worker: the task that was unpickled last: when it came, what that took, and when it began to run."""

    came: int
    moved: int
    unpickled: int
    begun: int


class _Sent:
    """A task, in the program."""

    def __init__(self, call: _Call, at: int | None) -> None:
        self.call = call
        self.begun = time.monotonic_ns()
        self.at = self.begun if at is None else at
        self.pickling = 0

    def ended(self, came: _messages.Came) -> None:
        """Tell of it when its result has come."""
        moved, pickling = came.moved, self.pickling + came.ended - came.began
        if (times := _times(came.data)) is None:
            queue, run = self.begun - self.at, came.began - came.moved - self.begun - self.pickling
        else:
            taken, moved_there, unpickled, run, pickled = times
            queue = taken - self.at - self.pickling
            moved += moved_there
            pickling += unpickled + pickled
        _core.observe_pooled(_POOL, self.call.function, self.call.items, (max(queue, 0), max(run, 0), pickling, moved))


def _times(data: Any) -> tuple[int, ...] | None:
    if len(data) < _TIMES.size:
        return None
    sign, *times = _TIMES.unpack(data[-_TIMES.size :])
    return tuple(times) if sign == _SIGN else None


def look_at(module: ModuleType) -> None:
    """Look at the tasks of all pools of `multiprocessing.pool`, in the program and where this process is a worker."""
    tasks = _Tasks(module)
    if _messages.look(tasks, tuple):
        tasks.look_at_results()


class _Tasks:
    """What passes through pools, where it is pickled and where it is unpickled."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._stars = (module.mapstar, module.starmapstar)
        self._worker = module.worker.__code__
        self._sender = module.Pool._handle_tasks.__code__
        self._receiver = module.Pool._handle_results.__code__
        self._handed_in: dict[int, tuple[int, object]] = {}
        self._sent: dict[tuple[int, int], _Sent] = {}
        self._ran: _Ran | None = None

    def look_at_results(self) -> None:
        """Note when a job is handed in; one whose items are asked for one by one has no such result, and is sent at once."""
        kind = self._module.ApplyResult
        begin, handed_in = kind.__init__, self._handed_in

        def observed(self: Any, *arguments: Any, **named: Any) -> None:
            begin(self, *arguments, **named)
            job: int = self._job
            handed_in[job] = time.monotonic_ns(), weakref.ref(self, lambda _: handed_in.pop(job, None))

        _patches.replace(kind, "__init__", observed)

    def goes(self, message: Any) -> Callable[[int, bool], bytes] | None:
        """Take a task that the program sends, and send a worker's times along with the result."""
        if len(message) == _TASK and _messages.caller(1) is self._sender:
            return self._task_goes(message)
        ran = self._ran
        if len(message) == _RESULT and ran is not None and _messages.caller(1) is self._worker:
            ran_for = time.monotonic_ns() - ran.begun
            return lambda took, _done: _TIMES.pack(_SIGN, ran.came, ran.moved, ran.unpickled, ran_for, took)
        return None

    def _task_goes(self, message: Any) -> Callable[[int, bool], bytes] | None:
        number, index, function, arguments, _ = message
        if function is self._module._helper_reraises_exception:
            return None
        call = _Call(function, 1)
        if any(function is star for star in self._stars):
            try:
                ((function, items),) = arguments
                call = _Call(function, len(items))
            except (TypeError, ValueError):  # of somebody's own, who called it with something else
                pass
        sent = self._sent[number, index] = _Sent(call, self._handed_in.get(number, (None,))[0])
        while len(self._sent) > _MOST:
            # Of a pool that was terminated no results come.
            self._sent.pop(next(iter(self._sent)), None)

        def pickled(took: int, done: bool) -> bytes:
            sent.pickling = took
            if not done:
                self._sent.pop((number, index), None)
            return b""

        return pickled

    def came(self, message: Any, came: _messages.Came) -> None:
        """Remember a task, in the worker, and tell of a result, in the program."""
        if len(message) == _TASK and _messages.caller(1) is self._worker:
            self._ran = _Ran(came.began - came.moved, came.moved, came.ended - came.began, came.ended)
        elif len(message) == _RESULT and _messages.caller(1) is self._receiver:
            self._result_came(message[0], message[1], came)

    def _result_came(self, number: int, index: int, came: _messages.Came) -> None:
        if (sent := self._sent.pop((number, index), None)) is not None:
            sent.ended(came)
