"""What a thread's calls take: measured by the thread itself, and seen by others while they run."""

from __future__ import annotations

import gc
import resource
import threading
import time

from plait import _core
from plait.auto._figures import Sample

#: Nanoseconds in which nobody waits for a core: to ask takes long beside less.
_READY_NS = 500_000

#: Nanoseconds of a call beside which it is nothing to look at the clocks when it ends; and to ask for waits for a core.
_LONG_NS, _VERY_LONG_NS = 500_000, 10_000_000


class Meter:
    """Measures the calls of one thread, from `start` on.

    Attributes:
        calls: How many have ended since.
        began: When it was started, in nanoseconds; 0 before.
        inside: Nanoseconds of these.
        running: Whether a call is under way.
    """

    __slots__ = (
        "_children",
        "_collected",
        "_cpu",
        "_end",
        "_held",
        "_ready",
        "_thread",
        "_wanted",
        "began",
        "calls",
        "inside",
        "running",
    )

    def __init__(self) -> None:
        self.calls = 0
        self.inside = 0
        self.began = 0
        self.running = False
        self._thread = 0
        self._cpu = self._ready = self._held = self._wanted = 0
        self._children = 0.0
        self._collected = 0
        self._end: tuple[int, int, tuple[int, int] | None, int] | None = None
        """The clocks at the end of the last call, if that was a long one."""

    def start(self) -> None:
        """Begin to measure the calling thread."""
        if not self._thread:
            self._thread = threading.get_native_id()
            self._ready = _core.thread_ready_ns()
        tally = _core.gil_tally()
        self._held, self._wanted = (-1, 0) if tally is None else tally
        self._children = _children_cpu()
        self._collected = _collected()
        self._cpu = time.thread_time_ns()
        self.calls = self.inside = 0
        self._end = None
        self.began = time.perf_counter_ns()

    def ended(self, calls: int, began: int) -> int:
        """Calls that began then have ended now; return now."""
        now = time.perf_counter_ns()
        took = now - began
        self.calls += calls
        self.inside += took
        # Who delivers what came of it may wait for long, too, for processes that start: that is not the call's.
        self._end = self._clocks(ready=took > _VERY_LONG_NS) if took > _LONG_NS else None
        return now

    def _clocks(self, *, ready: bool) -> tuple[int, int, tuple[int, int] | None, int]:
        """The thread's time on a core, the time, its `gil_tally`, and how long it has waited for cores, -1 if not asked."""
        cpu, now, tally = time.thread_time_ns(), time.perf_counter_ns(), _core.gil_tally()
        return cpu, now, tally, _core.thread_ready_ns() if ready else -1

    def has_collected(self) -> bool:
        """Whether garbage of more than the youngest generation was collected meanwhile, in whatever thread."""
        return self._collected != _collected()

    def sample(self, *, alone: bool = True) -> Sample:
        """What the calling thread's calls took since `start`, and, if they were `alone`, processes that they waited for."""
        cpu, now, tally, waited = self._end or self._clocks(ready=False)
        cpu -= self._cpu
        ready = 0
        if now - self.began > _READY_NS:
            since = _core.thread_ready_ns()
            ready, self._ready = (since if waited < 0 else waited) - self._ready, since
        seen = tally is not None and self._held >= 0
        held, wanted = (tally[0] - self._held, tally[1] - self._wanted) if tally is not None and seen else (-1, 0)
        wall = max(self.inside, 1)
        # What was between the calls is none of theirs; what none of the clocks accounts for, they have waited for others.
        total = max(now - self.began, wall)
        blocked = min(max(0, total - cpu - wanted - ready), wall)
        cpu = min(cpu, wall - blocked)
        ready = min(ready, wall - blocked - cpu)
        wanted = wall - blocked - cpu - ready
        held = min(held, wall) if seen else cpu
        children = 0
        if alone and blocked:  # a process that it waits for has a core meanwhile
            children = min(blocked, int(1e9 * (_children_cpu() - self._children)))
        return Sample(self.calls, wall, cpu + children, held, wanted, ready, children)

    def is_late(self, least: int, each: float) -> bool:
        """Whether calls and the one that runs have taken so many nanoseconds, and each of them more than is thought."""
        took = time.perf_counter_ns() - self.began
        return self.running and took >= least and took > each * (self.calls + 1)

    def glance(self) -> Sample | None:
        """What another thread's calls took so far, with the one that still runs; None if that cannot be told."""
        # First: who looks may lose its core meanwhile, which is no wait of the other.
        began, now = self.began, time.perf_counter_ns()
        usage = _core.thread_usage(self._thread) if began else None
        if usage is None:
            return None
        cpu, ready, held, wanted, runs = usage
        wall = max(now - began, 1)
        calls, cpu, ready = self.calls + 1, min(max(cpu - self._cpu, 0), wall), max(ready - self._ready, 0)
        seen = held >= 0 and self._held >= 0
        held, wanted = (min(held - self._held, wall), min(wanted - self._wanted, wall - cpu)) if seen else (-1, 0)
        if runs:  # or is ready: since when, nobody says before it has a core again
            ready = max(ready, wall - cpu - wanted)
        if self.began != began or not self.running:
            return None  # it has begun anew meanwhile
        return Sample(calls, wall, cpu, held, wanted, ready)


def _collected() -> int:
    """What is another number after a collection that may be long."""
    return gc.get_count()[2]


def _children_cpu() -> float:
    """Seconds on a core of all child processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
