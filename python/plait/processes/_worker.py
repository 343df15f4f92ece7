"""What runs in a worker: from the fork to the first task, and from the last task to the exit.

The fork server calls `run` in the child. What lies between, claiming and running tasks, is `_core.Worker.run`.
"""

from __future__ import annotations

import atexit
import faulthandler
import itertools
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
import time

from plait.processes import _main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

__all__ = ["STACK_SIGNAL", "Prepared", "become_process", "resemble", "run"]

STACK_SIGNAL: Final[int] = signal.SIGRTMAX - 3
"""On this signal a worker writes the Python stack of its main thread into its stack memfd."""


class Prepared:
    """That a zygote has done `become_process` and `resemble` already.

    Args:
        shared: This process is a copy of it, one of several.
        error: What the main module has raised, which is told as if it was raised here.
    """

    __slots__ = ("error", "shared")

    def __init__(self, shared: bool, error: BaseException | None = None) -> None:
        self.shared = shared
        self.error = error


def run(
    seat: int,
    incarnation: int,
    server_pid: int,
    fds: tuple[int, ...],
    parent_pid: int,
    parent_pidfd: int,
    prepared: Prepared | None = None,
) -> NoReturn:
    """Be the worker on `seat`, in a process that the fork server `server_pid` has just forked; end with it.

    Signals are the server's affair: it has dropped all handlers before it forks, and ignores Ctrl-C, as the worker does.
    """
    from plait import _core

    if not _core.die_with_parent(server_pid):
        os._exit(1)
    _core.own_process_group()
    _core.become_subreaper()
    board, arguments, results, config, result_event, supervisor_event, stack = fds
    faulthandler.register(STACK_SIGNAL, file=stack, all_threads=False, chain=False)
    pid = os.getpid()
    code = 1
    profile = sys.modules.get("plait.observe._session")  # there, if the program is being profiled
    if profile is not None:
        profile.begin_worker(f"worker-{seat}", parent_pid)
    try:
        if prepared is None:
            become_process(f"worker-{seat}", seat, parent_pid, parent_pidfd)
        else:
            _become_another(f"worker-{seat}", seat, parent_pid, prepared.shared)
        worker = _core.worker_open(
            seat, incarnation, (board, arguments, results, config, result_event, supervisor_event, stack)
        )
        try:
            settings = _read_config(config)
            _set_up(settings, seat, prepared)
        except BaseException as error:
            worker.setup_failed(error)
        else:
            code = worker.run(settings["max_tasks"], settings["memory_limit"])
    except BaseException:
        _print_exception()
    if os.getpid() != pid:  # a task forked, and the child came back instead of leaving
        os._exit(code)
    _leave(code)


class _WorkerProcess(multiprocessing.process.BaseProcess):
    """What `multiprocessing.current_process()` is in a worker. Not daemonic: a worker may have children of its own."""

    def __init__(self, name: str, seat: int, parent_pid: int) -> None:
        before: Any = multiprocessing.process.current_process()
        self._identity = (seat + 1,)  # people number their workers by this
        self._config = before._config.copy()
        self._config.pop("daemon", None)
        self._parent_pid = parent_pid
        self._parent_name = "MainProcess"
        self._popen = None
        self._closed = False
        self._name = name


def become_process(name: str, seat: int, parent_pid: int, parent_pidfd: int) -> None:
    """Do what `BaseProcess._bootstrap` does before it runs the target."""
    process: Any = multiprocessing.process
    util: Any = multiprocessing.util
    exit_functions: Any = atexit
    exit_functions._clear()  # what the server, or the forked program, wanted to do at its own end
    atexit.register(util._exit_function)
    process._process_counter = itertools.count(1)
    process._children = set()
    util._close_stdin()
    before = process._current_process  # to be dropped only after the hooks have run
    process._current_process = _WorkerProcess(name, seat, parent_pid)
    process._parent_process = process._ParentProcess("MainProcess", parent_pid, parent_pidfd)
    util._finalizer_registry.clear()
    util._run_after_forkers()
    _leave_shared_memory_alone()
    del before


