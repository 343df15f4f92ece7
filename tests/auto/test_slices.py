"""Slices of calls that go to worker processes: all of them are made once, in whatever way they come back."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pickle
import textwrap
import time

import pytest

import plait
from plait.auto import _calls
from plait.auto._calls import Packed, Raised
from tests.auto import bodies

WATCHDOG = 60


def lines(path):
    with open(path, encoding="ascii") as file:
        return [int(line) for line in file]


def made_there(function, items, bare=True, step=1, most=10**12):
    outcomes, raised, sample = _calls.lot_in_process(function, items, bare, step, most)
    assert sample.calls == (len(outcomes.outcomes()) if isinstance(outcomes, Packed) else len(outcomes))
    return (outcomes.outcomes() if isinstance(outcomes, Packed) else outcomes), raised


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_slice_gives_an_outcome_for_each_item(step):
    assert made_there(bodies.square, list(range(10)), step=step) == ([n * n for n in range(10)], False)
    assert made_there(pow, [(2, 3), (3, 2)], bare=False, step=step) == ([8, 9], False)
    outcomes, raised = made_there(bodies.refuse, list(range(10)), step=step)
    assert raised
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Raised)] == [3]


def test_a_slice_that_takes_too_long_gives_back_what_has_not_begun():
    made = []

    def keep(number):
        made.append(number)
        return number

    outcomes, _ = made_there(keep, list(range(10)), step=4, most=0)
    assert outcomes == made == [0, 1, 2, 3]


def test_a_call_that_raises_stop_iteration_ends_no_slice():
    def stop(number):
        if number == 1:
            raise StopIteration
        return number

    outcomes, raised = made_there(stop, [0, 1, 2])
    assert raised
    assert [outcomes[0], outcomes[2]] == [0, 2]
    assert isinstance(pickle.loads(pickle.dumps(outcomes[1].error)), RuntimeError)  # as it arrives


@pytest.mark.parametrize(
    "results",
    [[{"a": [1, "b"]}, [2]], [{1: 2}, 3, None], [(1, {2}), frozenset({3})], [complex(1, 2), b"x"]],
)
def test_results_travel_as_they_are(results):
    assert made_there(results.__getitem__, list(range(len(results)))) == (results, False)


def test_a_result_that_cannot_travel_costs_no_other():
    with open(os.devnull, "rb") as file:
        outcomes, _ = made_there([{"fine": 1}, [2, file], 3].__getitem__, [0, 1, 2])
    assert outcomes[0] == {"fine": 1}
    assert isinstance(outcomes[1], Raised)
    assert outcomes[2] == 3


def test_calls_that_suddenly_wait_are_made_once_and_come_in_order(tmp_path):
    path = str(tmp_path / "calls")
    with plait.Pool(models=["processes"]) as pool:
        results = list(pool.map(functools.partial(bodies.note_and_change, path), range(400)))
    assert results == list(range(400))
    assert sorted(lines(path)) == list(range(400))


def test_what_a_cancelled_map_has_left_is_told(tmp_path):
    path = str(tmp_path / "calls")
    pool = plait.Pool(models=["processes"])
    results = pool.map(functools.partial(bodies.note_and_change, path), range(400))
    for _ in range(160):  # the slices under way take far longer than thought
        next(results)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        list(results)
    pool.shutdown()
    made = lines(path)
    assert len(made) == len(set(made))


@pytest.mark.parametrize("models", [["processes"], ["serial", "threads", "processes"]])
def test_calls_are_made_here_where_processes_do_not_start(models, run_script):
    source = """
        import plait
        if __name__ != "__main__":
            raise ImportError("a worker cannot import this")

        def work(number):
            return sum(range(20_000)) + number

        if __name__ == "__main__":
            with plait.Pool(models=%r) as pool:
                assert list(pool.map(work, range(2000))) == [work(number) for number in range(2000)]
                futures = [pool.submit(work, number) for number in range(50)]
                assert [future.result() for future in futures] == [work(number) for number in range(50)]
                assert "do not start" in pool.explain(work)["refused"]["processes"]
    """
    run_script(textwrap.dedent(source % models), timeout=WATCHDOG)


def test_what_may_not_leave_runs_here_where_nothing_else_is_allowed():
    seen = []

    def keep(number):
        seen.append(number)
        return number

    with plait.Pool(models=["processes"]) as pool:
        assert list(pool.map(keep, range(100))) == list(range(100))
        assert pool.submit(keep, 100).result(WATCHDOG) == 100
    assert seen == list(range(101))


def test_many_calls_are_decided_for_anew_after_few():
    with plait.Pool() as pool:
        list(pool.map(bodies.nap, [0.002] * 20))
        few = pool.explain(bodies.nap)["workers"]
        list(pool.map(bodies.nap, [0.002] * 2000))
        assert pool.explain(bodies.nap)["workers"] > few
        assert pool.explain(bodies.nap)["workers"] > 16


def test_submitted_calls_become_many():
    with plait.Pool() as pool:
        for _ in range(20):
            pool.submit(bodies.nap, 0.002).result(WATCHDOG)
        began = time.monotonic()
        futures = [pool.submit(bodies.nap, 0.002) for _ in range(2000)]
        for future in futures:
            future.result(WATCHDOG)
        assert time.monotonic() - began < WATCHDOG
        assert pool.explain(bodies.nap)["workers"] > 4
