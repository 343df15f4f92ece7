"""Starting fork servers, in the parent: one per program and distinct `preload`, or a copy of the program for one pool.

A server takes tens of milliseconds to start: `start_early` runs its interpreter and waits for nothing. `connect_pool` and
`fork_pool` return the pool's end of a connection that speaks the protocol of docs/design/process-pool.md, section 5. Who is
done with it should `shutdown` it before closing: a child that the program
has forked meanwhile may hold a copy.
"""

from __future__ import annotations

import itertools
import marshal
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from plait.processes import _ahead

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait.processes._server import RunWorker

__all__ = [
    "Main",
    "bring_back",
    "connect_pool",
    "fork_pool",
    "is_near",
    "is_running",
    "reap_ended",
    "set_aside",
    "start_early",
    "stop_servers",
]

START_TIMEOUT: Final = 30.0
"""Seconds that a server may take to start."""

PRELOAD_TIMEOUT: Final = 300.0
"""Seconds more that it may take if there is something to preload."""

_STOP_TIMEOUT: Final = 5.0
_MOST_MAINS: Final = 4
"""How many main modules a server keeps prepared: with their environments, of which most programs have one."""

_LAST_WORDS: Final = 4000

# The new interpreter first learns where to import from: its descriptor %d holds `[sys.path, arguments of main]`. What is
# imported stays, so looking for garbage among it would only take time.
_READ_CONFIG: Final = (
    "import sys, os, gc, marshal; gc.disable()\n"
    "c = marshal.loads(os.pread(%d, os.fstat(%d).st_size, 0)); os.close(%d); sys.path[:] = c[0]\n"
)
RUN_MAIN = "from plait.processes._server import main; main(*c[1])"
"""The rest of the program that a server runs."""


class Main(NamedTuple):
    """A main module, with what belongs to it."""

    spec: bytes
    """A pool's `cwd`, `environ`, `sys_path` and `main`, pickled as in its config: what workers of other pools must share."""
    modules: tuple[str, ...]
    """What is to be imported as well, if the first pool that has this main module says so."""


class _Server:
    """A running fork server and its control connection."""

    __slots__ = ("ahead", "control", "failure", "mains", "patience", "process", "ready", "said", "turn")

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, said: int, patience: float) -> None:
        self.process = process
        self.control = control
        self.said = said  # what it writes to standard error until it is ready; then -1
        self.patience = patience
        self.ready = False
        self.failure: str | None = None
        self.ahead = _ahead.count()  # so many modules it was told of
        self.turn = threading.Lock()  # one at a time waits for it
        self.mains: dict[bytes, int] = {}  # what it has been told to prepare, and under which number

    def is_near(self) -> bool:
        """Whether waiting for the server would take no time: it is ready, or has failed."""
        if self.ready:
            return True
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        return bool(poll.poll(0))

    def await_ready(self) -> None:
        """Wait until the server has started.

        Raises:
            RuntimeError: It ended or said nothing; the message has its last words.
        """
        with self.turn:
            if self.failure is not None:  # somebody else has waited, and it is gone
                raise RuntimeError(self.failure)
            if not self.ready:
                try:
                    _await_ready(self.process, self.control, self.said, self.patience)
                except RuntimeError as error:
                    self.failure = str(error)
                    raise
                self.ready = True
                self.forget_said()

    def tell_ahead(self) -> None:
        """Have the server import what was added since it was started, if it can be told now."""
        if self.ahead < (count := _ahead.count()) and self.takes():  # else the next pool tells it
            self.control.send(b"M" + _ahead.added_since(self.ahead))
            self.ahead = count

    def takes(self) -> bool:
        """Whether it can be told something now. A socket with a timeout waits whatever the flags of a send say."""
        poll = select.poll()
        poll.register(self.control, select.POLLOUT)
        return bool(poll.poll(0))

    def prepare(self, main: Main) -> int:
        """Have a main module prepared, without waiting for it; return its number, 0 if that is not possible now."""
        spec, modules = main
        if spec not in self.mains and not self.takes():
            return 0
        number = self.mains.pop(spec, 0)
        try:
            if not number:
                if len(self.mains) >= _MOST_MAINS:
                    oldest = next(iter(self.mains))
                    self.control.send(struct.pack("<cI", b"D", self.mains.pop(oldest)), socket.MSG_DONTWAIT)
                number = next(_numbers)
                file = os.memfd_create("plait-main")
                try:
                    os.write(file, spec)
                    message = struct.pack("<cI", b"Z", number) + _ahead.fitting(modules)
                    socket.send_fds(self.control, [message], [file], socket.MSG_DONTWAIT)
                finally:
                    os.close(file)
        except OSError:  # workers can do without
            return 0
        self.mains[spec] = number  # as the newest
        return number

    def forget_said(self) -> None:
        """Close what the last words would have been read from."""
        if self.said >= 0:
            os.close(self.said)
            self.said = -1

    def discard(self) -> None:
        """Kill and reap the server, if it is still there."""
        self.control.close()
        self.process.kill()
        self.process.wait()
        self.forget_said()


