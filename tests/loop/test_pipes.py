"""Pipes, on our loop and on the standard one."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import tempfile
import tty
from collections.abc import Iterator
from typing import Any

import pytest

import plait


@pytest.fixture(params=[plait.new_event_loop, asyncio.SelectorEventLoop], ids=["plait", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


class End(asyncio.Protocol):
    """Either end of a pipe; it writes down what it is told."""

    def __init__(self) -> None:
        self.data, self.events = bytearray(), list[str]()
        self.lost = asyncio.get_running_loop().create_future()
        self.resumed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.events.append("eof")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


async def reading(fd: int) -> End:
    _, protocol = await asyncio.get_running_loop().connect_read_pipe(End, os.fdopen(fd, "rb", 0))
    return protocol


async def writing(fd: int) -> End:
    _, protocol = await asyncio.get_running_loop().connect_write_pipe(End, os.fdopen(fd, "wb", 0))
    return protocol


async def until(happened: Any) -> None:
    while not happened():  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 5_000_000])
def test_bytes_come_through_in_order_and_whole(runner: asyncio.Runner, size: int) -> None:
    async def main() -> None:
        read, write = os.pipe()
        reader, writer = await reading(read), await writing(write)
        data = os.urandom(size)
        writer.transport.write(data[: size // 2])
        writer.transport.writelines([data[size // 2 :], b""])
        writer.transport.close()
        assert await reader.lost is None
        assert await writer.lost is None
        assert reader.data == data
        assert reader.events == ["made", "eof", "lost"]

    runner.run(main())


def test_many_small_writes_and_a_slow_reader(runner: asyncio.Runner) -> None:
    async def main() -> None:
        read, write = os.pipe()
        reader, writer = await reading(read), await writing(write)
        reader.transport.pause_reading()
        reader.transport.pause_reading()
        sent = bytearray()
        for number in range(4000):
            piece = b"%d," % number * 10
            writer.transport.write(bytearray(piece) if number % 2 else memoryview(piece))
            sent += piece
        assert writer.events == ["made", "pause"]
        assert writer.transport.get_write_buffer_size() > 0
        reader.transport.resume_reading()
        reader.transport.resume_reading()
        await writer.resumed.wait()
        await until(lambda: len(reader.data) == len(sent))
        assert reader.data == sent
        assert writer.transport.get_write_buffer_size() == 0
        writer.transport.write_eof()
        assert await reader.lost is None
        assert await writer.lost is None

    runner.run(main())


@pytest.mark.parametrize("much", [False, True])
def test_a_reader_that_leaves(runner: asyncio.Runner, much: bool) -> None:
    async def main() -> None:
        read, write = os.pipe()
        writer = await writing(write)
        if much:
            writer.transport.write(b"x" * 1_000_000)
        os.close(read)
        lost = await writer.lost
        assert isinstance(lost, BrokenPipeError) if much else lost is None
        for _ in range(10):
            writer.transport.write(b"unheard")
        assert writer.transport.is_closing()

    runner.run(main())


def test_a_named_pipe(runner: asyncio.Runner) -> None:
    async def main(folder: str) -> None:
        path = os.path.join(folder, "fifo")
        os.mkfifo(path)
        reader = await reading(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        writer = await writing(os.open(path, os.O_WRONLY))
        writer.transport.write(b"through")
        writer.transport.abort()
        await writer.lost
        await reader.lost
        assert reader.data == b"through"

    with tempfile.TemporaryDirectory() as folder:
        runner.run(main(folder))


def test_a_socket_as_a_pipe(runner: asyncio.Runner) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        _, reader = await asyncio.get_running_loop().connect_read_pipe(End, one)
        _, writer = await asyncio.get_running_loop().connect_write_pipe(End, other)
        writer.transport.write(b"x" * 1_000_000)
        await until(lambda: len(reader.data) == 1_000_000)
        reader.transport.close()
        assert await reader.lost is None
        await writer.lost

    runner.run(main())


def test_a_terminal(runner: asyncio.Runner) -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        tty.setraw(slave)
        reader, writer = await reading(os.dup(master)), await writing(slave)
        writer.transport.write(b"typed")
        await until(lambda: reader.data == b"typed")
        writer.transport.close()
        await writer.lost
        # The system tells the end of a terminal as an error.
        lost = await reader.lost
        assert lost is None or isinstance(lost, OSError)
        os.close(master)

    runner.run(main())


def test_what_is_no_pipe_is_refused(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
                with pytest.raises(ValueError, match=r"(?i)pipe transport is"):
                    await connect(End, file)

    runner.run(main())


def test_the_other_protocol_takes_over(runner: asyncio.Runner) -> None:
    async def main() -> None:
        read, write = os.pipe()
        reader, later = await reading(read), End()
        reader.transport.set_protocol(later)
        assert reader.transport.get_protocol() is later
        os.write(write, b"x")
        os.close(write)
        assert await later.lost is None
        assert (bytes(reader.data), bytes(later.data)) == (b"", b"x")

    runner.run(main())


def test_what_a_child_writes_and_reads(runner: asyncio.Runner) -> None:
    """Megabytes both ways at once."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        data = os.urandom(3_000_000)
        out, _ = await process.communicate(data)
        assert out == data
        assert process.returncode == 0

    asyncio.set_event_loop(runner.get_loop())  # for the children of the standard loop of 3.11
    runner.run(main())
