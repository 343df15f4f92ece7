"""Where functions of tasks may come from: scripts, `python -m`, `python -c`, standard input, a REPL; unguarded scripts."""

from __future__ import annotations

import sys
import textwrap

import pytest

from tests.processes._support import Case

TWO_WAYS = pytest.mark.parametrize("cloudpickle", [True, False], ids=["cloudpickle", "without"])


def _run(folder, command, *, stdin="", files=None, check=True):
    """Run a program with `files` in its folder; return its standard output and error."""
    folder.mkdir(exist_ok=True)
    for name, text in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    with Case(folder / "run", [sys.executable, *command], stdin=textwrap.dedent(stdin)) as case:
        if check:
            case.check()
        else:
            case.wait(30)
            case.settle()
            case.check_shm()
        return case.returncode(), case.output(), case.errors()


HIDE_CLOUDPICKLE = """
import sys
sys.modules["cloudpickle"] = None  # as if it were not installed
"""

SCRIPT = """
{prelude}
import os, plait

EVALUATED = os.getpid()

def square(x):
    return x * x

class Point:
    def __init__(self, x):
        self.x = x
    def moved(self, by):
        return Point(self.x + by)

class Trouble(Exception):
    pass

def fail():
    raise Trouble("in main")

def where():
    return __name__, EVALUATED in (os.getpid(), os.getppid())

if __name__ == "__main__":
    with plait.ProcessPool(2) as pool:
        assert pool.submit(square, 7).result() == 49
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]
        point = pool.submit(Point(1).moved, 2).result()
        assert type(point) is Point and point.x == 3
        error = pool.submit(fail).exception()
        assert type(error) is Trouble, repr(error)
        print(pool.submit(where).result())
"""


@TWO_WAYS
def test_script(cloudpickle, tmp_path):
    # The script is imported as `__mp_main__`, for the workers that are forked from there: no need for cloudpickle.
    script = SCRIPT.format(prelude="" if cloudpickle else HIDE_CLOUDPICKLE)
    _, out, _ = _run(tmp_path, [str(tmp_path / "script.py")], files={"script.py": script})
    assert out.splitlines() == ["('__mp_main__', True)"]


@TWO_WAYS
def test_script_called_from_elsewhere_by_a_relative_path(cloudpickle, tmp_path):
    script = SCRIPT.format(prelude="" if cloudpickle else HIDE_CLOUDPICKLE)
    _, out, _ = _run(tmp_path, ["../sub/script.py"], files={"sub/script.py": script})
    assert out.splitlines() == ["('__mp_main__', True)"]


def test_script_that_changes_its_folder(tmp_path):
    script = SCRIPT.format(prelude='import os\nif __name__ == "__main__":\n    os.chdir("/")\n')
    _, out, _ = _run(tmp_path, ["../script.py"], files={"script.py": script})
    assert out.splitlines() == ["('__mp_main__', True)"]


@TWO_WAYS
def test_module(cloudpickle, tmp_path):
    files = {
        "package/__init__.py": "",
        "package/helper.py": "OFFSET = 0\n",
        "package/program.py": "from .helper import OFFSET\n"
        + SCRIPT.format(prelude="" if cloudpickle else HIDE_CLOUDPICKLE),
    }
    command = ["-c", "import os, sys; os.chdir('..'); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"]
    _, out, _ = _run(tmp_path, [*command, "-m", "package.program"], files=files)
    assert out.splitlines() == ["('__mp_main__', True)"]


def test_package_main(tmp_path):
    # `multiprocessing` never imports the `__main__` of a package again, so its functions travel by value.
    pytest.importorskip("cloudpickle")
    program = """
        import plait
        def square(x):
            return x * x
        if __name__ == "__main__":
            with plait.ProcessPool(2) as pool:
                print(pool.submit(square, 7).result(), *pool.map(square, range(5)))
        """
    files = {"package/__init__.py": "", "package/__main__.py": program}
    command = ["-c", "import os, sys; os.chdir('..'); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"]
    _, out, _ = _run(tmp_path, [*command, "-m", "package"], files=files)
    assert out.split() == ["49", "0", "1", "4", "9", "16"]


def test_functions_of_modules_beside_the_script(tmp_path):
    files = {
        "beside.py": "def square(x):\n    return x * x\n",
        "script.py": """
            import plait
            from beside import square
            if __name__ == "__main__":
                with plait.ProcessPool(1) as pool:
                    print(pool.submit(square, 3).result())
            """,
    }
    _, out, _ = _run(tmp_path, [str(tmp_path / "script.py")], files=files)
    assert out.split() == ["9"]


