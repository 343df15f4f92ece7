"""What `plait.sync.watch_deadlocks` costs a lock: each case without it and with it, in turn, in one process.

    watching.py [ROUNDS]       prints a table

A figure is the median of the rounds, in nanoseconds of CPU time for taking a lock and giving it back; what is added is
told for one of the two operations. The loop around what is measured is in the figure.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import plait
import plait.sync

COUNT = 20_000


def by_with(lock: Any) -> None:
    for _ in range(COUNT):
        with lock:
            pass


def by_calls(lock: Any) -> None:
    acquire, release = lock.acquire, lock.release
    for _ in range(COUNT):
        acquire()
        release()


def once(lock: Any) -> None:
    with lock:
        pass


def in_a_function(lock: Any) -> None:
    for _ in range(COUNT):
        once(lock)


def inside_another(lock: Any) -> None:
    with plait.Lock():
        by_with(lock)


def in_a_task(lock: Any) -> None:
    async def main() -> None:
        for _ in range(COUNT):
            async with lock:
                pass

    plait.run(main())


CASES: dict[str, tuple[Callable[[Any], None], Callable[[], Any]]] = {
    "with Lock": (by_with, plait.Lock),
    "Lock.acquire, release": (by_calls, plait.Lock),
    "with RLock": (by_with, plait.RLock),
    "with Lock in a function of its own": (in_a_function, plait.Lock),
    "with Lock inside another": (inside_another, plait.Lock),
    "async with Lock": (in_a_task, plait.Lock),
    "with Lock(shared=True)": (by_with, lambda: plait.Lock(shared=True)),
}


def cost(work: Callable[[Any], None], lock: Any) -> float:
    begin = time.process_time()
    work(lock)
    return (time.process_time() - begin) / COUNT * 1e9


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(f"{'':36} {'off':>8} {'on':>8} {'added to one operation':>24}")
    for name, (work, make) in CASES.items():
        lock = make()
        off, on = [], []
        for _ in range(rounds):
            off.append(cost(work, lock))
            with plait.sync.watch_deadlocks():
                on.append(cost(work, lock))
        before, after = statistics.median(off), statistics.median(on)
        print(f"{name:36} {before:8.0f} {after:8.0f} {(after - before) / 2:24.0f}")


if __name__ == "__main__":
    main()
