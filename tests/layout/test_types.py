"""Users see precise types: mypy checks this file, and the program in it runs too."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import assert_type

import plait


def test_types_of_results() -> None:
    with plait.ProcessPool(1) as pool:
        future = pool.submit(divmod, 7, 2)
        assert_type(future, plait.Future[tuple[int, int]])
        assert_type(future.result(), tuple[int, int])
        assert_type(future.exception(), BaseException | None)
        assert_type(pool.map(len, ["a"]), Iterator[int])
        assert_type(pool.options(retries=1).submit(len, "a"), plait.Future[int])
        assert_type(pool.options(retries=1).map(len, ["a"]), Iterator[int])
        for done in concurrent.futures.as_completed([future]):
            assert_type(done.result(), tuple[int, int])


def test_types_where_it_is_awaited() -> None:
    async def main() -> None:
        async with plait.ProcessPool(1) as pool:
            assert_type(await pool.submit(len, "a"), int)

    asyncio.run(main())


def test_a_future_is_one_of_the_standard_library() -> None:
    future: plait.Future[int] = plait.Future()
    future.add_done_callback(lambda done: assert_type(done, plait.Future[int]))
    standard: concurrent.futures.Future[int] = future
    standard.set_result(1)
    assert_type(standard.result(), int)


def wrong(pool: plait.ProcessPool) -> None:
    """Not run: each line must be refused, or mypy says that its comment is of no use."""
    pool.submit(len)  # type: ignore[call-arg]
    pool.submit(len, 1)  # type: ignore[arg-type]
    pool.submit(len, "a").set_result("b")  # type: ignore[arg-type]
    pool.options(timeout="1")  # type: ignore[arg-type]
