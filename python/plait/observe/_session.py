"""Observation of this process, from its beginning to its end: for a profile of its own, or one that it is a child in.

A profile has a folder, in which each process writes a file of its own: `NAME.part` while it does, `NAME.trace` when that is
complete. A file named `over` tells all of them that the profile has ended.
"""

from __future__ import annotations

import os
import sys
import time

from plait import _core
from plait.observe import _imports, _patches
from plait.observe._settings import OVER, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = [
    "BECAME",
    "EXIT",
    "STARTED",
    "before_exec",
    "begin",
    "begin_in_child",
    "begin_worker",
    "current",
    "end",
    "is_observed",
    "leave_word",
    "take_back",
]

STARTED: Final = ".started"
"""Ends the names of files that tell of a child which was started, by its number; the program is in it."""

BECAME: Final = ".became"
"""The same of a process that became another program. Who can be looked into takes it back."""

EXIT: Final = ".exit"
"""Ends the names of files that tell of a child which has ended, by its number; its code is in it, -n for signal n."""

_MORE = (
    "multiprocessing.resource_tracker import main",
    "multiprocessing.forkserver import main",
    "plait.processes._server import main",
)
"""What processes run that are no part of the program: they are not observed, but those that they fork are."""


class _Session:
    """A profile that this process takes part in."""

    __slots__ = ("follows", "looks", "observed", "settings")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.observed = False  # or only its children are
        self.follows = False  # those that start children look after them
        self.looks = False  # so do those that know something of threads and tasks


_session: _Session | None = None
_hooked = False


def current() -> Settings | None:
    """Return the settings of the profile that this process takes part in, if there is one."""
    return None if _session is None else _session.settings


def is_observed() -> bool:
    """Whether this process has an observer, which is a thread."""
    return _session is not None and _session.observed


def begin(settings: Settings, name: str, *, parent: int = 0) -> None:
    """Observe this process from now on.

    Raises:
        RuntimeError: It is observed already.
        OSError: The file cannot be written, or no thread can be started.
    """
    global _session
    if _session is not None:
        raise RuntimeError(
            "this process is being profiled already: one profile at a time, and a program that runs under "
            "`plait profile` is in one"
        )
    _session = _Session(settings)
    try:
        _observe(_session, name, parent)
        _install(_session)
        if settings.children:
            _set_servers_aside(settings)
    except BaseException:
        end()
        raise


def end(code: int | None = None) -> None:
    """End it: everything that was seen is in the file then."""
    global _session
    session, _session = _session, None
    if session is None:
        return
    _patches.restore_all()
    _imports.forget()
    if (launch := sys.modules.get("plait.processes._launch")) is not None:
        launch.bring_back()
    _stop(session, code)


def _set_servers_aside(settings: Settings) -> None:
    """Have pools start fork servers that know of this profile; say which ones do not."""
    unseen: list[int] = []
    if (launch := sys.modules.get("plait.processes._launch")) is not None:
        unseen += launch.set_aside()
    if (module := sys.modules.get("multiprocessing.forkserver")) is not None:
        pid = module._forkserver._forkserver_pid
        unseen += [] if pid is None else [pid]
    for pid in unseen:
        leave_word(settings, pid, ".note", "a fork server from before the profile, and so is no process that it forks")


def _observe(session: _Session, name: str, parent: int = 0) -> None:
    """Start the observer."""
    _core.observe_start(
        os.path.join(session.settings.folder, f"{os.getpid()}-{time.monotonic_ns()}.part"),
        name,
        parent=parent or os.getppid(),
        rate=session.settings.rate,
        over=os.path.join(session.settings.folder, OVER),
    )
    session.observed = True


def _stop(session: _Session, code: int | None) -> None:
    """End the observer, if it is this process's."""
    if not session.observed:
        return
    session.observed = False
    try:
        if "threading" in sys.modules:
            from plait.observe import _threads

            _threads.tell_names()
        if session.settings.tasks and "asyncio" in sys.modules:
            from plait.observe import _tasks

            _tasks.tell_pending()
    finally:
        _core.observe_stop(code)


