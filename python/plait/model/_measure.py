"""Measures what this machine and interpreter take for themselves, in less than two seconds.

Each figure is the median of a few rounds, and its spread is how far those were apart. Where it is a CPU time, the kernel's
account is read, so that other programs' load does not count. What cannot be seen from here keeps the simulator's typical value
with its wide spread: what a core takes to go from one thread to another, and how likely a short release of the GIL hands it
over.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import select
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable

from plait import _core
from plait.loop._runner import run
from plait.model._costs import Cost, Costs
from plait.processes._pool import ProcessPool
from plait.threads._pool import ThreadPool

_LEAST_SPREAD = 0.05
_MOST_CORES = 16


def measure_speed() -> float:
    """Seconds that this machine takes now for a fixed piece of Python, to compare work and costs of different times.

    >>> from plait.model import measure_speed
    >>> 0 < measure_speed() < 1
    True
    """
    return statistics.median(_loop_seconds() for _ in range(9))


def measure() -> Costs:
    """Measure all of it, in a process that does nothing else."""
    known: dict[str, Cost] = {}
    known["speed"] = Cost(1.0, max(_LEAST_SPREAD, _spread([_loop_seconds() for _ in range(15)])))
    known["wake"] = _cost(_wake_seconds, 5)
    known["gil_signal"] = _signal_cost()
    known["gil_release"] = _release_cost(known["gil_signal"].seconds / known["wake"].seconds)
    known["gil_switch"] = _switch_cost()
    known |= _thread_costs()
    known |= _process_costs()
    known |= _loop_costs()
    # An interpreter's own pool has not been measured: its tasks are taken for those of processes.
    known |= {name.replace("processes", "interpreters"): cost for name, cost in known.items() if "processes." in name}
    return Costs(known, _core_speeds(), measure_speed())


def _cost(seconds: Callable[[], float], rounds: int) -> Cost:
    measured = [seconds() for _ in range(rounds)]
    return Cost(max(0.0, statistics.median(measured)), max(_LEAST_SPREAD, _spread(measured)))


def _spread(values: list[float]) -> float:
    """Relative standard deviation, by the middle half: one round that was disturbed does not count."""
    middle = statistics.median(values)
    if middle <= 0:
        return 1.0
    low, _, high = statistics.quantiles(values, n=4)
    return min(1.0, (high - low) / 1.35 / middle)


def _spin(steps: int) -> int:
    total = 0
    for number in range(steps):
        total += number * number & 7
    return total


def _loop_seconds() -> float:
    begin = time.perf_counter()
    _spin(10_000)
    return time.perf_counter() - begin


def _nothing(value: object) -> object:
    return value


def _wake_seconds(turns: int = 200) -> float:
    """Two threads wake each other in turn: half of a round trip."""
    ping, pong = threading.Lock(), threading.Lock()
    ping.acquire()
    pong.acquire()

    def answer() -> None:
        for _ in range(turns):
            ping.acquire()
            pong.release()

    thread = threading.Thread(target=answer)
    thread.start()
    begin = time.perf_counter()
    for _ in range(turns):
        ping.release()
        pong.acquire()
    seconds = time.perf_counter() - begin
    thread.join()
    return seconds / turns / 2


def _together(work: Callable[[], object], threads: int) -> float:
    """Seconds until so many threads have each done it."""
    others = [threading.Thread(target=work) for _ in range(threads - 1)]
    begin = time.perf_counter()
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    return time.perf_counter() - begin


def _release_cost(signalled: float, releases: int = 15_000) -> Cost:
    """What a release of the GIL costs more when another thread wants it, whose releases are as short; beside the signal to it, which
    takes that share of the time between two releases.
    """

    def release() -> None:
        for _ in range(releases):
            select.select((), (), (), 0)

    def extra() -> float:
        alone = _together(release, 1)
        return (_together(release, 2) - (2 + 2 * signalled) * alone) / (2 * releases)

    cost = _cost(extra, 3)
    return Cost(cost.seconds, max(cost.spread, 0.3))


def _signal_cost(turns: int = 250, rounds: int = 6) -> Cost:
    """CPU time of a release of the GIL that finds another thread asleep for it: releases further apart than a wake-up."""

    def release() -> None:
        for _ in range(turns):
            select.select((), (), (), 0)
            _spin(800)

    alone, both = _cpu_of(release, 1, 2 * rounds), _cpu_of(release, 2, rounds)
    return _believed((both - alone) / (2 * turns * rounds), 1e-6, 30e-6)


def _cpu_of(work: Callable[[], object], threads: int, rounds: int) -> float:
    begin = time.process_time()
    for _ in range(rounds):
        _together(work, threads)
    return time.process_time() - begin


def _believed(seconds: float, least: float, most: float) -> Cost:
    """A small difference of large figures: what cannot be is not believed."""
    return Cost(min(max(seconds, least), most), 0.5)


def _switch_cost(steps: int = 150, rounds: int = 5) -> Cost:
    """CPU time that is lost with each switch of the GIL between two threads that compute in turns of one interval."""

    def build() -> None:
        for _ in range(steps):
            {str(number): [number] for number in range(500)}  # what it touches is what caches lose

    alone, both = _cpu_of(build, 1, 2 * rounds), _cpu_of(build, 2, rounds)
    return _believed((both - alone) / max(1.0, both / sys.getswitchinterval()), 20e-6, 100e-6)


def _thread_costs(tasks: int = 2000) -> dict[str, Cost]:
    with ThreadPool(2) as pool:
        list(pool.map(_nothing, range(tasks)))

        def each() -> float:
            begin = time.process_time()
            list(pool.map(_nothing, range(tasks)))
            return (time.process_time() - begin) / tasks

        task = _cost(each, 7)

    def start() -> float:
        begin = time.perf_counter()
        with ThreadPool(2) as fresh:
            list(fresh.map(_nothing, range(2)))
        return (time.perf_counter() - begin) / 2

    worker = _cost(start, 5)
    # Under the GIL only the sum can be seen.
    return {
        "threads.submit": _part(task, 0.3),
        "threads.run": _part(task, 0.5),
        "threads.collect": _part(task, 0.2),
        "threads.start": _part(worker, 0.5),
        "threads.start_caller": _part(worker, 0.5),
    }


def _part(cost: Cost, share: float) -> Cost:
    return Cost(cost.seconds * share, cost.spread)


def _process_costs(tasks: int = 500, size: int = 1 << 22) -> dict[str, Cost]:
    def start(workers: int) -> float:
        begin = time.perf_counter()
        with ProcessPool(workers) as fresh:
            list(fresh.map(_nothing, range(workers), chunksize=1))
            return time.perf_counter() - begin

    start(1)  # the fork server starts with the first
    one, two = _cost(lambda: start(1), 3), _cost(lambda: start(2), 3)
    caller = min(max(0.0, two.seconds - one.seconds), one.seconds / 2)
    with ProcessPool(1) as pool:
        list(pool.map(_nothing, range(tasks), chunksize=1))
        own: list[float] = []

        def each() -> float:
            begin, cpu = time.perf_counter(), time.process_time()
            list(pool.map(_nothing, range(tasks), chunksize=1))
            own.append((time.process_time() - cpu) / tasks)
            return (time.perf_counter() - begin) / tasks

        task = _cost(each, 5)
        mine = min(statistics.median(own), task.seconds)
        byte = _cost(lambda: _byte_seconds(pool, size, task.seconds), 5)
    spread = max(task.spread, _spread(own))
    return {
        "processes.submit": Cost(mine * 0.6, spread),
        "processes.run": Cost(task.seconds * 0.9, spread),
        "processes.collect": Cost(mine * 0.4, spread),
        "processes.start": Cost(one.seconds - caller, max(one.spread, 0.1)),
        "processes.start_caller": Cost(caller, 0.3),
        "byte": Cost(byte.seconds, max(byte.spread, 0.3)),
    }


def _byte_seconds(pool: ProcessPool, size: int, task: float) -> float:
    """A byte's way there and back, on each of its four ends, beside pickling and unpickling."""
    data = os.urandom(16) * (size // 16)
    begin = time.perf_counter()
    pickled = pickle.dumps(data, pickle.HIGHEST_PROTOCOL)
    pickle.loads(pickled)
    copies = time.perf_counter() - begin
    begin = time.perf_counter()
    pool.submit(_nothing, data).result()
    seconds = time.perf_counter() - begin - task - 2 * copies
    return max(0.0, seconds) / (4 * size)


def _loop_costs(tasks: int = 500) -> dict[str, Cost]:
    async def task() -> None:
        await asyncio.sleep(0)

    async def each() -> float:
        begin = time.thread_time()
        await asyncio.gather(*(task() for _ in range(tasks)))
        return (time.thread_time() - begin) / tasks

    async def wake(turns: int = 200) -> float:
        """A task waits for a descriptor: what registering, looking and waking take."""
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        with near, far:
            sending = 0.0
            begin = time.thread_time()
            for _ in range(turns):
                waiting = asyncio.ensure_future(loop.sock_recv(near, 1))
                await asyncio.sleep(0)
                sent = time.thread_time()
                far.send(b"x")
                sending += time.thread_time() - sent
                await waiting
            return (time.thread_time() - begin - sending) / turns

    async def measure() -> tuple[list[float], list[float]]:
        return [await each() for _ in range(7)], [await wake() for _ in range(5)]

    def start() -> float:
        begin = time.perf_counter()
        run(asyncio.sleep(0))
        return time.perf_counter() - begin

    steps, waits = run(measure())
    per_task = statistics.median(steps)
    return {
        "loop.task": Cost(per_task, max(_LEAST_SPREAD, _spread(steps))),
        # The rounds make a task each, which is counted already.
        "loop.wake": Cost(max(per_task / 2, statistics.median(waits) - per_task), max(0.2, _spread(waits))),
        "loop.start": _cost(start, 5),
    }


def _core_speeds() -> tuple[float, ...]:
    """Of each core beside one that is busy alone: by the CPU time of the same work, so that others' load does not count."""
    cores = min(_core.usable_cpus(), _MOST_CORES)
    data = bytes(1 << 18)

    def once(busy: int) -> float:
        found: list[float] = []

        def work() -> None:
            begin = time.thread_time()
            for _ in range(8):
                hashlib.sha256(data).digest()
            found.append(time.thread_time() - begin)

        _together(work, busy)
        return statistics.mean(found)

    def seconds(busy: int) -> float:
        return min(once(busy) for _ in range(5))

    if cores == 1:
        return ()
    steps = sorted({1, 2, *(1 << power for power in range(2, 5) if 1 << power <= cores), cores})
    taken = {busy: seconds(busy) for busy in steps}
    speeds: list[float] = []
    for busy in range(1, cores + 1):
        nearest = max(step for step in steps if step <= busy)
        speeds.append(min(1.0, taken[1] / taken[nearest]))
    # Less than the figure is sure of is no difference.
    return tuple(1.0 if speed > 0.95 else speed for speed in speeds)
