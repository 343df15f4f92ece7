"""How fast the machine is at the moment: the time of a fixed piece of Python, in CPU time.

Other virtual machines on the same hardware change that by a factor of almost two, for milliseconds or for seconds. So a look at
one moment says little about half a second of work: what is compared with other work is looked at all along.

What slows Python down (caches and predictors that are shared) does so the more, the more different code and memory a program
uses. The piece is between those that stay in one loop and those that parse, compile and sort: in logarithms, the former are
slowed down by a sixth less than it is, the latter by a fifth more. It leaves nothing for the garbage collector, and what memory
the program has used before has little part in it. Its data are others each time, for processors learn what is done twice.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time

_NUMBERS = tuple(number % 100 for number in range(250))
#: Each look takes one of these.
_PARTS = tuple(
    tuple(f"name_{number * 7919 % 100},{number * 31 % 977},{number}" for number in range(40 * part, 40 * part + 40))
    for part in range(10)
)
#: Pieces before the one that is looked at, so that what ran before has little part in it.
_BEFORE = 2
#: What a look is multiplied with, for a figure of half a millisecond or so.
_PIECES = 20
#: Seconds between two looks while something else runs.
_EVERY = 0.0025
#: Seconds for which a look says how fast the machine is.
_KNOWN = 0.01
#: How far the speed is from one moment to the next, relative standard deviation: of a single look; at least, and at most.
_UNSEEN, _LEAST, _MOST = 0.2, 0.05, 0.3
#: Looks of `measure_speed`.
_LOOKS = 200


def spin(steps: int) -> int:
    """Compute, in Python and with the GIL."""
    total = 0
    for number in range(steps):
        total += number * number & 7
    return total


def _piece(part: int) -> int:
    """Some of what programs do."""
    total = 0
    for number in _NUMBERS:
        total = (total + number * 2) & 127
    found: dict[str, int] = {}
    for line in _PARTS[part % len(_PARTS)]:
        name, size, _ = line.split(",")
        name = name.upper()
        found[name] = found.get(name, 0) + int(size)
        total = (total * 3 + len(f"{name}:{size}")) & 127
    return total + min(found.values())


def look() -> float:
    """Seconds of twenty pieces, by one of them."""
    some = time.perf_counter_ns()
    for part in range(_BEFORE):
        _piece(some + part)
    begin = time.thread_time_ns()
    _piece(some + _BEFORE)
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
    """Looks at the machine's speed now and then, between parts of other work: of one thread, or of several.

    Each is good for the time around it. The last one is asked for once all is done.
    """

    def __init__(self, every: float = _EVERY) -> None:
        self._every = every
        self._made: list[tuple[float, float]] = []
        self._last = -every
        self.spent = 0.0
        """CPU seconds that the looks took."""

    def look(self) -> None:
        """Look, if the last time is some milliseconds ago."""
        begin = time.perf_counter()
        if begin - self._last >= self._every:
            self._last = begin  # so that no other thread does too
            cpu = time.thread_time()
            seconds = look()
            self.spent += time.thread_time() - cpu
            self._last = time.perf_counter()
            self._made.append((self._last, seconds))

    @property
    def _looks(self) -> list[tuple[float, float]]:
        """In the order in which they were made: a thread may have lost the GIL before it wrote its own down."""
        return sorted(self._made)

    @property
    def seconds(self) -> float:
        """As of `measure_speed`, for the time between the first look and the last."""
        looks = self._looks
        if len(looks) < 2:
            return looks[0][1] if looks else measure_speed()
        # In a slow moment less work is done in the same time.
        return statistics.harmonic_mean([look for _, look in looks], weights=_weights([when for when, _ in looks]))

    @property
    def unsure(self) -> float:
        """How far off that may be, relative standard deviation: there were times without a look."""
        looks = self._looks
        if len(looks) < 2:
            return _UNSEEN
        whole = looks[-1][0] - looks[0][0]
        unseen = (after - before for (before, _), (after, _) in itertools.pairwise(looks))
        spread = statistics.stdev(math.log(look) for _, look in looks)
        return min(max(spread, _LEAST), _MOST) * math.sqrt(sum((gap / whole) ** 2 for gap in unseen if gap > _KNOWN))


def _weights(times: list[float]) -> list[float]:
    """Seconds for which each look is the nearest one."""
    ends = [times[0], *((one + other) / 2 for one, other in itertools.pairwise(times)), times[-1]]
    return [end - begin for begin, end in itertools.pairwise(ends)]
