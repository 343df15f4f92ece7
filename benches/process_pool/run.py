"""What one task costs in a process pool: plait beside the pools that people use today.

    make bench                 measure, store result.json, render README.md here and the table in the top README.md
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result

For whom: somebody who asks whether plait would help a program with many small tasks, and us, who must not make it slower. It
says nothing about programs whose tasks take seconds: there every pool is as good as another.

Method: every peer runs once in each round, in a process of its own, and the order is rotated from round to round, so that a
slow phase of the machine hits all. All peers get the same functions and the same number of workers, one for each usable core,
and are warm before anything is timed. A cell shows the median of the rounds and their range. Peers that are not installed are
left out. Nothing is tuned by hand: `map` runs with each peer's own default, which for ProcessPoolExecutor, loky and pebble is
one item a message.
"""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

from benches._rounds import CORES, Bench, Measure, Peer, seconds_of

WORKERS = CORES


# ------------------------------------------------------------------------------------------------------------------ tasks


def tiny(value: int) -> int:
    return value


def medium(loops: int) -> int:
    """About 200 us of pure Python, once `loops` is calibrated."""
    total = 0
    for index in range(loops):
        total += index & 7
    return total


def echo(data: bytes) -> bytes:
    return data


def ends_of(array: Any) -> float:
    """Touches an array without streaming through it."""
    return float(array[0] + array[-1])


def ones(count: int) -> Any:
    import numpy as np

    return np.ones(count)


# ------------------------------------------------------------------------------------------------------------------ peers


@dataclass
class Driver:
    """A started pool, reduced to what is measured."""

    submit: Callable[..., Any]
    result: Callable[[Any], Any]
    map: Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
    stop: Callable[[], object]


def executor(pool: Any) -> Driver:
    return Driver(pool.submit, lambda future: future.result(), pool.map, pool.shutdown)


def start_standard(method: str) -> Driver:
    from concurrent.futures import ProcessPoolExecutor

    return executor(ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context(method)))


def start_mp_pool() -> Driver:
    pool = multiprocessing.get_context("fork").Pool(WORKERS)

    def stop() -> None:
        pool.close()
        pool.join()

    return Driver(lambda fn, arg: pool.apply_async(fn, (arg,)), lambda result: result.get(), pool.map, stop)


def start_loky() -> Driver:
    import loky

    return executor(loky.ProcessPoolExecutor(WORKERS))


def start_pebble() -> Driver:
    import pebble

    pool = pebble.ProcessPool(WORKERS)

    def stop() -> None:
        pool.close()
        pool.join()

    return Driver(
        lambda fn, arg: pool.schedule(fn, (arg,)),
        lambda future: future.result(),
        lambda fn, items: pool.map(fn, items).result(),
        stop,
    )


def start_plait() -> Driver:
    import plait

    return executor(plait.ProcessPool(WORKERS))


@dataclass
class Pool(Peer):
    start: Callable[[], Driver]


PEERS = {
    "plait": Pool(start_plait, package="plait", ours=True),
    "plait, no spin": Pool(start_plait, package="plait", ours=True, env=(("PLAIT_SPIN", "0"),)),
    "ProcessPoolExecutor (fork)": Pool(lambda: start_standard("fork")),
    "ProcessPoolExecutor (forkserver)": Pool(lambda: start_standard("forkserver")),
    "multiprocessing.Pool": Pool(start_mp_pool),
    "loky": Pool(start_loky, package="loky"),
    "pebble": Pool(start_pebble, package="pebble"),
}


# --------------------------------------------------------------------------------------------------------------- measures


@dataclass
class Grouped(Measure):
    group: str = "tasks"


