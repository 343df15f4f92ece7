"""What serves one call at a time: sockets, files, connections."""

from __future__ import annotations

import io
import socket
import sys
from typing import Any

#: Classes of what one call has to itself at a time, by module and name: those of modules that the program may not have.
_CONNECTIONS = {
    ("sqlite3", "Connection"), ("sqlite3", "Cursor"), ("http.client", "HTTPConnection"), ("http.client", "HTTPSConnection"),
    ("ftplib", "FTP"), ("smtplib", "SMTP"), ("imaplib", "IMAP4"), ("poplib", "POP3"), ("telnetlib", "Telnet"),
    ("ssl", "SSLSocket"), ("multiprocessing.connection", "Connection"), ("asyncio.streams", "StreamReader"),
    ("asyncio.streams", "StreamWriter"),
}  # fmt: skip


def is_held(value: Any) -> bool:
    """Whether something serves one call at a time."""
    if isinstance(value, socket.socket):
        return True
    if isinstance(value, io.IOBase):
        return value not in (sys.stdin, sys.stdout, sys.stderr)
    return any((kind.__module__, kind.__name__) in _CONNECTIONS for kind in type(value).__mro__)


def held_by(owner: Any) -> set[str]:
    """The names of what an object has of that kind."""
    return {name for name, value in getattr(owner, "__dict__", {}).items() if is_held(value)}
