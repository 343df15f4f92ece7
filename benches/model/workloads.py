"""Real work for predictions: each a function of one argument at module level, its arguments, and what it needs beside it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import tokenize
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

SOURCES = sorted(Path(os.__file__).parent.glob("*.py"))
URL = "PLAIT_BENCH_URL"


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


def start(number: int) -> int:
    return len(
        subprocess.run(
            ["/bin/sh", "-c", f"echo {number}; ls /usr/lib | head -50"], capture_output=True, check=True
        ).stdout
    )


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
    import csv

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


@dataclass
class Work:
    run: Callable[[Any], Any]
    arguments: list[Any]
    held_out: bool = False
    """Kept out of tuning: reported apart."""
    helper: str | None = None
    """A program that has to run beside it."""
    labels: list[str] = field(default_factory=list)


def paths(count: int, least: int = 4_000, most: int = 40_000) -> list[str]:
    return [str(path) for path in SOURCES if least < path.stat().st_size < most][:count]


WORKS = {
    "tokenize": Work(tokens, paths(80)),
    "zlib": Work(compress, [200_000 + 2_500 * number for number in range(120)]),
    "json": Work(parse, [800 + 10 * number for number in range(160)]),
    "sqlite": Work(query, list(range(1, 101))),
    "http": Work(fetch, list(range(400)), helper="server"),
    "subprocess": Work(start, list(range(150))),
    "hashing": Work(digest, [1_000_000 + 10_000 * number for number in range(300)]),
    "mixed": Work(mixed, paths(120)),
    "words": Work(words, paths(150) * 4),
    "csv": Work(rows, list(range(1, 201)), held_out=True),
    "fsync": Work(write, list(range(150)), held_out=True),
    "xml": Work(elements, [500 + 5 * number for number in range(100)], held_out=True),
    "tree": Work(sizes, [str(path) for path in sorted(Path(os.__file__).parent.glob("*/"))] * 3, held_out=True),
    "unpack": Work(unpack, [2_000_000 + 10_000 * number for number in range(150)], held_out=True),
}

SERVER = """
import http.server, json, sys, time
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
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def helper(work: Work) -> Iterator[int | None]:
    """The process id of what has to run beside the work."""
    if work.helper is None:
        yield None
        return
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        os.environ[URL] = f"http://127.0.0.1:{child.stdout.readline().strip()}"
        try:
            yield child.pid
        finally:
            child.kill()