_lock = threading.Lock()
_owner = os.getpid()
_servers: dict[tuple[str, ...], _Server] = {}
_aside: dict[tuple[str, ...], _Server] = {}
"""Those of before a profile, until it is over."""
_retired: list[_Server] = []
"""Those of a profile that is over: they end with their pools."""
_copies: list[int] = []
_numbers = itertools.count(1)


def start_early(preload: tuple[str, ...] = (), main: Main | None = None) -> None:
    """Start this program's fork server for `preload` if there is none, without waiting until it is ready.

    What goes wrong is raised by `connect_pool`.

    Args:
        preload: Names of modules that the server imports before it forks the first worker.
        main: What is to be prepared once for the workers of a pool; None: nothing.
    """
    _disown_after_fork()
    try:
        with _lock:
            server = _running(preload)
            if main is not None:
                server.prepare(main)
    except (OSError, RuntimeError):
        pass


def is_running() -> bool:
    """Whether there is a fork server that serves pools at once."""
    _disown_after_fork()
    with _lock:
        server = _servers.get(())
        return server is not None and server.is_near()


def is_near(preload: tuple[str, ...] = ()) -> bool:
    """Whether `connect_pool(preload)` returns or raises at once."""
    _disown_after_fork()
    with _lock:
        server = _servers.get(preload)
        return server is None or server.is_near()


def connect_pool(preload: tuple[str, ...] = (), main: Main | None = None) -> socket.socket:
    """Return a connection to this program's fork server for `preload`, which is started if there is none.

    Args:
        preload: Names of modules that the server imports before it forks the first worker.
        main: What is to be prepared once for the workers of a pool; None: nothing.

    Raises:
        RuntimeError: The server ended or said nothing while it started; the message has its last words.
        OSError: The interpreter could not be run, or there are no descriptors left.
    """
    _disown_after_fork()
    for last_chance in (False, True):
        with _lock:
            server = _running(preload)
        try:
            server.await_ready()  # others may start and use other servers meanwhile
        except RuntimeError:
            with _lock:
                _forget(preload, server)
            raise
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, _lock:
                _share_resource_tracker(server)
                server.tell_ahead()
                message = b"P"
                if main is not None and (number := server.prepare(main)):
                    message = struct.pack("<cI", b"P", number)
                socket.send_fds(server.control, [message], [theirs.fileno()])
            return ours
        except (BrokenPipeError, ConnectionResetError):  # it died just now
            ours.close()
            with _lock:
                _forget(preload, server)
            if last_chance:
                raise
        except BaseException:
            ours.close()
            raise
    raise AssertionError("the second turn returns or raises")


def fork_pool(run_worker: RunWorker | None = None) -> socket.socket:
    """Return a connection to a forked copy of this process that serves one pool.

    Warns:
        RuntimeWarning: This process has other threads. What they hold, locks above all, stays held in the copy for ever.
    """
    from plait.processes import _server

    _disown_after_fork()
    reap_ended()
    profile = sys.modules.get("plait.observe._session")
    observers = int(profile is not None and profile.is_observed())  # a thread that keeps no lock from the copy
    if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1 + observers:
        import warnings

        warnings.warn(
            "the process is forked while it has several threads: workers may wait for ever for a lock that one of them "
            'holds; a pool without mp_context="fork" does not have this problem',
            RuntimeWarning,
            stacklevel=2,
        )
    parent_pid = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            parent_pidfd = os.pidfd_open(parent_pid)
            try:
                _flush()
                pid = os.fork()
                if pid == 0:
                    _become_copy(_server.run_copy, ours, theirs, parent_pid, parent_pidfd, run_worker)
            finally:
                os.close(parent_pidfd)
        except BaseException:
            ours.close()
            raise
    with _lock:
        _copies.append(pid)
    return ours


