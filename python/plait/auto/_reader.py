"""Reads the source of a function: what its names lead to, what it changes, what it calls."""

from __future__ import annotations

import ast
import builtins
import contextvars
import functools
import io
import sys
import types
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from plait.auto._changing import (
    LOOKING,
    MUTATING,
    SAFE_METHODS,
    WARNINGS,
    can_change,
    changes_its_arguments,
    changes_the_process,
    is_constant_class,
    is_program_module,
    is_the_programs,
    only_looks,
    passes_on,
    wraps_the_programs,
)
from plait.auto._kinds import is_a, kind_of
from plait.auto._refs import ARGUMENT, LASTING, MADE, OWN, Ref, merge

if TYPE_CHECKING:
    from plait.auto._writes import Search

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_ADDING = {"append", "appendleft", "add", "extend", "extendleft", "insert", "setdefault", "update", "put", "push"}

#: Right sides of `a += ...` that say that `a` is no container: a list takes none of them.
_NUMBERS = ast.Constant | ast.BinOp | ast.UnaryOp | ast.JoinedStr | ast.Compare | ast.BoolOp

#: Methods that return something new that holds the same.
_COPYING = {"copy", "astype", "flatten", "tolist"}

_MISSING = object()


class Found(Exception):
    """A change was found."""

    def __init__(self, what: str, function: str, line: int) -> None:
        super().__init__(what)
        self.what, self.function, self.line = what, function, line


class Local(NamedTuple):
    """A function that is defined in the one that is read."""

    node: Function
    reader: Reader


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


