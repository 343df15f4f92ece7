"""The main modules of a program, as the fork server knows them: each is prepared in a zygote, which serves its pools.

A pool names its main module by number. As long as the zygote prepares it, the server keeps the pool's connection and what
it asks for; then it passes both on. Without a zygote, because that may not be shared or has died while it prepared, the
server forks the pool's workers itself, and each imports for itself. What runs in a zygote is in `_zygote.py`. It says

| message | when |
|---|---|
| `R` | it can serve pools |
| `U` | it cannot: what it has prepared must not be shared. It is sent an `S`, and is a worker then |
| `L`, u32 number | it has had no pool for a while, after that many, and leaves if the connection is closed |
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket

from plait.processes import _system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from plait.processes._server import Pool, Server

__all__ = ["Mains", "Zygote"]

_NONE: Final = 0
"""There is no process, and one may be started."""
_PREPARING: Final = 1
_SERVING: Final = 2
_UNFIT: Final = 3
"""It has prepared what cannot be shared, and waits to be a worker."""
_NEVER: Final = 4
"""There will be no process: workers import for themselves."""


class Zygote:
    """One main module, and the process that prepares it, if there is one."""

    __slots__ = ("control", "modules", "passed", "pid", "spec", "state", "waiting")

    def __init__(self, spec: int, modules: str) -> None:
        self.spec = spec
        self.modules = modules
        self.state = _NONE
        self.pid = 0
        self.control: socket.socket | None = None
        self.passed = 0  # pools that it was given
        self.waiting: list[Pool] = []


class Mains:
    """All main modules that pools have named."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.known: dict[int, Zygote] = {}
        self.pids: dict[int, Zygote] = {}
        self.controls: dict[int, Zygote] = {}

    # What the program says.

    def add(self, number: int, spec: int, modules: str) -> None:
        """Begin to prepare what `spec`, a descriptor, describes, and to import `modules`."""
        self.known[number] = zygote = Zygote(spec, modules)
        self.start(zygote)

    def drop(self, number: int) -> None:
        """Forget a main module that no more pools will name."""
        zygote = self.known.pop(number, None)
        if zygote is not None:
            os.close(zygote.spec)
            zygote.spec = -1
            self.rest(zygote)

    def drop_all(self) -> None:
        """There will be no more pools."""
        for number in list(self.known):
            self.drop(number)

    def enlist(self, pool: Pool, number: int) -> None:
        """Let `pool` have workers of the zygote `number`."""
        zygote = self.known.get(number)
        if zygote is None or zygote.state == _NEVER:
            return
        if zygote.state == _NONE and not self.start(zygote):
            return
        if zygote.state == _SERVING:
            self.pass_on(pool, zygote)
            return
        pool.zygote = zygote
        zygote.waiting.append(pool)

    def ask(self, pool: Pool, message: bytes, descriptors: list[int], complete: bool) -> None:
        """Take the request of a pool that waits for its zygote; the descriptors too."""
        zygote = pool.zygote
        if zygote is not None and zygote.state == _PREPARING:
            pool.asked.append((message, descriptors.copy(), complete))
            descriptors.clear()
        elif zygote is None or not complete or not self.seat(zygote, pool, message, descriptors):
            self.server.spawn(pool, message, descriptors, complete)

    # What zygotes say.

    def hear(self, zygote: Zygote) -> None:
        """Take what came over a zygote's connection."""
        if zygote.control is None:
            return
        try:
            message = zygote.control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message == b"R":
            zygote.state = _SERVING
            for pool in zygote.waiting.copy():
                self.pass_on(pool, zygote)
            self.rest(zygote)
        elif message == b"U":
            zygote.state = _UNFIT
            for pool in zygote.waiting.copy():
                self.serve_asked(pool)
            self.rest(zygote)
        elif message[:1] == b"L":
            if message[1:] == zygote.passed.to_bytes(4, "little"):  # else a pool is on its way
                self.hang_up(zygote)
                zygote.state = _NONE
        else:  # it has ended, or has become another program
            self.hang_up(zygote)
            if zygote.pid in self.pids:
                self.server.kill(zygote.pid)

    def ended(self, pid: int, code: int) -> None:
        """A zygote has ended: pools that wait for it get workers that import for themselves."""
        zygote = self.pids.pop(pid, None)
        if zygote is None or zygote.pid != pid:
            return
        self.hang_up(zygote)
        # One that fails to prepare would do so again. That one was killed says nothing about the next.
        if zygote.state in (_PREPARING, _UNFIT):
            zygote.state = _NONE if code == -signal.SIGKILL else _NEVER
        elif zygote.state == _SERVING:
            zygote.state = _NONE
        self.release(zygote)

    # Doing it.

    def start(self, zygote: Zygote) -> bool:
        """Fork the zygote."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return False
        pid = -1
        with theirs:
            try:
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    self.server.become_zygote(zygote.spec, zygote.modules, theirs)
                self.server.watch_zygote(pid)
            except OSError:
                ours.close()
                if pid > 0:
                    self.server.discard(pid)
                return False
        ours.setblocking(False)
        zygote.pid, zygote.control, zygote.passed, zygote.state = pid, ours, 0, _PREPARING
        self.pids[pid] = zygote
        self.controls[ours.fileno()] = zygote
        self.server.poll.register(ours, select.POLLIN)
        return True

    def tell(self, zygote: Zygote, message: bytes, *descriptors: int) -> bool:
        """Send a message to a zygote; tell whether it took it."""
        while zygote.control is not None:
            try:
                socket.send_fds(zygote.control, [message], descriptors)
                return True
            except BlockingIOError:
                if not self.server.await_room(zygote.control):  # it is stuck; its end is seen
                    self.server.kill(zygote.pid)
                    return False
            except OSError:
                return False
        return False

    def tell_all(self, message: bytes) -> None:
        """Tell all zygotes that there are; one that still prepares reads it afterwards."""
        for zygote in list(self.controls.values()):
            self.tell(zygote, message)

    def pass_on(self, pool: Pool, zygote: Zygote) -> None:
        """Let a zygote that is ready serve `pool`."""
        server = self.server
        tracker = _system.resource_tracker()
        mine = pool.workers or pool.ending or pool.outgoing
        if mine or (tracker is not None and not self.tell(zygote, b"T", tracker)):
            self.serve_asked(pool)
            return
        if not self.tell(zygote, b"P", pool.connection.fileno()):
            self.serve_asked(pool)
            return
        zygote.passed += 1
        while pool.asked:
            message, descriptors, complete = pool.asked.popleft()
            if not complete or not self.tell(zygote, message, *descriptors):
                server.refuse(pool, message, errno.EMFILE)
            _system.close(descriptors)
        self.leave(pool)
        server.hand_over(pool)

    def serve_asked(self, pool: Pool) -> None:
        """Let the server serve a pool by itself, the first request by a zygote that is none if there is one."""
        zygote = pool.zygote
        if zygote is not None and zygote.state == _UNFIT and not pool.asked:
            return  # the first request will come
        if zygote is not None and zygote.state == _UNFIT:
            message, descriptors, complete = pool.asked.popleft()
            if not complete or not self.seat(zygote, pool, message, descriptors):
                pool.asked.appendleft((message, descriptors, complete))
        self.leave(pool)
        while pool.asked:
            message, descriptors, complete = pool.asked.popleft()
            self.server.spawn(pool, message, descriptors, complete)
            _system.close(descriptors)

    def seat(self, zygote: Zygote, pool: Pool, message: bytes, descriptors: list[int]) -> bool:
        """Make an unfit zygote the worker that `message` asks for, and close the descriptors; tell whether that was done."""
        tracker = _system.resource_tracker()
        if tracker is not None:
            self.tell(zygote, b"T", tracker)
        pid, zygote.state = zygote.pid, _NEVER
        seated = self.tell(zygote, message, *descriptors)
        if seated:
            del self.pids[pid]
            self.server.seat(pid, pool, message)
            _system.close(descriptors)
            descriptors.clear()
        self.hang_up(zygote)  # what was sent is read first
        self.release(zygote)
        return seated

    def release(self, zygote: Zygote) -> None:
        """Nobody waits for this zygote any more."""
        for pool in zygote.waiting.copy():
            self.serve_asked(pool)

    def rest(self, zygote: Zygote) -> None:
        """End a zygote that was dropped, unless pools wait for it; one that serves pools ends with the last of them."""
        if zygote.spec >= 0 or zygote.waiting:
            return
        if zygote.state == _SERVING:
            self.hang_up(zygote)
        elif zygote.pid in self.pids:
            self.server.kill(zygote.pid)

    def leave(self, pool: Pool) -> None:
        """`pool` does not wait any more."""
        zygote, pool.zygote = pool.zygote, None
        if zygote is not None:
            zygote.waiting.remove(pool)
            self.rest(zygote)

    def hang_up(self, zygote: Zygote) -> None:
        """Close the connection to a zygote."""
        if zygote.control is not None:
            self.server.poll.unregister(zygote.control)
            del self.controls[zygote.control.fileno()]
            zygote.control.close()
            zygote.control = None

    def close_all(self, but: int = -1) -> None:
        """In a child: let go of all descriptors but one."""
        for zygote in self.controls.values():
            if zygote.control is not None:
                zygote.control.close()
        for zygote in self.known.values():
            if zygote.spec != but:
                os.close(zygote.spec)
