"""The program's source as it is run.

Functions are handed to the meters when they are made, other packages' functions when they are called in a loop.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import itertools
import os
import sysconfig
from typing import TYPE_CHECKING, Any

from plait.advice._meters import is_left

if TYPE_CHECKING:
    import types
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

FUNCTION, CALLED, HANDING = "__plait_function__", "__plait_called__", "__plait_handing__"

#: What the names of places begin with, where other packages' functions are called in loops; they are builtins, true while the
#: place is looked at.
PLACE = "__plait_place_"

_KNOWN = set(dir(builtins))

_places = itertools.count()

#: What takes a function first, and calls it for each item.
MAPS = {
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
    "run_in_executor",
}

#: What takes a function to call by the name `target`.
_STARTS = {"Thread", "Process"}


#: Methods of the interpreter's own objects, which are quick: to hand them on would take longer.
_QUICK = {name for kind in (list, dict, set, tuple, str, bytes, bytearray, int, float) for name in dir(kind)} | {
    "appendleft", "popleft", "write", "read", "readline", "group", "match", "search"
}  # fmt: skip


class _Rewriter(ast.NodeTransformer):
    def __init__(self, tree: ast.AST, folder: str) -> None:
        self._loops = 0
        self._foreign: set[str] = set()
        self._own: set[str] = {"self", "cls"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    own = _lies_in(folder, alias.name) or is_left(alias.name)
                    names = self._own if own else self._foreign
                    names.add((alias.asname or alias.name).partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                own = node.level > 0 or _lies_in(folder, node.module or "") or is_left(node.module or "")
                names = self._own if own else self._foreign
                names.update(alias.asname or alias.name for alias in node.names)

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
        starts = name in _STARTS and any(keyword.arg == "target" for keyword in node.keywords)
        hands = starts or (name in MAPS and len(node.args) > 0)
        handed_on = self._loops > 0 and self._is_foreign(node.func)
        self.generic_visit(node)
        if handed_on:
            # Once the place is known to have nothing to look at, it has to cost next to nothing.
            place_name = f"{PLACE}{next(_places)}__"
            setattr(builtins, place_name, True)
            looked_at = self._wrapped(CALLED, node.func, place_name)
            chosen = ast.IfExp(ast.Name(place_name, ast.Load()), looked_at, node.func)
            node.func = ast.copy_location(chosen, node.func)
        if hands:  # what with is decided when it is known what to
            node.func = self._wrapped(HANDING, node.func)
        return node

    def _is_foreign(self, node: ast.expr) -> bool:
        """Whether what is called may be a function of another package; the program's own are seen without."""
        if isinstance(node, ast.Name):
            return node.id in self._foreign and node.id not in _KNOWN
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(node, ast.Attribute) or not isinstance(root, ast.Name):
            return False
        return root.id in self._foreign or (isinstance(node.value, ast.Name) and self._is_object(root.id, node.attr))

    def _is_object(self, name: str, method: str) -> bool:
        return name not in self._own and method not in _QUICK

    def _wrapped(self, name: str, node: Any, *words: str) -> Any:
        given: list[ast.expr] = [node, *map(ast.Constant, words)]
        return ast.copy_location(ast.Call(ast.copy_location(ast.Name(name, ast.Load()), node), given, []), node)


def _lies_in(folder: str, module: str) -> bool:
    """Whether a module is the program's own."""
    place = os.path.join(folder, module.partition(".")[0])
    return os.path.isfile(f"{place}.py") or os.path.isdir(place)


def compiled(source: bytes, path: str, folder: str) -> types.CodeType:
    """Compile a file of the program, whose own modules are in a folder.

    Raises:
        SyntaxError: As Python would.
    """
    try:
        read = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        raise error.with_traceback(None) from None  # the interpreter shows no frames of its own either
    try:
        tree: ast.Module = ast.fix_missing_locations(_Rewriter(read, folder).visit(read))
        return compile(tree, path, "exec", dont_inherit=True)
    except RecursionError:  # deeper than we can go is not too deep for the interpreter
        return compile(source, path, "exec", dont_inherit=True)


class _Loader(importlib.machinery.SourceFileLoader):
    _code: types.CodeType | None = None

    def prepare(self) -> bool:
        """Compile the module, and tell whether that has gone well.

        What goes wrong is to go wrong in the interpreter's own loader: it leaves its frames out of the traceback, none of ours.
        """
        try:
            self._code = self.get_code(self.name)
        except Exception:  # it is raised again there
            return False
        return True

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        """Have the interpreter make the module, and load it where we cannot."""
        if not self.prepare():
            spec.loader = importlib.machinery.SourceFileLoader(self.name, self.path)
        return None

    def get_code(self, fullname: str) -> types.CodeType:
        """Compile the module anew: what lies in `__pycache__` is not metered, and is to stay that way."""
        code, self._code = self._code, None
        path = self.get_filename(fullname)
        return code or compiled(self.get_data(path), path, os.path.dirname(path))


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
        loader = _Loader(fullname, spec.origin)
        # One that is loaded anew is not created anew.
        if target is None or loader.prepare():
            spec.loader = loader
        return spec
