"""`plait.Channel`, `plait.select` and `plait.aselect`: messages between threads and tasks.

The machine is `plait._core.ChannelCore`. `Channel` is what users see: it has no layout of its own, so that each way of keeping
messages can be a class that is made of a core and of `Channel`; `_make` chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from plait import _core

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

__all__ = ["Channel", "aselect", "select"]

T = TypeVar("T")


class Channel(Generic[T]):
    """A queue of messages between threads and asyncio tasks, in any combination and in any number of loops.

    It is a `queue.Queue` and an `asyncio.Queue` in one: `put` and `get` for threads, `await aput(...)` and `await aget()` for
    tasks, `put_nowait` and `get_nowait` for both. Threads and tasks wait in one line, first come, first served. Made without a
    running loop, usable from every loop. Nothing is lost when a wait is cancelled or runs into its timeout: a message stays in
    the channel until a getter has it in hand.

    With `shared=True` it lies in shared memory and works between processes too: forked children have it, and it can be
    passed to the tasks of a `ProcessPool` and to processes of `multiprocessing`, whatever their start method, as an
    argument or in a message. Messages are pickled then. A process that dies blocks nobody: what it was putting is put or
    not, what it was taking is lost and counted in `statistics()`, and what it had taken and not called done is done. The
    messages are gone with the last process that has the channel.

    Not for: priorities and last-in-first-out order, which `queue.PriorityQueue` and `queue.LifoQueue` have.

    `shutdown()` ends it, as in Python 3.13: nothing goes in any more, what is in it can still be taken, and nobody waits any
    longer. `for message in channel` and `async for message in channel` take messages until then.

    An `await` that need not wait does not suspend the task, as with `asyncio.Queue`: a task that always finds a message should
    call `await asyncio.sleep(0)` now and then, to let the others of its loop run.

    Args:
        capacity: Messages that it holds at most; 0 for any number. `put` waits while it is full.
        shared: Whether other processes can have it too. It then needs a capacity above 0, of at most 2**30; each message
            takes 256 bytes of memory, and as much more as it is larger than that.

    Raises:
        TypeError: `capacity` is not an integer.
        ValueError: `capacity` is negative, or 0 for a shared channel.
        MemoryError: There is not that much shared memory.

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

    def __new__(cls, capacity: int = 0, *, shared: bool = False) -> Channel[T]:
        if cls is not Channel:
            raise TypeError(f"{cls.__name__}: plait.Channel cannot be subclassed; keep one in an attribute instead")
        return _make(capacity, shared)

    # What a channel has. The cores do it; here it is said what that is.

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put a message in, waiting for room if need be.

        Args:
            item: The message.
            block: Whether to wait for room.
            timeout: Seconds to wait at most; `None` for as long as it takes.

        Raises:
            ChannelFull: There is no room, or was none in time.
            ChannelShutDown: The channel is shut down, or was meanwhile.
            ValueError: `timeout` is negative.
        """
        raise NotImplementedError

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest message out, waiting for one if need be.

        Args:
            block: Whether to wait for a message.
            timeout: Seconds to wait at most; `None` for as long as it takes.

        Raises:
            ChannelEmpty: There is no message, or was none in time.
            ChannelShutDown: The channel is shut down and has no message left.
            ValueError: `timeout` is negative.
        """
        raise NotImplementedError

    def put_nowait(self, item: T) -> None:
        """Put a message in without waiting: `put(item, block=False)`."""
        raise NotImplementedError

    def get_nowait(self) -> T:
        """Take the oldest message out without waiting: `get(block=False)`."""
        raise NotImplementedError

    def aput(self, item: T) -> Coroutine[Any, Any, None]:
        """Put a message in; for `await` in a task, which waits for room. Cancelled, it has put nothing in.

        Raises:
            ChannelShutDown: The channel is shut down, or was meanwhile.
        """
        raise NotImplementedError

    def aget(self) -> Coroutine[Any, Any, T]:
        """Take the oldest message out; for `await` in a task, which waits for one. Cancelled, it has taken nothing out.

        Raises:
            ChannelShutDown: The channel is shut down and has no message left.
        """
        raise NotImplementedError

    def put_many(self, iterable: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put several messages in, in order.

        The iterable is read to its end first. Without waiting all go in or none. Otherwise they go in as room comes, so that
        messages of others may come between them, and those that are in stay in when a timeout, a shutdown or a signal ends the
        wait: `.put` of the two errors below says how many.

        Args:
            iterable: The messages.
            block: Whether to wait for room.
            timeout: Seconds to wait at most in all; `None` for as long as it takes.

        Raises:
            ChannelFull: There is no room, or was too little in time.
            ChannelShutDown: The channel is shut down, or was meanwhile.
            ValueError: `timeout` is negative.
        """
        raise NotImplementedError

    def aput_many(self, iterable: Iterable[T]) -> Coroutine[Any, Any, None]:
        """Put several messages in; for `await` in a task. Cancelled, those that are in stay in."""
        raise NotImplementedError

    def get_many(self, most: int, block: bool = True, timeout: float | None = None) -> list[T]:
        """Take the messages that are there, waiting for the first if need be.

        Args:
            most: As many as this at most; 1 or more.
            block: Whether to wait for a message.
            timeout: Seconds to wait at most; `None` for as long as it takes.

        Returns:
            At least one message, the oldest first.

        Raises:
            ChannelEmpty: There is no message, or was none in time.
            ChannelShutDown: The channel is shut down and has no message left.
            ValueError: `most` is below 1, or `timeout` is negative.
        """
        raise NotImplementedError

    def aget_many(self, most: int) -> Coroutine[Any, Any, list[T]]:
        """Take the messages that are there, at least one and at most `most`; for `await` in a task."""
        raise NotImplementedError

    def task_done(self) -> None:
        """Say that what a message asked for is done, once for each message that was taken out. `join` waits for that.

        Raises:
            ValueError: It was said more often than messages went in.
        """
        raise NotImplementedError

    def join(self) -> None:
        """Wait until `task_done` was called for every message that went in."""
        raise NotImplementedError

    def ajoin(self) -> Coroutine[Any, Any, None]:
        """Wait until `task_done` was called for every message that went in; for `await` in a task."""
        raise NotImplementedError

    def shutdown(self, immediate: bool = False) -> None:
        """End the channel: nothing goes in any more, and whoever waits to put raises `ChannelShutDown`.

        What is in it can still be taken; then whoever gets, or waits to, raises `ChannelShutDown`, and loops over it end.

        Args:
            immediate: Drop what is in it, and count it as done. `join` then waits only for messages that were taken before.
        """
        raise NotImplementedError

    def qsize(self) -> int:
        """Return how many messages are in it now."""
        raise NotImplementedError

    def empty(self) -> bool:
        """Return whether no message is in it now."""
        raise NotImplementedError

    def full(self) -> bool:
        """Return whether it is bounded and has no room now."""
        raise NotImplementedError

    @property
    def maxsize(self) -> int:
        """The capacity; 0 for no bound."""
        raise NotImplementedError

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` was called."""
        raise NotImplementedError

    @property
    def unfinished_tasks(self) -> int:
        """Messages that went in and for which `task_done` was not called."""
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        """Return figures to understand a program by.

        Returns:
            Messages: `capacity` (0 for no bound), `size` now, `most` that were in it at once, `put` and `got` so far,
            `unfinished`. Threads and tasks: `waits` that began so far, and how many now wait: `waiting_get`, `waiting_put`,
            `waiting_join`.
            Of a shared channel, not `most`, but also the messages `lost` with a process and `discarded` by `shutdown`, the
            `processes` that use it, and the `block_bytes` of messages that are too large for their 256 bytes.
        """
        raise NotImplementedError

    def __iter__(self) -> Channel[T]:
        return self

    def __next__(self) -> T:
        raise NotImplementedError

    def __aiter__(self) -> Channel[T]:
        return self

    def __anext__(self) -> Coroutine[Any, Any, T]:
        raise NotImplementedError


class _LocalChannel(_core.ChannelCore[T], Channel[T]):
    """A channel of one process."""

    __slots__ = ()


def _make(capacity: int, shared: bool) -> Channel[Any]:
    """Make the channel that the arguments of `Channel` ask for."""
    if shared:
        from plait.sync import _shared

        return _shared.SharedChannel(capacity)
    return _LocalChannel(capacity)


def select(*channels: Channel[T], timeout: float | None = None) -> tuple[Channel[T], T]:
    """Take one message from whichever channel has one first.

    When several have one, each gets its turn. Channels that are shut down and empty are passed over.

    Args:
        *channels: At least one channel; shared ones and others can be mixed.
        timeout: Seconds to wait at most; `None` for as long as it takes.

    Returns:
        The channel and its message.

    Raises:
        ChannelEmpty: No channel had a message in time.
        ChannelShutDown: All channels are shut down and empty.
        ValueError: There is no channel, or `timeout` is negative.
        TypeError: Something else than a channel was given.

    >>> orders, control = plait.Channel(), plait.Channel()
    >>> control.put("stop")
    >>> channel, message = plait.select(orders, control)
    >>> channel is control, message
    (True, 'stop')
    """
    found = _core.channel_select(channels, timeout)
    if found is None:
        from plait import errors

        raise errors.ChannelEmpty("none of the channels had a message in time")
    number, message = found
    return channels[number], message


async def aselect(*channels: Channel[T], timeout: float | None = None) -> tuple[Channel[T], T]:
    """Take one message from whichever channel has one first; for `await` in a task. Cancelled, it has taken nothing.

    See `select` for arguments and errors.

    >>> import asyncio
    >>> async def main():
    ...     orders, control = plait.Channel(), plait.Channel()
    ...     control.put_nowait("stop")
    ...     return (await plait.aselect(orders, control))[1]
    >>> asyncio.run(main())
    'stop'
    """
    if timeout is None:
        number, message = await _core.channel_aselect(channels)
        return channels[number], message
    if timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    import asyncio

    try:
        async with asyncio.timeout(timeout):
            number, message = await _core.channel_aselect(channels)
    except TimeoutError:
        from plait import errors

        raise errors.ChannelEmpty("none of the channels had a message in time") from None
    return channels[number], message
