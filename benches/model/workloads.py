"""Real work for predictions: each a function of one argument at module level, its arguments, and what it needs beside it.

From two microseconds to half a second for a call, and from some milliseconds to seconds for all.
"""

from __future__ import annotations

import ast
import asyncio
import bz2
import csv
import difflib
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import re
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import tokenize
import urllib.request
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

SOURCES = sorted(Path(os.__file__).parent.glob("*.py"))
URL, PORT = "PLAIT_BENCH_URL", "PLAIT_BENCH_PORT"


def tokens(path: str) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in tokenize.tokenize(file.readline))


def compress(size: int) -> int:
    return len(zlib.compress(random.Random(size).randbytes(size // 2) + bytes(size // 2), 6))


def parse(size: int) -> int:
    return len(
        json.loads(
            json.dumps([{"id": number, "name": f"name {number}", "values": [number] * 8} for number in range(size)])
        )
    )


def query(seed: int) -> int:
    with sqlite3.connect(":memory:") as base:
        base.execute("create table t (a integer, b text)")
        base.executemany(
            "insert into t values (?, ?)", ((number * seed % 977, f"row {number}") for number in range(3000))
        )
        return int(base.execute("select count(*) from t x join t y on x.a = y.a where x.b < y.b").fetchone()[0])


def fetch(number: int) -> int:
    with urllib.request.urlopen(f"{os.environ[URL]}/{number}") as answer:
        return len(json.loads(answer.read()))


async def fetch_async(number: int) -> int:
    host, _, port = os.environ[URL].removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /{number} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return len(json.loads(body))


def start(number: int) -> int:
    return len(
        subprocess.run(
            ["/bin/sh", "-c", f"echo {number}; ls /usr/lib | head -50"], capture_output=True, check=True
        ).stdout
    )


async def start_async(number: int) -> int:
    child = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", f"echo {number}; ls /usr/lib | head -50", stdout=asyncio.subprocess.PIPE
    )
    return len((await child.communicate())[0])


def digest(size: int) -> str:
    return hashlib.sha256(bytes(size)).hexdigest()


def mixed(path: str) -> int:
    data = Path(path).read_bytes()
    names = re.findall(rb"\b[a-z_]+\b", data)
    packed = gzip.compress(data, 4)
    return len(set(names)) + len(hashlib.blake2b(packed).hexdigest())


def words(path: str) -> int:
    counts: dict[str, int] = {}
    for word in Path(path).read_text(errors="replace").split():
        counts[word] = counts.get(word, 0) + 1
    return sum(1 for count in counts.values() if count > 1)


def rows(seed: int) -> int:
    text = "\n".join(f"{number},{number * seed % 1013},name {number}" for number in range(3000))
    return sum(int(row[1]) for row in csv.reader(io.StringIO(text)))


def write(number: int) -> int:
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(1 << 18))
        file.flush()
        os.fsync(file.fileno())
        return file.tell() + number


def unpack(size: int) -> int:
    packed = zlib.compress(bytes(range(256)) * (size // 256), 1)
    return len(zlib.decompress(packed))


def elements(size: int) -> int:
    text = "<rows>" + "".join(f"<row id='{number}'><name>n {number}</name></row>" for number in range(size)) + "</rows>"
    return sum(len(row) for row in ET.fromstring(text).iter("row"))


def sizes(path: str) -> int:
    return sum(os.stat(os.path.join(where, name)).st_size for where, _, names in os.walk(path) for name in names)


def count_words(text: str) -> int:
    return len(set(text.split()))


def matches(seed: int) -> int:
    lines = "\n".join(f"10.0.{number % 256}.{seed % 256} GET /page/{number} {200 + number % 5}" for number in range(1500))
    return len(re.findall(r"^(\d+\.\d+\.\d+\.\d+) (GET|POST) (\S+) (20[0-4])$", lines, re.MULTILINE))


def records(seed: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": f"row {number * seed % 997}", "tags": [seed, number]} for number in range(2500)]


def pack(size: int) -> int:
    return len(lzma.compress(random.Random(size).randbytes(size // 4) * 4, preset=1))


def ordered(seed: int) -> int:
    chance = random.Random(seed)
    pairs = [(chance.random(), number) for number in range(6000)]
    return sorted(pairs, key=lambda pair: (pair[0] * 7 % 1, pair[1]))[0][1]


def nodes(path: str) -> int:
    return sum(1 for _ in ast.walk(ast.parse(Path(path).read_bytes())))


def primes(below: int) -> int:
    sieve = bytearray([1]) * below
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            for multiple in range(number * number, below, number):
                sieve[multiple] = 0
    return sum(sieve)


def queens(size: int, row: int = 0, columns: int = 0, left: int = 0, right: int = 0) -> int:
    if row == size:
        return 1
    found = 0
    free = ~(columns | left | right) & ((1 << size) - 1)
    while free:
        place = free & -free
        free ^= place
        found += queens(size, row + 1, columns | place, (left | place) << 1, (right | place) >> 1)
    return found


def ask(number: int) -> float:
    with socket.create_connection(("127.0.0.1", int(os.environ[PORT]))) as peer:
        peer.sendall(f"{number}\n".encode())
        with peer.makefile("rb") as answer:
            return statistics.fmean(json.loads(answer.readline()))


async def ask_async(number: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ[PORT]))
    writer.write(f"{number}\n".encode())
    values = json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return statistics.fmean(values)


def checksum(path: str) -> str:
    total = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:
        while part := file.read(1 << 16):
            total.update(part)
    return total.hexdigest()


def archive(number: int) -> int:
    """A database in a file: each row is committed."""
    with tempfile.TemporaryDirectory() as folder:
        base = sqlite3.connect(os.path.join(folder, "rows.db"))
        base.execute("create table t (a integer)")
        for row in range(4):
            base.execute("insert into t values (?)", (row * number,))
            base.commit()
        base.close()
    return number


def squeeze(size: int) -> int:
    return len(bz2.compress(random.Random(size).randbytes(size // 8) * 8, 5))


def page(number: int) -> str:
    cells = [[f"<td class='c{column}'>{number * column % 17:>4}</td>" for column in range(20)] for _ in range(60)]
    return hashlib.md5("\n".join("".join(row) for row in cells).encode(), usedforsecurity=False).hexdigest()


def compare(seed: int) -> int:
    chance = random.Random(seed)
    one = [f"line {chance.randrange(60)}" for _ in range(150)]
    return sum(1 for line in difflib.unified_diff(one, [line for line in one if chance.random() > 0.2]))


def sort_in_child(number: int) -> int:
    lines = "\n".join(str(row * number % 7919) for row in range(4000))
    return len(subprocess.run(["sort", "-n"], input=lines.encode(), capture_output=True, check=True).stdout)


async def sort_in_child_async(number: int) -> int:
    lines = "\n".join(str(row * number % 7919) for row in range(4000))
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec("sort", "-n", stdin=pipe, stdout=pipe)
    return len((await child.communicate(lines.encode()))[0])


@dataclass
class Work:
    run: Callable[[Any], Any]
    arguments: list[Any]
    held_out: bool = False
    """Kept out of tuning: reported apart."""
    helper: str | None = None
    """A program that has to run beside it, in `HELPERS`."""
    awaitable: Callable[[Any], Awaitable[Any]] | None = None
    """The same as a coroutine function."""


def paths(count: int, least: int = 4_000, most: int = 40_000) -> list[str]:
    return [str(path) for path in SOURCES if least < path.stat().st_size < most][:count]


def texts(count: int) -> list[str]:
    lines = Path(tokenize.__file__).read_text().splitlines()
    return [lines[number % len(lines)] + f" {number}" for number in range(count)]


WORKS = {
    "tokenize": Work(tokens, paths(80)),
    "zlib": Work(compress, [200_000 + 2_500 * number for number in range(120)]),
    "json": Work(parse, [800 + 10 * number for number in range(160)]),
    "sqlite": Work(query, list(range(1, 101))),
    "http": Work(fetch, list(range(400)), helper="http", awaitable=fetch_async),
    "subprocess": Work(start, list(range(150)), awaitable=start_async),
    "hashing": Work(digest, [1_000_000 + 10_000 * number for number in range(300)]),
    "mixed": Work(mixed, paths(120)),
    "words": Work(words, paths(150) * 4),
    "tiny": Work(count_words, texts(20_000)),
    "regex": Work(matches, list(range(150))),
    "records": Work(records, list(range(1, 101))),
    "lzma": Work(pack, [400_000 + 5_000 * number for number in range(24)]),
    "sorting": Work(ordered, list(range(60))),
    "parsing": Work(nodes, paths(60)),
    "skewed": Work(primes, [400_000 if number % 20 == 7 else 8_000 for number in range(100)]),
    "queens": Work(queens, [11, 12, 10, 12, 11, 12]),
    "remote": Work(ask, list(range(200)), helper="latency", awaitable=ask_async),
    "commits": Work(archive, list(range(40))),
    "csv": Work(rows, list(range(1, 201)), held_out=True),
    "fsync": Work(write, list(range(150)), held_out=True),
    "xml": Work(elements, [500 + 5 * number for number in range(100)], held_out=True),
    "tree": Work(sizes, [str(path) for path in sorted(Path(os.__file__).parent.glob("*/"))] * 3, held_out=True),
    "unpack": Work(unpack, [2_000_000 + 10_000 * number for number in range(150)], held_out=True),
    "bzip2": Work(squeeze, [120_000 + 1_000 * number for number in range(40)], held_out=True),
    "pages": Work(page, list(range(150)), held_out=True),
    "diff": Work(compare, list(range(60)), held_out=True),
    "checksum": Work(checksum, paths(150, 1_000, 400_000) * 6, held_out=True),
    "sort": Work(sort_in_child, list(range(1, 81)), held_out=True, awaitable=sort_in_child_async),
}

HTTP = """
import http.server, json, sys, time
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        rows = sorted({str(number): number * number % 97 for number in range(300)}.items(), key=lambda pair: pair[1])
        body = json.dumps(rows).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""

LATENCY = """
import asyncio, json
async def serve(reader, writer):
    number = int(await reader.readline())
    await asyncio.sleep(0.004 + number % 5 * 0.001)  # what lies between here and a server elsewhere
    writer.write(json.dumps([number * place % 101 for place in range(200)]).encode() + b"\\n")
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

HELPERS = {"http": HTTP, "latency": LATENCY}


@contextmanager
def helper(work: Work) -> Iterator[None]:
    """What has to run beside the work."""
    if work.helper is None:
        yield
        return
    command = [sys.executable, "-c", HELPERS[work.helper]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        os.environ[PORT] = child.stdout.readline().strip()
        os.environ[URL] = f"http://127.0.0.1:{os.environ[PORT]}"
        try:
            yield
        finally:
            child.kill()
