"""`plait.sync.watch_deadlocks`: threads and tasks that wait for one another, and those that only seem to."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import random
import sysconfig
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait
import plait.sync
from plait.sync import DeadlockWatch, Inversion, _deadlocks

HERE = __file__
# As long as a wait may last before it counts as one that nobody ends: far longer than it takes to look.
ENOUGH = 0.2
NO_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[DeadlockWatch]:
    caplog.set_level(logging.CRITICAL, "plait.sync")
    with plait.sync.watch_deadlocks() as watch:
        yield watch


def run(*functions: Callable[[], object]) -> list[Any]:
    """Call each in a thread of its own; what they returned, or the deadlocks that they raised."""
    results: list[Any] = [None] * len(functions)

    def call(number: int) -> None:
        try:
            results[number] = functions[number]()
        except plait.DeadlockError as error:
            results[number] = error

    threads = [
        threading.Thread(target=call, args=(number,), name=f"party-{number}") for number in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def poll(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.001)


def errors(results: list[Any]) -> list[plait.DeadlockError]:
    return [each for each in results if isinstance(each, plait.DeadlockError)]


def in_order(locks: list[Any], meet: threading.Barrier | None = None) -> Callable[[], str]:
    """Take the locks one inside the other, after all others have the first of theirs."""

    def work() -> str:
        with locks[0]:
            if meet is not None:
                meet.wait()
            if len(locks) > 1:
                return in_order(locks[1:])()
            return "went on"

    return work


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("make", [plait.Lock, plait.RLock, plait.Condition])
def test_one_of_a_circle_of_threads_gives_up(watch: DeadlockWatch, make: Any, size: int) -> None:
    locks = [make() for _ in range(size)]
    meet = threading.Barrier(size)
    results = run(*[in_order([locks[n], locks[(n + 1) % size]], meet) for n in range(size)])
    (error,) = errors(results)
    assert results.count("went on") == size - 1
    assert all(lock.acquire(False) for lock in locks), "nobody has a lock"
    text = str(error)
    assert text.startswith(f"{size} wait for one another")
    for number in range(size):
        assert f"'party-{number}'" in text
    assert text.count(f"in in_order.<locals>.work, {HERE}:") == 2 * size
    assert text.count("it was made in ") == size
    assert len(error.parties) == size
    assert [str(each) for each in watch.report().deadlocks] == [text]


def test_one_gives_up_beside_threads_that_compute(watch: DeadlockWatch) -> None:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    computing = [threading.Thread(target=compute, daemon=True) for _ in range(4)]
    for thread in computing:
        thread.start()
    try:
        test_one_of_a_circle_of_threads_gives_up(watch, plait.Lock, 2)
    finally:
        over.set()
        for thread in computing:
            thread.join()


def test_the_error_travels() -> None:
    error = pickle.loads(pickle.dumps(plait.DeadlockError("a circle", parties=("one", "other"))))
    assert (str(error), error.parties) == ("a circle", ("one", "other"))


def test_a_lock_taken_by_calls_counts_too(watch: DeadlockWatch) -> None:
    one, other, meet = plait.Lock(), plait.Lock(), threading.Barrier(2)

    def work(first: Any, second: Any) -> str:
        first.acquire()
        try:
            meet.wait()
            second.acquire()
            second.release()
        finally:
            first.release()
        return "went on"

    results = run(lambda: work(one, other), lambda: work(other, one))
    assert len(errors(results)) == 1
    assert "went on" in results


def test_who_waits_for_itself_in_a_with_is_told(watch: DeadlockWatch) -> None:
    lock = plait.Lock()
    with lock, pytest.raises(plait.DeadlockError, match="1 waits for itself"):
        lock.acquire()
    assert lock.acquire(False)


def test_a_lock_that_another_is_to_give_back_is_waited_for(watch: DeadlockWatch) -> None:
    lock = plait.Lock()
    lock.acquire()
    timer = threading.Timer(ENOUGH, lock.release)
    timer.start()
    assert lock.acquire()
    timer.join()
    lock.release()
    assert not watch.report().deadlocks


def test_a_lock_that_was_given_back_by_another_is_no_step(watch: DeadlockWatch) -> None:
    """It is a signal, so somebody outside may give it."""
    signal, lock, meet = plait.Lock(), plait.Lock(), threading.Barrier(3)
    signal.acquire()
    run(signal.release)

    def holder() -> str:
        signal.acquire()
        meet.wait()
        with lock:
            return "went on"

    def waiter() -> str:
        with lock:
            meet.wait()
            signal.acquire()
            return "was told"

    def teller() -> None:
        meet.wait()
        time.sleep(ENOUGH)
        signal.release()

    assert run(holder, waiter, teller) == ["went on", "was told", None]
    assert not watch.report().deadlocks


def test_a_wait_with_a_timeout_is_no_deadlock(watch: DeadlockWatch) -> None:
    one, other, meet = plait.Lock(), plait.Lock(), threading.Barrier(2)

    def patient() -> str:
        with one:
            meet.wait()
            with other:
                return "went on"

    def timed() -> bool:
        with other:
            meet.wait()
            return one.acquire(timeout=ENOUGH)

    assert run(patient, timed) == ["went on", False]
    assert not watch.report().deadlocks


def test_a_holder_that_runs_is_waited_for(watch: DeadlockWatch) -> None:
    one, other, meet = plait.Lock(), plait.Lock(), threading.Barrier(3)

    def slow() -> str:
        with one:
            meet.wait()
            time.sleep(ENOUGH)
            return "done"

    def between() -> str:
        with other:
            meet.wait()
            with one:
                return "went on"

    def last() -> str:
        meet.wait()
        with other:
            return "went on"

    assert run(slow, between, last) == ["done", "went on", "went on"]
    assert not watch.report().deadlocks


def test_the_main_thread_can_be_the_one(watch: DeadlockWatch) -> None:
    one, other, meet = plait.Lock(), plait.Lock(), threading.Barrier(2)
    thread = threading.Thread(target=in_order([one, other], meet))
    thread.start()
    with other:
        meet.wait()
        time.sleep(ENOUGH / 10)
        with pytest.raises(plait.DeadlockError):
            one.acquire()
    thread.join()


def test_a_waiter_for_a_condition_that_wants_its_lock_back(watch: DeadlockWatch) -> None:
    condition, lock = plait.Condition(), plait.Lock()
    notified = threading.Event()

    def waiter() -> str:
        with condition:
            with lock:
                condition.notify_all()
                notified.set()
                condition.wait()
            return "went on"

    def notifier() -> str:
        notified.wait()
        with condition:
            condition.notify()
            with lock:
                return "went on"

    results = run(waiter, notifier)
    assert len(errors(results)) == 1


async def both(first: Any, second: Any, have: asyncio.Event, others: asyncio.Event) -> str:
    async with first:
        have.set()
        await others.wait()
        async with second:
            return "went on"


@pytest.fixture(params=["plait", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Any:
    return plait.run if request.param == "plait" else asyncio.run


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("make", [plait.Lock, plait.RLock])
def test_one_of_a_circle_of_tasks_gives_up(watch: DeadlockWatch, runner: Any, make: Any, shared: bool) -> None:
    async def main() -> Any:
        one, other, have, others = make(shared=shared), make(shared=shared), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(both(one, other, have, others), name="first")
        second = asyncio.create_task(both(other, one, others, have), name="second")
        results = await asyncio.gather(first, second, return_exceptions=True)
        async with one, other:
            return results

    results = runner(main())
    (error,) = errors(results)
    assert "went on" in results
    assert "task 'first'" in str(error)
    assert "task 'second'" in str(error)
    assert f"in both, {HERE}:" in str(error)


def test_tasks_of_two_loops(watch: DeadlockWatch) -> None:
    one, other, meet = plait.Lock(), plait.Lock(), threading.Barrier(2)

    async def work(first: Any, second: Any) -> str:
        async with first:
            await asyncio.to_thread(meet.wait)
            async with second:
                return "went on"

    results = run(lambda: asyncio.run(work(one, other)), lambda: plait.run(work(other, one)))
    assert len(errors(results)) == 1
    assert "went on" in results


@pytest.mark.parametrize("shared", [False, True])
def test_a_task_whose_loop_stands_still_cannot_give_its_lock_back(
    watch: DeadlockWatch, runner: Any, shared: bool
) -> None:
    of_task, of_thread = plait.Lock(shared=shared), plait.Lock(shared=shared)
    has, told = threading.Event(), threading.Event()

    def thread() -> str:
        with of_thread:
            has.set()
            told.wait()
            with of_task:
                return "went on"

    async def keeps() -> None:
        async with of_task:
            told.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def blocks() -> str:
        with of_thread:
            return "went on"

    async def main() -> Any:
        await asyncio.to_thread(has.wait)
        return (await asyncio.gather(keeps(), blocks(), return_exceptions=True))[1]

    results = run(thread, lambda: runner(main()))
    assert len(errors(results)) == 1
    assert "went on" in results


@pytest.mark.parametrize("way", ["timeout", "wait_for", "around a group", "plait"])
def test_a_task_that_a_timeout_will_cancel_is_no_deadlock(watch: DeadlockWatch, runner: Any, way: str) -> None:
    async def main() -> Any:
        one, other, have, others = plait.Lock(), plait.Lock(), asyncio.Event(), asyncio.Event()

        async def timed() -> Any:
            async with other:
                others.set()
                await have.wait()
                if way == "plait":
                    return await one.aacquire(timeout=ENOUGH)
                if way == "wait_for":
                    return await asyncio.wait_for(one.aacquire(), ENOUGH)
                async with asyncio.timeout(ENOUGH):
                    if way == "timeout":
                        return await one.aacquire()
                    async with asyncio.TaskGroup() as group:
                        group.create_task(one.aacquire())
            return None

        return await asyncio.gather(both(one, other, have, others), timed(), return_exceptions=True)

    patient, timed = runner(main())
    assert patient == "went on"
    assert timed is False if way == "plait" else isinstance(timed, TimeoutError)
    assert not watch.report().deadlocks


def test_a_task_that_is_cancelled_waits_no_longer(watch: DeadlockWatch, runner: Any) -> None:
    async def main() -> None:
        one, other = plait.Lock(), plait.Lock()
        for _ in range(20):
            have, others = asyncio.Event(), asyncio.Event()
            first = asyncio.create_task(both(one, other, have, others))
            second = asyncio.create_task(both(other, one, others, have))
            await have.wait()
            await others.wait()
            await asyncio.sleep(0)
            first.cancel()
            assert await second == "went on"
            with pytest.raises(asyncio.CancelledError):
                await first

    runner(main())
    assert not watch.report().deadlocks


def test_orders_that_do_not_agree_are_told_once_with_both_stacks(watch: DeadlockWatch) -> None:
    one, other = plait.Lock(), plait.Lock()

    def forth() -> None:
        with one, other:
            pass

    def back() -> None:
        with other, one:
            pass

    for _ in range(3):
        run(forth)
        run(back)
    (inversion,) = watch.report().inversions
    assert len(inversion.locks) == 2
    assert {stack[-1].name for stack in inversion.stacks} == {"forth", "back"}
    text = str(inversion)
    assert text.startswith("2 locks were taken in orders that can end in a deadlock:")
    assert text.count("was taken after plait.Lock at ") == 2
    assert text.count(f", made in test_orders_that_do_not_agree_are_told_once_with_both_stacks, {HERE}:") == 4


def test_orders_of_one_thread_and_of_tasks_count(watch: DeadlockWatch, runner: Any) -> None:
    async def main() -> None:
        locks: list[Any] = [plait.Lock(), plait.RLock(), plait.Lock(shared=True)]
        for n in range(3):
            async with locks[n], locks[(n + 1) % 3]:
                await asyncio.sleep(0)

    runner(main())
    (inversion,) = watch.report().inversions
    assert len(inversion.locks) == 3


def test_orders_that_agree_are_not_told(watch: DeadlockWatch) -> None:
    around, one, other = plait.Lock(), plait.Lock(), plait.RLock()
    orders: list[tuple[Any, Any]] = [(one, other), (other, one)]
    for first, second in orders:
        with around, first, second:
            pass
    third, fourth = plait.RLock(), plait.Lock()
    with fourth, third, third:
        pass
    with third:
        assert fourth.acquire(False), "who does not wait can be no part of a deadlock"
        fourth.release()
        assert fourth.acquire(timeout=1)
        fourth.release()
    assert not watch.report().inversions


def test_locks_that_are_gone_leave_nothing_behind(watch: DeadlockWatch) -> None:
    for _ in range(50):
        one, other = plait.Lock(), plait.Lock()
        with one, other:
            pass
        del one, other
    gc.collect()
    one, other = plait.Lock(), plait.Lock()
    with other, one:
        pass
    assert not watch.report().inversions


def test_orders_of_locks_that_are_gone_are_forgotten(watch: DeadlockWatch) -> None:
    outer = plait.Lock()
    for _ in range(50):
        inner = plait.Lock()
        with outer, inner:
            pass
    assert 1 <= len(_deadlocks._orders) <= 2
    watch.cancel()
    assert not _deadlocks._orders


def test_what_is_found_is_reported_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Inversion | plait.DeadlockError] = []
    one, other, meet = plait.Lock(), plait.Lock(), threading.Barrier(2)
    with plait.sync.watch_deadlocks(report=told.append) as watch, caplog.at_level(logging.WARNING, "plait.sync"):
        with one, other:
            pass
        with other, one:
            pass
        results = run(in_order([one, other], meet), in_order([other, one], meet))
        assert watch.report().watching
        poll(lambda: len(told) == 2)  # told after the one that raises it was let go on
    assert [type(each) for each in told] == [Inversion, plait.DeadlockError]
    assert str(told[1]) == str(errors(results)[0])
    assert [record.getMessage() for record in caplog.records] == [str(each) for each in told]
    assert not watch.report().watching


def told_slowly(one: Any, other: Any, *functions: Callable[[], object]) -> None:
    """Run two, of which the second waits for `one`, and tells of that for longer than it takes until a wait is looked at."""

    def slow(_found: object) -> None:
        time.sleep(ENOUGH)

    with plait.sync.watch_deadlocks(report=slow) as watch:
        with one, other:
            pass
        assert run(*functions) == [None, "went on"]
        report = watch.report()
        assert len(report.inversions) == 1
        assert not report.deadlocks


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("make", [plait.Lock, plait.RLock])
def test_a_thread_that_tells_of_the_lock_that_it_has_got_waits_no_longer(make: Any, shared: bool) -> None:
    one, other, meet = make(shared=shared), plait.Lock(), threading.Barrier(2)

    def lets_go() -> None:
        with one:
            meet.wait()
            poll(lambda: bool(one.statistics()["waiting"]))

    def takes() -> str:
        with other:
            meet.wait()
            with one:
                return "went on"

    told_slowly(one, other, lets_go, takes)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("make", [plait.Lock, plait.RLock])
def test_a_task_that_tells_of_the_lock_that_it_has_got_waits_no_longer(make: Any, shared: bool, runner: Any) -> None:
    one, other, meet = make(shared=shared), plait.Lock(), threading.Barrier(2)

    async def lets_go() -> None:
        async with one:
            meet.wait()
            poll(lambda: bool(one.statistics()["waiting"]))

    async def takes() -> str:
        async with other:
            meet.wait()
            async with one:
                return "went on"

    told_slowly(one, other, lambda: runner(lets_go()), lambda: runner(takes()))


def test_a_report_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def fails(found: object) -> None:
        raise RuntimeError("no")

    one, other = plait.Lock(), plait.Lock()
    with plait.sync.watch_deadlocks(report=fails), caplog.at_level(logging.WARNING, "plait.sync"):
        with one, other:
            pass
        with other, one:
            pass
    assert caplog.records[-1].getMessage() == "the report of a deadlock failed"


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="report must be callable, not 3"):
        plait.sync.watch_deadlocks(report=3)  # type: ignore[arg-type]


def test_watches_nest_and_end() -> None:
    lock = plait.Lock()
    outer, inner = plait.sync.watch_deadlocks(), plait.sync.watch_deadlocks()
    inner.cancel()
    inner.cancel()
    with lock, pytest.raises(plait.DeadlockError):
        lock.acquire()
    assert len(outer.report().deadlocks) == 1
    assert not inner.report().deadlocks
    plait.sync.unwatch_deadlocks()
    assert not outer.report().watching
    with lock:
        assert not lock.acquire(timeout=0.05)


def test_what_was_taken_before_the_watch_counts() -> None:
    one, other, meet, begun = plait.Lock(), plait.Lock(), threading.Barrier(3), threading.Event()

    def work(first: Any, second: Any) -> str:
        with first:
            meet.wait()
            begun.wait()
            with second:
                return "went on"

    def begin() -> None:
        meet.wait()
        plait.sync.watch_deadlocks()
        begun.set()

    try:
        results = run(lambda: work(one, other), lambda: work(other, one), begin)
        assert len(errors(results)) == 1
    finally:
        plait.sync.unwatch_deadlocks()


def test_locks_held_over_the_end_of_a_watch(watch: DeadlockWatch) -> None:
    one, other = plait.Lock(), plait.Lock()
    one.acquire()
    plait.sync.unwatch_deadlocks()
    one.release()
    with plait.sync.watch_deadlocks() as again:
        with other:
            pass
        with other, one:
            pass
        with one:
            pass
        assert not again.report().inversions


@pytest.mark.parametrize("seed", range(2))
def test_random_locks_in_a_common_order_are_never_a_deadlock(watch: DeadlockWatch, seed: int) -> None:
    dice = random.Random(seed)
    locks: list[Any] = [dice.choice([plait.Lock, plait.RLock])() for _ in range(6)]
    plans = [[sorted(dice.sample(range(6), 3)) for _ in range(60)] for _ in range(6)]
    slow = dice.sample(range(60), 3)

    def work(plan: list[list[int]]) -> str:
        for number, (a, b, c) in enumerate(plan):
            with locks[a], locks[b], locks[c]:
                time.sleep(0.04 if number in slow else 0)
        return "done"

    async def tasks(plan: list[list[int]]) -> str:
        for a, b, c in plan:
            async with locks[a], locks[b], locks[c]:
                await asyncio.sleep(0)
        return "done"

    threads = [lambda plan=plan: work(plan) for plan in plans[:3]]
    loops = [lambda plan=plan: plait.run(tasks(plan)) for plan in plans[3:]]
    assert run(*threads, *loops) == ["done"] * 6
    report = watch.report()
    assert not report.deadlocks
    assert not report.inversions


@pytest.mark.parametrize("seed", range(3))
def test_random_locks_in_any_order_all_come_to_an_end(watch: DeadlockWatch, seed: int) -> None:
    """Whatever deadlocks there are, each is broken up, by somebody who had waited and has not got what it waited for."""
    dice = random.Random(seed)
    shared = seed % 3 == 2
    locks: list[Any] = [dice.choice([plait.Lock, plait.RLock])(shared=shared) for _ in range(4)]
    plans = [[dice.sample(range(4), dice.choice([2, 3])) for _ in range(15)] for _ in range(6)]
    counts = [0] * 4

    def work(plan: list[int]) -> int:
        broken = 0
        for each in plan:
            try:
                inner(each)
            except plait.DeadlockError:
                broken += 1
        return broken

    def inner(wanted: Any) -> None:
        if wanted:
            with locks[wanted[0]]:
                seen = counts[wanted[0]]
                time.sleep(0.0001)
                inner(wanted[1:])
                assert counts[wanted[0]] == seen, "somebody else had the lock"
                counts[wanted[0]] = seen + 1

    async def task(plan: Any) -> int:
        broken = 0
        for each in plan:
            try:
                await ainner(each)
            except plait.DeadlockError:
                broken += 1
        return broken

    async def ainner(wanted: list[int]) -> None:
        if wanted:
            async with locks[wanted[0]]:
                await asyncio.sleep(0.0001)
                await ainner(wanted[1:])

    async def loop() -> int:
        return sum(await asyncio.gather(*map(task, plans[3:])))

    results = run(*[lambda plan=plan: work(plan) for plan in plans[:3]], lambda: plait.run(loop()))
    assert sum(results) == len(watch.report().deadlocks)
    assert all(lock.acquire(False) for lock in locks)


@pytest.mark.skipif(NO_GIL, reason="what other threads do cannot be looked at without the GIL")
def test_all_threads_that_wait_for_channels_are_told(watch: DeadlockWatch, run_script: Any) -> None:
    source = """
