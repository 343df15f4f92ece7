"""Interpreters that run for a command: they end when it does, whoever ends it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_PR_SET_PDEATHSIG = 1

#: What ends a command; Ctrl-C is for each to decide.
_ENDS = (signal.SIGTERM, signal.SIGHUP)


def end_with(parent: int) -> None:
    """Have the kernel end this process with the one that has started it."""
    prctl: Any = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def ended_by(end: Callable[[int], object]) -> Generator[None]:
    """Within it, call something when this process is told to end, unless the program has decided what that does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDS}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, lambda number, _: end(number))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
