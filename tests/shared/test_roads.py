"""Shared memory by every road between processes: plait's pools, and `multiprocessing` with every start method.

In most of these the sender has let go of it before the receiver looks.
"""

from __future__ import annotations

import concurrent.futures
import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import plait
from tests.shared import _tasks
from tests.shared._support import files, inode, wait_until, wait_until_gone

# A fork of a threaded program is warned of; these tests are about what comes after it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the process is forked while it has several threads:RuntimeWarning"),
]

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(autouse=True)
def leaves_no_memory() -> Iterator[None]:
    yield
    gc.collect()  # an error that was caught holds its frames
    wait_until(lambda: not files(), "memory to be let go of")


def numbers() -> Any:
    return plait.share(np.arange(10))


# ---- plait's pools -------------------------------------------------------------------------------


def test_arguments_live_until_the_task_is_done() -> None:
    with plait.ProcessPool(1) as pool:
        futures = [pool.submit(_tasks.total, numbers()) for _ in range(50)]
        named = [pool.submit(_tasks.total, handle=numbers()) for _ in range(5)]
        assert [future.result() for future in futures + named] == [45.0] * 55


def test_arguments_live_though_the_future_is_thrown_away() -> None:
    seen = plait.shared_array(50, int)
    with plait.ProcessPool(1) as pool:
        for index in range(50):
            pool.submit(_tasks.fill, seen[index : index + 1], ..., plait.share(index).get())
            pool.submit(_tasks.total, numbers())
    assert seen.tolist() == list(range(50))


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_map(chunksize: int | None) -> None:
    with plait.ProcessPool(2) as pool:
        totals = pool.map(_tasks.total, (numbers() for _ in range(100)), chunksize=chunksize)
        assert list(totals) == [45.0] * 100
        assert list(pool.map(partial(_tasks.fill, plait.shared_array(9, int)), range(9), range(9))) == [None] * 9


@pytest.mark.parametrize("length", [5_000, 100_000])
def test_beside_large_arrays_that_are_not_shared(length: int) -> None:
    def both(index: int) -> tuple[Any, Any, Any]:
        return plait.share(index), np.full(length, index), numbers()

    with plait.ProcessPool(2) as pool:
        for index in range(20):
            shared, plain, last = pool.submit(_tasks.identity, both(index)).result()
            assert (shared.get(), plain.sum(), last.get().sum()) == (index, length * index, 45)
        for index, (shared, plain, last) in enumerate(pool.map(_tasks.identity, map(both, range(50)))):
            assert (shared.get(), plain.sum(), last.get().sum()) == (index, length * index, 45)


def test_map_with_a_function_that_carries_it() -> None:
    def adder(handle: Any) -> Any:
        return lambda add: handle.get().sum() + add

    with plait.ProcessPool(2) as pool:
        results = pool.map(adder(numbers()), range(20))
        assert list(results) == [45 + add for add in range(20)]


def test_map_fills_an_array() -> None:
    array = plait.shared_array(200, int)
    with plait.ProcessPool(2) as pool:
        list(pool.map(_tasks.fill, (array[index : index + 1] for index in range(200)), [...] * 200, range(200)))
    assert array.tolist() == list(range(200))


def test_results_live_until_they_are_read_though_the_workers_are_gone() -> None:
    with plait.ProcessPool(2, max_tasks_per_child=2) as pool:
        arrays = [pool.submit(_tasks.make_array, 5) for _ in range(5)]
        nested = pool.submit(_tasks.make_nested, 5)
        mapped = pool.map(_tasks.make_shared, range(1, 30))
        failed = pool.submit(_tasks.raise_array, 3)
    assert [future.result().tolist() for future in arrays] == [[7] * 5] * 5
    assert nested.result()["arrays"][0].sum() + _tasks.total(nested.result()["handle"][0]) == 45
    assert [handle.nbytes > 0 for handle in mapped] == [True] * 29
    with pytest.raises(_tasks.Carrying) as caught:
        failed.result()
    assert caught.value.args[0].tolist() == [7] * 3


