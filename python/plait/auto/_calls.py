"""Calls, what comes of them, and how some of them are made together in a worker process."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from plait import _core
from plait.auto._meter import Meter
from plait.errors import NotPicklable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context

    from plait.auto._figures import Sample


class Call(NamedTuple):
    """A function, what it is called with, and in what context: None is the calling thread's own."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: Context | None = None


class Part(NamedTuple):
    """Some calls, and for each what its outcome is delivered to."""

    calls: list[Call]
    sinks: list[Any]


class Raised:
    """What a call raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


#: What every process takes.
_PLAIN = (int, float, complex, str, bytes, bool, type(None))


def make(call: Call) -> Any:
    """Make a call, and return its result, or what it raised as a `Raised`."""
    function, args, kwargs, context = call
    try:
        return function(*args, **kwargs) if context is None else context.run(function, *args, **kwargs)
    except BaseException as error:  # it is the caller's
        return Raised(error)


def for_process(calls: Sequence[Call]) -> list[Call]:
    """The calls as they travel: contexts stay."""
    return [Call(call.function, call.args, call.kwargs) for call in calls]


def in_process(calls: list[Call]) -> tuple[list[Any], Sample]:
    """Make calls in a worker process; return their outcomes, each of which can travel, and what they took."""
    meter = Meter()
    meter.start()
    outcomes = [make(call) for call in calls]
    meter.ended(len(calls), meter.began)
    sample = meter.sample()
    return [_to_travel(outcome, call, len(calls) > 1) for call, outcome in zip(calls, outcomes, strict=True)], sample


def _to_travel(outcome: Any, call: Call, with_others: bool) -> Any:
    """An outcome, or what says why it cannot travel: one call's result must not cost those of others."""
    if isinstance(outcome, _PLAIN):
        return outcome
    if isinstance(outcome, Raised):
        return Raised(_error_to_travel(outcome.error))
    if with_others:
        try:
            _core.dumps(outcome, f"the result of {getattr(call.function, '__qualname__', call.function)}")
        except Exception as error:  # whatever its reducers raise
            return Raised(error if isinstance(error, NotPicklable) else NotPicklable(f"the result: {error!r}"))
    return outcome


def _error_to_travel(error: BaseException) -> BaseException:
    """The error with its traceback as a text, as the standard library's pools hand it over."""
    from concurrent.futures import process

    travelling: Any = getattr(process, "_ExceptionWithTraceback")(error, error.__traceback__)  # noqa: B009
    try:
        pickle.loads(pickle.dumps(travelling))
    except Exception as why:  # whatever its reducers raise
        return NotPicklable(f"a call raised {error!r}, which cannot be pickled: {why}")
    return travelling  # type: ignore[no-any-return]
