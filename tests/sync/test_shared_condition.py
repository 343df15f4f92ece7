"""`plait.Condition(shared=True)`: between threads, tasks and processes."""

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
LOCKS = [plait.Lock, plait.RLock]


def forked(work: Any) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


@pytest.mark.parametrize("kind", LOCKS)
def test_it_is_a_condition(kind: Any) -> None:
    lock = kind(shared=True)
    condition: Any = plait.Condition(lock, shared=True)
    assert isinstance(condition, plait.Condition)
    with pytest.raises(RuntimeError, match="un-acquired"):
        condition.notify()
    with condition:
        assert condition.wait(timeout=0.01) is False
        assert lock.locked()
    assert not lock.locked()
    again = pickle.loads(pickle.dumps(condition))
    assert type(again) is type(condition)
    assert copy.copy(condition) is condition
    with again:
        assert lock.locked()


@pytest.mark.parametrize("lock", [threading.Lock(), plait.Lock(), 3])
def test_its_lock_is_shared(lock: Any) -> None:
    with pytest.raises(TypeError, match="must be a shared"):
        plait.Condition(lock, shared=True)


def test_notices_reach_threads_tasks_and_processes() -> None:
    condition: Any = plait.Condition(shared=True)
    state, done = plait.shared_array(1, "i8"), plait.Channel[int](16, shared=True)

    def work() -> None:
        with condition:
            if condition.wait_for(lambda: state[0] > 0, timeout=LATE):
                state[0] -= 1
                done.put(1)

    async def task() -> None:
        async with condition:
            if await condition.await_for(lambda: state[0] > 0, timeout=LATE):
                state[0] -= 1
                done.put(2)

    children = [forked(work) for _ in range(2)]
    threads = [threading.Thread(target=work), threading.Thread(target=lambda: asyncio.run(task()))]
    for thread in threads:
        thread.start()
    while condition.statistics()["waiting"] < 4:
        time.sleep(0.001)
    for _ in range(2):
        with condition:
            state[0] += 1
            condition.notify()
    with condition:
        state[0] += 2
        condition.notify_all()
    assert sorted(done.get(timeout=LATE) for _ in range(4)) == [1, 1, 1, 2]
    for thread in threads:
        thread.join()
    for child in children:
        os.waitpid(child, 0)
    assert not condition.locked()


def test_a_notice_to_one_that_died_goes_to_another() -> None:
    condition: Any = plait.Condition(shared=True)

    def work() -> None:
        with condition:
            condition.wait()

    child = forked(work)
    while condition.statistics()["waiting"] < 1:
        time.sleep(0.001)
    os.kill(child, signal.SIGSTOP)
    told = []

    def wait() -> None:
        with condition:
            told.append(condition.wait(timeout=LATE))

    other = threading.Thread(target=wait)
    other.start()
    while condition.statistics()["waiting"] < 2:
        time.sleep(0.001)
    with condition:
        condition.notify()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    other.join()
    assert told == [True]


@pytest.mark.parametrize("recovers", [False, True])
@pytest.mark.parametrize("in_task", [False, True])
@pytest.mark.parametrize("kind", LOCKS)
def test_a_wait_that_finds_the_owner_dead_says_so(kind: Any, in_task: bool, recovers: bool) -> None:
    lock = kind(shared=True)
    condition: Any = plait.Condition(lock, shared=True)

    async def main() -> None:
        async with condition:
            try:
                await condition.await_()
            except plait.errors.OwnerDied:
                assert not recovers or await lock.arecover()
                raise

    def wait() -> None:
        with condition:
            try:
                condition.wait()
            except plait.errors.OwnerDied:
                assert not recovers or lock.recover()
                raise

    def die() -> None:
        condition.acquire()
        condition.notify()
        os.kill(os.getpid(), signal.SIGKILL)

    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main()) if in_task else wait()
        except Exception as error:
            raised.append(error)

    waiting = threading.Thread(target=run)
    waiting.start()
    while condition.statistics()["waiting"] < 1:
        time.sleep(0.001)
    os.waitpid(forked(die), 0)
    waiting.join()
    assert [type(each) for each in raised] == [plait.errors.OwnerDied]
    if recovers:
        assert not lock.locked()
    else:
        assert lock.recover()
        lock.release()


def test_a_task_that_gives_up_has_the_lock_again() -> None:
    condition: Any = plait.Condition(shared=True)

    async def main() -> None:
        async with condition:
            assert await condition.await_(timeout=0.01) is False
            assert condition.locked()
        assert not condition.locked()

    asyncio.run(main())
