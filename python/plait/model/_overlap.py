"""How far waits, and C code without the GIL, can overlap: learned from a second probe, a few calls at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from plait.loop._runner import run
from plait.model._simulate import Model, simulate
from plait.model._workload import Burst, Item, Resource, Workload
from plait.threads._pool import ThreadPool

#: Calls of a probe at most, and seconds that they take one after the other: the system spreads threads over cores by then.
_CALLS, _SECONDS = 200, 0.25
#: How often it is made, unless that takes longer than so many seconds: the quickest counts.
_TIMES, _LONG = 3, 1.0
#: What a probe takes longer than that is not chance.
_TOLERANCE = 1.1
_STEPS = 7
_MOST_CONTENDED = 4.0


class _Kind(NamedTuple):
    """Bursts that may stand in line, and the line."""

    kind: str
    resource: str | None
    line: Resource


_KINDS = {
    "released": _Kind("released", None, Resource(1, on_cores=True, in_process=True)),
    "outside": _Kind("blocked", "outside", Resource(1)),
    "beside": _Kind("blocked", "beside", Resource(1, on_cores=True)),
    "children": _Kind("blocked", "children", Resource(1, on_cores=True)),
}


def with_limits(work: Workload, function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int) -> Workload:
    """The workload, with the part of its waits, or of its work without the GIL, that stands in line.

    It stays as it is if a call of the probe fails: those that were recorded did not.
    """
    few = _few(work, at_once)
    if few < 2:
        return work
    some = Workload(work.items[:few], resources=work.resources, speed=work.speed, on_loop=work.on_loop)
    most, kind = max((_seconds(some.items, each), name) for name, each in _KINDS.items())
    if most <= 0.05 * some.serial_seconds:
        return work
    try:
        taken = _quickest(function, arguments[:few], at_once, on_loop=work.on_loop)
    except (Exception, asyncio.CancelledError):  # it is the function's
        return work

    def predicted(part: float, contended: float = 0.0) -> float:
        limited = _in_line(some, _KINDS[kind], part, contended)
        model: Model = "asyncio" if work.on_loop else "threads"
        return simulate(limited, model=model, workers=at_once, warm=True, replicas=0).seconds

    if taken <= _TOLERANCE * predicted(0.0):
        return work
    if taken > predicted(1.0):
        return _in_line(work, _KINDS[kind], 1.0, _found(lambda more: predicted(1.0, more), taken, _MOST_CONTENDED))
    return _in_line(work, _KINDS[kind], _found(predicted, taken, 1.0), 0.0)


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


def _quickest(function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int, *, on_loop: bool) -> float:
    taken = _timed(function, arguments, at_once, on_loop=on_loop)
    for _ in range(_TIMES - 1 if taken <= _LONG else 0):
        taken = min(taken, _timed(function, arguments, at_once, on_loop=on_loop))
    return taken


def _timed(function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int, *, on_loop: bool) -> float:
    if on_loop:
        return run(_timed_on_loop(function, arguments, at_once))
    with ThreadPool(at_once) as pool:
        list(pool.map(abs, range(at_once)))  # they are there
        begin = time.perf_counter()
        list(pool.map(function, arguments))
        return time.perf_counter() - begin


async def _timed_on_loop(function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int) -> float:
    free = asyncio.Semaphore(at_once)

    async def one(argument: Any) -> None:
        async with free:
            await function(argument)

    begin = time.perf_counter()
    await asyncio.gather(*map(one, arguments))
    return time.perf_counter() - begin


def _in_line(work: Workload, kind: _Kind, part: float, contended: float) -> Workload:
    """The workload with this part of such bursts standing in line."""
    one = kind.line
    line = Resource(one.servers, on_cores=one.on_cores, in_process=one.in_process, contended=contended)
    items = [Item(tuple(_split(item.bursts, kind, part)), item.argument, item.result) for item in work.items]
    return Workload(items, work.count, {**work.resources, "line": line}, work.speed, work.on_loop)


def _split(bursts: Sequence[Burst], kind: _Kind, part: float) -> list[Burst]:
    found: list[Burst] = []
    for burst in bursts:
        if _is(burst, kind):
            found.append(Burst(burst.kind, burst.seconds * (1.0 - part), resource=burst.resource))
            found.append(Burst("blocked", burst.seconds * part, resource="line"))
        else:
            found.append(burst)
    return [burst for burst in found if burst.seconds > 0]
