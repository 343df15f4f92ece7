"""One test for each feature that a loop may have: calls, handles, tasks, timers, threads, debug mode, the loop itself.

Sockets, TLS, and what the system has besides are in the files beside. Every one of these holds on every version of Python.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import logging
import sys
import threading
import time
import traceback
import weakref

import pytest

import plait

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")


def context_with(value):
    context = contextvars.copy_context()
    context.run(var.set, value)
    return context


def turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


# ---- calls and handles


def test_call_soon_context(loop):
    seen = []
    loop.call_soon(lambda: seen.append(var.get()), context=context_with("given"))
    loop.call_soon_threadsafe(lambda: seen.append(var.get()), context=context_with("from a thread"))
    turn(loop)
    assert seen == ["given", "from a thread"]


def test_call_later_context(loop):
    seen = []
    loop.call_later(0.001, lambda: seen.append(var.get()), context=context_with("later"))
    loop.call_at(loop.time() + 0.002, lambda: (seen.append(var.get()), loop.stop()), context=context_with("at"))
    loop.run_forever()
    assert seen == ["later", "at"]


def test_call_soon_is_a_handle(loop):
    for handle in (loop.call_soon(print), loop.call_soon_threadsafe(print)):
        assert isinstance(handle, asyncio.Handle)
        assert not isinstance(handle, asyncio.TimerHandle)
        handle.cancel()


def test_call_later_is_a_timer_handle(loop):
    for handle in (loop.call_later(60, print), loop.call_at(loop.time() + 60, print)):
        assert isinstance(handle, asyncio.TimerHandle)
        assert isinstance(handle, asyncio.Handle)
        assert handle.when() == pytest.approx(loop.time() + 60, abs=30)
        handle.cancel()


def test_handle_get_context(loop):
    context = contextvars.copy_context()
    handles = [
        loop.call_soon(print, context=context),
        loop.call_soon_threadsafe(print, context=context),
        loop.call_later(60, print, context=context),
        loop.call_at(60, print, context=context),
    ]
    assert all(each.get_context() is context for each in handles)
    other = loop.call_soon(print)
    assert type(other.get_context()) is contextvars.Context
    assert other.get_context() is not context
    for each in (*handles, other):
        each.cancel()


def test_handle_repr_has_its_callback(loop):
    def named():
        pass

    for handle in (loop.call_soon(named), loop.call_later(60, functools.partial(named))):
        assert "named" in repr(handle)
        handle.cancel()
        assert "cancelled" in repr(handle)


# ---- tasks


def test_create_task_context_and_name(run):
    async def child():
        return var.get()

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(child(), name="of the loop", context=context_with("given"))
        assert task.get_name() == "of the loop"
        other = asyncio.create_task(child(), name="of asyncio", context=context_with("too"))
        assert other.get_name() == "of asyncio"
        async with asyncio.TaskGroup() as group:
            third = group.create_task(child(), name="of a group", context=context_with("grouped"))
        return await task, await other, third.result(), loop.create_task(child()).get_name().startswith("Task-")

    assert run(main()) == ("given", "too", "grouped", True)


def test_create_task_eager_start(run):
    """Where the interpreter has eager tasks; elsewhere it is refused by name, and the coroutine is as it was."""

    async def main():
        loop, seen = asyncio.get_running_loop(), []

        async def child(value):
            seen.append(value)
            await asyncio.sleep(0)
            return value

        if sys.version_info < (3, 12):
            coro = child(1)
            with pytest.raises(NotImplementedError, match="eager_start"):
                loop.create_task(coro, eager_start=True)
            assert await coro == 1
        else:
            eager = loop.create_task(child(1), eager_start=True, name="eager")
            assert seen == [1]
            assert eager.get_name() == "eager"
            assert await eager == 1
        for eagerness in (False, None):
            lazy = loop.create_task(child(eagerness), eager_start=eagerness)
            assert eagerness not in seen
            await lazy
        coro = child(2)
        with pytest.raises(TypeError):
            loop.create_task(coro, nonsense=1)
        coro.close()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the interpreter has no eager tasks")
def test_eager_task_factory(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []

        async def child(value):
            seen.append((value, var.get()))
            return value

        loop.set_task_factory(asyncio.eager_task_factory)
        done = loop.create_task(child(1), name="one")
        assert done.done()
        assert done.get_name() == "one"
        async with asyncio.TaskGroup() as group:
            group.create_task(child(2), name="two", context=context_with("given"))
        assert await asyncio.gather(child(3)) == [3]
        assert seen[:2] == [(1, "none"), (2, "given")]
        loop.set_task_factory(asyncio.create_eager_task_factory(asyncio.Task))
        assert loop.create_task(child(4)).done()
        loop.set_task_factory(None)
        assert loop.get_task_factory() is None
        last = loop.create_task(child(5))
        assert not last.done()
        await last

    run(main())


def test_task_factories_get_all_keywords(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []

        def factory(loop, coro, *, mine=None, **kwargs):
            seen.append((mine, sorted(kwargs)))
            return asyncio.Task(coro, loop=loop, **kwargs)

        loop.set_task_factory(factory)
        task = loop.create_task(asyncio.sleep(0), name="n", context=contextvars.copy_context(), mine=5)
        assert task.get_name() == "n"
        await task
        await loop.create_task(asyncio.sleep(0))
        if sys.version_info < (3, 14):  # no factory would know it
            await loop.create_task(asyncio.sleep(0), eager_start=None)
        loop.set_task_factory(None)
        return seen

    assert run(main())[:2] == [(5, ["context", "name"]), (None, [])]


def test_all_tasks_and_current_task(run):
    async def child(event):
        await event.wait()
        return asyncio.current_task()

    async def main():
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        task = loop.create_task(child(event))
        assert asyncio.all_tasks() == {task, asyncio.current_task()} == asyncio.all_tasks(loop)
        await asyncio.sleep(0)
        event.set()
        assert await task is task
        assert asyncio.all_tasks() == {asyncio.current_task(loop)}

    run(main())


def test_futures_are_the_interpreters_own(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        assert type(future) is asyncio.Future
        assert type(loop.create_task(asyncio.sleep(0))) is asyncio.Task
        assert future.get_loop() is loop
        loop.call_later(0.001, future.set_result, 5)
        return await future

    assert run(main()) == 5


# ---- timers


def test_equal_deadlines_come_in_the_order_of_scheduling(loop):
    seen, when = [], loop.time() + 0.002
    for number in range(500):
        loop.call_at(when, seen.append, number)
        if number % 3 == 0:
            loop.call_at(when + 1, seen.append, "late").cancel()
    loop.call_at(when, loop.stop)
    loop.run_forever()
    assert seen == list(range(500))


def test_timers_below_a_millisecond(loop):
    """Never early, and sooner or later one well below the millisecond that a loop of milliseconds would take."""
    lateness = []

    def due(when):
        lateness.append(loop.time() - when)
        loop.stop()

    for delay in (0.0001, 0.0004, 0.0013, 0.0017) * 1000:
        when = loop.time() + delay
        loop.call_at(when, due, when)
        loop.run_forever()
        if min(lateness) < 0.0006 and len(lateness) >= 20:
            break
    assert 0 <= min(lateness) < 0.0006


def test_the_clock_is_that_of_time_monotonic(loop):
    before = time.monotonic()
    assert before <= loop.time() <= time.monotonic()


# ---- threads


def test_call_soon_threadsafe(loop):
    thread = threading.Thread(target=lambda: (time.sleep(0.01), loop.call_soon_threadsafe(loop.stop)))
    thread.start()
    loop.run_forever()
    thread.join()


def test_run_in_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        names = await asyncio.gather(
            *(loop.run_in_executor(None, lambda: threading.current_thread().name) for _ in range(3))
        )
        with concurrent.futures.ThreadPoolExecutor(1, "given") as pool:
            names.append(await loop.run_in_executor(pool, lambda: threading.current_thread().name))
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        return names

    *names, given = run(main())
    assert all(each.startswith("asyncio_") for each in names)
    assert given.startswith("given")


def test_set_default_executor(run):
    async def main():
        loop, names = asyncio.get_running_loop(), []
        for executor in (concurrent.futures.ThreadPoolExecutor(1, "theirs"), plait.ThreadPool(1, "ours")):
            with executor:
                loop.set_default_executor(executor)
                names.append(await asyncio.to_thread(lambda: threading.current_thread().name))
        with pytest.raises(TypeError):
            loop.set_default_executor(object())
        return names

    first, second = run(main())
    assert first.startswith("theirs")
    assert second.startswith("ours")


def test_shutdown_default_executor_with_a_timeout(run):
    async def main():
        loop, gate = asyncio.get_running_loop(), threading.Event()
        waiting = loop.run_in_executor(None, gate.wait)
        try:
            with pytest.warns(RuntimeWarning, match="did not finish"):
                await loop.shutdown_default_executor(0.01)
        finally:
            gate.set()
        assert await waiting
        with pytest.raises(RuntimeError, match="shutdown"):
            loop.run_in_executor(None, print)

    run(main())


def test_to_thread_has_the_callers_context(run):
    async def main():
        var.set("of the caller")
        return await asyncio.to_thread(var.get)

    assert run(main()) == "of the caller"


# ---- asynchronous generators


def test_shutdown_asyncgens(run):
    ended = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append("ended")

    async def main():
        generator = numbers()
        assert await anext(generator) == 1
        await asyncio.get_running_loop().shutdown_asyncgens()
        assert ended == ["ended"]
        kept.append(generator)
        # One that is dropped is ended by the loop.
        other = numbers()
        await anext(other)
        del other
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        assert ended == ["ended"] * 2

    kept = []
    with pytest.warns(ResourceWarning, match="after loop.shutdown_asyncgens"):
        run(main())


# ---- errors and debug mode


def test_exception_handler(loop):
    told = []
    assert loop.get_exception_handler() is None
    loop.set_exception_handler(lambda *args: told.append(args))
    assert loop.get_exception_handler() is not None
    handle = loop.call_soon(lambda: 1 / 0)
    turn(loop)
    ((where, context),) = told
    assert where is loop
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["handle"] is handle
    assert "Exception in callback" in context["message"]
    with pytest.raises(TypeError):
        loop.set_exception_handler(5)
    loop.set_exception_handler(None)


def test_default_exception_handler_logs(loop, caplog):
    loop.call_soon(lambda: 1 / 0)
    turn(loop)
    (record,) = [each for each in caplog.records if each.name == "asyncio"]
    assert record.levelno == logging.ERROR
    assert record.exc_info[0] is ZeroDivisionError
    loop.call_exception_handler({"message": "from the program", "more": 5})
    assert "more: 5" in caplog.text


def test_debug_slow_callback_log(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.005
    loop.call_soon(time.sleep, 0.01)
    with caplog.at_level(logging.WARNING, "asyncio"):
        turn(loop)
    assert any("Executing <Handle" in each.getMessage() and "took 0.0" in each.getMessage() for each in caplog.records)


def test_debug_wrong_thread_call_soon(run):
    async def main():
        loop = asyncio.get_running_loop()
        for call in (loop.call_soon, functools.partial(loop.call_later, 1), functools.partial(loop.call_at, 1)):
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                await asyncio.to_thread(call, print)
        await asyncio.to_thread(loop.call_soon_threadsafe, id, 1)

    run(main(), debug=True)


def test_debug_source_traceback(loop):
    loop.set_debug(True)
    for handle in (loop.call_soon(print), loop.call_later(60, print), loop.call_soon_threadsafe(print)):
        assert isinstance(handle._source_traceback, traceback.StackSummary)
        assert handle._source_traceback[-1].name == "test_debug_source_traceback"
        handle.cancel()


# ---- the loop itself


def test_the_loop_is_a_base_event_loop(loop):
    for kind in (asyncio.BaseEventLoop, asyncio.AbstractEventLoop):
        assert isinstance(loop, kind)
        assert issubclass(plait.EventLoop, kind)
    missing = [
        name
        for name in dir(asyncio.AbstractEventLoop)
        if not name.startswith("_") and not hasattr(plait.EventLoop, name)
    ]
    assert missing == []


def test_the_loop_can_be_subclassed():
    class Loop(plait.EventLoop):
        """Counts what is scheduled, and has state of its own."""

        def __init__(self, *, name):
            super().__init__()
            self.name, self.count = name, 0

        def call_soon(self, callback, *args, context=None):
            self.count += 1
            return super().call_soon(callback, *args, context=context)

        def create_task(self, coro, **kwargs):
            return super().create_task(coro, **kwargs)

    made = []

    def factory():
        made.append(Loop(name="mine"))
        return made[0]

    async def main():
        asyncio.get_running_loop().call_soon(print)
        return asyncio.get_running_loop().name

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == "mine"
    assert made[0].count >= 1
    weak = weakref.ref(made.pop())
    gc.collect()
    assert weak() is None
