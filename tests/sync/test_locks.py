"""Locks and their kin: threads and tasks together, and what the standard library's own tests leave open."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import re
import threading
import time
import weakref
from typing import Any

import pytest

import plait as package
from plait import errors

plait: Any = package  # as to a program without types
WATCHDOG = 60.0
ALL = {
    "Lock": plait.Lock,
    "RLock": plait.RLock,
    "Semaphore": plait.Semaphore,
    "BoundedSemaphore": plait.BoundedSemaphore,
    "Event": plait.Event,
    "Condition": plait.Condition,
    "Barrier": lambda: plait.Barrier(2),
}
LOCKS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore"]


def until(condition):
    deadline = time.monotonic() + WATCHDOG
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


async def auntil(condition):
    async with asyncio.timeout(WATCHDOG):
        while not condition():  # noqa: ASYNC110 -- nothing tells when somebody begins to wait
            await asyncio.sleep(0.001)


def current_task() -> Any:
    return asyncio.current_task()


def in_thread(function, *arguments):
    found: list = []

    def run():
        try:
            found.append(function(*arguments))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result():
        thread.join(WATCHDOG)
        assert found, "it still runs"
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    return result


def waiting(thing):
    return thing.statistics()["waiting"]


@pytest.mark.parametrize("name", ALL)
def test_they_are_not_pickled_nor_copied(name):
    thing = ALL[name]()
    with pytest.raises(TypeError, match=f"cannot pickle '{name}' object"):
        pickle.dumps(thing)
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.copy(thing)


@pytest.mark.parametrize("name", ALL)
def test_they_can_be_referred_to_weakly(name):
    thing = ALL[name]()
    reference = weakref.ref(thing)
    assert reference() is thing
    del thing
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("name", ALL)
def test_they_can_be_subclassed(name):
    base = getattr(plait, name)
    sub = type("Sub", (base,), {"extra": 1})
    assert isinstance(sub(2) if name == "Barrier" else sub(), base)


def test_repr_shows_state_owner_and_waiters():
    lock = plait.Lock()
    assert re.fullmatch(r"<unlocked plait\.Lock object waiting=0 at 0x[0-9a-f]+>", repr(lock))
    lock.acquire()
    result = in_thread(lock.acquire)
    until(lambda: waiting(lock) == 1)
    assert re.fullmatch(r"<locked plait\.Lock object owner='MainThread' waiting=1 at 0x[0-9a-f]+>", repr(lock))
    assert lock.statistics()["owner"] == "MainThread"
    lock.release()
    assert result()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert lock.statistics()["locked"] is False
    rlock = plait.RLock()
    assert " count=0 " in repr(rlock)  # as the standard library's from 3.14 on
    with rlock, rlock:
        assert "owner='MainThread' count=2" in repr(rlock)
    assert repr(plait.Semaphore(3)).endswith("value=3>")
    assert repr(plait.BoundedSemaphore(3)).endswith("value=3/3>")
    assert repr(plait.Event()).endswith(": unset>")
    assert repr(plait.Condition()).startswith("<Condition(<unlocked plait.RLock object")
    assert repr(plait.Barrier(3)).endswith("waiters=0/3>")


def test_repr_names_the_task_that_has_it():
    async def main():
        current_task().set_name("carol")
        for lock in plait.Lock(), plait.RLock():
            async with lock:
                assert "owner='carol'" in repr(lock)
                assert lock.statistics()["owner"] == "carol"
            assert lock.statistics()["owner"] is None

    asyncio.run(main())


@pytest.mark.parametrize("name", LOCKS)
def test_a_thread_and_a_task_exclude_one_another(name):
    lock = ALL[name]()
    inside, most, total = 0, 0, 0

    def enter():
        nonlocal inside, most
        inside += 1
        most = max(most, inside)

    def leave():
        nonlocal inside, total
        inside -= 1
        total += 1

    def thread():
        for _ in range(300):
            with lock:
                enter()
                time.sleep(0)
                leave()

    async def task():
        for _ in range(100):
            async with lock:
                enter()
                await asyncio.sleep(0)
                leave()

    async def main():
        await asyncio.gather(*(task() for _ in range(3)))

    results = [in_thread(thread) for _ in range(2)] + [in_thread(asyncio.run, main()) for _ in range(2)]
    for result in results:
        result()
    assert (most, total) == (1, 1200)
    assert not lock.locked()


@pytest.mark.parametrize("name", LOCKS)
def test_threads_and_tasks_wait_in_one_line(name):
    async def main():
        lock, order = ALL[name](), []
        lock.acquire()

        async def task(number):
            await lock.aacquire()
            order.append(number)
            lock.release()

        def thread(number):
            lock.acquire()
            order.append(number)
            lock.release()

        def own_task(number):
            asyncio.run(task(number))

        waits = []
        for number in range(6):
            kind = [
                lambda n: in_thread(thread, n),
                lambda n: asyncio.create_task(task(n)),
                lambda n: in_thread(own_task, n),
            ]
            if name == "RLock" and number % 3 == 1:
                continue  # a lock of this thread: its own task would wait for itself
            waits.append(kind[number % 3](number))
            await auntil(lambda: waiting(lock) == len(waits))
        await asyncio.sleep(0.003)  # from here on it is handed over
        lock.release()
        for wait in waits:
            if isinstance(wait, asyncio.Task):
                await wait
            else:
                await asyncio.to_thread(wait)
        assert order == sorted(order)

    asyncio.run(main())


@pytest.mark.parametrize("name", LOCKS)
def test_who_has_waited_for_a_millisecond_gets_it_next(name):
    """However often the one who has it takes it again."""
    lock, over = ALL[name](), False

    def barge():
        while not over:
            with lock:
                pass

    results = [in_thread(barge) for _ in range(3)]
    for _ in range(20):
        assert lock.acquire(timeout=WATCHDOG)
        lock.release()
    over = True
    for result in results:
        result()


@pytest.mark.parametrize("name", LOCKS)
def test_a_cancelled_task_has_not_taken_it_and_the_next_goes_on(name):
    async def main():
        lock = ALL[name]()
        assert await lock.aacquire()

        async def take():
            await lock.aacquire()
            return "taken"

        first, second = asyncio.create_task(take()), asyncio.create_task(take())
        await asyncio.sleep(0)
        assert waiting(lock) == 2
        lock.release()  # the first has it, and does not know
        first.cancel()
        assert await second == "taken"
        with pytest.raises(asyncio.CancelledError):
            await first
        assert lock.locked()
        if name != "RLock":
            lock.release()
            assert not lock.locked()

    asyncio.run(main())


def test_cancelled_while_a_thread_releases_nothing_is_lost():
    lock = plait.Lock()

    async def round_trip():
        lock.acquire()
        task = asyncio.create_task(lock.aacquire())
        await asyncio.sleep(0)
        release = in_thread(lock.release)
        await asyncio.sleep(0)
        task.cancel()
        release()
        try:
            await task
        except asyncio.CancelledError:
            pass
        else:
            lock.release()
        assert not lock.locked()
        assert waiting(lock) == 0

    async def main():
        for _ in range(300):
            await round_trip()

    asyncio.run(main())


def test_among_the_tasks_of_one_loop_it_goes_to_who_waits_also_in_a_fresh_program(run_script):
    source = """
