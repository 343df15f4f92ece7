"""Predicted against measured: what the simulator says of real work, from one serial run of it, and what that takes for real.

    run.py                     measure every work, store result.json, render docs/predictions.md
    run.py --only NAME ...     these works only; the others stay as they are stored
    run.py --missing           those that are not stored yet
    run.py --seconds 200       begin no other work after that time: go on with --missing
    run.py --render            render again from the stored result
    run.py --dry               store nothing

Each work runs in a process of its own, and its row is stored at once. `render.py` makes the page and its chart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

import plait
from benches.model import render, workloads
from benches.model.beside import Speeds
from plait.model import Costs, Model, Workload, calibrate, record
from plait.model._speed import Pace

PROBES = 4
#: Seconds between two looks at the speed while several calls are made at once, and the relative standard deviation of too few.
NOW_AND_THEN, UNSURE = 0.008, 0.05
#: Calls at most between which it is asked whether to look: of more, each takes no longer than that.
MOST = 5_000
HERE = Path(__file__).resolve().parent
STORED = HERE / "result.json"

#: How the calls are made. "one by one" is the coroutine function, one call after the other.
WAYS: dict[str, tuple[Model, int]] = {
    "serial": ("serial", 1),
    "threads 2": ("threads", 2),
    "threads 8": ("threads", 8),
    "threads 32": ("threads", 32),
    "processes 2": ("processes", 2),
    "processes 4": ("processes", 4),
    "one by one": ("asyncio", 1),
    "asyncio 32": ("asyncio", 32),
}


def ways_of(work: workloads.Work) -> list[str]:
    return [way for way, (model, _) in WAYS.items() if model != "asyncio" or work.awaitable]


def with_start(costs: Costs) -> Costs:
    """With what a pool of this program takes to start: its workers import the program's main module."""

    def once() -> float:
        begin = time.perf_counter()
        with plait.ProcessPool(1) as pool:
            pool.submit(len, ()).result()
            return time.perf_counter() - begin

    known = costs.all
    start, caller = known["processes.start"], known["processes.start_caller"]
    seconds = max(start.seconds, min(once() for _ in range(3)) - caller.seconds)
    # Cores that slow one another down when all are busy are seen while each way runs.
    return Costs({**costs.known, "processes.start": (seconds, start.spread)}, (), costs.speed)


async def gather(work: workloads.Work, at_once: int, pace: Pace) -> None:
    assert work.awaitable
    call, free = work.awaitable, asyncio.Semaphore(at_once)

    async def one(argument: Any) -> None:
        async with free:
            pace.look()
            await call(argument)

    await asyncio.gather(*map(one, work.arguments))


async def in_turn(work: workloads.Work, pace: Pace) -> None:
    assert work.awaitable
    for argument in work.arguments:
        pace.look()
        await work.awaitable(argument)


class Measured(NamedTuple):
    """How long it took, and how fast the machine was meanwhile."""

    seconds: float
    speed: float


def measure(work: workloads.Work, way: str, speeds: Speeds) -> Measured:
    model, workers = WAYS[way]
    if workers == 1:
        return one_by_one(work, model)
    pace = Pace(NOW_AND_THEN)
    between = model != "processes" and len(work.arguments) <= MOST

    def looking(argument: Any) -> Any:
        pace.look()
        return work.run(argument)

    with speeds.watched() as seen:
        begin = time.perf_counter()
        if model == "asyncio":
            plait.run(gather(work, workers, pace))
            seconds = time.perf_counter() - begin
        else:
            pool: Callable[[int], Any] = plait.ThreadPool if model == "threads" else plait.ProcessPool
            with pool(workers) as executor:
                list(executor.map(looking if between else work.run, work.arguments))
                seconds = time.perf_counter() - begin
        pace.look()
    # Between calls it is the speed of who makes them; but not of processes, nor within calls that take long.
    return Measured(seconds, pace.seconds if between and pace.unsure <= UNSURE else seen.speed)


#: How often it is asked at most, while calls are made in turn, whether to look at the speed: some take less than that.
LOOKS = 500


