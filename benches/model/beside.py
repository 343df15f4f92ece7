"""The machine's speed while a pool or a loop works: looks at it now and then, on each core, from processes beside.

What counts is the speed of the cores that work: one that comes from sleep for a look is slower, as it has lost its caches to
others. So each core's looks weigh as much as it was busy.

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

#: Looks take a tenth of a millisecond, so this is a hundredth of each core.
PROGRAM = """
import os, select, sys, time
from plait.model._speed import look
os.sched_setaffinity(0, {int(sys.argv[1])})
seen, asked = [], False
print(flush=True)
while True:
    ready, _, _ = select.select([0], [], [], 0.01 if asked else None)
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


_TICK = 1 / os.sysconf("SC_CLK_TCK")


def _idle() -> dict[int, float]:
    """Seconds that each core had nothing to do, since the machine's start."""
    found: dict[int, float] = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            found[int(name.removeprefix("cpu"))] = (int(ticks[3]) + int(ticks[4])) * _TICK
    return found


@dataclass
class Seen:
    """What was seen."""

    speed: float = 0.0


class Speeds:
    """A process on each core, which looks while it is asked to."""

    def __enter__(self) -> Self:
        self._cpus = sorted(os.sched_getaffinity(0))
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(cpu)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for cpu in self._cpus
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
        before, begin = _idle(), time.perf_counter()
        yield seen
        seconds, after = time.perf_counter() - begin, _idle()
        time.sleep(0.001)
        self._tell()
        speeds: list[float] = []
        for process in self._processes:
            assert process.stdout
            speeds.append(statistics.harmonic_mean(map(float, process.stdout.readline().split())))
        # The kernel counts in hundredths of a second: none is nothing.
        busy = [max(_TICK, seconds - after[cpu] + before[cpu]) for cpu in self._cpus]
        seen.speed = statistics.harmonic_mean(speeds, weights=busy)

    def _tell(self) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.write("x")
            process.stdin.flush()
