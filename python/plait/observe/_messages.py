"""What goes from process to process through `ForkingPickler` and `Connection._recv`: how long it is pickled, moved, unpickled.

Who looks at messages is asked of those of its types alone, and tells by the value, or by who sends it, whether it is one of
its own.
"""

from __future__ import annotations

import io
import multiprocessing.connection
import multiprocessing.reduction
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from plait.observe import _patches

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

__all__ = ["Came", "Looker", "caller", "look"]

_HEADER = 8
"""What is not longer is the length of a message, for which a receiver waits."""


class Came(NamedTuple):
    """A message that has come: how long it was moved, when unpickling began and when it had ended, and its bytes."""

    moved: int
    began: int
    ended: int
    data: Any


class Looker(Protocol):
    """Who looks at messages."""

    def goes(self, message: Any) -> Callable[[int, bool], bytes] | None:
        """Look at a message that is about to be pickled.

        Returns:
            What to call with the nanoseconds that this took, and whether it succeeded; what it returns follows the pickle,
            where no reader looks. None for one that is none of its own.
        """

    def came(self, message: Any, came: Came) -> None:
        """Look at a message that has been unpickled."""


class _Here(threading.local):
    """How long the last message of this thread was moved."""

    moved = 0


_here = _Here()
_lookers: dict[type, Looker] = {}
"""Those of the profile that runs: nothing is kept of them when it is over."""
_own: set[CodeType] = set()
"""The code of what stands between callers and the pickler."""


def caller(depth: int) -> CodeType | None:
    """Return the code of who sends or receives the message that is looked at: so many frames out from the pickler's caller."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in _own:
        frame = frame.f_back
    for _ in range(depth + 1):
        frame = None if frame is None else frame.f_back
    return None if frame is None else frame.f_code


def look(looker: Looker, *types: type) -> bool:
    """Have messages of these types looked at for as long as the profile runs.

    Returns:
        Whether they are: not where the program has put a pickler of its own in the place of `ForkingPickler`.
    """
    pickler: Any = multiprocessing.reduction.ForkingPickler
    attributes: Any = pickler.__dict__
    dumps: Any = attributes.get("dumps")
    kind: object = dumps.__class__
    if kind is not classmethod or "loads" not in attributes:
        return False
    if getattr(dumps.__func__, "__code__", None) not in _own:
        _patches.replace(sys.modules[__name__], "_lookers", {})
        _look_at_pickles(pickler)
        _look_at_pipes()
    _lookers.update(dict.fromkeys(types, looker))
    return True


def _look_at_pickles(pickler: Any) -> None:
    # A class that extends it has reducers of its own.
    dumps, loads = pickler.__dict__["dumps"].__func__, pickler.loads

    def observed_dumps(cls: Any, obj: Any, protocol: Any = None) -> Any:
        looker = _lookers.get(type(obj))  # pyright: ignore[reportUnknownArgumentType]
        pickled = None if looker is None else looker.goes(obj)
        if pickled is None:
            return dumps(cls, obj, protocol)
        began, written, done = time.monotonic_ns(), io.BytesIO(), False
        try:
            cls(written, protocol).dump(obj)
            done = True
        finally:
            more = pickled(time.monotonic_ns() - began, done)
        written.write(more)
        return written.getbuffer()

    def observed_loads(data: Any, /, **options: Any) -> Any:
        moved, _here.moved = _here.moved, 0
        began = time.monotonic_ns()
        obj = loads(data, **options)
        looker = _lookers.get(type(obj))  # pyright: ignore[reportUnknownArgumentType]
        if looker:
            looker.came(obj, Came(moved, began, time.monotonic_ns(), data))
        return obj

    _own.update((observed_dumps.__code__, observed_loads.__code__))
    _patches.replace(pickler, "dumps", classmethod(observed_dumps))
    _patches.replace(pickler, "loads", staticmethod(observed_loads))


def _look_at_pipes() -> None:
    """How long it takes to read a message whose length has come: the other side writes it meanwhile."""
    connection: Any = multiprocessing.connection.Connection
    receive = connection._recv

    def observed(self: Any, size: int, *rest: Any) -> Any:
        if size <= _HEADER:
            _here.moved = 0
            return receive(self, size, *rest)
        began = time.monotonic_ns()
        received = receive(self, size, *rest)
        _here.moved = time.monotonic_ns() - began
        return received

    _patches.replace(connection, "_recv", observed)