MEASURES = {
    "submit": Grouped("submit", "us/task", False, "tiny tasks submitted one by one, then all results taken"),
    "map": Grouped("map", "us/task", False, "tiny tasks through `map` with its default chunk size"),
    "p50": Grouped("round trip p50", "us", False, "`submit(...).result()` of a tiny task, one at a time: median"),
    "p99": Grouped("round trip p99", "us", False, "the same: 99th percentile"),
    "efficiency": Grouped(
        "200 us tasks",
        "%",
        True,
        "10,000 tasks of about 200 us submitted one by one; 100 % is the time that bare processes need for the same"
        " work, measured just before and after",
    ),
    "wakeups": Grouped(
        "idle wake-ups", "1/s", False, "context switches in all processes of a pool that has nothing to do"
    ),
    "million": Grouped(
        "map of 200,000 ints", "us/item", False, "tiny tasks through `map` with its default arguments", group="data"
    ),
    "bytes": Grouped(
        "1 MiB bytes", "GiB/s", True, "100 tasks that get 1 MiB of bytes and return it; both ways counted", group="data"
    ),
    "first": Grouped(
        "first array in",
        "GiB/s",
        True,
        "a numpy array of 80 MB as the argument of a task, for the first time",
        group="data",
    ),
    "in": Grouped("array in", "GiB/s", True, "the same again: best of 4", group="data"),
    "out": Grouped(
        "array out", "GiB/s", True, "such an array, made by the task, as its result: best of 4", group="data"
    ),
    "start": Grouped("first result", "ms", False, "from making the first pool to the first result", group="data"),
    "again": Grouped("of a second pool", "ms", False, "the same for a second pool in the same program", group="data"),
    "memory": Grouped(
        "memory",
        "MiB/worker",
        False,
        "what all processes take more than before, shared pages by their share",
        group="data",
    ),
}
GROUPS = {"tasks": "What a task costs", "data": "Data, start and memory"}


@dataclass
class Size:
    batch: int
    trips: int
    medium: int
    idle_seconds: float
    items: int
    rounds: int


FULL = Size(batch=20_000, trips=5_000, medium=10_000, idle_seconds=3.0, items=200_000, rounds=3)
QUICK = Size(batch=4_000, trips=1_000, medium=2_000, idle_seconds=1.0, items=20_000, rounds=2)


def calibrate() -> int:
    """Loops of `medium` that take 200 us."""
    loops = 10_000
    once = min(seconds_of(lambda: medium(loops)) for _ in range(20))
    return max(1, round(loops * 200e-6 / once))


def bare_seconds(loops: int, tasks: int) -> float:
    """The time for all tasks shared evenly by forked processes that start together and have nothing else to do."""
    ready, go = os.pipe()
    children = []
    for number in range(WORKERS):
        share = tasks // WORKERS + (number < tasks % WORKERS)
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(ready, 1)  # ends when the parent closes its side
            for _ in range(share):
                medium(loops)
            os._exit(0)
        children.append(pid)
    time.sleep(0.05)

    def wait() -> None:
        os.close(go)
        for pid in children:
            os.waitpid(pid, 0)

    taken = seconds_of(wait)
    os.close(ready)
    return taken


