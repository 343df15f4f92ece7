"""Predicted against measured: what the simulator says of real work, from one serial run of it, and what that takes for real.

    run.py                     measure, store result.json, render README.md
    run.py --quick             one round, printed only
    run.py --render            render again from the stored result
    run.py --only NAME ...     these only, printed only

For whom: somebody who is to believe `plait.simulate`, and us, who want to know where it is wrong.

Method: each work runs in a process of its own. A serial run is recorded from beside (`recorder.py`); values are pickled
and unpickled once to see what that takes. From that and from the costs that `plait.model.calibrate` measured, each way of
running is predicted. Then all ways run for real, one after the other, in rounds; a pool is made and closed each time.
Compared with the prediction is the fastest round, since other programs only make it slower. The prediction is multiplied
with measured serial time over predicted serial time first, since the machine may have become slower or faster meanwhile;
the column "serial" shows the error without that. How many waits are served at once is learned from a second probe: a few
items in four threads, where items wait most of their time. What it takes to start a pool of processes is measured with
this program, whose main module they import. Works that were never looked at while the simulator was
made are listed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

import plait
from benches.model import recorder, workloads
from plait.model import Burst, Costs, Item, Model, Parcel, Resource, Workload, calibrate, measure_speed

PROBED, PROBES = 24, 4
HERE = Path(__file__).resolve().parent
WAYS: dict[str, tuple[Model, int]] = {
    "serial": ("serial", 1),
    "threads 2": ("threads", 2),
    "threads 8": ("threads", 8),
    "processes 2": ("processes", 2),
}


# ── Recording ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def cpu_of(pid: int) -> int:
    """Nanoseconds that a process has had, all its threads that live."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def others(pid: int | None) -> int:
    """CPU time of children and of the helper, in nanoseconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9) + (cpu_of(pid) if pid else 0)


def parcel(value: object) -> Parcel:
    begin = time.perf_counter()
    pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    between = time.perf_counter()
    pickle.loads(pickled)
    return Parcel(between - begin, time.perf_counter() - between, len(pickled))


def record(work: workloads.Work, helper: int | None) -> Workload:
    marks: list[tuple[int, int, int]] = []
    results: list[object] = []
    before = measure_speed()
    with recorder.Recorder() as seen:
        foreign = others(helper)
        for argument in work.arguments:
            begin, cpu = time.perf_counter_ns(), time.thread_time_ns()
            results.append(work.run(argument))
            marks.append((begin, time.perf_counter_ns(), time.thread_time_ns() - cpu))
        foreign = others(helper) - foreign
    raw = [seen.stretches(begin, end) for begin, end, _ in marks]
    servers = probe(work, marks)
    blocked = sum(one.ns for stretches, _ in raw for one in stretches if one.kind in {"blocked", "held_off_cpu"})
    share = min(1.0, foreign / blocked) if blocked else 0.0
    items = [
        Item(bursts(stretches, releases, cpu, share), parcel(argument), parcel(result))
        for (stretches, releases), (_, _, cpu), argument, result in zip(
            raw, marks, work.arguments, results, strict=True
        )
    ]
    speed = (before + measure_speed()) / 2
    if servers is not None:
        share = float(share > 0.5)  # one line for all of the wait
    resources = {"beside": Resource(servers, on_cores=True), "outside": Resource(servers)}
    return Workload(items, resources=resources, speed=speed)


def probe(work: workloads.Work, marks: list[tuple[int, int, int]]) -> int | None:
    """How many waits are served at once: by what four threads gain for a few items, if those wait most of their time."""
    few = min(PROBED, len(marks))
    alone = sum(end - begin for begin, end, _ in marks[:few])
    if sum(cpu for _, _, cpu in marks[:few]) > alone / 2:
        return None
    with plait.ThreadPool(PROBES) as pool:
        begin = time.perf_counter_ns()
        list(pool.map(work.run, work.arguments[:few]))
        gain = alone / (time.perf_counter_ns() - begin)
    return None if gain > 0.75 * PROBES else max(1, int(gain))


def with_start(costs: Costs) -> Costs:
    """With what a pool of this program takes to start: its workers import the program's main module."""
    time.sleep(1.5)  # what has imported it for an earlier pool has left by then
    begin = time.perf_counter()
    with plait.ProcessPool(1) as pool:
        pool.submit(len, ()).result()
        seconds = time.perf_counter() - begin
    return Costs(
        {**costs.known, "processes.start": (seconds, 0.2), "processes.start_caller": (0.0, 0.0)},
        costs.speeds,
        costs.speed,
    )


def bursts(stretches: list[recorder.Stretch], releases: int, cpu: int, share: float) -> tuple[Burst, ...]:
    """As they were seen, brought to the CPU time that the kernel accounted; what was waited for is in part work of others."""
    on_cpu = sum(one.ns for one in stretches if one.kind in {"hold", "released"})
    scale = cpu / on_cpu if on_cpu else 1.0
    held = sum(one.ns for one in stretches if one.kind == "hold")
    found: list[Burst] = []
    for one in stretches:
        seconds = one.ns / 1e9
        if one.kind == "hold":
            found.append(Burst("hold", seconds * scale, round(releases * one.ns / held)))
        elif one.kind == "released":
            found.append(Burst("released", seconds * scale))
        elif one.kind == "held_off_cpu":
            found.append(Burst("held_off_cpu", seconds))
        else:
            found += [Burst("blocked", seconds * share, resource="beside")] if share > 0.02 else []
            found += [Burst("blocked", seconds * (1.0 - share), resource="outside")] if share < 0.98 else []
    return tuple(found)


