"""The fork server for real: processes are forked, killed and left behind; only what a worker *does* is made up here.

A worker of these tests executes the Python text in its config descriptor and leaves with exit code 0. It can call
`tell(number)`, which the test reads with `Worker.told`, and `daemon(depth)`, which leaves a sleeping process behind in a
session of its own.
"""

from __future__ import annotations

import errno
import multiprocessing.resource_tracker
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import plait
from plait.processes import _ahead, _launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 20.0

STUB = '''
import ctypes, os, signal, struct, sys, time
from plait.processes import _server

prctl = ctypes.CDLL(None).prctl

def become_subreaper():
    assert prctl(36, 1, 0, 0, 0) == 0

_server.become_subreaper = become_subreaper

def daemon(depth=1):
    """Leave a process in a session of its own, with a chain of `depth` - 1 descendants; return the last one's pid."""
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        for _ in range(depth):
            if os.fork():
                time.sleep(1000 if _ else 0)
                os._exit(0)
        os.write(w, struct.pack("i", os.getpid()))
        time.sleep(1000)
    return struct.unpack("i", os.read(r, 4))[0]

def run(seat, incarnation, server_pid, fds, parent_pid, parent_pidfd):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert prctl(1, signal.SIGKILL, 0, 0, 0) == 0
    assert os.getppid() == server_pid
    os.setpgid(0, 0)
    become_subreaper()
    tell = lambda number: os.write(fds[4], struct.pack("q", number))
    exec(os.pread(fds[3], 1 << 16, 0), {**globals(), **locals()})
    os._exit(0)

def main(*arguments):
    _server.main(*arguments, run_worker=run)
'''


class Worker(NamedTuple):
    """A worker that was forked: as `F` says, and the pipe over which it tells."""

    seat: int
    pid: int
    pidfd: int
    hears: int

    def told(self) -> int:
        number: int = struct.unpack("q", os.read(self.hears, 8))[0]
        return number


class Exit(NamedTuple):
    """What `X` says."""

    seat: int
    incarnation: int
    pid: int
    code: int
    core: int
    rss: int


class Pool:
    """The parent's side of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.connection.settimeout(PATIENCE)
        self.open: list[int] = []

    def ask(self, seat: int, source: str, incarnation: int = 0, descriptors: int = 7) -> int:
        """Send `S`; return the end of the pipe that the worker tells over."""
        config = os.memfd_create("config")
        os.write(config, source.encode())
        hears, tells = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        fds = [null, null, null, config, tells, null, null][:descriptors]
        socket.send_fds(self.connection, [struct.pack("<cHI", b"S", seat, incarnation)], fds)
        for fd in (config, tells, null):
            os.close(fd)
        self.open.append(hears)
        return hears

    def spawn(self, seat: int, source: str, incarnation: int = 0) -> Worker:
        hears = self.ask(seat, source, incarnation)
        message, (pidfd,) = self.receive()
        kind, *about = struct.unpack("<cHII", message)
        assert (kind, *about[:2]) == (b"F", seat, incarnation)
        return Worker(seat, about[2], pidfd, hears)

    def receive(self) -> tuple[bytes, list[int]]:
        message, fds, _, _ = socket.recv_fds(self.connection, 64, 1)
        self.open += fds
        return message, fds

    def exit(self) -> Exit:
        message, _ = self.receive()
        kind, *about = struct.unpack("<cHIIiBQ", message)
        assert kind == b"X"
        return Exit(*about)

    def finish(self) -> None:
        self.connection.send(b"B")
        assert self.receive()[0] == b"B"

    def close(self) -> None:
        self.connection.close()
        while self.open:
            os.close(self.open.pop())


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let `_launch` start servers whose workers are those of these tests; return what a program needs to do the same."""
    (tmp_path / "stub_of_test_server.py").write_text(STUB)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from stub_of_test_server import main; main(*c[1])"
    program += "  # plait.processes"
    monkeypatch.setattr(_launch, "RUN_MAIN", program)
    # An earlier test may have started multiprocessing's tracker, which servers then share: one more descriptor to count.
    monkeypatch.setattr(multiprocessing.resource_tracker._resource_tracker, "_fd", None)
    package = Path(next(iter(plait.__path__))).parent
    return f"""
import sys; sys.path[:0] = [{str(package)!r}, {str(tmp_path)!r}, {str(Path(__file__).parent)!r}]
import os, signal, time, warnings
from plait.processes import _launch
import stub_of_test_server as stub
from test_server import Pool
_launch.RUN_MAIN = {program!r}
"""


