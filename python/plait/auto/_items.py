"""The input of a `map`, as far as it says how many items there are."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Items(NamedTuple):
    """The input of a `map`.

    Attributes:
        items: One by one.
        total: How many there are; None if the input does not say.
        bare: Whether an item is a call's only argument, not a tuple of its arguments.
        sequence: All of them, where they can be had by slices.
    """

    items: Iterator[Any]
    total: int | None
    bare: bool
    sequence: Sequence[Any] | None


def items_of(iterables: tuple[Iterable[Any], ...], *, lazily: bool) -> Items:
    """The inputs. Those with a length are taken as they are now."""
    try:
        total: int | None = min((len(iterable) for iterable in iterables), default=0)  # type: ignore[arg-type]
    except TypeError:
        total = None
    bare = len(iterables) == 1
    if total is None or lazily:
        return Items(iter(iterables[0]) if bare else zip(*iterables, strict=False), total, bare, None)
    kept: list[Any] = [
        each
        if type(each) in (range, tuple, str, bytes)
        else each[:total]
        if type(each) is list
        else list(itertools.islice(each, total))
        for each in iterables
    ]
    total = min((len(each) for each in kept), default=0)
    return Items(iter(()), total, True, kept[0]) if bare else Items(zip(*kept, strict=False), total, False, None)
