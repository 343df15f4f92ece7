"""What is known of a function, and what was decided for it."""

from __future__ import annotations

import functools
import linecache
import threading
import time
import weakref
from dataclasses import dataclass, replace
from types import CodeType
from typing import TYPE_CHECKING, Any, cast

from plait import _core
from plait.auto import _choice, _main_module, _memory
from plait.auto._calls import Shape
from plait.auto._choice import ASYNCIO, PROCESSES, SERIAL, THREADS, Costs, Decision, Machine, Plan
from plait.auto._figures import Figures, Sample
from plait.auto._paces import Paces
from plait.auto._reads import Needs

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.auto._calls import Call

#: Seconds of calls after which a function is known well enough, and as many calls.
LEARN_SECONDS = 0.003
LEARN_CALLS = 8

#: Seconds of short calls that are enough.
_LEARN_SHORT = 0.001

#: And of those for which processes start already, and as many calls.
_LEARN_SOON, _LEARN_FEW = 0.0006, 2

#: Seconds of a call that is not made here only to see how long it takes.
_LONG = 0.02

#: How long a call takes beside the very first one, as far as nobody has seen any; and at least, mostly.
_FIRST_LONGER, FIRST_MUCH_LONGER = 0.6, 0.35

#: Calls after which it is decided, however short they are.
_LEARN_MANY = 256

#: How many slices more than at first it takes at most to believe a change.
_MOST_ANEW = 6

#: What it takes to read whether a function may leave, in seconds: from a file that nobody has read before, and from another.
_READ, _READ_AGAIN = 0.002, 0.0005

#: Classes of arguments that are told apart, at most; and those that nobody has to tell apart.
_MOST_SHAPES = 64
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})

#: So many items of a container tell how large it is.
_SAMPLED = 32

#: What pickling and unpickling a byte of an array takes, in seconds.
_ARRAY_BYTE = 0.3e-9


@dataclass
class Made:
    """Calls that were made by one plan.

    Attributes:
        decision: The first one for it.
        calls: How many.
        seconds: How long they would have taken one after the other.
    """

    decision: Decision
    calls: int = 0
    seconds: float = 0.0


class _Checked:
    """What is known of whether a function may leave, by the classes of its arguments."""

    def __init__(self) -> None:
        self.whys: dict[Shape, str] = {}
        self.needs = Needs()


