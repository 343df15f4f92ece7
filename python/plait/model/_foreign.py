"""What others did on this machine's cores meanwhile: children of this process, and programs beside it.

A wait may be the work of somebody else on the same cores: a child, a server beside the client, the kernel's threads that
write to a disk. Run side by side, such waits compete for the cores.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from typing import NamedTuple

#: The kernel counts other processes' time in such steps, in seconds.
TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAUSE = 0.1
_BUSY = 0.2


def children_ns() -> int:
    """CPU time of the children that have ended and were waited for, in nanoseconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


class Beside(NamedTuple):
    """Seconds of CPU time of other programs: of those that worked because this one did, and of those that do anyway."""

    served: float
    load: float


def others() -> dict[int, float]:
    """CPU seconds of every other process so far, the kernel's threads among them. Children that have ended are not."""
    own = os.getpid()
    found: dict[int, float] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has ended
        if len(fields) > 12:
            found[int(name)] = (int(fields[11]) + int(fields[12])) * TICK
    return found


def between(before: Mapping[int, float], after: Mapping[int, float], seconds: float) -> Beside:
    """What others did between two looks, so many seconds apart; waits a little, to see who works without this program."""
    time.sleep(_PAUSE)
    later = others()
    served = load = 0.0
    for pid, so_far in after.items():
        if pid not in before:
            continue  # who has just begun does so without this program: its own children are counted when they end
        spent = max(0.0, so_far - before[pid])  # the number may be another process's by now
        idle = later.get(pid, so_far) - so_far
        if idle > _BUSY * _PAUSE + TICK:
            load += min(spent, seconds)
        else:
            served += spent
    return Beside(served, load)
