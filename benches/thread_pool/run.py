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

import argparse
import asyncio
import concurrent.futures
import importlib.metadata
import importlib.util
import json
import multiprocessing.pool
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BEGIN, END = "<!-- bench:thread-pool -->", "<!-- /bench:thread-pool -->"
WORKERS = len(os.sched_getaffinity(0))
LIMIT = 300.0  # seconds for one peer in one round


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
class Peer:
    start: Callable[[], Driver]
    package: str | None = None  # what has to be installed
    ours: bool = False
    env: tuple[tuple[str, str], ...] = ()


PEERS = {
    "plait": Peer(start_plait, "plait", ours=True),
    "plait, no spin": Peer(start_plait, "plait", ours=True, env=(("PLAIT_SPIN", "0"),)),
    "ThreadPoolExecutor": Peer(lambda: executor(concurrent.futures.ThreadPoolExecutor(WORKERS))),
    "multiprocessing.ThreadPool": Peer(start_mp_pool),
    "pebble": Peer(start_pebble, "pebble"),
}


# --------------------------------------------------------------------------------------------------------------- measures


@dataclass
class Measure:
    title: str
    unit: str
    text: str


# Less is better in all of them.
MEASURES = {
    "submit": Measure("submit", "us/task", "tiny tasks submitted one by one, then all results taken"),
    "map": Measure("map", "us/item", "tiny tasks through `map` with its default arguments"),
    "p50": Measure("round trip p50", "us", "`submit(...).result()` of a tiny task, one at a time: median"),
    "p99": Measure("round trip p99", "us", "the same: 99th percentile"),
    "executor": Measure("run_in_executor", "us/task", "tiny tasks from asyncio, all awaited by `gather`"),
    "to_thread": Measure("to_thread", "us/task", "the same by `asyncio.to_thread`"),
    "wakeups": Measure("idle wake-ups", "1/s", "context switches of a pool that has nothing to do"),
    "start": Measure("first result", "ms", "from making the first pool to the first result"),
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


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


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


def measure(peer: Peer, size: Size) -> dict[str, float]:
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


# ------------------------------------------------------------------------------------------------------------ all of them


def run_child(name: str, quick: bool) -> dict[str, Any]:
    """Measure one peer in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", name, *(["--quick"] if quick else [])]
    load = os.getloadavg()[0]
    env = {**os.environ, **dict(PEERS[name].env)}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT, check=True)
    except subprocess.TimeoutExpired:
        return {"peer": name, "load": load, "failed": f"not done in {LIMIT:.0f} s"}
    except subprocess.CalledProcessError as error:
        return {"peer": name, "load": load, "failed": (error.stderr.strip().splitlines() or ["no message"])[-1]}
    return {"peer": name, "load": load, "measures": json.loads(done.stdout.splitlines()[-1])}


def run_all(quick: bool, rounds: int) -> dict[str, Any]:
    names = [name for name, peer in PEERS.items() if peer.package is None or importlib.util.find_spec(peer.package)]
    rows = []
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            row = run_child(name, quick)
            rows.append({"round": number, **row})
            shown = row.get("failed") or "  ".join(f"{key} {value:.2f}" for key, value in row["measures"].items())
            print(f"round {number + 1}/{rounds}  {name:<28}{shown}", file=sys.stderr, flush=True)
    return {"environment": environment(), "rounds": rows}


def environment() -> dict[str, Any]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    installed = {peer.package for peer in PEERS.values() if peer.package and importlib.util.find_spec(peer.package)}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version() + ("" if getattr(sys, "_is_gil_enabled", lambda: True)() else " (no GIL)"),
        "kernel": platform.release(),
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "workers": WORKERS,
        "versions": {name: importlib.metadata.version(name) for name in sorted(installed)},
    }


# -------------------------------------------------------------------------------------------------------------- rendering


def values(result: dict[str, Any], peer: str, key: str) -> list[float]:
    rows = [row["measures"] for row in result["rounds"] if row["peer"] == peer and "measures" in row]
    return [row[key] for row in rows if key in row]


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 or value == 0 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def cell(found: list[float]) -> str:
    if not found:
        return "-"
    low, middle, high = figure(min(found)), figure(statistics.median(found)), figure(max(found))
    return f"{middle} ({low} to {high})" if low != high else middle


def measured_peers(result: dict[str, Any]) -> list[str]:
    return [name for name in PEERS if any(row["peer"] == name for row in result["rounds"])]


def table(result: dict[str, Any]) -> str:
    heads = [f"{each.title}, {each.unit}" for each in MEASURES.values()]
    lines = ["| pool | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    lines += [
        f"| {name} | " + " | ".join(cell(values(result, name, key)) for key in MEASURES) + " |"
        for name in measured_peers(result)
    ]
    return "\n".join(lines)


def verdicts(result: dict[str, Any]) -> list[str]:
    """For each measure, plait's median against the best median of the others."""
    lines = []
    for key, each in MEASURES.items():
        found = {name: values(result, name, key) for name in measured_peers(result)}
        medians = {name: statistics.median(those) for name, those in found.items() if those}
        others = {name: value for name, value in medians.items() if not PEERS[name].ours}
        if "plait" not in medians or not others:
            continue
        best = min(others, key=lambda name: others[name])
        mine, theirs = medians["plait"], others[best]
        word = "**loses to**" if mine > theirs else "equals" if mine == theirs else "is better than"
        lines.append(
            f"- {each.title}: plait ({figure(mine)} {each.unit}) {word} the best of the others,"
            f" {best} ({figure(theirs)} {each.unit})"
        )
    return lines


def caption(result: dict[str, Any]) -> str:
    where = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    rounds = 1 + max(row["round"] for row in result["rounds"])
    return (
        f"Medians of {rounds} rounds and their range; {where['workers']} threads on as many cores"
        f" ({where['processor']}), Python {where['python']}, {versions}, {where['date']}."
    )


def page(result: dict[str, Any]) -> str:
    purpose, _, method = (__doc__ or "").partition("For whom:")[2].partition("Method:")
    measures = [f"- **{each.title}** ({each.unit}, less is better): {each.text}." for each in MEASURES.values()]
    failed = [
        f"- round {row['round'] + 1}, {row['peer']}: {row['failed']}" for row in result["rounds"] if "failed" in row
    ]
    loads = [row["load"] for row in result["rounds"]]
    parts = [
        "# What one task costs in a thread pool",
        "Made by `make bench` (`benches/thread_pool/run.py`) from [result.json](result.json): do not edit.",
        f"For whom:{purpose.rstrip()}",
        f"Method:{method.rstrip()}",
        "## Measures",
        "\n".join(measures),
        "## Result",
        table(result),
        f"{caption(result)} Kernel {result['environment']['kernel']}; load average {min(loads):.1f} to {max(loads):.1f}.",
        "## Where plait wins and where it loses",
        "\n".join(verdicts(result)),
    ]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def render(result: dict[str, Any]) -> None:
    (HERE / "README.md").write_text(page(result))
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"run.py: no markers {BEGIN} and {END} in README.md")
    readme.write_text(f"{before}{BEGIN}\n{table(result)}\n\n{caption(result)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure thread pools side by side.")
    parser.add_argument("--quick", action="store_true", help="a short run that stores and renders nothing")
    parser.add_argument("--render", action="store_true", help="render the pages from the stored result")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="how often each peer is measured")
    options = parser.parse_args()
    stored = HERE / "result.json"
    size = QUICK if options.quick else FULL
    if options.child:
        print(json.dumps(measure(PEERS[options.child], size)))
        return
    result = json.loads(stored.read_text()) if options.render else run_all(options.quick, options.rounds or size.rounds)
    if not options.quick:
        if not options.render:
            stored.write_text(json.dumps(result, indent=1) + "\n")
        render(result)
    print(table(result), "", *verdicts(result), sep="\n")


if __name__ == "__main__":
    main()
