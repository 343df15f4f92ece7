"""What is profiled: `python programs.py NAME SIZE` runs one and prints what it took.

`cpu` is the CPU time of the whole process while it works, with all of its threads, whoever made them. `alone` is how long
the work takes at least on a machine of its own, waits included.
"""

from __future__ import annotations

import ast
import io
import json
import sqlite3
import sys
import sysconfig
import threading
import time
import tokenize
from collections.abc import Callable
from pathlib import Path

SLEEP = 0.001


def computes(size: int) -> float:
    """Reads source: nothing but Python and calls of C that keep the GIL."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:size]
    for file in files:
        source = file.read_bytes()
        ast.parse(source)
        sum(1 for _ in tokenize.tokenize(io.BytesIO(source).readline))
    return 0.0


def waits(size: int) -> float:
    """Eight threads that wait for a millisecond each time, and do a little between."""

    def part() -> None:
        for number in range(size):
            time.sleep(SLEEP)
            json.loads(json.dumps({"number": number, "list": list(range(20))}))

    run([part] * 8)
    return size * SLEEP


def mixed(size: int) -> float:
    """Four threads that wait beside one that computes."""
    done = threading.Event()

    def part() -> None:
        while not done.is_set():
            time.sleep(SLEEP)

    def computing() -> None:
        computes(size)
        done.set()

    run([part] * 4 + [computing])
    return 0.0


def read(size: int, use: Callable[[tuple[int, str, float, str]], object]) -> None:
    """Reads rows five times; SQLite lets go of the GIL some seven times for each."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, name TEXT, value REAL, note TEXT)")
    given = ((number, f"name {number}", number / 7, "a note" * 3) for number in range(size))
    connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", given)
    for _ in range(5):
        for row in connection.execute("SELECT id, name, value, note FROM rows"):
            use(row)
    connection.close()


def rows(size: int) -> float:
    """Something is done with each row: about 850 ns from one letting go to the next, which is 2.7 million in 2.3 s."""

    def use(row: tuple[int, str, float, str]) -> None:
        number, name, value, note = row
        json.loads(json.dumps({"id": number, "name": name.title(), "value": round(value, 2), "note": note}))

    read(size, use)
    return 0.0


def bare_rows(size: int) -> float:
    """Nothing is done with them: hardly any program lets go of the GIL more often."""
    read(size, len)
    return 0.0


def run(parts: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


PROGRAMS = {"computes": computes, "waits": waits, "mixed": mixed, "rows": rows, "bare_rows": bare_rows}

if __name__ == "__main__":
    name, size = sys.argv[1], int(sys.argv[2])
    began, cpu = time.perf_counter(), time.process_time()
    waited = PROGRAMS[name](size)
    cpu = time.process_time() - cpu
    print(json.dumps({"cpu": cpu, "alone": max(cpu, waited), "wall": time.perf_counter() - began}))
