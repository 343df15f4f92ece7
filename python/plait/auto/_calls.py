"""Calls, what comes of them, and how some of them are made together in a worker process."""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from types import CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from plait import _core
from plait.auto._errors import Raised, Sent, send
from plait.auto._figures import Sample
from plait.auto._meter import Meter
from plait.auto._reads import Differs, first_difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context


class Shape(NamedTuple):
    """The classes of arguments: of those by place, and of those by name."""

    kinds: tuple[type, ...]
    named: tuple[tuple[str, type], ...] = ()


class Call(NamedTuple):
    """A function, what it is called with, and in what context: None is the calling thread's own."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: Context | None = None

    @property
    def shape(self) -> Shape:
        """The classes of its arguments."""
        kwargs = self.kwargs
        if not kwargs:
            return Shape(tuple(map(type, self.args)))
        return Shape(tuple(map(type, self.args)), tuple(zip(kwargs, map(type, kwargs.values()), strict=True)))


class Part(NamedTuple):
    """Some calls, and for each what its outcome is delivered to."""

    calls: list[Call]
    sinks: list[Any]

    @property
    def size(self) -> int:
        """How many calls."""
        return len(self.calls)

    def why_not_leave(self, why: Callable[[Callable[..., Any], Shape], str]) -> str:
        """What `why` says against one of the functions; "" if it says nothing."""
        those = {(id(call.function), call.shape): call.function for call in self.calls}  # mostly one and the same
        return next((words for (_, shape), function in those.items() if (words := why(function, shape))), "")

    def message(self, needs: tuple[bytes, ...], *, measured: bool) -> tuple[Any, ...]:
        """What a worker process is to call, and with what, if it has what it `needs`. Contexts stay."""
        return in_process, [(call.function, call.args, call.kwargs) for call in self.calls], needs, measured


class Lot(NamedTuple):
    """Items of a `map`, whose outcomes come together.

    Attributes:
        function: It is called with each.
        items: Arguments, or tuples of arguments.
        bare: Whether they are arguments.
        slot: The place of the outcomes.
        step: After so many calls it is looked at the clock.
        patience: Nanoseconds in all, and for each call, after which those that have not begun come back.
    """

    function: Callable[..., Any]
    items: list[Any]
    bare: bool
    slot: Any
    step: int
    patience: tuple[int, int]

    @property
    def size(self) -> int:
        """How many calls."""
        return len(self.items)

    def why_not_leave(self, why: Callable[[Callable[..., Any], Shape], str]) -> str:
        """What `why` says against the function; "" if it says nothing."""
        shapes: set[tuple[type, ...]] = (
            {(kind,) for kind in set(map(type, self.items))}
            if self.bare
            else {tuple(map(type, item)) for item in self.items}
        )
        return next((words for kinds in shapes if (words := why(self.function, Shape(kinds)))), "")

    def message(self, needs: tuple[bytes, ...], *, measured: bool) -> tuple[Any, ...]:
        """What a worker process is to call, and with what, if it has what it `needs`."""
        return lot_in_process, self.function, self.items, self.bare, self.step, self.patience, needs, measured


#: What every process takes, and what may hold what it takes.
_PLAIN: frozenset[type] = frozenset({int, float, complex, str, bytes, bool, type(None)})
_CONTAINERS: frozenset[type] = frozenset({dict, list, tuple, set, frozenset})


def make(call: Call) -> Any:
    """Make a call, and return its result, or what it raised as a `Raised`."""
    function, args, kwargs, context = call
    try:
        result = function(*args, **kwargs) if context is None else context.run(function, *args, **kwargs)
    except BaseException as error:  # it is the caller's
        return Raised(error)
    return result if type(result) is not CoroutineType else Raised(not_awaited(function, result))


def not_awaited(function: Callable[..., Any], coroutine: Any) -> TypeError:
    """The error of a call that returned a coroutine, though its function is none that is known to do so."""
    coroutine.close()
    name = getattr(function, "__qualname__", function)
    return TypeError(
        f"{name} returned the coroutine {coroutine.__qualname__!r}, which nobody awaits, since it is no coroutine function: "
        "write it with `async def`, or give the pool the coroutine function"
    )


def make_each(
    function: Callable[..., Any], items: Any, bare: bool, *, by_caller: bool = False
) -> tuple[list[Any], bool]:
    """Call `function` with each item of an iterator of a list; return the outcomes, and whether there are errors among them.

    Items are arguments, or tuples of arguments if they are not `bare`. Ctrl-C is no outcome of calls that are made `by_caller`.
    """
    outcomes: list[Any] = []
    raised = False
    calls: Iterator[Any] = (map if bare else itertools.starmap)(function, items)
    while True:
        try:
            outcomes.extend(calls)
        except BaseException as error:  # it is raised when its turn comes
            if isinstance(error, KeyboardInterrupt) and by_caller:
                raise
            outcomes.append(Raised(error))
            raised = True
        else:
            if len(items.__reduce__()) != 3:
                break
            # It is not the items that have come to an end.
            outcomes.append(Raised(RuntimeError("a call raised StopIteration")))
            raised = True
    # To look at each takes as long as a short call.
    if outcomes and (type(outcomes[0]) is CoroutineType or type(outcomes[-1]) is CoroutineType):
        outcomes = [
            Raised(not_awaited(function, outcome)) if type(outcome) is CoroutineType else outcome
            for outcome in outcomes
        ]
        raised = True
    return outcomes, raised


class Guarded:
    """An iterator of a list that others may empty. Without a GIL, a list's own one may hand out what they have taken."""

    def __init__(self, items: list[Any]) -> None:
        self.lock = threading.Lock()
        self._items = items
        self._at = 0
        self._over = False

    def __iter__(self) -> Guarded:
        return self

    def __next__(self) -> Any:
        with self.lock:
            if self._at >= len(self._items):
                self._over = True
                raise StopIteration
            self._at += 1
            return self._items[self._at - 1]

    def __length_hint__(self) -> int:
        return max(0, len(self._items) - self._at)

    def __reduce__(self) -> tuple[Any, ...]:
        """As of a list's own one: the third says how many were handed out, and is not there after the end."""
        return (iter, ((),)) if self._over else (iter, (self._items,), self._at)


