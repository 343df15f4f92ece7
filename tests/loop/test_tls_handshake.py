"""TLS: how it begins, with peers that keep to the protocol and peers that do not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.loop._tls import Contexts, Echo, Recorder, Report, connect, peer, serving, until

if TYPE_CHECKING:
    import plait


def test_a_certificate_that_is_not_trusted_is_refused(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        async with serving(Echo, ssl=tls.server) as port:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(Recorder, port, ssl.create_default_context())
            # Nothing is wrong with the next one.
            transport, protocol = await connect(Recorder, port, tls.client)
            transport.abort()
            await protocol.lost.wait()

    runner.run(main())


def test_a_client_whose_certificate_is_missing_hears_why(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        server = tls.new_server()
        server.verify_mode = ssl.CERT_REQUIRED
        made: list[Any] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        async with serving(factory, ssl=server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            transport.write(b"hello")
            await protocol.lost.wait()
            assert isinstance(protocol.cause, ssl.SSLError)
            assert "CERTIFICATE_REQUIRED" in str(protocol.cause)
            assert made[0].events == []

    run(main())


def test_garbage_instead_of_a_hello_hurts_nobody_else(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        report = Report()
        loop.set_exception_handler(report)
        made: list[Recorder] = []

        def factory() -> Any:
            made.append(Recorder())
            return made[-1]

        async with serving(factory, ssl=tls.server) as port:
            for garbage in [b"GET / HTTP/1.1\r\n\r\n" * 10, b"\x16\x03\x01\xff\xff", bytes(5000)]:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(garbage)
                writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
            assert all(each.events == [] for each in made)
            transport, protocol = await connect(Recorder, port, tls.client)
            await made[-1].made.wait()
            transport.close()
            await protocol.lost.wait()
        assert report == []

    runner.run(main())


def test_a_handshake_cut_off_anywhere_hurts_nobody_else(run: Any, tls: Contexts) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ssl_object = tls.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        ssl_object.do_handshake()
    hello = outgoing.read()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        report = Report()
        loop.set_exception_handler(report)
        made: list[Recorder] = []

        def factory() -> Any:
            made.append(Recorder())
            return made[-1]

        async with serving(factory, ssl=tls.server) as port:
            for cut in [*range(0, len(hello), 7), len(hello)]:
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    if cut % 2:  # goes without a word
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
                    sock.sendall(hello[:cut])
                    if cut % 3 == 0:
                        await asyncio.sleep(0)
                # One with a byte that is another.
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    sock.sendall(hello[:cut] + b"\xaa" + hello[cut + 1 :])
                    await asyncio.sleep(0)
            transport, protocol = await connect(Recorder, port, tls.client)
            transport.close()
            await protocol.lost.wait()
            await until(lambda: all(each.events in ([], ["made", "eof", "lost"]) for each in made))
        assert report == []

    run(main())


def test_a_server_that_speaks_no_tls_is_an_ssl_error(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        def talk(sock: socket.socket) -> None:
            sock.sendall(b"220 mail.example.org ESMTP\r\n")
            with contextlib.suppress(ConnectionError):
                while sock.recv(1000):
                    pass

        with peer(talk) as port:
            with pytest.raises(ssl.SSLError):
                await connect(Recorder, port, tls.client)

    runner.run(main())


def test_a_peer_that_leaves_in_the_handshake_is_a_reset(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        with peer(lambda sock: [sock.recv(100)].clear()) as port:
            with pytest.raises(ConnectionResetError):
                await connect(Recorder, port, tls.client)

    runner.run(main())


def test_a_handshake_that_takes_too_long_is_aborted(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        def talk(sock: socket.socket) -> None:
            with contextlib.suppress(ConnectionError):
                while sock.recv(1000):
                    pass

        with peer(talk) as port:
            with pytest.raises(ConnectionAbortedError, match=r"SSL handshake is taking longer than 0.05 seconds"):
                await connect(Recorder, port, tls.client, ssl_handshake_timeout=0.05)

    runner.run(main())


def test_timeouts_that_make_no_sense_are_refused(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        async with serving(Echo) as port:
            for name in ["ssl_handshake_timeout", "ssl_shutdown_timeout"]:
                with pytest.raises(ValueError, match=f"{name} should be a positive number, got -1"):
                    await connect(Recorder, port, tls.client, **{name: -1})

    run(main())


def test_a_handshake_that_is_cancelled_leaves_nothing(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        context = tls.new_client()
        seen = threading.Event()

        def talk(sock: socket.socket) -> None:
            sock.recv(1)
            seen.set()
            with contextlib.suppress(ConnectionError):
                while sock.recv(1000):
                    pass

        with peer(talk) as port:
            task = asyncio.create_task(connect(Recorder, port, context))
            await asyncio.to_thread(seen.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        gone = weakref.ref(context)
        del context
        gc.collect()
        assert gone() is None

    run(main())


def test_debug_mode_tells_of_handshakes(run: Any, tls: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncio")

    async def main() -> None:
        report = Report()
        asyncio.get_running_loop().set_exception_handler(report)
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            transport.close()
            await protocol.lost.wait()
            assert not report
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"no hello")
            writer.write_eof()
            await until(lambda: bool(report))
            writer.close()
            assert report[0]["message"] == "Error on transport creation for incoming connection"
            assert isinstance(report[0]["exception"], OSError)

    run(main(), debug=True)
    assert "starts SSL handshake" in caplog.text


def test_an_interrupt_in_the_handshake_ends_the_connection(loop: plait.EventLoop, tls: Contexts) -> None:
    class Interrupted(ssl.SSLObject):
        def do_handshake(self) -> None:
            raise KeyboardInterrupt

    server = tls.new_server()
    server.sslobject_class = Interrupted

    async def main() -> None:
        async with serving(Echo, ssl=server) as port:
            with pytest.raises(ConnectionResetError):
                await connect(Recorder, port, tls.client, ssl_handshake_timeout=20)

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(task)
