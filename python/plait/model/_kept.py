"""Keeps results while calls are recorded, as a program does: what that takes the collector, and what their end takes."""

from __future__ import annotations

import gc
import os
import time
from typing import Any, Final, Literal, Self

#: No more results are kept once the process has grown by that: bytes.
_MOST: Final = 256 << 20
#: Seconds between two looks at that.
_EVERY = 0.005
_PAGE = os.sysconf("SC_PAGE_SIZE")
_FULL = 2


def _resident() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


class Kept:
    """Keeps results, and times the collector's full passes meanwhile: they look at everything that is alive."""

    def __init__(self) -> None:
        self._results: list[Any] = []
        self._all: list[int] = []
        self._some: list[int] = []
        self._began = 0
        self._at_first = 0
        self._looked = 0.0
        self._full = False
        self.freed = 0.0
        """Seconds that it took to free them."""

    def __enter__(self) -> Self:
        self._at_first = _resident()
        gc.callbacks.append(self._collects)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._collects)
        begin = time.thread_time()
        self._results.clear()
        self.freed = time.thread_time() - begin

    def add(self, results: list[Any]) -> None:
        """Keep them too, if there is room."""
        now = time.perf_counter()
        if now - self._looked > _EVERY:
            self._looked = now
            self._full = self._full or _resident() - self._at_first > _MOST
        if not self._full:
            self._results += results

    def drop(self) -> None:
        """Keep none, and no other."""
        self._full = True
        self._results.clear()

    def collections(self) -> list[int]:
        """Nanoseconds of each full pass since the last time that this was asked."""
        found, self._some = self._some, []
        return found

    @property
    def least(self) -> int:
        """What a full pass takes without results, by the quickest: nanoseconds."""
        return min(self._all, default=0)

    def _collects(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        if info["generation"] != _FULL:
            return
        if phase == "start":
            self._began = time.thread_time_ns()
        elif self._began:
            taken = time.thread_time_ns() - self._began
            self._all.append(taken)
            self._some.append(taken)
            self._began = 0
