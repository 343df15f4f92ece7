"""The fork server: a small single-threaded process that forks workers, reaps them, and kills what they leave behind.

`main` is its entry in a fresh interpreter (`_launch.connect_pool`), `run_copy` its entry in a forked copy of the program
(`_launch.fork_pool`). The protocol is in docs/design/process-pool.md, section 5. On the control connection there are also

| direction | message | descriptors |
|---|---|---|
| server → parent | `R`: ready, sent once | |
| parent → server | `P`: a pool; with u32 number: it has this main module | the server's end of its connection |
| parent → server | `Z`, u32 number, names of modules: prepare a main module, and these | a zygote's share of the config |
| parent → server | `D`, u32 number: no more pools will have that main module | |
| parent → server → zygotes | `M`, names of modules: import these for workers to come | |
| parent → server | `T`: use this resource tracker | its pipe |
| parent → server | `Q`: end when no pool is left (so does the end of the connection) | |

Everything that can happen is a descriptor in one `poll` without a timeout: the control connection, the pools'
connections, a pidfd of the parent, a pidfd of every child. A child is one of

- *worker*: forked for a pool. Its end is reported to that pool.
- *zygote*: prepares a main module, then serves pools in its turn (`_mains.py`).
- *released*: something that an ordinarily ended worker (exit code 0) left behind. It may live, and is reaped when it ends.
- *condemned*: something that a worker left behind which died in another way. It has been sent SIGKILL.

When a child has ended, what it left has become the server's child, since the server is a subreaper; children that are none
of these are then released or condemned. The end of a condemned one brings up the next round of those.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

from plait.processes import _ahead, _findings, _system
from plait.processes._mains import Mains

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, NoReturn

    from plait.processes._mains import Zygote

__all__ = ["SPAWN", "Pool", "RunWorker", "Server", "main", "run_copy", "serve"]

RunWorker = Callable[[int, int, int, tuple[int, ...], int, int], None]
"""What a forked child runs: `(seat, incarnation, server_pid, fds, parent_pid, parent_pidfd)`. It must not return."""

SPAWN: Final = struct.Struct("<cHI")
_NUMBER: Final = struct.Struct("<cI")
_FORKED: Final = struct.Struct("<cHII")
_FAILED: Final = struct.Struct("<cHII")
_REAPED: Final = struct.Struct("<cHIIiBQ")

_WORKER: Final = 0
_RELEASED: Final = 1
_CONDEMNED: Final = 2
_ZYGOTE: Final = 3

_PATIENCE: Final = 5.0  # seconds for a zygote to take a request
_LAST_WORK: Final = 0.9  # seconds to see everything dead once the parent is gone
_CORE_DUMPED: Final = 0x80


def main(
    control_fd: int,
    parent_pid: int,
    preload: tuple[str, ...],
    stderr_fd: int = -1,
    standard: tuple[str, ...] = (),
    run_worker: RunWorker | None = None,
) -> NoReturn:
    """Be the fork server of process `parent_pid`, in a fresh interpreter.

    `standard` names modules of the standard library that are imported as well, where that works.
    Until it is ready its standard error is what `_launch` gave it to catch last words; `stderr_fd` is the real one.
    """
    _take_over_signals()
    parent_pidfd = _watch(parent_pid)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    become_subreaper()
    for name in preload:
        __import__(name)
    _ahead.import_for_workers()
    _ahead.import_all(standard)
    _take_over_signals()  # again: a module may have set handlers
    if stderr_fd >= 0:
        _restore_stderr(stderr_fd)
    gc.freeze()
    gc.enable()  # `_launch` has started this interpreter without
    _trim_memory()
    try:
        control.send(b"R")
    except OSError:  # the parent does not need it any more
        os._exit(0)
    serve(control, parent_pidfd, parent_pid=parent_pid, run_worker=run_worker)


def run_copy(pool: socket.socket, parent_pid: int, parent_pidfd: int, run_worker: RunWorker | None = None) -> NoReturn:
    """Be the fork server of one pool, in a copy of the program that was just forked."""
    os.setpgid(0, 0)
    _take_over_signals()
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)
    become_subreaper()
    _ahead.import_for_workers()
    gc.freeze()
    serve(None, parent_pidfd, parent_pid=parent_pid, first_pool=pool, run_worker=run_worker)


def serve(
    control: socket.socket | None,
    parent_pidfd: int,
    *,
    parent_pid: int,
    first_pool: socket.socket | None = None,
    run_worker: RunWorker | None = None,
    linger: float | None = None,
) -> NoReturn:
    """Serve pools until none is left and none can come, or until the parent is gone; then end the process.

    `linger` is for how many seconds a zygote waits for another pool before it offers to leave.
    """
    if run_worker is None:
        from plait.processes import _worker  # not needed by those who bring their own

        run_worker = _worker.run
    server = Server(control, parent_pid, parent_pidfd, run_worker, linger)
    if first_pool is not None:
        server.add_pool(first_pool)
    server.run()


def become_subreaper() -> None:
    """Make orphaned descendants of this process its children."""
    from plait import _core

    _core.become_subreaper()


def _watch(parent_pid: int) -> int:
    """Return a pidfd of the parent; end the process if the parent has gone already."""
    try:
        parent_pidfd = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        os._exit(0)
    if os.getppid() != parent_pid:  # it died before, and the number may be another process's
        os._exit(0)
    return parent_pidfd


def _take_over_signals() -> None:
    """Drop what was inherited: handlers of the program, blocked signals, SIGCHLD ignored."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _trim_memory() -> None:
    """Give back what the imports have left free, before it is in every worker."""
    from plait import _core

    _core.trim_memory()