@pytest.fixture
def make_pool(stub: str) -> Iterator[Callable[[], Pool]]:
    _launch.stop_servers()  # those of other tests, which run real workers
    pools: list[Pool] = []

    def make() -> Pool:
        pools.append(Pool(_launch.connect_pool()))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    _launch.stop_servers()


@pytest.fixture
def pool(make_pool: Callable[[], Pool]) -> Pool:
    return make_pool()


def state(pid: int) -> str:
    """R, S, D, T, Z ..., or nothing if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(condition: Callable[[], object], patience: float = PATIENCE) -> float:
    """Wait until `condition` holds; return the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience, "it did not come true"
        time.sleep(0.002)
    return time.monotonic() - began


def gone(*pids: int) -> bool:
    return not any(map(state, pids))


def process_of(pidfd: int) -> int:
    """The process that a pidfd is of, -1 if it was reaped."""
    return int(Path(f"/proc/self/fdinfo/{pidfd}").read_text().rpartition("\nPid:")[2].split()[0])


def server_of(worker: Worker) -> int:
    return int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run_program(source: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=check)


def test_a_worker_is_forked_and_its_exit_reported(pool: Pool) -> None:
    worker = pool.spawn(5, "tell(incarnation); os._exit(7)", incarnation=70000)
    assert worker.told() == 70000
    report = pool.exit()
    assert report[:5] == (5, 70000, worker.pid, 7, 0)
    assert report.rss > 1000
    assert select.select([worker.pidfd], [], [], PATIENCE)[0]
    assert gone(worker.pid)  # reaped before it is reported


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killed_worker_is_reported_with_its_signal(pool: Pool, number: signal.Signals) -> None:
    worker = pool.spawn(0, "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); time.sleep(1000)")
    wait_for(lambda: state(worker.pid) == "S")
    signal.pidfd_send_signal(worker.pidfd, number)
    assert pool.exit()[:4] == (0, 0, worker.pid, -number)


def test_an_exception_in_a_worker_stays_in_it(pool: Pool) -> None:
    pool.spawn(0, "import os; os.dup2(fds[0], 2); 1 / 0")
    assert pool.exit().code == 1
    pool.spawn(1, "")
    assert pool.exit().code == 0


def test_a_worker_has_only_its_own_descriptors(make_pool: Callable[[], Pool]) -> None:
    for other in range(3):
        make_pool().spawn(other, "time.sleep(1000)")
    worker = make_pool().spawn(
        9, "tell(len(set(map(int, os.listdir('/proc/self/fd'))) - {0, 1, 2, *fds, parent_pidfd})); time.sleep(1000)"
    )
    assert worker.told() == 1  # the directory that is being listed


@pytest.mark.parametrize("depth", [1, 4])
def test_strays_of_a_killed_worker_are_killed(pool: Pool, depth: int) -> None:
    worker = pool.spawn(0, f"tell(daemon({depth})); os.kill(os.getpid(), 9)")
    stray = worker.told()
    assert pool.exit().code == -9
    wait_for(lambda: gone(stray))
    pool.spawn(1, "time.sleep(1000)")
    assert len(children(_server_pid())) == 1


