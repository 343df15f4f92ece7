"""`ThreadPool(hold_warning=...)`: a task that keeps the GIL from all others is told of, with where it was; others are not."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
import warnings
from typing import ClassVar

import pytest

import plait
from plait.threads import _hold

WATCHDOG = 60.0
NO_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
needs_gil = pytest.mark.skipif(NO_GIL, reason="there is no GIL")

_usleep = ctypes.PyDLL(None).usleep
"""Sleeps with the GIL."""


@pytest.fixture
def log():
    """The records that were logged, and an event that is set by each."""

    class Hear(logging.Handler):
        records: ClassVar[list[logging.LogRecord]] = []
        heard = threading.Event()

        def emit(self, record):
            self.records.append(record)
            self.heard.set()

    handler = Hear()
    logger = logging.getLogger("plait.threads")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def hog(told):
    """Holds the GIL again and again, until somebody is told of it."""
    while not told.is_set():
        _usleep(200_000)


def outer(told):
    hog(told)
    return 1


def run_to_end(code, **options):
    code = textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WATCHDOG, **options)


@needs_gil
def test_a_task_that_holds_the_gil_in_c_is_told_of_with_where_it_is(log):
    with plait.ThreadPool(1, "greedy", hold_warning=0.1) as pool:
        assert pool.submit(outer, log.heard).result(WATCHDOG) == 1
    (record,) = log.records
    assert (record.name, record.levelno) == ("plait.threads", logging.WARNING)
    text = record.getMessage()
    assert text.startswith(f"{__name__}.outer held the GIL for ")
    assert "in the thread greedy_0, more than 0.1 s" in text
    lines = text.splitlines()
    assert any(line.endswith("in outer") for line in lines)
    assert lines[-2].endswith("in hog"), text
    assert lines[-1].strip() == "_usleep(200_000)", text
    assert "threading.py" not in text
    assert not any(line.endswith("in run") for line in lines)


@needs_gil
def test_it_is_told_while_the_task_still_runs(log):
    go_on = threading.Event()

    def task():
        hog(log.heard)
        assert go_on.wait(WATCHDOG)

    with plait.ThreadPool(1, hold_warning=0.1) as pool:
        future = pool.submit(task)
        assert log.heard.wait(WATCHDOG)
        assert not future.done()
        go_on.set()
        future.result(WATCHDOG)
    assert len(log.records) == 1


@needs_gil
def test_each_task_is_told_of_once(log):
    def task():
        hog(log.heard)
        for _ in range(3):
            _usleep(200_000)
            time.sleep(0.01)
        log.heard.clear()

    with plait.ThreadPool(1, hold_warning=0.1) as pool:
        for _ in range(2):
            pool.submit(task).result(WATCHDOG)
    assert len(log.records) == 2


@needs_gil
def test_items_of_a_map_and_functions_in_c_are_told_of_as_well(log):
    with plait.ThreadPool(1, hold_warning=0.1) as pool:
        assert list(pool.map(hog, [log.heard])) == [None]
        log.heard.clear()
        while not log.heard.is_set():
            pool.submit(functools.partial(_usleep, 500_000)).result(WATCHDOG)
    item, bare = [record.getMessage() for record in log.records[:2]]
    assert item.startswith(f"{__name__}.hog held the GIL for ")
    assert bare.startswith(f"{_hold._name(_usleep)} held the GIL for ")
    assert bare.endswith("It was in no Python code")


@needs_gil
def test_tasks_that_let_go_when_they_are_asked_are_not_told_of(log):
    def compute():
        end = time.monotonic() + 0.9
        while time.monotonic() < end:
            sum(range(100))

    with plait.ThreadPool(3, hold_warning=0.6) as pool:
        alone = pool.submit(compute)
        alone.result(WATCHDOG)
        together = [pool.submit(compute), pool.submit(compute), pool.submit(time.sleep, 0.9)]
        for future in together:
            future.result(WATCHDOG)
        assert list(pool.map(abs, range(-1000, 0))) == list(range(1000, 0, -1))
    assert log.records == []


@needs_gil
def test_other_pools_are_not_watched(log):
    with plait.ThreadPool(1, hold_warning=0.05) as watched, plait.ThreadPool(1) as other:
        other.submit(_usleep, 500_000).result(WATCHDOG)
        assert watched.submit(abs, -1).result(WATCHDOG) == 1
    assert log.records == []


@needs_gil
def test_what_raises_is_told_of_and_raises(log):
    def task():
        hog(log.heard)
        raise KeyError("own")

    with plait.ThreadPool(1, hold_warning=0.1) as pool, pytest.raises(KeyError, match="own"):
        pool.submit(task).result(WATCHDOG)
    assert len(log.records) == 1


@needs_gil
def test_one_that_never_lets_go_is_told_of_without_the_interpreter():
    done = run_to_end(
        """
        import ctypes, plait
        def stuck():
            ctypes.PyDLL(None).usleep(2_000_000)
        with plait.ThreadPool(1, hold_warning=0.05) as pool:
            pool.submit(stuck)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "a task of a thread pool has held the GIL for " in done.stderr
    assert "in stuck\n" in done.stderr


