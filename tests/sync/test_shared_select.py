"""`plait.select` and `plait.aselect` over shared channels, and over such and channels of one process."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import plait
from tests.sync import _shared_programs as programs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the process is forked while it has several threads:RuntimeWarning"),
]

LATE = 60.0
KILLS = 60


def shared(capacity: int = 16) -> Any:
    return plait.Channel[Any](capacity, shared=True)


def started(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> None:
    thread.join(LATE)
    assert not thread.is_alive()


def until(condition: Any) -> None:
    deadline = time.monotonic() + LATE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


def waiting(*channels: Any) -> list[int]:
    return [channel.statistics()["waiting_get"] for channel in channels]


def after(condition: Any, work: Any) -> None:
    until(condition)
    time.sleep(0.1)  # so that it is asleep
    work()


def forked(work: Any) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except plait.ChannelShutDown:
            pass
        finally:
            os._exit(0)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_it_takes_from_the_one_that_has() -> None:
    there, here = shared(), plait.Channel[Any]()
    there.put(1)
    assert plait.select(here, there) == (there, 1)
    here.put(2)
    assert plait.select(here, there) == (here, 2)
    other = shared()
    other.put(b"." * 100_000)
    assert plait.select(there, other, timeout=LATE)[1] == b"." * 100_000


@pytest.mark.parametrize("from_elsewhere", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_it_waits_for_any_of_them(number: int, from_elsewhere: bool) -> None:
    channels = [shared(), plait.Channel[Any](), shared()]
    found: list[Any] = []
    selecting = started(lambda: found.append(plait.select(*channels)))
    until(lambda: waiting(*channels) == [1, 1, 1])
    if from_elsewhere and number != 1:
        os.waitpid(forked(lambda: channels[number].put("it")), 0)
    else:
        channels[number].put("it")
    ended(selecting)
    assert found == [(channels[number], "it")]
    assert waiting(*channels) == [0, 0, 0]


def test_the_main_thread_waits_too() -> None:
    first, second = shared(), shared()
    child = forked(lambda: after(lambda: waiting(second) == [1], lambda: second.put(3)))
    assert plait.select(first, second) == (second, 3)
    os.waitpid(child, 0)


def test_it_is_fair() -> None:
    channels = [shared(200), plait.Channel[int](), shared(200)]
    for channel in channels:
        channel.put_many(range(200))
    taken = [channels.index(plait.select(*channels)[0]) for _ in range(300)]
    assert all(taken.count(number) >= 50 for number in range(3))


def test_in_vain() -> None:
    first, second = shared(), plait.Channel[int]()
    with pytest.raises(plait.ChannelEmpty):
        plait.select(first, second, timeout=0.01)
    with pytest.raises(plait.ChannelEmpty):
        plait.select(first, second, timeout=0)
    assert waiting(first, second) == [0, 0]
    with pytest.raises(TypeError, match="select takes channels, not 5"):
        plait.select(first, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_it_passes_over_channels_that_are_shut_down() -> None:
    first, second = shared(), shared()
    first.shutdown()
    found: list[Any] = []
    selecting = started(lambda: found.append(plait.select(first, second)))
    until(lambda: waiting(second) == [1])
    second.put(1)
    ended(selecting)
    assert found == [(second, 1)]

    def select() -> None:
        with pytest.raises(plait.ChannelShutDown):
            plait.select(first, second)
        found.append("over")

    selecting = started(select)
    until(lambda: waiting(second) == [1])
    second.shutdown()
    ended(selecting)
    assert found[-1] == "over"


def test_the_same_channel_twice() -> None:
    channel = shared()
    found: list[Any] = []
    selecting = started(lambda: found.append(plait.select(channel, channel)))
    until(lambda: waiting(channel) == [2])
    channel.put(1)
    ended(selecting)
    assert found == [(channel, 1)]
    assert waiting(channel) == [0]


@pytest.mark.parametrize("kind", [shared, plait.Channel])
def test_a_wake_up_that_is_not_used_is_passed_on(kind: Any) -> None:
    """Both channels get a message; the one that `select` leaves goes to who waits for that channel alone."""
    for _ in range(100):
        first, second = shared(), kind()
        selected: list[Any] = []
        found: list[Any] = []
        selecting = started(
            lambda selected=selected, first=first, second=second: selected.append(plait.select(first, second))
        )
        until(lambda: waiting(first, second) == [1, 1])
        getters = [
            started(lambda found=found, channel=channel: found.append(channel.get())) for channel in (first, second)
        ]
        until(lambda: waiting(first, second) == [2, 2])
        first.put(1)
        second.put(1)
        ended(selecting)
        selected[0][0].put(3)
        for getter in getters:
            ended(getter)
        assert len(found) == 2


@pytest.mark.parametrize("raises", [False, True])
def test_signals_are_seen_in_the_main_thread(raises: bool) -> None:
    first, second = shared(), plait.Channel[int]()
    seen: list[int] = []

    def handle(number: int, _frame: object) -> None:
        seen.append(number)
        if raises:
            raise InterruptedError
        second.put(7)

    before = signal.signal(signal.SIGUSR1, handle)
    child = forked(lambda: after(lambda: waiting(first) == [1], lambda: os.kill(os.getppid(), signal.SIGUSR1)))
    try:
        if raises:
            with pytest.raises(InterruptedError):
                plait.select(first, second)
        else:
            assert plait.select(first, second) == (second, 7)
    finally:
        signal.signal(signal.SIGUSR1, before)
        os.waitpid(child, 0)
    assert seen == [signal.SIGUSR1]
    assert waiting(first, second) == [0, 0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("program", [programs.select_often, programs.select_in_tasks])
def test_every_message_arrives_once(method: str, program: Any) -> None:
    context: Any = multiprocessing.get_context(method)
    channels, told = (shared(4), shared(4)), shared()
    readers = [context.Process(target=program, args=(told, channels)) for _ in range(3)]
    for reader in readers:
        reader.start()

    def write(channel: Any, start: int) -> None:
        for number in range(start, start + 1000):
            channel.put(number)

    writers = [started(lambda number=number: write(channels[number], 1000 * number)) for number in range(2)]
    for writer in writers:
        ended(writer)
    for channel in channels:
        channel.shutdown()
    found = [message for _ in readers for message in told.get(timeout=LATE)]
    assert sorted(found) == list(range(2000))
    for reader in readers:
        reader.join(LATE)
        assert reader.exitcode == 0
    assert waiting(*channels) == [0, 0]


def test_many_threads_and_tasks_share_what_there_is() -> None:
    channels: list[Any] = [shared(4), plait.Channel[int](4), shared(4)]
    found: list[int] = []

    def select() -> None:
        try:
            while True:
                found.append(plait.select(*channels)[1])
        except plait.ChannelShutDown:
            pass

    async def aselect() -> None:
        try:
            while True:
                found.append((await plait.aselect(*channels))[1])
        except plait.ChannelShutDown:
            pass

    async def main() -> None:
        await asyncio.gather(*(aselect() for _ in range(3)))

    def get(channel: Any) -> None:
        found.extend(channel)

    readers = [started(select) for _ in range(3)]
    readers += [started(lambda: asyncio.run(main()))]
    readers += [started(lambda channel=channel: get(channel)) for channel in channels]
    writers = [
        started(lambda number=number: channels[number % 3].put_many(range(500 * number, 500 * number + 500)))
        for number in range(6)
    ]
    for writer in writers:
        ended(writer)
    for channel in channels:
        channel.shutdown()
    for reader in readers:
        ended(reader)
    assert sorted(found) == list(range(3000))


# ---- tasks -----------------------------------------------------------------------------------------------------------


def test_aselect() -> None:
    there, here = shared(), plait.Channel[Any]()

    async def main() -> None:
        for channel in (there, here, there):
            task = asyncio.create_task(plait.aselect(here, there))
            await asyncio.sleep(0.01)
            assert waiting(there, here) == [1, 1]
            started(lambda channel=channel: channel.put("it"))
            assert await task == (channel, "it")
        with pytest.raises(plait.ChannelEmpty):
            await plait.aselect(here, there, timeout=0.01)
        assert waiting(there, here) == [0, 0]
        there.shutdown()
        here.shutdown()
        with pytest.raises(plait.ChannelShutDown):
            await plait.aselect(here, there)

    asyncio.run(asyncio.wait_for(main(), LATE))


def test_a_task_that_is_cancelled_passes_its_wake_up_on() -> None:
    first, second = shared(), plait.Channel[Any]()

    async def main() -> None:
        for _ in range(100):
            task = asyncio.create_task(plait.aselect(second, first))
            while waiting(first) != [1]:  # noqa: ASYNC110 -- nothing tells when somebody begins to wait
                await asyncio.sleep(0)
            found: list[Any] = []
            getter = started(lambda found=found: found.append(first.get()))
            while waiting(first) != [2]:  # noqa: ASYNC110 -- nothing tells when somebody begins to wait
                await asyncio.sleep(0)
            first.put(1)
            task.cancel()
            try:
                await task
                first.put(1)  # it was faster
            except asyncio.CancelledError:
                pass
            await asyncio.to_thread(ended, getter)
            assert found == [1]
            assert waiting(first, second) == [0, 0]

    asyncio.run(asyncio.wait_for(main(), LATE))


def test_the_tasks_of_a_loop_that_is_closed_keep_nothing() -> None:
    first, second = shared(), shared()
    event_loop = asyncio.new_event_loop()
    task = event_loop.create_task(plait.aselect(first, second))
    event_loop.run_until_complete(asyncio.sleep(0.01))
    assert waiting(first, second) == [1, 1]
    event_loop.close()
    found: list[Any] = []
    getter = started(lambda: found.append(first.get()))
    until(lambda: waiting(first) == [2])
    first.put(1)
    ended(getter)
    assert found == [1]
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_what_a_dead_process_was_woken_for_goes_to_others() -> None:
    first, second = shared(), shared()
    children = [forked(lambda: plait.select(first, second)) for _ in range(3)]
    until(lambda: waiting(first, second) == [3, 3])
    for child in children:
        os.kill(child, signal.SIGSTOP)  # so that they are woken and cannot take it
    found: list[Any] = []
    for channel in (first, second):
        channel.put(1)
    getters = [started(lambda channel=channel: found.append(channel.get())) for channel in (first, second)]
    for child in children:
        kill(child)
    for getter in getters:
        ended(getter)
    assert found == [1, 1]
    assert waiting(first, second) == [0, 0]


def test_processes_that_select_are_killed(tmp_path: Path) -> None:
    chance = random.Random(5)
    channels = (shared(4), shared(4))
    got = os.open(tmp_path / "got", os.O_CREAT | os.O_APPEND | os.O_RDWR)
    stop = threading.Event()
    sent = [0, 0]

    def write(number: int) -> None:
        while not stop.is_set():
            channels[number].put((number << 32 | sent[number], b"." * (sent[number] * 37 % 700)))
            sent[number] += 1

    def another() -> int:
        return forked(lambda: programs.consume_from_several(channels, got))

    children = [another() for _ in range(3)]
    writers = [started(lambda number=number: write(number)) for number in range(2)]
    for _ in range(KILLS):
        time.sleep(chance.uniform(0, 0.01))
        kill(children.pop(chance.randrange(len(children))))
        children.append(another())
    stop.set()
    for writer in writers:
        ended(writer)
    for channel in channels:
        channel.shutdown()
    for child in children:
        os.waitpid(child, 0)  # nobody waits for ever
    data = os.pread(got, os.fstat(got).st_size, 0)
    arrived = [value for (value,) in struct.iter_unpack("<Q", data)]
    os.close(got)
    figures = [channel.statistics() for channel in channels]
    assert len(set(arrived)) == len(arrived), "a message came twice"
    # What was taken and never noted died between the two, one at a time.
    lost = sum(figure["lost"] for figure in figures)
    assert 0 <= sum(sent) - len(arrived) - lost <= KILLS
    assert all(figure["size"] == figure["waiting_get"] == figure["waiting_put"] == 0 for figure in figures)