def test_what_an_ordinary_exit_leaves_lives_and_is_reaped_at_its_end(pool: Pool) -> None:
    released = pool.spawn(0, "tell(daemon(2))").told()
    assert pool.exit().code == 0
    stray = pool.spawn(1, "tell(daemon()); os.kill(os.getpid(), 9)").told()
    assert pool.exit().code == -9
    wait_for(lambda: gone(stray))
    assert state(released) == "S"
    parent = int(Path(f"/proc/{released}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)  # its child comes to the server, and is released as well
    wait_for(lambda: gone(parent))
    pool.spawn(2, "os._exit(1)")
    assert pool.exit().code == 1
    assert state(released) == "S"
    os.kill(released, signal.SIGKILL)
    wait_for(lambda: gone(released))


def test_when_both_kinds_end_at_once_the_process_group_decides(pool: Pool) -> None:
    child = "signal.pthread_sigmask(0, [15]); pid = os.fork()\nif not pid: time.sleep(1000)\ntell(pid); "
    good = pool.spawn(0, child + "signal.sigwait([15])")
    bad = pool.spawn(1, child + "time.sleep(1000)")
    released, stray = good.told(), bad.told()
    server = _server_pid()
    os.kill(server, signal.SIGSTOP)
    for worker, number in ((good, signal.SIGTERM), (bad, signal.SIGKILL)):
        signal.pidfd_send_signal(worker.pidfd, number)
        wait_for(lambda: state(worker.pid) == "Z")
    os.kill(server, signal.SIGCONT)
    assert {pool.exit().code, pool.exit().code} == {0, -9}
    wait_for(lambda: gone(stray))
    assert state(released) == "S"
    os.kill(released, signal.SIGKILL)


def test_no_zombie_is_left(pool: Pool) -> None:
    for seat in range(20):
        pool.spawn(seat, "os.fork() or os._exit(0); os._exit(0)")
        assert pool.exit().code == 0
    wait_for(lambda: not children(_server_pid()))


def test_two_pools_share_a_server_and_nothing_else(make_pool: Callable[[], Pool]) -> None:
    one, two = make_pool(), make_pool()
    first = one.spawn(3, "time.sleep(1000)")
    second = two.spawn(3, "time.sleep(1000)")
    assert server_of(first) == server_of(second) == _server_pid()
    one.connection.close()  # without a word
    wait_for(lambda: gone(first.pid))
    assert state(second.pid) in "RS"
    signal.pidfd_send_signal(second.pidfd, signal.SIGKILL)
    assert two.exit().pid == second.pid


def test_a_pool_that_hangs_up_takes_strays_along(make_pool: Callable[[], Pool]) -> None:
    pool = make_pool()
    worker = pool.spawn(0, "tell(daemon(3)); time.sleep(1000)")
    stray = worker.told()
    pool.connection.close()
    wait_for(lambda: gone(worker.pid, stray))


def test_goodbye_is_answered_when_no_worker_is_left(pool: Pool) -> None:
    worker = pool.spawn(0, "os.read(os.open('/proc/self/fd/%d' % fds[4], os.O_RDONLY), 1)")
    pool.connection.send(b"B")
    pool.ask(1, "")
    assert struct.unpack("<cHII", pool.receive()[0]) == (b"E", 1, 0, errno.ECANCELED)
    signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
    assert pool.exit().pid == worker.pid
    assert pool.receive()[0] == b"B"
    assert pool.receive()[0] == b""


def test_goodbye_without_workers_is_answered_at_once(pool: Pool) -> None:
    pool.finish()


def test_a_pool_that_said_goodbye_may_hang_up(make_pool: Callable[[], Pool]) -> None:
    pool = make_pool()
    worker = pool.spawn(0, "signal.pthread_sigmask(0, [15]); tell(0); signal.sigwait([15]); tell(1); time.sleep(0.2)")
    assert worker.told() == 0
    pool.ask(1, "", descriptors=0)
    assert pool.receive()[0][:1] == b"E"  # so it has closed what came with the first
    held = len(os.listdir(f"/proc/{_server_pid()}/fd"))
    pool.connection.send(b"B")
    pool.connection.close()
    wait_for(lambda: len(os.listdir(f"/proc/{_server_pid()}/fd")) == held - 1)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.told() == 1  # it was not killed
    wait_for(lambda: gone(worker.pid))


def test_too_few_descriptors_are_refused(pool: Pool) -> None:
    pool.ask(4, "", incarnation=2, descriptors=6)
    assert struct.unpack("<cHII", pool.receive()[0]) == (b"E", 4, 2, errno.EINVAL)
    assert not children(_server_pid())


def test_reports_wait_for_a_slow_reader_and_keep_their_order(
    make_pool: Callable[[], Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def small_pair(*arguments: int) -> tuple[socket.socket, socket.socket]:
        pair = real(*arguments)
        pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes it enough for a few messages
        return pair

    real = socket.socketpair
    quick = make_pool()
    monkeypatch.setattr(socket, "socketpair", small_pair)
    slow = make_pool()
    slow.ask(0, "", descriptors=0)
    assert slow.receive()[0][:1] == b"E"  # so it is connected
    before = len(os.listdir(f"/proc/{_server_pid()}/fd"))
    for seat in range(60):
        slow.ask(seat, "" if seat % 2 else "time.sleep(1000)")
    for seat in range(5):  # the server is not held up
        quick.spawn(seat, "")
        assert quick.exit().seat == seat
    began: dict[int, int] = {}
    ended: list[int] = []
    while len(began) < 60 or len(ended) < 30:
        message, fds = slow.receive()
        if message[:1] == b"F":
            _, seat, _, pid = struct.unpack("<cHII", message)
            began[pid] = seat
            assert process_of(fds[0]) in ([pid, -1] if seat % 2 else [pid])
        else:
            ended.append(struct.unpack("<cHIIiBQ", message)[3])
            assert began[ended[-1]] % 2
    wait_for(lambda: len(os.listdir(f"/proc/{_server_pid()}/fd")) == before + 30)


def test_the_parents_death_ends_everything_within_a_second(stub: str) -> None:
    source = f"""{stub}
pools = [Pool(_launch.connect_pool()) for _ in range(2)]
for pool in pools:
    for seat in range(3):
        worker = pool.spawn(seat, "tell(daemon(3)); signal.signal(15, signal.SIG_IGN); time.sleep(1000)")
        print(worker.pid, worker.told(), flush=True)
for seat in range(40):  # reports that nobody takes
    pools[0].ask(seat, "")
print(_launch._servers[()].process.pid, flush=True)
pid = os.fork()  # a child that keeps the connections open
if pid:
    print(pid, flush=True)
time.sleep(1000)
"""
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    with parent, parent.stdout as out:  # type: ignore[union-attr]
        pids = [int(word) for _ in range(7) for word in out.readline().split()]
        assert len(pids) == 13
        assert all(map(state, pids))
        holder = int(out.readline())
        parent.kill()
        parent.wait()
        # The server itself is reaped by init, in its own time.
        try:
            assert wait_for(lambda: gone(*pids[:-1]) and state(pids[-1]) in ("", "Z")) < 1.0
        finally:
            os.kill(holder, signal.SIGKILL)


def test_a_dead_server_is_replaced(make_pool: Callable[[], Pool]) -> None:
    pool = make_pool()
    worker = pool.spawn(0, "time.sleep(1000)")
    server = _server_pid()
    os.kill(server, signal.SIGKILL)
    assert pool.receive()[0] == b""
    other = make_pool()
    assert _server_pid() != server
    other.spawn(0, "")
    assert other.exit().code == 0
    wait_for(lambda: gone(worker.pid, server))


def test_stopping_leaves_nothing(make_pool: Callable[[], Pool]) -> None:
    make_pool().finish()
    server = _server_pid()
    _launch.stop_servers()
    assert gone(server)
    assert not _launch._servers


def test_stopping_waits_until_strays_are_dead(make_pool: Callable[[], Pool]) -> None:
    pool = make_pool()
    worker = pool.spawn(0, "tell(daemon(4)); time.sleep(1000)")
    stray = worker.told()
    pool.connection.close()
    _launch.stop_servers()
    assert gone(worker.pid, stray)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise LookupError('not today')", "exit code 1.*LookupError: not today"),
        ("os.write(2, b'last words'); os._exit(3)", "exit code 3.*last words"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_a_server_that_cannot_start_says_why(program: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "RUN_MAIN", program)
    with pytest.raises(RuntimeError, match=f"(?s){words}"):
        _launch.connect_pool(("there_is_no_server_for_this",))


def test_a_server_that_hangs_at_the_start_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "RUN_MAIN", "import time; time.sleep(1000)")
    monkeypatch.setattr(_launch, "START_TIMEOUT", 1.0)
    monkeypatch.setattr(_launch, "PRELOAD_TIMEOUT", 0.0)
    with pytest.raises(RuntimeError, match="not ready after 1 s"):
        _launch.connect_pool(("there_is_no_server_for_this",))


def test_a_request_for_a_pool_that_has_ended_is_dropped(make_pool: Callable[[], Pool]) -> None:
    ended = make_pool()
    worker = ended.spawn(0, "time.sleep(1000)")
    server = server_of(worker)
    ended.close()
    wait_for(lambda: gone(worker.pid))
    null = os.open(os.devnull, os.O_RDWR)
    control = _launch._servers[()].control
    socket.send_fds(control, [struct.pack("<cHI", b"S", 1, 0)], [null] * 7)
    os.close(null)
    other = make_pool().spawn(0, "time.sleep(1000)")
    assert children(server) == [other.pid]


def test_a_server_that_takes_nothing_now_is_told_later(
    make_pool: Callable[[], Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is only good to know in advance is nothing to wait for."""
    monkeypatch.setattr(_ahead, "_added", _ahead._added.copy())
    make_pool()
    server = _launch._servers[()]
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        server.control.settimeout(0)
        with pytest.raises(BlockingIOError):
            while True:
                server.control.send(struct.pack("<cI", b"D", 1 << 31))
        server.control.settimeout(0.2)
        _ahead.import_ahead("colorsys")
        server.tell_ahead()
        assert server.ahead < _ahead.count()
        assert not server.prepare(_launch.Main(b"", ()))
    finally:
        server.control.settimeout(_launch.START_TIMEOUT)
        os.kill(server.process.pid, signal.SIGCONT)
    wait_for(server.takes)
    server.tell_ahead()
    assert server.ahead == _ahead.count()


@pytest.mark.usefixtures("stub")
def test_a_server_started_early_is_the_one_that_pools_get() -> None:
    _launch.start_early()
    server = _server_pid()
    assert state(server)
    pool = Pool(_launch.connect_pool())
    assert server_of(pool.spawn(0, "time.sleep(1000)")) == server
    assert _launch.is_near()
    pool.close()
    _launch.stop_servers()
    assert gone(server)


def test_an_early_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "RUN_MAIN", "import time; time.sleep(1000)")
    _launch.stop_servers()
    _launch.start_early()
    assert not _launch.is_near()
    server = _server_pid()
    assert state(server) in "RSD"
    monkeypatch.setattr(_launch, "_await_end", lambda pid, deadline: None)  # no patience: it is killed, not waited for
    _launch.stop_servers()
    assert gone(server)


def test_an_early_server_that_dies_says_why_and_is_replaced(monkeypatch: pytest.MonkeyPatch, stub: str) -> None:
    program = _launch.RUN_MAIN
    assert program in stub or repr(program) in stub
    monkeypatch.setattr(_launch, "RUN_MAIN", "raise LookupError('not today')")
    _launch.stop_servers()
    _launch.start_early()
    dead = _server_pid()
    wait_for(lambda: state(dead) == "Z")
    _launch.start_early()  # a second pool, which is told the same, and no second try
    assert _server_pid() == dead
    assert _launch.is_near()
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1.*LookupError: not today"):
        _launch.connect_pool()
    assert gone(dead)
    monkeypatch.setattr(_launch, "RUN_MAIN", program)
    pool = Pool(_launch.connect_pool())
    pool.finish()
    pool.close()
    _launch.stop_servers()


def test_what_the_program_has_of_the_standard_library_is_there_for_all_workers(stub: str, tmp_path: Path) -> None:
    (tmp_path / "chunk.py").write_text("")  # in front of the library's
    (tmp_path / "module_of_the_program.py").write_text("")
    finished = run_program(f"""{stub}
import wsgiref.handlers, zoneinfo, chunk, module_of_the_program
pool = Pool(_launch.connect_pool())
for name in ("wsgiref.handlers", "zoneinfo", "chunk", "module_of_the_program", "wsgiref.simple_server"):
    print(name, pool.spawn(0, f"tell({{name!r}} in sys.modules)").told(), pool.exit().code)
pool.finish()
_launch.stop_servers()
""")
    assert finished.stdout.splitlines() == [
        "wsgiref.handlers 1 0",
        "zoneinfo 0 0",  # reads the environment as it is imported
        "chunk 0 0",
        "module_of_the_program 0 0",
        "wsgiref.simple_server 0 0",
    ]


def test_an_interpreter_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "_executable", lambda: "/nowhere/python")
    _launch.start_early(("there_is_no_server_for_this",))  # this would be too soon to complain
    assert _launch.is_near(("there_is_no_server_for_this",))
    with pytest.raises(FileNotFoundError):
        _launch.connect_pool(("there_is_no_server_for_this",))


@pytest.mark.usefixtures("stub")
def test_what_cannot_be_preloaded_is_named() -> None:
    with pytest.raises(RuntimeError, match="No module named 'not_a_module_at_all'"):
        _launch.connect_pool(("not_a_module_at_all",))


def test_preloaded_modules_are_there_and_may_write_to_stderr(stub: str, tmp_path: Path) -> None:
    (tmp_path / "speaks.py").write_text("import sys; print('hello from a module', file=sys.stderr)")
    finished = run_program(f"""{stub}
pool = Pool(_launch.connect_pool(("speaks",)))
print(pool.spawn(0, "tell('speaks' in sys.modules); print('hello from a worker', file=sys.stderr)").told(), pool.exit().code)
pool.finish()
_launch.stop_servers()
""")
    assert finished.stdout.split() == ["1", "0"]
    assert finished.stderr.splitlines() == ["hello from a module", "hello from a worker"]


def test_a_forked_child_has_servers_of_its_own(stub: str) -> None:
    finished = run_program(f"""{stub}
Pool(_launch.connect_pool()).finish()
server = _launch._servers[()].process.pid
pid = os.fork()
if pid == 0:
    assert not _launch._servers
    Pool(_launch.connect_pool()).finish()
    assert _launch._servers[()].process.pid != server
    _launch.stop_servers()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
Pool(_launch.connect_pool()).finish()
assert _launch._servers[()].process.pid == server
_launch.stop_servers()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child")
""")
    assert (finished.stdout, finished.stderr) == ("no child\n", "")


def test_a_copy_of_the_program_serves_one_pool(stub: str) -> None:
    finished = run_program(f"""{stub}
warnings.simplefilter("error")
sys.stdout.write("once\\n")  # in the buffer when the fork comes
value = 12345
pool = Pool(_launch.fork_pool(stub.run))
worker = pool.spawn(0, "import __main__; tell(__main__.value)")
print(worker.told(), pool.exit().code)
stray = pool.spawn(1, "tell(daemon()); os.kill(os.getpid(), 9)").told()
print(pool.exit().code)
pool.finish()
pool.close()
_launch.stop_servers()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child")
""")
    assert (finished.stdout, finished.stderr) == ("once\n12345 0\n-9\nno child\n", "")


def test_forking_a_threaded_program_warns(stub: str) -> None:
    finished = run_program(f"""{stub}
import threading
end = threading.Event()
threading.Thread(target=end.wait).start()
pool = Pool(_launch.fork_pool(stub.run))
end.set()
pool.finish()
_launch.stop_servers()
""")
    assert "RuntimeWarning: the process is forked while it has several threads" in finished.stderr


@pytest.mark.parametrize("how", ["connect_pool()", "fork_pool(stub.run)"])
def test_ctrl_c_and_hangup_do_not_end_a_server(stub: str, how: str) -> None:
    finished = run_program(f"""{stub}
pool = Pool(_launch.{how})
worker = pool.spawn(0, "tell(os.getppid())")
server = worker.told()
assert os.getpgid(server) == server
pool.exit()
os.kill(server, signal.SIGINT)
os.kill(server, signal.SIGHUP)
pool.spawn(1, "tell(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL)").told()
print(pool.exit().code)
pool.finish()
_launch.stop_servers()
""")
    assert finished.stdout == "0\n"


def _server_pid() -> int:
    return _launch._servers[()].process.pid