def _become_another(name: str, seat: int, parent_pid: int, shared: bool) -> None:
    """Be this worker, in a process that `become_process` has made a worker before, or in a copy of one."""
    process: Any = multiprocessing.process
    util: Any = multiprocessing.util
    process._process_counter = itertools.count(1)
    process._current_process = _WorkerProcess(name, seat, parent_pid)
    if not shared:
        return
    util._run_after_forkers()
    numpy: Any = sys.modules.get("numpy.random.mtrand")
    if numpy is not None:
        numpy._rand.seed()  # or all copies would draw the same numbers


def _leave_shared_memory_alone() -> None:
    """Keep shared memory that a task attaches to from being unlinked when this worker exits.

    The standard library registers it with a resource tracker even for attaching (python/cpython#82300). With the tracker of
    the program, which the fork server passes on where there is one, that is right; a tracker of the worker's own would
    unlink what the program still uses.
    """
    module: Any = multiprocessing.resource_tracker
    tracker = module._resource_tracker
    send = tracker._send

    def send_unless_ours(command: str, name: str, kind: str, *rest: Any) -> None:
        if tracker._fd is not None or kind != "shared_memory":
            send(command, name, kind, *rest)

    tracker._send = send_unless_ours


def _read_config(fd: int) -> dict[str, Any]:
    """Read the pool's config; by position, since its memfd is shared with the other workers."""
    config: dict[str, Any] = pickle.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    return config


def resemble(config: dict[str, Any]) -> None:
    """Make this process resemble the parent: its folder, environment and path, and its main module."""
    if config["cwd"] is not None:
        os.chdir(config["cwd"])
    _apply_environ(config["environ"])
    sys.path[:] = config["sys_path"]
    _main.prepare(config["main"])


def _set_up(config: dict[str, Any], seat: int, prepared: Prepared | None) -> None:
    """Make the worker resemble the parent, limit it, and run the initializer; print what fails, and raise it."""
    multiprocessing.process.current_process().name = f"{config['process_name']}-worker-{seat}"
    try:
        if prepared is None:
            resemble(config)
        elif prepared.error is not None:
            raise prepared.error
        if config["memory_limit"] is not None:
            _limit_memory(config["memory_limit"])
    except BaseException as error:
        if not config["prints_missing_guard"] and _main.is_missing_guard(error):
            raise
        sys.stderr.write(f"Process {multiprocessing.process.current_process().name}:\n")
        _print_exception()
        raise
    if config["initializer"] is None:
        return
    try:
        known = config["initializer"]
        initializer, arguments = _main.inherited[known] if isinstance(known, int) else pickle.loads(known)
        initializer(*arguments)
    except BaseException:
        import logging

        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        raise


def _limit_memory(limit: int) -> None:
    from plait import _core

    if "t" in sys.abiflags and (used := _core.private_memory()) >= limit:
        # The allocator has set it aside, so that tasks would get it in spite of the limit, and all else would fail.
        raise MemoryError(
            f"a worker has {used} bytes of private memory when it starts, more than the pool's limit of {limit}: a forked "
            "one has what the program has, and without the GIL that is a gigabyte at least, unless the program was started "
            "with MIMALLOC_ARENA_RESERVE=0 in its environment"
        )
    _core.limit_private_memory(limit)


def _apply_environ(environ: dict[str, str]) -> None:
    """Make the environment the parent's, touching only what differs."""
    zone = os.environ.get("TZ")
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if os.environ.get("TZ") != zone:
        time.tzset()


def _print_exception() -> None:
    """Print what is being handled; most workers end without needing the modules for that."""
    import traceback

    traceback.print_exc()


def _leave(code: int) -> NoReturn:
    """End as children of `multiprocessing` end: join threads, run what was registered here to run at exit, flush."""
    threads: Any = threading
    exit_functions: Any = atexit
    try:
        threads._shutdown()
        exit_functions._run_exitfuncs()
    except BaseException:
        _print_exception()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, ValueError, OSError):  # there is none, it is closed, or nobody reads it
                pass
        os._exit(code)
