"""Stream transports, ours and the standard library's: the same tests for both, but for those that say otherwise."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import warnings
from asyncio import transports
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import plait
from tests.loop._ipv6 import needs_ipv6


@pytest.fixture
def ours() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=plait.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server called `localhost`, and of clients that trust it."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    server.load_cert_chain(certificate, key)
    client.load_verify_locations(certificate)
    return server, client


class Recorder(asyncio.Protocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.data = bytearray()
        self.keep_open = False
        loop = asyncio.get_running_loop()
        self.made, self.lost, self.ended = loop.create_future(), loop.create_future(), loop.create_future()
        self.paused, self.resumed, self.arrived = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.events.append("made")
        self.transport = transport
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data
        self.arrived.set()

    def eof_received(self) -> bool:
        self.events.append("eof")
        self.ended.set_result(None)
        return self.keep_open

    def pause_writing(self) -> None:
        self.events.append("pause")
        self.paused.set()

    def resume_writing(self) -> None:
        self.events.append("resume")
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    async def has(self, count: int) -> bytes:
        while len(self.data) < count:
            self.arrived.clear()
            await self.arrived.wait()
        return bytes(self.data)


async def over(sock: socket.socket, protocol: Any = Recorder) -> tuple[Any, Any]:
    sock.setblocking(False)
    return await asyncio.get_running_loop().create_connection(protocol, sock=sock)


async def joined(first: Any = Recorder, second: Any = Recorder) -> tuple[Any, Any]:
    """Two protocols that hear each other."""
    one, other = socket.socketpair()
    return (await over(one, first))[1], (await over(other, second))[1]


async def alone(protocol: Any = Recorder) -> tuple[Any, socket.socket]:
    """A protocol, and the peer's end as a socket."""
    one, other = socket.socketpair()
    other.setblocking(False)
    return (await over(one, protocol))[1], other


