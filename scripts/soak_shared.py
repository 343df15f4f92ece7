"""Kill processes that use shared channels and locks, for minutes: every message accounted for, and nobody left asleep.

    python scripts/soak_shared.py --minutes 10 [--seed N]

In each round a channel, a lock with what it guards and a barrier are used by processes of all start methods, in threads and in
tasks. They are killed at random instants and replaced. At the end of a round the producers are killed and the channel is shut
down: consumers have to end, `join` has to return, what arrived must have been sent once, and what did not must be counted as
lost or have been in the hands of a consumer that was killed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import multiprocessing
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from typing import Any

import plait

METHODS = ("fork", "fork", "forkserver", "spawn")
LATE = 60.0  # seconds after which somebody who should have gone on is stuck
ROUND = 20.0  # seconds of kills in a round


def value_of(chance: random.Random, name: int, number: int) -> Any:
    size = chance.choice((0, 0, 40, 300, 2_000, 20_000, 70_000, 70_000, 300_000))
    return name << 32 | number, b"." * size


def note(file: str, value: int) -> None:
    descriptor = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, struct.pack("<Q", value))
    os.close(descriptor)


def produce(shared: Any, directory: str, name: int) -> None:
    chance = random.Random(name)
    number = 0
    while True:
        values = [value_of(chance, name, number + more) for more in range(chance.choice((1, 1, 1, 3)))]
        number += len(values)
        for value in values:
            note(f"{directory}/begun", value[0])
        if len(values) == 1:
            shared["channel"].put(values[0])
        else:
            shared["channel"].put_many(values)


def consume(shared: Any, directory: str, name: int) -> None:
    channel = shared["channel"]
    while True:
        for value in channel.get_many(3) if name % 2 else [channel.get()]:
            note(f"{directory}/got", value[0])
            channel.task_done()


def consume_in_tasks(shared: Any, directory: str, _name: int) -> None:
    async def take() -> None:
        async for value in shared["channel"]:
            note(f"{directory}/got", value[0])
            shared["channel"].task_done()

    async def main() -> None:
        await asyncio.gather(take(), take())

    asyncio.run(main())


def hold(shared: Any, _directory: str, _name: int) -> None:
    """Keep two numbers equal; whoever finds a dead owner puts right what it left."""
    lock, numbers = shared["lock"], shared["numbers"]
    while True:
        try:
            lock.acquire()
        except plait.OwnerDied:
            if lock.recover():
                numbers[1] = numbers[0]
        if numbers[0] != numbers[1]:
            os.write(2, b"two had the lock\n")
            numbers[3] = 1
        numbers[0] += 1
        numbers[1] += 1
        numbers[2] += 1
        lock.release()


def meet(shared: Any, _directory: str, _name: int) -> None:
    while True:
        try:
            shared["barrier"].wait()
            shared["numbers"][4] += 1
        except plait.BrokenBarrierError:
            shared["barrier"].reset()


PARTS = (produce, produce, consume, consume, consume_in_tasks, hold, hold, meet, meet)
CONSUMERS = (consume, consume_in_tasks)


def run(part: Any, shared: Any, directory: str, name: int) -> None:
    """What a child does."""
    try:
        part(shared, directory, name)
    except plait.ChannelShutDown:
        pass
    except BaseException as error:
        note(f"{directory}/failed", name)
        print(f"{part.__name__} {name}: {error!r}", file=sys.stderr, flush=True)
        raise


def values(file: str) -> list[int]:
    if not os.path.exists(file):
        return []
    with open(file, "rb") as data:
        return [value for (value,) in struct.iter_unpack("<Q", data.read())]


class Round:
    """One set of objects and those who use them."""

    def __init__(self, chance: random.Random, directory: str) -> None:
        self.chance, self.directory = chance, directory
        self.shared: dict[str, Any] = {
            "channel": plait.Channel[Any](chance.choice((1, 4, 64)), shared=True),
            "lock": plait.Lock(shared=True),
            "numbers": plait.shared_array(8, "i8"),
            "barrier": plait.Barrier(2, shared=True),
        }
        self.children: dict[Any, Any] = {}
        self.kills: collections.Counter[str] = collections.Counter()
        self.names = 0
        for part in PARTS:
            self.start(part)

    def start(self, part: Any) -> None:
        self.names += 1
        context: Any = multiprocessing.get_context(self.chance.choice(METHODS))
        child = context.Process(target=run, args=(part, self.shared, self.directory, self.names), daemon=True)
        child.start()
        self.children[child] = part

    def kill(self, child: Any) -> Any:
        part = self.children.pop(child)
        if child.exitcode is not None:
            raise AssertionError(f"{part.__name__} ended by itself, with {child.exitcode}")
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        self.kills[part.__name__] += 1
        return part

    def goes_on(self, what: str, look: Any) -> None:
        before, deadline = look(), time.monotonic() + LATE
        while look() == before:
            if time.monotonic() > deadline:
                figures = {name: each.statistics() for name, each in self.shared.items() if name != "numbers"}
                raise AssertionError(f"nobody goes on with the {what}: {figures}")
            time.sleep(0.001)

    def play(self, until: float) -> None:
        numbers, channel = self.shared["numbers"], self.shared["channel"]
        while time.monotonic() < until:
            time.sleep(self.chance.uniform(0, 0.05))
            self.start(self.kill(self.chance.choice(list(self.children))))
            if self.chance.random() < 0.1:
                self.goes_on("channel", lambda: channel.statistics()["got"])
                self.goes_on("lock", lambda: int(numbers[2]))
                self.goes_on("barrier", lambda: int(numbers[4]))
            assert not numbers[3], "two had the lock"

    def end(self) -> str:
        for child, part in list(self.children.items()):
            if part not in CONSUMERS:
                self.kill(child)
        channel = self.shared["channel"]
        channel.shutdown()
        for child in self.children:
            child.join(LATE)
            assert child.exitcode == 0, f"a consumer ended with {child.exitcode}: {channel.statistics()}"
        joiner = threading.Thread(target=channel.join, daemon=True)
        joiner.start()
        joiner.join(LATE)
        figures = channel.statistics()
        assert not joiner.is_alive(), f"join waits for ever: {figures}"
        return self.account(figures)

    def account(self, figures: dict[str, int]) -> str:
        begun, got = values(f"{self.directory}/begun"), values(f"{self.directory}/got")
        assert not values(f"{self.directory}/failed"), "a child failed"
        assert len(set(got)) == len(got), "a message came twice"
        assert set(got) <= set(begun), "a message came that nobody sent"
        gone = figures["put"] - len(got) - figures["lost"]
        # A consumer has at most three in hand that it has not noted.
        most = 3 * sum(self.kills[part.__name__] for part in CONSUMERS)
        assert 0 <= gone <= most, f"{gone} messages unaccounted for: {figures} {self.kills}"
        for name in ("size", "unfinished", "block_bytes", "waiting_get", "waiting_put", "waiting_join"):
            assert figures[name] == 0, f"{name} is not 0: {figures}"
        return f"{figures['put']:,} messages, {figures['lost']} lost, {gone} in dead hands, {sum(self.kills.values())} kills"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    chance = random.Random(arguments.seed)
    end = time.monotonic() + arguments.minutes * 60
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as directory:
            this = Round(chance, directory)
            this.play(min(end, time.monotonic() + ROUND))
            print(this.end(), flush=True)


if __name__ == "__main__":
    main()
