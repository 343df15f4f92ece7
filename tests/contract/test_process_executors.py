"""The contract, for `concurrent.futures.ProcessPoolExecutor` and for `plait.ProcessPool`."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os

import pytest

from tests.contract import contract_tasks as tasks
from tests.contract.executor_contract import WATCHDOG, ProcessContract


class TestStandardLibrary(ProcessContract):
    """Under a start method that copies no threads. It starts an interpreter per worker, which takes most of the time."""

    def executor_type(self, *args, **options):
        options.setdefault("mp_context", multiprocessing.get_context("forkserver"))
        return concurrent.futures.ProcessPoolExecutor(*args, **options)


class TestPlait(ProcessContract):
    def executor_type(self, *args, **options):
        plait = pytest.importorskip("plait")
        return plait.ProcessPool(*args, **options)

    def test_death_of_a_worker_does_not_break_the_pool(self, executor):
        # Here they part on purpose.
        for _ in range(3):
            with pytest.raises(concurrent.futures.process.BrokenProcessPool):
                executor.submit(os._exit, 3).result(WATCHDOG)
            assert executor.submit(tasks.echo, 1).result(WATCHDOG) == 1


@pytest.mark.parametrize("name", ["submit", "map", "shutdown"])
def test_signatures_take_all_that_the_standard_library_takes(name):
    import inspect

    plait = pytest.importorskip("plait")
    theirs = inspect.signature(getattr(concurrent.futures.ProcessPoolExecutor, name)).parameters
    ours = inspect.signature(getattr(plait.ProcessPool, name)).parameters
    assert [n for n in theirs if n not in ours] == []
    for parameter, ours_too in ((p, ours[n]) for n, p in theirs.items()):
        assert parameter.kind == ours_too.kind, parameter
