"""Many connections that pause, half-close, reset, are cancelled and get each other's descriptors: each byte stays on its own.

Whoever sends writes a pattern that names the connection, the direction and the place in it, so that a byte that is lost, comes
twice or comes on another connection shows.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

import plait

HEAD = struct.Struct("!II")
MOST = 400_000  # bytes in each direction


def pattern(connection: int, direction: int, begin: int, end: int) -> bytes:
    """The bytes from `begin` to `end` of what is sent."""
    return _whole(connection * 2 + direction)[begin:end]


@functools.lru_cache(maxsize=200)
def _whole(seed: int) -> bytes:
    return random.Random(seed).randbytes(MOST)


class Peer(asyncio.Protocol):
    """One side: sends a pattern in pieces, checks what it gets, and does what chance says."""

    def __init__(self, world: World, connection: int | None, choice: random.Random) -> None:
        self.world, self.connection, self.choice = world, connection, choice
        self.received = bytearray()
        self.sent, self.total = 0, 0
        self.ended = self.reset = self.paused = False
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.world.open.add(self)
        if self.choice.random() < 0.5:
            transport.set_write_buffer_limits(self.choice.randrange(100_000))
        if self.connection is not None:
            self.total = self.choice.choice([0, 10, 1000, 70_000, MOST])
            transport.write(HEAD.pack(self.connection, self.total))
            self.more()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.connection is None and len(self.received) >= HEAD.size:
            self.connection, self.total = HEAD.unpack_from(self.received)
            del self.received[: HEAD.size]
            self.world.serving[self.connection] = self
            self.more()
        self.chance()

    def eof_received(self) -> bool:
        self.ended = True
        return self.sent < self.total  # goes on sending

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False
        self.more()

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.lost.done()
        self.world.open.remove(self)
        self.lost.set_result(exc)

    def more(self) -> None:
        """Sends until it is paused; ends when all is sent."""
        direction = 0 if self in self.world.clients else 1
        while self.sent < self.total and not self.paused and not self.transport.is_closing():
            end = min(self.total, self.sent + self.choice.choice([1, 50, 5000, 100_000]))
            piece = pattern(self.connection or 0, direction, self.sent, end)
            self.sent = end
            self.write(piece)
        if self.sent == self.total and not self.transport.is_closing():
            self.transport.close() if self.ended else self.transport.write_eof()

    def write(self, piece: bytes) -> None:
        match self.choice.randrange(4):
            case 0:
                changing = bytearray(piece)
                self.transport.write(changing)
                changing[:] = bytes(len(changing))
            case 1:
                middle = len(piece) // 2
                self.transport.writelines([piece[:middle], memoryview(piece)[middle:]])
            case _:
                self.transport.write(piece)

    def chance(self) -> None:
        chance, loop = self.choice.random(), asyncio.get_running_loop()
        if chance < 0.01:
            self.reset = True
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        elif chance < 0.02:
            self.reset = True
            self.transport.close()
        elif chance < 0.3 and self.transport.is_reading():
            self.transport.pause_reading()
            loop.call_later(self.choice.random() / 500, self.transport.resume_reading)


class World:
    """All connections of a run."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.open: set[Peer] = set()
        self.clients: set[Peer] = set()
        self.serving: dict[int, Peer] = {}
        self.cancelled = 0

    def peer(self, connection: int | None = None) -> Peer:
        peer = Peer(self, connection, random.Random(self.choice.random()))
        if connection is not None:
            self.clients.add(peer)
        return peer

    async def client(self, number: int, address: Any) -> None:
        """One connection from its beginning to its end, or cancelled somewhere."""
        loop = asyncio.get_running_loop()
        if self.choice.random() < 0.1:
            connecting = asyncio.ensure_future(loop.create_connection(lambda: self.peer(number), *address))
            for _ in range(self.choice.randrange(4)):
                await asyncio.sleep(0)
            connecting.cancel()
            try:
                transport, _ = await connecting
                transport.abort()
            except asyncio.CancelledError:
                self.cancelled += 1
            return
        _, peer = await loop.create_connection(lambda: self.peer(number), *address)
        await peer.lost
        self.check(number, peer)

    def check(self, number: int, client: Peer) -> None:
        server = self.serving.get(number)
        if server is None:
            assert not client.received
            return
        for receiver, sender, direction in ((client, server, 1), (server, client, 0)):
            got = bytes(receiver.received)
            assert got == pattern(number, direction, 0, len(got)), f"connection {number}"
            assert len(got) <= sender.sent

    def check_all(self) -> int:
        """After the end of all connections: undisturbed ones have everything. Returns how many of those there were."""
        whole = 0
        for client in self.clients:
            server = self.serving.get(client.connection or 0)
            if server is not None:
                self.check(client.connection or 0, client)
                if not client.reset and not server.reset and client.ended and server.ended:
                    assert len(client.received) == server.total == len(server.received)
                    whole += 1
        return whole


async def soak(seed: int, connections: int, at_once: int) -> World:
    world = World(seed)
    server = await asyncio.get_running_loop().create_server(world.peer, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    numbers: Iterator[int] = iter(range(1, connections + 1))

    async def clients() -> None:
        for number in numbers:
            await world.client(number, address)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(clients())
    server.close()
    while world.open:
        # Peers of connections that were cancelled.
        for peer in list(world.open):
            if peer not in world.clients and peer.connection is None:
                peer.transport.abort()
        await asyncio.sleep(0.001)
    return world


@pytest.mark.parametrize("seed", range(4))
def test_every_byte_stays_on_its_own_connection(seed: int) -> None:
    with asyncio.Runner(loop_factory=plait.new_event_loop) as runner:
        before = len(os.listdir("/proc/self/fd"))
        world = runner.run(soak(seed, connections=400, at_once=20))
        assert world.check_all() > 50
        assert world.cancelled > 10
        del world
        gc.collect()
        runner.run(asyncio.sleep(0))
        # The loop's own: what it sleeps on, signals, and the threads of `getaddrinfo` none.
        assert len(os.listdir("/proc/self/fd")) <= before + 4
        assert not [each for each in gc.get_objects() if type(each).__name__ in ("SocketTransport", "Peer")]
