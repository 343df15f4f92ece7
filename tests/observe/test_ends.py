"""What a profile says of the ends of processes, and of those that it has not looked into."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import plait

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "plait", *arguments], capture_output=True, text=True, timeout=60)


def profiled(folder: Path, source: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Profile a program: its exit code, and the report, which is the same from the trace."""
    program, trace, report, again = (str(folder / name) for name in ("program.py", "trace", "one.json", "other.json"))
    (folder / "program.py").write_text(source)
    ran = run("profile", "-q", "-o", trace, f"--json={report}", program, *words)
    loaded = run("report", "-q", f"--json={again}", trace)
    assert loaded.returncode == 0, loaded.stderr
    with open(report) as one, open(again) as other:
        found: dict[str, Any] = json.load(one)
        assert json.load(other) == found
    return ran.returncode, found


def ends(report: dict[str, Any]) -> list[int | None]:
    return [process["exit"] for process in report["processes"]]


KILLED = """
import os, subprocess, sys, time
for _ in range(3):
    subprocess.run(["true"])
subprocess.run([sys.executable, "-c", "raise SystemExit(7)"])
subprocess.run([sys.executable, "-c", "import os, time; time.sleep(0.4); os.kill(os.getpid(), 9)"])
os.kill(os.getpid(), 9)
"""


def test_the_trace_says_of_ends_what_the_report_did(tmp_path: Path) -> None:
    code, report = profiled(tmp_path, KILLED)
    assert code == 137
    assert ends(report) == [137, 7, 137]
    assert any("true (3 times)" in limit for limit in report["limits"]), report["limits"]
    assert not any("no end of process" in limit for limit in report["limits"]), report["limits"]


def test_so_it_does_of_a_program_of_which_nothing_was_seen(tmp_path: Path) -> None:
    code, report = profiled(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert (code, ends(report)) == (137, [137])
    assert "before anything of it was seen" in report["evidence"]["sentence"]


def test_a_profile_that_was_saved_in_a_program_has_the_ends_too(tmp_path: Path) -> None:
    trace = tmp_path / "saved"
    with plait.profile(save=trace) as found:
        subprocess.run([sys.executable, "-c", "raise SystemExit(7)"], check=False)
        subprocess.run(["true"], check=True)
    loaded = plait.Profile.load(trace)
    assert found.limits == loaded.limits
    assert 7 in ends(found.record)  # type: ignore[arg-type]
    assert ends(found.record) == ends(loaded.record)  # type: ignore[arg-type]


YOUNG = """
import ctypes, multiprocessing, os, subprocess, sys, time
for code in (
    "import os; os.kill(os.getpid(), 9)",
    "import os, time; time.sleep(0.1); os.abort()",
    "import ctypes; ctypes.string_at(0)",
):
    subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
pid = os.fork()
if pid == 0:
    time.sleep(0.12)
    os.kill(os.getpid(), 15)
os.waitpid(pid, 0)
"""


def test_children_that_die_young_are_listed_with_their_ends(tmp_path: Path) -> None:
    _, report = profiled(tmp_path, YOUNG)
    assert ends(report) == [0, 137, 134, 139, 143]
    assert not any("child process" in limit or "no end" in limit for limit in report["limits"]), report["limits"]
    assert report["processes"][2]["wall"] > 0.04 < report["processes"][4]["wall"]


WORKERS = """
import multiprocessing, sys, time
def work(number):
    time.sleep(0.05)
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        pool.map(work, range(4))
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_that_their_pool_ends_are_listed(tmp_path: Path, method: str) -> None:
    _, report = profiled(tmp_path, WORKERS, method)
    assert len(report["processes"]) == 3, report["processes"]
    assert set(ends(report)) <= {0, None, 143}
    assert not any("child process" in limit or "no end" in limit for limit in report["limits"]), report["limits"]


UNBORN = """
import os, subprocess, sys
for _ in range(2):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"])
    child.kill()
    child.wait()
child = subprocess.Popen(["sleep", "5"])
child.kill()
child.wait()
"""


def test_children_that_die_before_anything_is_seen_are_told_of(tmp_path: Path) -> None:
    _, report = profiled(tmp_path, UNBORN)
    assert ends(report) == [0]
    name = re.escape(os.path.basename(sys.executable))
    limits = [limit for limit in report["limits"] if "child" in limit or "Not looked into" in limit]
    assert len(limits) == 2, report["limits"]
    died = rf"2 child processes ended before anything of them was seen: {name} \(killed by signal 9\) \(2 times\)\."
    assert re.fullmatch(died, limits[0]), limits
    assert "sleep" in limits[1]


FORKS = """
import os
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    os.kill(pid, 9)
    os.wait()
"""


def test_forks_that_are_killed_at_once_are_listed_or_told_of(tmp_path: Path) -> None:
    _, report = profiled(tmp_path, FORKS)
    told = [re.match(r"(\d+) child process", limit) for limit in report["limits"]]
    assert len(report["processes"]) - 1 + sum(int(each[1]) for each in told if each) == 20, report["limits"]
    assert set(ends(report)[1:]) <= {3, 137}


OTHERS = """
import os, subprocess, sys
os.system("true")
os.popen("true; true").read()
subprocess.run("true; true", shell=True)
os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "0.1"], os.environ), 0)
pid = os.fork()
if pid == 0:
    os.execv("/bin/sleep", ["sleep", "0.1"])
os.waitpid(pid, 0)
# These are looked into.
os.system(f"exec {sys.executable} -c 'raise SystemExit(4)'")
os.waitpid(os.posix_spawn(sys.executable, ["python", "-c", "raise SystemExit(5)"], os.environ), 0)
pid = os.fork()
if pid == 0:
    os.execv(sys.executable, ["python", "-c", "raise SystemExit(6)"])
os.waitpid(pid, 0)
try:
    os.execv("program.py", ["no", "program"])
except OSError:
    pass
"""


def test_what_is_not_looked_into_is_told_however_it_was_started(tmp_path: Path) -> None:
    _, report = profiled(tmp_path, OTHERS)
    [limit] = [limit for limit in report["limits"] if "Not looked into" in limit]
    assert limit.endswith(": sh (3 times), sleep (2 times)."), limit
    named = [(process["name"], process["exit"]) for process in report["processes"]]
    assert ("fork of program.py", 0) in named
    assert ("python -c", 5) in named
    assert ("python -c", 6) in named


def test_a_program_that_becomes_another_is_told_of(tmp_path: Path) -> None:
    code, report = profiled(tmp_path, "import os; os.execvp('sh', ['sh', '-c', 'exit 3'])")
    assert (code, ends(report)) == (3, [3])
    assert "Not looked into, since it is not Python or runs with -I, -E or -S: sh." in report["limits"]


def test_who_waits_gets_what_it_would(tmp_path: Path) -> None:
    waits = (os.wait, os.waitpid, os.wait3, os.wait4)
    with plait.profile():
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], os.environ)
        found, status, usage = os.wait4(pid, options=0)
        assert (found, os.waitstatus_to_exitcode(status)) == (pid, 3)
        assert usage.ru_maxrss > 0
        pid = os.posix_spawn("/bin/sleep", ["sleep", "5"], os.environ)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0) == (pid, 9)
        with pytest.raises(ChildProcessError):
            os.wait()
    assert (os.wait, os.waitpid, os.wait3, os.wait4) == waits
