"""Threads and tasks that wait for one another: channels and locks; `watch_deadlocks` finds those that do so for ever."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from plait import _core

if TYPE_CHECKING:
    from plait.sync._deadlocks import (
        DeadlockReport as DeadlockReport,
        DeadlockWatch as DeadlockWatch,
        Inversion as Inversion,
        unwatch_deadlocks as unwatch_deadlocks,
        watch_deadlocks as watch_deadlocks,
    )

__all__ = ["DeadlockReport", "DeadlockWatch", "Inversion", "unwatch_deadlocks", "watch_deadlocks"]

_core.allow_spin(os.environ.get("PLAIT_SPIN", "1") != "0")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from plait.sync import _deadlocks

    return globals().setdefault(name, getattr(_deadlocks, name))
