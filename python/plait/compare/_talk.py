"""What it costs to switch between units, to talk to one another, and to share memory."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import statistics
import threading
import time
from functools import partial
from multiprocessing import shared_memory
from typing import TYPE_CHECKING, Any

import plait
from plait.compare._measure import timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.compare._measure import Figures


def _median_of(rounds: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(rounds))


def switches(quick: bool) -> Figures:
    """Seconds for a switch from a unit to another: two that hand a byte to and fro, and tasks that take turns."""
    count, rounds = (500, 3) if quick else (3_000, 5)
    return {
        "threads": {
            "switch": _median_of(rounds, lambda: _through_pipes(count, _beside_as_thread)),
            "same_core": _on_one_core(lambda: _median_of(rounds, lambda: _through_pipes(count, _beside_as_thread))),
        },
        "processes": {
            "switch": _median_of(rounds, lambda: _through_pipes(count, _beside_as_process)),
            "same_core": _on_one_core(lambda: _median_of(rounds, lambda: _through_pipes(count, _beside_as_process))),
        },
        "asyncio": {
            "switch": _median_of(rounds, lambda: asyncio.run(_take_turns(count))),
            "plait_switch": _median_of(rounds, lambda: plait.run(_take_turns(count))),
        },
    }


def _on_one_core(measure: Callable[[], float]) -> float:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        return measure()
    finally:
        os.sched_setaffinity(0, allowed)


def _through_pipes(count: int, beside: Callable[[int, int], Callable[[], None]]) -> float:
    there, back = os.pipe(), os.pipe()
    join = beside(there[0], back[1])
    began = time.perf_counter()
    for _ in range(count):
        os.write(there[1], b"x")
        os.read(back[0], 1)
    took = time.perf_counter() - began
    os.write(there[1], b"q")
    join()
    for end in (*there, *back):
        os.close(end)
    return took / (2 * count)


def _echo(read: int, write: int) -> None:
    while (byte := os.read(read, 1)) == b"x":
        os.write(write, byte)


def _beside_as_thread(read: int, write: int) -> Callable[[], None]:
    thread = threading.Thread(target=_echo, args=(read, write))
    thread.start()
    return thread.join


def _beside_as_process(read: int, write: int) -> Callable[[], None]:
    process = multiprocessing.get_context("fork").Process(target=_echo, args=(read, write))
    process.start()
    return process.join


async def _take_turns(count: int) -> float:
    async def turns() -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    began = time.perf_counter()
    await asyncio.gather(turns(), turns())
    return (time.perf_counter() - began) / (2 * count)


def talk(quick: bool) -> Figures:
    """Messages of 64 bytes: how many a second one way, and how long there and back."""
    count, rounds = (2_000, 2) if quick else (10_000, 3)
    item = b"m" * 64
    figures: Figures = {"threads": {}, "processes": {}, "asyncio": {}}
    local: dict[str, Callable[[], Any]] = {
        "queue.Queue": queue.Queue,
        "queue.SimpleQueue": queue.SimpleQueue,
        "plait.Channel": plait.Channel[bytes],
    }
    for name, make in local.items():
        figures["threads"][f"{name} per second"] = count / _median_of(rounds, partial(_streamed, make, item, count))
        figures["threads"][f"{name} there and back"] = _median_of(rounds, partial(_exchanged, make, item, count // 10))
    context = multiprocessing.get_context("fork")
    between: dict[str, Callable[[], Any]] = {
        "multiprocessing.Queue": context.Queue,
        "multiprocessing.SimpleQueue": context.SimpleQueue,
        "plait.Channel": lambda: plait.Channel[bytes](1024, shared=True),
    }
    for name, make in between.items():
        one_way = _median_of(rounds, partial(_streamed, make, item, count, process=True))
        figures["processes"][f"{name} per second"] = count / one_way
        there = _median_of(rounds, partial(_exchanged, make, item, count // 10, process=True))
        figures["processes"][f"{name} there and back"] = there
    for name, run in (("asyncio.Queue", asyncio.run), ("asyncio.Queue on plait", plait.run)):
        figures["asyncio"][f"{name} per second"] = count / _median_of(rounds, partial(_run_stream, run, item, count))
        there = _median_of(rounds, partial(_run_exchange, run, item, count // 10))
        figures["asyncio"][f"{name} there and back"] = there
    return figures


def _beside(target: Callable[..., None], args: tuple[Any, ...], process: bool) -> Any:
    if process:
        unit: Any = multiprocessing.get_context("fork").Process(target=target, args=args)
    else:
        unit = threading.Thread(target=target, args=args)
    unit.start()
    return unit


def _feed(line: Any, go: Any, item: bytes, count: int) -> None:
    go.get()
    for _ in range(count):
        line.put(item)


def _stream(line: Any, item: bytes, count: int, *, process: bool = False) -> float:
    go: Any = multiprocessing.get_context("fork").SimpleQueue() if process else queue.SimpleQueue[bytes]()
    unit = _beside(_feed, (line, go, item, count), process)
    began = time.perf_counter()
    go.put(b"")
    for _ in range(count):
        line.get()
    took = time.perf_counter() - began
    unit.join()
    return took


def _streamed(make: Callable[[], Any], item: bytes, count: int, *, process: bool = False) -> float:
    return _stream(make(), item, count, process=process)


def _exchanged(make: Callable[[], Any], item: bytes, count: int, *, process: bool = False) -> float:
    return _exchange(make(), make(), item, count, process=process)


def _return(there: Any, back: Any, count: int) -> None:
    for _ in range(count + 1):
        back.put(there.get())


def _exchange(there: Any, back: Any, item: bytes, count: int, *, process: bool = False) -> float:
    unit = _beside(_return, (there, back, count), process)
    there.put(item)
    back.get()
    began = time.perf_counter()
    for _ in range(count):
        there.put(item)
        back.get()
    took = time.perf_counter() - began
    unit.join()
    return took / count


async def _stream_in_tasks(item: bytes, count: int) -> float:
    line = asyncio.Queue[bytes](1024)

    async def feed() -> None:
        for _ in range(count):
            await line.put(item)

    task = asyncio.ensure_future(feed())
    began = time.perf_counter()
    for _ in range(count):
        await line.get()
    took = time.perf_counter() - began
    await task
    return took


async def _exchange_in_tasks(item: bytes, count: int) -> float:
    there, back = asyncio.Queue[bytes](), asyncio.Queue[bytes]()

    async def give_back() -> None:
        for _ in range(count):
            await back.put(await there.get())

    task = asyncio.ensure_future(give_back())
    began = time.perf_counter()
    for _ in range(count):
        await there.put(item)
        await back.get()
    took = time.perf_counter() - began
    await task
    return took / count


def _run_stream(run: Callable[[Any], float], item: bytes, count: int) -> float:
    return run(_stream_in_tasks(item, count))


def _run_exchange(run: Callable[[Any], float], item: bytes, count: int) -> float:
    return run(_exchange_in_tasks(item, count))


def _append(numbers: list[int]) -> None:
    numbers.append(1)


def _length(data: bytearray) -> int:
    return len(data)


async def _append_in_task(numbers: list[int]) -> None:
    numbers.append(1)


def sharing(quick: bool) -> Figures:
    """Whether a unit's change of a list is seen by the others, and how long it takes to show a unit 64 MiB."""
    size = (8 if quick else 64) << 20
    figures: Figures = {
        "threads": {"bytes": float(size)},
        "processes": {"bytes": float(size)},
        "asyncio": {"bytes": float(size)},
    }
    seen: list[int] = []
    process = multiprocessing.get_context("fork").Process(target=_append, args=(seen,))
    process.start()
    process.join()
    figures["processes"]["seen"] = float(len(seen))
    thread = threading.Thread(target=_append, args=(seen,))
    thread.start()
    thread.join()
    figures["threads"]["seen"] = float(len(seen))
    asyncio.run(_append_in_task(seen))
    figures["asyncio"]["seen"] = float(len(seen) - 1)
    data = bytearray(size)
    with plait.ThreadPool(1) as threads, plait.ProcessPool(1) as processes:
        for pool, model in ((threads, "threads"), (processes, "processes")):
            pool.submit(_length, data).result()
            figures[model]["plait_hand_over"] = _median_of(3, partial(_hand_over, pool, data))
    with multiprocessing.get_context("fork").Pool(1) as copying:
        figures["processes"]["hand_over"] = _median_of(3, lambda: timed(lambda: copying.apply(_length, (data,))))
    memory = shared_memory.SharedMemory(create=True, size=size)
    figures["processes"]["shared_memory"] = _median_of(3, lambda: timed(lambda: _open(memory.name)))
    memory.close()
    memory.unlink()
    return figures


def _hand_over(pool: Any, data: bytearray) -> float:
    return timed(lambda: pool.submit(_length, data).result())


def _open(name: str) -> None:
    shared_memory.SharedMemory(name=name).close()