class Reader:
    """Follows the names of a function that lead to what it is given, and to what outlives its call."""

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
        self._inner: set[Any] = set()

    # ---- the function as a whole

    def read(self, tree: Function, given: Given, defaults: list[tuple[str, object]]) -> Ref:
        """Read all of it; return what its result leads to."""
        self._bind(tree.args, given)
        for name, value in defaults:
            before = self._names.get(name)
            if can_change(value) or callable(value):  # it outlives the call
                self._names[name] = merge(before, Ref(LASTING, f"the default of `{name}`", (value,)))
        self._body(tree)
        if self._again:
            self._body(tree)
        return merge(*self._results)

    def _body(self, tree: Function) -> None:
        if isinstance(tree, ast.Lambda):
            self._results.append(self.see(tree.body))
        else:
            self._do_all(tree.body)

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

    def found(self, what: str, node: ast.AST) -> None:
        """End the reading: a change was found."""
        raise Found(what, self._function.__qualname__, getattr(node, "lineno", 0))

    # ---- statements

    def _do_all(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            self._do(node)

    def _do(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr):
            _ = self.see(node)
            return
        do = _STATEMENTS.get(type(node))
        if do is not None:
            do(self, node)
        else:
            for child in ast.iter_child_nodes(node):
                self._do(child)

    def _do_global(self, node: Any) -> None:
        self._declared.update(node.names)

    def _do_assign(self, node: Any) -> None:
        ref = self.see(node.value)
        for target in node.targets:
            self._store(target, ref, node.value)

    def _do_annotated(self, node: Any) -> None:
        if node.value is not None:
            self._store(node.target, self.see(node.value), node.value)

    def _do_augmented(self, node: Any) -> None:
        given = self.see(node.value)
        target = node.target
        if not isinstance(target, ast.Name):
            self._store(target, MADE)
            return
        before = self._name(target.id)
        if before.lasts:
            self.found(f"changes {before.words}", node)  # in place, if it is a container
        if before.origin == ARGUMENT:
            numbers = isinstance(node.value, _NUMBERS) and not before.kinds
            if not numbers and self._search.knows_kinds:
                self.found(f"changes its argument `{before.words}` in place", node)
        self._follow_implicit(before, node, "__iadd__", "__add__")
        self._store(target, merge(before, Ref(holds=given.part()) if given is not MADE else MADE))

    def _do_delete(self, node: Any) -> None:
        for target in node.targets:
            self._store(target, MADE)

    def _do_return(self, node: Any) -> None:
        if node.value is not None:
            self._results.append(self.see(node.value))

    def _do_for(self, node: Any) -> None:
        part = self._iterate(node.iter)
        self._loops += 1
        self._store(node.target, part)
        self._do_all(node.body)
        self._loops -= 1
        self._do_all(node.orelse)

    def _do_while(self, node: Any) -> None:
        self._loops += 1
        _ = self.see(node.test)
        self._do_all(node.body)
        self._loops -= 1
        self._do_all(node.orelse)

    def _iterate(self, node: ast.expr) -> Ref:
        whole = self.see(node)
        if whole.lasts and any(hasattr(kind_of(value), "__next__") for value in whole.values):
            self.found(f"takes what is next of {whole.words}", node)
        self._follow_implicit(whole, node, "__iter__", "__next__", "__aiter__", "__anext__")
        return whole.part()

    def _do_with(self, node: Any) -> None:
        entered = 0
        for item in node.items:
            ref = self.see(item.context_expr)
            if isinstance(item.context_expr, ast.Call):
                entered += warnings.catch_warnings in self.see_callee(item.context_expr.func).values
            if ref.lasts:
                self.found(f"enters {ref.words}", item.context_expr)  # a lock, a file, a connection
            self._follow_implicit(ref, item.context_expr, "__enter__", "__exit__", "__aenter__", "__aexit__")
            if item.optional_vars is not None:
                self._store(item.optional_vars, merge(ref, ref.part()) if ref is not MADE else MADE)
        self._put_back += entered
        self._do_all(node.body)
        self._put_back -= entered

    def _do_match(self, node: Any) -> None:
        part = self.see(node.subject)
        for case in node.cases:
            for pattern in ast.walk(case.pattern):
                name = getattr(pattern, "name", None) or getattr(pattern, "rest", None)
                if isinstance(name, str):
                    self._store(ast.Name(name, ast.Store()), merge(part, part.part()))
            if case.guard is not None:
                _ = self.see(case.guard)
            self._do_all(case.body)

    def _do_handler(self, node: Any) -> None:
        if node.name:
            self._store(ast.Name(node.name, ast.Store()), MADE)
        self._do_all(node.body)

    def _do_function(self, node: Any) -> None:
        for each in (*node.args.defaults, *node.args.kw_defaults):
            if each is not None:
                _ = self.see(each)
        local = Ref(values=(Local(node, self),))
        for decorator in node.decorator_list:
            made = self.see(decorator)
            result = self._call_value(made, Given([local], {}), decorator, ast.unparse(decorator))
            local = merge(local, result)
        self._store(ast.Name(node.name, ast.Store()), local)
        _ = self.call_local(Local(node, self), NOTHING)

    def _do_class(self, node: Any) -> None:
        for base in node.bases:
            for value in self.see(base).values:
                if is_a(value, type):
                    self._search.make(value, NOTHING, subclass=True)
        for decorator in node.decorator_list:
            _ = self.see(decorator)
        shadowed = dict(self._names)
        self._do_all(node.body)
        self._names = {**shadowed, node.name: MADE}

    def _do_import(self, node: Any) -> None:
        for alias in node.names:
            module = node.module if isinstance(node, ast.ImportFrom) else alias.name
            found = sys.modules.get(module or "")
            name = alias.asname or alias.name.partition(".")[0]
            if isinstance(node, ast.ImportFrom):
                value = getattr(found, alias.name, None)
                self._note_attribute(found, alias.name, value)
            else:
                value = found if alias.asname else sys.modules.get(name)
            self._names[name] = MADE if value is None else Ref(LASTING, f"`{name}`", (value,))

    # ---- names

    def _name(self, name: str) -> Ref:
        ref = self._names.get(name)
        if ref is not None:
            return ref
        value = self._known.get(name, _MISSING)
        if value is not _MISSING:
            if name not in self._cells:
                self._search.note(self._module, name, value)
            return Ref(LASTING, f"`{name}`", (value,))
        value = getattr(builtins, name, _MISSING)
        if value is not _MISSING and name not in self._function.__code__.co_varnames:
            return Ref(values=(value,))
        return MADE

    def _note_attribute(self, owner: Any, name: str, value: object) -> None:
        if is_a(owner, types.ModuleType):
            if is_program_module(owner.__name__):
                self._search.note(owner.__name__, name, value)
        elif is_a(owner, type) and is_the_programs(owner) and not name.startswith("__"):
            self._search.note(owner.__module__, f"{owner.__qualname__}.{name}", value)

    def _store(self, target: ast.expr, ref: Ref, source: ast.expr | None = None) -> None:
        match target:
            case ast.Name(id=name):
                if name in self._declared:
                    self.found(f"sets `{name}`, which is not its own", target)
                before = self._names.get(name)
                # A name that once leads out is taken to do so for ever, since branches are not told apart: but for an argument
                # whose name is given to something else.
                if before is not None and before.origin == ARGUMENT and not self._loops:
                    before = None
                after = ref if before is None else merge(before, ref)
                if self._loops and (after.origin or after.holds) and after != before:
                    self._again = True
                self._names[name] = after
            case ast.Attribute(value=inner, attr=name):
                self._change_of(self.see(inner), target, name)
                self._keep_attribute(inner, name, ref)
            case ast.Subscript(value=inner, slice=index):
                _ = self.see(index)
                self._change_of(self.see(inner), target, None)
                self._add_to(inner, ref)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                values = source.elts if isinstance(source, ast.Tuple | ast.List) else []
                for at, each in enumerate(parts):
                    exact = len(values) == len(parts) and not isinstance(each, ast.Starred)
                    self._store(each, self.see(values[at]) if exact else ref.part())
            case ast.Starred(value=inner):
                self._store(inner, Ref(holds=ref.part() if ref.origin == OWN else ref))
            case _:
                pass

    def _change_of(self, owner: Ref, node: Any, attribute: str | None) -> None:
        """An attribute or an item of `owner` is set or deleted."""
        if owner.origin == LASTING and (owner.lasts or attribute is not None):
            self.found(f"changes {owner.words}", node)
        if owner.origin == ARGUMENT:
            self.found(f"changes its argument `{owner.words}`", node)
        if any(is_a(value, type, types.ModuleType, types.FunctionType) for value in owner.values):
            self.found(f"changes `{ast.unparse(node.value)}`", node)
        if attribute is None:
            self._follow_implicit(owner, node, "__setitem__", "__delitem__")
        else:
            for kind in owner.kinds:
                setter = getattr(kind, attribute, None)
                if isinstance(setter, property) and setter.fset is not None:
                    _ = self._search.follow(setter.fset, Given([owner, MADE], {}))

    def _keep_attribute(self, inner: ast.expr, name: str, ref: Ref) -> None:
        for kind in self.see(inner).kinds:
            key = kind, name
            self._search.attributes[key] = merge(self._search.attributes.get(key), ref)
        if not self.see(inner).kinds:
            self._add_to(inner, ref)

    def _add_to(self, node: ast.expr, ref: Ref) -> None:
        """Something of the call's own holds `ref` from now on."""
        while isinstance(node, ast.Attribute | ast.Subscript | ast.Call) and ref is not MADE:
            if isinstance(node, ast.Attribute):
                for kind in self.see_callee(node.value).kinds:
                    key = kind, node.attr
                    before = self._search.attributes.get(key, MADE)
                    self._search.attributes[key] = before._replace(holds=merge(before.held, ref))
            # A method's result hangs on its object.
            made = isinstance(node, ast.Call)
            node = node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else node
            if made and isinstance(node, ast.Call):
                return
            if not made and isinstance(node, ast.Attribute | ast.Subscript):
                node = node.value
            ref = Ref(holds=ref)
        if isinstance(node, ast.Name) and ref is not MADE:
            before = self._name(node.id)
            if before.origin == OWN and node.id not in self._known:
                self._names[node.id] = before._replace(holds=merge(before.held, ref))

    # ---- expressions

    def see(self, node: ast.AST) -> Ref:
        """What an expression leads to; what is changed while it is evaluated is found."""
        see = _EXPRESSIONS.get(type(node))
        if see is not None:
            return cast("Ref", see(self, node))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                _ = self.see(child)
            elif not isinstance(child, ast.expr_context | ast.operator | ast.cmpop | ast.unaryop | ast.boolop):
                self._do(child)
        return MADE

    def _see_name(self, node: Any) -> Ref:
        return self._not_an_iterator(self._name(node.id), node)

    def _not_an_iterator(self, ref: Ref, node: ast.AST) -> Ref:
        """Whatever a call does with an iterator that lasts takes from it what others will not get.

        Files are told of by what is done with them.
        """
        if ref.lasts and any(hasattr(kind_of(each), "__next__") and not is_a(each, io.IOBase) for each in ref.values):
            self.found(f"takes from {ref.words}, the one iterator of all calls", node)
        return ref

    def _see_constant(self, _node: Any) -> Ref:
        return MADE

    def _see_operation(self, node: Any) -> Ref:
        left, right = self.see(node.left), self.see(node.right)
        self._follow_implicit(left, node, *_OPERATORS)
        self._follow_implicit(right, node, *_OPERATORS)
        held = merge(left.part(), right.part()) if left.holds or right.holds or left.origin or right.origin else None
        return Ref(holds=held) if held is not None and held is not MADE else MADE

    def _see_compare(self, node: Any) -> Ref:
        refs = [self.see(each) for each in (node.left, *node.comparators)]
        if any(isinstance(each, ast.Is | ast.IsNot) for each in node.ops):
            given = any(ref.origin == ARGUMENT for ref in refs)
            for ref in refs:
                if given and ref.origin == LASTING and ref.lasts:
                    self.found(f"asks whether an argument is {ref.words}, of which processes have one each", node)
        for ref in refs:
            self._follow_implicit(ref, node, "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__")
        return MADE

    def _see_attribute(self, node: Any) -> Ref:
        owner = self.see(node.value)
        ref = self._not_an_iterator(self._attribute(owner, node), node)
        if owner.lasts and node.attr not in LOOKING:
            taken = [getattr(kind_of(value), node.attr, None) for value in owner.values]
            if any(callable(each) for each in taken):
                self.found(f"takes `{node.attr}` of {owner.words}", node)
        return ref

    def _attribute(self, owner: Ref, node: Any) -> Ref:
        name = node.attr
        found: list[Ref] = []
        for value in owner.values:
            if isinstance(value, Local):
                continue
            got = _static(value, name)
            if is_a(got, property) and not is_a(value, type):
                if got.fget is not None and is_the_programs(got.fget):
                    _ = self._search.follow(got.fget, Given([owner], {}))
                found.append(owner.part())
            elif got is not _MISSING:
                if _has_getter(got):
                    _ = self._search.follow(kind_of(got).__get__, Given([Ref(LASTING, "a descriptor", (got,))], {}))
                got = getattr(value, name, got) if is_a(value, types.ModuleType, type) else got
                self._note_attribute(value, name, got)
                found.append(Ref(LASTING, f"`{ast.unparse(node)}`", (got,)))
            elif owner.lasts:
                found.append(owner.part())
            if not is_a(value, types.ModuleType, type) and is_the_programs(kind_of(value)):
                self._follow_hook(kind_of(value), owner)
        if owner.origin == LASTING and not owner.values:
            found.append(owner.part())
        if owner.origin != LASTING:
            found += [self._of_kind(owner, kind, name, node) for kind in owner.kinds]
            if not owner.kinds:
                found.append(owner.part())
        return merge(*found)

    def _of_kind(self, owner: Ref, kind: type, name: str, node: Any) -> Ref:
        """An attribute of an object of the program's class."""
        self._follow_hook(kind, owner)
        kept = self._search.attributes.get((kind, name))
        got = _static(kind, name)
        if is_a(got, property) and is_the_programs(got.fget):
            return self._search.follow(got.fget, Given([owner], {}))
        if is_a(got, functools.cached_property) and is_the_programs(got.func):
            return self._search.follow(got.func, Given([owner], {}))
        if _has_getter(got):
            return self._search.follow(kind_of(got).__get__, Given([Ref(LASTING, "a descriptor", (got,))], {}))
        if kept is not None:
            return merge(kept, owner.part()) if owner.origin else kept
        if owner.origin == OWN and got is not _MISSING and is_the_programs(kind) and not _has_slot(got):
            self._note_attribute(kind, name, got)
            if can_change(got) and not _sets(kind, name):
                return Ref(LASTING, f"`{ast.unparse(node)}`", (got,))
        return owner.part()

    def _follow_hook(self, kind: type, owner: Ref) -> None:
        for name in ("__getattr__", "__getattribute__"):
            hook = getattr(kind, name, None)
            if isinstance(hook, types.FunctionType) and is_the_programs(hook):
                _ = self._search.follow(hook, Given([owner, MADE], {}))

    def _see_subscript(self, node: Any) -> Ref:
        owner = self.see(node.value)
        _ = self.see(node.slice)
        for value in owner.values:
            makes = hasattr(kind_of(value), "__missing__") and getattr(value, "default_factory", True)
            if makes and kind_of(value).__name__ != "Counter":
                self.found(f"looks something up in {owner.words}, which makes what is not there", node)
        self._follow_implicit(owner, node, "__getitem__", "__missing__")
        if isinstance(node.slice, ast.Slice) and owner.origin == ARGUMENT:
            if any(kind.__module__ == "numpy" or kind is memoryview for kind in owner.kinds):
                return owner
            return Ref(holds=owner.part())
        return self._item(owner, node.slice)

    def _item(self, owner: Ref, index: ast.AST) -> Ref:
        if isinstance(index, ast.Constant) and len(owner.values) == 1 and type(owner.values[0]) in (dict, list, tuple):
            try:
                value = owner.values[0][index.value]
            except (LookupError, TypeError):
                return owner.part()
            return Ref(LASTING, owner.words, (value,))
        return owner.part()

    def _see_either(self, node: Any) -> Ref:
        if isinstance(node, ast.IfExp):
            _ = self.see(node.test)
            return merge(self.see(node.body), self.see(node.orelse))
        return merge(*[self.see(value) for value in node.values])

    def _see_display(self, node: Any) -> Ref:
        refs = [
            self.see(each.value).part() if isinstance(each, ast.Starred) else self.see(each)
            for each in (node.elts if not isinstance(node, ast.Dict) else node.values)
        ]
        for key in node.keys if isinstance(node, ast.Dict) else []:
            if key is None:  # what two stars open, which is among the values
                refs += [ref.part() for ref in refs]
            else:
                _ = self.see(key)
        held = merge(*refs)
        return Ref(holds=held) if held is not MADE else MADE

    def _see_through(self, node: Any) -> Ref:
        return self.see(node.value)

    def _see_walrus(self, node: Any) -> Ref:
        ref = self.see(node.value)
        self._store(node.target, ref, node.value)
        return ref

    def _see_yield(self, node: Any) -> Ref:
        if node.value is not None:
            ref = self.see(node.value)
            self._results.append(Ref(holds=ref.part() if isinstance(node, ast.YieldFrom) else ref))
        return MADE

    def _see_comprehension(self, node: Any) -> Ref:
        own = [name.id for each in node.generators for name in _stored(each.target)]
        shadowed = {name: self._names.get(name) for name in own}
        for generator in node.generators:
            part = self._iterate(generator.iter)
            for stored in _stored(generator.target):
                _ = self._names.pop(stored.id, None)
            self._store(generator.target, part)
            for condition in generator.ifs:
                _ = self.see(condition)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        held = merge(*[self.see(each) for each in parts])
        for name, ref in shadowed.items():
            if ref is None:
                _ = self._names.pop(name, None)
            else:
                self._names[name] = ref
        return Ref(holds=held) if held is not MADE else MADE

    def _see_lambda(self, node: Any) -> Ref:
        local = Local(node, self)
        _ = self.call_local(local, NOTHING)
        return Ref(values=(local,))

    def _see_formatted(self, node: Any) -> Ref:
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                self._follow_implicit(self.see(value.value), node, "__str__", "__format__", "__repr__")
                if value.format_spec is not None:
                    _ = self.see(value.format_spec)
        return MADE

    # ---- calls

    def call_local(self, local: Local, given: Given) -> Ref:
        """Read a function within: it sees the same names."""
        node = local.node
        key = node, tuple(ref.key() for ref in given.all())
        if key in self._inner:
            return MADE
        self._inner.add(key)
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
        result = merge(*self._results)
        self._declared, self._results = declared, results
        for name, ref in shadowed.items():
            if ref is None:
                _ = self._names.pop(name, None)
            else:
                self._names[name] = ref
        return result

    def _given(self, node: ast.Call) -> Given:
        args: list[Ref] = []
        rest: list[Ref] = []
        for each in node.args:
            if isinstance(each, ast.Starred):
                rest.append(self.see(each.value).part())
            else:
                args.append(self.see(each))
        kwargs: dict[str, Ref] = {}
        for keyword in node.keywords:
            ref = self.see(keyword.value)
            if keyword.arg is None:
                rest.append(ref.part())
            else:
                kwargs[keyword.arg] = ref
        return Given(args, kwargs, merge(*rest) if rest else None)

    def see_callee(self, node: ast.expr) -> Ref:
        """What is called, without that its method is taken."""
        if isinstance(node, ast.Attribute):
            return self._attribute(self.see_callee(node.value), node)
        return self.see(node)

    def _see_call(self, node: Any) -> Ref:
        given = self._given(node)
        if isinstance(node.func, ast.Attribute):
            return self._call_method(node, given)
        called = self.see(node.func)
        words = ast.unparse(node.func)
        if words == "super" and "self" in self._names:
            return self._names["self"]
        return self._call_value(called, given, node, words)

    def _call_method(self, node: Any, given: Given) -> Ref:
        inner, name = node.func.value, node.func.attr
        owner = self.see(inner)
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "super":
            return self._call_super(owner, name, given)
        instances = [value for value in owner.values if not is_a(value, types.ModuleType, type, Local)]
        for value in instances:
            if is_a(value, contextvars.ContextVar):
                self.found(f"calls `{name}` of {owner.words}: another process has no such context", node)
        if owner.lasts:
            methods = [getattr(kind_of(value), name, None) for value in instances]
            if name not in LOOKING or any(map(is_the_programs, methods)):
                self.found(f"calls `{name}` of {owner.words}", node)
        handed = merge(*given.all())
        for value in owner.values:
            if is_a(value, types.ModuleType, type):
                break
        else:
            if owner.origin == ARGUMENT:
                return self._method_of_argument(owner, name, given, node)
            if owner.origin == OWN and not instances:
                return self._method_of_own(owner, name, given, node)
            if not owner.lasts and all(not callable(_static(value, name)) for value in instances):
                return MADE
        called = self._attribute(owner, node.func)
        if called.values or not owner.lasts:
            result = self._call_value(called, given, node, ast.unparse(node.func)) if called.values else MADE
            if name == "get" and given.args and node.args and len(owner.values) == 1:
                return merge(self._item(owner, node.args[0]), *given.args[1:])
            return result if not owner.lasts else merge(result, owner.part())
        if handed.lasts and name not in LOOKING:
            self.found(f"hands {handed.words} to `{ast.unparse(node.func)}`", node)
        if name == "get" and node.args:
            return merge(self._item(owner, node.args[0]), *given.args[1:])
        return owner.part()

    def _call_super(self, owner: Ref, name: str, given: Given) -> Ref:
        for kind in owner.kinds:
            for base in kind.__mro__[1:]:
                method = base.__dict__.get(name)
                if is_a(method, types.FunctionType) and is_the_programs(method):
                    _ = self._search.follow(method, given.behind(owner))
        return owner.part()

    def _method_of_argument(self, owner: Ref, name: str, given: Given, node: Any) -> Ref:
        what = f"calls `{name}` of its argument `{owner.words}`"
        if name in _COPYING and not any(is_the_programs(kind) for kind in owner.kinds):
            part = owner.part()
            return (
                MADE if owner.kinds and part.kinds == owner.kinds else Ref(holds=part)
            )  # items of an array are no objects
        if not owner.kinds:
            if name in MUTATING or (self._search.knows_kinds and name not in SAFE_METHODS):
                self.found(what, node)
            return owner.part()
        results: list[Ref] = []
        for kind in owner.kinds:
            method = _static(kind, name)
            if is_a(method, types.FunctionType, classmethod, staticmethod) and is_the_programs(
                getattr(method, "__func__", method)
            ):
                results.append(self._method(kind, method, owner, given))
            elif (
                (name in MUTATING and is_the_programs(kind) and method is _MISSING and not self._search.knows_kinds)
                or name in MUTATING
                or (method is _MISSING and name not in SAFE_METHODS)
                or (any(ref.origin for ref in given.all()) and changes_its_arguments(method))
            ):
                self.found(what, node)
        return merge(owner.part(), *results)

    def _method(self, kind: type, method: Any, owner: Ref, given: Given) -> Ref:
        if is_a(method, staticmethod):
            return self._search.follow(method.__func__, given)
        if is_a(method, classmethod):
            return self._search.follow(method.__func__, given.behind(Ref(LASTING, f"`{kind.__name__}`", (kind,))))
        return self._search.follow(method, given.behind(owner))

    def _method_of_own(self, owner: Ref, name: str, given: Given, node: Any) -> Ref:
        """Of an object that was made in the call."""
        results: list[Ref] = []
        for kind in owner.kinds:
            method = _static(kind, name)
            if is_a(method, types.FunctionType, staticmethod, classmethod) and is_the_programs(
                getattr(method, "__func__", method)
            ):
                self._note_attribute(kind, name, getattr(method, "__func__", method))
                results.append(self._method(kind, method, owner, given))
        if not owner.kinds:
            results.append(self._search.call_unknown(name, given))
            self._read_handed(given, node)
        if name in _ADDING:
            added = merge(*(given.args[1:] if name in ("insert", "setdefault") else given.all()))
            self._add_to(node.func.value, added.part() if name in ("extend", "update", "extendleft") else added)
        return merge(owner.part(), *results)

    def _call_value(self, called: Ref, given: Given, node: Any, words: str) -> Ref:
        results: list[Ref] = []
        handed = merge(*given.all())
        values = [*called.values]
        unknown = called.origin == ARGUMENT and not values and self._search.knows_kinds
        if unknown and not (called.kinds and all(map(is_constant_class, called.kinds))):
            self.found(f"calls its argument `{called.words}`, which may do anything", node)
        if called.lasts and not any(map(callable, values)):
            held = self._search.callables_in(called)
            if not held:
                self.found(f"calls `{words}`, which leads to {called.words}", node)
            values += held
        results += [self._call_one(value, given, handed, node, words) for value in values]
        if not values:
            if handed.lasts and not isinstance(node.func if isinstance(node, ast.Call) else node, ast.Name):
                self.found(f"hands {handed.words} to something that it calls", node)
            self._read_handed(given, node)
            results.append(called.part())
        for kind in called.kinds:
            call = getattr(kind, "__call__", None)  # noqa: B004
            if is_the_programs(call):
                results.append(self._search.follow(call, given.behind(called)))
        return merge(*results)

    def _call_one(self, value: Any, given: Given, handed: Ref, node: Any, words: str) -> Ref:
        if isinstance(value, Local):
            return value.reader.call_local(value, given)
        if self._put_back and getattr(value, "__module__", None) in WARNINGS:
            return MADE
        if what := changes_the_process(value):
            self.found(what, node)
        lasting = next((ref for ref in given.all() if ref.lasts), None)
        if lasting is not None and (not only_looks(value) or self._is_file(given)):
            self.found(f"hands {lasting.words} to `{words}`", node)
        if is_the_programs(value) or wraps_the_programs(value):
            return self._search.call(value, given)
        if not is_a(value, types.BuiltinFunctionType, types.FunctionType, type) and is_the_programs(kind_of(value)):
            return self._search.call(value, given)
        return self._call_library(value, given, handed, node, words)

    def _is_file(self, given: Given) -> bool:
        file = given.kwargs.get("file")
        return file is not None and file.lasts

    def _call_library(self, value: Any, given: Given, handed: Ref, node: Any, words: str) -> Ref:
        """A function of the interpreter, of its library or of a package."""
        first = given.args[0] if given.args else None
        if handed.origin or handed.holds:
            changed = changes_its_arguments(value)
            for ref in given.all() if changed == "any" else given.args[:1] if changed else []:
                if ref.origin == ARGUMENT or ref.lasts:
                    self.found(f"hands its argument `{ref.words}` to `{words}`, which changes it", node)
            for keyword in ("out", "file", "inplace", "overwrite_a"):
                ref = given.kwargs.get(keyword, MADE)
                if ref.origin == ARGUMENT or ref.lasts:
                    self.found(f"hands its argument `{ref.words}` to `{words}`, which changes it", node)
        for ref in given.all():
            self._follow_implicit(
                ref, node, "__iter__", "__str__", "__repr__", "__len__", "__bool__", "__next__", "__hash__"
            )
        results = self._read_handed(given, node)
        if value is functools.partial and first is not None:
            return first._replace(holds=handed.part())
        if value is getattr and first is not None:
            name = node.args[1] if isinstance(node, ast.Call) and len(node.args) > 1 else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                made = ast.copy_location(ast.Attribute(node.args[0], name.value, ast.Load()), node)
                return merge(self._attribute(first, made), *given.args[2:])
            if any(is_a(each, types.ModuleType, type) for each in first.values):
                self.found(f"looks up with `{words}` what is not known before", node)
        kind = passes_on(value)
        if kind == "itself":
            return merge(handed, handed.part(), results)
        if kind == "parts":
            # What makes or picks items is none of them.
            held = [ref.part() for ref in given.all() if not ref.values or not all(map(callable, ref.values))]
            whole = merge(results, *held)
            return Ref(holds=whole) if whole is not MADE else MADE
        return Ref(holds=handed) if handed.origin and is_a(value, type) and not is_constant_class(value) else MADE

    def _read_handed(self, given: Given, node: Any) -> Ref:
        """Functions that are handed over may be called, with what is handed over beside them."""
        refs = given.all()
        if not any(ref.values for ref in refs):
            return MADE
        parts = merge(*[merge(ref.part(), ref.part().part()) for ref in refs if not ref.values or ref.lasts])
        results: list[Ref] = []
        for ref in refs:
            for value in ref.values:
                if isinstance(value, Local):
                    # Its own names are read with what it may be given.
                    count = len(value.node.args.args)
                    if parts is not MADE:
                        results.append(value.reader.call_local(value, Given([parts] * count, {})))
                elif what := callable(value) and changes_the_process(value):
                    self.found(str(what), node)
                elif is_the_programs(value) or wraps_the_programs(value):
                    results.append(self._search.call(value, Given([parts] * 4, {})))
                elif parts.origin == ARGUMENT and changes_its_arguments(value):
                    self.found(
                        f"has its argument `{parts.words}` changed by `{getattr(value, '__name__', value)}`", node
                    )
        return merge(*results)

    def _follow_implicit(self, ref: Ref, node: Any, *names: str) -> None:
        """Follow methods of the program's classes that Python calls by itself."""
        if ref is MADE:
            return
        kinds = {*ref.kinds, *(kind_of(value) for value in ref.values if not is_a(value, Local, type))}
        for kind in kinds:
            if not is_the_programs(kind):
                continue
            for name in names:
                method = getattr(kind, name, None)
                if is_a(method, types.FunctionType) and is_the_programs(method):
                    if ref.lasts and name not in LOOKING:
                        self.found(f"calls `{name}` of {ref.words}", node)
                    _ = self._search.follow(method, Given([ref, MADE, MADE, MADE], {}))


def _static(value: Any, name: str) -> Any:
    """An attribute, without that any code of the program runs."""
    if is_a(value, types.ModuleType):
        return cast("dict[str, Any]", vars(value)).get(name, _MISSING)
    own: Any = getattr(value, "__dict__", None)
    if is_a(value, type):
        for base in value.__mro__:
            if name in base.__dict__:
                return base.__dict__[name]
        return getattr(kind_of(value), name, _MISSING)
    if is_a(own, dict) and name in own:
        return own[name]
    for base in kind_of(value).__mro__:
        if name in base.__dict__:
            got = base.__dict__[name]
            if is_a(got, types.MemberDescriptorType, types.GetSetDescriptorType):
                return getattr(value, name, _MISSING)
            if is_a(got, types.FunctionType):
                return types.MethodType(got, value)
            if is_a(got, staticmethod, classmethod) or kind_of(got).__name__ == "method_descriptor":
                return getattr(value, name, _MISSING)
            return got
    return _MISSING


def _has_getter(got: Any) -> bool:
    getter = getattr(kind_of(got), "__get__", None)
    return isinstance(getter, types.FunctionType) and is_the_programs(kind_of(got))


def _has_slot(got: Any) -> bool:
    return isinstance(
        got, types.FunctionType | staticmethod | classmethod | types.MemberDescriptorType | types.GetSetDescriptorType
    )


def _sets(kind: type, name: str) -> bool:
    """Whether objects of a class are given an attribute of their own when they are made."""
    if name in getattr(kind, "__dataclass_fields__", ()):
        return True
    made = cast("Any", kind).__init__
    return isinstance(made, types.FunctionType) and name in made.__code__.co_names


def _stored(target: ast.AST) -> list[ast.Name]:
    return [node for node in ast.walk(target) if isinstance(node, ast.Name)]


def _argument_names(arguments: ast.arguments) -> list[str]:
    each = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument.arg for argument in each if argument is not None]


