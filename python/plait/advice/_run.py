"""Runs a program with meters, in an interpreter that is its own, and leaves what they have seen in a folder.

`main` stands for what the interpreter itself does with a program: its own `__main__`, its arguments, its path, its tracebacks.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.machinery
import json
import os
import sys
import threading
import time
import types
from typing import Any, NamedTuple

from plait.advice import _find, _source
from plait.advice._children import end_with
from plait.advice._handed import Handing, gather
from plait.advice._instructions import without_meters
from plait.advice._meter import learn_costs
from plait.advice._meters import Meters

#: The file in the folder.
RECORD = "calls.json"


def main(folder: str, parent: int, program: list[str]) -> None:
    """Run a script, `-m module` or `-c code`, with its arguments; ends with its own exit code."""
    end_with(parent)
    pid = os.getpid()
    meters = Meters(folder)
    learn_costs()
    _look(meters, _folder(program))
    program_main = _main_module(program)
    code, wall, waits = _execute(program_main, folder)
    if os.getpid() != pid:  # a fork that has come to the end of the script
        sys.exit(code)
    meters.end()
    meters.gather(gather(folder))
    record = _find.record(meters, wall, waits)
    record["guarded"] = bool(code) or _is_guarded(program_main)
    record["code"] = code if isinstance(code, int) else int(code is not None)
    path = os.path.join(folder, RECORD)
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(f"{path}.part", path)
    sys.exit(code)


class _Main(NamedTuple):
    """What is to run as `__main__`: the module, its source, its file's name, and the folder of its own modules."""

    module: types.ModuleType
    source: bytes
    path: str
    folder: str


def _is_guarded(main: _Main) -> bool:
    """Whether processes can import it without running it again."""
    if not os.path.isfile(main.path):
        return True  # they cannot import it
    tests = (node.test for node in ast.parse(main.source).body if isinstance(node, ast.If))
    return any(isinstance(each, ast.Name) and each.id == "__name__" for test in tests for each in ast.walk(test))


def _folder(program: list[str]) -> str:
    """Where the program's own modules lie."""
    return os.getcwd() if program[0] in {"-c", "-m"} else os.path.dirname(os.path.realpath(program[0]))


def _look(meters: Meters, folder: str) -> None:
    """From now on, hand functions of the program's modules to the meters."""
    setattr(builtins, _source.FUNCTION, meters.function)
    setattr(builtins, _source.CALLED, meters.called)
    setattr(builtins, _source.HANDING, Handing(meters))
    os.register_at_fork(after_in_child=meters.end)  # nobody would hear of what is seen there
    sys.meta_path.insert(0, _source.Finder(folder))


def _main_module(program: list[str]) -> _Main:
    """Set up `__main__`, the arguments and the path as the interpreter would."""
    if program[0] == "-c":
        return _of_code(program[1], program[2:])
    if program[0] == "-m":
        return _of_module(program[1], program[2:])
    script, *arguments = program
    path = os.path.abspath(script)
    with open(path, "rb") as file:
        source = file.read()
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    module = _made(__file__=path, __spec__=None, __cached__=None, __loader__=loader)
    sys.argv[:] = [script, *arguments]
    folder = _folder(program)
    sys.path.insert(0, folder)
    return _Main(module, source, path, folder)


def _of_code(code: str, arguments: list[str]) -> _Main:
    import linecache

    name = "<string>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    module = _made(__spec__=None, __loader__=importlib.machinery.BuiltinImporter)
    sys.argv[:] = ["-c", *arguments]
    sys.path.insert(0, "")
    return _Main(module, code.encode(), name, os.getcwd())


def _of_module(name: str, arguments: list[str]) -> _Main:
    import runpy

    sys.argv[:] = ["-m", *arguments]
    sys.path.insert(0, os.getcwd())
    runs: Any = runpy
    try:
        spec: Any = runs._get_module_details(name, ImportError)[1]
    except ImportError as error:
        sys.stderr.write(f"{sys.executable}: {error}\n")
        sys.exit(1)
    loader: Any = spec.loader
    if not isinstance(loader, importlib.machinery.SourceFileLoader):
        sys.stderr.write(f"{sys.executable}: {name} has no source to look at\n")
        sys.exit(1)
    path = os.path.abspath(spec.origin)
    sys.argv[0] = path
    module = _made(__file__=path, __spec__=spec, __cached__=spec.cached, __loader__=loader, __package__=spec.parent)
    return _Main(module, loader.get_data(path), path, os.getcwd())


def _made(**names: Any) -> types.ModuleType:
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, **names)
    sys.modules["__main__"] = module
    return module


def _execute(main: _Main, folder: str) -> tuple[Any, float, dict[str, float]]:
    """Run it: with what it would exit, how long it took, and what its threads waited for."""
    began = time.perf_counter()
    profiling = _Profiling(folder)
    code: Any = None
    try:
        exec(_source.compiled(main.source, main.path, main.folder), main.module.__dict__)
        _join_threads()
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # told as the interpreter would
        told: BaseException | None = error
        while told is not None:
            told.__traceback__ = without_meters(told.__traceback__)
            told = told.__cause__ or told.__context__
        sys.excepthook(type(error), error, error.__traceback__)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    wall = time.perf_counter() - began
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    return code, wall, profiling.end()


def _join_threads() -> None:
    """Wait for threads that the interpreter would wait for at its end, told to end as it does."""
    calls: Any = getattr(threading, "_threading_atexits", [])
    while calls:  # executors that were left open have their workers end
        calls.pop()()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


class _Profiling:
    """A profile that looks at what threads wait for, and gives way to one of the program's own."""

    def __init__(self, folder: str) -> None:
        from plait.observe import _profile

        self._profile: Any = None
        self._others = _profile.giving_way
        self._made: Any = _profile.profile(
            save=os.path.join(folder, "waits.trace"), rate=0, tasks=False, children=False
        )
        try:
            self._profile = self._made.__enter__()
        except (OSError, RuntimeError):
            return
        self._others.append(self._give_way)

    def _give_way(self) -> None:
        self._profile = None
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._made.__exit__(None, None, None)

    def end(self) -> dict[str, float]:
        """Seconds of waits by their kinds; empty where not all was seen."""
        waits: dict[str, float] = {}
        if self._profile is None:
            return waits
        self._others.clear()
        try:
            self._made.__exit__(None, None, None)
            for thread in self._profile.threads:
                for wait in thread["waits"]:
                    what = _find.kind_of_wait(wait)
                    waits[what] = waits.get(what, 0.0) + wait["time"]
        except (OSError, RuntimeError, ValueError):
            return {}
        return waits
