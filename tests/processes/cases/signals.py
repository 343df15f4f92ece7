"""Ctrl-C and other signals while the main thread waits for the pool."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import plait
from tests.processes import _tasks
from tests.processes._support import SLACK, WATCHDOG, alive, check_calm, check_usable, gone, wait_until
from tests.processes._tasks import Gate, Tally


class Stop(Exception):
    """What a signal handler raises."""


def _raise_stop(signum, frame):
    raise Stop(signum)


def _interrupted(wait, error, signum, when=lambda: True, pause=0.1):
    """Call `wait`; send this process a signal once `when()`; expect `error`, once and at once."""
    sent = []

    def send():
        wait_until(when, "the moment to interrupt")
        time.sleep(pause)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signum)

    sender = threading.Thread(target=send)
    try:
        sender.start()
        wait()
    except error:
        delay = time.monotonic() - sent[0]
    else:
        raise AssertionError(f"{wait} returned instead of raising {error}")
    sender.join()
    assert delay < SLACK, f"{error} came after {delay} s"
    time.sleep(0.1)  # a second one would come here


def _waits(pool, hanging, tally):
    """Every way to wait for the pool."""
    return {
        "result": lambda: hanging[0].result(),
        "result_timeout": lambda: hanging[0].result(_tasks.LIMIT),
        "exception": lambda: hanging[0].exception(),
        "map": lambda: list(pool.map(_tasks.hang, [tally, tally, tally], chunksize=1)),
        "map_chunks": lambda: list(pool.map(_tasks.hang, [tally] * 100, chunksize=10)),
        "map_timeout": lambda: list(pool.map(_tasks.hang, [tally, tally], chunksize=1, timeout=_tasks.LIMIT)),
        "map_unordered": lambda: list(pool.map(_tasks.hang, [tally, tally], chunksize=1, ordered=False)),
        "map_lazy": lambda: list(pool.map(_tasks.hang, (tally for _ in range(1000)), chunksize=1)),
        "shutdown": lambda: pool.shutdown(),
        "as_completed": lambda: list(concurrent.futures.as_completed(hanging)),
        "wait": lambda: concurrent.futures.wait(hanging),
    }


def ctrl_c_kept_pool(folder: Path, where: str) -> None:
    """After Ctrl-C nothing of the old work goes on, and the pool starts workers again at its next use."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        for generation in range(1, 4):
            before = len(tally.rows())
            hanging = [] if where.startswith("map") else [pool.submit(_tasks.hang, tally) for _ in range(4)]
            wait = _waits(pool, hanging, tally)[where]
            _interrupted(wait, KeyboardInterrupt, signal.SIGINT, lambda: len(tally.rows()) >= before + 2)
            wait_until(lambda: gone(tally.pids()), "the running tasks to end", timeout=15)
            wait_until(lambda: all(f.done() for f in hanging), "the queued tasks to end", timeout=15)
            for f in hanging:
                assert f.cancelled() or f.exception(0) is not None
            check_usable(pool)
            assert len(tally.rows()) == before + 2, "a queued task ran after Ctrl-C"
            print("generation", generation)
    check_calm()


def ctrl_c_in_with(folder: Path, where: str) -> None:
    """`with ProcessPool() as pool:` ends at once too, whatever the main thread waited for."""
    tally = Tally(folder / "tally")

    def program():
        with plait.ProcessPool(2) as pool:
            hanging = [] if where.startswith("map") else [pool.submit(_tasks.hang, tally) for _ in range(6)]
            if where != "exit":
                _waits(pool, hanging, tally)[where]()

    _interrupted(program, KeyboardInterrupt, signal.SIGINT, lambda: len(tally.rows()) >= 2)
    wait_until(lambda: gone(tally.pids()), "the running tasks to end", timeout=15)
    check_calm()
    assert len(tally.rows()) == 2, "a queued task ran after Ctrl-C"


def ctrl_c_in_shutdown(folder: Path) -> None:
    tally = Tally(folder / "tally")
    pool = plait.ProcessPool(2)
    hanging = [pool.submit(_tasks.hang, tally) for _ in range(4)]
    _interrupted(pool.shutdown, KeyboardInterrupt, signal.SIGINT, lambda: len(tally.rows()) >= 2)
    wait_until(lambda: gone(tally.pids()), "the running tasks to end", timeout=15)
    wait_until(lambda: all(f.done() for f in hanging), "the queued tasks to end", timeout=15)
    pool.shutdown()
    check_calm()


