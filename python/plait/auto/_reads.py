"""What a function reads that outlives its calls: a worker process has to have the same, or the calls stay in this one.

A worker imports the program's modules anew, so it has what they had then. What was set since, a helper that was replaced,
a class attribute, an item of a table, is not there. So a digest of what is read goes along with the calls, and a worker
that has something else says so before it begins.
"""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import enum
import functools
import hashlib
import importlib
import itertools
import marshal
import os
import re
import sys
import threading
import time
import types
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from plait.auto._kinds import is_a, kind_of
from plait.processes import _findings

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Iterable

#: Of what can be pickled by `marshal`, and means the same everywhere.
_ATOMS = frozenset({int, float, complex, str, bytes, bool, type(None), type(...)})

#: What tells what it is by its `repr`.
_TOLD = (dt.date, dt.time, dt.timedelta, range, bytearray)

#: And these, where their modules are there: they take long to import.
_TOLD_LATER = (("decimal", "Decimal"), ("pathlib", "PurePath"))

#: Items of a container, and bytes of an array, that are looked at; of larger ones the first ones and the length.
_MOST_ITEMS, _MOST_BYTES = 100_000, 1 << 24

#: How deep objects are looked into.
_DEEP = 6

#: Seconds that it takes to look at what can be changed, beyond which it is not done for each message.
_SOON = 0.0002

#: Digests that a worker has agreed to, at most.
_MOST_AGREED = 1_000

_MISSING = object()

_agreed: set[bytes] = set()

_has_called = False
"""Whether this worker may be another by now than it was when it was forked."""

_MOST_CONTEXTS = 100

_contexts: dict[str, tuple[Any, ...]] = {}
"""Decimal contexts by what they say of themselves."""


class Differs(NamedTuple):
    """What a worker answers instead of outcomes: it has something else. It has made no call."""

    what: str


class Needs:
    """What a function reads that outlives its calls."""

    def __init__(self) -> None:
        self._places: list[tuple[str, str]] = []
        self._values: list[object] = []
        self._digests: list[bytes] = []
        self._changing: list[int] = []
        """Those that can change without that another object is there."""
        self._seconds = 0.0
        self._setting: object = None
        self._message = b""
        self._lock = threading.RLock()

    def add(self, places: Iterable[tuple[str, str]]) -> None:
        """These are read too, by module and name."""
        with self._lock:
            known = set(self._places)
            new = [place for place in places if place not in known]
            self._places += new
            self._values += [_MISSING] * len(new)
            self._digests += [b""] * len(new)
            self._message = b""

    def message(self, *, first: bool, anew: bool, setting: Any) -> bytes:
        """What a worker is told.

        Args:
            first: Nothing else is under way: what can change without that another object is there is looked at again.
            anew: And otherwise, if that does not take long.
            setting: What `setting_in` said.
        """
        with self._lock:
            values = [_at(*place) for place in self._places]
            stale = [at for at, value in enumerate(values) if value is not self._values[at] or not self._digests[at]]
            if first or (anew and self._seconds < _SOON):
                stale += self._changing
            if stale or not self._message or setting != self._setting:
                self._look_at(values, stale)
                self._setting = setting
                told = [(*place, digest) for place, digest in zip(self._places, self._digests, strict=True)]
                self._message = marshal.dumps((setting, marshal.dumps(told)))
            return self._message

    def _look_at(self, values: list[object], stale: list[int]) -> None:
        began = time.perf_counter()
        for at in stale:
            self._digests[at] = digest(values[at])
        if any(at in self._changing for at in stale):
            self._seconds = time.perf_counter() - began
        self._values = values
        self._changing = [at for at, value in enumerate(values) if not _is_constant(value)]


