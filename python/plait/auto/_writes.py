"""Whether a function changes what outlives its call: in another process the change would be lost.

The source is read, not run. What cannot be followed counts as a change if it is handed something that outlives the call and can
be changed: a function that wrongly stays in this process is slower, one that wrongly leaves it is wrong.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from plait.auto._changing import (
    ANYTHING,
    LOOKING,
    MUTATING,
    can_change,
    changes_its_arguments,
    is_constant_class,
    is_of_library,
    is_program_module,
    is_the_programs,
)
from plait.auto._kinds import is_a, kind_of
from plait.auto._names import NOTHING, Found, Given
from plait.auto._reader import Reader
from plait.auto._refs import ARGUMENT, LASTING, MADE, OWN, Ref, callables_in, holds_modules, merge
from plait.auto._source import node_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Calls deep that functions of the program are followed, and so many of them.
_DEPTH, _MOST = 20, 400

#: Methods that Python calls by itself that are no matter of what is done with an object.
_NOT_IMPLICIT = {
    "__init__",
    "__new__",
    "__init_subclass__",
    "__class_getitem__",
    "__call__",
    "__post_init__",
    "__set_name__",
}

Notes = dict[tuple[str, str], object]


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
    return Search(kinds).change(function)


def notes_for(function: object, notes: Notes) -> list[tuple[str, str]]:
    """Those of what a function reads that a worker has on its own: globals of functions that are sent by value go along."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = cast("Any", inner).func
    inner = getattr(inner, "__func__", inner)
    module, name = getattr(inner, "__module__", None), getattr(inner, "__qualname__", "")
    if not isinstance(inner, types.FunctionType) or (module, name) not in notes or "<lambda>" in name:
        return (
            [place for place in notes if place[0] != module] if isinstance(inner, types.FunctionType) else list(notes)
        )
    return list(notes)


