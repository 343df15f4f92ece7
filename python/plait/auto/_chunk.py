"""What a `map` is cut into: chunks of short calls that one thread makes in one go, and the places of what comes of calls."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from plait.auto import _calls

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable


class Slot:
    """The place of an item's outcome among the results, or of some; `raised` says that some of them are errors."""

    __slots__ = ("outcomes", "raised")

    def __init__(self) -> None:
        self.outcomes: list[Any] | None = None
        self.raised = False


class Chunk:
    """Short calls that one thread makes in one go. Where one of them is not short after all, those behind it are taken back."""

    def __init__(self, items: list[Any], bare: bool, slot: Slot, inline: bool, gil: bool) -> None:
        self.slot = slot
        self.raised = False
        self.seen = -1
        """How many were left when the watch came by."""
        self._items = items
        self._bare = bare
        """Whether an item is an argument, not a tuple of some."""
        guarded = None if gil else _calls.Guarded(items)
        self._calls: Any = guarded or iter(items)
        self._guard: Any = contextlib.nullcontext() if guarded is None else guarded.lock
        self._taken_back = False
        self._inline = inline
        """Whether the caller makes them, whom Ctrl-C interrupts."""

    def make(self, function: Callable[..., Any]) -> list[Any]:
        """Make the calls; return what came of them."""
        outcomes, self.raised = _calls.make_each(function, self._calls, self._bare, by_caller=self._inline)
        return outcomes

    def left(self) -> int:
        """How many have not begun."""
        return int(self._calls.__length_hint__())

    def take_back(self) -> list[Any]:
        """Take out what has not begun, if that was not done before."""
        if self._taken_back:
            return []
        with self._guard:
            items = self._items.copy()
            self._items.clear()  # who makes them finds the end
            state = self._calls.__reduce__()
        if len(state) != 3:
            self._items.extend(items)  # it found it already, and sees by itself how many it has made
            return []
        self._taken_back = True
        return items[int(state[2]) :]

    def rest(self, made: int) -> list[Any]:
        """What was not made, and nobody has taken back."""
        return self._items[made:] if not self._taken_back else []


class Rest(NamedTuple):
    """What was left of a chunk, and a slot that holds its place among the results until all of it has places of its own."""

    items: deque[Any]
    end: Slot
