"""Addresses that are numbers already: answered at once, exactly as the system answers."""

from __future__ import annotations

import _socket
import socket
import types
from typing import Any

# What `socket.getaddrinfo` makes of the numbers.
_FAMILIES = {int(each): each for each in socket.AddressFamily}
_KINDS = {int(each): each for each in socket.SocketKind}

# Plain numbers: a set of flags would lose those bits that it does not know.
_NUMERIC_HOST, _NUMERIC_PORT = int(socket.AI_NUMERICHOST), int(socket.AI_NUMERICSERV)
_DEPENDS = int(socket.AI_ADDRCONFIG)
_NUMERIC_NAME = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV

# Answers for numeric addresses, which depend on nothing but the question.
_answers: dict[tuple[object, ...], tuple[Any, ...]] = {}
_MOST_ANSWERS = 256


def _is_the_librarys(lookup: Any) -> bool:
    """Whether a `getaddrinfo` is the library's own: a program may have put another in place, before this was imported too."""
    if type(lookup) is not types.FunctionType or lookup.__qualname__ != "getaddrinfo":
        return False
    home: Any = lookup.__globals__
    return home is vars(socket)


def addresses(host: Any, port: Any, family: Any, kind: Any, proto: Any, flags: Any) -> list[Any] | None:
    """What `socket.getaddrinfo` answers for a numeric address; None for names, errors, and where a program has put its own."""
    if not _is_the_librarys(socket.getaddrinfo) or not isinstance(host, str | bytes | None):
        return None
    if not isinstance(port, int | str | bytes | None):
        return None
    for each in (family, kind, proto, flags):
        if not isinstance(each, int):
            return None
    question = (host, port, family, kind, proto, flags)
    answer = _answers.get(question)
    if answer is None:
        answer = _ask(question, host, port, family, kind, proto, flags)
    return None if answer is None else list(answer)


def _ask(
    question: Any,
    host: str | bytes | None,
    port: int | str | bytes | None,
    family: int,
    kind: int,
    proto: int,
    flags: int,
) -> tuple[Any, ...] | None:
    numeric = int(flags) | _NUMERIC_HOST
    if isinstance(port, str | bytes):
        numeric |= _NUMERIC_PORT
    lookup: Any = _socket.getaddrinfo
    try:
        # The system itself tells what is numeric, and answers that as it always does.
        plain = host.encode("ascii") if isinstance(host, str) else host
        found = lookup(plain, port, family, kind, proto, numeric)
    except (OSError, ValueError, OverflowError):
        return None  # the error has to come from the call that was asked for
    answer = tuple(
        (_FAMILIES.get(each[0], each[0]), _KINDS.get(each[1], each[1]), each[2], each[3], each[4]) for each in found
    )
    # Interfaces have other numbers tomorrow, and which families there are is asked each time.
    if plain is not None and b"%" not in plain and not int(flags) & _DEPENDS:
        if len(_answers) >= _MOST_ANSWERS:
            _answers.clear()
        _answers[question] = answer
    return answer


def name(sockaddr: Any, flags: Any) -> tuple[str, str] | None:
    """What `socket.getnameinfo` answers where numbers are asked for; None where names are."""
    lookup: Any = _socket.getnameinfo
    if not isinstance(flags, int) or flags & _NUMERIC_NAME != _NUMERIC_NAME or socket.getnameinfo is not lookup:
        return None
    found: tuple[str, str] = lookup(sockaddr, flags)
    return found
