"""Regret of `plait.Pool`: its time over that of the best model that somebody could have picked by hand.

    make bench                 measure, store result.json, render README.md here
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result
    run.py --only NAME ...     some workloads, printed
    run.py --seconds N         begin no workload after so many seconds; called again, it goes on where it was

For whom: somebody who asks what it costs not to choose, and us, who must keep that small.

Method: every workload is a function of real work and its arguments, given to a new executor: `plait.Pool`, and by hand to a
loop, to `ThreadPool(2)`, `ThreadPool(8)`, `ThreadPool(32)` and `ProcessPool`; of "map" in one `map`, of "submit" and
"as_completed" call by call, whose results are asked for in order, or as they come. All of these take turns in one process, in
an order that is rotated from round to round, and a time is from making the executor to the last result. After three rounds,
the pool and those by hand that are not slower by more than a third than the best of them, which it may be by chance, go on
until the workload has taken seven seconds, or fifteen rounds: the shorter the work, the more chance is in one of them. The
regret of a round is the pool's time over the smallest of the others' medians; a cell shows the median of the rounds.
Measurements of what waits for nobody say little on a machine that others use: the load is shown.

What it costs to watch is measured apart: of a function that does nothing, beside the same in a loop and in a `ThreadPool`, and
of the clocks alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import pickle
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

import plait
from benches.model import workloads
from benches.model.workloads import Work
from plait.auto._meter import Meter

HERE = Path(__file__).resolve().parent

#: Rounds at least and at most, and seconds after which there are no more.
ROUNDS, MOST_ROUNDS, ENOUGH, QUICK_ROUNDS = 3, 15, 7.0, 1

#: How many times as long as the best by hand another takes that is no longer in the race.
BEATEN = 1.33


def square(number: int) -> int:
    return number * number


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def records(size: int) -> list[dict[str, Any]]:
    """Little work, and a large result."""
    return [{"id": number, "name": str(number), "parts": [number, number + 1]} for number in range(size)]


def short_releases(count: int) -> str:
    """Hashing of pieces that are just large enough for the GIL to be released."""
    data, digest = bytes(4096), hashlib.sha256()
    for _ in range(count):
        digest.update(data)
    return digest.hexdigest()


def primes(most: int) -> int:
    """Python alone."""
    sieve = bytearray([1]) * most
    for number in range(2, int(most**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, most, number)))
    return sum(1 for number in range(2, most) if sieve[number])


def turns(number: int) -> int:
    """Computes at first, and waits from half of the calls on."""
    if number < 150:
        return primes(15_000)
    time.sleep(0.003)
    return number


def turns_back(number: int) -> int:
    return turns(299 - number)


def compute_and_wait(number: int) -> int:
    time.sleep(0.004)
    return primes(8_000) + number


def wait_and_release(size: int) -> str:
    time.sleep(0.002)
    return hashlib.sha256(bytes(size)).hexdigest()


def closure() -> Callable[[int], int]:
    """Computes, and keeps what it knows: it may not leave."""
    known: dict[int, int] = {}

    def compute(most: int) -> int:
        known[most] = primes(most)
        return known[most]

    return compute


def waiting_closure() -> Callable[[float], float]:
    total = [0.0]

    def wait(seconds: float) -> float:
        time.sleep(seconds)
        total[0] += seconds
        return seconds

    return wait


def skewed(count: int) -> list[int]:
    return [4_000 if number % 20 else 120_000 for number in range(count)]


OWN = {
    "tiny": Work(square, list(range(200_000))),
    "short": Work(primes, [400] * 5_000),
    "python": Work(primes, [30_000] * 250),
    "few-long": Work(primes, [1_500_000] * 6),
    "skewed": Work(primes, skewed(400)),
    "sleep": Work(nap, [0.01] * 300),
    "long-sleep": Work(nap, [0.2] * 30),
    "pickling": Work(records, [400] * 1_200),
    "short-releases": Work(short_releases, [400] * 250),
    "compute-and-wait": Work(compute_and_wait, list(range(150))),
    "wait-and-release": Work(wait_and_release, [1_500_000] * 200),
    "turns-to-waiting": Work(turns, list(range(300))),
    "turns-to-computing": Work(turns_back, list(range(300))),
    "closure": Work(closure(), [25_000 + number for number in range(150)]),
    "waiting-closure": Work(waiting_closure(), [0.005] * 300),
}
#: Without "parsing": `ast.parse` in several threads at a time raises CPython 3.11's own "recursion depth mismatch".
WORKS = {**OWN, **{name: work for name, work in workloads.WORKS.items() if name != "parsing"}}

#: Those that are also submitted call by call.
SUBMITTED = ("python", "skewed", "sleep", "closure", "compute-and-wait", "hashing")
USES = ("map", "submit", "as_completed")


def cases() -> dict[str, tuple[Work, str]]:
    """Workloads and how the executors are used, by what the table calls them."""
    found = {name: (work, "map") for name, work in WORKS.items()}
    return found | {f"{name}, {use}": (WORKS[name], use) for use in USES[1:] for name in SUBMITTED}


def use_executor(executor: Any, work: Work, use: str) -> list[Any]:
    if use == "map":
        return list(executor.map(work.run, work.arguments))
    futures = [executor.submit(work.run, argument) for argument in work.arguments]
    return [future.result() for future in (futures if use == "submit" else concurrent.futures.as_completed(futures))]


def by_hand(work: Work, use: str = "map") -> dict[str, Callable[[], object]]:
    def used(make: Callable[[], Any]) -> Callable[[], object]:
        def run() -> float:
            began = time.perf_counter()
            with make() as executor:
                results = use_executor(executor, work, use)
                took = time.perf_counter() - began
            del results  # not before: to free them is none of it
            return took

        return run

    def serial() -> float:
        began = time.perf_counter()
        results = [work.run(argument) for argument in work.arguments]
        took = time.perf_counter() - began
        del results  # as for all the others
        return took

    found: dict[str, Callable[[], object]] = {"Pool": used(plait.Pool), "serial": serial}
    for workers in (2, 8, 32):
        found[f"threads {workers}"] = used(partial(plait.ThreadPool, workers))
    try:
        pickle.dumps(work.run)
    except (pickle.PicklingError, AttributeError):
        return found
    found["processes"] = used(plait.ProcessPool)
    return found


def in_the_race(candidates: list[tuple[str, Callable[[], object]]], seconds: dict[str, list[float]]) -> list[Any]:
    """The pool, and those that may be the best by hand."""
    medians = {which: statistics.median(values) for which, values in seconds.items() if which != "Pool"}
    most = BEATEN * min(medians.values())
    return [each for each in candidates if medians.get(each[0], 0.0) <= most]


def measure(name: str, work: Work, use: str, rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {}
    with workloads.helper(work):
        candidates = list(by_hand(work, use).items())
        end = time.monotonic() + ENOUGH
        for turn in range(rounds if rounds < ROUNDS else MOST_ROUNDS):
            if turn >= rounds and time.monotonic() > end:
                break
            if turn == rounds:
                candidates = in_the_race(candidates, seconds)
            for which, run in candidates[turn % len(candidates) :] + candidates[: turn % len(candidates)]:
                seconds.setdefault(which, []).append(float(str(run())))
        with plait.Pool() as pool:
            use_executor(pool, work, use)
            explained = pool.explain(work.run)
    assert not isinstance(explained, list)
    medians = {which: statistics.median(values) for which, values in seconds.items()}
    best = min((which for which in medians if which != "Pool"), key=medians.__getitem__)
    regrets = [mine / medians[best] - 1 for mine in seconds["Pool"]]
    return {
        "name": name,
        "seconds": seconds,
        "best": best,
        "regret": statistics.median(regrets),
        "model": explained["model"],
        "workers": explained["workers"],
        "load": os.getloadavg()[0],
    }


def nothing(number: int) -> int:
    return number


def watching(rounds: int) -> dict[str, float]:
    """Microseconds for a task that does nothing, and for the clocks that are read for each and for each slice of tasks."""
    numbers = list(range(50_000))

    def each(run: Callable[[], object]) -> float:
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            run()
            took.append((time.perf_counter() - began) / len(numbers) * 1e6)
        return statistics.median(took)

    def mapped(make: Callable[[], Any]) -> object:
        with make() as executor:
            return list(executor.map(nothing, numbers))

    def submitted(make: Callable[[], Any]) -> object:
        with make() as executor:
            futures = [executor.submit(nothing, number) for number in numbers]
            return [future.result() for future in futures]

    meter = Meter()
    meter.start()

    def clocks() -> None:
        for _ in numbers:
            meter.running = True
            began = time.perf_counter_ns()
            meter.running = False
            meter.ended(1, began)

    def slices() -> None:
        for _ in numbers:
            meter.sample()
            meter.start()

    return {
        "a loop": each(lambda: [nothing(number) for number in numbers]),
        "Pool.map": each(lambda: mapped(plait.Pool)),
        "ThreadPool(1).map": each(lambda: mapped(partial(plait.ThreadPool, 1))),
        "Pool.submit and result": each(lambda: submitted(plait.Pool)),
        "ThreadPool(1).submit and result": each(lambda: submitted(partial(plait.ThreadPool, 1))),
        "clocks of a submitted task": each(clocks),
        "clocks of a slice of tasks, one in 3 ms": each(slices),
    }


def row(found: dict[str, Any]) -> str:
    medians = {which: statistics.median(values) for which, values in found["seconds"].items()}
    chosen = str(found["model"]) + (f" {found['workers']}" if found["model"] in ("threads", "processes") else "")
    return (
        f"| {found['name']} | {medians['Pool']:.3f} | {chosen} | {found['best']} | {medians[found['best']]:.3f} | "
        f"{medians['serial']:.3f} | {found['regret']:+.0%} | {len(found['seconds']['Pool'])} |"
    )


def summary(results: list[dict[str, Any]]) -> str:
    regrets = sorted(found["regret"] for found in results)
    return f"Regret over {len(results)} workloads: median {statistics.median(regrets):+.0%}, worst {regrets[-1]:+.0%}."


def page(results: list[dict[str, Any]], watched: dict[str, float], machine: str) -> str:
    names = ["workload", "Pool, s", "last decision", "best by hand", "its time, s", "serial, s", "regret", "rounds"]
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    parts = [
        "# What it costs not to choose",
        "Made by `benches/auto/run.py`, whose first lines say how it is measured; the rounds are in `result.json`.",
        f"{machine}.",
    ]
    for title, called in (("## `map`", False), ("## Call by call", True)):
        those = [found for found in results if ("," in found["name"]) is called]
        if those:
            parts += [title, "\n".join([head, *map(row, those)]), summary(those)]
    if watched:
        rows = [f"| {what} | {took:.3f} |" for what, took in watched.items()]
        parts += ["## What watching costs", "\n".join(["| a task that does nothing | us |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def described() -> str:
    cores = len(os.sched_getaffinity(0))
    return (
        f"CPython {platform.python_version()}, {cores} cores, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.1f} at the end; plait {plait.__version__}"
    )


def unfinished(path: Path, rounds: int) -> dict[str, Any]:
    """What an earlier run has measured of the same, if it was not finished."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    same = known.get("rounds") == rounds and known.get("plait") == plait.__version__
    return known if same else {"rounds": rounds, "plait": plait.__version__, "results": {}, "watching": {}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    stored, part = HERE / "result.json", HERE / ".unfinished.json"
    if options.render:
        known = json.loads(stored.read_text())
        (HERE / "README.md").write_text(page(known["results"], known["watching"], known["machine"]))
        return 0
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    printed = options.quick or options.only
    known = unfinished(part, rounds) if not printed else {"rounds": rounds, "results": {}, "watching": {}}
    end = time.monotonic() + options.seconds
    for name, (work, use) in cases().items():
        if (options.only and name not in options.only) or name in known["results"]:
            continue
        if time.monotonic() > end:
            print("not finished: call it again", file=sys.stderr)
            return 3
        known["results"][name] = measure(name, work, use, rounds)
        print(row(known["results"][name]), file=sys.stderr, flush=True)
        if not printed:
            part.write_text(json.dumps(known))
    if not options.only:
        known["watching"] = watching(rounds)
    results = [known["results"][name] for name in cases() if name in known["results"]]
    machine = described()
    text = page(results, known["watching"], machine)
    if printed:
        print(text)
        return 0
    whole = {"machine": machine, "rounds": rounds, "results": results, "watching": known["watching"]}
    stored.write_text(json.dumps(whole, indent=1) + "\n")
    (HERE / "README.md").write_text(text)
    part.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
