"""Sum the numbers below another in four parts: one after the other, in four threads, in four processes.

    python examples/gil/sums.py serial|threads|processes [COUNT]

With a GIL threads gain nothing; processes have an interpreter and a GIL each, and gain as far as there are cores.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

COUNT = 10_000_000
PARTS = 4


def add(numbers: range) -> int:
    total = 0
    for number in numbers:
        total += number
    return total


def serial(parts: list[range]) -> Iterable[int]:
    return [add(part) for part in parts]


def pooled(make: Callable[[int], Executor]) -> Callable[[list[range]], Iterable[int]]:
    def run(parts: list[range]) -> Iterable[int]:
        with make(PARTS) as pool:
            return list(pool.map(add, parts))

    return run


WAYS = {"serial": serial, "threads": pooled(ThreadPoolExecutor), "processes": pooled(ProcessPoolExecutor)}

if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    bounds = [count * part // PARTS for part in range(PARTS + 1)]
    parts = [range(first, last) for first, last in itertools.pairwise(bounds)]
    total = sum(WAYS[sys.argv[1]](parts))
    assert total == count * (count - 1) // 2
    print(f"the numbers below {count:,} add up to {total:,}")
