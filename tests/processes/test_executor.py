"""The pool as an executor: the interface of the standard library, and what `map` adds to it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import decimal
import enum
import functools
import gc
import itertools
import json
import math
import multiprocessing
import operator
import os
import random
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures.process import BrokenProcessPool

import pytest

import plait
from tests.processes import _tasks
from tests.processes._support import (
    WATCHDOG,
    alive,
    check_usable,
    descendants,
    gone,
    message_of,
    voluntary_switches,
    wait_until,
)
from tests.processes._tasks import Tally


def fill(pool, gate, tally, workers=2):
    """Occupy every worker until the gate opens."""
    futures = [pool.submit(_tasks.note_at_gate, tally, gate) for _ in range(workers)]
    tally.wait(workers)
    return futures


# ---- submit --------------------------------------------------------------------------------------


def test_is_an_executor(pool):
    assert isinstance(pool, concurrent.futures.Executor)
    assert isinstance(pool, plait.ProcessPool)


def test_submit_answers_with_a_future(pool):
    future = pool.submit(_tasks.add, 1, b=2)
    assert isinstance(future, concurrent.futures.Future)
    assert isinstance(future, plait.Future)
    assert future.result(WATCHDOG) == 3


def test_submit_passes_everything_on(pool):
    future = pool.submit(_tasks.collect, 1, "two", None, self=3, fn=4, args=5, kwargs=6, timeout=7, chunksize=8)
    assert future.result(WATCHDOG) == (
        (1, "two", None),
        {"self": 3, "fn": 4, "args": 5, "kwargs": 6, "timeout": 7, "chunksize": 8},
    )


def test_submit_wants_its_function_by_position(pool):
    with pytest.raises(TypeError):
        pool.submit(fn=_tasks.echo)
    with pytest.raises(TypeError):
        pool.submit()


@pytest.mark.parametrize(
    ("function", "args", "result"),
    [
        (abs, (-1,), 1),
        (math.hypot, (3, 4), 5.0),
        (str.upper, ("a",), "A"),
        ("a-b".replace, ("-", "+"), "a+b"),
        (decimal.Decimal, ("1.5",), decimal.Decimal("1.5")),
        (_tasks.Adder(3).plus, (4,), 7),
        (_tasks.Adder(3), (4,), 7),
        (_tasks.Adder.made, (5,), 5),
        (_tasks.Adder.twice, (5,), 10),
        (functools.partial(_tasks.add, 1), (2,), 3),
        (operator.itemgetter(1), ("xyz",), "y"),
        (_tasks.Adder, (1,), _tasks.Adder),
    ],
    ids=str,
)
def test_all_kinds_of_callables(pool, function, args, result):
    value = pool.submit(function, *args).result(WATCHDOG)
    assert value == result or type(value) is result


def test_not_callable(pool):
    try:
        error = pool.submit("not callable").exception(WATCHDOG)
    except TypeError as refusal:
        error = refusal
    assert isinstance(error, TypeError)
    check_usable(pool)


VALUES = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64,
    10**400,
    0.0,
    1e308,
    float("inf"),
    1j,
    "",
    "ä€😀",
    "\ud800",
    "a\0b",
    b"",
    b"\x00\xff" * 100,
    bytearray(b"abc"),
    (),
    (1, "two", 3.0, b"4", None, (5, (6,))),
    [1, [2, [3]]],
    {"a": 1, 2: "b", (3,): [4]},
    {1, 2, 3},
    frozenset("abc"),
    range(10),
    ...,
    int,
    _tasks.echo,
    decimal.Decimal("3.14"),
    tuple(range(1000)),
    "x" * 100_000,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_values_arrive_as_they_left(pool, value):
    answer = pool.submit(_tasks.echo, value).result(WATCHDOG)
    assert type(answer) is type(value)
    assert answer == value
    assert list(pool.map(_tasks.echo, [value] * 3)) == [value] * 3


class Text(str):
    __slots__ = ("extra",)


class Number(int):
    pass


def test_subclasses_of_plain_values_keep_their_type(pool):
    for value in (Text("a"), Number(5)):
        answer = pool.submit(_tasks.echo, value).result(WATCHDOG)
        assert type(answer) is type(value)
        assert answer == value


def test_nan_and_negative_zero(pool):
    assert math.isnan(pool.submit(_tasks.echo, math.nan).result(WATCHDOG))
    assert math.copysign(1, pool.submit(_tasks.echo, -0.0).result(WATCHDOG)) == -1


def test_shared_and_recursive_structure_survives(pool):
    inner = [1]
    a, b = pool.submit(_tasks.echo, (inner, inner)).result(WATCHDOG)
    assert a is b
    loop: list = []
    loop.append(loop)
    answer = pool.submit(_tasks.echo, loop).result(WATCHDOG)
    assert answer[0] is answer


@pytest.mark.parametrize("size", [1, 100, 400, 512, 513, 4096, 65_536, 1_000_000, 10_000_000])
def test_bytes_of_any_size_both_ways(pool, size):
    data = os.urandom(size)
    assert pool.submit(_tasks.echo, data).result(WATCHDOG) == data


def test_many_large_results_that_nobody_takes_yet(pool):
    futures = [pool.submit(_tasks.echo, bytes([i]) * 1_000_000) for i in range(100)]
    concurrent.futures.wait(futures, WATCHDOG)
    for i, future in enumerate(futures):
        assert future.result(WATCHDOG) == bytes([i]) * 1_000_000


def test_arguments_are_private_and_writable(pool):
    data = [1, 2]
    raw = bytearray(b"abc" * 100_000)
    assert pool.submit(_tasks.grow, data).result(WATCHDOG) == [1, 2, 2]
    assert data == [1, 2]
    answer = pool.submit(_tasks.echo, raw).result(WATCHDOG)
    answer[0] = 0
    assert raw[0] == ord("a")


def test_argument_is_what_it_was_at_the_call(one, gate, tally):
    fill(one, gate, tally, 1)
    data = [1]
    future = one.submit(_tasks.echo, data)
    data.append(2)
    gate.open()
    assert future.result(WATCHDOG) == [1]


def test_arrays(pool):
    np = pytest.importorskip("numpy")
    for array in (np.arange(10.0), np.zeros((1000, 1000)), np.arange(24).reshape(2, 3, 4)[:, ::2], np.array("text")):
        answer = pool.submit(_tasks.echo, array).result(WATCHDOG)
        assert answer.dtype == array.dtype
        assert (answer == array).all()
        assert answer.flags.writeable
    answer = pool.submit(_tasks.echo, np.zeros(100_000)).result(WATCHDOG)
    again = pool.submit(_tasks.echo, np.ones(100_000)).result(WATCHDOG)
    answer[:] = 7
    assert (again == 1).all(), "results do not share memory"


def test_read_only_arrays_stay_read_only(pool):
    np = pytest.importorskip("numpy")
    for size in (10, 1_000_000):
        array = np.arange(size)
        array.flags.writeable = False
        assert not pool.submit(_tasks.echo, array).result(WATCHDOG).flags.writeable
        assert pool.submit(operator.attrgetter("flags.writeable"), array).result(WATCHDOG) is False


def test_array_outlives_its_future_and_its_pool():
    np = pytest.importorskip("numpy")
    with plait.ProcessPool(1) as pool:
        arrays = [pool.submit(_tasks.echo, np.full(200_000, i)).result(WATCHDOG) for i in range(10)]
    del pool
    gc.collect()
    for i, array in enumerate(arrays):
        assert (array == i).all()


def test_fifty_thousand_futures(pool):
    futures = [pool.submit(_tasks.add, i, 1) for i in range(50_000)]
    assert sum(f.result(WATCHDOG) for f in futures) == sum(range(1, 50_001))


def test_submit_from_many_threads(pool):
    def submit(base):
        return [pool.submit(_tasks.add, base, i) for i in range(500)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        groups = list(threads.map(submit, range(8), timeout=WATCHDOG))
    for base, futures in enumerate(groups):
        assert [f.result(WATCHDOG) for f in futures] == [base + i for i in range(500)]


def test_first_in_first_out(one, tally):
    futures = [one.submit(_tasks.note, tally, i) for i in range(500)]
    concurrent.futures.wait(futures, WATCHDOG)
    assert tally.order() == [str(i) for i in range(500)]


def test_both_workers_work(pool, gate, tally):
    fill(pool, gate, tally)
    assert len(set(tally.pids())) == 2
    assert os.getpid() not in tally.pids()


def test_long_task_does_not_hold_up_short_ones(pool, gate, tally):
    # However many tasks go in one message: those behind a long one go to the other worker.
    for f in [pool.submit(_tasks.echo, i) for i in range(2000)]:
        f.result(WATCHDOG)
    long = pool.submit(_tasks.note_at_gate, tally, gate)
    short = [pool.submit(_tasks.echo, i) for i in range(2000)]
    assert [f.result(WATCHDOG) for f in short] == list(range(2000))
    assert not long.done()


# ---- errors of tasks -----------------------------------------------------------------------------


def test_exception_keeps_type_arguments_fields_and_notes(pool):
    error = pool.submit(_tasks.refuse_in_the_worker, "no", 7, ("first note", "second note")).exception(WATCHDOG)
    assert type(error) is _tasks.Refusal
    assert error.args == ("no", 7)
    assert error.code == 7
    assert error.__notes__ == ["first note", "second note"]


def test_exception_carries_the_remote_traceback(pool):
    for future in (pool.submit(_tasks.refuse_in_the_worker, "no"), pool.submit(int, "x")):
        error = future.exception(WATCHDOG)
        assert error.__cause__ is not None
        assert "Traceback" in str(error.__cause__)
    assert "refuse_in_the_worker" in str(pool.submit(_tasks.refuse_in_the_worker, "no").exception().__cause__)
    with pytest.raises(_tasks.Refusal) as caught:
        list(pool.map(_tasks.fail_at, [1], [1]))
    assert "fail_at" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError("k"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        StopIteration(5),
        concurrent.futures.CancelledError("mine"),
        asyncio.CancelledError("mine"),
        TimeoutError("mine"),
        BrokenProcessPool("mine"),
        SystemExit(3),
        KeyboardInterrupt("mine"),
        GeneratorExit(),
        BaseException("base"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_exceptions_of_every_kind_are_the_tasks_own(pool, error):
    future = pool.submit(_tasks.throw, error)
    answer = future.exception(WATCHDOG)
    assert type(answer) is type(error)
    assert answer.args == error.args
    assert str(answer) == str(error)
    assert not future.cancelled()
    with pytest.raises(type(error)):
        future.result(WATCHDOG)
    check_usable(pool)


def test_exception_group(pool):
    error = pool.submit(_tasks.raise_group).exception(WATCHDOG)
    assert type(error) is ExceptionGroup
    assert [type(e) for e in error.exceptions] == [ValueError, KeyError]


@pytest.mark.parametrize("code", [None, 0, 3, "message"])
def test_sys_exit_is_an_error_of_the_task_and_no_death(one, code):
    pid = one.submit(_tasks.pid).result(WATCHDOG)
    error = one.submit(_tasks.leave, code).exception(WATCHDOG)
    assert type(error) is SystemExit
    assert error.code == code
    assert one.submit(_tasks.pid).result(WATCHDOG) == pid


def test_endless_recursion_is_an_error(pool):
    assert isinstance(pool.submit(_tasks.recurse).exception(WATCHDOG), RecursionError)
    check_usable(pool)


def test_each_asker_sees_the_same_error(pool):
    future = pool.submit(_tasks.refuse_in_the_worker, "no")
    assert future.exception(WATCHDOG) is future.exception(WATCHDOG)
    with pytest.raises(_tasks.Refusal) as caught:
        future.result()
    assert caught.value is future.exception()


# ---- map -----------------------------------------------------------------------------------------


class Items:
    """A sized iterable that counts what was taken from it."""

    def __init__(self, values):
        self.values = list(values)
        self.taken = 0

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        for value in self.values:
            self.taken += 1
            yield value


class Stream:
    """An endless iterator that counts what was taken from it, and in which threads."""

    def __init__(self):
        self.taken = 0
        self.threads = set()

    def __iter__(self):
        return self

    def __next__(self):
        self.threads.add(threading.get_ident())
        self.taken += 1
        return self.taken - 1


def endless(bound=1_000_000):
    """Breaks off where a pool that takes everything would fill the memory."""
    yield from range(bound)
    raise AssertionError("taken without end")


def test_map_in_order(pool):
    assert list(pool.map(_tasks.echo, range(1000))) == list(range(1000))
    assert list(pool.map(_tasks.echo, "abc")) == ["a", "b", "c"]
    assert list(pool.map(_tasks.echo, {"k": 1})) == ["k"]


def test_map_takes_several_iterables_to_the_end_of_the_shortest(pool):
    assert list(pool.map(pow, [2, 3, 4], (5, 2), range(1, 100))) == [0, 1]
    assert list(pool.map(_tasks.add, [1, 2, 3], itertools.count(10))) == [11, 13, 15]
    assert list(pool.map(_tasks.add, itertools.count(10), [1, 2, 3])) == [11, 13, 15]
    assert list(pool.map(_tasks.add, (i for i in range(5)), [1, 2, 3])) == [1, 3, 5]
    assert list(pool.map(_tasks.add, [], itertools.count())) == []


def test_map_of_nothing(pool):
    assert list(pool.map(_tasks.echo, [])) == []
    assert list(pool.map(_tasks.echo, iter(()))) == []
    assert list(pool.map(_tasks.echo, range(0), chunksize=5)) == []


class Kind(enum.IntEnum):
    FIRST = 1


class Count(int):
    pass


NUMBERS = [0, -1, 255, 257, 2**55 - 1, 2**55, -(2**55), -(2**55) - 1, 2**63 - 1, 2**63, -(2**63), 2**70, -(2**70)]
NOT_QUITE_NUMBERS = [True, False, None, 1.0, Kind.FIRST, Count(5), "7", (), (8,), [9]]


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_map_gives_numbers_as_pickle_does(pool, chunksize):
    values = [*NUMBERS, *NOT_QUITE_NUMBERS, *NUMBERS, *range(300)]
    random.Random(7).shuffle(values)
    results = list(pool.map(_tasks.echo, values, chunksize=chunksize))
    assert [(type(result), result) for result in results] == [(type(value), value) for value in values]
    assert list(pool.map(type, values, chunksize=chunksize)) == [type(value) for value in values]


@pytest.mark.parametrize(
    "values",
    [
        range(0),
        range(1),
        range(10, 0, -3),
        range(2**55 - 2, 2**55 + 2),
        range(-(2**55) + 2, -(2**55) - 2, -1),
        range(2**63 - 2, 2**63 + 2),
        range(2**80, 2**80 + 3),
        range(-(2**70), 2**70, 2**69),
        range(5_000),
    ],
    ids=str,
)
def test_map_of_a_range(pool, values):
    assert list(pool.map(_tasks.echo, values)) == list(values)
    assert list(pool.map(_tasks.echo, values, buffersize=2)) == list(values)
    assert list(pool.map(pow, values, [1] * len(values))) == list(values)


def test_map_of_numbers_and_errors(pool):
    results = pool.map(functools.partial(_tasks.fail_at, 401), [*range(0, 400, 2), 401, 402])
    assert [next(results) for _ in range(200)] == list(range(0, 400, 2))
    with pytest.raises(_tasks.Refusal, match="401"):
        next(results)
    assert list(results) == []


def test_map_answers_with_an_iterator(pool):
    results = pool.map(_tasks.echo, [1, 2])
    assert iter(results) is results
    assert next(results) == 1
    assert next(results) == 2
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(results)


@pytest.mark.parametrize("chunksize", [None, 1, 2, 3, 7, 100, 1000])
@pytest.mark.parametrize("count", [1, 2, 99, 100, 101])
def test_map_chunks(pool, chunksize, count):
    assert list(pool.map(_tasks.add, range(count), range(count), chunksize=chunksize)) == [2 * i for i in range(count)]
    assert sorted(pool.map(_tasks.echo, iter(range(count)), chunksize=chunksize, ordered=False)) == list(range(count))


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_refuses_an_empty_chunk(pool, chunksize):
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(_tasks.echo, [1], chunksize=chunksize)


def test_map_refuses_a_chunksize_that_is_no_number(pool):
    with pytest.raises(TypeError):
        pool.map(_tasks.echo, [1], chunksize="1")


@pytest.mark.parametrize("buffersize", [0, -1])
def test_map_refuses_an_empty_buffer(pool, buffersize):
    with pytest.raises(ValueError, match="buffersize"):
        pool.map(_tasks.echo, [1], buffersize=buffersize)


@pytest.mark.parametrize("buffersize", ["1", 1.5, [1]])
def test_map_refuses_a_buffersize_that_is_no_integer(pool, buffersize):
    with pytest.raises(TypeError, match="buffersize"):
        pool.map(_tasks.echo, [1], buffersize=buffersize)


def test_map_wants_iterables_at_the_call(pool):
    with pytest.raises(TypeError):
        pool.map(_tasks.echo, 5)
    with pytest.raises(TypeError):
        pool.map(_tasks.echo, [1], unknown=1)


def test_map_submits_sized_inputs_at_the_call(pool, tally):
    items = Items(range(300))
    results = pool.map(functools.partial(_tasks.note, tally), items)
    assert items.taken == 300
    assert len(tally.wait(300)) == 300  # they run although nobody takes a result
    assert list(results) == list(range(300))


def test_map_pulls_unsized_inputs_as_results_are_taken(pool):
    stream = Stream()
    results = pool.map(_tasks.echo, stream)
    at_the_call = stream.taken
    time.sleep(0.3)
    assert stream.taken == at_the_call, "nobody but the one who takes results pulls"
    for i in range(3000):
        assert next(results) == i
    ahead = stream.taken - 3000
    assert 0 <= ahead < 100_000
    assert stream.threads == {threading.get_ident()}
    results.close()
    taken = stream.taken
    check_usable(pool)
    assert stream.taken == taken


def test_map_of_an_endless_generator(pool):
    assert list(itertools.islice(pool.map(_tasks.echo, endless()), 500)) == list(range(500))
    assert list(itertools.islice(pool.map(_tasks.add, endless(), endless()), 500)) == list(range(0, 1000, 2))
    assert len(set(itertools.islice(pool.map(_tasks.echo, endless(), ordered=False), 500))) == 500
    check_usable(pool)


@pytest.mark.parametrize("chunksize", [None, 1])
@pytest.mark.parametrize("buffersize", [1, 2, 10])
def test_map_keeps_to_its_buffer(pool, buffersize, chunksize):
    stream = Stream()
    results = pool.map(_tasks.echo, stream, buffersize=buffersize, chunksize=chunksize)
    assert stream.taken <= buffersize
    for i in range(50):
        assert next(results) == i
        # As in 3.14: one more is submitted before a result is handed over.
        assert stream.taken <= i + 1 + buffersize
    results.close()


@pytest.mark.parametrize("buffersize", [1, 10, 1000])
def test_map_with_a_buffer_takes_sized_inputs_lazily_too(pool, buffersize):
    items = Items(range(200))
    results = pool.map(_tasks.echo, items, buffersize=buffersize)
    assert items.taken <= buffersize
    assert list(results) == list(range(200))
    assert items.taken == 200


def test_map_pulls_a_generator_in_the_thread_that_takes(pool):
    threads = set()

    def generate():
        for i in range(100):
            threads.add(threading.get_ident())
            yield i

    assert list(pool.map(_tasks.echo, generate())) == list(range(100))
    assert threads == {threading.get_ident()}


def test_map_passes_on_the_error_of_its_input(pool):
    def generate():
        yield 1
        yield 2
        raise KeyError("in the input")

    with pytest.raises(KeyError, match="in the input"):
        list(pool.map(_tasks.echo, generate()))
    check_usable(pool)


def test_map_raises_in_the_place_of_the_item(pool):
    results = pool.map(functools.partial(_tasks.fail_at, 5), range(100))
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(_tasks.Refusal, match="this one"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    check_usable(pool)


@pytest.mark.parametrize("chunksize", [1, 4, 16])
def test_map_gives_what_precedes_the_error_whatever_the_chunks(pool, chunksize):
    results = pool.map(functools.partial(_tasks.fail_at, 10), range(32), chunksize=chunksize)
    assert list(itertools.islice(results, 10)) == list(range(10))
    with pytest.raises(_tasks.Refusal):
        next(results)


def test_map_that_is_given_up_cancels_what_is_queued(one, gate, tally):
    results = one.map(functools.partial(_tasks.note_and_gate_if, tally, gate, 1), range(1000), chunksize=1)
    assert next(results) == 0
    tally.wait(2)
    results.close()
    gate.open()
    check_usable(one)
    assert len(tally.rows()) <= 6  # the standard library has a few in its call queue


def test_map_that_fails_cancels_what_is_queued(one, tally):
    results = one.map(functools.partial(_tasks.fail_at, 0, tally=tally), range(5000), chunksize=1)
    with pytest.raises(_tasks.Refusal):
        next(results)
    check_usable(one)
    assert len(tally.rows()) < 5000


def test_map_that_is_forgotten_runs_all(pool, tally):
    # As in the standard library: who never asks for a result has submitted all the same.
    pool.map(functools.partial(_tasks.note, tally), range(50))
    gc.collect()
    tally.wait(50)


def test_map_timeout_is_the_overall_deadline(pool, gate):
    results = pool.map(functools.partial(_tasks.gate_if, gate, 2), range(4), chunksize=1, timeout=3)
    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()
    check_usable(pool)


def test_map_timeout_is_counted_from_the_call(pool, gate):
    results = pool.map(gate.wait, [1], timeout=0.2)
    time.sleep(0.4)
    with pytest.raises(TimeoutError):
        next(results)


@pytest.mark.parametrize("timeout", [0, -1, 0.05])
def test_map_times_out_on_what_is_not_done(pool, gate, timeout):
    with pytest.raises(TimeoutError):
        list(pool.map(gate.wait, [1, 2], timeout=timeout))
    with pytest.raises(TimeoutError):
        list(pool.map(gate.wait, iter([1, 2]), timeout=timeout, ordered=False))


def test_map_timeout_that_is_long_enough(pool):
    assert list(pool.map(_tasks.echo, range(100), timeout=WATCHDOG)) == list(range(100))


def test_map_unordered_yields_as_they_come(pool, gate):
    results = pool.map(functools.partial(_tasks.gate_if, gate, 0), range(6), ordered=False, chunksize=1)
    first = list(itertools.islice(results, 5))
    assert sorted(first) == [1, 2, 3, 4, 5]
    gate.open()
    assert list(results) == [0]


def test_map_unordered_of_many(pool):
    assert sorted(pool.map(_tasks.echo, range(5000), ordered=False)) == list(range(5000))


def test_map_unordered_raises_too(pool):
    with pytest.raises(_tasks.Refusal):
        list(pool.map(functools.partial(_tasks.fail_at, 3), range(10), ordered=False))
    check_usable(pool)


def test_two_long_items_are_run_by_two_workers(pool, gate, tally):
    # Before anything is measured, the default chunk must not put all of a short input into one message.
    results = pool.map(functools.partial(_tasks.note_at_gate, tally, gate), range(2))
    tally.wait(2)
    gate.open()
    assert list(results) == [0, 1]
    assert len(set(tally.pids())) == 2


def test_default_chunks_do_not_strand_items_behind_a_long_one(pool, gate):
    # Item 700 comes after many short ones, so chunks have grown; what is with it in its chunk may wait, the rest not.
    results = pool.map(functools.partial(_tasks.gate_if, gate, 700), range(20_000), ordered=False)
    seen = set(itertools.islice(results, 10_000))
    assert 700 not in seen
    gate.open()
    assert sorted([*seen, *results]) == list(range(20_000))


def test_several_maps_at_once(pool):
    maps = [pool.map(_tasks.add, range(200), itertools.repeat(i, 200)) for i in range(5)]
    for step, row in enumerate(zip(*maps, strict=True)):
        assert row == tuple(step + i for i in range(5))


def test_maps_in_threads(pool):
    def run(base):
        return list(pool.map(_tasks.add, range(300), itertools.repeat(base)))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for base, values in enumerate(threads.map(run, range(4), timeout=WATCHDOG)):
            assert values == [base + i for i in range(300)]


def test_results_are_not_kept_by_map(pool):
    class_results = pool.map(_tasks.Adder, range(3))
    first = next(class_results)
    reference = weakref.ref(first)
    del first
    gc.collect()
    assert reference() is None
    assert [a.base for a in class_results] == [1, 2]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_progress_is_told(pool, ordered, chunksize):
    calls = []
    results = pool.map(
        _tasks.echo,
        range(100),
        progress=lambda done, total: calls.append((done, total)),
        ordered=ordered,
        chunksize=chunksize,
    )
    assert sorted(results) == list(range(100))
    assert calls[-1] == (100, 100)
    assert {total for _, total in calls} == {100}
    done = [d for d, _ in calls]
    assert done == sorted(done)


def test_progress_of_unsized_input(pool):
    calls = []
    assert len(list(pool.map(_tasks.echo, iter(range(100)), progress=lambda *call: calls.append(call)))) == 100
    assert calls[-1][0] == 100
    assert all(total is None or total >= done for done, total in calls)


def test_progress_bar_goes_to_stderr(pool, capfd):
    assert list(pool.map(_tasks.echo, range(100), progress=True)) == list(range(100))
    out, err = capfd.readouterr()
    assert out == ""
    assert "100" in err


def test_no_progress_no_output(pool, capfd):
    list(pool.map(_tasks.echo, range(100)))
    list(pool.map(_tasks.echo, range(100), progress=False))
    assert capfd.readouterr() == ("", "")


# ---- shutdown ------------------------------------------------------------------------------------


def test_shutdown_waits_for_what_was_submitted(tally):
    pool = plait.ProcessPool(2)
    futures = [pool.submit(_tasks.note, tally, i, 0.01) for i in range(50)]
    pool.shutdown()
    assert all(f.done() for f in futures)
    assert [f.result(0) for f in futures] == list(range(50))
    assert len(tally.rows()) == 50


def test_shutdown_without_waiting(gate, tally):
    pool = plait.ProcessPool(2)
    futures = fill(pool, gate, tally) + [pool.submit(_tasks.echo, i) for i in range(20)]
    pool.shutdown(wait=False)
    assert not any(f.done() for f in futures)
    gate.open()
    assert [f.result(WATCHDOG) for f in futures] == ["waits", "waits", *range(20)]


def test_shutdown_ends_the_workers(tally, gate):
    pool = plait.ProcessPool(2)
    futures = fill(pool, gate, tally)
    gate.open()
    pool.shutdown()
    assert all(f.done() for f in futures)
    assert gone(tally.pids())


def test_shutdown_cancels_futures_if_asked(gate, tally):
    pool = plait.ProcessPool(2)
    running = fill(pool, gate, tally)
    queued = [pool.submit(_tasks.note, tally, "queued") for _ in range(100)]

    def open_when_cancelled():
        wait_until(queued[-1].cancelled)
        gate.open()

    gate_opener = threading.Thread(target=open_when_cancelled)
    gate_opener.start()
    pool.shutdown(cancel_futures=True)
    gate_opener.join()
    assert [f.result(0) for f in running] == ["waits", "waits"]
    assert all(f.cancelled() for f in queued)
    assert tally.count() == {"waits": 2}


def test_shutdown_cancels_futures_without_waiting(gate, tally):
    pool = plait.ProcessPool(2)
    running = fill(pool, gate, tally)
    queued = [pool.submit(_tasks.echo, i) for i in range(10)]
    pool.shutdown(wait=False, cancel_futures=True)
    gate.open()
    assert [f.result(WATCHDOG) for f in running] == ["waits", "waits"]
    for f in queued:
        with pytest.raises(concurrent.futures.CancelledError):
            f.result(WATCHDOG)


def test_shutdown_twice_and_inside_with():
    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.echo, 1).result(WATCHDOG) == 1
        pool.shutdown()
        pool.shutdown(wait=False)
    pool.shutdown(cancel_futures=True)


def test_shutdown_of_a_pool_that_never_worked():
    pool = plait.ProcessPool(2)
    pool.shutdown()
    with plait.ProcessPool(2):
        pass


def test_shutdown_in_another_thread(gate, tally):
    pool = plait.ProcessPool(2)
    futures = fill(pool, gate, tally)
    thread = threading.Thread(target=pool.shutdown)
    thread.start()
    gate.open()
    thread.join(WATCHDOG)
    assert not thread.is_alive()
    assert [f.result(0) for f in futures] == ["waits", "waits"]


@pytest.mark.parametrize("use", ["submit", "map", "options"])
def test_no_work_after_shutdown(use):
    pool = plait.ProcessPool(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        if use == "submit":
            pool.submit(_tasks.echo)
        elif use == "map":
            pool.map(_tasks.echo, [1])
        else:
            pool.options(retries=1).submit(_tasks.echo)


def test_with_statement_gives_the_pool():
    pool = plait.ProcessPool(1)
    with pool as entered:
        assert entered is pool
        future = pool.submit(_tasks.nap, 0.1, 5)
    assert future.done()
    with pytest.raises(RuntimeError):
        pool.submit(_tasks.echo)


def test_with_statement_passes_errors_on(tally):
    with pytest.raises(KeyError):
        with plait.ProcessPool(1) as pool:
            future = pool.submit(_tasks.nap, 0.1, 5)
            raise KeyError
    assert future.result(0) == 5


def test_async_with_statement():
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticker = asyncio.create_task(tick())
        async with plait.ProcessPool(2) as pool:
            assert isinstance(pool, plait.ProcessPool)
            assert await pool.submit(_tasks.add, 1, 2) == 3
            future = pool.submit(_tasks.nap, 0.5, 5)
            ticks = 0
        # Leaving waits for the work, and lets the loop turn meanwhile.
        assert future.done()
        assert ticks > 5
        ticker.cancel()
        with pytest.raises(RuntimeError):
            pool.submit(_tasks.echo)
        return future.result(0)

    assert asyncio.run(main()) == 5


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_end_the_workers_at_once(method, tally):
    pool = plait.ProcessPool(2)
    running = [pool.submit(_tasks.hang, tally) for _ in range(2)]
    queued = [pool.submit(_tasks.note, tally, "queued") for _ in range(10)]
    tally.wait(2)
    getattr(pool, method)()
    for f in running + queued:
        try:
            error = f.exception(WATCHDOG)
        except concurrent.futures.CancelledError as cancelled:
            error = cancelled
        assert isinstance(error, BrokenProcessPool | concurrent.futures.CancelledError), repr(error)
    wait_until(lambda: gone(tally.pids()), "the workers to end")
    assert tally.count() == {"hangs": 2}
    with pytest.raises(RuntimeError):
        pool.submit(_tasks.echo)
    pool.shutdown()


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_end_the_workers_of_an_idle_or_finished_pool(method):
    pool = plait.ProcessPool(2)
    getattr(pool, method)()
    pool = plait.ProcessPool(2)
    future = pool.submit(_tasks.echo, 1)
    assert future.result(WATCHDOG) == 1
    getattr(pool, method)()
    assert future.result(0) == 1
    getattr(pool, method)()
    pool.shutdown()


def test_forgotten_pool_ends_its_workers():
    pool = plait.ProcessPool(2)
    pid = pool.submit(_tasks.pid).result(WATCHDOG)
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    wait_until(lambda: gone([pid]), "the worker of a forgotten pool to end")
    assert reference() is None


def test_forgotten_pool_completes_its_work(tally):
    pool = plait.ProcessPool(1)
    futures = [pool.submit(_tasks.note, tally, i, 0.01) for i in range(20)]
    del pool
    gc.collect()
    assert [f.result(WATCHDOG) for f in futures] == list(range(20))


# ---- arguments of the pool -----------------------------------------------------------------------


def test_initializer_runs_once_in_each_worker(tally, gate):
    with plait.ProcessPool(2, initializer=_tasks.set_state, initargs=(("a", 1), ("b", [2]))) as pool:
        assert {pool.submit(_tasks.state, "a").result(WATCHDOG) for _ in range(10)} == {1}
        assert pool.submit(_tasks.state, "b").result(WATCHDOG) == [2]
    with plait.ProcessPool(2, initializer=functools.partial(_tasks.initialize, tally, x=5)) as pool:
        other = Tally(tally.path + "2")
        fill(pool, gate, other)
        gate.open()
        assert pool.submit(_tasks.state, "x").result(WATCHDOG) == 5
        assert sorted(tally.pids()) == sorted(set(other.pids()))
        assert isinstance(pool.submit(_tasks.die).exception(WATCHDOG), plait.WorkerDied)
        assert pool.submit(_tasks.state, "x").result(WATCHDOG) == 5, "replacements are initialized too"


def test_initializer_that_fails_breaks_the_pool(tally):
    with plait.ProcessPool(2, initializer=_tasks.fail_to_initialize, initargs=(tally,)) as pool:
        futures = []
        try:
            futures.append(pool.submit(_tasks.echo, 1))
            futures.append(pool.submit(_tasks.echo, 2))
        except BrokenProcessPool:
            pass
        errors = [f.exception(WATCHDOG) for f in futures]
        assert all(isinstance(e, BrokenProcessPool) for e in errors), errors
        assert not futures or "no initialization today" in message_of(errors[0])
        with pytest.raises(BrokenProcessPool):
            pool.submit(_tasks.echo).result(WATCHDOG)
        with pytest.raises(BrokenProcessPool):
            list(pool.map(_tasks.echo, [1, 2]))
    assert len(tally.rows()) <= 10, "no endless attempts"


def test_max_tasks_per_child(tally):
    with plait.ProcessPool(2, max_tasks_per_child=3) as pool:
        futures = [pool.submit(_tasks.note, tally, i) for i in range(31)]
        assert [f.result(WATCHDOG) for f in futures] == list(range(31))
        per_pid = [tally.pids().count(pid) for pid in set(tally.pids())]
        assert max(per_pid) <= 3
        assert len(per_pid) >= 11
        wait_until(lambda: sum(map(alive, set(tally.pids()))) <= 2, "worn-out workers to end")


def test_max_tasks_per_child_one(tally):
    with plait.ProcessPool(2, max_tasks_per_child=1) as pool:
        assert list(pool.map(functools.partial(_tasks.note, tally), range(10), chunksize=1)) == list(range(10))
        assert len(set(tally.pids())) == 10


def test_max_tasks_per_child_with_waiters_callbacks_and_shutdown():
    # python/cpython#115634: work was stranded, or the shutdown hung.
    for _ in range(5):
        called: list[plait.Future[int]] = []
        with plait.ProcessPool(1, max_tasks_per_child=2) as pool:
            futures = [pool.submit(_tasks.echo, i) for i in range(7)]
            for f in futures:
                f.add_done_callback(called.append)
        assert [f.result(0) for f in futures] == list(range(7))
        wait_until(lambda: len(called) == 7, "the callbacks")


@pytest.mark.parametrize("name", ["spawn", "forkserver", "fork"])
def test_mp_context(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork of this process, which has threads, warns
        for context in (name, multiprocessing.get_context(name)):
            with plait.ProcessPool(2, mp_context=context) as pool:
                check_usable(pool)
                assert pool.submit(_tasks.pid).result(WATCHDOG) != os.getpid()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"max_workers": "2"}, TypeError),
        ({"max_workers": 1.5}, TypeError),
        ({"mp_context": "no such"}, ValueError),
        ({"initializer": 5}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": -1}, ValueError),
        ({"max_tasks_per_child": "1"}, TypeError),
        ({"max_tasks_per_child": 1.5}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"retries": -1}, ValueError),
        ({"retries": 1.5}, TypeError),
        ({"limits": 1 << 30}, TypeError),
        ({"user": "nobody"}, TypeError),
        ({"sandbox": None}, TypeError),
        ({"no_such": 1}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(arguments, error):
    with pytest.raises(error):
        plait.ProcessPool(**arguments)


def test_timeout_and_others_by_keyword_only():
    with pytest.raises(TypeError):
        plait.ProcessPool(1, None, None, (), 5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"timeout": -1}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"retries": -1}, ValueError),
        ({"retries": 1.5}, TypeError),
        ({"priority": "high"}, TypeError),
        ({"user": "nobody"}, TypeError),
        ({"no_such": 1}, TypeError),
    ],
    ids=str,
)
def test_bad_options_are_refused_at_once(pool, arguments, error):
    with pytest.raises(error):
        pool.options(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"memory": 0}, ValueError),
        ({"memory": -1}, ValueError),
        ({"memory": "1G"}, TypeError),
        ({"cpu_time": 1}, TypeError),
        ({"open_files": 10}, TypeError),
        ({"nice": 1}, TypeError),
    ],
    ids=str,
)
def test_bad_limits_are_refused_at_once(arguments, error):
    with pytest.raises(error):
        plait.Limits(**arguments)


def test_waiting_one_after_the_other_leaves_all_masks_alone(monkeypatch):
    # Without spinning, caller and worker share a CPU for as long as both sleep in turn, and no longer.
    monkeypatch.setenv("PLAIT_SPIN", "0")
    mask = os.sched_getaffinity(0)
    with plait.ProcessPool(1) as pool:
        for _ in range(300):
            assert pool.submit(os.sched_getaffinity, 0).result(WATCHDOG) == mask
            assert os.sched_getaffinity(0) == mask
        # Several at once end that, so that the mask which the worker gets here is no other.
        for future in [pool.submit(_tasks.mask_here) for _ in range(20)]:
            pid, _ = future.result(WATCHDOG)
        narrow = {min(mask)}
        os.sched_setaffinity(pid, narrow)
        seen = [pool.submit(_tasks.mask_here).result(WATCHDOG) for _ in range(100)]
        assert seen == [(pid, list(narrow))] * 100


def test_default_number_of_workers():
    with plait.ProcessPool() as pool:
        assert 1 <= pool._max_workers <= len(os.sched_getaffinity(0))
    with plait.ProcessPool(3) as pool:
        assert pool._max_workers == 3


def test_processes_are_the_workers(pool, gate, tally):
    fill(pool, gate, tally)
    assert set(pool._processes) == set(tally.pids())
    assert {pid: process.pid for pid, process in pool._processes.items()} == {pid: pid for pid in pool._processes}
    assert set(tally.pids()) <= {p.pid for p in descendants(os.getpid())}


def test_more_workers_than_cpus(tally, gate):
    with plait.ProcessPool(12) as pool:
        fill(pool, gate, tally, 12)
        assert len(set(tally.pids())) == 12
        gate.open()
        check_usable(pool)


def test_workers_see_the_parent_as_it_was_when_the_pool_was_made(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLAIT_TEST_VALUE", "then")
    monkeypatch.delenv("PLAIT_TEST_GONE", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "extra"))
    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.environment, "PLAIT_TEST_VALUE").result(WATCHDOG) == "then"
        assert pool.submit(_tasks.environment, "PLAIT_TEST_GONE").result(WATCHDOG) is None
        assert pool.submit(_tasks.folder).result(WATCHDOG) == str(tmp_path)
        # An empty entry stands for the folder of the moment; how it travels is not looked at.
        assert [p for p in sys.path if p] == [
            p for p in pool.submit(_tasks.search_path).result(WATCHDOG) if p in sys.path
        ]
    # The fork server is there already; a later pool sees the parent as it is later.
    monkeypatch.setenv("PLAIT_TEST_VALUE", "later")
    monkeypatch.chdir("/")
    (tmp_path / "module_made_now.py").write_text("def function():\n    return 'made now'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import module_made_now  # type: ignore[import-not-found]

    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.environment, "PLAIT_TEST_VALUE").result(WATCHDOG) == "later"
        assert pool.submit(_tasks.folder).result(WATCHDOG) == "/"
        assert pool.submit(module_made_now.function).result(WATCHDOG) == "made now"
    del sys.modules["module_made_now"]


def test_preload():
    name = "wsgiref.handlers"  # nobody imports it by accident
    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.is_loaded, name).result(WATCHDOG) is False
    with plait.ProcessPool(2, preload=(name,)) as pool:
        assert {pool.submit(_tasks.is_loaded, name).result(WATCHDOG) for _ in range(5)} == {True}
    with plait.ProcessPool(1, preload=[name]) as pool:
        assert pool.submit(_tasks.is_loaded, name).result(WATCHDOG) is True


def preloadable(tmp_path, monkeypatch, name, source):
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    return (name,)


def test_preloaded_modules_are_imported_once_for_all_pools(tmp_path, monkeypatch):
    log = tmp_path / "log"
    source = f"with open({str(log)!r}, 'a') as file: file.write('imported ')"
    modules = preloadable(tmp_path, monkeypatch, "preloaded_once", source)
    for _ in range(2):
        with plait.ProcessPool(2, preload=modules) as pool:
            assert all(pool.map(_tasks.is_loaded, [*modules] * 8, chunksize=1, timeout=WATCHDOG))
    assert log.read_text().split() == ["imported"]


def test_tasks_are_taken_while_the_server_starts(tmp_path, monkeypatch):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    modules = preloadable(tmp_path, monkeypatch, "preloaded_late", f"open({str(gate)!r}).close()")
    with plait.ProcessPool(2, preload=modules) as pool:
        # Nothing here can be done before the gate is opened, below.
        first = pool.submit(_tasks.echo, 1)
        rest = pool.map(_tasks.echo, range(10), timeout=WATCHDOG)
        cancelled = pool.submit(_tasks.echo, 2)
        assert cancelled.cancel()
        assert not first.done()
        with open(gate, "w"):
            pass
        assert first.result(WATCHDOG) == 1
        assert list(rest) == [*range(10)]


def test_a_module_that_cannot_be_preloaded_fails_the_tasks(tmp_path, monkeypatch):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    source = f"import os; os.path.exists({str(gate)!r}) and open({str(gate)!r}).close(); raise LookupError('not today')"
    modules = preloadable(tmp_path, monkeypatch, "preloaded_never", source)
    with plait.ProcessPool(2, preload=modules) as pool, plait.ProcessPool(1, preload=modules) as other:
        futures = [each.submit(_tasks.echo, i) for each in (pool, other) for i in range(3)]
        with open(gate, "w"):
            gate.unlink()  # a second try is not held up
        for f in futures:
            with pytest.raises(BrokenProcessPool, match=r"(?s)preloaded_never.*LookupError: not today"):
                f.result(WATCHDOG)
        (tmp_path / "preloaded_never.py").write_text("")
        assert pool.submit(_tasks.echo, 3).result(WATCHDOG) == 3


def test_statistics(pool):
    for f in [pool.submit(_tasks.echo, i) for i in range(50)]:
        f.result(WATCHDOG)
    statistics = pool.statistics()
    assert type(statistics) is dict
    assert all(type(key) is str for key in statistics)
    # Plain values, so that they can be written anywhere.
    json.dumps(statistics)


def test_repr_tells_the_state(pool):
    assert "ProcessPool" in repr(pool)
    assert "Future" in repr(pool.submit(_tasks.echo))


def test_several_pools_side_by_side():
    with plait.ProcessPool(1) as a, plait.ProcessPool(2) as b, plait.ProcessPool(1) as c:
        futures = [pool.submit(_tasks.add, i, i) for i in range(50) for pool in (a, b, c)]
        assert [f.result(WATCHDOG) for f in futures] == [2 * i for i in range(50) for _ in range(3)]
        assert not set(a._processes) & set(b._processes)


def test_workers_are_kept(one):
    assert len({one.submit(_tasks.pid).result(WATCHDOG) for _ in range(20)}) == 1


def test_idle_pool_sleeps(pool, gate, tally):
    # No polling anywhere: neither the workers, nor their server, nor the pool's threads in this process wake up.
    fill(pool, gate, tally)
    gate.open()
    check_usable(pool)
    server = pool.submit(_tasks.parent_pid).result(WATCHDOG)
    others = {*pool._processes, server} - {os.getpid()}

    def pool_threads():
        me = threading.get_native_id()
        for entry in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{entry}/comm") as file:
                if int(entry) != me and file.read().startswith("plait"):
                    yield entry

    def awake():
        total = voluntary_switches(others)
        for thread in pool_threads():
            with open(f"/proc/self/task/{thread}/status") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
        return total

    def slept_for_a_second():
        before = awake()
        time.sleep(1)
        return awake() == before

    wait_until(slept_for_a_second, "a second without any wake-up", timeout=8)
