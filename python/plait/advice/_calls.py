"""Calls that are made to be measured, one after the other, and what is predicted of them."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from plait.advice import _find
from plait.advice._meter import Meter, Steps, measured
from plait.advice._meters import Meters
from plait.advice._work import SERIAL, Work
from plait.model import calibrate

if TYPE_CHECKING:
    from collections.abc import Sequence


def measured_calls(
    function: Any, arguments: Sequence[tuple[Any, ...]]
) -> tuple[dict[str, Any] | None, BaseException | None]:
    """Call a function with each of these arguments, and tell what the calls took, or what one has raised."""
    meters = Meters()
    meter = Meter(f"{function.__module__}.{getattr(function, '__qualname__', 'function')}", program=True)
    meter.function = function
    meters.add(meter)
    try:
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
    found = work.given(model, many, cores, calibrate())
    return found.seconds, found.low, found.high
