"""What is told of a task that holds the GIL for longer than `ThreadPool(hold_warning=...)` allows."""

from __future__ import annotations

import contextvars
import functools
import itertools
import logging
import math
import threading
import traceback
import warnings

from plait import _core

__all__ = ["check_hold_warning", "told"]

_logger = logging.getLogger("plait.threads")
_warned = False


def check_hold_warning(seconds: object) -> float | None:
    """Return the limit in seconds, None where nothing is to be watched; or raise TypeError or ValueError."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"hold_warning must be a number of seconds or None, not {seconds!r}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"hold_warning must be a finite number of seconds above 0, not {seconds!r}")
    why_not = _core.watch_holds()
    if why_not is None:
        return min(float(seconds), 1e9)
    global _warned
    if not _warned:
        _warned = True
        text = f"hold_warning has no effect: who holds the GIL cannot be watched here, since {why_not}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    return None


def told(function: object, held: float, limit: float, ident: int, places: list[tuple[str, int, str]]) -> None:
    """Log that a task has held the GIL for so long; `places` are file, line and function, innermost last."""
    thread = next((each.name for each in threading.enumerate() if each.ident == ident), f"with number {ident}")
    own = itertools.dropwhile(lambda place: place[0] == threading.__file__, places)
    stack = [traceback.FrameSummary(file, line, name) for file, line, name in own]
    where = "".join(traceback.format_list(stack)).rstrip("\n")
    _logger.warning(
        "%s held the GIL for %.3f s in one stretch in the thread %s, more than %g s; no other thread could run. It was %s",
        _name(function),
        held,
        thread,
        limit,
        f"here:\n{where}" if stack else "in no Python code",
    )


def _name(function: object) -> str:
    """What the task calls itself; of a partial, and of one that runs in a context, the function behind."""
    while isinstance(function, functools.partial):
        inner = function.func
        runs = isinstance(getattr(inner, "__self__", None), contextvars.Context)
        function = function.args[0] if runs and function.args else inner
    name: object = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if not isinstance(name, str):
        return repr(function)
    module: object = getattr(function, "__module__", None)
    return name if module in (None, "builtins") else f"{module}.{name}"
