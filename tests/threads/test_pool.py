"""What `plait.ThreadPool` has beyond the contract of executors: contexts, options, timeouts, and who is told of an end."""

from __future__ import annotations

import asyncio
import asyncio.futures
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import itertools
import sys
import sysconfig
import threading
import time
import weakref
from typing import Any

import pytest

import plait

WATCHDOG = 60.0
var: contextvars.ContextVar[object] = contextvars.ContextVar("var", default="default")


def poll(condition, what):
    deadline = time.monotonic() + WATCHDOG
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.002)
    return value


@pytest.fixture
def pool():
    with plait.ThreadPool(2) as pool:
        yield pool


@pytest.fixture
def single():
    with plait.ThreadPool(1) as pool:
        yield pool


@pytest.fixture
def gate():
    gate = threading.Event()
    yield gate
    gate.set()


def occupy(pool, gate):
    """A task that runs until the gate opens, and runs already."""
    begun = threading.Event()

    def task():
        begun.set()
        assert gate.wait(WATCHDOG)

    future = pool.submit(task)
    assert begun.wait(WATCHDOG)
    return future


# ---- contexts ------------------------------------------------------------------------------------


def test_a_task_sees_the_context_of_its_submitter(single):
    def submit(value):
        var.set(value)
        return single.submit(var.get)

    futures = [contextvars.copy_context().run(submit, value) for value in range(5)]
    assert [future.result(WATCHDOG) for future in futures] == list(range(5))
    assert single.submit(var.get).result(WATCHDOG) == "default"


def test_a_task_sees_the_context_as_it_was(single, gate):
    occupy(single, gate)

    def submit():
        var.set("then")
        future = single.submit(var.get)
        var.set("now")
        return future

    future = contextvars.copy_context().run(submit)
    gate.set()
    assert future.result(WATCHDOG) == "then"


def test_what_a_task_sets_stays_its_own(single):
    single.submit(var.set, "mine").result(WATCHDOG)
    assert single.submit(var.get).result(WATCHDOG) == "default"
    assert var.get() == "default"


def test_map_has_the_context_of_its_caller(pool):
    def run():
        var.set("caller")
        return list(pool.map(lambda _: var.get(), range(20)))

    assert contextvars.copy_context().run(run) == ["caller"] * 20


def test_a_context_of_ones_own_is_used(single):
    context = contextvars.copy_context()
    single.submit(functools.partial(context.run, var.set, "kept")).result(WATCHDOG)
    assert context[var] == "kept"


def test_a_token_does_not_hold_a_cycle_for_ever(single):
    class Thing:
        token: object

    def task():
        thing = Thing()
        thing.token = var.set(thing)  # the token has the context, which has the thing
        return weakref.ref(thing)

    reference = single.submit(task).result(WATCHDOG)
    gc.collect()
    assert reference() is None


def test_a_future_in_a_cycle_is_collected(single):
    class Thing:
        future: object

    def cycle(by):
        thing = Thing()
        future = single.submit(lambda: thing if by == "result" else 7)
        future.result(WATCHDOG)
        if by == "attribute":
            future.thing = thing
        elif by == "dict":
            vars(future)["thing"] = thing
        elif by == "another dict":
            future.__dict__ = {"thing": thing}
        assert by == "result" or future.thing is thing
        thing.future = future
        return weakref.ref(thing)

    for by in ("result", "attribute", "dict", "another dict"):
        reference = cycle(by)
        poll(
            lambda reference=reference: gc.collect() >= 0 and reference() is None, f"the cycle by {by} to be collected"
        )


# ---- options -------------------------------------------------------------------------------------


def test_priorities(single, gate):
    occupy(single, gate)
    order: list = []
    for number, priority in enumerate([0, -5, 7, 0, 7]):
        single.options(priority=priority).submit(order.append, number)
    single.options(priority=9).map(order.append, ["map"])
    gate.set()
    single.shutdown()
    assert order == ["map", 2, 4, 0, 3, 1]


