"""What can be changed in place, and which functions change what they are given, or the process: as far as anybody knows."""

from __future__ import annotations

import builtins
import datetime as dt
import decimal
import enum
import functools
import inspect
import pathlib
import re
import sys
import types
from typing import Any, cast

#: Values that nobody can change.
_CONSTANT = (
    int,
    float,
    complex,
    str,
    bytes,
    bool,
    type(None),
    type(...),
    frozenset,
    range,
    enum.Enum,
    types.ModuleType,
    re.Pattern,
    dt.date,
    dt.time,
    dt.timedelta,
    decimal.Decimal,
    pathlib.PurePath,
)

#: Methods of containers that change them.
MUTATING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft", "remove",
    "reverse", "setdefault", "sort", "update",
}  # fmt: skip

#: Builtins that may change anything.
_ANYTHING = {"delattr", "eval", "exec", "globals", "setattr", "vars"}

#: Functions of the standard library that change the process, by module and name.
_PROCESS = {
    ("posix", "chdir"), ("posix", "fchdir"), ("posix", "putenv"), ("posix", "umask"), ("posix", "unsetenv"), ("os", "putenv"),
    ("locale", "setlocale"), ("signal", "signal"), ("sys", "setrecursionlimit"), ("sys", "setswitchinterval"), ("time",
    "tzset"),
    ("gc", "disable"), ("gc", "enable"), ("gc", "freeze"), ("faulthandler", "enable"),
}  # fmt: skip

#: Where the functions of `warnings` are: from 3.14 on elsewhere.
WARNINGS = {"warnings", "_py_warnings"}

#: Modules whose functions speak to what the process has set up.
_SPEAKING = {"logging", *WARNINGS}

#: Builtins that only look at what they are given.
_LOOK = {
    "abs", "all", "any", "ascii", "bool", "bytes", "callable", "chr", "complex", "dict", "divmod", "enumerate",
    "filter", "float",
    "format", "frozenset", "getattr", "hasattr", "hash", "hex", "id", "int", "isinstance", "issubclass", "iter", "len", "list",
    "map", "max", "min", "oct", "ord", "pow", "print", "range", "repr", "reversed", "round", "set", "slice", "sorted", "str",
    "sum", "tuple", "type", "zip",
}  # fmt: skip

#: Methods that only look, of the containers that programs have most.
LOOKING = {
    "__contains__", "__getitem__", "__len__", "copy", "count", "difference", "endswith", "find", "get", "index", "intersection",
    "isdisjoint", "issubset", "issuperset", "items", "keys", "most_common", "startswith", "symmetric_difference",
    "union", "values",
    "tobytes", "tolist", "sum", "mean", "min", "max", "dot",
}  # fmt: skip

#: Modules whose functions only look at what they are given.
_LOOKING_MODULES = {
    "base64", "binascii", "collections", "hashlib", "_hashlib", "html", "itertools", "json", "math", "re",
    "statistics", "string",
    "struct", "_struct", "textwrap", "zlib",
}  # fmt: skip

CONTAINERS = (list, dict, set, bytearray, tuple)

#: Items of a container that are looked at, at most.
_MOST_LOOKED_AT = 10_000


def can_change(value: object) -> bool:
    """Whether something can be changed in place, as far as we can tell."""
    if isinstance(value, (*_CONSTANT, type)) or inspect.isroutine(value) or type(value).__name__ == "ufunc":
        return False
    if isinstance(value, tuple):
        return any(can_change(item) for item in cast("tuple[object, ...]", value))
    return True


def holds_constants(container: Any) -> bool:
    """Whether all that is in a builtin container is constant, as far as so many items tell."""
    if isinstance(container, bytearray):
        return True
    if len(container) > _MOST_LOOKED_AT:
        return False
    items: list[object] = [*container, *container.values()] if isinstance(container, dict) else list(container)
    return not any(can_change(item) for item in items)


def is_plain_callable(value: object) -> bool:
    """Whether it is called as it is, rather than by way of an object that may change."""
    return isinstance(value, types.FunctionType | types.BuiltinFunctionType | type)


def changes_the_process(called: Any) -> str:
    """What a function that is not the program's changes in its process, in words; "" for nothing that is known."""
    name, module = getattr(called, "__name__", ""), getattr(called, "__module__", None) or ""
    if module == "builtins" and name in _ANYTHING:
        return f"calls `{name}`"
    if called is print and sys.stdout is not sys.__stdout__:
        return "prints to a `sys.stdout` that only this process has"
    if (module, name) in _PROCESS:
        return f"calls `{name}`, which changes the process"
    if module.partition(".")[0] in _SPEAKING and callable(called) and not isinstance(called, type):
        return f"calls `{name}` of `{module}`, which this process has set up"
    owner = getattr(called, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType | type) or isinstance(called, types.FunctionType):
        return ""
    if can_change(owner) and name not in LOOKING and not is_the_programs(called):
        return f"calls `{name}` of a {type(owner).__name__} of `{type(owner).__module__}`"
    return ""


def only_looks(called: object) -> bool:
    """Whether a function of the interpreter or of its library changes nothing that it is given."""
    name, module = getattr(called, "__name__", None), getattr(called, "__module__", None)
    if module == "builtins":
        return name in _LOOK and getattr(builtins, name, None) is called
    return (module or "").partition(".")[0] in _LOOKING_MODULES


@functools.cache
def _library_paths() -> tuple[str, ...]:
    import sysconfig

    return tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def is_the_programs(called: object) -> bool:
    """Whether a callable is Python code that is neither the standard library's nor an installed package's."""
    module = sys.modules.get(getattr(called, "__module__", None) or "")
    if (getattr(module, "__file__", None) or "").startswith(_library_paths()):
        return False
    return isinstance(called, types.FunctionType | types.MethodType | functools.partial | type)
