"""Regret of `plait.Pool`: its time over that of the best model that somebody could have picked by hand.

    make bench                 measure, store result.json, render README.md here
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result
    run.py --only NAME ...     some workloads

For whom: somebody who asks what it costs not to choose, and us, who must keep that small.

Method: every workload is a function of real work and its arguments, mapped by a new executor: `plait.Pool`, and by hand in a
loop, in `ThreadPool(2)`, `ThreadPool(8)`, `ThreadPool(32)` and `ProcessPool`. All of these take turns in one process,
in an order
that is rotated from round to round, and a time is from making the executor to the last result. The regret of a round is the
pool's time over the smallest of the others' medians; a cell shows the median of the rounds. Measurements of what waits for
nobody say little on a machine that others use: the load is shown.
"""

from __future__ import annotations

import argparse
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

HERE = Path(__file__).resolve().parent
ROUNDS, QUICK_ROUNDS = 5, 2


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
WORKS = {**OWN, **workloads.WORKS}


def by_hand(work: Work) -> dict[str, Callable[[], object]]:
    def mapped(make: Callable[[], Any]) -> Callable[[], object]:
        def run() -> float:
            began = time.perf_counter()
            with make() as executor:
                list(executor.map(work.run, work.arguments))
                return time.perf_counter() - began

        return run

    def serial() -> float:
        began = time.perf_counter()
        results = [work.run(argument) for argument in work.arguments]  # kept, as by all the others
        took = time.perf_counter() - began
        del results
        return took

    found: dict[str, Callable[[], object]] = {"Pool": mapped(plait.Pool), "serial": serial}
    for workers in (2, 8, 32):
        found[f"threads {workers}"] = mapped(partial(plait.ThreadPool, workers))
    try:
        pickle.dumps(work.run)
    except (pickle.PicklingError, AttributeError):
        return found
    found["processes"] = mapped(plait.ProcessPool)
    return found


def measure(name: str, work: Work, rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {}
    with workloads.helper(work):
        candidates = list(by_hand(work).items())
        for turn in range(rounds):
            for which, run in candidates[turn % len(candidates) :] + candidates[: turn % len(candidates)]:
                seconds.setdefault(which, []).append(float(str(run())))
        with plait.Pool() as pool:
            list(pool.map(work.run, work.arguments))
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


def row(found: dict[str, Any]) -> str:
    medians = {which: statistics.median(values) for which, values in found["seconds"].items()}
    chosen = found["model"] + (f" {found['workers']}" if found["model"] in ("threads", "processes") else "")
    return (
        f"| {found['name']} | {medians['Pool']:.3f} | {chosen} | {found['best']} | {medians[found['best']]:.3f} | "
        f"{medians['serial']:.3f} | {found['regret']:+.0%} |"
    )


def page(results: list[dict[str, Any]], machine: str, rounds: int) -> str:
    regrets = sorted(found["regret"] for found in results)
    names = ["workload", "Pool, s", "last decision", "best by hand", "its time, s", "serial, s", "regret"]
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    rows = "\n".join(map(row, results))
    return (
        "# What it costs not to choose\n\n"
        "Made by `benches/auto/run.py`, whose first lines say how it is measured; the rounds are in `result.json`.\n\n"
        f"{machine}. {rounds} rounds.\n\n{head}\n{rows}\n\n"
        f"Regret over {len(results)} workloads: median {statistics.median(regrets):+.0%}, worst {regrets[-1]:+.0%}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    stored = HERE / "result.json"
    if options.render:
        known = json.loads(stored.read_text())
        (HERE / "README.md").write_text(page(known["results"], known["machine"], known["rounds"]))
        return
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    results = []
    for name, work in WORKS.items():
        if options.only and name not in options.only:
            continue
        results.append(measure(name, work, rounds))
        print(row(results[-1]), file=sys.stderr, flush=True)
    cores = len(os.sched_getaffinity(0))
    machine = (
        f"CPython {platform.python_version()}, {cores} cores, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.1f} at the end; plait {plait.__version__}"
    )
    text = page(results, machine, rounds)
    if options.quick or options.only:
        print(text)
        return
    stored.write_text(json.dumps({"machine": machine, "rounds": rounds, "results": results}, indent=1) + "\n")
    (HERE / "README.md").write_text(text)


if __name__ == "__main__":
    main()