import asyncio, plait

async def main():
    lock = plait.Lock()
    lock.acquire()

    async def other():
        async with lock:
            pass

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    lock.release()
    print(lock.acquire(False))
    await task

asyncio.run(main())
"""
    assert run_script(source).stdout == "False\n"


@pytest.mark.parametrize("name", LOCKS)
def test_a_task_can_be_made_of_getting_in(name):
    async def main():
        lock = ALL[name]()
        entering = lock.__aenter__()
        assert asyncio.iscoroutine(entering)
        await asyncio.create_task(entering)
        assert lock.locked()
        lock = ALL[name]()
        await asyncio.wait_for(lock.__aenter__(), WATCHDOG)
        await asyncio.create_task(lock.__aexit__(None, None, None))
        assert not lock.locked()
        for raised in [KeyError, KeyError("it")]:
            await lock.__aenter__()
            with pytest.raises(KeyError):
                lock.__aexit__(None, None, None).throw(raised)
        lock.__aenter__().close()
        assert lock.locked()

    asyncio.run(main())


@pytest.mark.parametrize("name", LOCKS)
def test_timeouts_and_tries_of_tasks(name):
    async def main():
        lock = ALL[name]()
        owned = in_thread(lock.acquire)
        assert owned()
        assert not await lock.aacquire(blocking=False)
        assert not await lock.aacquire(timeout=0.01)
        assert waiting(lock) == 0
        with pytest.raises(ValueError, match="non-blocking"):
            await lock.aacquire(False, 1)
        if name in {"Lock", "RLock"}:
            with pytest.raises(ValueError, match="non-negative"):
                await lock.aacquire(timeout=-2)
        if name != "RLock":
            lock.release()
            assert await lock.aacquire(timeout=WATCHDOG)
            lock.release()
            assert await lock.aacquire(False)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((False, 1), ValueError),
        ((True, -2), ValueError),
        ((True, 1e100), OverflowError),
        ((True, threading.TIMEOUT_MAX + 1), OverflowError),
        ((True, "x"), TypeError),
        ((True, float("nan")), ValueError),
    ],
)
@pytest.mark.parametrize("name", ["Lock", "RLock"])
def test_bad_arguments_of_acquire_leave_it_free(name, arguments, error):
    lock = ALL[name]()
    lock.acquire()
    with pytest.raises(error):
        lock.acquire(*arguments)
    lock.release()
    assert not lock.locked()


def test_texts_of_errors():
    with pytest.raises(RuntimeError, match=r"^release unlocked lock$"):
        plait.Lock().release()
    with pytest.raises(RuntimeError, match=r"^cannot release un-acquired lock$"):
        plait.RLock().release()
    with pytest.raises(ValueError, match=r"^Semaphore released too many times$"):
        plait.BoundedSemaphore().release()
    with pytest.raises(ValueError, match=r"^n must be one or more$"):
        plait.Semaphore().release(0)
    with pytest.raises(ValueError, match=re.escape("semaphore initial value must be >= 0")):
        plait.Semaphore(-1)
    with pytest.raises(OverflowError, match="at most"):
        plait.Semaphore(2**63)
    with pytest.raises(TypeError, match="must be an integer"):
        plait.Semaphore("2")
    with pytest.raises(RuntimeError, match=r"^cannot wait on un-acquired lock$"):
        plait.Condition().wait()
    with pytest.raises(RuntimeError, match=r"^cannot notify on un-acquired lock$"):
        plait.Condition().notify()
    with pytest.raises(TypeError, match="lock must be a lock"):
        plait.Condition(3)


def test_a_semaphore_without_practical_limit():
    import sys

    semaphore = plait.Semaphore(sys.maxsize)
    assert semaphore.acquire()
    semaphore.release()
    with pytest.raises(OverflowError):
        semaphore.release(1)


def test_an_rlock_of_a_task_is_not_its_threads():
    async def main():
        lock = plait.RLock()
        async with lock, lock:
            assert lock._is_owned()
            with lock:
                assert lock._recursion_count() == 3

            async def other():
                assert not lock._is_owned()
                assert not await lock.aacquire(blocking=False)
                assert not lock.acquire(blocking=False)
                with pytest.raises(RuntimeError):
                    lock.release()

            await asyncio.create_task(other())
        assert not lock.locked()

    asyncio.run(main())


def test_aacquire_without_a_task_belongs_to_the_thread():
    lock = plait.RLock()
    coroutine = lock.aacquire()
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value is True
    assert lock._is_owned()
    lock.release()


@pytest.mark.parametrize("kind", [plait.Lock, plait.RLock])
def test_the_standard_condition_takes_our_locks(kind):
    condition = threading.Condition(kind())
    items: list = []

    def get():
        with condition:
            assert condition.wait_for(lambda: items, WATCHDOG)
            return items.pop()

    results = [in_thread(get) for _ in range(3)]
    for number in range(3):
        with condition:
            items.append(number)
            condition.notify()
    assert sorted(result() for result in results) == [0, 1, 2]


def test_an_event_between_threads_and_tasks():
    there, back = plait.Event(), plait.Event()

    async def main():
        assert not await there.await_(timeout=0.001)
        tasks = [asyncio.create_task(there.await_()) for _ in range(3)]
        await auntil(lambda: waiting(there) == 4)
        in_thread(there.set)()
        assert await asyncio.gather(*tasks) == [True] * 3
        assert await there.await_(0)
        back.set()

    result = in_thread(there.wait, WATCHDOG)
    asyncio.run(main())
    assert result()
    assert back.wait(0)
    there.clear()
    assert not there.wait(0.001)


@pytest.mark.parametrize("kind", [plait.Lock, plait.RLock])
def test_a_condition_between_threads_and_tasks(kind):
    condition = plait.Condition(kind())
    items: list = []
    taken: list = []

    def get_in_thread():
        for _ in range(50):
            with condition:
                condition.wait_for(lambda: items, WATCHDOG)
                taken.append(items.pop())

    async def get():
        for _ in range(50):
            async with condition:
                await condition.await_for(lambda: items, WATCHDOG)
                taken.append(items.pop())

    async def put(first):
        for number in range(first, first + 50):
            async with condition:
                items.append(number)
                await condition.anotify()
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(get(), get(), put(0), put(50))

    def put_in_thread():
        for number in range(100, 200):
            with condition:
                items.append(number)
                condition.notify()

    results = [
        in_thread(get_in_thread),
        in_thread(get_in_thread),
        in_thread(asyncio.run, main()),
        in_thread(put_in_thread),
    ]
    for result in results:
        result()
    assert sorted(taken) == list(range(200))
    assert not condition.locked()
    assert waiting(condition) == 0


def test_a_condition_has_its_lock_again_however_the_wait_ends():
    async def main():
        condition = plait.Condition()
        async with condition:
            assert not await condition.await_(timeout=0.01)
            assert condition._is_owned()
            task = current_task()
            asyncio.get_running_loop().call_soon(task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await condition.await_()
            task.uncancel()
            assert condition._is_owned()
            async with condition:  # taken twice, given back altogether
                assert not await condition.await_for(lambda: 0, timeout=0.01)
                assert condition._lock._recursion_count() == 2
        assert not condition.locked()

    asyncio.run(main())


def test_a_notice_for_a_cancelled_task_goes_to_another():
    async def main():
        condition = plait.Condition(plait.Lock())

        async def wait():
            async with condition:
                return await condition.await_()

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await auntil(lambda: waiting(condition) == 2)
        async with condition:
            condition.notify()
        first.cancel()
        assert await asyncio.wait_for(second, WATCHDOG)
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())


def test_a_condition_over_a_lock_of_threading_is_for_threads():
    condition = plait.Condition(threading.Lock())

    def wait():
        with condition:
            return condition.wait(WATCHDOG)

    result = in_thread(wait)
    until(lambda: waiting(condition) == 1)
    with condition:
        condition.notify_all()
    assert result()

    async def main():
        with pytest.raises(TypeError, match=re.escape("give the condition a plait.Lock or a plait.RLock")):
            async with condition:
                pass
        with condition, pytest.raises(TypeError, match="tasks cannot wait for"):
            await condition.await_()

    asyncio.run(main())


def test_a_barrier_of_threads_and_tasks():
    barrier = plait.Barrier(4)
    passed: list = []

    def thread():
        return [barrier.wait(WATCHDOG) for _ in range(20)]

    async def task():
        return [await barrier.await_(WATCHDOG) for _ in range(20)]

    async def main():
        passed.extend(await asyncio.gather(task(), task()))

    results = [in_thread(thread), in_thread(thread)]
    asyncio.run(main())
    passed.extend(result() for result in results)
    assert [sorted(each) for each in zip(*passed, strict=True)] == [[0, 1, 2, 3]] * 20
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def test_the_error_of_a_barrier_is_both_libraries():
    barrier = plait.Barrier(2)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.001)
    assert barrier.broken

    async def main():
        with pytest.raises(asyncio.BrokenBarrierError):
            await barrier.await_()

    asyncio.run(main())
    assert issubclass(errors.BrokenBarrierError, threading.BrokenBarrierError)


def test_an_action_that_fails_breaks_the_barrier():
    def fail():
        raise KeyError("action")

    barrier = plait.Barrier(2, fail)
    result = in_thread(barrier.wait)
    until(lambda: barrier.n_waiting == 1)
    with pytest.raises(KeyError, match="action"):
        barrier.wait()
    with pytest.raises(errors.BrokenBarrierError):
        result()
    assert barrier.broken


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("kind", ["thread", "task"])
def test_an_abort_during_the_action_reaches_all_of_the_round(before, kind):
    begun, go_on = threading.Event(), threading.Event()

    def act():
        begun.set()
        assert go_on.wait(WATCHDOG)

    barrier = plait.Barrier(2, act)
    if before:
        go_on.set()
        result = in_thread(barrier.wait)
        assert barrier.wait() + result() == 1
        go_on.clear()
        begun.clear()
    told: list = []

    def come():
        with pytest.raises(errors.BrokenBarrierError):
            barrier.wait() if kind == "thread" else asyncio.run(barrier.await_())
        told.append("broken")

    results = [in_thread(come), in_thread(come)]
    assert begun.wait(WATCHDOG)
    barrier.abort()
    until(lambda: told == ["broken"])  # who waited does not wait for the action
    go_on.set()
    for result in results:
        result()
    assert barrier.broken


def test_an_abort_reaches_all_rounds_that_act():
    go_on, acting = threading.Event(), threading.Semaphore(0)

    def act():
        acting.release()
        assert go_on.wait(WATCHDOG)

    barrier = plait.Barrier(2, act)
    told: list = []

    def come():
        with pytest.raises(errors.BrokenBarrierError):
            barrier.wait()
        told.append("broken")

    results = [in_thread(come) for _ in range(4)]
    assert all(acting.acquire(timeout=WATCHDOG) for _ in range(2))
    barrier.abort()
    until(lambda: len(told) == 2)
    go_on.set()
    for result in results:
        result()


def test_numbers_of_a_barrier_stay_apart_when_a_task_leaves():
    async def main():
        barrier = plait.Barrier(3)
        tasks = [asyncio.create_task(barrier.await_()) for _ in range(2)]
        await asyncio.sleep(0)
        tasks.pop(0).cancel()
        await asyncio.sleep(0)
        assert barrier.n_waiting == 1
        tasks += [asyncio.create_task(barrier.await_()) for _ in range(2)]
        assert sorted(await asyncio.gather(*tasks)) == [0, 1, 2]

    asyncio.run(main())


@pytest.mark.parametrize("name", ["Lock", "RLock", "Semaphore", "Event", "Condition"])
def test_a_task_that_nobody_can_wake_is_collected(name):
    class Mark:
        pass

    def make():
        thing, mark = ALL[name](), Mark()

        async def wait(_mark):
            match name:
                case "Event":
                    await thing.await_()
                case "Condition":
                    async with thing:
                        await thing.await_()
                case _:
                    await thing.aacquire()

        async def main():
            if name not in {"Event", "Condition"}:
                in_thread(thing.acquire)()
            task: Any = asyncio.create_task(wait(mark))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task._log_destroy_pending = False

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        return weakref.ref(mark)

    reference = make()
    gc.collect()
    assert reference() is None


def test_an_owner_that_is_a_task_is_let_go_of():
    async def main():
        lock = plait.Lock()
        task = asyncio.create_task(lock.aacquire())
        await task
        reference = weakref.ref(task)
        del task
        assert reference() is not None
        lock.release()
        return reference

    reference = asyncio.run(main())
    gc.collect()
    assert reference() is None


PROGRAM_OF_SIGNALS = """
import asyncio, os, signal, threading, time
import plait

