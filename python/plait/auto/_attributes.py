"""What attributes and items lead to, and what is changed where something is stored into one."""

from __future__ import annotations

import ast
import functools
import types
from typing import Any, cast

from plait.auto._changing import LOOKING, can_change, is_program_module, is_the_programs
from plait.auto._kinds import is_a, kind_of
from plait.auto._names import MISSING, Given, Local, Names
from plait.auto._refs import ARGUMENT, LASTING, MADE, OWN, Ref, leads_out, merge


class Attributes(Names):
    """Takes attributes and items of objects, and sets them."""

    # ---- taken

    def see_callee(self, node: ast.expr) -> Ref:
        """What is called, without that its method is taken."""
        if isinstance(node, ast.Attribute):
            return self._attribute(self.see_callee(node.value), node)
        return self.see(node)

    def _attribute(self, owner: Ref, node: Any) -> Ref:
        name = node.attr
        found: list[Ref] = []
        if name == "__class__":
            return self._class_of(owner)
        for value in owner.values:
            if isinstance(value, Local):
                continue
            got = static(value, name)
            if is_a(got, property) and not is_a(value, type):
                if got.fget is not None and is_the_programs(got.fget):
                    _ = self._search.follow(got.fget, Given([owner], {}))
                found.append(owner.part())
            elif got is not MISSING:
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
        got = static(kind, name)
        if is_a(got, property) and is_the_programs(got.fget):
            return self._search.follow(got.fget, Given([owner], {}))
        if is_a(got, functools.cached_property) and is_the_programs(got.func):
            return self._search.follow(got.func, Given([owner], {}))
        if _has_getter(got):
            return self._search.follow(kind_of(got).__get__, Given([Ref(LASTING, "a descriptor", (got,))], {}))
        if kept is not None:
            return merge(kept, owner.part()) if owner.origin else kept
        if owner.origin == OWN and got is not MISSING and is_the_programs(kind) and not _has_slot(got):
            self._note_attribute(kind, name, got)
            if can_change(got) and not _sets(kind, name):
                return Ref(LASTING, f"`{ast.unparse(node)}`", (got,))
        return owner.part()

    def _follow_hook(self, kind: type, owner: Ref) -> None:
        for name in ("__getattr__", "__getattribute__"):
            hook = getattr(kind, name, None)
            if isinstance(hook, types.FunctionType) and is_the_programs(hook):
                _ = self._search.follow(hook, Given([owner, MADE], {}))

    def _item(self, owner: Ref, index: ast.AST) -> Ref:
        if isinstance(index, ast.Slice) and owner.held is not None:
            other = Ref(holds=owner.held)  # another one, of the same
            return other if owner.origin == OWN else merge(owner.part(), other)
        known = len(owner.values) == 1 and owner.held is None  # it is that one, and nothing else
        if known and isinstance(index, ast.Constant) and type(owner.values[0]) in (dict, list, tuple):
            try:
                value = owner.values[0][index.value]
            except (LookupError, TypeError):
                return owner.part()
            return Ref(LASTING, owner.words, (value,))
        return owner.part()

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

    # ---- stored

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
                if isinstance(inner, ast.Name) and inner.id in self._selves and leads_out(ref):
                    self._keep_out_of_reach(name, ref, target)
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

    def _keep_out_of_reach(self, name: str, ref: Ref, node: ast.AST) -> None:
        """Objects of a class that is defined in the function are not followed: what they hold may be changed anywhere."""
        words = ref.words or "what outlives the call"
        self.found(f"keeps {words} as `{name}` in a class of its own, which may change it", node)

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


def static(value: Any, name: str) -> Any:
    """An attribute, without that any code of the program runs."""
    if is_a(value, types.ModuleType):
        found = cast("dict[str, Any]", vars(value)).get(name, MISSING)
        # Packages load their own parts when these are asked for.
        lazily = found is MISSING and "__getattr__" in vars(value) and not is_program_module(value.__name__)
        return getattr(value, name, MISSING) if lazily else found
    own: Any = getattr(value, "__dict__", None)
    if is_a(value, type):
        for base in value.__mro__:
            if name in base.__dict__:
                return base.__dict__[name]
        return getattr(kind_of(value), name, MISSING)
    if is_a(own, dict) and name in own:
        return own[name]
    for base in kind_of(value).__mro__:
        if name in base.__dict__:
            got = base.__dict__[name]
            if is_a(got, types.MemberDescriptorType, types.GetSetDescriptorType):
                return getattr(value, name, MISSING)
            if is_a(got, types.FunctionType):
                return types.MethodType(got, value)
            if is_a(got, staticmethod, classmethod) or kind_of(got).__name__ == "method_descriptor":
                return getattr(value, name, MISSING)
            return got
    return MISSING


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
