"""Channels between threads and tasks, and what happens to tasks and loops that end in the midst of it."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
import warnings
import weakref
from typing import Any

import pytest

import plait as package

plait: Any = package  # as to a program without types
WATCHDOG = 30.0


def started(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def ended(*threads):
    for thread in threads:
        thread.join(WATCHDOG)
        assert not thread.is_alive(), "still blocked"


def run(main):
    async def limited():
        async with asyncio.timeout(WATCHDOG):
            return await main

    return asyncio.run(limited())


async def waiting(channel, count=1, what="get"):
    while channel.statistics()[f"waiting_{what}"] != count:  # noqa: ASYNC110  (who waits tells nobody)
        await asyncio.sleep(0.001)


# ---- between threads and tasks ---------------------------------------------------------------------------------------


def test_from_a_thread_to_a_task_and_back():
    there, back = plait.Channel(1), plait.Channel(1)

    def echo():
        for message in there:
            back.put(message)

    async def main():
        for number in range(500):
            await there.aput(number)
            assert await back.aget() == number
        there.shutdown()

    thread = started(echo)
    run(main())
    ended(thread)


def test_between_two_loops():
    channel = plait.Channel(3)

    async def produce():
        for number in range(500):
            await channel.aput(number)
        channel.shutdown()

    async def consume():
        return [number async for number in channel]

    thread = started(lambda: run(produce()))
    assert run(consume()) == list(range(500))
    ended(thread)


def test_threads_and_tasks_wait_in_one_line():
    channel = plait.Channel()
    order = []

    async def main():
        async def get(name):
            order.append((name, await channel.aget()))

        first = asyncio.create_task(get("task"))
        await waiting(channel)
        second = started(lambda: order.append(("thread", channel.get())))
        await waiting(channel, 2)
        third = asyncio.create_task(get("last"))
        await waiting(channel, 3)
        channel.put_nowait(1)
        await first
        channel.put_nowait(2)
        await asyncio.to_thread(ended, second)
        channel.put_nowait(3)
        await third

    run(main())
    assert order == [("task", 1), ("thread", 2), ("last", 3)]


def test_a_wake_up_from_another_thread_runs_the_task_in_its_context():
    from contextvars import ContextVar

    variable = ContextVar("variable", default="nothing")
    channel = plait.Channel()

    async def get():
        variable.set("mine")
        await channel.aget()
        return variable.get(), asyncio.current_task()

    async def main():
        task = asyncio.create_task(get())
        await waiting(channel)
        thread = started(channel.put, 1)
        assert await task == ("mine", task)
        assert variable.get() == "nothing"
        ended(thread)

    run(main())


def test_many_tasks_are_woken_by_one_thread():
    channel = plait.Channel()

    async def main():
        tasks = [asyncio.create_task(channel.aget()) for _ in range(200)]
        await waiting(channel, 200)
        thread = started(channel.put_many, range(200))
        assert sorted(await asyncio.gather(*tasks)) == list(range(200))
        ended(thread)

    run(main())


# ---- what await gets -------------------------------------------------------------------------------------------------


def test_it_is_a_coroutine_to_asyncio():
    channel = plait.Channel()

    async def main():
        for wrap in (asyncio.create_task, asyncio.ensure_future, asyncio.shield, lambda it: asyncio.wait_for(it, 9)):
            channel.put_nowait(1)
            assert await wrap(channel.aget()) == 1
        async with asyncio.TaskGroup() as group:
            task = group.create_task(channel.aget())
            group.create_task(channel.aput(2))
        assert task.result() == 2
        assert list(await asyncio.gather(channel.aget(), channel.aput(3))) == [3, None]
        coroutine: Any = channel.aget()
        assert asyncio.iscoroutine(coroutine)
        assert inspect.isawaitable(coroutine)
        assert repr(coroutine).startswith("<coroutine object Channel.aget at ")
        coroutine.close()

    run(main())
    channel.put(4)
    assert asyncio.run(channel.aget()) == 4


def test_nothing_happens_until_it_is_awaited():
    channel = plait.Channel()
    channel.put(1)
    coroutine = channel.aget()
    assert channel.qsize() == 1
    assert "not started" in repr(coroutine)
    coroutine.close()
    assert channel.qsize() == 1
    with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
        coroutine.send(None)


def test_one_that_is_never_awaited_is_told_of():
    channel = plait.Channel()
    with pytest.warns(RuntimeWarning, match="coroutine 'Channel.aput' was never awaited"):
        channel.aput(1)
    assert channel.empty()


def test_any_value_comes_through():
    channel = plait.Channel()

    async def main():
        for value in ((1, 2), (), None, ValueError("a value"), StopIteration(5), StopIteration):
            channel.put(value)
            assert await channel.aget() is value
            task = asyncio.create_task(channel.aget())
            await waiting(channel)
            channel.put(value)
            assert await task is value
        channel.put((1, 2))
        coroutine = channel.aget()
        with pytest.raises(StopIteration) as caught:
            coroutine.__next__()
        assert caught.value.value == (1, 2)

    run(main())


def test_without_a_loop_it_says_so():
    channel = plait.Channel()
    with pytest.raises(RuntimeError, match="no running event loop"):
        channel.aget().send(None)
    assert channel.statistics()["waiting_get"] == 0


def test_an_async_loop_ends_with_the_shutdown():
    channel = plait.Channel()

    async def main():
        async def consume():
            return [number async for number in channel]

        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        await waiting(channel, 2)
        for number in range(4):
            await channel.aput(number)
        await asyncio.sleep(0)
        channel.shutdown()
        assert sorted(number for found in await asyncio.gather(*consumers) for number in found) == [0, 1, 2, 3]

    run(main())


def test_several_at_once():
    channel = plait.Channel(3)

    async def main():
        putter = asyncio.create_task(channel.aput_many(range(5)))
        await waiting(channel, 1, "put")
        assert await channel.aget_many(2) == [0, 1]
        await putter
        assert await channel.aget_many(9) == [2, 3, 4]
        getter = asyncio.create_task(channel.aget_many(9))
        await waiting(channel)
        channel.put_nowait("x")
        assert await getter == ["x"]

    run(main())


# ---- cancellation ----------------------------------------------------------------------------------------------------


def test_a_cancelled_get_loses_nothing_whenever_it_comes():
    """A thread puts while the task is cancelled: each message is either returned or still there."""
    channel = plait.Channel()
    taken = []

    async def main():
        for number in range(1000):
            task = asyncio.create_task(channel.aget())
            await asyncio.sleep(0)
            hurry.put(number)
            if number % 3:
                await asyncio.sleep(0)
            task.cancel()
            try:
                taken.append(await task)
            except asyncio.CancelledError:
                pass

    hurry = plait.Channel()
    thread = started(lambda: [channel.put(number) for number in hurry])
    run(main())
    hurry.shutdown()
    ended(thread)
    channel.shutdown()
    taken += channel
    assert sorted(taken) == list(range(1000))


def test_the_message_of_a_cancellation_comes_through():
    channel = plait.Channel()

    async def main():
        task = asyncio.create_task(channel.aget())
        await waiting(channel)
        task.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await task
        assert channel.statistics()["waiting_get"] == 0

    run(main())


def test_a_task_that_ignores_its_cancellation_can_wait_again():
    channel = plait.Channel()

    async def stubborn():
        try:
            await channel.aget()
        except asyncio.CancelledError:
            return await channel.aget()

    async def main():
        task = asyncio.create_task(stubborn())
        await waiting(channel)
        task.cancel()
        await asyncio.sleep(0.01)
        channel.put_nowait(1)
        assert await task == 1

    run(main())


# ---- select ----------------------------------------------------------------------------------------------------------


def test_aselect():
    first, second = plait.Channel(), plait.Channel()

    async def main():
        task = asyncio.create_task(plait.aselect(first, second))
        await waiting(first)
        thread = started(second.put, 5)
        assert await task == (second, 5)
        ended(thread)
        with pytest.raises(plait.ChannelEmpty):
            await plait.aselect(first, second, timeout=0.01)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            await plait.aselect(first, timeout=-1)
        task = asyncio.create_task(plait.aselect(first, second))
        await waiting(second)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert first.statistics()["waiting_get"] == second.statistics()["waiting_get"] == 0
        first.shutdown()
        second.shutdown()
        with pytest.raises(plait.ChannelShutDown):
            await plait.aselect(first, second)

    run(main())


# ---- loops that end --------------------------------------------------------------------------------------------------


def test_a_closed_loop_passes_its_wake_ups_on():
    """A task that never runs again is first in line; whoever comes behind it gets the message."""
    channel = plait.Channel()
    event_loop = asyncio.new_event_loop()
    task: Any = event_loop.create_task(channel.aget())
    event_loop.run_until_complete(waiting(channel))
    found: list[int] = []
    thread = started(lambda: found.append(channel.get()))
    run(waiting(channel, 2))
    event_loop.close()
    channel.put(1)
    ended(thread)
    assert found == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task._log_destroy_pending = False
        del task, event_loop
        gc.collect()


def test_a_loop_that_is_closed_with_a_wake_up_under_way_lets_go_of_it():
    channel = plait.Channel()
    event_loop = asyncio.new_event_loop()
    task: Any = event_loop.create_task(channel.aget())
    event_loop.run_until_complete(waiting(channel))
    found: list[int] = []
    thread = started(lambda: found.append(channel.get()))
    run(waiting(channel, 2))
    ended(started(channel.put, 1), thread)
    assert found == [1]
    event_loop.close()
    assert "over" in repr(task.get_coro())
    task._log_destroy_pending = False


def test_a_loop_that_only_stopped_keeps_nothing_from_others():
    channel = plait.Channel()
    event_loop = asyncio.new_event_loop()
    task: Any = event_loop.create_task(channel.aget())
    event_loop.run_until_complete(waiting(channel))
    time.sleep(0.01)
    for number in range(3):
        channel.put(number)
        assert channel.get(timeout=WATCHDOG) == number
    channel.put(3)
    assert event_loop.run_until_complete(task) == 3
    event_loop.close()


def test_many_loops_one_after_the_other():
    channel = plait.Channel()

    async def main(number):
        task = asyncio.create_task(channel.aget())
        await waiting(channel)
        thread = started(channel.put, number)
        assert await task == number
        ended(thread)

    for number in range(30):
        run(main(number))


def test_a_loop_that_cannot_watch_descriptors():
    class Blind(asyncio.SelectorEventLoop):
        def add_reader(self, *args: Any) -> Any:  # type: ignore[override]
            raise NotImplementedError

    channel = plait.Channel()

    async def main():
        tasks = [asyncio.create_task(channel.aget()) for _ in range(3)]
        await waiting(channel, 3)
        thread = started(channel.put_many, range(3))
        assert sorted(await asyncio.gather(*tasks)) == [0, 1, 2]
        ended(thread)

    with asyncio.Runner(loop_factory=Blind) as runner:
        runner.run(main())


def test_what_waits_is_collected_with_its_channel():
    async def wait(channel):
        await channel.aget()

    async def main():
        channel = plait.Channel()
        task: Any = asyncio.create_task(wait(channel))
        await waiting(channel)
        task._log_destroy_pending = False
        gone = weakref.ref(task), weakref.ref(channel)
        del task, channel
        gc.collect()
        return [each() for each in gone]

    assert run(main()) == [None, None]


def test_an_interrupt_in_a_woken_task_leaves_the_others_awake():
    channel = plait.Channel()
    found = []

    async def get(number):
        await channel.aget()
        if number == 0:
            raise KeyboardInterrupt
        found.append(number)

    event_loop = asyncio.new_event_loop()
    tasks = [event_loop.create_task(get(number)) for number in range(3)]
    event_loop.run_until_complete(waiting(channel, 3))
    ended(started(channel.put_many, range(3)))
    with pytest.raises(KeyboardInterrupt):
        event_loop.run_until_complete(asyncio.sleep(WATCHDOG))
    event_loop.run_until_complete(asyncio.wait(tasks[1:], timeout=WATCHDOG))
    assert sorted(found) == [1, 2]
    assert isinstance(tasks[0].exception(), KeyboardInterrupt)
    event_loop.run_until_complete(event_loop.shutdown_asyncgens())
    for task in asyncio.all_tasks(event_loop):
        task.cancel()
    event_loop.run_until_complete(asyncio.sleep(0))
    event_loop.close()