def ctrl_c_at_random(folder: Path) -> None:
    """At any moment of a busy exchange: one KeyboardInterrupt for one SIGINT, and a pool that goes on."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)

    def chatter():
        while True:
            assert pool.submit(_tasks.add, 1, 2).result() == 3
            assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]

    with plait.ProcessPool(2) as pool:
        for _ in range(30):
            _interrupted(chatter, KeyboardInterrupt, signal.SIGINT, pause=chance.uniform(0.001, 0.05))
            check_usable(pool)
    check_calm()


def ctrl_c_from_terminal(folder: Path, where: str) -> None:
    """The test sends SIGINT to the whole process group, as a terminal does. Ends with KeyboardInterrupt."""
    tally = Tally(folder / "tally")
    if where == "asyncio":

        async def main():
            async with plait.ProcessPool(2) as pool:
                print("ready", flush=True)
                await asyncio.gather(*(asyncio.wrap_future(pool.submit(_tasks.note, tally, i, 1.0)) for i in range(2)))
                await asyncio.sleep(_tasks.LIMIT)

        asyncio.run(main())
        return
    with plait.ProcessPool(2) as pool:
        print("ready", flush=True)
        hanging = [pool.submit(_tasks.hang, tally) for _ in range(4)]
        _waits(pool, hanging, tally)[where]()


def workers_ignore_sigint(folder: Path) -> None:
    """SIGINT that reaches a worker is nothing to it: the parent decides."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool, Gate(folder / "gate") as gate:
        both = [pool.submit(_tasks.note_at_gate, tally, gate, i) for i in range(2)]
        tally.wait(2)
        for pid in tally.pids():
            os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        assert all(alive(pid) for pid in tally.pids())
        gate.open()
        assert [f.result(WATCHDOG) for f in both] == [0, 1]
        check_usable(pool)
    check_calm()


def handler_that_raises(folder: Path, where: str) -> None:
    """Any signal handler may raise, during any wait; the task itself goes on."""
    tally = Tally(folder / "tally")
    signal.signal(signal.SIGUSR1, _raise_stop)
    with plait.ProcessPool(2) as pool, Gate(folder / "gate") as gate:
        at_gate = [pool.submit(_tasks.note_at_gate, tally, gate, i) for i in range(2)]
        waits = {
            "result": lambda: at_gate[0].result(),
            "result_timeout": lambda: at_gate[0].result(_tasks.LIMIT),
            "exception": lambda: at_gate[0].exception(),
            "map": lambda: list(pool.map(abs, [-1, -2])),
            "shutdown": lambda: pool.shutdown(),
            "as_completed": lambda: list(concurrent.futures.as_completed(at_gate)),
            "wait": lambda: concurrent.futures.wait(at_gate),
        }
        _interrupted(waits[where], Stop, signal.SIGUSR1, lambda: len(tally.rows()) == 2)
        assert not any(f.done() for f in at_gate)
        gate.open()
        assert [f.result(WATCHDOG) for f in at_gate] == [0, 1]
        if where != "shutdown":
            check_usable(pool)
    check_calm()


def handler_that_returns(folder: Path) -> None:
    """A handler runs while the main thread waits, not after; the wait goes on."""
    gate = Gate(folder / "gate")
    runs = []

    def open_gate(signum, frame):
        runs.append(signum)
        if len(runs) == 3:
            gate.open()

    signal.signal(signal.SIGALRM, open_gate)
    with plait.ProcessPool(1) as pool:
        for wait in (
            lambda: pool.submit(gate.wait, 1).result(),
            lambda: pool.submit(gate.wait, 1).result(_tasks.LIMIT),
            lambda: next(pool.map(gate.wait, [1])),
            lambda: next(pool.map(gate.wait, [1], timeout=_tasks.LIMIT)),
        ):
            Path(gate.path).unlink(missing_ok=True)
            runs.clear()
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            assert wait() == 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert len(runs) >= 3
    check_calm()


