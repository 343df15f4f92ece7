"""A program with a pool of processes that knows how long its tasks waited, were pickled and ran: each says so itself.

    python _pool_truths.py KIND FILE

KIND is the pool. What it has measured, and what a profile of it says, go to FILE.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Self

import plait


def slept(seconds: float) -> float:
    began = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - began


class Slow:
    """Takes its time to be pickled and to be unpickled, and knows how much that was."""

    def __init__(self, *known: float) -> None:
        self.known = known

    def __reduce__(self) -> Any:
        return arrived, (slept(0.03), *self.known)


def arrived(*known: float) -> Slow:
    return Slow(slept(0.02), *known)


def task(slow: Slow) -> Slow:
    """Return when it began, how long it ran, and how long its argument was on the way."""
    began = time.monotonic()
    return Slow(began, slept(0.04), *slow.known)


def number(seconds: float) -> float:
    began = time.monotonic()
    time.sleep(seconds)
    return began


def exchange(values: list[Any]) -> list[Any]:
    return values


class Submitting:
    """`multiprocessing.Pool` as an executor, of which this program uses three methods."""

    def __init__(self, workers: int) -> None:
        self._pool: Pool = multiprocessing.get_context("fork").Pool(workers)

    def submit(self, function: Any, *args: Any) -> Any:
        got = self._pool.apply_async(function, args)
        setattr(got, "result", got.get)
        return got

    def map(self, function: Any, items: Iterable[Any]) -> Iterable[Any]:
        return self._pool.imap(function, items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()
        self._pool.join()


def main(kind: Any) -> dict[str, Any]:
    truth: dict[str, Any] = {}
    with plait.profile() as found, kind(1) as pool:
        pool.submit(number, 0.0).result()
        futures = [pool.submit(task, Slow()) for _ in range(3)]
        results = [future.result().known for future in futures] + [each.known for each in pool.map(task, [Slow()] * 3)]
        # Unpickled, pickled, began, ran; and its argument's: unpickled, pickled.
        truth["pickling"] = sum(each[0] + each[1] + each[4] + each[5] for each in results)
        truth["run"] = sum(each[3] for each in results)
        submitted = time.monotonic()
        began = [pool.submit(number, 0.05) for _ in range(4)]
        truth["queue"] = sum(each.result() - submitted for each in began)
    truth["pools"] = list(found.pools)
    values = [{"number": number, "text": str(number), "list": [number] * 3} for number in range(40_000)]
    with plait.profile() as found, kind(2) as pool:
        for _ in range(4):
            assert len(pool.submit(exchange, values).result()) == 40_000
    truth["exchange"] = {"verdict": found.verdict, "pools": list(found.pools), "sentence": found.evidence["sentence"]}
    with plait.profile() as found, kind(2) as pool:
        assert pool.submit(sum, range(5_000_000)).result() > 0
    truth["computes"] = {"verdict": found.verdict}
    return truth


if __name__ == "__main__":
    # A fork server of the first profile does not know of the others, and from 3.14 on it would make the workers.
    executor = functools.partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("fork"))
    kinds = {"plait": plait.ProcessPool, "concurrent.futures": executor, "multiprocessing": Submitting}
    Path(sys.argv[2]).write_text(json.dumps(main(kinds[sys.argv[1]])))
