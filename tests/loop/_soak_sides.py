"""The two sides of a connection in the soak of the event loop: what each sends, how it compares what it gets, and its fate."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.loop._soak import Place

HEAD = struct.Struct("!QII")  # the connection, how much the client sends, the seed of the server's choices
FATES = ("well",) * 12 + ("close", "reset", "cancelled", "cancelled inside", "late", "robbed")
SIZES = (0, 1, 10) + (1000,) * 6 + (5000,) * 6 + (20_000,) * 3 + (70_000, 300_000)
MOST = max(SIZES)
SPREAD = 65_521
TABLE = random.Random(0).randbytes(SPREAD + MOST)
TO_SERVER, TO_CLIENT = 0, 1
RESET = struct.pack("ii", 1, 0)


def pattern(connection: int, direction: int, begin: int, end: int) -> bytes:
    """The bytes from `begin` to `end` of what is sent."""
    start = (connection * 7919 + direction * 31_337) % SPREAD
    return TABLE[start + begin : start + end]


def bind(family: int, address: Any, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    """A socket that does not block, with an address."""
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    sock.bind(address)
    return sock


class Leaves(Exception):
    """A side goes before its time."""


class CancelledAt:
    """Awaits a coroutine, and cancels its task when that waits for the n-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], number: int) -> None:
        self.coroutine, self.number = coroutine, number

    def __await__(self) -> Generator[Any, Any, Any]:
        inner, waits, error = self.coroutine.__await__(), 0, None
        while True:
            try:
                waited = inner.send(None) if error is None else inner.throw(error)
            except StopIteration as end:
                return end.value
            waits += 1
            if waits == self.number:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                error = None
                yield waited
            except BaseException as thrown:
                error = thrown


class Talk:
    """What the book has of one connection."""

    __slots__ = ("disturbed", "sides", "totals")

    def __init__(self, totals: tuple[int, int]) -> None:
        self.totals = totals
        self.sides: list[Side | None] = [None, None]
        self.disturbed = False


class Side:
    """One end of a connection: what it has to send, what it got, and what is to become of it."""

    connection: int
    talk: Talk | None = None
    fate = "well"
    total = 0

    def __init__(self, place: Place, choice: random.Random, connection: int | None = None) -> None:
        self.place, self.choice = place, choice
        self.direction = TO_CLIENT if connection is None else TO_SERVER
        self.sent = self.received = 0
        self.ended = False
        self.head = bytearray()
        place.open.add(self)
        if connection is not None:
            self.learn(connection, choice.choice(FATES))

    def learn(self, connection: int, fate: str) -> None:
        """From here on it is known which connection this is."""
        talk = self.place.world.book[connection]
        assert talk.sides[self.direction] is None, f"{connection} came twice"
        self.connection, self.talk, self.fate = connection, talk, fate
        talk.sides[self.direction] = self
        self.total = talk.totals[self.direction]
        self.leaves_at = self.choice.randrange(sum(talk.totals) + 1)
        if fate != "well":
            talk.disturbed = True

    def header(self) -> bytes:
        return HEAD.pack(self.connection, self.total, self.choice.getrandbits(32))

    def arrived(self, data: bytes) -> None:
        """Compares what came with what must come here."""
        if self.talk is None:
            self.head += data
            if len(self.head) < HEAD.size:
                return
            connection, total, seed = HEAD.unpack_from(self.head)
            data = bytes(self.head[HEAD.size :])
            self.choice = random.Random(seed)
            if connection not in self.place.world.book:
                self.place.world.wrong.append(f"no connection has the number {connection}")
                raise Leaves
            self.learn(connection, self.choice.choice(FATES))
            if total != self.place.world.book[connection].totals[TO_SERVER]:
                self.place.world.wrong.append(f"{connection}: a header of another one")
        end = self.received + len(data)
        if data != pattern(self.connection, 1 - self.direction, self.received, end):
            self.place.world.wrong.append(
                f"{self.connection}: wrong bytes at {self.received}, direction {self.direction}"
            )
            raise Leaves
        self.received = end

    def piece(self) -> bytes:
        """What is to be sent next."""
        begin, self.sent = self.sent, min(self.total, self.sent + self.choice.choice((1, 50, 5000, 100_000)))
        return pattern(self.connection, self.direction, begin, self.sent)

    def is_time(self) -> bool:
        """Whether it is to leave now, if ever."""
        return self.fate not in ("well", "cancelled", "late") and self.sent + self.received >= self.leaves_at

    def over(self) -> None:
        self.place.left(self)


