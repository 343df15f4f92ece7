"""The error of barriers, which is that of `threading` and of `asyncio` at once. `plait.errors` has it.

A module of its own, since it needs asyncio, which is slow to import: it is loaded when the error is asked for.
"""

from __future__ import annotations

import asyncio
import threading

__all__ = ["BrokenBarrierError"]


class BrokenBarrierError(threading.BrokenBarrierError, asyncio.BrokenBarrierError):
    """A barrier is broken, or was broken or reset while somebody waited.

    What to do next: find out who did not come in time or called `abort()`, and call `reset()` when all have left.

    >>> import plait
    >>> barrier = plait.Barrier(2)
    >>> barrier.abort()
    >>> barrier.wait()
    Traceback (most recent call last):
    ...
    plait.errors.BrokenBarrierError: the barrier is broken
    """

    __module__ = "plait.errors"
