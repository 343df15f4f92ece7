"""A program does under `plait advise` what it does alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DELETED = """
import os, tempfile

class Scratch:
    def __init__(self):
        file, self.path = tempfile.mkstemp()
        os.close(file)

    def __del__(self):
        if os.path.exists(self.path):
            os.unlink(self.path)

def work(scratch, number):
    with open(scratch.path, "r+") as file:
        file.write(str(number))
    return scratch

scratch = Scratch()
for number in range(5):
    work(scratch, number)
print("written")
"""

MADE_ONCE = """
class Connection:
    opened = 0

    def __init__(self):
        Connection.opened += 1
        print("opened", Connection.opened)

    def __reduce__(self):
        return Connection, ()

    def query(self, key):
        return key

def work(connection, key):
    return connection.query(key)

connection = Connection()
for number in range(5):
    work(connection, number)
"""

LARGE = """
import resource

def work(data, number):
    return len(data) + number

data = bytes(200 << 20)
for number in range(4):
    work(data, number)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 350 << 10)
"""

REDUCER = """
class Item:
    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return Item, (state(self),)

calls = []

def state(item):
    return item.number

def work(item):
    return item.number

for number in range(8):
    work(Item(number))
print("done")
"""

LEFT_OPEN = """
from concurrent.futures import {kind}PoolExecutor

def work(number):
    return number + 1

if __name__ == "__main__":
    pool = {kind}PoolExecutor(2)
    print(sum(future.result() for future in [pool.submit(work, number) for number in range(20)]))
"""


def run(folder: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == status, ran.stderr
    return ran


def advise(folder: Path, *words: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run(folder, "-m", "plait", "advise", "--json", "--cores", "4", *words).stdout)
    return said


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(DELETED, id="an-end-that-deletes"),
        pytest.param(MADE_ONCE, id="a-constructor"),
        pytest.param(LARGE, id="a-large-argument"),
        pytest.param(LEFT_OPEN.format(kind="Thread"), id="threads-left-open"),
        pytest.param(LEFT_OPEN.format(kind="Process"), id="processes-left-open"),
    ],
)
def test_it_writes_the_same(tmp_path: Path, source: str) -> None:
    (tmp_path / "program.py").write_text(source)
    alone = run(tmp_path, "program.py")
    ran = run(tmp_path, "-m", "plait", "advise", "-q", "program.py")
    assert ran.stdout == alone.stdout
    assert alone.stderr == ran.stderr


def test_what_pickling_calls_is_no_work(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(REDUCER.replace("number in range(8)", "number in range(2)"))
    assert advise(tmp_path, "program.py")["tasks"] is None