def reap_ended(patience: float = 0.0) -> None:
    """Reap the copies that have ended since, so that they do not stay as zombies until the program ends.

    Args:
        patience: Seconds to wait for one that is about to end, if none has.
    """
    deadline = time.monotonic() + patience
    with _lock:
        before = len(_copies)
        while True:
            _copies[:] = [pid for pid in _copies if not _has_ended(pid)]
            if len(_copies) < before or not _copies or time.monotonic() >= deadline:
                return
            time.sleep(0.002)


def set_aside() -> list[int]:
    """Have servers of their own for the pools that are made from now on, until `bring_back`: a profile is in those alone.

    Returns:
        The process ids of the servers that there were. The pools that they have go on.
    """
    _disown_after_fork()
    with _lock:
        _reap_retired()
        _aside.update(_servers)
        _servers.clear()
        return [server.process.pid for server in _aside.values()]


def bring_back() -> None:
    """Have the servers from before `set_aside` again; those that were started since end when they have no pool any more."""
    _disown_after_fork()
    with _lock:
        for server in _servers.values():
            # Not closed: who waits for it just now sees a broken pipe, and takes another one.
            try:
                server.control.shutdown(socket.SHUT_WR)
            except OSError:  # it is gone
                pass
        _retired.extend(_servers.values())
        _servers.clear()
        _servers.update(_aside)
        _aside.clear()
        _reap_retired()


def _reap_retired() -> None:
    """Reap the retired servers that have ended."""
    for server in [server for server in _retired if server.process.poll() is not None]:
        server.control.close()
        server.forget_said()
        _retired.remove(server)


def stop_servers() -> None:
    """End all fork servers of this process and wait for them.

    To be called when the pools are shut down; a server whose pools are not is killed after a few seconds, which kills
    their workers.
    """
    _disown_after_fork()
    with _lock:
        servers = [*_servers.values(), *_aside.values(), *_retired]
        for server in servers:
            if not server.is_near():  # nobody has got to use it
                server.process.kill()
            try:
                server.control.send(b"Q")  # a copy of our end, in a forked child, may keep the connection open
            except OSError:
                pass
            server.control.close()
        deadline = time.monotonic() + _STOP_TIMEOUT
        for server in servers:
            _await_end(server.process.pid, deadline)
            server.process.wait()
            server.forget_said()
        for pid in _copies:
            _await_end(pid, deadline)
            _has_ended(pid)
        _servers.clear()
        _aside.clear()
        _retired.clear()
        _copies.clear()


def _become_copy(
    run_copy: Any,
    ours: socket.socket,
    theirs: socket.socket,
    parent_pid: int,
    parent_pidfd: int,
    run_worker: RunWorker | None,
) -> None:
    """In the forked copy: serve, and never return into the program."""
    try:
        ours.close()
        run_copy(theirs, parent_pid, parent_pidfd, run_worker)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)


def _running(preload: tuple[str, ...]) -> _Server:
    """Return the server for `preload`, under the lock; start it if there is none, or if it has died since it was ready."""
    server = _servers.get(preload)
    if server is not None and server.ready and server.process.poll() is not None:
        _forget(preload, server)
        server = None
    if server is None:
        server = _servers[preload] = _start(preload)
    return server


def _start(preload: tuple[str, ...]) -> _Server:
    """Start a server."""
    said = os.memfd_create("plait-server-stderr")
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Ctrl-C while the process is being made would lose it: it waits until somebody can end and reap it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with theirs:
                process = _run_interpreter(theirs.fileno(), said, preload)
        except BaseException:
            ours.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise
    except BaseException:
        os.close(said)
        raise
    server = _Server(process, ours, said, START_TIMEOUT + (PRELOAD_TIMEOUT if preload else 0))
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except BaseException:  # the Ctrl-C that has waited
        server.discard()
        raise
    return server


