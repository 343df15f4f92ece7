"""Coroutine functions: their calls are tasks of one loop, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import types
from typing import TYPE_CHECKING, Any

from plait._future import Future

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class LoopThread:
    """A loop that runs until it is stopped, and the tasks on it."""

    def __init__(self) -> None:
        from plait.loop._loop import EventLoop

        self._loop = EventLoop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle = threading.RLock()
        self._open = 0
        self._closing = self._over = self._stops = False
        self._thread = threading.Thread(target=self._run, name="plait-Pool-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._stops:
            try:
                self._loop.run_forever()  # a task that calls `stop` ends this too
            except (SystemExit, KeyboardInterrupt):  # a task has raised it, and has it as its outcome
                continue
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def submit(
        self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """Start a task that awaits `function(*args, **kwargs)`, and return its future."""
        future: Future[Any] = Future()
        with self._idle:
            self._open += 1
        future.add_done_callback(self._ended)
        context = contextvars.copy_context()

        def start() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                made: Any = function(*args, **kwargs)
                coroutine: Any = made
                if not isinstance(made, types.CoroutineType):
                    coroutine = _result_of(made)
                task = self._loop.create_task(coroutine, context=context)
            except BaseException as error:  # it is the caller's
                future.set_exception(error)
                return
            self._tasks.add(task)
            task.add_done_callback(finish)

        def finish(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                future.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(task.result())

        self._loop.call_soon_threadsafe(start, context=context)
        return future

    def _ended(self, _future: Future[Any]) -> None:
        with self._idle:
            self._open -= 1
            self._stop_if_done()

    def _stop_if_done(self) -> None:
        if self._closing and self._open == 0:
            self._closing = False
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stops = True
        self._loop.stop()

    def close(self, *, wait: bool) -> None:
        """Let the tasks come to their end, then stop."""
        with self._idle:
            if not self._over:
                self._over = self._closing = True
                self._stop_if_done()
        if wait:
            self._thread.join()


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
