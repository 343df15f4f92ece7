"""A meter: what the calls of one function take, each from its beginning to its end, without those that they make themselves."""

from __future__ import annotations

import resource
import threading
import time
import types
import weakref
from typing import TYPE_CHECKING, Any

from plait import _core
from plait.advice._held import Sharing, class_of, held_by
from plait.advice._instructions import instructions, longer, plain_cost
from plait.advice._pickles import Given, name_of, pickled, why
from plait.advice._reducers import pickling

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: Calls of a function that are looked at; those after them are counted.
LOOKED_AT = 1000

#: Calls that make a function one that is called again and again.
REPEATED = 4

#: Nanoseconds of a call below which asking the kernel would take longer than the call.
_SHORT = 30_000

#: Nanoseconds that metering of a short call takes at most, unless another program has the core.
_MOST_LOST = 50_000

#: The share of what a look at the clock costs by which that cost differs from call to call.
_UNSURE = 0.5

#: Nanoseconds that a call takes on any machine, where others had the core while that was measured.
_QUICKEST = 10.0

#: Nanoseconds of a coroutine's step without computing that are no chance.
_IDLE = 200_000

#: Calls whose arguments and results are pickled, to see what that takes.
PARCELS = 3

#: Where a coroutine awaits something: file and line of the innermost one.
Place = tuple[str, int]


class Sample:
    """What a call took; times in nanoseconds, -1 where it could not be seen."""

    __slots__ = (
        "awaited", "awaits", "began", "beside", "blocked", "children", "computed", "cpu", "held", "parent", "ready", "wall",
        "wanted",
    )  # fmt: skip

    def __init__(self, parent: Meter | None, began: int, wall: int, cpu: int) -> None:
        self.parent = parent
        self.began = began
        self.wall = wall
        self.cpu = cpu
        self.held = -1
        #: On a core with the GIL.
        self.computed = -1
        self.wanted = 0
        self.ready = 0
        self.awaited = 0
        #: Of a coroutine, how long its steps waited without awaiting anything, when no other task could run.
        self.blocked = 0
        #: Of each await where it stands, how long it took, and how long other tasks computed meanwhile.
        self.awaits: list[tuple[Place, int, int]] = []
        #: What processes computed that it has started and waited for,
        self.children = 0
        #: and what other threads of this one computed meanwhile.
        self.beside = 0

    @property
    def alone(self) -> int:
        """How long it would have taken without others."""
        return max(self.cpu, self.wall - self.wanted - self.ready)


def _nothing() -> None:
    """There is no result."""


class Meter:
    """What is known of a function's calls."""

    def __init__(self, name: str, *, program: bool) -> None:
        self.name = name
        self.program = program
        self.function: Any = None
        self.samples: list[Sample] = []
        #: Calls that were not looked at; a list, so that the function's instructions can have it.
        self.more = [0]
        self.parcels: list[tuple[int, int, int, int, int, int]] = []
        self.unpicklable = ""
        #: Of its arguments one that it was seen to change, in words.
        self.change = ""
        #: Whether it is a method, and what its object has that is only for one call at a time. None of them is kept: its
        #: end is the program's.
        self.method = False
        self.held: set[str] = set()
        #: What of their arguments calls have in common; one that serves one of them at a time.
        self.sharing = Sharing()
        self.held_argument = ""
        #: How many arguments its first call was given beyond the defaults, and whether there were others, by name.
        self.arguments: int | None = None
        self.named = False
        self.inner = 0
        self.short = 0
        self.left = False
        #: Whether calls were made in other processes.
        self.elsewhere = False
        #: Functions that were made of its code.
        self.made = 0
        #: Functions whose calls within these calls are still counted; and how many of these calls were slowed down by that.
        self.inside: list[tuple[types.FunctionType, types.CodeType, Meter]] = []
        self.slowed = 0
        self.recursive = False
        self.chained = 0
        self.last: Callable[[], Any] = _nothing

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return len(self.samples) + self.more[0]

    @property
    def told_name(self) -> str:
        """The name by which the program has it: decorators may have given it another one."""
        module, name = getattr(self.function, "__module__", None), getattr(self.function, "__qualname__", None)
        return f"{module}.{name}" if self.program and module and name else self.name

    @property
    def total(self) -> float:
        """Seconds that all calls would have taken one after the other."""
        samples = self.sound
        return sum(sample.alone for sample in samples) / len(samples) * self.calls / 1e9 if samples else 0.0

    @property
    def sound(self) -> list[Sample]:
        """Those of the samples that counting inner calls has not slowed down, if there are enough."""
        sound = self.samples[self.slowed :]
        return sound if len(sound) >= 3 else self.samples

    def leave_inner(self) -> None:
        """Leave the inner functions alone, now that this one has shown to be called again and again."""
        for function, plain, inner in self.inside:
            function.__code__ = plain
            inner.left = True
        self.inside.clear()
        self.slowed = len(self.samples)


