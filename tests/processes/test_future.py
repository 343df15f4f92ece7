"""plait.Future: a concurrent.futures.Future to everybody who asks, awaitable in any loop, and it can be killed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import logging
import threading
import time
import weakref

import pytest

import plait
from tests.processes import _tasks
from tests.processes._support import WATCHDOG, check_usable, gone, wait_until
from tests.processes._tasks import Gate

CancelledError = concurrent.futures.CancelledError


def at_gate(pool, gate, tally):
    """A task that runs and waits."""
    before = len(tally.rows())
    future = pool.submit(_tasks.note_at_gate, tally, gate, "through")
    tally.wait(before + 1)
    return future


def in_loops(main):
    """Run a coroutine function in a fresh loop, under a watchdog."""

    async def guarded():
        return await asyncio.wait_for(main(), WATCHDOG)

    return asyncio.run(guarded())


# ---- states and results --------------------------------------------------------------------------


def test_states(one, gate, tally):
    running = at_gate(one, gate, tally)
    queued = one.submit(_tasks.echo, 1)
    wait_until(running.running, "the task to be seen running")
    assert not running.done()
    assert not running.cancelled()
    assert not queued.running()
    assert not queued.done()
    gate.open()
    assert running.result(WATCHDOG) == "through"
    assert queued.result(WATCHDOG) == 1
    for future in (running, queued):
        assert future.done()
        assert not future.running()
        assert not future.cancelled()
        assert future.exception() is None


def test_done_turns_true_without_being_asked_for_the_result(pool):
    future = pool.submit(_tasks.echo, 1)
    wait_until(future.done, "the future to be done")
    assert future.result(0) == 1


def test_result_is_the_same_object_each_time(pool):
    future = pool.submit(_tasks.echo, [1, 2])
    assert future.result(WATCHDOG) is future.result()
    assert future.exception() is None


@pytest.mark.parametrize("timeout", [0, -1, 0.05])
def test_result_times_out(one, gate, tally, timeout):
    running = at_gate(one, gate, tally)
    queued = one.submit(_tasks.echo, 1)
    for future in (running, queued):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout=timeout)
    gate.open()
    assert running.result(WATCHDOG) == "through"
    assert queued.result(WATCHDOG) == 1
    assert queued.result(timeout) == 1


def test_hashable_weakly_referable_and_equal_to_itself_only(pool):
    futures = {pool.submit(_tasks.echo, i): i for i in range(20)}
    for future in concurrent.futures.as_completed(futures, WATCHDOG):
        assert futures[future] == future.result()
    assert weakref.ref(future)() is future
    assert future != pool.submit(_tasks.echo, 1)


def test_several_threads_wait_for_one_future(one, gate, tally):
    future = at_gate(one, gate, tally)
    answers = []
    threads = [
        threading.Thread(target=lambda t=timeout: answers.append(future.result(t)))
        for timeout in (None, WATCHDOG, None, WATCHDOG, None)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    gate.open()
    assert future.result() == "through"
    for thread in threads:
        thread.join(WATCHDOG)
    assert answers == ["through"] * 5


def test_threads_wait_for_each_others_futures(pool):
    futures = [pool.submit(_tasks.nap, 0.002, i) for i in range(200)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda f: f.result(WATCHDOG), futures * 4, timeout=WATCHDOG))
    assert answers == list(range(200)) * 4


def test_wait_in_a_thread_that_times_out_while_others_get_their_results(pool, gate, tally):
    stuck = at_gate(pool, gate, tally)
    caught = []

    def impatient():
        try:
            stuck.result(0.3)
        except TimeoutError as error:
            caught.append(error)

    thread = threading.Thread(target=impatient)
    thread.start()
    for i in range(500):
        assert pool.submit(_tasks.echo, i).result(WATCHDOG) == i
    thread.join(WATCHDOG)
    assert len(caught) == 1


def test_dropped_futures_are_run_and_freed(pool, tally):
    references = [weakref.ref(pool.submit(_tasks.note, tally, i)) for i in range(300)]
    tally.wait(300)
    check_usable(pool)

    def freed():
        gc.collect()
        return not any(reference() for reference in references)

    wait_until(freed, "dropped futures to be freed")


def test_futures_outlive_the_pool(tmp_path):
    with plait.ProcessPool(2) as pool:
        small = [pool.submit(_tasks.echo, i) for i in range(50)]
        large = [pool.submit(_tasks.echo, bytes([i]) * 1_000_000) for i in range(10)]
        failed = pool.submit(_tasks.refuse_in_the_worker, "no")
        dead = pool.submit(_tasks.die)
    del pool
    gc.collect()
    assert [f.result(0) for f in small] == list(range(50))
    assert [f.result(0) for f in large] == [bytes([i]) * 1_000_000 for i in range(10)]
    assert type(failed.exception(0)) is _tasks.Refusal
    assert type(dead.exception(0)) is plait.WorkerDied
    assert all(f.done() for f in (*small, *large))


# ---- cancel --------------------------------------------------------------------------------------


def test_cancel_what_is_queued(one, gate, tally):
    running = at_gate(one, gate, tally)
    queued = one.submit(_tasks.note, tally, "must not run")
    called: list[plait.Future[object]] = []
    queued.add_done_callback(called.append)
    assert queued.cancel() is True
    assert queued.cancel() is True
    assert queued.cancelled()
    assert queued.done()
    assert not queued.running()
    wait_until(lambda: called == [queued], "the callback of a cancelled future")
    for ask in (queued.result, queued.exception):
        with pytest.raises(CancelledError):
            ask(WATCHDOG)
    gate.open()
    assert running.result(WATCHDOG) == "through"
    check_usable(one)
    assert "must" not in tally.count()


def test_cancel_does_not_touch_what_runs(one, gate, tally):
    running = at_gate(one, gate, tally)
    assert running.cancel() is False
    assert not running.cancelled()
    gate.open()
    assert running.result(WATCHDOG) == "through"
    assert running.cancel() is False
    assert not running.cancelled()


def test_cancel_many_of_many(one, gate, tally):
    running = at_gate(one, gate, tally)
    futures = [one.submit(_tasks.note, tally, i) for i in range(1000)]
    cancelled = [f.cancel() for f in futures[::2]]
    assert all(cancelled)
    gate.open()
    assert [f.result(WATCHDOG) for f in futures[1::2]] == list(range(1, 1000, 2))
    assert running.result() == "through"
    assert tally.order()[1:] == [str(i) for i in range(1, 1000, 2)]


def test_cancel_races_with_running(pool, tally):
    # Whoever wins: cancelled and never run, or run once with its result.
    futures = [pool.submit(_tasks.note, tally, i) for i in range(2000)]
    outcome = [f.cancel() for f in reversed(futures)][::-1]
    for i, (future, cancelled) in enumerate(zip(futures, outcome, strict=True)):
        assert future.cancelled() is cancelled
        if not cancelled:
            assert future.result(WATCHDOG) == i
    check_usable(pool)
    assert tally.count() == {str(i): 1 for i, cancelled in enumerate(outcome) if not cancelled}


def test_wait_sees_cancelled_futures(one, gate, tally):
    running = at_gate(one, gate, tally)
    queued = [one.submit(_tasks.echo, i) for i in range(3)]
    threading.Timer(0.1, lambda: [f.cancel() for f in queued]).start()
    done, pending = concurrent.futures.wait([running, *queued], WATCHDOG, concurrent.futures.FIRST_COMPLETED)
    assert done <= set(queued)
    assert done
    assert running in pending
    done, pending = concurrent.futures.wait(queued, WATCHDOG)
    assert done == set(queued)
    assert set(concurrent.futures.as_completed(queued, WATCHDOG)) == set(queued)


def test_waiting_thread_sees_the_cancellation(one, gate, tally):
    at_gate(one, gate, tally)
    queued = one.submit(_tasks.echo, 1)
    threading.Timer(0.1, queued.cancel).start()
    with pytest.raises(CancelledError):
        queued.result()


# ---- wait and as_completed -----------------------------------------------------------------------


def test_wait_for_all(pool):
    futures = [pool.submit(_tasks.nap, 0.001, i) for i in range(100)]
    done, pending = concurrent.futures.wait(futures, WATCHDOG)
    assert done == set(futures)
    assert not pending
    assert all(f.done() for f in futures)


def test_wait_for_the_first(pool, gate, tally):
    slow = at_gate(pool, gate, tally)
    quick = pool.submit(_tasks.echo, 1)
    done, pending = concurrent.futures.wait([slow, quick], WATCHDOG, concurrent.futures.FIRST_COMPLETED)
    assert done == {quick}
    assert pending == {slow}


def test_wait_for_the_first_error(pool, gate, tally):
    slow = at_gate(pool, gate, tally)
    quick = pool.submit(_tasks.echo, 1)
    bad = pool.submit(_tasks.refuse_in_the_worker, "no")
    done, pending = concurrent.futures.wait([slow, quick, bad], WATCHDOG, concurrent.futures.FIRST_EXCEPTION)
    assert {bad} <= done <= {bad, quick}
    assert slow in pending


def test_wait_for_the_first_error_that_is_a_death(pool, gate, tally):
    slow = at_gate(pool, gate, tally)
    bad = pool.submit(_tasks.die)
    done, pending = concurrent.futures.wait([slow, bad], WATCHDOG, concurrent.futures.FIRST_EXCEPTION)
    assert done == {bad}
    assert pending == {slow}


def test_wait_times_out(pool, gate, tally):
    slow = at_gate(pool, gate, tally)
    quick = pool.submit(_tasks.echo, 1)
    quick.result(WATCHDOG)
    done, pending = concurrent.futures.wait([slow, quick], timeout=0.05)
    assert done == {quick}
    assert pending == {slow}


def test_as_completed(pool):
    futures = [pool.submit(_tasks.nap, 0.001, i) for i in range(100)]
    assert sorted(f.result(0) for f in concurrent.futures.as_completed(futures, WATCHDOG)) == list(range(100))


def test_as_completed_yields_each_when_it_comes(pool, tmp_path, tally):
    gates = [Gate(tmp_path / f"gate{i}") for i in range(2)]
    futures = [at_gate(pool, gate, tally) for gate in gates]
    results = concurrent.futures.as_completed(futures, WATCHDOG)
    gates[1].open()
    assert next(results) is futures[1]
    gates[0].open()
    assert next(results) is futures[0]
    assert list(results) == []


def test_as_completed_times_out(pool, gate, tally):
    slow = at_gate(pool, gate, tally)
    quick = pool.submit(_tasks.echo, 1)
    quick.result(WATCHDOG)
    results = concurrent.futures.as_completed([slow, quick], timeout=0.1)
    assert next(results) is quick
    with pytest.raises(TimeoutError):
        next(results)


def test_wait_and_as_completed_with_futures_of_others(pool):
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        mixed = [executor.submit(_tasks.nap, 0.002, i) for i in range(50) for executor in (pool, threads)]
        assert sorted(f.result(0) for f in concurrent.futures.as_completed(mixed, WATCHDOG)) == sorted(
            [*range(50), *range(50)]
        )
        mixed = [executor.submit(_tasks.nap, 0.002, i) for i in range(50) for executor in (pool, threads)]
        done, pending = concurrent.futures.wait(mixed, WATCHDOG)
        assert done == set(mixed)
        assert not pending


def test_many_threads_in_as_completed(pool):
    def run(base):
        futures = [pool.submit(_tasks.add, base, i) for i in range(200)]
        return sorted(f.result(0) for f in concurrent.futures.as_completed(futures, WATCHDOG))

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        for base, values in enumerate(threads.map(run, range(6), timeout=WATCHDOG)):
            assert values == [base + i for i in range(200)]


# ---- callbacks -----------------------------------------------------------------------------------


def test_callbacks_run_once_in_order_with_the_future(one, gate, tally):
    future = at_gate(one, gate, tally)
    calls: list = []
    for i in range(10):
        future.add_done_callback(lambda f, i=i: calls.append((i, f, f.done(), f.result(0))))
    assert calls == []
    gate.open()
    wait_until(lambda: len(calls) >= 10, "the callbacks")
    time.sleep(0.05)
    assert calls == [(i, future, True, "through") for i in range(10)]


def test_callback_of_what_is_done_runs_at_once_in_this_thread(pool):
    future = pool.submit(_tasks.echo, 1)
    future.result(WATCHDOG)
    threads: list = []
    future.add_done_callback(lambda f: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]


def test_callbacks_come_without_anybody_waiting(pool):
    calls: list = []
    for i in range(1000):
        pool.submit(_tasks.echo, i).add_done_callback(lambda f: calls.append(f.result(0)))
    wait_until(lambda: len(calls) >= 1000, "the callbacks")
    assert sorted(calls) == list(range(1000))


def test_callbacks_come_even_if_another_thread_takes_the_result(pool):
    calls: list = []
    for i in range(1000):
        future = pool.submit(_tasks.echo, i)
        future.add_done_callback(lambda f: calls.append(f.result(0)))
        assert future.result(WATCHDOG) == i
    wait_until(lambda: len(calls) >= 1000, "the callbacks")
    assert sorted(calls) == list(range(1000))


@pytest.mark.parametrize("kind", [ValueError, plait.WorkerDied, plait.TaskTimeout, plait.TaskCancelled])
def test_callbacks_of_tasks_that_fail(pool, kind):
    future = {
        ValueError: lambda: pool.submit(int, "x"),
        plait.WorkerDied: lambda: pool.submit(_tasks.die),
        plait.TaskTimeout: lambda: pool.options(timeout=0.1).submit(_tasks.hang),
        plait.TaskCancelled: lambda: pool.submit(_tasks.hang),
    }[kind]()
    calls: list = []
    future.add_done_callback(lambda f: calls.append((f, type(f.exception(0)))))
    if kind is plait.TaskCancelled:
        assert future.kill() is True
    wait_until(lambda: calls, "the callback")
    assert calls == [(future, kind)]


def test_callback_that_raises_is_logged_and_the_next_runs(pool, gate, tally, caplog):
    future = at_gate(pool, gate, tally)
    calls: list = []

    def bad(f):
        raise RuntimeError("callback broke")

    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        future.add_done_callback(bad)
        future.add_done_callback(calls.append)
        gate.open()
        wait_until(lambda: calls, "the second callback")
    assert calls == [future]
    assert "callback broke" in caplog.text
    caplog.clear()  # what it keeps holds this frame
    check_usable(pool)


def test_callback_may_use_the_pool(pool):
    # In the thread that completes futures: it must not wait for itself.
    done = threading.Event()
    seen: list = []

    def follow(f):
        seen.append(f.result(0))
        if seen[-1] < 50:
            pool.submit(_tasks.add, seen[-1], 1).add_done_callback(follow)
        else:
            done.set()

    pool.submit(_tasks.add, 0, 1).add_done_callback(follow)
    assert done.wait(WATCHDOG)
    assert seen == list(range(1, 51))


def test_callback_may_wait_for_another_task(pool):
    done = threading.Event()
    seen: list = []

    def nested(f):
        seen.append(pool.submit(_tasks.add, f.result(0), 1).result(WATCHDOG))
        done.set()

    pool.submit(_tasks.add, 0, 1).add_done_callback(nested)
    assert done.wait(WATCHDOG)
    assert seen == [2]


def test_callbacks_do_not_run_under_a_condition_that_is_held(one, gate, tally):
    # wait() and as_completed() hold the conditions of all their futures while they look which are done.
    future = at_gate(one, gate, tally)
    free = []

    def callback(future):
        def want():
            got = future._condition.acquire(timeout=2)
            free.append(got)
            if got:
                future._condition.release()

        thread = threading.Thread(target=want)
        thread.start()
        thread.join()

    future.add_done_callback(callback)
    with future._condition:
        gate.open()
        wait_until(lambda: future._state == "FINISHED")
        assert free == []
        future.add_done_callback(lambda future: free.append("at once"))
        assert free == ["at once"]
    wait_until(lambda: len(free) == 2)
    assert free == ["at once", True]


def test_no_callback_is_lost_while_others_look(pool):
    # wait() settles what it finds done, under the conditions; the collector comes before, after or in the midst of it.
    called = []
    for number in range(1500):
        future = pool.submit(abs, number)
        future.add_done_callback(lambda future: called.append(future.result()))
        while not concurrent.futures.wait([future], timeout=0).done:
            pass
    wait_until(lambda: len(called) >= 1500)
    assert sorted(called) == list(range(1500))


def test_callback_added_while_the_future_completes(pool):
    # Whichever side is first, each callback runs exactly once.
    calls: list = []
    for i in range(2000):
        pool.submit(_tasks.echo, i).add_done_callback(lambda f, i=i: calls.append(i))
        if i % 3 == 0:
            future = pool.submit(_tasks.echo, i)
            future.done()
            future.add_done_callback(lambda f, i=i: calls.append(-i - 1))
    expected = sorted([*range(2000), *(-i - 1 for i in range(0, 2000, 3))])
    wait_until(lambda: len(calls) >= len(expected), "the callbacks")
    time.sleep(0.05)
    assert sorted(calls) == expected


def test_callback_of_a_future_that_nobody_holds(pool):
    calls: list = []
    pool.submit(_tasks.nap, 0.1, 1).add_done_callback(lambda f: calls.append(f.result(0)))
    gc.collect()
    wait_until(lambda: calls == [1], "the callback")


def test_shutdown_has_called_the_callbacks_or_does_soon(tally):
    calls: list = []
    with plait.ProcessPool(2) as pool:
        for i in range(200):
            pool.submit(_tasks.echo, i).add_done_callback(lambda f: calls.append(f.result(0)))
    wait_until(lambda: len(calls) == 200, "the callbacks")


# ---- kill ----------------------------------------------------------------------------------------


def check_killed(future):
    assert future.done()
    assert not future.running()
    assert future.cancelled() is False
    error = future.exception(WATCHDOG)
    assert type(error) is plait.TaskCancelled
    assert isinstance(error, CancelledError)
    with pytest.raises(plait.TaskCancelled):
        future.result(WATCHDOG)
    assert future.cancel() is False
    assert future.kill() is False


def test_kill_what_runs(pool, tally):
    future = pool.submit(_tasks.hang, tally)
    tally.wait()
    assert future.kill() is True
    with pytest.raises(plait.TaskCancelled):
        future.result(WATCHDOG)
    check_killed(future)
    wait_until(lambda: gone(tally.pids()), "the worker to die")
    check_usable(pool)


def test_kill_what_is_queued(one, gate, tally):
    running = at_gate(one, gate, tally)
    queued = one.submit(_tasks.note, tally, "must not run")
    assert queued.kill() is True
    with pytest.raises(plait.TaskCancelled):
        queued.result(WATCHDOG)
    check_killed(queued)
    gate.open()
    assert running.result(WATCHDOG) == "through"
    check_usable(one)
    assert tally.count() == {"through": 1}
    assert set(tally.pids()) == set(one._processes), "no worker was killed for it"


def test_kill_what_is_done(pool):
    good = pool.submit(_tasks.echo, 1)
    bad = pool.submit(_tasks.refuse_in_the_worker, "no")
    assert good.result(WATCHDOG) == 1
    assert type(bad.exception(WATCHDOG)) is _tasks.Refusal
    pids = set(pool._processes)
    assert good.kill() is False
    assert bad.kill() is False
    assert good.result(0) == 1
    assert type(bad.exception(0)) is _tasks.Refusal
    check_usable(pool)
    assert pids <= set(pool._processes)


def test_kill_what_is_cancelled(one, gate, tally):
    at_gate(one, gate, tally)
    queued = one.submit(_tasks.echo, 1)
    assert queued.cancel() is True
    assert queued.kill() is False
    assert queued.cancelled()


def test_kill_spares_the_next_task_of_that_worker(one, tally):
    # Killed at the very moment that it ends: the worker may go on to the next task, which is innocent.
    for i in range(150):
        target = one.submit(_tasks.note, tally, f"target{i}")
        innocent = [one.submit(_tasks.note, tally, f"innocent{i}-{j}") for j in range(3)]
        if i % 3:
            tally.wait(4 * i + 1)
        killed = target.kill()
        if killed:
            assert type(target.exception(WATCHDOG)) is plait.TaskCancelled
        else:
            assert target.result(WATCHDOG) == f"target{i}"
        assert [f.result(WATCHDOG) for f in innocent] == [f"innocent{i}-{j}" for j in range(3)]
        for _ in range(1 - tally.count()[f"target{i}"]):
            tally.note(f"target{i}")  # killed before it began: keeps the count of lines for the next round
    counts = tally.count()
    assert set(counts.values()) == {1}
    assert len(counts) == 600


def test_kill_from_several_threads_is_true_at_least_once(pool, tally):
    future = pool.submit(_tasks.hang, tally)
    tally.wait()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: future.kill(), range(4), timeout=WATCHDOG))
    assert True in answers
    with pytest.raises(plait.TaskCancelled):
        future.result(WATCHDOG)
    check_killed(future)
    check_usable(pool)


def test_kill_wakes_those_who_wait(pool, tally):
    future = pool.submit(_tasks.hang, tally)
    tally.wait()
    caught: list = []

    def wait():
        try:
            future.result()
        except plait.TaskCancelled as error:
            caught.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert future.kill() is True
    for thread in threads:
        thread.join(WATCHDOG)
    assert len(caught) == 3
    assert concurrent.futures.wait([future], WATCHDOG).done == {future}


# ---- asyncio -------------------------------------------------------------------------------------


def test_await(pool):
    async def main():
        future = pool.submit(_tasks.add, 1, 2)
        assert await future == 3
        assert await future == 3  # again
        with pytest.raises(_tasks.Refusal, match="no"):
            await pool.submit(_tasks.refuse_in_the_worker, "no")
        with pytest.raises(plait.WorkerDied):
            await pool.submit(_tasks.die)
        with pytest.raises(plait.TaskTimeout):
            await pool.options(timeout=0.1).submit(_tasks.hang)
        return await asyncio.gather(*(pool.submit(_tasks.nap, 0.002, i) for i in range(100)))

    assert in_loops(main) == list(range(100))


def test_await_lets_the_loop_turn(pool, gate, tally):
    async def main():
        future = at_gate(pool, gate, tally)
        asyncio.get_running_loop().call_later(0.1, gate.open)
        return await future

    assert in_loops(main) == "through"


def test_wrap_future(pool):
    async def main():
        return await asyncio.gather(*(asyncio.wrap_future(pool.submit(_tasks.add, i, 1)) for i in range(200)))

    assert in_loops(main) == list(range(1, 201))


def test_two_thousand_run_in_executor(pool):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(pool, _tasks.add, i, 1) for i in range(2000)))

    assert in_loops(main) == list(range(1, 2001))


def test_await_in_several_loops_at_once(pool, gate, tally):
    future = at_gate(pool, gate, tally)
    answers: list = []

    def run():
        async def main():
            return await future

        answers.append(in_loops(main))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    gate.open()
    for thread in threads:
        thread.join(WATCHDOG)
    assert answers == ["through"] * 4
    assert future.result(0) == "through"


def test_await_in_several_tasks_of_one_loop(pool):
    async def main():
        future = pool.submit(_tasks.nap, 0.1, [1])

        async def wait():
            return await future

        return await asyncio.gather(*(wait() for _ in range(10)))

    answers = in_loops(main)
    assert answers == [[1]] * 10


def test_await_of_what_is_done(pool):
    future = pool.submit(_tasks.echo, 5)
    future.result(WATCHDOG)

    async def main():
        return await future

    assert in_loops(main) == 5
    assert in_loops(main) == 5  # and in another loop


def test_await_with_the_tools_of_asyncio(pool, gate, tally):
    async def main():
        future = at_gate(pool, gate, tally)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await future
        assert not future.done()
        gate.open()
        assert await asyncio.wait_for(future, WATCHDOG) == "through"
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait(pool.submit(_tasks.echo, i))) for i in range(10)]
        assert [t.result() for t in tasks] == list(range(10))
        seen = [await f for f in asyncio.as_completed([wait(pool.submit(_tasks.echo, i)) for i in range(10)])]
        assert sorted(seen) == list(range(10))

    async def wait(future):
        return await future

    in_loops(main)


def test_cancelling_the_awaiter_cancels_what_is_queued(one, gate, tally):
    async def main():
        running = at_gate(one, gate, tally)
        queued = one.submit(_tasks.note, tally, "must not run")
        awaiter = asyncio.create_task(wait(queued))
        await asyncio.sleep(0.05)
        awaiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiter
        assert awaiter.cancelled()
        assert queued.cancelled()
        gate.open()
        assert await running == "through"

    async def wait(future):
        return await future

    in_loops(main)
    check_usable(one)
    assert tally.count() == {"through": 1}


def test_cancelling_the_awaiter_leaves_what_runs(one, gate, tally):
    async def main():
        running = at_gate(one, gate, tally)
        awaiter = asyncio.create_task(wait(running))
        await asyncio.sleep(0.05)
        awaiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiter
        assert not running.done()
        gate.open()
        assert await running == "through"

    async def wait(future):
        return await future

    in_loops(main)
    assert tally.count() == {"through": 1}


def test_killed_task_is_not_the_awaiters_cancellation(pool, tally):
    async def main():
        future = pool.submit(_tasks.hang, tally)
        awaiter = asyncio.create_task(wait(future))
        wrapped = asyncio.wrap_future(future)
        await asyncio.to_thread(tally.wait)
        assert future.kill() is True
        with pytest.raises(plait.TaskCancelled):
            await awaiter
        assert not awaiter.cancelled()
        assert type(awaiter.exception()) is plait.TaskCancelled
        with pytest.raises(plait.TaskCancelled):
            await wrapped
        assert not wrapped.cancelled()

        # And in a group it is an error, where a cancellation would be swallowed.
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                future = pool.submit(_tasks.hang, tally)
                group.create_task(wait(future))
                await asyncio.sleep(0.05)
                future.kill()
        assert [type(e) for e in caught.value.exceptions] == [plait.TaskCancelled]

    async def wait(future):
        return await future

    in_loops(main)


def test_awaiting_what_was_cancelled(one, gate, tally):
    async def main():
        at_gate(one, gate, tally)
        queued = one.submit(_tasks.echo, 1)
        queued.cancel()
        with pytest.raises((asyncio.CancelledError, CancelledError)):
            await queued
        gate.open()

    in_loops(main)


def test_loop_that_closes_while_its_task_waits(one, gate, tally):
    # The result comes when there is nobody to tell any more: no error on stderr, no dead collector.
    future = at_gate(one, gate, tally)

    async def main():
        task = asyncio.create_task(wait())
        await asyncio.sleep(0.05)
        return task

    async def wait():
        return await future

    asyncio.run(main())
    loop = asyncio.new_event_loop()
    wrapped = asyncio.wrap_future(future, loop=loop)
    loop.close()
    del wrapped
    gate.open()
    assert future.result(WATCHDOG) == "through"
    check_usable(one)


def test_results_in_threads_and_in_a_loop_at_once(pool):
    async def main():
        loop = asyncio.get_running_loop()

        def blocking(base):
            return [pool.submit(_tasks.add, base, i).result(WATCHDOG) for i in range(200)]

        in_threads = [loop.run_in_executor(None, blocking, base) for base in range(3)]
        awaited = [await pool.submit(_tasks.add, 100, i) for i in range(200)]
        assert awaited == [100 + i for i in range(200)]
        for base, values in enumerate(await asyncio.gather(*in_threads)):
            assert values == [base + i for i in range(200)]

    in_loops(main)


def test_future_awaited_outside_a_loop_says_so(pool):
    future = pool.submit(_tasks.nap, 0.1, 1)
    with pytest.raises(RuntimeError):
        next(iter(future.__await__()))
    assert future.result(WATCHDOG) == 1


def test_results_may_be_asked_for_in_any_order(pool):
    # Results are asked for last to first, and every second one never.
    futures = [pool.submit(_tasks.echo, i) for i in range(3000)]
    assert [f.result(WATCHDOG) for f in itertools.islice(reversed(futures), 0, None, 2)] == list(range(2999, 0, -2))
