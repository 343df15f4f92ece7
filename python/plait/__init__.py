"""plait: one runtime for Python's three concurrency models.

Public names are loaded when they are first used, so that `import plait` costs next to nothing:

    from plait import ProcessPool

The rooms behind them: `plait.processes` (the process pool), `plait.threads` (the thread pool), `plait.loop` (the event loop),
`plait.sync` (channels, locks, and watching them for deadlocks), `plait.shared` (shared memory), `plait.observe` (profiles),
`plait.model` (predictions), `plait.auto` (the pool that chooses), `plait.advice` (advice), `plait.compare` (the models side by
side), `plait.cli` (the command), `plait.errors` (every exception), `plait._future` and `plait._executor` (what all executors
share), `plait._core` (the extension).
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
    from plait.advice._advise import advise as advise
    from plait.auto._pool import Pool as Pool
    from plait.errors import (
        BrokenBarrierError as BrokenBarrierError,
        ChannelEmpty as ChannelEmpty,
        ChannelFull as ChannelFull,
        ChannelShutDown as ChannelShutDown,
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
    from plait.loop._watch import watch_loop as watch_loop
    from plait.model._simulate import simulate as simulate
    from plait.observe._profile import Profile as Profile, profile as profile
    from plait.observe._watch import Watch as Watch, watch as watch
    from plait.processes._pool import ProcessPool as ProcessPool
    from plait.processes.limits import Limits as Limits
    from plait.shared._array import shared_array as shared_array
    from plait.shared._share import Shared as Shared, share as share
    from plait.sync._barrier import Barrier as Barrier
    from plait.sync._channel import Channel as Channel, aselect as aselect, select as select
    from plait.sync._condition import Condition as Condition
    from plait.sync._event import Event as Event
    from plait.sync._locks import Lock as Lock, RLock as RLock
    from plait.sync._semaphores import BoundedSemaphore as BoundedSemaphore, Semaphore as Semaphore
    from plait.threads._pool import ThreadPool as ThreadPool

__version__ = "0.1.0"

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Channel",
    "ChannelEmpty",
    "ChannelFull",
    "ChannelShutDown",
    "Condition",
    "DeadlockError",
    "Event",
    "EventLoop",
    "Future",
    "LimitExceeded",
    "Limits",
    "Lock",
    "NotPicklable",
    "OwnerDied",
    "Pool",
    "ProcessPool",
    "Profile",
    "RLock",
    "Semaphore",
    "Shared",
    "TaskCancelled",
    "TaskTimeout",
    "ThreadPool",
    "Watch",
    "WorkerDied",
    "__version__",
    "advise",
    "aselect",
    "errors",
    "install",
    "new_event_loop",
    "profile",
    "run",
    "select",
    "share",
    "shared_array",
    "simulate",
    "watch",
    "watch_loop",
]

_HOMES = {
    "Barrier": "plait.sync._barrier",
    "BoundedSemaphore": "plait.sync._semaphores",
    "BrokenBarrierError": "plait.errors",
    "Channel": "plait.sync._channel",
    "ChannelEmpty": "plait.errors",
    "ChannelFull": "plait.errors",
    "ChannelShutDown": "plait.errors",
    "Condition": "plait.sync._condition",
    "DeadlockError": "plait.errors",
    "Event": "plait.sync._event",
    "EventLoop": "plait.loop._loop",
    "Future": "plait._future",
    "LimitExceeded": "plait.errors",
    "Limits": "plait.processes.limits",
    "Lock": "plait.sync._locks",
    "NotPicklable": "plait.errors",
    "OwnerDied": "plait.errors",
    "Pool": "plait.auto._pool",
    "ProcessPool": "plait.processes._pool",
    "Profile": "plait.observe._profile",
    "RLock": "plait.sync._locks",
    "Semaphore": "plait.sync._semaphores",
    "Shared": "plait.shared._share",
    "TaskCancelled": "plait.errors",
    "TaskTimeout": "plait.errors",
    "ThreadPool": "plait.threads._pool",
    "Watch": "plait.observe._watch",
    "WorkerDied": "plait.errors",
    "advise": "plait.advice._advise",
    "aselect": "plait.sync._channel",
    "select": "plait.sync._channel",
    "install": "plait.loop._runner",
    "new_event_loop": "plait.loop._runner",
    "profile": "plait.observe._profile",
    "run": "plait.loop._runner",
    "share": "plait.shared._share",
    "shared_array": "plait.shared._array",
    "simulate": "plait.model._simulate",
    "watch": "plait.observe._watch",
    "watch_loop": "plait.loop._watch",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in {"errors", "sync"}:  # the rooms with public names of their own
        return importlib.import_module(f"plait.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    try:
        module = importlib.import_module(home)
    except ImportError as error:
        # `from plait import *` asks for every name: only who calls this one needs numpy.
        if name != "shared_array" or getattr(error.__cause__, "name", None) != "numpy":
            raise
        return _without_numpy(str(error))
    value = getattr(module, name)
    globals()[name] = value
    return value


def _without_numpy(why: str) -> Any:
    def shared_array(*_args: Any, **_kwargs: Any) -> Any:
        raise ImportError(why, name="numpy")

    return shared_array


def _default_executor() -> ThreadPool:  # pyright: ignore[reportUnusedFunction]
    """Make what an event loop calls functions in: its room knows no other, so the package hands it over."""
    from plait.threads._pool import ThreadPool

    return ThreadPool(thread_name_prefix="asyncio")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("_"))})
