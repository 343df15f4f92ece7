"""Who a signal was meant for: one process, or all of its group.

A signal that came to the group has reached the program by itself, and must not be passed on; one for this process alone must.
The kernel does not say which of the two it was, and a program that was sent one does not show it for long. So there is one more
process in the group, which nobody knows of, and which holds back all signals: what it has got came to the group. The kernel
goes from the youngest process of a group to the oldest, so that it has the signal when this process has.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Final
else:
    import _signal as signal  # what makes enumerations of these numbers takes longer to load than all of this

__all__ = ["Witness"]

_ALL: Final = signal.valid_signals()

_MOST_FILES: Final = 1 << 16
"""Descriptors that this process may have."""

_TOGETHER: Final = 0.02
"""Seconds within which a signal to one process and one to its group are the same, as `timeout` sends them."""


class Witness:
    """The process that tells. It ends when `close` is called, or with this process.

    Args:
        awaited: The signals that it is asked about. This process has no other thread yet.
        command: That of the program. Who sends a signal to all processes of a name is to meet the witness where the program
            is met, and not where this process is: so it has the program's name.
    """

    def __init__(self, awaited: set[int], command: list[str]) -> None:
        self._came: Final[set[int]] = set()
        self._last: Final[dict[int, float]] = {}
        mine = theirs = -1, -1
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
        try:
            mine, theirs = os.pipe(), os.pipe()
            self._pid = os.fork()
        except OSError:  # no room: nobody can tell
            self._pid = 0
            for fd in {*mine, *theirs} - {-1}:
                os.close(fd)
            return
        else:
            if not self._pid:
                try:
                    _look_like(command)
                    _answer(mine[0], theirs[1], awaited)
                finally:
                    os._exit(0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(mine[0])
        os.close(theirs[1])
        self._questions, self._answers = mine[1], theirs[0]

    def has_too(self, pid: int, number: int, sent: bool) -> bool:
        """Whether a signal that has come here has come to another process as well.

        Args:
            pid: The other process, a child of this one.
            number: The signal.
            sent: Whether somebody has sent it: not the terminal, whose own go to the group.
        """
        if sent and time.monotonic() - self._last.get(number, 0.0) < _TOGETHER:
            return True  # the same once more: it was sent to this process, and to all
        if sent:
            time.sleep(_TOGETHER)
        self._ask()
        if number not in self._came:
            # The terminal's own go to the group; but when it hangs up, the leader of its session alone is told.
            return not sent and not (number == signal.SIGHUP and self._pid)
        self._came.discard(number)
        self._last[number] = time.monotonic()
        return not sent or os.getpgid(pid) == os.getpgrp()

    def _ask(self) -> None:
        """Take in which signals have come to the group since the last time."""
        if self._pid:
            try:
                os.kill(self._pid, signal.SIGCONT)  # somebody may have stopped it with the others
                os.write(self._questions, b"?")
                self._came.update(os.read(self._answers, 64)[1:])
            except OSError:  # somebody has killed it
                pass

    def close(self) -> None:
        """End it."""
        if self._pid:
            os.close(self._questions)
            os.close(self._answers)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _look_like(command: list[str]) -> None:
    """Take the name, and the words, of another program, as far as there is room for them."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        first, end = int(fields[45]), int(fields[46])  # where the words of the command are
        words = b"\0".join(map(os.fsencode, command))[: end - first - 1]
        with open("/proc/self/mem", "r+b", 0) as memory:
            memory.seek(first)
            memory.write(words.ljust(end - first, b"\0"))
        with open("/proc/self/comm", "wb", 0) as comm:
            comm.write(os.path.basename(os.fsencode(command[0]))[:15])
    except (OSError, ValueError, IndexError):  # it is found under this process's name then
        pass


def _answer(questions: int, answers: int, awaited: set[int]) -> None:
    """What it does: for each question it names the signals that it has got."""
    first, last = sorted((questions, answers))
    # Who reads this process's output to its end does not wait for two of them.
    for begin, end in ((0, first), (first + 1, last), (last + 1, _MOST_FILES)):
        os.closerange(begin, end)
    while os.read(questions, 1):
        found = bytearray(1)
        while (caught := signal.sigtimedwait(awaited, 0)) is not None:
            found.append(caught.si_signo)
        os.write(answers, found)
