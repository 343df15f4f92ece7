"""A function's own node of its source."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
import types

Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

#: Functions whose nodes are kept: to find one takes longer than to read it, and programs make pools again and again.
_MOST_KEPT = 256

_kept: dict[types.CodeType, Node] = {}


def node_of(function: types.FunctionType) -> Node | None:
    """The function's own node of its source; None where it is not to be had, or is not sure to be this function's."""
    code = function.__code__
    node = _kept.get(code)
    if node is None and (node := _find(function)) is not None:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[code] = node
    return node


def _find(function: types.FunctionType) -> Node | None:
    code = function.__code__
    linecache.checkcache(code.co_filename)
    # To look for the module and for the function's end among tokens, as `inspect` does, takes ten times as long. Of code
    # that was made in a module, but is not from its file, the module's loader knows nothing.
    module = function.__globals__ if function.__globals__.get("__file__") == code.co_filename else None
    lines = linecache.getlines(code.co_filename, module)[code.co_firstlineno - 1 : _last_line(code)]
    try:
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (SyntaxError, ValueError):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
        except (OSError, TypeError, SyntaxError, ValueError):
            return None
    names = code.co_varnames
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, Node)
        and getattr(node, "name", "<lambda>") == code.co_name
        and (arguments := _argument_names(node.args)) == names[: len(arguments)]
    ]
    if len(found) != 1:
        return None  # several lambdas on a line: which of them it is nobody says
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    return found[0]


def _last_line(code: types.CodeType) -> int:
    """The last line that has any code: what is behind it does nothing."""
    within = (_last_line(each) for each in code.co_consts if isinstance(each, types.CodeType))
    return max(code.co_firstlineno, *(end or 0 for _, end, _, _ in code.co_positions()), *within)


def _argument_names(arguments: ast.arguments) -> tuple[str, ...]:
    each = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return tuple(argument.arg for argument in each if argument is not None)
