"""The loop asks for the interpreter lock without waiting for a whole switch interval, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator

import pytest

import plait

pytestmark = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="without the GIL nobody waits for it"
)

ENOUGH = 30.0


@pytest.fixture(autouse=True)
def interval() -> Iterator[float]:
    before = sys.getswitchinterval()
    yield before
    sys.setswitchinterval(before)


async def beside_a_thread_that_computes(look: Callable[[], bool]) -> bool:
    """Wake the loop again and again while a thread computes, until `look` is true in that thread."""
    seen = threading.Event()
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            if look():
                seen.set()
                return

    thread = threading.Thread(target=compute)
    thread.start()
    deadline = asyncio.get_running_loop().time() + ENOUGH
    while thread.is_alive() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - it is about the waking
        await asyncio.sleep(0.0002)
    over.set()
    await asyncio.to_thread(thread.join)
    return seen.is_set()


def test_the_wait_of_the_loop_is_short_and_the_interval_is_what_it_was(interval: float) -> None:
    assert plait.run(beside_a_thread_that_computes(lambda: sys.getswitchinterval() < interval))
    assert sys.getswitchinterval() == interval


def test_it_can_be_switched_off(interval: float) -> None:
    looks = iter(range(20000))

    def look() -> bool:
        return sys.getswitchinterval() < interval or next(looks, None) is None

    async def main() -> None:
        assert not asyncio.get_running_loop().prompt  # type: ignore[attr-defined]
        await beside_a_thread_that_computes(look)

    plait.run(main(), prompt=False)
    assert next(looks, None) is None, "somebody saw another interval"


def test_it_is_true_or_false() -> None:
    with pytest.raises(TypeError, match="prompt must be True or False, not 'no'"):
        plait.EventLoop(prompt="no")  # type: ignore[arg-type]


def test_what_the_program_sets_meanwhile_stays(interval: float) -> None:
    def look() -> bool:
        if sys.getswitchinterval() >= interval:
            return False
        sys.setswitchinterval(0.25)  # while the loop waits with a short one
        return True

    assert plait.run(beside_a_thread_that_computes(look))
    assert sys.getswitchinterval() == 0.25


def test_who_keeps_what_was_read_meanwhile_does_not_keep_it_short(interval: float) -> None:
    """A program that sets another interval for a moment, and then what it found."""
    found = []

    def look() -> bool:
        found.append(sys.getswitchinterval())
        if found[-1] >= interval:
            return False
        sys.setswitchinterval(0.1)
        sys.setswitchinterval(found[-1])
        return True

    async def main() -> None:
        assert await beside_a_thread_that_computes(look)
        looks = iter(range(20000))
        await beside_a_thread_that_computes(lambda: next(looks, None) is None)

    plait.run(main())
    assert sys.getswitchinterval() == interval


def test_a_shorter_interval_of_the_program_is_left_alone() -> None:
    sys.setswitchinterval(0.00001)
    short = sys.getswitchinterval()
    looks = iter(range(20000))
    assert plait.run(
        beside_a_thread_that_computes(lambda: sys.getswitchinterval() != short or next(looks, None) is None)
    )
    assert next(looks, None) is None, "somebody saw another interval"


def test_a_child_that_is_forked_meanwhile_has_the_old_interval(interval: float) -> None:
    status: list[int] = []

    def look() -> bool:
        if sys.getswitchinterval() >= interval:
            return False
        child = os.fork()
        if child == 0:
            os._exit(sys.getswitchinterval() != interval)
        status.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return True

    assert plait.run(beside_a_thread_that_computes(look))
    assert status == [0]


def test_several_loops_leave_the_interval_as_it_was(interval: float) -> None:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            pass

    async def main() -> None:
        for _ in range(300):
            await asyncio.sleep(0.0001)

    computing = threading.Thread(target=compute)
    loops = [threading.Thread(target=plait.run, args=(main(),)) for _ in range(3)]
    for thread in (computing, *loops):
        thread.start()
    for thread in loops:
        thread.join()
    over.set()
    computing.join()
    assert sys.getswitchinterval() == interval
