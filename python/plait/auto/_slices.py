"""Calls that are made together: what a thread or a worker process runs, and what it says of them."""

from __future__ import annotations

import threading
import time
from concurrent.futures.process import _ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, NamedTuple

from plait import _core
from plait.auto._figures import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context


class Call(NamedTuple):
    """What a function is called with, and in what context: of a thread's call; None is the thread's own."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: Context | None = None


class Raised:
    """What a call raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Running:
    """A slice that a thread runs, for who looks on: since when, and by which thread."""

    __slots__ = ("began", "thread")

    def __init__(self) -> None:
        self.began = 0
        self.thread = 0


def in_thread(function: Callable[..., Any], calls: list[Call], running: Running) -> tuple[list[Any], Sample]:
    """Make calls in this thread; return their outcomes and what they took."""
    running.thread = threading.get_native_id()
    tally = _core.gil_tally()
    ready = _core.thread_ready_ns()
    cpu = time.thread_time_ns()
    running.began = began = time.perf_counter_ns()
    outcomes = _make(function, calls)
    wall = time.perf_counter_ns() - began
    cpu = time.thread_time_ns() - cpu
    ready = _core.thread_ready_ns() - ready
    after = _core.gil_tally()
    if tally is None or after is None:
        return outcomes, Sample(len(calls), wall, cpu, ready=ready)
    return outcomes, Sample(len(calls), wall, cpu, after[0] - tally[0], after[1] - tally[1], ready)


def in_process(function: Callable[..., Any], calls: list[Call]) -> tuple[list[Any], Sample]:
    """Make calls in a worker process; return their outcomes and what they took."""
    cpu = time.thread_time_ns()
    began = time.perf_counter_ns()
    outcomes = _make(function, calls)
    wall = time.perf_counter_ns() - began
    cpu = time.thread_time_ns() - cpu
    for outcome in outcomes:
        if isinstance(outcome, Raised):
            outcome.error = _ExceptionWithTraceback(outcome.error, outcome.error.__traceback__)
    return outcomes, Sample(len(calls), wall, cpu)


def for_process(calls: list[Call]) -> list[Call]:
    """The calls as they travel: contexts stay."""
    return [Call(call.args, call.kwargs) if call.context is not None else call for call in calls]


def _make(function: Callable[..., Any], calls: list[Call]) -> list[Any]:
    outcomes: list[Any] = []
    for args, kwargs, context in calls:
        try:
            made = function(*args, **kwargs) if context is None else context.run(function, *args, **kwargs)
        except BaseException as error:  # it is the caller's
            made = Raised(error)
        outcomes.append(made)
    return outcomes
