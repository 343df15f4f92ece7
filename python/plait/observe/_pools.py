"""Tasks of pools: how long each waited in the queue, was pickled and moved, and ran."""

from __future__ import annotations

import time
from types import FunctionType, MethodType

from plait import _core
from plait.observe import _imports, _patches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["install"]


_AUTOMATIC = "plait.Pool"
_OWN = "plait.auto."
_TELL_NS = 50_000_000
"""Calls that a thread makes one after the other are told of that often."""


def install() -> None:
    """Look at pools from now on."""
    _imports.when_imported("concurrent.futures.thread", _look_at("ThreadPoolExecutor"))
    _imports.when_imported("plait.threads._pool", _look_at("ThreadPool"))
    _imports.when_imported("plait.threads._pool", _look_at_options)
    _imports.when_imported("plait.auto._flow", _look_at_calls)
    _imports.when_imported("plait.auto._meter", _look_at_meters)
    _imports.when_imported("plait.auto._chunk", _look_at_chunks)
    _imports.when_imported("concurrent.futures.process", _look_at_processes)
    _imports.when_imported("multiprocessing.pool", _look_at_pool)


def _is_own(fn: Any) -> bool:
    """Whether it is plait's own, which makes calls of the program that are told of one by one."""
    if type(fn) is not MethodType or type(fn.__func__) is not FunctionType:
        return False
    return str(fn.__func__.__module__).startswith(_OWN)  # None for what `exec` made


def _look_at(name: str) -> Callable[[ModuleType], None]:
    def look(module: ModuleType) -> None:
        kind: Any = getattr(module, name)
        submit = kind.submit

        def observed(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not callable(fn) or _is_own(fn):  # of what cannot be called the pool says so
                return submit(self, fn, *args, **kwargs)
            return submit(self, _core.ObservedCall(name, fn), *args, **kwargs)

        for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(observed, attribute, getattr(submit, attribute, None))
        _patches.replace(kind, "submit", observed)

    return look


def _look_at_options(module: ModuleType) -> None:
    """What `ThreadPool.options` returns does not come by `submit`. A `map` tells of its items itself."""
    kind: Any = getattr(module, "ThreadPool")  # noqa: B009
    submit = kind._submit

    def observed(self: Any, timeout: Any, retries: Any, priority: Any, fn: Any, args: Any, kwargs: Any) -> Any:
        call = _core.ObservedCall("ThreadPool", fn) if callable(fn) else fn
        return submit(self, timeout, retries, priority, call, args, kwargs)

    _patches.replace(kind, "_submit", observed)


class _Calls:
    """Calls of one function that a thread of `plait.Pool` makes, one after the other."""

    __slots__ = ("count", "function", "run", "told")

    def __init__(self, function: Any) -> None:
        self.function = function
        self.count = self.run = 0
        self.told = time.monotonic_ns()

    def ended(self, calls: int, took: int) -> None:
        """So many have ended."""
        self.count += calls
        self.run += took
        if time.monotonic_ns() - self.told > _TELL_NS:
            self.tell()

    def tell(self) -> None:
        """Tell of them."""
        count, run, self.count, self.run = self.count, self.run, 0, 0
        self.told = time.monotonic_ns()
        if count:
            _core.observe_pooled(_AUTOMATIC, self.function, count, (0, run, 0, 0))


_calls: dict[int, _Calls] = {}
"""By the number of the meter that measures them."""


def _look_at_calls(module: ModuleType) -> None:
    """Calls of `plait.Pool` that are made in threads. Those in processes are the pool of processes'."""
    kind: Any = getattr(module, "Flow")  # noqa: B009
    make_all = kind._make_all

    def observed(self: Any, seat: Any) -> None:
        number = id(seat.meter)
        calls = _calls[number] = _Calls(self.state.function())
        try:
            make_all(self, seat)
        finally:
            _calls.pop(number, None)
            calls.tell()

    _patches.replace(kind, "_make_all", observed)


def _look_at_meters(module: ModuleType) -> None:
    kind: Any = getattr(module, "Meter")  # noqa: B009
    ended = kind.ended

    def observed(self: Any, count: int, began: int) -> Any:
        now = ended(self, count, began)
        calls = _calls.get(id(self))
        if calls is not None:
            calls.ended(count, now - began)
        return now

    _patches.replace(kind, "ended", observed)


def _look_at_chunks(module: ModuleType) -> None:
    """Those that who calls `map` makes itself."""
    kind: Any = getattr(module, "Chunk")  # noqa: B009
    make = kind.make

    def observed(self: Any, function: Any) -> Any:
        if not self._inline:
            return make(self, function)
        began = time.monotonic_ns()
        outcomes = make(self, function)
        _core.observe_pooled(_AUTOMATIC, function, len(outcomes), (0, time.monotonic_ns() - began, 0, 0))
        return outcomes

    _patches.replace(kind, "make", observed)


def _look_at_processes(module: ModuleType) -> None:
    from plait.observe import _executor

    _executor.look_at(module)


def _look_at_pool(module: ModuleType) -> None:
    from plait.observe import _mp_pool

    _mp_pool.look_at(module)
