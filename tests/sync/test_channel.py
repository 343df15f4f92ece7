"""What a channel does beyond the two queues of the standard library; those are in tests/contract."""

from __future__ import annotations

import copy
import gc
import pickle
import signal
import sys
import threading
import time
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


def poll(condition):
    deadline = time.monotonic() + WATCHDOG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# ---- making one ------------------------------------------------------------------------------------------------------


def test_a_channel_is_a_channel():
    assert isinstance(plait.Channel(), plait.Channel)
    assert isinstance(plait.Channel[int](3), plait.Channel)
    assert plait.Channel(capacity=3).maxsize == 3


@pytest.mark.parametrize("capacity", [True, 1.0, "1", None])
def test_a_capacity_of_another_type(capacity):
    with pytest.raises(TypeError, match=f"capacity must be an integer, not {capacity!r}"):
        plait.Channel(capacity)


def test_a_negative_capacity():
    with pytest.raises(ValueError, match=r"capacity must be 0 .* not -1"):
        plait.Channel(-1)


def test_other_arguments():
    with pytest.raises(TypeError):
        plait.Channel(1, 2)
    with pytest.raises(TypeError):
        plait.Channel(maxsize=1)


def test_it_cannot_be_subclassed():
    class Mine(plait.Channel):
        pass

    with pytest.raises(TypeError, match=r"Mine: plait\.Channel cannot be subclassed"):
        Mine()


def test_it_stays_where_it_is():
    for move in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            move(plait.Channel())


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_repr_and_statistics():
    channel = plait.Channel(2)
    assert repr(channel).endswith(": 0 of 2 items>")
    getter = started(channel.get)
    poll(lambda: channel.statistics()["waiting_get"] == 1)
    assert "1 waiting to get" in repr(channel)
    channel.put(1)
    ended(getter)
    channel.put_many([1, 2])
    putter = started(channel.put, 3)
    poll(lambda: channel.statistics()["waiting_put"] == 1)
    assert repr(channel).endswith(": 2 of 2 items, 1 waiting to put>")
    channel.get()
    ended(putter)
    assert channel.statistics() == {
        "capacity": 2, "size": 2, "most": 2, "put": 4, "got": 2, "unfinished": 4, "waits": 2,
        "waiting_get": 0, "waiting_put": 0, "waiting_join": 0,
    }  # fmt: skip
    assert not channel.is_shutdown
    channel.shutdown()
    assert channel.is_shutdown
    assert repr(channel).endswith(": 2 of 2 items, shut down>")
    assert repr(plait.Channel()).endswith(": 0 items>")


# ---- several at once -------------------------------------------------------------------------------------------------


def test_get_many_takes_what_is_there():
    channel = plait.Channel()
    channel.put_many(range(5))
    assert channel.get_many(3) == [0, 1, 2]
    assert channel.get_many(10**30) == [3, 4]
    with pytest.raises(plait.ChannelEmpty):
        channel.get_many(1, block=False)
    with pytest.raises(plait.ChannelEmpty):
        channel.get_many(1, timeout=0.01)
    channel.shutdown()
    with pytest.raises(plait.ChannelShutDown):
        channel.get_many(1)


def test_get_many_waits_for_the_first():
    channel = plait.Channel()
    found: list[list[int]] = []
    getter = started(lambda: found.append(channel.get_many(5)))
    poll(lambda: channel.statistics()["waiting_get"] == 1)
    channel.put(1)
    ended(getter)
    assert found == [[1]]


