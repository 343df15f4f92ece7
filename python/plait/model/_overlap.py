"""What calls lose side by side: learned from a second probe, a few of them at once."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from plait import _core
from plait.loop._runner import run
from plait.model._calibrate import calibrate
from plait.model._costs import Costs
from plait.model._simulate import Model, simulate
from plait.model._speed import Pace
from plait.model._workload import Burst, Item, Resource, Workload
from plait.threads._pool import ThreadPool

#: Calls of a probe at most, and seconds that they take one after the other: the system spreads threads over cores by then.
_CALLS, _SECONDS = 200, 0.25
#: How often it is made, unless that takes longer than so many seconds.
_TIMES, _LONG = 3, 1.0
#: What a probe takes longer than that is not chance.
_TOLERANCE = 1.1
_STEPS = 7
_MOST_CONTENDED = 4.0
#: Share of the calls' time that is worth a look, and of their waits to be probed with several numbers of threads.
_WORTH, _WAITS = 0.05, 0.25
#: How far off predictions of the probes are that are right as they are, root of the mean square, in logarithms.
_RIGHT = 0.05
#: What explains them in a simpler way need not be quite as close.
_SIMPLER = 0.75
#: How much in line is tried: up to 1 a part, beyond that all of it, which takes so much longer; then, how close to the best.
_STRENGTHS, _CLOSER = (0.5, 1.0, 1.5, 2.0, 3.0, 1.0 + _MOST_CONTENDED), (0.25, 0.125)
#: Least relative standard deviation of the machine's speed with which switches cannot be seen.
_UNSURE = 0.05
#: Seconds of the calls with the GIL from which on switches can be seen, and the most that one costs.
_SEEN, _MOST_SWITCH = 0.02, 0.003


class _Kind(NamedTuple):
    """Bursts that may stand in line, of these kinds and resources, and the line."""

    bursts: frozenset[tuple[str, str | None]]
    line: Resource


class _Probe(NamedTuple):
    """How long it took, and the machine's speed meanwhile, with its relative standard deviation."""

    seconds: float
    speed: float
    unsure: float


def _waits(*resources: str) -> frozenset[tuple[str, str | None]]:
    return frozenset(("blocked", name) for name in resources)


_RELEASED = _Kind(frozenset({("released", None)}), Resource(1, on_cores=True, in_process=True))
#: What the kernel's threads do for a wait is a part of it.
_OUTSIDE = _Kind(_waits("outside", "kernel"), Resource(1))
_BESIDE = _Kind(_waits("beside"), Resource(1, on_cores=True))
_KINDS = (
    _RELEASED,
    _OUTSIDE,
    _BESIDE,
    _Kind(_waits("children"), Resource(1, on_cores=True)),
)


def with_limits(work: Workload, function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int) -> Workload:
    """The workload, with what the calls lose side by side.

    If they mostly compute with the GIL, that is what each switch of the GIL costs them; else the part of their waits, or of
    their work without the GIL, that stands in line. Of the latter that is seen with no more threads than cores, and with more
    of them what it costs that they take turns on a core; of waits with several numbers of threads. The workload stays as it is
    if a call of the probe fails: those that were recorded did not.
    """
    few = _few(work, at_once)
    if few < 2:
        return work
    some = _some(work, few)
    spent = {kind: _seconds(some.items, kind) for kind in _KINDS}
    held = sum(burst.seconds for item in some.items for burst in item.bursts if burst.kind == "hold")
    most, kind = max(spent.values()), max(spent, key=spent.__getitem__)
    switches = not work.on_loop and _core.gil_is_on() and held > max(most, _SEEN)
    if not switches and most <= _WORTH * some.serial_seconds:
        return work
    cores = _core.usable_cpus()
    waits = not switches and sum(spent.values()) - spent[_RELEASED] > _WAITS * some.serial_seconds
    turns = not switches and not waits and not work.on_loop and kind is _RELEASED and cores < at_once
    probe = partial(_probes, function, arguments[:few], 1 if switches or work.on_loop else cores, on_loop=work.on_loop)
    calibrate()  # if that fails, it is none of the function's failures
    try:
        if waits:
            several = _at_several(probe, at_once, few)
        else:
            several = [probe(min(at_once, cores) if turns else at_once), *([probe(at_once)] if turns else [])]
    except (Exception, asyncio.CancelledError):  # it is the function's
        return work
    if waits:
        return _with_waits(work, few, several)
    first, *second = several
    if switches:
        return _with_switch(work, few, first)
    work = _with_line(work, few, first, kind)
    # Work without the GIL follows the machine's speed half as much.
    return _with_switch(work, few, second[0], 2 * _UNSURE) if second and most > _SEEN else work


