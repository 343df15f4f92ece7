"""Loops and pools of this process, for who watches it. None is kept alive; of those that go, the last figures stay."""

from __future__ import annotations

import sys
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Source", "add", "known", "listen"]


class Source:
    """A loop, or a pool of `processes` or `threads`.

    Attributes:
        kind: Which of them.
        last: Its figures when somebody looked last.
    """

    __slots__ = ("__weakref__", "_all", "_reference", "kind", "last")

    def __init__(self, kind: str, source: object) -> None:
        self.kind = kind
        self.last: Any = None
        self._all = _known[kind]  # the last ones go when this module is empty already
        self._reference = weakref.ref(source, self._gone)

    def _gone(self, _: object) -> None:
        if not _listeners:
            self._all.discard(self)

    def get(self) -> Any:
        """Return it, if it is still there."""
        return self._reference()

    def note(self, source: object, is_over: Callable[[], bool] = sys.is_finalizing) -> None:
        """Have its figures noted: it has ended, or is about to go. Nothing is done where nobody watches."""
        if is_over():  # nobody looks any more, and modules may have lost what is in them
            return
        for noted, _ in _listeners:
            noted(self, source)


_known: dict[str, set[Source]] = {"loop": set(), "processes": set(), "threads": set()}
_listeners: list[tuple[Callable[[Source, Any], None], Callable[[str], None]]] = []


def add(kind: str, source: object) -> Source:
    """Take in a new one: a `loop`, or a pool of `processes` or `threads`."""
    for _, added in _listeners:
        added(kind)
    new = Source(kind, source)
    known(kind).add(new)
    return new


def known(kind: str) -> set[Source]:
    """Return those that there are, and, once somebody listens, those that have gone: who has their figures takes them out."""
    return _known[kind]


def listen(noted: Callable[[Source, Any], None], added: Callable[[str], None]) -> None:
    """Call `noted` for each source that has ended or is about to go, and `added` for a kind of which there is one more."""
    _listeners.append((noted, added))
