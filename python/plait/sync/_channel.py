"""`plait.Channel`, `plait.select` and `plait.aselect`: messages between threads and tasks.

The machine is `plait._core.ChannelCore`. `Channel` is what users see: it has no layout of its own, so that each way of keeping messages
can be a class that is made of a core and of `Channel`; `_make` chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from plait import _core

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator

__all__ = ["Channel", "aselect", "select"]

T = TypeVar("T")


class Channel(Generic[T]):
    """A queue of messages between threads and asyncio tasks, in any combination and in any number of loops.

    It is a `queue.Queue` and an `asyncio.Queue` in one: `put` and `get` for threads, `await aput(...)` and `await aget()` for tasks,
    `put_nowait` and `get_nowait` for both. Threads and tasks wait in one line, first come, first served. Made without a running
    loop, usable from every loop. Nothing is lost when a wait is cancelled or runs into its timeout: a message stays in the
    channel until a getter has it in hand.

    Not for: other processes. Priorities and last-in-first-out order, which `queue.PriorityQueue` and `queue.LifoQueue` have.

    `shutdown()` ends it, as in Python 3.13: nothing goes in any more, what is in it can still be taken, and nobody waits any longer.
    `for message in channel` and `async for message in channel` take messages until then.

    An `await` that need not wait does not suspend the task, as with `asyncio.Queue`: a task that always finds a message should call
    `await asyncio.sleep(0)` now and then, to let the others of its loop run.

    Args:
        capacity: Messages that it holds at most; 0 for any number. `put` waits while it is full.

    Raises:
        TypeError: `capacity` is not an integer.
        ValueError: `capacity` is negative.

    >>> import asyncio, threading, plait
    >>> channel = plait.Channel(capacity=100)
    >>> def produce():
    ...     for number in range(3):
    ...         channel.put(number)
    ...     channel.shutdown()
    >>> async def consume():
    ...     return [number async for number in channel]
    >>> threading.Thread(target=produce).start()
    >>> asyncio.run(consume())
    [0, 1, 2]
    """

    __slots__ = ()

    def __new__(cls, capacity: int = 0) -> Channel[T]:
        if cls is not Channel:
            raise TypeError(f"{cls.__name__}: plait.Channel cannot be subclassed; keep one in an attribute instead")
        return cast("Channel[T]", _make(capacity))

    if TYPE_CHECKING:

        def put(self, item: T, block: bool = True, timeout: float | None = None) -> None: ...
        def get(self, block: bool = True, timeout: float | None = None) -> T: ...

else_ = Any
