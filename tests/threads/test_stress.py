"""Pools under random loads: every task is accounted for once, whatever is cancelled, times out, or is shut down meanwhile."""

from __future__ import annotations

import concurrent.futures
import itertools
import random
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

import plait

WATCHDOG = 60.0


class Account:
    """How often each task ran."""

    def __init__(self):
        self.runs: Counter = Counter()
        self.lock = threading.Lock()

    def run(self, number, seconds):
        with self.lock:
            self.runs[number] += 1
        if seconds:
            time.sleep(seconds)
        if number % 7 == 0:
            raise KeyError(number)
        return number


def bring(pool, account, numbers, seed, futures):
    """One thread's part: submit, cancel, wait, in a random order."""
    chance = random.Random(seed)
    views = [pool, pool.options(priority=1), pool.options(timeout=0.02), pool.options(timeout=30, priority=-1)]
    mine = []
    for number in numbers:
        seconds = chance.choice([0, 0, 0, 0, 0.001, 0.03]) if chance.random() < 0.1 else 0
        try:
            future = chance.choice(views).submit(account.run, number, seconds)
        except RuntimeError:
            return  # shut down meanwhile
        mine.append((number, future))
        futures.append((number, future))
        if chance.random() < 0.2:
            chance.choice(mine)[1].cancel()
        if chance.random() < 0.05:
            concurrent.futures.wait([future for _, future in mine[-5:]], WATCHDOG)
        if chance.random() < 0.05:
            concurrent.futures.wait([future for _, future in mine[-5:]], 0.001)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ends", [False, True])
def test_everything_is_accounted_for(seed, ends):
    account = Account()
    pool = plait.ThreadPool(3)
    futures: list = []
    called: Counter = Counter()
    bringers = [
        threading.Thread(target=bring, args=(pool, account, range(part, 3000, 3), seed * 10 + part, futures))
        for part in range(3)
    ]
    for bringer in bringers:
        bringer.start()
    if ends:
        while len(futures) < 500:
            time.sleep(0.001)
        pool.shutdown(wait=False, cancel_futures=True)
    for bringer in bringers:
        bringer.join(WATCHDOG)
        assert not bringer.is_alive()
    for number, future in futures:
        future.add_done_callback(lambda _, number=number: called.update([number]))
    pool.shutdown()
    for number, future in futures:
        assert future.done()
        if future.cancelled():
            assert account.runs[number] == 0
            continue
        assert account.runs[number] == 1
        error = future.exception(0)
        if not isinstance(error, plait.TaskTimeout):
            assert (type(error) is KeyError) == (number % 7 == 0)
            assert error is not None or future.result(0) == number
    assert called == Counter(number for number, _ in futures)
    assert pool.statistics()["queued"] == 0


@given(
    items=st.lists(st.integers(), max_size=60),
    others=st.one_of(st.none(), st.lists(st.integers(), max_size=60)),
    sized=st.booleans(),
    buffersize=st.one_of(st.none(), st.integers(1, 20)),
    ordered=st.booleans(),
    taken=st.one_of(st.none(), st.integers(0, 60)),
)
@settings(max_examples=150, deadline=None)
def test_map_is_the_builtin_map(items, others, sized, buffersize, ordered, taken):
    pool = shared_pool()

    def function(*args):
        return args

    inputs = [items] if others is None else [items, others]
    expected = list(map(function, *inputs))
    results = pool.map(
        function, *(each if sized else iter(each) for each in inputs), buffersize=buffersize, ordered=ordered
    )
    if taken is None:
        found = list(results)
        assert found == expected if ordered else Counter(found) == Counter(expected)
    else:
        found = list(itertools.islice(results, taken))
        assert found == expected[:taken] if ordered else not Counter(found) - Counter(expected)
        del results
    assert pool.submit(len, "abc").result(WATCHDOG) == 3


_pools: list[plait.ThreadPool] = []


def shared_pool() -> plait.ThreadPool:
    if not _pools:
        _pools.append(plait.ThreadPool(2))
    return _pools[0]
