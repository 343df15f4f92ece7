"""Children: whatever program this process starts gets what it takes to be observed too.

Every way to start one passes through one of a few functions, which add two variables to the environment of the child: the
folder of `_inject` in `PYTHONPATH`, and the settings. Programs that are not Python do not care. The environment of this process
stays as it is. Forked children are seen by a hook of `os` (`_session`).
"""

from __future__ import annotations

import itertools
import os
import sys

from plait.observe import _imports, _patches, _session
from plait.observe._settings import PATH, SETTINGS, environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["install"]


def install() -> None:
    """Have children observed from now on, and the end of this process seen wherever it is."""
    leave = os._exit

    def _exit(status: Any) -> None:
        try:
            _session.end(status if isinstance(status, int) else None)
        finally:  # a handler of a signal may raise meanwhile, which must not keep the process alive
            leave(status)

    _patches.replace(os, "_exit", _exit)
    _look_at_exec()
    settings = _session.current()
    if settings is None or not settings.children:
        return
    _look_at_os()
    _look_at_waits()
    _imports.when_imported("_posixsubprocess", _look_at_fork_exec)
    _imports.when_imported("subprocess", _look_at_subprocess)
    _imports.when_imported("multiprocessing.popen_fork", _look_at_ends)
    _imports.when_imported("multiprocessing.popen_forkserver", _look_at_ends)


def _inherited(given: Any = None) -> dict[bytes, bytes] | None:
    """Return what a child gets for an environment, by what the caller has given; None to leave it alone."""
    settings = _session.current()
    if settings is None or not settings.children:
        return None
    try:
        if given is None:
            before = dict(os.environb)
        else:
            before = {os.fsencode(name): os.fsencode(value) for name, value in given.items()}
    except Exception:  # it is for the real function to say what is wrong with it
        return None
    if SETTINGS in before:  # of another profile, which the program makes of that child
        return None
    return environment(settings, before)


def _can_run(path: Any) -> bool:
    """Whether it looks like a program; where that cannot be told, the real function will."""
    if isinstance(path, int):  # a descriptor
        return True
    try:
        return not os.path.isdir(path) and os.access(path, os.X_OK, effective_ids=True)
    except (TypeError, ValueError, NotImplementedError):
        return False


def _called(path: Any) -> str:
    """What a program is called in reports."""
    if isinstance(path, int):
        return f"descriptor {path}"
    try:
        return os.path.basename(os.fsdecode(path))
    except (TypeError, ValueError):
        return "?"


def _look_at_exec() -> None:
    execv, execve = os.execv, os.execve

    def replaced(path: Any, args: Any, given: Any, exec_: Callable[[], None]) -> None:
        changed = _inherited(given)
        # `execvp` tries each folder of PATH: only what can be run ends the observer.
        resume = _session.before_exec("" if changed is None else _called(path)) if _can_run(path) else None
        try:
            if changed is None:
                exec_()
            else:
                execve(path, args, changed)
        finally:  # it has failed, or this would not be here
            if resume is not None:
                resume()

    def new_execv(path: Any, argv: Any, /) -> None:
        replaced(path, argv, None, lambda: execv(path, argv))

    def new_execve(path: Any, argv: Any, env: Any) -> None:
        replaced(path, argv, env, lambda: execve(path, argv, env))

    new_execv.__name__ = new_execv.__qualname__ = "execv"
    new_execve.__name__ = new_execve.__qualname__ = "execve"
    _patches.replace(os, "execv", new_execv)
    _patches.replace(os, "execve", new_execve)


