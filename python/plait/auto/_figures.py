"""What is known of a function: how its calls spent their time, and how large what they take and return is."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from typing import NamedTuple

#: Slices that are remembered: what a function did before these is forgotten.
WINDOW = 32


#: And those that are remembered by other pools: the fewer, the sooner these see what is otherwise now.
RECALLED = 8

#: Slices after which the first one, which may be longer than all others, need not be believed.
_FIRST_COUNTS = 3

#: How many times as long as those of a crowd calls compute that were the first ones.
_FIRST_LONGER = 1.5

#: And that have grown, of which so many slices of a crowd tell, beside as many of its first ones.
_GROWN, _GROWN_OF = 1.12, 2

#: How many times as far apart as slices are by themselves is no chance, and how many times as long are other calls.
_CHANCE, _LEAP = 3.0, 2.0

#: Which part of their time calls compute more or less that are bound otherwise.
_OTHERWISE = 0.4

#: Seconds in which nothing is waited for.
_NOISE = 20e-6


class Sample(NamedTuple):
    """Some calls, made one after the other by one thread; times in nanoseconds.

    Attributes:
        calls: How many.
        wall: From the first's beginning to the last's end.
        cpu: On a core.
        held: With the GIL, on a core or not; -1 where that could not be seen.
        wanted: Waiting for the GIL; 0 where that could not be seen.
        ready: Waiting for a core; 0 where that could not be seen.
        children: What of `cpu` was that of processes that were waited for; 0 where that could not be seen.
    """

    calls: int
    wall: int
    cpu: int
    held: int = -1
    wanted: int = 0
    ready: int = 0
    children: int = 0

    def with_more(self, other: Sample) -> Sample:
        """These calls and others."""
        held = -1 if min(self.held, other.held) < 0 else self.held + other.held
        return Sample(
            self.calls + other.calls,
            self.wall + other.wall,
            self.cpu + other.cpu,
            held,
            self.wanted + other.wanted,
            self.ready + other.ready,
            self.children + other.children,
        )

    @property
    def alone(self) -> int:
        """How long they would have taken with nobody else who wants the GIL and the cores."""
        return max(self.cpu, self.wall - self.wanted - self.ready, 1)


class Figures:
    """Means over the last slices, for one call; times in seconds, sizes in bytes. One thread at a time adds to them.

    Attributes:
        calls: How many were seen.
        wall: How long a call takes alone: without waits for the GIL and for a core.
        cpu: How much of it is on a core.
        held: How long it holds the GIL; what it computes, where that could not be seen.
        spread: The coefficient of variation between slices.
        remembered: How many calls these are of.
        size: Pickled size of arguments and result; None before it is known.
        pickling: What pickling and unpickling both takes; None before it is known.
        result_sized: Whether a result is among these.

    >>> figures = Figures()
    >>> figures.add(Sample(calls=10, wall=10_000_000, cpu=2_000_000, held=2_000_000))
    >>> figures.wall, figures.held, round(figures.blocked, 6)
    (0.001, 0.0002, 0.0008)
    """

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque()
        self.calls = 0
        self.wall = self.cpu = self.held = self.spread = 0.0
        self.size: int | None = None
        self.pickling: float | None = None
        self.result_sized = False
        self.remembered = 0
        self._alone = self._cpu = self._held = self._children = 0
        self._each = self._squares = 0.0
        """Sums over the slices: of their means, and of the squares of these."""
        self._odd = 0
        self._odd_before: Sample | None = None
        self._begun = False
        self._first_cpu = 0.0
        """How long a call of the first slices was on a core."""

    def add(self, sample: Sample) -> None:
        """Remember a slice."""
        if sample.calls <= 0:
            return
        samples = self.samples
        if len(samples) == WINDOW:
            self._count(samples.popleft(), -1)
        samples.append(sample)
        self._count(sample, 1)
        if len(samples) == _FIRST_COUNTS and not self._begun:
            self._begun = True
            if samples[0].alone / samples[0].calls > 1.5 * min(each.alone / each.calls for each in samples):
                self._count(samples.popleft(), -1)  # what is done but once, such as an import
        self.calls += sample.calls
        seconds = self.remembered * 1e9
        self.wall, self.cpu, self.held = self._alone / seconds, self._cpu / seconds, self._held / seconds
        self.spread = self._variation()
        if len(samples) <= _GROWN_OF:
            self._first_cpu = self.cpu

    def _count(self, sample: Sample, times: int) -> None:
        alone = sample.alone
        each = alone / sample.calls
        self.remembered += times * sample.calls
        self._alone += times * alone
        self._cpu += times * sample.cpu
        self._children += times * sample.children
        self._held += times * (sample.cpu if sample.held < 0 else sample.held)
        self._each += times * each
        self._squares += times * each * each

    def _variation(self) -> float:
        count = len(self.samples)
        if count < 2 or self._each <= 0:
            return 0.0
        mean = self._each / count
        return math.sqrt(max(0.0, self._squares - count * mean * mean) / (count - 1)) / mean

    @property
    def seconds(self) -> float:
        """How long the calls took that are remembered, all in all."""
        return self._alone / 1e9

    @property
    def growth(self) -> float:
        """How many times as long as at first a call is on a core at last; 1 where nobody knows."""
        if len(self.samples) < 2 * _GROWN_OF or not self._first_cpu:
            return 1.0
        last = list(self.samples)[-_GROWN_OF:]
        return sum(each.cpu for each in last) / max(1, sum(each.calls for each in last)) / 1e9 / self._first_cpu

    @property
    def jitter(self) -> float:
        """How far a slice is from the one before it, as a part of their mean: what grows little by little is not in it.

        Source: von Neumann, "Distribution of the ratio of the mean square successive difference to the variance", 1941.
        """
        each = [sample.cpu / sample.calls for sample in self.samples]
        if len(each) < 2 or not sum(each):
            return 0.0
        squares = sum((later - before) ** 2 for before, later in pairwise(each))
        return math.sqrt(squares / (2 * (len(each) - 1))) * len(each) / sum(each)

    def has_grown(self) -> None:
        """What is last now is first from here on."""
        self._first_cpu *= self.growth

    @property
    def held_on_cpu(self) -> float:
        """How long it holds the GIL on a core."""
        return min(self.held, self.cpu)

    @property
    def released(self) -> float:
        """How long it computes without the GIL."""
        return max(0.0, self.cpu - self.held)

    @property
    def blocked(self) -> float:
        """How long it waits for others: for files, peers, timers. What is very short is not told from noise."""
        return max(0.0, self.wall - self.cpu) if self.wall > _NOISE else 0.0

    def changed(self, sample: Sample, *, patience: int, factor: float = 2.0) -> bool:
        """Whether calls, so many times in a row, are far longer or shorter than those before, or bound otherwise."""
        if len(self.samples) < 3:
            return False
        wall, before = sample.alone / sample.calls / 1e9, self.wall
        # Means of many slices hide how far slices are apart by nature: that much is no change.
        most = factor * (1 + min(self.spread, 2.0))
        odd = not 1 / most < (wall + 5e-6) / (before + 5e-6) < most or self.bound_otherwise(sample)
        odd = odd and (wall < before or sample.alone > 1_000_000)
        self._odd = self._odd + 1 if odd else 0
        if self._odd >= patience:
            return True
        self._odd_before = sample if odd else None
        return False

    def last_odd(self) -> Sample | None:
        """The slice before, if that was as odd as the one that was seen to be a change."""
        return self._odd_before

    def bound_otherwise(self, sample: Sample) -> bool:
        """Whether calls compute where those before waited, or the other way round."""
        before = self.cpu / max(self.wall, 1e-9)
        now = min(1.0, sample.cpu / sample.alone)
        return sample.alone / sample.calls > 20_000 and abs(now - before) > _OTHERWISE

    def if_only(self, sample: Sample) -> Figures:
        """These figures, if there had been nothing but these calls."""
        other = Figures()
        other.size, other.pickling, other.result_sized = self.size, self.pickling, self.result_sized
        other.add(sample)
        return other

    def are_of_first_calls(self, crowd: Figures) -> bool:
        """Whether these calls have computed for far longer than those of a crowd: much was new to them."""
        own = self.cpu - self._of_children
        return len(crowd.samples) >= _FIRST_COUNTS and own > _FIRST_LONGER * crowd.cpu + _NOISE

    @property
    def _of_children(self) -> float:
        """How long processes compute that a call waits for, which of calls in a crowd is not known."""
        return self._children / max(1, self.remembered) / 1e9

    def are_short_beside(self, crowd: Figures, *, take_turns: bool) -> bool:
        """Whether calls of a crowd compute for longer and longer: they have grown, and these are of shorter ones.

        That they compute for longer than these from the first on is no growth: they share caches, memory and the kernel's
        locks. Of calls that hold a GIL for which they `take_turns` nobody knows: that costs them time on a core, too.
        """
        least = 1 + max(_GROWN - 1, _CHANCE * crowd.jitter, _NOISE / max(self.cpu, 1e-9))
        grown = least < crowd.growth <= _LEAP  # what leaps does not grow
        return grown and (not take_turns or self.released > 0.5 * self.wall)

    def grown(self, crowd: Figures) -> Figures:
        """The same of calls that have grown as those of a crowd have, and are alike otherwise."""
        return self._scaled(crowd.growth, crowd.growth)

    def belie(self, others: Figures) -> bool:
        """Whether these calls, which do what others have done, are far shorter, or compute where those have waited."""
        most = 2.0 * (1 + min(others.spread, 2.0))
        computes = self.cpu / max(self.wall, 1e-9) - others.cpu / max(others.wall, 1e-9)
        return self.wall * most < others.wall or computes > _OTHERWISE

    def recalled(self, crowd: Figures) -> Figures:
        """What is still believed of these: their last slices, of calls that took no longer than those of a crowd.

        Who is in a crowd takes longer than alone, mostly.
        """
        cpu = wall = 1.0
        if len(crowd.samples) >= _FIRST_COUNTS:
            cpu = min(1.0, (crowd.cpu + self._of_children) / max(self.cpu, 1e-9))
            wall = min(1.0, crowd.wall / max(self.wall, 1e-9))
        return self._scaled(wall, cpu, RECALLED)

    def _scaled(self, wall: float, cpu: float, most: int = WINDOW) -> Figures:
        """The last slices, if calls had taken so many times as long, and so many times as long on a core."""
        other = Figures()
        other._begun = True  # the first call of all is none of these any more
        for each in list(self.samples)[-most:]:
            held = each.cpu if each.held < 0 else each.held
            times = int(wall * each.alone), int(cpu * each.cpu), int(cpu * held)
            other.add(Sample(each.calls, *times, children=int(cpu * each.children)))
        other.calls = self.calls
        other.size, other.pickling, other.result_sized = self.size, self.pickling, self.result_sized
        return other

    def forget(self) -> None:
        """Begin anew, but for what is known of sizes."""
        self._odd = 0
        self._odd_before = None
        self.samples.clear()
        self.remembered = 0
        self._alone = self._cpu = self._held = self._children = 0
        self._each = self._squares = self._first_cpu = 0.0
