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

#: The kernel tells other processes' time in such steps, in seconds; of a process with one thread also to the nanosecond.
TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAUSE = 0.1
#: How the kernel marks its own threads.
_KERNEL = 0x00200000
_BUSY = 0.2


def children_ns() -> int:
    """CPU time of the children that have ended and were waited for, in nanoseconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


class Ran(NamedTuple):
    """CPU seconds of a process so far, and whether it is one of the kernel's own threads."""

    seconds: float
    kernel: bool = False


class Beside(NamedTuple):
    """CPU seconds of programs and of kernel threads that worked because this one did, and of those that do anyway."""

    served: float
    kernel: float
    load: float


def others() -> dict[int, Ran]:
    """What every other process has taken so far, the kernel's threads among them. Children that have ended are not."""
    own = os.getpid()
    found: dict[int, Ran] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has ended
        if len(fields) > 12:
            told = (int(fields[11]) + int(fields[12])) * TICK
            found[int(name)] = Ran(_exactly(name, told), bool(int(fields[6]) & _KERNEL))
    return found


def _exactly(name: str, told: float) -> float:
    """What the first thread of a process has taken, if that may be all that is told: two figures, each rounded down."""
    try:
        with open(f"/proc/{name}/schedstat", "rb") as file:
            first = int(file.read().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return told  # it has ended, or this kernel does not say
    return first if told <= first < told + 2 * TICK else told


def between(before: Mapping[int, Ran], after: Mapping[int, Ran], seconds: float) -> Beside:
    """What others did between two looks, so many seconds apart; waits a little, to see who works without this program."""
    time.sleep(_PAUSE)
    later = others()
    served = kernel = load = 0.0
    for pid, so_far in after.items():
        if pid not in before:
            continue  # who has just begun does so without this program: its own children are counted when they end
        spent = max(0.0, so_far.seconds - before[pid].seconds)  # the number may be another process's by now
        idle = later.get(pid, so_far).seconds - so_far.seconds
        if idle > _BUSY * _PAUSE + TICK:
            load += min(spent, seconds)
            continue
        anyway = min(spent, max(0.0, idle) / _PAUSE * seconds)
        load += anyway
        if so_far.kernel:
            kernel += spent - anyway
        else:
            served += spent - anyway
    return Beside(served, kernel, load)