class Talker(Side):
    """A side that is a protocol."""

    transport: Any
    paused = False
    lost = False
    sock: socket.socket | None = None
    """The socket that the program had before the transport got it."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.gone = asyncio.get_running_loop().create_future()
        if self.choice.random() < 0.3:
            transport.set_write_buffer_limits(self.choice.randrange(100_000))
        if self.talk is not None:
            transport.write(self.header())
            self.begin()

    def begin(self) -> None:
        if self.fate == "late":
            asyncio.get_running_loop().call_later(self.choice.random() / 100, self.transport.abort)
        self.more()

    def take(self, data: bytes) -> None:
        assert not self.lost, "bytes after the end"
        assert not self.ended, "bytes after the end of input"
        knew = self.talk is not None
        try:
            self.arrived(data)
        except Leaves:
            self.transport.abort()
            return
        if not knew and self.talk is not None:
            self.begin()
        if self.is_time():
            self.leave()
        elif self.choice.random() < 0.1 and self.transport.is_reading():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.choice.random() / 500, self.transport.resume_reading)

    def eof_received(self) -> bool:
        assert not self.ended
        self.ended = True
        return self.talk is not None and self.sent < self.total

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False
        self.more()

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.lost
        self.lost = True
        self.gone.set_result(exc)
        self.over()

    def more(self) -> None:
        """Sends until it is paused; ends its output when all is sent."""
        while self.sent < self.total and not self.paused and not self.transport.is_closing():
            self.write(self.piece())
            if self.is_time():
                self.leave()
                return
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

    def leave(self) -> None:
        match self.fate:
            case "reset":
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self.transport.abort()
            case "robbed" if self.sock is not None:
                sock, self.sock = self.sock, None
                self.place.rob(self, self.transport, sock)
            case "cancelled inside":
                self.transport.abort()
            case _:
                self.transport.close()


class ProtocolSide(Talker, asyncio.Protocol):
    """Gets its bytes as objects."""

    def data_received(self, data: bytes) -> None:
        self.take(data)


class BufferedSide(Talker, asyncio.BufferedProtocol):
    """Gets its bytes in memory of its own."""

    def get_buffer(self, sizehint: int) -> bytearray:
        self.memory = bytearray(self.choice.choice((1, 1000, 65_536)))
        return self.memory

    def buffer_updated(self, nbytes: int) -> None:
        self.take(bytes(self.memory[:nbytes]))


class Road:
    """How a side that is a coroutine sends and receives."""

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[Any]],
        receive: Callable[[int], Awaitable[bytes]],
        end_output: Callable[[], None],
        sock: Any,
    ) -> None:
        self.send, self.receive, self.end_output, self.sock = send, receive, end_output, sock


async def converse(side: Side, road: Road) -> None:
    """Sends and receives everything; `Leaves` when it is time to."""

    async def send() -> None:
        if side.direction == TO_SERVER:
            await road.send(side.header())
        while side.sent < side.total:
            await road.send(side.piece())
            await pause()
        road.end_output()

    async def receive() -> None:
        while data := await road.receive(side.choice.choice((100, 5000, 65_536))):
            side.arrived(data)
            await pause()
        side.ended = True

    async def pause() -> None:
        if side.is_time():
            if side.fate == "robbed" and isinstance(road.sock, socket.socket):
                road.sock.close()  # while the other task waits for it, and others take the number
                await asyncio.sleep(0.001)
            raise Leaves
        if side.choice.random() < 0.1:
            await asyncio.sleep(side.choice.choice((0, 0, 0.002)))

    async def within(work: Coroutine[Any, Any, None]) -> None:
        if side.fate != "cancelled inside":
            return await work
        try:
            await CancelledAt(work, side.choice.randrange(1, 30))
        except asyncio.CancelledError:
            raise Leaves from None

    async with asyncio.TaskGroup() as group:
        group.create_task(within(send()))
        group.create_task(within(receive()))


async def fated(side: Side, work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a side's coroutine, and cancels it or has it too late if that is its fate; None when it left."""
    task = asyncio.current_task()
    assert task is not None
    cancelled = task.cancelling()
    try:
        if side.fate == "cancelled":
            return await CancelledAt(work, side.choice.randrange(1, 14))
        if side.fate == "late":
            async with asyncio.timeout(side.choice.random() / 100):
                return await work
        return await work
    except asyncio.CancelledError:
        if side.fate != "cancelled":
            raise
    except (Leaves, OSError, asyncio.IncompleteReadError):
        left_early(side)
    except BaseExceptionGroup as group:
        _, others = group.split((Leaves, OSError))
        if others is not None:
            raise
        left_early(side)
    finally:
        if side.fate == "cancelled":
            while task.cancelling() > cancelled:
                task.uncancel()
    return None


def left_early(side: Side) -> None:
    """It was not the end that everybody meant: by its own fate, or because the other left."""
    if side.talk is not None and not side.talk.disturbed:
        side.place.world.wrong.append(f"{side.connection}: an error, and nobody left")
