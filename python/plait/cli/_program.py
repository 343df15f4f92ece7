"""A program that is started to be watched: in everything what it is without, but for a terminal that is used as a screen."""

from __future__ import annotations

import os
import signal
import tempfile
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Program"]


class Program:
    """A running program.

    Args:
        command: Its name, searched for in PATH, and its arguments.
        mask: The signals that it begins with blocked.
        aside: The terminal is not its own: it reads nothing, and what it writes there is kept until `release`.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: list[str], mask: Iterable[int], *, aside: bool) -> None:
        self._output: int | None = None
        self._kept: IO[bytes] | None = None
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
        writer = None
        if aside:
            self._output, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._output, False)
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `release`
            actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
            actions += [(os.POSIX_SPAWN_DUP2, writer, fd) for fd in (1, 2) if os.isatty(fd)]
        try:
            self.pid = os.posix_spawnp(
                command[0],
                command,
                os.environ,
                file_actions=actions,
                setsigmask=list(mask),
                # What Python ignores, and others do not.
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            if writer is not None:
                os.close(writer)
        self.pidfd = os.pidfd_open(self.pid)

    def output(self) -> int | None:
        """Return what becomes readable when the program has written something that `move` has to take."""
        return self._output

    def move(self) -> None:
        """Take what it has written."""
        while self._output is not None:
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                return
            if not data:
                os.close(self._output)
                self._output = None
            elif self._kept is not None:
                self._kept.write(data)
            else:
                _write(data)

    def release(self) -> None:
        """Write what was kept; from now on `move` writes at once."""
        kept, self._kept = self._kept, None
        if kept is not None:
            with kept:
                kept.seek(0)
                while data := kept.read(65536):
                    _write(data)

    def code(self) -> int:
        """Return what it has ended with; 128 + n for signal n. It has ended."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.move()
        if self._output is not None:
            os.close(self._output)
            self._output = None
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
