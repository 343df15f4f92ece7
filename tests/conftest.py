"""What all tests share: programs under a time limit, the watchdog's report, and a search for what a test left behind.

- `run_script` runs a program in a session of its own and kills whatever it leaves.
- A test that runs into its time limit (pyproject.toml, `timeout`) shows every process below this one, what it waits for, and
  then the stacks of this one's threads.
- After each test no new child process, no zombie and no new descriptor may be left. A fork server may: there is one for
  each program. Tests marked `lasting` are not searched: for those with a pool that outlives the test.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Protocol, TypeVar

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Run in the background of a shell, which passes this on to every program that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

PATIENCE = 5.0  # seconds that something which is about to end is waited for
T = TypeVar("T")
MARK = "PLAIT_TEST_RUN"  # in the environment of a script and of all it starts
# In the command lines of helpers that are kept until the program ends: ours, and multiprocessing's own.
SERVERS = ("plait.processes._server", "multiprocessing.forkserver", "multiprocessing.resource_tracker")
FILES_OF_A_SERVER = 4
signal_pipe: list[str] = []
"""Both ends of the pipe by which signals wake the main thread. It is made when a result is first waited for, and kept."""
EVENT = "anon_inode:[eventfd]"
KEPT_EVENTS = 1  # by which others wake the main thread
kept_events: list[str] = []
"""Those that were made so far. Each is made when it is first needed, and kept."""


class Process(NamedTuple):
    """One process as /proc shows it."""

    pid: int
    parent: int
    state: str  # R, S, D, Z ...
    command: str

    @property
    def is_server(self) -> bool:
        return self.state != "Z" and any(name in self.command for name in SERVERS)


def read(path: str) -> str:
    """A file of /proc; empty if its process has gone or is not ours to look at."""
    try:
        with open(path, "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def processes() -> dict[int, Process]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := read(f"/proc/{name}/stat")):
            state, parent = stat.rpartition(")")[2].split()[:2]
            command = read(f"/proc/{name}/cmdline") or f"[{read(f'/proc/{name}/comm')}]"
            found[int(name)] = Process(int(name), int(parent), state, command)
    return found


def descendants(pid: int) -> list[Process]:
    """All processes below `pid`, parents before their children."""
    known = processes()
    below: list[Process] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        children = [process for process in known.values() if process.parent == parent]
        below += children
        waiting += [child.pid for child in children]
    return below


def describe(pid: int) -> str:
    """`pid`, its threads, and what each of them waits for: one line a thread."""
    lines = [f"process {pid}: {read(f'/proc/{pid}/cmdline')[:100]}"]
    for thread in sorted(os.listdir(f"/proc/{pid}/task")) if os.path.isdir(f"/proc/{pid}/task") else []:
        at = f"/proc/{pid}/task/{thread}"
        state = read(f"{at}/stat").rpartition(")")[2].split()[:1]
        lines.append(
            f"  {read(f'{at}/comm'):<16}{''.join(state)} {read(f'{at}/wchan')}  syscall {read(f'{at}/syscall')[:60]}"
        )
    return "\n".join(lines)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> Generator[None, object, object]:
    """Have the processes shown before pytest-timeout shows the stacks and fails the test.

    Its signal handler is wrapped, and no thread started: that would make every fork of a test the fork of a threaded program.
    """
    done = yield
    fail = signal.getsignal(signal.SIGALRM)
    if callable(fail):

        def handler(number: int, frame: FrameType | None) -> None:
            report = "\n".join(map(describe, [os.getpid(), *(each.pid for each in descendants(os.getpid()))]))
            print(f"\n{item.nodeid} is stuck; its processes:\n{report}", file=sys.__stderr__, flush=True)
            fail(number, frame)

        signal.signal(signal.SIGALRM, handler)
    return done


class Belongings(NamedTuple):
    """What this process has to give back in the end."""

    servers: set[int]
    children: dict[int, Process]
    files: list[str]


def belongings() -> Belongings:
    mine = [process for process in processes().values() if process.parent == os.getpid()]
    files = []
    for name in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # the descriptor of the listing itself
    return Belongings(
        {each.pid for each in mine if each.is_server}, {each.pid: each for each in mine if not each.is_server}, files
    )


def left_behind(before: Belongings) -> list[str]:
    """What is there now and was not before; a new fork server and the few descriptors it costs are not counted."""
    now = belongings()
    found = [
        f"{'zombie' if each.state == 'Z' else 'child'} {each}"
        for pid, each in now.children.items()
        if pid not in before.children
    ]
    allowed = FILES_OF_A_SERVER * len(now.servers - before.servers)
    if len(now.files) > len(before.files) + allowed:
        new = list(now.files)
        for file in before.files:
            if file in new:
                new.remove(file)
        if not set(signal_pipe) <= set(now.files):
            signal_pipe.clear()  # it was another's, which has been closed since
        signal_pipe[:] = signal_pipe or [file for file in new if file.startswith("pipe:") and new.count(file) == 2][:2]
        allowed += len(set(signal_pipe) & set(new)) * 2
        allowed += min(KEPT_EVENTS - len(kept_events), new.count(EVENT))
    if len(now.files) > len(before.files) + allowed:
        found.append(f"{len(now.files) - len(before.files)} descriptors more than before, of these: {sorted(new)}")
    return found


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, a zombie or a descriptor."""
    if request.node.get_closest_marker("lasting"):
        yield
        return
    before = belongings()
    yield
    found = poll(lambda: left_behind(before), lambda found: not found, 0.0)
    if found:
        gc.collect()  # what only the collector would close, or was still ending
        found = poll(lambda: left_behind(before), lambda found: not found, PATIENCE)
    assert not found, "left behind:\n" + "\n".join(found)
    made = belongings().files.count(EVENT) - before.files.count(EVENT)
    kept_events.extend([EVENT] * min(made, KEPT_EVENTS - len(kept_events)))


