"""Programs whose answer is known by construction, and that measure it themselves while they are profiled.

    python _truths.py NAME FILE [without-switches]

runs one under `plait.profile` and writes its truth and the profile to FILE; the last has the kernel refuse to tell of
switches. What a program measures with its own clocks in the same run is the truth, however busy the machine: CPU time of a
thread, its time on the run queue, and the time around what waits.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import hashlib
import json
import multiprocessing
import operator
import os
import platform
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plait

Truth = dict[str, Any]
PROGRAMS: dict[str, Callable[[Truth], None]] = {}


def program(function: Callable[[Truth], None]) -> Callable[[Truth], None]:
    PROGRAMS[function.__name__] = function
    return function


def run_queue() -> float:
    """How long this thread has waited for a core, in all."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def timed(call: Callable[[], object]) -> float:
    """How long a call takes, without a chance in between to give the GIL away."""
    began, _, ended = map(operator.call, (time.perf_counter, call, time.perf_counter))
    assert isinstance(began, float)
    assert isinstance(ended, float)
    return ended - began


class Waits(list[float]):
    """Lengths of what is done under `with waits.each():`, by the clock."""

    @contextmanager
    def each(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.append(time.perf_counter() - began)


def together(truth: Truth, **parts: Callable[[], object]) -> None:
    """Run each part in a thread of its name, and note what each has measured of itself."""
    found = truth.setdefault("threads", {})

    def run(name: str, part: Callable[[], object]) -> None:
        given = part()
        found[name] = {"cpu": time.thread_time(), "ready": run_queue(), "measured": given}

    threads = [threading.Thread(target=run, args=each, name=each[0]) for each in parts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(1000):
            pass


@program
def holds_off_cpu(truth: Truth) -> None:
    """A call into C sleeps for 30 ms and keeps the GIL, beside a thread that computes."""
    usleep = ctypes.PyDLL(None).usleep

    def holder() -> list[float]:
        holds = []
        for _ in range(10):
            time.sleep(0.005)
            holds.append(timed(functools.partial(usleep, 30_000)))
        return holds

    together(truth, holder=holder, spinner=lambda: spin(0.5))


@program
def holds_on_cpu(truth: Truth) -> None:
    """Sorting takes long and keeps the GIL; the other thread measures how much later its sleeps end."""
    values = [str(i * 7_919 % 1_000_003) for i in range(60_000)]

    def sorter() -> list[float]:
        holds = []
        for _ in range(10):
            time.sleep(0.005)
            holds.append(timed(functools.partial(sorted, values)))
        return holds

    def sleeper() -> list[float]:
        late = []
        for _ in range(40):
            began = time.perf_counter()
            time.sleep(0.01)
            late.append(time.perf_counter() - began - 0.01)
        return late

    together(truth, sorter=sorter, sleeper=sleeper)


def sleeps(count: int, length: float) -> list[float]:
    waits = Waits()
    for _ in range(count):
        with waits.each():
            time.sleep(length)
    return waits


@program
def spinners_and_sleeper(truth: Truth) -> None:
    together(truth, one=lambda: spin(1.0), two=lambda: spin(1.0), sleeper=lambda: sleeps(10, 0.08))


@program
def stages(truth: Truth) -> None:
    """Many threads fetch something and queue for the GIL for a short while; then one computes for longer."""

    def fetch() -> list[float]:
        waited = sleeps(1, 0.05)
        spin(0.003)
        return waited

    began = time.perf_counter()
    together(truth, **{f"fetcher{number}": fetch for number in range(40)})
    spin(5 * (time.perf_counter() - began))


@program
def sleepers(truth: Truth) -> None:
    together(truth, **{f"sleeper{i}": lambda: sleeps(4, 0.1) for i in range(4)})


@program
def slow_pipe(truth: Truth) -> None:
    ours, theirs = os.pipe()

    def writer() -> None:
        for _ in range(8):
            time.sleep(0.08)
            os.write(theirs, b"x")
        os.close(theirs)

    def reader() -> list[float]:
        waits = Waits()
        more = b"x"
        while more:
            with waits.each():
                more = os.read(ours, 1)
        os.close(ours)
        return waits

    together(truth, reader=reader, writer=writer)


def spins_in_a_process(results: Any, seconds: float) -> None:
    cpu, ready = time.thread_time(), run_queue()
    spin(seconds)
    results.put((os.getpid(), time.thread_time() - cpu, run_queue() - ready))


@program
def too_few_cores(truth: Truth) -> None:
    """Three processes compute on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    children = [context.Process(target=spins_in_a_process, args=(results, 1.0)) for _ in range(3)]
    for child in children:
        child.start()
    truth["processes"] = [results.get() for _ in children]
    for child in children:
        child.join()


async def blocked_loop(truth: Truth) -> None:
    waits = Waits()

    async def blocks() -> None:
        await asyncio.sleep(0.05)
        with waits.each():
            time.sleep(0.2)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0.05)

    async def polite() -> list[float]:
        late = []
        for _ in range(12):
            began = time.perf_counter()
            await asyncio.sleep(0.02)
            late.append(time.perf_counter() - began - 0.02)
        return late

    other = asyncio.create_task(polite(), name="polite")
    await asyncio.create_task(blocks(), name="blocks")
    truth["late"] = await other
    truth["blocked"] = waits


@program
def asyncio_blocked(truth: Truth) -> None:
    asyncio.run(blocked_loop(truth))


@program
def plait_blocked(truth: Truth) -> None:
    plait.run(blocked_loop(truth))


def convoy(truth: Truth, lock: Any) -> None:
    def part() -> list[float]:
        waits = Waits()
        for _ in range(5):
            with waits.each():
                lock.acquire()
            time.sleep(0.03)
            lock.release()
        return waits

    together(truth, **{f"part{i}": part for i in range(3)})


@program
def standard_convoy(truth: Truth) -> None:
    convoy(truth, threading.Lock())


@program
def plait_convoy(truth: Truth) -> None:
    convoy(truth, plait.Lock())


@program
def turns(truth: Truth) -> None:
    """A thread sleeps and waits for locks in turns, each time for less than a look, and not for long in all."""
    event, own = threading.Event(), plait.Event()

    def asleep(call: Callable[[], object]) -> float:
        cpu = time.thread_time()
        wall = timed(call)
        return wall - (time.thread_time() - cpu)

    def part() -> dict[str, float]:
        slept = waited = 0.0
        for _ in range(40):
            slept += asleep(lambda: time.sleep(0.002))
            waited += asleep(lambda: event.wait(0.001))
            waited += asleep(lambda: own.wait(0.001))
        return {"io_wait": slept, "lock_wait": waited}

    together(truth, part=part)


@program
def hashes_beside_spinner(truth: Truth) -> None:
    """Hashing lets go of the GIL, so both compute at once as far as there are cores."""
    data = bytes(8 << 20)

    def hasher() -> float:
        began = time.thread_time()
        end = time.perf_counter() + 0.8
        while time.perf_counter() < end:
            hashlib.sha256(data).digest()
        return time.thread_time() - began

    together(truth, hasher=hasher, spinner=lambda: spin(0.8))


@program
def hashes_crowded(truth: Truth) -> None:
    """Four threads compute on two cores, without the GIL."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    data = bytes(8 << 20)

    def hasher() -> None:
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            hashlib.sha256(data).digest()

    together(truth, one=hasher, two=hasher, three=hasher, four=hasher)


@program
def rows(truth: Truth) -> None:
    """SQLite lets go of the GIL for every row."""
    count = 200_000

    def reader() -> int:
        connection = sqlite3.connect(":memory:")
        source = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?) SELECT x FROM n"
        found = sum(1 for _ in connection.execute(source, (count,)))
        connection.close()
        return found

    together(truth, reader=reader)


@program
def bursts(truth: Truth) -> None:
    """Thousands of rows, and then a call that lasts, asleep or not, with the GIL or without; then somebody comes and waits."""
    source = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000) SELECT x FROM n"
    data = bytes(40 << 20)

    def before(call: Callable[[], object]) -> Callable[[], dict[str, float]]:
        def part() -> dict[str, float]:
            connection, found = sqlite3.connect(":memory:"), {"wall": 0.0, "cpu": 0.0}
            for _ in range(4):
                for _row in connection.execute(source):
                    pass
                cpu = time.thread_time()
                found["wall"] += timed(call)
                found["cpu"] += time.thread_time() - cpu
            connection.close()
            return found

        return part

    together(truth, sleeps=before(lambda: time.sleep(0.05)))
    together(truth, hashes=before(lambda: hashlib.sha256(data).digest()))
    together(truth, counts=before(lambda: sum(number * number for number in range(400_000))))

    def visitor() -> dict[str, float]:
        time.sleep(0.1)
        wall, cpu, queued = time.perf_counter(), time.thread_time(), run_queue()
        sum(number * number for number in range(1_000_000))
        ran = time.thread_time() - cpu
        return {"waited": time.perf_counter() - wall - ran - (run_queue() - queued)}

    def reader() -> None:
        connection, end = sqlite3.connect(":memory:"), time.perf_counter() + 0.4
        while time.perf_counter() < end:
            for _row in connection.execute(source):
                pass
        connection.close()

    together(truth, reader=reader, visitor=visitor)


