"""Bringing the program's main module, and what else workers should find as it was, into a worker.

This is what `multiprocessing` does for its spawned children: `preparation` gives the dict of
`multiprocessing.spawn.get_preparation_data`, `prepare` applies it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "check_not_importing_main",
    "dumps_for_start",
    "inherited",
    "is_missing_guard",
    "main_module",
    "preparation",
    "prepare",
]


def preparation() -> dict[str, object]:
    """Return what a worker needs to resemble this process, as plain values.

    Unlike the standard library's function it leaves the start method undecided unless the program has chosen another one than
    the default: that is decided as soon as anything asks for it, and the workers of before and after would not resemble each
    other.
    """
    import multiprocessing
    import multiprocessing.process

    check_not_importing_main()
    process: Any = multiprocessing.process
    origin: str | None = process.ORIGINAL_DIR
    data: dict[str, object] = {
        "authkey": bytes(process.current_process().authkey),
        "sys_path": [entry or origin or "" for entry in sys.path],
        "sys_argv": list(sys.argv),
        "orig_dir": origin,
        **_logging_set_up(),
        **main_module(origin),
    }
    try:
        data["dir"] = os.getcwd()
    except FileNotFoundError:  # it was removed; workers stay where the fork server is
        pass
    start_method = multiprocessing.get_start_method(allow_none=True)
    if start_method and start_method != multiprocessing.get_all_start_methods()[0]:
        data["start_method"] = start_method
    return data


def check_not_importing_main() -> None:
    """Refuse to make a pool while a worker imports the main module.

    Raises:
        RuntimeError: The script makes the pool without `if __name__ == "__main__":`. The message is the standard
            library's, which people search for.
    """
    if "multiprocessing.process" in sys.modules:
        import multiprocessing.spawn

        spawn: Any = multiprocessing.spawn
        spawn._check_not_importing_main()


def is_missing_guard(error: BaseException | None) -> bool:
    """Whether a worker that imported the main module has made a pool, or started a process, and was refused."""
    return isinstance(error, RuntimeError) and "has finished its bootstrapping phase" in str(error)


def prepare(data: dict[str, Any]) -> None:
    """Apply `preparation()`'s dict in a worker; the main module is imported as `__mp_main__`."""
    import multiprocessing.process
    import multiprocessing.spawn

    current: Any = multiprocessing.process.current_process()
    current._inheriting = True
    try:
        multiprocessing.spawn.prepare(data)
    finally:
        del current._inheriting


inherited: dict[int, tuple[Any, tuple[Any, ...]]] = {}
"""Initializers, with their arguments, of pools whose workers are copies of the program: nothing needs to be pickled."""


def dumps_for_start(value: object, what: str) -> bytes:
    """Pickle what travels with the start of a worker: the semaphores and locks of `multiprocessing` may, then and only then.

    Raises:
        NotPicklable: It cannot be sent; the message says that it is `what`.
    """
    from plait import _core

    context: Any = sys.modules.get("multiprocessing.context")
    if context is None:
        return _core.dumps(value, what)
    before = context.get_spawning_popen()
    context.set_spawning_popen(_Starting())
    try:
        return _core.dumps(value, what)
    finally:
        context.set_spawning_popen(before)


class _Starting:
    """Stands for a worker that is being started, while what it is to have is pickled."""

    def DupFd(self, _fd: int) -> object:  # noqa: N802
        raise TypeError("a descriptor cannot be sent to workers that start later, each with a copy of its own")

    def duplicate_for_child(self, fd: int) -> int:
        return fd


def _logging_set_up() -> dict[str, object]:
    """Return how `multiprocessing`'s own logger is set up, if anybody has used it."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None:
        return {"log_to_stderr": False}
    set_up: dict[str, object] = {"log_to_stderr": util._log_to_stderr}
    if util._logger is not None:
        set_up["log_level"] = util._logger.getEffectiveLevel()
    return set_up


def main_module(origin: str | None) -> dict[str, object]:
    """Return how to import the main module again: by name (`python -m`) or by path; nothing if there is no way."""
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return {"init_main_from_name": name}
    path = getattr(main, "__file__", None)
    if path is None:
        return {}
    if not os.path.isabs(path) and origin is not None:
        path = os.path.join(origin, path)
    path = os.path.normpath(path)
    if not os.path.exists(path):  # standard input; functions travel by value then
        return {}
    return {"init_main_from_path": path}
