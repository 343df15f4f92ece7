"""`plait advise script.py`: real programs, run once each, and what is said of them."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

WORK = """
def work(rounds):
    total = 0
    for number in range(rounds):
        total += number * number
    return total
"""
GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")
COMPUTES = "processes" if GIL else "threads"

CPU = f"""{WORK}
if __name__ == "__main__":
    print(len([work(500_000) for _ in range(24)]))
"""

SLEEPS = """
import time

def fetch(number):
    time.sleep(0.02)
    return number

for number in range(25):
    fetch(number)
"""

SOCKETS = """
import socket, threading, time

def serve(server):
    while True:
        peer, _ = server.accept()
        with peer:
            time.sleep(0.03)
            peer.sendall(b"yes")

def ask(port):
    with socket.create_connection(("127.0.0.1", port)) as peer:
        return peer.recv(3)

with socket.create_server(("127.0.0.1", 0)) as server:
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    print([ask(server.getsockname()[1]) for _ in range(20)][-1])
"""

RELEASED = """
import os, zlib

blocks = [os.urandom(1 << 20)] * 16
sizes = []
for block in blocks:
    sizes.append(len(zlib.compress(block)))
"""

TINY = """
def add(one, other):
    return one + other

total = 0
for number in range(20_000):
    total = add(total, number)
print("total", total)
"""

SHARED = """
results = []

def work(rounds):
    total = 0
    for number in range(rounds):
        total += number * number
    results.append(total)

for _ in range(24):
    work(500_000)
"""

LAMBDA = """
work = lambda rounds: sum(number * number for number in range(rounds))
print(len([work(500_000) for _ in range(24)]))
"""

EXECUTOR = f"""
from concurrent.futures import ThreadPoolExecutor
{WORK}
if __name__ == "__main__":
    with ThreadPoolExecutor(4) as pool:
        print(len(list(pool.map(work, [500_000] * 24))))
"""

PROCESSES = f"""
from concurrent.futures import ProcessPoolExecutor
{WORK}
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(len([future.result() for future in [pool.submit(work, 500_000) for _ in range(24)]]))
"""

TASKS = """
import asyncio

async def fetch(number):
    await asyncio.sleep(0.03)
    return number

async def main():
    print(sum(await asyncio.gather(*[fetch(number) for number in range(30)])))

asyncio.run(main())
"""

RECURSIVE = """
def fib(number):
    return number if number < 2 else fib(number - 1) + fib(number - 2)

for _ in range(6):
    fib(16)
"""

CHAIN = """
def step(values):
    return [value * 1.0001 for value in values]

values = [float(number) for number in range(20_000)]
for _ in range(12):
    values = step(values)
"""

INNER = """
def step(number):
    return number * number % 7

def work(count):
    return sum(step(number) for number in range(count))

print([work(3_000) for _ in range(30)][0])
"""

LINES = "print(sum(range(100)))\n"


def plait(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plait", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)


def advised(folder: Path, source: str, *options: str) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    (folder / "program.py").write_text(source)
    ran = plait("advise", "--json", "--cores", "4", *options, "program.py", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), ran


@pytest.mark.parametrize(
    ("source", "verdicts", "tasks", "calls"),
    [
        pytest.param(CPU, {COMPUTES}, "__main__.work", 24, id="cpu"),
        pytest.param(SLEEPS, {"threads", "asyncio"}, "__main__.fetch", 25, id="sleeps"),
        pytest.param(SOCKETS, {"threads", "asyncio"}, "__main__.ask", 20, id="sockets"),
        pytest.param(RELEASED, {"threads"}, "zlib.compress", 16, id="released"),
        pytest.param(TINY, {"serial"}, "__main__.add", 20_000, id="tiny"),
        pytest.param(SHARED, {None}, "__main__.work", 24, id="shared"),
        pytest.param(LAMBDA, {None if GIL else COMPUTES}, "__main__.<lambda>", 24, id="lambda"),
        pytest.param(EXECUTOR, {COMPUTES}, "__main__.work", 24, id="executor"),
        pytest.param(PROCESSES, {COMPUTES}, "__main__.work", 24, id="processes"),
        pytest.param(TASKS, {"asyncio"}, "__main__.fetch", 30, id="tasks"),
        pytest.param(RECURSIVE, {"serial"}, "__main__.fib", 6, id="recursive"),
        pytest.param(CHAIN, {"serial"}, "__main__.step", 12, id="chain"),
        pytest.param(INNER, {"serial"} if GIL else {"serial", "threads"}, "__main__.work", 30, id="inner"),
        pytest.param(LINES, {None}, None, 0, id="lines"),
    ],
)
def test_verdict(tmp_path: Path, source: str, verdicts: set[str | None], tasks: str | None, calls: int) -> None:
    said, ran = advised(tmp_path, source)
    assert (said["schema"], said["tasks"], said["calls"]) == (1, tasks, calls)
    assert said["verdict"] in verdicts, said["why"]
    assert ran.stdout.startswith("{"), "the program's own output is on standard error"
    assert said["why"]
    for model, seconds in said["predicted"].items():
        low, high = said["interval"][model]
        assert 0 < low <= high
        assert seconds > 0
        assert said["workers"][model] >= 1


def test_functions_of_os_are_called_so(tmp_path: Path) -> None:
    said, _ = advised(tmp_path, "import os\nfor _ in range(12):\n    os.urandom(1 << 20)\n")
    assert said["tasks"] == "os.urandom"
    assert "pool.map(os.urandom, items)" in said["changes"]["threads"]


def test_what_blocks_is_told(tmp_path: Path) -> None:
    said, _ = advised(tmp_path, SOCKETS)
    assert "asyncio.open_connection in place of socket, which blocks the loop" in said["changes"]["asyncio"]
    assert plait("profile", "-q", "-o", "saved.trace", "program.py", cwd=tmp_path).returncode == 0
    saved = json.loads(plait("advise", "saved.trace", "--json", cwd=tmp_path).stdout)
    assert "asyncio.open_connection in place of socket" in saved["changes"]["asyncio"]


def test_reasons_are_told(tmp_path: Path) -> None:
    said, _ = advised(tmp_path, SHARED)
    assert "shared state is written" in said["why"]
    assert "`append` of `results`" in said["why"]
    assert set(said["predicted"]) == {"serial", "threads", "processes", "asyncio", "subinterpreters", "free-threaded"}
    assert set(said["refused"]) == {"processes", "subinterpreters", "free-threaded"} | (set() if GIL else {"threads"})


def test_the_program_is_what_it_is_without(tmp_path: Path) -> None:
    (tmp_path / "near.py").write_text("def double(number):\n    return number * 2\n")
    source = """