@pytest.mark.parametrize(("most", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_get_many_of_how_many(most, error):
    with pytest.raises(error, match=f"most must be .*{most}"):
        plait.Channel().get_many(most)


def test_put_many_without_waiting_is_all_or_none():
    channel = plait.Channel(3)
    channel.put(0)
    with pytest.raises(plait.ChannelFull) as caught:
        channel.put_many([1, 2, 3], block=False)
    assert (caught.value.put, channel.qsize()) == (0, 1)
    channel.put_many([1, 2], block=False)
    assert channel.get_many(3) == [0, 1, 2]
    channel.put_many([])


def test_put_many_says_how_far_it_came():
    channel = plait.Channel(3)
    with pytest.raises(plait.ChannelFull) as caught:
        channel.put_many(iter(range(5)), timeout=0.01)
    assert caught.value.put == 3
    putter_ends: list[Any] = []

    def put():
        try:
            channel.put_many("abcd")
        except plait.ChannelShutDown as error:
            putter_ends.append(error)

    putter = started(put)
    poll(lambda: channel.statistics()["waiting_put"] == 1)
    assert channel.get_many(2) == [0, 1]
    poll(lambda: channel.qsize() == 3)
    channel.shutdown()
    ended(putter)
    assert [error.put for error in putter_ends] == [2]
    assert list(channel) == [2, "a", "b"]


def test_put_many_wakes_all_that_can_go_on():
    channel = plait.Channel()
    found: list[int] = []
    getters = [started(lambda: found.append(channel.get())) for _ in range(3)]
    poll(lambda: channel.statistics()["waiting_get"] == 3)
    channel.put_many(range(3))
    ended(*getters)
    assert sorted(found) == [0, 1, 2]


def test_put_many_of_what_cannot_be_read():
    channel = plait.Channel()
    with pytest.raises(TypeError):
        channel.put_many(5)
    with pytest.raises(ZeroDivisionError):
        channel.put_many(1 // number for number in (1, 0))
    assert channel.empty()


# ---- loops over it ---------------------------------------------------------------------------------------------------


def test_iteration_ends_with_the_shutdown():
    channel = plait.Channel(2)
    found: list[int] = []
    reader = started(lambda: found.extend(channel))
    for number in range(10):
        channel.put(number)
    channel.shutdown()
    ended(reader)
    assert found == list(range(10))
    assert list(channel) == []


# ---- select ----------------------------------------------------------------------------------------------------------


def test_select_takes_from_the_one_that_has():
    first, second = plait.Channel(), plait.Channel()
    second.put(1)
    channel, message = plait.select(first, second)
    assert channel is second
    assert message == 1


def test_select_waits():
    first, second = plait.Channel(), plait.Channel()
    found = []
    selecting = started(lambda: found.append(plait.select(first, second)))
    poll(lambda: first.statistics()["waiting_get"] == second.statistics()["waiting_get"] == 1)
    second.put("x")
    ended(selecting)
    assert found == [(second, "x")]
    assert first.statistics()["waiting_get"] == second.statistics()["waiting_get"] == 0


def test_select_is_fair():
    channels = [plait.Channel() for _ in range(3)]
    for channel in channels:
        channel.put_many(range(300))
    taken = [channels.index(plait.select(*channels)[0]) for _ in range(300)]
    assert min(taken.count(number) for number in range(3)) >= 90


def test_select_in_vain():
    first, second = plait.Channel(), plait.Channel()
    with pytest.raises(plait.ChannelEmpty, match="none of the channels"):
        plait.select(first, second, timeout=0.01)
    assert first.statistics()["waiting_get"] == second.statistics()["waiting_get"] == 0
    with pytest.raises(ValueError, match="at least one channel"):
        plait.select()
    with pytest.raises(TypeError, match="select takes channels, not 5"):
        plait.select(first, 5)
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        plait.select(first, timeout=-1)


def test_select_passes_over_channels_that_are_shut_down():
    first, second = plait.Channel(), plait.Channel()
    first.shutdown()
    found = []
    selecting = started(lambda: found.append(plait.select(first, second)))
    poll(lambda: second.statistics()["waiting_get"] == 1)
    second.put(1)
    ended(selecting)
    assert found == [(second, 1)]

    def select():
        with pytest.raises(plait.ChannelShutDown):
            plait.select(first, second)
        found.append("over")

    selecting = started(select)
    poll(lambda: second.statistics()["waiting_get"] == 1)
    second.shutdown()
    ended(selecting)
    assert found[-1] == "over"


def test_select_passes_on_the_wake_up_that_it_does_not_use():
    """Both channels get a message; the one that `select` leaves goes to who waits for that channel alone."""
    for _ in range(300):
        first, second = plait.Channel(), plait.Channel()
        found = []
        selecting = started(lambda: found.append(plait.select(first, second)))
        getting = started(first.get)
        first.put(1)
        second.put(2)
        ended(selecting)
        if found[0][0] is first:
            first.put(3)
        ended(getting)


def test_select_with_the_same_channel_twice():
    channel = plait.Channel()
    found = []
    selecting = started(lambda: found.append(plait.select(channel, channel)))
    poll(lambda: channel.statistics()["waiting_get"] == 2)
    channel.put(1)
    ended(selecting)
    assert found == [(channel, 1)]
    channel.put(2)
    assert channel.get(timeout=0) == 2


# ---- memory ----------------------------------------------------------------------------------------------------------


class Thing:
    channel: Any


def test_a_channel_in_a_cycle_is_collected():
    channel, thing = plait.Channel(), Thing()
    thing.channel = channel
    channel.put(thing)
    gone = weakref.ref(thing), weakref.ref(channel)
    del channel, thing
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_messages_are_not_kept():
    channel = plait.Channel()
    thing = Thing()
    gone = weakref.ref(thing)
    channel.put(thing)
    del thing
    assert gone() is not None
    channel.get()
    assert gone() is None
    thing = Thing()
    gone = weakref.ref(thing)
    channel.put(thing)
    del thing
    channel.shutdown(immediate=True)
    assert gone() is None


def test_reference_counts_stay_right():
    channel = plait.Channel(1)
    thing = Thing()
    before = sys.getrefcount(thing)
    for _ in range(100):
        channel.put(thing)
        with pytest.raises(plait.ChannelFull):
            channel.put_nowait(thing)
        with pytest.raises(plait.ChannelFull):
            channel.put(thing, timeout=0)
        assert channel.get() is thing
        channel.put_many([thing])
        channel.get_many(1)
    with pytest.raises(plait.ChannelEmpty):
        channel.get_nowait()
    assert sys.getrefcount(thing) == before


def test_the_end_of_a_message_may_use_the_channel():
    channel = plait.Channel()
    seen = []

    class Last:
        def __del__(self):
            seen.append(channel.qsize())
            channel.shutdown()

    channel.put(Last())
    channel.put(Last())
    channel.shutdown(immediate=True)
    assert seen == [0, 0]


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other_thread", [False, True], ids=["main", "another"])
def test_a_signal_ends_a_wait_of_the_main_thread(other_thread):
    """Whichever thread the kernel gives the signal to."""

    class Rung(Exception):
        pass

    def handler(number, frame):
        raise Rung

    channel = plait.Channel()
    before = signal.signal(signal.SIGUSR1, handler)
    try:

        def ring():
            poll(lambda: channel.statistics()["waiting_get"] == 1)
            time.sleep(0.05)
            target = threading.current_thread() if other_thread else threading.main_thread()
            signal.pthread_kill(target.ident or 0, signal.SIGUSR1)

        ringing = started(ring)
        with pytest.raises(Rung):
            channel.get()
        ended(ringing)
        assert channel.statistics()["waiting_get"] == 0
        channel.put(1)
        assert channel.get() == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_may_use_the_channel_that_is_waited_for():
    channel = plait.Channel()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: channel.put("from the handler"))
    try:

        def ring():
            poll(lambda: channel.statistics()["waiting_get"] == 1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        ringing = started(ring)
        assert channel.get() == "from the handler"
        ended(ringing)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_main_thread_is_woken_after_a_long_wait():
    channel = plait.Channel()

    def put():
        time.sleep(0.1)
        channel.put(1)

    putting = started(put)
    assert channel.get() == 1
    ended(putting)


# ---- nobody is passed over -------------------------------------------------------------------------------------------


def test_who_waits_is_not_starved_by_who_is_faster():
    """One thread puts and takes again at once; the one that waits gets its message all the same."""
    channel = plait.Channel()
    over = threading.Event()

    def churn():
        while not over.is_set():
            channel.put("x")
            channel.get()

    churning = started(churn)
    for _ in range(3):
        assert channel.get(timeout=WATCHDOG) == "x"
        channel.put("x")
    over.set()
    ended(churning)
