"""Workers that die, hang or eat too much: the victim's task pays, nothing else does."""

from __future__ import annotations

import itertools
import os
import random
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import plait
from tests.processes import _tasks
from tests.processes._support import WATCHDOG, Killer, alive, check_calm, check_usable, gone, wait_until
from tests.processes._tasks import Gate, Tally

NEIGHBOURS = 20


def _start_neighbours(pool):
    return [pool.submit(_tasks.nap, 0.01, i) for i in range(NEIGHBOURS)]


def _check_neighbours(futures):
    assert [f.result(WATCHDOG) for f in futures] == list(range(NEIGHBOURS))


def _check_worker_died(error, *, signum=None, exitcode=None, pid=None) -> plait.WorkerDied:
    assert isinstance(error, plait.WorkerDied), repr(error)
    assert isinstance(error, BrokenProcessPool), "what users of the standard library catch"
    assert error.tries == 1
    assert hasattr(error, "task")
    assert hasattr(error, "index")
    if pid is not None:
        assert error.pid == pid
    if signum is not None:
        assert error.signal == signum
    if exitcode is not None:
        assert error.exitcode == exitcode
        assert not error.signal
    assert str(error), "says what happened"
    return error


def _one_victim(victim, *, signum=None, exitcode=None):
    """`victim` kills its worker; before, beside and after it all is well."""
    with plait.ProcessPool(2) as pool:
        check_usable(pool)
        first = _start_neighbours(pool)
        failed = pool.submit(*victim)
        second = _start_neighbours(pool)
        error = _check_worker_died(failed.exception(WATCHDOG), signum=signum, exitcode=exitcode)
        assert error.pid is not None
        assert not alive(error.pid)
        _check_neighbours(first)
        _check_neighbours(second)
        check_usable(pool)
    check_calm()


def killed_from_outside(folder: Path) -> None:
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        victim = pool.submit(_tasks.hang, tally)
        [[_, pid]] = tally.wait()
        neighbours = _start_neighbours(pool)
        os.kill(int(pid), signal.SIGKILL)
        _check_worker_died(victim.exception(WATCHDOG), signum=signal.SIGKILL, pid=int(pid))
        _check_neighbours(neighbours)
        check_usable(pool)
    check_calm()


def killed_by_signal(folder: Path, signum: str) -> None:
    _one_victim((_tasks.die, int(signum)), signum=int(signum))


def exited(folder: Path, code: str) -> None:
    """`os._exit`, with 0 too: a worker that leaves in the middle of a task has died."""
    _one_victim((_tasks.exit_now, int(code)), exitcode=int(code))


def segfault(folder: Path) -> None:
    _one_victim((_tasks.segfault,), signum=signal.SIGSEGV)


def killed_while_idle(folder: Path) -> None:
    """No task was there, so none fails."""
    with plait.ProcessPool(2) as pool:
        for _ in range(10):
            pid = pool.submit(_tasks.pid).result(WATCHDOG)
            os.kill(pid, signal.SIGKILL)
            check_usable(pool)
    check_calm()


def all_killed_while_idle(folder: Path) -> None:
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        for generation in range(1, 6):
            gate = Gate(folder / f"gate{generation}")
            both = [pool.submit(_tasks.note_at_gate, tally, gate, generation) for _ in range(2)]
            pids = [int(row[-1]) for row in tally.wait(2 * generation)[-2:]]
            gate.open()
            assert [f.result(WATCHDOG) for f in both] == [generation] * 2
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: gone(pids), "the workers to die")
            check_usable(pool)
    check_calm()


