"""Random programs of threads and tasks over a few channels: every message arrives once and in order, nobody stays behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import plait as package

plait: Any = package  # as to a program without types
WATCHDOG = 60.0


class Program:
    """Some senders and some receivers, each a thread or a task of one of two loops, in a manner of its own."""

    def __init__(self, seed: int, capacity: int, channels: int, senders: int, receivers: int, messages: int) -> None:
        self.random = random.Random(seed)
        self.channels = [plait.Channel(capacity) for _ in range(channels)]
        self.messages = messages
        self.sent: Counter = Counter()
        self.received: list[list] = []
        self.lock = threading.Lock()
        self.threads: list[threading.Thread] = []
        self.tasks: list[list] = [[], []]
        self.errors: list[BaseException] = []
        for number in range(senders):
            self.place(self.sender(number), self.task_sender(number))
        self.sending = [*self.threads]
        self.sending_tasks = [len(each) for each in self.tasks]
        for _ in range(receivers):
            self.place(self.receiver(), self.task_receiver())

    def place(self, thread, task):
        where = self.random.randrange(3)
        if where == 2:
            self.threads.append(threading.Thread(target=self.guarded, args=(thread,), daemon=True))
        else:
            self.tasks[where].append(task)

    def guarded(self, part):
        try:
            part()
        except BaseException as error:
            self.errors.append(error)

    def own(self):
        return random.Random(self.random.randrange(2**32)), self.random.choice(self.channels)

    def note(self, message):
        with self.lock:
            self.sent[message] += 1

    def sender(self, number):
        dice, channel = self.own()

        def part():
            at = 0
            while at < self.messages:
                manner = dice.randrange(4)
                message = (number, at)
                try:
                    if manner == 0:
                        channel.put(message)
                    elif manner == 1:
                        channel.put(message, timeout=dice.choice([0, 0.0001, 0.01]))
                    elif manner == 2:
                        channel.put_nowait(message)
                    else:
                        batch = [(number, at + index) for index in range(min(dice.randrange(1, 5), self.messages - at))]
                        try:
                            channel.put_many(batch, timeout=dice.choice([None, 0.001]))
                            done = len(batch)
                        except plait.ChannelFull as error:
                            done = error.put
                        for message in batch[:done]:
                            self.note(message)
                        at += done
                        continue
                except plait.ChannelFull:
                    continue
                self.note(message)
                at += 1

        return part

    def task_sender(self, number):
        dice, channel = self.own()

        async def part():
            at = 0
            while at < self.messages:
                message = (number, at)
                manner = dice.randrange(3)
                try:
                    if manner == 0:
                        await channel.aput(message)
                    elif manner == 1:
                        async with asyncio.timeout(dice.choice([0, 0.0001, 0.01])):
                            await channel.aput(message)
                    else:
                        channel.put_nowait(message)
                except (plait.ChannelFull, TimeoutError):
                    await asyncio.sleep(0)
                    continue
                self.note(message)
                at += 1
                if dice.random() < 0.1:
                    await asyncio.sleep(0)

        return part

    def receiver(self):
        dice, channel = self.own()
        mine: list = []
        self.received.append(mine)

        def part():
            while True:
                manner = dice.randrange(4)
                try:
                    if manner == 0:
                        mine.append(channel.get())
                    elif manner == 1:
                        mine.append(channel.get(timeout=dice.choice([0, 0.0001, 0.01])))
                    elif manner == 2:
                        mine.extend(channel.get_many(dice.randrange(1, 5)))
                    else:
                        mine.append(plait.select(*self.channels, timeout=dice.choice([None, 0.001]))[1])
                except plait.ChannelEmpty:
                    continue
                except plait.ChannelShutDown:
                    if manner == 3 or not self.leftovers():
                        return

        return part

    def leftovers(self):
        """A receiver's own channel is over; it helps with the others, so that messages without a receiver are not left."""
        return any(channel.qsize() for channel in self.channels)

    def task_receiver(self):
        dice, channel = self.own()
        mine: list = []
        self.received.append(mine)

        async def part():
            while True:
                manner = dice.randrange(4)
                try:
                    if manner == 0:
                        mine.append(await channel.aget())
                    elif manner == 1:
                        async with asyncio.timeout(dice.choice([0, 0.0001, 0.01])):
                            mine.append(await channel.aget())
                    elif manner == 2:
                        mine.extend(await channel.aget_many(dice.randrange(1, 5)))
                    else:
                        mine.append((await plait.aselect(*self.channels))[1])
                except TimeoutError:
                    continue
                except plait.ChannelShutDown:
                    if manner == 3 or not self.leftovers():
                        return
                    await asyncio.sleep(0)
                if dice.random() < 0.1:
                    await asyncio.sleep(0)

        return part

    def run(self) -> None:
        senders_left = threading.Semaphore(0)

        def loop_of(number):
            async def main():
                tasks = [asyncio.create_task(part()) for part in self.tasks[number]]
                await asyncio.gather(*tasks[: self.sending_tasks[number]])
                senders_left.release()
                await asyncio.gather(*tasks)

            def body():
                try:
                    asyncio.run(main())
                except BaseException:
                    senders_left.release()
                    raise

            return threading.Thread(target=self.guarded, args=(body,), daemon=True)

        loops = [loop_of(number) for number in range(2)]
        for thread in (*self.threads, *loops):
            thread.start()
        deadline = time.monotonic() + WATCHDOG
        for thread in self.sending:
            thread.join(max(0.0, deadline - time.monotonic()))
        for _ in loops:
            assert senders_left.acquire(timeout=max(0.0, deadline - time.monotonic())), self.report()
        for channel in self.channels:
            channel.shutdown()
        for thread in (*self.threads, *loops):
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), self.report()
        assert not self.errors, self.errors

    def report(self):
        return f"somebody is still blocked: {self.channels}, {self.errors}"

    def check(self) -> None:
        arrived = Counter(message for mine in self.received for message in mine)
        assert arrived == self.sent
        assert set(self.sent.values()) <= {1}
        for mine in self.received:
            last: dict[int, int] = {}
            for sender, number in mine:
                assert last.get(sender, -1) < number, "one sender's messages keep their order"
                last[sender] = number
        for channel in self.channels:
            figures = channel.statistics()
            assert figures["put"] == figures["got"]
            assert not any(figures[f"waiting_{what}"] for what in ("get", "put", "join"))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    capacity=st.sampled_from([0, 1, 2, 7]),
    channels=st.integers(1, 3),
    senders=st.integers(1, 5),
    receivers=st.integers(1, 5),
)
def test_every_message_arrives_once(seed, capacity, channels, senders, receivers):
    # One receiver that looks at all channels: no message is left without one.
    program = Program(seed, capacity, channels, senders, receivers, messages=60)
    drain: list = []
    program.received.append(drain)

    def rest():
        while True:
            try:
                drain.append(plait.select(*program.channels)[1])
            except plait.ChannelShutDown:
                return

    program.threads.append(threading.Thread(target=program.guarded, args=(rest,), daemon=True))
    program.run()
    program.check()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), immediate=st.booleans(), capacity=st.sampled_from([0, 1, 3]))
