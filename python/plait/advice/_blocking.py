"""Which of a function's calls block, by its lines: on an event loop, no other task runs while they wait.

What it calls is told by what the file imports, and by what it makes of that: a connection, a session. Functions of the same
file that it calls are read as well; those of other files are not.
"""

from __future__ import annotations

import ast
import functools
from typing import Final

from plait.advice._reading import Function, function_at, tree_of

_HTTP: Final = "an async client (aiohttp's, or httpx.AsyncClient)"
_THREAD: Final = "calls in asyncio.to_thread"

#: What blocks, as the beginning of a dotted name, and what is awaited in its place.
_AWAITED: Final = {
    "time.sleep": "asyncio.sleep",
    "subprocess": "asyncio.create_subprocess_exec",
    "os.system": "asyncio.create_subprocess_shell",
    "socket": "asyncio.open_connection",
    "urllib.request": _HTTP,
    "http.client": _HTTP,
    "requests": _HTTP,
    "urllib3": _HTTP,
    "httpx": "httpx.AsyncClient",
    "sqlite3": f"{_THREAD} (or aiosqlite, which does that)",
    "psycopg": "psycopg.AsyncConnection",
    "psycopg2": "an async driver (asyncpg, or psycopg.AsyncConnection)",
    "pymysql": "an async driver (aiomysql)",
    "MySQLdb": "an async driver (aiomysql)",
    "redis": "redis.asyncio",
    "pymongo": "pymongo.AsyncMongoClient",
    "boto3": f"{_THREAD} (or aioboto3)",
    "smtplib": f"{_THREAD} (or aiosmtplib)",
    "ftplib": _THREAD,
    "imaplib": _THREAD,
    "paramiko": f"{_THREAD} (or asyncssh)",
}

#: What is told beside its package: a call that opens its own connection needs no other one.
CONNECTS: Final = "sqlite3.connect"

#: Of the same packages, what is made to be awaited.
_ASYNC: Final = ("redis.asyncio", "httpx.Async", "psycopg.Async", "pymongo.Async")


@functools.cache
def blocking(path: str, line: int, name: str) -> tuple[str, ...]:
    """What a function calls that blocks: names as "urllib.request", "sqlite3" or "time.sleep"."""
    tree = tree_of(path)
    function = None if tree is None else function_at(tree, line, name)
    if tree is None or function is None:
        return ()
    own: dict[str, list[Function]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            own.setdefault(node.name, []).append(node)
    known, found = _names(tree), dict[str, None]()
    left, seen = [function], set[Function]()
    while left:
        at = left.pop()
        if at not in seen:
            seen.add(at)
            left += [other for name in _read(at, known, found) for other in own.get(name, [])]
    return tuple(found)


def awaited(name: str) -> str:
    """What is awaited in place of a call that blocks; "" where it is none of those that are known.

    >>> awaited("time.sleep")
    'asyncio.sleep'
    """
    return _AWAITED.get(_known(name), "")


def _known(name: str) -> str:
    """Of what blocks, what a dotted name is one of; "" if of none."""
    if name.startswith(_ASYNC):
        return ""
    return next((begin for begin in _AWAITED if f"{name}.".startswith(f"{begin}.")), "")


def _dotted(node: ast.expr | None) -> str:
    """A name with its attributes; "" for what is none."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _full(name: str, known: dict[str, str]) -> str:
    """A name of the file by its package's name; "" for one that comes from none."""
    root, rest = name, ""
    while root:
        if root in known:
            return known[root] + rest
        root, _, last = root.rpartition(".")
        rest = f".{last}{rest}"
    return ""


def _names(tree: ast.Module) -> dict[str, str]:
    """What the file's names stand for, and what it keeps in names and attributes of what blocks."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                known[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=ast.Call(func=made)):
                pass
            case ast.AnnAssign(target=target, value=ast.Call(func=made)):
                pass
            case ast.withitem(context_expr=ast.Call(func=made), optional_vars=ast.Name() as target):
                pass
            case _:
                continue
        name, full = _dotted(target), _full(_dotted(made), known)
        if name and _known(full):
            known.setdefault(name, full)
    return known


def _read(function: Function, known: dict[str, str], found: dict[str, None]) -> set[str]:
    """Add what blocks in a function; return the names of other functions that it calls."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = {each.arg for each in arguments}
    inside = {name: full for name, full in known.items() if name not in names}
    for each in arguments:
        if _known(kind := _full(_dotted(each.annotation), known)):
            inside[each.arg] = kind
    others: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            name = _dotted(node.func)
            if begin := _known(_full(name, inside)):
                found.setdefault(begin)
                if _full(name, inside) == CONNECTS:
                    found.setdefault(CONNECTS)
            else:
                others.add(name.removeprefix("self."))
    return others
