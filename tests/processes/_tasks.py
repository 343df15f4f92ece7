"""What the tests' workers run. Every worker imports this, so it imports little itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

LIMIT = 100.0
"""Seconds after which a blocked task gives up, so that a test that failed leaves no worker busy for ever."""


def mask_here() -> tuple[int, list[int]]:
    """The worker, and the CPUs that it may run on."""
    return os.getpid(), sorted(os.sched_getaffinity(0))


class Tally:
    """A file to which tasks append a line when they run: what really happened, whatever the pool says."""

    def __init__(self, path: Path | str):
        self.path = str(path)

    def note(self, *words: object) -> None:
        """Append one line, whole, however many processes write: the words and the pid."""
        line = " ".join(map(str, (*words, os.getpid()))) + "\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def rows(self) -> list[list[str]]:
        """The lines so far, each split into words; the last word is the pid."""
        try:
            return [line.split() for line in Path(self.path).read_text().splitlines()]
        except FileNotFoundError:
            return []

    def count(self) -> Counter[str]:
        """How often each first word was noted."""
        return Counter(row[0] for row in self.rows())

    def order(self) -> list[str]:
        return [row[0] for row in self.rows()]

    def pids(self) -> list[int]:
        return [int(row[-1]) for row in self.rows()]

    def wait(self, lines: int = 1) -> list[list[str]]:
        """Wait until there are so many lines."""
        deadline = time.monotonic() + LIMIT
        while len(rows := self.rows()) < lines:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(rows)} of {lines} lines in {self.path} after {LIMIT} s")
            time.sleep(0.002)
        return rows


class Gate:
    """Closed until somebody opens it; a task in front of it waits. As a context manager it is opened in the end."""

    def __init__(self, path: Path | str):
        self.path = str(path)
        self.home = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() == self.home:  # not in a forked copy
            self.open()

    def open(self) -> None:
        Path(self.path).touch()

    def wait(self, value: Any = None) -> Any:
        deadline = time.monotonic() + LIMIT
        while not os.path.exists(self.path):
            if time.monotonic() > deadline:
                raise AssertionError(f"nobody opened {self.path} within {LIMIT} s")
            time.sleep(0.002)
        return value


# ---- harmless ------------------------------------------------------------------------------------


def echo(value: Any = None) -> Any:
    return value


def add(a: Any, b: Any) -> Any:
    return a + b


def collect(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def pid(*_: Any) -> int:
    return os.getpid()


def parent_pid(*_: Any) -> int:
    return os.getppid()


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def note(tally: Tally, word: object, seconds: float = 0) -> Any:
    """Say that the task runs, then be busy for a while."""
    tally.note(word)
    if seconds:
        time.sleep(seconds)
    return word


def note_at_gate(tally: Tally, gate: Gate, word: object = "waits") -> Any:
    tally.note(word)
    return gate.wait(word)


def note_and_gate_if(tally: Tally, gate: Gate, which: Any, value: Any) -> Any:
    tally.note(value)
    return gate_if(gate, which, value)


def gate_if(gate: Gate, which: Any, value: Any) -> Any:
    """Wait at the gate if this is the one, else return at once."""
    return gate.wait(value) if value == which else value


def size_of(data: Any) -> int:
    return len(data)


def make_bytes(count: int) -> bytes:
    return bytes(count)


def grow(data: list[int]) -> list[int]:
    data.append(len(data))
    return data


def environment(name: str) -> str | None:
    return os.environ.get(name)


def folder(*_: Any) -> str:
    return os.getcwd()


def search_path(*_: Any) -> list[str]:
    return sys.path


def is_loaded(module: str) -> bool:
    return module in sys.modules


def threads(*_: Any) -> tuple[int, bool]:
    return threading.active_count(), threading.current_thread() is threading.main_thread()


class Adder:
    """Tasks may be methods and callable objects too."""

    def __init__(self, base: int):
        self.base = base

    def plus(self, other: int) -> int:
        return self.base + other

    __call__ = plus

    @classmethod
    def made(cls, base: int) -> int:
        return cls(base).base

    @staticmethod
    def twice(value: int) -> int:
        return 2 * value


# ---- initializers --------------------------------------------------------------------------------

STATE: dict[str, Any] = {}


def initialize(tally: Tally | None, **values: Any) -> None:
    STATE.update(values)
    if tally:
        tally.note("initialized")


def set_state(*pairs: tuple[str, Any]) -> None:
    STATE.update(pairs)


def state(name: str) -> Any:
    return STATE.get(name)


def fail_to_initialize(tally: Tally | None = None) -> None:
    if tally:
        tally.note("failed")
    raise ValueError("no initialization today")


def exit_while_initializing() -> None:
    os._exit(3)


# ---- errors --------------------------------------------------------------------------------------


class Refusal(Exception):
    """Has a field and survives pickling."""

    def __init__(self, message: str, code: int = 0):
        super().__init__(message, code)
        self.code = code


class TwoArguments(Exception):
    """Pickles, and does not unpickle: `__init__` wants more than `args` holds."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")


class WithALock(Exception):
    """Does not pickle."""

    def __init__(self, message: str):
        super().__init__(message, threading.Lock())


def throw(error: BaseException) -> None:
    raise error


def refuse_in_the_worker(message: str, code: int = 0, notes: tuple[str, ...] = ()) -> None:
    error = Refusal(message, code)
    for text in notes:
        error.add_note(text)
    raise error


