"""Processes that die while they use shared channels and locks: nobody is blocked, and nothing is counted twice."""

from __future__ import annotations

import collections
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
KILLS = 150


def start(target: Any, *arguments: Any) -> int:
    """A bare forked child, which ends by itself when the channel that it uses is shut down."""
    child = os.fork()
    if child == 0:
        try:
            target(*arguments)
        except plait.ChannelShutDown:
            pass
        finally:
            os._exit(0)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def values(file: int) -> list[int]:
    data = os.pread(file, os.fstat(file).st_size // 8 * 8, 0)
    return [value for (value,) in struct.iter_unpack("<Q", data)]


@pytest.mark.parametrize("capacity", [1, 16])
def test_every_message_arrives_once_or_is_lost_with_a_process(tmp_path: Path, capacity: int) -> None:
    chance = random.Random(capacity)
    channel = plait.Channel[Any](capacity, shared=True)
    files = [os.open(tmp_path / name, os.O_CREAT | os.O_APPEND | os.O_RDWR) for name in ("begun", "sent", "got")]
    begun, sent, got = files
    names = iter(range(10**6))

    def another(kind: Any) -> int:
        first = begun if kind is programs.produce else got
        return start(kind, channel, first, sent, next(names))

    kinds = (programs.produce, programs.produce, programs.consume, programs.consume, programs.consume)
    running = {another(kind): kind for kind in kinds}
    kills: collections.Counter[Any] = collections.Counter()
    for _ in range(KILLS):
        time.sleep(chance.uniform(0, 0.01))
        child = chance.choice(list(running))
        kind = running.pop(child)
        kill(child)
        kills[kind] += 1
        running[another(kind)] = kind
    for child in [child for child, kind in running.items() if kind is programs.produce]:
        kill(child)
        del running[child]
    channel.shutdown()
    for child in running:
        os.waitpid(child, 0)  # nobody waits for ever

    arrived = values(got)
    figures = channel.statistics()
    assert len(set(arrived)) == len(arrived), "a message came twice"
    assert set(arrived) <= set(values(begun))
    # What was taken and never noted died between the two, one at a time.
    unaccounted = figures["put"] - len(arrived) - figures["lost"]
    assert 0 <= unaccounted <= kills[programs.consume]
    assert len(set(values(sent)) - set(arrived)) <= figures["lost"] + unaccounted
    assert figures["size"] == figures["block_bytes"] == figures["unfinished"] == 0
    assert figures["waiting_get"] == figures["waiting_put"] == 0
    for file in files:
        os.close(file)


def test_a_message_is_not_kept_from_others_by_a_waiter_that_died() -> None:
    channel, ready = plait.Channel[int](4, shared=True), plait.Channel[int](4, shared=True)

    def wait() -> None:
        ready.put(1)
        channel.get()

    children = [start(wait) for _ in range(3)]
    for _ in children:
        ready.get(timeout=LATE)
    while channel.statistics()["waiting_get"] < 3:
        time.sleep(0.001)
    for child in children:
        os.kill(child, signal.SIGSTOP)  # so that they are woken and cannot take it
    taken: list[int] = []
    taker = threading.Thread(target=lambda: taken.append(channel.get()))
    taker.start()
    while channel.statistics()["waiting_get"] < 4:
        time.sleep(0.001)
    channel.put(7)
    for child in children:
        kill(child)
    taker.join()
    assert taken == [7]
    assert channel.statistics()["lost"] == 0


def test_a_putter_that_died_leaves_its_room_to_others() -> None:
    channel, ready = plait.Channel[int](1, shared=True), plait.Channel[int](4, shared=True)
    channel.put(0)

    def wait() -> None:
        ready.put(1)
        channel.put(1)

    child = start(wait)
    ready.get(timeout=LATE)
    while not channel.statistics()["waiting_put"]:
        time.sleep(0.001)
    os.kill(child, signal.SIGSTOP)
    putter = threading.Thread(target=channel.put, args=(2,))
    putter.start()
    while channel.statistics()["waiting_put"] < 2:
        time.sleep(0.001)
    assert channel.get() == 0
    kill(child)
    putter.join()
    assert channel.get() == 2


def test_join_does_not_wait_for_a_process_that_died() -> None:
    channel, ready = plait.Channel[int](4, shared=True), plait.Channel[int](4, shared=True)

    def take() -> None:
        ready.put(channel.get())
        channel.get()

    channel.put(1)
    child = start(take)
    assert ready.get(timeout=LATE) == 1
    joiner = threading.Thread(target=channel.join)
    joiner.start()
    while not channel.statistics()["waiting_join"]:
        time.sleep(0.001)
    kill(child)
    joiner.join()
    assert channel.unfinished_tasks == 0


@pytest.mark.parametrize("kind", [plait.Lock, plait.RLock])
@pytest.mark.parametrize("asleep", [False, True])
def test_the_next_taker_is_told_of_the_owner_that_died(kind: Any, asleep: bool) -> None:
    lock, ready = kind(shared=True), plait.Channel[int](1, shared=True)
    child = start(programs.hold, lock, ready)
    assert ready.get(timeout=LATE) == child
    if asleep:
        timer = threading.Timer(0.05, kill, (child,))
        timer.start()
    else:
        kill(child)
    with pytest.raises(plait.OwnerDied, match=f"process {child} died"):
        lock.acquire()
    if asleep:
        timer.join()
    with pytest.raises(plait.OwnerDied), lock:
        pass
    assert f"process {child}" in repr(lock)
    assert lock.recover() is True
    assert lock.locked()
    lock.release()
    with lock:
        assert lock.statistics()["owners_died"] == 1


def test_a_taker_that_does_not_wait_is_told_too() -> None:
    lock, ready = plait.Lock(shared=True), plait.Channel[int](1, shared=True)
    child = start(programs.hold, lock, ready)
    ready.get(timeout=LATE)
    assert lock.acquire(blocking=False) is False
    kill(child)
    deadline = time.monotonic() + LATE
    with pytest.raises(plait.OwnerDied):
        while time.monotonic() < deadline:
            assert not lock.acquire(blocking=False)
            time.sleep(0.005)


def test_all_who_wait_are_told_until_one_recovers() -> None:
    lock, ready = plait.Lock(shared=True), plait.Channel[int](1, shared=True)
    child = start(programs.hold, lock, ready)
    ready.get(timeout=LATE)
    recovered = []

    def take() -> None:
        try:
            lock.acquire()
        except plait.OwnerDied:
            recovered.append(lock.recover())
        lock.release()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    while lock.statistics()["waiting"] < 4:
        time.sleep(0.001)
    kill(child)
    for thread in threads:
        thread.join()
    assert recovered.count(True) == 1
    assert not lock.locked()


def test_locks_under_random_kills() -> None:
    """Whoever finds a dead owner puts right what it left, and the count stays whole."""
    chance = random.Random(1)
    lock = plait.Lock(shared=True)
    state = plait.shared_array(2, "i8")  # equal whenever nobody has the lock
    rounds = plait.shared_array(1, "i8")

    def work() -> None:
        while True:
            try:
                lock.acquire()
            except plait.OwnerDied:
                if lock.recover():
                    state[1] = state[0]
            assert state[0] == state[1]
            state[0] += 1
            state[1] += 1
            rounds[0] += 1
            lock.release()

    children = [start(work) for _ in range(4)]
    for _ in range(KILLS):
        time.sleep(chance.uniform(0, 0.005))
        index = chance.randrange(len(children))
        before = int(rounds[0])
        kill(children[index])
        deadline = time.monotonic() + LATE
        while rounds[0] == before and time.monotonic() < deadline:
            time.sleep(0.0005)
        assert rounds[0] != before, "nobody goes on"
        children[index] = start(work)
    for child in children:
        kill(child)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", [plait.Lock, plait.RLock])
def test_a_lock_travels_and_excludes(method: str, kind: Any) -> None:
    lock, total = kind(shared=True), plait.shared_array(1, "i8")
    context: Any = multiprocessing.get_context(method)
    children = [context.Process(target=programs.count_up, args=(lock, total, 2000)) for _ in range(2)]
    for child in children:
        child.start()
    programs.count_up(lock, total, 2000)
    for child in children:
        child.join()
    assert total[0] == 6000


def test_the_end_of_who_took_messages_calls_done_nothing_that_is_in_the_channel() -> None:
    channel, taken = plait.Channel[int](16, shared=True), plait.Channel[int](16, shared=True)
    answers: Any = plait.Channel[int](1, shared=True)

    def take(count: int, finished: int) -> None:
        for _ in range(count):
            taken.put(channel.get())
        for _ in range(finished):
            channel.task_done()
        answers.put(0)
        plait.Channel[int](1, shared=True).get()

    def taker(count: int, finished: int = 0) -> int:
        for number in range(count):
            channel.put(number)
        child = start(take, count, finished)
        answers.get(timeout=LATE)
        return child

    def after_its_death(child: int) -> int:
        kill(child)
        return channel.statistics()["unfinished"]

    helped = taker(4)
    for _ in range(4):
        channel.task_done()
    channel.put(7)
    assert after_its_death(helped) == 1  # what is in the channel is not done
    assert channel.get() == 7
    dead, living = taker(3, 1), taker(2)
    assert after_its_death(dead) == 3
    channel.task_done()
    assert after_its_death(living) == 0
    channel.join()


def take_and_stay(channel: Any, told: Any, orders: Any) -> None:
    """Take messages and call them done, as ordered."""
    for order in orders:
        if order == "take":
            told.put(channel.get())
        else:
            channel.task_done()
            told.put(order)


class Taker:
    """A child with a message in hand."""

    def __init__(self, channel: Any) -> None:
        self.told, self.orders = plait.Channel[Any](1, shared=True), plait.Channel[str](4, shared=True)
        self.child = start(take_and_stay, channel, self.told, self.orders)
        self.order("take")

    def order(self, order: str) -> None:
        self.orders.put(order)
        self.told.get(timeout=LATE)

    def end(self) -> None:
        self.orders.shutdown()
        os.waitpid(self.child, 0)


def test_a_call_for_one_that_dies_is_not_taken_for_what_another_has_in_hand() -> None:
    channel = plait.Channel[int](4, shared=True)
    channel.put_many([1, 2])
    dying, living = Taker(channel), Taker(channel)
    channel.task_done()  # what the first has
    kill(dying.child)
    assert channel.statistics()["unfinished"] == 1
    joiner = threading.Thread(target=channel.join)
    joiner.start()
    while not channel.statistics()["waiting_join"]:
        time.sleep(0.001)
    living.order("done")
    joiner.join(LATE)
    assert not joiner.is_alive()
    living.end()


def test_a_call_for_one_that_waits_for_more_leaves_a_dying_one_what_it_has() -> None:
    channel = plait.Channel[int](4, shared=True)
    channel.put_many([1, 2])
    dying, living = Taker(channel), Taker(channel)
    living.orders.put("take")
    while not channel.statistics()["waiting_get"]:
        time.sleep(0.001)
    channel.task_done()  # what the second has: it asks for more
    assert channel.statistics()["unfinished"] == 1
    kill(dying.child)
    channel.join()
    channel.put(3)
    living.told.get(timeout=LATE)
    living.order("done")
    channel.join()
    living.end()


def test_what_a_process_has_in_hand_when_it_lets_go_of_the_channel_is_its_own() -> None:
    orders, told = plait.Channel[Any](4, shared=True), plait.Channel[Any](4, shared=True)
    child = start(programs.call_and_forget, orders, told)
    channel = plait.Channel[int](4, shared=True)

    def order(method: str) -> None:
        orders.put((channel, method))
        assert told.get(timeout=LATE) == method

    channel.put_many([1, 2, 3])
    order("get")
    order("get")
    assert channel.get() == 3
    order("task_done")
    assert channel.unfinished_tasks == 2
    kill(child)
    assert channel.statistics()["unfinished"] == 1
    channel.task_done()
    channel.join()


def test_join_ends_where_another_calls_done_what_takers_have_that_are_killed() -> None:
    chance = random.Random(5)
    channel, reports = plait.Channel[int](8, shared=True), plait.Channel[Any](8, shared=True)

    def take() -> None:
        for number in channel:
            reports.put(number)

    def put() -> None:
        try:
            for number in range(10**9):
                channel.put(number)
        except plait.ChannelShutDown:
            pass

    def call_done() -> None:
        for _ in reports:
            try:
                channel.task_done()
            except ValueError:  # its taker died, and it was called done for that
                pass

    children = [start(take) for _ in range(3)]
    threads = [threading.Thread(target=put), threading.Thread(target=call_done)]
    for thread in threads:
        thread.start()
    for _ in range(KILLS // 2):
        time.sleep(chance.uniform(0, 0.01))
        kill(children.pop(chance.randrange(len(children))))
        children.append(start(take))
    channel.shutdown()
    threads[0].join()
    kill(children.pop())
    for child in children:
        os.waitpid(child, 0)
    channel.join()
    reports.shutdown()
    threads[1].join()
    assert channel.statistics()["unfinished"] == 0


def test_the_end_of_who_was_told_of_an_event_tells_nobody_who_came_since() -> None:
    event: Any = plait.Event(shared=True)
    child = start(event.wait)
    while event.statistics()["waiting"] < 1:
        time.sleep(0.001)
    os.kill(child, signal.SIGSTOP)
    event.set()
    event.clear()
    told: list[bool] = []
    later = threading.Thread(target=lambda: told.append(event.wait(timeout=0.5)))
    later.start()
    while event.statistics()["waiting"] < 1:
        time.sleep(0.001)
    kill(child)
    later.join()
    assert told == [False]
    assert not event.is_set()


def test_who_only_gives_back_is_seen_to_die_too() -> None:
    lock: Any = plait.Lock(shared=True)
    semaphore, ready = plait.Semaphore(0, shared=True), plait.Channel[int](2, shared=True)
    lock.acquire()

    def give() -> None:
        lock.release()
        semaphore.release()
        ready.put(0)
        plait.Channel[int](1, shared=True).get()

    child = start(give)
    ready.get(timeout=LATE)
    assert lock.statistics()["processes"] == 2
    kill(child)
    assert lock.statistics()["processes"] == 1
    assert semaphore.acquire(timeout=LATE)
