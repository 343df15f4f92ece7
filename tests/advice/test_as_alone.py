"""A program does under `plait advise` what it does alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DELETED = """
import os, tempfile

class Scratch:
    def __init__(self):
        file, self.path = tempfile.mkstemp()
        os.close(file)

    def __del__(self):
        if os.path.exists(self.path):
            os.unlink(self.path)

def work(scratch, number):
    with open(scratch.path, "r+") as file:
        file.write(str(number))
    return scratch

scratch = Scratch()
for number in range(5):
    work(scratch, number)
print("written")
"""

ENDS = """
class Thing:
    def __init__(self, number):
        self.number = number

    def __del__(self):
        print("ended", self.number)

    def work(self):
        return self.number

def make(number):
    return Thing(number)

for number in range(5):
    thing = Thing(number)
    thing.work()
    del thing
    make(-number)
    print("made", number)
"""

MADE_ONCE = """
class Connection:
    opened = 0

    def __init__(self):
        Connection.opened += 1
        print("opened", Connection.opened)

    def __reduce__(self):
        return Connection, ()

    def query(self, key):
        return key

def work(connection, key):
    return connection.query(key)

connection = Connection()
for number in range(5):
    work(connection, number)
"""

LARGE = """
import resource

def work(data, number):
    return len(data) + number

data = bytes(200 << 20)
for number in range(4):
    work(data, number)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 350 << 10)
"""

REDUCER = """
class Item:
    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return Item, (state(self),)

calls = []

def state(item):
    return item.number

def work(item):
    return item.number

for number in range(8):
    work(Item(number))
print("done")
"""

TRACEBACKS = """
import sys, traceback
from concurrent.futures import ThreadPoolExecutor

def fail(number):
    raise ValueError(number)

def work(number):
    try:
        fail(number)
    except ValueError:
        traceback.print_exc(file=sys.stdout)

for number in range(5):
    work(number)
with ThreadPoolExecutor(2) as pool:
    print(len(traceback.extract_tb(pool.submit(fail, 1).exception().__traceback__)))
"""

ASKED = """
class Items:
    def __init__(self, number):
        self.number = number

    def __getitem__(self, at):
        if at > self.number:
            raise IndexError(at)
        return at

class Sized(Items):
    def __len__(self):
        print("asked", self.number)
        if self.number == 3:
            raise RuntimeError(self.number)
        return self.number

class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Unsent:
    def __reduce__(self):
        raise Silent()

def work(items):
    return sum(items)

def first(items):
    return next(items, None)

def send(thing):
    return thing

for number in range(5):
    print(work(iter(Items(number))), first(reversed(Sized(4))), first(iter(Sized(number))))
    send(Unsent())
items = reversed([1, 2, 3])
for _ in range(4):
    print(first(items))
"""

STANDS_IN = """
class StandsIn:
    def __getattribute__(self, name):
        raise RuntimeError(name)

    @property
    def __class__(self):
        raise RuntimeError("unbound")

unbound = StandsIn()

class Thing:
    __slots__ = ()

    def __getattr__(self, name):
        print("asked for", name)
        raise AttributeError(name)

    def work(self):
        return 1

def work(number, thing):
    return unbound if number % 2 else thing

def through(thing):
    return thing

for number in range(6):
    through(work(number, unbound))
    Thing().work()
    print(number)
"""

LEFT_OPEN = """
from concurrent.futures import {kind}PoolExecutor

def work(number):
    return number + 1

if __name__ == "__main__":
    pool = {kind}PoolExecutor(2)
    print(sum(future.result() for future in [pool.submit(work, number) for number in range(20)]))
