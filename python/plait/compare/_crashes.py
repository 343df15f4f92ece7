"""What a crash takes with it, and an exception: each is tried in a program of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait.compare._measure import Figures

#: Three units, the second of which ends badly; the program prints how many of the other two came to their end.
_PROGRAMS = {
    "threads": """
import os, threading, time
done = []
def unit(number):
    if number == 1:
        {fail}
    time.sleep(0.3)
    done.append(number)
threads = [threading.Thread(target=unit, args=(number,)) for number in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(done))
""",
    "asyncio": """
import asyncio, os
done = []
async def unit(number):
    if number == 1:
        {fail}
    await asyncio.sleep(0.3)
    done.append(number)
async def main():
    await asyncio.gather(*(unit(number) for number in range(3)), return_exceptions=True)
asyncio.run(main())
print(len(done))
""",
    "processes": """
import multiprocessing, os, time
def unit(number, done):
    if number == 1:
        {fail}
    time.sleep(0.3)
    done.send(number)
context = multiprocessing.get_context("fork")
read, write = context.Pipe(False)
units = [context.Process(target=unit, args=(number, write)) for number in range(3)]
for each in units: each.start()
for each in units: each.join()
count = 0
while read.poll():
    read.recv()
    count += 1
print(count)
""",
    "executor": """
import concurrent.futures, os, time
def unit(number):
    if number == 1:
        {fail}
    time.sleep(0.3)
    return number
with concurrent.futures.ProcessPoolExecutor(3) as pool:
    futures = [pool.submit(unit, number) for number in range(3)]
print(sum(1 for future in futures if future.exception() is None))
""",
    "plait": """
import os, time, plait
def unit(number):
    if number == 1:
        {fail}
    time.sleep(0.3)
    return number
with plait.ProcessPool(3) as pool:
    futures = [pool.submit(unit, number) for number in range(3)]
    concluded = [future.exception() for future in futures]
print(sum(1 for error in concluded if error is None))
""",
}


def _survivors(program: str, fail: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAMS[program].format(fail=fail)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return float(done.stdout) if done.returncode == 0 else 0.0


def crashes(quick: bool) -> Figures:
    """Of two other units, how many come to their end when one raises, and when one crashes (`os.abort`)."""
    del quick  # a crash takes as long as it takes
    figures: Figures = {"threads": {}, "processes": {}, "asyncio": {}}
    for name, fail in (("exception", "raise ValueError(number)"), ("crash", "os.abort()")):
        for model in figures:
            figures[model][name] = _survivors(model, fail)
        figures["processes"][f"executor_{name}"] = _survivors("executor", fail)
        figures["processes"][f"plait_{name}"] = _survivors("plait", fail)
    return figures