def test_nobody_is_blocked_after_a_shutdown(seed, immediate, capacity):
    """Shut down in the midst of it: all come back."""
    dice = random.Random(seed)
    channel = plait.Channel(capacity)
    came_back = []

    def wait(part):
        try:
            while True:
                part()
        except plait.ChannelShutDown:
            came_back.append(1)

    async def wait_in_task(part):
        try:
            while True:
                await part()
        except plait.ChannelShutDown:
            came_back.append(1)

    def loop_body():
        async def main():
            await asyncio.gather(
                *(wait_in_task(part) for _ in range(3) for part in (lambda: channel.aput(1), later_get)),
            )

        async def later_get():
            await channel.aget()
            await asyncio.sleep(0)

        asyncio.run(main())

    parts = [lambda: channel.put(1), channel.get, lambda: channel.put_many([1] * 3), lambda: plait.select(channel)]
    threads = [threading.Thread(target=wait, args=(part,), daemon=True) for part in parts * 2]
    threads += [threading.Thread(target=loop_body, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(dice.random() * 0.02)
    channel.shutdown(immediate)
    for thread in threads:
        thread.join(WATCHDOG)
        assert not thread.is_alive(), channel
    assert len(came_back) == len(parts) * 2 + 12


@pytest.mark.soak
def test_every_message_arrives_once_for_long():
    for seed in range(300):
        dice = random.Random(seed)
        program = Program(seed, dice.choice([0, 1, 2, 7]), 1, dice.randrange(1, 6), dice.randrange(1, 6), 300)
        program.run()
        program.check()
