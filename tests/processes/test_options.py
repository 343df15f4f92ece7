"""timeout, retries and priority: per pool, per view, and per item of a map. Runs are counted through files."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
import random
import signal
import sysconfig
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

import plait
from tests.processes import _tasks
from tests.processes._support import WATCHDOG, check_usable, gone, wait_until


def once_each(items):
    return {str(i): 1 for i in items}


# ---- the view ------------------------------------------------------------------------------------


def test_view_submits_to_the_same_pool(one):
    view = one.options(timeout=WATCHDOG, retries=2, priority=1)
    assert view.submit(_tasks.pid).result(WATCHDOG) == one.submit(_tasks.pid).result(WATCHDOG)
    assert isinstance(view.submit(_tasks.echo), plait.Future)
    assert view.submit(_tasks.collect, 1, self=2, fn=3).result(WATCHDOG) == ((1,), {"self": 2, "fn": 3})
    assert list(view.map(_tasks.add, range(20), range(20), chunksize=3)) == list(range(0, 40, 2))
    assert sorted(view.map(_tasks.echo, iter(range(20)), ordered=False, buffersize=5)) == list(range(20))


def test_view_takes_keywords_only(one):
    with pytest.raises(TypeError):
        one.options(1)


def test_view_after_shutdown():
    pool = plait.ProcessPool(1)
    view = pool.options(retries=1)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        view.submit(_tasks.echo)
    with pytest.raises(RuntimeError):
        view.map(_tasks.echo, [1])


def test_view_does_not_change_the_pool(pool, tally):
    pool.options(timeout=0.1, retries=3)
    assert pool.submit(_tasks.nap, 0.5, 1).result(WATCHDOG) == 1
    error = pool.submit(_tasks.note_and_die, tally, "victim").exception(WATCHDOG)
    assert error.tries == 1
    assert tally.count() == {"victim": 1}


# ---- timeout -------------------------------------------------------------------------------------


def _check_timeout(error):
    assert type(error) is plait.TaskTimeout
    assert isinstance(error, TimeoutError)
    assert not isinstance(error, BrokenProcessPool)
    assert str(error)


def test_timeout_ends_a_task_that_hangs(pool, tally):
    future = pool.options(timeout=0.3).submit(_tasks.hang, tally)
    with pytest.raises(plait.TaskTimeout):
        future.result(WATCHDOG)
    _check_timeout(future.exception(0))
    assert not future.cancelled()
    wait_until(lambda: gone(tally.pids()), "the worker to die")
    check_usable(pool)


def test_timeout_tells_the_stack(pool):
    error = pool.options(timeout=1).submit(_tasks.hang).exception(WATCHDOG)
    _check_timeout(error)
    assert error.stack is not None
    assert "hang" in str(error.stack)
    assert "_tasks" in str(error.stack)


def test_timeout_of_a_task_in_c_does_not_wait_for_its_stack(pool):
    # One call that holds the GIL for hours can tell nothing; it ends all the same.
    error = pool.options(timeout=0.5).submit(_tasks.hang_in_c).exception(WATCHDOG)
    _check_timeout(error)
    assert error.stack is None or isinstance(error.stack, str)
    check_usable(pool)


def test_timeout_of_the_pool():
    with plait.ProcessPool(2, timeout=0.5) as pool:
        hanging = pool.submit(_tasks.hang)
        quick = [pool.submit(_tasks.echo, i) for i in range(100)]
        _check_timeout(hanging.exception(WATCHDOG))
        assert [f.result(WATCHDOG) for f in quick] == list(range(100))
        with pytest.raises(plait.TaskTimeout):
            list(pool.map(_tasks.hang, [None], timeout=WATCHDOG))


def test_view_overrides_the_pools_timeout():
    with plait.ProcessPool(2, timeout=0.3) as pool:
        slow = pool.options(timeout=WATCHDOG).submit(_tasks.nap, 1.0, 5)
        stopped = pool.options(priority=1).submit(_tasks.hang)
        assert slow.result(WATCHDOG) == 5
        _check_timeout(stopped.exception(WATCHDOG))


def test_timeout_spares_the_others(pool, tally):
    limited = pool.options(timeout=0.3)
    futures = [
        limited.submit(_tasks.hang, tally) if i % 10 == 5 else limited.submit(_tasks.note, tally, i) for i in range(30)
    ]
    for i, future in enumerate(futures):
        if i % 10 == 5:
            _check_timeout(future.exception(WATCHDOG))
        else:
            assert future.result(WATCHDOG) == i
    assert tally.count() == {**once_each(i for i in range(30) if i % 10 != 5), "hangs": 3}
    check_usable(pool)


def test_timeout_counts_from_the_start_of_running(one):
    # Ten tasks of 0.3 s, one after the other: the last waits 2.7 s in the queue, with 1.5 s to run.
    futures = [one.options(timeout=1.5).submit(_tasks.nap, 0.3, i) for i in range(10)]
    assert [f.result(WATCHDOG) for f in futures] == list(range(10))


def test_timeout_does_not_count_the_queue_behind_a_gate(one, gate, tally):
    blocked = one.submit(_tasks.note_at_gate, tally, gate)
    tally.wait()
    waiting = one.options(timeout=0.3).submit(_tasks.echo, 1)
    time.sleep(0.8)
    assert not waiting.done()
    gate.open()
    assert waiting.result(WATCHDOG) == 1
    assert blocked.result(WATCHDOG) == "waits"


def test_timeout_that_is_not_reached_leaves_no_trace(one):
    pid = one.submit(_tasks.pid).result(WATCHDOG)
    limited = one.options(timeout=0.4)
    for i in range(10):
        assert limited.submit(_tasks.echo, i).result(WATCHDOG) == i
    # A timer of a task that has ended must not hit a later one of the same worker.
    assert one.submit(_tasks.nap, 1.0, 5).result(WATCHDOG) == 5
    assert one.submit(_tasks.pid).result(WATCHDOG) == pid


@pytest.mark.parametrize("timeout", [1e-9, 1e9])
def test_timeouts_of_any_size(pool, timeout):
    future = pool.options(timeout=timeout).submit(_tasks.nap, 0.2, 1)
    if timeout < 1:
        _check_timeout(future.exception(WATCHDOG))
    else:
        assert future.result(WATCHDOG) == 1
    check_usable(pool)


def test_many_timeouts_at_once(tally):
    with plait.ProcessPool(4, timeout=0.3) as pool:
        futures = [pool.submit(_tasks.hang, tally, i) for i in range(16)]
        for future in futures:
            _check_timeout(future.exception(WATCHDOG))
        assert tally.count() == once_each(range(16))
        check_usable(pool)


def test_timeouts_at_the_very_moment_of_the_end(pool, tally):
    # Either the result or the timeout; run once; and the next task is not hit.
    limited = pool.options(timeout=0.05)
    futures = [limited.submit(_tasks.note, tally, i, 0.04 + 0.0005 * (i % 40)) for i in range(80)]
    late = 0
    for i, future in enumerate(futures):
        error = future.exception(WATCHDOG)
        if error is None:
            assert future.result() == i
        else:
            _check_timeout(error)
            late += 1
    counts = tally.count()
    assert set(counts.values()) == {1}
    assert len(counts) >= 80 - late  # a late one may not have come to its first line
    check_usable(pool)


def test_timeout_is_not_retried(pool, tally):
    error = pool.options(timeout=0.3, retries=5).submit(_tasks.hang, tally).exception(WATCHDOG)
    _check_timeout(error)
    assert tally.count() == {"hangs": 1}


# ---- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_death_is_retried_so_often_and_no_more(pool, tally, retries):
    error = pool.options(retries=retries).submit(_tasks.note_and_die, tally, "victim").exception(WATCHDOG)
    assert type(error) is plait.WorkerDied
    assert error.tries == 1 + retries
    assert error.signal == signal.SIGKILL
    assert tally.count() == {"victim": 1 + retries}
    assert len(set(tally.pids())) == 1 + retries
    assert error.pid == tally.pids()[-1]
    check_usable(pool)


@pytest.mark.parametrize("deaths", [1, 2, 3])
def test_retry_that_succeeds(pool, tally, deaths):
    future = pool.options(retries=3).submit(_tasks.die_first, 5, deaths, tally, 5)
    assert future.result(WATCHDOG) == 5
    assert tally.count() == {"5": deaths + 1}


def test_retries_of_the_pool(tally):
    def tries(future):
        error = future.exception(WATCHDOG)
        assert isinstance(error, plait.WorkerDied)
        return error.tries

    with plait.ProcessPool(2, retries=2) as pool:
        assert tries(pool.submit(_tasks.note_and_die, tally, "default")) == 3
        assert tries(pool.options(retries=0).submit(_tasks.note_and_die, tally, "none")) == 1
        assert tries(pool.options(priority=1).submit(_tasks.note_and_die, tally, "inherited")) == 3
    assert tally.count() == {"default": 3, "none": 1, "inherited": 3}


def test_retry_of_every_kind_of_death(pool):
    insistent = pool.options(retries=1)
    for function, args in ((_tasks.exit_now, (4,)), (_tasks.segfault, ()), (_tasks.die, (signal.SIGTERM,))):
        error = insistent.submit(function, *args).exception(WATCHDOG)
        assert type(error) is plait.WorkerDied
        assert error.tries == 2


def test_errors_are_not_retried(pool, tally):
    future = pool.options(retries=5).submit(_tasks.fail_at, 1, 1, tally)
    assert type(future.exception(WATCHDOG)) is _tasks.Refusal
    assert tally.count() == {"1": 1}


def test_what_cannot_be_pickled_is_not_retried(pool, tally):
    def runs():
        return len(tally.rows())

    error = pool.options(retries=5).submit(_tasks.make_lock).exception(WATCHDOG)
    assert isinstance(error, plait.NotPicklable)
    assert runs() == 0


def test_kill_is_not_retried(pool, tally):
    future = pool.options(retries=5).submit(_tasks.hang, tally)
    tally.wait()
    assert future.kill() is True
    assert type(future.exception(WATCHDOG)) is plait.TaskCancelled
    check_usable(pool)
    time.sleep(0.1)
    assert tally.count() == {"hangs": 1}


def test_retry_sees_the_original_argument(pool, tally):
    # The first run changes its argument and dies.
    future = pool.options(retries=1).submit(_tasks.grow_and_die_first, [1], tally)
    assert future.result(WATCHDOG) == [1, 99]
    assert len(tally.rows()) == 2


def test_retry_sees_the_original_array(pool, tally):
    np = pytest.importorskip("numpy")
    future = pool.options(retries=1).submit(change_and_die_first, np.zeros(500_000), tally)
    assert future.result(WATCHDOG) == 0
    assert len(tally.rows()) == 2


def change_and_die_first(array, tally):
    before = array.sum()
    array += 1
    tally.note("ran")
    if len(tally.rows()) == 1:
        _tasks.die()
    return float(before)


def test_timeout_of_a_retry_counts_anew(pool, tally):
    # Each run takes 0.6 s of the allowed 1.5 s; three runs together take more.
    future = pool.options(timeout=1.5, retries=2).submit(nap_and_die_first, tally)
    assert future.result(WATCHDOG) == "third"
    assert len(tally.rows()) == 3


def nap_and_die_first(tally):
    tally.note("ran")
    time.sleep(0.6)
    if len(tally.rows()) < 3:
        _tasks.die()
    return "third"


# ---- priority ------------------------------------------------------------------------------------


def test_higher_priority_first_then_first_in_first_out(one, gate, tally):
    blocked = one.submit(_tasks.note_at_gate, tally, gate, "blocked")
    tally.wait()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    priorities = [chance.randint(-5, 5) for _ in range(300)]
    futures = [one.options(priority=p).submit(_tasks.note, tally, i) for i, p in enumerate(priorities)]
    gate.open()
    assert [f.result(WATCHDOG) for f in futures] == list(range(300))
    assert blocked.result(0) == "blocked"
    expected = sorted(range(300), key=lambda i: -priorities[i])  # stable: equal ones stay in order
    assert tally.order() == ["blocked", *map(str, expected)]


def test_default_priority_is_zero(one, gate, tally):
    one.submit(_tasks.note_at_gate, tally, gate, "blocked")
    tally.wait()
    futures = [
        one.submit(_tasks.note, tally, "default"),
        one.options(priority=-1).submit(_tasks.note, tally, "lower"),
        one.options(priority=0).submit(_tasks.note, tally, "zero"),
        one.options(priority=1).submit(_tasks.note, tally, "higher"),
        one.options(retries=1).submit(_tasks.note, tally, "other option"),
    ]
    gate.open()
    concurrent.futures.wait(futures, WATCHDOG)
    assert tally.order() == ["blocked", "higher", "default", "zero", "other", "lower"]


def test_urgent_task_overtakes_a_long_queue(one, gate, tally):
    one.submit(_tasks.note_at_gate, tally, gate, "blocked")
    tally.wait()
    queue = [one.submit(_tasks.note, tally, i) for i in range(5000)]
    urgent = [one.options(priority=10).submit(_tasks.note, tally, f"urgent{i}") for i in range(3)]
    gate.open()
    concurrent.futures.wait(queue + urgent, WATCHDOG)
    assert tally.order()[1:] == ["urgent0", "urgent1", "urgent2", *map(str, range(5000))]


def test_urgent_task_overtakes_a_map(one, gate, tally):
    one.submit(_tasks.note_at_gate, tally, gate, "blocked")
    tally.wait()
    results = one.map(functools.partial(_tasks.note, tally), range(100), chunksize=10)
    urgent = one.options(priority=1).submit(_tasks.note, tally, "urgent")
    lazy = one.options(priority=-1).map(functools.partial(_tasks.note, tally), ["later"] * 5, chunksize=1)
    gate.open()
    assert urgent.result(WATCHDOG) == "urgent"
    assert list(lazy) == ["later"] * 5
    assert list(results) == list(range(100))
    assert tally.order() == ["blocked", "urgent", *map(str, range(100)), *["later"] * 5]


def test_cancelled_and_killed_tasks_leave_the_order_alone(one, gate, tally):
    one.submit(_tasks.note_at_gate, tally, gate, "blocked")
    tally.wait()
    futures = [one.options(priority=i % 3).submit(_tasks.note, tally, i) for i in range(60)]
    for i in range(0, 60, 7):
        assert futures[i].cancel() is True
    for i in range(3, 60, 7):
        assert futures[i].kill() is True
    gate.open()
    concurrent.futures.wait(futures, WATCHDOG)
    left = [i for i in range(60) if i % 7 not in (0, 3)]
    assert tally.order()[1:] == [str(i) for i in sorted(left, key=lambda i: -(i % 3))]


@pytest.mark.parametrize("priority", [-(2**31), -1000, 1000, 2**31 - 1])
def test_priorities_of_any_size(one, priority):
    assert one.options(priority=priority).submit(_tasks.echo, 1).result(WATCHDOG) == 1


def test_retried_task_keeps_its_priority(one, gate, tally):
    one.submit(_tasks.note_at_gate, tally, gate, "blocked")
    tally.wait()
    low = [one.submit(_tasks.note, tally, f"low{i}") for i in range(5)]
    high = one.options(priority=5, retries=1).submit(_tasks.die_first, 7, 1, tally, 7)
    gate.open()
    assert high.result(WATCHDOG) == 7
    concurrent.futures.wait(low, WATCHDOG)
    assert tally.order() == ["blocked", "7", "7", "low0", "low1", "low2", "low3", "low4"]


# ---- per item of a chunk -------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [None, 1, 10, 30])
def test_retry_of_one_item_runs_that_item_again_and_no_other(pool, tally, chunksize, ordered):
    # Item 14 kills its worker in its first two runs. Finished neighbours keep their results, later ones move.
    function = functools.partial(_tasks.die_first, 14, 2, tally)
    results = pool.options(retries=2).map(function, range(30), chunksize=chunksize, ordered=ordered)
    assert (list if ordered else sorted)(results) == list(range(30))
    assert tally.count() == {**once_each(range(30)), "14": 3}


@pytest.mark.parametrize("chunksize", [1, 10])
def test_death_of_one_item_fails_that_item_only(pool, tally, chunksize):
    results = pool.map(functools.partial(_tasks.die_at, 4, tally), range(10), chunksize=chunksize)
    assert list(itertools.islice(results, 4)) == [0, 1, 2, 3]
    with pytest.raises(plait.WorkerDied) as caught:
        next(results)
    assert caught.value.index == 4
    assert caught.value.tries == 1
    assert caught.value.signal == signal.SIGKILL
    check_usable(pool)
    counts = tally.count()
    assert [counts[str(i)] for i in range(5)] == [1] * 5
    assert max(counts.values()) == 1


def test_the_index_is_that_of_the_item_in_the_input(pool, tally):
    results = pool.map(functools.partial(_tasks.die_at, 27, tally), range(40), chunksize=10)
    assert list(itertools.islice(results, 27)) == list(range(27))
    with pytest.raises(plait.WorkerDied) as caught:
        next(results)
    assert caught.value.index == 27


def test_items_after_a_dead_one_are_run_once_and_their_results_are_there(pool, tally):
    # Every item says that it ran; the dead one's chunk is 10 long, and all others finish although it fails.
    # Forgetting the iterator cancels nothing that runs, so wait for the runs themselves.
    results = pool.map(functools.partial(_tasks.die_at, 4, tally), range(10), chunksize=10)
    wait_until(lambda: len(tally.rows()) >= 10, "the items behind the dead one to be run by another worker")
    assert list(itertools.islice(results, 4)) == [0, 1, 2, 3]
    with pytest.raises(plait.WorkerDied):
        next(results)
    assert tally.count() == once_each(range(10))
    by_item = {row[0]: row[1] for row in tally.rows()}
    first, second = by_item["4"], by_item["5"]
    assert {by_item[str(i)] for i in range(5)} == {first}
    assert first not in {by_item[str(i)] for i in range(5, 10)}, "a dead worker runs nothing"
    assert second != first


@pytest.mark.parametrize("retries", [1, 2])
def test_item_that_always_dies_is_tried_exactly_so_often(pool, tally, retries):
    results = pool.options(retries=retries).map(functools.partial(_tasks.die_at, 4, tally), range(10), chunksize=10)
    wait_until(lambda: len(tally.rows()) >= 10 + retries, "all runs")
    assert list(itertools.islice(results, 4)) == [0, 1, 2, 3]
    with pytest.raises(plait.WorkerDied) as caught:
        next(results)
    assert caught.value.tries == 1 + retries
    assert tally.count() == {**once_each(range(10)), "4": 1 + retries}


def test_every_second_item_dies_once(tally):
    with plait.ProcessPool(2, retries=1) as pool:
        results = pool.map(functools.partial(die_once_if_even, tally), range(20), chunksize=5)
        assert list(results) == list(range(20))
    assert tally.count() == {str(i): 2 - i % 2 for i in range(20)}


def die_once_if_even(tally, value):
    tally.note(value)
    if value % 2 == 0 and tally.count()[str(value)] == 1:
        _tasks.die()
    return value


def test_timeout_is_per_item(pool, tally):
    # Ten items of 0.2 s in one chunk: 2 s together, 1 s allowed to each.
    results = pool.options(timeout=1).map(_tasks.nap, [0.2] * 10, range(10), chunksize=10)
    assert list(results) == list(range(10))


def test_timeout_of_one_item_in_a_chunk(pool, tally):
    results = pool.options(timeout=0.5).map(functools.partial(_tasks.hang_at, 4, tally), range(10), chunksize=10)
    wait_until(lambda: len(tally.rows()) >= 10, "the items behind the stuck one to be run by another worker")
    assert list(itertools.islice(results, 4)) == [0, 1, 2, 3]
    with pytest.raises(plait.TaskTimeout):
        next(results)
    assert tally.count() == once_each(range(10))
    check_usable(pool)


def test_timeout_of_the_map_is_not_that_of_an_item(pool):
    # `map(timeout=)` is the standard library's overall deadline, and kills nothing by itself.
    pids = {pool.submit(_tasks.pid).result(WATCHDOG)}
    results = pool.map(_tasks.nap, [0.1, 0.1, 1.0], timeout=0.5, chunksize=1)
    with pytest.raises(TimeoutError) as caught:
        list(results)
    assert type(caught.value) is not plait.TaskTimeout
    check_usable(pool)
    assert pids <= set(pool._processes)


def test_deaths_in_a_crowd_of_tiny_tasks(one, tally):
    # However many travel together: each victim fails alone, all others run once.
    futures = [one.submit(_tasks.die_at if i % 100 == 50 else _tasks.fail_at, *crowd(i, tally)) for i in range(1500)]
    for i, future in enumerate(futures):
        if i % 100 == 50:
            assert type(future.exception(WATCHDOG)) is plait.WorkerDied
        else:
            assert future.result(WATCHDOG) == i
    assert tally.count() == once_each(range(1500))


def crowd(i, tally):
    return (i, tally, i) if i % 100 == 50 else (-1, i, tally)


# ---- limits --------------------------------------------------------------------------------------


def test_limits_say_what_they_are():
    assert "1000000000" in repr(plait.Limits(memory=1_000_000_000)).replace("_", "").replace(",", "")
    with plait.ProcessPool(1, limits=plait.Limits()) as pool:
        check_usable(pool)


def test_limit_in_one_item_of_a_map(tally):
    mebibyte = 1 << 20
    with plait.ProcessPool(1, limits=plait.Limits(memory=300 * mebibyte)) as pool:
        sizes = [mebibyte, 2 * mebibyte, 1024 * mebibyte, mebibyte]
        results = pool.map(_tasks.take_memory, sizes, chunksize=4)
        assert list(itertools.islice(results, 2)) == sizes[:2]
        with pytest.raises(plait.LimitExceeded):
            next(results)
        check_usable(pool)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="of builds without the GIL")
@pytest.mark.filterwarnings("ignore:the process is forked")
def test_a_forked_worker_whose_allocator_has_more_than_the_limit(capfd):
    limits = plait.Limits(memory=300 << 20)
    with plait.ProcessPool(1, limits=limits, mp_context="fork") as pool, pytest.raises(BrokenProcessPool):
        pool.submit(len, "").result(WATCHDOG)
    assert "MIMALLOC_ARENA_RESERVE=0" in capfd.readouterr().err


def test_worker_died_can_be_pickled(pool):
    # It may be the result of a task in a pool in a worker.
    error = pool.submit(die_inside).exception(WATCHDOG)
    assert type(error) is plait.WorkerDied
    assert error.signal == signal.SIGKILL
    assert error.tries == 1
    assert error.pid not in (0, os.getpid())


def die_inside():
    with plait.ProcessPool(1) as pool:
        pool.submit(_tasks.die).result(WATCHDOG)
