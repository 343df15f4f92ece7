"""What the tests of the event loop share."""

from __future__ import annotations

import asyncio
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
