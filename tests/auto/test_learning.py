"""What calls tell of their function while they are made: when it is decided anew, and when it is not."""

from __future__ import annotations

import time
from typing import Any

import pytest

from plait.auto._backlog import Backlog
from plait.auto._choice import Costs, Machine
from plait.auto._engine import Engine
from plait.auto._figures import Sample
from plait.auto._function import Function
from plait.auto._meter import Meter
from plait.auto._seat import Seat

WAITS = Sample(calls=1, wall=5_000_000, cpu=50_000, held=50_000)
COMPUTES = Sample(calls=1, wall=1_000_000, cpu=1_000_000, held=1_000_000)


def nap(seconds: float) -> None:
    time.sleep(seconds)


def flow_of(sample: Sample, left: int, monkeypatch: pytest.MonkeyPatch) -> Backlog:
    """Of a function that has done what the sample tells, a few times, and of which so many calls are left."""
    engine = Engine(None, frozenset(["serial", "threads"]), Costs())
    engine.machine = Machine(2, None)
    flow = Backlog(Function(nap, engine.models, engine.machine, engine.costs), engine)
    for _ in range(4):
        flow.state.figures.add(sample)
    monkeypatch.setattr(flow, "left", lambda: left)
    return flow


def waits_side_by_side(flow: Backlog) -> bool:
    """Whether there are more workers than calls that compute would get."""
    assert flow.state.decision is not None
    return flow.state.decision.plan.workers > flow.engine.machine.cores


@pytest.mark.parametrize("left", [50, 1000])
def test_calls_that_compute_where_they_were_to_wait_are_seen_in_a_crowd(
    monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """However few are left: each of them takes turns with all others. What they wait for is the GIL, which is the plan's."""
    flow = flow_of(WAITS, left, monkeypatch)
    flow._decide()
    assert waits_side_by_side(flow)
    turned = Sample(calls=1, wall=160_000_000, cpu=5_000_000, held=5_000_000, wanted=155_000_000)
    flow._learn_from(turned)
    flow._learn_from(WAITS)
    for _ in range(2):
        flow._learn_from(turned)
        assert waits_side_by_side(flow), "some calls are unlike others"
    flow._learn_from(turned)
    assert not waits_side_by_side(flow)
    assert flow.state.figures.wall == pytest.approx(0.005)


def test_calls_that_wait_for_one_another_in_a_crowd_have_not_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = flow_of(WAITS, 1000, monkeypatch)
    flow._decide()
    for _ in range(10):
        flow._learn_from(Sample(calls=1, wall=12_000_000, cpu=60_000, held=60_000, wanted=100_000))
    assert waits_side_by_side(flow)


def seated(flow: Backlog, sample: Sample, collected: bool, monkeypatch: pytest.MonkeyPatch) -> Seat:
    """A seat whose thread makes a call of which a glance tells what the sample does."""
    seat = Seat(flow.engine)
    seat.coming, seat.meter.running = False, True
    flow.seats.add(seat)
    glances: dict[str, Any] = {"is_late": True, "glance": sample, "has_collected": collected}
    for name, told in glances.items():
        monkeypatch.setattr(Meter, name, lambda *_, told=told: told)
    return seat


@pytest.mark.parametrize(
    ("collected", "milliseconds", "decided"), [(True, 30, False), (True, 150, True), (False, 30, True)]
)
def test_a_call_in_which_garbage_is_collected_need_not_be_a_long_one(
    monkeypatch: pytest.MonkeyPatch, collected: bool, milliseconds: int, decided: bool
) -> None:
    """Beside others that were short: the garbage is that of many calls."""
    flow = flow_of(COMPUTES, 1000, monkeypatch)
    took = milliseconds * 1_000_000
    seated(flow, Sample(calls=1, wall=took, cpu=took, held=took), collected, monkeypatch)
    assert flow.tick() is decided
    assert (flow.state.decision is not None) is decided


def test_what_was_decided_by_a_call_that_ran_is_decided_again_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow = flow_of(COMPUTES, 1000, monkeypatch)
    seat = seated(flow, Sample(calls=1, wall=4_000_000, cpu=100_000, held=100_000), False, monkeypatch)
    assert flow.tick()
    assert waits_side_by_side(flow)
    flow._learn_from(COMPUTES._replace(wall=6_000_000, cpu=6_000_000, held=6_000_000), Seat(flow.engine))
    assert waits_side_by_side(flow), "that is another one"
    flow._learn_from(COMPUTES._replace(wall=6_000_000, cpu=6_000_000, held=6_000_000), seat)
    assert not waits_side_by_side(flow)
