"""How long an event waits for a loop whose process has threads that compute: plait's loop beside the others.

    make bench                 measure, store result.json, render README.md here and the table in the top README.md
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result

For whom: somebody whose service computes in threads beside its event loop, and us, who promise that the loop does not wait for
whole switch intervals, and that those threads hardly notice.

Method: a server in a process of its own echoes 1 KiB for one client, which asks again half a millisecond after each
answer. Beside its loop none, one or two threads count in Python; in the last row of the table they are processes
instead. Every peer runs once in each round, and the order is rotated from round to round. A cell shows the median of the
rounds and their range. The price is what one such thread loses of its speed while a client asks a thousand times a
second, whether answered or not, against the same thread beside an idle loop, measured in turns in the same process:
what the loop itself needs of the interpreter is in it.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

from benches._rounds import Bench, Measure, Peer

MESSAGE = b"x" * 1024
GAP = 0.0005
PACE = 0.001
SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Loop(Peer):
    module: str
    prompt: bool = True
    beside: str = "threads"

    def make(self) -> asyncio.AbstractEventLoop:
        if self.module == "asyncio":
            return asyncio.SelectorEventLoop()
        factory: Callable[..., asyncio.AbstractEventLoop] = importlib.import_module(self.module).new_event_loop
        return factory() if self.prompt else factory(prompt=False)


PEERS = {
    "plait": Loop("plait", package="plait", ours=True),
    "plait, `prompt=False`": Loop("plait", package="plait", ours=True, prompt=False),
    "asyncio": Loop("asyncio"),
    "uvloop": Loop("uvloop", package="uvloop"),
    "uvloop, computing in processes": Loop("uvloop", package="uvloop", ours=True, beside="processes"),
}
"""The last is no peer to be beaten: it shows what the machine gives."""


def times(quantile: str, threads: str) -> str:
    return f"{quantile} of the time from a question to its answer, beside {threads}"


MEASURES = {
    "p50_0": Measure("p50, no thread", "ms", False, times("median", "no thread that computes")),
    "p50_1": Measure("p50, 1 thread", "ms", False, times("median", "one thread")),
    "p99_1": Measure("p99, 1 thread", "ms", False, times("99th percentile", "one thread")),
    "p50_2": Measure("p50, 2 threads", "ms", False, times("median", "two threads")),
    "p99_2": Measure("p99, 2 threads", "ms", False, times("99th percentile", "two threads")),
    "price": Measure("price", "%", False, "what one thread loses of its speed to a thousand questions a second"),
}


# ----------------------------------------------------------------------------------------------------------------- server


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Counter:
    """A thread, or a process, that counts."""

    def __init__(self) -> None:
        self.count = 0
        self.over = False

    def run(self) -> None:
        count = 0
        while not self.over:
            for _ in range(1000):
                count += 1
            self.count = count


def count_for_ever() -> None:
    Counter().run()


@contextmanager
def counting(peer: Loop, number: int) -> Iterator[Counter]:
    counter = Counter()
    if peer.beside == "processes":
        processes = [SPAWN.Process(target=count_for_ever, daemon=True) for _ in range(number)]
        for process in processes:
            process.start()
        yield counter
        for process in processes:
            process.kill()
            process.join()
        return
    threads = [threading.Thread(target=counter.run) for _ in range(number)]
    for thread in threads:
        thread.start()
    yield counter
    counter.over = True
    for thread in threads:
        thread.join()


def serve(peer: Loop, number: int, parent: Connection) -> None:
    """Echo until told to end; say what the counter stands at whenever asked."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        with counting(peer, number) as counter:
            parent.send(server.sockets[0].getsockname()[1])
            while await loop.run_in_executor(None, parent.recv):
                parent.send((counter.count, time.perf_counter()))
        server.close()

    with asyncio.Runner(loop_factory=peer.make) as runner:
        runner.run(main())


# ----------------------------------------------------------------------------------------------------------------- client


class Server:
    def __init__(self, peer: Loop, threads: int) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = SPAWN.Process(target=serve, args=(peer, threads, theirs))
        self.process.start()
        self.client = socket.create_connection(("127.0.0.1", self.pipe.recv()))
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> float:
        """Seconds until the answer is there."""
        began = time.perf_counter()
        self.client.sendall(MESSAGE)
        left = len(MESSAGE)
        while left:
            left -= len(self.client.recv(left))
        return time.perf_counter() - began

    def speed(self, during: Callable[[], object]) -> float:
        """How many a second the thread counts during a call."""
        count, began = self._counted()
        during()
        counted, ended = self._counted()
        return (counted - count) / (ended - began)

    def _counted(self) -> tuple[int, float]:
        self.pipe.send(True)
        counted: tuple[int, float] = self.pipe.recv()
        return counted

    def end(self) -> None:
        self.client.close()
        self.pipe.send(False)
        self.process.join()


def answers(peer: Loop, threads: int, seconds: float) -> list[float]:
    server = Server(peer, threads)
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        took.append(server.ask() * 1e3)
        time.sleep(GAP)
    server.end()
    return sorted(took)


def ask_at_a_pace(client: socket.socket, seconds: float) -> None:
    """A question for each millisecond, whether or not the last one was answered."""
    took = threading.Thread(target=take, args=(client, count := int(seconds / PACE)))
    took.start()
    due = time.perf_counter()
    for _ in range(count):
        client.sendall(MESSAGE)
        due += PACE
        time.sleep(max(0.0, due - time.perf_counter()))
    took.join()


def take(client: socket.socket, count: int) -> None:
    left = count * len(MESSAGE)
    while left:
        left -= len(client.recv(min(left, 1 << 16)))


def price(peer: Loop, seconds: float) -> float:
    server = Server(peer, 1)
    losses = []
    for _ in range(5):
        idle = server.speed(partial(time.sleep, seconds / 5))
        busy = server.speed(partial(ask_at_a_pace, server.client, seconds / 5))
        losses.append(100 * (1 - busy / idle))
    server.end()
    return statistics.median(losses)


def measure(peer: Loop, seconds: float) -> dict[str, float]:
    found = {}
    for threads in range(3):
        took = answers(peer, threads, seconds)
        found[f"p50_{threads}"] = took[len(took) // 2]
        if threads:
            found[f"p99_{threads}"] = took[len(took) * 99 // 100]
    if peer.beside == "threads":
        found["price"] = price(peer, 2 * seconds)
    return found


class Starvation(Bench[Loop]):
    script = Path(__file__).resolve()
    text = __doc__ or ""
    summary = "Measure event loops beside threads that compute."
    title = "How long an event waits beside threads that compute"
    markers = ("<!-- bench:starvation -->", "<!-- /bench:starvation -->")
    peers = PEERS
    measures = MEASURES
    peers_are = "loop"
    verdicts_are = "Where plait wins and where it loses"
    rounds = 5
    quick_rounds = 1

    def measure(self, peer: Loop, quick: bool) -> dict[str, float]:
        return measure(peer, 1.0 if quick else 3.0)

    def figure(self, value: float) -> str:
        return f"{value:.1f}" if abs(value) >= 2 else f"{value:.3f}"


if __name__ == "__main__":
    Starvation().main()