def poll(look: Callable[[], T], good: Callable[[T], bool], patience: float) -> T:
    """Look until it is good or patience ends; the last that was seen."""
    deadline = time.monotonic() + patience
    while not good(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return seen


@dataclass
class Finished:
    """How a script ended, and the command lines of the processes that outlived it."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    leftovers: list[str] = field(default_factory=list)


class RunScript(Protocol):
    def __call__(
        self,
        source: str | Path,
        *arguments: str,
        timeout: float = 60.0,
        env: dict[str, str] | None = None,
        way: str = "file",
        check: bool = True,
        leftovers: bool = False,
        cwd: str | Path | None = None,
        during: Callable[[subprocess.Popen[str]], object] | None = None,
    ) -> Finished: ...


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Run a Python program in a subprocess and session of its own, and kill what it leaves.

    `source` is text or the path of a program. `way` is "file", "-c" or "-" (standard input): how the interpreter gets it.
    `check` asks for exit code 0. Unless `leftovers` is allowed, no process that the program started may outlive it by
    more than five seconds. `during` is called with the running process, e.g. to kill it. After `timeout` seconds the
    program is aborted so that its stacks are in the failure.
    """

    def run(
        source: str | Path,
        *arguments: str,
        timeout: float = 60.0,
        env: dict[str, str] | None = None,
        way: str = "file",
        check: bool = True,
        leftovers: bool = False,
        cwd: str | Path | None = None,
        during: Callable[[subprocess.Popen[str]], object] | None = None,
    ) -> Finished:
        mark = uuid.uuid4().hex
        if isinstance(source, Path):
            program = str(source)
        elif way == "file":
            file = tmp_path / f"script_{mark[:8]}.py"
            file.write_text(source)
            program = str(file)
        else:
            program = source
        command = {"file": [program], "-c": ["-c", program], "-": ["-"]}[way]
        began = time.monotonic()
        with (tmp_path / f"{mark}.out").open("w+") as stdout, (tmp_path / f"{mark}.err").open("w+") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", *command, *arguments],
                stdin=subprocess.PIPE if way == "-" else subprocess.DEVNULL,
                stdout=stdout,  # files, not pipes: what outlives the program cannot hold us up
                stderr=stderr,
                env={**os.environ, **(env or {}), MARK: mark},
                cwd=cwd,
                text=True,
                start_new_session=True,
            )
            try:
                if way == "-" and process.stdin is not None:
                    process.stdin.write(program)
                    process.stdin.close()
                if during is not None:
                    during(process)
                process.wait(timeout - (time.monotonic() - began))
                late = ""
            except subprocess.TimeoutExpired:
                late = "\n".join(map(describe, [process.pid, *(each.pid for each in descendants(process.pid))]))
                process.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    pass
            finally:
                seconds = time.monotonic() - began
                patience = 0.0 if leftovers or process.poll() is None else PATIENCE
                left = end_all(process, mark, patience)
            texts = []
            for output in (stdout, stderr):
                output.seek(0)
                texts.append(output.read())
        result = Finished(process.returncode, texts[0], texts[1], seconds, left)
        shown = f"\n--- stdout\n{result.stdout}\n--- stderr\n{result.stderr}"
        if late:
            pytest.fail(f"the script did not end within {timeout} s{shown}\n--- processes\n{late}")
        if check:
            assert result.returncode == 0, f"the script ended with {result.returncode}{shown}"
        assert leftovers or not left, f"the script left processes behind: {left}{shown}"
        return result

    return run


def end_all(process: subprocess.Popen[str], mark: str, patience: float) -> list[str]:
    """Wait for what the script started, then kill the rest; the command lines of the rest are returned.

    Found by the session or by the mark in the environment: a new session hides from the one, a new environment from the other.
    """

    def alive() -> list[Process]:
        return [
            each
            for each in processes().values()
            if each.state != "Z"
            and each.pid != process.pid
            and (session(each.pid) == process.pid or f"{MARK}={mark}" in read(f"/proc/{each.pid}/environ"))
        ]

    rest = poll(alive, lambda found: not found, patience)
    if process.poll() is None:
        process.kill()
    for each in rest:
        try:
            os.kill(each.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    return [each.command for each in rest]


def session(pid: int) -> int:
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[3]) if len(fields) > 3 else -1
