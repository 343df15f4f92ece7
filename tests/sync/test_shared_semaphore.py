"""`plait.Semaphore`, `BoundedSemaphore` and `Event` with `shared=True`: within a process and between processes."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import threading
import time
from typing import Any

import pytest

import plait

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the process is forked while it has several threads:RuntimeWarning"),
]

LATE = 60.0


def forked(work: Any) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_it_is_a_semaphore() -> None:
    semaphore = plait.Semaphore(2, shared=True)
    assert isinstance(semaphore, plait.Semaphore)
    assert not isinstance(semaphore, plait.BoundedSemaphore)
    assert semaphore.acquire()
    assert semaphore.acquire(blocking=False)
    assert semaphore.locked()
    assert not semaphore.acquire(False)
    assert not semaphore.acquire(timeout=0.01)
    semaphore.release(3)
    assert semaphore.statistics()["value"] == 3
    assert "value=3" in repr(semaphore)
    with semaphore:
        assert semaphore.statistics()["value"] == 2
    bounded = plait.BoundedSemaphore(1, shared=True)
    with pytest.raises(ValueError, match="too many"):
        bounded.release()
    for refused in (-1, 2**70):
        with pytest.raises((ValueError, OverflowError)):
            plait.Semaphore(refused, shared=True)
    with pytest.raises(ValueError, match="one or more"):
        semaphore.release(0)


def test_a_subclass_is_not_shared() -> None:
    class Mine(plait.Semaphore):
        pass

    with pytest.raises(TypeError, match="cannot be shared"):
        Mine(1, shared=True)


@pytest.mark.parametrize("kind", [plait.Semaphore, plait.BoundedSemaphore])
def test_a_pickle_finds_it(kind: Any) -> None:
    thing = kind(1, shared=True)
    assert copy.copy(thing) is thing
    assert copy.deepcopy(thing) is thing
    again = pickle.loads(pickle.dumps(thing))
    with again:
        assert thing.locked()
        assert type(again) is type(thing)


def test_permits_go_to_whoever_waits_in_any_process() -> None:
    semaphore, done = plait.Semaphore(0, shared=True), plait.Channel[int](16, shared=True)

    def work() -> None:
        for number in range(20):
            assert semaphore.acquire(timeout=LATE)
            done.put(number)

    async def task() -> None:
        for number in range(20):
            async with asyncio.timeout(LATE):
                await semaphore.aacquire()
            await done.aput(number)

    children = [forked(work) for _ in range(2)]
    thread = threading.Thread(target=lambda: asyncio.run(task()))
    thread.start()
    for _ in range(30):
        semaphore.release(2)
    got = [done.get(timeout=LATE) for _ in range(60)]
    thread.join()
    assert sorted(got) == sorted([*range(20)] * 3)
    assert semaphore.statistics()["value"] == 0
    for child in children:
        os.waitpid(child, 0)


def test_a_waiter_that_died_keeps_no_permit() -> None:
    semaphore, ready = plait.Semaphore(0, shared=True), plait.Channel[int](1, shared=True)

    def work() -> None:
        ready.put(1)
        semaphore.acquire()

    child = forked(work)
    ready.get(timeout=LATE)
    while not semaphore.statistics()["waiting"]:
        time.sleep(0.001)
    os.kill(child, signal.SIGSTOP)
    taken = []
    other = threading.Thread(target=lambda: taken.append(semaphore.acquire(timeout=LATE)))
    other.start()
    while semaphore.statistics()["waiting"] < 2:
        time.sleep(0.001)
    semaphore.release()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    other.join()
    assert taken == [True]


def test_an_event_lets_all_go_on() -> None:
    event, done = plait.Event(shared=True), plait.Channel[int](16, shared=True)
    assert isinstance(event, plait.Event)
    assert not event.is_set()
    assert event.wait(timeout=0.01) is False

    def work() -> None:
        if event.wait(timeout=LATE):
            done.put(1)

    async def task() -> None:
        if await event.await_(timeout=LATE):
            await done.aput(2)

    children = [forked(work) for _ in range(2)]
    threads = [threading.Thread(target=work), threading.Thread(target=lambda: asyncio.run(task()))]
    for thread in threads:
        thread.start()
    while event.statistics()["waiting"] < 4:
        time.sleep(0.001)
    event.set()
    event.clear()  # those who waited go on all the same
    assert sorted(done.get(timeout=LATE) for _ in range(4)) == [1, 1, 1, 2]
    for thread in threads:
        thread.join()
    for child in children:
        os.waitpid(child, 0)
    again = pickle.loads(pickle.dumps(event))
    again.set()
    assert event.is_set()
    assert "set" in repr(event)
    assert copy.copy(event) is event