class Search:
    """Follows a function, and those of the program that it calls.

    Attributes:
        knows_kinds: Whether classes of arguments are known: what is not followed then is nobody's who is known to be harmless.
        attributes: What attributes of the call's own objects lead to, by class and name.
        notes: What is read that outlives the call, by module and name within it.
    """

    def __init__(
        self, kinds: tuple[type, ...] = (), named: dict[str, type] | None = None, *, knows_kinds: bool = False
    ) -> None:
        self._kinds = kinds
        self._named = named or {}
        self.knows_kinds = knows_kinds or bool(kinds)
        self.attributes: dict[tuple[type, str], Ref] = {}
        self.notes: Notes = {}
        self._results: dict[tuple[Any, ...], Ref] = {}
        self._depth = 0
        self._outermost = ""
        self._made: dict[type, Ref] = {}
        self._asked: dict[str, Given] = {}
        """Methods and attributes, by name, that are asked of objects whose class is not known."""

    def change(self, function: object) -> Change | None:
        """What `function` changes, or None."""
        try:
            self._begin(function)
        except Found as found:
            if "its argument" in found.what and self._outermost not in ("", found.function):
                return Change(found.what, self._outermost, 0)  # in whose words it is told
            return Change(found.what, found.function, found.line)
        except RecursionError:
            return Change("calls more than can be followed", self._outermost, 0)
        except Exception as error:  # of the program's own: a class, a descriptor or a `__getattr__`
            return Change(f"cannot be read: {type(error).__name__}", self._outermost, 0)
        return None

    def _begin(self, function: Any) -> None:
        """Follow the function that is called from outside."""
        given = Given(
            [self._argument(kind) for kind in self._kinds],
            {name: self._argument(kind, name) for name, kind in self._named.items()},
        )
        while type(function) is functools.partial:
            # What is bound travels with each call: a change of it is lost.
            bound = cast("Any", function)
            kept = [self._argument(kind_of(value)) for value in bound.args]
            named = {name: self._argument(kind_of(value), name) for name, value in bound.keywords.items()}
            given = Given([*kept, *given.args], {**named, **given.kwargs})
            function = bound.func
        self._outermost = getattr(getattr(function, "__func__", function), "__qualname__", "")
        if isinstance(function, types.FunctionType):
            self._note_function(function)
            _ = self.follow(function, given, outermost=True)
        elif isinstance(function, types.BuiltinMethodType | types.MethodWrapperType):
            owner = getattr(function, "__self__", None)
            if owner is not None and can_change(owner) and function.__name__ not in LOOKING:
                raise Found(f"may change the {type(owner).__name__} that it is a method of", function.__name__, 0)
            self._of_library(function)
        elif isinstance(function, types.MethodType):
            self._note_function(function.__func__)
            owner = Ref(LASTING, "what it is a method of", (function.__self__,))
            if isinstance(function.__func__, types.FunctionType):
                _ = self.follow(function.__func__, given.behind(owner), outermost=True)
        elif isinstance(function, type):
            _ = self.make(function, given)
        elif isinstance(getattr(function, "__wrapped__", None), types.FunctionType) or is_the_programs(
            kind_of(function)
        ):
            _ = self.call(function, given)
        else:
            self._of_library(function)

    def _of_library(self, function: Any) -> None:
        if changes_its_arguments(function):
            raise Found("changes what it is given", getattr(function, "__qualname__", "it"), 0)

    def _argument(self, kind: type, name: str = "") -> Ref:
        return MADE if is_constant_class(kind) else Ref(ARGUMENT, name or f"of class {kind.__name__}", kinds=(kind,))

    # ---- for readers

    def note(self, module: str, path: str, value: object) -> None:
        """Something is read that outlives the call."""
        if is_program_module(module):
            self.notes[module, path] = value

    def _note_function(self, function: Any) -> None:
        if "<locals>" not in function.__qualname__:
            self.note(function.__module__ or "", function.__qualname__, function)

    def follow(self, function: object, given: Given, *, outermost: bool = False) -> Ref:
        """Read a function that is given something; return what its result leads to."""
        if not isinstance(function, types.FunctionType):
            return MADE
        names = (tuple(given.kwargs), *(ref.key() for ref in given.all()))
        key = function, len(given.args), names
        if key in self._results:
            return self._results[key]
        if self._depth > _DEPTH or len(self._results) > _MOST:
            raise Found("calls more than can be followed", function.__qualname__, 0)
        self._results[key] = MADE
        self._depth += 1
        self._results[key] = result = self._read(function, given, outermost=outermost)
        self._depth -= 1
        return result

    def _read(self, function: types.FunctionType, given: Given, *, outermost: bool) -> Ref:
        if hasattr(function, "registry") and hasattr(function, "dispatch"):  # of `functools.singledispatch`
            for each in cast("Any", function).registry.values():
                _ = self.call(each, given)
            return MADE
        if not outermost and is_of_library(function.__code__.co_filename):  # what a decorator of it has made
            return self.follow(getattr(function, "__wrapped__", None), given)
        tree = node_of(function)
        if tree is None:
            _by_code(function)
            return merge(*given.all())
        known, cells = _names_of(function)
        reader = Reader(function, known, cells, self)
        reader_given = self._named_arguments(tree, given) if outermost else given
        return reader.read(tree, reader_given, _defaults(function))

    def _named_arguments(self, tree: Any, given: Given) -> Given:
        """What a function is given from outside, in the words of its own."""
        places = [argument.arg for argument in (*tree.args.posonlyargs, *tree.args.args)]
        args = [
            ref._replace(words=name) if ref.origin == ARGUMENT else ref
            for name, ref in zip(places, given.args, strict=False)
        ]
        args += given.args[len(args) :]
        kwargs = given.kwargs
        if not self.knows_kinds:
            args += [Ref(ARGUMENT, name) for name in places[len(args) :] if name not in kwargs]
            only = {argument.arg: Ref(ARGUMENT, argument.arg) for argument in tree.args.kwonlyargs}
            kwargs = {**only, **kwargs}
        return Given(args, kwargs, None if self.knows_kinds else Ref(ARGUMENT, "of a star"))

    def call(self, value: Any, given: Given) -> Ref:
        """Something of the program is called."""
        if isinstance(value, functools.partial):
            bound = cast("Any", value)
            args = [Ref(LASTING, "what is bound", (each,)) for each in bound.args]
            kwargs = {name: Ref(LASTING, "what is bound", (each,)) for name, each in bound.keywords.items()}
            return self.call(bound.func, Given([*args, *given.args], {**kwargs, **given.kwargs}, given.rest))
        if isinstance(value, types.MethodType):
            owner = Ref(LASTING, f"what `{value.__name__}` is a method of", (value.__self__,))
            return self.follow(value.__func__, given.behind(owner))
        if isinstance(value, types.FunctionType):
            return self.follow(value, given)
        if isinstance(value, type):
            return self.make(value, given)
        if is_a(value, functools._lru_cache_wrapper):
            raise Found("keeps what it returned in a cache", getattr(value, "__qualname__", "it"), 0)
        if isinstance(wrapped := getattr(value, "__wrapped__", None), types.FunctionType):
            return self.follow(wrapped, given)
        call = type(value).__dict__.get("__call__")
        return self.follow(call, given.behind(Ref(LASTING, "an object that is called", (value,))))

    def callables_in(self, ref: Ref) -> list[Any]:
        """What may be called of what is known to be somewhere."""
        return [] if holds_modules(ref.within) else list(callables_in((*ref.values, *ref.within)))

    def call_unknown(self, name: str, given: Given) -> Ref:
        """A method of an object of the call's own is called whose class is not known: it may be of any that was made."""
        before = self._asked.get(name)
        if before is not None and before.all() and not given.all():
            given = before
        self._asked[name] = given
        return merge(*[self._asked_of(kind, name, given) for kind in [*self._made]])

    def _asked_of(self, kind: type, name: str, given: Given) -> Ref:
        method: Any = getattr(kind, name, None)
        own = self._made[kind]
        if is_a(method, property) and is_the_programs(method.fget):
            return self.follow(method.fget, Given([own], {}))
        if is_a(method, types.MethodType):
            return self.follow(method.__func__, given.behind(Ref(LASTING, f"`{kind.__name__}`", (kind,))))
        return self.follow(method, given.behind(own)) if is_the_programs(method) else MADE

    def make(self, kind: type, given: Given, *, subclass: bool = False) -> Ref:
        """An object of a class is made, or a class of it; return what leads to it."""
        if not is_the_programs(kind):
            return MADE
        its = Ref(LASTING, f"`{kind.__name__}`", (kind,))
        made = Ref(OWN, kinds=(kind,))
        metaclass = type(kind)
        for name in ("__new__", "__init__") if subclass else ("__call__",):
            if is_the_programs(method := getattr(metaclass, name, None)) and metaclass is not type:
                _ = self.follow(method, given.behind(its))
        if subclass:
            hook = getattr(kind.__init_subclass__, "__func__", None)
            return self.follow(hook, given.behind(its)) if is_the_programs(hook) else MADE
        if is_the_programs(kind.__new__) and node_of(cast("Any", kind.__new__)) is not None:
            _ = self.follow(kind.__new__, given.behind(its))
        first = kind not in self._made
        self._made[kind] = made
        holds = self._initialize(kind, made, given)
        if first:
            self._may_be_asked(kind, made)
        return made if holds is MADE else made._replace(holds=holds)

    def _initialize(self, kind: type, made: Ref, given: Given) -> Ref:
        """What a new object holds beside its attributes."""
        fields: dict[str, Any] = getattr(kind, "__dataclass_fields__", {})
        first: Any = cast("Any", kind).__init__
        if fields and isinstance(first, types.FunctionType) and first.__code__.co_filename == "<string>":
            for name, ref in (*zip(fields, given.args, strict=False), *given.kwargs.items()):
                self.attributes[kind, name] = merge(self.attributes.get((kind, name)), ref)
            for field in fields.values():
                if is_the_programs(field.default_factory):
                    _ = self.call(field.default_factory, NOTHING)
            _ = self.follow(getattr(kind, "__post_init__", None), given.behind(made))
            return given.rest or MADE
        if isinstance(first, types.FunctionType) and is_the_programs(first):
            _ = self.follow(first, given.behind(made))
            return MADE
        return merge(*given.all())

    def _may_be_asked(self, kind: type, made: Ref) -> None:
        """Follow what Python calls of an object by itself, and what was asked of objects whose class was not known."""
        for name in dir(kind):
            method: Any = getattr(kind, name, None) if name.startswith("__") or name in self._asked else None
            if name in _NOT_IMPLICIT or not is_a(method, types.FunctionType, types.MethodType, property):
                continue
            if name in self._asked and not name.startswith("__"):
                _ = self._asked_of(kind, name, self._asked[name])
            elif is_the_programs(method) and method.__code__.co_filename != "<string>":
                _ = self.follow(method, Given([made, MADE, MADE, MADE], {}))


