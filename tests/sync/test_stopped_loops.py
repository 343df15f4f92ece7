"""Loops that stand still while their tasks are next in line: what the tasks were woken for, others get.

A loop may stop before a wake-up for one of its tasks, between the wake-up and the task's run, or be held up by a thread's
wait in a task. It may run again later: then its tasks look, and wait on when nothing is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait as package

plait: Any = package  # as to a program without types
WATCHDOG = 30.0

Loop = asyncio.AbstractEventLoop


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


class Waiting:
    """What a thread waits for, beside its outcome."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._found.append(call()), daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return bool(self._found)

    def result(self) -> Any:
        self._thread.join(WATCHDOG)
        assert not self._thread.is_alive(), "still blocked"
        return self._found[0]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WATCHDOG
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.001)


def begun(event_loop: Loop, coroutine: Any, waits: Callable[[], bool]) -> asyncio.Task[Any]:
    """A task that waits in a loop which has stopped since."""

    task = event_loop.create_task(coroutine)
    event_loop.run_until_complete(come_to(waits))
    assert not task.done()
    return task


async def come_to(condition: Callable[[], bool]) -> None:
    """As `until`, in a task."""
    while not condition():  # noqa: ASYNC110  # who waits tells nobody
        await asyncio.sleep(0)


def stop_after(event_loop: Loop, call: Callable[[], object], thread: bool) -> None:
    """Run the loop for `call`, and stop it before it comes to what that has woken."""

    def last() -> None:
        if thread:
            Waiting(lambda: call() or True).result()
        else:
            call()
        event_loop.stop()

    event_loop.call_soon(last)
    event_loop.run_forever()


def other_loop(make: Callable[[], Any]) -> Callable[[], Any]:
    """A call that awaits something in a loop of its own."""

    async def main() -> Any:
        return await make()

    return lambda: asyncio.run(main())


class Kind:
    """Something to wait for: by a thread, by a task; and what lets one of them go on."""

    shared = False

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self.setup()

    def channel_of(self, capacity: int = 0) -> Any:
        return plait.Channel(capacity or 16, shared=True) if self.shared else plait.Channel(capacity)

    count: Callable[[], int]
    wait: Callable[[], Any]
    await_: Callable[[], Any]
    give: Callable[[], object]

    def setup(self) -> None:
        """Make it."""

    def end(self) -> None:
        """Let go of it: pytest keeps this for a while, and shared memory has descriptors."""
        vars(self).clear()


class Get(Kind):
    def setup(self) -> None:
        self.channel = self.channel_of()

    def wait(self) -> Any:
        return self.channel.get() == 1

    async def await_(self) -> Any:
        return await self.channel.aget() == 1

    def count(self) -> int:
        return int(self.channel.statistics()["waiting_get"])

    def give(self) -> object:
        return self.channel.put(1)


class GetMany(Get):
    async def await_(self) -> Any:
        return await self.channel.aget_many(3) == [1]


class Put(Kind):
    def setup(self) -> None:
        self.channel = self.channel_of(1)
        self.channel.put(0)

    def wait(self) -> Any:
        self.channel.put(1)
        return True

    async def await_(self) -> Any:
        await self.channel.aput(1)
        return True

    def count(self) -> int:
        return int(self.channel.statistics()["waiting_put"])

    def give(self) -> object:
        return self.channel.get()


class Select(Get):
    def setup(self) -> None:
        self.other, self.channel = self.channel_of(), self.channel_of()

    async def await_(self) -> Any:
        return await plait.aselect(self.other, self.channel) == (self.channel, 1)


class Lock(Kind):
    def setup(self) -> None:
        self.lock = plait.Lock(shared=self.shared)
        self.lock.acquire()

    def wait(self) -> Any:
        return self.lock.acquire()

    def await_(self) -> Any:
        return self.lock.aacquire()

    def count(self) -> int:
        return int(self.lock.statistics()["waiting"])

    def give(self) -> object:
        return self.lock.release()


class LockAtOnce(Lock):
    """The giver is as patient as it can be: nobody is handed the lock."""

    def give(self) -> object:
        assert self.lock.acquire(False) is False
        return self.lock.release()


class RLock(Lock):
    def setup(self) -> None:
        self.lock = plait.RLock(shared=self.shared)
        self.holder = plait.Channel()
        self.held = Waiting(self.hold)
        until(self.lock.locked)

    def hold(self) -> bool:
        with self.lock:
            self.holder.get()
        return True

    def give(self) -> object:
        self.holder.put(None)
        return self.held.result()

    def end(self) -> None:
        self.give()
        super().end()


class Semaphore(Lock):
    def setup(self) -> None:
        self.lock = plait.Semaphore(0, shared=self.shared)


