"""TLS: bytes, and what programs know and choose of the connection that they go through."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from asyncio import transports
from pathlib import Path
from typing import Any

import pytest

from tests.loop._tls import Buffered, Contexts, Echo, Recorder, Report, connect, serving, until

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


def test_a_protocol_with_little_memory_leaves_others_their_turns(run: Any, tls: Contexts) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        made: asyncio.Future[Any] = loop.create_future()
        calls = [0]

        class Little(Buffered):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.pause_reading()
                made.set_result(self)

            def buffer_updated(self, nbytes: int) -> None:
                super().buffer_updated(nbytes)
                calls[-1] += 1

        def tick() -> None:
            calls.append(0)
            ticks[0] = loop.call_soon(tick)

        data = os.urandom(100_000)
        async with serving(lambda: Little(16), ssl=tls.server) as port:
            transport, protocol = await connect(Recorder, port, tls.client)
            little = await made
            transport.write(data)
            transport.close()
            await until(lambda: little.transport.get_read_buffer_size() > len(data))
            ticks = [loop.call_soon(tick)]
            little.transport.resume_reading()
            await little.lost.wait()
            ticks[0].cancel()
            assert little.data == data
            assert little.events == ["made", "eof", "lost"]
            assert max(calls) < 1000
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
            assert "ssl" in transport.__class__.__name__.lower()
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


class GivesLittle(ssl.SSLObject):
    """Less than it is asked for."""

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        return super().read(min(size, 100), buffer)


class ReadsAhead(ssl.SSLObject):
    """Keeps what came with the end of the handshake."""

    kept = b""

    def do_handshake(self) -> None:
        super().do_handshake()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.kept = super().read(1000)

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        if not self.kept:
            return super().read(size, buffer)
        given, self.kept = self.kept[:size], self.kept[size:]
        return given


@pytest.mark.parametrize("kind", [GivesLittle, ReadsAhead])
def test_an_ssl_object_that_keeps_bytes_is_asked_until_it_has_none(
    run: Any, tls: Contexts, kind: type[ssl.SSLObject]
) -> None:
    async def main() -> None:
        class Eager(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.write(b"x" * 1000)

        server = tls.new_server()
        server.sslobject_class = kind
        async with serving(Echo, ssl=server) as port:
            transport, protocol = await connect(Eager, port, tls.client)
            assert await protocol.has(1000) == b"x" * 1000
            transport.abort()
            await protocol.lost.wait()

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


@pytest.mark.parametrize("mark", [None, 0])
def test_a_writer_whose_marks_are_the_same_is_paused_once(run: Any, tls: Contexts, mark: int | None) -> None:
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
            transport.set_write_buffer_limits(high=1_000_000_000)
            count = 0
            while not transport.get_write_buffer_size():
                transport.write(bytes(100_000))
                count += 1
                await asyncio.sleep(0)
            same = transport.get_write_buffer_size() if mark is None else mark
            transport.set_write_buffer_limits(high=same, low=same)
            assert protocol.events == ["made", "pause"]
            slow = await made
            slow.transport.resume_reading()
            await slow.has(count * 100_000)
            await protocol.resumed.wait()
            assert protocol.events == ["made", "pause", "resume"]
            transport.close()
            await protocol.lost.wait()

    run(main())


def test_as_much_as_both_marks_of_reading_may_wait(run: Any, tls: Contexts) -> None:
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
            transport.write(bytes(1000))
            await until(lambda: slow.transport.get_read_buffer_size() > 0)
            same = slow.transport.get_read_buffer_size()
            slow.transport.set_read_buffer_limits(high=same, low=same)
            assert slow.data == b""
            slow.transport.resume_reading()
            transport.write(bytes(1000))
            assert await slow.has(2000) == bytes(2000)
            transport.close()
            await protocol.lost.wait()

    run(main())


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
