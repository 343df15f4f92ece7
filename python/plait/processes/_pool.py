"""`ProcessPool`: the arguments are checked here, the work is done in `_core`."""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from plait import _core
from plait._executor import Options, Pool, View, check_initializer, may_spin, positive_int
from plait._future import Future
from plait.observe import _sources
from plait.processes import _connect, _launch, _main

if TYPE_CHECKING:
    import types
    from multiprocessing.context import BaseContext

    from plait._executor import MapCore
    from plait.processes.limits import Limits

__all__ = ["ProcessPool"]

P = ParamSpec("P")
T = TypeVar("T")

_MOST_WARM = 256 << 20
_MEMORY_STAYS = 5.0
"""Seconds for which the memory that there is for the program is taken to stay what it is."""
_warm = 0, float("-inf")
"""The cap that was found last, and when."""
_MOST_WORKERS = 1024
_PID_PATIENCE = 2.0
"""Seconds that `_processes` waits for workers that are being started."""
_COPY_PATIENCE = 2.0
"""Seconds that the end of a forked copy, which has nothing left to do, is waited for."""
_START_METHODS = ("fork", "spawn", "forkserver")
_numbers = itertools.count(1)


class ProcessPool(_core.ProcessPoolCore, Pool):
    """A pool of worker processes: `concurrent.futures.ProcessPoolExecutor`, faster and harder to break.

    Use it for work that keeps a core busy; work that waits for others costs less in threads or in asyncio. A worker that dies,
    hangs or eats too much memory costs the task it ran, never the pool. Workers start when work waits, from a small fork
    server; your own process is not forked. Your main module is imported once for all of them (as `__mp_main__`), or by each
    if it leaves threads, files or seeded generators behind. Functions, arguments and results are pickled. A pool has up to
    1024 workers and 4,194,304 unfinished tasks.

    Args:
        max_workers: Most workers at a time; by default the CPUs that this process may use (affinity, container quota).
        mp_context: A context of `multiprocessing` or the name of a start method. "spawn" and "forkserver" are served by the
            fork server, as is None; "fork" makes workers copies of this process as it is at the first task, with a
            warning when it has threads.
        initializer: Called in each worker before its first task. If it raises, the pool is broken.
        initargs: What `initializer` is called with.
        max_tasks_per_child: Tasks after which a worker is replaced; by default never.
        timeout: Seconds of run time after which a task is stopped with `TaskTimeout`; by default never. Time in the queue does
            not count.
        retries: How often a task is tried again when its worker died. Exceptions are not retried.
        limits: What a worker may use; see `Limits`. None: as much as there is.
        preload: Names of modules that the fork server imports once, for all workers.
        warm_memory: Bytes of free memory for large arguments that are kept ready, since fresh memory is filled seven times
            slower; as much again for the results of each worker, and at most as much of that is held back by results that
            the program keeps: those beyond lie in ordinary memory. None: 256 MiB, but no more than a 32nd of the memory that
            there is for the program.

    Raises:
        TypeError, ValueError: An argument is not what it should be; the message names it and its value.
        ModuleNotFoundError: A module of `preload` does not exist.
        RuntimeError: A worker that imports the main module makes a pool: `if __name__ == "__main__":` is missing there.

    >>> import plait
    >>> with plait.ProcessPool(2) as pool:
    ...     list(pool.map(abs, [-1, 2, -3]))
    [1, 2, 3]

    Read next: `submit`, `map`, `options`, `plait.Future`, `plait.WorkerDied`.
    """

    _shown_name = "ProcessPool"
    _kept_by_map = False
    _takes_bare = True
    _prints_missing_guard = True
    """Whether workers print that the main module, which they import, makes a pool."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        limits: Limits | None = None,
        preload: Iterable[str] = (),
        warm_memory: int | None = None,
    ) -> None:
        _main.check_not_importing_main()
        workers = _core.usable_cpus() if max_workers is None else positive_int("max_workers", max_workers)
        if workers > _MOST_WORKERS:
            raise ValueError(f"max_workers must be at most {_MOST_WORKERS}, not {max_workers!r}")
        if max_tasks_per_child is not None:
            positive_int("max_tasks_per_child", max_tasks_per_child)
        check_initializer(initializer)
        _check_limits(limits)
        warm = _check_warm_memory(warm_memory)
        options = Options.check(timeout, retries, 0)
        modules = _check_preload(preload)
        forked = _start_method(mp_context) == "fork"
        if not forked:
            _launch.start_early(modules)  # it starts while the rest is done here, and until the first task comes
        self._max_workers = workers
        self._max_tasks = max_tasks_per_child
        self._options = options
        self._number = next(_numbers)
        self._forked = forked
        self._mp_context = mp_context
        arguments = tuple(initargs)
        place = _connect.place(forked)
        config, held = _core.holding(lambda: self._config(place, initializer, arguments, limits, forked))
        connect = _connect.by_fork if forked else _connect.Connect(modules, place, initializer)
        self._connect = connect
        self._open(
            max_workers=workers,
            config=config,
            held=held,
            connect=connect,
            future=Future,
            stack_signal=signal.SIGRTMAX - 3,
            warm=warm,
            spin=may_spin(),
            timeout=options.timeout,
            retries=options.retries,
        )
        self._known_as = _sources.add("processes", self)

    def _config(
        self,
        place: dict[str, Any],
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        limits: Limits | None,
        forked: bool,
    ) -> bytes:
        """Return what each worker is told, pickled."""
        config = {
            **place,
            "initializer": self._initializer(initializer, initargs, forked),
            "memory_limit": None if limits is None else limits.memory,
            "max_tasks": self._max_tasks,
            "process_name": f"ProcessPool-{self._number}",
            "prints_missing_guard": self._prints_missing_guard,
        }
        return pickle.dumps(config, protocol=5)

    def _initializer(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...], forked: bool
    ) -> bytes | int | None:
        """Return the initializer pickled, or for a forked pool the number under which its copy has it."""
        if initializer is None:
            return None
        if forked:
            _main.inherited[self._number] = (initializer, initargs)
            weakref.finalize(self, _main.inherited.pop, self._number, None)
            return self._number
        return _main.dumps_for_start((initializer, initargs), "the initializer")

    if TYPE_CHECKING:  # at run time it is the core's, with this docstring and an example

        def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
            """Queue `fn(*args, **kwargs)` and return its future.

            Where the function or an argument cannot be sent, the future fails with a `NotPicklable` that names it.

            Raises:
                RuntimeError: The pool was shut down.
                WorkerDied, BrokenProcessPool: Workers cannot be started, or their initializer raised.
            """
            ...

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool | Callable[[int, int | None], object] | None = None,
    ) -> Iterator[T]:
        """Apply `fn` to the items of `iterables` in the workers, yielding the results.

        Inputs that have a length are submitted at the call, and run whether results are taken or not; where they are long,
        their items are pickled as the workers get on, so that 32 MiB of them wait at most. What is left of a list or an array
        is copied until then (8 bytes an item of a list), and inputs that cannot be sliced, like sets, are taken to their end at
        the call. Other inputs are pulled as results are taken, so endless ones are welcome. Results wait for who takes them:
        all of them while nobody has begun to, and then 64 MiB beyond the pool's `warm_memory` for each worker. One thread at a
        time may take them. Timeouts and retries of the pool count per item, whatever the chunk. Dropping the iterator halfway
        cancels what was not begun.

        Args:
            fn: Called once per item, with one argument from each of the inputs.
            *iterables: The inputs, as for the builtin `map`: the shortest one says how many items there are.
            timeout: Seconds from this call to the last result, as in the standard library.
            chunksize: Items per message. `None` sizes chunks from measured durations so that one takes 2 to 5 ms.
            buffersize: Items under way at most; any input is then pulled as results are taken.
            ordered: False yields results as they come.
            progress: True shows a bar on standard error; a callable is called as `progress(done, total)` for each result,
                with `total` None where the input has no length.

        Raises:
            WorkerDied: The worker that ran an item was killed or crashed; `.signal`, `.pid`, `.index` say which.
            TaskTimeout: An item ran longer than the pool's `timeout`.
            TimeoutError: The results did not all come within `timeout`.
            NotPicklable: The function or an item cannot be sent; the message names it.
            RuntimeError: The pool was shut down.
            TypeError, ValueError: An argument is not what it should be; the message names it and its value.

        >>> import plait
        >>> with plait.ProcessPool(2) as pool:
        ...     list(pool.map(pow, [2, 3, 4], [5, 2, 1]))
        [32, 9, 4]
        """
        return self._map_with(self._options, fn, iterables, timeout, (chunksize, buffersize, ordered, progress))

    def _begin_map(self, options: Options, fn: Callable[..., T], chunksize: int | None, bare: bool, /) -> MapCore[T]:
        if chunksize is None and self._max_tasks is not None:
            chunksize = 1  # each item is a task, as it is with the standard library's default
        return self._map(*options, fn, chunksize, bare)

    def options(self, *, timeout: float | None = None, retries: int | None = None, priority: int = 0) -> PoolView:
        """Return a view on this pool whose tasks have other options.

        Args:
            timeout: Seconds of run time; None keeps the pool's.
            retries: Tries after deaths of workers; None keeps the pool's.
            priority: Higher first; those of equal priority in the order of submitting.

        Raises:
            TypeError, ValueError: An option is not what it should be; the message names it and its value.

        >>> import plait
        >>> with plait.ProcessPool(1) as pool:
        ...     pool.options(timeout=30, priority=1).submit(len, "abc").result()
        3
        """
        return PoolView(self, self._options.changed(timeout, retries, priority))

    def _will_call(self, function: object) -> None:
        """Have a function's module imported once for all workers, if none was started yet."""
        if isinstance(self._connect, _connect.Connect):
            self._connect.note(function)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; what is queued is still run, then the workers exit.

        Leaving a `with` block does this and waits. It may be called again, and does nothing in a forked child.

        Args:
            wait: Return when the workers are gone.
            cancel_futures: Cancel what was not begun.

        >>> import plait
        >>> pool = plait.ProcessPool(1)
        >>> future = pool.submit(len, "abc")
        >>> pool.shutdown()
        >>> future.result()
        3
        """
        if self._inert():
            return
        self._shut_down(bool(cancel_futures))
        if wait:
            self._join()
            if self._forked:
                _launch.reap_ended(_COPY_PATIENCE)
        self._known_as.note(self)

    def __del__(self) -> None:
        if hasattr(self, "_known_as") and not self._inert():  # it was made without an error, and by this process
            self._known_as.note(self)

    def terminate_workers(self) -> None:
        """Send SIGTERM to all workers, and shut the pool down without waiting.

        Tasks that ran fail with `WorkerDied`, those that were queued are cancelled. As in the standard library from 3.14 on.

        >>> import plait
        >>> pool = plait.ProcessPool(1)
        >>> pool.terminate_workers()
        """
        self._stop(signal.SIGTERM)

    def kill_workers(self) -> None:
        """Send SIGKILL to all workers, and shut the pool down without waiting; else like `terminate_workers`.

        >>> import plait
        >>> pool = plait.ProcessPool(1)
        >>> pool.kill_workers()
        """
        self._stop(signal.SIGKILL)

    def statistics(self) -> dict[str, int]:
        """Return figures since the pool was made.

        Tasks and items of maps: `submitted`, `cancelled`, `failed` (no result), `retried`, `queued` (now; a chunk is one).
        Workers: `workers` (now), `workers_idle`, `workers_started`, `workers_died`.
        Bytes: `memory_warm` (free, kept ready for large arguments), `memory_held` (held back by results that the program
        keeps), `memory_cap` (`warm_memory`, the cap on each).

        >>> import plait
        >>> with plait.ProcessPool(1) as pool:
        ...     pool.submit(len, "abc").result()
        ...     pool.statistics()["submitted"]
        3
        1
        """
        return self._figures()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: types.TracebackType | None,
    ) -> None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._interrupt()
        self.shutdown(wait=True)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: types.TracebackType | None,
    ) -> None:
        import asyncio

        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._interrupt()
        self.shutdown(wait=False)
        await asyncio.get_running_loop().run_in_executor(None, self._join)

    def _wanted(self) -> int:
        figures = self._figures()
        return max(figures["workers"], min(figures["queued"], 1))

    @property
    def _processes(self) -> Mapping[int, _Process]:
        """Workers by process id, as some programs read them from the standard library's pool."""
        deadline = time.monotonic() + _PID_PATIENCE
        while len(pids := self._pids()) < self._wanted() and time.monotonic() < deadline:
            time.sleep(0.001)  # one that was just asked for has no process yet
        return {pid: _Process(pid) for pid in pids}

    @property
    def _broken(self) -> bool | str:
        failure = self._failure()
        return False if failure is None else str(failure)


