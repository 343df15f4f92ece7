"""TLS: `start_tls`, over sockets and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from asyncio import transports
from typing import Any

import pytest

import plait
from plait.loop._tls import TlsTransport
from tests.loop._tls import Contexts, Echo, Recorder, connect, peer, serving, until


def test_closing_below_while_tls_is_being_set_up_is_an_error(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        def talk(sock: socket.socket) -> None:
            with contextlib.suppress(ConnectionError):
                while sock.recv(1000):
                    pass

        loop: Any = asyncio.get_running_loop()
        with peer(talk) as port:
            transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port)
            upgrade = asyncio.create_task(loop.start_tls(transport, protocol, tls.client, server_hostname="localhost"))
            await asyncio.sleep(0.01)
            transport.close()
            with pytest.raises(ConnectionAbortedError):
                await upgrade

    run(main())


def test_what_the_client_has_sent_before_the_server_begins(tls: Contexts) -> None:
    """It lies in the server's reader. The standard library takes it from there since 3.14 only."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            waits: Any = reader
            await waits._wait_for_data("serve")
            await writer.start_tls(tls.server)
            writer.write(await reader.readline())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await writer.start_tls(tls.client, server_hostname="localhost")
        writer.write(b"ping\n")
        assert await reader.readline() == b"ping\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    plait.run(main())


def test_tls_in_tls(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        tasks = set()
        data = os.urandom(300_000)

        class Twice(Recorder):
            def connection_made(self, transport: Any) -> None:
                async def echo() -> None:
                    upgraded = await loop.start_tls(transport, self, tls.server, server_side=True)
                    # Some of it may have come with the end of the handshake.
                    upgraded.write(await self.has(len(data)))

                tasks.add(loop.create_task(echo()))

        async with serving(Twice, ssl=tls.server) as port:
            outer, protocol = await connect(Recorder, port, tls.client)
            inner = await loop.start_tls(outer, protocol, tls.client, server_hostname="localhost")
            assert inner is not outer
            assert inner.get_extra_info("ssl_object") is not outer.get_extra_info("ssl_object")
            inner.write(data)
            assert await protocol.has(len(data)) == data
            inner.close()
            await protocol.lost.wait()
            assert protocol.cause is None
            assert protocol.events.count("made") == 1
            await asyncio.gather(*tasks)

    runner.run(main())


def test_a_transport_that_is_not_ours_gets_the_standard_librarys_tls(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        class Foreign(transports._FlowControlMixin, asyncio.Transport):
            """Passes everything on."""

            _start_tls_compatible = True

            def __init__(self, below: Any) -> None:
                self.below = below
                super().__init__(loop=loop)

            def __getattribute__(self, name: str) -> Any:
                below = object.__getattribute__(self, "below") if name != "below" else None
                if name in ("write", "close", "abort", "_force_close", "pause_reading", "resume_reading"):
                    return getattr(below, name)
                if name in ("get_extra_info", "set_protocol", "get_protocol", "is_closing"):
                    return getattr(below, name)
                return object.__getattribute__(self, name)

        async with serving(Echo, ssl=tls.server) as port:
            below, protocol = await loop.create_connection(Recorder, "127.0.0.1", port)
            transport = await loop.start_tls(Foreign(below), protocol, tls.client, server_hostname="localhost")
            assert not isinstance(transport, TlsTransport)
            transport.write(b"hello")
            assert await protocol.has(5) == b"hello"
            transport.close()
            await protocol.lost.wait()

    run(main())


def test_start_tls_wants_a_context_and_a_transport(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with serving(Echo) as port:
            transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port)
            with pytest.raises(TypeError, match=r"sslcontext is expected to be an instance of ssl.SSLContext"):
                await loop.start_tls(transport, protocol, None)
            with pytest.raises(TypeError, match="is not supported by start_tls"):
                await loop.start_tls(asyncio.Transport(), protocol, tls.client)
            transport.abort()
            await protocol.lost.wait()

    runner.run(main())


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_transport_that_was_lost_cannot_be_upgraded(run: Any, tls: Contexts, encrypted: bool) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with serving(Echo, ssl=tls.server if encrypted else None) as port:
            name = "localhost" if encrypted else None
            context = tls.client if encrypted else None
            transport, protocol = await loop.create_connection(
                Recorder, "127.0.0.1", port, ssl=context, server_hostname=name
            )
            transport.abort()
            await protocol.lost.wait()
            await asyncio.sleep(0)
            for _ in range(2):
                with pytest.raises(ConnectionResetError):
                    await loop.start_tls(transport, protocol, tls.client, server_hostname="localhost")
            assert protocol.events == ["made", "lost"]

    run(main())


def test_a_protocol_hears_of_a_reset_while_it_is_upgraded(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        def talk(sock: socket.socket) -> None:
            sock.recv(1000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))

        loop: Any = asyncio.get_running_loop()
        with peer(talk) as port:
            transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port)
            with pytest.raises(ConnectionResetError):
                await loop.start_tls(transport, protocol, tls.client, server_hostname="localhost")
            await protocol.lost.wait()
            assert isinstance(protocol.cause, ConnectionResetError)
            assert protocol.events == ["made", "lost"]

    run(main())


def test_a_protocol_hears_of_an_upgrade_that_takes_too_long(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        def talk(sock: socket.socket) -> None:
            with contextlib.suppress(ConnectionError):
                while sock.recv(1000):
                    pass

        loop: Any = asyncio.get_running_loop()
        with peer(talk) as port:
            transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port)
            with pytest.raises(ConnectionAbortedError):
                await loop.start_tls(
                    transport, protocol, tls.client, server_hostname="localhost", ssl_handshake_timeout=0.05
                )
            await protocol.lost.wait()
            assert isinstance(protocol.cause, ConnectionAbortedError)

    run(main())


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_peer_hears_why_its_upgrade_is_refused_whatever_was_written_before(
    run: Any, tls: Contexts, pieces: int
) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        upgrades: list[asyncio.Task[Any]] = []

        class Asks(Recorder):
            def data_received(self, data: bytes) -> None:
                # Several writes in a turn go out together, at its end, from then on.
                for _ in range(pieces):
                    self.transport.write(b"ok")
                if data == b"tls":
                    upgrade = loop.start_tls(self.transport, self, tls.server, server_side=True)
                    upgrades.append(loop.create_task(upgrade))

        async with serving(Asks) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for word in [b"a", b"b", b"tls"]:
                writer.write(word)
                assert await reader.readexactly(2 * pieces) == b"ok" * pieces
                await asyncio.sleep(0)
            await until(lambda: bool(upgrades))
            await asyncio.sleep(0.02)
            writer.write(b"\x16\x03\x01\x00\x05garba")
            alert = await reader.read()
            assert alert[:2] == b"\x15\x03"
            with pytest.raises(ssl.SSLError):
                await upgrades[0]
            writer.close()

    run(main())
