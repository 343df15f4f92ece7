"""What the tests of the process pool share: waits under a watchdog, a look at processes, cases in a process of their own.

Nothing here knows how the pool is built: processes are found through /proc, runs are counted through files.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from tests.processes import _tasks

T = TypeVar("T")

WATCHDOG = 60.0
"""Seconds that one wait may take before the test fails: no measure of speed, and never reached by a healthy pool."""

CASE_LIMIT = 90.0
"""Seconds for a whole case: longer than a wait inside it, shorter than the time limit of a test."""

SLACK = float(os.environ.get("PLAIT_TEST_SLACK", "2"))
"""Seconds added to a promised bound, for a noisy machine with two cores."""

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


# ---- waiting -------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], T | None], what: str = "", timeout: float = WATCHDOG) -> T:
    """Poll `condition` until it is true and return its value; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still waiting after {timeout} s for {what or condition}")
        time.sleep(0.002)
    return value


# ---- processes -----------------------------------------------------------------------------------


class Proc(NamedTuple):
    """One line of /proc/PID/stat; `start` tells a process from a later one with the same pid."""

    pid: int
    ppid: int
    state: str
    start: int
    name: str


def look_at(pid: int) -> Proc | None:
    """The process, also when it is a zombie; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return Proc(pid, int(fields[1]), fields[0], int(fields[19]), name)


def descendants(root: int) -> list[Proc]:
    """All processes below `root`, zombies too."""
    everyone = [p for entry in os.listdir("/proc") if entry.isdigit() and (p := look_at(int(entry)))]
    below = {root}
    while more := {p.pid for p in everyone if p.ppid in below} - below:
        below |= more
    return [p for p in everyone if p.pid in below and p.pid != root]


def alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    process = look_at(pid)
    return process is not None and process.state not in "ZX"


def gone(pids: Iterable[int]) -> bool:
    """Whether none of the processes runs."""
    return not any(alive(pid) for pid in pids)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def describe(processes: Iterable[Proc]) -> str:
    return "\n".join(f"  {p.pid} (parent {p.ppid}, {p.state}, {p.name}) {command_line(p.pid)}" for p in processes)


def zombies() -> list[Proc]:
    """Zombies among the descendants of this process."""
    return [p for p in descendants(os.getpid()) if p.state == "Z"]


def shm_names() -> set[str]:
    """What lies in /dev/shm, but for the semaphores of `multiprocessing`: other programs of this machine make those."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}


def open_files() -> int:
    """How many descriptors this process has; what waits for the collector is closed first."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    """How many mappings of memfds this process has."""
    gc.collect()
    return sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


def voluntary_switches(pids: Iterable[int]) -> int:
    """How often the threads of these processes went to sleep by themselves, so: how often they were awake."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
    return total


def message_of(error: BaseException | None) -> str:
    """All that a user reads of an error: its type, its message, its notes, its causes."""
    words = []
    while error is not None:
        words += [type(error).__name__, str(error), *getattr(error, "__notes__", ())]
        error = error.__cause__ or error.__context__
    return "\n".join(words)


# ---- cases: a program in a process of its own ----------------------------------------------------


