"""The command `plait profile`: the program is what it is without, and a report comes of it whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

import plait
from plait.cli import _usage
from plait.cli.main import main
from plait.observe._states import STATES

ROOT = Path(__file__).resolve().parents[2]


def plain(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


def profiled(folder: Path, *arguments: str, options: tuple[str, ...] = (), **more: Any) -> tuple[Any, dict[str, Any]]:
    report = folder / "report.json"
    ran = plain("-m", "plait", "profile", "-q", f"--json={report}", *options, *arguments, **more)
    return ran, json.loads(report.read_text())


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def write(source: str, name: str = "program.py") -> str:
        path = tmp_path / name
        path.write_text(source)
        return str(path)

    return write


SEEN = """
import os, sys
print(sys.argv, __name__, __file__, sys.path, sorted(os.environ), os.environ.get("PYTHONPATH"))
print("to standard error", file=sys.stderr)
"""


@pytest.mark.parametrize("before", [None, "/nowhere:/elsewhere"])
def test_the_program_sees_what_it_would_see(script: Any, tmp_path: Path, before: str | None) -> None:
    path = script(SEEN)
    env = {**os.environ, **({} if before is None else {"PYTHONPATH": before})}
    expected = plain(path, "a", "--b", env=env)
    ran, _ = profiled(tmp_path, path, "a", "--b", env=env)
    assert (ran.stdout, ran.stderr, ran.returncode) == (expected.stdout, expected.stderr, 0)


@pytest.mark.parametrize(
    "source",
    [
        "1 / 0",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('no')",
        "raise SystemExit",
        "import os; os._exit(9)",
        "raise KeyboardInterrupt",
    ],
)
def test_the_end_is_the_programs_own(script: Any, tmp_path: Path, source: str) -> None:
    path = script(f"def f():\n    {source}\nf()\n")
    expected = plain(path)
    ran, report = profiled(tmp_path, path)
    assert (ran.stdout, ran.stderr) == (expected.stdout, expected.stderr)
    code = expected.returncode
    assert ran.returncode == (code if code >= 0 else 128 - code)
    assert report["processes"][0]["exit"] == ran.returncode


def test_a_module_and_a_line_of_code_run_too(tmp_path: Path) -> None:
    ran, _ = profiled(tmp_path, "-m", "json.tool", "--help")
    assert "json.tool" in ran.stdout
    ran, _ = profiled(tmp_path, "-c", "import sys; print(sys.argv)", "x")
    assert ran.stdout == "['-c', 'x']\n"


def test_its_own_sitecustomize_runs(script: Any, tmp_path: Path) -> None:
    script("import sys; sys.mine = 'here'\n", "sitecustomize.py")
    ran, _ = profiled(
        tmp_path,
        "-c",
        "import sys, sitecustomize; print(sys.mine, sitecustomize.__file__)",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ran.stdout == f"here {tmp_path}/sitecustomize.py\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_go_to_the_program(script: Any, tmp_path: Path, number: signal.Signals) -> None:
    source = f"""
import signal, sys, time
signal.signal({int(number)}, lambda *_: sys.exit(42))
print("ready", flush=True)
while True:  # a signal that comes right before a wait of its own would find nobody
    time.sleep(0.05)
"""
    path = script(source)
    with subprocess.Popen(
        [sys.executable, "-m", "plait", "profile", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, summary = process.communicate(timeout=60)
    assert process.returncode == 42
    assert "plait profile of program.py" in summary


def test_a_killed_program_leaves_a_report(script: Any, tmp_path: Path) -> None:
    source = "import os, signal, time\ntime.sleep(0.6)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    ran, report = profiled(tmp_path, script(source))
    assert ran.returncode == 128 + signal.SIGKILL
    assert report["processes"][0]["exit"] == 128 + signal.SIGKILL
    assert report["wall"] > 0.2


def test_a_crash_leaves_a_report(script: Any, tmp_path: Path) -> None:
    source = "import ctypes, time\ntime.sleep(0.6)\nctypes.string_at(0)\n"
    ran, report = profiled(tmp_path, script(source))
    assert ran.returncode == 128 + signal.SIGSEGV
    assert report["wall"] > 0.2


CHILDREN = """
import multiprocessing, os, subprocess, sys, time
def work(number):
    time.sleep(0.05)
    return number
