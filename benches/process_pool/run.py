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

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import multiprocessing
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
BEGIN, END = "<!-- bench:process-pool -->", "<!-- /bench -->"
WORKERS = len(os.sched_getaffinity(0))
LIMIT = 300.0  # seconds for one peer in one round


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
class Peer:
    start: Callable[[], Driver]
    package: str | None = None  # what has to be installed
    ours: bool = False
    env: tuple[tuple[str, str], ...] = ()


PEERS = {
    "plait": Peer(start_plait, "plait", ours=True),
    "plait, no spin": Peer(start_plait, "plait", ours=True, env=(("PLAIT_SPIN", "0"),)),
    "ProcessPoolExecutor (fork)": Peer(lambda: start_standard("fork")),
    "ProcessPoolExecutor (forkserver)": Peer(lambda: start_standard("forkserver")),
    "multiprocessing.Pool": Peer(start_mp_pool),
    "loky": Peer(start_loky, "loky"),
    "pebble": Peer(start_pebble, "pebble"),
}


# --------------------------------------------------------------------------------------------------------------- measures


@dataclass
class Measure:
    title: str
    unit: str
    more_is_better: bool
    text: str
    group: str = "tasks"


MEASURES = {
    "submit": Measure("submit", "us/task", False, "tiny tasks submitted one by one, then all results taken"),
    "map": Measure("map", "us/task", False, "tiny tasks through `map` with its default chunk size"),
    "p50": Measure("round trip p50", "us", False, "`submit(...).result()` of a tiny task, one at a time: median"),
    "p99": Measure("round trip p99", "us", False, "the same: 99th percentile"),
    "efficiency": Measure(
        "200 us tasks",
        "%",
        True,
        "10,000 tasks of about 200 us submitted one by one; 100 % is the time that bare processes need for the same"
        " work, measured just before and after",
    ),
    "wakeups": Measure(
        "idle wake-ups", "1/s", False, "context switches in all processes of a pool that has nothing to do"
    ),
    "million": Measure(
        "map of 200,000 ints", "us/item", False, "tiny tasks through `map` with its default arguments", group="data"
    ),
    "bytes": Measure(
        "1 MiB bytes", "GiB/s", True, "100 tasks that get 1 MiB of bytes and return it; both ways counted", group="data"
    ),
    "first": Measure(
        "first array in",
        "GiB/s",
        True,
        "a numpy array of 80 MB as the argument of a task, for the first time",
        group="data",
    ),
    "in": Measure("array in", "GiB/s", True, "the same again: best of 4", group="data"),
    "out": Measure(
        "array out", "GiB/s", True, "such an array, made by the task, as its result: best of 4", group="data"
    ),
    "start": Measure("first result", "ms", False, "from making the first pool to the first result", group="data"),
    "again": Measure("of a second pool", "ms", False, "the same for a second pool in the same program", group="data"),
    "memory": Measure(
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


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


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


def measure(peer: Peer, size: Size) -> dict[str, float]:
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


# ------------------------------------------------------------------------------------------------------------ all of them


def run_child(name: str, quick: bool) -> dict[str, Any]:
    """Measure one peer in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", name, *(["--quick"] if quick else [])]
    load = os.getloadavg()[0]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **dict(PEERS[name].env)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return {"peer": name, "load": load, "failed": f"not done in {LIMIT:.0f} s"}
    except subprocess.CalledProcessError as error:
        return {"peer": name, "load": load, "failed": (error.stderr.strip().splitlines() or ["no message"])[-1]}
    return {"peer": name, "load": load, "measures": json.loads(done.stdout.splitlines()[-1])}


def run_all(quick: bool, rounds: int | None) -> dict[str, Any]:
    size = QUICK if quick else FULL
    size = dataclasses.replace(size, rounds=rounds or size.rounds)
    names = [name for name, peer in PEERS.items() if peer.package is None or importlib.util.find_spec(peer.package)]
    rows = []
    for number in range(size.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            row = run_child(name, quick)
            rows.append({"round": number, **row})
            shown = row.get("failed") or "  ".join(f"{key} {value:.1f}" for key, value in row["measures"].items())
            print(f"round {number + 1}/{size.rounds}  {name:<34}{shown}", file=sys.stderr, flush=True)
    return {"environment": environment(), "size": vars(size), "rounds": rows}


def environment() -> dict[str, Any]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    installed = {peer.package for peer in PEERS.values() if peer.package and importlib.util.find_spec(peer.package)}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version() + ("" if getattr(sys, "_is_gil_enabled", lambda: True)() else " (no GIL)"),
        "kernel": platform.release(),
        "libc": "-".join(platform.libc_ver()),
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": WORKERS,
        "workers": WORKERS,
        "load before": round(os.getloadavg()[0], 2),
        "versions": {name: importlib.metadata.version(name) for name in sorted(installed)},
    }


# -------------------------------------------------------------------------------------------------------------- rendering


def values(result: dict[str, Any], peer: str, key: str) -> list[float]:
    return [row["measures"][key] for row in result["rounds"] if row["peer"] == peer and "measures" in row]


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 or value == 0 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def cell(found: list[float]) -> str:
    if not found:
        return "failed"
    low, middle, high = figure(min(found)), figure(statistics.median(found)), figure(max(found))
    return f"{middle} ({low} to {high})" if low != high else middle


def measured_peers(result: dict[str, Any]) -> list[str]:
    return [name for name in PEERS if any(row["peer"] == name for row in result["rounds"])]


def table(result: dict[str, Any], group: str) -> str:
    shown = {key: each for key, each in MEASURES.items() if each.group == group}
    heads = [f"{each.title}, {each.unit}" for each in shown.values()]
    lines = ["| pool | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    lines += [
        f"| {name} | " + " | ".join(cell(values(result, name, key)) for key in shown) + " |"
        for name in measured_peers(result)
    ]
    return "\n".join(lines)


def tables(result: dict[str, Any]) -> str:
    return "\n\n".join(f"**{title}**\n\n{table(result, group)}" for group, title in GROUPS.items())


def verdicts(result: dict[str, Any]) -> list[str]:
    """For each measure, plait's median against the best median of the others."""
    lines = []
    for key, each in MEASURES.items():
        medians = {
            name: statistics.median(found) for name in measured_peers(result) if (found := values(result, name, key))
        }
        others = {name: value for name, value in medians.items() if not PEERS[name].ours}
        if "plait" not in medians or not others:
            continue
        best = (max if each.more_is_better else min)(others, key=lambda name: others[name])
        mine, theirs = medians["plait"], others[best]
        loses = mine < theirs if each.more_is_better else mine > theirs
        word = "**loses to**" if loses else "equals" if mine == theirs else "is better than"
        lines.append(
            f"- {each.title}: plait ({figure(mine)} {each.unit}) {word} the best of the others,"
            f" {best} ({figure(theirs)} {each.unit})"
        )
    return lines


def caption(result: dict[str, Any]) -> str:
    where = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (
        f"Medians of {result['size']['rounds']} rounds and their range; {where['workers']} workers on {where['cores']} cores"
        f" ({where['processor']}), Python {where['python']}, {versions}, {where['date']}."
    )


def page(result: dict[str, Any]) -> str:
    where = result["environment"]
    purpose, _, method = (__doc__ or "").partition("For whom:")[2].partition("Method:")
    measures = [f"- **{each.title}** ({each.unit}, {'more' if each.more_is_better else 'less'} is better): {each.text}."
                for each in MEASURES.values()]  # fmt: skip
    failed = [
        f"- round {row['round'] + 1}, {row['peer']}: {row['failed']}" for row in result["rounds"] if "failed" in row
    ]
    loads = [row["load"] for row in result["rounds"]]
    parts = [
        "# What one task costs in a process pool",
        "Made by `make bench` (`benches/process_pool/run.py`) from [result.json](result.json): do not edit.",
        f"For whom:{purpose.rstrip()}",
        f"Method:{method.rstrip()}",
        "## Measures",
        "\n".join(measures),
        "## Result",
        tables(result),
        caption(result)
        + f" Kernel {where['kernel']}, {where['libc']}; load average {min(loads):.1f} to {max(loads):.1f}.",
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
    readme.write_text(f"{before}{BEGIN}\n{tables(result)}\n\n{caption(result)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure process pools side by side.")
    parser.add_argument("--quick", action="store_true", help="a short run that stores and renders nothing")
    parser.add_argument("--render", action="store_true", help="render the pages from the stored result")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="how often each peer is measured")
    options = parser.parse_args()
    stored = HERE / "result.json"
    if options.child:
        print(json.dumps(measure(PEERS[options.child], QUICK if options.quick else FULL)))
        return
    result = json.loads(stored.read_text()) if options.render else run_all(options.quick, options.rounds)
    if not options.quick:
        if not options.render:
            stored.write_text(json.dumps(result, indent=1) + "\n")
        render(result)
    print(tables(result), "", *verdicts(result), sep="\n")


if __name__ == "__main__":
    main()
