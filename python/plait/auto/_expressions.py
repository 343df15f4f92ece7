"""What an expression leads to, for each kind of expression."""

from __future__ import annotations

import ast
import io
from typing import Any, cast

from plait.auto._called import Calls
from plait.auto._changing import LOOKING, MUTATING
from plait.auto._kinds import is_a, kind_of
from plait.auto._names import NOTHING, Local
from plait.auto._refs import ARGUMENT, LASTING, MADE, Ref, merge

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


class Expressions(Calls):
    """Evaluates expressions, as far as it matters where their values come from."""

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
        """What a call does with an iterator that lasts takes from it what others will not get; files are told of elsewhere."""
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
        if owner.origin == ARGUMENT and node.attr in MUTATING:
            taken = [getattr(kind, node.attr, None) for kind in owner.kinds]
            if any(callable(each) for each in taken):
                self.found(f"takes `{node.attr}` of its argument `{owner.words}`", node)
        if owner.lasts and node.attr not in LOOKING:
            taken = [getattr(kind_of(value), node.attr, None) for value in owner.values]
            if any(callable(each) for each in taken):
                self.found(f"takes `{node.attr}` of {owner.words}", node)
        return ref

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

    def _iterate(self, node: ast.expr) -> Ref:
        whole = self.see(node)
        if whole.lasts and any(hasattr(kind_of(value), "__next__") for value in whole.values):
            self.found(f"takes what is next of {whole.words}", node)
        self._follow_implicit(whole, node, "__iter__", "__next__", "__aiter__", "__anext__")
        return whole.part()


def _stored(target: ast.AST) -> list[ast.Name]:
    return [node for node in ast.walk(target) if isinstance(node, ast.Name)]


_EXPRESSIONS: dict[type, Any] = {
    ast.Name: Expressions._see_name,
    ast.Constant: Expressions._see_constant,
    ast.BinOp: Expressions._see_operation,
    ast.Compare: Expressions._see_compare,
    ast.Attribute: Expressions._see_attribute,
    ast.Subscript: Expressions._see_subscript,
    ast.IfExp: Expressions._see_either,
    ast.BoolOp: Expressions._see_either,
    ast.Tuple: Expressions._see_display,
    ast.List: Expressions._see_display,
    ast.Set: Expressions._see_display,
    ast.Dict: Expressions._see_display,
    ast.Await: Expressions._see_through,
    ast.Starred: Expressions._see_through,
    ast.NamedExpr: Expressions._see_walrus,
    ast.Yield: Expressions._see_yield,
    ast.YieldFrom: Expressions._see_yield,
    ast.ListComp: Expressions._see_comprehension,
    ast.SetComp: Expressions._see_comprehension,
    ast.DictComp: Expressions._see_comprehension,
    ast.GeneratorExp: Expressions._see_comprehension,
    ast.Lambda: Expressions._see_lambda,
    ast.JoinedStr: Expressions._see_formatted,
    ast.Call: Expressions._see_call,
}
