"""What a crash takes with it, and an exception: each is tried in a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import plait

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
}

#: Of pools: what a call raised that is neither the unit's own error nor that its worker died is no answer, and is raised.
_POOL = """
import concurrent.futures, os, sys, time
def unit(number):
    if number == 1:
        {{fail}}
    time.sleep(0.3)
    return number
if __name__ == "__main__":
    {pool}
    with pool:
        futures = [pool.submit(unit, number) for number in range(3)]
        concluded = [future.exception() for future in futures]
    for error in concluded:
        if error is not None and not isinstance(error, (ValueError, concurrent.futures.BrokenExecutor)):
            raise error
    print(sum(1 for error in concluded if error is None))
"""

_PROGRAMS["executor"] = _POOL.format(pool="pool = concurrent.futures.ProcessPoolExecutor(3)")
_PROGRAMS["plait"] = _POOL.format(pool="sys.path.append({home!r}); import plait; pool = plait.ProcessPool(3)")

#: Where plait is: a script has other places to import from than the interpreter that starts it.
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(plait.__file__)))


def survivors(source: str) -> float:
    """How many units came to their end, by a program that prints it; none if a crash has ended it.

    The program is a file, since processes that are not forked import it, and find nothing of what `-c` was given.

    Raises:
        RuntimeError: It failed otherwise.

    >>> survivors("print(2)"), survivors("import os; os.abort()")
    (2.0, 0.0)
    """
    with tempfile.TemporaryDirectory(prefix="plait-compare-") as folder:
        path = os.path.join(folder, "units.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(source)
        done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode < 0:
        return 0.0
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(f"no crash, but exit code {done.returncode}: {said[-1] if said else 'without a word'}")
    return float(done.stdout)


def _survivors(program: str, fail: str) -> float:
    return survivors(_PROGRAMS[program].format(fail=fail, home=_HOME))


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
