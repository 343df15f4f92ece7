"""How a profile is made, and how that comes to the processes that take part in it.

What `plait profile` needs to start a program is here, and it needs nothing else: the program waits for it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

__all__ = ["INJECT", "OVER", "PATH", "SETTINGS", "Settings", "environment"]

OVER: Final = "over"
"""The file in a profile's folder that tells all processes that it has ended."""

PATH: Final = b"PYTHONPATH"
SETTINGS: Final = b"PLAIT_OBSERVE"
INJECT: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_inject")
"""The folder of what a child imports first."""


class Settings:
    """How a profile is made; the same in all of its processes.

    Attributes:
        word: The name of the word that a parent has left of the child that it could not name, empty where there is none.
    """

    __slots__ = ("children", "folder", "rate", "tasks", "word")

    def __init__(self, folder: str, rate: float, tasks: bool, children: bool, word: str = "") -> None:
        self.folder = folder
        self.rate = rate
        self.tasks = tasks
        self.children = children
        self.word = word

    def __str__(self) -> str:
        """As children get them."""
        return self.text()

    def text(self, word: str = "") -> str:
        """As a child gets them of which that word was left."""
        version = f"1/{word}" if word else "1"
        return f"{version}:{self.rate!r}:{self.tasks:d}:{self.children:d}:{self.folder}"

    @classmethod
    def of(cls, text: str) -> Settings | None:
        """Read what a child got; None if it comes from another version."""
        parts = text.split(":", 4)
        version, _, word = parts[0].partition("/")
        if len(parts) != 5 or version != "1":
            return None
        return cls(parts[4], float(parts[1]), parts[2] == "1", parts[3] == "1", word)


def environment(settings: Settings, before: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the environment of a child that is to be observed, made from the one that it would have."""
    changed = dict(before)
    rest = changed.get(PATH, b"")
    inject = os.fsencode(INJECT)
    if inject not in rest.split(b":"):
        changed[PATH] = inject + b":" + rest if rest else inject
    changed[SETTINGS] = os.fsencode(str(settings))
    return changed
