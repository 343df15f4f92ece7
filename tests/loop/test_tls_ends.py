"""TLS: how it ends, and what is left then."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import threading
import weakref
from typing import Any

import pytest

from tests.loop._tls import Contexts, Echo, Recorder, Report, connect, peer, serving, until


def test_a_stream_cut_off_within_a_record_is_an_end(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        server = tls.server

        def talk(sock: socket.socket) -> None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            ssl_object = server.wrap_bio(incoming, outgoing, server_side=True)
            while True:
                try:
                    ssl_object.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(10_000))
            ssl_object.write(b"whole")
            sock.sendall(outgoing.read())
            ssl_object.write(b"x" * 1000)
            sock.sendall(outgoing.read()[:500])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1000):
                pass

        with peer(talk) as port:
            _, protocol = await connect(Recorder, port, tls.client)
            await protocol.lost.wait()
            assert bytes(protocol.data) == b"whole"
            assert protocol.events == ["made", "eof", "lost"]
            assert protocol.cause is None

    runner.run(main())


def test_a_record_that_was_tampered_with_ends_the_connection(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        def talk(sock: socket.socket) -> None:
            with tls.server.wrap_socket(sock, server_side=True) as secure:
                secure.sendall(b"good")
                secure.recv(1)
                os.write(secure.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
                with contextlib.suppress(OSError):
                    while secure.recv(1000):
                        pass

        with peer(talk) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            assert await protocol.has(4) == b"good"
            transport.write(b"x")
            await protocol.lost.wait()
            assert isinstance(protocol.cause, ssl.SSLError)

    runner.run(main())


def test_the_peers_word_of_its_end_is_an_end_and_is_answered(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        def talk(sock: socket.socket) -> None:
            secure = tls.server.wrap_socket(sock, server_side=True)
            secure.sendall(b"last words")
            # Raises unless the answer comes.
            secure.unwrap().close()

        with peer(talk) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            await protocol.lost.wait()
            assert bytes(protocol.data) == b"last words"
            assert protocol.events == ["made", "eof", "lost"]
            assert protocol.cause is None
            assert transport.is_closing()

    runner.run(main())


def test_what_is_written_at_the_peers_end_arrives(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        class Polite(Recorder):
            def eof_received(self) -> None:
                self.transport.write(b"good")
                self.transport.write(b"bye")

        got: list[bytes] = []

        def talk(sock: socket.socket) -> None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            ssl_object = tls.server.wrap_bio(incoming, outgoing, server_side=True)
            steps = iter([ssl_object.do_handshake, ssl_object.unwrap])
            step = next(steps, None)
            while step:
                try:
                    step()
                    step = next(steps, None)
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    if step == ssl_object.unwrap:
                        break
                    incoming.write(sock.recv(10_000))
            with contextlib.suppress(ssl.SSLZeroReturnError):
                while True:
                    try:
                        got.append(ssl_object.read())
                    except ssl.SSLWantReadError:
                        incoming.write(sock.recv(10_000))

        with peer(talk) as port:
            _, protocol = await connect(Polite, port, tls.client)
            await protocol.lost.wait()
        assert b"".join(got) == b"goodbye"

    run(main())


def test_true_from_eof_received_is_warned_of(
    runner: asyncio.Runner, tls: Contexts, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        class Stays(Recorder):
            def eof_received(self) -> bool:
                super().eof_received()
                return True

        with peer(lambda sock: tls.server.wrap_socket(sock, server_side=True).unwrap().close()) as port:
            _, protocol = await connect(Stays, port, tls.client)
            await protocol.lost.wait()

    runner.run(main())
    assert "returning true from eof_received() has no effect when using ssl" in caplog.text


def test_closing_ends_when_the_peer_never_answers(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        done = threading.Event()

        def talk(sock: socket.socket) -> None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            ssl_object = tls.server.wrap_bio(incoming, outgoing, server_side=True)
            while True:
                try:
                    ssl_object.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(10_000))
            sock.sendall(outgoing.read())
            done.wait()

        with peer(talk) as port:
            transport, protocol = await connect(Recorder, port, tls.client, ssl_shutdown_timeout=0.05)
            transport.close()
            await protocol.lost.wait()
            assert isinstance(protocol.cause, TimeoutError)
            assert str(protocol.cause) == "SSL shutdown timed out"
            done.set()

    runner.run(main())


def test_closing_ends_when_the_peer_reads_nothing(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        done = threading.Event()

        def talk(sock: socket.socket) -> None:
            secure = tls.server.wrap_socket(sock, server_side=True)
            secure.send(b"x")
            # Ends its side, and reads no more.
            secure.settimeout(0)
            with contextlib.suppress(ssl.SSLError):
                secure.unwrap()
            done.wait()
            secure.close()

        with peer(talk) as port:
            transport, protocol = await connect(Recorder, port, tls.client, ssl_shutdown_timeout=0.05)
            transport.write(bytes(30_000_000))
            await protocol.lost.wait()
            assert isinstance(protocol.cause, TimeoutError)
            done.set()

    run(main())


def test_all_that_was_written_arrives_before_the_end(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        data = os.urandom(5_000_000)
        got = bytearray()

        def talk(sock: socket.socket) -> None:
            secure = tls.server.wrap_socket(sock, server_side=True)
            while part := secure.recv(100_000):
                got.extend(part)
            secure.unwrap().close()

        with peer(talk) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            for at in range(0, len(data), 50_000):
                transport.write(data[at : at + 50_000])
            transport.close()
            await protocol.lost.wait()
            assert protocol.cause is None
        assert got == data

    runner.run(main())


def test_closing_with_bytes_unread_is_no_error(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        def talk(sock: socket.socket) -> None:
            secure = tls.server.wrap_socket(sock, server_side=True)
            secure.sendall(bytes(50_000))
            secure.recv(5)
            secure.sendall(bytes(50_000))
            with contextlib.suppress(ssl.SSLError):
                secure.unwrap()
            secure.close()

        with peer(talk) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            transport.pause_reading()
            size = len(protocol.data)
            transport.write(b"hello")
            await asyncio.sleep(0.05)
            transport.close()
            await protocol.lost.wait()
            assert protocol.cause is None
            assert len(protocol.data) == size

    run(main())


def test_an_error_of_the_protocol_ends_its_connection(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        report = Report()
        asyncio.get_running_loop().set_exception_handler(report)

        class Fails(Recorder):
            def data_received(self, data: bytes) -> None:
                raise LookupError("mine")

        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(Fails, port, tls.client)
            transport.write(b"x")
            await protocol.lost.wait()
            assert isinstance(protocol.cause, LookupError)
            assert [(each["message"], each["exception"]) for each in report] == [
                ("Fatal error on SSL protocol", protocol.cause)
            ]

    runner.run(main())


def test_writes_after_the_end_are_told_in_the_end(
    runner: asyncio.Runner, tls: Contexts, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            transport.abort()
            for _ in range(5):
                transport.write(b"x")
            assert "SSL connection is closed" not in caplog.text
            for _ in range(3):
                transport.write(b"x")
            assert "SSL connection is closed" in caplog.text
            await protocol.lost.wait()
            assert protocol.cause is None

    runner.run(main())


def test_connections_leave_nothing_behind(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        gone: list[weakref.ref[Any]] = []

        async def one(port: int, how: int) -> None:
            transport, protocol = await connect(Recorder, port, tls.client)
            gone.append(weakref.ref(transport))
            transport.write(b"x" * 100)
            await protocol.has(100)
            if how % 3 == 0:
                transport.abort()
            else:
                transport.close()
            await protocol.lost.wait()

        async with serving(Echo, ssl=tls.server) as port:
            await asyncio.sleep(0.001)  # the loop has what it sleeps on
            before = len(os.listdir("/proc/self/fd"))
            await one(port, 1)
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
            for _ in range(10):
                await asyncio.gather(*(one(port, how) for how in range(10)))
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
        gc.collect()
        assert len(gone) == 101
        assert all(each() is None for each in gone)

    run(main())


def test_a_transport_that_nobody_closed_warns(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            with pytest.warns(ResourceWarning, match="unclosed transport <TlsTransport open"):
                transport.__del__()
            transport.close()
            await protocol.lost.wait()
            assert "closing" in repr(transport)

    run(main())