class Packed(NamedTuple):
    """Outcomes as a pickle: where it was made, it could be made."""

    data: bytes

    def outcomes(self) -> list[Any]:
        """The outcomes themselves."""
        return pickle.loads(self.data)  # type: ignore[no-any-return]


def in_process(
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]], needs: tuple[bytes, ...], measured: bool
) -> tuple[Packed | list[Any] | Differs, bool, tuple[int, ...]]:
    """Make calls in a worker process; return outcomes that can travel, whether any is an error, and what the calls took.

    The last is empty unless they are `measured`. No call is made where this process has something else than it `needs`. What
    takes long to pickle is not in what travels.
    """
    values = [value for _, args, kwargs in calls for value in (*args, *kwargs.values())]
    if other := first_difference(needs, _module_if_plain(calls[0][0], values) if len(calls) == 1 else ""):
        return Differs(other), False, ()
    meter = Meter() if measured else None
    if meter is not None:
        meter.start()
    outcomes = [make(Call(*call)) for call in calls]
    took = () if meter is None else _took(meter, len(outcomes))
    raised = any(type(outcome) is Raised for outcome in outcomes)
    return *_to_travel(outcomes, calls[0][0], raised, alone=len(calls) == 1), took


def _module_if_plain(function: Callable[..., Any], values: list[Any]) -> str:
    """The module of a function that was found by its name, if to unpickle `values` ran no code; "" else."""
    return function.__module__ if type(function) is FunctionType and _PLAIN.issuperset(map(type, values)) else ""


def _took(meter: Meter, calls: int) -> tuple[int, ...]:
    meter.ended(calls, meter.began)
    return tuple(meter.sample())


class _Clocks(NamedTuple):
    """What a `Meter` reads, but for what takes long to ask for."""

    wall: int
    cpu: int
    held: int
    wanted: int

    @classmethod
    def now(cls) -> _Clocks:
        """As they are now."""
        return cls(time.perf_counter_ns(), time.thread_time_ns(), *(_core.gil_tally() or (-1, 0)))

    def until(self, calls: int, ready: int) -> Sample:
        """What so many calls have taken since, of which they waited for a core for so long: others may have had it."""
        now = self.now()
        wall, seen = now.wall - self.wall, min(now.held, self.held) >= 0
        cpu = min(now.cpu - self.cpu, wall)
        wanted = min(now.wanted - self.wanted, wall - cpu) if seen else 0
        held = min(now.held - self.held, wall) if seen else -1
        return Sample(calls, wall, cpu, held, wanted, min(ready, wall - cpu - wanted))


