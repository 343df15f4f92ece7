"""The results of a `map`, one by one, for whoever takes them."""

from __future__ import annotations

import itertools
import sys
import weakref
from typing import TYPE_CHECKING, Any, cast

from plait._executor import ProgressBar
from plait.auto._errors import Raised

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from plait._executor import MapArguments
    from plait.auto._map import MapFlow

#: Results that are so small that those of a chunk may be kept until it is used up.
_SMALL = {int, float, bool, str, bytes, complex, type(None)}


def are_small(outcomes: list[Any]) -> bool:
    """Whether results may be kept for a while, by the first and the last one."""
    return type(outcomes[0]) in _SMALL and type(outcomes[-1]) in _SMALL


class _Results(itertools.chain[Any]):
    """The results of a `map`: an iterator that takes lists of them from a generator."""

    given: Generator[Iterable[Any], None, None]

    def close(self) -> None:
        """Make no call that was not begun."""
        self.given.close()


def results(flow: MapFlow, arguments: MapArguments, deadline: float | None, total: int | None) -> Iterator[Any]:
    """The results of a `map`, one by one; when it is dropped, no call is made that was not begun."""
    given = _give(flow, arguments.progress, deadline, total)
    weakref.finalize(given, flow.close).atexit = False
    made = cast("_Results", _Results.from_iterable(given))
    made.given = given
    return made


def _give(
    flow: MapFlow,
    progress: Callable[[int, int | None], object] | None,
    deadline: float | None,
    total: int | None,
    is_over: Callable[[], bool] = sys.is_finalizing,
) -> Generator[Iterable[Any], None, None]:
    done = 0
    try:
        while True:
            outcomes, raised = flow.next_outcomes(deadline)
            if not outcomes:
                return
            if progress is None and not raised and are_small(outcomes):
                yield outcomes
                continue
            outcomes.reverse()  # results are popped, so that nobody keeps them
            while outcomes:
                if type(outcomes[-1]) is Raised:
                    raise outcomes.pop().error
                if progress is not None:
                    done += 1
                    progress(done, total)
                count = 1 if raised or progress is not None else len(outcomes)
                yield map(list[Any].pop, itertools.repeat(outcomes, count))
    finally:
        if not is_over():  # or modules may have lost what is in them; all calls were made when threads were joined
            flow.close()
            if isinstance(progress, ProgressBar):
                progress.close()
