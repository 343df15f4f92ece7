"""What one message costs in a channel: plait beside the queues that people use today.

    make bench                 measure, store result.json, render README.md here and the table in the top README.md
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result

For whom: somebody who moves many messages between threads, or between threads and asyncio tasks. It says nothing about
programs in which a message stands for a millisecond of work: there every queue is as good as another.

Method: every peer runs once in each round, in a process of its own, and the order is rotated from round to round, so that a
slow phase of the machine hits all. A message is 64 bytes, and a queue holds 1024 where it has a bound (SimpleQueue has none,
which is to its advantage: its producer never waits). A cell shows the median of the rounds and their range. Peers that are
not installed are left out. "asyncio bridge" is what people write by hand: `call_soon_threadsafe` into an `asyncio.Queue` one
way, a `SimpleQueue` the other.
"""

from __future__ import annotations

import asyncio
import importlib
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

from benches._rounds import Bench, Measure, Peer

CAPACITY = 1024
MESSAGE = b"x" * 64


# ------------------------------------------------------------------------------------------------------------------ peers


@dataclass
class Ends:
    """A queue, reduced to what is measured. For tasks only where it has that."""

    put: Callable[[Any], object]
    get: Callable[[], Any]
    aput: Callable[[Any], Awaitable[object]] | None = None
    aget: Callable[[], Awaitable[Any]] | None = None


def make_plait() -> Ends:
    import plait

    channel: plait.Channel[Any] = plait.Channel(CAPACITY)
    return Ends(channel.put, channel.get, channel.aput, channel.aget)


def make_queue() -> Ends:
    standard: queue.Queue[Any] = queue.Queue(CAPACITY)
    return Ends(standard.put, standard.get)


def make_simple() -> Ends:
    simple: queue.SimpleQueue[Any] = queue.SimpleQueue()
    return Ends(simple.put, simple.get)


def make_bridge() -> Ends:
    loop = asyncio.get_running_loop()
    inward: asyncio.Queue[Any] = asyncio.Queue()
    outward: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room = threading.Semaphore(CAPACITY)

    def put(message: Any) -> None:
        room.acquire()
        loop.call_soon_threadsafe(inward.put_nowait, message)

    async def aput(message: Any) -> None:
        outward.put(message)

    async def aget() -> Any:
        message = await inward.get()
        room.release()
        return message

    return Ends(put, outward.get, aput, aget)


def make_two_sided(module: str) -> Ends:
    both = importlib.import_module(module).Queue(CAPACITY)
    return Ends(both.sync_q.put, both.sync_q.get, both.async_q.put, both.async_q.get)


def make_aiologic() -> Ends:
    both = importlib.import_module("aiologic").Queue(CAPACITY)
    return Ends(both.green_put, both.green_get, both.async_put, both.async_get)


@dataclass
class Queue(Peer):
    make: Callable[[], Ends]
    threads: bool = True
    tasks: bool = True


PEERS = {
    "plait.Channel": Queue(make_plait, package="plait", ours=True),
    "queue.SimpleQueue": Queue(make_simple, tasks=False),
    "queue.Queue": Queue(make_queue, tasks=False),
    "asyncio bridge": Queue(make_bridge, threads=False),
    "culsans": Queue(lambda: make_two_sided("culsans"), package="culsans"),
    "janus": Queue(lambda: make_two_sided("janus"), package="janus", threads=False),
    "aiologic": Queue(make_aiologic, package="aiologic"),
}


# --------------------------------------------------------------------------------------------------------------- measures


MEASURES = {
    "threads": Measure("thread to thread", "messages/s", True, "one thread puts as fast as it can, another gets"),
    "threads_p50": Measure("there and back p50", "us", False, "a message to another thread and back: median"),
    "threads_p99": Measure("there and back p99", "us", False, "the same: 99th percentile"),
    "tasks": Measure("thread to task", "messages/s", True, "one thread puts as fast as it can, a task gets"),
    "tasks_p50": Measure("to a task and back p50", "us", False, "a thread's message to a task and back: median"),
    "tasks_p99": Measure("to a task and back p99", "us", False, "the same: 99th percentile"),
}


