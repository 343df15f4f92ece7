"""From figures to a model: what some calls would take in each, how many workers and how large slices, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plait._words import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.auto._figures import Figures
    from plait.auto._paces import Paces

SERIAL, THREADS, PROCESSES, ASYNCIO = "serial", "threads", "processes", "asyncio"

#: Models, the simplest first: a tie goes to the first.
MODELS = (SERIAL, THREADS, ASYNCIO, PROCESSES)

#: What is less than this much better is a tie.
TIE = 0.05

#: What is less than this much better is not changed to; and from a plan whose pace was seen, to one that is only promised.
STAY, STAY_SEEN = 0.1, 0.3

#: How much better what is only promised has to be, the more, for each time that the model was changed before.
_STAY_MORE = 0.4

#: Which part of a core's work is done meanwhile, while processes start; how long new ones take until they are as fast as
#: old ones; how much better they have to be in the end, since a start that met with a busy machine has gained nothing; and of
#: how many seconds at most, since no start takes for ever.
_MEANWHILE, _WARM, _WORTH_A_START, _RISKED = 0.7, 0.003, 0.1, 0.1

#: Seconds that are so few that nobody makes calls while processes start, and cores that are so many that somebody does: of
#: fewer, a core would be taken that these need.
_SOON, _MANY_CORES = 0.015, 4

#: Threads that are tried first for calls that wait, and how many times as many then.
_FIRST_WAITING, _STEP, _GIANT_STEP = 8, 2, 4

#: And for calls that wait for most of their time, and for those that do next to nothing else.
_FIRST_MOST, _MOST_OF_IT = 32, 0.8

#: How much of what more threads promise has to come true for more still to be tried: 1 is all of it, as a power.
_WORTH_A_STEP, _WORTH_A_GIANT_STEP = 0.35, 0.8

#: How many times as many threads are more: for fewer no thread is started.
_LEAST_STEP = 1.4

#: How many times as many threads as the figures ask for may be tried, since these may be wrong.
_BEYOND = 1.5

#: Which part of the number of threads whose starts take as long as the calls then: the last ones of these gain next to nothing.
_WORTH_ITS_START = 0.7

#: And how little of it is too little for so many threads.
_LITTLE = 0.2

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
        gil_take: To get the GIL back after a call has let it go, while others want it too; nobody else has it meanwhile.
        thread_start: A thread more.
        process_task: A slice handed to a process and back.
        byte: Moving a byte to a process or back, beside pickling it.
        gil_switch: What another thread that computes adds to each time that the GIL changes hands, as a share of held time.
    """

    thread_task: float = 10e-6
    gil_take: float = 20e-6
    thread_start: float = 150e-6
    process_task: float = 15e-6
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

    @property
    def key(self) -> tuple[str, int]:
        """What is done, without how long it takes."""
        return self.model, self.workers


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
        start: Seconds that were to be until there are worker processes.
    """

    plan: Plan
    slice: int
    calls: int
    others: Mapping[str, float]
    refused: Mapping[str, str]
    why: str
    start: float = 0.0


def shown(model: str, workers: int) -> str:
    """A plan for people: of threads it matters how many."""
    return f"{model} {workers}" if model == THREADS else model


def threads_for(figures: Figures, machine: Machine) -> int:
    """How many threads keep the GIL, or the cores, busy while others wait."""
    busy = max(figures.held_on_cpu if machine.gil else 0.0, figures.cpu / machine.cores)
    wanted = math.ceil(1.25 * figures.wall / busy) if busy > 0 else 10_000
    most = machine.most if machine.most is not None else 256
    return max(1, min(wanted if _waits(figures) else machine.cores, most))


def threads_to_try(figures: Figures, machine: Machine, costs: Costs, calls: int, paces: Paces) -> int:
    """How many threads are best, or promise to be: as many as were seen to be, or more while more have helped.

    Waits need not overlap as they should, and the GIL may change hands more often than is good: what was seen counts.
    """
    most = machine.most if machine.most is not None else 256
    most = max(1, min(most if _waits(figures) else min(machine.cores, most), calls))
    seen = [(1, figures.wall), *paces.of_threads(figures)]
    if len(seen) == 1:
        return min(most, _first_threads(figures, machine))
    fastest = min(each for _, each in seen)
    place = next(place for place, (_, each) in enumerate(seen) if each <= fastest * (1 + TIE))
    workers, each = seen[place]
    if place == 0:
        return min(most, seen[1][0], _FIRST_WAITING)
    fewer, before = seen[place - 1]
    came_true = math.log(before / each) / math.log(workers / fewer)
    if came_true < _LITTLE and workers > 2 * fewer:
        return min(math.isqrt(fewer * workers), most)  # so little would be had with fewer threads too
    if place + 1 == len(seen):
        step = (
            _GIANT_STEP
            if came_true > _WORTH_A_GIANT_STEP and workers >= _FIRST_WAITING
            else _STEP
            if came_true > _WORTH_A_STEP
            else 1
        )
        # A thread has to be worth its start.
        worth = max(workers, int(_WORTH_ITS_START * math.sqrt(calls * figures.wall / costs.thread_start)))
        useful = max(workers, math.ceil(_BEYOND * threads_for(figures, machine)))
        more = min(step * workers, worth, useful, most)
        workers = more if more >= _LEAST_STEP * workers else workers
    return min(workers, most)


def _first_threads(figures: Figures, machine: Machine) -> int:
    """How many threads to begin with: what waits need not overlap as it should."""
    wanted = threads_for(figures, machine)
    if wanted <= machine.cores:
        return wanted
    if wanted >= 4 * _FIRST_MOST:
        return _FIRST_MOST
    if wanted <= 2 * machine.cores:
        return machine.cores
    most_of_it = figures.blocked > _MOST_OF_IT * figures.wall
    return min(math.ceil(_BEYOND * wanted), _FIRST_MOST if most_of_it else _FIRST_WAITING)


def _waits(figures: Figures) -> bool:
    return figures.blocked > 0.05 * figures.wall


def in_threads(figures: Figures, machine: Machine, costs: Costs, workers: int) -> float:
    """Seconds for a call, of many that so many threads make."""
    held = figures.held_on_cpu if machine.gil else 0.0
    if workers > 1 and held > 0.5 * figures.wall:
        held *= 1 + costs.gil_switch
    if workers > 1 and machine.gil and figures.blocked + figures.released > 0.05 * figures.wall:
        held += costs.gil_take
    return max(_with_gil(held, figures.wall - held, workers), figures.cpu / machine.cores) + costs.thread_task


def _with_gil(held: float, rest: float, workers: int) -> float:
    """Seconds for a call, of many that threads make which queue for the GIL, each for as long as those before it hold it.

    By mean value analysis (Reiser, Lavenberg 1980) of one queue and a delay: who comes meets what one worker fewer would leave.
    """
    queue, each = 0.0, held + rest
    for count in range(1, workers + 1):
        here = held * (1 + queue)
        each = (here + max(rest, 0.0)) / count
        queue = here / each if each > 0 else 0.0
    return each


def in_processes(figures: Figures, machine: Machine, costs: Costs, workers: int) -> float:
    """Seconds for a call, of many that so many processes make."""
    moving = (figures.pickling or 0.0) + (figures.size or 0) * costs.byte
    # The caller pickles and unpickles one after the other; the workers do their half side by side.
    each = max(moving, (figures.cpu + moving) / min(machine.cores, workers), (figures.wall + moving) / workers)
    return each + costs.process_task / calls_in(figures) / workers


def is_soon(machine: Machine, seconds: float) -> bool:
    """Whether processes that take so long to start are there so soon that to make calls meanwhile would be in their way."""
    return seconds < _SOON and machine.cores < _MANY_CORES


def calls_in(figures: Figures) -> int:
    """Calls that fill a slice."""
    return max(1, min(_MOST_CALLS, int(SLICE / figures.wall) if figures.wall > 0 else _MOST_CALLS))


def choose(
    figures: Figures,
    machine: Machine,
    costs: Costs,
    calls: int,
    *,
    refused: Mapping[str, str],
    start: float,
    paces: Paces,
    before: str | None = None,
    changes: int = 0,
) -> Decision:
    """Decide how to make so many calls of a function with these figures.

    Args:
        figures: What is known of it.
        machine: Where it runs.
        costs: What the models cost.
        calls: How many are to be made, as far as anybody knows.
        refused: Models that cannot be taken, and why.
        start: Seconds until there are worker processes; 0 where there are.
        paces: How fast the models were seen to be.
        before: The model that is in use, which another has to beat by more.
        changes: How many times another model was taken so far.
    """
    plans: list[Plan] = []
    began = start
    held = figures.held_on_cpu / figures.cpu if machine.gil and figures.cpu > 0 else 0.0
    released = max(0.0, 1 - 2 * held)
    if SERIAL not in refused or {THREADS, PROCESSES} <= refused.keys():  # somewhere it has to run
        plans.append(Plan(SERIAL, 1, calls * figures.wall))
    if THREADS not in refused:
        workers = threads_to_try(figures, machine, costs, calls, paces)
        each = in_threads(figures, machine, costs, workers) * paces.factor(THREADS, workers, released)
        each = paces.seconds(THREADS, workers, figures) or each
        plans.append(Plan(THREADS, workers, max(calls * each, figures.wall) + workers * costs.thread_start))
    if PROCESSES not in refused:
        workers = max(1, min(machine.cores, machine.most or machine.cores, calls))
        meanwhile = 0.0 if is_soon(machine, start) else _MEANWHILE * start
        start += _WARM if start else 0.0
        each = in_processes(figures, machine, costs, workers) * paces.factor(PROCESSES, workers, released)
        each = paces.seconds(PROCESSES, workers, figures) or each
        left = max(0.0, calls - meanwhile / figures.wall) if figures.wall > 0 else calls
        plans.append(Plan(PROCESSES, workers, start + max(left * each, figures.wall)))
    asked = {plan.model: plan.seconds for plan in plans}
    if start and PROCESSES in asked:
        asked[PROCESSES] += _WORTH_A_START * min(asked[PROCESSES], _RISKED)
    best = min(asked.values())
    plan = next(plan for plan in plans if asked[plan.model] <= best * (1 + TIE) + 20e-6)
    stay = STAY if paces.saw(plan.model) or not paces.saw(before) else STAY_SEEN + _STAY_MORE * max(0, changes - 1)
    plan = next((each for each in plans if each.model == before and asked[each.model] <= best * (1 + stay)), plan)
    others = {each.model: each.seconds for each in plans}
    why = _why(figures, machine, plan, refused)
    return Decision(plan, _slice(figures, plan, calls), calls, others, refused, why, began)


def as_known(
    decision: Decision,
    figures: Figures,
    machine: Machine,
    costs: Costs,
    calls: int,
    *,
    refused: Mapping[str, str],
    paces: Paces,
) -> Decision:
    """What was decided once, with what so many calls of the same would take by these figures."""
    found = choose(figures, machine, costs, calls, refused=refused, start=decision.start, paces=paces)
    model, others = decision.plan.model, found.others
    if found.plan.model != model and others.get(model, 0.0) > (1 + STAY) * min(others.values()):
        why = f"{_does(figures, machine)}; by all that is known now, {found.plan.model} would take less"
    else:
        why = _why(figures, machine, decision.plan, refused)
    return replace(decision, calls=calls, others=others, why=why)


def of_coroutines() -> Decision:
    """What is done with coroutine functions."""
    why = "it is a coroutine function: its calls are tasks of one event loop"
    others = "is no model for coroutine functions"
    return Decision(Plan(ASYNCIO, 1, 0.0), 1, 0, {}, {model: others for model in MODELS if model != ASYNCIO}, why)


def _slice(figures: Figures, plan: Plan, calls: int) -> int:
    """Calls in a slice: few enough that all workers have some, and that the last ones end together."""
    fair = max(1, calls // (4 * plan.workers))
    return max(1, min(calls_in(figures), fair))


def _shares(figures: Figures, machine: Machine) -> tuple[float, float, float]:
    """Which parts of its time a call holds the GIL on a core, computes without it, and waits."""
    wall = figures.wall or 1e-9
    if machine.gil:
        return figures.held_on_cpu / wall, figures.released / wall, figures.blocked / wall
    return 0.0, figures.cpu / wall, figures.blocked / wall


def _does(figures: Figures, machine: Machine) -> str:
    held, released, blocked = _shares(figures, machine)
    computes = (
        f"{held:.0%} with the GIL, {released:.0%} computing without it" if machine.gil else f"{released:.0%} computing"
    )
    return f"a call takes {seconds(figures.wall or 1e-9)}: {computes}, {blocked:.0%} waiting"


def _why(figures: Figures, machine: Machine, plan: Plan, refused: Mapping[str, str]) -> str:
    held, released, blocked = _shares(figures, machine)
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
    return f"{_does(figures, machine)}; {reason}"
