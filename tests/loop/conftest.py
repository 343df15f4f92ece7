"""What the tests of the event loop share."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait


@pytest.fixture
def loop() -> Iterator[plait.EventLoop]:
    """A loop, closed in the end."""
    loop = plait.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def run() -> Callable[[Any], Any]:
    """Run a coroutine on a loop of its own."""

    def run(main: Any, *, debug: bool | None = None) -> Any:
        with asyncio.Runner(debug=debug, loop_factory=plait.new_event_loop) as runner:
            return runner.run(main)

    return run


@pytest.fixture(params=[plait.new_event_loop, asyncio.SelectorEventLoop], ids=["plait", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """One of our loop, and one of the standard library's, which ours is held against."""
    if request.param is asyncio.SelectorEventLoop and sys.version_info < (3, 13):
        pytest.skip("ours is held against the loop of 3.13: older ones send no empty datagrams, among other things")
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner
