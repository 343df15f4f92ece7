"""`plait.Lock(shared=True)` and `plait.RLock(shared=True)` within one process."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import threading
import time
from typing import Any

import pytest

import plait
from tests.sync import _shared_programs as programs

KINDS = [plait.Lock, plait.RLock]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_lock(kind: Any) -> None:
    lock = kind(shared=True)
    assert isinstance(lock, kind)
    assert not lock.locked()
    assert lock.acquire() is True
    assert lock.locked()
    lock.release()
    with lock:
        taken = []
        other = threading.Thread(target=lambda: taken.append((lock.acquire(False), lock.acquire(timeout=0.01))))
        other.start()
        other.join()
        assert taken == [(False, False)]
    with pytest.raises(RuntimeError):
        lock.release()
    with pytest.raises(ValueError, match="non-negative"):
        lock.acquire(timeout=-2)
    with pytest.raises(ValueError, match="non-blocking"):
        lock.acquire(False, 1)
    assert "unlocked" in repr(lock)
    assert "shared" in repr(lock)


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_lets_go_of_a_lock_that_it_has_is_known_again(kind: Any) -> None:
    orders, answers = plait.Channel[Any](4, shared=True), plait.Channel[Any](4, shared=True)
    child = multiprocessing.get_context("spawn").Process(target=programs.call_and_forget, args=(orders, answers))
    child.start()
    lock = kind(shared=True)
    for _ in range(20):
        for method in ("acquire", "release"):
            orders.put((lock, method))
            assert answers.get(timeout=60) == method
    for _ in range(20 if kind is plait.Lock else 0):
        orders.put((lock, "acquire"))
        answers.get(timeout=60)
        lock.release()
    assert lock.statistics()["processes"] <= 2
    orders.shutdown()
    child.join()
    assert child.exitcode == 0
    child.close()


def test_any_thread_may_release_a_lock_and_only_the_owner_an_rlock() -> None:
    lock, rlock = plait.Lock(shared=True), plait.RLock(shared=True)
    lock.acquire()
    rlock.acquire()
    refused = []

    def release() -> None:
        lock.release()
        try:
            rlock.release()
        except RuntimeError as error:
            refused.append(str(error))

    other = threading.Thread(target=release)
    other.start()
    other.join()
    assert not lock.locked()
    assert rlock.locked()
    assert refused == ["cannot release un-acquired lock"]
    rlock.release()


def test_an_rlock_is_taken_again() -> None:
    lock = plait.RLock(shared=True)
    with lock, lock:
        assert lock.statistics()["count"] == 2
    assert not lock.locked()


def test_recover_without_a_death_takes_the_lock() -> None:
    lock = plait.Lock(shared=True)
    assert lock.recover() is False
    assert lock.locked()
    lock.release()
    rlock = plait.RLock(shared=True)
    with rlock, pytest.raises(RuntimeError, match="nothing to recover"):
        rlock.recover()


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_and_threads_exclude_one_another(kind: Any) -> None:
    lock, total = kind(shared=True), 0

    def in_thread() -> None:
        nonlocal total
        for _ in range(300):
            with lock:
                seen = total
                time.sleep(0)
                total = seen + 1

    async def in_task() -> None:
        nonlocal total
        for _ in range(300):
            async with lock:
                seen = total
                await asyncio.sleep(0)
                total = seen + 1

    async def main() -> None:
        threads = [threading.Thread(target=in_thread) for _ in range(2)]
        for thread in threads:
            thread.start()
        await asyncio.gather(in_task(), in_task())
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await lock.aacquire(timeout=1)
        lock.release()

    asyncio.run(main())
    assert total == 1200
    assert lock.statistics()["waiting"] == 0


def test_a_task_that_gives_up_has_not_taken_it() -> None:
    lock: Any = plait.Lock(shared=True)

    async def main() -> None:
        async with lock:
            assert await lock.aacquire(False) is False
            assert await lock.aacquire(timeout=0.01) is False
            waiting = [asyncio.create_task(lock.aacquire()) for _ in range(3)]
            await asyncio.sleep(0.01)
            waiting[0].cancel()
        assert await waiting[1]
        lock.release()
        assert await waiting[2]
        lock.release()

    asyncio.run(main())
    assert not lock.locked()
    assert lock.statistics()["waiting"] == 0


def test_nobody_starves() -> None:
    """One that takes it again and again cannot keep it from one that has waited."""
    lock, over = plait.Lock(shared=True), threading.Event()

    def greedy() -> None:
        while not over.is_set():
            with lock:
                pass

    thread = threading.Thread(target=greedy)
    thread.start()
    for _ in range(20):
        assert lock.acquire(timeout=60)
        lock.release()
    over.set()
    thread.join()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_finds_it(kind: Any) -> None:
    lock = kind(shared=True)
    assert copy.copy(lock) is lock
    assert copy.deepcopy(lock) is lock
    again = pickle.loads(pickle.dumps(lock))
    with again:
        assert lock.locked()
    assert type(again) is type(lock)
