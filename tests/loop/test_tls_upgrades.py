"""TLS: `start_tls`, over sockets and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from asyncio import transports
from typing import Any

import pytest

from plait.loop._tls import TlsTransport
from tests.loop._tls import Contexts, Echo, Recorder, connect, peer, serving


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
