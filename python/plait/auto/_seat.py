"""Threads that make calls: who they are."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from plait.auto._meter import Meter

if TYPE_CHECKING:
    from plait.auto._engine import Engine

here = threading.local()
"""`seat`: that of the calling thread, if it has one."""


class Seat:
    """A thread that makes calls of a flow, or is about to."""

    __slots__ = ("coming", "engine", "meter", "nests")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.coming = True
        """Whether its thread has not begun."""
        self.meter = Meter()
        self.nests = False
        """Whether a call of it has given the pool calls of its own, which it may wait for."""
