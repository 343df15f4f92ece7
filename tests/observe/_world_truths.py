"""Programs whose pauses of the world and waits for locks are known by construction, and that measure them themselves.

    python _world_truths.py NAME FILE

runs one under `plait.profile` and writes its truth and the profile to FILE, as `_truths.py` does.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plait

Truth = dict[str, Any]

attached = ctypes.PyDLL(None)  # what it calls keeps its thread attached
attached.PyInterpreterState_Main.restype = ctypes.c_void_p


def pause(microseconds: int) -> float:
    """Stop all other threads for so long, and say for how long it was."""
    interpreter = ctypes.c_void_p(attached.PyInterpreterState_Main())
    began = time.perf_counter()
    attached._PyEval_StopTheWorld(interpreter)
    attached.usleep(microseconds)
    attached._PyEval_StartTheWorld(interpreter)
    return time.perf_counter() - began


def beside(truth: Truth, work: Callable[[], object]) -> None:
    """Do something while another thread runs, which notes how long it did not, and while one sleeps again and again."""
    over = threading.Event()
    ready = threading.Barrier(3)

    def spin() -> None:
        gaps: list[float] = []
        ready.wait()
        before = time.perf_counter()
        while not over.is_set():
            now = time.perf_counter()
            if now - before > 0.001:
                gaps.append(now - before)
            before = now
        text = Path("/proc/thread-self/schedstat").read_text()
        truth["spin"] = {"gaps": gaps, "ready": int(text.split()[1]) / 1e9}

    def nap() -> None:
        ready.wait()
        while not over.is_set():
            time.sleep(0.0005)

    threads = [threading.Thread(target=target, name=target.__name__) for target in (spin, nap)]
    for thread in threads:
        thread.start()
    ready.wait()
    work()
    over.set()
    for thread in threads:
        thread.join()


def pauses(truth: Truth) -> None:
    measured: list[float] = []

    def work() -> None:
        for length in [8_000] * 16 + [30_000, 60_000]:
            time.sleep(0.004)
            measured.append(pause(length))

    beside(truth, work)
    truth["pauses"] = measured


def collections(truth: Truth) -> None:
    kept = [{"number": [number]} for number in range(150_000)]

    def work() -> None:
        for _ in range(4):
            time.sleep(0.01)
            gc.collect()

    beside(truth, work)
    truth["kept"] = len(kept)


def locks(truth: Truth) -> None:
    """One thread has a lock for a known time, again and again; another one waits for it, and knows how long."""
    lock = threading.Lock()
    mutex = ctypes.c_uint8()
    address = ctypes.byref(mutex)
    turns = [threading.Barrier(2) for _ in range(2)]
    lengths = [0.002] * 30 + [0.05, 0.1]
    measured: list[float] = []

    def holder() -> None:
        for length in lengths:
            with lock:
                turns[0].wait()
                time.sleep(length)
            turns[1].wait()
        for length in lengths:
            attached.PyMutex_Lock(address)
            turns[0].wait()
            time.sleep(length)
            attached.PyMutex_Unlock(address)
            turns[1].wait()

    def waiter() -> None:
        for _ in lengths:
            turns[0].wait()
            began = time.perf_counter()
            with lock:
                measured.append(time.perf_counter() - began)
            turns[1].wait()
        for _ in lengths:
            turns[0].wait()
            began = time.perf_counter()
            attached.PyMutex_Lock(address)
            measured.append(time.perf_counter() - began)
            attached.PyMutex_Unlock(address)
            turns[1].wait()

    began = time.perf_counter()
    threads = [threading.Thread(target=target, name=target.__name__) for target in (holder, waiter)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    truth["waited"] = measured
    truth["held"] = 2 * sum(lengths)
    truth["wall"] = time.perf_counter() - began


def main(name: str, file: str) -> None:
    truth: Truth = {}
    with plait.profile() as found:
        {"pauses": pauses, "collections": collections, "locks": locks}[name](truth)
    Path(file).write_text(json.dumps({"truth": truth, "profile": found.record, "text": found.summary()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