def _run_interpreter(control_fd: int, said: int, preload: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Run a fresh interpreter with this one's flags and path, and with `said` as its standard error for now."""
    config = os.memfd_create("plait-server-config")
    stderr = _real_stderr()
    try:
        here = os.path.realpath(os.curdir)
        path = [entry or here for entry in _strings(sys.path)]
        code = marshal.dumps([path, (control_fd, os.getpid(), preload, stderr, _ahead.modules())])
        with open(config, "wb", closefd=False) as file:
            file.write(code)
        flags: list[str] = _internals(subprocess)._args_from_interpreter_flags()
        return subprocess.Popen(
            [_executable(), *flags, "-c", _READ_CONFIG % (config, config, config) + RUN_MAIN],
            pass_fds=(control_fd, config, stderr),
            stdin=subprocess.DEVNULL,
            stderr=said,
            process_group=0,
            close_fds=True,
            env=_environ(),
        )
    finally:
        os.close(config)
        os.close(stderr)


def _environ() -> dict[str, str] | None:
    """The environment of a server; None for this one's. Workers get their pools'."""
    if "t" not in sys.abiflags:
        return None
    # The allocator of a build without the GIL would take a gigabyte in advance, which a limit of memory would count as used.
    return {"MIMALLOC_ARENA_RESERVE": "0", **os.environ}


def _await_ready(process: subprocess.Popen[bytes], control: socket.socket, said: int, timeout: float) -> None:
    """Wait for the server's `R`."""
    control.settimeout(timeout)
    try:
        ready = control.recv(1) == b"R"
    except ConnectionResetError:
        ready = False
    except TimeoutError:
        process.kill()
        raise RuntimeError(f"the fork server was not ready after {timeout:g} s{_last_words(said)}") from None
    if not ready:
        _await_end(process.pid, time.monotonic() + _STOP_TIMEOUT)
        raise RuntimeError(f"the fork server could not start ({_how_it_ended(process.wait())}){_last_words(said)}")
    control.settimeout(START_TIMEOUT)  # for sends: a server that takes nothing for so long is stuck


def _how_it_ended(code: int) -> str:
    """Return an exit code in words, as `subprocess` has it: minus the signal that killed the process."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"


def _last_words(said: int) -> str:
    """Return the end of what a server wrote to its standard error."""
    size = os.fstat(said).st_size
    text = os.pread(said, _LAST_WORDS, max(0, size - _LAST_WORDS)).decode(errors="replace").strip()
    return f":\n{text}" if text else ""


def _executable() -> str:
    """Return the interpreter to run, which `multiprocessing.set_executable` may have changed."""
    spawn = sys.modules.get("multiprocessing.spawn")
    executable = sys.executable if spawn is None else spawn.get_executable()
    if not executable:
        raise RuntimeError("sys.executable is empty, so there is no interpreter to start workers with")
    return os.fsdecode(executable)


def _strings(values: Iterable[object]) -> list[str]:
    """Return the strings among `values`: imports skip what else there is in `sys.path`."""
    return [value for value in values if isinstance(value, str)]


def _real_stderr() -> int:
    """Return a copy of descriptor 2, or of the null device in a program without standard error."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _share_resource_tracker(server: _Server) -> None:
    """Let the workers use the resource tracker of this process, if it is used here.

    With a tracker of their own, they would unlink shared memory that they have only attached to.
    """
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker: Any = None if module is None else module._resource_tracker
    if tracker is not None and tracker._fd is not None:
        socket.send_fds(server.control, [b"T"], [tracker._fd])


def _await_end(pid: int, deadline: float) -> None:
    """Wait until a child of ours has ended, without reaping it; kill it at the deadline."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # somebody has reaped it
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.poll()
    finally:
        os.close(pidfd)


def _has_ended(pid: int) -> bool:
    """Reap a copy if it has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # somebody else has reaped it
        return True


def _forget(preload: tuple[str, ...], server: _Server) -> None:
    """Drop a server that has died, unless somebody else has."""
    if _servers.get(preload) is server:
        del _servers[preload]
        server.discard()


def _flush() -> None:
    """Write out what the copies would otherwise write once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):  # there is none, or it is closed
            pass


def _disown_after_fork() -> None:
    """In a forked child: forget the servers, which are the parent's."""
    global _lock, _owner
    if _owner == os.getpid():
        return
    _owner = os.getpid()
    _lock = threading.Lock()
    for server in [*_servers.values(), *_aside.values(), *_retired]:
        server.control.close()
        server.forget_said()
        server.process.returncode = 0  # not ours to wait for, and no ResourceWarning
    _servers.clear()
    _aside.clear()
    _retired.clear()
    _copies.clear()


def _internals(module: Any) -> Any:
    """Name what is reached without the type checker's help: private, but the way the standard library does it too."""
    return module


os.register_at_fork(after_in_child=_disown_after_fork)