def family() -> set[int]:
    """This process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return ours


def switches() -> int:
    """Context switches so far of this process, of all below it, and of all their threads."""
    total = 0
    for pid in family():
        try:
            for status in Path(f"/proc/{pid}/task").glob("*/status"):
                total += sum(
                    int(line.split()[1]) for line in status.read_text().splitlines() if "_ctxt_switches" in line
                )
        except OSError:
            continue
    return total


def resident_bytes() -> int:
    """Memory of this process and all below it, with shared pages divided among those who share them."""
    total = 0
    for pid in family():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def measure_data(driver: Driver, size: Size) -> dict[str, float]:
    """What moving data costs."""
    submit, result = driver.submit, driver.result
    found = {}
    found["million"] = seconds_of(lambda: list(driver.map(tiny, range(size.items)))) / size.items * 1e6
    block = os.urandom(1 << 20)
    tasks = 100

    def both_ways() -> None:
        for handle in [submit(echo, block) for _ in range(tasks)]:
            result(handle)

    both_ways()
    found["bytes"] = 2 * tasks / 1024 / seconds_of(both_ways)
    count = 10_000_000
    array = ones(count)
    gibibytes = array.nbytes / 2**30
    found["first"] = gibibytes / seconds_of(lambda: result(submit(ends_of, array)))
    found["in"] = gibibytes / min(seconds_of(lambda: result(submit(ends_of, array))) for _ in range(4))
    found["out"] = gibibytes / min(seconds_of(lambda: result(submit(ones, count))) for _ in range(4))
    return found


def measure(peer: Pool, size: Size) -> dict[str, float]:
    """One peer, once: called in a process of its own."""
    loops = calibrate()
    bare = bare_seconds(loops, size.medium)
    if peer.package:
        importlib.import_module(peer.package)
    found = {}
    empty = resident_bytes()
    for key in ("start", "again"):
        began = time.perf_counter()
        driver = peer.start()
        driver.result(driver.submit(tiny, 1))
        found[key] = (time.perf_counter() - began) * 1e3
        if key == "start":
            list(driver.map(tiny, range(1000)))  # all workers are up
            found["memory"] = (resident_bytes() - empty) / WORKERS / 2**20
            driver.stop()
    submit, result = driver.submit, driver.result

    def batch(function: Callable[[int], int], arguments: Iterable[int]) -> None:
        for handle in [submit(function, argument) for argument in arguments]:
            result(handle)

    batch(tiny, range(1000))  # warm: workers are up, functions known
    found["submit"] = seconds_of(lambda: batch(tiny, range(size.batch))) / size.batch * 1e6
    list(driver.map(tiny, range(1000)))
    found["map"] = seconds_of(lambda: list(driver.map(tiny, range(size.batch)))) / size.batch * 1e6
    for number in range(200):
        result(submit(tiny, number))
    trips = sorted(seconds_of(lambda: result(submit(tiny, 7))) for _ in range(size.trips))
    found["p50"] = trips[len(trips) // 2] * 1e6
    found["p99"] = trips[len(trips) * 99 // 100] * 1e6
    spent = seconds_of(lambda: batch(medium, [loops] * size.medium))
    time.sleep(1.0)  # whatever lingers for a moment may go to sleep
    before = switches()
    time.sleep(size.idle_seconds)
    # Our own sleep is one of them.
    found["wakeups"] = max(0, switches() - before - 1) / size.idle_seconds
    found |= measure_data(driver, size)
    driver.stop()
    found["efficiency"] = 100 * (bare + bare_seconds(loops, size.medium)) / 2 / spent
    return found


# -------------------------------------------------------------------------------------------------------------- the bench


class ProcessPools(Bench[Pool]):
    script = Path(__file__).resolve()
    text = __doc__ or ""
    summary = "Measure process pools side by side."
    title = "What one task costs in a process pool"
    markers = ("<!-- bench:process-pool -->", "<!-- /bench -->")
    peers = PEERS
    measures = MEASURES
    peers_are = "pool"
    verdicts_are = "Where plait wins and where it loses"
    rounds = FULL.rounds
    quick_rounds = QUICK.rounds
    missing = "failed"

    def measure(self, peer: Pool, quick: bool) -> dict[str, float]:
        return measure(peer, QUICK if quick else FULL)

    def run_all(self, quick: bool, rounds: int) -> dict[str, Any]:
        size = dataclasses.replace(QUICK if quick else FULL, rounds=rounds)
        return {"size": vars(size), **super().run_all(quick, rounds)}

    def environment(self) -> dict[str, Any]:
        return {**super().environment(), "workers": WORKERS, "load before": round(os.getloadavg()[0], 2)}

    def figure(self, value: float) -> str:
        return f"{value:,.0f}" if value >= 20 or value == 0 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"

    def table(self, result: dict[str, Any]) -> str:
        shown = [
            (title, {key: each for key, each in MEASURES.items() if each.group == group})
            for group, title in GROUPS.items()
        ]
        return "\n\n".join(f"**{title}**\n\n{self.table_of(result, measures)}" for title, measures in shown)

    def place(self, where: dict[str, Any]) -> str:
        return f"{where['workers']} workers on {super().place(where)}"


if __name__ == "__main__":
    ProcessPools().main()
