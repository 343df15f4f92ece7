"""How fast the machine is at the moment: the time of a fixed piece of Python, in CPU time.

Other virtual machines on the same hardware change that by a factor of almost two, for milliseconds or for seconds. So a look at
one moment says little about half a second of work: what is compared with other work is looked at all along.
"""

from __future__ import annotations

import statistics
import time

#: Steps of a look, and what speed is told for.
_LOOK, _WHOLE = 1_000, 10_000
#: Steps before it, so that what ran before has no part in it.
_BEFORE = 100
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


def look() -> float:
    """Seconds of the whole piece by a part of it."""
    spin(_BEFORE)
    begin = time.thread_time_ns()
    spin(_LOOK)
    return (time.thread_time_ns() - begin) * (_WHOLE / _LOOK) / 1e9


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