"""


def run(folder: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == status, ran.stderr
    return ran


def advise(folder: Path, *words: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run(folder, "-m", "plait", "advise", "--json", "--cores", "4", *words).stdout)
    return said


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(DELETED, id="an-end-that-deletes"),
        pytest.param(ENDS, id="when-things-end"),
        pytest.param(MADE_ONCE, id="a-constructor"),
        pytest.param(LARGE, id="a-large-argument"),
        pytest.param(TRACEBACKS, id="tracebacks"),
        pytest.param(ASKED, id="what-could-be-asked"),
        pytest.param(STANDS_IN, id="stand-ins"),
        pytest.param(LEFT_OPEN.format(kind="Thread"), id="threads-left-open"),
        pytest.param(LEFT_OPEN.format(kind="Process"), id="processes-left-open"),
    ],
)
def test_it_writes_the_same(tmp_path: Path, source: str) -> None:
    (tmp_path / "program.py").write_text(source)
    alone = run(tmp_path, "program.py")
    ran = run(tmp_path, "-m", "plait", "advise", "-q", "program.py")
    assert ran.stdout == alone.stdout
    assert alone.stderr == ran.stderr


def test_a_deep_source(tmp_path: Path) -> None:
    source = f"value = {'+'.join(['1'] * 700)}\nprint(value)\n"
    (tmp_path / "module.py").write_text(source)
    (tmp_path / "program.py").write_text(f"import module\n{source}")
    assert run(tmp_path, "-m", "plait", "advise", "-q", "program.py").stdout == "700\n700\n"


def test_tracebacks_of_imports(tmp_path: Path) -> None:
    sources = {
        "wrong": b"def work(:\n",
        "misplaced": b"value = 1\nreturn value\n",
        "empty": b"value = 1\0\n",
        "encoded": b"# coding: none-such\n",
        "failing": b"def fail():\n    raise ValueError(1)\n\nfail()\n",
        "importing": b"import misplaced\n",
        "changed": b"value = 1\n",
        "deep": b"value = " + b"-" * 90 + b"(" * 90 + b"1" + b")" * 90 + b"\n",
        "program": b"""
import importlib, sys, traceback

for name in ("wrong", "misplaced", "empty", "encoded", "failing", "importing", "missing", "deep", "changed"):
    try:
        module = importlib.import_module(name)
        print(module.value)
    except Exception:
        traceback.print_exc(file=sys.stdout)
    try:
        __import__(name)
    except Exception:
        traceback.print_exc(file=sys.stdout)
import changed
for source in ("value = 22\\n", "value = (\\n", "value = 4444\\n"):
    with open(changed.__file__, "w") as file:
        file.write(source)
    try:
        importlib.reload(changed)
    except Exception:
        traceback.print_exc(file=sys.stdout)
    print(changed.value)
""",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_bytes(source)
    alone = run(tmp_path, "program.py").stdout
    (tmp_path / "changed.py").write_bytes(sources["changed"])
    assert run(tmp_path, "-m", "plait", "advise", "-q", "program.py").stdout == alone


def test_what_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("def work(:\n    pass\n")
    alone = run(tmp_path, "program.py", status=1)
    ran = run(tmp_path, "-m", "plait", "advise", "program.py", status=1)
    assert ran.stderr == f"{alone.stderr}plait: no advice: the program failed: it ended with 1\n"


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('begun')\n")
    ran = run(tmp_path, "-m", "plait", "advise", "--html", "nowhere/page.html", "program.py", status=2)
    assert ran.stdout == ""
    assert "nowhere/page.html" in ran.stderr


def test_what_pickling_calls_is_no_work(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(REDUCER.replace("number in range(8)", "number in range(2)"))
    assert advise(tmp_path, "program.py")["tasks"] is None


def test_one_that_takes_any_function(tmp_path: Path) -> None:
    source = """
import functools, inspect, sys, threading, warnings

def double(function):
    @functools.wraps(function)
    def call(*args):
        return 2 * function(*args)
    return call

@double
def twice(number):
    return number

def work(number, /, first=1, *more, second, third=3, **named):
    return number, first, more, second, third, named

def caller():
    return sys._getframe(1).f_code.co_name

def old():
    warnings.warn("old", stacklevel=2)

class Jobs:
    def __init__(self):
        self.all = {}

    def submit(self, function):
        self.all[function.__name__] = function

    def map(self, function):
        return function is print, function is work

