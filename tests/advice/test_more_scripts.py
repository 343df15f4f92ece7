"""More programs, of the kinds that people have: each is run once, and its verdict is one that measuring it has borne out."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

COMPUTES = "threads" if sysconfig.get_config_var("Py_GIL_DISABLED") else "processes"

LOOP = """
    total = 0
    for number in range(rounds):
        total += number * number
"""

HASHES = """
import hashlib, os

def digest(data):
    return hashlib.pbkdf2_hmac("sha256", data, b"salt", 60_000)

for word in [os.urandom(16) for _ in range(16)]:
    digest(word)
"""

DATABASE = """
import os, sqlite3, tempfile

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "rows.db")
    with sqlite3.connect(path) as made:
        made.execute("create table rows (number integer, word text)")
        made.executemany("insert into rows values (?, ?)", [(each % 977, f"row {each}") for each in range(200_000)])
    made.close()

    def query(number):
        base = sqlite3.connect(path)
        try:
            return base.execute("select max(length(word)) from rows where number * 7 % 13 = ?", (number,)).fetchone()
        finally:
            base.close()

    for number in range(12):
        query(number)
"""

CHILDREN = """
import subprocess

def run(number):
    return subprocess.run(["sleep", "0.04"]).returncode

print([run(number) for number in range(16)])
"""

LOCK = """
import threading, time

lock = threading.Lock()

def guarded():
    with lock:
        time.sleep(0.02)