if __name__ == "__main__":
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.05)"], check=True, env={"PATH": os.environ["PATH"]})
    subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
    subprocess.run(["true"], check=True)
    os.system(f"{sys.executable} -c 'import time; time.sleep(0.05)'")
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=work, args=(1,), name=method)
        process.start()
        process.join()
        assert process.exitcode == 0
    import plait
    with plait.ProcessPool(2) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
    pid = os.fork()
    if not pid:
        time.sleep(0.05)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    pid = os.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", "import time, sys; time.sleep(0.05); sys.exit(5)"])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    print(sorted(name for name in os.environ if "PLAIT_OBS" in name or name == "PYTHONPATH"))
"""


def test_children_of_every_kind_are_seen(script: Any, tmp_path: Path) -> None:
    ran, report = profiled(tmp_path, script(CHILDREN))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[]\n"
    names = [process["name"] for process in report["processes"]]
    assert sum(name.startswith("worker-") for name in names) >= 1
    assert names.count("python -c") >= 2
    assert "fork of program.py" in names
    assert 7 in [process["exit"] for process in report["processes"]]
    assert len({process["pid"] for process in report["processes"]}) >= 8
    assert any("true" in limit and "-I" in limit for limit in report["limits"])


def test_children_are_left_alone_on_demand(script: Any, tmp_path: Path) -> None:
    source = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'], check=True)"
    _, report = profiled(tmp_path, script(source), options=("--no-children",))
    assert len(report["processes"]) == 1


def test_states_add_up_to_the_wall_time(script: Any, tmp_path: Path) -> None:
    source = """
import threading, time
def spin():
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        sum(range(100))
threads = [threading.Thread(target=spin, name=f"spin-{n}") for n in range(2)]
threads.append(threading.Thread(target=time.sleep, args=(0.3,), name="sleeper"))
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    _, report = profiled(tmp_path, script(source))
    threads = {thread["name"]: thread for thread in report["threads"]}
    assert threads.keys() >= {"MainThread", "spin-0", "spin-1", "sleeper"}
    for thread in threads.values():
        assert sum(thread[state] for state in STATES) == pytest.approx(thread["wall"], rel=0.01, abs=1e-4)
    assert (threads["spin-0"]["gil_wait"] > 0) is not bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert threads["sleeper"]["io_wait"] > threads["sleeper"]["wall"] / 2