class Function:
    """What is known of a function, and what was decided.

    Attributes:
        name: Its name, for people.
        figures: What its calls took.
        decision: None while it is learnt.
        refused: Models that it cannot be run in, and why.
        paces: How fast the models were seen to be.
        crowd: What calls take in the plan that is in use, where that has several workers: they get into each other's way, so
            `figures` are of calls that had the process for themselves, as far as there were any.
        decided: How often it was decided.
        made: Calls by the plan that was decided for.
        total: What all calls took that were measured, wherever they were made.
        done: Calls by who has made them, in words: while processes start, threads do.
        anew: How many times it was another than before: calls that are now long and now short are so by nature, and it takes
            the more of them to believe the next change.
        spared: Slices that were not learnt from, since garbage was collected meanwhile.
    """

    def __init__(self, function: Callable[..., Any], models: frozenset[str], machine: Machine, costs: Costs) -> None:
        self.name = name_of(function)
        self.figures = Figures()
        self.decision: Decision | None = None
        self.decided = 0
        self.made: dict[tuple[str, int], Made] = {}
        self.done: dict[str, int] = {}
        self.total: Sample | None = None
        self.machine = machine
        self.models = models
        self.costs = costs
        self.refused: dict[str, str] = {
            model: "is not among the pool's models" for model in _choice.MODELS if model not in models
        }
        self.refused.setdefault(ASYNCIO, "is no coroutine function")
        self.paces = Paces()
        self.crowd = Figures()
        self.anew = self.spared = 0
        self._changes = 0
        """How many times another model was taken, calls that have changed or not."""
        self._last: str | None = None
        self._example: weakref.ref[Callable[..., Any]] | None = _reference(function)
        self._function: Callable[..., Any] | None = function if self._example is None else None
        self._checked: weakref.WeakKeyDictionary[Any, _Checked] = weakref.WeakKeyDictionary()
        self._others: dict[int, tuple[Any, _Checked]] = {}
        self._code: CodeType | None = code_of(function)  # kept: it is known by it
        self._sized = self._saw_result = False
        self._was_read = False
        self._arguments = 0, 0.0
        """Bytes and seconds of a call's arguments."""
        self._shape = Shape(())
        """The classes of the first call's arguments."""
        self.lock = threading.RLock()
        self.prior: _memory.Learnt | None = None
        """What other pools have seen of it."""
        self.unproven: Figures | None = None
        """What was seen since it was gone by that, while it is not known yet whether it is still so."""

    # ---- what other pools know

    def remember(self) -> None:
        """Leave what was learnt to other pools."""
        with self.lock:
            if (
                PROCESSES in self.models and self._code is not None
            ):  # or it does not know what it takes to move arguments
                stays = self.anew or PROCESSES in self.refused or not self.figures.samples
                if stays or self.made or _memory.recall(self._code) is None:  # a few calls do not say how many are made
                    _memory.keep(self._code, None if stays else self._learnt())

    def _learnt(self) -> _memory.Learnt:
        made = self.most_made()
        model = "" if made is None else made.plan.model
        calls = sum(each.calls for each in self.made.values())
        return _memory.Learnt(self.figures.recalled(self.crowd), self.paces.copy(), self._shape, model, calls)

    def recall(self) -> None:
        """Know what other pools have left."""
        self.prior = _memory.recall(self._code)
        if self.prior is not None:
            self._shape = self.prior.shape

    def recalls(self, calls: int, start: float, start_processes: Callable[[], object]) -> bool:
        """Whether what other pools know says how so many calls are made, before any of them is seen.

        So it is where calls wait, or were made in the same way, or each takes as long as processes take to start. Of others
        it is learnt as ever how long they take, while processes start that they are likely to need.
        """
        prior, self.prior = self.prior, None
        if prior is None or self.figures.samples:
            return False
        known, self.paces = prior.figures, prior.paces.recalled()
        model, waits = self._choose(calls, start, known).plan.model, known.blocked > 0.5 * known.wall
        if model == PROCESSES:
            start_processes()  # first: that takes longer than to read the function
            self.check()
            if PROCESSES in self.refused:
                return False
        elif model != THREADS or not (waits or prior.model == THREADS):
            self.prior = prior  # more calls may come
            return False
        if not (waits or prior.model == model or known.wall > _LONG):
            return False
        self.figures = known.recalled(Figures())
        self.figures.calls, self.figures.result_sized = 0, False  # none was seen here
        self.unproven = Figures()
        return True

    # ---- whether it may leave

    def why_not_leave(self, function: Callable[..., Any], shape: Shape) -> str:
        """Why `function`, which is this one or another of the same code, may not leave this process; "" if it may.

        `shape` is of its arguments: other classes have other methods.
        """
        if not _PLAIN.isdisjoint(shape.kinds):
            shape = Shape(tuple(int if kind in _PLAIN else kind for kind in shape.kinds), shape.named)
        checked = self._checked_of(function)
        why = checked.whys.get(shape)
        if why is None:
            why = self._check_shape(function, shape, checked)
            checked.whys[shape] = why
        return why

    def needs(self, function: Callable[..., Any]) -> Needs:
        """What a process has to have for `function`."""
        return self._checked_of(function).needs

    def _checked_of(self, function: Callable[..., Any]) -> _Checked:
        key = _without_bound(function)
        try:
            return self._checked.get(key) or self._checked.setdefault(key, _Checked())
        except TypeError:  # it cannot be referred to weakly
            return self._others.setdefault(id(key), (key, _Checked()))[1]

    def _check_shape(self, function: Callable[..., Any], shape: Shape, checked: _Checked) -> str:
        if len(checked.whys) >= _MOST_SHAPES:
            return "may not leave this process: it is given arguments of too many classes"
        from plait.auto._writes import Search, notes_for  # slow to import, and only functions that may leave are read

        search = Search(shape.kinds, dict(shape.named), knows_kinds=True)
        change = search.change(function)
        why = _main_module.why_not_found(function) if change is None else f"may not leave this process: {change}"
        read = notes_for(function, search.notes)
        checked.needs.add(read)
        if not why:
            why = _main_module.why_not_read(read)
        if not why:
            try:
                _core.dumps(function, self.name)
            except Exception as error:  # whatever its reducers raise
                why = f"cannot be pickled: {error}"
        return why

    def function(self) -> Callable[..., Any] | None:
        """The one that was met first, if it is still there."""
        return self._function if self._example is None else self._example()

    def check(self, *, wanted: bool = True) -> None:
        """Find out, once, whether it may leave; whether that is `wanted`, so that people are told why not."""
        self._was_read = True
        function = self.function()
        if PROCESSES in self.refused or function is None:
            return
        why = self.why_not_leave(function, self._shape)
        if not why and (why := _main_module.why_not()) and wanted:
            _main_module.tell()
        if why:
            self.refused[PROCESSES] = why

    def size_arguments(self, call: Call) -> bool:
        """Find out, before its first call, what it takes to send arguments; return whether it was the first."""
        with self.lock:
            sized, self._sized = self._sized, True
            if not sized:
                self._shape = call.shape
        if not sized and PROCESSES not in self.refused:
            self._arguments = self._measure((call.args, call.kwargs), "has arguments that cannot be pickled")
            self.figures.size, self.figures.pickling = self._arguments
        return not sized

    def size_result(self, result: object) -> None:
        """Add what it takes to send a result, instead of what is known of an earlier one: they may grow."""
        with self.lock:
            first = not self.figures.result_sized
            self.figures.result_sized = True
        if first and PROCESSES not in self.refused:
            # The first one is pickled whole: something anywhere in it may not be fit for it.
            part, times = (result, 1.0) if not self._saw_result else _part_of(result)
            self._saw_result = True
            size, pickling = self._measure(part, "returns what cannot be pickled")
            size, pickling = int(times * size), times * pickling
            self.figures.size, self.figures.pickling = self._arguments[0] + size, self._arguments[1] + pickling

    def _measure(self, value: object, words: str) -> tuple[int, float]:
        """Bytes that are sent, and the seconds that it takes to make and to read them."""
        guessed = _guess_size(value)
        began = time.perf_counter()
        if guessed is None:
            try:
                guessed = len(_core.dumps(value, self.name)), 0.0
            except Exception as error:
                self.refused[PROCESSES] = f"{words}: {error}"
                return 0, 0.0
            guessed = guessed[0], 3 * (time.perf_counter() - began)  # to unpickle takes twice as long
        return guessed

    # ---- what is decided

    def add_pace(self, plan: Plan, calls: int, seconds: float) -> None:
        """So many calls took so many seconds in all."""
        predict = _choice.in_threads if plan.model == THREADS else _choice.in_processes
        predicted = predict(self.figures, self.machine, self.costs, plan.workers)
        self.paces.add(plan.model, plan.workers, calls, seconds, predicted, self.figures)

    def count(self, calls: int, elsewhere: int) -> None:
        """So many calls were made as it is decided now, so many of them by processes. The lock is held."""
        decision = self.decision
        here = SERIAL if decision is None or decision.plan.model == PROCESSES else _choice.shown(*decision.plan.key)
        for who, count in (here, calls - elsewhere), (PROCESSES, elsewhere):
            if count > 0:
                self.done[who] = self.done.get(who, 0) + count
        if decision is not None and calls:
            made = self.made.setdefault(decision.plan.key, Made(decision))
            made.calls += calls
            # A call that was decided on while it ran is none of the figures.
            thought = decision.others.get(SERIAL, decision.plan.seconds) / max(1, decision.calls)
            made.seconds += calls * max(thought, self.figures.wall)

    def most_made(self) -> Decision | None:
        """The decision that most of the work was done by; of one model's, the one with most of that model's."""
        with self.lock:
            if not self.made:
                return self.decision
            models = {
                model: sum(made.seconds for (which, _), made in self.made.items() if which == model)
                for model, _ in self.made
            }
            model = max(models, key=models.__getitem__)
            return max(
                (made for (which, _), made in self.made.items() if which == model), key=lambda made: made.seconds
            ).decision

    def known_now(self) -> Figures:
        """Of all calls that were measured, where there are some: for people, who hold it against what they see."""
        return self.figures if self.total is None else self.figures.if_only(self.total)

    def explained(self) -> Decision | None:
        """The same, as it looks by what is known now, and for all calls that were made so far.

        What it was decided by may have been a call that had not ended, or the first one, to which much was new.
        """
        with self.lock:
            decision, known = self.most_made(), self.known_now()
            calls = sum(self.done.values())
            if decision is None or decision.plan.model == ASYNCIO or not known.samples or not calls:
                return decision
            # How fast the models were seen to be is said of the figures that it was decided by.
            paces = self.paces if 0.9 < known.wall / max(self.figures.wall, 1e-9) < 1.1 else Paces()
            return _choice.as_known(decision, known, self.machine, self.costs, calls, refused=self.refused, paces=paces)

    def begin_anew(self, sample: Sample | None) -> None:
        """The function is another from this sample on, or from now on."""
        self.anew = min(self.anew + 1, _MOST_ANEW)
        self.spared = 0
        before = self.figures.last_odd() if sample is not None else None
        for figures in (self.figures, self.crowd):
            figures.forget()
        self.paces.forget()
        self.unproven = None
        if sample is None:
            self.decision = None
            return
        if before is not None:
            self.figures.add(before)
        self.figures.add(sample)

    def decide(self, calls: int, start: float, figures: Figures | None = None) -> Decision:
        """Decide how to make so many calls; `figures` are others than those that are known."""
        decision = self._choose(calls, start, figures or self.figures)
        if decision.plan.model == PROCESSES:
            self.check()
            if PROCESSES in self.refused:
                decision = self._choose(calls, start, figures or self.figures)
        before = None if self.decision is None else self.decision.plan
        if before is None or before.key != decision.plan.key:
            self.crowd.forget()
        self.decision = decision
        self._changes += self._last is not None and self._last != decision.plan.model
        self._last = decision.plan.model
        self.decided += 1
        return decision

    def foresees_processes(self, calls: int, start: float, share: float = _FIRST_LONGER) -> bool:
        """Whether what is known speaks for processes, if calls take this share of the first one, and nothing against them."""
        if self.figures.remembered == 1:
            calls = int(share * calls)
        return self.would_leave(calls, start, self.figures)

    def would_leave(self, calls: int, start: float, figures: Figures) -> bool:
        """Whether processes are best for calls with these figures, and nothing speaks against them."""
        if self._choose(calls, start, figures).plan.model != PROCESSES:
            return False
        self.check()
        return PROCESSES not in self.refused

    def _choose(self, calls: int, start: float, figures: Figures) -> Decision:
        return _choice.choose(
            figures,
            self.machine,
            self.costs,
            max(1, calls),
            refused=self.refused,
            start=start + (0.0 if self._was_read else self._reading()),
            paces=Paces() if figures is not self.figures and self.figures.samples else self.paces,
            before=None if self.decision is None else self.decision.plan.model,
            changes=self._changes,
        )

    def _reading(self) -> float:
        code = code_of(self.function())
        return _READ_AGAIN if code is None or code.co_filename in linecache.cache else _READ

    def take_threads(self, workers: int) -> None:
        """Go on with so many threads instead of those decided for."""
        if self.decision is not None:
            self.decision = replace(self.decision, plan=replace(self.decision.plan, workers=workers))
            self.crowd.forget()

    def known(self, *, soon: bool = False) -> bool:
        """Whether enough is known to decide; `soon`, for workers that start already, which can be given calls."""
        figures = self.figures
        seconds = figures.seconds
        if soon and seconds >= _LEARN_SOON and figures.remembered >= _LEARN_FEW:
            return True
        return seconds >= LEARN_SECONDS or (
            figures.remembered >= LEARN_CALLS and (seconds >= _LEARN_SHORT or figures.remembered >= _LEARN_MANY)
        )

    def assume_longer(self, sample: Sample) -> Sample:
        """What a call that still runs may take: what has lasted so long lasts as long again, mostly."""
        return Sample(sample.calls, *(2 * value if value > 0 else value for value in sample[1:]))


