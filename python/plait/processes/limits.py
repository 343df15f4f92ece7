"""What a worker may use: `Limits`, checked when they are made and applied in the worker before its first task."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]

_MEMORY_FLOOR = 64 << 20


@dataclass(frozen=True)
class Limits:
    """How much a worker of a `plait.ProcessPool` may use; a task that needs more fails with `plait.LimitExceeded`.

    For tasks whose need depends on their input, so that one of them cannot take the machine with it. Not a security
    boundary.

    Args:
        memory: Bytes of private memory of one worker, its interpreter included. `None`: no limit. Builds without the GIL take a
            gigabyte in advance, but not in workers; a pool with `mp_context="fork"` and a lower limit needs a program that
            was started with `MIMALLOC_ARENA_RESERVE=0` in its environment.

    Raises:
        TypeError: `memory` is not an int.
        ValueError: `memory` is not positive, or less than the 64 MiB that an interpreter itself needs.

    >>> Limits(memory=512 << 20)
    Limits(memory=536870912)
    >>> Limits(memory=4096)
    Traceback (most recent call last):
    ...
    ValueError: memory must be at least 67108864 bytes (64 MiB), which the interpreter itself needs, not 4096
    """

    memory: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could never work, with the argument's name and its value."""
        _check_memory(self.memory)


def _check_memory(memory: object) -> None:
    if memory is None:
        return
    if isinstance(memory, bool) or not isinstance(memory, int):
        raise TypeError(f"memory must be an int (bytes) or None, not {memory!r}")
    if memory <= 0:
        raise ValueError(f"memory must be positive, not {memory!r}")
    if memory < _MEMORY_FLOOR:
        raise ValueError(
            f"memory must be at least {_MEMORY_FLOOR} bytes (64 MiB), which the interpreter itself needs, not {memory!r}"
        )
