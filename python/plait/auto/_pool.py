"""`plait.Pool`: an executor that finds out how each function is best run."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import threading
import weakref
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from plait import _core
from plait._executor import MapArguments, positive_int
from plait._future import Future
from plait.auto import _slices
from plait.auto._backlog import Backlog
from plait.auto._choice import ASYNCIO, MODELS, PROCESSES, Costs
from plait.auto._coroutines import LoopThread
from plait.auto._engine import Executors, Function, usable_machine
from plait.auto._explain import Explanation, explain
from plait.auto._flow import Flow, Watch
from plait.auto._map import MapFlow, Results, items_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

__all__ = ["Pool"]

P = ParamSpec("P")
T = TypeVar("T")

#: Every so often a call of a function that is decided is measured.
_MEASURED = 64


class Pool(concurrent.futures.Executor):
    """An executor that decides for each function how it is run, and changes its mind when the function changes.

    The first calls of a function go to a thread and are measured: how long they compute, with the GIL and without it, how long they wait,
    what it takes to move arguments and results to another process. From that a model is chosen: `serial` (one after the other),
    `threads` (as many as keep the cores busy while others wait), `processes`, or, for coroutine functions, tasks of an event loop.
    Calls go on to be measured, and it is decided anew when they look different, or take longer than was thought.

    - Making a pool starts nothing. `submit` never runs the task in the caller; `map` does where items are too short to be handed over.
    - No call is made twice.
    - A function that changes what outlives its call (globals, closures, the object that it is a method of), that cannot be pickled, or whose
      results cannot, never leaves this process. Its source is read for that; what cannot be followed counts as a change.
    - `explain` tells what was decided, from which figures, and what the alternatives would have taken.

    Args:
        max_workers: Threads and processes at most, of each; by default as many processes as there are CPUs, and 256 threads.
        models: The models that may be chosen.

    Raises:
        TypeError, ValueError: An argument is not what it should be; the message names it and its value.

    >>> import plait
    >>> with plait.Pool() as pool:
    ...     list(pool.map(abs, [-1, 2, -3]))
    [1, 2, 3]
    """

    def __init__(self, max_workers: int | None = None, *, models: Iterable[str] = MODELS) -> None:
        self._max_workers = None if max_workers is None else positive_int("max_workers", max_workers)
        if isinstance(models, str):
            raise TypeError(f"models must be several of {', '.join(MODELS)}, not {models!r}")
        self._models = frozenset(models)
        if unknown := self._models - set(MODELS):
            raise ValueError(f"models must be of {', '.join(MODELS)}, not {sorted(unknown)!r}")
        if not self._models - {ASYNCIO}:
            raise ValueError(f"models must have one for plain functions: serial, threads or processes, not {models!r}")
        self._machine = usable_machine(self._max_workers)
        self._costs = Costs()
        self._executors = Executors(self._machine)
        self._watch = Watch()
        self._functions: weakref.WeakKeyDictionary[Any, tuple[Function, Backlog]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None
        self._flows: weakref.WeakSet[MapFlow] = weakref.WeakSet()
        self._closed = False
        self._measured = 0

    # ---- functions

    def _known(self, function: Callable[..., Any]) -> tuple[Function, Backlog]:
        key = _key(function)
        known = self._functions.get(key)
        if known is None:
            with self._lock:
                known = self._functions.get(key)
                if known is None:
                    state = Function(function, self._models, self._machine, self._costs)
                    known = state, Backlog(function, state, self._executors, self._watch)
                    self._functions[key] = known
        return known

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    # ---- the executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue `fn(*args, **kwargs)` in the model that fits, and return its future.

        Raises:
            RuntimeError: The pool was shut down.
            TypeError: `fn` cannot be called.

        >>> import plait
        >>> with plait.Pool() as pool:
        ...     pool.submit(pow, 2, 10).result()
        1024
        """
        self._check_open()
        if not callable(fn):
            raise TypeError(f"fn must be a callable, not {fn!r}")
        if inspect.iscoroutinefunction(fn) and ASYNCIO in self._models:
            return self._loop_thread().submit(fn, args, kwargs)
        state, backlog = self._known(fn)
        decision = state.decision
        if decision is not None and backlog.empty:
            self._measured += 1
            if self._measured % _MEASURED:
                if decision.plan.model == PROCESSES:
                    return self._executors.processes().submit(fn, *args, **kwargs)
                return self._executors.threads(decision.plan.workers).submit(fn, *args, **kwargs)
        future: Future[T] = Future()
        import contextvars

        backlog.add(_slices.Call(args, kwargs, contextvars.copy_context()), future)
        return future

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
        """Apply `fn` to the items of `iterables` in the model that fits, yielding the results.

        The model may change on the way. Inputs that have a length are all taken at the call; others are pulled as results are taken.

        Args:
            fn: Called once per item, with one argument from each of the inputs.
            *iterables: The inputs, as for the builtin `map`: the shortest one says how many items there are.
            timeout: Seconds from this call to the last result, as in the standard library.
            chunksize: Most items that go together; by default as many as take some milliseconds.
            buffersize: Items under way at most; any input is then pulled as results are taken.
            ordered: False yields results as they come.
            progress: True shows a bar on standard error; a callable is called as `progress(done, total)` for each result.

        Raises:
            TimeoutError: The results did not all come within `timeout`.
            RuntimeError: The pool was shut down.
            TypeError, ValueError: An argument is not what it should be; the message names it and its value.

        >>> import plait
        >>> with plait.Pool() as pool:
        ...     list(pool.map(pow, [2, 3, 4], [5, 2, 1]))
        [32, 9, 4]
        """
        self._check_open()
        if not callable(fn):
            raise TypeError(f"fn must be a callable, not {fn!r}")
        arguments = MapArguments.check(chunksize, buffersize, ordered, progress)
        deadline_ns = _core.deadline_ns(timeout)
        items, total = items_of(iterables, lazily=arguments.buffersize is not None)
        deadline = None if deadline_ns is None else deadline_ns / 1e9
        if inspect.iscoroutinefunction(fn) and ASYNCIO in self._models:
            fn = functools.partial(_awaited, self._loop_thread(), fn)
        state, _ = self._known(fn)
        flow = MapFlow(fn, state, self._executors, self._watch, items, total, arguments)
        flow.pull()
        flow.fill()
        self._flows.add(flow)
        if not flow.lazily and state.decision is None:
            # Short calls are known at once; of long ones the watch will tell.
            flow.learn_here()
        inline = flow.inline()
        return Results(flow, arguments, deadline, inline)

    def _loop_thread(self) -> LoopThread:
        with self._lock:
            if self._loop is None:
                self._loop = LoopThread()
            return self._loop

    def explain(self, fn: Callable[..., Any] | None = None) -> Explanation | list[Explanation]:
        """Return what was decided for a function, or for all: a dict whose text says the same in words.

        Args:
            fn: A function that was submitted or mapped; None for a list of all of them.

        Raises:
            LookupError: The pool does not know the function.

        >>> import plait
        >>> with plait.Pool() as pool:
        ...     _ = list(pool.map(abs, range(-1000, 1000)))
        ...     pool.explain(abs)["model"]
        'serial'
        """
        if fn is None:
            return [explain(state) for state, _ in list(self._functions.values())]
        known = self._functions.get(_key(fn))
        if known is None:
            raise LookupError(f"this pool has not run {fn!r}")
        return explain(known[0])

    def statistics(self) -> dict[str, int]:
        """Return how many functions are known and decided.

        >>> import plait
        >>> plait.Pool().statistics()
        {'functions': 0, 'decided': 0}
        """
        states = [state for state, _ in list(self._functions.values())]
        return {"functions": len(states), "decided": sum(1 for state in states if state.decision is not None)}

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; what is queued is still done.

        Args:
            wait: Return when all is done.
            cancel_futures: Cancel what was not begun.
        """
        self._closed = True
        backlogs = [backlog for _, backlog in list(self._functions.values())]
        flows = list(self._flows)
        if cancel_futures:
            for backlog in backlogs:
                backlog.cancel()
            for flow in flows:
                flow.close()
        if self._loop is not None:
            self._loop.close(wait=wait)
        begun: list[Flow] = [*backlogs, *flows]
        if wait:
            self._end(begun, cancel_futures)
        else:
            threading.Thread(target=self._end, args=(begun, cancel_futures), name="plait-Pool-end").start()

    def _end(self, begun: list[Flow], cancel_futures: bool) -> None:
        for flow in begun:
            flow.wait()
        self._executors.shutdown(True, cancel_futures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        import asyncio

        await asyncio.to_thread(self.shutdown)

    def __repr__(self) -> str:
        figures = self.statistics()
        return f"<plait.Pool max_workers={self._max_workers} functions={figures['functions']}>"


def _key(function: Any) -> Any:
    """What stands for a function: its code, so that a lambda that is made again and again is one function."""
    while isinstance(function, functools.partial):
        function = function.func
    inner = getattr(function, "__func__", function)
    code = getattr(inner, "__code__", None)
    if code is not None:
        return code
    try:
        weakref.ref(function)
        hash(function)
    except TypeError:
        return type(function)
    return function


def _awaited(loop: LoopThread, function: Callable[..., Any], *args: Any) -> Any:
    return loop.submit(function, args, {}).result()
