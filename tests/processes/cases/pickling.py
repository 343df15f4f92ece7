"""What cannot be pickled or unpickled, on either side, fails its own task with an error that names it."""

from __future__ import annotations

import concurrent.futures
import functools
import pickle
import sys
import types
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import plait
from tests.processes import _tasks
from tests.processes._support import WATCHDOG, check_calm, check_usable, message_of


def _submit(pool, function, *args):
    """Submit; an error at the call is as good as one of the future (the contract suite looks which it is)."""
    try:
        return pool.submit(function, *args)
    except Exception as error:
        failed: concurrent.futures.Future = concurrent.futures.Future()
        failed.set_exception(error)
        return failed


def _error_of(function, *args):
    """The error of the one bad task between good ones."""
    with plait.ProcessPool(2) as pool:
        before = [pool.submit(_tasks.echo, i) for i in range(10)]
        bad = _submit(pool, function, *args)
        after = [pool.submit(_tasks.echo, i) for i in range(10)]
        error = bad.exception(WATCHDOG)
        assert error is not None, "this cannot have worked"
        assert not bad.cancelled()
        assert bad.done()
        assert [f.result(WATCHDOG) for f in before + after] == [*range(10), *range(10)]
        check_usable(pool)
    check_calm()
    return error


def argument_refused(folder: Path) -> None:
    error = _error_of(_tasks.echo, _tasks.make_lock())
    assert isinstance(error, plait.NotPicklable)
    assert isinstance(error, pickle.PicklingError)
    assert "lock" in message_of(error)


def argument_deep_inside(folder: Path) -> None:
    """Found after megabytes have been packed."""
    error = _error_of(_tasks.echo, [bytes(4_000_000), {"key": [_tasks.make_lock()]}])
    assert isinstance(error, plait.NotPicklable)
    assert "lock" in message_of(error)


def argument_raises(folder: Path) -> None:
    error = _error_of(_tasks.echo, _tasks.FailsToPickle())
    assert isinstance(error, plait.NotPicklable)
    assert "will not be packed" in message_of(error)
    assert "FailsToPickle" in message_of(error)


def argument_too_deep(folder: Path) -> None:
    error = _error_of(_tasks.size_of, _tasks.deep_list(200_000))
    assert isinstance(error, plait.NotPicklable | RecursionError), repr(error)


def argument_not_loadable(folder: Path) -> None:
    error = _error_of(_tasks.echo, _tasks.FailsToLoad())
    assert "will not be unpacked" in message_of(error)
    assert not isinstance(error, plait.WorkerDied), "the worker need not die of it"


def argument_exits_on_load(folder: Path) -> None:
    error = _error_of(_tasks.echo, _tasks.ExitsOnLoad())
    assert isinstance(error, plait.WorkerDied)
    assert error.exitcode == 5


def argument_leaves_on_load(folder: Path) -> None:
    """SystemExit in the worker, while unpickling: an error of the task like any other."""
    error = _error_of(_tasks.echo, _tasks.LeavesOnLoad())
    assert isinstance(error, SystemExit | BrokenProcessPool | pickle.PickleError | RuntimeError), repr(error)


def function_not_importable(folder: Path) -> None:
    """A function of a module that only the parent has."""
    module = types.ModuleType("only_here")
    exec("def function():\n    return 1\n", module.__dict__)
    sys.modules["only_here"] = module
    error = _error_of(module.function)
    assert "only_here" in message_of(error)


def result_refused(folder: Path) -> None:
    error = _error_of(_tasks.make_lock)
    assert isinstance(error, plait.NotPicklable)
    assert isinstance(error, pickle.PicklingError)
    assert "lock" in message_of(error)


def result_raises(folder: Path) -> None:
    error = _error_of(_tasks.make, _tasks.FailsToPickle)
    assert isinstance(error, plait.NotPicklable)
    assert "will not be packed" in message_of(error)
    assert "FailsToPickle" in message_of(error)


def result_too_deep(folder: Path) -> None:
    error = _error_of(_tasks.deep_list, 200_000)
    assert isinstance(error, plait.NotPicklable | RecursionError), repr(error)


def result_not_loadable(folder: Path) -> None:
    """Unpickles in the worker that made it, not in the parent."""
    error = _error_of(_tasks.make, _tasks.FailsToLoadElsewhere)
    assert "will not be unpacked" in message_of(error)


def result_leaves_on_load(folder: Path) -> None:
    """SystemExit while the parent unpickles a result: told to whoever asked, and the parent goes on."""
    with plait.ProcessPool(2) as pool:
        bad = pool.submit(_tasks.make, _tasks.LeavesOnLoad)
        good = [pool.submit(_tasks.echo, i) for i in range(10)]
        try:
            bad.result(WATCHDOG)
        except BaseException as error:
            print(repr(error))
        else:
            raise AssertionError("this cannot have worked")
        assert [f.result(WATCHDOG) for f in good] == list(range(10))
        check_usable(pool)
    check_calm()


def exception_refused(folder: Path) -> None:
    error = _error_of(_tasks.raise_with_a_lock)
    assert "WithALock" in message_of(error)


def exception_not_loadable(folder: Path) -> None:
    """The classic: `__init__` wants two arguments, `args` holds one."""
    error = _error_of(_tasks.raise_two_arguments)
    assert "TwoArguments" in message_of(error)
    assert "fish and chips" in message_of(error)


