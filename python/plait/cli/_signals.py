"""Signals as something that a program waits for among other things, with who has sent them."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

__all__ = ["Signals"]

_END: Final = signal.SIGURG
"""Ends the thread. Nobody minds it otherwise."""


class Signals:
    """Holds signals back from the whole process while it is open, and collects them in a thread of its own.

    Attributes:
        before: The mask from before, for programs that are started meanwhile.
    """

    def __init__(self, awaited: Iterable[signal.Signals]) -> None:
        self._awaited: Final = {*awaited, _END}
        self._found: list[tuple[int, bool]] = []
        self._ended = False
        self.before: set[int] = set()

    def __enter__(self) -> Self:
        self.before = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, self._awaited)}
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._collect, name="plait-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._thread.ident is not None:
            signal.pthread_kill(self._thread.ident, _END)
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)
        # What came after the end is nobody's.
        while signal.sigtimedwait(self._awaited, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)

    def fileno(self) -> int:
        """Return what becomes readable."""
        return self._reader

    def take(self) -> list[tuple[int, bool]]:
        """Return the signals since the last time, and of each whether somebody sent it: not the terminal or the kernel."""
        try:
            while os.read(self._reader, 512):
                pass
        except BlockingIOError:
            pass
        found: list[tuple[int, bool]] = []
        while self._found:
            found.append(self._found.pop(0))
        return found

    def _collect(self) -> None:
        while not self._ended:
            caught = signal.sigwaitinfo(self._awaited)
            if caught.si_signo == _END:
                continue
            self._found.append((caught.si_signo, caught.si_code <= 0))
            try:
                os.write(self._writer, b".")
            except BlockingIOError:  # it is readable already
                pass
