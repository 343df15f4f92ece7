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
    for thread in threading.enumerate():
        if thread.native_id is not None:
            _core.observe_thread(thread.native_id, thread.name, False)


def _look_at_threads(threading: ModuleType) -> None:
    kind: Any = threading.Thread
    begun: Any = kind._set_native_id

    def _set_native_id(self: Any) -> None:
        begun(self)
        _core.observe_thread(self._native_id, self._name, True)

    _patches.replace(kind, "_set_native_id", _set_native_id)
    tell_names()
