"""Loops in several threads under all that happens to connections, with a book in which every byte has its place.

Each connection has a client and a server, each of one of four kinds (protocol, buffered protocol, streams, `sock_*`), in the
same loop or in two. Both send a pattern that names the connection, the direction and the place in it, so that a byte that is
lost, comes twice or comes on another connection shows. A fate decides whether a side does so to the end, or leaves: by closing,
by a reset, cancelled at its n-th await, by a timeout, or after the program has closed the transport's socket and taken its
number for another one. Datagrams run beside them.

    counts = soak_round(seed=1, connections=300)

It raises what went wrong. Nothing but choice depends on the seed: the order of events is the machine's.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import os
import random
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import plait
from tests.loop._soak_datagrams import Asker, Echo
from tests.loop._soak_sides import (
    HEAD,
    RESET,
    SIZES,
    BufferedSide,
    ProtocolSide,
    Road,
    Side,
    Talk,
    bind,
    converse,
    fated,
    left_early,
)

KINDS = ("protocol", "buffered", "streams", "sock")


class World:
    """What the threads of a round share. Numbers and dictionaries are changed under the lock, or by one thread only."""

    def __init__(self, seed: int, connections: int, threads: int) -> None:
        self.choice = random.Random(seed)
        self.lock = threading.Lock()
        self.numbers = iter(range(1, connections + 1))
        self.book: dict[int, Talk] = {}
        self.wrong: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.places = [Place(self, number) for number in range(threads)]
        self.finished = 0

    def next_number(self) -> int | None:
        with self.lock:
            return next(self.numbers, None)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def clients_done(self) -> None:
        """The clients of a thread have ended; when all have, every loop is told."""
        with self.lock:
            self.finished += 1
            last = self.finished == len(self.places)
        if last:
            for place in self.places:
                place.loop.call_soon_threadsafe(place.all_clients_done.set_result, None)

    def check(self) -> None:
        """After the end: what each side got is what the other sent, and all of it where nobody left."""
        for connection, talk in self.book.items():
            client, server = talk.sides
            if client is None or server is None:
                assert talk.disturbed, f"{connection} never met"
                assert client is None or client.received == 0, f"{connection} heard from nobody"
                continue
            for receiver, sender in ((client, server), (server, client)):
                assert receiver.received <= sender.sent, f"{connection} got more than was sent"
            if not talk.disturbed:
                assert (server.received, client.received) == talk.totals, f"{connection} lost bytes"
                assert client.ended, f"{connection}: no end of input at the client"
                assert server.ended, f"{connection}: no end of input at the server"
                self.counts["whole"] += 1


class Place:
    """One loop in one thread, with its servers and clients."""

    loop: asyncio.AbstractEventLoop
    all_clients_done: asyncio.Future[None]
    nobody_left: asyncio.Future[None]

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.choice = random.Random(world.choice.random())
        self.open: set[Side] = set()
        self.robberies = 0
        self.watched = False
        self.folder = tempfile.TemporaryDirectory(prefix="plait-soak-")
        self.listeners = {
            (family, kind): self.listen(family, f"{self.folder.name}/{kind}")
            for family in (socket.AF_INET, socket.AF_UNIX)
            for kind in KINDS
        }
        self.addresses = {key: sock.getsockname() for key, sock in self.listeners.items()}
        self.datagrams = {
            socket.AF_INET: bind(socket.AF_INET, ("127.0.0.1", 0)),
            socket.AF_UNIX: bind(socket.AF_UNIX, f"{self.folder.name}/datagrams"),
        }
        self.datagram_addresses = {family: sock.getsockname() for family, sock in self.datagrams.items()}

    @staticmethod
    def listen(family: int, path: str) -> socket.socket:
        sock = bind(family, ("127.0.0.1", 0) if family == socket.AF_INET else path, socket.SOCK_STREAM)
        sock.listen(4096)
        return sock

    def close(self) -> None:
        for sock in (*self.listeners.values(), *self.datagrams.values()):
            sock.close()
        self.folder.cleanup()

    # ---- a round

    def run(self, ready: threading.Barrier, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                self.loop = runner.get_loop()
                self.all_clients_done, self.nobody_left = self.loop.create_future(), self.loop.create_future()
                self.loop.set_exception_handler(self.failed)
                ready.wait()
                runner.run(self.main())
        except BaseException as error:
            self.world.wrong.append(f"a loop ended with {error!r}")
            raise

    def failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.world.wrong.append(f"told to the exception handler: {context}")

    async def main(self) -> None:
        servers = [await self.serve(family, kind, sock) for (family, kind), sock in self.listeners.items()]
        endpoints = [
            await self.loop.create_datagram_endpoint(lambda: Echo(self), sock=sock) for sock in self.datagrams.values()
        ]
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(self.clients(random.Random(self.choice.random())))
                group.create_task(Asker(self, random.Random(self.choice.random()), number).ask())
        self.world.clients_done()
        await self.all_clients_done
        # Connections that were over before they were accepted, and headers that never came.
        await asyncio.sleep(0)
        self.watched = True
        self.look_for_others()
        await self.nobody_left
        for close in servers:
            await close()
        for transport, _ in endpoints:
            transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def left(self, side: Side) -> None:
        self.open.remove(side)
        self.look_for_others()

    def look_for_others(self) -> None:
        if self.watched and not self.open and not self.robberies and not self.nobody_left.done():
            self.nobody_left.set_result(None)

    async def serve(self, family: int, kind: str, sock: socket.socket) -> Callable[[], Awaitable[None]]:
        if kind == "sock":
            task = self.loop.create_task(self.accept(sock))

            async def stop() -> None:
                task.cancel()
                await asyncio.wait([task])

            return stop

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            side = Side(self, self.choice)
            try:
                await fated(side, self.serve_streams(side, reader, writer))
            finally:
                await self.end_streams(side, writer)

        if kind == "streams":
            server: Any = await self.start_streams(handle, family, sock)
        else:
            make = ProtocolSide if kind == "protocol" else BufferedSide
            create: Any = self.loop.create_server if family == socket.AF_INET else self.loop.create_unix_server
            server = await create(lambda: make(self, self.choice), sock=sock, backlog=4096)

        async def close() -> None:
            server.close()
            await server.wait_closed()

        return close

    @staticmethod
    async def start_streams(handle: Any, family: int, sock: socket.socket) -> asyncio.Server:
        start: Any = asyncio.start_server if family == socket.AF_INET else asyncio.start_unix_server
        return await start(handle, sock=sock, backlog=4096)

    async def accept(self, listener: socket.socket) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                sock, _ = await self.loop.sock_accept(listener)
                tasks.add(task := self.loop.create_task(self.serve_sock(sock)))
                task.add_done_callback(tasks.discard)
        finally:
            while tasks:  # connections that were over before they were accepted
                await asyncio.wait(tasks)

    async def serve_sock(self, sock: socket.socket) -> None:
        side = Side(self, self.choice)
        try:
            await fated(side, self.serve_road(side, self.sock_road(side, sock)))
        finally:
            self.end_sock(side, sock)

    async def serve_streams(self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.serve_road(side, self.stream_road(side, reader, writer))

    async def serve_road(self, side: Side, road: Road) -> None:
        while side.talk is None:
            if not (data := await road.receive(HEAD.size - len(side.head))):
                return
            side.arrived(data)
        await fated(side, converse(side, road))

    # ---- clients

    async def clients(self, choice: random.Random) -> None:
        while (number := self.world.next_number()) is not None:
            self.world.book[number] = Talk((choice.choice(SIZES), choice.choice(SIZES)))
            place = choice.choice(self.world.places)
            family, _ = key = choice.choice(list(place.addresses))
            kind = choice.choice(KINDS)
            side: Any = {"protocol": ProtocolSide, "buffered": BufferedSide}.get(kind, Side)(self, choice, number)
            self.world.count(f"{side.fate}, {kind}")
            client = {"streams": self.stream_client, "sock": self.sock_client}.get(kind, self.protocol_client)
            await client(side, family, place.addresses[key])

    async def protocol_client(self, side: Any, family: int, address: Any) -> None:
        connected = await fated(side, self.connect(side, lambda: side, family, address))
        if connected is not None:
            await side.gone
        elif not hasattr(side, "transport"):
            side.over()
        elif side.fate != "cancelled":
            left_early(side)

    async def connect(self, side: Side, protocol: Any, family: int, address: Any) -> Any:
        """A transport by one of the ways there are."""
        if side.fate == "robbed":
            sock = self.make_socket(family)
            try:
                await self.loop.sock_connect(sock, address)
                connected = await self.loop.create_connection(protocol, sock=sock)
            except BaseException:
                sock.close()
                raise
            side.sock = sock  # type: ignore[attr-defined]
            return connected
        if family == socket.AF_INET:
            return await self.loop.create_connection(protocol, *address)
        return await self.loop.create_unix_connection(protocol, address)

    async def stream_client(self, side: Side, family: int, address: Any) -> None:
        writer: asyncio.StreamWriter | None = None

        async def work() -> None:
            nonlocal writer
            reader = asyncio.StreamReader(limit=side.choice.choice((100, 65_536)))
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self.connect(side, lambda: protocol, family, address)
            writer = asyncio.StreamWriter(transport, protocol, reader, self.loop)
            await converse(side, self.stream_road(side, reader, writer))

        try:
            await fated(side, work())
        finally:
            await self.end_streams(side, writer)

    async def sock_client(self, side: Side, family: int, address: Any) -> None:
        sock = self.make_socket(family)

        async def work() -> None:
            await self.loop.sock_connect(sock, address)
            await converse(side, self.sock_road(side, sock))

        try:
            await fated(side, work())
        finally:
            self.end_sock(side, sock)

    @staticmethod
    def make_socket(family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        return sock

    # ---- roads, and how they end

    def stream_road(self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Road:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        return Road(send, reader.read, writer.write_eof, writer.get_extra_info("socket"))

    def sock_road(self, side: Side, sock: socket.socket) -> Road:
        async def receive(most: int) -> bytes:
            if side.choice.random() < 0.5:
                return await self.loop.sock_recv(sock, most)
            memory = bytearray(most)
            return bytes(memory[: await self.loop.sock_recv_into(sock, memory)])

        return Road(
            lambda data: self.loop.sock_sendall(sock, data), receive, lambda: sock.shutdown(socket.SHUT_WR), sock
        )

    async def end_streams(self, side: Side, writer: asyncio.StreamWriter | None) -> None:
        if writer is not None:
            sock = getattr(side, "sock", None)
            if side.fate == "reset" and not writer.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
            elif side.fate == "robbed" and sock is not None and not writer.is_closing():
                side.sock = None  # type: ignore[attr-defined]
                self.rob(side, writer.transport, sock)
            elif side.fate == "well":
                writer.close()
            else:
                writer.transport.abort()
            try:
                await writer.wait_closed()
            except OSError:
                left_early(side)
        side.over()

    def end_sock(self, side: Side, sock: socket.socket) -> None:
        if side.fate == "reset" and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        side.over()

    def rob(self, side: Side, transport: Any, sock: socket.socket) -> None:
        """Closes a transport's socket behind its back: who gets the number next must notice nothing."""
        self.robberies += 1
        sock.close()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        if side.sent < side.total and not transport.is_closing():
            transport.write(side.piece())
        transport.pause_reading()
        theirs.send(b"mine")
        transport.resume_reading()
        self.loop.call_later(side.choice.random() / 500, self.robbed, transport, ours, theirs)

    def robbed(self, transport: Any, ours: socket.socket, theirs: socket.socket) -> None:
        transport.abort()
        found: list[bytes | None] = []
        for sock in (ours, ours, theirs):
            try:
                found.append(sock.recv(1000))
            except BlockingIOError:
                found.append(None)
        if found != [b"mine", None, None]:
            self.world.wrong.append(f"somebody used another's socket: {found}")
        ours.close()
        theirs.close()
        self.world.count("robbed")
        self.robberies -= 1
        self.look_for_others()


def soak_round(
    seed: int,
    connections: int,
    threads: int = 3,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = plait.new_event_loop,
) -> collections.Counter[str]:
    """So many connections in so many loops, to their end and compared; how many there were of what."""
    world = World(seed, connections, threads)
    ready = threading.Barrier(threads)
    workers = [threading.Thread(target=place.run, args=(ready, loop_factory)) for place in world.places]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for place in world.places:
            place.close()
    assert not world.wrong, "\n".join(world.wrong[:20])
    world.check()
    return world.counts


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Bytes of memory that this process has, without what its allocator keeps for later."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
