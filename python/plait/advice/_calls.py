"""Calls that are made to be measured, one after the other, and what is predicted of them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.abc
import inspect
import sys
from typing import TYPE_CHECKING, Any

from plait.advice import _find
from plait.advice._meter import Meter, Steps, learn_costs, measured
from plait.advice._meters import Meters
from plait.advice._work import SERIAL, Work
from plait.model import calibrate

if TYPE_CHECKING:
    import types
    from collections.abc import Generator, Sequence
    from importlib.machinery import ModuleSpec


class _Imports(importlib.abc.MetaPathFinder):
    """Finds no module, but sees in which of a meter's calls one is looked for."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.calls: set[int] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Note the call that is under way, and leave it to the others."""
        del fullname, path, target
        self.calls.add(len(self._meter.samples))
        return None


@contextlib.contextmanager
def _without_imports(meter: Meter) -> Generator[None]:
    """Leave out calls that import something: those that are made later have it, in every model."""
    seen = _Imports(meter)
    sys.meta_path.insert(0, seen)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the function has made another list of it
            sys.meta_path.remove(seen)
    others = [sample for at, sample in enumerate(meter.samples) if at not in seen.calls]
    if others:
        meter.more[0] += len(meter.samples) - len(others)
        meter.samples = others


def measured_calls(
    function: Any, arguments: Sequence[tuple[Any, ...]]
) -> tuple[dict[str, Any] | None, BaseException | None]:
    """Call a function with each of these arguments, and tell what the calls took, or what one has raised."""
    meters = Meters()
    meter = Meter(f"{function.__module__}.{getattr(function, '__qualname__', 'function')}", program=True)
    meter.function = function
    meters.add(meter)
    learn_costs()  # what the first look takes more is none of the first call's
    try:
        with _without_imports(meter):
            if inspect.iscoroutinefunction(function):
                asyncio.run(_await_each(meter, function, arguments))
            else:
                for each in arguments:
                    measured(meter, function, each, {})
    except BaseException as error:  # it is the function's
        return None, error
    return _find.record(meters, 0.0, {}, fewest=1), None


async def _await_each(meter: Meter, function: Any, arguments: Sequence[tuple[Any, ...]]) -> None:
    for each in arguments:
        await Steps(meter, function(*each))


def predict_calls(
    record: dict[str, Any], model: str, workers: int | None, cores: int
) -> tuple[float, float, float] | None:
    """Predict the calls of a record: seconds, and an interval that is meant for nine of ten runs; None if there are too few.

    docs/predictions.md tells how many lie there.
    """
    if record["tasks"] is None:
        return None
    work = Work(record)
    many = workers or (1 if model == SERIAL else work.calls)
    costs = calibrate()
    found = work.given(model, many, cores, costs)
    # Coroutines need a loop also one after the other.
    begin = costs.all["loop.start"].seconds if model == SERIAL and record["coroutine"] else 0.0
    return found.seconds + begin, found.low + begin, found.high + begin