def test_results_that_nobody_reads_are_let_go() -> None:
    with plait.ProcessPool(1) as pool:
        future = pool.submit(_tasks.make_array, 1000)
        concurrent.futures.wait([future])
        assert files()
        del future
        wait_until(lambda: not files(), "the result to go")
        for _ in range(20):
            pool.submit(_tasks.make_array, 10)
        results = pool.map(_tasks.make_array, range(1, 100))
        next(iter(results))
        del results
        pool.submit(int).result()
    wait_until(lambda: not files(), "the results to go")


def test_there_and_back_it_is_the_same_memory() -> None:
    array, handle = plait.shared_array(3), numbers()
    with plait.ProcessPool(1) as pool:
        back = pool.submit(_tasks.identity, {"a": [array], "b": handle}).result()
    assert back["b"] is handle
    assert np.shares_memory(back["a"][0], array)
    assert back["a"][0].flags.writeable


def test_a_result_may_be_an_argument_of_another_worker() -> None:
    with plait.ProcessPool(2) as one, plait.ProcessPool(2) as two:
        array = one.submit(_tasks.make_array, 5).result()
        two.submit(_tasks.add_one, array).result()
        one.submit(_tasks.add_one, array).result()
        assert array.tolist() == [9] * 5


@pytest.mark.parametrize("context", [None, "fork"])
def test_initializer(context: str | None) -> None:
    array = plait.shared_array(3, int)
    with plait.ProcessPool(2, context, _tasks.remember, (array,), max_tasks_per_child=2) as pool:
        for _ in range(7):
            pool.submit(_tasks.add_to_remembered, 2).result()
    assert array.tolist() == [14] * 3
    with plait.ProcessPool(1, context, _tasks.remember, (numbers(),), max_tasks_per_child=1) as pool:
        assert [pool.submit(_tasks.remembered_total).result() for _ in range(3)] == [45.0] * 3
    _tasks.here = None


def test_pools_in_workers() -> None:
    array = plait.shared_array(4, int)
    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.in_pool_of_worker, numbers(), array).result() == 45
    assert array.tolist() == [1] * 4


def test_a_task_that_is_tried_again_finds_it_again() -> None:
    array = plait.shared_array(1, int)
    with plait.ProcessPool(1) as pool:
        with pytest.raises(plait.WorkerDied):
            pool.options(retries=2).submit(_tasks.write_and_die, array).result()
        with pytest.raises(plait.WorkerDied):
            pool.options(retries=1).submit(_tasks.hold_and_die, numbers()).result()
        assert pool.submit(_tasks.total, numbers()).result() == 45
    assert array.tolist() == [3]


def test_fork() -> None:
    handle, array = numbers(), plait.shared_array(2, int)
    handle.get()
    assert _tasks.in_fork(handle, array)
    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.in_fork, handle, array).result()
    assert array.tolist() == [2, 2]


def test_a_forked_child_sends_its_own() -> None:
    context = _tasks.context("fork")
    handle, queue = numbers(), context.Queue()
    child = context.Process(target=queue.put, args=(handle,))
    child.start()
    assert queue.get() is handle
    child.join()
    queue.close()


# ---- multiprocessing -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_process(method: str) -> None:
    context = _tasks.context(method)
    array, nested, answers = plait.shared_array(2, int), {"array": plait.shared_array(1, int)}, context.SimpleQueue()
    child = context.Process(target=_tasks.answer_process, args=(array[:1], numbers(), nested, answers))
    child.start()
    assert answers.get() == 45
    child.join()
    assert (array.tolist(), nested["array"].tolist()) == ([1, 0], [1])
    child.close()
    answers.close()


@pytest.mark.parametrize("method", METHODS)
def test_process_that_gets_what_nobody_else_has(method: str) -> None:
    context = _tasks.context(method)
    answers = context.SimpleQueue()
    child = context.Process(
        target=_tasks.answer_process,
        args=(plait.shared_array(1, int), numbers(), {"array": plait.shared_array(1, int)}, answers),
    )
    child.start()
    assert answers.get() == 45
    child.join()
    child.close()
    answers.close()


@pytest.mark.parametrize("method", METHODS)
def test_pool(method: str) -> None:
    array = plait.shared_array(6, int)
    with _tasks.context(method).Pool(2) as pool:
        assert pool.apply_async(_tasks.total, (numbers(),)).get() == 45
        assert pool.map(_tasks.total, [numbers() for _ in range(20)]) == [45.0] * 20
        pool.starmap(_tasks.fill, [(array[index : index + 1], ..., index) for index in range(6)])
        made = pool.apply(_tasks.make_nested, (5,))
        more = pool.map(_tasks.make_array, [3] * 10)
        pool.close()
        pool.join()
    assert array.tolist() == list(range(6))
    assert made["arrays"][0].sum() + _tasks.total(made["handle"][0]) == 45
    assert [each.sum() for each in more] == [21] * 10