@program
def habits(truth: Truth) -> None:
    """Some rows and a call that lasts a little, in turns: at first one that keeps the GIL, then one that does not."""
    source = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 60) SELECT x FROM n"
    values, data = os.urandom(20_000), bytes(1 << 20)

    def phases(call: Callable[[], object], clock: Callable[[], float]) -> Callable[[], float]:
        def part() -> float:
            connection = sqlite3.connect(":memory:")

            def phase(call: Callable[[], object], clock: Callable[[], float], seconds: float) -> float:
                spent = 0.0
                while spent < seconds:
                    for _row in connection.execute(source):
                        pass
                    began, _, ended = map(operator.call, (clock, call, clock))
                    assert isinstance(began, float)
                    assert isinstance(ended, float)
                    spent += ended - began
                return spent

            phase(functools.partial(sorted, values), time.thread_time, 1.5)
            found = phase(call, clock, 0.5)
            connection.close()
            return found

        return part

    # What the calls compute is no wait, and is much where each lasts for so little.
    together(truth, sleeps=phases(lambda: time.sleep(0.0005), lambda: time.perf_counter() - time.thread_time()))
    together(truth, sums=phases(lambda: zlib.crc32(data), time.thread_time))


def works(seconds: float) -> tuple[int, float]:
    began = time.process_time()
    spin(seconds)
    return os.getpid(), time.process_time() - began