@needs_gil
def test_what_is_to_be_told_is_told_before_the_interpreter_ends():
    done = run_to_end(
        """
        import ctypes, logging, plait
        logging.basicConfig(format="%(message)s")
        plait.ThreadPool(1, hold_warning=0.1).submit(ctypes.PyDLL(None).usleep, 1_500_000)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("usleep held the GIL for") == 1, done.stderr


@needs_gil
def test_a_forked_child_has_a_watch_of_its_own():
    done = run_to_end(
        """
        import ctypes, logging, os, plait, threading
        told = threading.Event()
        class Hear(logging.Handler):
            def emit(self, record):
                told.set()
        logging.getLogger("plait.threads").addHandler(Hear())
        usleep = ctypes.PyDLL(None).usleep
        def hog():
            while not told.is_set():
                usleep(200_000)
        with plait.ThreadPool(1, hold_warning=0.1) as pool:
            pool.submit(hog).result()
            child = os.fork()
        if not child:
            told = threading.Event()  # the other's lock may have been held at the fork
            with plait.ThreadPool(1, hold_warning=0.1) as pool:
                pool.submit(hog).result()
            print("child", flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "child\n"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("1", TypeError),
        (True, TypeError),
        (b"", TypeError),
        (0, ValueError),
        (-1.5, ValueError),
        (float("inf"), ValueError),
        (float("nan"), ValueError),
    ],
)
def test_a_limit_is_a_number_of_seconds(value, error):
    with pytest.raises(error) as raised:
        plait.ThreadPool(1, hold_warning=value)
    assert "hold_warning" in str(raised.value)
    assert repr(value) in str(raised.value)


def test_none_is_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with plait.ThreadPool(1, hold_warning=None) as pool:
            assert pool.submit(os.getpid).result(WATCHDOG) == os.getpid()


@pytest.mark.skipif(not NO_GIL, reason="there is a GIL")
def test_without_a_gil_it_says_so_once():
    _hold._warned = False
    with pytest.warns(RuntimeWarning, match="hold_warning has no effect") as warned:
        pool = plait.ThreadPool(1, hold_warning=1)
    assert [each.filename for each in warned] == [__file__]
    pool.shutdown()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plait.ThreadPool(1, hold_warning=1).shutdown()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (abs, "abs"),
        (hog, f"{__name__}.hog"),
        (functools.partial(hog, 1), f"{__name__}.hog"),
        (functools.partial(__import__("contextvars").copy_context().run, hog, 1), f"{__name__}.hog"),
    ],
)
def test_functions_have_the_names_that_they_give_themselves(function, name):
    assert _hold._name(function) == name
