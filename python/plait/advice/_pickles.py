"""What it takes to send what calls are given and return: it is pickled, and never made anew from that.

What is made from a pickle is a second one of what the program has one of: it opens what that has opened, and its end closes it.
"""

from __future__ import annotations

import io
import pickle
import time
from typing import Any, NamedTuple

from plait._words import brief
from plait.advice._held import class_of, is_iterator
from plait.advice._reducers import ALWAYS, QUIET, pickling

#: Bytes of an argument up to which it is compared after the call.
_COMPARED = 4 << 20

#: Bytes of a pickle that are kept at most; the rest is only counted.
_KEPT = 16 << 20

#: Classes whose objects no call changes.
_FIXED = (type(None), bool, int, float, complex, str, bytes, range, type)


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


def pickled(value: Any, *, quiet: bool = False) -> Pickle:
    """Pickle something; `quiet`: without any code of the program, to be compared with another one of that kind.

    Raises:
        Exception: Whatever its classes raise.

    >>> pickled(b"word").size > 4
    True
    """
    sink = _Sink()
    pickler = pickle.Pickler(sink, 5)
    pickler.dispatch_table = QUIET if quiet else ALWAYS
    before, pickling.now = pickling.now, True
    try:
        began = time.perf_counter_ns()
        pickler.dump(value)
        took = time.perf_counter_ns() - began
    finally:
        pickling.now = before
    return Pickle(took, sink.size, bytes(sink.kept) if sink.size <= _COMPARED else b"")


class _Before(NamedTuple):
    """What an argument was before the call.

    Attributes:
        own: Its pickle.
        bare: What it consists of, whatever its classes say; nothing if that cannot be told.
    """

    name: int | str
    value: Any
    own: bytes
    bare: bytes

    @property
    def has_changed(self) -> bool:
        """Whether it is another one now, to who would get its pickle."""
        if self.bare and _bare(self.value) == self.bare:
            return False  # without a word from the program
        # What classes leave out of their pickles is what they keep for themselves: a cache, a lock.
        try:
            now = pickled(self.value)
        except Exception as error:  # it has got something that cannot be pickled
            return not _is_in_use(error)
        return now.size != len(self.own) or now.data != self.own


class Given:
    """What a call was given, as it was before."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.unpicklable = ""
        self.named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        #: Where iterators among it stand.
        self.places: dict[int | str, Any] = {}
        self._parcels: dict[int, tuple[int, int]] = {}
        self._before: list[_Before] = []
        for name, value in self.named:
            if id(value) in self._parcels:
                continue
            pickling.asked = False
            try:
                took, size, data = pickled(value)
            except Exception as error:  # whatever the program's classes raise
                if not _is_in_use(error):
                    self.unpicklable = why("an argument", error)
                self._parcels.clear()
                return
            self._parcels[id(value)] = took, size
            if data and not issubclass(class_of(value), _FIXED) and not is_iterator(value):
                self._before.append(_Before(name, value, data, _bare(value) if pickling.asked else data))

    @property
    def took(self) -> int:
        """Nanoseconds that it took to pickle everything."""
        return sum(took for took, _ in self._parcels.values())

    @property
    def size(self) -> int:
        """Bytes of that."""
        return sum(size for _, size in self._parcels.values())

    def parcel_of(self, value: Any) -> tuple[int, int] | None:
        """What it took to pickle something that was given, and its size; None if it was not given."""
        return self._parcels.get(id(value))

    def change(self, function: Any) -> str:
        """Which argument the call has changed, in words; "" for none that can be seen."""
        changed = next((before.name for before in self._before if before.has_changed), None)
        return "" if changed is None else f"changes its argument `{name_of(function, changed)}`"


def name_of(function: Any, place: int | str) -> int | str:
    """The name of a function's argument, as far as it has names."""
    names: tuple[str, ...] = getattr(getattr(function, "__code__", None), "co_varnames", ())
    return names[place] if isinstance(place, int) and place < len(names) else place


def _bare(value: Any) -> bytes:
    """What something consists of, to compare; nothing if that cannot be pickled, or is too long."""
    try:
        return pickled(value, quiet=True).data
    except Exception:  # it may not be for pickles
        return b""


def _is_in_use(error: Exception) -> bool:
    """Whether something could not be pickled since another thread changed it meanwhile."""
    return isinstance(error, RuntimeError) and "during iteration" in _said(error)


def why(what: str, error: Exception) -> str:
    """Why something cannot be pickled."""
    return f"{what} cannot be pickled ({type(error).__name__}: {brief(_said(error), 80)})"


def _said(error: Exception) -> str:
    """The first line of an error's text."""
    try:
        return str(error).partition("\n")[0]
    except Exception:  # it is the program's
        return ""
