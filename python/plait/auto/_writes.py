"""Whether a function changes what outlives its call: in another process the change would be lost.

The source is read, not run. What cannot be followed counts as a change if it is handed something that outlives the call and can
be changed: a function that wrongly stays in this process is slower, one that wrongly leaves it is wrong.
"""

from __future__ import annotations

import ast
import builtins
import functools
import sys
import types
import warnings
from typing import Any, NamedTuple, cast

from plait.auto._changing import (
    CONTAINERS,
    LOOKING,
    MUTATING,
    WARNINGS,
    can_change,
    changes_the_process,
    holds_constants,
    is_plain_callable,
    is_the_programs,
    only_looks,
)
from plait.auto._source import node_of

#: Calls deep that functions of the program are followed.
_DEPTH = 6


class Change(NamedTuple):
    """A change that outlives the call.

    Attributes:
        what: What is changed, in words.
        function: The function that does it.
        line: The line of its file, 0 where that is not known.
    """

    what: str
    function: str
    line: int

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line else ""
        return f"{self.function}{where} {self.what}"


def find_change(function: object, kinds: tuple[type, ...] = ()) -> Change | None:
    """Return a change that `function` may make to what outlives its call, or None if it makes none.

    `kinds` are the classes of its first arguments, as far as they are known: methods of the program's own ones are followed.

    >>> total = 0
    >>> def add(number: int) -> int:
    ...     return number + 1
    >>> find_change(abs) is None
    True
    """
    return _Search(kinds).of_callable(function, 0)


class _Lasting(NamedTuple):
    """Something that outlives the call: in words, and itself where that is known."""

    words: str
    value: object = None

    def part(self) -> _Lasting | None:
        """What leads on from it; None where all that is in it is constant."""
        value: Any = self.value
        if isinstance(value, CONTAINERS) and holds_constants(cast("Any", value)):
            return None
        return _Lasting(self.words)


class _Search:
    def __init__(self, kinds: tuple[type, ...] = ()) -> None:
        self._seen: set[object] = set()
        self._kinds = kinds

    def of_callable(self, function: object, depth: int) -> Change | None:
        if isinstance(function, functools.partial):
            # What is bound travels with each call: a change of it is lost.
            bound = cast("Any", function)
            values = [*bound.args, *bound.keywords.values()]
            kept = next((value for value in values if can_change(value)), None)
            change = self.of_callable(bound.func, depth)
            if change is None and kept is not None and not is_plain_callable(bound.func):
                return None
            return change
        if isinstance(function, types.MethodType):
            owner = function.__self__
            return self._of_function(function.__func__, depth, {0: owner})
        if isinstance(function, types.FunctionType):
            return self._of_function(function, depth, {})
        if isinstance(function, types.BuiltinMethodType | types.MethodWrapperType):
            owner = getattr(function, "__self__", None)
            if owner is not None and can_change(owner) and function.__name__ not in LOOKING:
                return Change(f"may change the {type(owner).__name__} that it is a method of", function.__name__, 0)
            return None
        if isinstance(function, type):
            made = function.__dict__.get("__init__")
            # What a class makes is new: its `self` may be changed.
            return self._of_function(made, max(depth, 1), {}) if isinstance(made, types.FunctionType) else None
        if isinstance(wrapped := getattr(function, "__wrapped__", None), types.FunctionType):
            return self._of_function(wrapped, depth, {})  # of `functools.lru_cache`, say
        call = type(function).__dict__.get("__call__")
        if isinstance(call, types.FunctionType):
            return self._of_function(call, depth, {0: function})
        return None  # C code of a library, which keeps no state of the program

    def of_method(self, method: object, depth: int) -> Change | None:
        """What a method changes of its object, and of what outlives that."""
        return self._of_function(method, depth, {}, of_argument=True)

    def _of_function(
        self, function: object, depth: int, owners: dict[int, object], *, of_argument: bool = False
    ) -> Change | None:
        if not isinstance(function, types.FunctionType) or function in self._seen or depth > _DEPTH:
            return None
        self._seen.add(function)
        tree = node_of(function)
        if tree is None:
            return _by_code(function)
        known = _names_of(function, tree)
        reader = _Reader(function, known, self, depth)
        arguments = [*tree.args.posonlyargs, *tree.args.args]
        if depth == 0:
            reader.arguments = {argument.arg for argument in (*arguments, *tree.args.kwonlyargs)}
            reader.kinds = dict(zip([argument.arg for argument in arguments][len(owners) :], self._kinds, strict=False))
        elif of_argument and arguments:
            reader.arguments = {arguments[0].arg}
        for name, value in _defaults(function):
            if can_change(value):
                reader.lasting[name] = _Lasting(f"the default of `{name}`", value)
        for at, value in owners.items():
            if at < len(arguments):
                reader.arguments.discard(arguments[at].arg)
                reader.kinds[arguments[at].arg] = type(value)
                reader.lasting[arguments[at].arg] = _Lasting(f"`{arguments[at].arg}`, which it is a method of")
        for statement in tree.body if isinstance(tree.body, list) else [ast.Expr(tree.body)]:
            reader.visit(statement)
        return reader.change


