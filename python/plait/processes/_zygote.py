"""A zygote: a child of the fork server that prepares the program's main module once, for workers to be forked from.

It is what a worker is up to its first task, so the main module sees what it would see in one. Then it looks at itself: what
was imported may be shared only if a copy of it is as good as an import of one's own. If so it says `R` and becomes a fork
server for the pools that have this main module. If not it says `U`, and becomes the first worker itself: nothing was done in
vain, and the others import for themselves. The server's side is in `_mains.py`.
"""

from __future__ import annotations

import functools
import gc
import os
import pickle
import signal
import socket
import sys
import threading

from plait.processes import _findings, _server, _system, _worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final, NoReturn

__all__ = ["run"]

LINGER: Final = 5.0
"""Seconds that a zygote without pools stays for the next one: to import anew can take longer than a pool's work."""

_SELDOM: Final = 20_000
"""Allocations between two looks for garbage during an import, which leaves little."""


def run(
    spec: int, modules: str, control: socket.socket, server_pid: int, parent_pid: int, parent_pidfd: int
) -> NoReturn:
    """Be a zygote, in a process that the fork server `server_pid` has just forked; end with it.

    Args:
        spec: Descriptor of what is to be prepared: a pickled dict, part of a pool's config.
        modules: What is to be imported besides, separated by commas.
        control: The connection to the server.
        server_pid: The fork server.
        parent_pid: The program.
        parent_pidfd: The program's pidfd.
    """
    from plait import _core

    if not _core.die_with_parent(server_pid):
        os._exit(1)
    _core.own_process_group()
    _core.become_subreaper()
    settings: dict[str, Any] = pickle.loads(os.pread(spec, os.fstat(spec).st_size, 0))
    os.close(spec)
    _worker.become_process("worker", 0, parent_pid, parent_pidfd)
    before = _Traces()
    error = _prepare(settings, modules)
    fit = error is None and before.shareable()
    _flush()
    if not fit:
        control.send(b"U")
        _be_worker(control, server_pid, parent_pid, parent_pidfd, error)
    _findings.begin()
    gc.collect()
    gc.freeze()
    _core.trim_memory()
    control.send(b"R")
    run_worker = functools.partial(_worker.run, prepared=_worker.Prepared(shared=True))
    _server.serve(control, parent_pidfd, parent_pid=parent_pid, run_worker=run_worker, linger=LINGER)


def _prepare(settings: dict[str, Any], modules: str) -> BaseException | None:
    """Become like the program, then import `modules`; return what the main module has raised."""
    thresholds = gc.get_threshold()
    seldom = (_SELDOM, *thresholds[1:])
    gc.set_threshold(*seldom)
    try:
        _worker.resemble(settings)
        for name in filter(None, modules.split(",")):
            try:
                __import__(name)
            except BaseException:  # the task that needs it tells of it
                continue
    except BaseException as error:  # a worker tells of it
        return error
    finally:
        if gc.get_threshold() == seldom:
            gc.set_threshold(*thresholds)
    return None


def _be_worker(
    control: socket.socket, server_pid: int, parent_pid: int, parent_pidfd: int, error: BaseException | None
) -> NoReturn:
    """Wait for a seat, and be the worker on it. The server that ends, or has no use for it, ends it as well."""
    while True:
        received = _system.receive(control)
        if received is None:  # it blocks, so this cannot be
            continue
        message, descriptors, _ = received
        if message[:1] == b"S":
            break
        if message == b"T" and _system.resource_tracker() is None:
            _system.use_resource_tracker(descriptors.pop())
        _system.close(descriptors)
        if not message:
            os._exit(0)
    control.close()
    _, seat, incarnation = _server.SPAWN.unpack(message)
    prepared = _worker.Prepared(shared=False, error=error)
    _worker.run(seat, incarnation, server_pid, tuple(descriptors), parent_pid, parent_pidfd, prepared=prepared)


class _Traces:
    """What there was before the import that forked workers must not have in common, or could not have at all."""

    def __init__(self) -> None:
        self.files = _files()
        self.signals = _signals()
        self.random = _random_state()

    def shareable(self) -> bool:
        """Whether copies of this process are as good as processes that have imported the same.

        Not with other threads, which a fork stops; with children, files, shared memory, signal handlers and timers, which
        would be everybody's; with generators of random numbers, whose copies would all draw the same; or with pools of threads,
        whose copies refuse tasks.
        """
        return (
            _alone()
            and _files() == self.files
            and _signals() == self.signals
            and not _shares_memory()
            and not _has_finalizers()
            and _random_state() == self.random
            and _numpy_is_fresh()
            and not any(_of_one_process())
        )


def _alone() -> bool:
    """Whether this process has one thread and no children.

    Libraries with threads of their own that can be forked end them before a fork, and start them when they need them: NumPy's
    BLAS does. So one fork is tried if there are threads that Python does not know.
    """
    if threading.active_count() > 1 or _system.children_of_self():
        return False
    if len(os.listdir("/proc/self/task")) > 1:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task")) == 1


def _files() -> dict[str, str]:
    """Return what the descriptors are."""
    found: dict[str, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


def _signals() -> list[object]:
    """Return how signals are handled, which are blocked, and the timers that will send some."""
    handled: list[object] = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    timers = [signal.getitimer(which) for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]
    return [*handled, signal.pthread_sigmask(signal.SIG_BLOCK, ()), timers]


def _shares_memory() -> bool:
    """Whether memory is mapped that a child would write to as well."""
    with open("/proc/self/maps", "rb", buffering=0) as file:
        return any(line.split(b" ", 2)[1] == b"rw-s" for line in file.readall().splitlines())


def _has_finalizers() -> bool:
    """Whether something of `multiprocessing` is to be ended by the process that made it."""
    util: Any = sys.modules["multiprocessing.util"]
    return bool(util._finalizer_registry)


def _random_state() -> object:
    """Return the state of the generator behind `random`, which forks seed anew: they must not if it was seeded on purpose."""
    module = sys.modules.get("random")
    return None if module is None else module.getstate()


def _numpy_is_fresh() -> bool:
    """Whether the generator behind `numpy.random` is as it was made, so that workers may seed it anew."""
    module: Any = sys.modules.get("numpy.random.mtrand")
    if module is None:
        return True
    try:
        bits: Any = module._rand._bit_generator
        return pickle.dumps(type(bits)(bits.seed_seq).state) == pickle.dumps(bits.state)
    except Exception:  # seeded in another way
        return False


def _of_one_process() -> Iterator[object]:
    """Yield generators of random numbers, and pools of threads, that somebody has made for himself."""
    from plait import _core

    kinds: list[type] = [_core.ThreadPoolCore]
    known: list[object] = []
    module: Any = sys.modules.get("random")
    if module is not None:
        kinds.append(module.Random)
        known.append(module._inst)
    numpy: Any = sys.modules.get("numpy.random.mtrand")
    if numpy is not None:
        kinds.append(numpy.RandomState)
        known.append(numpy._rand)
        generator: Any = sys.modules.get("numpy.random._generator")
        if generator is not None:
            kinds.append(generator.Generator)
    wanted = tuple(kinds)
    things: list[object] = gc.get_objects()
    for thing in things:
        kind = type(thing)
        if issubclass(kind, wanted) and kind.__name__ != "SystemRandom" and not any(thing is one for one in known):
            yield thing


def _flush() -> None:
    """Write out what workers would otherwise write once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):  # there is none, it is closed, or nobody reads it
            pass
