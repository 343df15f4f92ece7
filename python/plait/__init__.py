"""plait: one runtime for Python's three concurrency models.

Public names are loaded when they are first used, so that `import plait` costs next to nothing:

    from plait import ProcessPool

The rooms behind them: `plait.processes` (the process pool), `plait.loop` (the event loop), `plait.shared` (shared memory),
`plait.errors` (every exception), `plait._future` and
`plait._executor` (what all executors share), `plait._core` (the extension).
"""

from __future__ import annotations

import sys

if sys.platform != "linux":
    raise ImportError(f"plait runs on Linux only (futexes, pidfds, memfds); this is {sys.platform!r}")

TYPE_CHECKING = False  # type checkers know the name; `typing` itself is slow to import, and a worker may never need it

if TYPE_CHECKING:
    from typing import Any

    from plait import errors as errors
    from plait._future import Future as Future
    from plait.errors import (
        DeadlockError as DeadlockError,
        LimitExceeded as LimitExceeded,
        NotPicklable as NotPicklable,
        OwnerDied as OwnerDied,
        TaskCancelled as TaskCancelled,
        TaskTimeout as TaskTimeout,
        WorkerDied as WorkerDied,
    )
    from plait.loop._loop import EventLoop as EventLoop
    from plait.loop._runner import install as install, new_event_loop as new_event_loop, run as run
    from plait.processes._pool import ProcessPool as ProcessPool
    from plait.processes.limits import Limits as Limits
    from plait.shared._array import shared_array as shared_array
    from plait.shared._share import Shared as Shared, share as share

__version__ = "0.1.0"

__all__ = [
    "DeadlockError",
    "EventLoop",
    "Future",
    "LimitExceeded",
    "Limits",
    "NotPicklable",
    "OwnerDied",
    "ProcessPool",
    "Shared",
    "TaskCancelled",
    "TaskTimeout",
    "WorkerDied",
    "__version__",
    "errors",
    "install",
    "new_event_loop",
    "run",
    "share",
    "shared_array",
]

_HOMES = {
    "DeadlockError": "plait.errors",
    "EventLoop": "plait.loop._loop",
    "Future": "plait._future",
    "LimitExceeded": "plait.errors",
    "Limits": "plait.processes.limits",
    "NotPicklable": "plait.errors",
    "OwnerDied": "plait.errors",
    "ProcessPool": "plait.processes._pool",
    "Shared": "plait.shared._share",
    "TaskCancelled": "plait.errors",
    "TaskTimeout": "plait.errors",
    "WorkerDied": "plait.errors",
    "install": "plait.loop._runner",
    "new_event_loop": "plait.loop._runner",
    "run": "plait.loop._runner",
    "share": "plait.shared._share",
    "shared_array": "plait.shared._array",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "errors":
        return importlib.import_module("plait.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("_"))})
