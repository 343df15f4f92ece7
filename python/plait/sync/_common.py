"""What the classes of this room share."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NoReturn

__all__ = ["check_timeout", "owner_name", "refuse_pickling", "shared_kind", "within"]


def owner_name(owner: Any) -> str | None:
    """Return the name of a thread, by its number, or of a task."""
    if owner is None:
        return None
    if not isinstance(owner, int):
        return str(owner.get_name())
    import threading

    for thread in threading.enumerate():
        if thread.ident == owner:
            return thread.name
    return f"thread {owner}"


def refuse_pickling(thing: object) -> NoReturn:
    raise TypeError(f"cannot pickle {type(thing).__name__!r} object")


async def within(timeout: float, waiting: Coroutine[Any, Any, bool]) -> bool:
    """Await a form of waiting; False when it took longer than `timeout` seconds."""
    import asyncio

    try:
        async with asyncio.timeout(timeout):
            return await waiting
    except TimeoutError:
        return False


def shared_kind(cls: type, base: type, name: str, *arguments: Any) -> Any:
    """Make the shared kind of `base`: a class of its own, which counts as `base`, but not as what a program makes of that."""
    if cls is not base:
        raise TypeError(f"{cls.__name__} cannot be shared: a shared {base.__name__} has a class of its own")
    from plait.sync import _shared

    return getattr(_shared, name)(*arguments)


def check_timeout(timeout: float) -> None:
    """Check what `acquire` of a lock takes as a timeout, which is not -1."""
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