# ── Measuring ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(work: workloads.Work, way: str) -> float:
    model, workers = WAYS[way]
    if model == "processes":
        time.sleep(1.5)  # every pool of processes starts alike
    begin = time.perf_counter()
    if model == "serial":
        for argument in work.arguments:
            work.run(argument)
    else:
        pool: Callable[[int], Any] = plait.ThreadPool if model == "threads" else plait.ProcessPool
        with pool(workers) as executor:
            list(executor.map(work.run, work.arguments))
            return time.perf_counter() - begin
    return time.perf_counter() - begin


def child(name: str, rounds: int, costs: Costs) -> dict[str, Any]:
    work = workloads.WORKS[name]
    with workloads.helper(work) as pid:
        for argument in work.arguments[:3]:
            work.run(argument)
        with plait.ProcessPool(1) as pool:  # the fork server is there, as in a program that has had a pool
            pool.submit(work.run, work.arguments[0]).result()
        costs = with_start(costs)
        recorded = record(work, pid)
        measured: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(rounds):
            ways = list(WAYS)
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                measured[way].append(measure(work, way))
    predicted = {}
    for way, (model, workers) in WAYS.items():
        one = plait.simulate(recorded, model=model, workers=workers, costs=costs)
        predicted[way] = {"seconds": one.seconds, "low": one.low, "high": one.high, "details": dict(one.details)}
    return {
        "name": name,
        "held_out": work.held_out,
        "count": recorded.count,
        "kinds": {kind: kind_seconds(recorded, kind) for kind in recorder.KINDS},
        "measured": measured,
        "predicted": predicted,
    }


def kind_seconds(workload: Workload, kind: str) -> float:
    return sum(burst.seconds for item in workload.items for burst in item.bursts if burst.kind == kind)


# ── Showing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def errors(row: dict[str, Any]) -> dict[str, float]:
    """Relative, with the sign."""
    fastest = {way: min(seconds) for way, seconds in row["measured"].items()}
    scale = fastest["serial"] / row["predicted"]["serial"]["seconds"]
    found = {way: row["predicted"][way]["seconds"] * scale / fastest[way] - 1.0 for way in WAYS}
    found["serial"] = 1.0 / scale - 1.0
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| work | hold, held asleep, released, blocked (s) | " + " | ".join(WAYS) + " |",
        "|---|---|" + "---|" * len(WAYS),
    ]
    for row in rows:
        kinds = ", ".join(f"{row['kinds'][kind]:.2f}" for kind in recorder.KINDS)
        cells = []
        for way, error in errors(row).items():
            one = row["predicted"][way]
            measured = min(row["measured"][way])
            cells.append(
                f"{one['seconds']:.2f} ({one['low']:.2f} to {one['high']:.2f}) for {measured:.2f}: {error:+.0%}"
            )
        lines.append(f"| {row['name']} | {kinds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    lines = []
    for held_out, title in ((False, "Works looked at"), (True, "Works kept apart")):
        those = [errors(row) for row in rows if row["held_out"] is held_out]
        if those:
            medians = [f"{way} {statistics.median(abs(each[way]) for each in those):.0%}" for way in WAYS]
            lines.append(f"- {title} ({len(those)}), median of the error without its sign: {', '.join(medians)}.")
    return "\n".join(lines)


def place(result: dict[str, Any]) -> str:
    where = f"Python {result['python']}, {result['machine']}, load average {result['load']}"
    return f"The fastest of {result['rounds']} rounds; {where}."


def page(result: dict[str, Any]) -> str:
    purpose, _, method = (__doc__ or "").partition("For whom:")[2].partition("Method:")
    return (
        "\n\n".join(
            [
                "# Predicted against measured",
                "Made by `benches/model/run.py` from [result.json](result.json): do not edit.",
                f"For whom:{purpose.rstrip()}",
                f"Method:{method.rstrip()}",
                "A cell: predicted seconds (their interval) for measured seconds, and the error.",
                "## Works looked at",
                table([row for row in result["rows"] if not row["held_out"]]),
                "## Works kept apart",
                table([row for row in result["rows"] if row["held_out"]]),
                "## Summary",
                summary(result["rows"]),
                place(result),
            ]
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted against measured.")
    parser.add_argument("--quick", action="store_true", help="one round, printed only")
    parser.add_argument("--render", action="store_true", help="render the page from the stored result")
    parser.add_argument("--only", nargs="+", choices=workloads.WORKS, help="these works, printed only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", choices=workloads.WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    if options.child:
        print(json.dumps(child(options.child, rounds, calibrate())))
        return
    stored = HERE / "result.json"
    if options.render:
        result = json.loads(stored.read_text())
    else:
        calibrate(refresh=True)
        rows = []
        for name in options.only or workloads.WORKS:
            command = [sys.executable, __file__, "--child", name, "--rounds", str(rounds)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                sys.exit(f"run.py: {name}: {done.stderr}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        result = {
            "python": platform.python_version(),
            "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
            "load": round(os.getloadavg()[0], 1),
            "rounds": rounds,
            "rows": rows,
        }
    if not (options.quick or options.only):
        if not options.render:
            stored.write_text(json.dumps(result, indent=1) + "\n")
        (HERE / "README.md").write_text(page(result))
    print(table(result["rows"]), summary(result["rows"]), sep="\n\n")


if __name__ == "__main__":
    main()
