"""Ways into the loop: `plait.run` and `plait.install`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import signal
import sys
import threading
import warnings
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from plait.loop._loop import EventLoop
from plait.loop._standard import events_

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import FrameType

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


def run(
    main: Coroutine[Any, Any, T],
    *,
    debug: bool | None = None,
    prompt: bool = True,
    watch: float | None = None,
    nested: bool | None = None,
) -> T:
    """Run a coroutine on a new event loop of plait, and return its result; see `asyncio.run`.

    The loop is closed in the end, after what is left of tasks and asynchronous generators was cancelled.

    Args:
        main: The coroutine.
        debug: Whether the loop is in debug mode; None for what the environment says (`PYTHONASYNCIODEBUG`).
        prompt: Whether the loop is not to wait for whole switch intervals behind threads that compute; see `EventLoop`.
        watch: Seconds that a callback may block the loop before that is logged; see `watch_loop`. None for any time.
        nested: What to do where a loop is running in this thread already: True runs the coroutine on a loop of its own in a
            helper thread, with the context variables of the caller, and blocks the running loop until it is done; False
            raises. None does the first in IPython, whose cells run in a loop, and the second elsewhere.

    Raises:
        RuntimeError: An event loop is running in this thread.
        TypeError: `main` is an awaitable, but no coroutine; from Python 3.14 on, when it cannot be awaited at all.
        ValueError: Before 3.14, `main` is neither; or `watch` is not above 0.

    >>> async def main():
    ...     await asyncio.sleep(0.001)
    ...     return "done"
    >>> import asyncio
    >>> plait.run(main())
    'done'
    >>> async def outer():
    ...     return plait.run(main(), nested=True)
    >>> plait.run(outer())
    'done'
    """
    if watch is not None:
        from plait.loop._watch import check_threshold

        check_threshold(watch)
    if events_._get_running_loop() is None:
        return _run(main, debug, prompt, watch)
    if nested or (nested is None and _in_ipython()):
        return _run_beside(main, debug, prompt, watch)
    raise RuntimeError("plait.run() cannot be called from a running event loop")


def _run(main: Coroutine[Any, Any, T], debug: bool | None, prompt: bool, watch: float | None) -> T:
    with asyncio.Runner(debug=debug, loop_factory=partial(EventLoop, prompt=prompt)) as runner:
        if watch is None:
            return runner.run(main)
        from plait.loop._watch import watch_loop

        with watch_loop(watch, loop=runner.get_loop()):
            return runner.run(main)


def _in_ipython() -> bool:
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell is not None and shell() is not None


def _run_beside(main: Coroutine[Any, Any, T], debug: bool | None, prompt: bool, watch: float | None) -> T:
    """`_run` in a thread of its own. What interrupts the wait cancels the coroutine."""
    task: asyncio.Task[T] | None = None
    interrupted = False
    outcome: Future[T] = Future()
    may_run = inspect.iscoroutine if sys.version_info < (3, 14) else inspect.isawaitable  # as `asyncio.run` has it

    async def guarded() -> T:
        nonlocal task
        task = asyncio.current_task()
        if interrupted and task is not None:
            task.cancel()
        return await main

    def work() -> None:
        try:
            outcome.set_result(_run(guarded() if may_run(main) else main, debug, prompt, watch))
        except BaseException as error:  # it is the caller's
            outcome.set_exception(error)

    def cancel() -> None:
        nonlocal interrupted
        interrupted = True
        if task is not None:
            with contextlib.suppress(RuntimeError):  # closed by now
                task.get_loop().call_soon_threadsafe(task.cancel)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="plait-run")
    try:
        with _on_interrupt(cancel):
            thread.start()
            return outcome.result()
    except BaseException:
        if thread.ident or interrupted:
            cancel()
            # An interrupt in `start` does not tell whether there is a thread: if so, it is on its way, and ends at once.
            wait([outcome], None if thread.ident else 1.0)
        raise


@contextlib.contextmanager
def _on_interrupt(action: Callable[[], object]) -> Generator[None]:
    """Have Ctrl-C do something before it does what it does anyway: asyncio notes it for the task that waits here."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    handler = before

    def interrupt(number: int, frame: FrameType | None) -> None:
        action()
        handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


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
