"""What a loop that stands still must not keep from those who wait in other processes, and what else only shared objects have.

See `test_stopped_loops.py`, which has the same for those of one process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest

import plait as package
from tests.sync.test_stopped_loops import (
    WATCHDOG,
    Condition,
    Event,
    Get,
    GetMany,
    Kind,
    Lock,
    Loop,
    Put,
    Select,
    Semaphore,
    Waiting,
    begun,
    behind,
    come_to,
    other_loop,
    until,
)

plait: Any = package  # as to a program without types

KINDS = [Get, GetMany, Put, Select, Lock, Semaphore, Condition, Event]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    made: Kind = request.param(True)
    yield made
    made.end()


@pytest.fixture(params=["asyncio", "plait"])
def event_loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    made: Loop = asyncio.SelectorEventLoop() if request.param == "asyncio" else plait.EventLoop()
    yield made
    left = asyncio.all_tasks(made)
    for task in left:
        task.cancel()
    if left:
        made.run_until_complete(asyncio.wait(left))
    made.close()


def child(target: Any, *arguments: Any) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def wait_there(kind: Kind, how: str, answers: Any) -> None:
    """Wait in this process, as a thread or as a task."""
    answers.put(kind.wait() if how == "thread" else other_loop(kind.await_)())


@pytest.mark.parametrize("how", ["thread", "task"])
def test_a_stopped_loop_keeps_nothing_from_another_process(event_loop: Loop, kind: Kind, how: str) -> None:
    task = begun(event_loop, kind.await_(), lambda: kind.count() == 1)
    answers = plait.Channel(4, shared=True)
    other = child(wait_there, kind, how, answers)
    until(lambda: kind.count() == 2)
    kind.give()
    assert answers.get(timeout=WATCHDOG) is True
    assert not task.done()
    other.join(WATCHDOG)


def stand_still(kind: Kind, how: str, answers: Any, orders: Any) -> None:
    """Have a task wait, and its loop stand still until there is an order; then say what the task came to."""

    async def main() -> Any:
        task = asyncio.create_task(kind.await_())
        await come_to(lambda: kind.count() == 1)
        answers.put("waits")
        orders.get()
        return await task

    if how == "blocked":
        answers.put(asyncio.run(main()))
        return
    event_loop = asyncio.new_event_loop()
    task: Any = begun(event_loop, kind.await_(), lambda: kind.count() == 1)
    if how == "closed":
        task._log_destroy_pending = False
        event_loop.close()
    answers.put("waits")
    orders.get()
    answers.put(how == "closed" or event_loop.run_until_complete(task))


@pytest.mark.parametrize("how", ["stopped", "closed", "blocked"])
def test_a_loop_of_another_process_keeps_nothing_and_comes_later(kind: Kind, how: str) -> None:
    answers, orders = plait.Channel(4, shared=True), plait.Channel(4, shared=True)
    other = child(stand_still, kind, how, answers, orders)
    assert answers.get(timeout=WATCHDOG) == "waits"
    waiting = behind(kind, "thread")
    kind.give()
    assert waiting.result() is True
    kind.give()
    orders.put(None)
    assert answers.get(timeout=WATCHDOG) is True
    other.join(WATCHDOG)
    assert other.exitcode == 0


def test_a_loop_that_stands_still_in_each_of_two_processes(event_loop: Loop, kind: Kind) -> None:
    answers, orders = plait.Channel(4, shared=True), plait.Channel(4, shared=True)
    other = child(stand_still, kind, "stopped", answers, orders)
    assert answers.get(timeout=WATCHDOG) == "waits"
    task = begun(event_loop, kind.await_(), lambda: kind.count() == 2)
    waiting = behind(kind, "thread")
    kind.give()
    assert waiting.result() is True
    assert not task.done()
    other.kill()
    other.join(WATCHDOG)


@pytest.mark.parametrize("first", ["local", "shared"])
def test_a_select_that_was_woken_once_keeps_nothing_that_comes_then(event_loop: Loop, first: str) -> None:
    """Each of the channels has somebody else who waits behind it."""
    one, two = plait.Channel(4, shared=first == "shared"), plait.Channel(4, shared=True)
    begun(event_loop, plait.aselect(one, two), lambda: two.statistics()["waiting_get"] == 1)
    for channel in (one, two):
        waiting = Waiting(channel.get)
        until(lambda channel=channel: channel.statistics()["waiting_get"] == 2)  # type: ignore[misc]
        channel.put(1)
        assert waiting.result() == 1


def test_a_notice_that_was_passed_on_is_not_passed_on_again(event_loop: Loop) -> None:
    kind = Condition(True)
    task = begun(event_loop, kind.await_(), lambda: kind.count() == 1)
    waiting = [behind(kind, "thread") for _ in range(2)]
    kind.give()
    until(lambda: any(thread.over for thread in waiting))
    task.cancel()
    event_loop.run_until_complete(asyncio.wait([task]))
    assert task.cancelled()
    assert kind.count() == 1
    kind.give()
    assert [thread.result() for thread in waiting] == [True, True]
