"""A terminal as a screen: lines in place of those from before, and keys.

Only what every terminal of the last forty years knows is used, so that it works over ssh, in tmux and on a console.
"""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from typing import Final

__all__ = ["Screen", "is_able"]

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_KEYS: Final = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
}


def is_able() -> bool:
    """Whether standard input and output are a terminal that can be a screen."""
    return os.isatty(0) and os.isatty(1) and os.environ.get("TERM", "dumb") not in {"dumb", ""}


class Screen:
    """The terminal of standard input and output."""

    def __init__(self) -> None:
        self._mode: list[object] | None = None

    def enter(self) -> None:
        """Take the terminal over: what it showed comes back with `leave`."""
        if self._mode is None:
            self._mode = termios.tcgetattr(0)
        mode = termios.tcgetattr(0)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(0, termios.TCSADRAIN, mode)
        _write(_ENTER)

    def leave(self) -> None:
        """Give it back."""
        if self._mode is not None:
            with contextlib.suppress(OSError, termios.error):  # it has gone
                _write(_LEAVE)
                termios.tcsetattr(0, termios.TCSADRAIN, self._mode)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            self._mode = None

    def size(self) -> tuple[int, int]:
        """Return columns and lines."""
        try:
            size = os.get_terminal_size(1)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def draw(self, lines: list[str], *, bright: set[int]) -> None:
        """Show these lines, those whose numbers are in `bright` the other way round."""
        _, rows = self.size()
        shown = [f"\x1b[7m{line}\x1b[0m" if number in bright else line for number, line in enumerate(lines[:rows])]
        # A line as wide as the terminal leaves the cursor on it: what is erased before is not erased again.
        _write("\x1b[H" + "\r\n".join(f"\x1b[2K{line}" for line in shown) + ("\r\n\x1b[J" if len(shown) < rows else ""))

    def keys(self) -> list[str] | None:
        """Return the keys that were pressed, None when there will be no more."""
        try:
            found = os.read(0, 4096)
        except BlockingIOError:
            return []
        except OSError:
            found = b""
        if not found:
            return None
        keys: list[str] = []
        while found:
            name = next((sequence for sequence in _KEYS if found.startswith(sequence)), None)
            if name is not None:
                keys.append(_KEYS[name])
                found = found[len(name) :]
            elif found[:1] == b"\x1b":
                # An escape sequence that is not known: not its letters either.
                break
            else:
                keys.append(found[:1].decode("latin-1"))
                found = found[1:]
        return keys


def _write(text: str) -> None:
    data = text.encode("utf-8" if _is_utf8() else "ascii", "replace")
    while data:
        data = data[os.write(1, data) :]


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
