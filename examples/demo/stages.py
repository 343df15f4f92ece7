"""What is done with a document. Plain functions, which know nothing of how they are run.

Which model suits which is said here for the reader alone: `plait.Pool` has to find out.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import hashlib
import http.client
import io
import json
import keyword
import lzma
import sqlite3
import tokenize
import urllib.parse
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Document(NamedTuple):
    url: str
    sha256: str
    packed: bytes  # the source and its index


class Function(NamedTuple):
    lines: int
    name: str
    line: int


def fetch(url: str) -> bytes:
    """Ask a server: waits."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)) as connection:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != http.client.OK:
        raise OSError(f"{url}: {answer.status} {answer.reason}")
    return body


def index(source: bytes) -> bytes:
    """On which lines each name stands, and the functions: computes in Python.

    A file that is not valid Python (the standard library has some, as test data) has an empty index.
    """
    lines: dict[str, list[int]] = collections.defaultdict(list)
    functions: list[Function] = []
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                lines[token.string].append(token.start[0])
        with warnings.catch_warnings(action="ignore"):  # about odd escapes in what we read
            functions = sorted(functions_of(ast.parse(source)), reverse=True)
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError):
        lines, functions = {}, []
    return json.dumps({"lines": lines, "functions": functions}).encode()


def functions_of(tree: ast.AST) -> Iterator[Function]:
    waiting = [(tree, "")]
    while waiting:
        node, prefix = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not isinstance(node, ast.ClassDef) and node.end_lineno is not None:
                yield Function(node.end_lineno - node.lineno + 1, prefix + node.name, node.lineno)
            prefix += f"{node.name}."
        waiting.extend((child, prefix) for child in ast.iter_child_nodes(node))


def pack(url: str, source: bytes, found: bytes) -> Document:
    """Hash and compress: computes in C code that lets go of the GIL."""
    return Document(url, hashlib.sha256(source).hexdigest(), lzma.compress(source + b"\0" + found))


def store(database: str, documents: list[Document]) -> int:
    """Add some documents, in one transaction: waits for the disk, and SQLite lets one write at a time."""
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("create table if not exists documents (url text primary key, sha256 text, packed blob)")
        connection.executemany("insert into documents values (?, ?, ?)", documents)
    return len(documents)


def stored(database: str) -> list[Document]:
    """All documents, by URL."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [Document(*row) for row in connection.execute("select * from documents order by url")]


def longest_functions(documents: Iterable[Document], count: int) -> list[tuple[Function, str]]:
    """Of the functions in the indexes, and the URLs of their documents."""
    found: list[tuple[Function, str]] = []
    for document in documents:
        _, _, text = lzma.decompress(document.packed).rpartition(b"\0")
        found += [(Function(*each), document.url) for each in json.loads(text)["functions"][:count]]
    return sorted(found, reverse=True)[:count]