def one_by_one(work: workloads.Work, model: Model) -> Measured:
    """The speed is looked at between calls; what that takes is taken off."""
    pace = Pace()
    begin = time.perf_counter()
    if model == "asyncio":
        plait.run(in_turn(work, pace))
    else:
        results: list[Any] = []
        some = max(1, len(work.arguments) // LOOKS)
        for place in range(0, len(work.arguments), some):
            pace.look()
            results += map(work.run, work.arguments[place : place + some])
        del results
    pace.look()
    return Measured(time.perf_counter() - begin - pace.spent, pace.seconds)


def child(name: str, rounds: int, costs: Costs) -> dict[str, Any]:
    work = workloads.WORKS[name]
    ways = ways_of(work)
    measured: dict[str, list[Measured]] = {way: [] for way in ways}
    # A program that has had a pool already: the server that workers come from is there.
    with workloads.helper(work), Speeds() as speeds, plait.ProcessPool(1) as standing:
        standing.submit(work.run, work.arguments[0]).result()
        # Files are in the page cache then, and memory is at hand, for all ways alike.
        for way in ("serial", "one by one") if work.awaitable else ("serial",):
            measure(work, way, speeds)
        costs = with_start(costs)
        began = time.perf_counter()
        recorded = {"calls": record(work.run, work.arguments, probe=PROBES)}
        if work.awaitable:
            recorded["coroutines"] = record(work.awaitable, work.arguments, probe=PROBES)
        took = time.perf_counter() - began
        for turn in range(rounds):
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                measured[way].append(measure(work, way, speeds))
    speeds_of = {way: statistics.fmean(each.speed for each in measured[way]) for way in ways}
    predicted = {way: prediction(way, recorded, costs, speeds_of[way]) for way in ways}
    return {
        "name": name,
        "held_out": work.held_out,
        "count": len(work.arguments),
        "kinds": kinds(recorded["calls"]),
        "coroutine_kinds": kinds(recorded["coroutines"]) if work.awaitable else None,
        "releases": sum(burst.short_releases for item in recorded["calls"].items for burst in item.bursts),
        "bursts": sum(len(item.bursts) for item in recorded["calls"].items),
        "speed": {
            "recorded": recorded["calls"].speed,
            **{way: [each.speed for each in those] for way, those in measured.items()},
        },
        "switch": recorded["calls"].switch,
        "recording": took,
        "measured": {way: [each.seconds for each in those] for way, those in measured.items()},
        "predicted": predicted,
        "beforehand": {way: prediction(way, recorded, costs, None) for way in ways},
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
        "load": round(os.getloadavg()[0], 1),
    }


def prediction(way: str, recorded: dict[str, Workload], costs: Costs, speed: float | None) -> dict[str, float]:
    """For the mean of the rounds' speeds, as the median of their times is not that of the quickest; or not knowing that."""
    model, workers = WAYS[way]
    source = recorded["coroutines" if model == "asyncio" else "calls"]
    one = plait.simulate(source, model=model, workers=workers, costs=costs, speed=speed)
    return {"seconds": one.seconds, "low": one.low, "high": one.high}


def kinds(workload: Workload) -> dict[str, float]:
    """Seconds of all calls by kind of burst; of waits by what is waited for."""
    found: dict[str, float] = {}
    for item in workload.items:
        for burst in item.bursts:
            name = burst.resource or burst.kind
            found[name] = found.get(name, 0.0) + burst.seconds
        for name, seconds in {"kept": item.kept, "heap": item.heap}.items():
            if seconds:
                found[name] = found.get(name, 0.0) + seconds
    return found


def stored() -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(STORED.read_text())
    except FileNotFoundError:
        return {"rows": {}}
    return result


def run_child(name: str, rounds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        sys.exit(f"run.py: {name}: {done.stderr}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted against measured.")
    parser.add_argument("--render", action="store_true", help="render the page from the stored result")
    parser.add_argument("--dry", action="store_true", help="print only")
    parser.add_argument("--missing", action="store_true", help="only works that are not stored yet")
    parser.add_argument("--only", nargs="+", choices=workloads.WORKS, help="these works only")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no other work after that time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=workloads.WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.rounds, calibrate())))
        return
    result = stored()
    began = time.monotonic()
    names = [] if options.render else options.only or list(workloads.WORKS)
    if names:
        calibrate(refresh=True)
    for name in names:
        if options.missing and name in result["rows"]:
            continue
        if time.monotonic() - began > options.seconds:
            print("run.py: go on with --missing", file=sys.stderr)
            break
        row = run_child(name, options.rounds)
        result["rows"][name] = row
        print(*render.lines_of(row), sep="\n", flush=True)
        if not options.dry:
            lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in result["rows"].items()]
            STORED.write_text('{"rows": {\n' + ",\n".join(lines) + "\n}}\n")
    if not options.dry:
        render.write(result, list(workloads.WORKS))
    print(render.summary(list(result["rows"].values())))


if __name__ == "__main__":
    main()
