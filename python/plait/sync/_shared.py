"""Channels in shared memory: their classes, and how they travel.

A pickle of one names its segment, which travels as `plait.shared._segment` says: held by pools and by letters until it has arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import plait.shared._segment  # noqa: F401  # pyright: ignore[reportUnusedImport]  # how segments travel
from plait import _core
from plait.sync._channel import Channel

__all__ = ["SharedChannel"]

T = TypeVar("T")


class SharedChannel(_core.SharedChannelCore[T], Channel[T]):
    """A channel of any number of processes."""

    __slots__ = ()

    def __new__(cls, capacity: int, segment: _core.Segment | None = None) -> SharedChannel[T]:
        """Make one, or find the one in `segment`."""
        return _core.SharedChannelCore.__new__(cls, capacity, segment)

    def __reduce__(self) -> tuple[Callable[..., SharedChannel[Any]], tuple[Any, ...]]:
        return SharedChannel, (self.maxsize, self.segment)

    def __copy__(self) -> SharedChannel[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedChannel[T]:
        return self
