"""What a function keeps to itself or leaves behind: whether its calls can be made in another process, and at once."""

from __future__ import annotations

import io
import pickle
import socket
import sys
import types
from typing import TYPE_CHECKING, Any

from plait.auto._writes import find_change

if TYPE_CHECKING:
    from plait.advice._meters import Meter

#: Classes of what one call has to itself at a time, by module and name: those of modules that the program may not have.
_CONNECTIONS = {
    ("sqlite3", "Connection"), ("sqlite3", "Cursor"), ("http.client", "HTTPConnection"), ("http.client", "HTTPSConnection"),
    ("ftplib", "FTP"), ("smtplib", "SMTP"), ("imaplib", "IMAP4"), ("poplib", "POP3"), ("telnetlib", "Telnet"),
    ("ssl", "SSLSocket"), ("multiprocessing.connection", "Connection"), ("asyncio.streams", "StreamReader"),
    ("asyncio.streams", "StreamWriter"),
}  # fmt: skip


def change(meter: Meter) -> str | None:
    """What a function's calls change that outlives them, in words."""
    found = None
    if meter.program:
        try:
            found = find_change(meter.function)
        except (RecursionError, ValueError):
            found = None
    if found is not None and not _draws(found.what):
        return str(found)
    name = getattr(meter.function, "__qualname__", "it")
    return f"{name} {meter.change}" if meter.change else None


def _draws(what: str) -> bool:
    """Whether all that is changed is the state of the module `random`: other numbers are as good."""
    return what.endswith("of a Random of `random`")


def held_by_one(meter: Meter) -> str:
    """The name of a connection or file that all calls use, and only one can at a time; "" if there is none."""
    function: Any = meter.function
    if not meter.program or not isinstance(function, types.FunctionType):
        return ""
    names = set(_names(getattr(function, "__wrapped__", function).__code__))
    for name in sorted(names & set(function.__globals__)):
        if _is_held(function.__globals__[name]):
            return f"`{name}`"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            if _is_held(cell.cell_contents):
                return f"`{name}`"
        except ValueError:  # it is empty
            continue
    for name, value in sorted(getattr(meter.owner, "__dict__", {}).items()):
        if name in names and _is_held(value):
            return f"`self.{name}`"
    return ""


def _names(code: types.CodeType) -> list[str]:
    inner = [name for each in code.co_consts if isinstance(each, types.CodeType) for name in _names(each)]
    return [*code.co_names, *inner]


def _is_held(value: Any) -> bool:
    if isinstance(value, socket.socket):
        return True
    if isinstance(value, io.IOBase):
        return value not in (sys.stdin, sys.stdout, sys.stderr)
    return any((kind.__module__, kind.__name__) in _CONNECTIONS for kind in type(value).__mro__)


def cannot_be_pickled(function: Any) -> str:
    """Why a function cannot be sent to another process; "" if it can."""
    try:
        pickle.dumps(function)
    except Exception as error:  # whatever it is bound to raises
        if _stands_for_it(function):
            return ""  # what a decorator made of it
        name = getattr(function, "__name__", "it")
        if name == "<lambda>":
            return "a lambda cannot be pickled"
        if "<locals>" in getattr(function, "__qualname__", ""):
            return f"{name} is made within a function, and cannot be pickled"
        said = str(error).partition("\n")[0]
        return f"{name} cannot be pickled ({type(error).__name__}: {said[:80]})"
    return ""


def _stands_for_it(function: Any) -> bool:
    """Whether the program has something by the function's name that calls it and can be pickled."""
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    if not callable(found) or found is function:
        return False
    try:
        pickle.dumps(found)
    except Exception:  # whatever it is bound to raises
        return False
    return True