def another_thread_gets_the_signal(folder: Path) -> None:
    """The kernel gives a signal to any thread that lets it in; the handler is the main thread's, and runs at once."""
    tally = Tally(folder / "tally")
    signal.signal(signal.SIGUSR1, _raise_stop)
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        with plait.ProcessPool(2) as pool, Gate(folder / "gate") as gate:
            at_gate = [pool.submit(_tasks.note_at_gate, tally, gate, i) for i in range(2)]
            for wait in (at_gate[0].result, lambda: at_gate[1].result(_tasks.LIMIT), lambda: list(pool.map(abs, [1]))):
                _interrupted(wait, Stop, signal.SIGUSR1, lambda: len(tally.rows()) == 2)
            gate.open()
            assert [f.result(WATCHDOG) for f in at_gate] == [0, 1]
            check_usable(pool)
    finally:
        over.set()
        other.join()
    check_calm()


def wakeup_descriptor_is_kept(folder: Path) -> None:
    """A program that watches signals by a descriptor of its own hears of all that come during a wait."""
    got = []
    signal.signal(signal.SIGUSR1, lambda signum, frame: got.append(signum))
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write)
    with plait.ProcessPool(1) as pool, Gate(folder / "gate") as gate:
        future = pool.submit(gate.wait, 1)

        def send():
            for _ in range(5):
                time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: len(got) == 5)
            gate.open()

        sender = threading.Thread(target=send)
        sender.start()
        assert future.result(WATCHDOG) == 1
        sender.join()
    assert signal.set_wakeup_fd(-1) == write
    assert os.read(read, 100) == bytes([signal.SIGUSR1] * 5)
    os.close(read)
    os.close(write)
    check_calm()


def handler_that_waits_and_sets_a_descriptor(folder: Path) -> None:
    """What a handler does to the wakeup descriptor during a wait is not undone after it."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    gate = Gate(folder / "gate")
    with plait.ProcessPool(2) as pool:

        def handler(signum, frame):
            assert pool.submit(_tasks.add, 1, 2).result(WATCHDOG) == 3
            signal.set_wakeup_fd(write)
            gate.open()

        signal.signal(signal.SIGALRM, handler)
        future = pool.submit(gate.wait, 1)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert future.result(WATCHDOG) == 1
        assert signal.set_wakeup_fd(-1) == write
    os.close(read)
    os.close(write)
    check_calm()


def wait_without_descriptors(folder: Path) -> None:
    """A wait for which no descriptor is left waits all the same, and signals are seen."""
    got = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with plait.ProcessPool(1) as pool, Gate(folder / "gate") as gate:
        # In a thread of its own: the main thread has not waited yet.
        warm = threading.Thread(target=lambda: pool.submit(_tasks.echo, 1).result(WATCHDOG))
        warm.start()
        warm.join()
        future = pool.submit(gate.wait, 1)

        def open_gate(signum, frame):
            got.append(signum)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            gate.open()

        signal.signal(signal.SIGALRM, open_gate)
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert future.result(WATCHDOG) == 1
        assert got == [signal.SIGALRM]
    check_calm()


def storm_of_signals(folder: Path) -> None:
    """A signal every few milliseconds interrupts every system call there is; all results come all the same."""
    count = [0]

    def handler(signum, frame):
        count[0] += 1

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        for _ in range(5):
            with plait.ProcessPool(2) as pool:
                futures = [pool.submit(_tasks.nap, 0.001, i) for i in range(100)]
                assert [f.result(WATCHDOG) for f in futures] == list(range(100))
                assert list(pool.map(_tasks.echo, range(1000))) == list(range(1000))
                assert pool.submit(_tasks.size_of, bytes(5_000_000)).result(WATCHDOG) == 5_000_000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert count[0] > 10
    check_calm()


def dispositions_in_workers(folder: Path) -> None:
    """A task starts with the signals of a fresh program, but for SIGINT; none is blocked."""
    with plait.ProcessPool(1) as pool:
        blocked = pool.submit(_signal_mask).result(WATCHDOG)
        assert blocked == []
        assert pool.submit(_child_ends_at, signal.SIGTERM).result(WATCHDOG) == -signal.SIGTERM
    check_calm()


def _signal_mask():
    return sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, []))


def _child_ends_at(signum):
    program = "import time; print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
        child.send_signal(signum)
        return child.wait(20)
