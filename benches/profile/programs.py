"""What is profiled: `python programs.py NAME SIZE` runs one and prints what it took; with a third word, under `plait.watch()`.

`cpu` is the CPU time of the whole process while it works, with all of its threads, whoever made them, and `wall` is by the
clock.
"""

from __future__ import annotations

import ast
import asyncio
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


def computes(size: int) -> None:
    """Reads source: nothing but Python and calls of C that keep the GIL."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:size]
    for file in files:
        source = file.read_bytes()
        ast.parse(source)
        sum(1 for _ in tokenize.tokenize(io.BytesIO(source).readline))


def waits(size: int, length: float = SLEEP) -> None:
    """Eight threads that wait for a millisecond each time, and do a little between."""

    def part() -> None:
        for number in range(size):
            time.sleep(length)
            json.loads(json.dumps({"number": number, "list": list(range(20))}))

    run([part] * 8)


def longer_waits(size: int) -> None:
    """The same with waits as long as those for a server."""
    waits(size, 10 * SLEEP)


def mixed(size: int) -> None:
    """Four threads that wait beside one that computes."""
    done = threading.Event()

    def part() -> None:
        while not done.is_set():
            time.sleep(SLEEP)

    def computing() -> None:
        computes(size)
        done.set()

    run([part] * 4 + [computing])


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


def rows(size: int) -> None:
    """Something is done with each row: about 850 ns from one letting go to the next, which is 2.7 million in 2.3 s."""

    def use(row: tuple[int, str, float, str]) -> None:
        number, name, value, note = row
        json.loads(json.dumps({"id": number, "name": name.title(), "value": round(value, 2), "note": note}))

    read(size, use)


def bare_rows(size: int) -> None:
    """Nothing is done with them: hardly any program lets go of the GIL more often."""
    read(size, len)


def tasks(size: int) -> None:
    """A hundred tasks of an event loop that wait for a millisecond each time, and do a little between."""

    async def part() -> None:
        for number in range(size):
            await asyncio.sleep(SLEEP)
            json.loads(json.dumps({"number": number, "list": list(range(20))}))

    async def main() -> None:
        await asyncio.gather(*(part() for _ in range(100)))

    asyncio.run(main())


def nothing(size: int) -> None:
    """What is left is what a profiler itself takes to begin and end."""


def run(parts: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


PROGRAMS = {
    "nothing": nothing,
    "computes": computes,
    "waits": waits,
    "longer_waits": longer_waits,
    "mixed": mixed,
    "tasks": tasks,
    "rows": rows,
    "bare_rows": bare_rows,
}

if __name__ == "__main__":
    name, size, *watch = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
    if watch:
        import plait

        plait.watch()
    began, cpu = time.perf_counter(), time.process_time()
    PROGRAMS[name](size)
    cpu = time.process_time() - cpu
    print(json.dumps({"cpu": cpu, "wall": time.perf_counter() - began}))
