"""What one task costs in a thread pool: plait beside the pools that people use today.

    make bench                 measure, store result.json, render README.md here and the table in the top README.md
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result

For whom: somebody who asks whether plait would help a program with many small tasks in threads, and us, who must not make it
slower. It says nothing about tasks that take milliseconds: there every pool is as good as another, and as bound by the GIL.

Method: every peer runs once in each round, in a process of its own, and the order is rotated from round to round, so that a
slow phase of the machine hits all. All peers get the same functions and the same number of threads, one for each usable core,
and are warm before anything is timed. A cell shows the median of the rounds and their range. Peers that are not installed are
left out. Nothing is tuned by hand: `map` runs with each peer's own defaults.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import multiprocessing.pool
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

from benches._rounds import CORES, Bench, Measure, Peer, seconds_of

WORKERS = CORES


def tiny(value: int) -> int:
    return value


# ------------------------------------------------------------------------------------------------------------------ peers


@dataclass
class Driver:
    """A started pool, reduced to what is measured."""

    submit: Callable[..., Any]
    result: Callable[[Any], Any]
    map: Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
    stop: Callable[[], object]
    executor: concurrent.futures.ThreadPoolExecutor | None = None


def executor(pool: concurrent.futures.ThreadPoolExecutor) -> Driver:
    return Driver(pool.submit, lambda future: future.result(), pool.map, pool.shutdown, pool)


def start_plait() -> Driver:
    import plait

    return executor(plait.ThreadPool(WORKERS))


def start_mp_pool() -> Driver:
    pool = multiprocessing.pool.ThreadPool(WORKERS)

    def stop() -> None:
        pool.close()
        pool.join()

    return Driver(lambda fn, arg: pool.apply_async(fn, (arg,)), lambda result: result.get(), pool.map, stop)


def start_pebble() -> Driver:
    import pebble

    pool = pebble.ThreadPool(WORKERS)

    def stop() -> None:
        pool.close()
        pool.join()

    return Driver(
        lambda fn, arg: pool.schedule(fn, (arg,)),
        lambda future: future.result(),
        lambda fn, items: pool.map(fn, items).result(),
        stop,
    )


@dataclass
class Pool(Peer):
    start: Callable[[], Driver]


PEERS = {
    "plait": Pool(start_plait, package="plait", ours=True),
    "plait, no spin": Pool(start_plait, package="plait", ours=True, env=(("PLAIT_SPIN", "0"),)),
    "ThreadPoolExecutor": Pool(lambda: executor(concurrent.futures.ThreadPoolExecutor(WORKERS))),
    "multiprocessing.ThreadPool": Pool(start_mp_pool),
    "pebble": Pool(start_pebble, package="pebble"),
}


# --------------------------------------------------------------------------------------------------------------- measures


MEASURES = {
    "submit": Measure("submit", "us/task", False, "tiny tasks submitted one by one, then all results taken"),
    "map": Measure("map", "us/item", False, "tiny tasks through `map` with its default arguments"),
    "p50": Measure("round trip p50", "us", False, "`submit(...).result()` of a tiny task, one at a time: median"),
    "p99": Measure("round trip p99", "us", False, "the same: 99th percentile"),
    "executor": Measure("run_in_executor", "us/task", False, "tiny tasks from asyncio, all awaited by `gather`"),
    "to_thread": Measure("to_thread", "us/task", False, "the same by `asyncio.to_thread`"),
    "wakeups": Measure("idle wake-ups", "1/s", False, "context switches of a pool that has nothing to do"),
    "start": Measure("first result", "ms", False, "from making the first pool to the first result"),
}


@dataclass
class Size:
    batch: int
    trips: int
    calls: int
    idle_seconds: float
    rounds: int


FULL = Size(batch=50_000, trips=5_000, calls=10_000, idle_seconds=3.0, rounds=3)
QUICK = Size(batch=5_000, trips=1_000, calls=1_000, idle_seconds=1.0, rounds=2)


def switches() -> int:
    """Context switches so far of all threads of this process."""
    total = 0
    for status in Path("/proc/self/task").glob("*/status"):
        total += sum(int(line.split()[1]) for line in status.read_text().splitlines() if "_ctxt_switches" in line)
    return total


def measure_asyncio(pool: concurrent.futures.ThreadPoolExecutor, count: int) -> dict[str, float]:
    async def main() -> dict[str, float]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        found = {}
        for key in ("executor", "to_thread"):
            for warm in (True, False):
                calls = range(100 if warm else count)
                began = time.perf_counter()
                if key == "executor":
                    await asyncio.gather(*[loop.run_in_executor(pool, tiny, call) for call in calls])
                else:
                    await asyncio.gather(*[asyncio.to_thread(tiny, call) for call in calls])
                found[key] = (time.perf_counter() - began) / count * 1e6
        return found

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def measure(peer: Pool, size: Size) -> dict[str, float]:
    """One peer, once: called in a process of its own."""
    if peer.package:
        importlib.import_module(peer.package)
    found = {}
    began = time.perf_counter()
    driver = peer.start()
    driver.result(driver.submit(tiny, 1))
    found["start"] = (time.perf_counter() - began) * 1e3
    submit, result = driver.submit, driver.result

    def batch(count: int) -> None:
        for handle in [submit(tiny, number) for number in range(count)]:
            result(handle)

    batch(1000)
    found["submit"] = seconds_of(lambda: batch(size.batch)) / size.batch * 1e6
    list(driver.map(tiny, range(1000)))
    found["map"] = seconds_of(lambda: list(driver.map(tiny, range(size.batch)))) / size.batch * 1e6
    for number in range(200):
        result(submit(tiny, number))
    trips = sorted(seconds_of(lambda: result(submit(tiny, 7))) for _ in range(size.trips))
    found["p50"] = trips[len(trips) // 2] * 1e6
    found["p99"] = trips[len(trips) * 99 // 100] * 1e6
    time.sleep(1.0)  # whatever lingers for a moment may go to sleep
    before = switches()
    time.sleep(size.idle_seconds)
    # Our own sleep is one of them.
    found["wakeups"] = max(0, switches() - before - 1) / size.idle_seconds
    if driver.executor is not None:
        found |= measure_asyncio(driver.executor, size.calls)
    driver.stop()
    return found


# -------------------------------------------------------------------------------------------------------------- the bench


class ThreadPools(Bench[Pool]):
    script = Path(__file__).resolve()
    text = __doc__ or ""
    summary = "Measure thread pools side by side."
    title = "What one task costs in a thread pool"
    markers = ("<!-- bench:thread-pool -->", "<!-- /bench:thread-pool -->")
    peers = PEERS
    measures = MEASURES
    peers_are = "pool"
    verdicts_are = "Where plait wins and where it loses"
    rounds = FULL.rounds
    quick_rounds = QUICK.rounds

    def measure(self, peer: Pool, quick: bool) -> dict[str, float]:
        return measure(peer, QUICK if quick else FULL)

    def environment(self) -> dict[str, Any]:
        return {**super().environment(), "workers": WORKERS}

    def figure(self, value: float) -> str:
        return f"{value:,.0f}" if value >= 20 or value == 0 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"

    def place(self, where: dict[str, Any]) -> str:
        return f"{where['workers']} threads on as many cores ({where['processor']})"


if __name__ == "__main__":
    ThreadPools().main()