def _look_at_os() -> None:
    functions: Any = os  # types advise against `system`, which programs use all the same
    spawn, spawnp, system = os.posix_spawn, os.posix_spawnp, functions.system

    def spawned(real: Any, path: Any, argv: Any, env: Any, rest: dict[str, Any]) -> int:
        changed = _inherited(env)
        pid: int = real(path, argv, env if changed is None else changed, **rest)
        if changed is not None:
            _has_begun(pid, _called(path))
        return pid

    def posix_spawn(path: Any, argv: Any, env: Any, /, **rest: Any) -> int:
        return spawned(spawn, path, argv, env, rest)

    def posix_spawnp(path: Any, argv: Any, env: Any, /, **rest: Any) -> int:
        return spawned(spawnp, path, argv, env, rest)

    def new_system(command: Any) -> Any:
        changed = _inherited()
        if changed is None:
            return system(command)
        before = os.environb.get(PATH)
        # What C sees of the environment, not what Python shows.
        os.putenv(PATH, changed[PATH])
        os.putenv(SETTINGS, _of_system(changed[SETTINGS]))
        try:
            return system(command)
        finally:
            os.unsetenv(SETTINGS)
            if before is None:
                os.unsetenv(PATH)
            else:
                os.putenv(PATH, before)

    new_system.__name__ = new_system.__qualname__ = "system"
    _patches.replace(os, "posix_spawn", posix_spawn)
    _patches.replace(os, "posix_spawnp", posix_spawnp)
    _patches.replace(os, "system", new_system)


_systems = itertools.count()


def _of_system(before: bytes) -> bytes:
    """The settings for the shell of `os.system`, whose number nobody tells: what it becomes takes back its word."""
    settings = _session.current()
    if settings is None:
        return before
    word = f"{os.getpid()}-{next(_systems)}"
    _session.leave_word(settings, word, _session.STARTED, "sh")
    return os.fsencode(settings.text(word))


def _look_at_waits() -> None:
    """Whoever waits for a child by hand sees its end."""

    def observed(real: Any) -> Any:
        def wait(*args: Any, **named: Any) -> Any:
            found = real(*args, **named)
            pid, status = found[:2]
            if pid and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
                _has_ended(pid, os.waitstatus_to_exitcode(status))
            return found

        return wait

    for name in ("wait", "waitpid", "wait3", "wait4"):
        _patches.replace(os, name, observed(getattr(os, name)))


_ENVIRONMENT = 5
"""Where `fork_exec` has it among its arguments."""


def _observed_fork_exec(fork_exec: Any) -> Any:
    def observed(*args: Any) -> Any:
        given = args[_ENVIRONMENT] if len(args) > _ENVIRONMENT else None
        before = None if given is None else dict(item.split(b"=", 1) for item in given if b"=" in item)
        changed = _inherited(before)
        if changed is None or len(args) <= _ENVIRONMENT:
            return fork_exec(*args)
        listed = [name + b"=" + value for name, value in changed.items()]
        pid = fork_exec(*args[:_ENVIRONMENT], listed, *args[_ENVIRONMENT + 1 :])
        _has_begun(pid, _called(args[0][0]))
        return pid

    return observed


def _look_at_fork_exec(module: ModuleType) -> None:
    changed: Any = module
    _patches.replace(module, "fork_exec", _observed_fork_exec(changed.fork_exec))


def _look_at_subprocess(module: ModuleType) -> None:
    changed: Any = module
    if hasattr(changed, "_fork_exec") and "_posixsubprocess" in sys.modules:
        real: Any = sys.modules["_posixsubprocess"]
        _patches.replace(module, "_fork_exec", real.fork_exec)
    handle: Any = getattr(changed.Popen, "_handle_exitstatus", None)
    if handle is None:
        return

    def _handle_exitstatus(self: Any, status: int, *rest: Any, **named: Any) -> None:
        handle(self, status, *rest, **named)
        if not os.WIFSTOPPED(status):
            _has_ended(self.pid, self.returncode)

    _patches.replace(changed.Popen, "_handle_exitstatus", _handle_exitstatus)


def _look_at_ends(module: ModuleType) -> None:
    """Processes of `multiprocessing`: who started one sees its end here."""
    changed: Any = module
    poll = changed.Popen.poll

    def observed(self: Any, *args: Any, **named: Any) -> Any:
        before = self.returncode
        code = poll(self, *args, **named)
        if before is None and code is not None:
            _has_ended(self.pid, code)
        return code

    _patches.replace(changed.Popen, "poll", observed)


def _has_begun(pid: int, program: str) -> None:
    settings = _session.current()
    if settings is not None:
        _session.leave_word(settings, pid, _session.STARTED, program)


_last = (0, 0)
"""The last end that was told of: some are seen twice."""


def _has_ended(pid: int, code: int) -> None:
    global _last
    settings = _session.current()
    if settings is not None and _last != (pid, code):
        _last = (pid, code)
        _session.leave_word(settings, pid, _session.EXIT, str(code))
