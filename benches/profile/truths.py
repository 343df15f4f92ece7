"""Programs whose answer is known: `python truths.py NAME` runs one and prints its truth as JSON.

The truth is by thread (or task, or process) and state, in seconds: by construction, or measured by the program itself around
what it does, with the clocks of its threads. A key of several states joined by `+` is their sum.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import hashlib
import importlib.util
import json
import multiprocessing
import operator
import os
import queue
import select
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Truth = dict[str, dict[str, dict[str, float]]]
PROGRAMS: dict[str, Callable[[Truth], None]] = {}

WAIT = 0.05
TIMES = 10

LIBC = ctypes.PyDLL(None)  # it keeps the GIL: to let go of it may be a wait that no truth knows of


def program(function: Callable[[Truth], None]) -> Callable[[Truth], None]:
    PROGRAMS[function.__name__] = function
    return function


def run_queue() -> float:
    """How long this thread has waited for a core."""
    counts = ctypes.create_string_buffer(96)
    file = LIBC.open(b"/proc/thread-self/schedstat", os.O_RDONLY)
    LIBC.read(file, counts, len(counts) - 1)
    LIBC.close(file)
    return int(counts.value.split()[1]) / 1e9


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(1000):
            pass


def burn(seconds: float) -> None:
    """Spin for so much CPU time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        for _ in range(1000):
            pass


def around(call: Callable[[], object]) -> float:
    """How long a call takes, without a chance in between to give the GIL away."""
    began, _, ended = map(operator.call, (time.perf_counter, call, time.perf_counter))
    assert isinstance(began, float)
    assert isinstance(ended, float)
    return ended - began


BORN: dict[str, float] = {}  # when threads were started, by name


def asleep(call: Callable[[], object]) -> float:
    """The same but for the time that this thread is on a core meanwhile: a short wait takes some of that."""
    cpu = time.thread_time()
    wall = around(call)
    return wall - (time.thread_time() - cpu)


def together(truth: Truth, **parts: Callable[[], dict[str, float]]) -> None:
    """Run each part in a thread of its name; it returns its truth, to which CPU time is added."""
    threads = truth.setdefault("threads", {})

    def run(name: str, part: Callable[[], dict[str, float]]) -> None:
        given = part()
        cpu = time.thread_time()
        threads[name] = {**given, "on_cpu_gil+on_cpu_released": cpu, "ready": run_queue()}

    started = [threading.Thread(target=run, args=each, name=each[0]) for each in parts.items()]
    for thread in started:
        BORN[thread.name] = time.perf_counter()
        thread.start()
    for thread in started:
        thread.join()


def waiting(state: str, wait: Callable[[], object], times: int = TIMES) -> Callable[[], dict[str, float]]:
    return lambda: {state: sum(asleep(wait) for _ in range(times))}


@program
def waits(truth: Truth) -> None:
    """What threads wait for, one kind in each."""
    near, far = socket.socketpair()
    ours, theirs = os.pipe()
    items: queue.Queue[int] = queue.Queue()
    never, condition, semaphore = threading.Event(), threading.Condition(), threading.Semaphore(0)
    idle, _other = socket.socketpair()
    poller = select.poll()
    poller.register(idle, select.POLLIN)
    epoll = select.epoll()
    epoll.register(idle, select.EPOLLIN)

    def feeder() -> dict[str, float]:
        for _ in range(TIMES):
            time.sleep(WAIT)
            far.send(b"x")
            os.write(theirs, b"x")
            items.put(1)
            semaphore.release()
        return {}

    def on_condition() -> None:
        with condition:
            condition.wait(WAIT)

    together(
        truth,
        feeder=feeder,
        sleep=waiting("io_wait", lambda: time.sleep(WAIT)),
        socket=waiting("io_wait", lambda: near.recv(1)),
        pipe=waiting("io_wait", lambda: os.read(ours, 1)),
        select=waiting("io_wait", lambda: select.select([idle], [], [], WAIT)),
        poll=waiting("io_wait", lambda: poller.poll(WAIT * 1000)),
        epoll=waiting("io_wait", lambda: epoll.poll(WAIT)),
        event=waiting("lock_wait", lambda: never.wait(WAIT)),
        condition=waiting("lock_wait", on_condition),
        queue=waiting("lock_wait", items.get),
        semaphore=waiting("lock_wait", semaphore.acquire),
    )