def outer():
    old()
    return caller()

def add(number):
    return number + 1

jobs = Jobs()
for function in (work, print):
    jobs.submit(function)
print(list(jobs.all), jobs.map(print), jobs.map(work))
print(outer(), inspect.getfullargspec(work), work.__code__.co_argcount, work.__code__.co_varnames)
print(work(1, second=2), work(1, 2, 3, 4, second=5, third=6, number=7))
for call in (lambda: work(), lambda: work(1), lambda: work(number=1, second=2)):
    try:
        call()
    except TypeError as error:
        print(error)
thread = threading.Thread(target=add, args=(1,))
print(thread.name)
thread.start()
thread.join()
"""
    (tmp_path / "program.py").write_text(source)
    alone = run(tmp_path, "program.py")
    ran = run(tmp_path, "-m", "plait", "advise", "-q", "program.py")
    assert ran.stdout == alone.stdout
    assert ran.stderr == alone.stderr


def test_the_automatic_pool_knows_its_functions(tmp_path: Path) -> None:
    source = """
import plait

def work(number):
    return number * number

if __name__ == "__main__":
    with plait.Pool() as pool:
        print(sum(pool.map(work, range(200))))
        print("model" in pool.explain(work))
"""
    (tmp_path / "program.py").write_text(source)
    assert run(tmp_path, "-m", "plait", "advise", "-q", "program.py").stdout.splitlines()[0] == "2646700"


@pytest.mark.parametrize("kind", ["Process", "Thread"])
def test_a_decorated_function_that_a_pool_is_handed(tmp_path: Path, kind: str) -> None:
    source = f"""
import concurrent.futures, functools

def named(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) + 1
    return wrapper

@named
def count(rounds):
    return sum(number * number for number in range(rounds))

if __name__ == "__main__":
    with concurrent.futures.{kind}PoolExecutor(2) as pool:
        for future in [pool.submit(count, 3) for _ in range(1500)]:
            assert future.result() == 6
"""
    (tmp_path / "program.py").write_text(source)
    said = advise(tmp_path, "program.py")
    assert (said["tasks"], said["calls"], said["verdict"]) == ("__main__.count", 1500, "serial")


DEEP = """
import threading, time

def walk(number):
    return 0 if number == 0 else 1 + walk(number - 1)

threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
for _ in range(6):
    print(walk(900))
"""


def test_recursion_beside_threads(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(DEEP)
    said = advise(tmp_path, "program.py")
    assert (said["tasks"], said["calls"]) == ("__main__.walk", 6)


def test_functions_that_are_sent_by_value(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    source = """
import pickle, subprocess, sys, cloudpickle

def fib(number):
    return number if number < 2 else fib(number - 1) + fib(number - 2)

def work(numbers):
    return sorted(map(lambda number: fib(number), numbers))

print(work([3, 2, 1]), flush=True)
sent = cloudpickle.dumps(work)
code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)([8, 9, 3]))"
subprocess.run([sys.executable, "-c", code], input=sent)
"""
    (tmp_path / "program.py").write_text(source)
    assert run(tmp_path, "-m", "plait", "advise", "-q", "program.py").stdout.splitlines() == [
        "[1, 1, 2]",
        "[2, 21, 34]",
    ]


def test_what_is_made_again_and_again_is_not_kept(tmp_path: Path) -> None:
    source = """
import resource

def call(function):
    return function()

for _ in range(400):
    data = bytearray(1 << 20)
    def outer(data):
        return call(lambda: len(data))
    outer(data)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 200 << 10)
"""
    (tmp_path / "program.py").write_text(source)
    assert run(tmp_path, "-m", "plait", "advise", "-q", "program.py").stdout == "True\n"


def test_functions_of_one_source_are_looked_at_up_to_a_number(tmp_path: Path) -> None:
    source = """
metered = set()
for _ in range(3000):
    made = lambda number: number
    metered.add(hasattr(made, "__wrapped__"))
