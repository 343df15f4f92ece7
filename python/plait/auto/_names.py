"""What the names in the source of a function stand for: what it is given, what it makes, what outlives its call."""

from __future__ import annotations

import abc
import ast
import builtins
import types
from typing import TYPE_CHECKING, Any, NamedTuple

from plait.auto._changing import is_program_module, is_the_programs
from plait.auto._kinds import is_a
from plait.auto._refs import LASTING, MADE, Ref, merge

if TYPE_CHECKING:
    from plait.auto._writes import Search

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

#: What is not there.
MISSING = object()


class Found(Exception):
    """A change was found."""

    def __init__(self, what: str, function: str, line: int) -> None:
        super().__init__(what)
        self.what, self.function, self.line = what, function, line


class Local(NamedTuple):
    """A function that is defined in the one that is read."""

    node: Function
    reader: Names


class Given(NamedTuple):
    """What a call hands over."""

    args: list[Ref]
    kwargs: dict[str, Ref]
    rest: Ref | None = None

    def all(self) -> list[Ref]:
        """Everything."""
        return [*self.args, *self.kwargs.values(), *([self.rest] if self.rest else [])]

    def behind(self, owner: Ref) -> Given:
        """With an owner before it."""
        return Given([owner, *self.args], self.kwargs, self.rest)


NOTHING = Given([], {})


class Names(abc.ABC):
    """The names of a function that is read, and all else that its reader keeps.

    What leads on from a name is read in classes above, each with what is below it: attributes, calls, expressions, statements.
    Any of them may be within another, so `see` and `_do` are promised here.
    """

    def __init__(self, function: types.FunctionType, known: dict[str, object], cells: set[str], search: Search) -> None:
        self._known = known
        self._cells = cells
        self._function = function
        self._search = search
        self._module: str = function.__globals__.get("__name__", "")
        self._names: dict[str, Ref] = {}
        self._declared: set[str] = set()
        self._put_back = 0
        """How many blocks are entered that put back what is changed in `warnings`."""
        self._loops = 0
        self._again = False
        """Whether a name in a loop came to lead out: what is before it in the loop has to be read again."""
        self._results: list[Ref] = []
        self._has_classes = False
        """Whether classes are defined in it."""
        self._selves: set[str] = set()
        """What their methods call their objects."""
        self._inner: dict[Any, Ref] = {}

    @abc.abstractmethod
    def _class_of(self, ref: Ref) -> Ref:
        """What leads to the class of something."""

    @abc.abstractmethod
    def see(self, node: ast.AST) -> Ref:
        """What an expression leads to; what is changed while it is evaluated is found."""

    @abc.abstractmethod
    def _do(self, node: ast.AST) -> None:
        """Read a statement, or what is part of one."""

    def found(self, what: str, node: ast.AST) -> None:
        """End the reading: a change was found."""
        raise Found(what, self._function.__qualname__, getattr(node, "lineno", 0))

    def _bind(self, arguments: ast.arguments, given: Given) -> None:
        places = [*arguments.posonlyargs, *arguments.args]
        for argument, ref in zip(places, given.args, strict=False):
            self._names[argument.arg] = ref
        spare = merge(*given.args[len(places) :], given.rest)
        if arguments.vararg is not None:
            self._names[arguments.vararg.arg] = Ref(holds=spare)
        elsewhere: list[Ref] = [spare] if spare is not MADE else []
        names = {argument.arg for argument in (*places, *arguments.kwonlyargs)}
        for name, ref in given.kwargs.items():
            if name in names:
                self._names[name] = ref
            else:
                elsewhere.append(ref)
        if given.rest is not None:  # what a star hands over may be anywhere
            for name in names - set(given.kwargs):
                self._names[name] = merge(self._names.get(name), given.rest)
        if arguments.kwarg is not None:
            self._names[arguments.kwarg.arg] = Ref(holds=merge(*elsewhere))

    def _name(self, name: str) -> Ref:
        ref = self._names.get(name)
        if ref is not None:
            return ref
        value = self._known.get(name, MISSING)
        if value is not MISSING:
            if name not in self._cells:
                self._search.note(self._module, name, value)
            return Ref(LASTING, f"`{name}`", (value,))
        value = getattr(builtins, name, MISSING)
        if value is not MISSING and name not in self._function.__code__.co_varnames:
            return Ref(values=(value,))
        return MADE

    def _note_attribute(self, owner: Any, name: str, value: object) -> None:
        if is_a(owner, types.ModuleType):
            if is_program_module(owner.__name__):
                self._search.note(owner.__name__, name, value)
        elif is_a(owner, type) and is_the_programs(owner) and not name.startswith("__"):
            self._search.note(owner.__module__, f"{owner.__qualname__}.{name}", value)

    def call_local(self, local: Local, given: Given) -> Ref:
        """Read a function within: it sees the same names."""
        node = local.node
        key = node, tuple(ref.key() for ref in given.all())
        if key in self._inner:
            return self._inner[key]
        self._inner[key] = MADE
        names = _argument_names(node.args)
        shadowed = {name: self._names.get(name) for name in names}
        declared, results = self._declared, self._results
        # `nonlocal` in it may mean a name of this function, which is its own.
        nonlocals = {name for each in ast.walk(node) if isinstance(each, ast.Nonlocal) for name in each.names} & {
            *self._function.__code__.co_varnames,
            *self._function.__code__.co_cellvars,
        }
        self._declared, self._results = set(), []
        for name in names:
            self._names[name] = MADE
        self._bind(node.args, given)
        if isinstance(node, ast.Lambda):
            self._results.append(self.see(node.body))
        else:
            for statement in node.body:
                if not isinstance(statement, ast.Nonlocal):
                    self._do(statement)
                else:
                    self._declared.update(set(statement.names) - nonlocals)
        self._inner[key] = result = merge(*self._results)
        self._declared, self._results = declared, results
        for name, ref in shadowed.items():
            if ref is None:
                _ = self._names.pop(name, None)
            else:
                self._names[name] = ref
        return result


def _argument_names(arguments: ast.arguments) -> list[str]:
    each = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument.arg for argument in each if argument is not None]
