"""`plait compare file.py:function`: calls under every model, and what can go wrong with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plait.advice import measured_calls, predict_calls
from plait.cli.main import main
from plait.compare import _render_function
from plait.compare._function import FunctionComparison, Way
from plait.model import calibrate

SOURCE = """
import asyncio, os, threading, time

ITEMS = [3, 1, 2]

def double(number):
    print("one more")
    return number * 2

def nap():
    time.sleep(0.001)

def two():
    yield from (1, 2)

def fails(number):
    raise ValueError(f"not {number}")

def where(number):
    return threading.get_ident(), os.getpid()

held = threading.Lock()

def lock(number):
    return held if number else None

async def later(number):
    await asyncio.sleep(0.001)
    return number

class Shape:
    @staticmethod
    def area(side):
        return side * side

def not_a_number(number):
    return float("nan"), number

def dies(number):
    os.abort()

nothing = ()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def compared(file: Path, name: str, *options: str, code: int = 0) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    command = [sys.executable, "-m", "plait", "compare", f"{file}:{name}", "--json", "--rounds", "1", "--workers", "2"]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == code, ran.stderr
    found = json.loads(ran.stdout)
    return found, {way["model"]: way for way in found["ways"]}


def test_a_function(file: Path) -> None:
    found, ways = compared(file, "double")
    assert (found["schema"], found["function"], found["calls"]) == (1, "mine.py:double", 3)
    assert set(ways) == {"serial", "threads", "processes", "asyncio"}
    for model in ("serial", "threads", "processes"):
        assert ways[model]["same_results"] is True
        assert ways[model]["seconds"] > 0
        assert ways[model]["predicted"] > 0
        assert ways[model]["error"] == pytest.approx(ways[model]["predicted"] / ways[model]["seconds"] - 1)
    assert "no coroutine function" in ways["asyncio"]["failure"]


@pytest.mark.parametrize(
    ("name", "options", "calls"),
    [("nap", (), 20), ("nap", ("--calls", "5"), 5), ("double", ("--over", "two"), 2), ("Shape.area", (), 3)],
)
def test_what_it_is_called_with(file: Path, name: str, options: tuple[str, ...], calls: int) -> None:
    found, ways = compared(file, name, *options)
    assert found["calls"] == calls
    assert ways["threads"]["same_results"] is True


def test_results_that_are_not_equal_to_themselves(file: Path) -> None:
    _, ways = compared(file, "not_a_number")
    assert all(ways[model]["same_results"] for model in ("serial", "threads", "processes"))


def test_a_coroutine_function(file: Path) -> None:
    _, ways = compared(file, "later")
    assert ways["asyncio"]["same_results"] is ways["serial"]["same_results"] is True
    assert ways["asyncio"]["predicted"] > 0
    assert "coroutine function" in ways["threads"]["failure"]


def test_imports_and_first_looks_are_no_part_of_a_call(tmp_path: Path) -> None:
    """What the first call imports, the calls that are measured later have already; the start of the meters is none of it."""
    script = """
import json, sys
from plait.advice import measured_calls

async def later():
    import slow
    return slow

def now():
    import slow_too
    return slow_too

kept = []
for function in (later, now):
    record, raised = measured_calls(function, [()] * 3)
    assert raised is None, raised
    kept.append(max(map(sum, record["items"])))
print(json.dumps(kept))
"""
    for name in ("slow", "slow_too"):
        (tmp_path / f"{name}.py").write_text("import time\ntime.sleep(0.2)\nsum(range(10_000_000))\n")
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert max(json.loads(ran.stdout)) < 0.1


