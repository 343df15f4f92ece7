"""What can be changed in place, and which functions change what they are given, or the process: as far as anybody knows."""

from __future__ import annotations

import builtins
import datetime as dt
import decimal
import enum
import functools
import inspect
import pathlib
import random
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

_PLAIN = {int, float, complex, str, bytes, bool, type(None)}

#: Methods of containers, files and the like that change them.
MUTATING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft", "remove",
    "reverse", "setdefault", "sort", "update", "difference_update", "intersection_update", "symmetric_difference_update",
    "subtract", "move_to_end", "rotate", "fill", "put", "resize", "setflags", "itemset", "byteswap", "fromlist", "frombytes",
    "fromfile", "fromunicode", "write", "writelines", "truncate", "seek", "read", "readline", "readlines", "readinto", "send",
    "throw", "execute", "executemany", "executescript", "commit", "seed", "setstate", "shuffle",
    "__setitem__", "__delitem__", "__setattr__", "__delattr__", "__iadd__", "__ior__", "__iand__", "__isub__", "__ixor__",
    "__imul__", "__next__",
}  # fmt: skip

#: Methods that change an array of numpy, and of text do not.
MUTATING_ARRAYS = {"partition"}

#: Functions of libraries that change the first of what they are given, by module; those with a "*" change any of it.
_CHANGING_FIRST = {
    ("_bisect", "insort"), ("_bisect", "insort_left"), ("_bisect", "insort_right"),
    ("bisect", "insort"), ("bisect", "insort_left"), ("bisect", "insort_right"), ("builtins", "next"), ("builtins", "anext"),
    ("builtins", "setattr"), ("builtins", "delattr"), ("_operator", "setitem"), ("_operator", "delitem"),
    ("random", "shuffle"), ("numpy", "copyto"), ("numpy", "put"), ("numpy", "place"), ("numpy", "putmask"),
    ("numpy", "fill_diagonal"), ("numpy", "put_along_axis"), ("numpy", "nan_to_num"),
}  # fmt: skip
_CHANGING_ANY = {
    ("_struct", "pack_into"), ("shutil", "copyfileobj"), ("json", "dump"), ("_pickle", "dump"), ("pickle", "dump"),
    ("_csv", "writer"), ("csv", "writer"), ("csv", "DictWriter"),
}  # fmt: skip

#: Methods of arrays that are told by place where to write their result, and which place that is.
_OUT_OF_METHODS = {
    "all": 1, "any": 1, "argmax": 1, "argmin": 1, "choose": 1, "clip": 2, "compress": 2, "cumprod": 2, "cumsum": 2, "dot": 1,
    "max": 1, "mean": 2, "min": 1, "prod": 2, "round": 1, "std": 2, "sum": 2, "take": 2, "trace": 4, "var": 2,
}  # fmt: skip

#: Of `heapq`, those that change nothing.
_HEAPQ_LOOKING = {"merge", "nlargest", "nsmallest"}

#: Functions whose result may be what they are given, or a view of it; and those whose result holds the items of it.
_ITSELF = {
    ("builtins", "next"), ("builtins", "min"), ("builtins", "max"), ("builtins", "getattr"), ("builtins", "memoryview"),
    ("builtins", "vars"), ("_functools", "reduce"), ("functools", "reduce"), ("contextlib", "nullcontext"), ("typing", "cast"),
    ("contextlib", "closing"),
    *(("numpy", name) for name in ("array", "asarray", "asanyarray", "ascontiguousarray", "ravel", "reshape", "squeeze",
      "transpose", "atleast_1d", "atleast_2d", "swapaxes", "moveaxis", "diagonal", "broadcast_to", "expand_dims", "split")),
}  # fmt: skip
_PARTS = {
    *(("builtins", name) for name in ("enumerate", "zip", "iter", "reversed", "list", "tuple", "sorted", "filter", "map", "set",
      "dict", "frozenset")),
    ("copy", "copy"), ("collections", "deque"), ("collections", "defaultdict"), ("collections", "OrderedDict"),
    ("collections", "Counter"), ("collections", "ChainMap"), ("types", "SimpleNamespace"), ("builtins", "mappingproxy"),
}  # fmt: skip

#: Builtins that may change anything.
ANYTHING = {"delattr", "eval", "exec", "globals", "setattr", "vars"}

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

#: Functions of numpy that do. What they return may all the same be what they were given, or something in it.
_LOOKING_NUMPY = {
    "all", "allclose", "any", "argmax", "argmin", "array_equal", "bincount", "corrcoef", "count_nonzero", "cov", "det", "dot",
    "inner", "interp", "isclose", "isin", "matmul", "mean", "norm", "prod", "searchsorted", "std", "sum", "var", "vdot",
}  # fmt: skip

