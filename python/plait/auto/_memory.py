"""What pools that are gone have learnt of functions: the next one that runs them begins with that.

It says how to begin, no more: processes, and threads that will wait or have made most calls, are given some at once, and the
first of these show whether it is still so. A function that was seen to change, or that had to stay in this process, is not
remembered.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

from plait.auto._calls import Shape

if TYPE_CHECKING:
    from types import CodeType

    from plait.auto._figures import Figures
    from plait.auto._paces import Paces

#: Functions that are remembered, at most.
_MOST = 1_000


class Learnt(NamedTuple):
    """What was learnt of a function; see `Function`.

    `model` is the one that most of the work was done by, and `calls` is how many were made after it was decided.
    """

    figures: Figures
    paces: Paces
    shape: Shape
    model: str
    calls: int


class _Kept(NamedTuple):
    """The same, without what it would keep from being forgotten: a class has its methods, and with them their code."""

    code: weakref.ref[CodeType]
    figures: Figures
    paces: Paces
    kinds: tuple[weakref.ref[type], ...]
    named: tuple[tuple[str, weakref.ref[type]], ...]
    model: str
    calls: int


_learnt: dict[int, _Kept] = {}
"""By the identity of the code, the oldest first. Code is not compared by what is in it: that takes long."""


def keep(code: CodeType, learnt: Learnt | None) -> None:
    """Remember what was learnt of the function that has this code; None is to be learnt anew."""
    key = id(code)
    _learnt.pop(key, None)
    if learnt is None:
        return
    if len(_learnt) >= _MOST:
        # Copied at once: other threads, and finalizers, add and remove some meanwhile.
        for oldest in list(_learnt)[: 1 + len(_learnt) - _MOST]:
            _learnt.pop(oldest, None)
    # Finalizers run anywhere: this one does a single thing that cannot be interrupted.
    reference = weakref.ref(code, lambda _: _learnt.pop(key, None))
    kinds, named = learnt.shape
    of_names = tuple((name, weakref.ref(kind)) for name, kind in named)
    _learnt[key] = _Kept(
        reference, learnt.figures, learnt.paces, tuple(map(weakref.ref, kinds)), of_names, learnt.model, learnt.calls
    )


def recall(code: CodeType | None) -> Learnt | None:
    """What is known of the function that has this code."""
    kept = _learnt.get(id(code))
    if kept is None or kept.code() is not code:
        return None
    kinds: list[type] = []
    named: list[tuple[str, type]] = []
    for each in kept.kinds:
        if (kind := each()) is None:
            return None  # there are no such arguments any more
        kinds.append(kind)
    for name, each in kept.named:
        if (kind := each()) is None:
            return None
        named.append((name, kind))
    return Learnt(kept.figures, kept.paces, Shape(tuple(kinds), tuple(named)), kept.model, kept.calls)
