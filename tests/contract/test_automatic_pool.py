"""The contract, for `plait.Pool`."""

from __future__ import annotations

import functools
import time

import plait
from tests.contract import contract_tasks as tasks
from tests.contract.executor_contract import WATCHDOG, ExecutorContract, lines


def slow_note(path, number):
    time.sleep(0.005)
    return tasks.note(path, number)


class TestPlait(ExecutorContract):
    executor_type = plait.Pool

    def test_failing_initializer(self):
        """It takes no initializer."""

    def test_map_closed_cancels_the_rest(self, single, gate, tmp_path):
        path = str(tmp_path / "runs")
        results = single.map(functools.partial(slow_note, path), range(500))  # short ones are made at the call
        assert next(results) == 0
        results.close()
        assert single.submit(tasks.echo, 1).result(WATCHDOG) == 1
        assert len(lines(path)) < 500

    def test_default_number_of_workers(self):
        """It is the pool's own affair."""
