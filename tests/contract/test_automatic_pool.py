"""The contract, for `plait.Pool`."""

from __future__ import annotations

import plait
from tests.contract.executor_contract import ExecutorContract


class TestPlait(ExecutorContract):
    executor_type = plait.Pool

    def test_failing_initializer(self):
        """It takes no initializer."""

    def test_default_number_of_workers(self):
        """It is the pool's own affair."""
