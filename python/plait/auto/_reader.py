"""Reads the source of a function, statement by statement: what it changes, and what its result leads to."""

from __future__ import annotations

import ast
import sys
import warnings
from typing import Any

from plait.auto._changing import can_change
from plait.auto._expressions import Expressions
from plait.auto._kinds import is_a
from plait.auto._names import NOTHING, Function, Given, Local
from plait.auto._refs import ARGUMENT, LASTING, MADE, Ref, leads_out, merge

#: Right sides of `a += ...` that say that `a` is no container: a list takes none of them.
_NUMBERS = ast.Constant | ast.BinOp | ast.UnaryOp | ast.JoinedStr | ast.Compare | ast.BoolOp


class Reader(Expressions):
    """Follows the names of a function that lead to what it is given, and to what outlives its call."""

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
        shadowed, selves = dict(self._names), self._selves
        self._has_classes = True
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        self._selves = {argument.arg for each in methods for argument in [*each.args.posonlyargs, *each.args.args][:1]}
        self._do_all(node.body)
        for name, ref in self._names.items():
            if shadowed.get(name) is not ref and leads_out(ref):
                self._keep_out_of_reach(name, ref, node)
        self._selves = selves
        self._names = {**shadowed, node.name: MADE}

    def _do_import(self, node: Any) -> None:
        for alias in node.names:
            module = node.module if isinstance(node, ast.ImportFrom) else alias.name
            if isinstance(node, ast.ImportFrom) and node.level:
                package = str(self._function.__globals__.get("__package__") or "").split(".")
                module = ".".join([*package[: len(package) - node.level + 1], *([module] if module else [])])
            found = sys.modules.get(module or "")
            name = alias.asname or alias.name.partition(".")[0]
            if isinstance(node, ast.ImportFrom):
                value = getattr(found, "__dict__", {}).get(alias.name)
                self._note_attribute(found, alias.name, value)
            else:
                value = found if alias.asname else sys.modules.get(name)
            self._names[name] = MADE if value is None else Ref(LASTING, f"`{name}`", (value,))


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
