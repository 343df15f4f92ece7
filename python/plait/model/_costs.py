"""What a machine and an interpreter take for themselves: figures with names, and how sure each is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from plait import _core
from plait.model._workload import check_is, check_speed, listed, number


class Cost(NamedTuple):
    """A cost in seconds, and its relative standard deviation."""

    seconds: float
    spread: float


# Set by the interpreter and the kernel: a slower phase of the machine does not change them.
_SHARES = {"gil_hand_over", "speed", "apart", "off.serial", "off.threads", "off.processes", "off.asyncio"}
_CLOCKS = {"interval", "slice", *_SHARES}
# Who is given less each time gets nowhere.
_LEAST = {"interval": 1e-6, "slice": 1e-6}


@dataclass(frozen=True)
class Costs:
    """What a machine and an interpreter take for themselves.

    `calibrate` measures those of this machine; `Costs()` are those of a typical one, with a spread that says so.

    Args:
        known: Costs by name, as `(seconds, relative spread)`. Those that are missing are typical ones. "gil_hand_over" is no
            time but a share, "speed" what recorded CPU time with the GIL is multiplied with, "apart" that without it, and the
            spread of "off.serial", "off.threads", "off.processes" and "off.asyncio" how far predictions of such a model are off
            beside what is known of the work and the other costs.
        speeds: Speed of each CPU while 1, 2, 3, ... of them are busy, beside one that is busy alone; the last holds for more.
        speed: What `measure_speed` said when they were measured. None: not known.

    Raises:
        TypeError: An argument is not of the type that it should be; the message names it and its value.
        ValueError: A name is not known, or a figure is negative or not finite, or an interval shorter than a microsecond.

    >>> from plait.model import Costs
    >>> Costs({"wake": (20e-6, 0.1)}).all["wake"]
    Cost(seconds=2e-05, spread=0.1)
    """

    known: Mapping[str, Cost]
    speeds: tuple[float, ...]
    speed: float | None

    def __init__(
        self,
        known: Mapping[str, tuple[float, float]] | None = None,
        speeds: tuple[float, ...] = (),
        speed: float | None = None,
    ) -> None:
        if known is not None:
            check_is("known", known, Mapping, "a mapping of names")
        given = {name: _cost(name, cost) for name, cost in (known or {}).items()}
        if not all(0 < number("each of speeds", one) < math.inf for one in listed("speeds", speeds)):
            raise ValueError(f"speeds must be positive, not {speeds!r}")
        if speed is not None:
            check_speed(speed)
        object.__setattr__(self, "known", given)
        object.__setattr__(self, "speeds", tuple(speeds))
        object.__setattr__(self, "speed", speed)

    @property
    def all(self) -> dict[str, Cost]:
        """Every cost by name, with the typical ones for those that are not known."""
        return {**_typical(), **self.known}

    def core(self, speed: float | None) -> _core.CostsCore:
        """For the simulator, brought to the machine's speed at another time."""
        factor = speed / self.speed if speed and self.speed else 1.0
        scaled = {
            name: (cost.seconds * _unit(name) * (1.0 if name in _CLOCKS else factor), cost.spread)
            for name, cost in self.known.items()
        }
        return _core.CostsCore(scaled)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return {
            "known": {name: list(cost) for name, cost in self.known.items()},
            "speeds": list(self.speeds),
            "speed": self.speed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Costs:
        """What `to_json` made.

        Raises:
            TypeError, ValueError: It is something else, or of another version.
        """
        check_is("value", value, Mapping, "what to_json made")
        missing = [name for name in ("known", "speeds", "speed") if name not in value]
        if missing:
            raise ValueError(f"value must have {missing[0]!r}, as to_json makes it: {value!r}")
        check_is("known", value["known"], Mapping, "a mapping of names")
        known = {str(name): (float(seconds), float(spread)) for name, (seconds, spread) in value["known"].items()}
        speed = value["speed"]
        return cls(known, tuple(float(one) for one in value["speeds"]), None if speed is None else float(speed))


def _cost(name: str, given: Any) -> Cost:
    if name not in _typical():
        raise ValueError(f"no cost is called {name!r}; there are {', '.join(_typical())}")
    check_is(f"the cost {name!r}", given, (tuple, list), "(seconds, relative spread)")
    if len(given) != 2:
        raise ValueError(f"the cost {name!r} must be (seconds, relative spread), not {given!r}")
    cost = Cost(*(number(f"the cost {name!r}", one) for one in given))
    if not (0 <= cost.seconds < math.inf and 0 <= cost.spread < math.inf):
        raise ValueError(f"the cost {name!r} must not be negative, nor infinite, and is {tuple(cost)!r}")
    if cost.seconds < (least := _LEAST.get(name, 0.0)):
        raise ValueError(f"the cost {name!r} must be {least:g} seconds at least, and is {tuple(cost)!r}")
    return cost


def _unit(name: str) -> float:
    """What the simulator counts in."""
    return 1.0 if name in _SHARES else 1e9


_cached: dict[str, Cost] = {}


def _typical() -> dict[str, Cost]:
    if not _cached:
        named = _core.CostsCore({}).named()
        _cached.update({name: Cost(value / _unit(name), spread) for name, (value, spread) in named.items()})
    return _cached
