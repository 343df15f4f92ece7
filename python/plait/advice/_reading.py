"""Reads a program's files without running them: where calls stand in loops, and what a function leaves behind.

A profile names functions by file and line. What it was made of may be gone or have changed since: then nothing is said.
"""

from __future__ import annotations

import ast
import functools
import os
import sysconfig

from plait.advice._source import MAPS

#: Methods that change what they are called on.
_CHANGING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "put", "remove",
    "reverse", "setdefault", "sort", "update", "write",
}  # fmt: skip

_LOOPS = (ast.For, ast.While, ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@functools.cache
def _others() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(os.path.join(os.path.realpath(paths[name]), "") for name in ("stdlib", "platlib", "purelib"))


@functools.cache
def is_of_program(path: str) -> bool:
    """Whether a file is the program's own: there, and neither Python's nor an installed package's."""
    if not path.endswith((".py", ".pyw")) or "site-packages" in path or not os.path.isfile(path):
        return False
    return not os.path.realpath(path).startswith(_others())


@functools.cache
def tree_of(path: str) -> ast.Module | None:
    """A file, parsed; None where it cannot be."""
    try:
        with open(path, "rb") as file:
            return ast.parse(file.read(), path)
    except (OSError, SyntaxError, ValueError):
        return None


@functools.cache
def is_repeated(path: str, line: int) -> bool:
    """Whether what a line calls is called again and again: in a loop, or by `map` and its like."""
    tree = tree_of(path)
    return tree is not None and _is_repeated(tree, line, False)


def _is_repeated(node: ast.AST, line: int, looped: bool) -> bool:
    for child in ast.iter_child_nodes(node):
        first, last = getattr(child, "lineno", 0), getattr(child, "end_lineno", 0)
        if first and not first <= line <= (last or first):
            continue
        inside = isinstance(child, _LOOPS) or (looped and not isinstance(child, _FUNCTIONS))
        if isinstance(child, ast.Call):
            name = getattr(child.func, "attr", getattr(child.func, "id", ""))
            if inside or name in MAPS:
                return True
        if _is_repeated(child, line, inside):
            return True
    return False


@functools.cache
def left_behind(path: str, line: int, name: str) -> str:
    """What a function changes that outlives its calls, in words; "" for nothing that can be seen in its own lines."""
    tree = tree_of(path)
    found = None if tree is None else function_at(tree, line, name)
    if tree is None or found is None or isinstance(found, ast.Lambda):
        return ""
    return _change(found, _names_of(tree), name)


def function_at(tree: ast.Module, line: int, name: str) -> Function | None:
    """The function of that name that has a line, or the lambda that begins there."""
    short = name.rpartition(".")[2]
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and short == "<lambda>" and node.lineno == line:
            return node
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == short
            and min([node.lineno, *(each.lineno for each in node.decorator_list)]) <= line <= (node.end_lineno or line)
        ):
            return node
    return None


def _names_of(tree: ast.Module) -> set[str]:
    """Names that the module's own lines set."""
    return {
        each.id
        for statement in tree.body
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for each in ast.walk(statement)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }


def _change(function: ast.FunctionDef | ast.AsyncFunctionDef, module: set[str], name: str) -> str:
    names = [each for each in ast.walk(function) if isinstance(each, ast.Name)]
    declared = {
        each for node in ast.walk(function) if isinstance(node, ast.Global | ast.Nonlocal) for each in node.names
    }
    own = {each.id for each in names if isinstance(each.ctx, ast.Store)} - declared
    lasting = (module - own) | declared
    if "." in name:
        lasting.add("self")
    for node in ast.walk(function):
        at: ast.AST | None = None
        match node:
            case ast.Name(id=named, ctx=ast.Store()) if named in declared:
                at = node
            case ast.Attribute(value=inner, ctx=ast.Store()) | ast.Subscript(value=inner, ctx=ast.Store()):
                at = inner
            case ast.Call(func=ast.Attribute(value=inner, attr=method)) if method in _CHANGING:
                at = inner
            case ast.Call(func=ast.Name(id="next"), args=[inner, *_]):
                at = inner
            case _:
                continue
        while isinstance(at, ast.Attribute | ast.Subscript):
            at = at.value
        if isinstance(at, ast.Name) and at.id in lasting:
            return f"{name} (line {node.lineno}) changes `{at.id}`"
    return ""
