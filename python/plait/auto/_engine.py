"""Slices of calls under way: which executor makes them, how many at a time, and what is learnt from them.

A function is *learnt* first: its calls go to a thread, one slice at a time, the first of one call, each next one twice as long, until
some milliseconds or some calls are known. Where a call takes longer than that, it is looked at while it runs. Then it is decided,
and decided anew when slices do not look like those before, or half as many calls again are left as were thought of.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from plait import _core
from plait.auto import _choice, _slices
from plait.auto._choice import PROCESSES, Costs, Decision, Machine
from plait.auto._figures import Figures, Sample
from plait.auto._writes import find_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.processes._pool import ProcessPool
    from plait.threads._pool import ThreadPool

#: Seconds of calls after which a function is known well enough, and as many calls.
LEARN_SECONDS = 0.010
LEARN_CALLS = 8

#: Seconds after which a call that still runs is looked at.
PATIENCE = 0.005

#: Sizes of thread pools: a plan gets the next larger one.
_SIZES = (2, 4, 8, 16, 32, 64, 128, 256)


class Executors:
    """The executors that slices go to, made when they are first needed."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._threads: dict[int, ThreadPool] = {}
        self._processes: ProcessPool | None = None
        self.closed = False

    def threads(self, workers: int) -> ThreadPool:
        """A pool of at least so many threads, or as many as there may be."""
        from plait.threads._pool import ThreadPool

        size = next((size for size in _SIZES if size >= max(2, workers)), _SIZES[-1])
        with self._lock:
            if size not in self._threads:
                self._threads[size] = ThreadPool(size, thread_name_prefix=f"plait-Pool-{size}")
            return self._threads[size]

    def processes(self) -> ProcessPool:
        """The pool of processes."""
        from plait.processes._pool import ProcessPool

        with self._lock:
            if self._processes is None:
                most = self._machine.most
                cores = self._machine.cores
                self._processes = ProcessPool(cores if most is None else max(1, min(cores, most)))
            return self._processes

    @property
    def processes_run(self) -> bool:
        """Whether there are processes."""
        return self._processes is not None

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """Shut all of them down."""
        with self._lock:
            self.closed = True
            pools = [*self._threads.values(), *([self._processes] if self._processes is not None else [])]
        for pool in pools:
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)


class Function:
    """What is known of a function, and what was decided.

    Attributes:
        name: Its name, for people.
        figures: What its calls took.
        decision: None while it is learnt.
        refused: Models that it cannot be run in, and why.
        decided: How often it was decided.
    """

    def __init__(self, function: Callable[..., Any], models: frozenset[str], machine: Machine, costs: Costs) -> None:
        self.name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
        self.figures = Figures()
        self.decision: Decision | None = None
        self.decided = 0
        self.machine = machine
        self.costs = costs
        self.refused: dict[str, str] = {
            model: "is not among the pool's models" for model in _choice.MODELS if model not in models
        }
        self.factors: dict[str, float] = {}
        self._checked = False
        self.lock = threading.Lock()

    def check(self, function: Callable[..., Any], call: _slices.Call | None) -> None:
        """Find out, once, whether it may leave this process: it changes nothing here, and it can be pickled."""
        if self._checked:
            return
        self._checked = True
        if PROCESSES in self.refused:
            return
        change = find_change(function)
        if change is not None:
            self.refused[PROCESSES] = f"may not leave this process: {change}"
            return
        began = time.perf_counter()
        try:
            _core.dumps(function, self.name)
            size = 0 if call is None else len(_core.dumps((call.args, call.kwargs), f"arguments of {self.name}"))
        except Exception as error:  # whatever its reducers raise
            self.refused[PROCESSES] = f"cannot be pickled: {error}"
            return
        self.figures.size = size
        self.figures.pickling = 2 * (time.perf_counter() - began)

    def check_result(self, result: object) -> None:
        """Add what a result costs to move; one that cannot be pickled keeps the function here."""
        if PROCESSES in self.refused:
            return
        began = time.perf_counter()
        try:
            size = len(_core.dumps(result, f"result of {self.name}"))
        except Exception as error:
            self.refused[PROCESSES] = f"returns what cannot be pickled: {error}"
            return
        self.figures.size = (self.figures.size or 0) + size
        self.figures.pickling = (self.figures.pickling or 0.0) + 2 * (time.perf_counter() - began)

    def correct(self, model: str, factor: float) -> None:
        """A model takes so many times as long as predicted."""
        before = self.factors.get(model, 1.0)
        self.factors[model] = min(10.0, max(0.5, before * (1 + (factor - 1) / 2)))

    def decide(self, calls: int, processes_run: bool) -> Decision:
        """Decide anew how to make so many calls."""
        self.decision = _choice.choose(
            self.figures,
            self.machine,
            self.costs,
            max(1, calls),
            refused=self.refused,
            processes_run=processes_run,
            factors=self.factors,
        )
        self.decided += 1
        return self.decision

    def known(self) -> bool:
        """Whether enough is known to decide."""
        figures = self.figures
        seconds = sum(sample.wall for sample in figures.samples) / 1e9
        return seconds >= LEARN_SECONDS or (figures.calls >= LEARN_CALLS and seconds >= LEARN_SECONDS / 4)


def look_at(running: _slices.Running) -> Sample | None:
    """What a call that still runs has taken so far; None if it has not begun."""
    if not running.began:
        return None
    wall = time.perf_counter_ns() - running.began
    usage = _core.thread_usage(running.thread)
    if usage is None:
        return None
    cpu, ready, held, wanted = usage
    return Sample(1, max(wall, 1), min(cpu, wall), held, wanted, ready)


def usable_machine(max_workers: int | None) -> Machine:
    """This machine, for a pool of so many workers at most."""
    return Machine(_core.usable_cpus(), max_workers, _core.gil_is_on())
