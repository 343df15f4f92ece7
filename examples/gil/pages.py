"""Get pages from a server of this machine that takes 20 ms for each: one by one, in threads, and gathered on a loop.

    python examples/gil/pages.py serial|threads|gathered [COUNT]

Who waits for an answer does not have the GIL, so waits overlap in threads and in tasks alike.
"""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

COUNT = 40
TOGETHER = 10

SERVER = """
import asyncio
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    await asyncio.sleep(0.02)
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello")
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def page(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    body = connection.getresponse().read()
    connection.close()
    return len(body)


async def page_async(port: int, limit: asyncio.Semaphore) -> int:
    async with limit:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
        return len(body)


def serial(port: int, count: int) -> int:
    return sum(page(port) for _ in range(count))


def threads(port: int, count: int) -> int:
    with ThreadPoolExecutor(TOGETHER) as pool:
        return sum(pool.map(page, [port] * count))


def gathered(port: int, count: int) -> int:
    async def main() -> int:
        limit = asyncio.Semaphore(TOGETHER)
        return sum(await asyncio.gather(*(page_async(port, limit) for _ in range(count))))

    return asyncio.run(main())


WAYS: dict[str, Callable[[int, int], int]] = {"serial": serial, "threads": threads, "gathered": gathered}

if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    # -I: a profile of this program does not follow the server.
    with subprocess.Popen([sys.executable, "-I", "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            got = WAYS[sys.argv[1]](int(server.stdout.readline()), count)
        finally:
            server.terminate()
    print(f"{count} pages, {got} bytes")