_OPERATORS = tuple(
    f"__{side}{name}__"
    for name in (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "and",
        "or",
        "xor",
        "matmul",
        "lshift",
        "rshift",
    )
    for side in ("", "r")
)

_STATEMENTS: dict[type, Any] = {
    ast.Global: Reader._do_global,
    ast.Nonlocal: Reader._do_global,
    ast.Assign: Reader._do_assign,
    ast.AnnAssign: Reader._do_annotated,
    ast.AugAssign: Reader._do_augmented,
    ast.Delete: Reader._do_delete,
    ast.Return: Reader._do_return,
    ast.For: Reader._do_for,
    ast.AsyncFor: Reader._do_for,
    ast.While: Reader._do_while,
    ast.With: Reader._do_with,
    ast.AsyncWith: Reader._do_with,
    ast.Match: Reader._do_match,
    ast.ExceptHandler: Reader._do_handler,
    ast.FunctionDef: Reader._do_function,
    ast.AsyncFunctionDef: Reader._do_function,
    ast.ClassDef: Reader._do_class,
    ast.Import: Reader._do_import,
    ast.ImportFrom: Reader._do_import,
}

_EXPRESSIONS: dict[type, Any] = {
    ast.Name: Reader._see_name,
    ast.Constant: Reader._see_constant,
    ast.BinOp: Reader._see_operation,
    ast.Compare: Reader._see_compare,
    ast.Attribute: Reader._see_attribute,
    ast.Subscript: Reader._see_subscript,
    ast.IfExp: Reader._see_either,
    ast.BoolOp: Reader._see_either,
    ast.Tuple: Reader._see_display,
    ast.List: Reader._see_display,
    ast.Set: Reader._see_display,
    ast.Dict: Reader._see_display,
    ast.Await: Reader._see_through,
    ast.Starred: Reader._see_through,
    ast.NamedExpr: Reader._see_walrus,
    ast.Yield: Reader._see_yield,
    ast.YieldFrom: Reader._see_yield,
    ast.ListComp: Reader._see_comprehension,
    ast.SetComp: Reader._see_comprehension,
    ast.DictComp: Reader._see_comprehension,
    ast.GeneratorExp: Reader._see_comprehension,
    ast.Lambda: Reader._see_lambda,
    ast.JoinedStr: Reader._see_formatted,
    ast.Call: Reader._see_call,
}