threads = [threading.Thread(target=guarded) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

LOCK_AGAIN_AND_AGAIN = """
import threading, time

lock = threading.Lock()

def guarded(number):
    for _ in range(3):
        with lock:
            time.sleep(0.005)

threads = [threading.Thread(target=guarded, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

CONNECTION = """
import socket, threading, time

here, there = socket.socketpair()

def answer():
    while there.recv(1):
        time.sleep(0.02)
        there.sendall(b"y")

def ask(number):
    here.sendall(b"x")
    return here.recv(1)

threading.Thread(target=answer, daemon=True).start()
for number in range(20):
    ask(number)
"""

CHANCE = """
import random

def inside(count):
    found = 0
    for _ in range(count):
        across, up = random.random(), random.random()
        if across * across + up * up <= 1:
            found += 1
    return found

if __name__ == "__main__":
    print(sum(inside(120_000) for _ in range(24)))
"""

METHOD = f"""
class Counter:
    def __init__(self, base):
        self.base = base

    def step(self, number):
        return number * self.base % 7

    def count(self, rounds):{LOOP.replace("    ", "        ")}
        return self.step(total)

if __name__ == "__main__":
    counter = Counter(3)
    for _ in range(24):
        counter.count(400_000)
"""

METHOD_THAT_WRITES = f"""
class Log:
    def __init__(self):
        self.lines = []

    def count(self, rounds):{LOOP.replace("    ", "        ")}
        self.lines.append(total)

log = Log()
for _ in range(24):
    log.count(400_000)
"""

ARGUMENT = f"""
def count(totals, rounds):{LOOP}
    put(totals, total)

def put(totals, total):
    totals["total"] = totals.get("total", 0) + total

totals = {{}}
for _ in range(24):
    count(totals, 400_000)
print(totals)
"""

DECORATED = f"""
import functools

def named(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

@named
def count(rounds):{LOOP}
    return total

if __name__ == "__main__":
    for _ in range(24):
        count(400_000)
"""

RECURSIVE = """
def fib(number):
    return number if number < 2 else fib(number - 1) + fib(number - 2)

def main():
    print([fib(25) for _ in range(40)][0])

if __name__ == "__main__":
    main()
"""

SMALL_CALLS_IN_A_LOOP = """
import math

def work(start):
    total = 0.0
    for number in range(40_000):
        total += math.sin(number + start) / math.sqrt(number + 1)
    return total

if __name__ == "__main__":
    print(sum(work(start) for start in range(60)))
"""

KEYS = """
def order(start):
    rows = [(number * 7919 % 10_007, number) for number in range(start, start + 20_000)]
    return sorted(rows, key=lambda row: row[0])[0]

if __name__ == "__main__":
    for start in range(120):
        order(start)
"""

NAMES_OF_THE_LOOP = f"""
def weigh(row, rounds):{LOOP}
    return [total, *row]

def score(row):
    rounds = 400_000
    return weigh(row, rounds)

if __name__ == "__main__":
    rows = [[number, number + 1] for number in range(24)]
    rounds = [len(rows)]
    for row in rows:
        score(row)
"""

LOGS = f"""
import logging

log = logging.getLogger(__name__)

def count(rounds):{LOOP}
    log.debug("counted %s", total)
    logging.info("counted")
    return total

if __name__ == "__main__":
    for _ in range(24):
        count(400_000)
"""

SEMAPHORE = """
import asyncio

async def fetch(number):
    await asyncio.sleep(0.03)
    return sum(range(20_000))

async def main():
    free = asyncio.Semaphore(8)

    async def limited(number):
        async with free:
            return await fetch(number)

    await asyncio.gather(*[limited(number) for number in range(40)])

asyncio.run(main())
"""

LOOP_IN_A_CLASS = """
import time

class Waits:
    def all(self):
        for _ in range(30):
            time.sleep(0.01)

Waits().all()
"""

COROUTINE_THAT_COMPUTES = f"""
import asyncio

async def count(rounds):{LOOP}
    return total

async def main():
    return await asyncio.gather(*(count(400_000) for _ in range(24)))

if __name__ == "__main__":
    asyncio.run(main())
"""

POOL_OF_PROCESSES = f"""
import multiprocessing

def count(rounds):{LOOP}
    return total

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        print(len(pool.map(count, [400_000] * 24)))
"""

ITERATOR = f"""
import itertools

rows = itertools.count()

def count(rounds):{LOOP}
    return total + sum(itertools.islice(rows, 3))

if __name__ == "__main__":
    for _ in range(24):
        count(400_000)
"""

BLOCKING_COROUTINE = """
import asyncio, time

async def fetch(number):
    time.sleep(0.03)

async def main():
    await asyncio.gather(*[fetch(number) for number in range(24)])

asyncio.run(main())
"""

RECURSIVE_IN_THREADS = """
from concurrent.futures import ThreadPoolExecutor

def fib(number):
    return number if number < 2 else fib(number - 1) + fib(number - 2)

if __name__ == "__main__":
    with ThreadPoolExecutor(4) as pool:
        print(sum(pool.map(fib, [25] * 40)))
"""

EXECUTOR_OF_A_LOOP = f"""
import asyncio, concurrent.futures

def count(rounds):{LOOP}
    return total

async def main():
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        return await asyncio.gather(*[loop.run_in_executor(pool, count, 400_000) for _ in range(24)])

if __name__ == "__main__":
    print(len(asyncio.run(main())))
"""


def advised(folder: Path, *program: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "plait", "advise", "--json", "--cores", "4", *program]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    ("source", "verdicts", "tasks", "calls"),
    [
        pytest.param(HASHES, {"threads"}, "__main__.digest", 16, id="hashes"),
        pytest.param(DATABASE, {"threads"}, "__main__.query", 12, id="database"),
        pytest.param(CHILDREN, {"threads", "asyncio"}, "__main__.run", 16, id="children"),
        pytest.param(LOCK, {"serial"}, "__main__.guarded", 16, id="lock"),
        pytest.param(LOCK_AGAIN_AND_AGAIN, {None, "serial"}, "__main__.guarded", 8, id="lock-again-and-again"),
        pytest.param(CONNECTION, {None}, "__main__.ask", 20, id="connection"),
        pytest.param(CHANCE, {COMPUTES}, "__main__.inside", 24, id="chance"),
        pytest.param(METHOD, {COMPUTES}, "__main__.Counter.count", 24, id="method"),
        pytest.param(METHOD_THAT_WRITES, {None}, "__main__.Log.count", 24, id="method-that-writes"),
        pytest.param(ARGUMENT, {None}, "__main__.count", 24, id="argument"),
        pytest.param(DECORATED, {COMPUTES}, "__main__.count", 24, id="decorated"),
        pytest.param(RECURSIVE, {COMPUTES}, "__main__.fib", 40, id="recursive"),
        pytest.param(SMALL_CALLS_IN_A_LOOP, {COMPUTES}, "__main__.work", 60, id="small-calls-in-a-loop"),
        pytest.param(KEYS, {COMPUTES}, "__main__.order", 120, id="keys"),
        pytest.param(NAMES_OF_THE_LOOP, {COMPUTES}, "__main__.score", 24, id="names-of-the-loop"),
        pytest.param(LOGS, {COMPUTES}, "__main__.count", 24, id="logs"),
        pytest.param(SEMAPHORE, {"asyncio"}, "__main__.main.<locals>.limited", 40, id="semaphore"),
        pytest.param(LOOP_IN_A_CLASS, {"threads", "asyncio"}, "time.sleep", 30, id="loop-in-a-class"),
        pytest.param(COROUTINE_THAT_COMPUTES, {COMPUTES}, "__main__.count", 24, id="coroutine-that-computes"),
        pytest.param(POOL_OF_PROCESSES, {COMPUTES}, "__main__.count", 24, id="pool-of-processes"),
        pytest.param(ITERATOR, {None}, "__main__.count", 24, id="iterator"),
        pytest.param(BLOCKING_COROUTINE, {"threads"}, "__main__.fetch", 24, id="blocking-coroutine"),
        pytest.param(RECURSIVE_IN_THREADS, {COMPUTES}, "__main__.fib", 40, id="recursive-in-threads"),
        pytest.param(EXECUTOR_OF_A_LOOP, {COMPUTES}, "__main__.count", 24, id="executor-of-a-loop"),
    ],
)
def test_verdict(tmp_path: Path, source: str, verdicts: set[str | None], tasks: str, calls: int) -> None:
    (tmp_path / "program.py").write_text(source)
    said = advised(tmp_path, "program.py")
    assert (said["tasks"], said["calls"]) == (tasks, calls)
    assert said["verdict"] in verdicts, said["why"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (METHOD_THAT_WRITES, "calls `append` of its argument `self`"),
        (ARGUMENT, "shared state is written: count changes its argument `totals`"),
        (CONNECTION, "all calls have `here`, which serves one of them at a time"),
    ],
)
def test_why_it_cannot_be_told(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "program.py").write_text(source)
    assert said in advised(tmp_path, "program.py")["why"]


def test_a_module_and_code(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "work.py").write_text(f"def count(rounds):{LOOP}\n    return total\n")
    main = "import sys\nfrom .work import count\nassert sys.argv[1:] == ['a', '--b'], sys.argv\n"
    (package / "__main__.py").write_text(f"{main}for _ in range(24):\n    count(400_000)\n")
    said = advised(tmp_path, "-m", "package", "a", "--b")
    assert (said["verdict"], said["tasks"]) == (COMPUTES, "package.work.count")
    code = "import sys, time\nassert sys.argv == ['-c', '--b']\nfor _ in range(30): time.sleep(0.01)"
    said = advised(tmp_path, "-c", code, "--b")
    assert said["verdict"] in {"threads", "asyncio"}
    assert said["tasks"] == "time.sleep"


def test_no_such_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "plait", "advise", "-m", "nowhere.at_all"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "nowhere" in ran.stderr
    assert "Traceback" not in ran.stderr
