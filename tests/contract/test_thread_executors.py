"""The contract, for `concurrent.futures.ThreadPoolExecutor` and for `plait.ThreadPool`."""

from __future__ import annotations

import concurrent.futures
import inspect

import pytest

import plait
from tests.contract.executor_contract import ThreadContract


class TestStandardLibrary(ThreadContract):
    executor_type = concurrent.futures.ThreadPoolExecutor


class TestPlait(ThreadContract):
    executor_type = plait.ThreadPool


@pytest.mark.parametrize("name", ["__init__", "submit", "map", "shutdown"])
def test_signatures_take_all_that_the_standard_library_takes(name):
    theirs = inspect.signature(getattr(concurrent.futures.ThreadPoolExecutor, name)).parameters
    ours = inspect.signature(getattr(plait.ThreadPool, name)).parameters
    for parameter, theirs_too in theirs.items():
        if theirs_too.kind is theirs_too.VAR_KEYWORD:  # from 3.14 on, for its own subclasses; it takes none
            continue
        assert parameter in ours
        assert theirs_too.kind == ours[parameter].kind, parameter
