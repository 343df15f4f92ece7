"""Soak: one process pool under random deaths, timeouts, kills and cancellations for minutes, everything accounted for.

    make soak MINUTES=10

Four threads give the pool tasks of every kind while a fifth kills workers at random. Each task must end, within a minute,
in one of the ways that its kind allows. Every ten seconds a line says what happened so far; at the end no process may be
left, and no more files may be open than after the first seconds. `--seed` repeats the choices, not the timing.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import faulthandler
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import plait

PATIENCE = 60.0


def echo(value: Any) -> Any:
    return value


def fail(value: int) -> None:
    raise ValueError(value)


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def descendants() -> dict[int, int]:
    """Living descendants of this process, each with its parent."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = entry.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    ours = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= grown
    return {pid: parents[pid] for pid in ours - {os.getpid()}}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


class Soak:
    """The pool under test and the book of what became of its tasks."""

    def __init__(self, pool: plait.ProcessPool, seed: int) -> None:
        self.pool = pool
        self.seed = seed
        self.ended = threading.Event()
        self.book: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def caller(self, number: int) -> None:
        """Give tasks until the end; `one` raises what no kind of task allows."""
        random_ = random.Random(self.seed * 1000 + number)
        while not self.ended.is_set() and not self.wrong:
            kind = random_.choice([self.reply, self.large, self.retried, self.error, self.late, self.killed])
            if random_.random() < 0.1:
                kind = random_.choice([self.death, self.many, self.cancelled])
            try:
                kind(random_)
            except plait.WorkerDied:
                self.book["worker died"] += 1  # the killer may hit any task that is not retried
            except Exception as error:
                self.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            else:
                self.book[kind.__name__] += 1

    def reply(self, random_: random.Random) -> None:
        value = random_.choice([random_.random(), str(random_.random()), (1, None, b"x"), {"a": [1]}])
        expect(self.pool.submit(echo, value).result(PATIENCE), value)

    def large(self, random_: random.Random) -> None:
        value = random_.randbytes(random_.choice([600, 40_000, 3_000_000]))
        expect(self.pool.submit(echo, value).result(PATIENCE), value)

    def retried(self, random_: random.Random) -> None:
        value = random_.random()
        try:
            expect(self.pool.options(retries=100).submit(echo, value).result(PATIENCE), value)
        except plait.WorkerDied as error:
            raise AssertionError(f"not retried: {error}") from error

    def error(self, random_: random.Random) -> None:
        try:
            self.pool.submit(fail, 7).result(PATIENCE)
        except ValueError as error:
            expect(error.args, (7,))
        else:
            raise AssertionError("no error came back")

    def late(self, random_: random.Random) -> None:
        try:
            self.pool.options(timeout=random_.uniform(0.001, 0.1)).submit(time.sleep, PATIENCE).result(PATIENCE)
        except plait.TaskTimeout:
            return
        raise AssertionError("a late task was not ended")

    def killed(self, random_: random.Random) -> None:
        future = self.pool.submit(time.sleep, PATIENCE)
        time.sleep(random_.uniform(0, 0.05))
        future.kill()
        try:
            future.result(PATIENCE)
        except (plait.TaskCancelled, concurrent.futures.CancelledError):
            return
        raise AssertionError("a killed task was not ended")

    def death(self, random_: random.Random) -> None:
        try:
            self.pool.submit(die, random_.choice([signal.SIGKILL, signal.SIGSEGV])).result(PATIENCE)
        except plait.WorkerDied:
            return
        raise AssertionError("a death was not seen")

    def many(self, random_: random.Random) -> None:
        count = random_.randrange(1, 2000)
        numbers = range(count)
        expect(list(self.pool.options(retries=100).map(echo, numbers, timeout=PATIENCE)), list(numbers))

    def cancelled(self, random_: random.Random) -> None:
        futures = [self.pool.submit(echo, index) for index in range(50)]
        gone = [future.cancel() for future in futures]
        for index, (future, went) in enumerate(zip(futures, gone, strict=True)):
            if went:
                expect(future.cancelled(), True)
            else:
                expect(future.result(PATIENCE), index)

    def killer(self) -> None:
        """Kill a random worker (a child of a child of ours) about twice a second."""
        random_ = random.Random(self.seed)
        while not self.ended.wait(random_.uniform(0.1, 1.0)):
            workers = [pid for pid, parent in descendants().items() if parent != os.getpid()]
            if workers:
                try:
                    os.kill(random_.choice(workers), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.book["kills"] += 1


def expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise AssertionError(f"got {str(got)[:80]} instead of {str(wanted)[:80]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"soak: {arguments.minutes:g} minutes, seed {arguments.seed}", flush=True)
    began = time.monotonic()
    with plait.ProcessPool() as pool:
        expect(pool.submit(echo, 1).result(PATIENCE), 1)
        soak = Soak(pool, arguments.seed)
        threads = [threading.Thread(target=soak.caller, args=(number,)) for number in range(4)]
        threads.append(threading.Thread(target=soak.killer))
        for thread in threads:
            thread.start()
        first = 0
        while time.monotonic() - began < arguments.minutes * 60 and not soak.wrong:
            time.sleep(min(10.0, arguments.minutes * 60))
            first = first or open_files()
            facts = ", ".join(f"{count} {what}" for what, count in sorted(soak.book.items()))
            seconds = time.monotonic() - began
            print(f"{seconds:6.0f} s  {open_files()} files  {resident_mib():.0f} MiB  {facts}", flush=True)
        soak.ended.set()
        faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
        for thread in threads:
            thread.join()
    faulthandler.cancel_dump_traceback_later()
    deadline = time.monotonic() + 5.0
    while (left := [pid for pid, parent in descendants().items() if parent != os.getpid()]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    if left:
        soak.wrong.append(f"processes left after the pool's end: {left}")
    if open_files() > first + 8:
        soak.wrong.append(f"{open_files()} files are open, and were {first} after the first seconds")
    for line in soak.wrong:
        print(f"soak: WRONG: {line}")
    print(f"soak: {'FAILED' if soak.wrong else 'ok'}, {sum(soak.book.values())} tasks and kills")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