def test_the_published_schema_holds(script: Any, tmp_path: Path) -> None:
    fastjsonschema: Any = pytest.importorskip("fastjsonschema")
    check = fastjsonschema.compile(json.loads((ROOT / "docs" / "profile.schema.json").read_text()))
    source = """
import asyncio, threading, time, plait
async def part(): await asyncio.sleep(0.02)
async def main():
    await asyncio.gather(part(), part())
    asyncio.get_running_loop().call_soon(time.sleep, 0.08)
    await asyncio.sleep(0.01)
asyncio.run(main())
plait.run(main())
lock = threading.Lock()
def hold():
    with lock: time.sleep(0.05)
threads = [threading.Thread(target=hold) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    _, report = profiled(tmp_path, script(source))
    check(report)
    assert all(report[name] for name in ("tasks", "blocked", "threads"))
    del report["verdict"]
    with pytest.raises(fastjsonschema.JsonSchemaException):
        check(report)


def test_every_output_is_written(script: Any, tmp_path: Path) -> None:
    names = ["out.html", "out.json", "out.pftrace", "out.speedscope.json", "out.plait"]
    options = [word for name in names for word in ("-o", str(tmp_path / name))]
    ran = plain("-m", "plait", "profile", *options, script("import time; time.sleep(0.1)"))
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "plait profile of program.py" in ran.stderr
    assert all((tmp_path / name).stat().st_size > 0 for name in names)
    again = plain("-m", "plait", "report", str(tmp_path / "out.plait"))
    assert again.returncode == 0
    assert "plait profile of program.py" in again.stdout
    assert "\x1b" not in again.stdout + ran.stderr
    assert plait.Profile.load(tmp_path / "out.json").wall == plait.Profile.load(tmp_path / "out.plait").wall


def test_a_closed_output(script: Any, tmp_path: Path) -> None:
    asked = "import sys; sys.exit(sys.stdout is not None)"
    command = 'exec "$0" -m plait profile "$@" >&-'
    ran = subprocess.run(
        ["sh", "-c", command, sys.executable, script(asked)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.startswith("plait profile of program.py")


def test_rules_decide_the_exit_code(script: Any, tmp_path: Path) -> None:
    path = script("import time; time.sleep(0.1)")
    kept = plain("-m", "plait", "profile", "-q", "--fail-if", "gil_wait>99%", path)
    assert (kept.returncode, kept.stderr) == (0, "")
    assert "exit with 1 if the rule holds" in plain("-m", "plait", "profile", "--help").stdout
    rules = ["--fail-if", "stop_the_world>99%", "--fail-if", "thread:longest_stop>1s"]
    assert plain("-m", "plait", "profile", "-q", *rules, path).returncode == 0
    broken = plain("-m", "plait", "profile", "-q", "--fail-if", "wall > 50ms", path)
    assert broken.returncode == 1
    assert "wall" in broken.stderr
    own = plain("-m", "plait", "profile", "-q", "--fail-if", "wall>50ms", "-c", "import time; time.sleep(0.1); exit(4)")
    assert own.returncode == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage"),
        (["nonsense"], "no command"),
        (["profile"], "needs a program"),
        (["profile", "-m"], "needs a program"),
        (["profile", "nowhere.py"], "there is no file 'nowhere.py'"),
        (["profile", "--nonsense", "-"], "no option"),
        (["profile", "--rate", "fast", "-"], "fast"),
        (["profile", "--rate", "-1", "-"], "-1"),
        (["profile", "--fail-if", "nonsense", "-"], "no rule"),
        (["profile", "--fail-if", "speed>1", "-"], "no figure"),
        (["profile", "--fail-if", "verdict=typo", "-"], "'typo' is no verdict; those are cpu-bound, gil-bound,"),
        (["profile", "--fail-if", "verdict!=foo-bound", "-"], "'foo-bound' is no verdict"),
        (["profile", "--fail-if", "function:verdict=typo", "-"], "'typo' is no verdict"),
        (["profile", "--output"], "needs a value"),
        (["report"], "needs a file"),
        (["report", "one", "two"], "one file"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_trace_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("text", b"hello"), ("json", b'{"a": 1}'), ("bytes", bytes(range(256)))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    folder = tmp_path / "folder"
    folder.mkdir()
    for command in ("report", "advise"):
        for name in ("missing", "folder", "text", "json", "bytes"):
            assert main([command, str(tmp_path / name)]) == 2, name
            assert str(tmp_path / name) in capsys.readouterr().err
        assert main([command, str(tmp_path / "empty")]) == 125
        assert "Traceback" not in capsys.readouterr().err


def test_what_python_cannot_run_is_no_program(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = script("#!/bin/sh\necho hi\n", "shell")
    for words in (["profile", "/bin/ls"], ["profile", shell], ["profile", str(tmp_path)], ["advise", shell]):
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert words[1] in error
        assert "Python program" in error


def test_what_python_runs_is_a_program_however_it_is_called(script: Any, tmp_path: Path) -> None:
    import zipapp

    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "__main__.py").write_text("print('ran')")
    zipapp.create_archive(folder, tmp_path / "app.pyz", "/usr/bin/env python3")
    named = script(f"#!{sys.executable}\nprint('ran')\n", "tool")
    # As installers write it where the path of Python is long.
    long = script(f"#!/bin/sh\n'''exec' {sys.executable} \"$0\" \"$@\"\n' '''\nprint('ran')\n", "long")
    # An archive that a shell unpacks, where there is one.
    booted = tmp_path / "app.pex"
    booted.write_bytes(b"#!/bin/sh\n" + 300 * b"# finds Python\n" + (tmp_path / "app.pyz").read_bytes())
    for path in (folder, tmp_path / "app.pyz", named, long, booted):
        ran, _ = profiled(tmp_path, str(path))
        assert (ran.returncode, ran.stdout) == (0, "ran\n"), ran.stderr
    # Python says best what is wrong with a program of Python's.
    for source, name, error in [("x = 1 +\n", "wrong.py", "SyntaxError"), (f"x = {20_000 * '-'}1\n", "deep", "Error")]:
        ran, _ = profiled(tmp_path, script(f"#!/usr/bin/env -S uv run --script\n{source}", name))
        assert ran.returncode == 1
        assert "plait" not in ran.stderr.partition(error)[0]
        assert error in ran.stderr


def test_who_was_killed_while_it_held_the_gil_held_it_to_the_end(script: Any, tmp_path: Path) -> None:
    saved, cut = tmp_path / "saved.plait", tmp_path / "cut.plait"
    source = """
