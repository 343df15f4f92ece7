"""What workers of one zygote have found to be so in all its copies, so that the next ones need not look.

They share a page of memory, which is made when the zygote begins to serve. A worker is what its zygote was until it calls
anything, or unpickles what runs code; what it finds until then of modules that the zygote had is as true of every other.
"""

from __future__ import annotations

import mmap
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["Findings", "begin", "of_zygote"]

_LARGEST: Final = (1 << 64) - 1


class Findings:
    """A set of statements, which may lose some."""

    __slots__ = ("_words", "modules")

    def __init__(self) -> None:
        self.modules = frozenset(sys.modules)
        """What was imported when it was made."""
        # A word is written at once. Hashes are of 64 bits, and the same in all copies of a process.
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def __contains__(self, statement: bytes) -> bool:
        number, place = self._number(statement)
        return self._words[place] == number

    def add(self, statement: bytes) -> None:
        """Let all copies of this process know that it is so in all of them."""
        number, place = self._number(statement)
        self._words[place] = number

    def _number(self, statement: bytes) -> tuple[int, int]:
        """What stands for a statement, never 0, and where it is."""
        number = hash(statement) & _LARGEST or 1
        return number, number % len(self._words)


_current: Findings | None = None


def begin() -> None:
    """Have the processes that are forked from now on share what they find."""
    global _current
    _current = Findings()


def of_zygote() -> Findings | None:
    """What this worker shares with those of the same zygote; None if it has none."""
    return _current
