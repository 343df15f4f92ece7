"""Whether worker processes, which import the program's main module, can do so, and what they do not find in it.

Without `if __name__ == "__main__":` around what makes a pool, its top level runs again in each worker, as far as the line that
makes one, which is refused there.
"""

from __future__ import annotations

import ast
import os
import sys
import tokenize
from functools import cache
from typing import TYPE_CHECKING, Any

from plait.processes import _main

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What tells the program itself from a worker that imports its main module.
_TELLS = frozenset({"__name__", "parent_process", "current_process"})

_UNGUARDED = (
    'the main module makes a pool outside of `if __name__ == "__main__":`, and workers, which import it, would too'
)

_lines: set[int] = set()
"""Where the top level of the main module was when it made pools."""
_seen_to_fail = _told = False


def note_pool() -> None:
    """Remember where the main module is, which makes a pool, if its top level is still under way in this thread."""
    main = getattr(sys.modules.get("__main__"), "__dict__", None)
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is main and frame.f_code.co_name == "<module>" and _is_file(frame.f_code.co_filename):
            _lines.add(frame.f_lineno)
            return
        frame = frame.f_back


def why_not() -> str:
    """Why worker processes cannot import the main module; "" if nobody knows a reason."""
    unguarded = _seen_to_fail or (any(map(_is_unguarded, list(_lines))) and _is_imported())
    return f"cannot run in processes: {_UNGUARDED}" if unguarded else ""


def note_failure(failure: BaseException) -> None:
    """Remember why worker processes could not be set up, and say so, if it is for the main module's missing guard."""
    global _seen_to_fail
    if _main.is_missing_guard(failure.__cause__):
        _seen_to_fail = True
        tell()


def tell() -> None:
    """Say once, in a line, that there will be no processes."""
    global _told
    if not _told:
        _told = True
        import logging

        logging.getLogger("plait").warning("plait.Pool uses no processes: %s", _UNGUARDED)


def why_not_found(function: Any) -> str:
    """Why a worker does not find a function in the main module; "" if nothing speaks against it."""
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if getattr(function, "__module__", None) != "__main__" or code is None or "<" in function.__qualname__:
        return ""
    if not _is_file(code.co_filename) or not _is_imported():
        return ""
    line = code.co_firstlineno
    if any(_has(_guarded(each), line) for each in _statements()):
        return 'is defined under `if __name__ == "__main__":`, where a worker process does not find it'
    return ""


def why_not_read(places: list[tuple[str, str]]) -> str:
    """Why a worker does not have what is read at these places, by module and name; "" if nothing speaks against it."""
    name = next((name for module, name in places if module == "__main__"), "")
    if not name or _is_imported():
        return ""
    why = "which workers do not import: it is no file, or a package's"
    return f"may not leave this process: it reads `{name}` of `__main__`, {why}"


def _is_imported() -> bool:
    """Whether workers import the main module: not that of `python -c`, or of a package."""
    how = _main.main_module(None)
    name, path = str(how.get("init_main_from_name", "")), str(how.get("init_main_from_path", ""))
    return bool(path or name) and name.rpartition(".")[2] != "__main__"


def _is_file(name: str) -> bool:
    """Whether code of this file's name is of the main module's file, and was not made in it at run time."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return path is not None and os.path.basename(path) == os.path.basename(name)


@cache
def _statements() -> tuple[ast.stmt, ...]:
    """The top level of the main module; nothing if it cannot be read."""
    try:
        with tokenize.open(str(getattr(sys.modules["__main__"], "__file__", ""))) as file:
            return tuple(ast.parse(file.read()).body)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ()


@cache
def _is_unguarded(line: int) -> bool:
    """Whether the top level of the main module comes to a line in a worker too. Whatever could be a guard before is one."""
    found = False
    for statement in _statements():
        if statement.lineno > line:
            break
        found = _has([statement], line)
        if any(_tells(node) for node in ast.walk(statement)):
            return False
    return found


def _has(statements: list[ast.stmt], line: int) -> bool:
    return any(_first(each) <= line <= (each.end_lineno or each.lineno) for each in statements)


def _first(statement: ast.stmt) -> int:
    """The line where a statement begins, which is that of its first decorator."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def _tells(node: ast.AST) -> bool:
    """Whether a program and its workers may go different ways here."""
    if isinstance(node, ast.Compare):
        return any(name in _TELLS for name in _names(node))
    return isinstance(node, ast.Name | ast.Attribute) and next(_names(node), "") in _TELLS - {"__name__"}


def _names(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr


def _guarded(statement: ast.stmt) -> list[ast.stmt]:
    """What is done if `__name__ == "__main__"`, where the statement says that."""
    if not isinstance(statement, ast.If):
        return []
    test = ast.unparse(statement.test)
    return statement.body if test in ("__name__ == '__main__'", "'__main__' == __name__") else []