class Case:
    """A program that runs under a warden (`_warden.py`), so that nothing it leaves behind goes unseen.

    The warden is the reaper of all orphans below it and ends when the last descendant is gone. Output goes to files: a
    process that is left over cannot hold a pipe open.
    """

    def __init__(self, folder: Path, command: list[str], *, env: dict[str, str | None] | None = None, stdin: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        environment = dict(os.environ)
        path = [str(ROOT), environment.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONFAULTHANDLER": "1"}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        for name, value in (env or {}).items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        (folder / "stdin").write_text(stdin)
        self._shm = shm_names()
        self._died_at = 0.0
        with (
            open(folder / "stdin", "rb") as source,
            open(folder / "stdout", "wb") as out,
            open(folder / "stderr", "wb") as err,
        ):
            self.warden = subprocess.Popen(
                [sys.executable, "-I", str(HERE / "_warden.py"), str(folder / "status"), *command],
                stdin=source,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        try:
            self.pid: int = wait_until(lambda: self._status().get("pid"), "the warden to start its program")
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _status(self) -> dict[str, int]:
        try:
            lines = (self.folder / "status").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        found: dict[str, int] = {}
        for line in lines:
            if line.endswith("\n"):
                found |= json.loads(line)
        return found

    def output(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    def errors(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def wait_line(self, text: str, timeout: float = WATCHDOG) -> None:
        """Wait until the program has printed a line `text`."""

        def printed() -> bool:
            assert self.returncode() is None or text in self.output().splitlines(), self.report("ended early")
            return text in self.output().splitlines()

        wait_until(printed, f"the line {text!r} of {self.report()}", timeout)

    def returncode(self) -> int | None:
        """As in `subprocess`: None while the program runs, minus the signal that ended it."""
        return self._status().get("exit")

    def send(self, signum: int) -> None:
        if signum == signal.SIGKILL:
            self._died_at = time.monotonic()
        os.kill(self.pid, signum)

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does: SIGINT to the whole foreground process group."""
        os.killpg(self.pid, signal.SIGINT)

    def below(self) -> list[Proc]:
        """All processes that exist on behalf of the program, itself and orphans included."""
        return descendants(self.warden.pid)

    def wait(self, timeout: float = CASE_LIMIT) -> int:
        """Wait for the end of the program; when it does not end, its Python stacks are part of the failure."""
        deadline = time.monotonic() + timeout
        while (code := self.returncode()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGABRT)  # faulthandler prints the stacks of all threads
                time.sleep(1)
                raise AssertionError(self.report(f"still runs after {timeout} s"))
            time.sleep(0.002)
        self._died_at = self._died_at or time.monotonic()
        return code

    def settle(self, timeout: float = WATCHDOG / 4) -> float:
        """Wait until no process is left; return the seconds since the program was killed or seen to have ended."""
        try:
            self.warden.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.report(f"left behind for {timeout} s:\n{describe(self.below())}")) from None
        return time.monotonic() - self._died_at

    def check(self, code: int = 0, timeout: float = CASE_LIMIT) -> None:
        """The end of every case: right exit code, no process left, no name left in /dev/shm."""
        assert self.wait(timeout) == code, self.report("wrong exit code")
        self.settle()
        self.check_shm()

    def check_shm(self) -> None:
        # Other programs have names there too, most of them for an instant only.
        wait_until(lambda: not shm_names() - self._shm, "names in /dev/shm to go", timeout=5)

    def report(self, what: str = "") -> str:
        return (
            f"{what} (exit code {self.returncode()})\n--- stdout\n{self.output()[-4000:]}"
            f"\n--- stderr\n{self.errors()[-8000:]}\n--- processes\n{describe(self.below())}"
        )

    def stop(self) -> None:
        """Kill whatever is left of the case."""
        while self.warden.poll() is None:
            for process in self.below():
                try:
                    os.kill(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not self.below() and not self._status():
                self.warden.kill()
            time.sleep(0.005)


def start_case(folder: Path, name: str, *arguments: Any, env: dict[str, str | None] | None = None) -> Case:
    """Start `tests/processes/cases/MODULE.py`, function FUNCTION, for `name` "MODULE.FUNCTION".

    The function gets a folder of its own and `arguments` as strings.
    """
    runner = [sys.executable, str(HERE / "_run_case.py"), name, str(folder), *map(str, arguments)]
    return Case(folder, runner, env=env)


def run_case(folder: Path, name: str, *arguments: Any, env: dict[str, str | None] | None = None) -> str:
    """Run a case to its end, check that it passed and left nothing behind; return what it printed."""
    with start_case(folder, name, *arguments, env=env) as case:
        case.check()
        assert case.output().splitlines()[-1:] == ["passed"], case.report("did not come to its end")
        return case.output()


# ---- random kills -------------------------------------------------------------------------------


class Killer:
    """Kills random workers of a pool until it has killed so many."""

    def __init__(self, pool, kills, chance):
        self.pool = pool
        self.chance = chance
        self.wanted = kills
        self.killed = set()
        self.server = pool.submit(_tasks.parent_pid).result(WATCHDOG)
        self.thread = threading.Thread(target=self._run, name="killer")
        self.stop = threading.Event()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    @property
    def busy(self):
        return self.thread.is_alive()

    def _run(self):
        while len(self.killed) < self.wanted and not self.stop.is_set():
            time.sleep(self.chance.choice((0, 0.002, 0.01, 0.03, 0.06)))
            pids = list(self.pool._processes)
            if pids:
                self._kill(self.chance.choice(pids))

    def _kill(self, pid):
        # By descriptor, and only a child of the fork server: the pid of a dead worker may be somebody else's by now.
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                process = look_at(pid)
                if process and process.ppid == self.server and process.state not in "ZX" and pid not in self.killed:
                    self.killed.add(pid)  # before the kill: its consequences are seen by others at once
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


# ---- inside a case, and inside tests -------------------------------------------------------------


def check_usable(pool: Any) -> None:
    """The pool still does what pools do."""
    assert pool.submit(pow, 2, 10).result(WATCHDOG) == 1024
    assert list(pool.map(abs, range(-20, 0), timeout=WATCHDOG)) == list(range(20, 0, -1))
    futures = [pool.submit(divmod, i, 7) for i in range(20)]
    assert [f.result(WATCHDOG) for f in futures] == [divmod(i, 7) for i in range(20)]


def check_calm() -> None:
    """After the last pool has ended: no worker, nothing that a worker started, no zombie.

    A fork server may stay: it is a child of this process and has no children itself.
    """
    me = os.getpid()

    def left():
        return [p for p in descendants(me) if p.ppid != me or p.state == "Z"]

    try:
        wait_until(lambda: not left(), timeout=15)
    except AssertionError:
        if still := left():
            raise AssertionError(f"left after the last pool has ended:\n{describe(still)}") from None