def _names_of(function: types.FunctionType, tree: ast.AST) -> dict[str, object]:
    """What the names in a function, and in those within it, stand for outside of it."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    code = function.__code__
    names &= names_within(code) - {*code.co_varnames, *code.co_cellvars}  # a name of its own hides a global
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            known[name] = cell.cell_contents
        except ValueError:  # it is empty
            known[name] = None
    return known


def names_within(code: types.CodeType) -> set[str]:
    """Names that some code, and what is within it, looks up outside; those of attributes among them."""
    return set(code.co_names).union(
        *(names_within(each) for each in code.co_consts if isinstance(each, types.CodeType))
    )


def _defaults(function: types.FunctionType) -> list[tuple[str, object]]:
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    return [*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()]


def _by_code(function: types.FunctionType) -> Change | None:
    """Without a source: what it stores into by name, and whether it reaches anything that can be changed."""
    import dis

    for instruction in dis.get_instructions(function):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            return Change(f"sets the global `{instruction.argval}`", function.__qualname__, 0)
        if (
            instruction.opname in ("STORE_DEREF", "DELETE_DEREF")
            and instruction.argval in function.__code__.co_freevars
        ):
            return Change(f"sets `{instruction.argval}` of a function around it", function.__qualname__, 0)
    names = {name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__}
    cells = zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ()), strict=True)
    for name, value in (*names.items(), *cells, *_defaults(function)):
        if can_change(value):
            return Change(f"reaches `{name}`, and its source is not to be had", function.__qualname__, 0)
    return None


class _Reader(ast.NodeVisitor):
    """Follows the names of a function that lead to what outlives its call."""

    def __init__(self, function: types.FunctionType, known: dict[str, object], search: _Search, depth: int) -> None:
        self.change: Change | None = None
        self.lasting = {name: _Lasting(f"`{name}`", value) for name, value in known.items() if can_change(value)}
        self._known = known
        self._function = function
        self._search = search
        self._depth = depth
        self._declared: set[str] = set()
        self.arguments: set[str] = set()
        """Names of arguments, and of parts of them, whose changes the caller sees."""
        self.kinds: dict[str, type] = {}
        """Classes of arguments."""
        self._put_back = 0
        """How many blocks are entered that put back what is changed in `warnings`."""

    def visit(self, node: ast.AST) -> None:
        """Read on, until a change is found."""
        if self.change is None:
            super().visit(node)

    def _found(self, what: str, node: ast.AST) -> None:
        if self.change is None:
            self.change = Change(what, self._function.__qualname__, getattr(node, "lineno", 0))

    def _root(self, node: ast.AST) -> _Lasting | None:
        """What an expression leads to that outlives the call."""
        match node:
            case ast.Name(id=name):
                return self.lasting.get(name)
            case ast.Attribute() if can_change(value := self._value(node)):
                return _Lasting(f"`{ast.unparse(node)}`", value)
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Starred(value=inner):
                return self._part(inner)
            case ast.Call(func=ast.Attribute(value=inner)):
                return self._part(inner)  # what a method returns may be a part of its object
            case ast.NamedExpr(value=inner) | ast.Await(value=inner):
                return self._root(inner)
            case ast.IfExp(body=body, orelse=orelse):
                return self._root(body) or self._root(orelse)
            case ast.BoolOp(values=values) | ast.Tuple(elts=values) | ast.List(elts=values):
                return next((root for value in values if (root := self._root(value))), None)
            case _:
                return None

    def _part(self, node: ast.AST) -> _Lasting | None:
        whole = self._root(node)
        return None if whole is None else whole.part()

    def _argument(self, node: ast.AST) -> str | None:
        """The argument that an expression is, or is a part of."""
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return node.id if isinstance(node, ast.Name) and node.id in self.arguments else None

    def _store_value(self, target: ast.expr, value: ast.expr) -> None:
        part = self._argument(value)
        self._store(target, self._root(value))
        if part is not None and isinstance(target, ast.Name):
            self.arguments.add(target.id)

    # ---- names

    def visit_Global(self, node: ast.Global) -> None:
        self._declared.update(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self._declared.update(node.names)

    def _store(self, target: ast.expr, root: _Lasting | None) -> None:
        match target:
            case ast.Name(id=name):
                if name in self._declared:
                    self._found(f"sets `{name}`, which is not its own", target)
                elif root is not None:
                    self.lasting[name] = root
                self.arguments.discard(name)
                self.kinds.pop(name, None)
                self._known.pop(name, None)
                # A name that once leads out is taken to do so for ever: branches are not told apart.
            case ast.Attribute(value=inner) | ast.Subscript(value=inner):
                self.visit(inner)
                if (owner := self._root(inner)) is not None:
                    self._found(f"changes {owner.words}", target)
                elif isinstance(self._value(inner), type | types.ModuleType):
                    self._found(f"changes `{ast.unparse(inner)}`", target)
                elif argument := self._argument(inner):
                    self._found(f"changes its argument `{argument}`", target)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    self._store(part, root)
            case ast.Starred(value=inner):
                self._store(inner, root)
            case _:
                pass

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._store_value(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._store_value(node.target, node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        if isinstance(node.target, ast.Name) and (owner := self._root(node.target)) is not None:
            self._found(f"changes {owner.words}", node)  # in place, if it is a container
        self._store(node.target, None)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._store(node.target, self._root(node.value))

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._store(target, None)

    def _loop(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        part = self._argument(node.iter)
        self._store(node.target, self._part(node.iter))
        if part is not None and isinstance(node.target, ast.Name):
            self.arguments.add(node.target.id)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    visit_For = _loop  # noqa: N815
    visit_AsyncFor = _loop  # noqa: N815

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit(node.iter)
        self._store(node.target, self._part(node.iter))
        for condition in node.ifs:
            self.visit(condition)

    def _comprehend(self, node: Any) -> None:
        for generator in node.generators:
            self.visit(generator)
        self.generic_visit(node)

    visit_ListComp = _comprehend  # noqa: N815
    visit_SetComp = _comprehend  # noqa: N815
    visit_DictComp = _comprehend  # noqa: N815
    visit_GeneratorExp = _comprehend  # noqa: N815

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        entered = 0
        for item in node.items:
            self.visit(item.context_expr)
            if isinstance(item.context_expr, ast.Call):
                entered += self._value(item.context_expr.func) is warnings.catch_warnings
            if (owner := self._root(item.context_expr)) is not None:
                self._found(f"enters {owner.words}", item.context_expr)  # a lock, a file, a connection
            if item.optional_vars is not None:
                self._store(item.optional_vars, self._root(item.context_expr))
        self._put_back += entered
        for statement in node.body:
            self.visit(statement)
        self._put_back -= entered

    visit_With = _with  # noqa: N815
    visit_AsyncWith = _with  # noqa: N815

    # ---- functions within, which see the same names

    def _inner(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for statement in node.body:
            self.visit(statement)

    visit_FunctionDef = _inner  # noqa: N815
    visit_AsyncFunctionDef = _inner  # noqa: N815

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            module = node.module if isinstance(node, ast.ImportFrom) else alias.name
            found = sys.modules.get(module or "")
            name = alias.asname or alias.name.partition(".")[0]
            if isinstance(node, ast.ImportFrom):
                self._known[name] = getattr(found, alias.name, None)
            else:
                self._known[name] = found if alias.asname else sys.modules.get(name)

    visit_Import = _import  # noqa: N815
    visit_ImportFrom = _import  # noqa: N815

    # ---- calls

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Find methods of what lasts that are taken without being called here."""
        self.visit(node.value)
        owner = self._root(node.value)
        if owner is not None and node.attr not in LOOKING and callable(getattr(type(owner.value), node.attr, None)):
            self._found(f"takes `{node.attr}` of {owner.words}", node)

    def visit_Call(self, node: ast.Call) -> None:
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        for value in (node.func.value if isinstance(node.func, ast.Attribute) else node.func, *given):
            self.visit(value)
        handed = next((root for value in given if (root := self._root(value))), None)
        match node.func:
            case ast.Attribute(value=inner, attr=name):
                owner = self._root(inner)
                kind = self.kinds.get(inner.id) if isinstance(inner, ast.Name) else None
                if kind is None and owner is not None:
                    kind = type(owner.value)
                method = getattr(kind, name, None)
                if owner is not None and (name not in LOOKING or is_the_programs(method)):
                    self._found(f"calls `{name}` of {owner.words}", node)
                elif name in MUTATING and (argument := self._argument(inner)) and not is_the_programs(method):
                    self._found(f"calls `{name}` of its argument `{argument}`", node)
                elif owner is None and is_the_programs(method):
                    self.change = self.change or self._search.of_method(method, self._depth + 1)
                elif (
                    owner is None and handed is not None and isinstance(inner, ast.Name) and inner.id not in self._known
                ):
                    self.lasting[inner.id] = handed  # a container of its own has it now
                else:
                    self._called(self._value(node.func), handed, node)
            case ast.Name(id=name):
                called = self._value(node.func)
                if called is None and name in self.lasting:
                    self._found(f"calls `{name}`, which leads to {self.lasting[name].words}", node)
                self._called(called, handed, node)
            case _:
                if handed is not None:
                    self._found(f"hands {handed.words} to something that it calls", node)

    def _value(self, node: ast.AST) -> object:
        """What a name or a dotted name of the program stands for; None if that is not known."""
        match node:
            case ast.Name(id=name):
                return self._known.get(name, getattr(builtins, name, None))
            case ast.Attribute(value=inner, attr=name):
                owner = self._value(inner)
                return getattr(owner, name, None) if isinstance(owner, types.ModuleType | type) else None
            case _:
                return None

    def _called(self, called: object, handed: _Lasting | None, node: ast.Call) -> None:
        if self._put_back and getattr(called, "__module__", None) in WARNINGS:
            return
        if called is not None and (what := changes_the_process(called)):
            self._found(what, node)
            return
        if handed is not None and not only_looks(called):
            self._found(f"hands {handed.words} to `{ast.unparse(node.func)}`", node)
            return
        if called is not None and is_the_programs(called):
            self.change = self.change or self._search.of_callable(called, self._depth + 1)
