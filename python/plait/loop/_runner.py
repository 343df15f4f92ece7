"""Ways into the loop: `plait.run` and `plait.install`."""

from __future__ import annotations

import asyncio
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from plait.loop._loop import EventLoop
from plait.loop._standard import events_

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def new_event_loop(*, prompt: bool = True) -> EventLoop:
    """Make an event loop of plait, for whoever takes a `loop_factory`.

    Args:
        prompt: Whether the loop is not to wait for whole switch intervals behind threads that compute; see `EventLoop`.

    >>> import asyncio
    >>> async def main():
    ...     return type(asyncio.get_running_loop()).__name__
    >>> with asyncio.Runner(loop_factory=plait.new_event_loop) as runner:
    ...     runner.run(main())
    'EventLoop'
    """
    return EventLoop(prompt=prompt)


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None, prompt: bool = True) -> T:
    """Run a coroutine on a new event loop of plait, and return its result; see `asyncio.run`.

    The loop is closed in the end, after what is left of tasks and asynchronous generators was cancelled.

    Args:
        main: The coroutine.
        debug: Whether the loop is in debug mode; None for what the environment says (`PYTHONASYNCIODEBUG`).
        prompt: Whether the loop is not to wait for whole switch intervals behind threads that compute; see `EventLoop`.

    Raises:
        RuntimeError: An event loop is running in this thread.
        ValueError: `main` is no coroutine.

    >>> async def main():
    ...     await asyncio.sleep(0.001)
    ...     return "done"
    >>> import asyncio
    >>> plait.run(main())
    'done'
    """
    if events_._get_running_loop() is not None:
        raise RuntimeError("plait.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=partial(EventLoop, prompt=prompt)) as runner:
        return runner.run(main)


def install() -> None:
    """Make plait's loop the default of this process: of `asyncio.run`, `asyncio.new_event_loop` and `asyncio.Runner`.

    Loops that exist already stay what they are. Nothing but the kind of loop changes; `asyncio.set_event_loop_policy(None)`
    takes it back. Where there is a choice, pass `plait.new_event_loop` as `loop_factory` instead.

    >>> import asyncio
    >>> plait.install()
    >>> loop = asyncio.new_event_loop()
    >>> isinstance(loop, plait.EventLoop)
    True
    >>> loop.close()
    >>> asyncio.set_event_loop_policy(None)
    """
    with warnings.catch_warnings():
        # Policies are deprecated from 3.14 on, and still what `asyncio.run` asks.
        warnings.simplefilter("ignore", DeprecationWarning)
        default: Any = asyncio.DefaultEventLoopPolicy
        policy = type("EventLoopPolicy", (default,), {"_loop_factory": EventLoop, "__module__": __name__})
        events_.set_event_loop_policy(policy())