def lot_in_process(
    function: Callable[..., Any],
    items: list[Any],
    bare: bool,
    step: int,
    patience: tuple[int, int],
    needs: tuple[bytes, ...],
    measured: bool,
) -> tuple[Packed | list[Any] | Differs, bool, tuple[int, ...]]:
    """Like `in_process`, for the items of a `Lot`: fewer outcomes than items where they take too long.

    What is told of these is what the last calls took, measured or not: it is those that are not as they were thought to be.
    """
    if other := first_difference(needs, _module_if_plain(function, items) if bare else ""):
        return Differs(other), False, ()
    meter = Meter() if measured else None
    if meter is not None:
        meter.start()
    ready = _core.thread_ready_ns() if len(items) > step else 0  # to ask takes long, beside a short message
    known, calls = _Clocks.now(), 0
    began = known.wall
    patient, each = patience
    outcomes: list[Any] = []
    raised = False
    took: tuple[int, ...] | None = None
    for at in range(0, len(items), step):
        some, failed = make_each(function, iter(items[at : at + step]), bare)
        outcomes += some
        raised = raised or failed
        now, made = time.perf_counter_ns(), len(outcomes) - calls
        if now - began > patient + each * len(outcomes) and len(outcomes) < len(items):
            took = known.until(made, _core.thread_ready_ns() - ready)  # without those that took what was thought
            break
        if now - known.wall <= each * made:
            known, calls = _Clocks.now(), len(outcomes)
    if took is None:
        took = () if meter is None else _took(meter, len(outcomes))
    return *_to_travel(outcomes, function, raised, alone=len(items) == 1), took


#: The last note of what is raised in a worker before it calls one of these.
_NOT_READ = frozenset(
    f"while unpickling the arguments of {function.__module__}.{function.__qualname__} in the worker"
    for function in (in_process, lot_in_process)
)


def was_not_read(error: BaseException) -> bool:
    """Whether this was raised where a worker read what to call, so that it has called nothing."""
    notes: Any = getattr(error, "__notes__", None)
    last: object = notes[-1] if notes.__class__ is list and notes else ""
    return isinstance(last, str) and last in _NOT_READ


def _to_travel(
    outcomes: list[Any], function: Callable[..., Any], raised: bool, *, alone: bool
) -> tuple[Packed | list[Any], bool]:
    """Outcomes that can travel, and whether there are errors among them: what cannot is replaced by what says why.

    It must not cost the others; what comes of a call that travels `alone` costs nobody anything.
    """
    if raised:
        outcomes = [send(outcome.error) if isinstance(outcome, Raised) else outcome for outcome in outcomes]
    if alone:
        return outcomes, raised
    kinds: set[type] = {type(outcome) for outcome in outcomes}
    if kinds <= _PLAIN | {Sent}:
        return outcomes, raised
    what = f"the result of {getattr(function, '__qualname__', function)}"
    if kinds <= _PLAIN | _CONTAINERS and all(map(_holds_plain, outcomes)):
        # To pickle them here and send that takes half as long as to pickle them for a trial.
        try:
            return Packed(_core.dumps(outcomes, what)), raised
        except Exception:  # an integer that is too long to be read again, say
            pass
    outcomes = [_one_to_travel(outcome, what) for outcome in outcomes]
    return outcomes, any(type(outcome) is Sent for outcome in outcomes)


def _holds_plain(value: Any) -> bool:
    """Whether a value is plain, or holds nothing else. What refers to shared memory has to travel by the pool's own pickle."""
    if type(value) not in _CONTAINERS:
        return True
    inner: Any = [*value, *value.values()] if type(value) is dict else value
    return {type(each) for each in inner} <= _PLAIN


def _one_to_travel(outcome: Any, what: str) -> Any:
    if type(outcome) not in _PLAIN and not isinstance(outcome, Sent):
        try:
            _core.dumps(outcome, what)
        except Exception as error:  # whatever its reducers raise
            from plait.errors import NotPicklable

            told = error if isinstance(error, NotPicklable) else NotPicklable(f"the result: {error!r}")
            return send(told, f"returns what cannot be pickled: {error}")
    return outcome
