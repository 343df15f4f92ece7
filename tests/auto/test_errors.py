"""What calls raise is the same wherever they are made: class, arguments, attributes, notes, causes."""

from __future__ import annotations

import pickle
import traceback

import pytest

import plait
from plait.auto import _errors
from tests.auto import bodies

WATCHDOG = 60

RAISING = [
    bodies.raise_two,
    bodies.raise_slots,
    bodies.raise_missing,
    bodies.raise_group,
    bodies.raise_not_reduced,
    bodies.raise_not_read,
    bodies.raise_caused,
    bodies.raise_meanwhile,
    bodies.raise_hiding,
    bodies.raise_leaving,
]


def shown(error, depth=3):
    """All that a program can see of an error, but for the traceback of the other process."""
    if error is None or depth == 0 or type(error).__name__ == "_RemoteTraceback":
        return None
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    places = [getattr(error, name, None) for name in ("place", "errno", "strerror", "filename", "code")]
    args = () if inner else error.args
    causes = shown(error.__cause__, depth - 1), shown(error.__context__, depth - 1)
    return type(error), str(error), args, vars(error), places, causes, [shown(each, depth) for each in inner]


def raised(function, number):
    with pytest.raises(BaseException) as caught:
        function(number)
    return caught.value


@pytest.mark.parametrize("function", RAISING)
def test_what_travels_is_what_was_raised(function):
    error = raised(function, 7)
    arrived = pickle.loads(pickle.dumps(_errors.send(error)))
    assert not arrived.stays
    assert shown(arrived.error) == shown(error)
    assert arrived.error.__suppress_context__ or error.__context__ is not None
    assert f"in {function.__name__}\n" in "".join(traceback.format_exception(arrived.error))


def test_errors_that_cause_each_other_travel():
    error = raised(bodies.raise_in_a_circle, 7)
    arrived = pickle.loads(pickle.dumps(_errors.send(error))).error
    assert arrived.__cause__.__cause__ is arrived
    assert (arrived.args, arrived.__cause__.args) == ((7,), ("7-1",))


def test_a_long_chain_of_errors_travels_as_far_as_it_is_of_use():
    error = ValueError(0)
    for number in range(1, 5000):
        later = ValueError(number)
        later.__context__ = error
        error = later
    arrived = pickle.loads(pickle.dumps(_errors.send(error)))
    assert arrived.error.args == (4999,)
    assert arrived.error.__context__.__context__.args == (4997,)


@pytest.mark.parametrize(
    "function", [bodies.spin_and_raise_two, bodies.spin_and_raise_caused, bodies.spin_and_raise_meanwhile]
)
def test_an_error_is_the_same_wherever_the_call_was_made(function):
    expected, left = shown(raised(function, 7)), False
    with plait.Pool(2, models=["processes"]) as pool:
        while not left:
            futures = [pool.submit(function, 7) for _ in range(100)]
            errors = [future.exception(WATCHDOG) for future in futures]
            errors.append(raised(lambda _: list(pool.map(function, [7] * 100)), 0))
            assert all(shown(error) == expected for error in errors)
            assert "processes" not in pool.explain(function)["refused"]
            left = any("_RemoteTraceback" in "".join(traceback.format_exception(error)) for error in errors)


def test_what_cannot_travel_whole_travels_in_part_and_says_so():
    arrived = pickle.loads(pickle.dumps(_errors.send(bodies.Holding())))
    assert type(arrived.error) is bodies.Holding
    assert arrived.error.number == 3
    assert arrived.error.args[0] == "holds"
    assert arrived.error.args[1].startswith("<unlocked _thread.lock")
    assert "lock" in arrived.error.__notes__[-1]
    assert "loses something" in arrived.stays


@pytest.mark.parametrize("function", [bodies.raise_holding, bodies.raise_local])
def test_after_the_first_error_that_cannot_travel_no_call_leaves(function):
    with plait.Pool(2, models=["processes"]) as pool:
        while not pool.explain() or "processes" not in pool.explain(function)["refused"]:
            futures = [pool.submit(function, number) for number in range(100)]
            ends = [future.exception(WATCHDOG) for future in futures]
            assert [end is None for end in ends] == [number % 5 != 3 for number in range(100)]
        assert "raises what" in pool.explain(function)["refused"]["processes"]
        error = pool.submit(function, 3).exception(WATCHDOG)
        assert type(error).__name__ in ("Holding", "Local")
        assert not hasattr(error, "__notes__")
