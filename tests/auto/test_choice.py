"""What is predicted of the models, and how the best number of threads is found."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, strategies as st

from plait import simulate
from plait.auto import _choice
from plait.auto._choice import MODELS, PROCESSES, SERIAL, THREADS, Costs, Machine
from plait.auto._figures import Figures, Sample
from plait.auto._function import Function
from plait.auto._paces import Paces
from plait.model import Burst, Costs as MachineCosts

REFUSED = {"asyncio": "is no coroutine function"}


def figures_of(held: float, released: float, blocked: float) -> Figures:
    """Figures of calls that do so for so many seconds each."""
    figures = Figures()
    wall, cpu = held + released + blocked, held + released
    for _ in range(4):
        figures.add(Sample(10, int(wall * 1e10), int(cpu * 1e10), int(held * 1e10)))
    figures.size, figures.pickling, figures.result_sized = 16, 0.6e-6, True
    return figures


SHAPES = {
    "computes": (1.0, 0.0, 0.0),
    "computes without the GIL": (0.05, 0.95, 0.0),
    "waits": (0.02, 0.0, 0.98),
    "half without the GIL": (0.5, 0.5, 0.0),
    "all of it": (0.2, 0.1, 0.7),
    "computes and waits": (0.5, 0.0, 0.5),
}
GRID = list(itertools.product(SHAPES, (0.0005, 0.003, 0.02), (2, 4, 8)))


@pytest.mark.parametrize(("shape", "length", "cores"), GRID)
def test_predictions_agree_with_the_simulator(shape, length, cores):
    held, released, blocked = (share * length for share in SHAPES[shape])
    call = [Burst("hold", held), Burst("released", released), Burst("blocked", blocked)]
    figures, machine, costs, calls = figures_of(held, released, blocked), Machine(cores, None), Costs(), 300
    several = (2, 8, 32) if blocked else (2, cores)
    plans: list[tuple[Any, int]] = [(SERIAL, 1), (PROCESSES, cores), *((THREADS, workers) for workers in several)]
    for model, workers in plans:
        each = {
            SERIAL: lambda _: figures.wall,
            THREADS: lambda workers: _choice.in_threads(figures, machine, costs, workers),
            PROCESSES: lambda workers: _choice.in_processes(figures, machine, costs, workers),
        }[model](workers)
        simulated = simulate([call] * calls, model=model, workers=workers, cores=cores, costs=MachineCosts(), warm=True)
        assert 0.6 < calls * each / simulated.seconds < 1.6, (model, workers, calls * each, simulated.seconds)


def climb(figures: Figures, machine: Machine, calls: int, seconds_each) -> list[int]:
    """The numbers of threads that are tried one after the other, where so many take so long for a call."""
    paces, costs = Paces(), Costs()
    tried: list[int] = []
    for _ in range(20):
        workers = _choice.threads_to_try(figures, machine, costs, calls, paces)
        if tried and workers == tried[-1] and not paces.wants(THREADS, workers):
            return tried
        if not tried or workers != tried[-1]:
            tried.append(workers)
        predicted = _choice.in_threads(figures, machine, costs, workers)
        paces.add(THREADS, workers, 40, 40 * seconds_each(workers), predicted, figures)
    return tried


WAITS = figures_of(10e-6, 0.0, 0.005)


def test_threads_become_more_while_more_help():
    tried = climb(WAITS, Machine(2, None), 10_000, lambda workers: 0.005 / workers)
    assert tried[0] == 32
    assert tried == sorted(tried)
    assert tried[-1] >= 128


def test_threads_are_few_at_first_where_calls_also_compute():
    for held, released, blocked, first in (
        (0.0001, 0.0, 0.005, 32),
        (0.00005, 0.001, 0.003, 8),
        (0.001, 0.0, 0.001, 2),
    ):
        figures = figures_of(held, released, blocked)
        assert climb(figures, Machine(2, None), 10_000, lambda workers: 0.005 / workers)[0] == first


def test_threads_become_fewer_where_more_do_not_help():
    tried = climb(figures_of(0.0003, 0.0, 0.0005), Machine(2, None), 1000, lambda _: 0.0008)
    assert max(tried) <= 4
    tried = climb(WAITS, Machine(2, None), 10_000, lambda workers: 0.005 / min(workers, 16) * max(1, workers / 16))
    assert tried[-1] in (8, 16, 32)


@given(
    most=st.one_of(st.none(), st.integers(1, 300)),
    calls=st.integers(1, 100_000),
    cores=st.integers(1, 64),
    held=st.floats(0, 0.01),
    blocked=st.floats(0, 0.1),
    each=st.lists(st.floats(1e-6, 0.1), min_size=1, max_size=12),
)
def test_whatever_is_seen_no_more_threads_are_taken_than_may_be(most, calls, cores, held, blocked, each):
    figures, paces, machine = figures_of(held, 0.0, blocked), Paces(), Machine(cores, most)
    for seconds in each:
        decision = _choice.choose(
            figures, machine, Costs(), calls, refused={**REFUSED, SERIAL: "", PROCESSES: ""}, start=0.0, paces=paces
        )
        workers = decision.plan.workers
        assert 1 <= workers <= min(calls, most or 256)
        paces.add(
            THREADS,
            workers,
            workers,
            workers * seconds,
            _choice.in_threads(figures, machine, Costs(), workers),
            figures,
        )


def test_a_sample_with_more_is_of_all_their_calls():
    one, other = Sample(1, 20, 10, 5, 2, 3), Sample(2, 40, 20, 10, 4, 6)
    assert one.with_more(other) == Sample(3, 60, 30, 15, 6, 9)
    assert one.with_more(other._replace(held=-1)).held == -1


def test_a_part_of_a_long_result_tells_how_large_it_is():
    state = Function(abs, frozenset(MODELS), Machine(2, None), Costs())
    rows = [{"number": number, "name": f"row {number}"} for number in range(2000)]
    state.size_result(rows)
    whole = state.figures.size
    state.figures.result_sized = False
    state.size_result(rows)
    part = state.figures.size
    assert whole is not None
    assert part is not None
    assert part != whole
    assert 0.7 < part / whole < 1.5


def test_what_was_seen_counts_more_than_what_was_predicted():
    figures, paces, machine = figures_of(0.0002, 0.0018, 0.0), Paces(), Machine(2, None)

    def chosen(before=None):
        decision = _choice.choose(
            figures, machine, Costs(), 1000, refused=REFUSED, start=0.1, paces=paces, before=before
        )
        return decision.plan.model

    assert chosen() == THREADS
    for _ in range(3):
        paces.add(THREADS, 2, 40, 40 * 0.0022, _choice.in_threads(figures, machine, Costs(), 2), figures)
    assert chosen(THREADS) == PROCESSES
    for _ in range(3):
        paces.add(PROCESSES, 2, 40, 40 * 0.003, _choice.in_processes(figures, machine, Costs(), 2), figures)
    assert chosen(PROCESSES) == SERIAL


def test_what_is_only_promised_has_to_promise_more_after_changes_of_mind():
    figures, machine = figures_of(0.002, 0.0, 0.0), Machine(2, None)

    def chosen(changes, paces):
        decision = _choice.choose(
            figures, machine, Costs(), 1000, refused={}, start=0.0, paces=paces, before=SERIAL, changes=changes
        )
        return decision.plan.model

    assert [chosen(changes, Paces()) for changes in (0, 1, 5)] == [PROCESSES, PROCESSES, SERIAL]
    seen = Paces()
    seen.add(PROCESSES, 2, 40, 40 * 0.001, _choice.in_processes(figures, machine, Costs(), 2), figures)
    assert chosen(5, seen) == PROCESSES  # that much was seen


def test_processes_that_start_late_are_worth_it_only_for_much():
    figures = figures_of(0.001, 0.0, 0.0)
    chosen = [
        _choice.choose(figures, Machine(2, None), Costs(), calls, refused=REFUSED, start=0.1, paces=Paces()).plan.model
        for calls in (50, 1000)
    ]
    assert chosen == [SERIAL, PROCESSES]


def test_what_was_seen_of_shorter_calls_is_forgotten():
    paces = Paces()
    paces.add(THREADS, 2, 40, 0.1, 0.001, figures_of(0.001, 0.001, 0.0))
    for wall in (0.0019, 0.0024):
        paces.check(wall)
        assert paces.saw(THREADS)
    paces.check(0.004)
    assert not paces.saw(THREADS)


def test_a_plan_that_was_seen_is_left_only_for_much_more():
    figures, paces, machine = figures_of(0.00005, 0.00195, 0.0), Paces(), Machine(2, None)
    paces.add(THREADS, 2, 40, 40 * 0.00125, _choice.in_threads(figures, machine, Costs(), 2), figures)
    chosen = [
        _choice.choose(figures, machine, Costs(), 1000, refused=REFUSED, start=0.0, paces=paces, before=before)
        for before in (None, THREADS)
    ]
    assert [decision.plan.model for decision in chosen] == [PROCESSES, THREADS]


def test_what_a_plan_took_stays_what_it_was_when_the_figures_are_others():
    paces, before, now = Paces(), figures_of(0.0001, 0.0, 0.001), figures_of(0.00005, 0.0, 0.00105)
    predicted = _choice.in_threads(before, Machine(2, None), Costs(), 8)
    paces.add(THREADS, 8, 40, 40 * 0.002, predicted, before)
    [(_, seen)] = paces.of_threads(before)
    [(workers, later)] = paces.of_threads(now)
    assert workers == 8
    assert later == pytest.approx(seen * now.wall / before.wall)
    decision = _choice.choose(
        now, Machine(2, None), Costs(), 1000, refused={**REFUSED, PROCESSES: ""}, start=0.0, paces=paces
    )
    assert decision.plan.model == SERIAL


def test_more_threads_than_the_figures_ask_for_are_half_as_many_again_at_most():
    figures, machine = figures_of(0.0001, 0.001, 0.002), Machine(2, None)
    tried = climb(figures, machine, 10_000, lambda workers: 0.0031 / workers)
    assert tried[0] == 8
    assert max(tried) <= 1.5 * _choice.threads_for(figures, machine)


def test_a_function_is_known_sooner_where_processes_start_already():
    function = Function(len, frozenset(MODELS), Machine(2, None), Costs())
    function.figures.add(Sample(calls=3, wall=2_000_000, cpu=2_000_000))
    assert function.known(soon=True)
    assert not function.known()
