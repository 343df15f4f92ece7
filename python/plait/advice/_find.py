"""Finds the calls that a program makes most of, and tells what is to be known of them as plain data."""

from __future__ import annotations

import math
import pickle
import resource
import statistics
import sys
from typing import TYPE_CHECKING, Any

import plait
from plait import _core
from plait.auto._writes import find_change
from plait.model import measure_speed

if TYPE_CHECKING:
    from plait.advice._meters import Meter, Meters, Sample

#: Calls below which nothing is said.
FEWEST = 3

#: Recorded calls that are kept.
_KEPT = 1000


def kind_of_wait(wait: Any) -> str:
    """What a wait is to an event loop: "awaitable" (peers, timers), "lock", "other" (files, processes), or "unknown"."""
    kind, call, target = wait["kind"], wait["call"], wait["target"]
    if kind == "sleep" or "sleep" in call:
        return "awaitable"
    if target.startswith(("socket", "pipe", "tcp", "udp", "unix")) or call in {
        "connect",
        "accept",
        "accept4",
        "recvfrom",
    }:
        return "awaitable"
    if "poll" in call or "select" in call or kind == "poll":
        return "awaitable"
    if kind == "lock" or call == "futex":
        return "lock"
    return "other" if call else "unknown"


def dominant(meters: list[Meter], fewest: int = FEWEST) -> Meter | None:
    """Return the meter of the calls that are the best tasks, the outermost that are made again and again, if there are any."""
    repeated = sorted(
        (each for each in meters if each.calls >= fewest and not each.left), key=lambda each: each.total, reverse=True
    )
    if not repeated:
        return None
    best = repeated[0]
    for inner in repeated[1:]:
        # A few rounds of many calls: the calls are the tasks.
        if (
            best.calls < 8
            and inner.calls >= 8 * best.calls
            and inner.total >= 0.8 * best.total
            and _inside(inner, best)
        ):
            best = inner
    return best


def _inside(inner: Meter, outer: Meter) -> bool:
    seen: set[int] = set()
    at: Meter | None = inner
    while at is not None and id(at) not in seen:
        if at is outer:
            return True
        seen.add(id(at))
        at = at.samples[0].parent if at.samples else None
    return False


def record(meters: Meters, wall: float, waits: dict[str, float], fewest: int = FEWEST) -> dict[str, Any]:
    """Tell what is to be known of a program's calls."""
    each = [meter for meter in meters.all if meter.calls]
    best = dominant(each, fewest)
    told: dict[str, Any] = {
        "schema": 1,
        "kind": "plait calls",
        "plait": plait.__version__,
        "python": sys.version.split()[0],
        "gil": _core.gil_is_on(),
        "wall": wall,
        "waits": waits,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "speed": measure_speed(),
        "tasks": None,
        "calls": 0,
        "others": [
            {"name": other.name, "calls": other.calls, "seconds": other.total}
            for other in sorted(each, key=lambda other: other.total, reverse=True)[:8]
        ],
    }
    if best is not None:
        told |= _of(best)
    return told


def _of(meter: Meter) -> dict[str, Any]:
    change = None
    if meter.program:
        try:
            change = find_change(meter.function)
        except (RecursionError, ValueError):
            change = None
    coroutine = bool(getattr(getattr(meter.function, "__code__", None), "co_flags", 0) & 0x80)
    samples = sorted(meter.sound, key=lambda sample: sample.began)
    step = max(1, math.ceil(len(samples) / _KEPT))
    first = min(sample.began for sample in meter.samples)
    last = max(sample.began + sample.wall for sample in meter.samples)
    return {
        "tasks": meter.name,
        "calls": meter.calls,
        "seconds": meter.total,
        "coroutine": coroutine,
        "items": [_item(sample, coroutine) for sample in _without_outliers(samples)[::step]],
        "parcels": [[each / 1e9 for each in parcel] for parcel in meter.parcels],
        "change": None if change is None else str(change),
        "unpicklable": meter.unpicklable or _cannot_be_pickled(meter.function),
        "chained": meter.chained >= 2 and meter.chained * 2 >= len(samples) - 1,
        "span": (last - first) / 1e9,
        "at_once": _at_once(samples),
    }


def _without_outliers(samples: list[Sample]) -> list[Sample]:
    """Short calls were timed by the clock alone: those that another program has interrupted say nothing."""
    light = [sample.wall for sample in samples if _is_light(sample)]
    if len(light) < 8:
        return samples
    most = 20 * statistics.median(light)
    kept = [sample for sample in samples if not _is_light(sample) or sample.wall <= most]
    # The first ones, which were asked of the kernel, took longer by that.
    return [sample for sample in kept if _is_light(sample)] if len(light) > len(samples) // 2 else kept


def _is_light(sample: Sample) -> bool:
    """Whether only the clock was asked; what is held cannot be seen of others either where there is no GIL."""
    return sample.held < 0 and sample.cpu == sample.wall


def _item(sample: Sample, coroutine: bool) -> list[float]:
    """Seconds: with the GIL on a core, with it asleep, on a core without it, waiting."""
    if sample.held < 0:
        blocked = sample.awaited if coroutine else max(0, sample.wall - sample.ready - sample.cpu)
        if not coroutine and blocked < max(20_000, sample.wall // 50):
            blocked = 0
        return [sample.cpu / 1e9, 0.0, 0.0, blocked / 1e9]
    held = min(sample.held, sample.cpu)
    if coroutine:
        asleep, blocked = 0, sample.awaited
    else:
        asleep = max(0, sample.held - sample.cpu - sample.ready)
        if asleep < max(1_000_000, sample.wall // 5):
            asleep = 0  # within what the sources are sure of
        blocked = max(0, sample.wall - sample.wanted - sample.ready - sample.cpu - asleep)
        if blocked < max(20_000, sample.wall // 50):
            blocked = 0
    released = sample.cpu - held
    if released < max(2_000, sample.cpu // 50):
        held, released = sample.cpu, 0
    return [held / 1e9, asleep / 1e9, released / 1e9, blocked / 1e9]


def _cannot_be_pickled(function: Any) -> str:
    try:
        pickle.dumps(function)
    except Exception as error:  # whatever it is bound to raises
        name = getattr(function, "__name__", "it")
        if name == "<lambda>":
            return "a lambda cannot be pickled"
        if "<locals>" in getattr(function, "__qualname__", ""):
            return f"{name} is made within a function, and cannot be pickled"
        return f"{name} cannot be pickled ({type(error).__name__}: {str(error)[:80]})"
    return ""


def _at_once(samples: list[Sample]) -> int:
    """How many calls were under way at once."""
    edges = sorted([(sample.began, 1) for sample in samples] + [(sample.began + sample.wall, -1) for sample in samples])
    most = now = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most