ALONE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import _truths; print(*_truths.works(0.3))"


@program
def children(truth: Truth) -> None:
    """What each child has computed, by kind."""
    found = truth["children"] = {}
    out = subprocess.run([sys.executable, "-c", ALONE], check=True, capture_output=True, text=True).stdout.split()
    found["subprocess"] = [(int(out[0]), float(out[1]))]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found["multiprocessing"] = [pool.apply(works, (0.3,))]
        pool.close()  # the end of the block would kill it
        pool.join()
    with plait.ProcessPool(2) as own:
        found["plait"] = list(own.map(works, [0.3, 0.3]))


@program
def killed_child(truth: Truth) -> None:
    """A child computes for a second and is killed while it does."""
    source = ALONE.replace("works(0.3)", "works(1.0)") + "; print(flush=True); _truths.spin(60)"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid, cpu = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
    truth["child"] = (int(pid), float(cpu))


@program
def idle_pool(truth: Truth) -> None:
    """Workers of pools have work for a while and then none."""
    with (
        ThreadPoolExecutor(1, thread_name_prefix="standard") as standard,
        plait.ThreadPool(1, thread_name_prefix="plait") as own,
        plait.ProcessPool(1) as processes,
    ):
        for begun in [each.submit(time.sleep, 0.2) for each in (standard, own, processes)]:
            begun.result()
        truth["idle"] = sleeps(1, 0.5)


def without_switches() -> None:
    """Have the kernel refuse `perf_event_open` from now on, as a sandbox does."""
    call = {"x86_64": 298, "aarch64": 241}[platform.machine()]
    # The number of the call; that one is refused, the others are not.
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, filters, 0, 0) == 0, os.strerror(ctypes.get_errno())


def main(name: str, file: str, *refused: str) -> None:
    truth: Truth = {}
    if refused:
        without_switches()
    with plait.profile() as found:
        PROGRAMS[name](truth)
    Path(file).write_text(json.dumps({"truth": truth, "profile": found.record}))


if __name__ == "__main__":
    main(*sys.argv[1:])
