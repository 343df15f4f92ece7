"""The command `plait top`: what it shows of a program that runs, as lines, as JSON and on a terminal, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plait.cli import _top
from plait.cli._usage import WrongUsage
from plait.observe._states import STATES
from plait.observe._top import Top
from plait.observe.report import top as report
from plait.observe.report.terminal import columns

BUSY = """
import subprocess, sys, threading, time

def spin():
    while True:
        sum(range(1000))

def snooze():
    while True:
        time.sleep(0.01)

for work in spin, snooze:
    threading.Thread(target=work, daemon=True, name=work.__name__).start()
child = None
if "child" in sys.argv:
    child = subprocess.Popen([sys.executable, "-c", "print('born', flush=True); input()"], stdin=subprocess.PIPE)
print("up", flush=True)
sys.stdin.readline()
if child is not None:
    child.communicate(b"x")
sys.exit(7)
"""


def top(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "plait", "top", *arguments], capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a program that goes on until it reads a line."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, source: str = BUSY) -> subprocess.Popen[str]:
        path = tmp_path / "busy.py"
        path.write_text(source)
        program = subprocess.Popen(
            [sys.executable, str(path), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        begun.append(program)
        assert program.stdout is not None
        line = program.stdout.readline()
        if "child" in arguments:
            line += program.stdout.readline()
        assert "up" in line
        return program

    yield begin
    for program in begun:
        program.kill()
        program.communicate()


def test_once_as_lines(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    ran = top("--pid", str(program.pid), "--once", "-i", "0.5")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].startswith(f"{program.pid} {Path(sys.executable).name} /")
    assert "1 process, 3 threads" in lines[1]
    assert lines[2].split()[:3] == ["TID", "THREAD", "CPU*"]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in ran.stdout
    rows = {line.split()[1]: line.split() for line in lines[4:] if line}
    assert set(rows) == {"MainThread", "spin", "snooze"}
    assert rows["spin"][-1] == "spin"
    assert rows["MainThread"][0] == str(program.pid)


def test_json_adds_up(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start("child")
    ran = top("--pid", str(program.pid), "--json", "--count", "2", "--interval", "0.4")
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (ran.returncode, len(records)) == (0, 2), ran.stderr
    for record in records:
        assert (record["schema"], record["pid"]) == (1, program.pid)
        assert record["seconds"] > 0.2
        assert record["looks"] > 0
        assert len(record["processes"]) == 2
        for thread in record["threads"]:
            assert sum(thread[state] for state in STATES) == pytest.approx(1, abs=1e-6)
        for process in record["processes"]:
            mine = [thread for thread in record["threads"] if thread["pid"] == process["pid"]]
            for name in ("cpu", *STATES):
                own = sum(thread[name] * thread["seconds"] for thread in mine) / record["seconds"]
                assert process[name] == pytest.approx(own, abs=1e-6)
            assert process["python"] == ".".join(map(str, sys.version_info[:3]))
            assert process["pid"] == program.pid or process["parent"] == program.pid
        threads = {thread["name"]: thread for thread in record["threads"] if thread["pid"] == program.pid}
        assert threads["spin"]["top"]["function"] == "spin"
        assert threads["spin"]["cpu"] > threads["MainThread"]["cpu"]
        # As busy as the machine lets it be.
        assert sum(threads["spin"][state] for state in ("on_cpu_gil", "on_cpu_released", "ready", "gil_wait")) > 0.7
        assert threads["MainThread"]["io_wait"] + threads["MainThread"]["gil_wait"] > 0.5


def test_a_process_that_ends_meanwhile(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    watching = subprocess.Popen(
        [sys.executable, "-m", "plait", "top", "--pid", str(program.pid), "-i", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    for line in watching.stdout:
        if " spin " in line:
            break
    program.communicate("x")
    rest, errors = watching.communicate(timeout=30)
    assert (watching.returncode, errors) == (0, "")
    _, ended, summary = rest.partition(f"plait: process {program.pid} has ended; all that was seen of it:\n")
    assert ended
    assert re.search(r"\d+  spin ", summary)


def test_a_program_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("import sys, time\nprint(sys.stdin.read(), sys.argv)\ntime.sleep(0.6)\nsys.exit(7)\n")
    ran = top("-i", "0.2", "--", sys.executable, str(path), "a", "--json", input="typed")
    assert (ran.returncode, ran.stdout) == (7, f"typed {[str(path), 'a', '--json']}\n")
    assert "has ended with 7; all that was seen of it:" in ran.stderr
    assert "MainThread" in ran.stderr
    figures = tmp_path / "figures"
    ran = top(f"--json={figures}", "-i", "0.2", "--", sys.executable, str(path), "a")
    assert (ran.returncode, ran.stderr) == (7, "")
    *records, last = [json.loads(line) for line in figures.read_text().splitlines()]
    assert records
    assert last["ended"]
    assert last["code"] == 7
    assert [process["python"] for process in last["processes"]] == [".".join(map(str, sys.version_info[:3]))]
    ran = top("--once", "-i", "0.2", "--", sys.executable, str(path))
    assert (ran.returncode, ran.stderr.count("THREAD")) == (7, 1), "it goes on, unwatched"


@pytest.mark.parametrize(
    ("source", "code"),
    [("import os; os.kill(os.getpid(), 9)", 137), ("import os; os.abort()", 134), ("raise SystemExit(0)", 0)],
)
def test_the_code_of_the_program(source: str, code: int) -> None:
    assert top("--", sys.executable, "-c", source).returncode == code


def test_a_program_that_is_not_python() -> None:
    ran = top("--", "sh", "-c", "sleep 0.7; exit 3")
    assert ran.returncode == 3
    assert " no Python" in ran.stderr
    ran = top("--json", "--", "sh", "-c", "sleep 0.7; exit 3")
    last = json.loads(ran.stdout.splitlines()[-1])
    assert last["code"] == 3
    assert all("does not run Python" in process["why"] for process in last["processes"])
    # What it becomes later is looked at.
    became = "import time; time.sleep(1.2)"
    ran = top("--json", "--", "sh", "-c", f"exec {sys.executable} -c '{became}'")
    last = json.loads(ran.stdout.splitlines()[-1])
    assert [process["python"] is not None for process in last["processes"]] == [True]


def test_signals_are_for_the_program(tmp_path: Path) -> None:
    source = "import signal; print('up', flush=True); print(signal.sigwait({signal.SIGTERM})); raise SystemExit(5)"
    begin = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM});"
    watching = subprocess.Popen(
        [sys.executable, "-m", "plait", "top", "--", sys.executable, "-c", begin + source],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline() == "up\n"
    watching.send_signal(signal.SIGTERM)
    assert watching.communicate(timeout=30)[0].strip() in {"15", "Signals.SIGTERM"}
    assert watching.returncode == 5


def test_an_interrupt_ends_the_lines(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    watching = subprocess.Popen(
        [sys.executable, "-m", "plait", "top", "--pid", str(program.pid), "-i", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=30)
    assert (watching.returncode, errors) == (130, "")
    assert program.poll() is None


def test_who_reads_no_more(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    ran = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m plait top --pid {program.pid} -i 0.1 | head -n 1"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ran.stdout.startswith(str(program.pid))
    assert ran.stderr == ""


# ---- errors


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "needs a process"),
        (["--pid", "1", "--", "true"], "and not both"),
        (["--pid", "x"], "--pid needs a number of a process, not 'x'"),
        (["--pid", "0"], "--pid"),
        (["--pid", "1", "--count", "0"], "--count"),
        (["--pid", "1", "--interval", "soon"], "--interval needs a number of seconds"),
        (["--pid", "1", "--interval", "0"], "--interval must be"),
        (["--pid", "1", "--interval", "nan"], "--interval must be"),
        (["--pid", "1", "--sort", "size"], "--sort needs one of tid, name, cpu"),
    ],
)
def test_wrong_usage(words: list[str], what: str) -> None:
    with pytest.raises(WrongUsage, match=re.escape(what)):
        _top.run(words)


def test_no_such_process_and_no_python() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    ran = top("--pid", str(gone.pid), "--once")
    assert (ran.returncode, ran.stderr) == (2, f"plait: --pid {gone.pid}: there is no process {gone.pid}\n")
    with subprocess.Popen(["sleep", "60"]) as other:
        ran = top("--pid", str(other.pid), "--once")
        other.kill()
    assert ran.returncode == 125
    assert "does not run Python 3.11 or newer" in ran.stderr
    ran = top("--", "sleep", "0.4")
    assert ran.returncode == 0
    assert "it never ran Python" in ran.stderr
    ran = top("--", "/nowhere/at/all")
    assert ran.returncode == 2
    assert "/nowhere/at/all" in ran.stderr


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="for root, who can become others")
def test_the_process_of_another_user(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    words = ["-m", "plait", "top", "--pid", str(program.pid), "--once"]
    asked = "import os, plait, sys; print(os.access(sys.executable, os.X_OK))"
    answer = subprocess.run([*nobody, sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.skip("others cannot read this interpreter or plait")
    ran = subprocess.run([*nobody, sys.executable, *words], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 125
    assert "be the same user as it (or root)" in ran.stderr
    assert "plait profile" in ran.stderr
    if answer.stdout != "True\n":
        return
    # Its own it may watch.
    ran = subprocess.run(
        [*nobody, sys.executable, "-m", "plait", "top", "-i", "0.2", "--", sys.executable, "-c", "input()"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert "EOFError" in ran.stderr


def test_threads_have_their_names(start: Callable[..., subprocess.Popen[str]]) -> None:
    source = """
