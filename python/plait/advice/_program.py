"""Runs a program once, metered, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from plait.advice._children import ended_by
from plait.advice._run import RECORD

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

_START = """
import sys
home, folder, parent = sys.argv[1:4]
if sys.path and not sys.path[0]:
    del sys.path[0]
sys.path.insert(0, home)
from plait.advice._children import ended_by
from plait.advice._run import main
sys.path.remove(home)
main(folder, int(parent), sys.argv[4:])
"""


class ProgramError(Exception):
    """The program failed; `code` is what it ended with."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the program failed: it ended with {code}")
        self.code = code


@contextlib.contextmanager
def _without_interrupts() -> Generator[None]:
    """The terminal sends Ctrl-C to the program too: what it makes of it is its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(program: Sequence[str], *, apart: bool) -> dict[str, Any]:
    """Run a program and return the record of its calls.

    Args:
        program: A script, or "-m" and a module, or "-c" and code; then what it is called with.
        apart: Whether what it writes to standard output goes to standard error.

    Raises:
        FileNotFoundError: There is no such file.
        ProgramError: It failed.
        RuntimeError: It has left no record.
    """
    if program[0] not in {"-m", "-c"} and not os.path.isfile(program[0]):
        raise FileNotFoundError(2, "there is no such script", program[0])
    import plait

    home = os.path.dirname(os.path.dirname(os.path.abspath(plait.__file__)))
    flags: Any = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="plait-advise-") as folder:
        command: list[str] = [sys.executable, *flags, "-c", _START, home, folder, str(os.getpid()), *program]
        sys.stdout.flush()
        sys.stderr.flush()
        stdout = sys.stderr.fileno() if apart else None
        with (
            subprocess.Popen(command, stdout=stdout) as process,
            ended_by(process.send_signal),
            _without_interrupts(),
        ):
            status = process.wait()
        code = 128 - status if status < 0 else status
        if code:
            raise ProgramError(code)
        try:
            with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
                record: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            raise RuntimeError("the program left no record of its calls: it ended itself in the middle") from None
    return record
