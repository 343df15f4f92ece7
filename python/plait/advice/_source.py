"""The program's source as it is run.

Functions are handed to the meters when they are made, other packages' functions when they are called in a loop.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import os
import sysconfig
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import types
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

FUNCTION, CALLED, HANDED = "__plait_function__", "__plait_called__", "__plait_handed__"

_KNOWN = set(dir(builtins))

#: What takes a function first, and calls it for each item.
_MAPS = {
    "map",
    "imap",
    "imap_unordered",
    "starmap",
    "map_async",
    "submit",
    "apply",
    "apply_async",
    "to_thread",
    "filter",
}


class _Rewriter(ast.NodeTransformer):
    def __init__(self) -> None:
        self._loops = 0

    def _function(self, node: Any) -> Any:
        loops, self._loops = self._loops, 0
        self.generic_visit(node)
        self._loops = loops
        # The innermost one: nobody gets the function before.
        node.decorator_list.append(ast.copy_location(ast.Name(FUNCTION, ast.Load()), node))
        return node

    visit_FunctionDef = _function
    visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        self.generic_visit(node)
        return ast.copy_location(ast.Call(ast.copy_location(ast.Name(FUNCTION, ast.Load()), node), [node], []), node)

    def _loop(self, node: Any) -> Any:
        self._loops += 1
        self.generic_visit(node)
        self._loops -= 1
        return node

    visit_For = _loop
    visit_While = _loop
    visit_AsyncFor = _loop
    visit_ListComp = _loop
    visit_SetComp = _loop
    visit_DictComp = _loop
    visit_GeneratorExp = _loop

    def visit_Call(self, node: ast.Call) -> Any:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in _MAPS and node.args and isinstance(node.args[0], ast.Name | ast.Attribute):
            # A method's pool may be one of processes.
            node.args[0] = self._wrapped(HANDED if isinstance(node.func, ast.Attribute) else CALLED, node.args[0])
        in_loop, is_named = self._loops > 0, isinstance(node.func, ast.Name | ast.Attribute)
        self.generic_visit(node)
        if in_loop and is_named and name not in _KNOWN:
            node.func = self._wrapped(CALLED, node.func)
        return node

    def _wrapped(self, name: str, node: Any) -> Any:
        return ast.copy_location(ast.Call(ast.copy_location(ast.Name(name, ast.Load()), node), [node], []), node)


def compiled(source: bytes, path: str) -> types.CodeType:
    """Compile a file of the program.

    Raises:
        SyntaxError: As Python would.
    """
    tree: ast.Module = ast.fix_missing_locations(_Rewriter().visit(ast.parse(source, path)))
    return compile(tree, path, "exec", dont_inherit=True)


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> types.CodeType:
        """Compile the module anew: what lies in `__pycache__` is not metered, and is to stay that way."""
        path = self.get_filename(fullname)
        return compiled(self.get_data(path), path)


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules that lie beside the script."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(os.path.realpath(folder), "")
        paths = sysconfig.get_paths()
        self._others = tuple(os.path.join(paths[name], "") for name in ("stdlib", "platlib", "purelib"))
        import plait

        self._others += (os.path.join(os.path.dirname(os.path.abspath(plait.__file__)), ""),)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module, if it is the program's own."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader or not spec.origin:
            return None
        origin = os.path.realpath(spec.origin)
        if not origin.startswith(self._folder) or origin.startswith(self._others) or "site-packages" in origin:
            return None
        spec.loader = _Loader(fullname, spec.origin)
        return spec
