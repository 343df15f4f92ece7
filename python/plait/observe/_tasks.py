"""Tasks of event loops: each one that is made while a profile runs tells when it runs and what it awaits.

asyncio's own loop and those of others get methods that look at what passes; the event loop of plait looks itself.
"""

from __future__ import annotations

import sys

from plait import _core
from plait.observe import _imports, _patches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["install", "tell_pending"]

_numbers: dict[Any, int] = {}
_MOST_CLASSES = 6


def install() -> None:
    """Look at tasks from now on."""
    _imports.when_imported("asyncio", _look_at_asyncio)
    _imports.when_imported("uvloop", _look_at_uvloop)
    _imports.when_imported("rloop", _look_at_rloop)


def tell_pending() -> None:
    """Tell what tasks await that have not ended."""
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is None:
        return
    for task in _all_tasks(asyncio):
        coroutine = getattr(task, "_coro", None)
        if type(coroutine) is _core.ObservedCoroutine:
            coroutine.pending()


def _all_tasks(asyncio: Any) -> list[Any]:
    tasks = asyncio.tasks
    found: list[Any] = []
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
        for _ in range(10):  # another thread may begin a task meanwhile
            try:
                found += list(getattr(tasks, name, ()))
                break
            except RuntimeError:
                continue
    for loop in {task.get_loop() for task in found if hasattr(task, "get_loop")} | _running(asyncio):
        try:
            found += asyncio.all_tasks(loop)
        except RuntimeError:
            continue
    return list({id(task): task for task in found}.values())


def _running(asyncio: Any) -> set[Any]:
    loop = asyncio._get_running_loop()
    return set() if loop is None else {loop}


def _look_at_asyncio(asyncio: ModuleType) -> None:
    module: Any = asyncio
    before = sum(1 for task in _all_tasks(module) if not task.done())
    if before:
        _core.observe_method(
            "tasks",
            "from their creation on",
            True,
            f"{before} task{' was' if before == 1 else 's were'} there before the profile began: only their loop is seen",
        )
    look_at_loops(module.BaseEventLoop)
    handle = module.events.Handle
    # Not where somebody else has put something in its place.
    if not _patches.was_left(handle, "_run") and getattr(handle._run, "__module__", None) == handle.__module__:
        run = _core.observing_run(handle)
        if run is not None:
            _patches.replace(handle, "_run", run)


def _look_at_uvloop(uvloop: ModuleType) -> None:
    module: Any = uvloop
    look_at_loops(module.Loop)
    _core.observe_method(
        "callbacks", "none", False, "uvloop runs its callbacks unseen: those that are no tasks are not told"
    )


def _look_at_rloop(rloop: ModuleType) -> None:
    module: Any = rloop
    kind = getattr(module, "RLoop", None)
    if kind is not None:
        look_at_loops(kind)


def look_at_loops(kind: Any) -> None:
    """Have loops of this class tell of the tasks that they make, and when they are woken."""
    number = _numbers.setdefault(kind, len(_numbers))
    if number >= _MOST_CLASSES or _patches.was_left(kind, "create_task") or _patches.was_left(kind, "call_soon"):
        return
    try:
        create_task, call_soon = _core.observing_methods(kind, number)
        if create_task is not None:
            _patches.replace(kind, "create_task", create_task)
        if call_soon is not None:
            _patches.replace(kind, "call_soon", call_soon)
    except TypeError:  # a class in C that cannot be changed
        _core.observe_method(
            "tasks", "none", False, f"tasks of {kind.__module__}.{kind.__qualname__} cannot be looked at"
        )
