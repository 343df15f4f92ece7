"""What serves one call at a time: sockets, files, connections, and iterators, which give each item to one call."""

from __future__ import annotations

import io
import socket
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

#: Classes of what one call has to itself at a time, by module and name: those of modules that the program may not have.
_CONNECTIONS = {
    ("sqlite3", "Connection"), ("sqlite3", "Cursor"), ("http.client", "HTTPConnection"), ("http.client", "HTTPSConnection"),
    ("ftplib", "FTP"), ("smtplib", "SMTP"), ("imaplib", "IMAP4"), ("poplib", "POP3"), ("telnetlib", "Telnet"),
    ("ssl", "SSLSocket"), ("multiprocessing.connection", "Connection"), ("asyncio.streams", "StreamReader"),
    ("asyncio.streams", "StreamWriter"),
}  # fmt: skip


def is_held(value: Any) -> bool:
    """Whether something serves one call at a time."""
    kind = class_of(value)
    if issubclass(kind, socket.socket):
        return True
    if issubclass(kind, io.IOBase):
        return all(value is not each for each in (sys.stdin, sys.stdout, sys.stderr))
    return any((base.__module__, base.__name__) in _CONNECTIONS for base in kind.__mro__)


def held_by(owner: Any) -> set[str]:
    """The names of what an object has of that kind."""
    try:
        has: dict[str, Any] = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return set()
    return {name for name, value in list(has.items()) if is_held(value)}


def is_iterator(value: Any) -> bool:
    """Whether calls take items from something."""
    kind = class_of(value)
    return hasattr(kind, "__next__") and not issubclass(kind, io.IOBase)


def class_of(value: object) -> type[Any]:
    """The class of something, whatever it says itself: `isinstance` would have a proxy look for what it stands for."""
    return type(value)


class _Mark(NamedTuple):
    """What something can be known by again, without being kept; where it stood after a call, and whether it has moved."""

    reference: Callable[[], Any] | None
    number: int
    place: Any
    moved: bool


class Sharing:
    """Tells which of their arguments calls have in common, if those serve one call at a time. Nothing is kept."""

    def __init__(self) -> None:
        self._marks: dict[int | str, _Mark] = {}
        #: By argument, in how many calls it was what the call before had, and whether it is an iterator.
        self._again: dict[int | str, tuple[int, bool]] = {}

    def before(self, named: list[tuple[int | str, Any]]) -> dict[int | str, Any]:
        """Look at what a call is given; return where that of it stands which is looked at again after the call."""
        places: dict[int | str, Any] = {}
        for name, value in named:
            iterates = is_iterator(value)
            if not iterates and not is_held(value):
                continue
            places[name] = place = _place(value)
            mark = self._marks.get(name)
            if mark is None:
                continue
            if mark.reference is not None:
                same = mark.reference() is value
            else:
                # Another one may have got its address.
                same = mark.number == id(value) and mark.place == place and (mark.moved or place is None)
            if same:
                sure = mark.reference is not None or place is not None
                self._again[name] = self._again.get(name, (0, iterates))[0] + (2 if sure else 1), iterates
        return places

    def after(self, named: list[tuple[int | str, Any]], places: dict[int | str, Any]) -> None:
        """Look at it again, once the call has been made; other threads may make calls of the function meanwhile."""
        for name, value in named:
            if name in places:
                place = _place(value)
                self._marks[name] = _Mark(_reference(value), id(value), place, place != places[name])

    def found(self, *, iterators: bool) -> int | str | None:
        """An iterator that calls have in common, or something else that serves one of them; None if there is none."""
        seen = list(self._again.items())  # another thread may add to it
        return next((name for name, (again, which) in seen if again > 1 and which == iterators), None)


def _reference(value: Any) -> Callable[[], Any] | None:
    try:
        return weakref.ref(value)
    except TypeError:
        return None


class _Indexed:
    def __getitem__(self, _: int) -> int:
        raise IndexError


#: Iterators that have others within them.
_AROUND = (map, zip, filter, enumerate)

#: Iterators that would ask what they go through how long it is, which is code of the program.
_INDEXING = (reversed, type(iter(_Indexed())))


def _place(value: Any) -> Any:
    """Where an iterator of the interpreter's own stands; None if that cannot be told."""
    kind = class_of(value)
    if kind.__module__ != "builtins" or not is_iterator(value):
        return None
    if kind in _INDEXING:
        return value.__reduce__()[2:]
    if kind in _AROUND:
        made_of = value.__reduce__()[1]
        inner = [part if class_of(part) is int else _place(part) for part in made_of if _tells(part)]
        return None if None in inner else tuple(inner)
    hint = value.__length_hint__() if hasattr(kind, "__length_hint__") else None
    return hint if isinstance(hint, int) else None


def _tells(part: Any) -> bool:
    return class_of(part) is int or is_iterator(part)