@program
def short_waits(truth: Truth) -> None:
    """The same kinds, shorter than a look: a millisecond and less each."""
    near, far = socket.socketpair()
    never = threading.Event()

    def answers() -> dict[str, float]:
        for _ in range(200):
            time.sleep(0.001)
            far.send(b"x")
        return {}

    together(
        truth,
        sleep=waiting("io_wait", lambda: time.sleep(0.001), 200),
        answers=answers,
        socket=waiting("io_wait", lambda: near.recv(1), 200),
        event=waiting("lock_wait", lambda: never.wait(0.001), 200),
    )


@program
def alternating(truth: Truth) -> None:
    """One thread waits for time and for a lock in turns, each for less than a look."""
    never = threading.Event()

    def part() -> dict[str, float]:
        slept = waited = 0.0
        for _ in range(400):
            slept += asleep(lambda: time.sleep(0.001))
            waited += asleep(lambda: never.wait(0.001))
        return {"io_wait": slept, "lock_wait": waited}

    together(truth, both=part)


@program
def a_lock(truth: Truth) -> None:
    """One thread has a lock for 100 ms each time, another wants it."""
    lock, turn, over = threading.Lock(), threading.Barrier(2), threading.Barrier(2)

    def holder() -> dict[str, float]:
        slept = 0.0
        for _ in range(5):
            with lock:
                turn.wait()
                slept += around(lambda: time.sleep(0.1))
            over.wait()
        return {"io_wait": slept}

    def waiter() -> dict[str, float]:
        waited = 0.0
        for _ in range(5):
            turn.wait()
            waited += around(lock.acquire)
            lock.release()
            over.wait()
        return {"lock_wait": waited}

    together(truth, holder=holder, waiter=waiter)


@program
def results(truth: Truth) -> None:
    """Threads wait for a result, for a thread, for a child."""
    future: Future[int] = Future()
    other = threading.Thread(target=time.sleep, args=(0.4,), name="other")
    other.start()

    def gives() -> dict[str, float]:
        time.sleep(0.5)
        future.set_result(1)
        return {}

    together(
        truth,
        gives=gives,
        result=waiting("lock_wait", future.result, 1),
        join=waiting("lock_wait", other.join, 1),
        child=waiting("io_wait", lambda: subprocess.run(["sleep", "0.5"], check=True), 1),
    )


@program
def spinners(truth: Truth) -> None:
    """Two threads compute, and one sleeps."""

    def spinner() -> dict[str, float]:
        wall = around(lambda: spin(1.0))
        return {"gil_wait": wall - time.thread_time() - run_queue()}

    def sleeper() -> dict[str, float]:
        for _ in range(TIMES):
            time.sleep(WAIT)
        # It may wait for the GIL at any time, from its first instant on.
        wall = time.perf_counter() - BORN["sleeper"]
        return {"io_wait+gil_wait+ready": wall - time.thread_time()}

    # The first is there at once; who starts another beside spinners waits for the GIL meanwhile.
    together(truth, sleeper=sleeper, one=spinner, two=spinner)


@program
def holds_asleep(truth: Truth) -> None:
    """A call into C sleeps for 30 ms and keeps the GIL, beside one that computes."""
    usleep = LIBC.usleep

    def holder() -> dict[str, float]:
        held = 0.0
        for _ in range(10):
            time.sleep(0.005)
            held += around(functools.partial(usleep, 30_000))
        return {"gil_held_off_cpu": held}

    def spinner() -> dict[str, float]:
        wall = around(lambda: spin(0.5))
        return {"gil_wait": wall - time.thread_time() - run_queue()}

    together(truth, holder=holder, spinner=spinner)


