"""How objects are pickled for a look at them: as always, and once more without any code of the program.

An iterator of the program's own that says itself how it is pickled is not asked: the answer may take from it.
"""

from __future__ import annotations

import copyreg
import functools
import operator
import sys
import sysconfig
import threading
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: What classes have to say how their objects are pickled.
_SAYINGS = (
    "__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs_ex__", "__getnewargs__", "__getattribute__",
)  # fmt: skip

#: Containers that are asked for what is in them, and by what.
_CONTENTS: dict[type, str] = {list: "__iter__", dict: "items", tuple: "", set: "", frozenset: ""}

#: Modules whose iterators tell where they stand, and stay there.
_STEADY = {"builtins", "itertools", "collections", "_collections"}


class Pickling(threading.local):
    """Of a thread: whether it is pickling, when functions of the program are none of its work; and whether any was asked."""

    now = False
    asked = False


pickling = Pickling()


@functools.cache
def _library() -> tuple[str, ...]:
    return tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))


def _is_programs(function: Any) -> bool:
    """Whether an attribute of a class, or what is registered for it, may run code of the program."""
    if isinstance(function, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType):
        return False
    code: Any = getattr(function, "__code__", None)
    return code is None or "site-packages" in code.co_filename or not code.co_filename.startswith(_library())


def _class_of(value: object) -> type[Any]:
    return type(value)


def _says_itself(kind: type[Any]) -> bool:
    """Whether code of the program runs when an object of a class is pickled."""
    registered = copyreg.dispatch_table.get(kind)
    if registered is not None:
        return _is_programs(registered)
    names = [*_SAYINGS, *(name for base, name in _CONTENTS.items() if name and issubclass(kind, base))]
    return any(name in base.__dict__ and _is_programs(base.__dict__[name]) for base in kind.__mro__ for name in names)


def _is_unsafe(kind: type[Any]) -> bool:
    """Whether to pickle an iterator of a class may take from it."""
    if not hasattr(kind, "__next__") or kind.__module__ in _STEADY:
        return False
    return _says_itself(kind) or not (
        kind.__flags__ & _HEAP or getattr(kind, "__reduce_ex__", None) is object.__reduce_ex__
    )


_HEAP = 1 << 9


def _refuse(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} is an iterator, which is not asked: that might take from it")


def _refuse_older(value: Any) -> Any:
    raise TypeError(f"cannot pickle an itertools.{type(value).__name__} object from Python 3.14 on")


def _always(value: Any) -> Any:
    pickling.asked = True
    registered = copyreg.dispatch_table.get(_class_of(value))
    return value.__reduce_ex__(5) if registered is None else registered(value)


def _as_it_is(value: Any) -> Any:
    """What an object consists of, without a word from its class."""
    kind = _class_of(value)
    found: list[Any] = [id(value)]
    try:
        found.append(object.__getattribute__(value, "__dict__"))
    except AttributeError:
        pass
    for base in kind.__mro__:
        for member in list(base.__dict__.values()):
            if type(member) is types.MemberDescriptorType:
                try:
                    found.append(member.__get__(value))
                except AttributeError:  # it is not set
                    found.append(None)
        if base is dict:
            pairs: Any = base.__dict__["items"](value)
            found.append(list(pairs))
        elif base in _CONTENTS:
            found.append(list(base.__iter__(value)))  # type: ignore[attr-defined]
    return same, tuple(found)


def same(*found: Any) -> Any:
    """What stands in a pickle for a class's own function; it is never made anew from that."""
    return found


class Reducers(dict["type[Any]", "Callable[[Any], Any]"]):
    """By class how an object is pickled; what a pickler has as its `dispatch_table`."""

    def __init__(self, reducer: Callable[[Any], Any]) -> None:
        super().__init__()
        #: For objects of classes that would have code of the program run.
        self._reducer = reducer

    def __missing__(self, kind: type[Any]) -> Callable[[Any], Any]:
        """Find out about a class.

        Raises:
            KeyError: It has no objects that are pickled as objects are.
        """
        if issubclass(kind, type):
            raise KeyError(kind)
        found: Callable[[Any], Any]
        if kind.__module__ == "itertools" and sys.version_info >= (3, 12):
            found = _refuse_older  # it would warn
        elif _is_unsafe(kind):
            found = _refuse
        elif _says_itself(kind):
            found = self._reducer
        else:
            registered: Any = copyreg.dispatch_table.get(kind)
            found = registered or _usual
        self[kind] = found
        return found


_usual: Callable[[Any], Any] = operator.methodcaller("__reduce_ex__", 5)

#: As always.
ALWAYS = Reducers(_always)
#: Without code of the program.
QUIET = Reducers(_as_it_is)