def difference(message: bytes, module: str = "") -> str:
    """What this process has that is not what the caller's has; "" for nothing.

    `module` is that of the function, where nothing else was unpickled that could run any code; "" else.
    """
    setting, told = marshal.loads(message)
    if setting is None:
        return "is called in decimal contexts that differ"
    if setting != setting_in(None):
        _set(setting)
    if told in _agreed:
        return ""
    # What this worker is until it has called anything, and unpickled anything that runs code, every other of its zygote is too.
    findings = _findings.of_zygote() if module and not _has_called else None
    if findings is not None and module not in findings.modules:
        findings = None
    if findings is None or told not in findings:
        expected: list[tuple[str, str, bytes]] = marshal.loads(told)
        for where, path, value in expected:
            if digest(_at(where, path, load=True)) != value:
                return f"reads `{path}` of `{where}`, which is not what it was when that was imported"
        if findings is not None and findings.modules.issuperset(place[0] for place in expected):
            findings.add(told)
    if len(_agreed) >= _MOST_AGREED:
        _agreed.clear()
    _agreed.add(told)
    return ""


def first_difference(messages: tuple[bytes, ...], module: str = "") -> str:
    """The first `difference` that there is for calls that are made now; "" for none."""
    global _has_called
    if len(messages) != 1:
        module = ""  # to look for one may import what the next one reads
    other = next((other for each in messages if (other := difference(each, module))), "")
    _has_called = True
    return other


def setting_in(context: contextvars.Context | None) -> Any:
    """What calls that are made in a context, or in the one that is there, depend on without naming it."""
    if (decimal := sys.modules.get("decimal")) is None:
        return (sys.getrecursionlimit(),)  # nobody has set a decimal context
    now = decimal.getcontext() if context is None else context.copy().run(decimal.getcontext)
    told = repr(now)  # it has all of it, and is had sooner
    if (found := _contexts.get(told)) is None:
        traps = tuple(sorted(signal.__name__ for signal, is_set in now.traps.items() if is_set))
        found = now.prec, now.rounding, now.Emin, now.Emax, now.capitals, now.clamp, traps
        if len(_contexts) >= _MOST_CONTEXTS:
            _contexts.clear()
        _contexts[told] = found
    return sys.getrecursionlimit(), *found


def _set(setting: Any) -> None:
    """Make it so in this process."""
    limit, *context = setting
    sys.setrecursionlimit(limit)
    if not context:
        return
    import decimal

    precision, rounding, least, most, capitals, clamp, traps = context
    plain = decimal.Context()  # kept while its signals are looked at, which are part of it
    signals: Any = [signal for signal in plain.traps if signal.__name__ in traps]
    decimal.setcontext(decimal.Context(precision, rounding, least, most, capitals, clamp, [], signals))


def _at(module: str, path: str, *, load: bool = False) -> object:
    """What is there, without that any code of the program runs."""
    found: Any = sys.modules.get(module)
    if found is None and load:
        try:
            found = importlib.import_module(module)
        except Exception:  # whatever the module does
            return _MISSING
    for name in path.split("."):
        spaces = [vars(each) for each in found.__mro__] if isinstance(found, type) else [getattr(found, "__dict__", {})]
        found = next((space[name] for space in spaces if name in space), _MISSING)
    return found


def _is_constant(value: object) -> bool:
    """Whether the same object has the same digest for ever."""
    if isinstance(value, types.FunctionType):
        return not (value.__closure__ or value.__defaults__ or value.__kwdefaults__)
    return type(value) in _ATOMS or isinstance(value, types.ModuleType | type | types.BuiltinFunctionType)


def digest(value: object) -> bytes:
    """The same bytes for what is the same, in whatever process."""
    try:
        told = _told(value, 0, set())
    except Exception:  # of the program's own: nobody agrees to it, and the function stays
        told = os.urandom(12)
    return hashlib.blake2b(told, digest_size=12).digest()


