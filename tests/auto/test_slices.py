"""Slices of calls that go to worker processes: all of them are made once, in whatever way they come back."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import itertools
import os
import pickle
import textwrap
import threading
import time

import pytest

import plait
from plait import _core
from plait._executor import MapArguments
from plait.auto import _calls
from plait.auto._calls import Call, Packed, Part
from plait.auto._choice import MODELS, Costs
from plait.auto._chunk import Chunk, Slot
from plait.auto._engine import Engine
from plait.auto._errors import Raised, Sent
from plait.auto._figures import Figures, Sample
from plait.auto._function import Function
from plait.auto._items import items_of
from plait.auto._map import MapFlow
from plait.auto._reads import Differs, Needs, setting_in
from tests.auto import bodies

WATCHDOG = 60
ARGUMENTS = MapArguments.check(None, None, True, None)
NEEDS = (Needs().message(first=True, anew=True, setting=setting_in(None)),)


def lines(path):
    with open(path, encoding="ascii") as file:
        return [int(line) for line in file]


def made_there(function, items, bare=True, step=1, patience=(10**12, 10**12)):
    outcomes, raised, sample = _calls.lot_in_process(function, items, bare, step, patience, NEEDS, measured=True)
    assert not isinstance(outcomes, Differs)
    assert Sample(*sample).calls == (len(outcomes.outcomes()) if isinstance(outcomes, Packed) else len(outcomes))
    return (outcomes.outcomes() if isinstance(outcomes, Packed) else [as_it_arrives(each) for each in outcomes]), raised


def as_it_arrives(outcome):
    return pickle.loads(pickle.dumps(outcome)) if isinstance(outcome, Sent) else outcome


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

    outcomes, _ = made_there(keep, list(range(10)), step=4, patience=(0, 0))
    assert outcomes == made == [0, 1, 2, 3]


@pytest.mark.parametrize("measured", [True, False])
def test_a_slice_that_is_given_back_tells_of_the_calls_that_are_otherwise(measured):
    """With those before them they would look like calls that nobody makes."""

    def turn(number):
        if number >= 6:
            time.sleep(0.05)
        return number

    outcomes, _, sample = _calls.lot_in_process(
        turn, list(range(20)), True, 2, (0, 20_000_000), NEEDS, measured=measured
    )
    assert outcomes == list(range(10))
    sample = Sample(*sample)
    assert sample.calls == 4
    assert sample.wall >= 200_000_000
    assert sample.cpu < 100_000_000


def test_a_slice_that_had_no_core_is_none_that_waits(monkeypatch):
    """Else calls that compute would look as if they waited, and be made by threads."""
    monkeypatch.setattr(_core, "thread_ready_ns", time.perf_counter_ns)  # as if what sleeps had no core
    _, _, sample = _calls.lot_in_process(time.sleep, [0.02] * 10, True, 2, (0, 10_000_000), NEEDS, measured=False)
    sample = Sample(*sample)
    assert sample.calls == 2
    assert sample.wall >= 40_000_000
    assert sample.alone < 20_000_000


@pytest.mark.skipif(_core.gil_tally() is None, reason="who has the GIL cannot be seen")
def test_a_slice_that_is_given_back_tells_who_has_the_gil():
    text = bytes(1 << 24)
    _, _, sample = _calls.lot_in_process(hashlib.sha256, [text] * 4, True, 2, (0, 0), NEEDS, measured=False)
    sample = Sample(*sample)
    assert sample.calls == 2
    assert 0 <= sample.held < sample.cpu / 2


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
        outcomes, raised = made_there([{"fine": 1}, [2, file], 3].__getitem__, [0, 1, 2])
    assert raised
    assert outcomes[0] == {"fine": 1}
    assert isinstance(outcomes[1], Raised)
    assert outcomes[2] == 3
    with plait.Pool(models=["processes"]) as pool:
        while pool.submit(bodies.pid_after, 30_000).result(WATCHDOG) == os.getpid():
            pass  # until there are processes
        results = pool.map(bodies.lock_late, range(2000))
        assert list(itertools.islice(results, 1900)) == list(range(1900))
        with pytest.raises(plait.NotPicklable, match="lock"):
            next(results)


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


def flow_of(count, *, ordered=True):
    engine = Engine(None, frozenset(MODELS), Costs())
    state = Function(bodies.square, engine.models, engine.machine, engine.costs)
    arguments = MapArguments.check(None, None, ordered, None)
    return MapFlow(bodies.square, state, engine, items_of((list(range(count)),), lazily=False), arguments)


def test_what_processes_have_not_begun_is_taken_back_when_others_make_the_calls():
    flow = flow_of(1_000)
    computes, waits = Sample(10, 10_000_000, 10_000_000, 10_000_000), Sample(10, 10_000_000, 10_000, 10_000)
    flow.state.figures.add(computes)
    begun, queued = concurrent.futures.Future[None](), concurrent.futures.Future[None]()
    assert begun.set_running_or_notify_cancel()
    flow._under_way.update({begun: None, queued: None})
    flow.state.decision = flow.state.decide(1_000, 0.0)
    assert flow.state.decision.plan.model == "processes"
    flow.state.begin_anew(waits)
    flow._decide()
    assert flow.state.decision.plan.model == "threads"
    flow._closed = True  # nothing more is handed over
    flow.fill()
    assert queued.cancelled()
    assert begun.running()


def told(flow):
    """What whoever takes results is given until an error comes."""
    came: list[int] = []
    while True:
        outcomes, _ = flow.next_outcomes(time.monotonic() + WATCHDOG)
        assert outcomes, "it ends as if that were all"
        for outcome in outcomes:
            if isinstance(outcome, Raised):
                assert isinstance(outcome.error, concurrent.futures.CancelledError)
                return came
            came.append(outcome)


def short(flow, part, made):
    """A slice comes back with so many outcomes."""
    flow.take_back(part, made)
    flow.deliver(part, part.items[:made], raised=False)


@pytest.mark.parametrize("ordered", [True, False])
def test_who_waits_for_a_cancelled_map_is_told_whatever_was_put_back(ordered):
    flow = flow_of(100, ordered=ordered)
    with flow.lock:
        first, second = flow.pop(10), flow.pop(10)
    short(flow, first, 2)
    short(flow, second, 1)
    flow.cancel()
    assert set(told(flow)) <= {0, 1, 10}

    flow = flow_of(100, ordered=ordered)
    with flow.lock:
        first, second = flow.pop(10), flow.pop(10)
    flow.cancel()
    with flow.lock:  # processes could not be started
        flow.keep(first)
        flow.keep(second)
    assert told(flow) == []

    flow = flow_of(100, ordered=ordered)
    with flow.lock:
        part = flow.pop(10)
    flow.cancel()
    short(flow, part, 3)
    assert set(told(flow)) <= {0, 1, 2}


class Message(concurrent.futures.Future[tuple[()]]):
    """A message, and what is done just before it is looked at what has become of it."""

    def __init__(self, flow, before):
        super().__init__()
        self._before = before
        flow.engine.take_seat = lambda _: None  # nobody makes what is left
        with flow.lock:
            self.part = flow.pop(10)
            flow._messages += 1
        flow._under_way[self] = None
        self.add_done_callback(functools.partial(flow._arrived, self.part))

    def result(self, timeout=None):
        self._before()
        return super().result(timeout)


def test_what_had_begun_is_not_made_again_though_it_was_to_be_taken_back():
    """A worker dies while what it makes is among those that are tried one after the other."""
    flow = flow_of(100)
    dies, queued = Message(flow, lambda: None), Message(flow, lambda: None)
    assert dies.set_running_or_notify_cancel()
    queued.add_done_callback(lambda _: dies.set_exception(plait.WorkerDied(task="square", pid=1, exitcode=1)))
    flow.recall()
    outcomes, raised = flow.next_outcomes(time.monotonic() + WATCHDOG)
    assert raised
    assert isinstance(outcomes[0].error, plait.WorkerDied)
    assert flow.waiting() == 90


def test_who_waits_for_a_cancelled_map_is_told_whoever_takes_back():
    flow = flow_of(100)
    came = []
    thread = threading.Thread(target=lambda: came.append(told(flow)))

    def wait():
        while flow._bell is None:
            time.sleep(0.001)

    def cancel():
        flow.cancel()
        wait()

    queued = Message(flow, cancel)
    with flow.lock:
        flow._recalled.add(queued)  # somebody else does that
    thread.start()
    wait()
    assert queued.cancel()
    thread.join(WATCHDOG / 10)
    assert came == [[]]


@pytest.mark.parametrize("ordered", [True, False])
def test_who_waits_for_a_cancelled_map_is_told_of_what_was_not_pulled(ordered):
    with plait.Pool() as pool:
        results = pool.map(bodies.nap, [0.05] * 100, buffersize=2, ordered=ordered)
        next(results)
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(concurrent.futures.CancelledError):
            list(results)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_cancelled_map_of_which_all_was_pulled_ends_as_ever(ordered):
    flow = lazy_flow(range(8), 8, ordered=ordered)
    for number in range(8):
        done(flow, [number])
    flow.cancel()
    assert [flow.next_outcomes(None)[0] for _ in range(5)] == [[0, 1], [2, 3], [4, 5], [6, 7], []]


def lazy_flow(items, window, *, ordered=True):
    """One whose items are pulled, so many at a time."""
    engine = Engine(None, frozenset(MODELS), Costs())
    state = Function(bodies.square, engine.models, engine.machine, engine.costs)
    arguments = MapArguments.check(None, window, ordered, None)
    flow = MapFlow(bodies.square, state, engine, items_of((items,), lazily=True), arguments)
    flow._pull()
    return flow


def done(flow, outcomes):
    """The next item's outcomes are there."""
    with flow.lock:
        _, slot = flow._take(1)
    flow._put(slot, outcomes, raised=False)


