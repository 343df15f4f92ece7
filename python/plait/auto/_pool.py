"""`plait.Pool`: an executor that finds out how each function is best run."""

from __future__ import annotations

import concurrent.futures
import contextvars
import inspect
import os
import types
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from plait import _core
from plait._executor import MapArguments, positive_int
from plait._future import Future
from plait.auto import _main_module
from plait.auto._choice import ASYNCIO, MODELS, Costs, of_coroutines
from plait.auto._engine import Engine, after_fork
from plait.auto._explain import Explanation, explain
from plait.auto._function import code_of, innermost
from plait.auto._items import items_of
from plait.auto._map import MapFlow
from plait.auto._results import results
from plait.auto._seat import here
from plait.processes import _main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

    from plait.auto._backlog import Backlog
    from plait.auto._function import Function

__all__ = ["Pool"]

P = ParamSpec("P")
T = TypeVar("T")

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
"""All of this process, to be made anew in a forked child."""


class Pool(concurrent.futures.Executor):
    """An executor that decides for each function how it is run, and changes its mind when the function changes.

    The first calls of a function go to a thread and are measured: how long they compute, with the GIL and without it,
    how long they wait,
    what it takes to move arguments and results to another process. From that a model is chosen: `serial` (one after the other),
    `threads` (as many as keep the cores busy while others wait), `processes`, or, for coroutine functions, tasks of an
    event loop.
    Calls go on to be measured, and it is decided anew when they look different, or take longer than was thought.

    - Making a pool starts nothing. `submit` never runs the task in the caller; `map` does where items are too short to
      be handed over.
    - No call is made twice.
    - A function that changes what outlives its call (globals, closures, the object that it is a method of), that
      cannot be pickled, or whose
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
        _main.check_not_importing_main()
        self._max_workers = None if max_workers is None else positive_int("max_workers", max_workers)
        if isinstance(models, str) or not hasattr(models, "__iter__"):
            raise TypeError(f"models must be several of {', '.join(MODELS)}, not {models!r}")
        given = list(models)
        if unknown := [model for model in given if model not in MODELS]:
            raise ValueError(f"models must be of {', '.join(MODELS)}, not {', '.join(map(repr, unknown))}")
        self._models = frozenset(given)
        if not self._models - {ASYNCIO}:
            raise ValueError(f"models must have one for plain functions: serial, threads or processes, not {models!r}")
        _main_module.note_pool()
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._engine = engine = Engine(self._max_workers, self._models, Costs())
        # A pool that nobody has any more still does what was submitted.
        weakref.finalize(self, engine.shutdown, wait=False, cancel=False).atexit = False

    # ---- the executor

    def _known(self, fn: Callable[..., Any]) -> tuple[Function, Backlog]:
        engine = self._engine
        if engine.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        known = engine.functions.get(id(fn.__code__) if type(fn) is types.FunctionType else _key(fn)) or self._meet(fn)
        seat = getattr(here, "seat", None)
        if seat is not None and seat.engine is engine:
            seat.nests = True
        return known

    def _meet(self, fn: Callable[..., Any]) -> tuple[Function, Backlog]:
        """What there is to know of a function that is new."""
        if not callable(fn):
            raise TypeError(f"fn must be a callable, not {fn!r}")
        if _is_made_by(inspect.isasyncgenfunction, fn):
            raise TypeError(f"fn is the async generator function {fn!r}: have a coroutine function take its items")
        on_loop = _is_made_by(_is_coroutine_function, fn)
        if on_loop and ASYNCIO not in self._models:
            raise TypeError(f"fn is the coroutine function {fn!r}, and asyncio is not among the pool's models")
        known = self._engine.known(_key(fn), fn)
        if on_loop:
            known[0].decision = of_coroutines()
            known[0].refused.pop(ASYNCIO, None)
        return known

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue `fn(*args, **kwargs)` in the model that fits, and return its future. It is never made by the caller.

        Raises:
            RuntimeError: The pool was shut down.
            TypeError: `fn` cannot be called.

        >>> import plait
        >>> with plait.Pool() as pool:
        ...     pool.submit(pow, 2, 10).result()
        1024
        """
        state, backlog = self._known(fn)
        decision = state.decision
        if decision is not None and decision.plan.model == ASYNCIO:
            state.figures.calls += 1
            function: Any = fn
            return self._engine.loop().submit(function, args, kwargs)
        future: Future[T] = Future()
        backlog.add((fn, args, kwargs, contextvars.copy_context(), future))
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

        The model may change on the way. Inputs that have a length are all taken at the call; others are pulled as
        results are taken.

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
        arguments = MapArguments.check(chunksize, buffersize, ordered, progress)
        deadline_ns = _core.deadline_ns(timeout)
        if self._engine.closed and next(zip(*iterables, strict=False), None) is None:
            return iter(list[T]())  # as the standard library has it: nothing is submitted
        state, _ = self._known(fn)
        items = items_of(iterables, lazily=arguments.buffersize is not None)
        deadline = None if deadline_ns is None else deadline_ns / 1e9
        flow = MapFlow(fn, state, self._engine, items, arguments)
        try:
            self._engine.add_map(flow)
            given: Iterator[T] = results(flow, arguments, deadline, items.total)
            flow.start(inline=deadline is None)
        except BaseException:  # Ctrl-C, say: nobody gets the results, whose end would be that of the calls
            flow.close()
            raise
        return given

    @overload
    def explain(self, fn: Callable[..., Any]) -> Explanation: ...
    @overload
    def explain(self, fn: None = None) -> list[Explanation]: ...
    def explain(self, fn: Callable[..., Any] | None = None) -> Explanation | list[Explanation]:
        """Return what was decided for a function, or for all: a dict whose text says the same in words.

        It describes the decision that most of the work was done by, not that for the last few calls;
        `made` has the calls by who has made them.

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
            for flow in self._engine.flows():
                flow.tell_made()
            return [explain(state) for state, _ in list(self._engine.functions.values())]
        known = self._engine.functions.get(_key(fn))
        if known is None:
            raise LookupError(f"this pool has not run {fn!r}")
        for flow in self._engine.flows():
            flow.tell_made()
        return explain(known[0])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; what is queued is still done.

        Leaving a `with` block does this and waits; left by Ctrl-C, it cancels what was not begun. It may be called
        again.

        Args:
            wait: Return when all is done.
            cancel_futures: Cancel what was not begun.

        Raises:
            RuntimeError: A task of this pool waits for the pool's end.

        >>> import plait
        >>> pool = plait.Pool()
        >>> future = pool.submit(len, "abc")
        >>> pool.shutdown()
        >>> future.result()
        3
        """
        self._engine.shutdown(wait=bool(wait), cancel=bool(cancel_futures))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: types.TracebackType | None,
    ) -> None:
        # Who pressed Ctrl-C does not want what was not begun.
        self.shutdown(cancel_futures=exc_type is not None and issubclass(exc_type, KeyboardInterrupt))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        import asyncio

        self.shutdown(wait=False)
        await asyncio.shield(asyncio.to_thread(self.shutdown))

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle 'Pool' object")

    def __repr__(self) -> str:
        return f"<plait.Pool max_workers={self._max_workers} functions={len(self._engine.functions)}>"


def _is_made_by(test: Callable[[Any], bool], function: Any) -> bool:
    """Whether the function that a call runs, which may be the `__call__` of an object, is of a kind."""
    function = innermost(function)
    return test(function) or (not isinstance(function, type) and test(type(function).__call__))


def _is_coroutine_function(function: Any) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    code = code_of(function)
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _key(function: Any) -> Any:
    """What stands for a function: its code, so that a lambda that is made again and again is one function.

    It is the code's identity, since it takes long to compare code by what is in it.
    """
    function = innermost(function)
    if (code := code_of(function)) is not None:
        return id(code)
    if inspect.isbuiltin(function):  # a method of an object: all objects' methods of that name
        owner = function.__self__
        return function if inspect.ismodule(owner) or owner is None else (type(owner), function.__name__)
    return function if isinstance(function, type) else (type(function), "__call__")


def _after_fork() -> None:
    """A forked child has its parent's pools without anything in them: their work is the parent's."""
    after_fork()
    for pool in list(_pools):
        closed = pool._engine.closed
        pool._begin()
        pool._engine.closed = closed


os.register_at_fork(after_in_child=_after_fork)
