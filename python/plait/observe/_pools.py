"""Tasks of pools: how long each waited in the queue, and ran.

Of the standard library's pool of processes both are as this process sees them: from when a task goes to the workers, of which
one more than there are workers is on its way, until its result is here.
"""

from __future__ import annotations

import time

from plait import _core
from plait.observe import _imports, _patches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["install"]


def install() -> None:
    """Look at pools from now on."""
    _imports.when_imported("concurrent.futures.thread", _look_at("ThreadPoolExecutor"))
    _imports.when_imported("plait.threads._pool", _look_at("ThreadPool"))
    _imports.when_imported("concurrent.futures.process", _look_at_items)


def _look_at(name: str) -> Callable[[ModuleType], None]:
    def look(module: ModuleType) -> None:
        kind: Any = getattr(module, name)
        submit = kind.submit

        def observed(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not callable(fn):  # it is for the pool to say so
                return submit(self, fn, *args, **kwargs)
            return submit(self, _core.ObservedCall(name, fn), *args, **kwargs)

        for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(observed, attribute, getattr(submit, attribute, None))
        _patches.replace(kind, "submit", observed)

    return look


class _Watched:
    """A task of a pool of processes; stands before a method of its future until that is called."""

    def __init__(self, future: Any, function: Any) -> None:
        self._future = future
        self._function = function
        self._at = self._begun = time.monotonic_ns()

    def begins(self) -> Any:
        """Do what `set_running_or_notify_cancel` does: the task goes to the workers, or was cancelled."""
        self._begun = time.monotonic_ns()
        future, self._future = self._future, None
        del future.set_running_or_notify_cancel
        goes = future.set_running_or_notify_cancel()
        if goes:
            future.add_done_callback(self._ended)
        return goes

    def _ended(self, _: Any) -> None:
        _core.observe_pooled("ProcessPoolExecutor", self._function, (self._at, self._begun, time.monotonic_ns()), 0)


def _look_at_items(module: ModuleType) -> None:
    """What `submit` and `map` of the pool make of a task is the one place that both pass."""
    process: Any = module
    begin: Any = process._WorkItem.__init__

    def observed(self: Any, future: Any, fn: Any, args: Any, kwargs: Any) -> None:
        begin(self, future, fn, args, kwargs)
        chunk = getattr(fn, "func", None) is process._process_chunk
        watched = _Watched(future, fn.args[0] if chunk else fn)
        future.set_running_or_notify_cancel = watched.begins

    _patches.replace(process._WorkItem, "__init__", observed)
