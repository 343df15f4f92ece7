"""The standard library's own tests of `threading`'s locks, run over ours, where the interpreter has them (`test.lock_tests`).

What is left out, and why, is in `SKIPPED`; what replaces it is in `tests/sync`.
"""

from __future__ import annotations

import threading
import unittest
from typing import Any

import pytest

import plait

lock_tests: Any = pytest.importorskip("test.lock_tests")

SKIPPED = {
    # It looks into `Event._cond`; ours has none. tests/sync/test_locks.py has a real fork.
    "TestEvent.test_at_fork_reinit",
}


class TestLock(lock_tests.LockTests):
    locktype = staticmethod(plait.Lock)


class TestRLock(lock_tests.RLockTests):
    locktype = staticmethod(plait.RLock)


class TestEvent(lock_tests.EventTests):
    eventtype = staticmethod(plait.Event)


class TestCondition(lock_tests.ConditionTests):
    condtype = staticmethod(plait.Condition)


class TestConditionOfThreading(lock_tests.ConditionTests):
    """The standard library's condition over our lock, by `_release_save` and its like."""

    @staticmethod
    def condtype(lock: Any = None) -> threading.Condition:
        return threading.Condition(lock or plait.RLock())  # type: ignore[arg-type]


class TestConditionOverLock(lock_tests.ConditionTests):
    @staticmethod
    def condtype(lock: Any = None) -> plait.Condition:
        return plait.Condition(lock or plait.RLock())


class TestSemaphore(lock_tests.SemaphoreTests):
    semtype = staticmethod(plait.Semaphore)


class TestBoundedSemaphore(lock_tests.BoundedSemaphoreTests):
    semtype = staticmethod(plait.BoundedSemaphore)


class TestBarrier(lock_tests.BarrierTests):
    barriertype = staticmethod(plait.Barrier)


for name in SKIPPED:
    case, _, method = name.partition(".")
    setattr(globals()[case], method, unittest.skip("see SKIPPED")(getattr(globals()[case], method)))
