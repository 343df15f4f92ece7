"""Makes the calls of a function under every model; runs in an interpreter of its own."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import plait
from plait import _core
from plait._words import brief
from plait.advice import measured_calls, predict_calls

_BY_IDENTITY: Any = object.__eq__

Make = Callable[[], list[Any]]


class _WrongError(Exception):
    """The function or its items cannot be had."""


def main(into: str, path: str, name: str, over: str, calls: str, rounds: str, workers: str) -> None:
    """Make all calls and write what came of it into a file."""
    try:
        function, arguments = _load(path, name, over, int(calls))
        told = _compare(function, arguments, int(rounds), [int(word) for word in workers.split(",") if word])
    except _WrongError as error:
        told = {"wrong": str(error)}
    with open(f"{into}.part", "w", encoding="utf-8") as file:
        json.dump(told, file)
    os.replace(f"{into}.part", into)


def _load(path: str, name: str, over: str, calls: int) -> tuple[Any, list[tuple[Any, ...]]]:
    """The function, and the arguments of each call."""
    sys.path.insert(0, os.path.dirname(path))
    module_name = os.path.splitext(os.path.basename(path))[0]
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # the user's
        _print(error)
        raise _WrongError(f"{path!r} cannot be imported: {_words(error)}") from None
    if os.path.realpath(getattr(module, "__file__", "") or "") != os.path.realpath(path):
        raise _WrongError(f"{path!r} cannot be imported: another module is called {module_name!r}")
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        what = "is no function" if function is not None else "is not there"
        raise _WrongError(f"{name!r} {what} in {path!r}")
    source: Any = getattr(module, over, None) if over else getattr(module, "ITEMS", None)
    if source is None:
        if over:
            raise _WrongError(f"{over!r} is not there in {path!r}")
        return function, [()] * calls
    try:
        iterable: Any = source() if callable(source) else source
        items: list[Any] = list(iterable)
    except BaseException as error:  # the user's
        raise _WrongError(f"{over or 'ITEMS'!r} gives no items: {_words(error)}") from None
    if not items:
        raise _WrongError(f"{over or 'ITEMS'!r} has no items")
    if not over and not _takes(function, items[0]):
        return function, [()] * calls
    return function, [(item,) for item in items]


def _print(error: BaseException) -> None:
    """As Python would, without the frames that lead to the user's."""
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename == __file__
        or trace.tb_frame.f_globals.get("__name__", "").startswith("importlib")
    ):
        trace = trace.tb_next
    traceback.print_exception(error.with_traceback(trace))


def _takes(function: Any, item: Any) -> bool:
    """Whether a function can be called with an item, rather than with nothing."""
    try:
        signature = inspect.signature(function)
        signature.bind()
    except (TypeError, ValueError):
        return True  # it needs something, or does not say
    try:
        signature.bind(item)
    except TypeError:
        return False
    return True


def _words(error: BaseException) -> str:
    said = brief(str(error), 400)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _compare(function: Any, arguments: list[tuple[Any, ...]], rounds: int, workers: list[int]) -> dict[str, Any]:
    cores = _core.usable_cpus()
    coroutine = inspect.iscoroutinefunction(function)
    threads = sorted(set(workers or [cores, 4 * cores]))
    makes: dict[tuple[str, int | None], Make] = {}
    failures: dict[tuple[str, int | None], str] = {}
    if coroutine:
        makes["serial", None] = partial(_awaited, function, arguments)
        makes["asyncio", None] = partial(_gathered, function, arguments)
        failures["threads", None] = failures["processes", None] = (
            "it is a coroutine function: its calls are tasks of a loop"
        )
    else:
        makes["serial", None] = partial(_serial, function, arguments)
        for number in threads:
            makes["threads", number] = partial(_threads, function, arguments, number)
        for number in sorted(set(workers or [cores])):
            makes["processes", number] = partial(_processes, function, arguments, number)
        failures["asyncio", None] = "it is no coroutine function: it would block the loop"
    record, raised = measured_calls(function, arguments)
    if not coroutine:  # the first pool of processes starts their server too, which is none of a round's
        with plait.ProcessPool(1) as pool:
            pool.submit(abs, 0).result()
    times: dict[tuple[str, int | None], list[float]] = {way: [] for way in makes}
    results: dict[tuple[str, int | None], list[Any]] = {}
    broken: set[tuple[str, int | None]] = set()
    for _ in range(rounds):
        for way, make in makes.items():
            if way in failures:
                continue
            began = time.perf_counter()
            try:
                results[way] = make()
            except BaseException as error:  # the user's, or that it cannot be pickled
                failures[way] = _words(error)
                broken.add(way)
                times[way].clear()
            else:
                times[way].append(time.perf_counter() - began)
    told: list[dict[str, Any]] = []
    for way in [*makes, *(way for way in failures if way not in makes)]:
        model, many = way
        expected = None if record is None or raised or way in failures else predict_calls(record, model, many, cores)
        same = None if way in failures else _same(results.get(("serial", None)), results[way])
        low, high = (None, None) if expected is None else expected[1:]
        told.append(
            {
                "model": model,
                "workers": many,
                "measured": times.get(way, []),
                "predicted": None if expected is None else expected[0],
                "low": low,
                "high": high,
                "same": same,
                "failure": failures.get(way, ""),
                "raised": way in broken,
            }
        )
    return {"calls": len(arguments), "ways": told}


def _same(expected: list[Any] | None, found: list[Any]) -> bool | None:
    """Whether results are equal; None where their classes do not say."""
    if expected is None:
        return None
    try:
        if bool(expected == found):
            return True
        settled = True
    except Exception:  # arrays have no single answer
        settled = False
    # What is not equal to itself, as NaN, has the same pickle still.
    if _pickles(expected) == (pickles := _pickles(found)) and pickles:
        return True
    if not settled:
        return False if pickles else None
    classes: list[Any] = [type(each) for each in expected if each is not None]
    if any(each.__eq__ is _BY_IDENTITY for each in classes):
        return None  # equal to itself alone
    return False


def _pickles(results: list[Any]) -> list[bytes]:
    """A pickle of each, whatever it shares with the others; none where one cannot be pickled."""
    try:
        return [pickle.dumps(each) for each in results]
    except Exception:  # whatever their classes raise
        return []


def _serial(function: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    return [function(*each) for each in arguments]


def _awaited(function: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    async def one_by_one() -> list[Any]:
        return [await function(*each) for each in arguments]

    return asyncio.run(one_by_one())


def _gathered(function: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    async def together() -> list[Any]:
        return await asyncio.gather(*(function(*each) for each in arguments))

    return asyncio.run(together())


def _threads(function: Any, arguments: list[tuple[Any, ...]], workers: int) -> list[Any]:
    with plait.ThreadPool(workers) as pool:
        return [future.result() for future in [pool.submit(function, *each) for each in arguments]]


def _processes(function: Any, arguments: list[tuple[Any, ...]], workers: int) -> list[Any]:
    with plait.ProcessPool(workers) as pool:
        return list(pool.map(_Call(function), arguments))


class _Call:
    """Calls a function with a tuple of arguments."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        return self._function(*arguments)
