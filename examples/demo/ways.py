"""The same program three times: one call after the other, with executors that somebody picked, and with `plait.Pool`.

A stage takes what the one before it made, so that each can be timed by itself.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import plait
from examples.demo.stages import Document, fetch, index, pack, store

T = TypeVar("T")

BATCH = 25  # documents of a transaction
FETCHING = 32  # threads that wait for the server
CORES = len(os.sched_getaffinity(0))


class Laps:
    """Seconds of each stage, from the end of the one before: the start of its executor counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str, results: Iterable[T]) -> list[T]:
        made = list(results)
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now
        return made


Explained = Mapping[str, Mapping[str, Any]]
Way = Callable[[list[str], str, Laps], Explained | None]


def serially(urls: list[str], database: str, lap: Laps) -> None:
    sources = lap("fetch", map(fetch, urls))
    indexes = lap("index", map(index, sources))
    packed = lap("pack", map(pack, urls, sources, indexes))
    lap("store", map(partial(store, database), batches(packed)))


def by_hand(urls: list[str], database: str, lap: Laps) -> None:
    with ThreadPoolExecutor(FETCHING) as threads:
        sources = lap("fetch", threads.map(fetch, urls))
    # Workers leave Ctrl-C to the program; 8 documents at a time, since a message costs as much as a small one.
    with ProcessPoolExecutor(CORES, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as processes:
        indexes = lap("index", processes.map(index, sources, chunksize=8))
    with ThreadPoolExecutor(CORES) as threads:
        packed = lap("pack", threads.map(pack, urls, sources, indexes))
    lap("store", map(partial(store, database), batches(packed)))  # SQLite lets one write at a time


def with_pool(urls: list[str], database: str, lap: Laps) -> Explained:
    with plait.Pool() as pool:
        sources = lap("fetch", pool.map(fetch, urls))
        indexes = lap("index", pool.map(index, sources))
        packed = lap("pack", pool.map(pack, urls, sources, indexes))
        lap("store", pool.map(partial(store, database), batches(packed)))
        return {stage.__name__: pool.explain(stage) for stage in (fetch, index, pack, store)}


def batches(documents: list[Document]) -> list[list[Document]]:
    return [documents[first : first + BATCH] for first in range(0, len(documents), BATCH)]