import logging, threading, plait, plait.sync

logging.disable()
plait.sync.watch_deadlocks()
lock, first, second = plait.Lock(), plait.Channel(1), plait.Channel(1)
done = []

def forth():
    try:
        with lock:
            first.get()
    except plait.DeadlockError as error:
        done.append(str(error))

def back():
    try:
        second.get()
        with lock:
            first.put(1)
    except plait.DeadlockError as error:
        done.append(str(error))

threads = [threading.Thread(target=target, name=target.__name__) for target in (forth, back)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert done[0].startswith("all 3 threads of the process wait"), done
assert "'forth'" in done[0] and "'back'" in done[0] and "waits for <plait.Channel" in done[0]
for wait in (first.get, plait.Semaphore(0).acquire, plait.Event().wait, first.join if first.qsize() else second.get):
    try:
        wait()
    except plait.DeadlockError as error:
        print(str(error).splitlines()[0])
"""
    text = "the only thread of the process waits, and nobody is left to let one go on:\n"
    assert run_script(source).stdout == text * 4


def test_a_circle_that_closes_during_a_look_is_told_as_one(run_script: Any) -> None:
    # The last party keeps the GIL until it waits. The watcher has looked at the first wait by then, and goes on with the GIL.
    source = """
import logging, sys, threading, time, plait, plait.sync

logging.disable()
sys.setswitchinterval(1000)
one, other, have = plait.Lock(), plait.Lock(), threading.Barrier(2)

def party(first, second, last):
    try:
        with first:
            have.wait()
            if last:
                while not first.statistics()["waiting"]:
                    time.sleep(0.001)
                until = time.monotonic() + 0.3  # the watcher looks at that wait meanwhile
                while time.monotonic() < until:
                    pass
            with second:
                pass
    except plait.DeadlockError as error:
        print(last, str(error).splitlines()[0], flush=True)

with plait.sync.watch_deadlocks():
    threads = [threading.Thread(target=party, args=args) for args in ((one, other, False), (other, one, True))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
    assert run_script(source).stdout == "True 2 wait for one another, and none can go on:\n"


def test_a_program_may_end_while_a_deadlock_is_told(run_script: Any) -> None:
    source = """
import logging, threading, time, plait, plait.sync

logging.disable()
lock, told = plait.Lock(), threading.Event()

def tell(found):
    told.set()
    while True:
        time.sleep(0)

plait.sync.watch_deadlocks(report=tell)
try:
    with lock:
        with lock:
            pass
except plait.DeadlockError:
    told.wait()
    print("over", flush=True)
"""
    finished = run_script(source)
    assert (finished.stdout, finished.stderr) == ("over\n", "")


LEFT = """
import logging, sys, threading, time, plait, plait.sync

logging.disable()
watch = plait.sync.watch_deadlocks()
channel, done = plait.Channel(), []

def get():
    try:
        channel.get()
    except plait.DeadlockError as error:
        done.append(str(error))
        print(str(error).splitlines()[0].split(",")[0], flush=True)

getter = threading.Thread(target=get, name="getter")
getter.start()
"""


def test_who_is_left_alone_by_a_thread_that_ends_is_told(run_script: Any) -> None:
    source = (
        LEFT
        + """
worker = threading.Thread(target=time.sleep, args=(0.3,))
worker.start()
getter.join()
assert not worker.is_alive() and len(done) == 1
assert "waits for the end of thread 'getter'" in done[0], done
watch.cancel()
assert threading.Thread._delete.__module__ == threading.Thread.join.__module__ == "threading"
"""
    )
    assert run_script(source).stdout == "all 2 threads of the process wait\n"


def test_who_is_left_alone_by_a_thread_that_joins_is_told(run_script: Any) -> None:
    assert run_script(LEFT + "time.sleep(0.3)\ngetter.join()\n").stdout == "all 2 threads of the process wait\n"


def test_who_is_left_alone_by_the_end_of_the_main_thread_is_told(run_script: Any) -> None:
    source = LEFT + "time.sleep(0.3)\n"
    assert run_script(source).stdout == "all 2 threads of the process wait\n"


def test_who_is_not_left_alone_by_a_thread_that_ends_waits_on(run_script: Any) -> None:
    source = (
        LEFT
        + """
for _ in range(20):
    brief = threading.Thread(target=time.sleep, args=(0.01,))
    brief.start()
    brief.join()
channel.put(3)
getter.join()
assert not done
print("done")
"""
    )
    assert run_script(source).stdout == "done\n"


def test_a_channel_that_somebody_may_still_fill_is_waited_for(watch: DeadlockWatch) -> None:
    channel, lock = plait.Channel[int](), plait.Lock()

    def getter() -> int:
        with lock:
            return channel.get()

    def feeder() -> None:
        time.sleep(ENOUGH)
        channel.put(3)

    assert run(getter, getter, feeder, feeder) == [3, 3, None, None]
    assert not watch.report().deadlocks


@pytest.mark.parametrize("make", [plait.Lock, plait.RLock])
@pytest.mark.parametrize("shared", [False, True])
def test_a_wait_that_lost_its_lock_gives_nothing_back_whatever_is_raised_then(
    watch: DeadlockWatch, make: Any, shared: bool
) -> None:
    other = plait.Lock()
    condition = plait.Condition(make(shared=shared), shared=shared)

    def waits() -> str:
        with other:
            try:
                with condition:
                    try:
                        condition.wait()
                    except plait.DeadlockError as error:
                        raise ValueError("translated") from error
            except ValueError as error:
                assert condition.locked()
                return str(error)
        return "was notified"

    def notifies() -> bool:
        poll(lambda: condition.statistics()["waiting"] == 1)
        with condition:
            condition.notify()
            with other:
                return condition.locked()

    results = run(waits, notifies)
    assert len(watch.report().deadlocks) == 1
    assert results[0] == "translated" or isinstance(results[1], plait.DeadlockError)


@pytest.mark.parametrize("shared", [False, True])
def test_a_release_that_is_refused_says_nothing_of_a_lock(watch: DeadlockWatch, shared: bool) -> None:
    one, other, meet = plait.RLock(shared=shared), plait.RLock(shared=shared), threading.Barrier(2)

    def stranger() -> None:
        with pytest.raises(RuntimeError, match="un-acquired"):
            one.release()

    with one:
        run(stranger)
    assert len(errors(run(in_order([one, other], meet), in_order([other, one], meet)))) == 1


@pytest.mark.parametrize("make", [plait.EventLoop, asyncio.new_event_loop])
def test_tasks_of_a_closed_loop_are_not_kept(watch: DeadlockWatch, make: Any) -> None:
    def leave_one() -> weakref.ref[asyncio.Task[str]]:
        lock, loop = plait.Lock(), make()

        def ignore(_loop: Any, _context: Any) -> None:
            """Say nothing of a task that was destroyed."""

        async def main() -> weakref.ref[asyncio.Task[str]]:
            task = asyncio.get_running_loop().create_task(both(lock, lock, asyncio.Event(), asyncio.Event()))
            for _ in range(10):
                await asyncio.sleep(0)
            assert lock.statistics()["waiting"] == 1
            return weakref.ref(task)

        assert lock.acquire()
        loop.set_exception_handler(ignore)
        task: weakref.ref[asyncio.Task[str]] = loop.run_until_complete(main())
        loop.close()
        return task

    task = leave_one()
    gc.collect()
    assert task() is None


def test_a_thread_that_was_woken_and_cannot_run_yet_may_let_others_go_on(run_script: Any) -> None:
    source = """
import os, subprocess, sys, threading, time, plait, plait.sync

first, *_, last = sorted(os.sched_getaffinity(0)) * 2
os.sched_setaffinity(0, {last})
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
os.sched_setaffinity(0, {first})
ask, answer = plait.Channel(), plait.Channel()

def slow():
    os.sched_setaffinity(0, {last})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while (number := ask.get()) >= 0:
        answer.put(number)

thread = threading.Thread(target=slow)
try:
    with plait.sync.watch_deadlocks():
        thread.start()
        number, end = 0, time.monotonic() + 2
        while number < 100 and time.monotonic() < end:
            number += 1
            ask.put(number)
            assert answer.get() == number
    print("fine")
finally:
    for process in busy:
        process.kill()
        process.wait()
    ask.put(-1)
    thread.join()
"""
    assert run_script(source).stdout == "fine\n"


def test_an_ended_watch_stays_ended(watch: DeadlockWatch) -> None:
    lock = plait.Lock(shared=True)
    with lock:
        pass
    watch.cancel()
    with lock:
        assert run(lambda: lock.acquire(timeout=0.01)) == [False]
    plait.Lock(shared=True).acquire()
    assert not _deadlocks._watches


def test_a_shared_lock_was_made_where_the_program_made_it(watch: DeadlockWatch) -> None:
    lock = plait.Lock(shared=True)
    with lock, pytest.raises(plait.DeadlockError) as raised:
        lock.acquire()
    made = str(raised.value).split("it was made in ")[1]
    assert made.startswith("test_a_shared_lock_was_made_where_the_program_made_it, " + HERE)
