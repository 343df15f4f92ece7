"""What fork servers import before there is a worker that needs it, so that all workers share it.

A program says what that is when it starts a server, and tells servers that run of what came since. It is imported in the server
and in its zygotes; the program's own modules are the zygotes' (`_mains.py`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

__all__ = ["added_since", "count", "fitting", "import_ahead", "import_all", "import_for_workers", "modules"]

_LENGTH: Final = 900
"""Bytes of names in a message at most."""

_NOT_AHEAD: Final = frozenset({"antigravity", "readline", "rlcompleter", "this", "tkinter", "turtle", "zoneinfo"})
"""Of the standard library, what does more when it is imported than to define things, or looks at the environment."""

_added: list[str] = []


# In the program.


def import_ahead(module: str) -> None:
    """Have servers that pools connect to from now on import a module that does nothing but define things."""
    if module not in _added:
        _added.append(module)


def count() -> int:
    """How many modules `import_ahead` was told of."""
    return len(_added)


def added_since(known: int) -> bytes:
    """Return the names of those beyond so many, as a message has them."""
    return fitting(_added[known:])


def modules() -> tuple[str, ...]:
    """Return what this program has imported of the standard library, and what `import_ahead` was told.

    Workers import the main module and those of their functions again, and these mostly import the same. In the server it is
    done once for all workers and pools, and shared by them. Only for the standard library is that sure to change nothing.
    """
    home = os.path.dirname(os.__file__) + os.sep
    found = _added.copy()
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        # Private ones are imported by those that need them.
        if top in sys.stdlib_module_names and top not in _NOT_AHEAD and not top.startswith("_"):
            origin = getattr(getattr(module, "__spec__", None), "origin", None)
            if isinstance(origin, str) and origin.startswith(home) and "-packages" not in origin:
                found.append(name)
    return tuple(found)


def fitting(names: Iterable[str]) -> bytes:
    """Return the names that fit into a message; those that do not are imported by the workers."""
    found = b""
    for name in names:
        longer = found + b"," * bool(found) + name.encode(errors="replace")
        if len(longer) <= _LENGTH:
            found = longer
    return found


# In the server.


def import_for_workers() -> None:
    """Import once what every worker needs."""
    for name in ("multiprocessing.spawn", "plait.processes._worker"):
        __import__(name)


def import_all(names: Iterable[str]) -> None:
    """Import what workers are likely to import too, where that works."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the program was warned when it imported them
        for name in names:
            try:
                __import__(name)
            except Exception:  # whoever really needs it will see
                continue
