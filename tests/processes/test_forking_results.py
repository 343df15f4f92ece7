"""Results whose code forks in a worker, and lets the child come back: it is no worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import plait
from tests.processes._support import WATCHDOG


class Forks:
    """Forks once, as it is let go of in a worker, and leaves the child to whoever comes back."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return str, ("came",)

    def __del__(self):
        if not os.path.exists(self.path):
            Path(self.path).touch()
            os.fork()


class ForksAsItIsPickled(Forks):
    def __reduce__(self):
        self.__del__()
        return super().__reduce__()


def worker_of(value):
    return os.getpid()


@pytest.mark.parametrize("kind", [Forks, ForksAsItIsPickled])
@pytest.mark.parametrize("by", ["submit", "map"])
def test_a_child_that_a_result_forked_takes_no_task(tmp_path, by, kind):
    path = str(tmp_path / "forked")
    with plait.ProcessPool(1) as pool:
        worker = pool.submit(worker_of, 0).result(WATCHDOG)
        if by == "submit":
            assert pool.submit(kind, path).result(WATCHDOG) == "came"
        else:
            assert list(pool.map(kind, [path] * 5, chunksize=5, timeout=WATCHDOG)) == ["came"] * 5
        assert {pool.submit(worker_of, number).result(WATCHDOG) for number in range(200)} == {worker}
        assert os.path.exists(path)
