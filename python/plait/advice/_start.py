"""What the first pool of processes of a program takes: its server is started too, and each worker has memory of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from plait.model import _calibrate


class FirstPool(NamedTuple):
    """What a first pool takes beyond the starts of its workers, in seconds, and the bytes of a worker's own."""

    seconds: float
    worker_bytes: float


#: What it takes where it cannot be measured.
_TYPICAL = FirstPool(0.1, 12e6)

# What it took of cores is what it takes on an idle machine: one process after the other does its part.
_PROGRAM = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
import time, plait
begin, spent = time.perf_counter(), time.process_time()
pool = plait.ProcessPool(1)
pool.submit(abs, 1).result()
took, spent = time.perf_counter() - begin, time.process_time() - spent
def below(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            for child in file.read().split():
                yield child
                yield from below(child)
for child in set(below(os.getpid())):
    with open(f"/proc/{child}/schedstat") as file:
        spent += int(file.read().split()[0]) / 1e9
own = 0
for pid in pool._pids():
    with open(f"/proc/{pid}/smaps_rollup") as file:
        own = sum(int(line.split()[1]) for line in file if line.startswith("Private_")) * 1024
pool.shutdown()
print(json.dumps([min(took, 1.1 * spent), own]))
"""

_known: FirstPool | None = None


def first_pool() -> FirstPool:
    """Measure it, or recall it: it is kept beside the machine's other costs.

    >>> 0 < first_pool().worker_bytes < 1e9
    True
    """
    global _known
    if _known is None:
        path = _calibrate._path()
        path = path.with_name(path.name.replace("costs-", "start-"))
        try:
            seconds, own = json.loads(path.read_text())
            _known = FirstPool(float(seconds), float(own))
        except (OSError, ValueError, TypeError):
            _known = _measure()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(list(_known)))
            except OSError:
                pass
    return _known


def _measure() -> FirstPool:
    rounds: list[tuple[float, float]] = []
    command = [sys.executable, "-c", _PROGRAM, json.dumps([place or "." for place in sys.path])]
    for _ in range(3):
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=30
            )
            took, own = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return _TYPICAL
        rounds.append((float(took), float(own)))
    took, own = min(rounds)
    started = _calibrate.calibrate().all["processes.start"].seconds
    return FirstPool(max(0.0, took - started), own or _TYPICAL.worker_bytes)