@pytest.mark.parametrize("method", METHODS)
def test_initializer_of_a_pool(method: str) -> None:
    array = plait.shared_array(2, int)
    with _tasks.context(method).Pool(2, _tasks.remember, (array,)) as pool:
        pool.map(_tasks.add_to_remembered, [1], chunksize=1)
        pool.close()
        pool.join()
    assert array.tolist() == [1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_queue(method: str) -> None:
    context = _tasks.context(method)
    questions, answers = context.Queue(), context.Queue()
    array = plait.shared_array((2, 2), int)
    child = context.Process(target=_tasks.answer_queue, args=(questions, answers))
    child.start()
    questions.put((array.T, numbers()))
    assert answers.get() == 45
    child.join()
    assert array.tolist() == [[1, 1], [1, 1]]
    child = context.Process(target=_tasks.put_and_wait, args=(answers, gone := context.Event()))
    child.start()
    assert answers.get().tolist() == [7] * 4
    gone.set()
    child.join()
    for queue in (questions, answers):
        queue.close()
        queue.join_thread()


@pytest.mark.parametrize("method", METHODS)
def test_pipe(method: str) -> None:
    context = _tasks.context(method)
    array = plait.shared_array(3, int)
    ours, theirs = context.Pipe()
    with ours, theirs:
        child = context.Process(target=_tasks.answer_pipe, args=(theirs,))
        child.start()
        ours.send((array, numbers()))
        assert ours.recv() == 45
        child.join()
        assert array.tolist() == [1] * 3
        child = context.Process(target=_tasks.send_made, args=(theirs, 5))
        child.start()
        made, handle = ours.recv()
        assert made.sum() + _tasks.total(handle) == 45
        ours.send(None)
        child.join()


def test_executor_of_the_standard_library() -> None:
    array = plait.shared_array(2, int)
    with concurrent.futures.ProcessPoolExecutor(1, _tasks.context("spawn")) as pool:
        pool.submit(_tasks.add_one, array).result()
        assert pool.submit(_tasks.total, numbers()).result() == 45
        assert pool.submit(_tasks.make_array, 2).result().sum() == 14
    assert array.tolist() == [1, 1]


def test_sent_once_and_read_by_many() -> None:
    """While the sender keeps its handle: what one read is good for the next."""
    handle = numbers()
    context = _tasks.context("fork")
    pipes = [context.Pipe() for _ in range(3)]
    children = [context.Process(target=_tasks.answer_pipe, args=(theirs,)) for _, theirs in pipes]
    from multiprocessing.reduction import ForkingPickler

    pickled = bytes(ForkingPickler.dumps((plait.shared_array(1), handle)))
    array = pickle.loads(pickled)[0]  # somebody keeps that one too
    for child, (ours, _) in zip(children, pipes, strict=True):
        child.start()
        ours.send_bytes(pickled)
    assert [ours.recv() for ours, _ in pipes] == [45.0] * 3
    for child, pair in zip(children, pipes, strict=True):
        child.join()
        for end in pair:
            end.close()
    assert array.tolist() == [3]


def test_any_other_road_while_the_sender_has_a_handle() -> None:
    handle = numbers()
    code = "import sys, pickle; print(int(pickle.load(sys.stdin.buffer).get().sum()))"
    result = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(handle), capture_output=True, check=False, cwd=os.getcwd()
    )
    assert result.stdout == b"45\n", result.stderr.decode()


def test_gone_before_it_arrived() -> None:
    handle = numbers()
    number, pickled, source = inode(handle), pickle.dumps(handle), handle._segment.source()
    del handle
    wait_until_gone(number)
    with pytest.raises(plait.OwnerDied, match=f"process {os.getpid()}, which it came from, has ended or has let go"):
        pickle.loads(pickled)
    with plait.ProcessPool(1) as pool:
        assert "the shared memory is gone" in pool.submit(_tasks.open_raw, source).result()