def produce(put: Callable[[Any], object], count: int) -> None:
    for _ in range(count):
        put(MESSAGE)


def thread_rate(peer: Queue, count: int) -> float:
    ends, over = peer.make(), threading.Event()

    def consume() -> None:
        for _ in range(count):
            ends.get()
        over.set()

    threading.Thread(target=consume, daemon=True).start()
    began = time.perf_counter()
    produce(ends.put, count)
    over.wait()
    return count / (time.perf_counter() - began)


def task_rate(peer: Queue, count: int) -> float:
    async def main() -> float:
        ends = peer.make()
        assert ends.aget is not None
        began = time.perf_counter()
        threading.Thread(target=produce, args=(ends.put, count), daemon=True).start()
        for _ in range(count):
            await ends.aget()
        return count / (time.perf_counter() - began)

    return asyncio.run(main())


def trip(there: Ends, back: Ends, trips: list[float]) -> None:
    for number in range(len(trips)):
        began = time.perf_counter()
        there.put(MESSAGE)
        back.get()
        trips[number] = time.perf_counter() - began


def thread_trips(peer: Queue, count: int) -> list[float]:
    there, back = peer.make(), peer.make()

    def echo() -> None:
        for _ in range(count):
            back.put(there.get())

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    trips = [0.0] * count
    trip(there, back, trips)
    thread.join()
    return trips


def task_trips(peer: Queue, count: int) -> list[float]:
    trips = [0.0] * count

    async def main() -> None:
        there, back = peer.make(), peer.make()
        assert there.aget is not None
        assert back.aput is not None
        thread = threading.Thread(target=trip, args=(there, back, trips), daemon=True)
        thread.start()
        for _ in range(count):
            await back.aput(await there.aget())
        await asyncio.to_thread(thread.join)

    asyncio.run(main())
    return trips


def rate(measure: Callable[[Queue, int], float], peer: Queue, seconds: float) -> float:
    """The rate over about that many seconds, once it is warm."""
    found = measure(peer, 2_000)
    found = measure(peer, max(2_000, min(300_000, int(found * seconds / 4))))
    return measure(peer, max(2_000, min(1_000_000, int(found * seconds))))


def percentiles(trips: list[float]) -> tuple[float, float]:
    trips = sorted(trips)
    return trips[len(trips) // 2] * 1e6, trips[len(trips) * 99 // 100] * 1e6


def measure_peer(peer: Queue, quick: bool) -> dict[str, float]:
    seconds, count = (0.1, 1_000) if quick else (0.5, 10_000)
    found = {}
    if peer.threads:
        found["threads"] = rate(thread_rate, peer, seconds)
        found["threads_p50"], found["threads_p99"] = percentiles(thread_trips(peer, count))
    if peer.tasks:
        found["tasks"] = rate(task_rate, peer, seconds)
        found["tasks_p50"], found["tasks_p99"] = percentiles(task_trips(peer, count))
    return found


# -------------------------------------------------------------------------------------------------------------- the bench


class Channels(Bench[Queue]):
    script = Path(__file__).resolve()
    text = __doc__ or ""
    summary = "Measure queues between threads and tasks side by side."
    title = "What one message costs in a channel"
    markers = ("<!-- bench:channels -->", "<!-- /bench -->")
    peers = PEERS
    measures = MEASURES
    peers_are = "queue"
    verdicts_are = "Beside the best of the others"
    rounds = 5
    limit = 120.0
    missing = ""

    def measure(self, peer: Queue, quick: bool) -> dict[str, float]:
        return measure_peer(peer, quick)

    def figure(self, value: float) -> str:
        if value >= 1e6:
            return f"{value / 1e6:.1f} M"
        return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"

    def verdict(self, each: Measure, mine: float, theirs: float) -> str:
        ratio = mine / theirs if each.more_is_better else theirs / mine
        return f"is {ratio:.1f} times as good as"

    def short_caption(self, result: dict[str, Any]) -> str:
        return f"{self.caption(result)}; {self.loads(result)}."

    def long_caption(self, result: dict[str, Any]) -> str:
        where = result["environment"]
        return f"{self.short_caption(result)} Kernel {where['kernel']}, {where['libc']}."


if __name__ == "__main__":
    Channels().main()