class PoolView(View):
    """A pool seen with other options for its tasks; made by `ProcessPool.options`.

    It is an executor like the pool, costs nothing, and may be kept. Shutting it down shuts the pool down.

    >>> import plait
    >>> with plait.ProcessPool(1) as pool:
    ...     careful = pool.options(timeout=30, retries=2)
    ...     list(careful.map(abs, [-1, 2]))
    [1, 2]
    """


class _Process:
    """A worker, with as much of `multiprocessing.Process` as other programs ask of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def _signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def is_alive(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                return file.read().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def join(self, timeout: float | None = None) -> None:
        import select

        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(None if timeout is None else max(0.0, timeout) * 1000)
        finally:
            os.close(pidfd)


def _check_limits(limits: object) -> None:
    if limits is not None:
        from plait.processes.limits import Limits  # slow to import, and rarely used

        if not isinstance(limits, Limits):
            raise TypeError(f"limits must be plait.Limits or None, not {limits!r}")


def _check_warm_memory(warm_memory: int | None) -> int:
    """Return the cap in bytes, or raise TypeError or ValueError."""
    if warm_memory is None:
        return _most_warm()
    if isinstance(warm_memory, bool) or not isinstance(warm_memory, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"warm_memory must be an int or None, not {warm_memory!r}")
    if not 0 <= warm_memory < 1 << 63:
        raise ValueError(f"warm_memory must be a number of bytes from 0 on, not {warm_memory!r}")
    return warm_memory


def _most_warm() -> int:
    """Return the cap where nobody says one. To look takes as long as all the rest of making a pool."""
    global _warm
    cap, when = _warm
    now = time.monotonic()
    if now >= when + _MEMORY_STAYS:
        cap = min(_MOST_WARM, _core.usable_memory() // 32)
        _warm = cap, now
    return cap


def _check_preload(preload: Iterable[str]) -> tuple[str, ...]:
    if isinstance(preload, str):
        raise TypeError(f"preload must be an iterable of module names, not the string {preload!r}")
    modules = tuple(preload)
    for module in modules:
        if not isinstance(module, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"preload must be an iterable of module names, not of {module!r}")
        import importlib.util

        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"preload names a module that does not exist: {module!r}", name=module)
    return modules


def _start_method(mp_context: BaseContext | str | None) -> str | None:
    if mp_context is None:
        return None
    if not isinstance(mp_context, str):
        get = getattr(mp_context, "get_start_method", None)
        if get is None:
            raise TypeError(f"mp_context must be a context of multiprocessing or the name of one, not {mp_context!r}")
        return str(get())
    if mp_context not in _START_METHODS:
        raise ValueError(f"mp_context must be one of {', '.join(_START_METHODS)}, not {mp_context!r}")
    return mp_context


def _at_exit() -> None:
    """Let every pool finish what was submitted, as the standard library does when the interpreter exits."""
    _core.join_all()


def _at_end() -> None:
    """End the fork servers, and see that nobody waits for one any more."""
    _launch.stop_servers()
    _core.await_connections()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
atexit.register(_at_end)