import os, signal, time
def spin(until):
    while time.perf_counter() < until: pass
for _ in range(3): spin(time.perf_counter() + 0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert plain("-m", "plait", "profile", "-q", "-o", str(saved), script(source)).returncode == 137
    data = saved.read_bytes()
    read = 0
    for length in range(len(data), 0, -97):
        cut.write_bytes(data[:length])
        try:
            found = plait.Profile.load(cut)
        except ValueError:
            break
        if found.wall == 0:  # nothing but that it was there
            break
        read += 1
        (thread,) = found.threads
        assert thread["on_cpu_released"] <= 0.05 * thread["wall"] + 0.02, (length, thread)
        advice = plait.advise(found)
        assert list(advice.limits) == advice.to_dict()["limits"] == list(found.limits)
        told = (
            "The trace has no end of process" if length < len(data) else f"Process {thread['pid']} was ended by SIGKILL"
        )
        assert f"Limit: {told}" in str(advice).replace("\n", " ")
    assert read > 3


def test_files_are_spoken_of_in_plain_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (["report", "nosuch"], "plait: 'nosuch': there is no such file\n"),
        (["advise", "nosuch"], "plait: 'nosuch': there is no such file\n"),
        (["top", "--", "nosuchcmd"], "plait: there is no program 'nosuchcmd'\n"),
        (
            ["top", "--", str(tmp_path)],
            f"plait: {str(tmp_path)!r} cannot be run: it is no program, or there is no right to\n",
        ),
    ]:
        assert main(words) == 2
        assert capsys.readouterr().err == message


MARKERS = ("ends in the middle", "no end of process")


def cut_off(record: Any) -> tuple[bool, ...]:
    """Whether it is said that a trace ends within a piece, and that a process in it has no end."""
    limits = "\n".join(record["limits"])
    return tuple(marker in limits for marker in MARKERS)


def test_a_truncated_trace_is_read_as_far_as_it_goes_and_told_from_a_whole_one(script: Any, tmp_path: Path) -> None:
    trace = tmp_path / "whole.plait"
    busy = "import time\nfor _ in range(100): time.sleep(0.01); sum(range(20_000))"
    plain("-m", "plait", "profile", "-q", "-o", str(trace), script(busy))
    whole = trace.read_bytes()
    assert cut_off(plait.Profile.load(trace).record) == (False, False)
    # The last piece is what `plait profile` knows besides.
    last = whole.rindex(b"PLTR")
    trace.write_bytes(whole[:-10])
    assert cut_off(plait.Profile.load(trace).record) == (True, False)
    trace.write_bytes(whole[: last - 10])
    cut = plait.Profile.load(trace)
    assert (cut.wall > 0.1, cut_off(cut.record)) == (True, (True, True))
    assert "the trace was cut off" in " ".join(cut.summary().split())
    # Between two pieces nothing but the end is missing.
    trace.write_bytes(whole[: whole.rindex(b"PLTR", 0, last)])
    assert cut_off(plait.Profile.load(trace).record) == (False, True)
    trace.write_bytes(whole[:60])
    with pytest.raises(ValueError, match="ends in the middle of its first piece"):
        plait.Profile.load(trace)


def test_a_program_that_was_killed_has_no_end_in_its_trace(script: Any, tmp_path: Path) -> None:
    trace = tmp_path / "killed.plait"
    source = """
import os, signal, sys, time
if os.fork() == 0:
    time.sleep(0.5)
    os._exit(0)
os.wait()
os.kill(os.getpid(), signal.SIGKILL)
"""
    # Of the child, which has ended as usual, nothing is said; and who saw the program end says it once.
    ran, record = profiled(tmp_path, script(source), options=("-o", str(trace)))
    assert (ran.returncode, cut_off(record)) == (137, (False, False))
    assert sum("SIGKILL" in limit for limit in record["limits"]) == 1
    assert plait.Profile.load(trace).limits == record["limits"]
    # Without who saw it end.
    data = trace.read_bytes()
    trace.write_bytes(data[: data.rindex(b"PLTR")])
    assert cut_off(plait.Profile.load(trace).record) == (False, True)


