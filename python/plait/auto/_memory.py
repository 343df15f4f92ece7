"""What pools that are gone have learnt of functions: the next one that runs them begins with that.

It says how to begin, no more: processes start while calls are still learnt, and threads that will wait do at once. A function
that was seen to change, or that had to stay in this process, is not remembered.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import CodeType

    from plait.auto._calls import Shape
    from plait.auto._figures import Figures
    from plait.auto._paces import Paces

#: Functions that are remembered, at most.
_MOST = 1_000


class Learnt(NamedTuple):
    """What was learnt of a function; see `Function`."""

    figures: Figures
    paces: Paces
    shape: Shape


_learnt: dict[int, tuple[weakref.ref[CodeType], Learnt]] = {}
"""By the identity of the code, the oldest first. Code is not compared by what is in it: that takes long."""


def keep(code: CodeType, learnt: Learnt | None) -> None:
    """Remember what was learnt of the function that has this code; None is to be learnt anew."""
    key = id(code)
    _learnt.pop(key, None)
    if learnt is None:
        return
    while len(_learnt) >= _MOST:
        _learnt.pop(next(iter(_learnt)), None)
    # Finalizers run anywhere: this one does a single thing that cannot be interrupted.
    reference = weakref.ref(code, lambda _: _learnt.pop(key, None))
    _learnt[key] = reference, learnt


def recall(code: CodeType | None) -> Learnt | None:
    """What is known of the function that has this code."""
    reference, learnt = _learnt.get(id(code), (None, None))
    return learnt if reference is not None and reference() is code else None