def _install(session: _Session) -> None:
    global _hooked
    from plait.observe import _children, _pools, _threads, _warnings

    if not _hooked:
        _hooked = True
        import atexit

        _warnings.install()
        os.register_at_fork(after_in_child=_after_fork, after_in_parent=_has_forked)
        atexit.register(end)
    if not session.follows:
        session.follows = True
        _children.install()
    if session.observed and not session.looks:
        session.looks = True
        _threads.install()
        _pools.install()
        if session.settings.tasks:
            from plait.observe import _tasks

            _tasks.install()


def begin_in_child(text: str) -> None:
    """Take part in the profile of a parent, in a process that has just started."""
    global _session
    settings = Settings.of(text)
    if settings is None or _session is not None or not os.path.isdir(settings.folder):
        return
    if os.path.exists(os.path.join(settings.folder, OVER)):
        return
    take_back(settings, f"{os.getpid()}{BECAME}")
    if settings.word.startswith(f"{os.getppid()}-"):  # else it was left of who has started this one
        take_back(settings, f"{settings.word}{STARTED}")
    session = _Session(settings)
    line = " ".join(sys.orig_argv[1:])
    if any(each in line for each in _MORE):
        leave_word(settings, os.getpid(), ".server", line)
    else:
        try:
            _observe(session, _name())
        except (OSError, RuntimeError):  # no room, no thread: the program runs all the same
            return
    _session = session
    try:
        _install(session)
    except BaseException:
        end()
        raise


def leave_word(settings: Settings, pid: int | str, kind: str, text: str) -> None:
    """Write a small file about a process into the profile's folder."""
    try:
        with open(os.path.join(settings.folder, f"{pid}{kind}"), "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError:  # the profile is over
        pass


def take_back(settings: Settings, word: str) -> None:
    """Remove such a file, if it is there."""
    try:
        os.unlink(os.path.join(settings.folder, word))
    except OSError:
        pass


def _name() -> str:
    """What this process runs, in a few words."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-":
            return "python -"
        if not word.startswith("-"):
            return os.path.basename(word)
        if word == "--check-hash-based-pycs":
            next(words, "")
        if word.startswith("--"):
            continue
        for end, letter in enumerate(word[1:], 2):
            if letter not in "cmWX":
                continue
            value = word[end:] or next(words, "")
            if letter == "c":
                return "multiprocessing" if "multiprocessing" in value else "python -c"
            if letter == "m":
                return f"-m {value}".rstrip()
            break  # the value of an option
    return "python"


def begin_worker(name: str, parent: int) -> None:
    """Observe a worker of a process pool, which a server has forked that is not observed itself."""
    session = _session
    if session is None or session.observed or not session.settings.children:
        return
    try:
        _observe(session, name, parent)
    except (OSError, RuntimeError):
        return
    _install(session)


def _after_fork() -> None:
    """In a child that was forked: begin anew, with a file of its own."""
    global _session
    session = _session
    if session is None:
        return
    _core.observe_forked()
    was_observed, session.observed = session.observed, False
    if not session.settings.children:
        _patches.restore_all()
        _imports.forget()
        _session = None
        return
    if was_observed or _forks_programs():
        try:
            _observe(session, f"fork of {_name()}")
        except (OSError, RuntimeError):
            return
        _install(session)


def _has_forked() -> None:
    """In the parent: say so where a child has not the right to write what it sees."""
    session = _session
    if session is None or not session.observed or not session.settings.children:
        return
    if not os.access(session.settings.folder, os.W_OK | os.X_OK, effective_ids=True):
        why = "the program has changed its user, who may not write to the profile's folder"
        _core.observe_method("children", "none from then on", False, why)


def _forks_programs() -> bool:
    """Whether every child of this process is a part of the program."""
    return any("multiprocessing.forkserver import main" in word for word in sys.orig_argv)


def before_exec(program: str) -> Any:
    """End the observer before this process becomes another program; what to call if that fails.

    Args:
        program: What that is called, if it is to be looked into; else empty.
    """
    session = _session
    if session is None or not session.observed:
        return lambda: None
    _stop(session, None)
    if program:
        leave_word(session.settings, os.getpid(), BECAME, program)

    def resume() -> None:
        take_back(session.settings, f"{os.getpid()}{BECAME}")
        try:
            _observe(session, _name())
        except (OSError, RuntimeError):  # it is the other error that the program is told of
            pass

    return resume
