"""Programs that people run, started for real, and clients that give them something to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE = 60.0


def needs(*modules: str) -> None:
    """Skips the test, by name, where one of the modules is missing."""
    for module in modules:
        pytest.importorskip(module)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """A server that runs as a program of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def children(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]


@contextlib.contextmanager
def served(folder: Path, *command: str, stop: int = signal.SIGTERM, codes: tuple[int, ...] = (0,)) -> Iterator[Server]:
    """Runs `python -m command`, in which PORT stands for a port, until the block ends; it has to end well."""
    port, log = free_port(), folder / "log"
    words = [word.replace("PORT", str(port)) for word in command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = Server(process, port, log)
        try:
            server.wait_until_it_answers()
            yield server
            process.send_signal(stop)
            process.wait(PATIENCE)
        except BaseException:
            print(log.read_text())
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = log.read_text()
    assert process.returncode in codes, said
    for word in ("Traceback", "Error", "never retrieved", "unclosed"):
        assert word not in said, said


async def request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes | None = None
) -> bytes:
    """One request over a connection that is kept, and the body of the answer."""
    method, length = ("GET", "") if body is None else ("POST", f"Content-Length: {len(body)}\r\n")
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{length}\r\n".encode())
    if body:
        writer.write(body)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.split()[1] == "200", head
    length = head.split("content-length:")[1].split("\r\n")[0]
    return await reader.readexactly(int(length))


async def load(port: int, connections: int = 30, requests: int = 15) -> int:
    """Many connections that ask for different things, each of which must get its own; some leave in the middle."""

    async def one(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(requests):
            word = f"{number}-{turn}"
            if turn % 3 == 2:
                body = random.Random(word).randbytes(turn * 5000)
                assert await request(reader, writer, "/size", body) == f"{len(body)} {sum(body)}".encode()
            else:
                assert await request(reader, writer, f"/echo/{word}") == word.encode()
        writer.close()
        await writer.wait_closed()
        return requests

    async def rude(number: int) -> int:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf"[: 20 + number * 10])
        await writer.drain()
        if number % 2:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        return 0

    answered = await asyncio.gather(*map(one, range(connections)), *map(rude, range(8)))
    return sum(answered)


async def get(port: int, path: str) -> bytes:
    """The answer over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await request(reader, writer, path)
    finally:
        writer.close()
