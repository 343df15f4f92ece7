"""`ThreadPool`: the arguments are checked here, the work is done in `_core`."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import _base
from concurrent.futures.thread import BrokenThreadPool
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from plait import _core
from plait._executor import Options, Pool, View, check_initializer, may_spin, positive_int, uninterrupted
from plait._future import Future
from plait.observe import _sources
from plait.threads._hold import check_hold_warning

if TYPE_CHECKING:
    import types

    from plait._executor import MapCore

__all__ = ["ThreadPool"]

P = ParamSpec("P")
T = TypeVar("T")

_numbers = itertools.count()
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Threads of all pools, to be waited for when the interpreter exits."""


class ThreadPool(_core.ThreadPoolCore, Pool, concurrent.futures.ThreadPoolExecutor):
    """A pool of threads: `concurrent.futures.ThreadPoolExecutor`, an order of magnitude faster for small tasks.

    Use it for work that waits for others, or that is done in C without the GIL; on a free-threaded build for any. It is a
    `ThreadPoolExecutor` to all who ask, so `loop.set_default_executor`, `asyncio.to_thread`, dask and asgiref take it.
    What is new:

    - A task sees the `contextvars` of whoever submitted it, as they were then. What it changes in them stays its own.
    - `map` costs little for small items, and takes `buffersize`, `ordered` and `progress`; inputs without a length are
      pulled as results are taken.
    - `options(timeout=..., priority=...)`, `await pool.submit(...)`, `async with`, `statistics()`.
    - `hold_warning` tells of tasks that keep all other threads waiting.
    - Ctrl-C and other signals are handled while the main thread waits for a result.

    Threads are made when work waits and nobody is idle, and named `PREFIX_NUMBER`. When the interpreter exits, what was
    submitted is still done.

    Args:
        max_workers: Most threads at a time; by default four more than the CPUs that this process may use, and 32 at most.
        thread_name_prefix: What names of threads begin with; by default `ThreadPool-NUMBER`.
        initializer: Called in each thread before its first task. If it raises, the pool is broken.
        initargs: What `initializer` is called with.
        hold_warning: Seconds. A task that holds the interpreter lock (the GIL) for longer in one stretch, and does not let go
            although it is asked to, is logged once as a warning of the logger "plait.threads": the function, how long it
            held the lock, and the calls that it was in meanwhile. Python code lets go when it is asked, so this finds code in C
            that does not. The log has it as soon as the task lets go. Of a task that has not after ten times as long, the same
            is written to standard error without the interpreter's help. Stretches of less than some switch intervals
            (`sys.getswitchinterval()`) are never noticed. None: nobody looks, at no cost.

    Raises:
        TypeError, ValueError: An argument is not what it should be; the message names it and its value.

    Warns:
        RuntimeWarning: `hold_warning` is given and has no effect: there is no GIL, or this build's cannot be watched.

    >>> import plait
    >>> with plait.ThreadPool(2) as pool:
    ...     list(pool.map(abs, [-1, 2, -3]))
    [1, 2, 3]

    What runs for long without letting go of the GIL is told of; this does not:

    >>> with plait.ThreadPool(2, hold_warning=0.1) as pool:
    ...     pool.submit(sum, [1, 2]).result()
    3

    Read next: `submit`, `map`, `options`, `plait.Future`, `plait.TaskTimeout`.
    """

    _shown_name = "ThreadPool"
    _kept_by_map = True
    _takes_bare = False

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        hold_warning: float | None = None,
    ) -> None:
        if max_workers is None:
            workers = min(32, _core.usable_cpus() + 4)
        else:
            workers = positive_int("max_workers", max_workers)
        check_initializer(initializer)
        hold = check_hold_warning(hold_warning)
        self._max_workers = workers
        self._thread_name_prefix = thread_name_prefix or f"ThreadPool-{next(_numbers)}"
        self._initializer = cast("Callable[..., None] | None", initializer)
        self._initargs = tuple(initargs)
        self._threads: set[threading.Thread] = set()  # pyright: ignore[reportIncompatibleVariableOverride]
        self._thread_numbers = itertools.count()
        self._options = Options(None, 0, 0)
        self._open(
            max_workers=workers,
            start=_Starter(self),
            future=Future,
            spin=may_spin(),
            gil=_core.gil_is_on(),
            hold=hold,
        )
        self._known_as = _sources.add("threads", self)

    if TYPE_CHECKING:  # at run time it is the core's, with this docstring and an example

        def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
            """Queue `fn(*args, **kwargs)` and return its future.

            Raises:
                RuntimeError: The pool was shut down, or the interpreter exits.
                BrokenThreadPool: The initializer raised in some thread.
            """
            ...

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool | Callable[[int, int | None], object] | None = None,
    ) -> Iterator[T]:
        """Apply `fn` to the items of `iterables` in the threads, yielding the results.

        Inputs that have a length are all submitted at the call. Others are pulled as results are taken, so endless ones are
        welcome. Dropping the iterator halfway cancels what was not begun. Items that one thread does share a copy of the
        caller's context variables.

        Args:
            fn: Called once per item, with one argument from each of the inputs.
            *iterables: The inputs, as for the builtin `map`: the shortest one says how many items there are.
            timeout: Seconds from this call to the last result, as in the standard library.
            chunksize: Taken for the sake of programs that also use processes. Threads take items one by one at no cost.
            buffersize: Items under way at most; any input is then pulled as results are taken.
            ordered: False yields results as they come.
            progress: True shows a bar on standard error; a callable is called as `progress(done, total)` for each result,
                with `total` None where the input has no length.

        Raises:
            TaskTimeout: An item ran longer than `options(timeout=...)` allows; its thread goes on.
            TimeoutError: The results did not all come within `timeout`.
            RuntimeError: The pool was shut down.
            TypeError, ValueError: An argument is not what it should be; the message names it and its value.

        >>> import plait
        >>> with plait.ThreadPool(2) as pool:
        ...     list(pool.map(pow, [2, 3, 4], [5, 2, 1]))
        [32, 9, 4]
        """
        return self._map_with(self._options, fn, iterables, timeout, (chunksize, buffersize, ordered, progress))

    def _begin_map(self, options: Options, fn: Callable[..., T], _chunksize: int | None, _bare: bool, /) -> MapCore[T]:
        return self._map(*options, fn)

    def options(self, *, timeout: float | None = None, retries: int | None = None, priority: int = 0) -> ThreadPoolView:
        """Return a view on this pool whose tasks have other options.

        Args:
            timeout: Seconds of run time after which those who wait are told by `TaskTimeout`. A thread cannot be killed, so the
                task goes on, and its thread takes no other one meanwhile. Time in the queue does not count. None: no limit.
            retries: Taken for the sake of programs that also use processes. It counts deaths of workers, and a thread does not
                die: nothing is tried again, and exceptions are not retried in either pool.
            priority: Higher first; those of equal priority in the order of submitting.

        Raises:
            TypeError, ValueError: An option is not what it should be; the message names it and its value.

        >>> import plait
        >>> with plait.ThreadPool(1) as pool:
        ...     pool.options(timeout=30, priority=1).submit(len, "abc").result()
        3
        """
        return ThreadPoolView(self, Options.check(timeout, retries or 0, priority))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; what is queued is still done, then the threads end.

        Leaving a `with` block does this and waits. It may be called again, and does nothing in a forked child.

        Args:
            wait: Return when the threads have ended.
            cancel_futures: Cancel what was not begun.

        Raises:
            RuntimeError: A task of this pool waits for the pool's end.

        >>> import plait
        >>> pool = plait.ThreadPool(1)
        >>> future = pool.submit(len, "abc")
        >>> pool.shutdown()
        >>> future.result()
        3
        """
        self._shut_down(bool(cancel_futures))
        if wait and not self._inert():
            self._join()
        self._known_as.note(self)

    def __del__(self) -> None:
        if hasattr(self, "_known_as") and not self._inert():  # it was made without an error, and by this process
            self._known_as.note(self)

    def _join(self) -> None:
        if threading.current_thread() in self._threads:
            raise RuntimeError("cannot join current thread")
        self._wait_for_end()  # a `Thread.join` that is left by an exception of a signal's handler takes the thread for ended
        for thread in list(self._threads):
            thread.join()

    def statistics(self) -> dict[str, int]:
        """Return figures since the pool was made.

        Tasks and items of maps: `submitted`, `cancelled` (tasks), `timed_out` (they may go on), `queued` (now; a `map` counts
        as one for each thread that will do its items). Threads: `workers` (now), `workers_idle`.

        >>> import plait
        >>> with plait.ThreadPool(1) as pool:
        ...     pool.submit(len, "abc").result()
        ...     pool.statistics()["submitted"]
        3
        1
        """
        return self._figures()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: types.TracebackType | None,
    ) -> None:
        import asyncio

        self.shutdown(wait=False)
        # This pool may be the loop's own executor: a thread beside it waits for its end.
        with ThreadPool(1, "plait-ThreadPool-end") as helper:
            ended = helper.submit(self._join)
            try:
                await asyncio.shield(asyncio.wrap_future(ended))
            finally:
                helper.shutdown(wait=False)

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]
        return self._closed()

    @property
    def _broken(self) -> bool | str:  # type: ignore[override]
        failure = self._failure()
        return False if failure is None else str(failure)

    @property
    def _work_queue(self) -> _Queue:  # type: ignore[override]
        """What other programs ask of the standard library's queue: how long it is."""
        return _Queue(self)


