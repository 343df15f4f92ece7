"""Forks of the parent, pools in workers, pools and threads."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import plait
from tests.processes import _tasks
from tests.processes._support import WATCHDOG, alive, check_calm, check_usable, descendants, gone, wait_until
from tests.processes._tasks import Gate, Tally

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def _reap(pid):
    """The exit code of a child that this process forked."""

    def ended():
        found, status = os.waitpid(pid, os.WNOHANG)
        return (status,) if found else None

    return os.waitstatus_to_exitcode(wait_until(ended, "the forked child to end")[0])


def _refused(action):
    try:
        value = action()
    except Exception as error:
        return error
    raise AssertionError(f"a forked copy of a pool answered {value!r}")


def _drop(pool, futures, tally):
    del pool, futures
    gc.collect()


def _use(pool, futures, tally):
    """What cannot work says so and does not hang; nothing of it reaches the parent's workers."""
    print("submit:", repr(_refused(lambda: pool.submit(_tasks.note, tally, "from the child"))))
    print("map:", repr(_refused(lambda: list(pool.map(_tasks.echo, [1, 2], timeout=5)))))
    print("result:", repr(_refused(lambda: futures[0].result(5))))
    for future in futures:
        try:
            future.cancel()
        except Exception as error:
            print("cancel:", repr(error))
        try:
            future.kill()
        except Exception as error:
            print("kill:", repr(error))
    repr(pool), repr(futures)


def _shut_down(pool, futures, tally):
    for action in (pool.shutdown, pool.terminate_workers, pool.kill_workers):
        try:
            action()
        except Exception as error:
            print(action, repr(error))


def _new_pool(pool, futures, tally):
    """A pool that the child makes itself works."""
    with plait.ProcessPool(2) as own:
        check_usable(own)


CHILDREN = {"drop": _drop, "use": _use, "shut_down": _shut_down, "new_pool": _new_pool}


def forked_copy_is_inert(folder: Path, what: str) -> None:
    """Whatever a forked child does to its copies: the parent's workers and tasks do not notice."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool, Gate(folder / "gate") as gate:
        check_usable(pool)
        futures = [pool.submit(_tasks.note_at_gate, tally, gate, i) for i in range(2)]
        futures += [pool.submit(_tasks.note, tally, i) for i in range(2, 30)]
        tally.wait(2)
        workers = set(pool._processes)
        child = os.fork()
        if child == 0:
            if what == "exit":
                sys.exit(0)  # through `__exit__` of the pool, atexit and finalization
            code = 1
            try:
                CHILDREN[what](pool, futures, tally)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        assert _reap(child) == 0
        assert not any(f.done() for f in futures)
        gate.open()
        assert [f.result(WATCHDOG) for f in futures] == list(range(30))
        assert set(pool._processes) == workers
        assert all(alive(pid) for pid in workers)
        check_usable(pool)
        assert sorted(map(int, tally.order())) == list(range(30)), "each task ran once, and no other"
    check_calm()


def _in_child_process(queue, pool):
    try:
        with plait.ProcessPool(1) as own:
            queue.put(own.submit(_tasks.add, 1, 2).result(WATCHDOG))
    except BaseException as error:
        queue.put(repr(error))


def multiprocessing_child(folder: Path) -> None:
    """`multiprocessing.Process` by fork, with pools before, inside and after."""
    context = multiprocessing.get_context("fork")
    with plait.ProcessPool(2) as pool:
        check_usable(pool)
        for _ in range(3):
            queue = context.SimpleQueue()
            child = context.Process(target=_in_child_process, args=(queue, pool))
            child.start()
            assert queue.get() == 3
            child.join(WATCHDOG)
            assert child.exitcode == 0
            check_usable(pool)
    check_calm()


def fork_many_times(folder: Path) -> None:
    """Forks in the middle of a busy exchange by several threads."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def chatter():
        try:
            while not stop.is_set():
                assert pool.submit(_tasks.add, 1, 2).result(WATCHDOG) == 3
        except BaseException as error:
            errors.append(error)

    with plait.ProcessPool(2) as pool:
        threads = [threading.Thread(target=chatter) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(30):
            child = os.fork()
            if child == 0:
                gc.collect()
                os._exit(0)
            assert _reap(child) == 0
        stop.set()
        for thread in threads:
            thread.join(WATCHDOG)
        assert not errors, errors
        check_usable(pool)
    check_calm()


def lock_held_by_a_thread(folder: Path) -> None:
    """Workers start while a thread of the parent holds a lock: theirs is free."""
    held, release = threading.Event(), threading.Event()

    def hold():
        with _tasks.LOCK:
            held.set()
            release.wait(WATCHDOG)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(WATCHDOG)
    try:
        with plait.ProcessPool(2) as pool:
            assert all(f.result(WATCHDOG) for f in [pool.submit(_tasks.take_lock) for _ in range(10)])
            _check_replacement_has_free_lock(pool)
    finally:
        release.set()
        thread.join(WATCHDOG)
    check_calm()


def _check_replacement_has_free_lock(pool):
    """The replacements of dead workers are as clean as the first ones."""
    for _ in range(2):
        assert isinstance(pool.submit(_tasks.die).exception(WATCHDOG), plait.WorkerDied)
        assert pool.submit(_tasks.take_lock).result(WATCHDOG)


def fork_context_warns(folder: Path) -> None:
    """Who asks for it gets copies of a process with threads, and a warning."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with plait.ProcessPool(2, mp_context="fork") as pool:
                check_usable(pool)
        assert caught, "a warning"
        print([str(w.message) for w in caught])
    finally:
        release.set()
        thread.join()
    _check_no_children()


def fork_context_inherits(folder: Path) -> None:
    """With `mp_context="fork"` workers have what the parent had in memory."""
    _tasks.STATE["inherited"] = "yes"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for context in ("fork", multiprocessing.get_context("fork")):
            with plait.ProcessPool(2, mp_context=context) as pool:
                assert pool.submit(_tasks.state, "inherited").result(WATCHDOG) == "yes"
                assert isinstance(pool.submit(_tasks.die).exception(WATCHDOG), plait.WorkerDied)
                assert pool.submit(_tasks.state, "inherited").result(WATCHDOG) == "yes"
                check_usable(pool)
    _check_no_children()


def _check_no_children():
    """A copy that served one pool ends with it."""
    wait_until(lambda: not descendants(os.getpid()), "the copies of this process to end", timeout=15)


def clean_without_fork_context(folder: Path) -> None:
    """By default workers have nothing of the parent's memory."""
    _tasks.STATE["inherited"] = "yes"
    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.state, "inherited").result(WATCHDOG) is None
        assert pool.submit(_tasks.threads).result(WATCHDOG) == (1, True)
    check_calm()


