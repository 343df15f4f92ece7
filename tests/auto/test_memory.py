"""What one pool has learnt of a function, and the next one begins with."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import types
import weakref
from typing import Any

import pytest

import plait
from plait import _core
from plait.auto import _memory
from plait.auto._backlog import Backlog
from plait.auto._calls import Shape
from plait.auto._choice import Costs, Machine, Plan
from plait.auto._engine import Engine
from plait.auto._explain import explain
from plait.auto._figures import Figures, Sample
from plait.auto._function import Function
from plait.auto._meter import Meter
from plait.auto._paces import Paces
from tests.auto import bodies

WATCHDOG = 60


def own(function: Any) -> Any:
    """The same function with code of its own, which nobody knows."""
    code = function.__code__.replace()
    assert code is not function.__code__
    return types.FunctionType(code, function.__globals__)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_for(event: threading.Event) -> bool:
    return event.wait(WATCHDOG)


def run(function: Any, items: list[Any]) -> Any:
    with plait.Pool() as pool:
        list(pool.map(function, items))
        return pool.explain(function)


def begun(pool: plait.Pool, function: Any, calls: int) -> Any:
    """What a pool knows of a function as it begins with so many calls of it."""
    state, backlog = pool._known(function)
    backlog._seen = calls
    backlog.take_up()
    return state


def test_threads_that_will_wait_are_there_from_the_start():
    function = own(nap)
    found = run(function, [0.005] * 200)
    assert found["model"] == "threads"
    with plait.Pool() as pool:
        state = begun(pool, function, 200)
        assert state.decision is not None
        assert state.decision.plan.key >= ("threads", 16)
        assert not state.figures.calls, "none was seen here"
        assert pool.submit(function, 0.001).result(WATCHDOG) == 0.001


def learn(function: Any, *samples: Sample, model: str = "", calls: int = 0) -> None:
    """Have a pool leave what it has learnt, and by which model most of the work was done."""
    figures = Figures()
    for sample in samples:
        figures.add(sample)
    _memory.keep(function.__code__, _memory.Learnt(figures, Paces(), Shape((int,)), model, calls))


COMPUTES = Sample(calls=10, wall=10_000_000, cpu=10_000_000, held=10_000_000)


def test_processes_start_while_calls_are_learnt():
    function = bodies.pid_after
    learn(function, COMPUTES)
    with plait.Pool() as pool:
        state = begun(pool, function, 400)
        assert pool._engine.processes_take()
        assert state.decision is None, "nobody knows whether these few calls were like others"
        assert not state.figures.samples, "how long they take is learnt as ever"
        assert not state.recalls(400, 0.006, list), "it begins but once"
        assert pool.submit(function, 1).result(WATCHDOG)


@pytest.mark.parametrize(
    ("sample", "model"),
    [(COMPUTES, "processes"), (Sample(calls=1, wall=50_000_000, cpu=50_000_000, held=50_000_000), "serial")],
    ids=["made there before", "long"],
)
def test_calls_are_handed_to_processes_at_once(sample, model):
    """One of them made here first would have a core that processes need, and what it tells is known."""
    function = bodies.pid_after
    learn(function, sample, model=model)
    with plait.Pool() as pool:
        state = begun(pool, function, 400)
        assert state.decision is not None
        assert state.decision.plan.model == "processes"
        assert not state.figures.calls, "none was seen here"
        made = set(pool.map(function, [20_000] * 400))
        assert made - {os.getpid()}
        assert len(made) <= 3


def test_calls_that_have_computed_and_do_not_any_more_are_learnt_anew():
    """What was much work for other arguments is none for these."""
    function = bodies.square
    learn(function, COMPUTES, model="processes")
    with plait.Pool() as pool:
        assert list(pool.map(function, range(300_000))) == [number * number for number in range(300_000)]
        state, _ = pool._known(function)
        assert state.figures.wall < 1e-4
        assert state.decision is not None


def test_a_function_that_may_not_leave_any_more_stays():
    learn(bodies.hides_a_global, COMPUTES, model="processes")
    with plait.Pool() as pool:
        state, _ = pool._known(bodies.hides_a_global)
        state.refused["processes"] = "may not leave this process"
        assert not state.recalls(400, 0.006, list)
        assert not state.figures.samples


@pytest.mark.parametrize(("seconds", "model"), [(0.4, "processes"), (1.2, None)], ids=["as thought", "slow"])
def test_processes_that_were_slow_are_not_begun_with(seconds, model):
    """Else no pool would ever see again that threads are as fast."""
    function = own(bodies.spin)
    learn(function, Sample(calls=10, wall=10_000_000, cpu=10_000_000, held=5_000_000), model="processes")
    seen = _memory.recall(function.__code__)
    assert seen is not None
    plan = Plan("processes", 2, 0.0)
    for _ in range(3):
        seen.paces.add(*plan.key, 1_000, seconds, 0.0005, seen.figures)
    _memory.keep(function.__code__, seen)
    with plait.Pool(2, models=("processes", "threads")) as pool:
        decision = begun(pool, function, 1_000).decision
        assert (decision and decision.plan.model) == model


def test_results_are_not_kept_by_who_was_handed_calls_early():
    function = bodies.pid_after
    learn(function, COMPUTES, model="processes")
    with plait.Pool() as pool:
        futures = [pool.submit(function, 20_000) for _ in range(200)]
        assert {future.result(WATCHDOG) for future in futures} - {os.getpid()}
        assert not pool._known(function)[1]._under_way


def test_few_calls_are_not_begun_like_many():
    function = bodies.pid_after
    learn(function, COMPUTES)
    with plait.Pool() as pool:
        state, _ = pool._known(function)
        assert not state.recalls(1, 0.1, list)
        assert state.prior is not None, "more may come"


def test_the_caller_makes_no_call_before_one_was_seen():
    """It was short elsewhere, and may wait here for what the caller does next."""
    function, done = own(wait_for), threading.Event()
    done.set()
    run(function, [done] * 2_000)
    with plait.Pool() as pool:
        event = threading.Event()
        given = pool.map(function, [event] * 3)
        event.set()
        assert list(given) == [True] * 3


@pytest.mark.parametrize("why", ["", "stays", "changes", "others"])
def test_what_is_not_remembered(why):
    function = own(bodies.spin)
    models = ["serial", "threads", "processes"][: 2 if why == "others" else 3]
    with plait.Pool(models=models) as pool:
        list(pool.map(function, [100] * 2_000))
        state, _ = pool._known(function)
        if why == "stays":
            state.refused["processes"] = "returns what cannot be pickled"
        if why == "changes":
            state.begin_anew(Sample(calls=1, wall=10**9, cpu=10**9))
    assert (_memory.recall(function.__code__) is None) == bool(why)


def test_a_pool_that_is_not_waited_for_leaves_it_too():
    function = own(bodies.spin)
    pool = plait.Pool()
    given = pool.map(function, [100] * 2_000)
    pool.shutdown(wait=False)
    assert len(list(given)) == 2_000
    end = time.monotonic() + WATCHDOG
    while _memory.recall(function.__code__) is None and time.monotonic() < end:
        time.sleep(0.01)
    assert _memory.recall(function.__code__) is not None
    learn(function, COMPUTES, calls=7)
    pool.shutdown()
    found = _memory.recall(function.__code__)
    assert found is not None
    assert found.calls == 7, "others know better by now"


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """What is remembered, and nothing of what other tests have left."""
    mine: dict[int, Any] = {}
    monkeypatch.setattr(_memory, "_learnt", mine)
    return mine


def test_what_is_gone_is_forgotten(learnt):
    function = own(bodies.spin)
    learn(function, COMPUTES)
    key = id(function.__code__)
    assert key in learnt
    del function
    gc.collect()
    assert key not in learnt


def of_a_local_class(*, by_name: bool) -> tuple[weakref.ref[Any], int, types.FunctionType]:
    """Leave what was learnt of a method of a class (its key is told), and of a function that takes its objects."""

    class Local:
        def work(self) -> None:
            pass

    Local.work.__code__ = Local.work.__code__.replace()  # which nobody else has
    function = own(nap)
    shape = Shape((), (("seconds", Local),)) if by_name else Shape((Local,))
    for code in (Local.work.__code__, function.__code__):
        _memory.keep(code, _memory.Learnt(Figures(), Paces(), shape, "", 0))
        found = _memory.recall(code)
        assert found is not None
        assert found.shape == shape
    return weakref.ref(Local), id(Local.work.__code__), function


@pytest.mark.parametrize("by_name", [False, True])
def test_classes_of_arguments_are_not_kept(by_name, learnt):
    local, key, function = of_a_local_class(by_name=by_name)
    gc.collect()
    assert local() is None
    assert key not in learnt, "a class has the code of its methods"
    assert id(function.__code__) in learnt
    assert _memory.recall(function.__code__) is None, "nobody can give it such arguments any more"


def cached(at_hand: bool) -> int:
    if not at_hand:
        time.sleep(0.005)
    return 1


def computes(at_once: bool) -> int:
    if not at_once:
        time.sleep(0.005)
        return 1
    return sum(range(50_000))


@pytest.mark.skipif(_core.gil_is_on() and _core.gil_tally() is None, reason="waits for the GIL are not seen")
@pytest.mark.parametrize("way", ["map", "submit"])
@pytest.mark.parametrize("body", [cached, computes])
def test_calls_that_have_waited_and_do_not_any_more_are_learnt_anew(body, way):
    """What they have waited for is at hand now, or several functions have this code."""
    function = own(body)
    assert run(function, [False] * 300)["model"] == "threads"
    with plait.Pool() as pool:
        items = [True] * (10_000 if body is cached else 1_000)
        if way == "map":
            given = list(pool.map(function, items))
        else:
            given = [future.result(WATCHDOG) for future in [pool.submit(function, item) for item in items]]
        assert len(given) == len(items)
        for flow in pool._engine.flows():
            flow.tell_made()
        state, _ = pool._known(function)
        assert state.anew
        crowded = sum(made.calls for (model, _), made in state.made.items() if model == "threads")
    assert crowded < len(items) / 2


def test_what_is_still_so_is_proven_and_kept():
    function = own(nap)
    run(function, [0.005] * 200)
    with plait.Pool() as pool:
        assert list(pool.map(function, [0.005] * 300)) == [0.005] * 300
        state, _ = pool._known(function)
        assert state.unproven is None
        assert not state.anew


@pytest.mark.usefixtures("learnt")
def test_the_oldest_are_forgotten_first(monkeypatch):
    monkeypatch.setattr(_memory, "_MOST", 3)
    codes = [own(bodies.spin).__code__ for _ in range(5)]
    learnt = _memory.Learnt(Figures(), Paces(), Shape(()), "", 0)
    for code in codes:
        _memory.keep(code, learnt)
    assert [code for code in codes if _memory.recall(code) == learnt] == codes[2:]


# ---- first calls, where much is new


class Slow:
    """Computes at its first call and waits in all of them."""

    def __init__(self) -> None:
        self.began = False

    def __call__(self, number: int) -> int:
        if not self.began:
            self.began = True
            end = time.thread_time() + 0.01
            while time.thread_time() < end:
                pass
        time.sleep(0.004)
        return number


def test_a_first_call_that_computes_is_not_what_all_are_taken_for():
    """They wait: with as many threads as calls that compute for so long would need, they would take ten times as long."""
    slow = Slow()
    with plait.Pool() as pool:
        assert list(pool.map(slow, range(400))) == list(range(400))
        found = pool.explain(slow)
    assert found["figures"]["calls"] > 0, "calls were seen, though the first was decided on before it ended"
    assert found["model"] == "threads"
    assert found["workers"] >= 8


def test_figures_of_first_calls_are_held_against_a_crowd():
    figures, crowd = Figures(), Figures()
    figures.size, figures.pickling = 100, 1e-6
    figures.add(Sample(calls=1, wall=8_000_000, cpu=3_000_000, held=2_000_000))
    for _ in range(3):
        assert not figures.are_of_first_calls(crowd)
        crowd.add(Sample(calls=2, wall=12_000_000, cpu=600_000))
    assert figures.are_of_first_calls(crowd)
    found = figures.recalled(crowd)
    assert (found.calls, found.size, found.pickling) == (1, 100, 1e-6)
    assert found.cpu == pytest.approx(0.0003, abs=1e-8)
    assert found.held == pytest.approx(0.0002, abs=1e-8)
    assert found.wall == pytest.approx(0.006, abs=1e-8)
    assert not found.are_of_first_calls(crowd)


def test_people_are_told_what_all_calls_took():
    """Beside what they see, the first one, or those of a crowd that wait for cores, are no figures of a call."""
    state, _ = _state_and_engine()
    for took in (8_000_000, 4_000_000):
        seen = Sample(calls=1, wall=took + 1_000_000, cpu=took, held=2_000_000, ready=1_000_000)
        state.total = seen if state.total is None else state.total.with_more(seen)
    state.figures.add(Sample(calls=1, wall=8_000_000, cpu=8_000_000, held=8_000_000))
    state.decide(2, 0.0)
    state.count(2, 0)
    found = explain(state)
    assert found["figures"]["wall"] == found["figures"]["cpu"] == pytest.approx(0.006)
    assert found["figures"]["held"] == pytest.approx(0.002)
    assert found["predicted"]["serial"] == pytest.approx(0.012)
    assert found["made"] == {"serial": 2}


def test_people_are_told_that_another_model_would_have_been_better():
    engine = Engine(None, frozenset(["serial", "threads"]), Costs())
    state = Function(nap, engine.models, Machine(2, None), engine.costs)
    state.figures.add(Sample(calls=1, wall=8_000_000, cpu=8_000_000, held=8_000_000))
    state.decide(100, 0.0)
    state.count(100, 0)
    state.total = Sample(calls=100, wall=800_000_000, cpu=1_000_000, held=1_000_000)
    found = explain(state)
    assert found["model"] == "serial"
    assert "threads would take less" in found["why"]
    assert found["predicted"]["threads"] < found["predicted"]["serial"]


def test_people_are_not_told_that_a_model_is_better_than_itself():
    """So little is gained by processes for a few short calls that they are not taken."""
    engine = Engine(None, frozenset(["serial", "processes"]), Costs())
    state = Function(nap, engine.models, Machine(2, None), engine.costs)
    for _ in range(3):
        state.figures.add(Sample(calls=10, wall=10_000, cpu=10_000, held=10_000))
    state.check()  # reads the function, which takes its time before processes
    state.decide(30, 0.0)
    state.count(30, 0)
    found = explain(state)
    assert found["model"] == "serial"
    assert found["predicted"]["processes"] < 0.8 * found["predicted"]["serial"]
    assert "would take less" not in found["why"]


def test_before_any_call_is_made_nobody_has_made_one():
    state, _ = _state_and_engine()
    state.figures.add(Sample(calls=1, wall=8_000_000, cpu=8_000_000, held=8_000_000))
    state.decide(2, 0.0)
    assert explain(state)["made"] == {}
    assert "made:" not in str(explain(state))


def test_what_children_compute_is_not_missed_in_a_crowd():
    """There nobody knows whose children they were."""
    figures, crowd = Figures(), Figures()
    figures.add(Sample(calls=1, wall=2_000_000, cpu=1_900_000, held=100_000, children=1_500_000))
    for _ in range(3):
        crowd.add(Sample(calls=2, wall=8_000_000, cpu=800_000))
    assert not figures.are_of_first_calls(crowd)
    assert figures.recalled(crowd).cpu == pytest.approx(0.0019)
    assert figures.recalled(crowd).blocked == pytest.approx(0.0001, abs=1e-8)


def test_figures_grow_with_calls_that_compute_without_the_gil():
    """Calls with ever larger arguments are no sign that threads are slow."""
    figures, crowd, holds = Figures(), Figures(), Figures()
    figures.add(Sample(calls=10, wall=10_000_000, cpu=9_000_000, held=1_000_000))
    holds.add(Sample(calls=10, wall=10_000_000, cpu=9_000_000, held=9_000_000))
    for cpu in (6_000_000, 6_000_000, 12_000_000, 12_000_000):
        assert not figures.are_short_beside(crowd, take_turns=True)
        crowd.add(Sample(calls=5, wall=20_000_000, cpu=cpu))
    assert figures.are_short_beside(crowd, take_turns=True)
    assert not holds.are_short_beside(crowd, take_turns=True)
    assert holds.are_short_beside(crowd, take_turns=False), "in processes they do not"
    found = figures.grown(crowd)
    assert (found.wall, found.cpu, found.held) == pytest.approx((0.002, 0.0018, 0.0002))
    crowd.has_grown()
    assert not found.are_short_beside(crowd, take_turns=True)


def test_calls_that_take_longer_in_a_crowd_have_not_grown():
    """They wait for one another in the kernel, or for memory: threads are slow."""
    figures, crowd = Figures(), Figures()
    figures.add(Sample(calls=10, wall=10_000_000, cpu=9_000_000, held=1_000_000))
    for _ in range(40):
        crowd.add(Sample(calls=5, wall=20_000_000, cpu=12_000_000))
        assert not figures.are_short_beside(crowd, take_turns=True)
    crowd.forget()
    crowd.add(Sample(calls=5, wall=20_000_000, cpu=5_000_000))
    assert crowd.growth == 1.0, "another plan's"


def test_a_plan_whose_calls_have_grown_was_not_slow():
    """What was seen of others, which made shorter calls, is as true of longer ones."""
    paces, short, long = Paces(), Figures(), Figures()
    short.add(Sample(calls=10, wall=10_000_000, cpu=10_000_000))
    long.add(Sample(calls=10, wall=15_000_000, cpu=15_000_000))
    for plan, seconds in (("threads", 2), 0.5), (("processes", 2), 0.75):
        for _ in range(20):
            paces.add(*plan, 1_000, seconds, 0.0005, short)
    slow = paces.factor("processes", 2, released=1.0)
    assert slow == pytest.approx(1.5, rel=0.1)
    paces.grew("processes", 2, 1.5)
    assert paces.factor("processes", 2, released=1.0) == pytest.approx(1.0, rel=0.1)
    assert paces.seconds("processes", 2, long) == pytest.approx(0.00075, rel=0.1), "as it was seen"
    assert paces.factor("threads", 2, released=1.0) == pytest.approx(1.0, rel=0.05)
    assert paces.seconds("threads", 2, long) == pytest.approx(0.00075, rel=0.05)
    paces.check(long.wall)
    assert paces.saw("threads"), "nothing is forgotten"
    paces.grew("threads", 8, 1.5)
    assert not paces.of_threads(long) or paces.of_threads(long)[0][0] == 2, "nobody has tried so many"


def test_paces_are_looked_at_again_by_the_next_pool():
    paces, figures = Paces(), Figures()
    figures.add(Sample(calls=10, wall=10_000_000, cpu=1_000_000))
    for plan in (("threads", 8), ("threads", 2)):
        for _ in range(5):
            paces.add(*plan, 100, 0.4, 0.001, figures)
        assert not paces.wants(*plan)
    again = paces.copy().recalled()
    for plan in (("threads", 8), ("threads", 2)):
        assert again.wants(*plan)
        assert not paces.wants(*plan)
        assert 2 < again.factor(*plan, 0.0) < paces.factor(*plan, 0.0), "it was slow for once, perhaps"
        each, before = again.seconds(*plan, figures), paces.seconds(*plan, figures)
        assert each is not None
        assert before is not None
        assert each / before == pytest.approx(again.factor(*plan, 0.0) / paces.factor(*plan, 0.0))


@pytest.mark.parametrize("long_first", [True, False])
def test_paces_of_calls_of_other_lengths_are_told_apart(long_first):
    """Calls that are as fast as was predicted look neither slow nor fast, since others have taken longer, or less."""
    lengths = [1e-4, 5e-2] if not long_first else [5e-2, 1e-4]
    paces, plan = Paces(), ("threads", 2)
    for wall in lengths:
        figures = Figures()
        figures.add(Sample(10, *[int(1e10 * wall)] * 2))
        paces = paces.recalled()
        for _ in range(3):
            calls = max(8, int(0.02 / wall * 2))
            paces.add(*plan, calls, calls * wall / 2, wall / 2, figures)
        assert paces.factor(*plan, 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("lasting", [True, False])
def test_a_function_that_makes_garbage_is_known_in_the_end(monkeypatch, lasting):
    """Though each `map` of it is over after few calls."""
    monkeypatch.setattr(Meter, "has_collected", lambda _: True)
    function = own(nap)
    with plait.Pool(models=["serial", "threads"]) as pool:
        for _ in range(20):
            list(pool.map(function, [0.001] * (20 if lasting else 1)))
        assert pool._known(function)[0].decision is not None


def test_waits_for_a_core_are_none_of_calls_that_are_learnt_from_afterwards(monkeypatch):
    """Those of calls that were not learnt from."""
    flow = Backlog(*_state_and_engine())
    monkeypatch.setattr(flow.state, "known", lambda *, soon: soon)  # however long it takes here
    ready = [0]
    monkeypatch.setattr(_core, "thread_ready_ns", lambda: ready[0])
    meter = Meter()
    meter.start()
    for collected in (False, True, False):
        monkeypatch.setattr(Meter, "has_collected", lambda _, collected=collected: collected)
        ready[0] += 10_000_000 * collected
        began = time.perf_counter_ns()
        time.sleep(0.002)
        meter.ended(1, began)
        flow._learn(meter)
    assert [sample.ready for sample in flow.state.figures.samples] == [0, 0]


@pytest.mark.parametrize(("seconds", "kept"), [(0.002, 0), (0.03, 1)], ids=["short", "long"])
def test_a_first_call_in_which_garbage_was_collected_is_believed_only_if_it_was_long(monkeypatch, seconds, kept):
    """It would look like many a call; and to go without a long one may take as long again."""
    monkeypatch.setattr(Meter, "has_collected", lambda _: True)
    flow, meter = Backlog(*_state_and_engine()), Meter()
    meter.start()
    began = time.perf_counter_ns() - int(1e9 * seconds)
    meter.ended(1, began)
    flow._learn(meter)
    assert len(flow.state.figures.samples) == kept


def _state_and_engine():
    engine = Engine(None, frozenset(["serial"]), Costs())
    return Function(nap, engine.models, engine.machine, engine.costs), engine


def test_as_many_calls_are_expected_as_came_to_another_pool():
    """Processes start with the first of them, and not after some were made here, for which the caller waits."""
    function = bodies.pid_after
    learn(function, COMPUTES, model="processes", calls=400)
    with plait.Pool() as pool:
        futures = [pool.submit(function, 20_000)]
        assert pool._engine.processes_take()
        state, backlog = pool._known(function)
        assert backlog.left() > 300
        futures += [pool.submit(function, 20_000) for _ in range(399)]
        made = {future.result(WATCHDOG) for future in futures}
        assert made - {os.getpid()}
        assert backlog.left() == 400, "and no more than as many as came"
        assert state.decision is not None


def test_one_call_is_made_here_though_many_came_to_another_pool_that_made_them_here():
    function = bodies.square
    learn(function, Sample(calls=10, wall=100_000, cpu=100_000, held=100_000), model="serial", calls=10_000)
    with plait.Pool() as pool:
        assert pool.submit(function, 3).result(WATCHDOG) == 9
        assert not pool._engine.processes_take()


def _children() -> list[int]:
    """Child processes of this one."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/children") as file:
            found += map(int, file.read().split())
    return found


