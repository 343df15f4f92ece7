"""What workers take before they do anything: the first pool of processes its time, and each of them memory, measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from plait.model import _calibrate


class Start(NamedTuple):
    """What workers take.

    Attributes:
        seconds: Of the first pool of processes, beyond the starts of its workers.
        process: Bytes that a worker process has to itself,
        thread: that a thread of a pool takes,
        task: that a task of a loop takes,
        interpreter: and an interpreter of its own in this process; 0 where there are none.
        measured: Whether these are this machine's, or typical ones.
    """

    seconds: float
    process: float
    thread: float
    task: float
    interpreter: float
    measured: bool


#: What it takes where it cannot be measured.
TYPICAL = Start(0.1, 12e6, 100e3, 3e3, 6e6, False)

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
process = 0
for pid in pool._pids():
    with open(f"/proc/{pid}/smaps_rollup") as file:
        process = sum(int(line.split()[1]) for line in file if line.startswith("Private_")) * 1024
pool.shutdown()

import asyncio, threading
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def of_threads(count):
    over, come = threading.Event(), threading.Semaphore(0)
    def wait(_):
        come.release()
        over.wait()
    with plait.ThreadPool(count) as pool:
        before = resident()
        calls = [pool.submit(wait, each) for each in range(count)]
        for _ in calls:
            come.acquire()
        grown = resident() - before
        over.set()
    return grown / count
async def of_tasks(count):
    over = asyncio.Event()
    await asyncio.sleep(0)
    before = resident()
    tasks = [asyncio.ensure_future(over.wait()) for _ in range(count)]
    await asyncio.sleep(0)
    grown = resident() - before
    over.set()
    await asyncio.gather(*tasks)
    return grown / count
def of_interpreters(count):
    try:
        if sys.version_info >= (3, 13):
            import _interpreters as interpreters
        elif sys.version_info >= (3, 12):
            import _xxsubinterpreters as interpreters
        else:
            return 0
        before = resident()
        made = [interpreters.create() for _ in range(count)]
        grown = resident() - before
        for each in made:
            interpreters.destroy(each)
        return grown / count
    except (ImportError, RuntimeError):
        return 0
thread, task = of_threads(32), asyncio.run(of_tasks(2000))
print(json.dumps([min(took, 1.1 * spent), process, thread, task, of_interpreters(4)]))
"""

_known: Start | None = None


def start() -> Start:
    """Measure it, or recall it: it is kept beside the machine's other costs.

    >>> 0 < start().process < 1e9
    True
    """
    global _known
    if _known is None:
        path = _calibrate._path()
        path = path.with_name(path.name.replace("costs-", "workers-"))
        try:
            seconds, process, thread, task, interpreter = map(float, json.loads(path.read_text()))
            _known = Start(seconds, process, thread, task, interpreter, measured=True)
        except (OSError, ValueError, TypeError):
            _known = _measure()
            if _known.measured:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(list(_known[:-1])))
                except OSError:
                    pass
    return _known


def _measure() -> Start:
    rounds: list[list[float]] = []
    command = [sys.executable, "-c", _PROGRAM, json.dumps([place or "." for place in sys.path])]
    for _ in range(3):
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=30
            )
            rounds.append([float(each) for each in json.loads(done.stdout)])
        except (OSError, ValueError, TypeError, subprocess.SubprocessError):
            return TYPICAL
    took, process, thread, task, interpreter = (sorted(column) for column in zip(*rounds, strict=True))
    started = _calibrate.calibrate().all["processes.start"].seconds
    middle = len(rounds) // 2
    return Start(
        max(0.0, took[0] - started),
        process[middle] or TYPICAL.process,
        max(0.0, thread[middle]) or TYPICAL.thread,
        max(0.0, task[middle]) or TYPICAL.task,
        max(0.0, interpreter[middle]),
        True,
    )