# What `python -c`, standard input and a REPL define cannot be imported by a worker: it travels by value.
TYPED_IN = """
import plait
factor = 3
def triple(x):
    return factor * x

class Box:
    def __init__(self, x):
        self.x = x

def unbox(box):
    return Box(box.x + 1)

pool = plait.ProcessPool(2)
print("submit", pool.submit(triple, 14).result())
print("map", list(pool.map(triple, range(4))))
print("class", pool.submit(unbox, Box(1)).result().x)
print("lambda", pool.submit(lambda x: x + factor, 1).result())
factor = 5
print("changed", pool.submit(triple, 2).result())
pool.shutdown()
"""
ANSWERS = ["submit 42", "map [0, 3, 6, 9]", "class 2", "lambda 4", "changed 10"]


def test_command_line(tmp_path):
    pytest.importorskip("cloudpickle")
    _, out, _ = _run(tmp_path, ["-c", TYPED_IN])
    assert out.splitlines() == ANSWERS


def test_standard_input(tmp_path):
    pytest.importorskip("cloudpickle")
    _, out, _ = _run(tmp_path, ["-"], stdin=TYPED_IN)
    assert out.splitlines() == ANSWERS


def test_repl(tmp_path):
    pytest.importorskip("cloudpickle")
    _, out, err = _run(tmp_path, ["-i", "-q"], stdin=TYPED_IN + "\n")
    assert out.splitlines() == ANSWERS, err


def test_notebook_like(tmp_path):
    # A kernel: `__main__` is a module without a file whose contents come and go.
    pytest.importorskip("cloudpickle")
    kernel = """
        import sys, types
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        for cell in (sys.stdin.read().split("# cell")):
            exec(compile(cell, "<cell>", "exec"), main.__dict__)
        """
    cells = TYPED_IN.replace("pool = ", "# cell\npool = ").replace("factor = 5", "# cell\nfactor = 5")
    _, out, _ = _run(tmp_path, [str(tmp_path / "kernel.py")], files={"kernel.py": kernel}, stdin=cells)
    assert out.splitlines() == ANSWERS


@pytest.mark.parametrize("how", ["-c", "-"])
def test_typed_in_without_cloudpickle_says_so(how, tmp_path):
    program = (
        HIDE_CLOUDPICKLE
        + """
import plait
def triple(x):
    return 3 * x
with plait.ProcessPool(1) as pool:
    try:
        error = pool.submit(triple, 1).exception()
    except plait.NotPicklable as at_the_call:
        error = at_the_call
    print(type(error).__name__, "cloudpickle" in str(error), "triple" in str(error))
    print(pool.submit(abs, -1).result())
"""
    )
    command = ["-c", program] if how == "-c" else ["-"]
    _, out, _ = _run(tmp_path, command, stdin=program)
    assert out.splitlines() == ["NotPicklable True True", "1"]


UNGUARDED = """
import plait
def square(x):
    return x * x
pool = plait.ProcessPool(2)
print("result", pool.submit(square, 3).result())
pool.shutdown()
"""


@pytest.mark.parametrize("call", ["submit", "map", "importable"])
def test_unguarded_script_gets_an_error_and_no_recursion(call, tmp_path):
    # The standard library's error, in time: nothing hangs, and processes do not multiply.
    script = UNGUARDED
    if call == "map":
        script = script.replace("pool.submit(square, 3).result()", "list(pool.map(square, range(9)))")
    elif call == "importable":
        script = script.replace("submit(square, 3)", "submit(abs, -9)")
    files = {"script.py": f"open({str(tmp_path / 'runs')!r}, 'a').write('run\\n')\n" + script}
    code, out, err = _run(tmp_path, [str(tmp_path / "script.py")], files=files, check=False)
    runs = (tmp_path / "runs").read_text().count("run")
    if code == 0 and call == "importable":
        assert out.split() == ["result", "9"]  # a worker that never needed the script
    else:
        assert code == 1, err
        assert "__main__" in err, err
        assert "bootstrapping" in err or "if __name__" in err, err
    assert runs <= 12, f"the script ran {runs} times"


def test_main_that_fails_to_import_again(tmp_path):
    # The guard is there, and importing the script in a worker fails. Either the function travels by value, or the error
    # tells why; no endless respawn.
    script = """
        import os, plait
        if __name__ != "__main__":
            open("runs", "a").write("run\\n")
            raise ValueError("not twice")
        def square(x):
            return x * x
        if __name__ == "__main__":
            with plait.ProcessPool(1) as pool:
                future = pool.submit(square, 3)
                error = future.exception(50)
                print(future.result() if error is None else error)
        """
    _, out, err = _run(tmp_path, [str(tmp_path / "script.py")], files={"script.py": script})
    assert out.split() == ["9"] or "not twice" in out + err
    runs = tmp_path / "run" / "runs"
    assert not runs.exists() or runs.read_text().count("run") <= 12