def test_what_is_handed_on_together_leaves_others_something_to_do():
    flow = lazy_flow(range(100), 8)
    for number in range(8):
        done(flow, [number])
    with flow.lock:
        assert flow._take_outcomes() == ([0, 1], False)


def test_large_results_are_not_kept_with_small_ones():
    flow = flow_of(100)
    large = [[1]]
    for outcomes in ([0], [1], large, [[2]], [3]):
        done(flow, outcomes)
    with flow.lock:
        assert [flow._take_outcomes()[0] for _ in range(3)] == [[0, 1], [[1], [2]], [3]]
    flow = flow_of(100)
    more = [[2]]
    for outcomes in ([[1]], more):
        done(flow, outcomes)
    with flow.lock:
        assert flow._take_outcomes()[0] == [[1], [2]]
    assert not more, "whoever made it may have it still"


def test_what_is_awaited_first_is_taken_first_of_what_was_put_back():
    flow = flow_of(100)
    with flow.lock:
        parts = [flow.pop(10) for _ in range(3)]
    for part in (parts[1], parts[2], parts[0]):
        short(flow, part, 5)
    with flow.lock:
        taken = [flow.pop(5).items for _ in range(4)]
    assert taken == [[5, 6, 7, 8, 9], [15, 16, 17, 18, 19], [25, 26, 27, 28, 29], [30, 31, 32, 33, 34]]