def _restore_stderr(stderr_fd: int) -> None:
    """Put the real standard error in place and pass on what was said while starting."""
    sys.stderr.flush()
    said = os.pread(2, os.fstat(2).st_size, 0)
    os.dup2(stderr_fd, 2)
    os.close(stderr_fd)
    try:
        os.write(2, said)
    except OSError:
        pass  # nobody reads it


class Pool:
    """One pool's connection: how many workers it has, the messages it was not ready to take, and what it waits for."""

    __slots__ = ("asked", "connection", "ending", "outgoing", "workers", "zygote")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.workers = 0
        self.ending = False
        self.outgoing: deque[tuple[bytes, int]] = deque()
        self.zygote: Zygote | None = None
        self.asked: deque[tuple[bytes, list[int], bool]] = deque()  # for when the zygote is there


class _Child:
    """A child process that the server knows of."""

    __slots__ = ("incarnation", "kind", "pid", "pidfd", "pool", "seat")

    def __init__(self, pid: int, pidfd: int, kind: int, pool: Pool | None, seat: int, incarnation: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.kind = kind
        self.pool = pool
        self.seat = seat
        self.incarnation = incarnation


class Server:
    """The state of a fork server and its one loop."""

    def __init__(
        self,
        control: socket.socket | None,
        parent_pid: int,
        parent_pidfd: int,
        run_worker: RunWorker,
        linger: float | None,
    ) -> None:
        self.pid = os.getpid()
        self.parent_pid = parent_pid
        self.parent_pidfd = parent_pidfd
        self.run_worker = run_worker
        # A terminal that goes away ends the parent; that is seen, and cleaned up after. Workers get back what there was.
        self.hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Requests of many pools may wait for a main module, each with its descriptors; each worker has one as well.
        self.files = _system.raise_file_limit()
        self.pools: dict[int, Pool] = {}
        self.children: dict[int, _Child] = {}
        self.pidfds: dict[int, _Child] = {}
        self.mains = Mains(self)
        self.poll = select.poll()
        self.poll.register(parent_pidfd, select.POLLIN)
        self.linger = linger
        self.served = 0  # pools
        self.offered = -1  # what that was when it last offered to leave
        self.newest: Pool | None = None
        self.control = control
        if control is not None:
            control.setblocking(False)
            self.poll.register(control, select.POLLIN)
        for pid in _system.children_of_self():  # helpers that a preloaded module has started
            self.adopt(pid, _RELEASED)

    # The loop.

    def run(self) -> NoReturn:
        """Serve what is ready, for ever."""
        while self.control is not None or self.pools or self.has_duties():
            lingers = self.linger is not None and self.control is not None and not self.pools
            patience = self.linger if lingers and self.offered != self.served else None
            ready = dict(self.poll.poll(None if patience is None else patience * 1000))
            if not ready and self.control is not None:
                self.offer_to_leave(self.control)
            if self.parent_pidfd in ready:
                self.end_all()
            ended = [self.pidfds[fd] for fd in ready if fd in self.pidfds]  # first: below, numbers are used again
            for fd, events in ready.items():
                if (pool := self.pools.get(fd)) is not None:
                    self.serve_pool(pool, events)
                elif self.control is not None and fd == self.control.fileno():
                    self.serve_control(self.control)
                elif (zygote := self.mains.controls.get(fd)) is not None:
                    self.mains.hear(zygote)
            if ended:
                self.bury(ended)
        os._exit(0)

    def offer_to_leave(self, control: socket.socket) -> None:
        """Tell the fork server that no pool has come for a while; it may have sent one just now."""
        self.offered = self.served
        try:
            control.send(b"L" + self.served.to_bytes(4, "little"))
        except OSError:  # its end is seen
            pass

    def has_duties(self) -> bool:
        """Whether there are children that the server must see dead."""
        return any(child.kind != _RELEASED for child in self.children.values())

    def end_all(self) -> NoReturn:
        """Kill the workers and what they started, as the parent is gone; leave when all are dead."""
        for pool in list(self.pools.values()):
            self.drop_pool(pool)
        for child in self.children.values():
            if child.kind in (_WORKER, _ZYGOTE):  # also those whose pool had said goodbye
                _system.kill(child.pid)
        self.poll.unregister(self.parent_pidfd)
        if self.control is not None:
            self.poll.unregister(self.control)
        deadline = time.monotonic() + _LAST_WORK
        while self.has_duties() and (left := deadline - time.monotonic()) > 0:
            ended = [self.pidfds[fd] for fd, _ in self.poll.poll(left * 1000) if fd in self.pidfds]
            if ended:
                self.bury(ended)
        os._exit(0)

    # Connections.

    def serve_control(self, control: socket.socket) -> None:
        """Take what came over the control connection."""
        while True:
            received = _system.receive(control)
            if received is None:
                return
            message, descriptors, complete = received
            if message in (b"", b"Q"):
                self.poll.unregister(control)
                control.close()
                self.control = None
                self.mains.drop_all()
                return
            kind, number = message[:1], 0
            if len(message) >= _NUMBER.size:
                _, number = _NUMBER.unpack_from(message)
            if kind == b"P" and descriptors:
                self.newest = self.add_pool(socket.socket(fileno=descriptors.pop()))
                self.served += 1
                if number:
                    self.mains.enlist(self.newest, number)
            elif kind == b"Z" and descriptors:
                self.mains.add(number, descriptors.pop(), message[_NUMBER.size :].decode())
            elif kind == b"D":
                self.mains.drop(number)
            elif kind == b"M":
                _ahead.import_all(message[1:].decode().split(","))
                if _findings.of_zygote() is not None:
                    _findings.begin()  # workers to come are not like those before
                gc.freeze()  # what workers to come share
                self.mains.tell_all(message)
            elif kind == b"T" and descriptors:
                _system.use_resource_tracker(descriptors.pop())
            elif kind == b"S" and self.newest is not None:  # the pool asked for it before it was handed over
                self.spawn(self.newest, message, descriptors, complete)
            _system.close(descriptors)

    def add_pool(self, connection: socket.socket) -> Pool:
        """Begin to serve a pool."""
        connection.setblocking(False)
        pool = self.pools[connection.fileno()] = Pool(connection)
        self.poll.register(connection, select.POLLIN)
        return pool

    def hand_over(self, pool: Pool) -> None:
        """Let go of a pool that a zygote serves from now on."""
        self.poll.unregister(pool.connection)
        del self.pools[pool.connection.fileno()]
        pool.connection.close()
        if not self.pools:
            _system.leave_resource_tracker()

    def serve_pool(self, pool: Pool, events: int) -> None:
        """Send what waits, take what came, and see the end of the connection."""
        if events & select.POLLOUT:
            self.flush(pool)
        if not events & ~select.POLLOUT:
            return
        while pool.connection.fileno() >= 0:
            received = _system.receive(pool.connection)
            if received is None:
                return
            message, descriptors, complete = received
            if not message:
                self.drop_pool(pool)
            elif message[:1] == b"S" and len(message) == SPAWN.size:
                if pool.zygote is None or pool.ending:
                    self.spawn(pool, message, descriptors, complete)
                else:
                    self.mains.ask(pool, message, descriptors, complete)
            elif message == b"K":
                self.refuse_asked(pool)
            elif message == b"B" and not pool.ending:
                pool.ending = True
                self.refuse_asked(pool)
                self.settle(pool)
            _system.close(descriptors)

    def drop_pool(self, pool: Pool) -> None:
        """Forget a connection that has ended. Its workers are killed, unless they were told to leave by themselves."""
        fd = pool.connection.fileno()
        if fd < 0:
            return
        self.poll.unregister(fd)
        del self.pools[fd]
        pool.connection.close()
        for _, pidfd in pool.outgoing:
            self.release_pidfd(pidfd)
        pool.outgoing.clear()
        for _, descriptors, _ in pool.asked:
            _system.close(descriptors)
        pool.asked.clear()
        self.mains.leave(pool)
        if not self.pools and self.control is not None:
            _system.leave_resource_tracker()
        if not pool.ending:
            for child in self.children.values():
                if child.pool is pool:
                    _system.kill(child.pid)

    def refuse_asked(self, pool: Pool) -> None:
        """Answer `K`: the pool does not need the workers that it waits for."""
        while pool.asked:
            message, descriptors, _ = pool.asked.popleft()
            _system.close(descriptors)
            self.refuse(pool, message, errno.ECANCELED)

    def refuse(self, pool: Pool, message: bytes, error: int) -> None:
        """Report `E` for an `S`."""
        _, seat, incarnation = SPAWN.unpack(message)
        self.send(pool, _FAILED.pack(b"E", seat, incarnation, error))

    def settle(self, pool: Pool) -> None:
        """Answer `B` once the pool has no worker left."""
        if pool.ending and not pool.workers:
            self.send(pool, b"B")

    def send(self, pool: Pool, message: bytes, pidfd: int = -1) -> None:
        """Send a message, now or when the pool is ready to take it."""
        if pool.connection.fileno() < 0:
            return
        pool.outgoing.append((message, pidfd))
        self.flush(pool)

    def flush(self, pool: Pool) -> None:
        """Send what waits, as far as the connection takes it."""
        while pool.outgoing:
            message, pidfd = pool.outgoing[0]
            try:
                if pidfd < 0:
                    pool.connection.send(message)
                else:
                    socket.send_fds(pool.connection, [message], [pidfd])
            except BlockingIOError:
                self.poll.modify(pool.connection, select.POLLIN | select.POLLOUT)
                return
            except OSError:  # nobody is there any more
                self.drop_pool(pool)
                return
            pool.outgoing.popleft()
            self.release_pidfd(pidfd)
            if message == b"B":
                self.drop_pool(pool)
                return
        self.poll.modify(pool.connection, select.POLLIN)

    def release_pidfd(self, pidfd: int) -> None:
        """Close a pidfd that was kept for a message only, its process having been reaped meanwhile."""
        if pidfd >= 0 and pidfd not in self.pidfds:
            os.close(pidfd)

    def await_room(self, connection: socket.socket) -> bool:
        """Wait until a zygote takes more requests; false if it does not, or the program is gone."""
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        poll.register(self.parent_pidfd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(_PATIENCE * 1000)]
        return ready == [connection.fileno()]

    # Children.

    def spawn(self, pool: Pool, message: bytes, descriptors: list[int], complete: bool) -> None:
        """Fork a worker as `S` asks, and report `F` or `E`."""
        _, seat, incarnation = SPAWN.unpack(message)
        pid = 0
        try:
            if not complete:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            # One that a zygote was given may end before its requests come.
            if pool.ending or pool.connection.fileno() < 0:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            if len(descriptors) != _system.DESCRIPTORS:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            pid = os.fork()
            if pid == 0:
                self.become_worker(seat, incarnation, descriptors)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            if pid:
                self.discard(pid)
            self.refuse(pool, message, error.errno or errno.EIO)
            return
        pool.workers += 1
        self.track(_Child(pid, pidfd, _WORKER, pool, seat, incarnation))
        self.send(pool, _FORKED.pack(b"F", seat, incarnation, pid), pidfd)

    def become_worker(self, seat: int, incarnation: int, descriptors: list[int]) -> NoReturn:
        """In the child: let go of everything of the server, and run the worker."""
        try:
            self.mains.close_all()
            self.let_go()
            run, server_pid, parent_pid, parent_pidfd = self.run_worker, self.pid, self.parent_pid, self.parent_pidfd
            run(seat, incarnation, server_pid, tuple(descriptors), parent_pid, parent_pidfd)
        except BaseException:  # nothing may climb out of here into the server's loop
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)

    def become_zygote(self, spec: int, modules: str, control: socket.socket) -> NoReturn:
        """In the child: let go of everything of the server, and run the zygote."""
        try:
            self.mains.close_all(but=spec)
            self.let_go()
            from plait.processes import _zygote

            _zygote.run(spec, modules, control, self.pid, self.parent_pid, self.parent_pidfd)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)

    def let_go(self) -> None:
        """In a child: close what is the server's, and have the program's SIGHUP and its limit of descriptors."""
        if self.control is not None:
            self.control.close()
        for pool in self.pools.values():
            pool.connection.close()
            for _, descriptors, _ in pool.asked:
                _system.close(descriptors)
        _system.close(self.pidfds)
        _system.close({pidfd for pool in self.pools.values() for _, pidfd in pool.outgoing} - {-1} - self.pidfds.keys())
        signal.signal(signal.SIGHUP, signal.SIG_DFL if self.hangup is None else self.hangup)
        _system.limit_files(self.files)

    def watch_zygote(self, pid: int) -> None:
        """Take charge of a zygote."""
        self.track(_Child(pid, os.pidfd_open(pid), _ZYGOTE, None, 0, 0))

    def seat(self, pid: int, pool: Pool, message: bytes) -> None:
        """A zygote is a worker of `pool` from now on, the one that the `S` asks for; report `F`."""
        child = self.children[pid]
        _, child.seat, child.incarnation = SPAWN.unpack(message)
        child.kind, child.pool = _WORKER, pool
        pool.workers += 1
        self.send(pool, _FORKED.pack(b"F", child.seat, child.incarnation, pid), child.pidfd)

    def kill(self, pid: int) -> None:
        """Kill a child; its end is seen."""
        _system.kill(pid)

    def discard(self, pid: int) -> None:
        """Kill and reap a child that could not be watched."""
        _system.kill(pid)
        os.waitpid(pid, 0)

    def track(self, child: _Child) -> None:
        """Watch a child's pidfd."""
        self.children[child.pid] = child
        self.pidfds[child.pidfd] = child
        self.poll.register(child.pidfd, select.POLLIN)

    def adopt(self, pid: int, kind: int) -> None:
        """Take charge of a child that nobody forked here; kill it if it is condemned."""
        if kind == _CONDEMNED and not _system.kill(pid):
            kind = _RELEASED
        try:
            self.track(_Child(pid, os.pidfd_open(pid), kind, None, 0, 0))
        except OSError:  # no descriptor left: look at it again when the next child has ended
            pass

    def bury(self, ended: Iterable[_Child]) -> None:
        """Reap children that have ended, decide about what they left, and report."""
        batch, left = self.take_stock(ended)
        lawful: set[int] = set()  # process groups of those that ended as they should
        violent: set[int] = set()
        reports: list[tuple[Pool, bytes]] = []
        zygotes: list[tuple[int, int]] = []
        for child in batch:
            group = os.getpgid(child.pid)
            # Only a debugger that holds on to a dead child can make this wait.
            _, status, usage = os.wait4(child.pid, 0)
            self.untrack(child)
            code = os.waitstatus_to_exitcode(status)
            ordinary = child.kind == _RELEASED or (child.kind in (_WORKER, _ZYGOTE) and code == 0)
            (lawful if ordinary else violent).add(group)
            if child.pool is not None:
                child.pool.workers -= 1
                core = bool(status & _CORE_DUMPED)
                about = (child.seat, child.incarnation, child.pid, code, core, usage.ru_maxrss)
                reports.append((child.pool, _REAPED.pack(b"X", *about)))
            if child.kind == _ZYGOTE:
                zygotes.append((child.pid, code))
        for pid in left:
            # Both kinds ended at once: whose it was can only be told by its process group.
            released = not violent or (bool(lawful) and os.getpgid(pid) in lawful - violent)
            self.adopt(pid, _RELEASED if released else _CONDEMNED)
        for pool, report in reports:
            self.send(pool, report)
        for pid, code in zygotes:
            self.mains.ended(pid, code)
        for pool in dict.fromkeys(pool for pool, _ in reports):
            self.settle(pool)

    def take_stock(self, ended: Iterable[_Child]) -> tuple[list[_Child], list[int]]:
        """Return all children that have ended and the unknown children that these, and nobody else, have left.

        What a process leaves is ours before its pidfd says that it has ended. So if no other pidfd says so *after* the
        list was read, everything on the list was left by those in the batch.
        """
        batch = list(ended)
        while True:
            left = [pid for pid in _system.children_of_self() if pid not in self.children]
            known = set(batch)
            late = [child for fd, _ in self.poll.poll(0) if (child := self.pidfds.get(fd)) and child not in known]
            if not late:
                return batch, left
            batch += late

    def untrack(self, child: _Child) -> None:
        """Forget a child that was reaped; its pidfd stays open while a message waits to carry it."""
        del self.children[child.pid]
        del self.pidfds[child.pidfd]
        self.poll.unregister(child.pidfd)
        if child.pool is None or all(pidfd != child.pidfd for _, pidfd in child.pool.outgoing):
            os.close(child.pidfd)
