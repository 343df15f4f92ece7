"""Datagram transports, ours and the standard library's."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.loop._ipv6 import needs_ipv6


class Recorder(asyncio.DatagramProtocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        self.errors: asyncio.Queue[Any] = asyncio.Queue()
        self.events: list[str] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert type(data) is bytes
        self.got.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def endpoint(**options: Any) -> Recorder:
    _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Recorder, **options)
    return protocol


async def close(*protocols: Recorder) -> None:
    for protocol in protocols:
        protocol.transport.close()
        assert await protocol.lost is None


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_datagrams_there_and_back(runner: asyncio.Runner, host: str) -> None:
    async def main() -> None:
        one, other = await endpoint(local_addr=(host, 0)), await endpoint(local_addr=(host, 0))
        names = [each.transport.get_extra_info("sockname") for each in (one, other)]
        for data in (b"x", b"", b"d" * 60_000, bytearray(b"array"), memoryview(b"view")):
            one.transport.sendto(data, names[1])
            assert await other.got.get() == (bytes(data), names[0])
            other.transport.sendto(data, names[0])
            assert await one.got.get() == (bytes(data), names[1])
        connected = await endpoint(remote_addr=names[0][:2])
        for to in (None, names[0]):
            connected.transport.sendto(b"here", to)
            data, addr = await one.got.get()
            assert data == b"here"
            assert addr == connected.transport.get_extra_info("sockname")
        with pytest.raises(ValueError, match="Invalid address: must be None or "):
            connected.transport.sendto(b"there", names[1])
        one.transport.sendto(b"answer", addr)
        assert await connected.got.get() == (b"answer", names[0])
        await close(one, other, connected)

    runner.run(main())


def test_errors_are_the_protocols_to_hear(runner: asyncio.Runner) -> None:
    async def main() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            name = nobody.getsockname()
        one = await endpoint(remote_addr=name)
        one.transport.sendto(b"into the void")
        assert isinstance(await one.errors.get(), ConnectionRefusedError)
        one.transport.sendto(b"x" * 100_000)
        assert (await one.errors.get()).errno == 90  # EMSGSIZE
        assert not one.transport.is_closing()
        for wrong in ("text", 5, None):
            with pytest.raises(TypeError, match="data argument must be a bytes-like object, not '"):
                one.transport.sendto(wrong)
        free = await endpoint(local_addr=("127.0.0.1", 0))
        free.transport.sendto(b"x", ("127.0.0.1", 0))
        assert isinstance(await free.errors.get(), OSError)
        await close(one, free)

    runner.run(main())


def test_what_finds_no_room_waits_and_stays_whole(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.setblocking(False)
        other.setblocking(False)
        _, protocol = await loop.create_datagram_endpoint(Recorder, sock=one)
        transport = protocol.transport
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(str(tmp_path / "name"))
        receiver.setblocking(False)
        _, free = await loop.create_datagram_endpoint(Recorder, local_addr=str(tmp_path / "own"), family=socket.AF_UNIX)
        for number in range(500):
            free.transport.sendto(b"%d" % number * 100, str(tmp_path / "name"))
        assert free.transport.get_write_buffer_size() > 0
        assert free.events == ["pause"]
        free.transport.close()
        for number in range(500):
            assert await loop.sock_recv(receiver, 5000) == b"%d" % number * 100
        assert await free.lost is None
        assert free.events == ["pause", "resume"]
        transport.abort()
        assert await protocol.lost is None
        receiver.close()
        other.close()

    runner.run(main())


def test_aborting_forgets_what_waits(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.setblocking(False)
        _, free = await loop.create_datagram_endpoint(Recorder, sock=one)
        free.transport.abort()
        free.transport.close()
        assert await free.lost is None
        other.close()

    runner.run(main())


def test_a_datagram_transport_is_what_it_says(runner: asyncio.Runner) -> None:
    async def main() -> None:
        one = await endpoint(local_addr=("127.0.0.1", 0))
        transport: Any = one.transport
        assert isinstance(one.transport, asyncio.DatagramTransport)
        assert not transport.is_closing()
        assert transport.get_protocol() is one
        assert "fd=" in repr(transport)
        assert "read=polling" in repr(transport)
        assert transport.get_extra_info("peername") is None
        for name in ("write", "writelines"):
            if name == "write":
                with pytest.raises(NotImplementedError):
                    transport.write(b"x")
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        with pytest.raises(RuntimeError, match="is used by transport"):
            asyncio.get_running_loop().add_reader(transport._sock_fd, print)
        transport.pause_reading()
        transport.sendto(b"to itself", transport.get_extra_info("sockname"))
        await asyncio.sleep(0.01)
        assert one.got.empty()
        transport.resume_reading()
        await one.got.get()
        await close(one)

    runner.run(main())


def test_a_protocol_that_raises_hears_the_next_datagram(runner: asyncio.Runner) -> None:
    class Raises(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            raise ZeroDivisionError

    async def main() -> None:
        reports: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        _, one = await loop.create_datagram_endpoint(Raises, local_addr=("127.0.0.1", 0))
        for number in range(2):
            one.transport.sendto(b"%d" % number, one.transport.get_extra_info("sockname"))
            await one.got.get()
        assert [type(report["exception"]) for report in reports] == [ZeroDivisionError] * 2
        await close(one)

    runner.run(main())


def test_a_protocol_that_raises_over_an_error_while_flushing_keeps_its_transport(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    class Raises(Recorder):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            raise ZeroDivisionError

    async def main() -> None:
        told = asyncio.Event()
        reports: list[Any] = []
        loop = asyncio.get_running_loop()

        def report(_loop: Any, context: Any) -> None:
            reports.append(context)
            told.set()

        loop.set_exception_handler(report)
        full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        full.bind(str(tmp_path / "full"))
        _, one = await loop.create_datagram_endpoint(Raises, local_addr=str(tmp_path / "own"), family=socket.AF_UNIX)
        while one.transport.get_write_buffer_size() == 0:
            one.transport.sendto(b"x", str(tmp_path / "full"))
        full.close()  # what waits finds nobody
        assert isinstance(await one.errors.get(), ConnectionRefusedError)
        await told.wait()
        assert [type(each["exception"]) for each in reports] == [ZeroDivisionError]
        assert not one.transport.is_closing()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(tmp_path / "other"))
            other.setblocking(False)
            one.transport.sendto(b"goes on", str(tmp_path / "other"))
            assert await loop.sock_recv(other, 99) == b"goes on"
        await close(one)

    runner.run(main())
