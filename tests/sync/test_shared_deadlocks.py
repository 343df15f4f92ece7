"""`plait.sync.watch_deadlocks` between processes."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import plait
import plait.sync

# As long as a wait may last before it counts as one that nobody ends: far longer than it takes to look.
ENOUGH = 0.2


@pytest.fixture(autouse=True)
def watch() -> Iterator[plait.sync.DeadlockWatch]:
    with plait.sync.watch_deadlocks() as watch:
        yield watch


@pytest.fixture
def context(request: pytest.FixtureRequest) -> Any:
    return multiprocessing.get_context(getattr(request, "param", "fork"))


both_ways = pytest.mark.parametrize("context", ["fork", "spawn"], indirect=True)


def quiet() -> None:
    logging.getLogger("plait.sync").setLevel(logging.CRITICAL)


def two(first: Any, second: Any, meet: Any, results: Any) -> None:
    """Take one lock, and the other when all have theirs."""
    quiet()
    try:
        with first:
            meet.wait()
            with second:
                results.put("went on")
    except plait.DeadlockError as error:
        results.put(error)


def two_in_a_task(first: Any, second: Any, meet: Any, results: Any) -> None:
    quiet()

    async def main() -> None:
        try:
            async with first:
                await meet.await_()
                async with second:
                    results.put("went on")
        except plait.DeadlockError as error:
            results.put(error)

    plait.run(main())


def test_who_gives_up_finds_its_error_in_every_report(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "plait.sync")
    missing: list[str] = []

    def party(first: Any, second: Any, meet: threading.Barrier) -> None:
        try:
            with first:
                meet.wait()
                with second:
                    pass
        except plait.DeadlockError as error:
            if str(error) not in map(str, last.report().deadlocks):
                missing.append(str(error))

    # To put it into so many takes a while, in which the GIL goes round.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        last = [plait.sync.watch_deadlocks() for _ in range(5000)][-1]
        for _ in range(10):
            one, other, meet = plait.Lock(shared=True), plait.Lock(shared=True), threading.Barrier(2)
            orders = ((one, other), (other, one))
            threads = [threading.Thread(target=party, args=(*locks, meet)) for locks in orders]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(last.report().deadlocks) == 10
    plait.sync.unwatch_deadlocks()
    assert not missing


def by_way_of_its_own(first: Any, second: Any, meet: Any, results: Any) -> None:
    """One thread has the first lock and waits for one of the process, which a thread has that waits for the second."""
    quiet()
    own, has = plait.Lock(), threading.Event()

    def one() -> None:
        try:
            with first:
                has.wait()
                with own:
                    results.put("went on")
        except plait.DeadlockError as error:
            results.put(error)

    def other() -> None:
        try:
            with own:
                has.set()
                meet.wait()
                with second:
                    results.put("went on")
        except plait.DeadlockError as error:
            results.put(error)

    threads = [threading.Thread(target=one), threading.Thread(target=other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(context: Any, programs: list[tuple[Any, ...]], answers: int) -> list[Any]:
    results: Any = plait.Channel(100, shared=True)
    processes = [context.Process(target=program, args=(*rest, results)) for program, *rest in programs]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in range(answers)]
    for process in processes:
        process.join()
    return found


def errors(results: list[Any]) -> list[plait.DeadlockError]:
    return [each for each in results if isinstance(each, plait.DeadlockError)]


@pytest.mark.parametrize("program", [two, two_in_a_task])
@pytest.mark.parametrize("size", [2, 3])
@both_ways
def test_one_of_a_circle_of_processes_gives_up(context: Any, size: int, program: Any) -> None:
    locks: list[Any] = [(plait.Lock, plait.RLock)[n % 2](shared=True) for n in range(size)]
    meet = plait.Barrier(size, shared=True)
    results = run(context, [(program, locks[n], locks[(n + 1) % size], meet) for n in range(size)], size)
    (error,) = errors(results)
    assert results.count("went on") == size - 1
    assert all(lock.acquire(False) for lock in locks)
    assert str(error).startswith(f"{size} wait for one another")
    assert str(error).count(f", {__file__}:") >= size
    assert len(set(error.parties)) == size


def test_two_circles_at_once_are_both_broken(context: Any) -> None:
    programs = []
    for _ in range(2):
        one, other, meet = plait.Lock(shared=True), plait.Lock(shared=True), plait.Barrier(2, shared=True)
        programs += [(two, one, other, meet), (two, other, one, meet)]
    assert len(errors(run(context, programs, 4))) == 2


def later(first: Any, second: Any, meet: Any, results: Any) -> None:
    """As `two`, when the others have waited for long."""

    class Late:
        def wait(self) -> None:
            meet.wait()
            time.sleep(0.06)

    two(first, second, Late(), results)


@pytest.mark.parametrize("other", [two, later])
@both_ways
def test_a_step_may_be_a_lock_of_one_process(context: Any, other: Any) -> None:
    one, last, meet = plait.Lock(shared=True), plait.RLock(shared=True), plait.Barrier(2, shared=True)
    results = run(context, [(by_way_of_its_own, one, last, meet), (other, last, one, meet)], 3)
    assert len(errors(results)) == 1
    assert results.count("went on") == 2


def test_workers_of_a_pool_watch_as_the_program_does() -> None:
    one, other = plait.Lock(shared=True), plait.Lock(shared=True)
    meet, results = plait.Barrier(2, shared=True), plait.Channel[Any](10, shared=True)
    with plait.ProcessPool(2) as pool:
        futures = [pool.submit(two, *locks, meet, results) for locks in [(one, other), (other, one)]]
        for future in futures:
            future.result(timeout=60)
    assert len(errors([results.get_nowait(), results.get_nowait()])) == 1


def timed_task(first: Any, second: Any, meet: Any, results: Any) -> None:
    quiet()

    async def main() -> None:
        async with first:
            await meet.await_()
            try:
                async with asyncio.timeout(ENOUGH):
                    await second.aacquire()
                    results.put("no timeout")
            except TimeoutError:
                results.put("timeout")

    plait.run(main())


@pytest.mark.parametrize("other", [two, two_in_a_task, later])
def test_a_task_of_another_process_that_a_timeout_will_cancel(context: Any, other: Any) -> None:
    one, last, meet = plait.Lock(shared=True), plait.Lock(shared=True), plait.Barrier(2, shared=True)
    results = run(context, [(other, one, last, meet), (timed_task, last, one, meet)], 2)
    assert sorted(map(str, results)) == ["timeout", "went on"]


def patient(first: Any, second: Any, meet: Any, results: Any) -> None:
    quiet()
    with first:
        meet.wait()
        results.put(second.acquire(timeout=ENOUGH))


def test_a_wait_with_a_timeout_is_no_deadlock(context: Any) -> None:
    one, other, meet = plait.Lock(shared=True), plait.Lock(shared=True), plait.Barrier(2, shared=True)
    results = run(context, [(two, one, other, meet), (patient, other, one, meet)], 2)
    assert sorted(map(str, results)) == ["False", "went on"]


def dies(first: Any, second: Any, meet: Any, results: Any) -> None:
    quiet()
    killer = threading.Timer(0.005, os.kill, (os.getpid(), 9))
    with first:
        meet.wait()
        killer.start()
        try:
            with second:
                time.sleep(60)
        except plait.DeadlockError:
            time.sleep(60)


def survives(first: Any, second: Any, meet: Any, results: Any) -> None:
    quiet()
    with first:
        meet.wait()
        try:
            with second:
                results.put("went on")
        except plait.OwnerDied:
            results.put("the owner died")


def test_a_holder_that_dies_is_no_deadlock(context: Any) -> None:
    one, other, meet = plait.Lock(shared=True), plait.Lock(shared=True), plait.Barrier(2, shared=True)
    assert run(context, [(survives, one, other, meet), (dies, other, one, meet)], 1) == ["the owner died"]


def gives(signal: Any, results: Any) -> None:
    """Give back what another has taken: at once, and after a while."""
    for pause in (0, ENOUGH):
        results.get(timeout=60)
        time.sleep(pause)
        signal.release()


@both_ways
def test_a_lock_that_another_process_gives_back_is_a_signal(context: Any, watch: plait.sync.DeadlockWatch) -> None:
    signal, lock, asks = plait.Lock(shared=True), plait.Lock(), plait.Channel[int](2, shared=True)
    process = context.Process(target=gives, args=(signal, asks))
    process.start()
    signal.acquire()
    asks.put(1)
    while signal.locked():
        time.sleep(0.001)
    with lock:
        pass  # the signal is not taken: that is no order
    with lock:
        signal.acquire()
    asks.put(2)
    waits = threading.Event()

    def waiter() -> None:
        with lock:
            waits.set()
            signal.acquire()

    thread = threading.Thread(target=waiter)
    thread.start()
    waits.wait()
    with lock:
        pass
    thread.join()
    process.join()
    assert not watch.report().deadlocks
    assert not watch.report().inversions


def takes_any(locks: list[Any], seed: int, ordered: bool, results: Any) -> None:
    quiet()
    dice, broken = random.Random(seed), 0

    def take(wanted: list[int]) -> None:
        if wanted:
            with locks[wanted[0]]:
                time.sleep(0.0002)
                take(wanted[1:])

    async def atake(wanted: list[int]) -> None:
        if wanted:
            async with locks[wanted[0]]:
                await asyncio.sleep(0.0002)
                await atake(wanted[1:])

    for _ in range(12):
        wanted = dice.sample(range(len(locks)), 2)
        try:
            if seed % 2:
                take(sorted(wanted) if ordered else wanted)
            else:
                plait.run(atake(sorted(wanted) if ordered else wanted))
        except plait.DeadlockError:
            broken += 1
    results.put(broken)


@pytest.mark.parametrize("ordered", [True, False])
def test_random_locks_of_many_processes(ordered: bool) -> None:
    """In a common order there is no alarm; in any order all come to an end."""
    locks: list[Any] = [(plait.Lock, plait.RLock)[n % 2](shared=True) for n in range(4)]
    context = multiprocessing.get_context("fork")
    results = run(context, [(takes_any, locks, seed, ordered) for seed in range(5)], 5)
    assert sum(results) == 0 if ordered else all(broken < 12 for broken in results)
    assert all(lock.acquire(False) for lock in locks)