async def receive(sock: socket.socket, count: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < count and (more := await loop.sock_recv(sock, 1 << 20)):
        data += more
    return data


async def until(happened: Callable[[], bool]) -> None:
    while True:
        if happened():
            return
        await asyncio.sleep(0)


def added(to: list[Recorder], one: Recorder) -> Recorder:
    to.append(one)
    return one


class Reports(list[dict[str, Any]]):
    def __init__(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.append(context))


# ---- bytes


@pytest.mark.parametrize("size", [1, 1000, 65_535, 65_536, 65_537, 200_000, 3_000_000])
def test_bytes_go_there_and_back(runner: asyncio.Runner, size: int) -> None:
    class Echo(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def main() -> None:
        one, echo = await joined(Recorder, Echo)
        for _ in range(3):
            data = os.urandom(size)
            one.data.clear()
            one.transport.write(data)
            assert await one.has(size) == data
        one.transport.close()
        assert await one.lost is None
        assert await echo.lost is None
        assert echo.events[-2:] == ["eof", "lost"]

    runner.run(main())


def test_all_kinds_of_bytes_arrive_in_order(runner: asyncio.Runner) -> None:
    class Sub(bytes):
        pass

    async def main() -> None:
        one, other = await joined()
        write = one.transport.write
        for data in (b"0", bytearray(b"1"), memoryview(b"2"), Sub(b"3"), memoryview(b"x4x")[1:2], b"", bytearray()):
            write(data)
        one.transport.writelines([b"5", bytearray(b"6"), b"", memoryview(b"7")])
        one.transport.writelines(iter([b"8"]))
        one.transport.writelines([])
        write(b"9")
        assert await other.has(10) == b"0123456789"
        one.transport.close()
        await other.lost

    runner.run(main())


def test_what_may_change_is_copied_when_it_has_to_wait(ours: asyncio.Runner) -> None:
    async def main() -> None:
        one, peer = await alone()
        filler = b"." * (4 << 20)
        one.transport.write(filler)
        assert (waiting := one.transport.get_write_buffer_size()) > 0
        changing = bytearray(b"before")
        one.transport.write(changing)
        one.transport.write(memoryview(changing)[::-1])  # does not lie in one piece
        one.transport.writelines([changing])
        assert one.transport.get_write_buffer_size() == waiting + 18
        changing[:] = b"after!!!"  # neither held nor looked at again
        one.transport.close()
        assert await receive(peer, 1 << 30) == filler + b"beforeerofebbefore"
        await one.lost
        peer.close()

    ours.run(main())


def test_writes_of_one_turn_arrive_in_order_and_without_the_loop_too(ours: asyncio.Runner) -> None:
    async def start() -> tuple[Any, socket.socket]:
        return await alone()

    async def several(one: Any) -> None:
        for number in range(100):
            one.transport.write(b"%4d" % number)

    one, peer = ours.run(start())
    for _ in range(3):
        ours.run(several(one))
        data = b"".join(iter(lambda: _now(peer), b""))
        assert data == b"".join(b"%4d" % number for number in range(100))
    one.transport.write(b"not ")
    one.transport.write(b"running")
    assert _now(peer) == b"not running"
    one.transport.abort()
    ours.run(asyncio.sleep(0))
    peer.close()


def turn_in_a_child(loop: Any) -> None:
    """Has a forked child end the present turn of the loop, and another one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there may be other threads
        pid = os.fork()
    if pid == 0:
        try:
            loop.call_soon(str)
            loop._run_once()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)


def test_what_gathers_is_not_written_again_by_a_forked_child(ours: asyncio.Runner) -> None:
    async def main() -> None:
        protocol, peer = await alone()
        for each in (b"1", b"2", b"3"):
            protocol.transport.write(each)
        turn_in_a_child(asyncio.get_running_loop())
        protocol.transport.write(b"4")
        protocol.transport.write(b"5")
        assert await receive(peer, 5) == b"12345"
        assert _now(peer) == b""
        protocol.transport.close()
        peer.close()

    ours.run(main())


def _now(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_writing_something_else_is_refused_and_harms_nothing(runner: asyncio.Runner) -> None:
    async def main() -> None:
        one, other = await joined()
        for wrong in ("text", 5, None, [b"x"]):
            with pytest.raises(TypeError, match=r"data argument must be a bytes.* object, not '"):
                one.transport.write(wrong)
        with pytest.raises(TypeError):
            one.transport.writelines([b"a", "text"])
        with pytest.raises(TypeError):
            one.transport.writelines(5)
        one.transport.write(b"fine")
        assert await other.has(4) == b"fine"
        one.transport.close()
        await other.lost

    runner.run(main())


# ---- flow control


def test_the_protocol_is_paused_and_resumed(runner: asyncio.Runner) -> None:
    async def main() -> None:
        one, peer = await alone()
        transport = one.transport
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        sent = b"y" * (1 << 20)
        transport.write(sent)
        transport.write(sent)
        assert one.paused.is_set()
        assert not one.resumed.is_set()
        assert await receive(peer, 2 << 20) == sent * 2
        await one.resumed.wait()
        assert transport.get_write_buffer_size() == 0
        transport.close()
        await one.lost
        assert one.events == ["made", "pause", "resume", "lost"]
        peer.close()

    runner.run(main())


def test_limits(runner: asyncio.Runner) -> None:
    async def main() -> None:
        one, peer = await alone()
        transport = one.transport
        cases = {(): (16384, 65536), (100,): (25, 100), (0,): (0, 0), (100, 100): (100, 100)}
        for given, expected in cases.items():
            transport.set_write_buffer_limits(*given)
            assert transport.get_write_buffer_limits() == expected
        transport.set_write_buffer_limits(low=10)
        assert transport.get_write_buffer_limits() == (10, 40)
        transport.set_write_buffer_limits(high=sys.maxsize * 4)
        for wrong in ({"high": -1}, {"high": 1, "low": 2}, {"low": -1}):
            with pytest.raises(ValueError, match=r"high \(.*\) must be >= low \(.*\) must be >= 0"):
                transport.set_write_buffer_limits(**wrong)
        transport.write(b"z" * (1 << 22))
        assert not one.paused.is_set()
        transport.set_write_buffer_limits(0)
        assert one.paused.is_set()
        transport.abort()
        assert await one.lost is None
        peer.close()

    runner.run(main())


def test_reading_pauses_and_goes_on(runner: asyncio.Runner) -> None:
    async def main() -> None:
        one, peer = await alone()
        transport = one.transport
        for round_ in range(1, 4):
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            peer.send(b"x")
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(one.data) == round_ - 1
            transport.resume_reading()
            transport.resume_reading()
            assert await one.has(round_)
        transport.close()
        assert not transport.is_reading()
        transport.pause_reading()
        transport.resume_reading()
        await one.lost
        peer.close()

    runner.run(main())


def test_paused_in_connection_made_nothing_is_read(runner: asyncio.Runner) -> None:
    class Paused(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        one, other = socket.socketpair()
        other.send(b"early")
        _, protocol = await over(one, Paused)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not protocol.data
        protocol.transport.resume_reading()
        assert await protocol.has(5) == b"early"
        other.close()
        await protocol.lost

    runner.run(main())


# ---- ends


def test_half_closed_connections_carry_the_other_way(runner: asyncio.Runner) -> None:
    async def main() -> None:
        one, other = await joined()
        one.keep_open = other.keep_open = True
        assert one.transport.can_write_eof()
        one.transport.write(b"q" * 500_000)
        one.transport.write_eof()
        one.transport.write_eof()
        with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
            one.transport.write(b"")
        with pytest.raises(RuntimeError, match=r"Cannot call writelines\(\) after write_eof\(\)"):
            one.transport.writelines([b"x"])
        await other.ended
        assert len(other.data) == 500_000
        assert not other.transport.is_closing()
        other.transport.write(b"a" * 500_000)
        other.transport.write_eof()
        await one.ended
        assert len(one.data) == 500_000
        one.transport.close()
        other.transport.close()
        assert (await one.lost, await other.lost) == (None, None)

    runner.run(main())


def test_closing_writes_what_is_queued_and_aborting_does_not(runner: asyncio.Runner) -> None:
    async def main() -> None:
        for aborts in (False, True):
            one, peer = await alone()
            one.transport.write(b"w" * (2 << 20))
            one.transport.close()
            one.transport.close()
            assert one.transport.is_closing()
            assert not one.lost.done()
            if aborts:
                one.transport.abort()
                one.transport.abort()
                assert await one.lost is None
            received = await receive(peer, 1 << 30)
            assert (len(received) < 2 << 20) if aborts else (received == b"w" * (2 << 20))
            assert await one.lost is None
            assert one.events.count("lost") == 1
            peer.close()

    runner.run(main())


def test_a_reset_is_the_cause_of_the_end(runner: asyncio.Runner) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", 0)
        _, one = await asyncio.get_running_loop().create_connection(Recorder, *server.sockets[0].getsockname())
        _reset(one)
        _, reset = await asyncio.get_running_loop().create_connection(Recorder, *server.sockets[0].getsockname())
        server.close()
        await one.lost
        reset.transport.close()

    def _reset(protocol: Any) -> None:
        sock = protocol.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        protocol.transport.abort()

    async def heard() -> None:
        made: list[Recorder] = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: added(made, Recorder()), "127.0.0.1", 0)
        _, one = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        one.transport.write(b"x")
        await until(lambda: bool(made))
        await made[0].has(1)
        _reset(one)
        cause = await made[0].lost
        assert isinstance(cause, ConnectionResetError)
        assert cause.errno == 104
        assert str(cause) == "[Errno 104] Connection reset by peer"
        server.close()
        await server.wait_closed()

    runner.run(main())
    runner.run(heard())


def test_a_broken_pipe_ends_the_connection_once(runner: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        one, peer = await alone()
        one.keep_open = True
        peer.close()
        await one.ended
        for _ in range(12):
            one.transport.write(b"nobody")
        cause = await one.lost
        assert isinstance(cause, BrokenPipeError)
        assert one.events == ["made", "eof", "lost"]

    with caplog.at_level(logging.WARNING, "asyncio"):
        runner.run(main())
    assert [record.getMessage() for record in caplog.records] == ["socket.send() raised exception."] * 7


def test_an_unclosed_transport_is_told(ours: asyncio.Runner) -> None:
    async def main() -> tuple[int, socket.socket]:
        one, peer = await alone()
        one.transport.pause_reading()
        peer.send(b"unread")
        await asyncio.sleep(0.01)  # until then the loop still looks at it, and holds it
        return one.transport._sock_fd, peer

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fd, peer = ours.run(main())
        gc.collect()
    told = [str(each.message) for each in caught]
    assert told.count(f"unclosed transport <SocketTransport fd={fd} read=idle write=<idle, bufsize=0>>") == 1
    with pytest.raises(ConnectionResetError):
        peer.recv(1)
    peer.close()
    assert not ours.get_loop()._is_claimed(fd)  # type: ignore[attr-defined]


def test_transports_that_outlive_the_loop_are_told(ours: asyncio.Runner) -> None:
    made: list[Any] = []

    async def main() -> None:
        made.extend(await joined())

    ours.run(main())
    ours.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.clear()
        gc.collect()
    assert sum("unclosed transport" in str(each.message) for each in caught) == 2


# ---- protocols


def test_exceptions_of_protocols_end_the_connection_and_are_told(runner: asyncio.Runner) -> None:
    class Wrong(Recorder):
        wrong = ""

        def data_received(self, data: bytes) -> None:
            if self.wrong == "data":
                raise ZeroDivisionError("data")

        def eof_received(self) -> bool:
            raise ZeroDivisionError("eof")

    async def main() -> None:
        for wrong, message in (("data", "data_received"), ("", "eof_received")):
            reports = Reports()
            one, peer = await alone(Wrong)
            one.wrong = wrong
            peer.send(b"x")
            if not wrong:
                peer.close()
            cause = await one.lost
            assert isinstance(cause, ZeroDivisionError)
            (report,) = reports
            assert report["message"] == f"Fatal error: protocol.{message}() call failed."
            assert report["exception"] is cause
            assert report["transport"] is one.transport
            assert report["protocol"] is one
            peer.close()

    runner.run(main())


def test_exceptions_elsewhere_are_told_and_the_connection_ends_well(runner: asyncio.Runner) -> None:
    class Wrong(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            raise ZeroDivisionError("made")

        def pause_writing(self) -> None:
            raise ZeroDivisionError("pause")

        def resume_writing(self) -> None:
            raise ZeroDivisionError("resume")

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            raise ZeroDivisionError("lost")

    async def main() -> None:
        reports = Reports()
        one, peer = await alone(Wrong)
        one.transport.write(b"e" * (2 << 20))
        assert len(await receive(peer, 2 << 20)) == 2 << 20
        one.transport.close()
        await one.lost
        await asyncio.sleep(0)
        assert [str(report["exception"]) for report in reports] == ["made", "pause", "resume", "lost"]
        assert "protocol.pause_writing() failed" in reports[1]["message"]
        assert peer.recv(1) == b""
        peer.close()

    runner.run(main())


def test_what_ends_the_program_ends_the_loop(runner: asyncio.Runner) -> None:
    class Ends(Recorder):
        def data_received(self, data: bytes) -> None:
            raise SystemExit(3)

    async def main() -> None:
        _, peer = await alone(Ends)
        peer.send(b"x")
        peer.close()
        await asyncio.sleep(60)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(SystemExit):
            runner.run(main())
        runner.close()
        gc.collect()


def test_a_buffered_protocol_reads_into_its_own_memory(runner: asyncio.Runner) -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.memory, self.data, self.hints = bytearray(7), b"", list[int]()
            self.lost = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> memoryview:
            self.hints.append(sizehint)
            return memoryview(self.memory)

        def buffer_updated(self, nbytes: int) -> None:
            self.data += self.memory[:nbytes]

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    class Empty(Buffered):
        def get_buffer(self, sizehint: int) -> memoryview:
            return memoryview(bytearray())

    class ReadOnly(Buffered):
        def get_buffer(self, sizehint: int) -> Any:
            return b"read only"

    async def main() -> None:
        one, peer = await alone(Buffered)
        peer.send(b"more than the memory holds")
        peer.close()
        assert await one.lost is None
        assert one.data == b"more than the memory holds"
        assert set(one.hints) == {-1}
        for wrong, message in ((Empty, "get_buffer() call failed"), (ReadOnly, "")):
            reports = Reports()
            one, peer = await alone(wrong)
            peer.send(b"x")
            assert isinstance(await one.lost, (RuntimeError, TypeError, BufferError))
            assert message in reports[0]["message"]
            peer.close()

    runner.run(main())


def test_closing_in_get_buffer_reads_nothing_more(ours: asyncio.Runner) -> None:
    class Closes(asyncio.BufferedProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.lost = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> bytearray:
            self.transport.close()
            return bytearray(10)

        def buffer_updated(self, nbytes: int) -> None:
            raise AssertionError("closed before")

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    async def main() -> None:
        one, peer = await alone(Closes)
        peer.send(b"x")
        assert await one.lost is None
        peer.close()

    ours.run(main())


def test_another_protocol_takes_over(runner: asyncio.Runner) -> None:
    class Into(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.memory, self.data = bytearray(100), b""
            self.arrived = asyncio.Event()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.memory

        def buffer_updated(self, nbytes: int) -> None:
            self.data += self.memory[:nbytes]
            self.arrived.set()

    async def main() -> None:
        one, peer = await alone()
        peer.send(b"first")
        await one.has(5)
        into = Into()
        one.transport.set_protocol(into)
        assert one.transport.get_protocol() is into
        peer.send(b"second")
        await into.arrived.wait()
        assert (one.data, into.data) == (b"first", b"second")
        one.transport.set_protocol(one)
        one.transport.close()
        await one.lost
        peer.close()

    runner.run(main())


def test_protocols_are_called_in_the_context_of_the_connection(runner: asyncio.Runner) -> None:
    var = contextvars.ContextVar("var", default="outside")

    class Sees(Recorder):
        def data_received(self, data: bytes) -> None:
            self.events.append(var.get())
            super().data_received(data)

        def eof_received(self) -> bool:
            self.events.append(var.get())
            return False

        def connection_lost(self, exc: Exception | None) -> None:
            self.events.append(var.get())
            super().connection_lost(exc)

    async def main() -> None:
        var.set("made")
        one, peer = await alone(Sees)
        var.set("later")
        peer.send(b"x")
        await one.has(1)
        peer.close()
        await one.lost
        assert one.events == ["made", "made", "made", "made", "lost"]

    runner.run(main())


# ---- what is known of a connection


def test_what_is_known_of_a_connection(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        made = list[Recorder]()
        server = await loop.create_server(lambda: added(made, Recorder()), "127.0.0.1", 0)
        listener = socket.create_server(("127.0.0.1", 0))  # of protocol 0
        plain = await loop.create_server(lambda: added(made, Recorder()), sock=listener)
        for number, address in enumerate((server.sockets[0].getsockname(), listener.getsockname())):
            transport, one = await loop.create_connection(Recorder, *address)
            await until(lambda number=number: len(made) > number)  # type: ignore[misc]
            other = await made[number].made
            for name in ("sockname", "peername"):
                assert isinstance(transport.get_extra_info(name), tuple)
            assert transport.get_extra_info("peername") == address == other.get_extra_info("sockname")
            assert transport.get_extra_info("sockname") == other.get_extra_info("peername")
            sock = transport.get_extra_info("socket")
            assert type(sock).__name__ == "TransportSocket"
            assert sock.fileno() == transport._sock_fd
            assert transport.get_extra_info("socket") is sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert transport.get_extra_info("no such thing") is None
            assert transport.get_extra_info("no such thing", 5) == 5
            transport.close()
            await one.lost
            await made[number].lost
            assert transport.get_extra_info("peername") == address
            assert transport.get_extra_info("socket") is sock
            assert transport._sock is None
        server.close()
        plain.close()

    runner.run(main())


def test_servers_send_small_pieces_at_once_whatever_their_socket_says(ours: asyncio.Runner) -> None:
    async def main() -> None:
        loop, made = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        listener = socket.create_server(("127.0.0.1", 0))
        assert listener.proto == 0

        class Made(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                made.set_result(transport)

        server = await loop.create_server(Made, sock=listener)
        transport, one = await loop.create_connection(Recorder, *listener.getsockname())
        sock = (await made).get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        server.close()
        transport.close()
        await one.lost
        await made.result().get_protocol().lost

    ours.run(main())


@pytest.mark.parametrize("family", [pytest.param("ipv6", marks=needs_ipv6), "unix", "abstract"])
def test_names_of_other_families(runner: asyncio.Runner, tmp_path: Path, family: str) -> None:
    async def main() -> None:
        if family == "ipv6":
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "name") if family == "unix" else b"\0plait-%d" % os.getpid())
            listener.listen()
        client = socket.socket(listener.family)
        client.connect(listener.getsockname())
        accepted, peer = listener.accept()
        transport, one = await over(client)
        expected = client.getsockname(), client.getpeername()
        other, two = await asyncio.get_running_loop().connect_accepted_socket(Recorder, accepted)
        assert (transport.get_extra_info("sockname"), transport.get_extra_info("peername")) == expected
        assert (other.get_extra_info("sockname"), other.get_extra_info("peername")) == (expected[1], peer)
        transport.write(b"through")
        assert await two.has(7) == b"through"
        transport.close()
        assert await two.lost is None
        assert await one.lost is None
        listener.close()

    runner.run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_the_name_of_a_peer_that_has_left_already(ours: asyncio.Runner, host: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = loop.create_future()

        class Made(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                made.set_result(transport)

        server = await loop.create_server(Made, host, 0)
        with socket.socket(server.sockets[0].family) as client:
            client.connect(server.sockets[0].getsockname())
            name = client.getsockname()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport = await made
        with pytest.raises(OSError, match="not connected"):
            transport.get_extra_info("socket").getpeername()
        assert transport.get_extra_info("peername") == name
        transport.abort()
        server.close()
        await server.wait_closed()

    ours.run(main())


@needs_ipv6
def test_names_of_ipv6_are_written_as_the_system_writes_them(ours: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for host in ("::", "::1", "::ffff:127.0.0.1"):
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
            sock.bind((host, 0))
            sock.connect((host, 9) if host != "::" else ("::1", 9))
            names = sock.getsockname(), sock.getpeername()
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
            assert (transport.get_extra_info("sockname"), transport.get_extra_info("peername")) == names
            assert [type(part) for part in transport.get_extra_info("peername")] == [str, int, int, int]
            transport.close()

    ours.run(main())


CLOSED_IN_THE_FACTORY = """
import asyncio, gc, os, socket
import plait

async def main():
    loop = asyncio.get_running_loop()

    def factory():
        server.close()
        return asyncio.Protocol()

    await asyncio.sleep(0.001)
    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    client = socket.create_connection(address)
    client.setblocking(False)
    files = len(os.listdir("/proc/self/fd"))
    assert await loop.sock_recv(client, 1) == b""
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files - 1  # without that of the server
    client.close()

plait.run(main())
print("ok")
"""


def test_a_server_that_is_closed_as_a_protocol_is_made_for_it(run_script: Any) -> None:
    result = run_script(CLOSED_IN_THE_FACTORY)
    assert (result.stdout, result.stderr) == ("ok\n", "")


def test_a_socket_that_the_program_closes_stays_open_for_the_transport(ours: asyncio.Runner) -> None:
    async def main() -> None:
        mine, peer = socket.socketpair()
        peer.setblocking(False)
        transport, protocol = await over(mine)
        fd = mine.fileno()
        mine.close()
        # Would get the number if it were free.
        others = [socket.socketpair() for _ in range(3)]
        assert fd not in [each.fileno() for pair in others for each in pair]
        transport.write(b"for the peer")
        assert await receive(peer, 12) == b"for the peer"
        spared = [each for pair in others for each in pair]
        for each in spared:
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.recv(1)
        for each in spared:
            each.close()
        peer.send(b"back")
        assert await protocol.has(4) == b"back"
        os.fstat(fd)
        transport.close()
        assert await protocol.lost is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        assert await receive(peer, 1) == b""
        peer.close()

    ours.run(main())


def test_the_end_closes_the_socket_whoever_has_it(ours: asyncio.Runner) -> None:
    async def main() -> None:
        mine, peer = socket.socketpair()
        _, protocol = await over(mine)
        file = mine.makefile("rb")
        protocol.transport.abort()
        await protocol.lost
        # As with any socket, what `makefile` gave holds it still.
        os.fstat(file.fileno())
        fd = file.fileno()
        file.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        assert mine.fileno() == -1
        peer.close()

    ours.run(main())


def test_the_socket_of_an_accepted_connection_is_made_for_who_asks(ours: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []
        server = await loop.create_server(lambda: added(made, Recorder()), "127.0.0.1", 0)
        name = server.sockets[0].getsockname()
        peers = [(await loop.create_connection(Recorder, *name))[1] for _ in range(3)]
        await until(lambda: len(made) == 3)
        for protocol in made:
            await protocol.made
        asked, held, silent = made
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        seen = asked.transport.get_extra_info("socket")
        assert seen is asked.transport.get_extra_info("socket")
        assert (seen.family, seen.type, seen.proto) == kind
        assert seen.fileno() == asked.transport._sock_fd
        sock = held.transport._sock
        assert sock is held.transport._sock
        assert not sock.getblocking()
        sock.close()
        held.transport.write(b"still there")
        index = [peer.transport.get_extra_info("sockname") for peer in peers].index(
            held.transport.get_extra_info("peername")
        )
        assert await peers[index].has(11) == b"still there"
        fds = [protocol.transport._sock_fd for protocol in made]
        for protocol in made:
            protocol.transport.close()
            assert await protocol.lost is None
        for fd in fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        late = silent.transport.get_extra_info("socket")
        assert (late.family, late.type, late.proto) == kind
        assert [late.fileno(), seen.fileno(), sock.fileno()] == [-1] * 3
        for peer in peers:
            await peer.lost
        server.close()
        await server.wait_closed()

    ours.run(main())


def test_a_loop_that_has_its_own_call_soon_is_asked(ours: asyncio.Runner) -> None:
    class Loop(plait.EventLoop):
        def call_soon(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            called.append(getattr(args[0], "__name__", ""))
            return super().call_soon(*args, **kwargs)

    async def main() -> None:
        one, peer = await alone()
        one.transport.abort()
        await one.lost
        peer.close()

    def call_soon(*args: Any, **kwargs: Any) -> Any:
        called.append(getattr(args[0], "__name__", ""))
        return own(*args, **kwargs)

    called: list[str] = []
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    expected = ["connection_made", "_begin", "_call_connection_lost"]
    assert [each for each in called if each in expected] == expected
    called.clear()
    loop: Any = ours.get_loop()
    own = loop.call_soon
    loop.call_soon = call_soon
    ours.run(main())
    assert [each for each in called if each in expected] == expected
    del loop.call_soon
    called.clear()
    ours.run(main())
    assert called == []


def test_a_transport_is_what_it_says(ours: asyncio.Runner) -> None:
    async def main() -> None:
        one, peer = await alone()
        transport = one.transport
        for base in (asyncio.Transport, asyncio.ReadTransport, asyncio.WriteTransport, transports._FlowControlMixin):
            assert isinstance(transport, base)
        assert issubclass(transport.__class__, asyncio.Transport)
        fd = transport._sock_fd
        assert repr(transport) == f"<SocketTransport fd={fd} read=polling write=<idle, bufsize=0>>"
        transport.write(b"x" * (2 << 20))
        size = transport.get_write_buffer_size()
        await asyncio.sleep(0)
        assert repr(transport) == f"<SocketTransport fd={fd} read=polling write=<polling, bufsize={size}>>"
        transport.pause_reading()
        assert "read=idle" in repr(transport)
        transport.abort()
        assert repr(transport) == f"<SocketTransport closing fd={fd} read=idle write=<idle, bufsize=0>>"
        await one.lost
        assert repr(transport) == f"<SocketTransport closed fd={fd}>"
        assert (transport._loop, transport._sock, transport.get_protocol()) == (None, None, None)
        transport.close()
        transport.abort()
        transport.write(b"unheard")
        with pytest.raises(TypeError):
            transport.__class__ = int
        peer.close()

    ours.run(main())


def test_a_descriptor_has_one_owner(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, peer = await alone()
        fd = one.transport._sock_fd
        with pytest.raises(RuntimeError, match=r"File descriptor .* is used by transport <"):
            loop.add_reader(fd, print)
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.create_connection(Recorder, sock=one.transport._sock)
        one.transport.close()
        loop.add_reader(fd, print)
        loop.remove_reader(fd)
        await one.lost
        peer.close()

    runner.run(main())


@pytest.mark.parametrize("end", ["close", "abort", "drop"])
def test_a_socket_that_the_program_closes_is_the_transports_until_its_end(ours: asyncio.Runner, end: str) -> None:
    """Its number would be another's, who would get what is written, and whose bytes would be read."""

    async def main() -> None:
        sock, peer = socket.socketpair()
        peer.setblocking(False)
        number = sock.fileno()
        one = (await over(sock))[1]
        sock.close()
        other, others_peer = socket.socketpair()
        assert number not in (other.fileno(), others_peer.fileno())
        one.transport.write(b"mine")
        assert await receive(peer, 4) == b"mine"
        peer.send(b"yours")
        assert await one.has(5) == b"yours"
        if end == "drop":
            one.transport.pause_reading()
            peer.send(b"unread")
            await asyncio.sleep(0.01)  # until then the loop still looks at it, and holds it
            del one
            with pytest.warns(ResourceWarning, match="unclosed transport"):
                gc.collect()
            with pytest.raises(ConnectionResetError):
                await receive(peer, 1)
        else:
            getattr(one.transport, end)()
            await one.lost
            assert await receive(peer, 1) == b""
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        assert sock.fileno() == -1
        for each in (peer, other, others_peer):
            each.close()

    ours.run(main())


def test_debug_mode_says_what_happens(runner: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            threading.Event().wait(0.02)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.01
        one, peer = await alone(Slow)
        one.transport.pause_reading()
        one.transport.resume_reading()
        peer.send(b"x")
        await one.has(1)
        loop.slow_callback_duration = 60
        peer.close()
        await one.lost

    with caplog.at_level(logging.DEBUG, "asyncio"):
        runner.run(main())
    said = "\n".join(record.getMessage() for record in caplog.records)
    for part in ("pauses reading", "resumes reading", "received EOF", "Executing <"):
        assert part in said


# ---- what the standard library does with transports


def test_files_are_sent(runner: asyncio.Runner, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(3_000_000)
    path.write_bytes(content)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for fallback in (False, True):
            one, other = await joined()
            one.transport.write(b"head" * 100_000)
            with path.open("rb") as file:
                if fallback:
                    sent = await loop._sendfile_fallback(one.transport, file, 0, None)  # type: ignore[attr-defined]
                else:
                    sending = asyncio.ensure_future(loop.sendfile(one.transport, file, 5, 2_900_000, fallback=False))
                    await asyncio.sleep(0)
                    with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
                        one.transport.write(b"between")
                    sent = await sending
            assert one.transport.is_reading()
            one.transport.write(b"tail")
            expected = b"head" * 100_000 + (content if fallback else content[5:2_900_005]) + b"tail"
            assert await other.has(len(expected)) == expected
            assert sent == len(expected) - 400_004
            other.transport.write(b"back")
            assert await one.has(4) == b"back"
            one.transport.close()
            await other.lost

    runner.run(main())


def test_a_peer_that_leaves_while_a_file_is_sent(runner: asyncio.Runner, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"f" * 30_000_000)

    async def main() -> None:
        one, peer = await alone()
        with path.open("rb") as file:
            sending = asyncio.ensure_future(asyncio.get_running_loop().sendfile(one.transport, file))
            await receive(peer, 100_000)
            peer.close()
            with pytest.raises(ConnectionError):
                await sending
        one.transport.close()
        await one.lost

    runner.run(main())


def test_tls_runs_over_our_transports(runner: asyncio.Runner, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = tls

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=ours)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port, ssl=theirs, server_hostname="localhost")
        for size in (1, 20_000, 1_000_000):
            data = os.urandom(size)
            writer.write(data)
            assert await reader.readexactly(size) == data
        assert writer.get_extra_info("ssl_object").version().startswith("TLS")
        assert writer.get_extra_info("peername") == (host, port)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert loop.is_running()

    runner.run(main())


def test_a_connection_is_upgraded(runner: asyncio.Runner, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        ours, theirs = tls
        done = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b"upgrade\n"
            writer.write(b"go\n")
            await writer.drain()
            await writer.start_tls(ours)
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            done.set_result(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"upgrade\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(theirs, server_hostname="localhost")
        writer.write(b"secret\n")
        assert await reader.readline() == b"secret\n"
        await done
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    runner.run(main())
