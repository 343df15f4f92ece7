"""What the tests of TLS share: contexts, protocols, peers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Contexts(NamedTuple):
    """Of a server called `localhost`, and of clients that trust it; where its key and certificate are."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    key: Path
    certificate: Path

    def new_server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def new_client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(self.certificate)
        return context


class Recorder(asyncio.Protocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = bytearray()
        self.transport: Any = None
        self.cause: Any = "none yet"
        self.made, self.lost, self.arrived = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.paused, self.resumed = asyncio.Event(), asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.events.append("made")
        self.transport = transport
        self.made.set()

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        self.data += data
        self.arrived.set()

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        return None

    def pause_writing(self) -> None:
        self.events.append("pause")
        self.paused.set()

    def resume_writing(self) -> None:
        self.events.append("resume")
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.cause = exc
        self.lost.set()

    async def has(self, size: int) -> bytes:
        while len(self.data) < size:
            self.arrived.clear()
            await self.arrived.wait()
        return bytes(self.data)


class Buffered(Recorder, asyncio.BufferedProtocol):
    """The same with memory of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= len(self.buffer)
        self.data_received(bytes(self.buffer[:nbytes]))


class Echo(asyncio.Protocol):
    """Gives back what it gets."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.asynccontextmanager
async def serving(factory: Callable[[], Any], **kwargs: Any) -> AsyncIterator[int]:
    """A server on a port."""
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, **kwargs)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def connect(factory: Callable[[], Any], port: int, context: ssl.SSLContext, **kwargs: Any) -> Any:
    loop: Any = asyncio.get_running_loop()
    return await loop.create_connection(factory, "127.0.0.1", port, ssl=context, server_hostname="localhost", **kwargs)


@contextlib.contextmanager
def peer(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of one connection in a thread, whose socket `talk` gets: its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            connection.settimeout(60)
            with connection:
                talk(connection)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join()
        listener.close()
    if errors:
        raise errors[0]


class Report(list[dict[str, Any]]):
    """What the loop's exception handler is told."""

    def __call__(self, loop: Any, context: dict[str, Any]) -> None:
        self.append(context)
