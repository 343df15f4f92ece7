"""Coroutine functions on the automatic pool: their calls are tasks of a loop, whatever they do to it."""

from __future__ import annotations

import asyncio
import functools
import gc
import types

import pytest

import plait
from tests.auto import bodies

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


@pytest.fixture
def pool():
    with plait.Pool() as pool:
        yield pool


@pytest.mark.parametrize(
    ("function", "kind"),
    [(leave, SystemExit), (interrupt, KeyboardInterrupt), (leave_in_a_task, SystemExit), (stop, type(None))],
)
def test_a_coroutine_that_would_end_the_loop_ends_itself_alone(pool, function, kind):
    with pool:
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


class Awaited:
    async def __call__(self, value):
        return await echo(value)

    async def method(self, value):
        return await echo(value)


class Both:
    """What makes it is called, and so is it."""

    def __init__(self, value):
        self.value = value

    async def __call__(self, value):
        return await echo(value)


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@types.coroutine
def older(value):
    yield from asyncio.sleep(0).__await__()
    return value


async def numbers(value):
    yield value


class Numbers:
    async def __call__(self, value):
        yield value


@pytest.mark.parametrize(
    "function",
    [
        Awaited(),
        Awaited().method,
        functools.partial(Awaited()),
        functools.partial(functools.partial(echo)),
        functools.partial(Awaited().method),
        older,
    ],
)
def test_what_is_called_asynchronously_is_awaited(function):
    with plait.Pool() as pool:
        assert pool.submit(function, 3).result(WATCHDOG) == 3
        assert list(pool.map(function, range(50))) == list(range(50))
        assert pool.explain(function)["model"] == "asyncio"


def test_a_class_and_its_objects_are_two_functions(pool):
    assert pool.submit(Both, 1).result(WATCHDOG).value == 1
    assert pool.submit(Both(2), 3).result(WATCHDOG) == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", ["serial", "threads", "processes", None])
@pytest.mark.parametrize("function", [wrapped(echo), lambda value: echo(value), bodies.spins_and_returns_a_coroutine])
def test_a_coroutine_that_nobody_would_await_is_an_error(function, model):
    with plait.Pool(2, **({} if model is None else {"models": [model]})) as pool:
        for _ in range(2):
            futures = [pool.submit(function, number) for number in range(100)]
            for future in futures:
                assert "async def" in str(future.exception(WATCHDOG))
                assert isinstance(future.exception(), TypeError)
            for ordered in (True, False):
                with pytest.raises(TypeError, match="returned the coroutine 'echo', which nobody awaits"):
                    list(pool.map(function, range(3000), ordered=ordered))
    gc.collect()


@pytest.mark.parametrize("function", [numbers, Numbers(), functools.partial(numbers)])
def test_asynchronous_generators_are_refused(function):
    with plait.Pool() as pool:
        for _ in range(2):
            with pytest.raises(TypeError, match="async generator function"):
                pool.submit(function, 1)
            with pytest.raises(TypeError, match="async generator function"):
                pool.map(function, [1])


def test_what_is_explained_of_a_coroutine_function_is_one_thing():
    async def double(number):
        return 2 * number

    with plait.Pool() as pool:
        found: list[object] = list(pool.map(double, [1, 2]))
        assert found == [2, 4]
        explained = pool.explain(double)
    assert explained["model"] == "asyncio"
    assert "asyncio" not in explained["refused"]
    assert "double: asyncio, a call at a time" in str(explained)
