"""Answers: how long a workload takes under a model, and how sure that is."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from plait import _core
from plait._executor import positive_int
from plait.model._calibrate import calibrate
from plait.model._costs import Cost, Costs
from plait.model._workload import Burst, Item, Workload, check_int, check_is, check_speed, listed, number

Model = Literal["serial", "threads", "processes", "asyncio", "interpreters", "free-threaded"]

MODELS: tuple[Model, ...] = ("serial", "threads", "processes", "asyncio", "interpreters", "free-threaded")
_PERIOD_NS = 100_000_000
_BURSTS = 4096
#: The kernel gives a group a millisecond of 100 at least; a simulated one that had less would do nothing but begin anew.
_LEAST_QUOTA, _MOST_QUOTA = 0.01, 1e6
#: Each is kept, with all that stands on it.
_MOST_CORES = 65_536
#: How far the time of C code and of programs follows the machine's speed, as an exponent. What makes Python slower (others on
#: the same hardware) makes some of it as slow and leaves some alone: half is right for neither, and the interval says so.
_APART = 0.5
#: How far off looks at the machine's speed are, and how far, beside one, the exponent with which Python's time follows it.
_LOOKED, _FOLLOWS = 0.04, 0.2
#: How far off it is what programs beside take, relative standard deviation: those that are asked by many at once do with less
#: than for one after the other, or get in their own way.
_BESIDE = 0.5
#: Of what a probe found.
_SWITCH_SPREAD = 0.5
_MOST_REPLICAS = 1_000_000


@dataclass(frozen=True)
class Prediction:
    """How long a workload takes under a model.

    `low` to `high` is meant for nine of ten runs: it comes from how the bursts vary, how well the costs are known, and how far
    predictions have been off beside that. docs/predictions.md tells how many lie there. Of a `bound` the true time is
    `seconds` or longer.
    """

    model: Model
    workers: int
    cores: int
    seconds: float
    low: float
    high: float
    bound: bool
    items: int = field(repr=False)
    """How many calls were simulated for it; the rest goes on at their pace."""
    details: Mapping[str, float] = field(repr=False)
    """Of the simulated calls: seconds of all threads in each state ("running", "ready", "gil_wait", "held_off_cpu",
    "io_wait", "idle"), how long they took ("seconds"), and counts ("gil_switches", "gil_forced", "gil_futile",
    "context_switches")."""

    def __str__(self) -> str:
        least = "at least " if self.bound else ""
        interval = f"{self.low:.3g} to {self.high:.3g}"
        return f"{self.model}, {self.workers} workers, {self.cores} cores: {least}{self.seconds:.3g} s ({interval})"


def simulate(
    workload: Workload | Iterable[Iterable[Burst]],
    *,
    model: Model,
    workers: int | None = None,
    cores: int | None = None,
    quota: float | None = None,
    costs: Costs | None = None,
    warm: bool = False,
    chunksize: int | None = None,
    nice: int = 0,
    speed: float | None = None,
    replicas: int = 20,
    seed: int = 0,
) -> Prediction:
    """Predict how long work would take under a concurrency model, without running it.

    The simulator runs the bursts of the calls on cores with time slices, under a GIL with CPython's own protocol, in a
    pool or an event loop with what those cost on this machine.

    Args:
        workload: What is to be done; or just the bursts of each call.
        model: "serial"; "threads", "processes" or "interpreters" (a pool of those); "asyncio" (tasks of an event loop, where
            blocking waits are awaited); "free-threaded" (threads without a GIL: a bound, since it knows nothing of
            contention).
        workers: How many workers the pool has, or how many tasks there are at once. None: as many as cores; for "asyncio"
            all.
        cores: How many CPUs there are. None: those that this process may use.
        quota: CPUs' worth of time that a container may use, such as 1.5, and 0.01 at least; `math.inf` for no limit beyond
            `cores`. None: that of the container that this process is in, unless `cores` asks for more than there are.
        costs: What the machine takes for itself. None: `calibrate()`, which takes up to two seconds once on each machine.
        warm: The pool's workers, or the loop, are there already.
        chunksize: Calls in a message to a process or interpreter. None: as many as take a few milliseconds.
        nice: Nice value of the workers, from -20 to 19, beside 0 of the caller and of what resources have done on cores.
        speed: What `measure_speed` says when the work is to be done. None: the machine is as fast as when it was recorded.
        replicas: How many runs the interval comes from.
        seed: Of chance: the same answer for the same seed.

    Returns:
        The predicted seconds with their interval.

    Raises:
        TypeError, ValueError: An argument is not what it should be; the message names it and its value.

    >>> from plait import simulate
    >>> from plait.model import Burst, Costs
    >>> calls = [[Burst("hold", 0.010), Burst("blocked", 0.030)]] * 200
    >>> for model in ["serial", "threads", "processes"]:
    ...     prediction = simulate(calls, model=model, workers=4, cores=4, costs=Costs(), warm=True)
    ...     print(f"{prediction.model}: {prediction.seconds:.1f} s")
    serial: 8.0 s
    threads: 2.4 s
    processes: 2.0 s

    Read next: `plait.model.Workload`, `plait.model.what_if`, `plait.model.calibrate`.
    """
    work = _work(workload)
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(map(repr, MODELS))}, not {model!r}")
    there = _core.usable_cpus() if cores is None else _cores(cores)
    many = _workers(work, model, there) if workers is None else positive_int("workers", workers)
    if quota is not None:
        _check_quota(quota)
    if chunksize is not None:
        positive_int("chunksize", chunksize)
    check_int("nice", nice, -20, 19)
    if speed is not None:
        check_speed(speed)
    check_int("replicas", replicas, 0, _MOST_REPLICAS)
    check_int("seed", seed, 0, 2**64 - 1)
    machine = _machine(costs)
    if "interval" not in machine.known:
        machine = Costs({**machine.known, "interval": (sys.getswitchinterval(), 0.0)}, machine.speeds, machine.speed)
    known = dict(machine.known)
    if work.switch is not None:
        # As it would have been when the costs were measured.
        then = machine.speed / work.speed if machine.speed and work.speed else 1.0
        known["gil_switch"] = Cost(work.switch * then, _SWITCH_SPREAD)
    if work.on_loop:
        known["loop.wake"] = Cost(0.0, 0.0)
    known |= _at_speed(machine, work, speed)
    if model != "serial":
        known |= _off(machine, work)
    machine = Costs(known, machine.speeds, machine.speed)
    ns, low, high, bound, items, details = work.core.predict(
        machine.core(speed or work.speed),
        model,
        many,
        there,
        speeds=list(machine.speeds),
        quota=_quota(quota, there),
        warm=warm,
        chunk=chunksize,
        nice=nice,
        replicas=replicas,
        bursts=_BURSTS,
        seed=seed,
    )
    return Prediction(model, many, there, ns / 1e9, low / 1e9, high / 1e9, bound, items, details)


def _work(workload: Workload | Iterable[Iterable[Burst]]) -> Workload:
    if isinstance(workload, Workload):
        return workload
    return Workload(Item(tuple(listed("each call of workload", bursts))) for bursts in listed("workload", workload))


def _machine(costs: Costs | None) -> Costs:
    if costs is None:
        return calibrate()
    check_is("costs", costs, Costs, "Costs")
    return costs


def _at_speed(machine: Costs, work: Workload, speed: float | None) -> dict[str, Cost]:
    """What recorded CPU time is multiplied with, of Python and of what is done apart from it."""
    recorded, apart = machine.all["speed"], machine.all["apart"]
    if speed is None or work.speed is None:
        unsure = math.hypot(recorded.spread, work.unsure)
        return {
            "speed": Cost(recorded.seconds, unsure),
            "apart": Cost(apart.seconds, math.hypot(apart.spread, _APART * unsure)),
        }
    # What changes from one time to the next is known, and unsure is only how far this work follows it.
    change = speed / work.speed
    unsure = math.hypot(math.log(change), work.unsure)
    return {
        "speed": Cost(recorded.seconds * change, math.hypot(_LOOKED, work.unsure, _FOLLOWS * math.log(change))),
        "apart": Cost(apart.seconds * change**_APART, math.hypot(apart.spread, _APART * unsure)),
    }


def _off(machine: Costs, work: Workload) -> dict[str, Cost]:
    """How far predictions of other models may be off."""
    spent = {"beside": 0.0, "outside": 0.0, "": 0.0}  # those that are outside take no core
    for item in work.items:
        for burst in item.bursts:
            spent[burst.resource if burst.resource in spent else ""] += burst.seconds
    unsure = _BESIDE * spent["beside"] / max(spent["beside"] + spent[""], 1e-9)
    found = {name: machine.all[f"off.{name}"] for name in ("threads", "processes", "asyncio")}
    return {f"off.{name}": Cost(off.seconds, math.hypot(off.spread, unsure)) for name, off in found.items()}


def _cores(value: object) -> int:
    given = positive_int("cores", value)
    if given > _MOST_CORES:
        raise ValueError(f"cores must be {_MOST_CORES} at most, not {value!r}")
    return given


def _check_quota(value: object) -> None:
    given = number("quota", value)
    if not (_LEAST_QUOTA <= given <= _MOST_QUOTA or given == math.inf):
        raise ValueError(f"quota must be from {_LEAST_QUOTA} to {_MOST_QUOTA:.0e}, or math.inf, not {value!r}")


def _quota(asked: float | None, cores: int) -> tuple[int, int] | None:
    """CPU time in a period, and the period, in nanoseconds."""
    if asked is None:
        # More cores than there are: the question is about another machine.
        return _core.cpu_quota() if cores <= _core.usable_cpus() else None
    return None if math.isinf(asked) else (max(1, round(asked * _PERIOD_NS)), _PERIOD_NS)


def _workers(work: Workload, model: Model, cores: int) -> int:
    if model == "serial":
        return 1
    return work.count if model == "asyncio" else cores


def what_if(
    workload: Workload | Iterable[Iterable[Burst]],
    *,
    models: Sequence[Model] = MODELS,
    workers: Sequence[int] = (1, 2, 4, 8, 16),
    cores: Sequence[int] | None = None,
    costs: Costs | None = None,
    warm: bool = False,
    seed: int = 0,
) -> list[Prediction]:
    """Predict a workload under several models, numbers of workers and numbers of cores.

    Arguments are those of `simulate`, several of each. All combinations are answered, but serial runs have one worker.

    >>> from plait.model import Burst, Costs, what_if
    >>> calls = [[Burst("hold", 0.010)]] * 50
    >>> best = min(
    ...     what_if(calls, models=["threads", "processes"], cores=[4], costs=Costs(), warm=True),
    ...     key=lambda one: one.seconds,
    ... )
    >>> best.model, best.workers >= 4
    ('processes', True)
    """
    work, machine = _work(workload), _machine(costs)
    there = [_core.usable_cpus()] if cores is None else listed("cores", cores)
    ways, numbers = listed("models", models), listed("workers", workers)
    return [
        simulate(work, model=model, workers=many, cores=each, costs=machine, warm=warm, seed=seed)
        for each in there
        for model in ways
        for many in ([1] if model == "serial" else numbers)
    ]
