"""Measures what this machine and interpreter take for themselves, in less than two seconds.

Each figure is the median of a few rounds, and its spread is how far those were apart. The machine's speed is looked at around
each round, since it changes within milliseconds where other virtual machines share its cores: what is compared and kept is what
a round takes at the same speed. Where it is a CPU time, the kernel's account is read, so that other programs' load does not
count. What cannot be seen from here keeps the simulator's typical value with its wide spread: what a core takes to go from one
thread to another.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import itertools
import json
import operator
import os
import pickle
import select
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator
from functools import partial

from plait import _core
from plait.loop._runner import run
from plait.model import _speed
from plait.model._costs import Cost, Costs
from plait.processes._pool import ProcessPool
from plait.threads._pool import ThreadPool

_LEAST_SPREAD = 0.05
_MOST_CORES = 16
#: What a signal takes where it cannot be measured: on a machine whose cores are all busy.
_SIGNAL = 4e-6
#: Seconds for everything. A figure may take its share of what is left when its turn comes.
_BUDGET = 1.5
#: Parts of all looks, for how far such parts are apart.
_RUNS = 10
#: Rounds that a figure has at least, whatever they take.
_FEWEST = 3
_CPUS = os.sched_getaffinity(0)


class _Budget:
    """The time that there is, and how fast the machine was meanwhile."""

    def __init__(self, seconds: float = _BUDGET) -> None:
        self._until = time.perf_counter() + seconds
        self._looks: list[float] = []

    def rounds(self, most: int, share: float, *figures: Callable[[], float], plain: bool = False) -> list[list[float]]:
        """Figures round by round, in turns: so many rounds, or as many as fit into a share of the time that is left.

        Each is at the speed of the whole time, or plain, as it was.
        """
        found: list[list[float]] = [[] for _ in figures]
        now = time.perf_counter()
        until = now + max(0.0, self._until - now) * share
        before = self._look()
        while len(found[0]) < _FEWEST or (len(found[0]) < most and time.perf_counter() < until):
            for figure, each in zip(figures, found, strict=True):
                taken = figure()
                after = self._look()
                each.append(taken if plain else taken / (before + after) * 2)
                before = after
        return found if plain else [[one * self.speed for one in each] for each in found]

    def _look(self) -> float:
        one = statistics.fmean(_speed.look() for _ in range(3))
        self._looks.append(one)
        return one

    @property
    def speed(self) -> float:
        """As of `measure_speed`, so far."""
        return statistics.fmean(self._looks)

    @property
    def wobble(self) -> float:
        """How far runs of a tenth of a second or so are apart: relative standard deviation."""
        some = max(1, len(self._looks) // _RUNS)
        runs = [statistics.fmean(self._looks[place : place + some]) for place in range(0, len(self._looks), some)]
        return statistics.pstdev(runs) / self.speed


def measure() -> Costs:
    """Measure all of it, in a process that does nothing else."""
    budget = _Budget()
    known: dict[str, Cost] = {}
    known |= _process_costs(budget)
    known["wake"] = _least(_wake_seconds, 12)
    known["gil_signal"] = _signal_cost(budget)
    known |= _release_costs(budget, known["gil_signal"].seconds / known["wake"].seconds)
    known["gil_switch"] = _switch_cost(budget)
    known |= _thread_costs(budget)
    known |= _loop_costs(budget)
    speeds = _core_speeds(budget)
    known["speed"] = Cost(1.0, max(_LEAST_SPREAD, budget.wobble))
    # An interpreter's own pool has not been measured: its tasks are taken for those of processes.
    known |= {name.replace("processes", "interpreters"): cost for name, cost in known.items() if "processes." in name}
    return Costs(known, speeds, budget.speed)


def _cost(budget: _Budget, seconds: Callable[[], float], rounds: int, share: float) -> Cost:
    return _middle(*budget.rounds(rounds, share, seconds))


def _middle(measured: list[float]) -> Cost:
    return Cost(max(0.0, statistics.median(measured)), max(_LEAST_SPREAD, _spread(measured)))


def _least(seconds: Callable[[], float], rounds: int) -> Cost:
    """Of what other programs can only make longer: the quickest round, of short ones."""
    measured = sorted(seconds() for _ in range(rounds))
    return Cost(measured[0], max(_LEAST_SPREAD, _spread(measured[: len(measured) // 2])))


def _spread(values: list[float]) -> float:
    """Relative standard deviation, by the middle half: one round that was disturbed does not count."""
    middle = statistics.median(values)
    if middle <= 0:
        return 1.0
    low, _, high = statistics.quantiles(values, n=4)
    return min(1.0, (high - low) / 1.35 / middle)


def _stay(place: int) -> None:
    """Keep the calling thread on a CPU of its own, so that the system's placing of threads has no part in a figure."""
    cpus = sorted(_CPUS)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cpus[place % len(cpus)]})