class ThreadPoolView(View):
    """A pool seen with other options for its tasks; made by `ThreadPool.options`.

    It is an executor like the pool, costs nothing, and may be kept. Shutting it down shuts the pool down.

    >>> import plait
    >>> with plait.ThreadPool(1) as pool:
    ...     careful = pool.options(timeout=30)
    ...     list(careful.map(abs, [-1, 2]))
    [1, 2]
    """

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool | Callable[[int, int | None], object] | None = None,
    ) -> Iterator[T]:
        """Apply `fn` to the items with this view's options; see `ThreadPool.map`."""
        return super().map(
            fn,
            *iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            ordered=ordered,
            progress=progress,
        )


class _Queue:
    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool

    def qsize(self) -> int:
        return self._pool._figures()["queued"]

    def empty(self) -> bool:
        return self.qsize() == 0


class _Starter:
    """Starts the threads of a pool, without keeping it alive."""

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = weakref.ref(pool)

    def __call__(self, worker: _core.ThreadWorker) -> None:
        pool = self._pool()
        if pool is None:
            raise RuntimeError("cannot schedule new futures after shutdown")
        thread = threading.Thread(
            name=f"{pool._thread_name_prefix}_{next(pool._thread_numbers)}",
            target=worker,
            args=(pool._initializer, pool._initargs, _initializer_failed),
        )

        def start() -> None:
            pool._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:
                pool._threads.discard(thread)  # the system has no more
                raise
            _threads.add(thread)

        uninterrupted(
            start
        )  # who waits for the pool's end joins threads, and one that was half started cannot be joined


def _initializer_failed(error: BaseException) -> BrokenThreadPool:
    """Log what an initializer raised, and return what the tasks of its pool fail with."""
    _base.LOGGER.critical("Exception in initializer:", exc_info=error)
    broken = BrokenThreadPool("A thread initializer failed, the thread pool is not usable anymore")
    broken.__cause__ = error
    return broken


def look_around() -> None:
    """Do nothing: where a function begins, the interpreter lets others have their turn."""


def _at_exit() -> None:
    """Let every pool finish what was submitted, as the standard library does when the interpreter exits."""
    _core.close_thread_pools()
    for thread in list(_threads):
        thread.join()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
# A child has none of these threads but the one that has forked, if it is one of them: that would join itself.
os.register_at_fork(after_in_child=_threads.clear)