def all_killed_while_busy(folder: Path) -> None:
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        victims = [pool.submit(_tasks.hang, tally) for _ in range(2)]
        queued = _start_neighbours(pool)
        pids = [int(row[-1]) for row in tally.wait(2)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        errors = [_check_worker_died(f.exception(WATCHDOG), signum=signal.SIGKILL) for f in victims]
        assert {e.pid for e in errors} == set(pids)
        _check_neighbours(queued)
        check_usable(pool)
    check_calm()


def many_in_a_row(folder: Path) -> None:
    """One worker after the other dies; every second task is innocent."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(1) as pool:
        good, bad = [], []
        for i in range(40):
            good.append(pool.submit(_tasks.note, tally, f"good{i}"))
            bad.append(pool.submit(_tasks.note_and_die, tally, f"bad{i}"))
        assert [f.result(WATCHDOG) for f in good] == [f"good{i}" for i in range(40)]
        errors = [_check_worker_died(f.exception(WATCHDOG), signum=signal.SIGKILL) for f in bad]
        assert set(tally.count().values()) == {1}
        assert len(tally.count()) == 80
        assert [error.pid for error in errors] == [int(pid) for word, pid in tally.rows() if word.startswith("bad")]
        check_usable(pool)
    check_calm()


def killed_at_random_among_large_results(folder: Path, kills: str) -> None:
    """Killed while results of all sizes are on their way: whole, or tried again; never a part, and the parent lives."""
    seed = int(os.environ.get("PLAIT_TEST_SEED") or random.randrange(1 << 32))
    print("PLAIT_TEST_SEED =", seed, flush=True)
    chance = random.Random(seed)
    with plait.ProcessPool(2, retries=1000) as pool, Killer(pool, int(kills), chance) as killer:
        while killer.busy:
            sizes = [chance.choice((10, 5_000, 500_000, 8_000_000)) for _ in range(20)]
            large = [pool.submit(_tasks.make_bytes, size) for size in sizes]
            echoed = [pool.submit(_tasks.echo, bytes([i]) * size) for i, size in enumerate(sizes[:5])]
            small = [pool.submit(_tasks.echo, i) for i in range(20)]
            for size, f in zip(sizes, large, strict=True):
                assert f.result(WATCHDOG) == bytes(size)
            for i, f in enumerate(echoed):
                assert f.result(WATCHDOG) == bytes([i]) * sizes[i]
            assert [f.result(WATCHDOG) for f in small] == list(range(20))
        check_usable(pool)
    check_calm()


def killed_at_random_without_retries(folder: Path) -> None:
    """Killed while a result of megabytes is on its way: a whole result, or a death."""
    seed = int(os.environ.get("PLAIT_TEST_SEED") or random.randrange(1 << 32))
    print("PLAIT_TEST_SEED =", seed, flush=True)
    chance = random.Random(seed)
    with plait.ProcessPool(2) as pool, Killer(pool, 30, chance) as killer:
        while killer.busy:
            for f in [pool.submit(_tasks.make_bytes, 8_000_000) for _ in range(4)]:
                error = f.exception(WATCHDOG)
                if error is None:
                    assert f.result() == bytes(8_000_000)
                else:
                    _check_worker_died(error, signum=signal.SIGKILL)
        check_usable(pool)
    check_calm()


def initializer_that_exits(folder: Path) -> None:
    """No worker ever comes up: tasks fail, and nobody forks for ever."""
    with plait.ProcessPool(2, initializer=_tasks.exit_while_initializing) as pool:
        futures = []
        try:
            futures += [pool.submit(_tasks.echo, i) for i in range(10)]
        except BrokenProcessPool:
            pass
        for f in futures:
            assert isinstance(f.exception(WATCHDOG), BrokenProcessPool)
    check_calm()


def map_with_a_death(folder: Path) -> None:
    """In `map` the error comes in the place of its item, and the pool stays."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        results = pool.map(_tasks.die_at, itertools.repeat(5, 12), itertools.repeat(tally), range(12), chunksize=1)
        assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
        try:
            next(results)
        except plait.WorkerDied as error:
            _check_worker_died(error, signum=signal.SIGKILL)
        else:
            raise AssertionError("item 5 killed its worker")
        check_usable(pool)
    check_calm()


def children_die_with(folder: Path, how: str) -> None:
    """What a task started dies with it: a plain child, and a daemon that left session, group and parent."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        options = pool.options(timeout=3.0) if how == "timeout" else pool
        victim = options.submit(_tasks.hang_with_children, tally)
        rows = tally.wait(3)
        worker = int(rows[0][-1])
        started = [int(row[1]) for row in rows[:2]]
        assert how == "timeout" or not gone([*started, worker])
        neighbours = _start_neighbours(pool)
        if how == "kill":
            assert victim.kill() is True
            assert isinstance(victim.exception(WATCHDOG), plait.TaskCancelled)
        elif how == "sigkill":
            os.kill(worker, signal.SIGKILL)
            _check_worker_died(victim.exception(WATCHDOG), signum=signal.SIGKILL, pid=worker)
        else:
            assert isinstance(victim.exception(WATCHDOG), plait.TaskTimeout)
        wait_until(lambda: gone([*started, worker]), "the worker and what it started to die", timeout=15)
        _check_neighbours(neighbours)
        check_usable(pool)
    check_calm()


def hang_with_timeout(folder: Path, where: str) -> None:
    """A task that never ends, in Python or in one C call that holds the GIL, ends at its time."""
    tally = Tally(folder / "tally")
    function = {"python": _tasks.hang, "c": _tasks.hang_in_c}[where]
    with plait.ProcessPool(2) as pool:
        victim = pool.options(timeout=0.5).submit(function, tally)
        neighbours = _start_neighbours(pool)
        error = victim.exception(WATCHDOG)
        assert isinstance(error, plait.TaskTimeout)
        assert isinstance(error, TimeoutError)
        wait_until(lambda: gone(tally.pids()), "the worker to die", timeout=15)
        _check_neighbours(neighbours)
        check_usable(pool)
    check_calm()


def hang_killed(folder: Path, where: str) -> None:
    tally = Tally(folder / "tally")
    function = {"python": _tasks.hang, "c": _tasks.hang_in_c}[where]
    with plait.ProcessPool(2) as pool:
        victim = pool.submit(function, tally)
        tally.wait()
        neighbours = _start_neighbours(pool)
        assert victim.cancel() is False, "the standard library's promise: what runs is not cancelled"
        assert victim.kill() is True
        assert isinstance(victim.exception(WATCHDOG), plait.TaskCancelled)
        assert not victim.cancelled()
        wait_until(lambda: gone(tally.pids()), "the worker to die", timeout=15)
        _check_neighbours(neighbours)
        check_usable(pool)
    check_calm()


MEGABYTE = 1 << 20


def memory_hog(folder: Path, how: str) -> None:
    limit = 300 * MEGABYTE
    function = {"at_once": _tasks.take_memory, "slowly": _tasks.take_memory_slowly}[how]
    with plait.ProcessPool(2, limits=plait.Limits(memory=limit)) as pool:
        check_usable(pool)
        victim = pool.submit(function, 1024 * MEGABYTE)
        neighbours = _start_neighbours(pool)
        error = victim.exception(WATCHDOG)
        assert isinstance(error, plait.LimitExceeded), repr(error)
        assert isinstance(error, RuntimeError)
        assert error.limit in ("memory", limit), error.limit
        assert isinstance(error.value, int)
        assert error.value > 0
        assert str(error)
        _check_neighbours(neighbours)
        assert pool.submit(_tasks.take_memory, 50 * MEGABYTE).result(WATCHDOG) == 50 * MEGABYTE
        check_usable(pool)
    check_calm()


def memory_within_the_limit(folder: Path) -> None:
    """Shared mappings do not count, neither do the pool's own; what a task gave back does not stay on the bill."""
    with plait.ProcessPool(1, limits=plait.Limits(memory=300 * MEGABYTE)) as pool:
        assert pool.submit(_tasks.map_shared, 1024 * MEGABYTE).result(WATCHDOG) == 1024 * MEGABYTE
        for _ in range(20):
            assert pool.submit(_tasks.take_memory, 100 * MEGABYTE).result(WATCHDOG) == 100 * MEGABYTE
        assert pool.submit(_tasks.size_of, bytes(60 * MEGABYTE)).result(WATCHDOG) == 60 * MEGABYTE
        assert len(pool.submit(_tasks.make_bytes, 60 * MEGABYTE).result(WATCHDOG)) == 60 * MEGABYTE
        assert len(pool._processes) == 1
        check_usable(pool)
    check_calm()


def fork_server_killed(folder: Path) -> None:
    """Even the parent of all workers may die: nothing hangs, and this program still has process pools."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        check_usable(pool)
        server = pool.submit(_tasks.parent_pid).result(WATCHDOG)
        assert server != os.getpid(), "workers come from a fork server"
        running = pool.submit(_tasks.hang, tally)
        tally.wait()
        queued = _start_neighbours(pool)
        os.kill(server, signal.SIGKILL)
        assert isinstance(running.exception(WATCHDOG), BrokenProcessPool)
        for f in queued:
            error = f.exception(WATCHDOG)
            assert error is None or isinstance(error, BrokenProcessPool)
        wait_until(lambda: gone(tally.pids()), "the workers to die with their server", timeout=15)
    with plait.ProcessPool(2) as pool:
        check_usable(pool)
    check_calm()
