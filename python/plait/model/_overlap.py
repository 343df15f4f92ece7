"""How far waits, and C code without the GIL, can overlap: learned from a second probe, a few calls at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from plait.loop._runner import run
from plait.model._simulate import simulate
from plait.model._workload import Burst, Item, Workload
from plait.threads._pool import ThreadPool

#: Calls of a probe at most, and seconds that they take one after the other.
_CALLS, _SECONDS = 24, 1.0
#: What a probe takes longer than that is not chance.
_TOLERANCE = 1.1
_STEPS = 7


def with_limits(work: Workload, function: Callable[[Any], Any], arguments: Sequence[Any], at_once: int) -> Workload:
    """The workload, with the part of its waits, or of its work without the GIL, that stands in line."""
    few = _few(work, at_once)
    if few < 2:
        return work
    items = work.items[:few]
    name = "outside" if _seconds(items, "blocked", "outside") > _seconds(items, "released", None) else "released"
    if _seconds(items, *(("blocked", "outside") if name == "outside" else ("released", None))) <= 0:
        return work
    taken = min(_timed(function, arguments[:few], at_once, on_loop=work.on_loop) for _ in range(2))

    def predicted(part: float) -> float:
        some = _in_line(Workload(items, resources=work.resources, speed=work.speed, on_loop=work.on_loop), name, part)
        model = "asyncio" if work.on_loop else "threads"
        return simulate(some, model=model, workers=at_once, warm=True, replicas=0).seconds

    if taken <= _TOLERANCE * predicted(0.0):
        return work
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if predicted(middle) < taken else (low, middle)
    return _in_line(work, name, (low + high) / 2)


def _few(work: Workload, at_once: int) -> int:
    """How many calls to make: each of those at once makes some, and all together do not take long."""
    seconds, few = 0.0, 0
    for item in work.items[:_CALLS]:
        seconds += sum(burst.seconds for burst in item.bursts)
        if seconds > _SECONDS and few >= 2 * at_once:
            break
        few += 1
    return few


def _seconds(items: Sequence[Item], kind: str, resource: str | None) -> float:
    return sum(burst.seconds for item in items for burst in item.bursts if (burst.kind, burst.resource) == (kind, resource))


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


def _in_line(work: Workload, name: str, part: float) -> Workload:
    """The workload with this part of such bursts standing in line."""
    line = "line" if name == "outside" else "shared"
    items = [Item(tuple(_split(item.bursts, name, line, part)), item.argument, item.result) for item in work.items]
    return Workload(items, work.count, work.resources, work.speed, work.on_loop)


def _split(bursts: Sequence[Burst], name: str, line: str, part: float) -> list[Burst]:
    found: list[Burst] = []
    for burst in bursts:
        if name not in {burst.kind, burst.resource}:
            found.append(burst)
            continue
        found.append(Burst(burst.kind, burst.seconds * (1.0 - part), resource=burst.resource))
        found.append(Burst("blocked", burst.seconds * part, resource=line))
    return [burst for burst in found if burst.seconds > 0]