def _go() -> None:
    """Let the calling thread go wherever it may."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, _CPUS)


def _nothing(value: object) -> object:
    return value


def _wake_seconds(turns: int = 60) -> float:
    """Two threads wake each other in turn: half of a round trip."""
    ping, pong = threading.Lock(), threading.Lock()
    ping.acquire()
    pong.acquire()

    def answer() -> None:
        _stay(1)
        for _ in range(turns):
            ping.acquire()
            pong.release()

    thread = threading.Thread(target=answer)
    thread.start()
    _stay(0)
    begin = time.perf_counter()
    for _ in range(turns):
        ping.release()
        pong.acquire()
    seconds = time.perf_counter() - begin
    _go()
    thread.join()
    return seconds / turns / 2


def _together(work: Callable[[], object], threads: int, *, stay: bool = True) -> float:
    """Seconds until so many threads have each done it, each on a core of its own."""

    def apart(place: int) -> None:
        if stay:
            _stay(place)
        work()

    others = [threading.Thread(target=apart, args=(place,)) for place in range(1, threads)]
    begin = time.perf_counter()
    for thread in others:
        thread.start()
    apart(0)
    for thread in others:
        thread.join()
    seconds = time.perf_counter() - begin
    _go()
    return seconds


def _release_costs(budget: _Budget, signalled: float, releases: int = 3_000) -> dict[str, Cost]:
    """What a release of the GIL costs more when another thread wants it, whose releases are as short, and how often it gets it.

    The signal to that thread is not in it: that takes the share `signalled` of the time between two releases.
    """
    handed: list[float] = []

    def each(threads: int) -> float:
        seen: list[int] = []

        def release() -> None:
            me = threading.get_ident()
            for _ in range(releases):
                select.select((), (), (), 0)
                seen.append(me)

        # Wherever the system puts them: it decides whether who is woken gets a core in time.
        seconds = _together(release, threads, stay=False)
        if threads > 1:
            handed.append(sum(one != other for one, other in itertools.pairwise(seen)) / len(seen))
        return seconds

    alone, both = _alone_and_both(budget, each, 12, 0.2)
    return {
        "gil_release": _believed((both - (2 + 2 * signalled) * alone) / (2 * releases), 0.0, 2e-6),
        "gil_hand_over": Cost(min(0.5, statistics.median(handed)), 0.5),
    }


def _alone_and_both(budget: _Budget, seconds: Callable[[int], float], rounds: int, share: float) -> tuple[float, float]:
    """Medians of what one thread takes and what two take."""
    alone, both = budget.rounds(rounds, share, partial(seconds, 1), partial(seconds, 2))
    return statistics.median(alone), statistics.median(both)


def _signal_cost(budget: _Budget, turns: int = 100, rounds: int = 20) -> Cost:
    """What a release of the GIL costs more that finds another thread asleep for it: releases further apart than a wake-up."""

    def release() -> None:
        for _ in range(turns):
            select.select((), (), (), 0)
            _speed.spin(800)

    alone, both = _alone_and_both(budget, partial(_together, release), rounds, 0.25)
    seconds = (both - 2 * alone) / (2 * turns)
    return Cost(seconds if 1e-6 <= seconds <= 12e-6 else _SIGNAL, 0.5)


def _cpu_together(work: Callable[[], object], threads: int) -> float:
    """CPU time of so many threads that each do it."""
    begin = time.process_time()
    _together(work, threads)
    return time.process_time() - begin


def _believed(seconds: float, least: float, most: float) -> Cost:
    """A small difference of large figures: what cannot be is not believed."""
    return Cost(min(max(seconds, least), most), 0.5)


#: A switch interval in which caches get cold, and that passes often enough for its switches to be seen.
_BRIEF = 0.001


@contextlib.contextmanager
def _brief_interval() -> Generator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_BRIEF)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _switch_cost(budget: _Budget, steps: int = 25, rounds: int = 25) -> Cost:
    """CPU time that is lost with each switch of the GIL between two threads that compute in turns of one interval.

    How much depends on the memory that they use: here it is a fifth of a mebibyte. Of a workload, a second probe finds it out.
    """

    def build() -> None:
        for _ in range(steps):
            {str(number): [number] for number in range(1500)}  # what it touches is what caches lose

    with _brief_interval():
        alone, both = _alone_and_both(budget, partial(_cpu_together, build), rounds, 0.35)
    switch = (both - 2 * alone) / max(1.0, both / _BRIEF)
    return Cost(min(max(switch, 10e-6), 500e-6), 1.0)


def _thread_costs(budget: _Budget, tasks: int = 2000) -> dict[str, Cost]:
    with ThreadPool(2) as pool:
        list(pool.map(_nothing, range(tasks)))

        def each() -> float:
            begin = time.process_time()
            list(pool.map(_nothing, range(tasks)))
            return (time.process_time() - begin) / tasks

        task = _cost(budget, each, 7, 0.1)

    def start() -> float:
        begin = time.perf_counter()
        with ThreadPool(2) as fresh:
            list(fresh.map(_nothing, range(2)))
        return (time.perf_counter() - begin) / 2

    worker = _cost(budget, start, 5, 0.1)
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


#: Of the first work of a fresh worker: what it is measured with.
_SOURCE = "\n".join(
    f"def f{number}(a, b=({number}, None)):\n    return [a + x for x in b if x]" for number in range(40)
)


def _varied() -> int:
    """Two milliseconds or so of different code."""
    rows = json.loads(json.dumps([{"id": number, "name": f"name {number % 7}"} for number in range(200)]))
    rows.sort(key=operator.itemgetter("name"))
    nodes = sum(1 for _ in ast.walk(ast.parse(_SOURCE)))
    return nodes + len({word for row in rows for word in row["name"].split()})


def _first_work(_: object) -> float:
    """How much longer the first work of a fresh process takes than the same later, beside the machine's speed."""
    taken: list[float] = []
    for _ in range(4):
        begin = time.thread_time()
        _varied()
        taken.append(time.thread_time() - begin)
    return (taken[0] - min(taken)) / _speed.look()


