"""What one message costs in a channel: plait beside the queues that people use today.

    make bench                 measure, store result.json, render README.md here and the table in the top README.md
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result

For whom: somebody who moves many messages between threads, or between threads and asyncio tasks. It says nothing about
programs in which a message stands for a millisecond of work: there every queue is as good as another.

Method: every peer runs once in each round, in a process of its own, and the order is rotated from round to round, so that a
slow phase of the machine hits all. A message is 64 bytes, and a queue holds 1024 where it has a bound (SimpleQueue has none,
which is to its advantage: its producer never waits). A cell shows the median of the rounds and their range. Peers that are
not installed are left out. "asyncio bridge" is what people write by hand: `call_soon_threadsafe` into an `asyncio.Queue` one
way, a `SimpleQueue` the other.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BEGIN, END = "<!-- bench:channels -->", "<!-- /bench -->"
CAPACITY = 1024
MESSAGE = b"x" * 64
LIMIT = 120.0  # seconds for one peer in one round


# ------------------------------------------------------------------------------------------------------------------ peers


@dataclass
class Ends:
    """A queue, reduced to what is measured. For tasks only where it has that."""

    put: Callable[[Any], object]
    get: Callable[[], Any]
    aput: Callable[[Any], Awaitable[object]] | None = None
    aget: Callable[[], Awaitable[Any]] | None = None


def make_plait() -> Ends:
    import plait

    channel: plait.Channel[Any] = plait.Channel(CAPACITY)
    return Ends(channel.put, channel.get, channel.aput, channel.aget)


def make_queue() -> Ends:
    standard: queue.Queue[Any] = queue.Queue(CAPACITY)
    return Ends(standard.put, standard.get)


def make_simple() -> Ends:
    simple: queue.SimpleQueue[Any] = queue.SimpleQueue()
    return Ends(simple.put, simple.get)


def make_bridge() -> Ends:
    loop = asyncio.get_running_loop()
    inward: asyncio.Queue[Any] = asyncio.Queue()
    outward: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room = threading.Semaphore(CAPACITY)

    def put(message: Any) -> None:
        room.acquire()
        loop.call_soon_threadsafe(inward.put_nowait, message)

    async def aput(message: Any) -> None:
        outward.put(message)

    async def aget() -> Any:
        message = await inward.get()
        room.release()
        return message

    return Ends(put, outward.get, aput, aget)


def make_two_sided(module: str) -> Ends:
    both = importlib.import_module(module).Queue(CAPACITY)
    return Ends(both.sync_q.put, both.sync_q.get, both.async_q.put, both.async_q.get)


def make_aiologic() -> Ends:
    both = importlib.import_module("aiologic").Queue(CAPACITY)
    return Ends(both.green_put, both.green_get, both.async_put, both.async_get)


@dataclass
class Peer:
    make: Callable[[], Ends]
    package: str | None = None  # what has to be installed
    threads: bool = True
    tasks: bool = True


PEERS = {
    "plait.Channel": Peer(make_plait, "plait"),
    "queue.SimpleQueue": Peer(make_simple, tasks=False),
    "queue.Queue": Peer(make_queue, tasks=False),
    "asyncio bridge": Peer(make_bridge, threads=False),
    "culsans": Peer(lambda: make_two_sided("culsans"), "culsans"),
    "janus": Peer(lambda: make_two_sided("janus"), "janus", threads=False),
    "aiologic": Peer(make_aiologic, "aiologic"),
}


# --------------------------------------------------------------------------------------------------------------- measures


@dataclass
class Measure:
    title: str
    unit: str
    more_is_better: bool
    text: str


MEASURES = {
    "threads": Measure("thread to thread", "messages/s", True, "one thread puts as fast as it can, another gets"),
    "threads_p50": Measure("there and back p50", "us", False, "a message to another thread and back: median"),
    "threads_p99": Measure("there and back p99", "us", False, "the same: 99th percentile"),
    "tasks": Measure("thread to task", "messages/s", True, "one thread puts as fast as it can, a task gets"),
    "tasks_p50": Measure("to a task and back p50", "us", False, "a thread's message to a task and back: median"),
    "tasks_p99": Measure("to a task and back p99", "us", False, "the same: 99th percentile"),
}


def produce(put: Callable[[Any], object], count: int) -> None:
    for _ in range(count):
        put(MESSAGE)


def thread_rate(peer: Peer, count: int) -> float:
    ends, over = peer.make(), threading.Event()

    def consume() -> None:
        for _ in range(count):
            ends.get()
        over.set()

    threading.Thread(target=consume, daemon=True).start()
    began = time.perf_counter()
    produce(ends.put, count)
    over.wait()
    return count / (time.perf_counter() - began)


def task_rate(peer: Peer, count: int) -> float:
    async def main() -> float:
        ends = peer.make()
        assert ends.aget is not None
        began = time.perf_counter()
        threading.Thread(target=produce, args=(ends.put, count), daemon=True).start()
        for _ in range(count):
            await ends.aget()
        return count / (time.perf_counter() - began)

    return asyncio.run(main())


def trip(there: Ends, back: Ends, trips: list[float]) -> None:
    for number in range(len(trips)):
        began = time.perf_counter()
        there.put(MESSAGE)
        back.get()
        trips[number] = time.perf_counter() - began


def thread_trips(peer: Peer, count: int) -> list[float]:
    there, back = peer.make(), peer.make()

    def echo() -> None:
        for _ in range(count):
            back.put(there.get())

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    trips = [0.0] * count
    trip(there, back, trips)
    thread.join()
    return trips


def task_trips(peer: Peer, count: int) -> list[float]:
    trips = [0.0] * count

    async def main() -> None:
        there, back = peer.make(), peer.make()
        assert there.aget is not None
        assert back.aput is not None
        thread = threading.Thread(target=trip, args=(there, back, trips), daemon=True)
        thread.start()
        for _ in range(count):
            await back.aput(await there.aget())
        await asyncio.to_thread(thread.join)

    asyncio.run(main())
    return trips


def rate(measure: Callable[[Peer, int], float], peer: Peer, seconds: float) -> float:
    """The rate over about that many seconds, once it is warm."""
    found = measure(peer, 2_000)
    found = measure(peer, max(2_000, min(300_000, int(found * seconds / 4))))
    return measure(peer, max(2_000, min(1_000_000, int(found * seconds))))


def percentiles(trips: list[float]) -> tuple[float, float]:
    trips = sorted(trips)
    return trips[len(trips) // 2] * 1e6, trips[len(trips) * 99 // 100] * 1e6


def measure_peer(peer: Peer, quick: bool) -> dict[str, float]:
    seconds, count = (0.1, 1_000) if quick else (0.5, 10_000)
    found = {}
    if peer.threads:
        found["threads"] = rate(thread_rate, peer, seconds)
        found["threads_p50"], found["threads_p99"] = percentiles(thread_trips(peer, count))
    if peer.tasks:
        found["tasks"] = rate(task_rate, peer, seconds)
        found["tasks_p50"], found["tasks_p99"] = percentiles(task_trips(peer, count))
    return found


# ------------------------------------------------------------------------------------------------------------ all of them


def run_child(name: str, quick: bool) -> dict[str, Any]:
    """Measure one peer in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", name, *(["--quick"] if quick else [])]
    load = os.getloadavg()[0]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=True
        )
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
            shown = row.get("failed") or "  ".join(f"{key} {figure(value)}" for key, value in row["measures"].items())
            print(f"round {number + 1}/{rounds}  {name:<20}{shown}", file=sys.stderr, flush=True)
    return {"environment": environment(), "rounds": rows}


