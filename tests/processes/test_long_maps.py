"""Maps over long inputs: bounded memory, and all that the standard library promises nevertheless."""

from __future__ import annotations

import collections
import gc
import os
import signal
import threading
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import plait
from tests.processes import _tasks
from tests.processes._support import WATCHDOG, wait_until
from tests.processes._tasks import Gate

MIB = 1 << 20
MANY = 5_000_000
"""Small items that take more room, encoded, than a map gives them at once."""


def double(value):
    return 2 * value


def kilobyte(value):
    return bytes(1000)


def length(value):
    return len(value)


def feeding() -> bool:
    return any(thread.name == "plait-feed" for thread in threading.enumerate())


def resident(name: str) -> int:
    """Bytes that the pools' shared memory of that name takes."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target, status = os.readlink(entry), os.stat(entry)
        except FileNotFoundError:
            continue
        if target.startswith(f"/memfd:plait-{name}"):
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def private() -> int:
    """Bytes of this process's own memory."""
    text = Path("/proc/self/smaps_rollup").read_text()
    fields = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    return 1024 * int(fields["Anonymous"])


def test_items_that_wait_take_bounded_memory(one, tmp_path):
    with Gate(tmp_path / "gate") as gate:
        blocked = one.submit(gate.wait)
        before = private()
        results = one.map(double, range(4 * MANY))
        assert feeding()
        assert private() - before < 100 * MIB  # they would take 160, and as much again while their list grows
        results.close()
        gate.open()
        blocked.result(WATCHDOG)


def test_large_items_that_wait_take_bounded_memory(pool, tmp_path):
    data = os.urandom(4 * MIB)
    items = [data[start:] for start in range(100)]
    with Gate(tmp_path / "gate") as gate:
        blocked = [pool.submit(gate.wait) for _ in range(2)]
        results = pool.map(length, items)
        assert resident("arguments") < 64 * MIB
        gate.open()
        assert list(results) == [4 * MIB - start for start in range(100)]
        assert {future.result(WATCHDOG) for future in blocked} == {None}
    assert wait_until(lambda: not feeding())


def test_items_that_are_larger_than_the_room_reach_all_workers(pool, tmp_path):
    items = [bytes(40 * MIB), bytes(41 * MIB), bytes(42 * MIB)]
    assert list(pool.map(length, items)) == [40 * MIB, 41 * MIB, 42 * MIB]


def test_results_that_wait_take_bounded_memory():
    with plait.ProcessPool(2, warm_memory=0) as pool:
        results = pool.map(kilobyte, range(300_000))
        first = next(results)
        # What nobody takes is held back; what is taken makes room.
        wait_until(lambda: resident("results") > 64 * MIB)
        assert first == bytes(1000)
        count = 1
        for count, result in enumerate(results, 2):
            if count % 10_000 == 0:
                assert resident("results") < 96 * MIB
                assert result == first
        assert count == 300_000


@pytest.mark.parametrize("kind", [range, list, tuple, set, collections.deque])
def test_long_inputs_arrive_whole_whatever_becomes_of_them(pool, kind):
    values = range(MANY) if kind is range else kind(range(MANY))  # a set of these has them in order
    results = pool.map(double, values)
    assert feeding()
    if isinstance(values, list | set | collections.deque):
        values.clear()
    assert all(result == 2 * index for index, result in enumerate(results))
    assert wait_until(lambda: not feeding())


def test_rows_of_an_array_arrive_whole_whatever_becomes_of_it(one):
    numpy = pytest.importorskip("numpy")
    rows = numpy.arange(60 * 200_000).reshape(60, -1)
    expected = [float(row.sum()) for row in rows]
    results = one.map(total, rows)
    rows[:] = 0
    assert list(results) == expected


def total(row):
    return float(row.sum())


class OwnIterator:
    """Sized, and its own iterator, as loaders of data are."""

    def __init__(self, count):
        self.given, self.count = 0, count

    def __len__(self):
        return self.count - self.given

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.count:
            raise StopIteration
        self.given += 1
        return self.given


def test_a_long_input_that_is_its_own_iterator_arrives_whole(pool):
    results = pool.map(double, OwnIterator(MANY))
    assert feeding()
    assert all(result == 2 * index for index, result in enumerate(results, 1))
    assert len(list(pool.map(max, OwnIterator(MANY), range(MANY + 5)))) == MANY


