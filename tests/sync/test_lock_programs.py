"""Random programs of threads and tasks over a few locks: as many inside as may be, no wake-up lost, and nobody stays behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import plait as package

plait: Any = package  # as to a program without types
WATCHDOG = 60.0


class Guarded:
    """Something that lets in only so many at a time, and counts them."""

    def __init__(self, kind: str) -> None:
        self.most = 2 if "Semaphore" in kind else 1
        self.lock = getattr(plait, kind)(2) if self.most == 2 else getattr(plait, kind)()
        self.inside = 0
        self.too_many = 0
        self.counting = threading.Lock()

    def enter(self) -> None:
        with self.counting:
            self.inside += 1
            self.too_many += self.inside > self.most

    def leave(self) -> None:
        with self.counting:
            self.inside -= 1


KINDS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"]


class Program:
    """Threads, and tasks of two loops, each of which does `steps` things at random."""

    def __init__(self, seed: int, kinds: list[str], threads: int, tasks: int, steps: int) -> None:
        self.random = random.Random(seed)
        self.guarded = [Guarded(kind) for kind in kinds]
        self.steps = steps
        self.errors: list[BaseException] = []
        self.turns = plait.Condition(plait.Lock())
        self.given = self.taken = 0
        mains = [self.main(tasks), self.main(tasks)]
        self.threads = [self.start(self.thread, self.rng()) for _ in range(threads)]
        self.threads += [self.start(asyncio.run, main) for main in mains]

    def rng(self) -> random.Random:
        return random.Random(self.random.randrange(2**32))

    def start(self, function: Any, argument: Any) -> threading.Thread:
        def run() -> None:
            try:
                function(argument)
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def thread(self, rng: random.Random) -> None:
        for _ in range(self.steps):
            guarded = rng.choice(self.guarded)
            how = rng.randrange(5)
            if how == 0:
                got = guarded.lock.acquire(timeout=rng.choice([0, 0.0001, 0.002]))
            elif how == 1:
                got = guarded.lock.acquire(blocking=False)
            else:
                got = guarded.lock.acquire()
            if not got:
                continue
            guarded.enter()
            if rng.random() < 0.3:
                time.sleep(rng.choice([0, 0.0001, 0.0015]))
            guarded.leave()
            guarded.lock.release()
            self.hand_on(rng)

    def hand_on(self, rng: random.Random) -> None:
        with self.turns:
            self.given += 1
            self.turns.notify(rng.randrange(1, 3))
        if rng.random() < 0.5:
            with self.turns:
                if self.turns.wait_for(lambda: self.given > self.taken, rng.choice([0.0001, 0.001])):
                    self.taken += 1

    async def main(self, tasks: int) -> None:
        await asyncio.gather(*(self.task(self.rng()) for _ in range(tasks)))

    async def task(self, rng: random.Random) -> None:
        for _ in range(self.steps):
            guarded = rng.choice(self.guarded)
            if rng.random() < 0.4:
                await self.cancelled(guarded, rng)
                continue
            async with guarded.lock:
                guarded.enter()
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.choice([0, 0.0001, 0.0015]))
                guarded.leave()
            await self.hand_on_in_task(rng)

    async def cancelled(self, guarded: Guarded, rng: random.Random) -> None:
        """Has it taken by another task, which is cancelled at some moment: it has taken it or it has not."""

        async def take() -> None:
            async with guarded.lock:
                guarded.enter()
                try:
                    await asyncio.sleep(rng.choice([0, 0.0005]))
                finally:
                    guarded.leave()

        task = asyncio.create_task(take())
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if rng.random() < 0.3:
            await asyncio.sleep(rng.choice([0.0001, 0.0015]))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def hand_on_in_task(self, rng: random.Random) -> None:
        async with self.turns:
            self.given += 1
            await self.turns.anotify(rng.randrange(1, 3))
        if rng.random() < 0.5:
            async with self.turns:
                if await self.turns.await_for(lambda: self.given > self.taken, rng.choice([0.0001, 0.001])):
                    self.taken += 1

    def finish(self) -> None:
        deadline = time.monotonic() + WATCHDOG
        for thread in self.threads:
            thread.join(max(deadline - time.monotonic(), 0))
        assert not [thread for thread in self.threads if thread.is_alive()], [each.lock for each in self.guarded]
        assert not self.errors, self.errors
        for guarded in self.guarded:
            assert (guarded.inside, guarded.too_many) == (0, 0)
            assert guarded.lock.statistics()["waiting"] == 0
            for _ in range(guarded.most):
                assert guarded.lock.acquire(timeout=0), guarded.lock
        assert self.turns.statistics() == {"locked": False, "owner": None, "waiting": 0}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    threads=st.integers(1, 4),
    tasks=st.integers(1, 4),
    steps=st.integers(1, 40),
)
def test_random_programs(seed, kinds, threads, tasks, steps):
    Program(seed, kinds, threads, tasks, steps).finish()


@pytest.mark.parametrize("kind", KINDS)
def test_many_steps_over_one(kind):
    Program(1, [kind], threads=4, tasks=3, steps=400).finish()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(200))
def test_many_programs(seed):
    Program(seed, KINDS, threads=6, tasks=6, steps=400).finish()