def many_kinds_at_once(folder: Path) -> None:
    """Good and bad tasks in one crowd: each gets what is its own."""
    kinds: list[tuple[Any, ...]] = [
        (None, _tasks.echo, 1),
        (plait.NotPicklable, _tasks.echo, _tasks.make_lock()),
        (plait.NotPicklable, _tasks.make_lock),
        (Exception, _tasks.echo, _tasks.FailsToLoad()),
        (plait.WorkerDied, _tasks.echo, _tasks.ExitsOnLoad()),
        (Exception, _tasks.make, _tasks.FailsToLoadElsewhere),
        (Exception, _tasks.raise_two_arguments),
        (Exception, _tasks.raise_with_a_lock),
        (_tasks.Refusal, _tasks.refuse_in_the_worker, "no"),
    ]
    with plait.ProcessPool(2) as pool:
        crowd = [(kind, _submit(pool, function, *args)) for _ in range(12) for kind, function, *args in kinds]
        for kind, future in crowd:
            error = future.exception(WATCHDOG)
            if kind is None:
                assert error is None
                assert future.result() == 1
            else:
                assert isinstance(error, kind), (kind, error)
        check_usable(pool)
    check_calm()


def bad_item_in_map(folder: Path, chunksize: str) -> None:
    """The items before the bad one have results; the error is the bad one's."""
    items = [1, 2, 3, _tasks.make_lock(), 5, 6]
    with plait.ProcessPool(2) as pool:
        results = pool.map(_tasks.echo, items, chunksize=int(chunksize) or None)
        assert [next(results), next(results), next(results)] == [1, 2, 3]
        try:
            next(results)
        except plait.NotPicklable as error:
            assert "lock" in message_of(error)
        else:
            raise AssertionError("a lock does not pickle")
        check_usable(pool)
    check_calm()


def bad_result_in_map(folder: Path, chunksize: str) -> None:
    kinds = [dict, dict, dict, _tasks.make_lock, dict]
    with plait.ProcessPool(2) as pool:
        results = pool.map(_tasks.make, kinds, chunksize=int(chunksize) or None)
        assert [next(results), next(results), next(results)] == [{}, {}, {}]
        try:
            next(results)
        except plait.NotPicklable as error:
            assert "lock" in message_of(error)
        else:
            raise AssertionError("a lock does not pickle")
        check_usable(pool)
    check_calm()


def bad_function_in_map(folder: Path) -> None:
    """A function that cannot travel fails the map, not the pool."""
    bad = functools.partial(_tasks.echo, _tasks.make_lock())
    with plait.ProcessPool(2) as pool:
        try:
            list(pool.map(bad, range(5)))
        except plait.NotPicklable as error:
            assert "lock" in message_of(error)
        else:
            raise AssertionError("a lock does not pickle")
        check_usable(pool)
    check_calm()


def bad_initializer(folder: Path) -> None:
    """An initializer that cannot travel is refused at once, or fails the tasks; it does not hang."""
    try:
        pool = plait.ProcessPool(1, initializer=_tasks.echo, initargs=(_tasks.make_lock(),))
    except (pickle.PicklingError, TypeError) as error:
        assert "lock" in message_of(error)
        return
    with pool:
        try:
            failure = pool.submit(_tasks.echo, 1).exception(WATCHDOG)
        except Exception as refusal:
            failure = refusal  # the pool refuses at once
        assert isinstance(failure, BrokenProcessPool | pickle.PicklingError | TypeError)
    check_calm()


def call_it(value):
    return value()


def by_value(folder: Path, how: str) -> None:
    """Lambdas, closures, local functions and classes travel by value, as tasks, arguments and results."""
    base = 40

    def closure(x):
        return base + x

    class Local:
        def __init__(self, x):
            self.x = x

        def plus(self, y):
            return self.x + y

    def make_lambda():
        return lambda: base + 3

    with plait.ProcessPool(2) as pool:
        if how == "function":
            assert pool.submit(lambda x: x + 1, 1).result(WATCHDOG) == 2
            assert pool.submit(closure, 2).result(WATCHDOG) == 42
            assert pool.submit(functools.partial(closure, 3)).result(WATCHDOG) == 43
        elif how == "method":
            assert pool.submit(Local(1).plus, 2).result(WATCHDOG) == 3
        elif how == "argument":
            assert pool.submit(call_it, lambda: 5).result(WATCHDOG) == 5
        elif how == "result":
            assert pool.submit(make_lambda).result(WATCHDOG)() == 43
        elif how == "map":
            assert list(pool.map(lambda x, y: x * y + base, range(50), range(50))) == [x * x + 40 for x in range(50)]
        elif how == "exception":

            class LocalError(Exception):
                pass

            def fail():
                raise LocalError("of a local class")

            error = pool.submit(fail).exception(WATCHDOG)
            assert "LocalError" in message_of(error)
            assert "of a local class" in message_of(error)
        elif how == "changes":
            # By value means the value at the time of the call, each time.
            first = pool.submit(closure, 0)
            base = 41
            second = pool.submit(closure, 0)
            base = 42
            third = pool.submit(closure, 0)
            base = 43
            assert [f.result(WATCHDOG) for f in (first, second, third)] == [40, 41, 42]
        else:
            raise AssertionError(how)
        check_usable(pool)
    check_calm()


def without_cloudpickle(folder: Path) -> None:
    """The error of a lambda says what is missing; everything that pickle can do still works."""
    assert sys.modules.get("cloudpickle", "") is None, "the test hides it before plait is imported"
    error = _error_of(lambda: 1)
    assert isinstance(error, plait.NotPicklable)
    assert "cloudpickle" in message_of(error)
    assert "lambda" in message_of(error)
