"""What a lock costs: plait's beside those of `threading`, `asyncio` and aiologic.

    make bench                 measure, store result.json, render README.md here
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result

For whom: somebody who asks whether locks that threads and tasks share cost more than those that only one of them can
use, and us, who must not make them slower. Locks that are free, locks that four threads want, and two parties that
wake one another in turn.

Method: every peer runs once in each round, in a process of its own, and the order is rotated from round to round, so
that a slow phase of the machine hits all. The loop around what is measured is in the figure, for all alike. A cell
shows the median of the rounds in nanoseconds for one operation, and their range. Peers that are not installed are
left out.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

from benches._rounds import PairedRounds, Peer

THREADS = 4


@dataclass
class Locks(Peer):
    module: str


PEERS = {
    "plait": Locks("plait", package="plait", ours=True),
    "threading": Locks("threading"),
    "asyncio": Locks("asyncio"),
    "aiologic": Locks("aiologic", package="aiologic"),
}
Case = Callable[[Any, int], float]
CASES: dict[str, tuple[str, Case, int]] = {}
"""By name: what it is, what measures it, and how many operations."""


def case(name: str, what: str, count: int) -> Callable[[Case], Case]:
    def add(measure: Case) -> Case:
        CASES[name] = (what, measure, count)
        return measure

    return add


def timed(run: Callable[[], object], count: int) -> float:
    """Nanoseconds for each of `count` operations."""
    begin = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - begin) / count


def with_it(lock: Any, count: int) -> float:
    def run() -> None:
        for _ in range(count):
            with lock:
                pass

    return timed(run, count)


def by_calls(lock: Any, count: int) -> float:
    def run() -> None:
        for _ in range(count):
            lock.acquire()
            lock.release()

    return timed(run, count)


def together(parts: list[Callable[[], object]], count: int) -> float:
    """Each part in a thread of its own."""
    go = threading.Event()

    def run(part: Callable[[], object]) -> None:
        go.wait()
        part()

    threads = [threading.Thread(target=run, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()

    def finish() -> None:
        go.set()
        for thread in threads:
            thread.join()

    return timed(finish, count)


def contended(lock: Any, count: int) -> float:
    total = 0

    def part() -> None:
        nonlocal total
        for _ in range(count // THREADS):
            with lock:
                total += 1

    spent = together([part] * THREADS, count)
    assert total == count // THREADS * THREADS
    return spent


def in_loop(main: Callable[[], Awaitable[object]], count: int) -> float:
    async def run() -> float:
        begin = time.perf_counter_ns()
        await main()
        return (time.perf_counter_ns() - begin) / count

    return asyncio.run(run())


case("lock_with", "`with lock`, free", 500_000)(lambda peer, count: with_it(peer.Lock(), count))
case("lock_calls", "`acquire()`, `release()`, free", 500_000)(lambda peer, count: by_calls(peer.Lock(), count))
case("lock_contended", f"`with lock`, {THREADS} threads", 400_000)(lambda peer, count: contended(peer.Lock(), count))
case("rlock_with", "`with rlock`, free", 500_000)(lambda peer, count: with_it(peer.RLock(), count))
case("rlock_contended", f"`with rlock`, {THREADS} threads", 400_000)(lambda peer, count: contended(peer.RLock(), count))
case("semaphore_with", "`with semaphore`, free", 200_000)(lambda peer, count: with_it(peer.Semaphore(4), count))
case("semaphore_contended", f"`with semaphore` of 1, {THREADS} threads", 100_000)(
    lambda peer, count: contended(peer.Semaphore(1), count)
)


@case("event", "`set()`, `is_set()`, `clear()` of an event", 200_000)
def _(peer: Any, count: int) -> float:
    event = peer.Event()

    def run() -> None:
        for _ in range(count):
            event.set()
            event.is_set()
            event.clear()

    return timed(run, count)


@case("event_turns", "two threads, two events, in turn", 10_000)
def _(peer: Any, count: int) -> float:
    ping, pong = peer.Event(), peer.Event()

    def first() -> None:
        for _ in range(count):
            ping.set()
            pong.wait()
            pong.clear()

    def second() -> None:
        for _ in range(count):
            ping.wait()
            ping.clear()
            pong.set()

    return together([first, second], count)


@case("condition_notify", "`with condition: notify()`, nobody waits", 200_000)
def _(peer: Any, count: int) -> float:
    condition = peer.Condition()

    def run() -> None:
        for _ in range(count):
            with condition:
                condition.notify()

    return timed(run, count)


@case("condition_turns", "two threads, one condition, in turn", 10_000)
def _(peer: Any, count: int) -> float:
    condition = peer.Condition()
    turn = 0

    def part(mine: int) -> None:
        nonlocal turn
        for _ in range(count):
            with condition:
                while turn != mine:
                    condition.wait()
                turn = 1 - mine
                condition.notify()

    return together([lambda: part(0), lambda: part(1)], count)


@case("barrier", f"{THREADS} threads pass a barrier", 2_000)
def _(peer: Any, count: int) -> float:
    barrier = peer.Barrier(THREADS)

    def part() -> None:
        for _ in range(count):
            barrier.wait()

    return together([part] * THREADS, count)


@case("task_with", "`async with lock`, free", 200_000)
def _(peer: Any, count: int) -> float:
    lock = peer.Lock()

    async def main() -> None:
        for _ in range(count):
            async with lock:
                pass

    return in_loop(main, count)


@case("task_contended", "`async with lock`, 10 tasks that sleep(0) in it", 50_000)
def _(peer: Any, count: int) -> float:
    lock = peer.Lock()

    async def part() -> None:
        for _ in range(count // 10):
            async with lock:
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(part() for _ in range(10)))

    return in_loop(main, count)


# What a peer has not got, or what would block it.
THREADS_ONLY = {name for name in CASES if not name.startswith("task_")}
LACKS = {
    "threading": set(CASES) - THREADS_ONLY,
    "asyncio": THREADS_ONLY,
    # Its events are set once, and its conditions and barriers have other forms.
    "aiologic": {"event", "event_turns", "condition_notify", "condition_turns", "barrier"},
}


def cell(values: list[float]) -> str:
    middle = statistics.median(values)
    digits = 0 if middle >= 10 else 1
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


class LockRounds(PairedRounds[Locks]):
    """Its table has a line for each case, with the ratio to the standard library within each round."""

    script = Path(__file__).resolve()
    summary = "Measure locks side by side."
    peers = PEERS
    rounds = 9
    quick_rounds = 3

    def measure(self, peer: Locks, quick: bool) -> dict[str, float]:
        """All cases of one peer, once; in the process that is asked for it."""
        module = importlib.import_module(peer.module)
        share = 0.2 if quick else 1.0
        found = {}
        for name, (_what, run, count) in CASES.items():
            if name in LACKS.get(peer.module, ()):
                continue
            try:
                run(module, max(int(count * share) // 10, THREADS))  # warm
                found[name] = run(module, max(int(count * share), THREADS))
            except (AttributeError, TypeError):
                continue  # the peer has no such thing
        return found

    def table(self, result: dict[str, Any]) -> str:
        rounds = result["rounds"]
        peers = [peer for peer in PEERS if peer in rounds[0]]
        lines = [
            "| ns for one | " + " | ".join(peers) + " | plait / standard library |",
            "|---|" + "---|" * (len(peers) + 1),
        ]
        for name, (what, _run, _count) in CASES.items():
            values = {peer: [each[peer][name] for each in rounds if name in each[peer]] for peer in peers}
            standard = values.get("threading") or values.get("asyncio")
            ratio = "-"
            if standard and values["plait"]:
                pairs = zip(values["plait"], standard, strict=True)
                ratio = f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"
            cells = [cell(values[peer]) if values[peer] else "-" for peer in peers]
            lines.append(f"| {what} | {' | '.join(cells)} | {ratio} |")
        return "\n".join(lines)

    def page(self, result: dict[str, Any]) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        return f"""# What a lock costs

Made by `benches/locks/run.py`, whose first lines say how it is measured; the rounds are in `result.json`.

CPython {result["python"]}, {result["machine"]}, load {result["load"]} at the end; {versions}. {len(result["rounds"])} rounds:
median and range, in nanoseconds. The last column is the median of the rounds' own ratios: below 1 plait is faster.

{self.table(result)}

Where a lock is free, a call of a method is most of the cost. Where threads want it at the same time, who has the GIL goes on
with it, and one that has waited for a millisecond gets it next.
"""


if __name__ == "__main__":
    LockRounds().main()
