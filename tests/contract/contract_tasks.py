"""What the workers of the contract suite run."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

STATE: list[Any] = []


def echo(value: Any = None) -> Any:
    return value


def add(a: Any, b: Any) -> Any:
    return a + b


def collect(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def pid(*_: Any) -> int:
    return os.getpid()


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def note(path: str, word: object) -> object:
    """Append a line to a file."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{word}\n".encode())
    finally:
        os.close(fd)
    return word


def wait_at(path: str, value: Any = None, started: str = "") -> Any:
    """Wait until a file exists."""
    if started:
        note(started, value)
    deadline = time.monotonic() + 100
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise AssertionError(f"nobody made {path}")
        time.sleep(0.005)
    return value


class Refusal(Exception):
    def __init__(self, message: str, code: int):
        super().__init__(message, code)
        self.code = code


def refuse(message: str, code: int) -> None:
    error = Refusal(message, code)
    error.add_note("a note")
    raise error


def fail_at(which: int, value: int) -> int:
    if which == value:
        raise Refusal("this one", value)
    return value


def throw(error: BaseException) -> None:
    raise error


def leave(code: object) -> None:
    sys.exit(code)  # type: ignore[arg-type]


def set_state(*values: Any) -> None:
    STATE.extend(values)


def state() -> list[Any]:
    return STATE


def fail_to_initialize() -> None:
    raise ValueError("no initialization today")


class Thing:
    def __init__(self, value: int):
        self.value = value

    def plus(self, other: int) -> int:
        return self.value + other

    __call__ = plus


class Cursed:
    def __reduce__(self) -> Any:
        raise ValueError("will not be packed")
