"""How a pool gets its connection to a fork server, and what its workers are to resemble."""

from __future__ import annotations

import functools
import os
import pickle
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from plait.processes import _launch, _main

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Connect", "by_fork", "place"]


class Connect:
    """Gets connections to the fork server that has these modules, where the main module is prepared for the pool."""

    def __init__(
        self, preload: tuple[str, ...], place: dict[str, Any], initializer: Callable[..., object] | None
    ) -> None:
        self._preload = preload
        self._place = place
        self._has_main = _can_import(place["main"])
        self._changed: int | None = None
        """When a file of the program was changed last, as it was when workers were first asked for."""
        self._modules: dict[str, None] = {}  # in the order in which they came
        self.note(initializer)

    def __call__(self, wait: bool, function: object = None) -> int | None:
        """Return the descriptor of a connection; None if that would take time, and `wait` is false.

        Args:
            wait: Wait for the server.
            function: What the first task calls. Its module is imported once for all workers, with the main module.
        """
        self.note(function)
        main = self._main() if self._has_main or self._modules else None
        if not wait:
            _launch.start_early(self._preload, main)  # the one that the constructor started may have failed since
            if not _launch.is_near(self._preload):
                return None
        return _launch.connect_pool(self._preload, main).detach()

    def _main(self) -> _launch.Main:
        # To look at all files takes some time: not before there is work.
        self._changed = _changed() if self._changed is None else self._changed
        spec = pickle.dumps({**self._place, "changed": self._changed}, protocol=5)
        return _launch.Main(spec, tuple(self._modules))

    def note(self, function: object) -> None:
        """Note the module that workers import with a function, if it is neither the main module nor in the server.

        It says something to workers that have not been asked for yet.
        """
        while isinstance(function, functools.partial):
            function = function.func
        try:
            module: object = getattr(function, "__module__", None)
        except Exception:  # an object of the user's, which may do anything
            return
        if not isinstance(module, str) or not module or "," in module:
            return
        if module == "__main__":
            if not self._has_main and "cloudpickle" in sys.modules:  # it travels by value
                self._modules["cloudpickle"] = None
        elif module.partition(".")[0] not in sys.stdlib_module_names:
            self._modules[module] = None


def by_fork(_wait: bool, _function: object = None) -> int | None:
    """Return a connection to a copy, which is made by the thread that asks: it is the one that lives on in the copy."""
    return _launch.fork_pool().detach()


def place(forked: bool) -> dict[str, Any]:
    """Return what workers are to resemble, as plain values: folder, environment, path, main module."""
    main = _main.preparation()
    if forked:  # a copy has its main module already
        main = {key: value for key, value in main.items() if not key.startswith("init_main")}
    try:
        cwd: str | None = os.getcwd()
    except FileNotFoundError:
        cwd = None
    return {"cwd": cwd, "environ": dict(os.environ), "sys_path": _launch._strings(sys.path), "main": main}


_INSTALLED = (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__)))
"""The standard library's folder, and plait's."""


def _changed() -> int:
    """When a file that the program has imported was changed last: what was prepared before has the code of then."""
    latest = 0
    for module in list(sys.modules.values()):
        file: object = vars(module).get("__file__") if type(module) is ModuleType else None
        if type(file) is str and not file.startswith(_INSTALLED) and "-packages/" not in file:
            try:
                latest = max(latest, os.stat(file).st_mtime_ns)
            except OSError:  # it was removed, or lies in an archive
                pass
    return latest


def _can_import(main: dict[str, Any]) -> bool:
    """Whether `multiprocessing` imports the main module that `_main.preparation` describes."""
    name: str | None = main.get("init_main_from_name")
    if name is not None:
        return name.rpartition(".")[2] != "__main__"
    path: str | None = main.get("init_main_from_path")
    return path is not None and os.path.splitext(os.path.basename(path))[0] != "ipython"