import inspect, sys, pickle
import near

class Shape:
    def __init__(self, side=1, *, color="red"):
        super().__init__()
        self.side = side

    def area(self) -> int:
        "What it covers."
        return self.side ** 2

def outer(first):
    def inner(second=2):
        return first + second
    return inner

def items(count):
    yield from range(count)

print(sys.argv, __name__, __file__, sys.path[0], __spec__)
print(inspect.signature(Shape.__init__), inspect.signature(Shape.area), Shape.area.__doc__, Shape.area.__qualname__)
print([Shape(side).area() for side in range(4)], [outer(1)(), outer(2)(3)], list(items(3)), near.double(4))
print(pickle.loads(pickle.dumps(outer)) is outer, inspect.getsource(near.double))
try:
    outer()
except TypeError as error:
    print(error)
"""
    (tmp_path / "program.py").write_text(source)
    expected = subprocess.run(
        [sys.executable, "program.py", "a", "--b"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    ran = plait("advise", "--json", "program.py", "a", "--b", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, expected.stdout)


def test_a_failing_program(tmp_path: Path) -> None:
    source = "def half(number):\n    return 1 / number\n\nfor number in (3, 2, 1, 0):\n    half(number)\n"
    (tmp_path / "program.py").write_text(source)
    expected = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    ran = plait("advise", "program.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    said, _, ours = ran.stderr.rpartition("plait: ")
    assert [line for line in said.splitlines() if "^" not in line] == [
        line for line in expected.stderr.splitlines() if "^" not in line
    ]
    assert ours == "no advice: the program failed: it ended with 1\n"


@pytest.mark.parametrize(
    ("source", "code"), [("import sys\nsys.exit(7)\n", 7), ("import os, signal\nos.kill(os.getpid(), 9)\n", 137)]
)
def test_its_own_exit_code(tmp_path: Path, source: str, code: int) -> None:
    (tmp_path / "program.py").write_text(source)
    ran = plait("advise", "program.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (code, "")


def test_one_that_leaves_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import os\nos._exit(0)\n")
    ran = plait("advise", "program.py", cwd=tmp_path)
    assert ran.returncode == 125
    assert "left no record" in ran.stderr


def test_text_and_page(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SLEEPS)
    ran = plait("advise", "--html", "page.html", "--cores", "1,2", "program.py", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "__main__.fetch, called 25 times" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    page = (tmp_path / "page.html").read_text()
    assert page.count("<polyline") == 6
    assert 'class="dot"' in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "needs a script"),
        (("nowhere.py",), 2, "there is no script 'nowhere.py'"),
        (("--cores", "0", "program.py"), 2, "--cores must be from 1 to 1024, not 0"),
        (("--cores", "two", "program.py"), 2, "--cores needs numbers"),
        (("--what", "program.py"), 2, "there is no option '--what'"),
        (("nowhere.trace",), 2, "nowhere.trace"),
        (("empty.trace",), 125, ""),
        (("other.json",), 2, "no profile of plait"),
    ],
)
def test_bad_input(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    (tmp_path / "program.py").write_text(LINES)
    (tmp_path / "empty.trace").write_bytes(b"")
    (tmp_path / "other.json").write_text('{"schema": 2}')
    ran = plait("advise", *words, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert ran.stderr.startswith("plait: ")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("source", "verdicts", "tasks"),
    [
        pytest.param(CPU, {COMPUTES}, "__main__.work", id="loop"),
        pytest.param(SLEEPS, {"threads", "asyncio"}, "__main__.fetch", id="waits"),
        pytest.param(SHARED, {None}, "__main__.work", id="shared"),
        pytest.param(EXECUTOR, {COMPUTES}, "__main__.work", id="pool"),
        pytest.param(TASKS, {"asyncio"}, "__main__.fetch", id="tasks"),
        pytest.param(LINES, {None}, None, id="lines"),
    ],
)
def test_a_saved_profile(tmp_path: Path, source: str, verdicts: set[str | None], tasks: str | None) -> None:
    (tmp_path / "program.py").write_text(source)
    assert plait("profile", "-q", "-o", "saved.trace", "program.py", cwd=tmp_path).returncode == 0
    ran = plait("advise", "saved.trace", "--json", "--cores", "4", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["tasks"] == tasks
    assert said["verdict"] in verdicts, said["why"]


def test_a_saved_profile_without_its_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(CPU)
    assert plait("profile", "-q", "-o", "saved.trace", "program.py", cwd=tmp_path).returncode == 0
    (tmp_path / "program.py").unlink()
    said = json.loads(plait("advise", "saved.trace", "--json", cwd=tmp_path).stdout)
    assert (said["verdict"], said["tasks"]) == (None, None)
    assert "too few samples" in said["why"]
