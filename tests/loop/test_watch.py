"""`watch_loop` tells who blocks the loop, while it happens."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import threading
import time
import weakref
from typing import Any

import pytest

import plait

ENOUGH = 30.0


class Told:
    """Reports, and a callback that blocks its loop until the first of them."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._first = threading.Event()
        self._last = threading.Event()

    def __call__(self, blocked: Any) -> None:
        self.all.append(blocked)
        (self._last if blocked.over else self._first).set()

    def block(self) -> None:
        assert self._first.wait(ENOUGH), "nothing was reported"

    async def end(self) -> None:
        assert await asyncio.to_thread(self._last.wait, ENOUGH), "the end was not reported"
        self._first.clear()
        self._last.clear()


def test_a_callback_that_blocks_is_told_of_once_and_at_its_end() -> None:
    told = Told()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with plait.watch_loop(0.2, report=told):
            loop.call_soon(told.block)
            loop.call_soon(int)
            loop.call_soon(int)
            await told.end()

    plait.run(main())
    first, last = told.all
    assert (first.over, last.over) == (False, True)
    assert 0.2 <= first.seconds <= last.seconds
    assert first.waiting == 2
    assert first.task is None
    assert first.stack[0].name == "block"
    assert "2 callbacks wait behind it" in str(first)
    assert "in block" not in str(last)
    assert last.stack is first.stack


def test_a_task_is_named() -> None:
    told = Told()

    async def main() -> None:
        async def slow() -> None:
            told.block()

        with plait.watch_loop(0.02, report=told):
            await asyncio.create_task(slow(), name="the slow one")
            await told.end()

    plait.run(main())
    assert told.all[0].task.get_name() == "the slow one"
    assert "the task 'the slow one'" in str(told.all[0])
    assert [frame.name for frame in told.all[0].stack][:2] == ["slow", "block"]


def test_a_callback_that_is_no_python_code_has_a_stack_too() -> None:
    lock, told = threading.Lock(), list[Any]()

    def report(blocked: Any) -> None:
        if not told and [frame.name for frame in blocked.stack] == ["run_forever"]:
            told.append(blocked)
            lock.release()

    async def main() -> None:
        lock.acquire()
        with plait.watch_loop(0.02, report=report):
            asyncio.get_running_loop().call_soon(lock.acquire, True, ENOUGH)
            await asyncio.sleep(0)

    plait.run(main())
    assert told


def test_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def block() -> None:
        deadline = time.monotonic() + ENOUGH
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)

    async def main() -> None:
        block()
        deadline = time.monotonic() + ENOUGH
        while len(caplog.records) < 2 and time.monotonic() < deadline:
            await asyncio.to_thread(time.sleep, 0.005)

    with caplog.at_level(logging.WARNING, logger="plait.loop"):
        plait.run(main(), watch=0.02)
    first, last = (record.getMessage() for record in caplog.records[:2])
    assert "has been blocked for" in first
    assert "in block" in first
    assert "was blocked for" in last


def test_again_and_again_and_several_loops() -> None:
    def work() -> None:
        told = Told()

        async def main() -> None:
            with plait.watch_loop(0.01, report=told):
                for _ in range(5):
                    told.block()
                    await told.end()

        plait.run(main())
        counts.append([each.over for each in told.all])

    counts: list[list[bool]] = []
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [[False, True] * 5] * 3


def test_short_turns_are_not_told_of() -> None:
    told = Told()

    async def main() -> None:
        with plait.watch_loop(ENOUGH, report=told):
            for _ in range(1000):
                await asyncio.sleep(0)

    plait.run(main())
    assert told.all == []


def test_a_watch_ends() -> None:
    told, other = Told(), Told()

    async def main() -> None:
        watch = plait.watch_loop(0.01, report=told)
        watch.cancel()
        watch.cancel()
        with plait.watch_loop(0.01, report=other):
            other.block()
            await other.end()

    plait.run(main())
    assert told.all == []


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_report_that_raises_is_logged_and_the_watch_goes_on(
    caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    told = Told()

    def report(blocked: Any) -> None:
        told(blocked)
        if not blocked.over:
            raise error

    async def main() -> None:
        with plait.watch_loop(0.01, report=report):
            told.block()
            await told.end()

    plait.run(main())
    assert [each.over for each in told.all] == [False, True]
    assert any(record.exc_info and record.exc_info[0] is error for record in caplog.records)


def test_a_watched_loop_can_be_collected() -> None:
    loop = plait.new_event_loop()
    plait.watch_loop(1.0, loop=loop)
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


def test_a_watch_that_ends_in_a_forked_child_is_none_of_its_business() -> None:
    loop = plait.new_event_loop()
    watch = plait.watch_loop(1.0, loop=loop)
    child = os.fork()
    if child == 0:
        watch.cancel()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    watch.cancel()
    loop.close()


def test_nothing_is_kept_of_what_was_reported() -> None:
    told = Told()

    async def main() -> None:
        with plait.watch_loop(0.01, report=told):
            told.block()

    loop = plait.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    task, gone = weakref.ref(told.all[0].task), weakref.ref(loop)
    told.all.clear()
    del loop
    deadline = time.monotonic() + ENOUGH
    while (task() or gone()) and time.monotonic() < deadline:
        time.sleep(0.01)  # the watcher returns from the report
        gc.collect()
    assert task() is None
    assert gone() is None


def test_a_forked_child_watches_anew() -> None:
    async def main() -> None:
        told = Told()
        with plait.watch_loop(0.01, report=told):
            told.block()
            await told.end()

    plait.run(main())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            plait.run(main())
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_threshold_is_a_number() -> None:
    loop = plait.EventLoop()
    with pytest.raises(TypeError, match="threshold must be a number of seconds, not '1'"):
        plait.watch_loop("1", loop=loop)  # type: ignore[arg-type]
    loop.close()


@pytest.mark.parametrize("threshold", [0, -1.0, math.nan, math.inf])
def test_thresholds_that_are_none(threshold: float) -> None:
    loop = plait.new_event_loop()
    with pytest.raises(ValueError, match="threshold"):
        plait.watch_loop(threshold, loop=loop)
    loop.close()


def test_what_cannot_be_watched() -> None:
    with pytest.raises(RuntimeError):
        plait.watch_loop()
    loop = asyncio.SelectorEventLoop()
    with pytest.raises(TypeError, match="loop of plait"):
        plait.watch_loop(loop=loop)
    loop.close()
    ours = plait.new_event_loop()
    with pytest.raises(TypeError, match="report"):
        plait.watch_loop(loop=ours, report=3)  # type: ignore[arg-type]
    ours.close()
