"""The advice: models in their order, reasons, what to change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait import _core
from plait._executor import positive_int
from plait._words import seconds, times
from plait.advice import _words
from plait.advice._find import FEWEST
from plait.advice._work import (
    ASYNCIO,
    FREE,
    INTERPRETERS,
    MODELS,
    PROCESSES,
    SERIAL,
    THREADS,
    Predicted,
    Work,
    memory_is_measured,
)

if TYPE_CHECKING:
    from plait.observe._profile import Profile

#: What is less than this much better is a tie, which goes to the simpler model.
TIE = 0.10

#: The share of calls' waits from which on their being for locks leaves open what calls would do side by side.
_LOCKED = 0.5

#: Cores that a chart shows.
CORES = (1, 2, 4, 8, 64)


@dataclass(frozen=True)
class Option:
    """A model that the calls could run in.

    Attributes:
        model: "serial", "threads", "processes", "asyncio", "subinterpreters" or "free-threaded".
        seconds: How long all calls would take, the start of the pool included.
        low: Nine of ten runs take from so long,
        high: to so long, by how the calls vary and how well the machine's costs are known.
        workers: With how many workers.
        memory: Bytes beyond the program's own: of the workers, and of what is sent to them.
        memory_measured: Whether what a worker takes was measured on this machine, rather than on another one.
        reason: Why that, in a sentence.
        change: What to change in the program.
        refused: Why it cannot be taken as the program is; empty where it can.
    """

    model: str
    seconds: float
    low: float
    high: float
    workers: int
    memory: float
    reason: str
    change: str
    refused: str = ""
    memory_measured: bool = True


@dataclass(frozen=True)
class Advice:
    """What the calls that a program makes most of would take under each model.

    Attributes:
        verdict: The model to take, "serial", "threads", "processes" or "asyncio"; None where it cannot be told.
        why: The reason, in a sentence.
        tasks: Whose calls these are, as "module.function"; None where none stand out.
        calls: How many there were.
        cores: How many cores this is for.
        options: The models, the quickest first.
        what_if: Seconds by number of cores and model.
        measured: What the calls took in the run, in seconds.
        at_once: How many of them were under way at once then.
        limits: What the profile that it was made from could not see, in sentences.

    >>> Advice(None, "no calls", None, 0, 2, (), {}, 0.0, 0).to_dict()["verdict"] is None
    True
    """

    verdict: str | None
    why: str
    tasks: str | None
    calls: int
    cores: int
    options: tuple[Option, ...]
    what_if: dict[int, dict[str, float]] = field(repr=False)
    measured: float
    at_once: int
    limits: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as it goes into JSON; times in seconds, memory in bytes."""
        return {
            "schema": 1,
            "verdict": self.verdict,
            "predicted": {option.model: option.seconds for option in self.options},
            "interval": {option.model: [option.low, option.high] for option in self.options},
            "workers": {option.model: option.workers for option in self.options},
            "tasks": self.tasks,
            "why": self.why,
            "calls": self.calls,
            "cores": self.cores,
            "memory": {option.model: option.memory for option in self.options},
            "memory_from": {
                option.model: "measured" if option.memory_measured else "typical" for option in self.options
            },
            "reasons": {option.model: option.reason for option in self.options},
            "changes": {option.model: option.change for option in self.options},
            "refused": {option.model: option.refused for option in self.options if option.refused},
            "what_if": {str(cores): dict(each) for cores, each in self.what_if.items()},
            "measured": {"seconds": self.measured, "at_once": self.at_once},
            "limits": list(self.limits),
        }

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write it as one page that needs nothing else."""
        from plait.advice import _render

        with open(path, "w", encoding="utf-8") as file:
            file.write(_render.page(self))

    def __str__(self) -> str:
        from plait.advice import _render

        return _render.text(self)


def nothing(why: str, cores: int) -> Advice:
    """Return the advice of a program that nothing can be said of."""
    return Advice(None, why, None, 0, cores, (), {}, 0.0, 0)


def of_calls(record: dict[str, Any], cores: Sequence[int] | None = None) -> Advice:
    """Make the advice from the record of a program's calls.

    Args:
        record: As `_find.record` makes it.
        cores: Numbers of cores that are asked for; the advice is for the only one, or else for this machine's.
    """
    shown = CORES if cores is None else tuple(positive_int("cores", each) for each in cores)
    here = shown[0] if cores is not None and len(shown) == 1 else _core.usable_cpus()
    if record["tasks"] is None or not record["items"]:
        most = record["others"][:1]
        seen = f"; {most[0]['name']} was called {times(most[0]['calls'])}" if most else ""
        return nothing(f"too few samples: no function of the program was called {FEWEST} times or more{seen}", here)
    work = Work(record)
    refused = _refused(record, work)
    found = {model: work.predict(model, here, interval=True) for model in MODELS}
    verdict, why = _decide(record, work, found, refused, here)
    options = tuple(
        Option(
            model,
            *found[model],
            _words.reason(model, work, here, gains=found[model].seconds < found[SERIAL].seconds),
            _words.change(model, work, found, here, refused),
            refused.get(model, ""),
            memory_is_measured(model),
        )
        for model in _ranked(found, work)
    )
    what_if = {many: {model: work.predict(model, many, interval=False).seconds for model in MODELS} for many in shown}
    return Advice(
        verdict, why, record["tasks"], record["calls"], here, options, what_if, record["span"], record["at_once"]
    )


def _simplest(work: Work) -> list[str]:
    """Models that a program can take as it is, the simplest first."""
    if work.record["coroutine"]:
        return [SERIAL, ASYNCIO, THREADS, PROCESSES]
    return [SERIAL, THREADS, ASYNCIO, PROCESSES]


def _ranked(found: dict[str, Predicted], work: Work) -> list[str]:
    """The models, the quickest that a program can take first, of those that tie the simplest; the others where they fall."""
    left, ranked = _simplest(work), list[str]()
    while left:
        ranked.append(_best(found, left))
        left.remove(ranked[-1])
    for model in sorted(found.keys() - set(ranked), key=lambda model: found[model].seconds):
        slower = (at for at, other in enumerate(ranked) if at and found[other].seconds > found[model].seconds)
        ranked.insert(next(slower, len(ranked)), model)
    return ranked


def _refused(record: dict[str, Any], work: Work) -> dict[str, str]:
    """Models that the calls cannot be run in as they are, and why."""
    refused: dict[str, str] = {}
    if record["chained"]:
        why = "each call takes what the one before returned"
        return dict.fromkeys((model for model in MODELS if model != SERIAL), why)
    change, unpicklable, held = record["change"], record["unpicklable"], record["held_by_one"]
    if held:
        why = f"shared state is used: all calls have {held}, which serves one of them at a time"
        refused = dict.fromkeys((model for model in MODELS if model != SERIAL), why)
    elif record.get("locked", 0.0) > _LOCKED:
        why = f"{record['locked']:.0%} of the waits are for locks, so what its calls can do side by side is not known"
        refused = dict.fromkeys((model for model in MODELS if model != SERIAL), why)
    if change and THREADS not in refused:
        refused[PROCESSES] = f"shared state is written: {change}; another process has one of its own"
        if work.blocked < work.held:
            why = f"shared state is written: {change}, which threads would do side by side"
            refused |= dict.fromkeys((FREE,) if record["gil"] else (THREADS, FREE), why)
    elif unpicklable and THREADS not in refused:
        refused[PROCESSES] = f"{_words.UNSENT}: {unpicklable}"
    if PROCESSES in refused:
        refused[INTERPRETERS] = refused[PROCESSES]
    return refused


def _decide(
    record: dict[str, Any], work: Work, found: dict[str, Predicted], refused: dict[str, str], cores: int
) -> tuple[str | None, str]:
    does = _words.does(work)
    order = _simplest(work)
    if record["chained"]:
        return SERIAL, f"{does}; {refused[THREADS]}, so that none can begin earlier"
    if record["calls"] < FEWEST:
        return None, f"too few samples: {record['tasks']} was called {times(record['calls'])}"
    best = _best(found, order)
    if best in refused:
        left = _best(found, [model for model in order if model not in refused])
        return None, (
            f"{does}; {best} would take {seconds(found[best].seconds)}, {left} would take "
            f"{seconds(found[left].seconds)}; {best} cannot be taken as the program is, since {refused[best]}"
        )
    if best == SERIAL and not record["in_turn"] and not _words.is_little(work):
        other = _words.natural(work)
        why = _words.reason(other, work, cores, gains=False)
        took, alone = seconds(found[other].seconds), seconds(found[SERIAL].seconds)
        return SERIAL, f"{does}; {why}: {other} would take {took}, serial takes {alone}"
    return best, f"{does}; {_words.reason(best, work, cores)}"


def _best(found: dict[str, Predicted], models: list[str]) -> str:
    """The quickest of some models, or the first that ties with it."""
    best = min(found[model].seconds for model in models)
    return next(model for model in models if found[model].seconds <= best * (1 + TIE))


def advise(profile: Profile | str | os.PathLike[str], *, cores: Sequence[int] | None = None) -> Advice:
    r"""Say under which concurrency model the work of a program would take how long.

    Args:
        profile: A profile, or the path of a script, which is run once, to its end, in an interpreter of its own. Of a
            profile, the tasks, the calls of pools, the threads, or the functions that the program calls in a loop are taken.
        cores: Numbers of cores to predict. A single one is what the verdict is for; else it is for this machine.

    Returns:
        The advice; `str()` of it is the table.

    Raises:
        ValueError: A number of cores is not positive, or the profile is empty.
        TypeError: An argument is not what it should be.
        FileNotFoundError: There is no such script.
        RuntimeError: The script failed.

    >>> import pathlib, plait, tempfile
    >>> script = pathlib.Path(tempfile.mkdtemp(), "sleeps.py")
    >>> _ = script.write_text("import time\nfor _ in range(40): time.sleep(0.01)\n")
    >>> plait.advise(script).verdict in {"threads", "asyncio"}
    True
    """
    from plait.observe._profile import Profile

    if cores is not None:
        if isinstance(cores, int | str):
            raise TypeError(f"cores must be numbers in a sequence, not {cores!r}")
        if not cores:
            raise ValueError("cores must have a number at least")
        cores = [positive_int("cores", each) for each in cores]
    if isinstance(profile, Profile):
        from plait.advice import _profiles

        return _profiles.advice(profile.record, cores)
    from plait.advice import _program

    try:
        record = _program.run([os.fspath(profile)], apart=False)
    except _program.ProgramError as error:
        raise RuntimeError(str(error)) from None
    return of_calls(record, cores)
