"""Names in a profile: of any text that Python has, of very many things, and of programs however they are started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plait.observe import _session


def profiled(folder: Path, *program: str | bytes, timeout: float = 60.0) -> tuple[Any, dict[str, Any]]:
    report = folder / "report.json"
    command = [sys.executable, "-m", "plait", "profile", "-q", f"--json={report}", *program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    return ran, json.loads(report.read_text()) if report.exists() else {}


SURROGATES = r"""
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
lasts = threading.Event()
thread = threading.Thread(target=lasts.wait, name="worker \udc80")
thread.start()
thread.name = "renamed \udc81"
lasts.set()
thread.join()
threading.current_thread().name = "main \udc82"
async def child():
    await asyncio.sleep(0.01)
child.__qualname__ = "child \udc83"
async def main():
    await asyncio.create_task(child(), name="task \udc84")
    def blocks():
        import time
        time.sleep(0.06)
    blocks.__qualname__ = "blocks \udc85"
    asyncio.get_running_loop().call_soon(blocks)
    await asyncio.sleep(0.1)
asyncio.run(main())
def work():
    pass
work.__qualname__ = "work \udc86"
with ThreadPoolExecutor(1, thread_name_prefix="pool \udc87") as pool:
    pool.submit(work).result()
print("done")
"""


def test_names_with_lone_surrogates_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SURROGATES)
    ran, report = profiled(tmp_path, str(path))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
    threads = [thread["name"] for thread in report["threads"]]
    assert any(name.startswith(("worker \ufffd", "renamed \ufffd")) for name in threads), threads
    assert any(name.startswith("main \ufffd") for name in threads), threads
    assert any(name.startswith("pool \ufffd") for name in threads), threads
    (task,) = [task for task in report["tasks"] if task["name"].startswith("task \ufffd")]
    assert task["function"].startswith("child \ufffd")
    assert [each for each in report["blocked"] if each["callback"].startswith("blocks \ufffd")]
    (pool,) = report["pools"]
    assert pool["function"].startswith("work \ufffd"), pool


def test_a_profile_in_a_thread_with_such_a_name(run_script: Any) -> None:
    source = r"""
import threading, plait
names = []
def profiles():
    with plait.profile() as found:
        threading.current_thread().name = "later \udc80"
    names.extend(thread["name"] for thread in found.threads)
thread = threading.Thread(target=profiles, name="m\udc80")
thread.start()
thread.join()
assert any(name.startswith("later \ufffd") for name in names), names
"""
    run_script(source)


def test_a_name_that_is_none_keeps_no_thread_from_beginning(run_script: Any) -> None:
    source = """
import threading, plait
class Odd(threading.Thread):
    _name = property(lambda self: 1 / 0, lambda self, name: None)
    def run(self):
        began.set()
        over.wait()
began, over = threading.Event(), threading.Event()
with plait.profile() as found:
    thread = Odd(daemon=True)
    thread.start()
    assert began.wait(10)
over.set()
thread.join()
assert found.threads
"""
    run_script(source)


def test_a_script_whose_name_is_no_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/b\xe9.py"
    with open(path, "w") as file:
        file.write(
            "import os, sys, subprocess\nif len(sys.argv) == 1: subprocess.run([sys.executable, __file__, 'x'])\n"
        )
    ran, report = profiled(tmp_path, path)
    assert (ran.returncode, ran.stderr) == (0, "")
    names = [process["name"] for process in report["processes"]]
    assert len(names) == 2, names
    assert all(name.startswith("b\ufffd") and name.endswith(".py") for name in names), names


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-X", "utf8", "child.py", "x"], "child.py"),
        (["-Xutf8", "/a/child.py"], "child.py"),
        (["-OX", "utf8", "-W", "ignore", "child.py"], "child.py"),
        (["--check-hash-based-pycs", "always", "child.py"], "child.py"),
        (["-c", "print()"], "python -c"),
        (["-Bcprint()"], "python -c"),
        (["-c", "from multiprocessing.spawn import spawn_main"], "multiprocessing"),
        (["-W", "error", "-m", "json.tool"], "-m json.tool"),
        (["-mjson.tool"], "-m json.tool"),
        (["-", "x"], "python -"),
        (["-i"], "python"),
        ([], "python"),
    ],
)
def test_a_process_is_called_as_its_program(monkeypatch: pytest.MonkeyPatch, words: list[str], name: str) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])
    assert _session._name() == name


MANY = """
import asyncio, threading, time
async def nothing():
    pass
async def main():
    for some in range(70):
        await asyncio.gather(*(asyncio.create_task(nothing(), name=f"order {some * 1000 + n}") for n in range(1000)))
    def blocks():
        time.sleep(0.12)
    asyncio.get_running_loop().call_soon(blocks)
    await asyncio.create_task(asyncio.sleep(0.3), name="the late one")
asyncio.run(main())
thread = threading.Thread(target=time.sleep, args=(0.2,), name="late thread 7")
thread.start()
thread.join()
"""


def test_many_names_leave_room_for_others(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(MANY)
    ran, report = profiled(tmp_path, str(path), timeout=110.0)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "late thread 7" in [thread["name"] for thread in report["threads"]]
    tasks = {task["name"] for task in report["tasks"]}
    assert "the late one" in tasks
    assert "" not in tasks
    assert any("blocks" in each["callback"] for each in report["blocked"]), report["blocked"]
    assert report["overhead"]["lost_names"] > 30_000
    assert report["overhead"]["lost_records"] == 0
    assert any("no room for one more name" in limit for limit in report["limits"]), report["limits"]