def test_what_is_urgent_goes_before_the_rest_of_a_map(single):
    order: list = []

    def item(number):
        order.append(number)
        if number == 0:
            single.options(priority=1).submit(order.append, "urgent")

    results = single.map(item, range(5))
    assert list(results) == [None] * 5
    assert order == [0, "urgent", 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": float("inf")}, ValueError),
        ({"priority": 1.5}, TypeError),
        ({"priority": 2**31}, ValueError),
        ({"retries": -1}, ValueError),
    ],
    ids=str,
)
def test_bad_options(single, options, error):
    with pytest.raises(error, match=next(iter(options))):
        single.options(**options)


def test_a_view_is_an_executor(single):
    view = single.options(timeout=30, retries=3).options(priority=2)
    assert isinstance(view, concurrent.futures.Executor)
    assert view.submit(divmod, 7, 2).result(WATCHDOG) == (3, 1)
    assert view.submit(dict, [("a", 1)], b=2, c=3).result(WATCHDOG) == {"a": 1, "b": 2, "c": 3}
    assert list(view.map(pow, [2, 3], [3, 2])) == [8, 9]
    assert "timeout=30" in repr(view)
    view.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        single.submit(len, "")


def test_many_arguments(single):
    def collect(*args, **kwargs):
        return args, kwargs

    for count in range(8):
        args, kwargs = tuple(range(count)), {f"k{i}": i for i in range(count)}
        assert single.submit(collect, *args).result(WATCHDOG) == (args, {})
        assert single.submit(collect, *args, **kwargs).result(WATCHDOG) == (args, kwargs)


# ---- timeouts ------------------------------------------------------------------------------------


def test_timeout_of_a_task(pool, gate):
    def stand_here():
        gate.wait(WATCHDOG)
        return "late"

    future = pool.options(timeout=0.05).submit(stand_here)
    with pytest.raises(plait.TaskTimeout, match="a thread cannot be killed") as caught:
        future.result(WATCHDOG)
    assert caught.value.timeout == 0.05
    assert caught.value.thread in {thread.name for thread in pool._threads}
    assert "stand_here" in str(caught.value.stack)
    assert future.done()
    assert not future.running()
    assert pool.statistics()["timed_out"] == 1
    gate.set()
    assert pool.submit(len, "abc").result(WATCHDOG) == 3
    assert type(future.exception()) is plait.TaskTimeout


def test_timeout_is_told_to_all_who_wait(pool, gate):
    called: list = []
    future = pool.options(timeout=0.05).submit(gate.wait, WATCHDOG)
    future.add_done_callback(called.append)
    assert concurrent.futures.wait([future], WATCHDOG).done == {future}
    poll(lambda: called == [future], "the callback")

    async def main():
        with pytest.raises(plait.TaskTimeout):
            await pool.options(timeout=0.05).submit(gate.wait, WATCHDOG)

    asyncio.run(asyncio.wait_for(main(), WATCHDOG))


def test_time_in_the_queue_does_not_count(single, gate):
    occupy(single, gate)
    future = single.options(timeout=0.2).submit(len, "abc")
    with pytest.raises(TimeoutError) as caught:
        future.result(0.4)
    assert type(caught.value) is TimeoutError
    gate.set()
    assert future.result(WATCHDOG) == 3


def test_a_task_in_time_is_not_told_anything(pool):
    futures = [pool.options(timeout=30).submit(abs, -i) for i in range(200)]
    assert [future.result(WATCHDOG) for future in futures] == list(range(200))
    assert pool.statistics()["timed_out"] == 0


def test_a_long_timeout_keeps_nothing(pool):
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing)
    pool.options(timeout=3600).submit(lambda thing: None, thing).result(WATCHDOG)
    del thing
    poll(lambda: reference() is None, "the task to be let go")


