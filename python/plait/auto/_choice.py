"""From figures to a model: what some calls would take in each, how many workers and how large slices, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.auto._figures import Figures

SERIAL, THREADS, PROCESSES, ASYNCIO = "serial", "threads", "processes", "asyncio"

#: Models, the simplest first: a tie goes to the first.
MODELS = (SERIAL, THREADS, ASYNCIO, PROCESSES)

#: What is less than this much better is a tie.
TIE = 0.05

#: What is less than this much better is not changed to.
STAY = 0.15

#: Seconds of work in a slice, for those that are worth a message: long beside what a message costs, short beside what
#: people notice.
SLICE = 0.003

#: Calls in a slice at most.
_MOST_CALLS = 4096


@dataclass(frozen=True)
class Costs:
    """What the models cost beside the work, in seconds.

    Attributes:
        thread_task: A call that one of several threads takes.
        process_task: A slice handed to a process and back.
        process_start: From nothing to the first result of a process pool.
        byte: Moving a byte to a process or back, beside pickling it.
        gil_switch: What another thread that computes adds to each time that the GIL changes hands, as a share of held time.
    """

    thread_task: float = 10e-6
    process_task: float = 15e-6
    process_start: float = 0.12
    byte: float = 0.3e-9
    gil_switch: float = 0.06


@dataclass(frozen=True)
class Machine:
    """Where it runs: cores, workers at most, whether there is a GIL."""

    cores: int
    most: int | None
    gil: bool = True


@dataclass(frozen=True)
class Plan:
    """A way to make some calls.

    Attributes:
        model: `serial`, `threads`, `processes` or `asyncio`.
        workers: How many slices are under way at a time.
        seconds: How long the calls would take.
    """

    model: str
    workers: int
    seconds: float


@dataclass(frozen=True)
class Decision:
    """What was decided, and what else there was.

    Attributes:
        plan: What is done.
        slice: Calls in a slice.
        calls: How many calls it was decided for.
        others: What the alternatives would have taken, in seconds; the plan's own among them.
        refused: Models that were left out, and why.
        why: The reason, in a sentence.
    """

    plan: Plan
    slice: int
    calls: int
    others: Mapping[str, float]
    refused: Mapping[str, str]
    why: str


def threads_for(figures: Figures, machine: Machine) -> int:
    """How many threads keep the GIL, or the cores, busy while others wait."""
    busy = max(figures.held_on_cpu if machine.gil else 0.0, figures.cpu / machine.cores)
    wanted = math.ceil(1.25 * figures.wall / busy) if busy > 0 else 10_000
    most = machine.most if machine.most is not None else 256
    return max(1, min(wanted if figures.blocked > 0.05 * figures.wall else machine.cores, most))


def _in_threads(figures: Figures, machine: Machine, costs: Costs, calls: int, workers: int) -> float:
    held = figures.held_on_cpu if machine.gil else 0.0
    if workers > 1 and held > 0.5 * figures.wall:
        held *= 1 + costs.gil_switch
    each = max(held, figures.cpu / machine.cores, figures.wall / workers)
    return calls * (each + costs.thread_task)


def _in_processes(figures: Figures, machine: Machine, costs: Costs, calls: int, workers: int, running: bool) -> float:
    moving = (figures.pickling or 0.0) + (figures.size or 0) * costs.byte
    # The caller pickles and unpickles one after the other; the workers do their half side by side.
    each = max(moving, (figures.cpu + moving) / min(machine.cores, workers), (figures.wall + moving) / workers)
    begin = 0.0 if running else costs.process_start
    return begin + calls * each + math.ceil(calls / _calls_in(figures)) * costs.process_task / max(1, workers)


def _calls_in(figures: Figures) -> int:
    """Calls that fill a slice."""
    return max(1, min(_MOST_CALLS, int(SLICE / figures.wall) if figures.wall > 0 else _MOST_CALLS))


def choose(
    figures: Figures,
    machine: Machine,
    costs: Costs,
    calls: int,
    *,
    refused: Mapping[str, str],
    processes_run: bool,
    factors: Mapping[str, float],
    before: str | None = None,
) -> Decision:
    """Decide how to make so many calls of a function with these figures.

    Args:
        figures: What is known of it.
        machine: Where it runs.
        costs: What the models cost.
        calls: How many are to be made, as far as anybody knows.
        refused: Models that cannot be taken, and why.
        processes_run: Whether there are workers already.
        factors: How many times as long as predicted a model has taken, where that is known.
        before: The model that is in use, which another has to beat by more.
    """
    plans: list[Plan] = []
    if SERIAL not in refused:
        plans.append(Plan(SERIAL, 1, calls * figures.wall))
    if THREADS not in refused:
        workers = min(threads_for(figures, machine), max(1, calls))
        plans.append(Plan(THREADS, workers, _in_threads(figures, machine, costs, calls, workers)))
    if PROCESSES not in refused:
        workers = max(1, min(machine.cores, machine.most or machine.cores, calls))
        seconds = _in_processes(figures, machine, costs, calls, workers, processes_run)
        plans.append(Plan(PROCESSES, workers, seconds))
    plans = [replace(plan, seconds=plan.seconds * factors.get(plan.model, 1.0)) for plan in plans]
    best = min(plan.seconds for plan in plans)
    plan = next(plan for plan in plans if plan.seconds <= best * (1 + TIE) + 20e-6)
    plan = next((each for each in plans if each.model == before and each.seconds <= best * (1 + STAY)), plan)
    others = {each.model: each.seconds for each in plans}
    return Decision(plan, _slice(figures, plan, calls), calls, others, refused, _why(figures, machine, plan, refused))


def of_coroutines() -> Decision:
    """What is done with coroutine functions."""
    why = "it is a coroutine function: its calls are tasks of one event loop"
    others = "is no model for coroutine functions"
    return Decision(Plan(ASYNCIO, 1, 0.0), 1, 0, {}, {model: others for model in MODELS if model != ASYNCIO}, why)


def _slice(figures: Figures, plan: Plan, calls: int) -> int:
    """Calls in a slice: few enough that all workers have some, and that the last ones end together."""
    fair = max(1, calls // (4 * plan.workers))
    return max(1, min(_calls_in(figures), fair))


def _why(figures: Figures, machine: Machine, plan: Plan, refused: Mapping[str, str]) -> str:
    wall = figures.wall or 1e-9
    if machine.gil:
        held, released, blocked = figures.held_on_cpu / wall, figures.released / wall, figures.blocked / wall
        computes = f"{held:.0%} with the GIL, {released:.0%} computing without it"
    else:
        held, released, blocked = 0.0, figures.cpu / wall, figures.blocked / wall
        computes = f"{released:.0%} computing"
    does = f"a call takes {_seconds(wall)}: {computes}, {blocked:.0%} waiting"
    if plan.model == THREADS and blocked > max(held, released):
        reason = "threads wait side by side"
    elif plan.model == THREADS:
        reason = "threads compute without the GIL side by side"
    elif plan.model == PROCESSES:
        each = "a GIL each" if machine.gil else "nothing in common to wait for"
        reason = f"processes have {each}, and {machine.cores} cores"
    elif PROCESSES in refused and held > 0.5:
        reason = f"threads would take turns, and it {refused[PROCESSES]}"
    elif held > 0.5:
        reason = "threads would take turns, and a process costs more than it gains"
    else:
        reason = "nothing is gained by more workers"
    return f"{does}; {reason}"


def _seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e-9:.0f} ns"
