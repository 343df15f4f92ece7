"""How shared memory travels: what a pickle says of a segment, and who holds the memory until somebody has opened it.

A pickle names a process that holds the memory, the descriptor there and the file's identity; who reads it opens
`/proc/PID/fd/FD` and checks that it is that file. By road:

- to and from a worker of plait: the pool holds the memory until the task is done, and until its result has been read;
- by `multiprocessing` (Process, Pool, Queue, Pipe; also `ProcessPoolExecutor`): the sender holds it until the first receiver
  has opened it. What a process is started with is held until that process has opened it or its `Process` object is gone;
- by any other pickle: as long as the sender has a handle.

Children of a plain fork have what their parent had.
"""

from __future__ import annotations

import multiprocessing.context
import os
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from plait import _core
from plait.errors import OwnerDied

__all__ = ["PROTOCOL", "Source", "open_segment"]

PROTOCOL: Final = 2
"""What arrays that are copied reduce by: the pickler of `multiprocessing` does not tell its own."""

Source = tuple[int, int, int, int]
"""Process, descriptor there, device and inode."""

Letter = tuple[int, int, int, int, int]
"""Names a letter of the sender: it holds the memory until somebody has opened it."""


def open_segment(source: Source, letter: Letter | None = None, part: int | None = None) -> _core.Segment:
    """Return the memory that `source` names; the same as before if this process has it. `part` is how much of it to map.

    Raises:
        OwnerDied: The process named has ended, or has let go of the memory.
    """
    try:
        return _core.Segment.open(source, letter, part)
    except (FileNotFoundError, PermissionError) as error:
        if isinstance(error, PermissionError) and os.path.exists(f"/proc/{source[0]}"):
            error.add_note(f"opening shared memory of process {source[0]}; it must belong to the same user")
            raise
        raise OwnerDied(
            f"the shared memory is gone: process {source[0]}, which it came from, has ended or has let go of it"
        ) from None


def _reduce_for_multiprocessing(segment: _core.Segment) -> tuple[Callable[..., _core.Segment], tuple[Any, ...]]:
    if _core.collecting():  # it is plait that borrows this pickler
        return open_segment, (segment.source(), None, segment.part)
    letter = segment.send()
    starting: Any = multiprocessing.context.get_spawning_popen()
    if starting is not None:  # a process that ends without having looked leaves nothing held
        weakref.finalize(starting, _core.withdraw, letter).atexit = False
    return open_segment, (segment.source(), letter, segment.part)


ForkingPickler.register(_core.Segment, _reduce_for_multiprocessing)
os.register_at_fork(after_in_child=_core.after_fork)