def pools_in_workers(folder: Path) -> None:
    """A task may have a pool of its own, whose tasks may have pools."""
    with plait.ProcessPool(2) as pool:
        futures = [pool.submit(_tasks.nested_sum, 1, [i, 1]) for i in range(6)]
        assert [f.result(WATCHDOG) for f in futures] == [i + 1 for i in range(6)]
        assert pool.submit(_tasks.nested_sum, 3, [1, 2, 3]).result(WATCHDOG) == 6
        assert pool.submit(_tasks.nested_stdlib, [-1, -2]).result(WATCHDOG) == [1, 2]
        check_usable(pool)
    check_calm()


def killed_with_pool_inside(folder: Path, how: str) -> None:
    """The pool in a worker dies with that worker."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        outer = pool.submit(_tasks.nested_hang, tally)
        [[_, inner_pid]] = tally.wait()
        if how == "kill":
            assert outer.kill() is True
        else:
            [victim] = [pid for pid in pool._processes if _is_above(pid, int(inner_pid))]
            os.kill(victim, 9)
        assert outer.exception(WATCHDOG) is not None
        wait_until(lambda: gone([int(inner_pid)]), "the inner worker to die", timeout=15)
        check_usable(pool)
    check_calm()


def _is_above(ancestor, pid):
    while pid > 1:
        if pid == ancestor:
            return True
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return False


def pool_made_in_a_thread(folder: Path) -> None:
    """Workers are tied to the process that made the pool, not to the thread that did."""
    made = []

    def make():
        pool = plait.ProcessPool(2)
        made.append((pool, pool.submit(_tasks.pid).result(WATCHDOG)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(WATCHDOG)
    [(pool, pid)] = made
    time.sleep(1.5)
    assert alive(pid)
    with pool:
        assert pid in pool._processes
        check_usable(pool)
    check_calm()


def many_pools(folder: Path, count: str) -> None:
    """No descriptor, thread, mapping or process is left of a pool, however it ended."""

    def one(i):
        pool = plait.ProcessPool(1 + i % 2)
        assert pool.submit(_tasks.add, i, 1).result(WATCHDOG) == i + 1
        if i % 5 == 1:
            pool.submit(_tasks.size_of, bytes(300_000)).result(WATCHDOG)
        if i % 7 == 2:
            assert isinstance(pool.submit(_tasks.die).exception(WATCHDOG), plait.WorkerDied)
        if i % 4 == 0:
            with pool:
                pass
        elif i % 4 == 1:
            pool.shutdown(wait=False)
        elif i % 4 == 2:
            pool.kill_workers()
        # else: just forgotten

    def resources():
        gc.collect()
        descriptors = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd))
        threads = sorted(Path(f"/proc/self/task/{t}/comm").read_text().strip() for t in os.listdir("/proc/self/task"))
        mapped = sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())
        return descriptors, threads, mapped

    for i in range(20):
        one(i)
    check_calm()
    descriptors, threads, mapped = resources()
    for i in range(int(count)):
        one(i)
    check_calm()

    def no_more_than_before():
        now = resources()
        return len(now[0]) <= len(descriptors) and len(now[1]) <= len(threads) and now[2] <= mapped

    try:
        wait_until(no_more_than_before, timeout=15)
    except AssertionError:
        raise AssertionError(f"before: {descriptors, threads, mapped}\nafter: {resources()}") from None


def _is_link(fd):
    return os.path.islink(f"/proc/self/fd/{fd}")


def exit_with_pending_work(folder: Path, how: str) -> None:
    """The end of the program completes what was submitted, without shutdown."""
    tally = Tally(folder / "tally")
    pool = plait.ProcessPool(2)
    futures = [pool.submit(_tasks.note, tally, i, 0.02) for i in range(50)]
    if how == "kept":
        _tasks.STATE["keep"] = (pool, futures)
    elif how == "forgotten":
        del futures
    elif how == "shutdown_nowait":
        pool.shutdown(wait=False)
        del pool, futures


def exit_by_os_exit(folder: Path) -> None:
    """Leaves without a word, in the middle of work."""
    tally = Tally(folder / "tally")
    pool = plait.ProcessPool(2)
    for _ in range(4):
        pool.submit(_tasks.hang, tally)
    tally.wait(2)
    print("passed", flush=True)
    os._exit(0)


def default_workers(folder: Path, cpus: str) -> None:
    """As many workers as CPUs that this process may use."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: int(cpus)]))
    with plait.ProcessPool() as pool:
        assert pool._max_workers == int(cpus), pool._max_workers
        check_usable(pool)
    check_calm()
