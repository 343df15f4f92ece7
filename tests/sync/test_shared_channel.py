"""`plait.Channel(shared=True)`: as a channel of one process, and between processes by every road."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import plait
from tests.sync import _shared_programs as programs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the process is forked while it has several threads:RuntimeWarning"),
]

METHODS = ["fork", "spawn", "forkserver"]
LATE = 60.0


def channel(capacity: int = 16) -> Any:
    return plait.Channel(capacity, shared=True)


@pytest.mark.parametrize("capacity", [0, -1, 2**30 + 1, 2**80])
def test_a_capacity_that_cannot_be_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to .*, not {capacity}"):
        plait.Channel(capacity, shared=True)


@pytest.mark.parametrize("capacity", ["3", 2.0, None, True])
def test_a_capacity_is_an_integer(capacity: Any) -> None:
    with pytest.raises(TypeError, match="capacity must be an integer"):
        plait.Channel(capacity, shared=True)


def test_what_is_put_is_got_in_order_and_as_pickle_would_have_it() -> None:
    ours = channel()
    values: list[Any] = [1, "text", None, b"x" * 300, {"a": [1, {2}]}, 3.5, (), b"y" * 70_000, "ü" * 50_000, 2**100]
    ours.put_many(values)
    assert ours.get_many(100) == values
    array = np.arange(100_000.0)
    ours.put(array)
    got = ours.get()
    got[0] = 7.0  # its own
    assert (got[1:] == array[1:]).all()
    assert array[0] == 0
    assert ours.statistics()["block_bytes"] == 0


def test_it_is_a_channel() -> None:
    ours = channel(2)
    assert isinstance(ours, plait.Channel)
    assert ours.maxsize == 2
    ours.put(1)
    ours.put(2, block=False)
    assert ours.full()
    assert not ours.empty()
    assert ours.qsize() == 2
    for refused in (
        lambda: ours.put_nowait(3),
        lambda: ours.put(3, timeout=0),
        lambda: ours.put_many([3], block=False),
    ):
        with pytest.raises(queue.Full):
            refused()
    assert ours.get_nowait() == 1
    with pytest.raises(plait.ChannelFull) as told:
        ours.put_many([3, 4, 5], timeout=0.01)
    assert told.value.put == 1
    assert ours.get_many(5) == [2, 3]
    empty: list[Any] = [ours.get_nowait, lambda: ours.get(timeout=0.01), lambda: ours.get_many(3, block=False)]
    for refused in empty:
        with pytest.raises(queue.Empty):
            refused()
    with pytest.raises(ValueError, match="non-negative"):
        ours.get(timeout=-1)
    assert ours.unfinished_tasks == 3
    for _ in range(3):
        ours.task_done()
    with pytest.raises(ValueError, match="too many"):
        ours.task_done()
    ours.join()
    assert "shared, 0 of 2" in repr(ours)


def test_what_cannot_be_pickled_is_refused_and_nothing_is_put() -> None:
    ours = channel()
    with pytest.raises(plait.NotPicklable):
        ours.put(threading.Lock())
    with pytest.raises(plait.NotPicklable):
        ours.put_many([b"x" * 1000, threading.Lock()])
    assert ours.empty()
    assert ours.statistics()["block_bytes"] == 0


def test_shutdown_is_that_of_queue() -> None:
    ours = channel()
    ours.put_many([1, 2, b"x" * 1000])
    ours.shutdown()
    with pytest.raises(plait.ChannelShutDown):
        ours.put(4)
    assert ours.get() == 1
    ours.shutdown(immediate=True)
    with pytest.raises(plait.ChannelShutDown):
        ours.get()
    assert list(ours) == []
    assert ours.is_shutdown
    figures = ours.statistics()
    assert (figures["discarded"], figures["unfinished"], figures["block_bytes"]) == (2, 1, 0)
    ours.task_done()
    ours.join()


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_whoever_waits(immediate: bool) -> None:
    empty, full = channel(), channel(1)
    full.put(0)
    ended = []

    def wait(call: Any) -> None:
        with pytest.raises(plait.ChannelShutDown):
            call()
        ended.append(1)

    threads = [threading.Thread(target=wait, args=(call,)) for call in (empty.get, lambda: full.put(1)) * 2]
    for thread in threads:
        thread.start()
    while empty.statistics()["waiting_get"] + full.statistics()["waiting_put"] < 4:
        time.sleep(0.001)
    empty.shutdown(immediate)
    full.shutdown(immediate)
    for thread in threads:
        thread.join()
    assert len(ended) == 4


def test_threads_and_tasks_wait_in_one_queue() -> None:
    ours = channel(4)
    got: list[int] = []

    async def main() -> None:
        async def take() -> None:
            async for number in ours:
                got.append(number)  # noqa: PERF401  # one at a time

        def take_in_thread() -> None:
            got.extend(ours)

        threads = [threading.Thread(target=take_in_thread) for _ in range(2)]
        for thread in threads:
            thread.start()
        takers = [asyncio.create_task(take()) for _ in range(3)]
        for number in range(500):
            await ours.aput(number)
        await ours.aput_many(range(500, 600))
        ours.shutdown()
        await asyncio.gather(*takers)
        for thread in threads:
            await asyncio.to_thread(thread.join)

    asyncio.run(main())
    assert sorted(got) == list(range(600))


def test_a_cancelled_wait_has_taken_nothing_and_put_nothing() -> None:
    ours = channel(1)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ours.aget(), 0.01)
        await ours.aput(b"x" * 1000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ours.aput(b"y" * 1000), 0.01)
        getting = asyncio.create_task(ours.aget())
        other = asyncio.create_task(ours.aget())
        await asyncio.sleep(0)
        getting.cancel()
        other.cancel()
        await asyncio.gather(getting, other, return_exceptions=True)

    asyncio.run(main())
    figures = ours.statistics()
    assert figures["waiting_get"] == figures["waiting_put"] == 0
    assert (figures["block_bytes"] > 0) is (figures["size"] > 0)


@pytest.mark.parametrize("target", [programs.echo, programs.echo_in_tasks])
@pytest.mark.parametrize("method", METHODS)
def test_it_travels_to_processes_of_multiprocessing(method: str, target: Any) -> None:
    inward, outward = channel(), channel()
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=target, args=(inward, outward))
    process.start()
    messages = [(number, b"x" * (number * 9000)) for number in range(10)]
    inward.put_many(messages)
    inward.shutdown()
    assert [outward.get(timeout=LATE) for _ in range(11)] == [*messages, "end"]
    process.join()
    assert process.exitcode == 0


def test_it_travels_to_tasks_of_a_pool_and_in_messages() -> None:
    with plait.ProcessPool(1) as pool:
        ours, back = channel(), channel()
        answered = pool.submit(programs.answer, ours, back)
        assert back.get(timeout=LATE) == "hello"
        ours.put("and you")
        assert answered.result() == "and you"
        first, second = channel(), channel()
        echoed = pool.submit(programs.echo, first, second)
        first.put((ours, plait.share([1, 2]), plait.shared_array(3, "i8")))
        gc.collect()  # nobody but the message has them
        back, handle, array = second.get(timeout=LATE)
        back.put(1)
        assert ours.get(timeout=LATE) == 1
        assert handle.get() == [1, 2]
        assert array.shape == (3,)
        first.shutdown()
        echoed.result()


def test_a_copy_is_the_same_channel_and_a_pickle_finds_it() -> None:
    ours = channel()
    assert copy.copy(ours) is ours
    assert copy.deepcopy(ours) is ours
    again = pickle.loads(pickle.dumps(ours))
    again.put(1)
    assert ours.get() == 1
    data = pickle.dumps(ours)
    del ours, again
    gc.collect()
    with pytest.raises(plait.OwnerDied):
        pickle.loads(data)


def test_a_forked_child_has_it_and_a_seat_of_its_own() -> None:
    ours, back = channel(), channel()
    ours.put("before")
    child = os.fork()
    if child == 0:
        try:
            back.put((ours.get(), ours.statistics()["processes"]))
            os._exit(0)
        finally:
            os._exit(1)
    assert back.get(timeout=LATE) == ("before", 2)
    assert os.waitpid(child, 0)[1] == 0
    assert ours.statistics()["processes"] == 1


def test_ctrl_c_ends_a_wait() -> None:
    ours = channel()

    def interrupt() -> None:
        while not ours.statistics()["waiting_get"]:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(5):
        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            ours.get(timeout=LATE)
        other.join()
    assert ours.statistics()["waiting_get"] == 0


def test_a_signal_that_another_thread_handles_ends_a_wait() -> None:
    ours = channel()

    def interrupt() -> None:
        while not ours.statistics()["waiting_get"]:
            time.sleep(0.001)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        ours.get(timeout=LATE)
    other.join()


def test_a_message_of_any_size_goes_through_and_small_ones_after_it() -> None:
    ours = channel(4)
    for size in (247, 248, 249, 1024, 65_536, 5 << 20, 40 << 20):
        ours.put(b"x" * size)
        assert len(ours.get()) == size
    ours.put(1)
    assert ours.get() == 1


def test_no_thread_or_memory_is_left_when_it_goes() -> None:
    ours = channel()
    with pytest.raises(queue.Empty):
        ours.get(timeout=0.01)

    async def main(ours: Any) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ours.aget(), 0.01)

    asyncio.run(main(ours))
    del ours

    def threads() -> list[str]:
        names = []
        for number in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{number}/comm") as file:
                    names.append(file.read().strip())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
        return [name for name in names if name in {"plait-peers", "plait-bell"}]

    deadline = time.monotonic() + LATE
    while threads() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert not threads()
