"""Doing something to a module as soon as it is there: now, or when the program imports it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["forget", "when_imported"]

_waiting: dict[str, list[Callable[[ModuleType], object]]] = {}


def when_imported(name: str, do: Callable[[ModuleType], object]) -> None:
    """Call `do(module)` when the module has been imported; at once if it has been."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        do(module)
        return
    _waiting.setdefault(name, []).append(do)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget() -> None:
    """Wait for no module any more."""
    _waiting.clear()
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


class _Finder:
    """Stands before all other finders, finds nothing itself, and looks over the shoulder of those who do."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module by the other finders, and have those who wait for it told when it has run."""
        if name not in _waiting:
            return None
        for finder in list(sys.meta_path):
            if finder is self:
                continue
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                loader: Any = spec.loader
                if hasattr(loader, "exec_module"):
                    wrapped: Any = _Loader(loader, name)
                    spec.loader = wrapped
                return spec
        return None


class _Loader:
    """A loader that tells when it has loaded; until then, and afterwards, the one that it stands for."""

    def __init__(self, loader: Any, name: str) -> None:
        self._loader = loader
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        for do in _waiting.pop(self._name, []):
            do(module)
        if not _waiting:
            forget()


_finder: Any = _Finder()
