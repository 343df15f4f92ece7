"""Options of commands. They end where the program begins: what follows is the program's own."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plait.observe._profile import Profile

__all__ = ["Option", "WrongUsage", "check_file", "load", "parse", "plainly"]


def plainly(error: Exception) -> str:
    """Say what went wrong, in words: what the system calls a file comes with its name, and without its number."""
    if not isinstance(error, OSError) or error.strerror is None or error.errno is None:
        return str(error)
    reason = {
        errno.ENOENT: "there is no such file",
        errno.EACCES: "there is no right to read or write it",
        errno.EISDIR: "it is a folder",
        errno.ENOSPC: "no space is left there",
    }.get(error.errno, error.strerror[:1].lower() + error.strerror[1:])
    return reason if error.filename is None else f"{os.fsdecode(error.filename)!r}: {reason}"


class WrongUsage(Exception):
    """What was asked for makes no sense; the message says why."""


class Option:
    """An option: whether it takes a value, which may also follow after `=`, or may take one: after `=`, or with this ending."""

    __slots__ = ("may_take", "takes_value")

    def __init__(self, takes_value: bool, may_take: str | None = None) -> None:
        self.takes_value = takes_value
        self.may_take = may_take


def parse(
    words: list[str], options: dict[str, Option], short: dict[str, str]
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Split words into the options at their beginning, and what follows.

    Args:
        words: All of them.
        options: By their names, with the dashes.
        short: Short forms of those names.

    Raises:
        WrongUsage: An option is not known, or lacks its value.
    """
    found: list[tuple[str, str | None]] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return found, words[at + 1 :]
        name, equals, value = word.partition("=")
        name = short.get(name, name)
        option = options.get(name)
        if option is None:
            if word.startswith("--") or (len(word) > 1 and word.startswith("-") and word not in {"-m", "-c"}):
                raise WrongUsage(f"there is no option {word!r}")
            return found, words[at:]
        at += 1
        if not option.takes_value:
            if equals and option.may_take is None:
                raise WrongUsage(f"{name} takes no value")
            if not equals and option.may_take and words[at : at + 1] and words[at].endswith(option.may_take):
                equals, value = "=", words[at]
                at += 1
            found.append((name, value if equals else None))
            continue
        if not equals:
            if at >= len(words):
                raise WrongUsage(f"{name} needs a value")
            value = words[at]
            at += 1
        found.append((name, value))
    return found, []


def load(path: str) -> Profile:
    """Read a saved profile.

    Raises:
        WrongUsage: It is not there, or is no profile.
        ValueError: It is one, and damaged.
    """
    from plait.observe._profile import NotAProfile, Profile

    try:
        return Profile.load(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError, NotAProfile) as error:
        raise WrongUsage(plainly(error)) from None


def check_file(option: str, path: str | None) -> None:
    """Look whether a file can be written, before a program is run for nothing.

    Raises:
        WrongUsage: It has no name, or cannot be, as far as that can be told without writing it.
    """
    if why := _why_not(path or ""):
        raise WrongUsage(f"{option} {path or ''!r} cannot be written: {why}")


def _why_not(path: str) -> str:
    """Why a file cannot be written, as far as that can be told without writing it; "" where nothing speaks against it."""
    if not path:
        return "a file needs a name"
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        return "it is a folder"
    if os.path.exists(path):
        return "" if os.access(path, os.W_OK) else "it is not writable"
    if not os.path.isdir(folder):
        return f"{folder!r} is no folder" if os.path.exists(folder) else f"there is no folder {folder!r}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"the folder {folder!r} is not writable"
