"""Every example that users read runs: docstrings, the README's program, and examples/."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import plait
from examples.demo import table, ways

ROOT = Path(__file__).resolve().parents[2]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def module(name: str) -> Any:
    """The module, or None: what integrates with another project needs that one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        if not name.startswith("plait.integrations."):
            raise
        return None


def doctests() -> list[Any]:
    """One case for each docstring of the package that has examples."""
    names = [plait.__name__, *(each.name for each in pkgutil.walk_packages(plait.__path__, "plait."))]
    modules = [found for name in names if not name.endswith("__main__") and (found := module(name))]
    found = [test for each in modules for test in doctest.DocTestFinder().find(each, each.__name__)]
    return [pytest.param(test, id=test.name) for test in found if test.examples]


@pytest.mark.filterwarnings("ignore:hold_warning has no effect:RuntimeWarning")  # without a GIL
@pytest.mark.filterwarnings("ignore:.*event_loop_policy:DeprecationWarning")  # from 3.14 on
@pytest.mark.parametrize("test", doctests())
def test_docstring(test: doctest.DocTest) -> None:
    report: list[str] = []
    test.globs.setdefault("plait", plait)
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    assert not report, "".join(report)


def programs(page: str) -> list[Any]:
    """The ```python blocks of a page, each with the ```text block that follows it, if any, as its output."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", text, re.DOTALL)
    return [pytest.param(source, output, id=f"{page}-{number}") for number, (source, output) in enumerate(blocks)]


@pytest.mark.parametrize(("source", "output"), programs("README.md"))
def test_page(run_script: Any, source: str, output: str) -> None:
    result = run_script(source)
    if output:
        assert result.stdout == output


def test_readme_has_a_program() -> None:
    assert programs("README.md")


LAWFUL = """
class Greeter:
    def greet(self, name):
        return "hello " + name
"""
DEMO = ROOT / "examples" / "demo" / "run.py"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    (folder / "site-packages").mkdir(parents=True)
    (folder / "greeter.py").write_text(LAWFUL)
    (folder / "grüße an alle.py").write_text(LAWFUL)
    (folder / "broken.py").write_text("def (:\n")
    (folder / "zeros.py").write_bytes(b"\0\0")
    (folder / "site-packages" / "foreign.py").write_text(LAWFUL)
    (tmp_path / "elsewhere.py").write_text(LAWFUL)
    (folder / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    return folder


def test_demo(run_script: Any, sources: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "profile.html"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    result = run_script(DEMO, "--folder", str(sources), "--page", str(page), env={"TMPDIR": str(scratch)})
    assert result.stdout.startswith("4 documents, 0.0 MB")
    assert "All 3 databases are equal" in result.stdout
    assert "2 lines  Greeter.greet  greeter.py:3" in result.stdout
    assert "2 lines  Greeter.greet  grüße an alle.py:3" in result.stdout
    for stage in ("fetch", "index", "pack", "store"):
        assert f"examples.demo.stages.{stage}: " in result.stdout, "explained"
    assert "\x1b" not in result.stdout + result.stderr, "colour without a terminal"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert not list(scratch.iterdir()), "left behind"


def test_demo_tells_of_a_difference(run_script: Any, sources: Path, tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from examples.demo import run, ways

def forgets_the_last(urls, database, lap):
    ways.serially(urls[:-1], database, lap)

run.WAYS["by hand"] = forgets_the_last
sys.exit(run.main())
"""
    result = run_script(program, "--folder", str(sources), "--page", str(tmp_path / "profile.html"), check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith("demo: not what the serial run made: by hand\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_leaves_nothing_when_it_is_interrupted(run_script: Any, tmp_path: Path, number: signal.Signals) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def interrupt(process: Any) -> None:
        while not list(scratch.glob("plait-demo-*/*.sqlite")) and process.poll() is None:  # the first way is done
            time.sleep(0.01)
        process.send_signal(number)

    result = run_script(DEMO, "--documents", "30", env={"TMPDIR": str(scratch)}, check=False, during=interrupt)
    assert result.returncode == 128 + number, result.stderr
    assert not list(scratch.iterdir()), "left behind"


def test_demo_of_a_missing_folder(run_script: Any, tmp_path: Path) -> None:
    result = run_script(DEMO, "--folder", str(tmp_path / "nowhere"), check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"demo: no such folder: {tmp_path / 'nowhere'}\n"


def test_demo_of_an_empty_folder(run_script: Any, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    result = run_script(DEMO, "--folder", str(folder), check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"demo: no Python files in {folder}\n"


def test_readme_has_the_stored_result_of_the_demo() -> None:
    readme = (ROOT / "README.md").read_text()
    assert table.page_with(readme, json.loads(DEMO.with_name("result.json").read_text())) == readme


def test_the_demo_tells_of_the_cores_that_it_had() -> None:
    result = json.loads(DEMO.with_name("result.json").read_text()) | {"cores": 64}
    assert "ProcessPoolExecutor(64)" in "\n".join(table.table(result))


def test_readme_has_the_program_of_the_demo() -> None:
    source = textwrap.dedent(inspect.getsource(ways.with_pool))
    assert f"```py\n{source}```" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("countdown.py whole 1000", "counted down from 1,000"),
        ("countdown.py halves 1000", "counted down from 1,000"),
        ("sums.py serial 1000", "the numbers below 1,000 add up to 499,500"),
        ("sums.py threads 1000", "the numbers below 1,000 add up to 499,500"),
        ("sums.py processes 1000", "the numbers below 1,000 add up to 499,500"),
        ("pages.py serial 3", "3 pages, 15 bytes"),
        ("pages.py threads 3", "3 pages, 15 bytes"),
        ("pages.py gathered 3", "3 pages, 15 bytes"),
        ("sleeps.py 2", "2 sleeps of 0.5 s: less than one after the other"),
        ("beside.py 5", "5 answers"),
    ],
)
def test_programs_on_the_gil(run_script: Any, program: str, said: str) -> None:
    name, *arguments = program.split()
    assert run_script(ROOT / "examples" / "gil" / name, *arguments).stdout == said + "\n"


def test_the_page_on_the_gil_has_all_programs() -> None:
    page = (ROOT / "docs" / "gil-programs.md").read_text()
    for program in (ROOT / "examples" / "gil").glob("*.py"):
        assert f"plait profile examples/gil/{program.name}" in page
