"""Runs calls one after the other, and writes down what each is made of: a workload for `simulate`."""

from __future__ import annotations

import gc
import inspect
import pickle
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from plait import _core
from plait._executor import positive_int
from plait.loop._runner import _in_ipython, run
from plait.loop._standard import events_
from plait.model import _foreign
from plait.model._kept import Kept
from plait.model._overlap import with_limits
from plait.model._speed import Pace
from plait.model._workload import Burst, Item, Parcel, Resource, Workload

#: A gap between the clock and a thread's CPU time that is shorter says nothing: seconds.
_GAP = 20e-6
#: Calls that are shorter are looked at several at once: nanoseconds; and how long those are to be together.
_SHORT, _TOGETHER = 30_000, 200_000
#: What a look at a thread takes at most where nobody keeps it from its core: nanoseconds.
_LOOK = 30_000

#: How many parts of the calls are looked at for what their values take to be pickled, at least where there are so many calls.
_PARTS = 64
#: Values of a part that are pickled at most, and the seconds after which there are enough of them.
_PICKLED, _ENOUGH = 64, 0.001
#: Share of the time that has to be spent waiting for others to be looked at, and how many ticks; and for programs to count.
_WAITS, _TICKS, _PROGRAMS = 0.05, 1, 5
#: Share of a wait below which nobody's part in it counts; and the shortest part of others, in seconds.
_LITTLE, _PIECE = 0.02, 100e-6
#: Stretches of all calls that are kept in their order; of calls after that two each, with the GIL and without.
_STRETCHES = 100_000

RESOURCES = {
    "children": Resource(on_cores=True),
    "beside": Resource(on_cores=True),
    "kernel": Resource(on_cores=True),
    "outside": Resource(),
}


class _Look(NamedTuple):
    """What was seen of some calls."""

    calls: int
    stretches: list[tuple[bool, int, int, int]]
    wall: int
    cpu: int
    ready: int
    children: int
    collections: list[int]


class _Sample:
    """What it takes to pickle and unpickle some values that are much alike, each by itself: a shared one is sent each time."""

    def __init__(self) -> None:
        self._count = self._size = 0
        self._pickle = self._unpickle = 0.0
        self.possible = True
        """Whether none was found that cannot be pickled."""

    def add(self, values: Sequence[Any]) -> None:
        if not values or not self.possible or self._pickle + self._unpickle > _ENOUGH:
            return
        # What is made here is none of the program's: it must not bring the collector's next passes forward.
        collects = gc.isenabled()
        gc.disable()
        try:
            begin = time.perf_counter()
            _sent(values[0])  # it looks up how its class is pickled
            enough = 1 + int(_ENOUGH / (time.perf_counter() - begin + 1e-9))
            # What each takes is less than a clock can tell.
            begin = time.perf_counter()
            sent = [_sent(value) for value in values[:enough]]
            between = time.perf_counter()
            made = [taken(data) for taken, data in sent]  # all are kept, as results are
            end = time.perf_counter()
            if collects and any(map(gc.is_tracked, made)):
                end += _young_passes()
            del made
        except Exception:  # whatever the program's classes raise
            self.possible = False
            return
        finally:
            if collects:
                gc.enable()
        self._count += len(sent)
        self._pickle += between - begin
        self._unpickle += end - between
        self._size += sum(len(data) for _, data in sent)

    @property
    def parcel(self) -> Parcel:
        """Of one value; nothing if they cannot be pickled."""
        if not self.possible or not self._count:
            return Parcel()
        count = self._count
        return Parcel(self._pickle / count, self._unpickle / count, self._size // count)


def _sent(value: Any) -> tuple[Callable[[bytes], Any], bytes]:
    """What takes a value, and what is sent of it: a pool of processes pickles only what is not plain."""
    plain = _core.codec_encode(value)
    return (
        (pickle.loads, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)) if plain is None else (_core.codec_decode, plain)
    )