@pytest.mark.parametrize("ordered", [True, False])
def test_timeout_of_an_item(pool, gate, ordered):
    results = pool.options(timeout=0.1).map(lambda i: gate.wait(WATCHDOG) if i == 2 else i, range(4), ordered=ordered)
    seen = []
    with pytest.raises(plait.TaskTimeout) as caught:
        seen.extend(results)
    assert caught.value.index == 2
    assert set(seen) <= {0, 1, 3}
    gate.set()
    assert list(pool.map(abs, [-1])) == [1]


# ---- kill, cancel --------------------------------------------------------------------------------


def test_kill(single, gate):
    running = occupy(single, gate)
    queued = single.submit(len, "abc")
    assert queued.kill()
    assert type(queued.exception(WATCHDOG)) is plait.TaskCancelled
    assert not queued.cancelled()
    with pytest.raises(RuntimeError, match="a thread cannot be killed"):
        running.kill()
    gate.set()
    running.result(WATCHDOG)
    assert running.kill() is False
    assert queued.kill() is False


def test_statistics(single, gate):
    occupy(single, gate)
    futures = [single.submit(abs, i) for i in range(3)]
    futures[0].cancel()
    figures = single.statistics()
    assert (figures["submitted"], figures["cancelled"], figures["queued"]) == (4, 1, 3)
    assert (figures["workers"], figures["workers_idle"]) == (1, 0)
    gate.set()
    futures[2].result(WATCHDOG)
    poll(lambda: single.statistics()["workers_idle"] == 1, "the thread to be idle")
    assert "idle=1" in repr(single)


def test_an_executors_future_is_not_for_others_to_end(single, gate):
    occupy(single, gate)
    future = single.submit(len, "abc")
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_result(1)
    with pytest.raises(RuntimeError, match="unexpected state"):
        future.set_running_or_notify_cancel()
    assert "pending of len" in repr(future)
    gate.set()
    assert future.result(WATCHDOG) == 3


# ---- map -----------------------------------------------------------------------------------------


def test_map_of_an_endless_input(pool):
    assert list(itertools.islice(pool.map(abs, itertools.count()), 1000)) == list(range(1000))


def test_map_pulls_no_more_than_asked(pool):
    pulled = itertools.count()
    results = pool.map(abs, (next(pulled) for _ in range(1000)), buffersize=3)
    assert next(pulled) <= 4
    assert next(results) == 0
    assert next(pulled) <= 7


def test_map_unordered(pool, gate):
    def item(number):
        if number == 0:
            assert gate.wait(WATCHDOG)
        return number

    results = pool.map(item, range(5), ordered=False)
    assert sorted(itertools.islice(results, 4)) == [1, 2, 3, 4]
    gate.set()
    assert list(results) == [0]


def test_map_shows_its_progress(pool):
    shown: list = []
    assert list(pool.map(abs, range(3), progress=lambda *seen: shown.append(seen))) == [0, 1, 2]
    assert shown == [(1, 3), (2, 3), (3, 3)]


def test_map_of_an_input_that_raises(pool):
    def items():
        yield 1
        raise KeyError("input")

    with pytest.raises(KeyError, match="input"):
        list(pool.map(abs, items()))


def test_map_cancelled_by_shutdown(single, gate):
    occupy(single, gate)
    results = single.map(abs, range(10))
    single.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    assert list(results) == []


def test_the_rest_of_a_map_is_cancelled_by_shutdown(single, gate):
    begun = threading.Event()

    def item(number):
        begun.set()
        assert gate.wait(WATCHDOG)
        return number

    results = single.map(item, range(10))
    assert begun.wait(WATCHDOG)
    single.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert next(results) == 0
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)


@pytest.mark.parametrize("buffersize", [None, 1])
def test_a_map_that_is_pulled_from_does_not_end_early_after_shutdown(pool, buffersize):
    def item(number):
        if number == 3000:
            pool.shutdown(wait=False, cancel_futures=True)
        return number

    taken = []
    with pytest.raises((concurrent.futures.CancelledError, RuntimeError)):
        taken.extend(pool.map(item, itertools.count(), buffersize=buffersize))