@program
def released(truth: Truth) -> None:
    """C code that lets go of the GIL, and code that does not."""
    data = os.urandom(4 << 20)

    def part(call: Callable[[], object], state: str) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            spent = 0.0
            while spent < 0.3:
                began = time.thread_time()
                call()
                spent += time.thread_time() - began
            return {state: spent}

        return run

    for name, call, state in (
        ("sha256", lambda: hashlib.sha256(data).digest(), "on_cpu_released"),
        ("zlib", lambda: zlib.compress(data, 1), "on_cpu_released"),
        ("crc32", lambda: zlib.crc32(data), "on_cpu_released"),
        ("sorted", lambda: sorted(data[:200_000]), "on_cpu_gil"),
        ("python", lambda: sum(i * i for i in range(50_000)), "on_cpu_gil"),
    ):
        together(truth, **{name: part(call, state)})


def numpy_released(truth: Truth) -> None:
    """A product of matrices on one thread of numpy's, and beside it one that computes in Python."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import numpy as np

    matrix = np.ones((400, 400))

    def product() -> dict[str, float]:
        spent, end = 0.0, time.perf_counter() + 0.5
        while time.perf_counter() < end:
            began = time.thread_time()
            matrix @ matrix
            spent += time.thread_time() - began
        return {"on_cpu_released": spent}

    together(truth, product=product)


if importlib.util.find_spec("numpy"):
    program(numpy_released)


def burns(pid: Any, seconds: float) -> None:
    burn(seconds)
    pid.put((os.getpid(), time.process_time()))


@program
def processes(truth: Truth) -> None:
    """CPU time of children, by how they are started."""
    found = truth["processes"] = {}
    for kind in ("fork", "spawn"):
        context: Any = multiprocessing.get_context(kind)
        told = context.SimpleQueue()
        children = [context.Process(target=burns, args=(told, 0.3)) for _ in range(2)]
        for child in children:
            child.start()
        for _ in children:
            pid, _all = told.get()
            found[str(pid)] = {"on_cpu_gil+on_cpu_released": 0.3}
        for child in children:
            child.join()


@program
def crowded(truth: Truth) -> None:
    """Three processes on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()

    def spins() -> None:
        cpu, ready = time.thread_time(), run_queue()
        spin(0.9)
        told.put((os.getpid(), time.thread_time() - cpu, run_queue() - ready))

    children = [context.Process(target=spins) for _ in range(3)]
    for child in children:
        child.start()
    found = truth["processes"] = {}
    for _ in children:
        pid, cpu, ready = told.get()
        found[str(pid)] = {"on_cpu_gil+on_cpu_released": cpu, "ready": ready}
    for child in children:
        child.join()


async def steps(made: float, computing: float, sleeping: float, times: int) -> tuple[float, float]:
    ran, awaited = 0.0, time.perf_counter() - made
    for _ in range(times):
        began = time.perf_counter()
        spin(computing)
        ended = time.perf_counter()
        await asyncio.sleep(sleeping)
        ran += ended - began
        awaited += time.perf_counter() - ended
    return ran, awaited


@program
def tasks(truth: Truth) -> None:
    """Tasks that compute and wait, one that blocks the loop, one that waits for an executor."""

    async def blocks() -> float:
        await asyncio.sleep(0.05)
        blocked = around(lambda: time.sleep(0.2))
        await asyncio.sleep(0.05)
        return blocked

    async def executor(made: float) -> float:
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.3)
        return time.perf_counter() - made

    async def main() -> None:
        stepping = {
            "busy": asyncio.create_task(steps(time.perf_counter(), 0.01, 0.02, 15), name="busy"),
            "calm": asyncio.create_task(steps(time.perf_counter(), 0.001, 0.05, 10), name="calm"),
        }
        waits = asyncio.create_task(executor(time.perf_counter()), name="executor")
        found = truth["tasks"] = {}
        for name, task in stepping.items():
            ran, awaited = await task
            found[name] = {"running": ran, "awaiting+ready": awaited}
        found["executor"] = {"awaiting+ready": await waits}
        found["blocks"] = {"longest_step": await asyncio.create_task(blocks(), name="blocks")}

    asyncio.run(main())