class Rang(Exception):
    pass

def ring(number, frame):
    raise Rang

signal.signal(signal.SIGALRM, ring)
lock, semaphore, event = plait.Lock(), plait.Semaphore(0), plait.Event()
condition, barrier = plait.Condition(), plait.Barrier(2)
lock.acquire()
rlock = plait.RLock()
holder = threading.Thread(target=rlock.acquire)
holder.start()
holder.join()

def condition_wait():
    with condition:
        condition.wait()

waits = [lock.acquire, rlock.acquire, semaphore.acquire, event.wait, condition_wait, barrier.wait]
for wait in (*waits, lambda: lock.acquire(timeout=50)):
    for delay in (0.002, 0.06):
        signal.setitimer(signal.ITIMER_REAL, delay)
        try:
            wait()
        except Rang:
            pass
        else:
            raise SystemExit("not interrupted")
assert not condition.locked()
assert barrier.n_waiting == 0
lock.release()
assert lock.acquire(timeout=10)

# A handler that sets the event that its thread waits for.
signal.signal(signal.SIGALRM, lambda number, frame: event.set())
signal.setitimer(signal.ITIMER_REAL, 0.05)
assert event.wait(20)
print("ok")
"""


def test_signals_are_handled_in_every_wait_of_the_main_thread(run_script):
    assert run_script(PROGRAM_OF_SIGNALS).stdout == "ok\n"


PROGRAM_OF_FORKS = """
import os, threading, time, warnings
import plait

