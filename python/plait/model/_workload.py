"""What is to be done, as plain data: calls of a function, each a list of bursts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from plait import _core

Kind = Literal["hold", "held_off_cpu", "released", "blocked"]

_NUMBERS: dict[str, int] = {"hold": 0, "held_off_cpu": 1, "released": 2, "blocked": 3}
_KINDS = list(_NUMBERS)  # where one looks for what cannot be hashed, too
_SHORTEST = 1e-12
_LONGEST = 2.0**60 / 1e9
_MOST_RELEASES = 2**32 - 1
_MOST_CONTENDED = 1000
_MOST_SERVERS = 2**32 - 1
_MOST_BYTES = _MOST_CALLS = 2**60


def _check_seconds(name: str, value: object) -> None:
    # Recordings have a great many of them: most are floats.
    seconds = value if type(value) is float else number(name, value)
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{name} must be from 0 to {_LONGEST:.0f} seconds, not {value!r}")


def check_int(name: str, value: object, least: int, most: int) -> None:
    """Raise TypeError or ValueError that names the argument, unless it is an int of that range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {value!r}")


def _check_all(name: str, values: Iterable[object], kind: type) -> None:
    for value in values:
        if type(value) is not kind and not isinstance(value, kind):
            raise TypeError(f"{name} must be {kind.__name__} objects, not {value!r}")


def check_is(name: str, value: object, kind: type | tuple[type, ...], what: str) -> None:
    """Raise TypeError that names the argument, unless it is of such a type."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, not {value!r}")


def listed(name: str, values: Any) -> list[Any]:
    """Return what an iterable has, or raise TypeError that names the argument."""
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must be an iterable, not {values!r}")
    check_is(name, values, Iterable, "an iterable")
    return list(values)


def number(name: str, value: object) -> float:
    """Return a real number, or raise TypeError or ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large: {value!r}") from None


def check_speed(value: object) -> None:
    """Raise TypeError or ValueError unless it can be what `measure_speed` says."""
    if not _SHORTEST <= number("speed", value) <= _LONGEST:
        raise ValueError(f"speed must be from {_SHORTEST} to {_LONGEST:.0f} seconds, not {value!r}")


@dataclass(frozen=True, slots=True)
class Burst:
    """A stretch of a call's time that is all of one kind.

    Args:
        kind: "hold": on a CPU with the GIL. "held_off_cpu": it sleeps and keeps the GIL, as a fork does. "released": on a CPU
            without the GIL, in C code that lets it go. "blocked": it waits for `resource`.
        seconds: How long; CPU time of those that are on a CPU.
        short_releases: How often the GIL is let go for an instant too short to be a burst of its own; of "hold".
        longest_uninterruptible: Seconds of the longest part of a "hold" that does not look whether the GIL was asked for: one
            call of C code that keeps it.
        resource: The name of what is waited for, in `Workload.resources`. None: waits that overlap without limit.

    Raises:
        TypeError: A figure is no number, or a resource no name.
        ValueError: A figure is negative or too large, or a burst of another kind waits for a resource.
    """

    kind: Kind
    seconds: float
    short_releases: int = 0
    longest_uninterruptible: float = 0.0
    resource: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, _NUMBERS))}, not {self.kind!r}")
        _check_seconds("seconds", self.seconds)
        _check_seconds("longest_uninterruptible", self.longest_uninterruptible)
        check_int("short_releases", self.short_releases, 0, _MOST_RELEASES)
        if self.resource is not None:
            check_is("resource", self.resource, str, "a str")
        if self.resource is not None and self.kind != "blocked":
            raise ValueError(f"only a 'blocked' burst waits for a resource, not {self.kind!r}")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A value on its way to another process: seconds of pickling and unpickling it, and bytes of the pickle."""

    pickle: float = 0.0
    unpickle: float = 0.0
    size_bytes: int = 0

    def __post_init__(self) -> None:
        _check_seconds("pickle", self.pickle)
        _check_seconds("unpickle", self.unpickle)
        check_int("size_bytes", self.size_bytes, 0, _MOST_BYTES)


@dataclass(frozen=True, slots=True)
class Item:
    """One call of the function.

    Args:
        bursts: What it does, in order.
        argument: Its argument on its way to another process.
        result: Its result on its way back.
        kept: Seconds with the GIL that one more result costs whoever keeps all of them: the garbage collector looks at them
            again and again, and at last they are freed. Of other processes' results, that is the caller.
        heap: Seconds with the GIL that the garbage collector, set off by the call, takes for all that the program has beside.
            Workers in other processes and interpreters have none of that.

    Raises:
        TypeError: `bursts` has others than bursts, a parcel is no `Parcel`, or a figure no number.
        ValueError: `kept` or `heap` is negative or too large.
    """

    bursts: tuple[Burst, ...]
    argument: Parcel = Parcel()
    result: Parcel = Parcel()
    kept: float = 0.0
    heap: float = 0.0

    def __post_init__(self) -> None:
        if type(self.bursts) is not tuple:
            object.__setattr__(self, "bursts", tuple(listed("bursts", self.bursts)))
        _check_all("bursts", self.bursts, Burst)
        _check_all("argument and result", (self.argument, self.result), Parcel)
        _check_seconds("kept", self.kept)
        _check_seconds("heap", self.heap)


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that calls wait for.

    Args:
        servers: How many waits are served at once. None: they overlap without limit.
        on_cores: The wait is work of others on this machine's CPUs (a child process, a server beside it), and competes for
            them.
        in_process: Each process has its own, which its threads share: a lock within a C library.
        contended: How much longer serving takes for those that had to stand in line, as a share: 0.5 for half as long again.
        together: All that stand in line are served together once there is a server, for as long as the longest of them takes:
            a disk that commits. False: one after the other.
    """

    servers: int | None = None
    on_cores: bool = False
    in_process: bool = False
    contended: float = 0.0
    together: bool = False

    def __post_init__(self) -> None:
        if self.servers is not None:
            check_int("servers", self.servers, 1, _MOST_SERVERS)
        if not 0 <= number("contended", self.contended) <= _MOST_CONTENDED:
            raise ValueError(f"contended must be from 0 to {_MOST_CONTENDED}, not {self.contended!r}")