@program
def executor(truth: Truth) -> None:
    """A pool's worker works, waits, and then has nothing to do."""
    with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:

        def work() -> float:
            burn(0.2)
            return around(lambda: time.sleep(0.2))

        slept = pool.submit(work).result()
        idle = around(lambda: time.sleep(0.4))
        truth["threads"] = {"worker_0": {"io_wait": slept, "on_cpu_gil": 0.2, "idle": idle}}
        truth["threads"]["MainThread"] = {"lock_wait": 0.2 + slept, "io_wait": idle}


@program
def rows(truth: Truth) -> None:
    """SQLite lets go of the GIL for every row."""

    def reader() -> dict[str, float]:
        connection = sqlite3.connect(":memory:")
        source = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000) SELECT x FROM n"
        for _row in connection.execute(source):
            pass
        connection.close()
        return {}

    together(truth, reader=reader)


@program
def bursts(truth: Truth) -> None:
    """Some rows of SQLite each time before a call that lasts: for longer than a look, or for less."""
    data = os.urandom(4 << 20)
    source = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?) SELECT x FROM n"

    def part(
        rows: int, call: Callable[[], object], state: str, clock: Callable[[], float] = time.thread_time
    ) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            connection, spent = sqlite3.connect(":memory:"), 0.0
            while spent < 0.3:
                for _row in connection.execute(source, (rows,)):
                    pass
                began = clock()
                call()
                spent += clock() - began
            connection.close()
            return {state: spent}

        return run

    for name, rows, call, state in (
        ("released", 100, lambda: hashlib.sha256(data).digest(), "on_cpu_released"),
        ("held", 1000, lambda: sum(i * i for i in range(1_000_000)), "on_cpu_gil"),
        ("short_released", 60, lambda: zlib.crc32(data), "on_cpu_released"),
        ("short_held", 60, lambda: sorted(data[:20_000]), "on_cpu_gil"),
    ):
        together(truth, **{name: part(rows, call, state)})

    def off_cpu() -> float:
        return time.perf_counter() - time.thread_time()

    for name, rows, length in (("blocked", 3000, WAIT), ("short_blocked", 300, 0.001)):
        together(truth, **{name: part(rows, functools.partial(time.sleep, length), "io_wait+ready", off_cpu)})


@program
def bursts_and_waits(truth: Truth) -> None:
    """One thread reads rows of SQLite all the time, another comes now and then and computes, and has to wait for the GIL."""
    over = threading.Event()

    def reader() -> dict[str, float]:
        connection = sqlite3.connect(":memory:")
        source = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000) SELECT x FROM n"
        began = time.perf_counter()
        while not over.is_set():
            for _row in connection.execute(source):
                pass
        wall = time.perf_counter() - began
        waited = wall - time.thread_time() - run_queue()
        connection.close()
        return {"gil_wait": waited}

    def visitor() -> dict[str, float]:
        slept = waited = 0.0
        for _ in range(40):
            slept += around(lambda: time.sleep(0.01))
            cpu, queued = time.thread_time(), run_queue()
            wall = around(lambda: sum(i * i for i in range(100_000)))
            waited += wall - (time.thread_time() - cpu) - (run_queue() - queued)
        over.set()
        return {"io_wait+gil_wait": slept + waited}

    together(truth, reader=reader, visitor=visitor)


if __name__ == "__main__":
    known: Truth = {}
    PROGRAMS[sys.argv[1]](known)
    print(json.dumps(known))
