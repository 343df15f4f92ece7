"""What a unit of each model costs: to make it, and to have it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plait

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.compare._measure import Figures


def _per_unit(make: Callable[[int], Any], count: int, rounds: int) -> float:
    times: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        make(count)
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times)


def _nothing() -> None:
    pass


async def _nothing_to_await() -> None:
    pass


def _threads(count: int) -> None:
    for _ in range(count):
        thread = threading.Thread(target=_nothing)
        thread.start()
        thread.join()


def _processes(method: str) -> Callable[[int], None]:
    def make(count: int) -> None:
        context: Any = multiprocessing.get_context(method)
        for _ in range(count):
            process = context.Process(target=_nothing)
            process.start()
            process.join()

    return make


async def _tasks(count: int) -> None:
    for _ in range(count):
        await asyncio.create_task(_nothing_to_await())


def creation(quick: bool) -> Figures:
    """Seconds to make one unit, run it, and wait for its end; and to hand one to a pool that is there."""
    rounds = 2 if quick else 5
    many = 2_000 if quick else 10_000
    figures: Figures = {
        "threads": {"unit": _per_unit(_threads, many // 20, rounds)},
        "processes": {
            # Before there are threads: those would make a fork a gamble.
            "unit_fork": _per_unit(_processes("fork"), 10, rounds),
            "unit_spawn": _per_unit(_processes("spawn"), 2, rounds),
        },
        "asyncio": {"unit": _per_unit(lambda count: asyncio.run(_tasks(count)), many, rounds)},
    }
    figures["asyncio"]["plait_unit"] = _per_unit(lambda count: plait.run(_tasks(count)), many, rounds)
    with plait.ThreadPool(1) as pool:
        pool.submit(_nothing).result()
        figures["threads"]["plait_pooled"] = _per_unit(
            lambda count: [future.result() for future in [pool.submit(_nothing) for _ in range(count)]], many, rounds
        )
    with plait.ProcessPool(1) as workers:
        workers.submit(_nothing).result()
        figures["processes"]["plait_pooled"] = _per_unit(
            lambda count: [future.result() for future in [workers.submit(_nothing) for _ in range(count)]], many, rounds
        )
    return figures


def memory(quick: bool) -> Figures:
    """Bytes for each unit that waits, with 10, 1,000 and 10,000 of them; processes with 10, each one's own memory."""
    numbers = (10, 1_000) if quick else (10, 1_000, 10_000)
    figures: Figures = {"threads": {}, "asyncio": {}, "processes": {}}
    for model in ("threads", "asyncio"):
        for number in numbers:
            figure = _of_fresh_interpreter(model, number)
            if figure is not None:
                figures[model][f"unit_{number}"] = figure
    figures["processes"]["unit_10"] = _memory_of_processes(4 if quick else 10)
    return figures


def _of_fresh_interpreter(model: str, number: int) -> float | None:
    """What an allocator has once taken it keeps: each number is measured by itself. None where so many cannot be had."""
    source = f"from plait.compare._units import grow; print(grow({model!r}, {number}))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60)
    return float(done.stdout) if done.returncode == 0 else None


def grow(model: str, number: int) -> float:
    """Bytes by which this process grows for each of so many units that wait."""
    return asyncio.run(_grow_by_tasks(number)) if model == "asyncio" else _grow_by_threads(number)


def _grow_by_threads(number: int) -> float:
    over = threading.Event()
    threading.Thread(target=_nothing).start()
    threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(number)]
    before = _resident("self")
    begun: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            begun.append(thread)
        return (_resident("self") - before) / number
    finally:
        over.set()
        for thread in begun:
            thread.join()


async def _grow_by_tasks(number: int) -> float:
    over = asyncio.Event()
    await asyncio.sleep(0)
    before = _resident("self")
    tasks = [asyncio.ensure_future(over.wait()) for _ in range(number)]
    await asyncio.sleep(0)
    after = _resident("self")
    over.set()
    await asyncio.gather(*tasks)
    return (after - before) / number


def _resident(process: int | str) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return float(pages * resource.getpagesize())


def _own(process: int) -> float:
    """What would be free without it: its pages that no other process has."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    lines = (line.split() for line in rollup.splitlines() if line.startswith("Private_"))
    return float(sum(int(fields[1]) for fields in lines) * 1024)


def _memory_of_processes(number: int) -> float:
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    processes = [context.Process(target=_wait, args=(over,), daemon=True) for _ in range(number)]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(_sleeps(process.pid) for process in processes):
            time.sleep(0.02)
        return statistics.median(_own(process.pid) for process in processes if process.pid is not None)
    finally:
        over.set()
        for process in processes:
            process.join()


def _wait(over: Any) -> None:
    os.sched_yield()
    over.wait()


def _sleeps(pid: int | None) -> bool:
    """Whether it has come to where it waits for good: in a futex, with its imports done."""
    try:
        return "futex" in Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False