#: Methods of what nobody can change, and of those that programs have most, that change nothing.
SAFE_METHODS = (
    LOOKING
    | {
        name
        for kind in (
            str, bytes, int, float, complex, tuple, frozenset, range, dt.datetime, dt.timedelta, decimal.Decimal, pathlib.Path,
            re.Pattern, re.Match,
        )
        for name in dir(kind)
        if not name.startswith("_")
    }
) - MUTATING  # fmt: skip

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
    if module == "builtins" and name in ANYTHING:
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
    package = (module or "").partition(".")[0]
    if package == "numpy":  # where they are told what to write their result to, that is seen elsewhere
        return name in _LOOKING_NUMPY or type(called).__name__ == "ufunc"
    return package in _LOOKING_MODULES or (package in {"bisect", "_bisect"} and str(name).startswith("bisect"))


@functools.cache
def _library_paths() -> tuple[str, ...]:
    import sysconfig

    return tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def is_the_programs(called: object) -> bool:
    """Whether a callable is Python code that is neither the standard library's nor an installed package's."""
    if not isinstance(called, types.FunctionType | types.MethodType | functools.partial | type):
        return False
    if isinstance(called, functools.partial):
        called = cast("Any", called).func
    return is_program_module(getattr(called, "__module__", None) or "")


def is_program_module(name: str) -> bool:
    """Whether a module of that name is neither the interpreter's, nor the standard library's, nor of an installed package."""
    if name in sys.builtin_module_names or name.startswith("_frozen_importlib"):
        return False
    return not is_of_library(getattr(sys.modules.get(name), "__file__", None) or "")


def is_of_library(file: str) -> bool:
    """Whether a file is the standard library's, or an installed package's."""
    return file.startswith(_library_paths())


def wraps_the_programs(called: object) -> bool:
    """Whether something that is no function keeps one of the program's, as `functools.lru_cache` makes it."""
    return is_the_programs(getattr(called, "__wrapped__", None))


def is_constant_class(kind: type) -> bool:
    """Whether what is of this class is nothing that anybody can change."""
    return kind in _PLAIN or (issubclass(kind, _CONSTANT) and not is_program_module(kind.__module__))


def _full_name(value: Any) -> tuple[str, str]:
    name, module = getattr(value, "__name__", None), getattr(value, "__module__", None)
    return module if isinstance(module, str) else "", name if isinstance(name, str) else ""


def changes_its_arguments(called: object) -> str:
    """Which of what it is given a function of a library changes: "first", "any" or ""."""
    module, name = _full_name(called)
    if isinstance(called, types.MethodDescriptorType | types.WrapperDescriptorType):
        return "first" if name in MUTATING else ""
    if (
        module == "_operator"
        and name.startswith("i")
        and name not in {"is_", "is_not", "index", "indexOf", "invert", "inv", "itemgetter"}
    ):
        return "first"
    if module in {"_heapq", "heapq"}:
        return "" if name in _HEAPQ_LOOKING else "first"
    if (module, name) in _CHANGING_ANY:
        return "any"
    if name == "at" and type(getattr(called, "__self__", None)).__name__ == "ufunc":
        return "first"
    if name == "shuffle" and isinstance(getattr(called, "__self__", None), random.Random):
        return "first"
    return "first" if (module, name) in _CHANGING_FIRST else ""


@functools.lru_cache(1024)
def _place_of_out(called: Any) -> int | None:
    if isinstance(called, types.MethodDescriptorType):
        return _OUT_OF_METHODS.get(called.__name__) if called.__objclass__.__module__ == "numpy" else None
    try:
        return list(inspect.signature(called).parameters).index("out")
    except (TypeError, ValueError):  # it has no signature, or no such parameter
        return None


def is_of_numpy(called: Any) -> bool:
    """Whether a function is numpy's."""
    return _full_name(called)[0].partition(".")[0] == "numpy" or type(called).__name__ == "ufunc"


def place_of_out(called: Any) -> int | None:
    """Which of its arguments, and all behind it, a function of numpy writes its result to; None where it returns it only."""
    if type(called).__name__ == "ufunc":
        return int(called.nin)
    if not is_of_numpy(called) and not isinstance(called, types.MethodDescriptorType):
        return None
    try:
        return _place_of_out(called)
    except TypeError:  # an object that cannot be hashed
        return None


def passes_on(called: object) -> str:
    """Whether a function of a library returns what it is given, "itself", or what holds "parts" of it; or "" for neither."""
    module, name = _full_name(called)
    if (module, name) in _ITSELF:
        return "itself"
    return "parts" if module == "itertools" or (module, name) in _PARTS else ""
