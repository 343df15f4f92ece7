"""Who runs when several want to: turns on one interpreter, and cores."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import statistics
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import plait
from plait import _core
from plait.compare._measure import computed, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.compare._measure import Figures

_DATA = bytes(1 << 20)


def spin(rounds: int) -> int:
    """CPU-bound in Python: it holds the GIL."""
    total = 0
    for number in range(rounds):
        total += number * number
    return total


def digest(rounds: int) -> int:
    """CPU-bound in C: hashing lets go of the GIL."""
    for _ in range(rounds):
        hashlib.sha256(_DATA).digest()
    return rounds


def rounds_for(function: Callable[[int], int], seconds: float) -> int:
    """How many rounds of a function take about so long, at least one."""
    rounds = 1
    while True:
        began = time.perf_counter()
        function(rounds)
        took = time.perf_counter() - began
        if took > seconds / 8:
            return max(1, int(rounds * seconds / took))
        rounds *= 4


def turns(quick: bool) -> Figures:
    """While one unit computes for a while and gives nothing up by itself, how long does another wait for its first turn?"""
    seconds = 0.1 if quick else 0.2
    rounds = rounds_for(spin, seconds)
    first: list[float] = []

    def second() -> None:
        first.append(time.perf_counter())

    def in_threads() -> float:
        first.clear()
        other = threading.Timer(0.001, second)
        began = time.perf_counter()
        other.start()
        spin(rounds)
        other.join()
        return first[0] - began - 0.001

    async def in_tasks() -> float:
        first.clear()
        came = asyncio.Event()

        def come() -> None:
            second()
            came.set()

        began = time.perf_counter()
        asyncio.get_running_loop().call_later(0.001, come)
        await asyncio.sleep(0)
        spin(rounds)
        await came.wait()
        return first[0] - began - 0.001

    count = 3 if quick else 7
    return {
        "threads": {"first_turn": statistics.median(in_threads() for _ in range(count)), "computing": seconds},
        "asyncio": {
            "first_turn": statistics.median(asyncio.run(in_tasks()) for _ in range(count)),
            "computing": seconds,
        },
    }


def _gathered(function: Callable[[int], int], rounds: int, count: int) -> None:
    async def unit() -> int:
        return function(rounds)

    async def main() -> None:
        await asyncio.gather(*(unit() for _ in range(count)))

    asyncio.run(main())


def _in_turn(function: Callable[[int], int], units: list[int]) -> None:
    for unit in units:
        function(unit)


def _mapped(executor: concurrent.futures.Executor, function: Callable[[int], int], units: list[int]) -> None:
    list(executor.map(function, units))


def _share(seconds: float) -> float:
    """The share of a core that this process gets if it computes for a while."""
    began, spent = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        spin(1_000)
    return (time.process_time() - spent) / (time.perf_counter() - began)


#: Seconds of a unit: as short as leaves what pools cost out of sight.
_UNIT = 0.06

#: Rounds for each look at what other programs leave of the cores.
_SHARES = 4


def with_gil(quick: bool) -> Figures:
    """How much faster threads are than one after the other, where the interpreter was told to have its GIL."""
    count, rounds = max(2, _core.usable_cpus()), 6 if quick else 10
    units = [rounds_for(spin, _UNIT)] * count
    alone: list[float] = []
    together: list[float] = []
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        _mapped(pool, spin, units)
        for _ in range(rounds):
            alone.append(computed(partial(_in_turn, spin, units)))
            together.append(timed(partial(_mapped, pool, spin, units)))
    return {"threads": {"python": min(alone) / min(together), "gil": float(_core.gil_is_on())}}


def cores(quick: bool) -> Figures:
    """As many units of the same work as there are cores (two at least), against one after the other: each model's speed-up.

    Of each the quickest of many short rounds counts: what else the machine does can only slow one down. One unit after the
    other takes what that computes: threads get the cores of a busy machine more often, and would seem to gain what they do not.
    """
    count = max(2, _core.usable_cpus())
    rounds = 6 if quick else 20
    figures: Figures = {name: {"units": float(count)} for name in ("threads", "processes", "asyncio")}
    executors: dict[str, concurrent.futures.Executor] = {
        "threads": concurrent.futures.ThreadPoolExecutor(count),
        "processes": concurrent.futures.ProcessPoolExecutor(count),
        "plait threads": plait.ThreadPool(count),
        "plait processes": plait.ProcessPool(count),
    }
    free: list[float] = []
    for kind, function in (("python", spin), ("released", digest)):
        units = [rounds_for(function, _UNIT)] * count
        for executor in executors.values():
            list(executor.map(function, units))  # has its workers now
        times: dict[str, list[float]] = {}
        for number in range(rounds):
            if number % _SHARES == 0:
                free.append(sum(executors["plait processes"].map(_share, [0.03] * count, chunksize=1)))
            took = computed(partial(_in_turn, function, units))
            times.setdefault("serial", []).append(took)
            for name, executor in executors.items():
                took = timed(partial(_mapped, executor, function, units))
                times.setdefault(name, []).append(took)
            took = timed(partial(_gathered, function, units[0], count))
            times.setdefault("asyncio", []).append(took)
        serial = min(times.pop("serial"))
        for name, each in times.items():
            model, key = (name.removeprefix("plait "), f"plait_{kind}") if name.startswith("plait") else (name, kind)
            figures[model][key] = serial / min(each)
    for executor in executors.values():
        executor.shutdown()
    figures["threads"]["switch_interval"] = sys.getswitchinterval()
    figures["processes"]["cores_free"] = max(free)
    return figures
