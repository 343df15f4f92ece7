"""The one kind of future that plait's executors return."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, TypeVar

from plait import _core

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Future"]

T = TypeVar("T")


# Callbacks get this very class, which the core's `Self` says and pyright does not see.
class Future(_core.FutureCore[T], concurrent.futures.Future[T]):  # pyright: ignore[reportIncompatibleMethodOverride]
    """What a task will give: a `concurrent.futures.Future` to all who ask, and awaitable in any asyncio loop.

    Futures are made by executors. `wait`, `as_completed`, `asyncio.wrap_future` and callbacks work as with the standard
    library's; its result is unpickled by the thread that asks for it. What is new:

    - `await future` waits in the loop that runs. Cancelling the awaiting task cancels a queued task and leaves a running one.
    - `future.kill()` stops a running task: its worker and the processes that it started are killed, and the worker is
      replaced. It returns False only if the task was done already. Afterwards `cancelled()` is False, and `exception()` is
      `plait.TaskCancelled`, which an awaiting task does not mistake for its own cancellation. A thread cannot be killed: a
      task of a `ThreadPool` can be stopped in this way until it begins, and `kill` raises `RuntimeError` from then on.

    >>> import plait
    >>> with plait.ProcessPool(1) as pool:
    ...     future = pool.submit(pow, 2, 10)
    ...     future.result(timeout=60)
    1024
    """

    __slots__ = ()

    if not TYPE_CHECKING:
        __init__ = object.__init__  # the standard library's would make what the core makes when it is asked for
        __dict__ = _core.FutureCore._dict  # the collector has to know of one that has attributes

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """Return `(done, cancelled, result, exception)`, as asyncio asks for it from 3.14 on."""
        if not self.done():
            return False, False, None, None
        if self.cancelled():
            return True, True, None, None
        return True, False, self._result, self._exception