def environment() -> dict[str, Any]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    installed = {peer.package for peer in PEERS.values() if peer.package and importlib.util.find_spec(peer.package)}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version() + ("" if getattr(sys, "_is_gil_enabled", lambda: True)() else " (no GIL)"),
        "kernel": platform.release(),
        "libc": "-".join(platform.libc_ver()),
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: importlib.metadata.version(name) for name in sorted(installed)},
    }


# -------------------------------------------------------------------------------------------------------------- rendering


def values(result: dict[str, Any], peer: str, key: str) -> list[float]:
    rows = (row["measures"] for row in result["rounds"] if row["peer"] == peer and "measures" in row)
    return [measures[key] for measures in rows if key in measures]


def figure(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.1f} M"
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def cell(found: list[float]) -> str:
    if not found:
        return ""
    low, middle, high = figure(min(found)), figure(statistics.median(found)), figure(max(found))
    return f"{middle} ({low} to {high})" if low != high else middle


def measured_peers(result: dict[str, Any]) -> list[str]:
    return [name for name in PEERS if any(row["peer"] == name for row in result["rounds"])]


def table(result: dict[str, Any]) -> str:
    heads = [f"{each.title}, {each.unit}" for each in MEASURES.values()]
    lines = ["| queue | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    lines += [
        f"| {name} | " + " | ".join(cell(values(result, name, key)) for key in MEASURES) + " |"
        for name in measured_peers(result)
    ]
    return "\n".join(lines)


