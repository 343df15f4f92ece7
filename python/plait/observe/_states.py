"""The states of a thread, by their names."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal

    StateName = Literal[
        "on_cpu_gil", "on_cpu_released", "ready", "gil_wait", "gil_held_off_cpu", "io_wait", "lock_wait", "idle"
    ]

__all__ = ["STATES"]

STATES: Final[tuple[StateName, ...]] = (
    "on_cpu_gil",
    "on_cpu_released",
    "ready",
    "gil_wait",
    "gil_held_off_cpu",
    "io_wait",
    "lock_wait",
    "idle",
)
"""All states in the order of their numbers, which are those of `State` in the crate `plait-trace`."""