import sys, threading, time
for name in "alpha", "beta":
    threading.Thread(target=time.sleep, args=(60,), name=name, daemon=True).start()
print("up", flush=True)
sys.stdin.readline()
"""
    program = start(source=source)
    ran = top("--pid", str(program.pid), "--once", "-i", "0.3", "--json")
    names = {thread["name"] for thread in json.loads(ran.stdout)["threads"]}
    free_before = sys.version_info < (3, 14) and bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    if not free_before:
        assert names == {"MainThread", "alpha", "beta"}


def test_a_process_that_is_stopped(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    os.kill(program.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
    ran = top("--pid", str(program.pid), "--once", "-i", "0.5", "--json")
    [record] = [json.loads(line) for line in ran.stdout.splitlines()]
    for thread in record["threads"]:
        assert thread["halted"] == pytest.approx(1, abs=0.01), thread
        assert sum(thread[state] for state in STATES) == pytest.approx(0, abs=0.01)
        assert thread["call"] is None
    lines = top("--pid", str(program.pid), "--once", "-i", "0.5").stdout.splitlines()
    assert "1 process, 3 threads  STOPPED  CPU 0%  GIL wait 0%" in lines[1]
    assert lines[3].endswith(" stopped")
    assert sum(" stopped in " in line for line in lines[4:7]) == 3
    os.kill(program.pid, signal.SIGCONT)
    ran = top("--pid", str(program.pid), "--once", "-i", "0.5", "--json")
    [record] = [json.loads(line) for line in ran.stdout.splitlines()]
    assert all(thread["halted"] == 0 for thread in record["threads"])


def test_a_stall_makes_no_interval_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    seen: list[tuple[float, float, int]] = []
    looks_last = 3

    class Told:
        pid, looks, since = 7, 3, 100.0

        def sample(self) -> None:
            self.looks += looks_last

        def interval(self) -> Any:
            seen.append((now, now - self.since, self.looks))
            self.since, self.looks = now, 0

    monkeypatch.setattr(time, "monotonic", lambda: now)
    settings = _top._Settings(7, [], 1.0, None, "", report.Order())
    watching = _top._Watching(settings, sys.stdout, None, False)  # type: ignore[arg-type]
    monkeypatch.setattr(watching, "show", lambda record: None)
    watching.begin(Told(), "x")  # type: ignore[arg-type]

    def until(end: float) -> None:
        nonlocal now
        while now < end:
            now += max(0.01, watching.timeout() or 0.0)
            watching.tick()

    until(102.5)
    assert [round(at) for at, _, _ in seen] == [101, 102]
    now += 3.4  # it was stopped
    until(109.5)
    assert all(length > 0.5 and looks > 0 for _, length, looks in seen), seen
    looks_last = 0
    until(112.5)
    assert len(seen) == 7, seen
    assert now - seen[-1][0] > 2, seen
    looks_last = 1
    until(114.5)
    assert all(length > 0.5 and looks > 0 for _, length, looks in seen), seen


# ---- order and layout


def row(pid: int, tid: int, name: str, **figures: float) -> Any:
    shares = dict.fromkeys(("cpu", *STATES, "stop_the_world", "halted", "switches"), 0.0) | figures
    return {"pid": pid, "tid": tid, "name": name, "seconds": 1.0, "top": None, "call": None, **shares}


def test_order_and_width() -> None:
    threads = [row(7, 7, "b" * 40, cpu=0.2), row(7, 9, "名前" * 9, cpu=0.9, switches=1e6), row(7, 8, "a\x1b[2J")]
    threads[1]["top"] = {"function": "f" * 60, "file": "/a/b/c.py", "line": 3}
    process: Any = {**row(7, 7, "python", cpu=120.0), "parent": 1, "python": "3.13.0", "gil": True, "why": None}
    record: Any = {"schema": 1, "pid": 7, "at": 0.0, "seconds": 1.0, "looks": 3}
    record |= {"processes": [process], "threads": threads}

    def tids(column: str, turned: bool = False) -> list[int]:
        rows = report.table(record, report.Order(column, turned), 80)
        return [int(line.split()[0]) for line in rows[2:]]

    assert tids("cpu") == [9, 7, 8]
    assert tids("cpu", turned=True) == [8, 7, 9]
    assert tids("tid") == [7, 8, 9]
    assert tids("name") == [8, 7, 9]
    assert tids("top", turned=True)[0] == 9
    for width in (40, 80, 132):
        lines = [*report.heading(record, "python x" * 30, width), *report.table(record, report.Order(), width)]
        assert {columns(line) for line in lines} == {width}
        assert not any("\x1b" in line for line in lines)
    process["gil"] = False
    free = report.table(record, report.Order("stop_the_world"), 80)
    assert "STW*" in free[0]
    assert not {"GIL", "HLD"} & set(free[0].split())
    assert {columns(line) for line in free} == {80}
    assert "stopped 0%" in report.heading(record, "x", 80)[1]
    process["gil"] = True
    assert report.heading(record, "x", 80)[1].rstrip().endswith("0 switches/s  1.0 s, 3 looks")
    assert report.heading(record, "x", 40)[1].rstrip() == "1 process, 3 threads  CPU 12000%", "no half of a figure"


@pytest.mark.parametrize("column", [column for column in report.COLUMNS if column != "top"])
def test_titles_stand_apart_above_their_figures(column: str, start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    watched = Top(program.pid)
    watched.sample()
    record = watched.interval()
    order = report.Order(column)
    lines = report.table(record, order, 120)
    signed = [title + ("*" if name == column else "") for name, title in report.COLUMNS.items()]
    assert lines[0].split() == [each for each in signed if each in lines[0].split()]
    assert report.COLUMNS[column] + "*" in lines[0].split()
    ends = [match.end() for match in re.finditer(r"[A-Z/]+\*?", lines[0])][2:-1]
    for line in lines[1:]:
        assert all(line[end - 1].isdigit() and line[end] == " " for end in ends), (lines[0], line)


def test_threads_that_end_are_kept_in_bounds(start: Callable[..., subprocess.Popen[str]]) -> None:
    from plait.observe import _top as figures

    sums = figures._Sums()
    for number in range(1, 2000):
        seen = {"seconds": 0.1, "looks": 1, "processes": [], "threads": [row(7, number, "t", cpu=0.5, io_wait=1.0)]}
        sums.add(seen)
        sums.bound({(7, number)})
    record = sums.record(7)
    assert len(record["threads"]) <= figures.ENDED_KEPT + 2
    assert sum(thread["seconds"] for thread in record["threads"]) == pytest.approx(199.9)
    assert sum(thread["cpu"] * thread["seconds"] for thread in record["threads"]) == pytest.approx(99.95)


def test_from_within_a_program(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    seen = Top(program.pid)
    while "spin" not in {thread["name"] for thread in seen.whole()["threads"] if thread["top"]}:
        time.sleep(0.05)
        seen.sample()
    assert seen.interval()["seconds"] == seen.whole()["seconds"]
    with pytest.raises(ProcessLookupError, match="no process"):
        Top(0x7FFFFFFF)


# ---- a terminal


opened: list[Terminal] = []


@pytest.fixture(autouse=True)
def close_terminals() -> Iterator[None]:
    """Ends what a test that fails leaves."""
    yield
    while opened:
        opened[-1].kill()


class Terminal:
    """A pseudo-terminal with a program in it, and what is on its screen."""

    def __init__(self, command: list[str], size: tuple[int, int] = (24, 80)) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(command[0], command, {**os.environ, "TERM": "vt100"})
        self.raw = b""
        self.resize(*size)
        opened.append(self)

    def resize(self, lines: int, width: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, width, 0, 0))

    def press(self, keys: str) -> None:
        self.raw = b""
        os.write(self.fd, keys.encode())

    def read(self) -> bool:
        ready, _, _ = select.select([self.fd], [], [], 30)
        assert ready, self.text()
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.raw += data
        return bool(data)

    def text(self) -> str:
        return self.raw.decode(errors="replace")

    def frames(self) -> list[list[str]]:
        """The whole frames since the last key: their lines without escape sequences."""
        parts = self.text().split("\x1b[H")[1:]
        return [[re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line) for line in part.split("\n")] for part in parts[:-1]]

    def wait(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """The first frame of which this is true."""
        while True:
            for frame in self.frames():
                if seen(frame):
                    return frame
            assert self.read(), self.text()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> int:
        while self.read():
            pass
        opened.remove(self)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def test_a_terminal(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    words = [sys.executable, "-m", "plait", "top", "--pid", str(program.pid), "-i", "0.2"]
    screen = Terminal(words)
    frame = screen.wait(lambda lines: any("spin" in line for line in lines))
    assert "\x1b[?1049h" in screen.text()
    assert len(frame) == 24
    assert max(map(len, frame)) <= 80
    assert frame[0].startswith(f"{program.pid} ")
    assert "CPU*" in frame[2]
    assert frame[-1].startswith("q quit")
    screen.press("\x1b[C")  # to the right
    screen.wait(lambda lines: "PY*" in lines[2])
    screen.press("<<<r")
    frame = screen.wait(lambda lines: "TID^" in lines[2])
    tids = [int(line.split()[0]) for line in frame[4:-1] if line.strip()]
    assert tids == sorted(tids, reverse=True)
    screen.press("?")
    screen.wait(lambda lines: any("waits for the GIL" in line for line in lines))
    screen.press(" ")
    screen.wait(lambda lines: lines[-1].startswith("PAUSED"))
    screen.raw = b""
    screen.resize(9, 100)
    frame = screen.wait(lambda lines: len(lines) == 9)
    assert len(frame[0]) == 100
    screen.press("j")
    screen.press("q")
    assert screen.end() == 0
    assert screen.text().endswith("\x1b[?25h\x1b[?1049l")
    assert program.poll() is None


def test_a_terminal_is_given_back_when_the_process_ends(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    screen = Terminal([sys.executable, "-m", "plait", "top", "-p", str(program.pid), "-i", "0.2", "-s", "gil"])
    screen.wait(lambda lines: "GIL*" in lines[2])
    program.communicate("x")
    assert screen.end() == 0
    _, left, after = screen.text().partition("\x1b[?1049l")
    assert left
    assert f"plait: process {program.pid} has ended; all that was seen of it:" in after
    assert "spin" in after


@pytest.mark.parametrize("quits", [False, True])
def test_a_program_beneath_the_screen(tmp_path: Path, quits: bool) -> None:
    path, go = tmp_path / "program.py", tmp_path / "go"
    os.mkfifo(go)
    path.write_text(
        "import sys\nprint('said', sys.stdin.read(), flush=True)\n"
        f"open({str(go)!r}).read()\nprint('later', file=sys.stderr)\nsys.exit(7)\n"
    )
    screen = Terminal([sys.executable, "-m", "plait", "top", "-i", "0.2", "--", sys.executable, str(path)])
    screen.wait(lambda lines: any("MainThread" in line for line in lines))
    assert "said" not in screen.text()
    if quits:
        screen.press("q")
        while "said" not in screen.text():
            assert screen.read()
    go.write_text("")
    assert screen.end() == 7
    _, left, after = screen.text().partition("\x1b[?1049l")
    assert left
    assert after.index("said") < after.index("later")
    assert ("all that was seen" in after) is not quits


def test_an_interrupt_in_a_terminal(start: Callable[..., subprocess.Popen[str]]) -> None:
    program = start()
    screen = Terminal([sys.executable, "-m", "plait", "top", "--pid", str(program.pid), "-i", "0.2"])
    screen.wait(lambda lines: "CPU*" in lines[2])
    screen.press("\x03")
    assert screen.end() == 0
    assert "\x1b[?1049l" in screen.text()


def test_what_the_columns_mean_fits_into_80_columns() -> None:
    assert all(len(line) <= 80 for line in report.LEGEND)
    assert {"CPU", "PY", "RDY", "STW", "IDL"} <= set(" ".join(report.LEGEND).replace(",", "").split())