print(metered == {True, False}, hasattr(made, "__wrapped__"))
"""
    (tmp_path / "program.py").write_text(source)
    assert run(tmp_path, "-m", "plait", "advise", "-q", "program.py").stdout == "True False\n"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--json", "program.py", "a", "--json"], ["a", "--json"]),
        (["program.py", "--json", "a", "-q"], ["a", "-q"]),
        (["program.py", "--json", "--cores=1,2", "--", "--json", "--"], ["--json", "--"]),
        (["program.py", "--cores", "1", "--json", "--other", "--json"], ["--other", "--json"]),
        (["--json", "program.py", "--help"], ["--help"]),
        (["--json", "program.py", "--", "a"], ["a"]),
        (["--json", "--", "program.py", "--json", "--", "a"], ["--json", "--", "a"]),
        (["-m", "program", "--json", "--", "-q"], ["-q"]),
    ],
)
def test_whose_words_these_are(tmp_path: Path, words: list[str], given: list[str]) -> None:
    (tmp_path / "program.py").write_text("import sys\nprint(sys.argv[1:])\n")
    ran = run(tmp_path, "-m", "plait", "advise", *words)
    assert json.loads(ran.stdout)["schema"] == 1
    assert ran.stderr == f"{given}\n"


def test_a_package_that_imports_its_work(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from .core import work\n")
    (package / "core.py").write_text("def work(count):\n    return sum(range(count))\n")
    (package / "__main__.py").write_text("from . import work\nfor _ in range(20):\n    work(9)\n")
    assert advise(tmp_path, "-m", "package")["tasks"] == "package.core.work"


def test_a_script_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib" / "helper.py").write_text("def work(count):\n    return sum(range(count))\n")
    source = "import helper, sys\nfor _ in range(20):\n    helper.work(9)\nprint(__file__, sys.path[0], sys.argv)\n"
    (tmp_path / "lib" / "tool.py").write_text(source)
    (tmp_path / "bin" / "tool.py").symlink_to(tmp_path / "lib" / "tool.py")
    alone = run(tmp_path, "bin/tool.py")
    ran = run(tmp_path, "-m", "plait", "advise", "--json", "bin/tool.py")
    assert ran.stderr == alone.stdout
    assert json.loads(ran.stdout)["tasks"] == "helper.work"


def test_a_program_that_profiles_itself(tmp_path: Path) -> None:
    source = """
import plait

def work(count):
    return sum(range(count))

with plait.profile() as profile:
    for _ in range(50):
        work(20_000)
print(profile.verdict is not None, len(profile.threads) > 0)
"""
    (tmp_path / "program.py").write_text(source)
    assert run(tmp_path, "-m", "plait", "advise", "-q", "program.py").stdout == "True True\n"


SLEEPS = """
import time

def work(number=0):
    print("begun", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    work()
"""


@pytest.mark.parametrize("words", [("advise", "program.py"), ("compare", "program.py:work")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_program_ends_with_the_command(tmp_path: Path, words: tuple[str, ...], number: int) -> None:
    (tmp_path / "program.py").write_text(SLEEPS)
    (tmp_path / "folders").mkdir()
    command = [sys.executable, "-m", "plait", *words]
    environment = os.environ | {"TMPDIR": str(tmp_path / "folders")}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        process.stdout.read()  # to its end: nobody has it any more
        status = process.wait(timeout=30)
    if number == signal.SIGTERM:
        assert status == 128 + number
        assert list((tmp_path / "folders").iterdir()) == []


@pytest.mark.parametrize("guarded", [True, False])
def test_what_to_change_in_a_script(tmp_path: Path, guarded: bool) -> None:
    begin = 'if __name__ == "__main__":' if guarded else "if True:"
    source = f"def add(one, other):\n    return one + other\n\n{begin}\n    for number in range(9):\n        add(number, 1)\n"
    (tmp_path / "program.py").write_text(source)
    change = advise(tmp_path, "program.py")["changes"]["processes"]
    assert "list(pool.map(add, *zip(*items)))" in change
    assert ("__main__" in change) is not guarded
