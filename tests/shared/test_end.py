"""Shared memory is gone with its last user, however that ended, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plait
from tests.shared import _tasks
from tests.shared._support import files, holders, inode, wait_until, wait_until_gone

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_it_has_no_name() -> None:
    before = set(os.listdir("/dev/shm"))
    array, handle = plait.shared_array(1000), plait.share(np.arange(1000))
    with plait.ProcessPool(1) as pool:
        pool.submit(_tasks.identity, (array, handle)).result()
        assert set(os.listdir("/dev/shm")) <= before


def test_the_last_view_holds_it() -> None:
    array = plait.shared_array((100, 100))
    number = inode(array)
    view = memoryview(array[3].data)
    del array
    gc.collect()
    assert holders(number) == {os.getpid()}
    del view
    wait_until_gone(number)


def test_a_worker_lets_go_when_the_task_is_done() -> None:
    handle, array = plait.share(np.arange(10)), plait.shared_array(10, int)
    with plait.ProcessPool(2) as pool:
        for _ in range(5):
            pool.submit(_tasks.total, handle).result()
            pool.submit(_tasks.add_one, array).result()
        pool.submit(int).result()
        wait_until(lambda: holders(inode(handle)) == {os.getpid()}, "the worker to let go of the handle")
        wait_until(lambda: holders(inode(array)) == {os.getpid()}, "the worker to let go of the array")


def test_a_worker_may_keep_it_for_itself() -> None:
    handle = plait.share(np.arange(10))
    number = inode(handle)
    with plait.ProcessPool(1) as pool:
        pool.submit(_tasks.remember, handle).result()
        del handle
        assert pool.submit(_tasks.remembered_total).result() == 45
        wait_until(lambda: len(holders(number)) == 1 and os.getpid() not in holders(number), "us to let go")
    wait_until_gone(number)


def test_a_worker_that_is_killed_lets_go() -> None:
    handle = plait.share(np.arange(10))
    number = inode(handle)
    held = plait.shared_array(1, bool)
    with plait.ProcessPool(1) as pool:
        future = pool.submit(_tasks.hold_and_wait, handle, held)
        wait_until(lambda: held[0], "the worker to hold it")
        assert len(holders(number)) == 2
        assert future.kill()
        wait_until(lambda: holders(number) == {os.getpid()}, "the dead worker's memory to be let go of")
        assert pool.submit(_tasks.total, handle).result() == 45
    del handle, future
    wait_until_gone(number)


def test_an_owner_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    source = """
import os, plait, signal, sys
from tests.shared import _tasks
from tests.shared._support import inode
array, handle = plait.shared_array(1000), plait.share(b"x" * 100000)
pool = plait.ProcessPool(2)
pool.submit(_tasks.identity, (array, handle)).result()
print(inode(array), inode(handle), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    for number in map(int, result.stdout.split()):
        wait_until_gone(number)


def test_a_killed_owner_is_named_to_who_comes_late() -> None:
    source = """
import os, plait, signal
handle = plait.share(b"")
print(*handle._segment.source(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    place = tuple(map(int, result.stdout.split()))
    assert f"process {place[0]}" in _tasks.open_raw(place)


def test_who_has_it_keeps_it_when_the_owner_is_killed() -> None:
    context = _tasks.context("spawn")
    queue, gone = context.Queue(), context.Event()
    child = context.Process(target=_tasks.put_and_wait, args=(queue, gone))
    child.start()
    array = queue.get()
    child.kill()
    child.join()
    array += 1
    assert array.tolist() == [8] * 4
    with plait.ProcessPool(1) as pool:
        pool.submit(_tasks.add_one, array).result()
    assert array.tolist() == [9] * 4
    queue.close()


def test_a_number_that_is_used_again_is_not_taken_for_it() -> None:
    handle = plait.share(b"one")
    pid, fd, device, number = handle._segment.source()
    del handle
    wait_until_gone(number)
    others: list[Any] = [plait.share(b"two"), *map(socket.socket, [socket.AF_UNIX] * 3)]
    ends = os.pipe()
    with open(os.devnull, "rb"):
        for other in (fd, *range(3, 64)):
            assert _tasks.open_raw((pid, other, device, number)) != "opened"
    for end in ends:
        os.close(end)
    for each in others[1:]:
        each.close()


def test_a_thousand_times_nothing_is_left() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        plait.share([np.arange(3)]).get()
        array = plait.shared_array(3)
        array += 1
    del array
    assert len(os.listdir("/proc/self/fd")) == before
    assert not files()
    with plait.ProcessPool(1) as pool:
        for _ in range(300):
            pool.submit(_tasks.total, plait.share(np.arange(10))).result()
            pool.submit(_tasks.make_array, 3).result()
        theirs = pool.submit(_open_files).result()
        for _ in range(100):
            pool.submit(_tasks.total, plait.share(np.arange(10))).result()
            pool.submit(_tasks.make_array, 3).result()
        assert pool.submit(_open_files).result() <= theirs
    assert not files()


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_was_sent_and_read_is_let_go_without_another_word() -> None:
    ours, theirs = _tasks.context("fork").Pipe()
    child = _tasks.context("fork").Process(target=_tasks.answer_pipe, args=(theirs,))
    child.start()
    with ours, theirs:
        array = plait.shared_array(1)
        number = inode(array)
        ours.send((array, plait.share(np.arange(10))))
        del array
        assert ours.recv() == 45
        child.join()
        wait_until_gone(number)
    assert not files()


def test_what_a_process_never_looked_at_is_let_go_with_it() -> None:
    context = _tasks.context("spawn")
    array = plait.shared_array(1)
    number = inode(array)
    child = context.Process(target=_tasks.identity, args=(array,))
    child.start()
    child.kill()  # before it can have read what it was given
    del array
    child.join()
    child.close()
    del child
    wait_until_gone(number)


def test_kills_at_any_moment_lose_nothing_else() -> None:
    chance = random.Random(7)
    with plait.ProcessPool(2) as pool:
        for _ in range(4):
            handle = plait.share(numbers := np.arange(10))
            futures = [
                pool.options(timeout=chance.choice([None, 0.001]), retries=chance.randrange(2)).submit(
                    _tasks.hold_and_die if chance.randrange(4) == 0 else _tasks.make_from, handle
                )
                for _ in range(30)
            ]
            for future in chance.sample(futures, 5):
                future.kill()
            del handle
            for future in futures[:20]:
                if future.exception() is None:
                    array, total = future.result()
                    assert (array.tolist(), total.get()) == (numbers.tolist(), 45)
                else:
                    assert isinstance(future.exception(), plait.WorkerDied | plait.TaskCancelled | plait.TaskTimeout)
            del future, futures
            array = total = None
    gc.collect()
    wait_until(lambda: not files(), "memory to be let go of")


def test_a_pool_that_is_shut_down_keeps_nothing() -> None:
    handle = plait.share(np.arange(10))
    number = inode(handle)
    pool = plait.ProcessPool(1)
    futures = [pool.submit(_tasks.total, handle) for _ in range(100)]
    results = pool.map(_tasks.total, [handle] * 1000)
    pool.shutdown(cancel_futures=True)
    del handle, results
    futures.clear()
    wait_until_gone(number)


def test_want_of_descriptors_is_told() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept: list[Any] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            kept.extend(plait.share(b"") for _ in range(100))
    finally:
        kept.clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert plait.share(1).get() == 1
