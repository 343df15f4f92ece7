"""What calls lose side by side: learned from a second probe, a few of them at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from plait import _core
from plait.loop._runner import run
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
#: Least relative standard deviation of the machine's speed with which switches cannot be seen.
_UNSURE = 0.05
#: Seconds of the calls with the GIL from which on switches can be seen, and the most that one costs.
_SEEN, _MOST_SWITCH = 0.02, 0.003


class _Kind(NamedTuple):
    """Bursts that may stand in line, and the line."""

    kind: str
    resource: str | None
    line: Resource


class _Probe(NamedTuple):
    """How long it took, and the machine's speed meanwhile, with its relative standard deviation."""

    seconds: float
    speed: float
    unsure: float


_KINDS = {
    "released": _Kind("released", None, Resource(1, on_cores=True, in_process=True)),
    "outside": _Kind("blocked", "outside", Resource(1)),
    "beside": _Kind("blocked", "beside", Resource(1, on_cores=True)),
    "children": _Kind("blocked", "children", Resource(1, on_cores=True)),
}


def with_limits(work: Workload, function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int) -> Workload:
    """The workload, with what the calls lose side by side.

    If they mostly compute with the GIL, that is what each switch of the GIL costs them; else the part of their waits, or of
    their work without the GIL, that stands in line. Of the latter that is seen with no more threads than cores, and with more
    of them what it costs that they take turns on a core. The workload stays as it is if a call of the probe fails: those that
    were recorded did not.
    """
    few = _few(work, at_once)
    if few < 2:
        return work
    some = _some(work, few)
    held = sum(burst.seconds for item in some.items for burst in item.bursts if burst.kind == "hold")
    most, kind = max((_seconds(some.items, each), name) for name, each in _KINDS.items())
    switches = not work.on_loop and _core.gil_is_on() and held > max(most, _SEEN)
    if not switches and most <= 0.05 * some.serial_seconds:
        return work
    cores = _core.usable_cpus()
    turns = not switches and not work.on_loop and kind == "released" and cores < at_once
    probe = partial(_probes, function, arguments[:few], 1 if switches or work.on_loop else cores, on_loop=work.on_loop)
    try:
        first = probe(min(at_once, cores) if turns else at_once)
        second = probe(at_once) if turns else None
    except (Exception, asyncio.CancelledError):  # it is the function's
        return work
    if switches:
        return _with_switch(work, few, first)
    work = _with_line(work, few, first, _KINDS[kind])
    # Work without the GIL follows the machine's speed half as much.
    return _with_switch(work, few, second, 2 * _UNSURE) if second and most > _SEEN else work


class _Probes:
    """Some calls of a workload, several at once: as often as they were made, and as predicted."""

    def __init__(self, at_once: int, *, on_loop: bool) -> None:
        model: Model = "asyncio" if on_loop else "threads"
        self.ask = partial(simulate, model=model, workers=at_once, warm=True, replicas=0)
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
    return (burst.kind, burst.resource) == (kind.kind, kind.resource)


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
    one = kind.line
    line = Resource(one.servers, on_cores=one.on_cores, in_process=one.in_process, contended=contended)
    items = [replace(item, bursts=tuple(_split(item.bursts, kind, part))) for item in work.items]
    return _changed(work, items, resources={**work.resources, "line": line})


def _split(bursts: Sequence[Burst], kind: _Kind, part: float) -> list[Burst]:
    found: list[Burst] = []
    for burst in bursts:
        if _is(burst, kind):
            found.append(Burst(burst.kind, burst.seconds * (1.0 - part), resource=burst.resource))
            found.append(Burst("blocked", burst.seconds * part, resource="line"))
        else:
            found.append(burst)
    return [burst for burst in found if burst.seconds > 0]
