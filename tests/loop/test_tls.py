"""TLS: what programs see of it, against peers that keep to the protocol and peers that do not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import subprocess
import threading
import weakref
from asyncio import transports
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from plait.loop._tls import TlsTransport


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


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    empty = Contexts(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(), key, certificate)
    return empty._replace(server=empty.new_server(), client=empty.new_client())


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


SIZES = [1, 1000, 16384, 16385, 65536, 100_000, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_bytes_come_back(runner: asyncio.Runner, tls: Contexts, size: int) -> None:
    async def main() -> None:
        data = os.urandom(size)
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            transport.write(data)
            assert await protocol.has(size) == data
            transport.close()
            await protocol.lost.wait()
            assert protocol.cause is None
            assert protocol.events[0] == "made"
            assert protocol.events[-1] == "lost"

    runner.run(main())


@pytest.mark.parametrize("room", [1, 7, 1000, 16384, 100_000])
def test_a_protocol_with_memory_of_its_own_gets_bytes_there(run: Any, tls: Contexts, room: int) -> None:
    async def main() -> None:
        data = os.urandom(40_000 if room > 7 else 3000)
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(lambda: Buffered(room), port, tls.client)
            transport.write(data)
            assert await protocol.has(len(data)) == data
            transport.close()
            await protocol.lost.wait()

    run(main())


def test_an_empty_buffer_ends_the_connection(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        report = Report()
        asyncio.get_running_loop().set_exception_handler(report)
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(lambda: Buffered(0), port, tls.client)
            transport.write(b"x")
            await protocol.lost.wait()
            assert isinstance(protocol.cause, RuntimeError)
            assert [str(each["exception"]) for each in report] == ["get_buffer() returned an empty buffer"]

    run(main())


def test_streams(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(70_000):
                writer.write(data)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.server)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client, server_hostname="localhost")
        data = os.urandom(1_000_000)
        writer.write(data[:10])
        writer.writelines([data[10:20], bytearray(data[20:30]), memoryview(data)[30:]])
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()
        server.close()

    runner.run(main())


def test_what_is_known_of_the_connection(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        transport: Any
        protocol: Any
        server: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        class Accepted(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                server.set_result(transport)

        async with serving(Accepted, ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            accepted = await server
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(accepted, transports._FlowControlMixin)
            know = transport.get_extra_info
            assert isinstance(know("ssl_object"), ssl.SSLObject)
            assert know("ssl_object").context is tls.client
            assert know("sslcontext") is tls.client
            assert know("peercert")["subject"] == ((("commonName", "localhost"),),)
            assert know("cipher") == know("ssl_object").cipher()
            assert len(know("cipher")) == 3
            assert know("compression") is None
            assert know("peername") == ("127.0.0.1", port)
            assert know("socket").getpeername() == ("127.0.0.1", port)
            assert know("nothing", 7) == 7
            assert accepted.get_extra_info("peercert") is None
            told: Any = transport.get_protocol()
            assert told is protocol
            assert not transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                transport.write_eof()
            with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got str"):
                transport.write("text")  # type: ignore[arg-type]
            assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
            assert transport.get_write_buffer_size() == 0
            transport.set_write_buffer_limits(high=10)
            assert transport.get_write_buffer_limits() == (2, 10)
            with pytest.raises(ValueError, match=r"high .* must be >= low"):
                transport.set_write_buffer_limits(high=1, low=2)
            transport.close()
            assert transport.is_closing()
            await protocol.lost.wait()
            assert know("cipher") is not None
            assert know("peername", "gone") == "gone"

    runner.run(main())


def test_the_programs_context_is_honoured(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        names: list[str | None] = []
        server, client = tls.new_server(), tls.new_client()
        server.sni_callback = lambda _ssl_object, name, _context: names.append(name)
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(tls.certificate)
        client.load_cert_chain(tls.certificate, tls.key)
        server.set_alpn_protocols(["two", "one"])
        client.set_alpn_protocols(["one", "two"])
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        class Accepted(Echo):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                made.set_result(transport)

        async with serving(Accepted, ssl=server) as port:
            transport, protocol = await connect(Recorder, port, client)
            accepted = await made
            assert names == ["localhost"]
            assert accepted.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
            assert transport.get_extra_info("ssl_object").selected_alpn_protocol() in ("one", "two")
            assert transport.get_extra_info("cipher")[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
            transport.close()
            await protocol.lost.wait()

    runner.run(main())


def test_a_callback_for_names_may_choose_another_context(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        first, second = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls.new_server()

        def choose(ssl_object: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            ssl_object.context = second

        first.sni_callback = choose
        async with serving(Echo, ssl=first) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            transport.write(b"hello")
            assert await protocol.has(5) == b"hello"
            transport.abort()
            await protocol.lost.wait()

    run(main())


class OwnObject(ssl.SSLObject):
    """Counts what goes through it."""

    reads = 0
    writes = 0

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        self.reads += 1
        return super().read(size, buffer)

    def write(self, data: Any) -> int:
        self.writes += 1
        return super().write(data)


def test_a_class_of_ssl_objects_of_the_programs_own_is_used(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        client = tls.new_client()
        client.sslobject_class = OwnObject
        data = os.urandom(100_000)
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, client)
            transport.write(data)
            assert await protocol.has(len(data)) == data
            ssl_object = transport.get_extra_info("ssl_object")
            assert type(ssl_object) is OwnObject
            assert ssl_object.reads > 0
            assert ssl_object.writes > 0
            transport.close()
            await protocol.lost.wait()
            assert protocol.cause is None

    run(main())


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


def test_flow_control_holds_a_writer_and_a_sender(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        made: asyncio.Future[Recorder] = loop.create_future()

        class Slow(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.pause_reading()
                made.set_result(self)

        async with serving(Slow, ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            slow = await made
            assert not slow.transport.is_reading()
            data = os.urandom(100_000)
            count = 0
            while not protocol.paused.is_set():
                transport.write(data)
                count += 1
                await asyncio.sleep(0)
                assert count < 1000
            assert transport.get_write_buffer_size() >= 512 * 1024
            assert slow.data == b""
            slow.transport.resume_reading()
            assert await slow.has(count * len(data)) == data * count
            await protocol.resumed.wait()
            assert protocol.events == ["made", "pause", "resume"]
            transport.close()
            await protocol.lost.wait()

    runner.run(main())


def test_pausing_and_resuming_within_data_received(runner: asyncio.Runner, tls: Contexts) -> None:
    async def main() -> None:
        class Stutters(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

        data = os.urandom(2_000_000)
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(Stutters, port, tls.client)
            transport.write(data)
            assert await protocol.has(len(data)) == data
            transport.abort()
            await protocol.lost.wait()

    runner.run(main())


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


def test_files_go_through_tls(runner: asyncio.Runner, tls: Contexts, tmp_path: Path) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        path = tmp_path / "file"
        path.write_bytes(os.urandom(200_000))
        async with serving(Echo, ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            with path.open("rb") as file:
                assert await loop.sendfile(transport, file) == 200_000
            assert await protocol.has(200_000) == path.read_bytes()
            transport.close()
            await protocol.lost.wait()

    runner.run(main())


def test_a_session_is_used_again(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        client = tls.new_client()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        sessions: list[Any] = []

        class Resumes(ssl.SSLObject):
            @classmethod
            def _create(cls, *args: Any, **kwargs: Any) -> Any:
                if sessions:
                    kwargs["session"] = sessions[-1]
                return super()._create(*args, **kwargs)  # type: ignore[misc]

        client.sslobject_class = Resumes
        reused = []
        async with serving(Echo, ssl=tls.server) as port:
            for _ in range(2):
                transport, protocol = await connect(Recorder, port, client)
                ssl_object = transport.get_extra_info("ssl_object")
                sessions.append(ssl_object.session)
                reused.append(ssl_object.session_reused)
                transport.close()
                await protocol.lost.wait()
        assert reused == [False, True]

    run(main())


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
