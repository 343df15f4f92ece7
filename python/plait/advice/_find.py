"""Finds the calls that a program makes most of, and tells what is to be known of them as plain data."""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import sys
from typing import TYPE_CHECKING, Any

import plait
from plait import _core
from plait.advice import _blocking, _meter, _state
from plait.model import measure_speed

if TYPE_CHECKING:
    from plait.advice._meter import Meter, Sample
    from plait.advice._meters import Meters

#: Which part of their time calls wait at least for it to matter what they wait for.
_WAITS = 0.05

#: Calls below which nothing is said.
FEWEST = 3

#: The share of another function's time from which on a function has all of it.
_AS_MUCH = 0.8

#: Seconds of a call that is a task rather than a part of one, where there are only a few of the outer ones.
_WORTH_A_TASK = 0.0005

#: Nanoseconds of a call beside which it does not matter what the looks at it take.
_LONG = 1_000_000

#: How much coroutines block the loop, beside what they await, before that is more than starts of processes and the like.
_BLOCKED = 0.1

#: The share of a call's own time from which on what threads beside it compute is more than the looks at it.
_BESIDE = 0.25

#: Recorded calls that are kept.
_KEPT = 1000


def kind_of_wait(wait: Any) -> str:
    """What a wait is to an event loop: "awaitable" (peers, timers, child processes), "lock", "other" (files), or "unknown"."""
    kind, call, target = wait["kind"], wait["call"], wait["target"]
    if kind in {"sleep", "child"} or "sleep" in call or call.startswith("wait"):
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
    # Both are measured, and meters within a call take of its time: the outer one may seem to have taken less.
    most = repeated[0]
    around = [each for each in repeated[1:] if each.total >= _AS_MUCH * most.total and _inside(most, each)]
    best = most
    for outer in around:
        if _inside(best, outer):
            best = outer
    for inner in repeated:
        # A few rounds of many calls: the calls are the tasks.
        if (
            best.calls < 8
            and inner.calls >= 2 * best.calls
            and inner.total >= max(_AS_MUCH * best.total, _WORTH_A_TASK * inner.calls)
            and _inside(inner, best)
        ):
            best = inner
    return best


def _inside(inner: Meter, outer: Meter) -> bool:
    """Whether a meter's calls are made within those of another."""
    seen: set[int] = set()
    at: Meter | None = inner
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        at = at.samples[0].parent if at.samples else None
        if at is outer:
            return True
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
            {"name": other.told_name, "calls": other.calls, "seconds": other.total}
            for other in sorted(each, key=lambda other: other.total, reverse=True)[:8]
        ],
    }
    if best is not None:
        told |= _of(best)
        told["locked"] = 0.0 if told["in_turn"] or best.elsewhere else _locked(told, waits)
    return told


def _locked(told: dict[str, Any], waits: dict[str, float]) -> float:
    """The share of calls' waits that was for locks, where calls were under way at once: what no thread waited for otherwise."""
    waited: float = sum(item[3] + item[4] for item in told["items"])
    if not waits or told["coroutine"] or told["at_once"] < 3 or waited <= _WAITS * sum(map(sum, told["items"])):
        return 0.0
    return max(0.0, 1 - sum(took for what, took in waits.items() if what != "lock") / waited)


def _of(meter: Meter) -> dict[str, Any]:
    coroutine = bool(getattr(getattr(meter.function, "__code__", None), "co_flags", 0) & 0x80)
    if coroutine:
        _settle_awaits(meter.samples)
    samples = sorted(meter.sound, key=lambda sample: sample.began)
    _settle_holds(samples)
    step = max(1, math.ceil(len(samples) / _KEPT))
    items = [_item(sample, coroutine) for sample in _without_outliers(samples)[::step]]
    in_turn, at_once = _takes_turns(samples), _at_once(samples)
    if sum(item[1] > 0 for item in items) <= len(items) // 10:
        # Who is stopped for a while, with everything, has the GIL meanwhile: that is not what the calls do.
        items = [[item[0], 0.0, *item[2:]] for item in items]
    if in_turn:
        # What is longer than the shortest wait is a wait for one another.
        least = min(item[3] for item in items)
        items = [[*item[:3], least, *item[4:]] for item in items]
    quickest = _meter.cost_of_nothing() / 1e9
    items = [[item[0] + max(0.0, quickest - sum(item)), *item[1:]] for item in items]
    timed = sum(map(_is_light, samples)) > len(samples) // 2
    return {
        "tasks": meter.told_name,
        "calls": meter.calls,
        "seconds": meter.total,
        "coroutine": coroutine,
        "awaited": _awaited(samples) if coroutine else 0.0,
        "items": items,
        "quickest": quickest,
        "unsure": _meter.unsure() / 1e9 if timed else 0.0,
        "parcels": [[each / 1e9 for each in parcel] for parcel in meter.parcels],
        "change": _state.change(meter),
        "held_by_one": _state.held_by_one(meter),
        "unpicklable": meter.unpicklable or _state.cannot_be_pickled(meter.function),
        "chained": meter.chained >= 2 and meter.chained * 2 >= len(samples) - 1,
        "in_turn": in_turn,
        "name": _name(meter),
        "program": meter.program,
        "blocking": _blocks(meter),
        "arguments": _arguments(meter),
        "named": meter.named,
        "beside": 0.0 if at_once > 1 or coroutine else _beside(samples),
        "span": _under_way(meter) / 1e9,
        "at_once": at_once,
    }


def _awaited(samples: list[Sample]) -> float:
    """The share of coroutines' waits that they await: while they wait for others, so does the loop."""
    awaited, blocked = sum(sample.awaited for sample in samples), sum(sample.blocked for sample in samples)
    return awaited / (awaited + blocked) if blocked > _BLOCKED * awaited else 1.0