def verdicts(result: dict[str, Any]) -> list[str]:
    """For each measure, plait's median against the best median of the others."""
    lines = []
    for key, each in MEASURES.items():
        medians = {
            name: statistics.median(found) for name in measured_peers(result) if (found := values(result, name, key))
        }
        mine = medians.pop("plait.Channel", None)
        if mine is None or not medians:
            continue
        best = (max if each.more_is_better else min)(medians, key=lambda name: medians[name])
        ratio = mine / medians[best] if each.more_is_better else medians[best] / mine
        lines.append(
            f"- {each.title}: plait ({figure(mine)} {each.unit}) is {ratio:.1f} times as good as the best of the others,"
            f" {best} ({figure(medians[best])} {each.unit})"
        )
    return lines


def caption(result: dict[str, Any]) -> str:
    where = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    rounds = 1 + max(row["round"] for row in result["rounds"])
    loads = [row["load"] for row in result["rounds"]]
    return (
        f"Medians of {rounds} rounds and their range; {where['cores']} cores ({where['processor']}), Python"
        f" {where['python']}, {versions}, {where['date']}; load average {min(loads):.1f} to {max(loads):.1f}."
    )


def page(result: dict[str, Any]) -> str:
    where = result["environment"]
    purpose, _, method = (__doc__ or "").partition("For whom:")[2].partition("Method:")
    measures = [f"- **{each.title}** ({each.unit}, {'more' if each.more_is_better else 'less'} is better): {each.text}."
                for each in MEASURES.values()]  # fmt: skip
    failed = [
        f"- round {row['round'] + 1}, {row['peer']}: {row['failed']}" for row in result["rounds"] if "failed" in row
    ]
    parts = [
        "# What one message costs in a channel",
        "Made by `make bench` (`benches/channels/run.py`) from [result.json](result.json): do not edit.",
        f"For whom:{purpose.rstrip()}",
        f"Method:{method.rstrip()}",
        "## Measures",
        "\n".join(measures),
        "## Result",
        table(result),
        f"{caption(result)} Kernel {where['kernel']}, {where['libc']}.",
        "## Beside the best of the others",
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
    parser = argparse.ArgumentParser(description="Measure queues between threads and tasks side by side.")
    parser.add_argument("--quick", action="store_true", help="a short run that stores and renders nothing")
    parser.add_argument("--render", action="store_true", help="render the pages from the stored result")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5, help="how often each peer is measured")
    options = parser.parse_args()
    stored = HERE / "result.json"
    if options.child:
        print(json.dumps(measure_peer(PEERS[options.child], options.quick)))
        return
    rounds = 2 if options.quick else options.rounds
    result = json.loads(stored.read_text()) if options.render else run_all(options.quick, rounds)
    if not options.quick:
        if not options.render:
            stored.write_text(json.dumps(result, indent=1) + "\n")
        render(result)
    print(table(result), "", *verdicts(result), sep="\n")


if __name__ == "__main__":
    main()
