"""What a function keeps to itself or leaves behind: whether its calls can be made in another process, and at once."""

from __future__ import annotations

import logging
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any

from plait._words import brief
from plait.advice._held import class_of, is_held
from plait.auto._writes import find_change, names_within

if TYPE_CHECKING:
    from plait.advice._meter import Meter


def change(meter: Meter) -> str | None:
    """What a function's calls change that outlives them, in words."""
    found = None
    if meter.program:
        try:
            found = find_change(_without_as_good(meter.function, {}))
        except Exception:  # too deep, or what the program's objects raise when they are asked for something
            found = None
    if found is not None:
        return str(found)
    name = getattr(meter.function, "__qualname__", "it")
    return f"{name} {meter.change}" if meter.change else None


def _without_as_good(function: Any, made: dict[Any, Any]) -> Any:
    """A function, and those of its module that it calls, without globals of which another process has one as good."""
    if type(function) is not types.FunctionType:
        return function
    if function not in made:
        code, space = function.__code__, dict[str, Any]()
        seen = types.FunctionType(code, space, function.__name__, function.__defaults__, function.__closure__)
        seen.__kwdefaults__ = function.__kwdefaults__
        seen.__qualname__, seen.__module__ = function.__qualname__, function.__module__
        made[function] = seen
        usable = ((name, value) for name, value in list(function.__globals__.items()) if _tells(value))
        space.update((name, value) for name, value in usable if not _as_good(value))
        for name in names_within(code) & space.keys():
            if class_of(space[name]) is types.FunctionType and space[name].__module__ == function.__module__:
                space[name] = _without_as_good(space[name], made)
    return made[function]


def _tells(value: Any) -> bool:
    """Whether something tells what it is: what stands for another thing may raise, where that is not there."""
    try:
        isinstance(value, type)
    except Exception:  # it is the program's
        return False
    return True


def _as_good(value: Any) -> bool:
    """Whether other processes have something that is as good: other numbers from `random`, a log of their own."""
    kind, name = class_of(value), ""
    if issubclass(kind, types.ModuleType):
        name = getattr(value, "__name__", "")
    elif issubclass(kind, types.MethodType | types.BuiltinMethodType):
        name = class_of(value.__self__).__module__
    return name in {"random", "logging", "warnings", "numpy.random"} or issubclass(kind, logging.Logger)


def held_by_one(meter: Meter) -> str:
    """The name of a connection or file that all calls use, and only one can at a time; "" if there is none."""
    function: Any = meter.function
    if meter.held_argument:
        return meter.held_argument
    if not meter.program or not isinstance(function, types.FunctionType):
        return ""
    names = names_within(getattr(function, "__wrapped__", function).__code__)
    for name in sorted(names & set(function.__globals__)):
        if is_held(function.__globals__[name]):
            return f"`{name}`"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            if is_held(cell.cell_contents):
                return f"`{name}`"
        except ValueError:  # it is empty
            continue
    return next((f"`self.{name}`" for name in sorted(names & meter.held)), "")


def cannot_be_pickled(function: Any) -> str:
    """Why a function cannot be sent to another process; "" if it can."""
    try:
        pickle.dumps(function)
    except Exception as error:  # whatever it is bound to raises
        if _stands_for_it(function):
            return ""  # what a decorator made of it
        name = getattr(function, "__name__", "it")
        if name == "<lambda>":
            return "a lambda cannot be pickled"
        if "<locals>" in getattr(function, "__qualname__", ""):
            return f"{name} is made within a function, and cannot be pickled"
        return f"{name} cannot be pickled ({type(error).__name__}: {brief(str(error), 80)})"
    return ""


def _stands_for_it(function: Any) -> bool:
    """Whether the program has something by the function's name that calls it and can be pickled."""
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    if not callable(found) or found is function:
        return False
    try:
        pickle.dumps(found)
    except Exception:  # whatever it is bound to raises
        return False
    return True
