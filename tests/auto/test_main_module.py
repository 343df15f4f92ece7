"""What the main module of a program means for the automatic pool: workers import it, and do not find all that is in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

WATCHDOG = 60

#: Calls that are worth processes, and a count of those that were made here.
CALLS = """
    import linecache, sys, types
    import plait

    if __name__ == "__main__":
        def work(number):
            return sum(range(30_000)) * 0 + number

        class Item:
            def __init__(self, number):
                self.number = number

    def take(item):
        return sum(range(30_000)) * 0 + getattr(item, "number", item)

    if __name__ == "__main__":
        seen = []
        later = types.ModuleType("made_later")
        sys.modules["made_later"] = later
        source = "def work(number):\\n    return sum(range(30_000)) * 0 + number\\n"
        linecache.cache["<made>"] = (len(source), None, source.splitlines(True), "<made>")
        exec(compile(source, "<made>", "exec"), later.__dict__)
        function, items = {
            "function": (work, range(300)),
            "items": (take, [Item(number) for number in range(300)]),
            "some items": (take, [*range(200), *map(Item, range(200, 300))]),
            "module": (later.work, range(300)),
        }[sys.argv[1]]
        with plait.Pool(2, models=["processes"]) as pool:
            def call():
                if sys.argv[2] == "map":
                    return list(pool.map(function, items))
                return [future.result() for future in [pool.submit(function, item) for item in items]]

            while "processes" not in pool.explain(function)["refused"] if seen else True:
                seen.append(call())
            assert all(given == list(range(300)) for given in seen), seen
            print(pool.explain(function)["refused"]["processes"])
"""


@pytest.mark.parametrize("way", ["map", "submit"])
@pytest.mark.parametrize("what", ["function", "items", "some items", "module"])
def test_what_a_worker_does_not_find_is_called_here(run_script, what, way):
    printed = run_script(textwrap.dedent(CALLS), what, way, timeout=WATCHDOG).stdout
    assert ("is defined under" if what == "function" else "cannot be loaded by a worker process") in printed


def test_what_was_not_read_is_told_from_what_was_raised():
    from plait.auto import _calls

    error = AttributeError("Can't get attribute 'work'")
    assert not _calls.was_not_read(error)
    error.add_note("while unpickling the arguments of plait.auto._calls.lot_in_process in the worker")
    assert _calls.was_not_read(error)
    error.add_note("while unpickling the result of a task")
    assert not _calls.was_not_read(error)


UNGUARDED = """
import os, plait

os.write(1, b"top\\n")

def work(number):
    return sum(range(30_000)) * 0 + number

def main():
    for _ in range(2):
        with plait.Pool(2, models=["processes"]) as pool:
            for _ in range(20):
                assert list(pool.map(work, range(100))) == list(range(100))
                futures = [pool.submit(work, number) for number in range(100)]
                assert [future.result() for future in futures] == list(range(100))
                if "processes" in pool.explain(work)["refused"]:
                    break
            print(pool.explain(work)["refused"]["processes"], "|", pool._engine._first)
"""


@pytest.mark.parametrize(
    "call",
    ["main()", "if work(1):\n    main()", "for _ in [1]: main()", "from helper import *", "try: main()\nfinally: pass"],
)
def test_where_workers_would_make_the_pool_too_none_is_started(run_script, tmp_path, call):
    (tmp_path / "helper.py").write_text("import plait\nimport __main__\n__main__.main()\n")
    ended = run_script(UNGUARDED + call, timeout=WATCHDOG, env={"PYTHONPATH": extended(tmp_path)})
    assert ended.stdout.count("top") == 1
    assert ended.stdout.count("outside of `if __name__ ==") == 2
    assert ended.stdout.count("| None") == 2, "processes were asked for"
    [line] = ended.stderr.splitlines()
    assert 'outside of `if __name__ == "__main__":`' in line


def test_what_was_not_foreseen_is_said_once_and_remembered(run_script):
    ended = run_script(UNGUARDED + "if __name__ == '__main__':\n    pass\nmain()\n", timeout=WATCHDOG)
    assert ended.stdout.count("outside of `if __name__ ==") == 2
    assert ended.stdout.count("| None") == 1, "processes were asked for again"
    [line] = ended.stderr.splitlines()
    assert 'outside of `if __name__ == "__main__":`' in line


@pytest.mark.parametrize(
    "call",
    [
        "if __name__ == '__main__':\n    main()",
        "if '__main__' == __name__ and work(1):\n    main()",
        "__name__ == '__main__' and main()",
        "if __name__ != '__main__':\n    pass\nelse:\n    main()",
        "import multiprocessing\nif multiprocessing.parent_process() is None: main()",
    ],
)
def test_a_guard_is_a_guard_however_it_is_written(run_script, call):
    source = UNGUARDED.replace(
        'print(pool.explain(work)["refused"]["processes"], "|", pool._engine._first)', ""
    ).replace("range(20)", "range(1)")
    assert run_script(source + call + "\nprint('done')", timeout=WATCHDOG).stderr == ""


@pytest.mark.parametrize("how", ["-c", "standard input"])
def test_functions_of_a_program_that_is_no_file_stay_and_are_told_why(how):
    source = textwrap.dedent(
        """
        import os, plait
        def work(number):
            return sum(range(30_000)) * 0 + os.getpid()
        with plait.Pool() as pool:
            print(set(pool.map(work, range(300))) == {os.getpid()}, pool._engine._first)
            print(pool.explain(work)["refused"].get("processes", ""))
        """
    )
    command, given = ([sys.executable, "-c", source], "") if how == "-c" else ([sys.executable], source)
    ended = subprocess.run(command, input=given, capture_output=True, text=True, timeout=WATCHDOG, check=True)
    made, why = ended.stdout.splitlines()
    assert made == "True None", "no processes were asked for"
    assert "reads `work` of `__main__`, which workers do not import" in why


def extended(folder):
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
