"""What an expression of a function leads to, as far as it is known without running it."""

from __future__ import annotations

import os
import types
from typing import Any, NamedTuple, cast

from plait.auto._changing import CONTAINERS, can_change, holds_constants

#: Where something comes from: it was made in the call, or is a constant; an argument or a part of one; it outlives the call.
OWN, ARGUMENT, LASTING = range(3)

#: Values, and classes, that something may be of at most; beyond, it is not known.
_MOST = 16

#: Classes whose instances neither change nor hold what does.
_CONSTANT = frozenset({str, bytes, int, float, complex, bool, range, type(None)})

#: Values in a container that are looked through for functions, and how deep.
_MOST_HELD, _DEEP = 2_000, 4


class Ref(NamedTuple):
    """What an expression leads to.

    Attributes:
        origin: `OWN`, `ARGUMENT` or `LASTING`.
        words: What it is, for people.
        values: What it may be, where that is known.
        kinds: Classes it may be of, where they are known.
        holds: What is in a container, or hangs on an object, of the call's own.
        within: Values that it is somewhere in.
    """

    origin: int = OWN
    words: str = ""
    values: tuple[Any, ...] = ()
    kinds: tuple[type, ...] = ()
    holds: Any = None
    within: tuple[Any, ...] = ()

    @property
    def lasts(self) -> bool:
        """Whether it outlives the call, and can be changed in place."""
        return self.origin == LASTING and (not self.values or any(map(can_change, self.values)))

    @property
    def is_constant(self) -> bool:
        """Whether it is known to be one of some constants of the program."""
        return self.origin == LASTING and bool(self.values) and all(map(_is_constant, self.values))

    @property
    def held(self) -> Ref | None:
        """What is in it."""
        return cast("Ref | None", self.holds)

    def part(self) -> Ref:
        """Something that is in it, or hangs on it."""
        if self.origin == OWN:
            return self.held or (Ref(values=self.values) if self.values else MADE)
        if self.origin == ARGUMENT:
            kinds = tuple(kind for kind in self.kinds if kind.__module__ == "numpy")
            return Ref(ARGUMENT, self.words, kinds=kinds, within=(*self.values, *self.within))
        if self.is_constant:
            return MADE  # items and slices are constants, too
        plain = all(
            value is os.environ or (isinstance(value, CONTAINERS) and holds_constants(cast("Any", value)))
            for value in self.values
        )
        if self.values and plain and not holds_modules(self.values):
            return merge(Ref(values=callables_in(self.values)), self.held)
        return Ref(LASTING, self.words, within=(*self.values, *self.within))

    def key(self) -> tuple[Any, ...]:
        """What says whether something else leads to the same."""
        held = self.held
        return self.origin, tuple(map(id, self.values)), self.kinds, held and held.key(), tuple(map(id, self.within))


MADE = Ref()


def _is_constant(value: Any) -> bool:
    """Whether it is a constant, or a tuple or so of some."""
    if type(value) in (tuple, frozenset) and len(value) <= _MOST_HELD:
        return all(map(_is_constant, value))
    return type(value) in _CONSTANT


def merge(*refs: Ref | None) -> Ref:
    """What leads to any of them."""
    some = [ref for ref in refs if ref is not None and ref is not MADE]
    if len(some) > 1:
        # Constants, as those in the source, say nothing of what else it may be, and must not hide it.
        some = [ref for ref in some if not ref.is_constant] or some
    if len(some) < 2:
        return some[0] if some else MADE
    most = max(some, key=lambda ref: (ref.origin, ref.lasts))
    values: tuple[Any, ...] = tuple({id(value): value for ref in some for value in ref.values}.values())[:_MOST]
    # What may be something unknown that lasts is not told by values of others.
    if most.origin == LASTING and not most.values:
        values = tuple(value for value in values if callable(value))
    holds = [ref.held for ref in some if ref.held is not None]
    if most.origin == LASTING and values:  # of which it is known what is in them
        holds += [ref.part() for ref in some if ref.origin == ARGUMENT]
    return Ref(
        most.origin,
        most.words,
        values,
        tuple(dict.fromkeys(kind for ref in some for kind in ref.kinds))[:_MOST],
        merge(*holds) if holds else None,
        tuple({id(value): value for ref in some for value in ref.within}.values())[:_MOST],
    )


def leads_out(ref: Ref) -> bool:
    """Whether it, or something that is in it, outlives the call, and can be changed in place."""
    return ref.lasts or (ref.held is not None and leads_out(ref.held))


def leading_out(ref: Ref) -> Ref | None:
    """It, or something that is in it, if that is an argument or outlives the call, and can be changed in place."""
    if ref.origin == ARGUMENT or ref.lasts:
        return ref
    return None if ref.held is None else leading_out(ref.held)


def holds_modules(values: tuple[Any, ...]) -> bool:
    """Whether there are modules in containers: those lead to anything."""
    return any(isinstance(each, types.ModuleType) for value in values for each in _inner_of(value))


def callables_in(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Functions and the like that are somewhere in containers, or hang on objects."""
    found: dict[int, Any] = {}
    waiting: list[tuple[Any, int]] = [(value, 0) for value in values]
    looked = 0
    while waiting and looked < _MOST_HELD:
        value, deep = waiting.pop()
        looked += 1
        if isinstance(value, str | bytes | int | float | types.ModuleType):
            continue
        if deep and callable(value):
            found[id(value)] = value
        elif deep < _DEEP:
            inner = _inner_of(value)
            waiting += [(each, deep + 1) for each in inner]
    return tuple(found.values())


def _inner_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("Any", value).values())[:_MOST_HELD]
    if isinstance(value, list | tuple | set | frozenset):
        return list(cast("Any", value))[:_MOST_HELD]
    return list(getattr(value, "__dict__", {}).values()) if not isinstance(value, type) else []
