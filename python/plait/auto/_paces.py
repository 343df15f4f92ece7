"""How fast the models were seen to be, beside what was predicted of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from plait.auto._choice import PROCESSES, SERIAL, THREADS, shown

if TYPE_CHECKING:
    from plait.auto._figures import Figures

#: How far predictions are off, as the variance of their logarithm.
_DOUBT = 0.1

#: Slices whose lengths vary by less may do so by chance.
_LEAST_SPREAD = 0.15

#: Of what was seen of a plan, the first so many lots of calls count: later ones may be longer or shorter by themselves.
_LOTS = 3

#: How much of what slows one model down slows the other one down too, as a power.
_SHARED = 0.5

#: How much of what was seen by other pools is still believed, as a power: what was slow for once is tried again some time.
_BELIEVED = 0.9

_LEAST_FACTOR, _MOST_FACTOR = 0.3, 1000.0

#: Calls that become so many times as long, little by little, are others: what was seen before says nothing of them.
_DRIFT = 1.3


class _Seen(NamedTuple):
    lots: int
    calls: float
    seconds: float
    factor: float
    each: float
    """Seconds that a call takes, as far as it is believed."""
    wall: float
    """And alone, which is never nothing."""

    def now(self, figures: Figures) -> float:
        """Seconds for a call now: as much longer or shorter as one is alone."""
        return self.each * figures.wall / self.wall


class Paces:
    """How many times as long as predicted the plans took that were tried, since the function last changed.

    >>> paces = Paces()
    >>> paces.factor("threads", 2, released=1.0)
    1.0
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._wall = 0.0
        """How long a call took that was alone, when these were seen."""

    def forget(self) -> None:
        """The function is another than it was."""
        self._seen.clear()

    def copy(self) -> Paces:
        """The same, which stays as it is now."""
        other = Paces()
        other._wall, other._seen = self._wall, dict(self._seen)
        return other

    def recalled(self) -> Paces:
        """What is still believed of these when other calls begin: all are looked at again."""
        other = self.copy()
        for plan, seen in self._seen.items():
            factor = seen.factor**_BELIEVED
            other._seen[plan] = seen._replace(lots=0, factor=factor, each=seen.each * factor / seen.factor)
        return other

    def grew(self, model: str, workers: int, times: float) -> None:
        """Calls have become so many times as long, little by little, while they were made in this way: it looked slow."""
        self._wall *= times
        seen = self._seen.get((model, workers))
        if seen is not None:
            factor = max(min(1.0, seen.factor), seen.factor / times)
            each = seen.each * times * factor / seen.factor
            self._seen[model, workers] = seen._replace(factor=factor, each=each, wall=seen.wall * times)

    def check(self, wall: float) -> None:
        """Forget what was seen, if calls that are alone take other times now than those that it was held against."""
        if self._seen and not 1 / _DRIFT < self._wall / wall < _DRIFT:
            self.forget()

    def saw(self, model: str | None) -> bool:
        """Whether any plan of a model was tried: one call after the other always was."""
        return model == SERIAL or any(which == model for which, _ in self._seen)

    def wants(self, model: str, workers: int) -> bool:
        """Whether more is to be seen of a plan."""
        seen = self._seen.get((model, workers))
        return seen is None or seen.lots < _LOTS

    def add(self, model: str, workers: int, calls: int, seconds: float, predicted: float, figures: Figures) -> None:
        """So many calls took so many seconds in all, and one was predicted to take `predicted` without what was seen before."""
        self._wall = figures.wall
        seen = self._seen.get((model, workers), _Seen(0, 0.0, 0.0, 1.0, predicted, figures.wall))
        # What was seen counts by how long it took: as many calls as it would be that take as long as these.
        known, seconds = seen.calls / 2 * seen.wall / figures.wall + calls, seen.seconds / 2 + seconds
        factor = min(_MOST_FACTOR, max(_LEAST_FACTOR, seconds / known / max(predicted, 1e-9)))
        # Of calls that differ, a few say little: the more they do, the more the prediction is believed.
        spread = max(figures.spread, _LEAST_SPREAD)
        chance = spread * spread * (1 / max(1, len(figures.samples)) + 1 / known) + _DOUBT / 2 / (seen.lots + 1)
        doubt = max(_DOUBT, math.log(factor) ** 2)  # so far off it is not by chance
        factor **= doubt / (doubt + chance)
        self._seen[model, workers] = _Seen(seen.lots + 1, known, seconds, factor, predicted * factor, figures.wall)

    def seconds(self, model: str, workers: int, figures: Figures) -> float | None:
        """Seconds for a call in a plan that was seen: what is predicted may change since, and what was seen does not."""
        seen = self._seen.get((model, workers))
        return None if seen is None else seen.now(figures)

    def factor(self, model: str, workers: int, released: float) -> float:
        """How many times as long as predicted a plan takes; of threads in another number, as with the next fewer ones.

        Of a model that was not tried, as far as the other one's workers may have been slowed down by what all workers share,
        whatever they are: cores that are no whole ones, memory. That is the more the more the GIL is `released` (0 to 1) while
        they compute.
        """
        found = self._of(model, workers)
        if found is not None:
            return found
        other = self._of(PROCESSES if model == THREADS else THREADS, workers)
        return max(1.0, other) ** (_SHARED * released) if other is not None else 1.0

    def _of(self, model: str, workers: int) -> float | None:
        fewer = [count for which, count in self._seen if which == model and (count <= workers or model == PROCESSES)]
        return self._seen[model, max(fewer)].factor if fewer else None

    def of_threads(self, figures: Figures) -> list[tuple[int, float]]:
        """Numbers of threads that were tried, the fewest first, with the seconds that a call took."""
        return sorted(
            (workers, seen.now(figures))
            for (model, workers), seen in self._seen.items()
            if model == THREADS and workers > 1
        )

    def shown(self) -> dict[str, float]:
        """Factors by plan, for people."""
        return {shown(*plan): seen.factor for plan, seen in self._seen.items()}