def _young_passes() -> float:
    """Seconds that the collector takes for what is new: it looks at it twice before it is old."""
    begin = time.perf_counter()
    gc.collect(0)
    return 2 * (time.perf_counter() - begin)


class _Watch:
    """Looks at the calling thread, call by call, and at the machine's speed between calls."""

    def __init__(self, calls: int) -> None:
        self.looks: list[_Look] = []
        self.pace = Pace()
        self.kept = Kept()
        self._stretches = 0
        self._part = _part(calls)
        self.results: list[_Sample] = []

    def begin(self) -> None:
        self.pace.look()
        self.kept.collections()  # those between calls are nobody's
        self._children = _foreign.children_ns()
        self._asked = time.perf_counter_ns()
        self._ready = _core.thread_ready_ns()
        self._cpu = time.thread_time_ns()
        self._began = time.perf_counter_ns()
        self._follows = _core.follow_gil()

    def end(self, calls: int) -> None:
        wall = time.perf_counter_ns() - self._began
        stretches = _core.followed_gil() if self._follows else []
        cpu = time.thread_time_ns() - self._cpu
        ready = _core.thread_ready_ns() - self._ready
        # What keeps this thread from its core between the looks is no part of the call, but was counted.
        over = time.perf_counter_ns()
        seen = sum(stretch[1] for stretch in stretches) if stretches else wall
        beside = (self._began - self._asked, over - self._began - wall, wall - seen)
        ready = max(0, ready - sum(max(0, each - _LOOK) for each in beside))
        if self._stretches + len(stretches) > _STRETCHES:
            stretches = _merged(stretches)
        self._stretches += len(stretches)
        children = _foreign.children_ns() - self._children
        self.looks.append(_Look(calls, stretches, wall, cpu, ready, children, self.kept.collections()))

    @property
    def together(self) -> int:
        """How many calls to look at at once: several, if they are short."""
        if len(self.looks) < 8:
            return 1
        mean = sum(look.wall for look in self.looks[-8:]) / sum(look.calls for look in self.looks[-8:])
        return 1 if mean >= _SHORT else max(1, int(_TOGETHER / max(mean, 100.0)))

    def run(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> None:
        place = 0
        while place < len(arguments):
            some = arguments[place : place + self.together]
            self.begin()
            made = [function(one) for one in some]
            self.end(len(some))
            if not place and inspect.isawaitable(made[0]):
                raise _awaitable(function, made[0])
            self._sample(place, made)
            del made  # now, and not while the next ones are looked at
            place += len(some)

    async def run_async(self, function: Callable[[Any], Awaitable[Any]], arguments: Sequence[Any]) -> None:
        try:
            for place, one in enumerate(arguments):
                self.begin()
                made = await function(one)
                self.end(1)
                self._sample(place, [made])
                del made
        finally:
            _core.followed_gil()  # as in `record`, whose thread may be another

    def _sample(self, place: int, made: list[Any]) -> None:
        """Look at those of some results that are among the first of their part; keep them."""
        until = place + len(made)
        for part in range(place // self._part, (until - 1) // self._part + 1):
            if part == len(self.results):
                self.results.append(_Sample())
            begin = part * self._part
            end = begin + min(self._part, _PICKLED)
            self.results[part].add(made[max(0, begin - place) : max(0, end - place)])
        if self.results[-1].possible:
            self.kept.add(made)
        else:
            self.kept.drop()  # open files and the like, of which there cannot be many


def record(function: Callable[[Any], Any], arguments: Iterable[Any], *, probe: int | None = None) -> Workload:
    """Call a function with each of the arguments, one after the other, and write down what the calls are made of.

    Each call is divided into bursts: with the GIL on a core, asleep with it, on a core without it, waiting. Of waits it is
    found out how much of them children, other programs of this machine, and its kernel have worked meanwhile. Time in which
    another program had the core is left out. Results are kept until the last call, as a program would keep them, if they can
    be pickled and take no more than 256 MiB: what the garbage collector takes for them, and their end, is a part of its own.
    Of a call that itself calls `record`, it is not seen when it had the GIL: all its time on a core counts as with it.

    Args:
        function: Takes one argument; a coroutine function, or an object whose `__call__` is one, is awaited on an event loop
            of its own.
        arguments: What it is called with. All calls are made.
        probe: Call it again with the first of the arguments (200 at most), in so many threads (or tasks), to learn how far
            waits and C code without the GIL can overlap, or, if they mostly compute with the GIL, what they lose when it goes
            from one thread to another. Calls that wait are made in half and in four times as many threads too: a line serves
            no more of those, a disk that commits does. With each number they are made three times, or once if they take over a
            second; what is learned from them needs `calibrate()`. If one of them raises, the recording goes without. None:
            that is not looked at; waits overlap without limit, and a switch of the GIL costs what is typical.

    Returns:
        The workload, for `simulate`.

    Raises:
        ValueError: There are no arguments, or `probe` is not positive.
        TypeError: The function cannot be called, or is no coroutine function, but what it returns is to be awaited.
        RuntimeError: It is a coroutine function, and an event loop is running in this thread; or the probe's `calibrate()`
            fails.
        Exception: What a call raises.

    >>> from plait import simulate
    >>> from plait.model import Costs, record
    >>> work = record(sorted, [list(range(5000, 0, -1))] * 20)
    >>> work.count
    20
    >>> simulate(work, model="serial", costs=Costs()).seconds > 0
    True
    """
    if not callable(function):
        raise TypeError(f"function must be callable, not {function!r}")
    given = list(arguments)
    if not given:
        raise ValueError("arguments must not be empty")
    if probe is not None:
        positive_int("probe", probe)
    on_loop = _is_coroutine_function(function)
    if on_loop and events_._get_running_loop() is not None and not _in_ipython():
        raise RuntimeError("record() of a coroutine function cannot be called while an event loop runs in this thread")
    watch, foreign = _Watch(len(given)), _foreign.others()
    began = time.perf_counter()
    try:
        with watch.kept:
            if on_loop:
                run(watch.run_async(function, given))
            else:
                watch.run(function, given)
    finally:
        _core.followed_gil()  # a call that raised has left it on
    seconds = time.perf_counter() - began
    watch.pace.look()
    looks = watch.looks
    waited = sum(max(0, look.wall - look.cpu - look.ready) for look in looks) / 1e9
    shares: dict[str, float] = {}
    if waited > max(_WAITS * seconds, _TICKS * _foreign.TICK):
        beside = _foreign.between(foreign, _foreign.others(), seconds)
        # In so short a time other programs just come and go.
        served = beside.served if waited > _PROGRAMS * _foreign.TICK else 0.0
        whole = max(waited, served + beside.kernel)
        shares = {"beside": served / whole, "kernel": beside.kernel / whole}
    others = _Others(shares)
    part = _part(len(given))
    parcels = list(zip(_arguments(given, part), (sample.parcel for sample in watch.results), strict=True))
    items: list[Item] = []
    once, freed = watch.kept.least / 1e9, watch.kept.freed / len(given)
    passes = [sum(look.collections) / 1e9 for look in looks]
    heaps = [min(once * len(look.collections), taken) for look, taken in zip(looks, passes, strict=True)]
    # Where it is results that bring passes on, whoever keeps them has those too.
    grows = sum(passes) > 2 * sum(heaps)
    for look, taken, heap_s in zip(looks, passes, heaps, strict=True):
        bursts = _less(_bursts(look, others), taken / look.calls)
        heap = 0.0 if grows else heap_s / look.calls
        kept = taken / look.calls - heap + freed
        items += [Item(bursts, *parcels[(len(items) + number) // part], kept, heap) for number in range(look.calls)]
    work = Workload(items, resources=RESOURCES, speed=watch.pace.seconds, on_loop=on_loop, unsure=watch.pace.unsure)
    return work if probe is None else with_limits(work, function, given, probe)


def _merged(stretches: Sequence[tuple[bool, int, int, int]]) -> list[tuple[bool, int, int, int]]:
    """All with the GIL as one, and all without."""
    found: list[tuple[bool, int, int, int]] = []
    for held in (True, False):
        some = [(wall, cpu, releases) for had, wall, cpu, releases in stretches if had == held]
        if some:
            wall, cpu, releases = map(sum, zip(*some, strict=True))
            found.append((held, wall, cpu, releases))
    return found


def _is_coroutine_function(function: object) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    return callable(function) and inspect.iscoroutinefunction(type(function).__call__)


def _awaitable(function: Callable[[Any], Any], result: Any) -> TypeError:
    """What to raise for a function that has only begun what it does."""
    if inspect.iscoroutine(result):
        result.close()
    name = getattr(function, "__qualname__", None) or repr(function)
    return TypeError(
        f"{name} returned {result!r}, which is to be awaited: record() needs a coroutine function for that"
    )


class _Others:
    """Divides waits by who worked meanwhile."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = {name: share for name, share in shares.items() if share > _LITTLE}
        self._owed = dict.fromkeys(self._shares, 0.0)

    def parts(self, asleep: float, children: float) -> dict[str, float]:
        """Seconds of a wait by resource; of all of it children had so large a part.

        Each part is a wait of its own, that somebody has to be woken from. So short ones are put off, for a later wait to be
        more of that.
        """
        found = {"children": asleep * children if children > _LITTLE else 0.0}
        left = asleep * (1.0 - children)
        for name, share in self._shares.items():
            self._owed[name] += asleep * share
            if self._owed[name] >= _PIECE:
                found[name] = min(self._owed[name], left)
                self._owed[name] -= found[name]
                left -= found[name]
        return {**found, "outside": left if left > _LITTLE * asleep else 0.0}


def _bursts(look: _Look, others: _Others) -> tuple[Burst, ...]:
    """Of one call, if several were looked at, of the average."""
    stretches = look.stretches or [(True, look.wall, look.cpu, 0)]
    gap = sum(max(0, wall - cpu) for _, wall, cpu, _ in stretches)
    # Others had the core: that is no part of the work.
    kept = max(0.0, 1.0 - look.ready / gap) if gap else 0.0
    blocked = sum(max(0, wall - cpu) for held, wall, cpu, _ in stretches if not held or not look.stretches) * kept
    children = min(1.0, look.children / blocked) if blocked else 0.0
    found: list[Burst] = []
    for held, wall, cpu, releases in stretches:
        asleep = (wall - cpu) * kept / 1e9 / look.calls
        on_cpu = cpu / 1e9 / look.calls
        if asleep < _GAP / look.calls:
            asleep = 0.0
        if held and look.stretches:
            found.append(Burst("hold", on_cpu, round(releases / look.calls)))
            found.append(Burst("held_off_cpu", asleep))
            continue
        # Without events all that is on a core counts as with the GIL.
        found.append(Burst("released" if look.stretches else "hold", on_cpu))
        found += [Burst("blocked", part, resource=name) for name, part in others.parts(asleep, children).items()]
    return tuple(burst for burst in found if burst.seconds > 0)


def _less(bursts: tuple[Burst, ...], seconds: float) -> tuple[Burst, ...]:
    """Without so much time with the GIL: of the longest burst."""
    if seconds <= 0:
        return bursts
    held = [place for place, burst in enumerate(bursts) if burst.kind == "hold"]
    if not held:
        return bursts
    place = max(held, key=lambda place: bursts[place].seconds)
    rest = replace(bursts[place], seconds=max(0.0, bursts[place].seconds - seconds))
    return (*bursts[:place], rest, *bursts[place + 1 :])


def _part(calls: int) -> int:
    """How many calls make up a part, whose first values stand for all of it."""
    return max(1, calls // _PARTS)


def _arguments(given: Sequence[Any], part: int) -> list[Parcel]:
    """Of each part."""
    found: list[Parcel] = []
    for place in range(0, len(given), part):
        sample = _Sample()
        sample.add(given[place : place + min(part, _PICKLED)])
        found.append(sample.parcel)
    return found