def test_the_first_call_takes_what_the_others_take(tmp_path: Path) -> None:
    script = """
import asyncio, json
from plait.advice import measured_calls

async def nap():
    await asyncio.sleep(0.001)

record, _ = measured_calls(nap, [()] * 9)
print(json.dumps([item[0] + item[1] + item[2] for item in record["items"]]))
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    first, *others = json.loads(ran.stdout)
    assert first < 0.0005 + 2 * max(others)


def test_coroutines_one_after_the_other_need_a_loop_too() -> None:
    async def nothing() -> None:
        pass

    record, _ = measured_calls(nothing, [()] * 5)
    assert record is not None
    loop, plain = (
        predict_calls(record, "serial", None, 2),
        predict_calls({**record, "coroutine": False}, "serial", None, 2),
    )
    assert loop is not None
    assert plain is not None
    assert loop[0] - plain[0] == pytest.approx(calibrate().all["loop.start"].seconds, rel=0.2)


def test_a_function_that_fails_in_every_way_is_a_failure(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"{file}:fails", "--rounds", "1"]) == 1
    assert "'fails' failed in every way" in capfd.readouterr().err


def test_what_raised_is_not_told_as_not_run(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, ways = compared(file, "fails", code=1)
    assert {model for model in ways if ways[model]["raised"]} == {"serial", "threads", "processes"}
    for option in ([], ["--markdown"]):
        assert main(["compare", f"{file}:fails", "--rounds", "1", *option]) == 1
        said = capfd.readouterr().out
        assert said.count("raised ValueError: not 3") == 4
        assert said.count("not run: it is no coroutine function") == 1
    assert main(["compare", f"{file}:fails", "--rounds", "1", "--html", f"{file}.html"]) == 1
    assert "<dt>serial</dt><dd>raised ValueError: not 3</dd>" in Path(f"{file}.html").read_text()


def test_failures_are_told_by_model(file: Path) -> None:
    _, ways = compared(file, "fails", code=1)
    assert all("ValueError: not 3" in ways[model]["failure"] for model in ("serial", "threads", "processes"))
    _, ways = compared(file, "lock")
    assert ways["threads"]["failure"] is None
    assert "pickle" in ways["processes"]["failure"]
    _, ways = compared(file, "where")
    assert (ways["serial"]["same_results"], ways["processes"]["same_results"]) == (True, False)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{file}:missing"], 2, "'missing' is not there"),
        (["{file}:ITEMS"], 2, "'ITEMS' is no function"),
        (["{file}:double", "--over", "missing"], 2, "'missing' is not there"),
        (["{file}:double", "--over", "nothing"], 2, "'nothing' has no items"),
        (["{file}:double", "--over", "fails"], 2, "'fails' gives no items"),
        (["{file}:dies"], 125, "sudden end"),
        (["{file}"], 2, "file.py:function"),
        (["nowhere.py:work"], 2, "there is no file 'nowhere.py'"),
        (["{file}:double", "--workers", "0"], 2, "--workers must be"),
        (["{file}:double", "--calls", "many"], 2, "--calls needs numbers"),
        (["{file}:double", "more"], 2, "one function"),
        (["--over", "ITEMS"], 2, "--over is for a function"),
        (["--json", "--markdown"], 2, "take one"),
        (["{file}:double", "--html", "/nowhere/page.html"], 2, "cannot be written: there is no folder '/nowhere'"),
    ],
)
def test_bad_input(file: Path, words: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "plait", "compare", *(word.format(file=file) for word in words)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert said in ran.stderr


def test_a_file_that_cannot_be_imported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert main(["compare", f"{tmp_path}/broken.py:work"]) == 2
    said = capfd.readouterr().err
    assert "cannot be imported: ZeroDivisionError" in said
    assert said.startswith(f'Traceback (most recent call last):\n  File "{tmp_path}/broken.py", line 1')
    (tmp_path / "unread.py").write_text("work =\n")
    assert main(["compare", f"{tmp_path}/unread.py:work"]) == 2
    assert capfd.readouterr().err.startswith(f'  File "{tmp_path}/unread.py", line 1')


def test_forms() -> None:
    ways = (
        Way("threads", 4, (0.5, 0.4), 0.3, 0.2, 0.5, True),
        Way("serial", None, (1.0,), None, None, None, True),
        Way("processes", 2, (), None, None, None, None, "cannot be <pickled>"),
    )
    machine = {"python": "3.11", "gil": True, "cores": 2, "system": "Linux", "load": 0.1}
    comparison = FunctionComparison("mine.py:work", 20, 2, ways, machine)
    text = _render_function.text(comparison)
    assert max(map(len, text.splitlines())) <= 80
    assert "-25%" in text
    assert "not run: cannot be <pickled>" in text
    assert "| threads 4 | 400 ms | 300 ms (200 ms to 500 ms) | -25% | the same |" in _render_function.markdown(
        comparison
    )
    page = _render_function.page(comparison)
    assert "cannot be &lt;pickled&gt;" in page
    assert page.count('class="mark"') == 1


def test_the_textbooks_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Measuring itself has its own tests, and takes long: one measurement is enough here."""
    from plait.compare import _measure

    monkeypatch.setattr(_measure, "HOMES", {"turns": "plait.compare._cores"})
    monkeypatch.setattr("plait.compare._textbook._ROWS", ())
    monkeypatch.setattr("plait.compare._textbook._take_more", lambda *_: [])  # what only some interpreters have
    assert main(["compare", "--quick", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == []
    assert err == "plait: measuring turns\n"


def test_a_long_message_is_cut_between_words() -> None:
    from plait.compare import _ways

    told = _ways._words(ValueError("a function of __main__ cannot be imported; (`pip install cloudpickle`) " * 8))
    assert told.endswith(" …")
    assert set(told.split()) <= {
        "ValueError:",
        "…",
        *["a", "function", "of", "__main__", "cannot", "be", "imported;", "(`pip", "install", "cloudpickle`)"],
    }
    assert len(told) > 250  # the message of what is missing is not cut