def test_all_tasks_are_counted_where_few_are_listed(script: Any, tmp_path: Path) -> None:
    source = """
import asyncio
async def nothing(): await asyncio.sleep(0)
async def main():
    for _ in range(6): await asyncio.gather(*[nothing() for _ in range(1_000)])
asyncio.run(main())
"""
    ran, record = profiled(tmp_path, script(source), options=("--fail-if", "tasks>6000"))
    seen = record["tasks_seen"]
    assert 6_001 <= seen < 6_010, "asyncio.run ends with a few of its own"
    assert (ran.returncode, f"tasks is {seen}" in ran.stderr) == (1, True)
    assert any(limit.startswith(f"{seen} tasks were seen, of which only the 5000") for limit in record["limits"])
    few, record = profiled(
        tmp_path, script(source.replace("range(6)", "range(1)")), options=("--fail-if", "tasks>1010")
    )
    assert (few.returncode, few.stderr, record["tasks_seen"]) == (0, "", len(record["tasks"]))
    assert not any("tasks were seen" in limit for limit in record["limits"])


def test_what_observes_is_no_function_of_the_program(script: Any, tmp_path: Path) -> None:
    source = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing, fractions, decimal
if __name__ == "__main__":
    data = [{str(i): (i, float(i))} for i in range(100_000)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        print(sum(pool.map(len, [data] * 4)))
"""
    _, record = profiled(tmp_path, script(source), options=("--rate", "1000"))
    files = {function["file"] for function in record["functions"]}
    assert any(file.endswith("/multiprocessing/queues.py") for file in files)
    wrappers = {file for file in files if "/plait/observe/" in file}
    assert not wrappers, [function for function in record["functions"] if function["file"] in wrappers]


def test_the_longest_hold_in_a_library_names_the_line_that_called_it(script: Any, tmp_path: Path) -> None:
    source = """
import re, threading, time
def hot(): return re.match(r"(a+)+$", "a" * 23 + "b")
threading.Thread(target=time.sleep, args=(0.1,)).start()
hot()
"""
    ran = plain("-m", "plait", "profile", "--json=" + str(tmp_path / "report.json"), script(source))
    record = json.loads((tmp_path / "report.json").read_text())
    holds = max(record["threads"], key=lambda thread: thread["longest_gil_hold"])
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return
    assert holds["longest_gil_hold_at"]["file"].endswith("/re/__init__.py")
    assert (holds["longest_gil_hold_for"]["function"], holds["longest_gil_hold_for"]["line"]) == ("hot", 3)
    assert "called by hot" in " ".join(ran.stderr.split())


def test_a_step_in_a_library_names_its_task_and_the_line_that_called_it(script: Any, tmp_path: Path) -> None:
    source = """
import asyncio, re
def hot(): return re.match(r"(a+)+$", "a" * 23 + "b")
async def handler(): hot()
async def main(): await asyncio.gather(asyncio.sleep(0.1), handler())
asyncio.run(main())
"""
    ran = plain("-m", "plait", "profile", "--json=" + str(tmp_path / "report.json"), script(source))
    (blocked,) = json.loads((tmp_path / "report.json").read_text())["blocked"]
    assert (blocked["function"], blocked["line"], blocked["coroutine"]) == ("hot", 3, "handler")
    assert re.fullmatch(r"Task-\d+", blocked["callback"])
    assert blocked["library"]["file"].endswith("/re/__init__.py")
    assert blocked["others"] > 0
    said = " ".join(ran.stderr.split())
    assert f"by the task {blocked['callback']} (handler), in match (__init__.py:" in said
    assert f" {blocked['callback']} handler in hot " in said


def test_a_file_for_which_there_is_no_room_is_not_left_half(script: Any, tmp_path: Path) -> None:
    trace, page = tmp_path / "whole.plait", tmp_path / "page.html"
    plain("-m", "plait", "profile", "-q", "-o", str(trace), script("import time; time.sleep(0.1)"))
    kept = tmp_path / "kept"
    kept.write_text("what was there")
    command = 'ulimit -f 64; exec "$0" -m plait report "$@"'
    words = [sys.executable, str(trace), "-q", "--html", str(page)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # or a half of what was compiled is left
    ran = subprocess.run(["sh", "-c", command, *words], capture_output=True, text=True, timeout=60, env=environment)
    assert (ran.returncode, page.exists()) == (125, False)
    assert ran.stderr.startswith(f"plait: {str(page)!r} cannot be written: file too large")
    # What was not written to stays.
    words = [sys.executable, "-m", "plait", "report", str(trace), "-q", "--perfetto", str(kept)]
    (tmp_path / "report.json").write_text(plait.Profile.load(trace).to_json())
    words[4] = str(tmp_path / "report.json")
    assert subprocess.run(words, capture_output=True, timeout=60).returncode == 125
    assert kept.read_text() == "what was there"


def test_options_end_where_the_program_begins() -> None:
    options = {"--flag": _usage.Option(False), "--file": _usage.Option(True)}
    assert _usage.parse(["--flag", "--file=x", "--file", "y", "run.py", "--flag"], options, {}) == (
        [("--flag", None), ("--file", "x"), ("--file", "y")],
        ["run.py", "--flag"],
    )
    assert _usage.parse(["--", "--flag"], options, {}) == ([], ["--flag"])


def test_a_value_that_may_be_left_out_is_told_by_its_ending() -> None:
    options = {"--json": _usage.Option(False, may_take=".json")}
    for words, value, rest in [
        (["--json", "run.py", "a.json"], None, ["run.py", "a.json"]),
        (["--json", "a.json", "run.py"], "a.json", ["run.py"]),
        (["--json=a", "b.json"], "a", ["b.json"]),
        (["--json", "--", "a.json"], None, ["a.json"]),
        (["--json"], None, []),
    ]:
        assert _usage.parse(words, options, {}) == ([("--json", value)], rest)


def test_nothing_is_left_behind(script: Any, tmp_path: Path) -> None:
    plain("-m", "plait", "profile", "-q", script("pass"), env={**os.environ, "TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 10
    while [each for each in tmp_path.iterdir() if each.name.startswith("plait-")] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("plait-")]


COUNTS = """
import signal, sys, time
came = []
signal.signal(signal.SIGUSR1, lambda *_: came.append(time.monotonic()))
print("ready", flush=True)
while sys.stdin.readline():
    time.sleep(0.1)
    print(len(came), flush=True)
"""


def _of_group(group: int) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(int(each.name)) == group:
                found.append(int(each.name))
    return found


def test_a_signal_to_all_comes_to_the_program_once(script: Any) -> None:
    command = [sys.executable, "-m", "plait", "profile", "-q", script(COUNTS)]
    streams: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **streams) as ran:

        def came() -> int:
            ran.stdin.write("\n")  # type: ignore[union-attr]
            ran.stdin.flush()  # type: ignore[union-attr]
            return int(ran.stdout.readline())  # type: ignore[union-attr]

        assert ran.stdout.readline() == "ready\n"  # type: ignore[union-attr]
        for times in range(1, 6):
            os.killpg(ran.pid, signal.SIGUSR1)
            assert came() == times, "it came to the program, and was passed on as well"
        named = [
            each for each in _of_group(ran.pid) if b"profile" in Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        ]
        assert named == [ran.pid], "who is found by the command's name is plait alone"
        for times in range(6, 8):
            os.kill(ran.pid, signal.SIGUSR1)
            assert came() == times, "it came to plait alone, and was not passed on"
        ran.stdin.close()  # type: ignore[union-attr]
        assert ran.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_program_that_dies_at_once_is_told_of(script: Any, tmp_path: Path, number: signal.Signals) -> None:
    path = script(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    ran, report = profiled(tmp_path, path)
    assert ran.returncode == 128 + number
    [process] = report["processes"]
    assert (process["name"], process["exit"]) == ("program.py", 128 + number)
    assert 0 < process["wall"] == report["wall"]
    assert report["cores"] > 0
    said = [report["evidence"]["sentence"], *report["limits"]]
    assert any(f"was ended by {number.name}" in each for each in said), said
    summary = plain("-m", "plait", "profile", path).stderr
    assert "plait profile of program.py" in summary
    assert number.name in summary
    assert "next to nothing" not in summary or "may be missing" in summary


def test_a_program_that_is_killed_later_says_of_which_signal(script: Any, tmp_path: Path) -> None:
    _, report = profiled(tmp_path, script("import os, time\ntime.sleep(0.6)\nos.kill(os.getpid(), 9)\n"))
    assert any("was ended by SIGKILL" in each for each in report["limits"]), report["limits"]


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("-o{}/missing/x.html", "there is no folder"),
        ("--html={}", "it is a folder"),
        ("--json={}/file/x.json", "is no folder"),
        ("--speedscope=", "a file needs a name"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_program_runs(
    script: Any, tmp_path: Path, option: str, why: str
) -> None:
    (tmp_path / "file").write_text("")
    option = option.format(tmp_path)
    words = ["-o", option[2:]] if option.startswith("-o") else [option]
    ran = plain("-m", "plait", "profile", *words, script("print('ran')"))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert why in ran.stderr
    assert ("--output" if words[0] == "-o" else option.partition("=")[0]) in ran.stderr


def test_where_writing_fails_in_the_end_the_summary_and_the_trace_remain(script: Any, tmp_path: Path) -> None:
    """`/dev/full` takes nothing, as a full disk; the other file is written."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    path = script("import sys\nsum(range(3_000_000))\nsys.exit(3)\n")
    other = tmp_path / "report.json"
    ran = plain(
        *("-m", "plait", "profile", "--html=/dev/full", f"--json={other}", path),
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert ran.returncode == 125
    assert "plait profile of program.py" in ran.stderr
    assert "'/dev/full' cannot be written" in ran.stderr
    assert json.loads(other.read_text())["processes"][0]["exit"] == 3
    [trace] = folder.iterdir()
    assert repr(str(trace)) in ran.stderr
    assert plait.Profile.load(trace).processes[0]["name"] == "program.py"


ENDS = """
import multiprocessing, os, subprocess, sys, time

def leaves():
    sys.exit(7)

def dies():
    time.sleep(0.4)
    os.kill(os.getpid(), 9)

if __name__ == "__main__":
    assert subprocess.run([sys.executable, "-c", "raise SystemExit(5)"]).returncode == 5
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.4); 1 / 0"], stderr=subprocess.DEVNULL) as child:
        pass
    for method in "spawn", "forkserver":
        for target in leaves, dies:
            process = multiprocessing.get_context(method).Process(target=target)
            process.start()
            process.join()
"""


def test_ends_of_children_are_known_where_the_parent_waits(script: Any, tmp_path: Path) -> None:
    ran, report = profiled(tmp_path, script(ENDS))
    assert ran.returncode == 0, ran.stderr
    main_, *children = report["processes"]
    assert main_["exit"] == 0
    assert sorted(child["exit"] for child in children) == [1, 5, 7, 7, 137, 137], report["processes"]
    assert not report["limits"], report["limits"]


def test_only_a_folder_that_a_profile_has_written_is_one(script: Any, tmp_path: Path) -> None:
    saved = tmp_path / "saved.trace"
    plain("-m", "plait", "profile", "-q", "-o", str(saved), script("sum(range(1_000_000))"))
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "42-4200.00000000.part").write_bytes(saved.read_bytes())
    (folder / "over").write_bytes(b"")
    assert len(plait.Profile.load(folder).processes) == 1
    (folder / "notes.txt").write_text("of mine")
    with pytest.raises(ValueError, match=r"no folder that a profile has written: 'notes.txt' is in it"):
        plait.Profile.load(folder)
    ran = plain("-m", "plait", "report", str(tmp_path))
    assert ran.returncode == 2, ran.stdout


def test_a_damaged_trace_is_an_error_or_says_so(script: Any, tmp_path: Path) -> None:
    saved = tmp_path / "saved.plait"
    plain(
        "-m", "plait", "profile", "-q", "-o", str(saved), script("import time\nfor _ in range(12): time.sleep(0.05)\n")
    )
    whole = plait.Profile.load(saved)
    data = saved.read_bytes()
    said: set[str] = set()
    for at in range(0, len(data), max(1, len(data) // 60)):
        saved.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            found = plait.Profile.load(saved)
        except ValueError as error:
            assert "damaged" in str(error) or "not a trace" in str(error) or "of format" in str(error), error
            said.add("error")
        else:
            assert found.processes[0]["name"] == "program.py"
            assert found.record["cores"] == whole.record["cores"]
            assert any("damaged" in each for each in found.limits), at
            said.add("limit")
    assert said == {"error", "limit"}


def test_children_that_may_not_write_what_they_see_are_told_of(script: Any, tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("needs to be root")
    source = "import os\nos.setuid(65534)\nif not os.fork():\n    os._exit(0)\nos.wait()\n"
    ran, report = profiled(tmp_path, script(source))
    assert ran.returncode == 0, ran.stderr
    assert any("changed its user" in each for each in report["limits"]), report["limits"]
