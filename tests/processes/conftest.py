"""What the tests of the process pool begin with."""

from __future__ import annotations

import pytest

import plait
from tests.processes._tasks import Gate, Tally


@pytest.fixture
def pool():
    with plait.ProcessPool(2) as pool:
        yield pool


@pytest.fixture
def one():
    with plait.ProcessPool(1) as pool:
        yield pool


@pytest.fixture
def tally(tmp_path):
    return Tally(tmp_path / "tally")


@pytest.fixture
def gate(tmp_path):
    with Gate(tmp_path / "gate") as gate:
        yield gate  # opened in the end: a test that failed must not leave tasks waiting
