"""What the processes of the tests of shared channels and locks run: every start method finds it here."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any

import plait


def echo(inward: Any, outward: Any) -> None:
    """Send everything back, then say so."""
    for message in inward:
        outward.put(message)
    outward.put("end")


def echo_in_tasks(inward: Any, outward: Any) -> None:
    async def main() -> None:
        async for message in inward:
            await outward.aput(message)
        await outward.aput("end")

    asyncio.run(main())


def hold(lock: Any, ready: Any) -> None:
    """Take a lock and keep it until killed."""
    lock.acquire()
    ready.put(os.getpid())
    plait.Channel(1, shared=True).get()


def call_and_forget(orders: Any, answers: Any) -> None:
    """Call a method of each lock that comes, and let go of the handle."""
    for lock, method in orders:
        getattr(lock, method)()
        del lock
        answers.put(method)


def count_up(lock: Any, total: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            total[0] += 1


def answer(there: Any, back: Any) -> str:
    back.put("hello")
    return str(there.get(timeout=60))


def produce(channel: Any, begun: int, sent: int, name: int) -> None:
    """Put numbers for ever, of many sizes, each noted before and after."""
    number = 0
    while True:
        value = name << 32 | number
        os.write(begun, struct.pack("<Q", value))
        channel.put((value, b"." * (number * 37 % 700 if number % 50 else 40_000)))
        os.write(sent, struct.pack("<Q", value))
        number += 1


def consume(channel: Any, got: int, _sent: int, _name: int) -> None:
    """Take messages until the channel is shut down, each noted when it is there."""
    for value, _data in channel:
        os.write(got, struct.pack("<Q", value))
        channel.task_done()


def put_one(channel: Any) -> None:
    channel.put(1)


def pass_often(barrier: Any, told: Any, times: int) -> None:
    """Pass a barrier some times, and say with which numbers."""
    told.put([barrier.wait(timeout=60) for _ in range(times)])


def select_often(told: Any, channels: tuple[Any, ...]) -> None:
    """Take from several channels until they are shut down, and say what came."""
    found = []
    try:
        while True:
            found.append(plait.select(*channels)[1])
    except plait.ChannelShutDown:
        told.put(found)


def select_in_tasks(told: Any, channels: tuple[Any, ...]) -> None:
    async def main() -> None:
        found = []
        try:
            while True:
                found.append((await plait.aselect(*channels))[1])
        except plait.ChannelShutDown:
            await told.aput(found)

    asyncio.run(main())


def consume_from_several(channels: tuple[Any, ...], got: int) -> None:
    """Take numbers until all channels are shut down, each noted when it is there."""
    while True:
        value = plait.select(*channels)[1][0]
        os.write(got, struct.pack("<Q", value))