warnings.simplefilter("ignore")  # of a fork beside threads: that is what this is about
mine, theirs, busy, event, condition = plait.Lock(), plait.Lock(), plait.Lock(), plait.Event(), plait.Condition()
mine.acquire()
holder = threading.Thread(target=theirs.acquire)
holder.start()
holder.join()
waiting = [threading.Thread(target=mine.acquire, daemon=True), threading.Thread(target=event.wait, daemon=True)]
over = False

def hammer():
    while not over:
        with busy:
            pass

waiting += [threading.Thread(target=hammer, daemon=True) for _ in range(3)]
for thread in waiting:
    thread.start()
while not (mine.statistics()["waiting"] and event.statistics()["waiting"]):
    time.sleep(0.001)

def use():
    assert theirs.locked() and not theirs.acquire(timeout=0.01)
    theirs._at_fork_reinit()
    assert theirs.acquire(False)
    busy.acquire(timeout=0.05)  # as the parent's threads had it
    busy._at_fork_reinit()
    assert mine.statistics()["waiting"] == 0, mine
    mine.release()
    with mine, busy, condition:
        condition.notify_all()
    taken = threading.Thread(target=lambda: [mine.acquire(), busy.acquire()])
    with mine:
        taken.start()
        while not mine.statistics()["waiting"]:
            time.sleep(0.001)
    taken.join(20)
    assert mine.locked() and busy.locked()
    assert event.statistics()["waiting"] == 0
    event.set()
    assert event.wait(1)

for _ in range(20):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            use()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
over = True
mine.release()
event.set()
for thread in waiting:
    thread.join(20)
print("ok")
"""


def test_a_forked_child_uses_the_locks_and_nobody_of_its_parent_waits_there(run_script):
    assert run_script(PROGRAM_OF_FORKS).stdout == "ok\n"


def test_locks_do_without_asyncio_until_they_need_it(run_script):
    source = """
import sys, threading, plait
lock = plait.Lock()
threads = [threading.Thread(target=lambda: [lock.acquire() and lock.release() for _ in range(2000)]) for _ in range(3)]
with lock:
    [thread.start() for thread in threads]
[thread.join() for thread in threads]
plait.Event(), plait.Condition(), plait.Barrier(1).wait()
print("asyncio" in sys.modules)
"""
    assert run_script(source, way="-c").stdout == "False\n"
