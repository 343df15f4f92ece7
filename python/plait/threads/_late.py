"""What is told of a task that runs longer than it may: it cannot be stopped."""

from __future__ import annotations

import sys
import threading
import traceback

from plait.errors import TaskTimeout

__all__ = ["timed_out"]


def timed_out(task: str | None, index: int | None, timeout: float, ident: int) -> TaskTimeout:
    """Return the error of a task that goes on in the thread with this number."""
    name = next((thread.name for thread in threading.enumerate() if thread.ident == ident), f"with number {ident}")
    frame = sys._current_frames().get(ident)
    stack = None
    if frame is not None:
        frames = [entry for entry in traceback.extract_stack(frame) if entry.filename != threading.__file__]
        stack = "".join(traceback.format_list(frames)) or None
    return TaskTimeout(task=task, index=index, timeout=timeout, stack=stack, thread=name)
