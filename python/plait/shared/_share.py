"""`share`: any object put into shared memory once, and read from every process without a copy."""

from __future__ import annotations

import importlib
import os
import pickle
import threading
import weakref
from typing import Any, Final, Generic, TypeVar, final

import plait.shared._segment  # noqa: F401  # pyright: ignore[reportUnusedImport]  # how handles travel
from plait import _core
from plait.errors import NotPicklable

__all__ = ["Shared", "share"]

T = TypeVar("T")

_ALIGNMENT: Final = 64
"""Buffers begin on a cache line, which vector instructions like."""

_UNREAD: Final = object()

_first = threading.Lock()
"""Held for an instant by the first thread that has unpickled an object; no pickle is read under it, which may run anything."""

_handles: weakref.WeakValueDictionary[tuple[int, int], Shared[Any]] = weakref.WeakValueDictionary()
"""The handles of this process by their memory: each object is unpickled once."""


_making = threading.RLock()
"""Held for an instant by who looks a handle up, or there were several of one object."""


def _after_fork() -> None:
    global _first, _making
    _first, _making = threading.Lock(), threading.RLock()  # another thread of the parent may hold the old ones for ever


os.register_at_fork(after_in_child=_after_fork)


@final
class Shared(Generic[T]):
    """A handle on an object in shared memory, made by `share`.

    Handles are small and travel by pickle: as arguments, in results, through queues. In each process there is one handle
    for one object. The memory is gone when no process has a handle, nor anything that came out of one.
    """

    __slots__ = ("__weakref__", "_buffers", "_pickled", "_segment", "_value")

    _segment: _core.Segment
    _pickled: int
    _buffers: tuple[tuple[int, int], ...]
    _value: Any

    def __init__(self) -> None:
        raise TypeError("plait.Shared is made by plait.share")

    def get(self) -> T:
        """Return the object, with its buffers as views on the shared memory: the same one at every call in a process.

        The first call unpickles it, and copies no buffer. Unless it was shared `writable`, its buffers are read-only. What is
        not a buffer (lists, dicts, numbers, text) is this process's own: changes to it are seen by nobody else.

        >>> handle = plait.share({"words": ["a", "b"]})
        >>> handle.get()
        {'words': ['a', 'b']}
        >>> handle.get() is handle.get()
        True
        """
        if self._value is _UNREAD:
            view = memoryview(self._segment)
            buffers = [view[start : start + length] for start, length in self._buffers]
            value = pickle.loads(view[: self._pickled], buffers=buffers)
            with _first:
                if self._value is _UNREAD:
                    self._value = value
        unpickled: T = self._value
        return unpickled

    @property
    def nbytes(self) -> int:
        """Bytes of shared memory that it takes."""
        return self._segment.nbytes

    @property
    def writable(self) -> bool:
        """Whether the buffers can be written to, for all to see."""
        return self._segment.writable

    def __reduce__(self) -> tuple[Any, ...]:
        return _handle, (self._segment, self._pickled, self._buffers)

    def __copy__(self) -> Shared[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared[T]:
        return self

    def __repr__(self) -> str:
        return f"<plait.Shared {self.nbytes} bytes{', writable' if self.writable else ''}>"


def share(obj: T, *, writable: bool = False) -> Shared[T]:
    """Put an object into shared memory once, and return a handle by which every process reads it without a copy.

    For what many tasks read: a large array, a table, a model. Sending the handle costs microseconds, whatever the size.
    Arrays that are to be filled or changed from several processes are better made by `shared_array`.

    Args:
        obj: Anything that can be pickled. Its large buffers (numpy arrays, pandas and arrow tables: all that pickle,
            protocol 5, keeps out of band) are put beside its pickle and are not copied again. Arrays that are not
            contiguous, `bytes` and `bytearray` have no such buffers and are copied once by each process; share
            `pickle.PickleBuffer(data)` to get a memoryview of bytes instead.
        writable: Whether the buffers may be written to, in every process that has the handle. Nothing orders such writes.
            Without it the kernel refuses every write to the memory, for ever.

    Returns:
        The handle. It travels to workers of plait and to processes of `multiprocessing`, however started. The memory has no
        name and is gone with its last user, however that ends. A handle costs each process a descriptor.

    Raises:
        plait.NotPicklable: The object cannot be pickled.
        MemoryError: There is not that much memory.
        OSError: The process has no descriptors left.

    >>> handle = plait.share(list(range(5)))
    >>> with plait.ProcessPool(1) as pool:
    ...     pool.submit(plait.Shared.get, handle).result(timeout=60)
    [0, 1, 2, 3, 4]
    """
    pickled, buffers = _dumps(obj)
    parts: list[tuple[int, memoryview]] = [(0, memoryview(pickled))]
    places: list[tuple[int, int]] = []
    end = len(pickled)
    for buffer in buffers:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        parts.append((start, buffer))
        places.append((start, buffer.nbytes))
        end = start + buffer.nbytes
    try:
        segment = _core.Segment.filled(end, parts, writable)
    finally:
        for _, part in parts:
            part.release()
    return _handle(segment, len(pickled), tuple(places))


def _dumps(obj: object) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of an object and the buffers beside it. What has no name goes by value, if cloudpickle is there."""
    buffers: list[Any] = []  # of pickle.PickleBuffer
    try:
        pickled = pickle.dumps(obj, protocol=5, buffer_callback=buffers.append)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        try:
            cloudpickle: Any = importlib.import_module("cloudpickle")
        except ImportError:
            raise NotPicklable(f"the object to be shared cannot be pickled: {error}") from error
        buffers.clear()
        try:
            pickled = cloudpickle.dumps(obj, protocol=5, buffer_callback=buffers.append)
        except (pickle.PicklingError, TypeError, AttributeError) as refusal:
            raise NotPicklable(f"the object to be shared cannot be pickled: {refusal}") from refusal
    return pickled, [buffer.raw() for buffer in buffers]


def _handle(segment: _core.Segment, pickled: int, buffers: tuple[tuple[int, int], ...]) -> Shared[Any]:
    """Return this process's handle on the memory."""
    kind: type[Shared[Any]] = Shared
    made = object.__new__(kind)
    made._segment = segment
    made._pickled = pickled
    made._buffers = buffers
    made._value = _UNREAD
    with _making:
        return _handles.setdefault(segment.identity, made)