def _told(value: Any, deep: int, around: set[int]) -> bytes:
    kind = kind_of(value)
    if kind in _ATOMS:
        return marshal.dumps(value, 0)  # later versions tell how many others refer to it
    if deep > _DEEP or id(value) in around:
        return _name(kind)
    around = {*around, id(value)}
    if isinstance(value, type):
        return b"class " + _name(value)
    if isinstance(value, types.ModuleType):
        return b"module " + value.__name__.encode()
    if isinstance(value, types.FunctionType):
        return _function(value, deep, around)
    if isinstance(value, property):
        return b"property" + _told((value.fget, value.fset), deep + 1, around)
    if isinstance(value, staticmethod | classmethod):
        return _name(kind) + _told(cast("Any", value).__func__, deep + 1, around)
    if isinstance(value, functools.partial):
        bound = cast("Any", value)
        return b"partial" + _told((bound.func, bound.args, bound.keywords), deep + 1, around)
    if isinstance(value, types.MethodType):
        return b"method" + _told((value.__func__, value.__self__), deep + 1, around)
    return _name(kind) + _object(value, deep, around)


def _name(kind: Any) -> bytes:
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    return f"{module}.{kind.__qualname__}:".encode()


def _function(function: types.FunctionType, deep: int, around: set[int]) -> bytes:
    cells: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # it is empty
            cells.append(None)
    held = cells, function.__defaults__, function.__kwdefaults__
    return b"function " + _name(function) + _code(function.__code__) + _told(held, deep + 1, around)


@functools.lru_cache(1024)
def _code(code: types.CodeType) -> bytes:
    # The instructions themselves: nothing that the interpreter has adapted to what it has seen.
    consts = b"".join(
        _code(each) if isinstance(each, types.CodeType) else _told(each, 0, set()) for each in code.co_consts
    )
    return code.co_code + repr((code.co_names, code.co_varnames, code.co_freevars)).encode() + consts


def _object(value: Any, deep: int, around: set[int]) -> bytes:
    if isinstance(value, enum.Enum):
        return value.name.encode()
    if isinstance(value, re.Pattern):
        return _told((cast("Any", value).pattern, value.flags), deep + 1, around)
    if isinstance(value, _TOLD) or any(
        isinstance(value, getattr(sys.modules[module], name)) for module, name in _TOLD_LATER if module in sys.modules
    ):
        return repr(value).encode()
    own = b""
    if is_a(value, list, tuple, set, frozenset, dict, collections.deque):
        own = _container(value, deep, around)
    elif is_a(value, int, float, complex, str, bytes):
        own = repr(value).encode()
    elif type(value).__module__ == "numpy" and isinstance(getattr(value, "nbytes", None), int):
        own = repr((value.dtype, value.shape)).encode()
        if value.dtype.hasobject:
            own += _told(value.tolist(), deep + 1, around)
        else:  # what is too large is agreed to by nobody
            own += value.tobytes() if value.nbytes <= _MOST_BYTES else os.urandom(12)
    elif type(value).__module__ == "array":
        own = value.typecode.encode() + value.tobytes()
    more: Any = getattr(value, "__dict__", None)
    if isinstance(more, dict) and more:
        own += _container(cast("Any", more), deep, around)
    for base in type(value).__mro__:
        for name, slot in vars(base).items():
            if type(slot) is types.MemberDescriptorType and base.__flags__ & 1 << 9:  # of `__slots__`
                with contextlib.suppress(AttributeError):
                    own += name.encode() + _told(slot.__get__(value), deep + 1, around)
    return own


def _container(value: Any, deep: int, around: set[int]) -> bytes:
    length = len(value)
    # Those that hold nothing but atoms, which are most of what is large, are told at once.
    if is_a(value, dict):
        parts: list[Any] = list(itertools.islice(value.items(), _MOST_ITEMS))
        plain = {type(each) for pair in parts for each in pair} <= _ATOMS
    else:
        parts = list(itertools.islice(value, _MOST_ITEMS))
        plain = set(map(type, parts)) <= _ATOMS
    if isinstance(value, set | frozenset):  # the order is another in each process
        told = sorted(_told(each, deep + 1, around) for each in parts) if length <= _MOST_ITEMS else []
        return str(length).encode() + b"".join(told)
    if plain:
        return str(length).encode() + marshal.dumps(parts, 0)
    return str(length).encode() + b"".join(_told(each, deep + 1, around) + b"," for each in parts)
