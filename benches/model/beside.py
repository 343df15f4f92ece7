"""The machine's speed while a pool or a loop works: looks at it now and then, on each core, from processes beside.

with Speeds() as speeds:
    with speeds.watched() as seen:
        work()
    seen.speed  # as of `plait.model.measure_speed`, during that time
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]

#: A look takes about 50 microseconds, so this takes one core in a hundred.
PROGRAM = """
import os, select, sys, time
from plait.model._speed import look
os.sched_setaffinity(0, {int(sys.argv[1])})
seen, asked = [], False
print(flush=True)
while True:
    ready, _, _ = select.select([0], [], [], 0.005 if asked else None)
    if asked:
        seen.append(look())
    if ready:
        if not os.read(0, 1):
            break
        if asked:
            print(*seen, flush=True)
            seen = []
        asked = not asked
"""


@dataclass
class Seen:
    """What was seen."""

    speed: float = 0.0


class Speeds:
    """A process on each core, which looks while it is asked to."""

    def __enter__(self) -> Self:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(cpu)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for cpu in sorted(os.sched_getaffinity(0))
        ]
        for process in self._processes:
            assert process.stdout
            process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.communicate()

    @contextmanager
    def watched(self) -> Iterator[Seen]:
        """Look all along."""
        seen = Seen()
        self._tell()
        yield seen
        time.sleep(0.001)
        self._tell()
        looks: list[float] = []
        for process in self._processes:
            assert process.stdout
            looks += map(float, process.stdout.readline().split())
        seen.speed = statistics.harmonic_mean(looks)

    def _tell(self) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.write("x")
            process.stdin.flush()
