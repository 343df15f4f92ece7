"""Tasks of pools: how long each waited in the queue, was pickled and moved, and ran."""

from __future__ import annotations

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
    _imports.when_imported("concurrent.futures.process", _look_at_processes)
    _imports.when_imported("multiprocessing.pool", _look_at_pool)


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


def _look_at_processes(module: ModuleType) -> None:
    from plait.observe import _executor

    _executor.look_at(module)


def _look_at_pool(module: ModuleType) -> None:
    from plait.observe import _mp_pool

    _mp_pool.look_at(module)
