"""`plait.Barrier(shared=True)`: between threads, tasks and processes, any of which may die."""

from __future__ import annotations

import asyncio
import copy
import functools
import mmap
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from typing import Any

import pytest

import plait
from tests.sync import _shared_programs as programs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the process is forked while it has several threads:RuntimeWarning"),
]

LATE = 60.0
ROUNDS = 200


def barrier_of(parties: int, action: Any = None, timeout: float | None = None) -> Any:
    return plait.Barrier(parties, action, timeout, shared=True)


def started(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> None:
    thread.join(LATE)
    assert not thread.is_alive()


def until(condition: Any) -> None:
    deadline = time.monotonic() + LATE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


def after(condition: Any, work: Any) -> None:
    until(condition)
    time.sleep(0.1)  # so that it is asleep
    work()


def forked(work: Any) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except plait.BrokenBarrierError:
            status = 7
        finally:
            os._exit(status)
    return child


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def broken(barrier: Any, told: list[str]) -> None:
    with pytest.raises(plait.BrokenBarrierError):
        barrier.wait()
    told.append("broken")


async def abroken(barrier: Any, told: list[str]) -> None:
    with pytest.raises(plait.BrokenBarrierError):
        await barrier.await_()
    told.append("broken")


def test_it_is_a_barrier() -> None:
    barrier = barrier_of(1)
    assert isinstance(barrier, plait.Barrier)
    assert barrier.wait() == 0
    assert asyncio.run(barrier.await_()) == 0
    with barrier as number:
        assert number == 0
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (1, 0, False)
    assert barrier.statistics() == plait.Barrier(1).statistics()
    assert repr(barrier).endswith("shared, waiters=0/1>")
    barrier.abort()
    assert repr(barrier).endswith("shared, broken>")
    assert barrier.broken
    again = pickle.loads(pickle.dumps(barrier))
    assert type(again) is type(barrier)
    assert again.broken
    assert copy.copy(barrier) is barrier
    assert copy.deepcopy(barrier) is barrier
    again.reset()
    assert not barrier.broken
    assert barrier.wait() == 0


@pytest.mark.parametrize(
    ("parties", "error"), [(0, ValueError), (-1, ValueError), (5000, ValueError), ("2", TypeError)]
)
def test_bad_parties(parties: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="parties"):
        barrier_of(parties)


def test_a_subclass_cannot_be_shared() -> None:
    class Mine(plait.Barrier):
        pass

    assert Mine(1).wait() == 0
    with pytest.raises(TypeError, match="cannot be shared"):
        Mine(1, shared=True)


def test_nobody_passes_before_all_are_there() -> None:
    parties = 6  # 2 processes with a thread and a task each, and a thread and a task here
    barrier = barrier_of(parties)
    arrived, told = memoryview(mmap.mmap(-1, 8 * parties)).cast("q"), plait.Channel[Any](parties, shared=True)

    def work(me: int) -> None:
        numbers = []
        for turn in range(1, ROUNDS + 1):
            arrived[me] = turn
            numbers.append(barrier.wait(timeout=LATE))
            assert min(arrived) >= turn
        told.put(numbers)

    async def task(me: int) -> None:
        numbers = []
        for turn in range(1, ROUNDS + 1):
            arrived[me] = turn
            numbers.append(await barrier.await_(timeout=LATE))
            assert min(arrived) >= turn
        await told.aput(numbers)

    def both(me: int) -> None:
        thread = started(lambda: work(me))
        asyncio.run(task(me + 1))
        ended(thread)

    children = [forked(lambda me=me: both(me)) for me in (0, 2)]
    both(4)
    assert [status_of(child) for child in children] == [0, 0]
    numbers = [told.get(timeout=LATE) for _ in range(parties)]
    assert all(sorted(each) == list(range(parties)) for each in zip(*numbers, strict=True))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_action_is_called_once_a_round(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    acted, told = plait.Channel[int](100, shared=True), plait.Channel[Any](4, shared=True)
    barrier = barrier_of(3, functools.partial(programs.put_one, acted))
    children = [context.Process(target=programs.pass_often, args=(barrier, told, 30)) for _ in range(2)]
    for child in children:
        child.start()
    numbers = [[barrier.wait(timeout=LATE) for _ in range(30)]]
    numbers += [told.get(timeout=LATE) for _ in range(2)]
    for child in children:
        child.join(LATE)
        assert child.exitcode == 0
    assert acted.qsize() == 30
    assert all(sorted(each) == [0, 1, 2] for each in zip(*numbers, strict=True))


def test_an_action_that_fails_breaks_it() -> None:
    barrier = barrier_of(2, lambda: 1 / 0)
    told: list[str] = []
    thread = started(lambda: broken(barrier, told))
    until(lambda: barrier.n_waiting == 1)
    with pytest.raises(ZeroDivisionError):
        barrier.wait()
    ended(thread)
    assert told == ["broken"]
    assert barrier.broken


def test_who_comes_during_the_action_waits_for_the_next_round() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        go_on.wait(LATE)

    barrier = barrier_of(2, act)
    passed: list[int] = []
    first = [started(lambda: passed.append(barrier.wait())) for _ in range(2)]
    assert begun.wait(LATE)
    second = [started(lambda: passed.append(barrier.wait())), started(lambda: asyncio.run(barrier.await_()))]
    time.sleep(0.02)
    assert barrier.n_waiting == 0
    assert not passed
    go_on.set()
    for thread in first + second:
        ended(thread)
    assert sorted(passed[:2]) == [0, 1] or len(passed) == 3
    assert not barrier.broken


@pytest.mark.parametrize("end", ["abort", "reset"])
def test_whoever_waits_is_told_that_it_is_over(end: str) -> None:
    barrier = barrier_of(5)
    told: list[str] = []

    async def tasks() -> None:
        await asyncio.gather(abroken(barrier, told), abroken(barrier, told))

    threads = [started(lambda: broken(barrier, told)), started(lambda: asyncio.run(tasks()))]
    child = forked(barrier.wait)
    until(lambda: barrier.n_waiting == 4)
    getattr(barrier, end)()
    for thread in threads:
        ended(thread)
    assert status_of(child) == 7
    assert told == ["broken"] * 3
    assert barrier.broken is (end == "abort")
    assert barrier.n_waiting == 0
    if barrier.broken:
        broken(barrier, told)
        asyncio.run(abroken(barrier, told))


@pytest.mark.parametrize("end", ["abort", "reset"])
def test_it_is_ended_during_the_action(end: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        go_on.wait(LATE)

    barrier = barrier_of(2, act)
    told: list[str] = []
    threads = [started(lambda: broken(barrier, told)) for _ in range(2)]
    assert begun.wait(LATE)
    getattr(barrier, end)()
    until(lambda: told == ["broken"])  # who waited does not wait for the action
    go_on.set()
    for thread in threads:
        ended(thread)
    assert told == ["broken"] * 2
    assert barrier.broken is (end == "abort")


@pytest.mark.parametrize("whose", ["thread", "task", "barrier"])
def test_a_timeout_breaks_it(whose: str) -> None:
    barrier = barrier_of(3, None, 0.05 if whose == "barrier" else None)
    told: list[str] = []
    if whose != "barrier":
        thread = started(lambda: broken(barrier, told))
        until(lambda: barrier.n_waiting == 1)
        with pytest.raises(plait.BrokenBarrierError):
            if whose == "thread":
                barrier.wait(timeout=0.02)
            else:
                asyncio.run(barrier.await_(timeout=0.02))
        ended(thread)
    else:
        broken(barrier, told)
        barrier.reset()
        asyncio.run(abroken(barrier, told))
        again = pickle.loads(pickle.dumps(barrier))
        again.reset()
        broken(again, told)
    assert barrier.broken
    assert barrier.n_waiting == 0


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_a_timeout_of_the_next_round_leaves_one_that_is_complete(kind: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        go_on.wait(LATE)

    barrier = barrier_of(2, act)
    passed: list[int] = []
    told: list[str] = []
    first = [started(lambda: passed.append(barrier.wait())) for _ in range(2)]
    assert begun.wait(LATE)

    def late() -> None:
        with pytest.raises(plait.BrokenBarrierError):
            barrier.wait(0.02) if kind == "thread" else asyncio.run(barrier.await_(0.02))
        told.append("broken")

    thread = started(late)
    time.sleep(0.1)
    assert not barrier.broken
    go_on.set()
    for each in [*first, thread]:
        ended(each)
    assert sorted(passed) == [0, 1]
    assert told == ["broken"]
    assert barrier.broken


def test_a_timeout_of_a_task_during_the_action_waits_for_its_end() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        go_on.wait(LATE)

    barrier = barrier_of(2, act)
    passed: list[int] = []

    async def main() -> None:
        task = asyncio.create_task(barrier.await_(timeout=0.05))
        await asyncio.sleep(0)
        thread = started(lambda: passed.append(barrier.wait()))
        while not begun.is_set():  # noqa: ASYNC110 -- it is an event of threads
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert not task.done()
        go_on.set()
        passed.append(await task)
        await asyncio.to_thread(ended, thread)

    asyncio.run(asyncio.wait_for(main(), LATE))
    assert sorted(passed) == [0, 1]


def test_a_task_that_is_cancelled_leaves() -> None:
    barrier = barrier_of(2)

    async def main() -> None:
        for _ in range(20):
            task = asyncio.create_task(barrier.await_(timeout=LATE))
            await asyncio.sleep(0)
            assert barrier.n_waiting == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert barrier.n_waiting == 0
        assert sorted(await asyncio.gather(barrier.await_(), barrier.await_())) == [0, 1]

    asyncio.run(asyncio.wait_for(main(), LATE))


def test_a_signal_ends_the_wait_of_the_main_thread() -> None:
    barrier = barrier_of(2)

    def handle(_number: int, _frame: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, handle)
    child = forked(lambda: after(lambda: barrier.n_waiting == 1, lambda: os.kill(os.getppid(), signal.SIGUSR1)))
    try:
        with pytest.raises(InterruptedError):
            barrier.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
        status_of(child)
    assert barrier.n_waiting == 0
    assert not barrier.broken


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_who_dies_while_it_waits_breaks_it() -> None:
    barrier = barrier_of(5)
    told: list[str] = []
    threads = [started(lambda: broken(barrier, told)), started(lambda: asyncio.run(abroken(barrier, told)))]
    child, other = forked(barrier.wait), forked(barrier.wait)
    until(lambda: barrier.n_waiting == 4)
    kill(child)
    for thread in threads:
        ended(thread)
    assert status_of(other) == 7
    assert told == ["broken"] * 2
    assert barrier.broken
    assert barrier.n_waiting == 0
    barrier.reset()
    threads = [started(barrier.wait) for _ in range(4)]
    assert barrier.wait(timeout=LATE) in range(5)
    for thread in threads:
        ended(thread)


@pytest.mark.parametrize("look", ["broken", "wait"])
def test_a_death_that_nobody_saw_breaks_it(look: str) -> None:
    barrier = barrier_of(2)
    child = forked(barrier.wait)
    until(lambda: barrier.n_waiting == 1)
    kill(child)
    if look == "broken":
        assert barrier.broken
    with pytest.raises(plait.BrokenBarrierError):
        barrier.wait(timeout=LATE)


def test_who_dies_in_the_action_breaks_it() -> None:
    begun = plait.Event(shared=True)

    def act() -> None:
        begun.set()
        time.sleep(LATE)

    barrier = barrier_of(2, act)
    told: list[str] = []
    thread = started(lambda: broken(barrier, told))
    until(lambda: barrier.n_waiting == 1)
    child = forked(barrier.wait)
    assert begun.wait(LATE)
    late = started(lambda: broken(barrier, told))  # one for the next round
    kill(child)
    ended(thread)
    ended(late)
    assert told == ["broken"] * 2
    assert barrier.broken


def test_random_deaths_leave_nobody_waiting() -> None:
    chance = random.Random(3)
    for turn in range(30):
        barrier = barrier_of(3, (lambda: None) if turn % 2 else None)

        def work(barrier: Any = barrier) -> None:
            while True:
                barrier.wait()

        children = [forked(work) for _ in range(3)]
        time.sleep(chance.uniform(0, 0.03))
        kill(children.pop())
        # It had arrived, and broke it, or it had not, and somebody else can take its place.
        until(lambda: barrier.broken or barrier.n_waiting == 2)
        if not barrier.broken:
            assert barrier.wait(timeout=LATE) in range(3)
            until(lambda: barrier.n_waiting == 2)
            barrier.abort()
        assert [status_of(child) for child in children] == [7, 7]
        assert barrier.n_waiting == 0