def innermost(function: Any) -> Any:
    """What a partial calls. An object that has any attribute that it is asked for, as a remote one does, is none."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def code_of(function: Any) -> CodeType | None:
    """The code that a function, a method or a partial of one runs, if it is written in Python."""
    function = innermost(function)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else None


def name_of(function: Any) -> str:
    """A function's name, for people."""
    function = innermost(function)
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        name = type(function).__qualname__
    return f"{getattr(function, '__module__', None) or '?'}.{name}"


def _reference(function: Any) -> weakref.ref[Any] | None:
    try:
        return None if hasattr(function, "__self__") else weakref.ref(function)
    except TypeError:
        return None


def _without_bound(function: Any) -> Any:
    """What says whether it may leave: of a method its function, for all objects."""
    return getattr(function, "__func__", function)


def _part_of(value: Any) -> tuple[Any, float]:
    """Some of a long list or tuple, and how many times as many there are."""
    if type(value) not in (list, tuple) or (many := len(value)) < 2 * _SAMPLED:
        return value, 1.0
    part = value[:: many // _SAMPLED]
    return (part, many / len(part)) if part else (value, 1.0)  # another thread may have emptied it


def _guess_size(value: Any) -> tuple[int, float] | None:
    """Bytes, and seconds for both ways, of what need not be pickled to be known; None for the rest."""
    if value is None or isinstance(value, int | float | bool | complex):
        return 8, 0.3e-6
    if isinstance(value, str | bytes | bytearray):
        return len(value), 0.3e-6 + len(value) * _ARRAY_BYTE
    items: Any = None
    if isinstance(value, dict):
        items = list(cast("Any", value).values())
    elif isinstance(value, tuple):
        items = cast("Any", value)
    if items is not None and len(items) <= 8:
        parts = [_guess_size(item) for item in items]
        known = [part for part in parts if part is not None]
        return (sum(part[0] for part in known), sum(part[1] for part in known)) if len(known) == len(parts) else None
    array = cast("Any", value)
    nbytes = getattr(array, "nbytes", None)
    if type(array).__module__ == "numpy" and isinstance(nbytes, int) and not array.dtype.hasobject:
        return nbytes, 5e-6 + nbytes * _ARRAY_BYTE
    return None
