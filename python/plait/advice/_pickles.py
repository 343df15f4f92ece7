"""What it takes to send what calls are given and return: it is pickled, and never made anew from that.

What is made from a pickle is a second one of what the program has one of: it opens what that has opened, and its end closes it.
"""

from __future__ import annotations

import io
import pickle
import threading
import time
from typing import Any, NamedTuple

#: Bytes of an argument up to which it is compared after the call.
_COMPARED = 4 << 20

#: Bytes of a pickle that are kept at most; the rest is only counted.
_KEPT = 16 << 20

#: Classes whose objects no call changes.
_FIXED = (type(None), bool, int, float, complex, str, bytes, range, type)


class _Pickling(threading.local):
    """Whether this thread is pickling: functions of the program that are called for that are none of its work."""

    now = False


pickling = _Pickling()


class Pickle(NamedTuple):
    """A pickle: nanoseconds that it took, its size, and itself where it is short."""

    took: int
    size: int
    data: bytes


class _Sink(io.RawIOBase):
    """Takes pickles of any size in little memory, in the time that it takes to put them somewhere."""

    def __init__(self) -> None:
        self.size = 0
        self.kept = bytearray()
        self._scratch: bytearray | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        self.size += len(view)
        if self.size <= _KEPT:
            self.kept += view
        else:
            self._scratch = scratch = self._scratch or bytearray(1 << 20)
            for at in range(0, len(view), len(scratch)):
                part = view[at : at + len(scratch)]
                scratch[: len(part)] = part
        return len(view)


def pickled(value: Any) -> Pickle:
    """Pickle something.

    Raises:
        Exception: Whatever its classes raise.

    >>> pickled(b"word").size > 4
    True
    """
    sink = _Sink()
    before, pickling.now = pickling.now, True
    try:
        began = time.perf_counter_ns()
        pickle.Pickler(sink, 5).dump(value)
        took = time.perf_counter_ns() - began
    finally:
        pickling.now = before
    return Pickle(took, sink.size, bytes(sink.kept) if sink.size <= _COMPARED else b"")


class Given:
    """What a call was given, as it was before."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.unpicklable = ""
        self.took = self.size = 0
        self._before: list[tuple[int | str, Any, bytes]] = []
        seen = set[int]()
        named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for name, value in named:
            if id(value) in seen:
                continue
            seen.add(id(value))
            try:
                took, size, data = pickled(value)
            except Exception as error:  # whatever the program's classes raise
                if not (
                    isinstance(error, RuntimeError) and "during iteration" in str(error)
                ):  # another thread has it too
                    self.unpicklable = why("an argument", error)
                self.took = self.size = 0
                return
            self.took += took
            self.size += size
            if data and not isinstance(value, _FIXED):
                self._before.append((name, value, data))

    def change(self, function: Any) -> str:
        """Which argument the call has changed, in words; "" for none that can be seen."""
        for place, value, before in self._before:
            try:
                after = pickled(value).data
            except Exception:  # the program's classes
                continue
            if after and after != before:
                names: tuple[str, ...] = getattr(getattr(function, "__code__", None), "co_varnames", ())
                name = names[place] if isinstance(place, int) and place < len(names) else place
                return f"changes its argument `{name}`"
        return ""


def why(what: str, error: Exception) -> str:
    """Why something cannot be pickled."""
    said = str(error).partition("\n")[0]
    return f"{what} cannot be pickled ({type(error).__name__}: {said[:80]})"
