"""Loops and pools of this process, for who watches it. None is kept alive."""

from __future__ import annotations

import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["add", "of"]

_known: dict[str, set[weakref.ref[Any]]] = {"loop": set(), "processes": set(), "threads": set()}


def add(kind: str, source: object) -> None:
    """Take in a new one: a `loop`, or a pool of `processes` or `threads`."""
    known = _known[kind]
    known.add(weakref.ref(source, known.discard))


def of(kind: str) -> list[Any]:
    """Return those that there are."""
    found = [reference() for reference in _known[kind].copy()]
    return [source for source in found if source is not None]