def test_stop_iteration_in_a_map_is_no_end(pool):
    def item(number):
        return next(iter([1] * (3 - number)))

    results = pool.map(item, range(5))
    assert [next(results) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(RuntimeError, match="StopIteration") as raised:
        next(results)
    assert isinstance(raised.value.__cause__, StopIteration)


def test_a_map_that_is_pulled_from_keeps_its_pool():
    results = plait.ThreadPool(2).map(abs, itertools.count())
    gc.collect()
    assert [next(results) for _ in range(5000)] == list(range(5000))


def test_map_taken_by_several_threads(pool):
    results = pool.map(abs, range(2000))
    seen: list = []
    lock = threading.Lock()

    def take():
        for value in results:
            with lock:
                seen.append(value)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG)
    assert sorted(seen) == list(range(2000))


# ---- asyncio -------------------------------------------------------------------------------------


def test_await(pool):
    async def main():
        assert await pool.submit(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await pool.submit(divmod, 1, 0)
        values = await asyncio.gather(*[pool.submit(abs, -i) for i in range(3000)])
        assert values == list(range(3000))

    asyncio.run(asyncio.wait_for(main(), WATCHDOG))


def test_many_loops_at_once(pool):
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(20):
            calls = [loop.run_in_executor(pool, abs, -i) for i in range(100)]
            assert await asyncio.gather(*calls) == list(range(100))

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor(3) as others:
        for future in [others.submit(asyncio.run, main()) for _ in threads]:
            future.result(WATCHDOG)


def test_a_quick_end_does_not_wait_for_a_slow_task(single, gate):
    async def main():
        loop = asyncio.get_running_loop()
        quick = loop.run_in_executor(single, abs, -1)
        slow = loop.run_in_executor(single, gate.wait, WATCHDOG)
        assert await asyncio.wait_for(quick, WATCHDOG) == 1
        assert not slow.done()
        gate.set()
        assert await slow

    asyncio.run(asyncio.wait_for(main(), WATCHDOG))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_the_loop_and_loses_no_other_end(single, gate, monkeypatch, error):
    tell = asyncio.futures._copy_future_state  # type: ignore[attr-defined]
    told: list[Any] = []

    def interrupted(source, destination):
        told.append(source)
        if len(told) == 3:
            raise error("now")
        tell(source, destination)

    monkeypatch.setattr(asyncio.futures, "_copy_future_state", interrupted)
    loop = asyncio.new_event_loop()

    async def wait():
        occupy(single, gate)
        calls.extend(loop.run_in_executor(single, abs, -number) for number in range(10))
        gate.set()
        single.submit(len, "abc").result(WATCHDOG)  # all ends lie in the box
        await asyncio.gather(*calls[:2], *calls[3:])

    calls: list[Any] = []
    with contextlib.closing(loop):
        task = loop.create_task(wait())
        with pytest.raises(error, match="now"):
            loop.run_until_complete(task)
        loop.run_until_complete(asyncio.wait_for(task, WATCHDOG))
        assert [call.done() for call in calls] == [number != 2 for number in range(10)]
        calls[2].cancel()


def test_a_loop_that_was_closed_hurts_nobody(single, gate, caplog):
    loop = asyncio.new_event_loop()

    async def leave():
        loop.run_in_executor(single, gate.wait, WATCHDOG)

    loop.run_until_complete(leave())
    loop.close()
    gate.set()
    assert single.submit(abs, -1).result(WATCHDOG) == 1

    async def main():
        return await asyncio.get_running_loop().run_in_executor(single, abs, -2)

    assert asyncio.run(asyncio.wait_for(main(), WATCHDOG)) == 2
    caplog.clear()


def test_async_with():
    async def main():
        async with plait.ThreadPool(2) as pool:
            futures = [pool.submit(time.sleep, 0.01) for _ in range(5)]
            tick = asyncio.create_task(asyncio.sleep(0))
        assert tick.done()
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(len, "")
        own = plait.ThreadPool(1)
        asyncio.get_running_loop().set_default_executor(own)
        async with own:
            assert await asyncio.to_thread(abs, -3) == 3

    asyncio.run(asyncio.wait_for(main(), WATCHDOG))


# ---- threads -------------------------------------------------------------------------------------


def test_a_long_queue_of_c_functions_lets_others_run(single, gate):
    """They never look whether somebody has asked for the GIL; the pool does, between them."""
    occupy(single, gate)
    number = 3**5000
    futures = [single.submit(pow, number, 3) for _ in range(4000)]
    ran = threading.Event()

    def other():
        gate.set()
        while not futures[10].done():
            time.sleep(0.001)
        ran.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert ran.wait(WATCHDOG)
    assert not futures[-1].done(), "the other thread came only after all of them"
    for future in futures:
        future.cancel()
    thread.join(WATCHDOG)


def test_a_thread_that_cannot_be_started(monkeypatch):
    def fail(_):
        raise RuntimeError("can't start new thread")

    with plait.ThreadPool(2) as pool:
        monkeypatch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(len, "abc")
        with pytest.raises(RuntimeError, match="can't start"):
            pool.map(len, ["abc"])
        monkeypatch.undo()
        gate = threading.Event()
        occupy(pool, gate)
        monkeypatch.setattr(threading.Thread, "start", fail)
        futures = [pool.submit(len, "abc") for _ in range(3)]  # the one thread will do them
        gate.set()
        assert [future.result(WATCHDOG) for future in futures] == [3, 3, 3]
        monkeypatch.undo()


def test_who_counts_on_a_thread_that_cannot_be_started_is_told(monkeypatch, gate):
    starting = threading.Event()
    start = threading.Thread.start

    def fail(thread):
        if not thread.name.startswith("mine"):
            return start(thread)
        starting.set()
        assert gate.wait(WATCHDOG)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with plait.ThreadPool(1, "mine") as pool, concurrent.futures.ThreadPoolExecutor(1) as other:
        first = other.submit(pool.submit, len, "abc")
        assert starting.wait(WATCHDOG)
        second, results = pool.submit(len, "abc"), pool.map(len, ["abc"])
        gate.set()
        for refused in (first, second):
            with pytest.raises(RuntimeError, match="can't start"):
                refused.result(WATCHDOG)
        with pytest.raises(RuntimeError, match="can't start"):
            next(results)
        monkeypatch.undo()
        assert pool.submit(len, "abc").result(WATCHDOG) == 3


def test_nobody_sleeps_while_another_thread_initializes(gate):
    numbers = itertools.count()

    def prepare():
        if next(numbers) == 1:
            assert gate.wait(WATCHDOG)

    with plait.ThreadPool(2, initializer=prepare) as pool:
        first = threading.Event()
        occupied = occupy(pool, first)
        queued = pool.submit(len, "abc")  # asks for the second thread
        first.set()
        assert queued.result(WATCHDOG) == 3
        occupied.result(WATCHDOG)
        for _ in range(5):
            poll(lambda: pool.statistics()["workers_idle"] == 1, "the first thread to have nothing to do")
            time.sleep(0.01)  # it does not spin so long
            assert pool.submit(len, "abc").result(WATCHDOG) == 3
        assert not gate.is_set()
        gate.set()


def test_a_broken_pool_keeps_no_frames():
    class Thing:
        pass

    def refused():
        thing = Thing()
        references.append(weakref.ref(thing))
        pool.submit(len, "abc")

    def fail():
        raise KeyError("no")

    references: list[Any] = []
    with plait.ThreadPool(1, initializer=fail) as pool:
        poll(lambda: pool.submit(len, "abc").exception(WATCHDOG) if not pool._broken else True, "the initializer")
        for _ in range(3):
            with pytest.raises(concurrent.futures.thread.BrokenThreadPool, match="initializer failed") as raised:
                refused()
            assert type(raised.value.__cause__) is KeyError
        del raised
        gc.collect()
        assert [reference() for reference in references] == [None] * 3


def test_a_failed_initializer_says_why(caplog):
    def fail():
        raise KeyError("no")

    with plait.ThreadPool(1, initializer=fail) as pool:
        futures = []
        with pytest.raises(concurrent.futures.thread.BrokenThreadPool, match="initializer failed"):
            for _ in range(1000):
                futures.append(pool.submit(len, "abc"))
                time.sleep(0.001)
        for future in futures:
            error = future.exception(WATCHDOG)
            assert isinstance(error, concurrent.futures.thread.BrokenThreadPool)
            assert type(error.__cause__) is KeyError
        assert "initializer failed" in str(pool._broken)
    assert "Exception in initializer" in caplog.text
    caplog.clear()


def test_what_interrupts_a_callback_of_a_finished_future_is_raised(single):
    def callback(_):
        raise KeyboardInterrupt("now")

    future = single.submit(len, "abc")
    assert future.result(WATCHDOG) == 3
    with pytest.raises(KeyboardInterrupt, match="now"):
        future.add_done_callback(callback)


def interrupted_and_not(future, seen):
    def interrupt(_):
        raise KeyboardInterrupt("now")

    future.add_done_callback(interrupt)
    future.add_done_callback(seen.append)
    return future


@pytest.mark.parametrize(
    "end",
    [lambda future: future.cancel(), lambda future: future.kill()],
    ids=["cancel", "kill"],
)
def test_ctrl_c_in_a_callback_reaches_who_ended_the_task(single, gate, end):
    seen: list[Any] = []
    single.submit(gate.wait)
    future = interrupted_and_not(single.submit(len, ""), seen)
    with pytest.raises(KeyboardInterrupt, match="now"):
        end(future)
    assert seen == [future]
    assert future.done()
    assert single.statistics()["cancelled"] == 1


@pytest.mark.parametrize(
    "end",
    [
        lambda future: future.set_result(1),
        lambda future: future.set_exception(ValueError()),
        lambda future: future.cancel(),
    ],
    ids=["result", "exception", "cancel"],
)
def test_ctrl_c_in_a_callback_reaches_who_ended_a_future_without_a_task(end):
    seen: list[Any] = []
    future = interrupted_and_not(plait.Future(), seen)
    with pytest.raises(KeyboardInterrupt, match="now"):
        end(future)
    assert seen == [future]
    assert future.done()


def test_ctrl_c_in_a_callback_reaches_who_shuts_down_when_all_are_cancelled(single, gate):
    seen: list[Any] = []
    single.submit(gate.wait)
    futures = [interrupted_and_not(single.submit(len, ""), seen)] + [single.submit(len, "") for _ in range(3)]
    with pytest.raises(KeyboardInterrupt, match="now"):
        single.shutdown(wait=False, cancel_futures=True)
    assert seen == futures[:1]
    assert all(future.cancelled() for future in futures)
    assert single.statistics()["cancelled"] == 4


def test_base_exceptions_are_told_and_end_no_thread(single):
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):

        def task(error=error):
            raise error

        assert single.submit(task).exception(WATCHDOG) is error
    assert single.statistics()["workers"] == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"max_workers": 1.5}, TypeError), ({"max_workers": True}, TypeError), ({"initargs": 1}, TypeError)],
    ids=str,
)
def test_bad_arguments(arguments, error):
    with pytest.raises(error):
        plait.ThreadPool(**arguments)


def has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded build")
def test_importing_plait_leaves_the_gil_off(pool):
    assert pool.submit(has_gil).result(WATCHDOG) is False
