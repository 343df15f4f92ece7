"""Coroutine functions on the automatic pool: their calls are tasks of a loop, whatever they do to it."""

from __future__ import annotations

import asyncio

import pytest

import plait

WATCHDOG = 60


async def echo(value):
    await asyncio.sleep(0.001)
    return value


async def leave():
    raise SystemExit(3)


async def interrupt():
    raise KeyboardInterrupt


async def stop():
    asyncio.get_running_loop().stop()


async def leave_in_a_task():
    await asyncio.get_running_loop().create_task(leave())


@pytest.mark.parametrize(
    ("function", "kind"),
    [(leave, SystemExit), (interrupt, KeyboardInterrupt), (leave_in_a_task, SystemExit), (stop, type(None))],
)
def test_a_coroutine_that_would_end_the_loop_ends_itself_alone(function, kind):
    with plait.Pool() as pool:
        futures = [pool.submit(*((function,) if number % 3 else (echo, number))) for number in range(30)]
        ends = [future.exception(WATCHDOG) for future in futures]
        assert [type(end) for end in ends] == [kind if number % 3 else type(None) for number in range(30)]
        assert list(pool.map(echo, range(30), timeout=WATCHDOG)) == list(range(30))
        last = pool.submit(function)  # the pool ends meanwhile
    assert isinstance(last.exception(WATCHDOG), kind)


def test_a_coroutine_function_is_refused_each_time_where_there_may_be_no_loop():
    with plait.Pool(models=["threads"]) as pool:
        for _ in range(3):
            with pytest.raises(TypeError, match="asyncio is not among"):
                pool.submit(echo, 1)
            with pytest.raises(TypeError, match="asyncio is not among"):
                pool.map(echo, [1])
        assert pool.explain() == []
