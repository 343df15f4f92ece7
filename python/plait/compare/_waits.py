"""Work that waits: answers of a slow server, many sleepers, and answers while something computes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import socket
import statistics
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import plait
from plait.compare._cores import spin
from plait.compare._measure import timed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plait.compare._measure import Figures

_DELAY = 0.01  # seconds that the server takes for an answer
_SHORT = 0.001  # the same where the answer itself is what is looked at


class Server:
    """A server in a process of its own: it answers each line, after the delay that the line says."""

    def __init__(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address: tuple[str, int] = listening.getsockname()
        self._process = multiprocessing.get_context("fork").Process(target=_serve, args=(listening,), daemon=True)
        self._process.start()
        listening.close()

    def close(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(listening: socket.socket) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if delay := float(line):
                await asyncio.sleep(delay)
            writer.write(b"answer\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, sock=listening)
        await server.serve_forever()

    plait.run(main())


def _fetch(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address) as connection:
        connection.sendall(b"%f\n" % _DELAY)
        return connection.recv(100)


async def _fetch_in_task(address: tuple[str, int]) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"%f\n" % _DELAY)
    answer = await reader.readline()
    writer.close()
    return answer


async def _fetch_all(address: tuple[str, int], count: int) -> None:
    await asyncio.gather(*(_fetch_in_task(address) for _ in range(count)))


def waits(quick: bool) -> Figures:
    """Fetches from a server that takes 10 ms for each, and how long 10, 1,000 and 10,000 sleepers of 0.1 s take together."""
    server = Server()  # forked before there are threads
    try:
        return _waits(server.address, 50 if quick else 200, 2 if quick else 3)
    finally:
        server.close()


def _waits(address: tuple[str, int], count: int, rounds: int) -> Figures:
    workers = {"threads": 32, "processes": 8}
    executors: dict[str, concurrent.futures.Executor] = {
        "threads": concurrent.futures.ThreadPoolExecutor(workers["threads"]),
        "processes": concurrent.futures.ProcessPoolExecutor(workers["processes"]),
    }
    addresses = [address] * count
    for executor in executors.values():
        list(executor.map(_fetch, addresses[:50]))
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        serial = timed(partial(_fetch_in_turn, addresses[:25])) / 25 * count
        for name, executor in executors.items():
            ratios.setdefault(name, []).append(serial / timed(partial(_fetch_by, executor, addresses)))
        ratios.setdefault("asyncio", []).append(serial / timed(lambda: asyncio.run(_fetch_all(address, count))))
        ratios.setdefault("plait", []).append(serial / timed(lambda: plait.run(_fetch_all(address, count))))
    for executor in executors.values():
        executor.shutdown()
    figures: Figures = {
        name: {"speed_up": statistics.median(ratios[name])} for name in ("threads", "processes", "asyncio")
    }
    figures["asyncio"]["plait_speed_up"] = statistics.median(ratios["plait"])
    for name, number in workers.items():
        figures[name]["workers"] = float(number)
    for number in (10, 1_000, 10_000):
        figures["asyncio"][f"sleepers_{number}"] = timed(partial(_tasks_sleep, number))
        try:
            figures["threads"][f"sleepers_{number}"] = timed(partial(_threads_sleep, number))
        except (RuntimeError, MemoryError):
            pass  # so many threads cannot be had here, and the table says so
    return figures


def _fetch_in_turn(addresses: list[tuple[str, int]]) -> None:
    for address in addresses:
        _fetch(address)


def _fetch_by(executor: concurrent.futures.Executor, addresses: list[tuple[str, int]]) -> None:
    list(executor.map(_fetch, addresses))


def _tasks_sleep(count: int) -> None:
    asyncio.run(_sleep_together(count))


async def _sleep_together(count: int) -> None:
    await asyncio.gather(*(asyncio.sleep(0.1) for _ in range(count)))


def _threads_sleep(count: int) -> None:
    threads = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(count)]
    begun: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            begun.append(thread)
    finally:
        for thread in begun:
            thread.join()


def lag(quick: bool) -> Figures:
    """How long an answer takes that a server gives after 1 ms, while something computes: a thread, a process, the loop."""
    server = Server()
    try:
        count = 60 if quick else 200
        figures: Figures = {"threads": {}, "processes": {}, "asyncio": {}}
        for name, computing in (("quiet", _nothing), ("thread", _in_thread), ("process", _in_process)):
            blocking, awaited, ours = (
                computing(lambda: ask_blocking(server.address, count)),
                computing(lambda: asyncio.run(_ask(server.address, count))),
                computing(lambda: plait.run(_ask(server.address, count))),
            )
            figures["threads"].update(quantiles(blocking, name))
            figures["asyncio"].update(quantiles(awaited, name))
            figures["asyncio"].update(quantiles(ours, f"plait_{name}"))
        figures["asyncio"].update(quantiles(asyncio.run(_ask_beside_callbacks(server.address, count // 4)), "callback"))
        figures["processes"] = {
            key: value for key, value in figures["threads"].items() if key.startswith(("quiet", "process"))
        }
        return figures
    finally:
        server.close()


def quantiles(times: Sequence[float], name: str) -> dict[str, float]:
    """The median and what all but one of a hundred are within, with a name before them."""
    ordered = sorted(times)
    return {f"{name}_p50": ordered[len(ordered) // 2], f"{name}_p99": ordered[len(ordered) * 99 // 100]}


def ask_blocking(address: tuple[str, int], count: int) -> list[float]:
    """How long each of so many answers took, on one connection."""
    times: list[float] = []
    with socket.create_connection(address) as connection:
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(b"%f\n" % _SHORT)
            connection.recv(100)
            times.append(time.perf_counter() - began)
    return times


async def _ask(address: tuple[str, int], count: int) -> list[float]:
    times: list[float] = []
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b"%f\n" % _SHORT)
        await reader.readline()
        times.append(time.perf_counter() - began)
    writer.close()
    return times


async def _ask_beside_callbacks(address: tuple[str, int], count: int) -> list[float]:
    """The loop itself computes, 20 ms at a time."""

    async def compute() -> None:
        while True:
            spin(200_000)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(compute())
    times = await _ask(address, count)
    task.cancel()
    return times


def _nothing(ask: Callable[[], list[float]]) -> list[float]:
    return ask()


def _in_thread(ask: Callable[[], list[float]]) -> list[float]:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            spin(1_000)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        return ask()
    finally:
        over.set()
        thread.join()


def _in_process(ask: Callable[[], list[float]]) -> list[float]:
    process = multiprocessing.get_context("fork").Process(target=_spin_on, daemon=True)
    process.start()
    try:
        return ask()
    finally:
        process.kill()
        process.join()


def _spin_on() -> None:
    while True:
        spin(100_000)
