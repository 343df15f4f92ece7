"""How fast the machine is at the moment: the time of a fixed piece of Python, in CPU time.

Other virtual machines on the same hardware change that by a factor of almost two, for milliseconds or for seconds. So a look at
one moment says little about half a second of work: what is compared with other work is looked at all along.

What slows Python down (caches and predictors that are shared) does so the more, the more different code and memory a program
uses. The piece is between those that stay in one loop and those that parse, compile and sort: in logarithms, the former are
slowed down by a sixth less than it is, the latter by a fifth more. It leaves nothing for the garbage collector, and what memory
the program has used before has little part in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

_NUMBERS = tuple(number % 100 for number in range(500))
_LINES = tuple(f"name_{number * 7919 % 100},{number * 31 % 977},{number}" for number in range(80))
#: What a look is multiplied with, for a figure of half a millisecond or so.
_PIECES = 10
#: Seconds between two looks while something else runs.
_EVERY = 0.0025
#: Looks of `measure_speed`.
_LOOKS = 200


def spin(steps: int) -> int:
    """Compute, in Python and with the GIL."""
    total = 0
    for number in range(steps):
        total += number * number & 7
    return total


def _piece(numbers: Sequence[int] = _NUMBERS, lines: Sequence[str] = _LINES) -> int:
    """Some of what programs do."""
    total = 0
    for number in numbers:
        total = (total + number * 2) & 127
    found: dict[str, int] = {}
    for line in lines:
        name, size, _ = line.split(",")
        name = name.upper()
        found[name] = found.get(name, 0) + int(size)
        total = (total * 3 + len(f"{name}:{size}")) & 127
    return total + sorted(found.values())[0]


def look() -> float:
    """Seconds of ten pieces, by one of them."""
    _piece()  # so that what ran before has no part in it
    begin = time.thread_time_ns()
    _piece()
    return (time.thread_time_ns() - begin) * _PIECES / 1e9


def measure_speed() -> float:
    """Seconds of CPU time that a fixed piece of Python takes now, to compare work and costs of different times.

    It looks for some hundredths of a second.

    >>> from plait.model import measure_speed
    >>> 0 < measure_speed() < 1
    True
    """
    return statistics.fmean(look() for _ in range(_LOOKS))


class Pace:
    """Looks at the machine's speed now and then, between parts of other work of the same thread."""

    def __init__(self) -> None:
        self._looks: list[float] = []
        self._last = -_EVERY
        self.spent = 0.0
        """Seconds that the looks took."""

    def look(self) -> None:
        """Look, if the last time is some milliseconds ago."""
        begin = time.perf_counter()
        if begin - self._last >= _EVERY:
            self._looks.append(look())
            self._last = time.perf_counter()
            self.spent += self._last - begin

    @property
    def seconds(self) -> float:
        """As of `measure_speed`, for the time between the first look and the last."""
        # They are evenly spread over time, so slow moments are seen more often than work is done in them.
        return statistics.harmonic_mean(self._looks) if self._looks else measure_speed()