def _beside(samples: list[Sample]) -> float:
    """Seconds that threads of a library computed beside a call, as those of linear algebra do."""
    seen = [sample for sample in samples if sample.held >= 0]
    beside, cpu = sum(sample.beside for sample in seen), sum(sample.cpu for sample in seen)
    computes = cpu > max(0.5 * sum(sample.alone for sample in seen), _LONG * len(seen))
    return beside / len(seen) / 1e9 if computes and beside > _BESIDE * cpu else 0.0


def _name(meter: Meter) -> str:
    """What the program calls: with its class or its module, if it is of another package, but without what it was made in."""
    name = str(getattr(meter.function, "__qualname__", meter.name)) if meter.program else meter.told_name
    return name.rpartition("<locals>.")[2].removeprefix("builtins.")


def _blocks(meter: Meter) -> list[str]:
    """What the function calls that blocks, as far as its lines tell."""
    code: Any = getattr(meter.function, "__code__", None)
    if not meter.program or code is None:
        return []
    return list(_blocking.blocking(code.co_filename, code.co_firstlineno, code.co_name))


def _arguments(meter: Meter) -> int:
    """How many arguments a call is given; of calls in other processes as many as it needs."""
    code: Any = getattr(meter.function, "__code__", None)
    if meter.arguments is not None or code is None:
        return 1 if meter.arguments is None else meter.arguments
    return int(code.co_argcount) - len(meter.function.__defaults__ or ())


#: Files of the event loop's locks, whose waits are for other tasks.
_LOCKS = ("/asyncio/locks.py", "/plait/sync/")


def _settle_awaits(samples: list[Sample]) -> None:
    """Tell how long awaits would have taken alone.

    While others compute, nobody sees when what is awaited has come. It took as long as at the same place while the others
    were idle; where they never were, as long as the shortest there, at most.
    """
    seen: dict[Any, list[int]] = {}
    shortest: dict[Any, int] = {}
    for sample in samples:
        for place, gap, computed in sample.awaits:
            shortest[place] = min(gap, shortest.get(place, gap))
            if computed <= 0.2 * gap:
                seen.setdefault(place, []).append(gap - computed)
    usual = {place: statistics.median(seen[place]) if place in seen else shortest[place] for place in shortest}
    for sample in samples:
        steps = sample.wall - sample.awaited
        sample.awaited = 0
        for place, gap, computed in sample.awaits:
            alone = gap - computed
            if place[0].endswith(_LOCKS[0]) or _LOCKS[1] in place[0]:
                continue  # in a run of its own it would have been free
            sample.awaited += round(alone if computed <= 0.2 * gap else min(gap, max(alone, usual[place])))
        sample.wall = steps + sample.awaited


def _settle_holds(samples: list[Sample]) -> None:
    """Tell how long calls computed with the GIL.

    Who has it keeps it while another program has the core: then it is only known between which bounds that is, and the share of
    those calls is taken of which it is known.
    """
    bounds = [(max(0, min(s.cpu, s.held - s.ready)), min(s.cpu, s.held)) for s in samples]
    exact = [(s, low, high) for s, (low, high) in zip(samples, bounds, strict=True) if s.held >= 0 and s.cpu > 0]
    sure = [(s, high) for s, low, high in exact if high - low <= 0.05 * s.cpu]
    if sure:
        share = sum(high for _, high in sure) / sum(s.cpu for s, _ in sure)
    else:
        share = min((high / s.cpu for s, _, high in exact), default=1.0)
    for s, low, high in exact:
        s.computed = high if high - low <= 0.05 * s.cpu else min(high, max(low, round(share * s.cpu)))


def _takes_turns(samples: list[Sample]) -> bool:
    """Whether calls that were under way at once came to their ends one after the other, as under a lock that each needs."""
    waits = [max(sample.awaited, sample.alone - sample.cpu) for sample in samples]
    least = min(waits)
    if (
        len(samples) < 4
        or _at_once(samples) < 3
        or least < 0.5 * statistics.median(s.alone for s in samples) / len(samples)
    ):
        return False
    if least < 500_000 or statistics.fmean(waits) < 1.8 * least:
        return False
    ends = sorted(sample.began + sample.wall for sample in samples)
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    return sum(gap >= 0.7 * least for gap in gaps) >= 0.9 * len(gaps)


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
    """Seconds: with the GIL on a core, with it asleep, on a core without it, waiting, waiting for processes that compute."""
    if sample.held < 0:
        waits = sample.awaited + sample.blocked
        blocked = waits if coroutine else max(0, sample.wall - sample.ready - sample.cpu)
        if not coroutine and blocked < max(20_000, sample.wall // 50):
            blocked = 0
        children = min(sample.children, blocked)
        return [sample.cpu / 1e9, 0.0, 0.0, (blocked - children) / 1e9, children / 1e9]
    held = sample.computed if sample.computed >= 0 else min(sample.held, sample.cpu)
    if coroutine:
        asleep, blocked = 0, sample.awaited + sample.blocked
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
    children = min(sample.children, blocked)
    return [held / 1e9, asleep / 1e9, released / 1e9, (blocked - children) / 1e9, children / 1e9]


def _under_way(meter: Meter) -> float:
    """For how long a call was under way, at least one; of those that were not looked at as of the others."""
    together, until = 0, 0
    for sample in sorted(meter.samples, key=lambda sample: sample.began):
        end = sample.began + sample.wall
        together += max(0, end - max(until, sample.began))
        until = max(until, end)
    return together / len(meter.samples) * meter.calls


def _at_once(samples: list[Sample]) -> int:
    """How many calls were under way at once."""
    edges = sorted([(sample.began, 1) for sample in samples] + [(sample.began + sample.wall, -1) for sample in samples])
    most = now = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most