@dataclass(frozen=True)
class Workload:
    """Calls of a function: those that were recorded, and how many there are in all.

    Args:
        items: What was recorded, in order; at least one.
        count: How many calls there are in all. None: as many as were recorded.
        resources: What bursts wait for, by name.
        speed: What `measure_speed` said when this was recorded, so that costs that were measured in a faster or slower phase
            of the machine are brought to the same. None: costs are taken as they are.
        on_loop: The calls were recorded as coroutines, so what an event loop takes for their waits is among their bursts.
        switch: Seconds that these calls lose when another thread had the GIL for an interval, since what they use of the
            caches is gone. None: "gil_switch" of the costs.
        unsure: How far off `speed` may be, relative standard deviation: calls that take long cannot be looked into.

    Raises:
        TypeError: An argument is not of the type that it should be; the message names it and its value.
        ValueError: There are no items, fewer than were recorded, or one waits for a resource that is not there; or a figure is
            negative or too large.

    >>> from plait.model import Burst, Item, Workload
    >>> call = Item((Burst("hold", 0.002), Burst("blocked", 0.010)))
    >>> Workload([call], count=500).serial_seconds
    6.0
    """

    items: tuple[Item, ...]
    count: int
    resources: Mapping[str, Resource]
    speed: float | None
    on_loop: bool
    switch: float | None
    unsure: float
    core: _core.WorkloadCore = field(repr=False, compare=False)

    def __init__(
        self,
        items: Iterable[Item],
        count: int | None = None,
        resources: Mapping[str, Resource] | None = None,
        speed: float | None = None,
        on_loop: bool = False,
        switch: float | None = None,
        unsure: float = 0.0,
    ) -> None:
        recorded = tuple(listed("items", items))
        _check_all("items", recorded, Item)
        if not recorded:
            raise ValueError("items must have an item at least")
        if resources is not None:
            check_is("resources", resources, Mapping, "a mapping of names")
        known = dict(resources or {})
        _check_all("resources", known.values(), Resource)
        total = len(recorded)
        if count is not None:
            check_int("count", count, 0, _MOST_CALLS)
            total = count
        if total < len(recorded):
            raise ValueError(f"count must be at least the number of items, {len(recorded)}, not {count!r}")
        if speed is not None:
            check_speed(speed)
        if switch is not None:
            _check_seconds("switch", switch)
        if not 0 <= number("unsure", unsure) <= 1:
            raise ValueError(f"unsure must be from 0 to 1, not {unsure!r}")
        # The first one stands for waits without a name.
        places: dict[str | None, int] = {None: 0, **{name: place for place, name in enumerate(known, 1)}}
        for item in recorded:
            for burst in item.bursts:
                if burst.resource not in places:
                    raise ValueError(f"a burst waits for {burst.resource!r}, which is not in resources")
        core = _core.WorkloadCore(
            [
                (_bursts(item, places), _parcel(item.argument), _parcel(item.result), _ns(item.kept), _ns(item.heap))
                for item in recorded
            ],
            total,
            [(None, False, False, 0, False), *map(_resource, known.values())],
        )
        for name, value in {
            "items": recorded,
            "count": total,
            "resources": known,
            "speed": speed,
            "on_loop": on_loop,
            "switch": switch,
            "unsure": unsure,
            "core": core,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def serial_seconds(self) -> float:
        """How long all calls take one after the other, by the bursts and what the garbage collector takes beside."""
        recorded = sum(item.kept + item.heap + sum(burst.seconds for burst in item.bursts) for item in self.items)
        return recorded / len(self.items) * self.count


def _resource(one: Resource) -> tuple[int | None, bool, bool, int, bool]:
    return one.servers, one.on_cores, one.in_process, round(100 * one.contended), one.together


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _bursts(item: Item, places: Mapping[str | None, int]) -> list[tuple[int, int, int, int, int]]:
    return [
        (
            _NUMBERS[burst.kind],
            _ns(burst.seconds),
            burst.short_releases,
            _ns(burst.longest_uninterruptible),
            places[burst.resource],
        )
        for burst in item.bursts
    ]


def _parcel(parcel: Parcel) -> tuple[int, int, int]:
    return _ns(parcel.pickle), _ns(parcel.unpickle), parcel.size_bytes