class _State(threading.local):
    """Of a thread: the meters whose calls are under way, what metering took, and what steps of tasks took."""

    def __init__(self) -> None:
        self.stack: list[Meter] = []
        self.lost = 0
        self.steps = 0


here = _State()
_now = time.perf_counter_ns


def _aside(look: Callable[..., Any], *what: Any) -> Any:
    """Look at what the program has: what its classes do meanwhile is no call of it, and what they raise not its concern."""
    before, pickling.now = pickling.now, True
    try:
        return look(*what)
    except Exception:  # whatever the program's classes raise
        return None
    finally:
        pickling.now = before


def _given(meter: Meter, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """Pickle what a call is given."""
    if args and not meter.parcels:
        meter.method = hasattr(class_of(args[0]), getattr(meter.function, "__name__", ""))
    if meter.arguments is None:
        meter.arguments, meter.named = shape(function, args, kwargs)
    given = Given(args, kwargs)
    meter.unpicklable = meter.unpicklable or given.unpicklable
    given.places = meter.sharing.before(_with_owner(function, given))
    return given


def shape(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, bool]:
    """How many arguments a call is given by place, and whether there are any by name, without those that are the defaults."""
    many = len(args) + isinstance(function, types.MethodType)
    if args and issubclass(class_of(args[0]), type) and _has(args[0], getattr(function, "__name__", "")):
        many -= 1  # the class, of one of its own methods
    defaults = getattr(function, "__defaults__", None) or ()
    code: Any = getattr(function, "__code__", None)
    if code is not None and len(args) == code.co_argcount:
        for given, default in zip(reversed(args), reversed(defaults), strict=False):
            if given is not default:
                break
            many -= 1
    named: dict[str, Any] = getattr(function, "__kwdefaults__", None) or {}
    return many, any(name not in named or named[name] is not value for name, value in kwargs.items())


def _has(kind: type[Any], name: str) -> bool:
    return any(name in base.__dict__ for base in kind.__mro__)


def _with_owner(function: Any, given: Given) -> list[tuple[int | str, Any]]:
    """What a call is given, and what it is a method of: one of another package is bound to it."""
    owner: Any = getattr(function, "__self__", None)
    return given.named if owner is None else [(_OWNER, owner), *given.named]


#: What stands for a name of what a method is bound to.
_OWNER = "its object"


def _look_again(meter: Meter, function: Any, given: Given) -> None:
    """See what a call has done with what it was given."""
    meter.change = meter.change or given.change(function)
    meter.sharing.after(_with_owner(function, given), given.places)
    place = meter.sharing.found(iterators=True)
    if place is not None and not meter.change:
        meter.change = f"takes from `{name_of(function, place)}`, the one iterator of all calls"
    place = meter.sharing.found(iterators=False)
    if place is not None:
        meter.held_argument = _OWNER if place == _OWNER else f"`{name_of(function, place)}`"
    if meter.method and given.named:
        meter.held |= held_by(given.named[0][1])


def _add_parcel(meter: Meter, given: Given, result: Any) -> None:
    took, size = given.parcel_of(result) or (0, 0)
    try:
        if not size:
            took, size, _ = pickled(result)
    except Exception as error:  # whatever the program's classes raise
        meter.unpicklable = meter.unpicklable or why("the result", error)
    # To make it anew takes about as long.
    meter.parcels.append((given.took, given.took, given.size, took, took, size))


#: Classes of which the interpreter may give many the same object.
_SHARED = (type(None), bool, str, bytes)


def _is_result(meter: Meter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call before returned what this one takes."""
    last = meter.last()
    kind = class_of(last)
    if issubclass(kind, _SHARED) or (issubclass(kind, int) and -6 < int.__index__(last) < 257):
        return False
    return any(each is last for each in args) or any(each is last for each in kwargs.values())


def _kept(result: Any) -> Callable[[], Any]:
    """What gives a result back while the program has it."""
    try:
        return weakref.ref(result)
    except TypeError:  # those of the interpreter's own classes cannot be looked at so, and their end is nobody's
        return lambda: result


def measured(meter: Meter, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call, and remember what it took."""
    exact = meter.short < 3
    # What metering takes is told by what it computes: others may have the core meanwhile.
    entered = time.thread_time_ns() if exact else _now()
    state = here
    stack = state.stack
    if meter in stack:
        meter.recursive = True
        return function(*args, **kwargs)
    if stack:
        meter.inner += 1
    given: Given | None = _aside(_given, meter, function, args, kwargs) if len(meter.parcels) < PARCELS else None
    if _is_result(meter, args, kwargs):
        meter.chained += 1
    meter.last = _nothing
    ready, tally, children, process = 0, None, 0, 0
    parent = stack[-1] if stack else None
    stack.append(meter)
    counted = {id(inner): inner.more[0] for _, _, inner in meter.inside}
    if exact:
        children = _of_children()
        ready, tally, process = _core.thread_ready_ns(), _core.gil_tally(), time.process_time_ns()
    cpu = time.thread_time_ns() if exact else 0
    began = _now()
    state.lost += cpu - entered if exact else min(began - entered, _MOST_LOST)
    lost = state.lost
    result: Any = None
    try:
        result = function(*args, **kwargs)
        return result
    finally:
        ended, over = _now(), time.thread_time_ns() if exact else 0
        inner = state.lost - lost
        if meter.inside:
            more = sum(each.more[0] - counted.get(id(each), 0) for _, _, each in meter.inside)
            inner += round(more * cost_of_count())
        if not exact:
            inner += round(_costs.get("clock", 0.0))
        # More than this call's own cost may have been taken off: nothing is quicker than one that does nothing.
        wall = max(round(_costs.get("plain", 0.0)), ended - began - inner)
        sample = Sample(parent, began, wall, wall)
        if exact:
            sample.cpu = max(0, over - cpu - inner)
            sample.beside = max(0, time.process_time_ns() - process - (over - cpu))
            after = _core.gil_tally()
            if tally is not None and after is not None:
                sample.held = max(0, after[0] - tally[0] - inner)
                sample.wanted = max(0, after[1] - tally[1])
            sample.ready = max(0, _core.thread_ready_ns() - ready)
            sample.children = _of_children() - children
            meter.short = meter.short + 1 if wall < _SHORT else 0
        stack.pop()
        meter.samples.append(sample)
        if meter.inside and len(meter.samples) >= REPEATED:
            meter.leave_inner()
        if given is not None:
            _aside(_look_again, meter, function, given)
            _aside(_add_parcel, meter, given, result)
        if meter.chained * 2 + 2 >= len(meter.samples):
            meter.last = _kept(result)
        state.lost += time.thread_time_ns() - over if exact else min(_now() - ended, _MOST_LOST)


def _of_children() -> int:
    """Nanoseconds that processes have computed that were started by this one and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) * 1e9)


class Steps:
    """Awaits a coroutine, and remembers what its steps took and how long it awaited others."""

    def __init__(self, meter: Meter, coroutine: Any) -> None:
        self._meter = meter
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        state, meter, coroutine = here, self._meter, self._coroutine
        outer = state.stack[-1] if state.stack else None
        sample = Sample(outer, _now(), 0, 0)
        send: Callable[[Any], Any] = coroutine.send
        value: Any = None
        ready = _core.thread_ready_ns()
        try:
            while True:
                # The first tally of a process takes a millisecond, which is none of the step's.
                tally, before, began, cpu = _core.gil_tally(), state.lost, _now(), time.thread_time_ns()
                state.stack.append(meter)
                try:
                    awaited = send(value)
                except StopIteration as end:
                    return end.value
                finally:
                    state.stack.pop()
                    lost = state.lost - before
                    took, spent, after = _now() - began - lost, time.thread_time_ns() - cpu - lost, _core.gil_tally()
                    sample.wall += max(0, took)
                    sample.cpu += max(0, spent)
                    idle = took - spent
                    if tally is not None and after is not None:
                        sample.held = max(0, sample.held) + max(0, after[0] - tally[0] - lost)
                        wanted = max(0, after[1] - tally[1])
                        sample.wanted += wanted
                        idle -= wanted
                    if idle > _IDLE:
                        was, ready = ready, _core.thread_ready_ns()
                        late = min(idle, ready - was)
                        sample.ready += late
                        sample.blocked += idle - late if idle - late > _IDLE else 0
                    state.steps += max(0, took)
                place = _place(coroutine)
                began, others = _now(), state.steps
                try:
                    value = yield awaited
                    send = coroutine.send
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # it is the coroutine's
                    value, send = error, coroutine.throw
                gap, computed = _now() - began, state.steps - others
                sample.awaits.append((place, gap, min(gap, computed)))
                # Until more is known: what other tasks computed meanwhile was not waited for.
                sample.awaited += max(0, gap - computed)
                sample.wall += max(0, gap - computed)
        finally:
            meter.samples.append(sample)


def _place(coroutine: Any) -> Place:
    while (inner := getattr(coroutine, "cr_await", None)) is not None and hasattr(inner, "cr_frame"):
        coroutine = inner
    frame = getattr(coroutine, "cr_frame", None)
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


_costs: dict[str, float] = {}


def learn_costs() -> None:
    """Find out what metering costs, while nothing else runs."""
    cost_of_count()
    cost_of_clock()


def cost_of_clock() -> float:
    """Nanoseconds that a short call seems to take longer, by looking at the clock.

    >>> 0 <= cost_of_clock() < 1e6
    True
    """
    if "clock" not in _costs:

        def nothing(number: int) -> int:
            return number

        meter = Meter("", program=True)
        meter.parcels, meter.short = [(0, 0, 0, 0, 0, 0)] * PARCELS, 3
        for number in range(200):
            measured(meter, nothing, (number,), {})
        least = min(sample.wall for sample in meter.samples)
        _costs["clock"] = max(0.0, least - cost_of_nothing())
    return _costs["clock"]


def cost_of_nothing() -> float:
    """Nanoseconds that a call takes that does nothing: none takes less.

    >>> 1 < cost_of_nothing() < 1e6
    True
    """
    if "plain" not in _costs:
        _costs["plain"] = max(_QUICKEST, plain_cost())
    return _costs["plain"]


def unsure() -> float:
    """Nanoseconds by which a short call's time may be off, since the clock's own cost is taken off it.

    >>> 0 <= unsure() < 1e6
    True
    """
    return cost_of_clock() * _UNSURE


def cost_of_count() -> float:
    """Nanoseconds that a call takes longer that is only counted.

    >>> 0 <= cost_of_count() < 1e6
    True
    """
    if "count" not in _costs:
        _costs["count"] = longer(lambda plain, code: instructions("count", code, plain, [0]))
    return _costs["count"]