def _names_of(function: types.FunctionType) -> tuple[dict[str, object], set[str]]:
    """What the names in a function, and in those within it, stand for outside of it; and which are of functions around it."""
    code = function.__code__
    names = names_within(code) - {*code.co_varnames, *code.co_cellvars}  # a name of its own hides a global
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            known[name] = cell.cell_contents
        except ValueError:  # it is empty
            known[name] = None
    return known, set(code.co_freevars)


def names_within(code: types.CodeType) -> set[str]:
    """Names that some code, and what is within it, looks up outside; those of attributes among them."""
    return set(code.co_names).union(
        *(names_within(each) for each in code.co_consts if isinstance(each, types.CodeType))
    )


def _defaults(function: types.FunctionType) -> list[tuple[str, object]]:
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    return [*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()]


_STORING = {"STORE_ATTR", "DELETE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE", "IMPORT_NAME"}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and all that is within it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes(each)


def _by_code(function: types.FunctionType) -> None:
    """Without a source: what it stores into by name, and whether it reaches anything that can be changed."""
    import dis

    for instruction in dis.get_instructions(function):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            raise Found(f"sets the global `{instruction.argval}`", function.__qualname__, 0)
        if (
            instruction.opname in ("STORE_DEREF", "DELETE_DEREF")
            and instruction.argval in function.__code__.co_freevars
        ):
            raise Found(f"sets `{instruction.argval}` of a function around it", function.__qualname__, 0)
    known, _ = _names_of(function)
    if name := next((name for name in names_within(function.__code__) if name in MUTATING or name in ANYTHING), ""):
        raise Found(f"uses `{name}`, and its source is not to be had", function.__qualname__, 0)
    instructions = (each for code in _codes(function.__code__) for each in dis.get_instructions(code))
    if any(each.opname in _STORING for each in instructions):
        raise Found("changes something, and its source is not to be had", function.__qualname__, 0)
    for name, value in (*known.items(), *_defaults(function)):
        own_module = is_a(value, types.ModuleType) and is_program_module(cast("Any", value).__name__)
        if can_change(value) or own_module or (is_the_programs(value) and not isinstance(value, type)):
            raise Found(f"reaches `{name}`, and its source is not to be had", function.__qualname__, 0)
