"""A server of documents that is as far away as one on the internet: each answer takes 10 to 30 ms, in which it waits.

    python examples/demo/server.py FOLDER       prints its address; ends when its standard input does

Requests are answered at the same time, as many as come: who asks for one document after the other waits for each.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.parse
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import plait

NEAREST, FARTHEST = 0.010, 0.030


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server of its own process, for as long as this block; its address."""
    # In a session of its own, so that a Ctrl-C is the program's. It ends with the pipe, whatever becomes of the program.
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise OSError(f"the server of documents did not start: exit code {process.wait()}")
            yield address
        finally:
            process.kill()  # it keeps nothing


async def serve(folder: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            path = urllib.parse.unquote(request.split(b" ", 2)[1].decode("ascii")).lstrip("/")
            await asyncio.sleep(delay(path))
            try:
                status, body = "200 OK", read(folder, path)
            except OSError as error:
                status, body = "404 Not Found", str(error).encode()
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError, IndexError):
            pass  # whoever asked has gone, or does not speak HTTP
        finally:
            writer.close()

    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)  # nothing is ever written: it has been closed
    async with await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024) as server:
        print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
        await over.wait()


def delay(path: str) -> float:
    """Seconds; of a document always the same."""
    return NEAREST + (FARTHEST - NEAREST) * (zlib.crc32(path.encode()) % 1000) / 1000


def read(folder: Path, path: str) -> bytes:
    file = (folder / path).resolve()
    if not file.is_relative_to(folder):
        raise FileNotFoundError(path)
    return file.read_bytes()


if __name__ == "__main__":
    plait.run(serve(Path(sys.argv[1]).resolve()))