def raise_group() -> None:
    raise ExceptionGroup("several", [ValueError("first"), KeyError("second")])


def raise_two_arguments() -> None:
    raise TwoArguments("fish", "chips")


def raise_with_a_lock() -> None:
    raise WithALock("cannot travel")


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def leave(code: str | int | None = None) -> None:
    sys.exit(code)


def fail_at(which: int, value: int, tally: Tally | None = None) -> int:
    if tally:
        tally.note(value)
    if value == which:
        raise Refusal("this one", value)
    return value


# ---- deaths --------------------------------------------------------------------------------------


def die(signum: int = signal.SIGKILL) -> None:
    signal.signal(signum, signal.SIG_DFL) if signum not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), signum)
    time.sleep(LIMIT)


def exit_now(code: int = 7) -> None:
    os._exit(code)


def segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def note_and_die(tally: Tally, word: object, signum: int = signal.SIGKILL) -> None:
    tally.note(word)
    die(signum)


def die_at(which: int, tally: Tally, value: int) -> int:
    tally.note(value)
    if value == which:
        die()
    return value


def die_first(which: int, deaths: int, tally: Tally, value: int) -> int:
    """Note the item; the item `which` kills its worker in its first `deaths` runs."""
    tally.note(value)
    if value == which and tally.count()[str(value)] <= deaths:
        die()
    return value


def grow_and_die_first(data: list[int], tally: Tally) -> list[int]:
    """Change the argument; in the first run die after it."""
    data.append(99)
    tally.note("ran")
    if len(tally.rows()) == 1:
        die()
    return data


def hang_at(which: int, tally: Tally, value: int) -> int:
    tally.note(value)
    if value == which:
        hang()
    return value


def hang(tally: Tally | None = None, word: object = "hangs") -> None:
    """Do nothing, for as long as a failed test may leave it alone."""
    if tally:
        tally.note(word)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        time.sleep(0.05)


def hang_in_c(tally: Tally | None = None, word: object = "hangs") -> int:
    """Hold the GIL in one C call for hours."""
    if tally:
        tally.note(word)
    return sum(range(10**11))


def hang_with_children(tally: Tally) -> None:
    """Start a child, and a daemon that has left session, group and parent; note their pids; hang."""
    tally.note("child", start_child())
    tally.note("daemon", start_daemon())
    tally.note("hangs")
    hang()


def hang_in_c_with_children(tally: Tally) -> int:
    tally.note("child", start_child())
    tally.note("daemon", start_daemon())
    return hang_in_c(tally)


def start_child() -> int:
    return subprocess.Popen(["sleep", str(LIMIT)]).pid


def start_daemon() -> int:
    """Fork twice, with a session of its own between: the pid of the grandchild."""
    script = f"setsid sh -c 'sleep {LIMIT} >/dev/null 2>&1 & echo $!'"
    return int(subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True).stdout)


# ---- pickling ------------------------------------------------------------------------------------


def _fail_to_load(message: str) -> None:
    raise ValueError(message)


class FailsToPickle:
    def __reduce__(self) -> Any:
        raise ValueError("will not be packed")


class FailsToLoad:
    """Fails wherever it is unpickled."""

    def __reduce__(self) -> Any:
        return _fail_to_load, ("will not be unpacked",)


class ExitsOnLoad:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (5,)


class LeavesOnLoad:
    """Raises SystemExit in the process that unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, (6,)


class FailsToLoadElsewhere:
    """Unpickles in the process that made it only."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        if os.getpid() != self.home:
            raise ValueError("will not be unpacked")


def make_lock() -> Any:
    return threading.Lock()


def make(kind: type) -> Any:
    return kind()


def deep_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# ---- locks, pools in workers ---------------------------------------------------------------------

LOCK = threading.Lock()


def take_lock() -> bool:
    """Deadlocks in a process that was forked while a thread held the lock."""
    if not LOCK.acquire(timeout=20):
        return False
    LOCK.release()
    return True


def nested_sum(depth: int, values: list[int]) -> int:
    """Add up in a pool that lives in this worker, `depth` pools deep."""
    import plait

    if depth == 0:
        return sum(values)
    with plait.ProcessPool(1) as pool:
        return pool.submit(nested_sum, depth - 1, values).result(LIMIT)


def nested_hang(tally: Tally) -> None:
    """Hang in a pool in this worker."""
    import plait

    with plait.ProcessPool(1) as pool:
        pool.submit(hang, tally, "inner").result()


def nested_stdlib(values: list[int]) -> list[int]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1) as pool:
        return list(pool.map(abs, values))


# ---- memory --------------------------------------------------------------------------------------


def take_memory(count: int) -> int:
    data = bytearray(count)
    data[::4096] = b"x" * len(range(0, count, 4096))
    return len(data)


def take_memory_slowly(count: int) -> int:
    parts: list[bytes] = []
    while sum(map(len, parts)) < count:
        parts.append(os.urandom(1 << 20))
    return sum(map(len, parts))


def map_shared(count: int) -> int:
    import mmap

    with mmap.mmap(-1, count) as shared:
        shared[0] = 1
        return len(shared)


# ---- accounting under random kills ---------------------------------------------------------------


def account(tally: Tally, word: object, suicidal: bool, seconds: float) -> tuple[object, int]:
    """Note the start, work a little, answer with who answered."""
    tally.note(word)
    if suicidal:
        die()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass
    return word, os.getpid()