def test_no_more_is_taken_of_a_long_input_than_the_shortest_has(pool):
    far_longer = OwnIterator(100 * MANY)
    results = pool.map(min, range(MANY), far_longer)
    assert feeding()
    assert MANY <= far_longer.given <= MANY + 1
    assert all(result == index for index, result in enumerate(results))


def test_the_shortest_of_long_inputs_ends_a_map(pool):
    results = list(pool.map(max, range(MANY + 5), [7] * MANY, range(2 * MANY)))
    assert len(results) == MANY
    assert results[-1] == MANY - 1


def test_items_of_a_set_that_wait_are_not_all_encoded(one, tmp_path):
    values = {str(number) * 8 for number in range(2_000_000)}
    with Gate(tmp_path / "gate") as gate:
        blocked = one.submit(gate.wait)
        before = private()
        results = one.map(length, values, [None] * len(values))
        assert feeding()
        assert private() - before < 100 * MIB  # encoded they would take 120, and as much again while their list grows
        results.close()
        gate.open()
        blocked.result(WATCHDOG)


def test_items_are_run_whether_anybody_takes_results_or_not():
    with plait.ProcessPool(2) as pool:
        untouched = pool.map(double, range(MANY))
        begun = pool.map(double, range(MANY))
        assert next(begun) == 0
    assert pool.statistics()["submitted"] == 2 * MANY
    assert sum(untouched) == MANY * (MANY - 1)
    assert sum(begun) == MANY * (MANY - 1)


def test_a_long_map_that_is_dropped_is_taken_no_further(pool):
    results = pool.map(double, range(20 * MANY))
    assert next(results) == 0
    del results
    gc.collect()
    assert wait_until(lambda: not feeding())
    assert pool.submit(double, 4).result(WATCHDOG) == 8


def test_a_long_map_ends_with_its_pool():
    pool = plait.ProcessPool(1)
    results = pool.map(double, range(20 * MANY))
    assert next(results) == 0
    pool.shutdown(cancel_futures=True)
    assert wait_until(lambda: not feeding())
    with pytest.raises(CancelledError):
        list(results)


marks: list[Path] = []


class Unpicklable:
    """Ends whoever pickles it, as want of memory might, when it is told to."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def __reduce__(self):
        self.told.wait(WATCHDOG)
        raise SystemExit("no more")


def test_a_long_map_whose_input_breaks_off_does_not_look_complete(pool):
    last = Unpicklable()
    before = [bytes(MIB)] * 80
    results = pool.map(length, [*before, last])
    assert [next(results) for _ in before] == [MIB] * 80
    last.told.set()
    assert wait_until(lambda: not feeding())
    with pytest.raises(SystemExit, match="no more"):
        next(results)
    assert list(results) == []


def test_a_long_map_that_is_closed_tells_nothing_of_the_rest(pool):
    last = Unpicklable()
    results = pool.map(length, [*[bytes(MIB)] * 80, last])
    assert [next(results) for _ in range(80)] == [MIB] * 80
    results.close()
    last.told.set()
    assert wait_until(lambda: not feeding())
    assert list(results) == []


def die_once(value):
    if value == 1_000_000 and not marks[0].exists():
        marks[0].touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def mark(path):
    marks.append(path)


def test_a_death_while_a_long_map_is_fed(tmp_path):
    with plait.ProcessPool(2, retries=2, initializer=mark, initargs=(tmp_path / "died",)) as pool:
        results = pool.map(die_once, range(MANY))
        assert all(result == index for index, result in enumerate(results))
    assert (tmp_path / "died").exists()


def test_a_long_map_of_a_broken_pool_fails():
    with plait.ProcessPool(1, initializer=_tasks.fail_to_initialize) as pool:
        with pytest.raises(BrokenProcessPool):
            list(pool.map(double, range(MANY)))
        assert wait_until(lambda: not feeding())


@pytest.mark.parametrize("sized", [True, False])
def test_two_threads_cannot_take_the_results_of_one_map(pool, tmp_path, sized):
    taken: list[int] = []
    with Gate(tmp_path / "gate") as gate:
        results = pool.map(gate.wait, range(4) if sized else iter(range(4)))
        thread = threading.Thread(target=lambda: taken.extend(results))
        thread.start()
        wait_until(lambda: _refuses(results))
        gate.open()
        thread.join(WATCHDOG)
    assert taken == [0, 1, 2, 3]


def _refuses(results) -> bool:
    try:
        next(results)
    except ValueError as error:
        return "by another thread" in str(error)
    return False