class _Probes:
    """Some calls of a workload, several at once: as often as they were made, and as predicted."""

    def __init__(self, at_once: int, *, on_loop: bool) -> None:
        model: Model = "asyncio" if on_loop else "threads"
        costs = calibrate()
        # Cores that slow one another down do so while the probe looks at the speed, too.
        alike = Costs(costs.known, (), costs.speed)
        self.ask = partial(simulate, model=model, workers=at_once, warm=True, replicas=0, costs=alike)
        self.made: list[_Probe] = []

    def sorted(self, some: Workload) -> list[_Probe]:
        """The quickest for its speed comes first."""
        return sorted(self.made, key=lambda probe: probe.seconds / self.ask(some, speed=probe.speed).seconds)


def _some(work: Workload, few: int) -> Workload:
    return _changed(work, work.items[:few], count=few)


def _with_switch(work: Workload, few: int, probes: _Probes, unsure: float = _UNSURE) -> Workload:
    some = _some(work, few)
    made = probes.sorted(some)
    probe = made[len(made) // 2]
    if max(probe.unsure, work.unsure) > unsure:
        return work  # it could not be told from how fast the machine is

    def predicted(switch: float) -> float:
        return probes.ask(_changed(some, some.items, switch=switch), speed=probe.speed).seconds

    return _changed(work, work.items, switch=_found(predicted, probe.seconds, _MOST_SWITCH))


def _with_line(work: Workload, few: int, probes: _Probes, kind: _Kind) -> Workload:
    some = _some(work, few)
    # The quickest: others of this machine's programs, and two threads on one core, can only make one longer.
    probe = probes.sorted(some)[0]

    def predicted(part: float, contended: float = 0.0) -> float:
        return probes.ask(_in_line(some, kind, part, contended), speed=probe.speed).seconds

    if probe.seconds <= _TOLERANCE * predicted(0.0):
        return work
    if probe.seconds > predicted(1.0):
        more = _found(lambda more: predicted(1.0, more), probe.seconds, _MOST_CONTENDED)
        return _in_line(work, kind, 1.0, more)
    return _in_line(work, kind, _found(predicted, probe.seconds, 1.0), 0.0)


def _at_several(probe: Callable[[int], _Probes], at_once: int, few: int) -> list[_Probes]:
    """In so many threads or tasks, in half and in four times as many: a line serves no more of those, a disk does."""
    found = [probe(at_once)]
    if at_once < few:
        found.append(probe(min(4 * at_once, few)))
    if at_once >= 4 and found[0].made[0].seconds <= _LONG:
        found.append(probe(at_once // 2))
    return found


def _with_waits(work: Workload, few: int, probes: Sequence[_Probes]) -> Workload:
    """With that line that explains all of the probes best, if they are not as predicted without one.

    Programs beside need not have worked for this one, and those that are asked by many at once do with less: so what they did
    may have been no work on this machine at all.
    """
    some = _some(work, few)
    # The quickest: others of this machine's programs, and two threads on one core, can only make one longer.
    quickest = [(each, each.sorted(some)[0]) for each in probes]

    def off(changed: Workload) -> float:
        errors = [math.log(each.ask(changed, speed=one.speed).seconds / one.seconds) for each, one in quickest]
        return math.sqrt(statistics.fmean(error * error for error in errors))

    explained, least = work, math.inf
    for change in (_same, _away) if _BESIDE in _worth(some) else (_same,):
        changed = change(some)
        found: list[tuple[float, Callable[[Workload], Workload]]] = [(off(changed) * _SIMPLER, _same)]
        if found[0][0] > _RIGHT * _SIMPLER:
            found += [_best(line, changed, off) for line in _lines(changed)]
        error, stands = min(found, key=itemgetter(0))
        if error < _SIMPLER * least:
            explained, least = stands(change(work)), error
        if least <= _RIGHT:
            break
    return explained


def _same(work: Workload) -> Workload:
    return work


def _worth(work: Workload) -> list[_Kind]:
    return [kind for kind in _KINDS if _seconds(work.items, kind) > _WORTH * work.serial_seconds]


def _lines(work: Workload) -> list[_Kind]:
    """What may stand in line: of waits for what is outside, one after the other, or together as a disk commits."""
    kinds = _worth(work)
    return [*kinds, *(kind._replace(line=replace(kind.line, together=True)) for kind in kinds if kind is _OUTSIDE)]


def _stands(line: _Kind, strength: float, work: Workload) -> Workload:
    """Up to 1 that part of it stands in line, and beyond that all of it, which takes so much longer."""
    return _in_line(work, line, min(strength, 1.0), max(strength - 1.0, 0.0))


def _best(
    line: _Kind, some: Workload, off: Callable[[Workload], float]
) -> tuple[float, Callable[[Workload], Workload]]:
    """How far off it is at least, and with which strength."""
    found = {strength: off(_stands(line, strength, some)) for strength in _STRENGTHS}
    for step in _CLOSER:
        best = min(found, key=found.__getitem__)
        found |= {one: off(_stands(line, one, some)) for one in (best - step, best + step) if one > 0.0}
    best = min(found, key=found.__getitem__)
    return found[best], partial(_stands, line, best)


def _away(work: Workload) -> Workload:
    """The workload with what was done beside it as waits for what is outside."""
    items: list[Item] = []
    for item in work.items:
        bursts: list[Burst] = []
        for burst in item.bursts:
            burst = replace(burst, resource="outside") if burst.resource == "beside" else burst
            if burst.resource == "outside" and bursts and bursts[-1].resource == "outside":
                burst = replace(burst, seconds=burst.seconds + bursts.pop().seconds)
            bursts.append(burst)
        items.append(replace(item, bursts=tuple(bursts)))
    return _changed(work, items)


def _changed(
    work: Workload,
    items: Sequence[Item],
    *,
    count: int | None = None,
    resources: Mapping[str, Resource] | None = None,
    switch: float | None = None,
) -> Workload:
    """With other items."""
    return Workload(
        items,
        count or work.count,
        resources or work.resources,
        work.speed,
        work.on_loop,
        work.switch if switch is None else switch,
        work.unsure,
    )


def _found(predicted: Callable[[float], float], taken: float, most: float) -> float:
    """Where it takes that long, in halving steps."""
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if predicted(middle) < taken else (low, middle)
    return (low + high) / 2


def _few(work: Workload, at_once: int) -> int:
    """How many calls to make: each of those at once makes some, and all together do not take long."""
    seconds, few = 0.0, 0
    for item in work.items[:_CALLS]:
        seconds += sum(burst.seconds for burst in item.bursts)
        if seconds > _SECONDS and few >= 2 * at_once:
            break
        few += 1
    return few


def _is(burst: Burst, kind: _Kind) -> bool:
    return (burst.kind, burst.resource) in kind.bursts


def _seconds(items: Sequence[Item], kind: _Kind) -> float:
    return sum(burst.seconds for item in items for burst in item.bursts if _is(burst, kind))


def _probes(
    function: Callable[[Any], Any], arguments: Sequence[Any], cores: int, at_once: int, *, on_loop: bool
) -> _Probes:
    """On so many cores: what looks at the speed take is taken off, but for what is at the same time as other work."""
    found = _Probes(at_once, on_loop=on_loop)
    while len(found.made) < _TIMES and (not found.made or found.made[0].seconds <= _LONG):
        pace = Pace()
        taken = _timed(function, arguments, at_once, pace, on_loop=on_loop)
        pace.look()
        found.made.append(_Probe(taken - pace.spent / min(cores, at_once), pace.seconds, pace.unsure))
    return found


def _timed(
    function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int, pace: Pace, *, on_loop: bool
) -> float:
    """Seconds that the calls take, with the looks at the speed between some of them."""
    if on_loop:
        return run(_timed_on_loop(function, arguments, at_once, pace))

    def one(argument: Any) -> None:
        pace.look()
        function(argument)

    with ThreadPool(at_once) as pool:
        list(pool.map(abs, range(at_once)))  # they are there
        begin = time.perf_counter()
        list(pool.map(one, arguments))
        return time.perf_counter() - begin


async def _timed_on_loop(function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int, pace: Pace) -> float:
    free = asyncio.Semaphore(at_once)

    async def one(argument: Any) -> None:
        async with free:
            pace.look()
            await function(argument)

    begin = time.perf_counter()
    await asyncio.gather(*map(one, arguments))
    return time.perf_counter() - begin


def _in_line(work: Workload, kind: _Kind, part: float, contended: float) -> Workload:
    """The workload with this part of such bursts standing in line."""
    line = replace(kind.line, contended=contended)
    items = [replace(item, bursts=tuple(_split(item.bursts, kind, part))) for item in work.items]
    return _changed(work, items, resources={**work.resources, "line": line})


def _split(bursts: Sequence[Burst], kind: _Kind, part: float) -> list[Burst]:
    """What stands in line follows the rest of its wait, which may be of several resources: it stands there once."""
    found: list[Burst] = []
    in_line = 0.0
    for burst in bursts:
        if _is(burst, kind):
            found.append(Burst(burst.kind, burst.seconds * (1.0 - part), resource=burst.resource))
            in_line += burst.seconds * part
            continue
        found += [Burst("blocked", in_line, resource="line"), burst]
        in_line = 0.0
    found.append(Burst("blocked", in_line, resource="line"))
    return [burst for burst in found if burst.seconds > 0]
