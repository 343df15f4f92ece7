"""`shared_array`: a numpy array in memory that all processes which have it write to and read from."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final

from plait import _core

try:
    import numpy as np
except ImportError as error:
    raise ImportError("plait.shared_array needs numpy: pip install numpy") from error

from multiprocessing.reduction import ForkingPickler

from plait.shared import _segment  # for what it tells multiprocessing's pickler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal, SupportsIndex

__all__ = ["SharedArray", "shared_array"]

_MOST_BYTES: Final = 2**63 - 1

_OLD_NUMPY: Final = int(np.__version__.partition(".")[0]) < 2
"""It does not say where functions give scalars, and makes results of this class before it asks."""


class SharedArray(np.ndarray):  # type: ignore[misc, unused-ignore]  # an Any without numpy
    """What `shared_array` returns: an array that other processes can have too.

    A subclass, since numpy arrays leave no other way to say how one of them travels: what is registered for `numpy.ndarray`
    itself changes how every array of the program is pickled. Views on it are shared as it is. What is computed from it is an
    ordinary array, or (`a[mask]`, `a.take`) an array of this class with memory of its own, which is copied like any other.
    """

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """Make the results of functions what they are for plain arrays; what they were told to write to stays what it is."""
        if array is self:
            return array
        scalar = return_scalar or (_OLD_NUMPY and array.ndim == 0)
        return array[()] if scalar else np.asarray(array)

    def copy(self, order: Any = "C") -> Any:
        """Return an ordinary array with the same contents."""
        return np.array(self, order=order, copy=True, subok=False)

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        """Return an ordinary array of another type, as `numpy.ndarray.astype` does."""
        return np.asarray(self).astype(*args, **kwargs)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # Where the pickle may end up anywhere, in a file too, an array is its contents.
        shared = _in_segment(self) if _core.collecting() else None
        return np.asarray(self).__reduce_ex__(protocol) if shared is None else shared

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)


def shared_array(
    shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = float, *, order: Literal["C", "F"] = "C"
) -> SharedArray:
    """Make an array of zeros in shared memory: what one process writes to it, the others see.

    A real, writable `numpy.ndarray`. As an argument or a result of a plait worker, and through the processes, pools, queues and
    pipes of `multiprocessing`, it and its views travel without a copy and arrive as the same memory. Any other pickle
    (a file, a socket) holds its contents, and so do arrays that were computed from it.

    Nothing orders what several processes write: give each its own part, or lock. The memory has no name, and is gone when no
    process has the array or a view on it, however they ended.

    Args:
        shape: Items along each axis; a number for one axis.
        dtype: What the items are, as for `numpy.zeros`; anything but Python objects.
        order: Whether rows (`"C"`) or columns (`"F"`) lie together in memory.

    Raises:
        ImportError: numpy is not there.
        TypeError: `shape` has no integers, `dtype` is no type, or its items are or hold Python objects.
        ValueError: `shape` is negative somewhere, `dtype` is malformed, or `order` is neither.
        MemoryError: The machine has not that much memory. Pages cost memory once they are written to.

    >>> squares = plait.shared_array(4, int)
    >>> def work(array, number):
    ...     array[number] = number**2
    >>> with plait.ProcessPool(2) as pool:
    ...     futures = [pool.submit(work, squares, number) for number in range(4)]
    >>> squares.tolist()
    [0, 1, 4, 9]
    """
    lengths = _lengths(shape)
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"dtype must not hold Python objects, which live in one process: {kind!r}")
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    if kind.subdtype is not None:  # as numpy does: further axes
        kind, inner = kind.subdtype
        lengths = (*lengths, *inner)
    if kind.itemsize == 0:  # text of no length: as numpy does, one character
        kind = np.zeros(0, kind).dtype
    nbytes = math.prod(lengths) * kind.itemsize
    if nbytes > _MOST_BYTES:
        raise ValueError(f"shape is too large: {lengths!r} of {kind!r}")
    memory: Any = _core.Segment.zeros(nbytes)  # a buffer, which numpy's own types do not take as one
    return SharedArray(lengths, kind, memory, 0, None, order)


def _lengths(shape: Any) -> tuple[int, ...]:
    """Return the shape as numpy understands it."""
    lengths: tuple[int, ...]
    try:
        try:
            lengths = (operator.index(shape),)
        except TypeError:
            lengths = tuple(operator.index(length) for length in shape)
    except TypeError:
        raise TypeError(f"shape must be an integer or a sequence of them, not {shape!r}") from None
    if any(length < 0 for length in lengths):
        raise ValueError(f"shape must not be negative, as in {shape!r}")
    return lengths


def _in_segment(array: SharedArray) -> tuple[Any, ...] | None:
    """Return how to make the array again on the same memory; None if its memory is not shared."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, _core.Segment):
        return None
    offset = array.__array_interface__["data"][0] - base.address if array.size else 0
    writeable = bool(array.flags.writeable)
    return _again, (base, array.shape, array.dtype, offset, array.strides if array.size else None, writeable)


def _again(
    segment: Any,
    shape: tuple[int, ...],
    dtype: Any,
    offset: int,
    strides: tuple[int, ...] | None,
    writeable: bool,
) -> SharedArray:
    """Return an array on shared memory that has arrived."""
    array = SharedArray(shape, dtype, segment, offset, strides)
    if not writeable:
        array.flags.writeable = False
    return array


def _reduce_for_multiprocessing(array: SharedArray) -> Any:
    shared = _in_segment(array)
    return np.asarray(array).__reduce_ex__(_segment.PROTOCOL) if shared is None else shared


ForkingPickler.register(SharedArray, _reduce_for_multiprocessing)