def test_a_call_that_came_back_from_processes_is_made_though_all_threads_wait_for_it():
    """It waits for a thread as those do that nobody has handed over yet."""
    function = bodies.pid_after

    def inner(pool: plait.Pool) -> int:
        return pool.submit(function, 20_000).result()

    def outer(pool: plait.Pool) -> int:
        return pool.submit(inner, pool).result()

    assert run(function, [20_000] * 400), "the fork server runs"
    gc.collect()  # a pool that is gone leaves what it has learnt once more
    learn(function, *[COMPUTES] * 4, model="processes", calls=600)
    with plait.Pool(2) as pool:
        servers = _children()
        for server in servers:
            os.kill(server, signal.SIGSTOP)
        try:
            future = pool.submit(outer, pool)
            time.sleep(0.1)
        finally:
            for server in servers:
                os.kill(server, signal.SIGCONT)
        assert future.result(WATCHDOG)


def test_a_few_calls_do_not_make_it_forget_how_many_are_made():
    function = bodies.pid_after
    learn(function, COMPUTES, model="processes", calls=400)
    with plait.Pool() as pool:
        pool._known(function)[0].figures.add(COMPUTES)
    found = _memory.recall(function.__code__)
    assert found is not None
    assert (found.model, found.calls) == ("processes", 400)


def test_what_varies_has_not_grown():
    """Nor has what is far longer at once, which is another call."""
    figures, varies, leaps = Figures(), Figures(), Figures()
    figures.add(Sample(calls=10, wall=10_000_000, cpu=9_000_000, held=0))
    for cpu in (8, 10, 9, 8, 11, 8, 9, 11, 11):
        varies.add(Sample(calls=10, wall=20_000_000, cpu=cpu * 1_000_000))
        assert not figures.are_short_beside(varies, take_turns=False)
    for cpu in (9, 9, 9, 90, 90):
        leaps.add(Sample(calls=10, wall=100_000_000, cpu=cpu * 1_000_000))
        assert not figures.are_short_beside(leaps, take_turns=False)
    assert varies.growth > 1.12, "it would have been taken for that"