class Condition(Kind):
    def setup(self) -> None:
        self.condition = plait.Condition(plait.Lock(shared=self.shared), shared=self.shared)

    def wait(self) -> Any:
        with self.condition:
            return self.condition.wait()

    async def await_(self) -> Any:
        async with self.condition:
            return await self.condition.await_()

    def count(self) -> int:
        return int(self.condition.statistics()["waiting"])

    def give(self) -> object:
        with self.condition:
            return self.condition.notify()


class Event(Kind):
    def setup(self) -> None:
        self.event = plait.Event(shared=self.shared)

    def wait(self) -> Any:
        return self.event.wait()

    def await_(self) -> Any:
        return self.event.await_()

    def count(self) -> int:
        return int(self.event.statistics()["waiting"])

    def give(self) -> object:
        return self.event.set()


KINDS = [Get, GetMany, Put, Select, Lock, LockAtOnce, RLock, Semaphore, Condition, Event]


@pytest.fixture(params=[False, True], ids=["local", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest, shared: bool) -> Iterator[Kind]:
    made: Kind = request.param(shared)
    yield made
    made.end()


def behind(kind: Kind, how: str) -> Waiting:
    """A thread, or a task of a loop that runs, which waits behind those that wait already."""
    before = kind.count()
    waiting = Waiting(kind.wait if how == "thread" else other_loop(kind.await_))
    until(lambda: kind.count() == before + 1)
    return waiting


@pytest.mark.parametrize("patient", [False, True], ids=["at once", "after a while"])
@pytest.mark.parametrize("how", ["thread", "task"])
def test_a_loop_that_has_stopped_keeps_nothing_from_who_comes_next(
    event_loop: Loop, kind: Kind, how: str, patient: bool
) -> None:
    task = begun(event_loop, kind.await_(), lambda: kind.count() == 1)
    waiting = behind(kind, how)
    if patient:
        time.sleep(0.005)  # so that a lock would be handed over to it
    kind.give()
    assert waiting.result() is True
    assert not task.done()


@pytest.mark.parametrize("how", ["thread", "task"])
@pytest.mark.parametrize("giver", ["thread", "its own"])
def test_a_loop_that_stops_between_wake_up_and_run_keeps_nothing(
    event_loop: Loop, kind: Kind, how: str, giver: str
) -> None:
    task = begun(event_loop, kind.await_(), lambda: kind.count() == 1)
    waiting = behind(kind, how)
    stop_after(event_loop, kind.give, thread=giver == "thread")
    assert waiting.result() is True
    assert not task.done()


def test_a_loop_that_ends_by_an_exception_keeps_nothing(event_loop: Loop, kind: Kind) -> None:
    begun(event_loop, kind.await_(), lambda: kind.count() == 1)
    waiting = behind(kind, "thread")

    def last() -> None:
        kind.give()
        raise KeyboardInterrupt

    event_loop.call_soon(last)
    with pytest.raises(KeyboardInterrupt):
        event_loop.run_forever()
    assert waiting.result() is True


def test_who_was_passed_over_waits_on_and_comes_later(event_loop: Loop, kind: Kind) -> None:
    if isinstance(kind, (Lock, Put, GetMany)):
        pytest.skip("what it waits for is not there a second time")
    task = begun(event_loop, kind.await_(), lambda: kind.count() == 1)
    waiting = behind(kind, "thread")
    kind.give()
    assert waiting.result() is True
    if isinstance(kind, (Condition, Event)):
        # Of a condition, as with those of the standard library, more may be woken than were asked for.
        assert event_loop.run_until_complete(task) is True
        return

    async def later() -> Any:
        await come_to(lambda: kind.count() == 1)
        assert not task.done()
        kind.give()
        return await task

    assert event_loop.run_until_complete(asyncio.wait_for(later(), WATCHDOG)) is True


def test_many_that_cannot_come(event_loop: Loop, kind: Kind) -> None:
    tasks = [event_loop.create_task(kind.await_()) for _ in range(3000)]

    event_loop.run_until_complete(come_to(lambda: kind.count() == len(tasks)))
    waiting = behind(kind, "thread")
    kind.give()
    assert waiting.result() is True
    assert not any(task.done() for task in tasks)


def test_many_of_a_loop_that_is_closed(shared: bool) -> None:
    channel = plait.Channel(1, shared=shared)
    event_loop = asyncio.new_event_loop()
    tasks: list[Any] = [event_loop.create_task(channel.aget()) for _ in range(3000)]

    event_loop.run_until_complete(come_to(lambda: channel.statistics()["waiting_get"] == len(tasks)))
    waiting = Waiting(channel.get)
    until(lambda: channel.statistics()["waiting_get"] == len(tasks) + 1)
    event_loop.close()
    channel.put(1)
    assert waiting.result() == 1
    for task in tasks:
        task._log_destroy_pending = False


def test_a_loop_that_is_closed_with_a_task_about_to_run_keeps_nothing(shared: bool) -> None:
    channel = plait.Channel(1, shared=shared)
    event_loop = asyncio.new_event_loop()
    task: Any = begun(event_loop, channel.aget(), lambda: channel.statistics()["waiting_get"] == 1)
    waiting = Waiting(channel.get)
    until(lambda: channel.statistics()["waiting_get"] == 2)
    stop_after(event_loop, lambda: channel.put(1), thread=False)
    event_loop.close()
    assert waiting.result() == 1
    task._log_destroy_pending = False


@pytest.mark.parametrize("kind", [Get, Lock, Semaphore], indirect=True, ids=lambda kind: kind.__name__)
def test_a_thread_that_waits_in_a_task_is_not_kept_from_it_by_its_own_loop(event_loop: Loop, kind: Kind) -> None:
    """The task that is first in line cannot run while the loop's thread waits behind it."""

    async def main() -> None:
        task = asyncio.create_task(kind.await_())
        await come_to(lambda: kind.count() == 1)

        def give() -> bool:
            until(lambda: kind.count() == 2)
            kind.give()
            return True

        giver = Waiting(give)
        assert kind.wait() is True
        assert not task.done()
        assert giver.result()
        kind.give()
        assert await asyncio.wait_for(task, WATCHDOG) is True

    event_loop.run_until_complete(main())


@pytest.mark.parametrize("notifier", ["comes later", "is queued"])
def test_what_a_waiting_thread_releases_is_not_kept_by_its_own_loop(event_loop: Loop, notifier: str) -> None:
    """The thread is in the condition's `wait` when that releases the lock, which a task of its loop is handed."""
    lock = plait.Lock()
    condition = plait.Condition(lock)
    begin = threading.Event()

    async def other() -> None:
        async with lock:
            pass

    def notify() -> bool:
        assert begin.wait(WATCHDOG)
        assert lock.acquire(timeout=WATCHDOG)
        condition.notify()
        lock.release()
        return True

    async def main() -> None:
        lock.acquire()
        task = asyncio.create_task(other())
        await come_to(lambda: lock.statistics()["waiting"] == 1)
        notifying = Waiting(notify)
        if notifier == "is queued":
            begin.set()
            await come_to(lambda: lock.statistics()["waiting"] == 2)
        else:
            threading.Timer(0.05, begin.set).start()
        assert condition.wait(WATCHDOG / 2)
        lock.release()
        await asyncio.wait_for(task, WATCHDOG)
        assert notifying.result()

    event_loop.run_until_complete(main())


def test_what_a_signal_handler_releases_is_not_kept_by_the_loop_that_waits(event_loop: Loop) -> None:
    lock = plait.Lock()

    async def other() -> bool:
        async with lock:
            return True

    async def main() -> None:
        lock.acquire()
        task = asyncio.create_task(other())
        await come_to(lambda: lock.statistics()["waiting"] == 1)

        def interrupt() -> bool:
            until(lambda: lock.statistics()["waiting"] == 2)
            os.kill(os.getpid(), signal.SIGUSR1)
            return True

        interrupting = Waiting(interrupt)
        assert lock.acquire(timeout=WATCHDOG / 2)
        assert interrupting.result()
        lock.release()
        assert await asyncio.wait_for(task, WATCHDOG)

    before = signal.signal(signal.SIGUSR1, lambda *_: lock.release())
    try:
        event_loop.run_until_complete(main())
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_loop_that_stood_still_is_relied_on_again(event_loop: Loop) -> None:
    lock = plait.Lock()

    async def other() -> bool:
        async with lock:
            return True

    async def main() -> None:
        for _ in range(3):
            lock.acquire()
            assert lock.acquire(timeout=0.01) is False
            task = asyncio.create_task(other())
            await come_to(lambda: lock.statistics()["waiting"] == 1)
            lock.release()
            assert await asyncio.wait_for(task, WATCHDOG)

    event_loop.run_until_complete(main())


def test_those_that_were_about_to_run_when_a_task_waits_as_a_thread(event_loop: Loop, shared: bool) -> None:
    channel, hurry = plait.Channel(1, shared=shared), plait.Channel()

    async def wait_as_a_thread() -> Any:
        await hurry.aget()
        return channel.get()

    async def main() -> None:
        task = asyncio.create_task(channel.aget())
        await come_to(lambda: channel.statistics()["waiting_get"] == 1)
        other = asyncio.create_task(wait_as_a_thread())
        await come_to(lambda: hurry.statistics()["waiting_get"] == 1)

        def give() -> bool:
            hurry.put(None)
            channel.put(1)
            return True

        assert Waiting(give).result()
        assert await asyncio.wait_for(other, WATCHDOG) == 1
        channel.put(2)
        assert await asyncio.wait_for(task, WATCHDOG) == 2

    event_loop.run_until_complete(main())


def test_who_was_handed_a_lock_and_could_not_come_gets_it_later(event_loop: Loop, shared: bool) -> None:
    lock = plait.Lock(shared=shared)
    lock.acquire()
    task = begun(event_loop, lock.aacquire(), lambda: lock.statistics()["waiting"] == 1)
    time.sleep(0.005)
    lock.release()
    assert lock.acquire(timeout=WATCHDOG)
    lock.release()
    assert event_loop.run_until_complete(asyncio.wait_for(task, WATCHDOG)) is True
    assert lock.locked()


@pytest.mark.parametrize("late", [False, True], ids=["before it is noted", "after it is noted"])
def test_what_is_raised_while_a_task_is_woken_loses_it_nothing(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the handler of a signal that comes in the midst of the loop's `call_soon`."""

    class Interrupted(Exception):
        pass

    class Loop(asyncio.SelectorEventLoop):
        armed = False

        def call_soon(self, *arguments: Any, **named: Any) -> Any:  # type: ignore[override]
            armed, self.armed = self.armed, False
            if armed and not late:
                raise Interrupted
            handle = super().call_soon(*arguments, **named)
            if armed:
                raise Interrupted
            return handle

    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: unraisable.append(told.exc_type))
    event_loop = Loop()
    lock = plait.Lock()

    async def other() -> bool:
        async with lock:
            await asyncio.sleep(0)
            return True

    async def main() -> None:
        await lock.aacquire()
        task = asyncio.create_task(other())
        await come_to(lambda: lock.statistics()["waiting"] == 1)
        event_loop.armed = True
        lock.release()
        event_loop.armed = False
        assert await asyncio.wait_for(task, WATCHDOG / 2)

    event_loop.run_until_complete(main())
    event_loop.close()
    assert unraisable == [Interrupted]


def test_a_loop_without_hooks_is_not_relied_on(shared: bool) -> None:
    """Nothing tells when it stops, so whoever is next is woken at once."""

    class Plain(asyncio.SelectorEventLoop):
        def run_forever(self) -> None:
            this: Any = self
            asyncio._set_running_loop(self)
            this._thread_id = threading.get_ident()
            try:
                while not this._stopping:
                    this._run_once()
            finally:
                this._stopping = False
                this._thread_id = None
                asyncio._set_running_loop(None)

    channel = plait.Channel(1, shared=shared)
    event_loop = Plain()
    task: Any = begun(event_loop, channel.aget(), lambda: channel.statistics()["waiting_get"] == 1)
    waiting = Waiting(channel.get)
    until(lambda: channel.statistics()["waiting_get"] == 2)
    stop_after(event_loop, lambda: channel.put(1), thread=True)
    assert waiting.result() == 1
    channel.put(2)
    assert event_loop.run_until_complete(task) == 2
    event_loop.close()


def test_messages_between_loops_that_stop_and_go_on_again(event_loop: Loop, shared: bool) -> None:
    """Every message comes once, however often the loop of some of the takers stops."""
    channel = plait.Channel(5, shared=shared)
    count = 2000
    found: list[int] = []

    async def take() -> None:
        async for number in channel:
            found.append(number)  # noqa: PERF401  # as they come

    def produce() -> bool:
        for number in range(count):
            channel.put(number)
        channel.shutdown()
        return True

    def consume() -> bool:
        found.extend(channel)
        return True

    tasks = [event_loop.create_task(take()) for _ in range(3)]
    threads = [Waiting(consume), Waiting(produce)]
    while not all(thread.over for thread in threads):
        event_loop.call_later(0.001, event_loop.stop)
        event_loop.run_forever()
    event_loop.run_until_complete(asyncio.wait(tasks, timeout=WATCHDOG))
    assert sorted(found) == list(range(count))


def test_a_lock_between_loops_that_stop_and_go_on_again(event_loop: Loop, shared: bool) -> None:
    """A task that has the lock when its loop stops keeps it, and nobody else is left asleep."""
    lock = plait.Lock(shared=shared)
    counted = [0]

    async def count_in_task() -> None:
        for _ in range(200):
            async with lock:
                counted[0] += 1
            await asyncio.sleep(0)

    def count_in_thread() -> bool:
        for _ in range(500):
            with lock:
                counted[0] += 1
        return True

    tasks = [event_loop.create_task(count_in_task()) for _ in range(3)]
    threads = [Waiting(count_in_thread) for _ in range(2)]
    while not all(thread.over for thread in threads):
        event_loop.call_later(0.0005, event_loop.stop)
        event_loop.run_forever()
    event_loop.run_until_complete(asyncio.wait(tasks, timeout=WATCHDOG))
    assert counted == [3 * 200 + 2 * 500]
    assert not lock.locked()