def _process_costs(budget: _Budget, tasks: int = 500, size: int = 1 << 22) -> dict[str, Cost]:
    lost: list[float] = []

    def start(workers: int) -> float:
        begin = time.perf_counter()
        with ProcessPool(workers) as fresh:
            list(fresh.map(_nothing, range(workers), chunksize=1))
            taken = time.perf_counter() - begin
            lost.extend(fresh.map(_first_work, range(workers), chunksize=1))
            return taken

    start(1)  # the fork server starts with the first
    one, two = map(_middle, budget.rounds(3, 0.25, partial(start, 1), partial(start, 2)))
    caller = min(max(0.0, two.seconds - one.seconds), one.seconds / 2)
    with ProcessPool(1) as pool:
        list(pool.map(_nothing, range(tasks), chunksize=1))
        own: list[float] = []

        def each() -> float:
            begin, cpu = time.perf_counter(), time.process_time()
            list(pool.map(_nothing, range(tasks), chunksize=1))
            own.append((time.process_time() - cpu) / tasks)
            return (time.perf_counter() - begin) / tasks

        task = _cost(budget, each, 5, 0.1)
        mine = min(statistics.median(own), task.seconds)
        byte = _cost(budget, lambda: _byte_seconds(pool, size, task.seconds), 5, 0.1)
    spread = max(task.spread, _spread(own))
    return {
        "processes.submit": Cost(mine * 0.6, spread),
        "processes.run": Cost(task.seconds * 0.9, spread),
        "processes.collect": Cost(mine * 0.4, spread),
        "processes.start": Cost(one.seconds - caller, max(one.spread, 0.1)),
        "processes.start_caller": Cost(caller, 0.3),
        # How much that is depends on the work.
        "processes.fresh": Cost(max(0.0, statistics.median(lost)) * budget.speed, 0.7),
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


def _loop_costs(budget: _Budget, tasks: int = 500) -> dict[str, Cost]:
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
        "loop.start": _cost(budget, start, 5, 0.2),
    }


#: Seconds that cores are kept busy.
_BUSY = 0.012


def _look_beside(pool: ProcessPool, busy: int) -> float:
    """Speed of this core while so many are busy."""
    others = [pool.submit(_busy_on, place, _BUSY) for place in range(1, busy)]
    _busy_on(0, _BUSY / 3)  # the others have begun
    looks = _busy_on(0, _BUSY / 3)
    _go()
    for other in others:
        other.result()
    return looks


def _busy_on(place: int, seconds: float) -> float:
    """Look at the speed of a core for so long."""
    _stay(place)
    until = time.perf_counter() + seconds
    looks = [_speed.look()]
    while time.perf_counter() < until:
        looks.append(_speed.look())
    return statistics.fmean(looks)


def _core_speeds(budget: _Budget) -> tuple[float, ...]:
    """Of each core beside one that is busy alone: by the CPU time of Python, so that others' load does not count.

    One of them is this thread's; the others are kept busy by processes, which no GIL stops.
    """
    cores = min(_core.usable_cpus(), _MOST_CORES)
    if cores == 1:
        return ()
    steps = sorted({1, 2, *(1 << power for power in range(2, 5) if 1 << power <= cores), cores})
    with ProcessPool(cores - 1) as pool:
        list(pool.map(_nothing, range(cores - 1), chunksize=1))
        found = budget.rounds(8, 0.9, *(partial(_look_beside, pool, busy) for busy in steps), plain=True)
    taken = dict(zip(steps, map(statistics.fmean, found), strict=True))
    speeds: list[float] = []
    for busy in range(1, cores + 1):
        nearest = max(step for step in steps if step <= busy)
        speeds.append(min(1.0, taken[1] / taken[nearest]))
    # Less than the figure is sure of is no difference.
    return tuple(1.0 if speed > 0.95 else speed for speed in speeds)