@pytest.mark.parametrize("gil", [True, False] if _core.gil_is_on() else [False])
def test_what_is_taken_back_from_a_chunk_is_made_by_nobody_else(gil):
    for turn in range(100):
        chunk = Chunk(list(range(200)), True, Slot(), False, gil)
        backs: list[list[int]] = []

        def take_back(chunk=chunk, backs=backs, turn=turn):
            for _ in range(turn * 20):
                pass
            backs.append(chunk.take_back())

        thread = threading.Thread(target=take_back)
        thread.start()
        made = chunk.make(bodies.square)
        thread.join()
        assert made + [bodies.square(item) for item in backs[0]] == [bodies.square(item) for item in range(200)]
        assert not backs[0] or chunk.rest(len(made)) == []


def test_calls_do_not_wait_for_processes_that_start_slowly(run_script):
    source = """
        import os
        import time
        import plait
        if __name__ != "__main__":
            time.sleep(5)

        def work(number):
            return sum(range(20_000)) + number, os.getpid()

        if __name__ == "__main__":
            with plait.Pool(models=["processes"]) as pool:
                # In this process, all of them.
                assert list(pool.map(work, range(1500))) == [work(number) for number in range(1500)]
    """
    run_script(textwrap.dedent(source), timeout=WATCHDOG)


@pytest.mark.parametrize("models", [["processes"], ["serial", "processes"]])
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
        list(pool.map(bodies.nap, [0.002] * 4))
        assert pool.explain(bodies.nap)["workers"] <= 4
        list(pool.map(bodies.nap, [0.002] * 1000))
        assert pool.explain(bodies.nap)["workers"] > 4


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


def test_slices_are_as_long_as_calls_are_where_they_are_made():
    with plait.Pool(models=["processes"]) as pool:
        state, _ = pool._known(bodies.square)
        state.figures.add(Sample(calls=1, wall=10_000_000, cpu=10_000_000))
        flow = MapFlow(bodies.square, state, pool._engine, items_of((range(1000),), lazily=False), ARGUMENTS)
        state.decide(1000, 0.0)
        before = flow._batch()
        for _ in range(2):
            state.crowd.add(Sample(calls=10, wall=10_000_000, cpu=10_000_000))
        assert before == 2
        assert flow._batch() > 10


@pytest.mark.parametrize("measured", [True, False])
def test_what_calls_took_is_told_where_it_is_asked_for(measured):
    several = _calls.in_process([(pow, (2, 3), {}), (int, ("11",), {"base": 3})], NEEDS, measured)
    slice_ = _calls.lot_in_process(bodies.square, [2, 3], True, 1, (10**12, 10**12), NEEDS, measured)
    for found, outcomes in ((several, [8, 4]), (slice_, [4, 9])):
        assert found[:2] == (outcomes, False)
        assert [Sample(*found[2]).calls] == [2] if measured else found[2] == ()


def test_short_messages_whose_calls_are_known_are_measured_now_and_then():
    with plait.Pool() as pool:
        state, backlog = pool._known(bodies.spin)
        part = Part([Call(bodies.spin, (1,), {})], [None])
        state.figures.add(Sample(calls=1, wall=1_000_000, cpu=1_000_000))
        assert all(backlog._is_measured(part) for _ in range(20)), "nobody knows what they take there"
        for _ in range(20):
            state.crowd.add(Sample(calls=1, wall=1_000_000, cpu=1_000_000))
        assert sum(backlog._is_measured(part) for _ in range(40)) == 10
        assert all(backlog._is_measured(Part(part.calls * 100, [None] * 100)) for _ in range(20)), "long ones"
        state.unproven = Figures()
        assert all(backlog._is_measured(part) for _ in range(20)), "they are held against what other pools have left"
