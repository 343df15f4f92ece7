"""Names of threads: of those that there are, and of each that begins."""

from __future__ import annotations

import sys

from plait import _core
from plait.observe import _imports, _patches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["install", "tell_names"]


def install() -> None:
    """Have threads tell their names when they begin."""
    _imports.when_imported("threading", _look_at_threads)


def tell_names() -> None:
    """Tell the names that threads have now: some get theirs after they have begun."""
    threading: Any = sys.modules.get("threading")
    if threading is None:
        return
    current = threading.current_thread()
    for thread in threading.enumerate():
        try:
            # In a process that was forked by others than the interpreter this thread still has the number that it had before.
            number = threading.get_native_id() if thread is current else thread.native_id
        except Exception:  # the program's own class
            continue
        if number is not None:
            _tell(number, thread, False)


def _tell(number: int, thread: Any, born: bool) -> None:
    try:
        _core.observe_thread(number, thread._name, born)
    except Exception:  # the program may have put anything there: its thread begins all the same, and the profile ends
        pass


def _look_at_threads(threading: ModuleType) -> None:
    kind: Any = threading.Thread
    begun: Any = kind._set_native_id

    def _set_native_id(self: Any) -> None:
        begun(self)
        _tell(self._native_id, self, True)

    _patches.replace(kind, "_set_native_id", _set_native_id)
    tell_names()
