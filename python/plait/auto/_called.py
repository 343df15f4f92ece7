"""What a call leads to, and what is changed by it: functions, methods, and functions that are handed over."""

from __future__ import annotations

import ast
import contextvars
import functools
import operator
import types
from typing import Any, cast

from plait.auto._attributes import Attributes, static
from plait.auto._changing import (
    LOOKING,
    MUTATING,
    MUTATING_ARRAYS,
    SAFE_METHODS,
    WARNINGS,
    changes_its_arguments,
    changes_the_process,
    is_constant_class,
    is_of_numpy,
    is_the_programs,
    only_looks,
    passes_on,
    place_of_out,
    wraps_the_programs,
)
from plait.auto._kinds import is_a, kind_of
from plait.auto._names import MISSING, Given, Local
from plait.auto._refs import ARGUMENT, LASTING, MADE, OWN, Ref, leading_out, leads_out, merge

_ADDING = {"append", "appendleft", "add", "extend", "extendleft", "insert", "setdefault", "update", "put", "push"}

#: Methods that return something new that holds the same.
_COPYING = {"copy", "astype", "flatten", "tolist"}


def _written_to(called: Any, given: Given) -> Ref | None:
    """What of a call's own arguments, or of what outlives it, its result is written to."""
    place = place_of_out(called)
    refs = [] if place is None else given.args[place:]
    return next((found for ref in refs if (found := leading_out(ref)) is not None), None)


def _is_unsafe_caller(called: Any) -> bool:
    """Whether it calls a method, by its name, that may change what it is given."""
    if type(called) is not operator.methodcaller:
        return False
    made, args = cast("tuple[Any, tuple[Any, ...]]", called.__reduce__())
    name: object = args[0] if args else made.args[0]  # of a partial, where there are arguments by name
    return name not in SAFE_METHODS


class Calls(Attributes):
    """Follows calls: into functions of the program; of all others it is known, or not, what they do."""

    def _see_call(self, node: Any) -> Ref:
        given = self._given(node)
        if isinstance(node.func, ast.Attribute):
            return self._call_method(node, given)
        called = self.see(node.func)
        words = ast.unparse(node.func)
        if words == "super" and "self" in self._names:
            return self._names["self"]
        return self._call_value(called, given, node, words)

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
            if not owner.lasts and all(not callable(static(value, name)) for value in instances):
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
            method = static(kind, name)
            if is_a(method, types.FunctionType, classmethod, staticmethod) and is_the_programs(
                getattr(method, "__func__", method)
            ):
                results.append(self._method(kind, method, owner, given))
            elif (
                (name in MUTATING_ARRAYS and kind.__module__ == "numpy")
                or name in MUTATING
                or (method is MISSING and name not in SAFE_METHODS)
                or (any(ref.origin for ref in given.all()) and changes_its_arguments(method))
                or _written_to(method, given) is not None
            ):
                self.found(what, node)
        return merge(owner.part(), *results)

    def _method(self, kind: type, method: Any, owner: Ref, given: Given) -> Ref:
        if is_a(method, staticmethod):
            return self._search.follow(method.__func__, given)
        if is_a(method, classmethod):
            return self._search.follow(method.__func__, given.behind(Ref(LASTING, f"`{kind.__name__}`", (kind,))))
        return self._search.follow(method, given.behind(owner))

    def _see_own_objects(self, given: Given, node: Any, words: str) -> None:
        """Where the function defines classes, what it made may be an object of one: these are not followed."""
        for ref in given.all() if self._has_classes else []:
            constant = ref.kinds and all(map(is_constant_class, ref.kinds))
            if leads_out(ref) or (leading_out(ref) is not None and not constant):
                what = ref.words or "what outlives the call"
                self.found(f"hands {what} to `{words}`, which may be of a class of its own", node)

    def _method_of_own(self, owner: Ref, name: str, given: Given, node: Any) -> Ref:
        """Of an object that was made in the call."""
        if not owner.kinds:
            self._see_own_objects(given, node, ast.unparse(node.func))
        for ref in given.args[:1] if name in ("shuffle", "readinto", "recv_into") and not owner.kinds else []:
            if ref.origin == ARGUMENT or ref.lasts:
                self.found(f"hands its argument `{ref.words}` to `{ast.unparse(node.func)}`, which changes it", node)
        results: list[Ref] = []
        for kind in owner.kinds:
            method = static(kind, name)
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
        if not called.values and not called.kinds:
            self._see_own_objects(given, node, words)
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
            if (written := _written_to(value, given)) is not None:
                self.found(f"hands its argument `{written.words}` to `{words}`, which changes it", node)
            for keyword in ("out", "file", "inplace", "overwrite_a"):
                if (written := leading_out(given.kwargs.get(keyword, MADE))) is not None:
                    self.found(f"hands its argument `{written.words}` to `{words}`, which changes it", node)
        for ref in given.all():
            self._follow_implicit(
                ref, node, "__iter__", "__str__", "__repr__", "__len__", "__bool__", "__next__", "__hash__"
            )
        results = self._read_handed(given, node)
        if _is_unsafe_caller(value):
            for ref in given.all():
                if leading_out(ref) is not None:
                    self.found(f"hands `{ref.words}` to `{words}`, which may change it", node)
        if value is operator.methodcaller:
            name = node.args[0] if isinstance(node, ast.Call) and node.args else None
            if not (isinstance(name, ast.Constant) and name.value in SAFE_METHODS):
                self.found(f"makes with `{words}` what may change whatever it is given", node)
        if value is type and first is not None and len(given.args) == 1:
            return self._class_of(first)
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
        if kind == "itself" or (handed.lasts and is_of_numpy(value)):  # an array of objects gives out these
            return merge(handed, handed.part(), results)
        if kind == "parts":
            # What makes or picks items is none of them.
            held = [ref.part() for ref in given.all() if not ref.values or not all(map(callable, ref.values))]
            whole = merge(results, *held)
            return Ref(holds=whole) if whole is not MADE else MADE
        return Ref(holds=handed) if handed.origin and is_a(value, type) and not is_constant_class(value) else MADE

    def _class_of(self, ref: Ref) -> Ref:
        """What leads to the class of something: it lasts, whatever made it."""
        kinds = dict.fromkeys((*ref.kinds, *(kind_of(value) for value in ref.values if not is_a(value, Local))))
        return Ref(LASTING, "a class", tuple(kinds)) if kinds else MADE

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
