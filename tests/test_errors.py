"""The errors say what happened, can be caught as what people already catch, and survive travelling."""

from __future__ import annotations

import concurrent.futures
import copy
import doctest
import functools
import pickle
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import pytest

import plait.errors
from plait.errors import (
    DeadlockError,
    LimitExceeded,
    NotPicklable,
    OwnerDied,
    TaskCancelled,
    TaskTimeout,
    WorkerDied,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES: list[Exception] = [
    WorkerDied(pid=812, signal=9, task="mod.fn", index=3, tries=1, max_tries=2, hint="likely out of memory"),
    WorkerDied(pid=812, exitcode=3),
    WorkerDied("as told"),
    OwnerDied("process 812 died"),
    TaskTimeout(task="mod.fn", index=0, timeout=0.25, stack='  File "mod.py", line 3 in fn\n'),
    TaskCancelled(task="mod.fn"),
    LimitExceeded(limit="memory", value=1 << 30, task="mod.fn", used=3 << 29),
    DeadlockError("a circle"),
    NotPicklable("a lambda"),
]


def _through_pickle(error: Exception, protocol: int) -> Exception:
    travelled = pickle.loads(pickle.dumps(error, protocol))
    assert isinstance(travelled, Exception)
    return travelled


WAYS: dict[str, Callable[[Exception], Exception]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle{protocol}": functools.partial(_through_pickle, protocol=protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", WAYS)
def test_fields_message_and_notes_survive_travelling(error: Exception, way: str) -> None:
    error = copy.copy(error)
    error.add_note("seen in a nested pool")
    travelled = WAYS[way](error)
    assert type(travelled) is type(error)
    assert travelled.args == error.args
    assert str(travelled) == str(error)
    assert vars(travelled) == vars(error)


@pytest.mark.parametrize(
    ("error", "caught_as"),
    [
        (WorkerDied(), BrokenProcessPool),
        (WorkerDied(), concurrent.futures.BrokenExecutor),
        (OwnerDied(), RuntimeError),
        (TaskTimeout(), TimeoutError),
        (TaskTimeout(), concurrent.futures.TimeoutError),
        (TaskCancelled(), concurrent.futures.CancelledError),
        (LimitExceeded(), RuntimeError),
        (DeadlockError(), RuntimeError),
        (NotPicklable(), pickle.PicklingError),
    ],
)
def test_is_what_people_catch(error: Exception, caught_as: type[Exception]) -> None:
    assert isinstance(error, caught_as)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            WorkerDied(
                pid=812,
                signal=9,
                task="mod.fn",
                index=3,
                max_tries=2,
                hint="likely out of memory: peak 1 GiB",
            ),
            "worker 812 was killed by SIGKILL while it ran mod.fn (item 3, try 1 of 2); likely out of memory: peak 1 GiB",
        ),
        (WorkerDied(pid=1, exitcode=-11, task="f"), "worker 1 crashed with SIGSEGV while it ran f"),
        (WorkerDied(pid=1, exitcode=0, task="f"), "worker 1 exited with code 0 while it ran f"),
        (WorkerDied(pid=1, signal=44), "worker 1 was killed by signal 44"),
        (WorkerDied(), "a worker died"),
        (TaskTimeout(task="f", timeout=3), "f ran longer than its timeout of 3 s"),
        (TaskTimeout(timeout=3, stack="line 1\n"), "a task ran longer than its timeout of 3 s; it stood at:\nline 1"),
        (TaskCancelled(), "a task was cancelled"),
        (LimitExceeded(limit="memory", value=2 << 30, task="f"), "f exceeded its memory limit of 2.0 GiB"),
        (LimitExceeded(limit="cpu_time", value=1.5), "a task exceeded its cpu time limit of 1.5 s"),
    ],
)
def test_message(error: Exception, text: str) -> None:
    assert str(error) == text


def test_signal_and_exit_code_agree() -> None:
    assert WorkerDied(exitcode=-9).signal == 9
    assert WorkerDied(signal=9).exitcode == -9
    assert WorkerDied(exitcode=3).signal is None


def test_docstring_examples() -> None:
    assert doctest.testmod(plait.errors).failed == 0
