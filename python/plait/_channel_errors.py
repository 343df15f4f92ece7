"""The errors of channels, which are those of `queue` and of `asyncio` at once. `plait.errors` has them.

A module of their own, since it needs asyncio, which is slow to import: it is loaded when the first of them is asked for.
"""

from __future__ import annotations

import asyncio
import queue
import sys

__all__ = ["ChannelEmpty", "ChannelFull", "ChannelShutDown"]


class ChannelEmpty(queue.Empty, asyncio.QueueEmpty):
    """A channel has no message, or had none in time.

    What to do next: come back later, or wait longer.

    >>> import plait
    >>> plait.Channel().get_nowait()
    Traceback (most recent call last):
    ...
    plait.errors.ChannelEmpty: the channel is empty
    """

    __module__ = "plait.errors"


class ChannelFull(queue.Full, asyncio.QueueFull):
    """A channel has no room, or had none in time.

    What to do next: come back later, wait longer, or let the message go. After `put_many`, `.put` says how many messages
    went in.

    >>> import plait
    >>> channel = plait.Channel(capacity=1)
    >>> channel.put("first")
    >>> channel.put("second", timeout=0)
    Traceback (most recent call last):
    ...
    plait.errors.ChannelFull: the channel is full
    """

    __module__ = "plait.errors"

    put: int = 0


if sys.version_info >= (3, 13):

    class ChannelShutDown(queue.ShutDown, asyncio.QueueShutDown):
        """A channel was shut down: nothing goes in any more, and what was in it is taken.

        What to do next: stop; whoever called `shutdown()` meant that. From Python 3.13 on it is a `queue.ShutDown` and an
        `asyncio.QueueShutDown`. After `put_many`, `.put` says how many messages went in.
        """

        __module__ = "plait.errors"

        put: int = 0

else:

    class ChannelShutDown(Exception):
        """A channel was shut down: nothing goes in any more, and what was in it is taken.

        What to do next: stop; whoever called `shutdown()` meant that. From Python 3.13 on it is a `queue.ShutDown` and an
        `asyncio.QueueShutDown`. After `put_many`, `.put` says how many messages went in.
        """

        __module__ = "plait.errors"

        put: int = 0
