"""Attributes of other modules and classes that are replaced while a profile runs, and put back afterwards."""

from __future__ import annotations

from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["replace", "restore_all", "was_left"]

_replaced: list[tuple[Any, str, Any, Any]] = []
_left: set[tuple[int, str]] = set()
"""What could not be put back, since somebody else stands before it, who may call it: it is there for good."""
_MISSING: Any = object()


def _attributes(owner: object) -> Mapping[str, Any]:
    return vars(owner)


def was_left(owner: Any, name: str) -> bool:
    """Whether what an earlier profile has put there is there still, behind something else."""
    return (id(owner), name) in _left


def replace(owner: Any, name: str, new: Any) -> None:
    """Set `owner.name` until `restore_all`."""
    if was_left(owner, name):
        return
    if isinstance(new, FunctionType):  # as which it can be pickled
        new.__name__ = name
        new.__module__, new.__qualname__ = _path(owner, name)
    has = _attributes(owner)
    before = has.get(name, _MISSING)
    setattr(owner, name, new)
    _replaced.append((owner, name, has.get(name), before))


def _path(owner: Any, name: str) -> tuple[str, str]:
    """Return module and path of an attribute."""
    if isinstance(owner, type):
        return owner.__module__, f"{owner.__qualname__}.{name}"
    return owner.__name__, name


def restore_all() -> None:
    """Put everything back, the latest first; what somebody else has replaced meanwhile stays."""
    while _replaced:
        owner, name, new, before = _replaced.pop()
        has = _attributes(owner)
        if has.get(name) is not new:
            _left.add((id(owner), name))
            continue
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
