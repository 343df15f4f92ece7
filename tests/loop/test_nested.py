"""`plait.run` where a loop is running already."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator
from typing import Any

import pytest

import plait

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


async def inner() -> tuple[int, str]:
    await asyncio.sleep(0)
    return variable.get(), threading.current_thread().name


def test_it_raises() -> None:
    async def outer() -> None:
        main = inner()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            plait.run(main)
        main.close()

    plait.run(outer())


def test_nested_runs_beside_with_the_variables_of_the_caller() -> None:
    async def outer() -> tuple[int, str]:
        variable.set(5)
        return plait.run(inner(), nested=True)

    assert plait.run(outer()) == (5, "plait-run")


def test_without_a_running_loop_nested_is_as_ever() -> None:
    assert plait.run(inner(), nested=True)[1] == threading.current_thread().name


def test_what_it_raises_is_the_callers() -> None:
    async def bad() -> None:
        raise KeyError("inner")

    async def outer() -> None:
        with pytest.raises(KeyError, match="inner"):
            plait.run(bad(), nested=True)
        with pytest.raises(ValueError if sys.version_info < (3, 14) else TypeError, match="coroutine"):
            plait.run(3, nested=True)  # type: ignore[arg-type]

    plait.run(outer())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio.run takes coroutines only")
def test_it_takes_whatever_can_be_awaited() -> None:
    class Later:
        def __await__(self) -> Generator[Any, None, int]:
            yield from asyncio.sleep(0).__await__()
            return 5

    async def outer() -> int:
        return plait.run(Later(), nested=True)  # type: ignore[arg-type]

    assert plait.run(Later()) == plait.run(outer()) == 5  # type: ignore[arg-type]


def test_in_ipython_it_is_nested_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("IPython")
    monkeypatch.setattr(module, "get_ipython", object, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", module)

    async def outer() -> str:
        return plait.run(inner())[1]

    assert plait.run(outer()) == "plait-run"


def test_an_interrupt_cancels_what_runs_beside() -> None:
    seen: list[str] = []

    async def waits() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)  # the main thread sleeps and is given it
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def outer() -> None:
        with pytest.raises(KeyboardInterrupt):
            plait.run(waits(), nested=True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        loop = plait.new_event_loop()  # not `run`, which has a handler of its own
        try:
            loop.run_until_complete(outer())
        finally:
            loop.close()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["cancelled"]


@pytest.mark.parametrize("run", [plait.run, asyncio.run])
def test_an_interrupt_of_a_running_program_cancels_it_too(run: Callable[[Any], object]) -> None:
    """The runner outside only notes the interrupt: its task waits for the one beside."""
    seen: list[str] = []

    async def waits() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def outer() -> None:
        with pytest.raises(asyncio.CancelledError):
            plait.run(waits(), nested=True)
        seen.append("outer goes on")
        await asyncio.sleep(0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(outer())
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["cancelled", "outer goes on"]
