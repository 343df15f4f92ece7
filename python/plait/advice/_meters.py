"""Meters: what calls of the program's functions spend their time on, taken while it runs.

A function has its code replaced by a few instructions that hand the call to a meter, so that it is the same object to
whoever has it, and goes back to its own code when enough is known. Calls of other packages' functions are handed to
meters where they are made.
"""

from __future__ import annotations

import builtins
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

from plait.advice._instructions import GENERATES, clone, instructions, is_ours, pass_on
from plait.advice._meter import LOOKED_AT, REPEATED, Meter, Sample, Steps, here, measured, shape
from plait.advice._reducers import pickling

if TYPE_CHECKING:
    from collections.abc import Callable

#: Calls within calls of a function that is called again and again, after which the inner ones are left alone.
_INNER = 500

#: Times that a place in a loop calls what no meter is for, after which it is left.
_PLAIN = 16


class Meters:
    """All meters of a program."""

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self._of_code: dict[types.CodeType, Meter] = {}
        self._of_foreign: dict[Any, Meter] = {}
        self._changed: list[tuple[weakref.ref[types.FunctionType], types.CodeType]] = []
        self._given: list[Meter] = []
        self._plain_at: dict[str, int] = {}
        self._of_function: weakref.WeakKeyDictionary[types.FunctionType, Called] = weakref.WeakKeyDictionary()
        #: Whether nothing is to be seen any more.
        self.over = False

    @property
    def all(self) -> list[Meter]:
        """Every meter."""
        return [*self._given, *self._of_code.values(), *self._of_foreign.values()]

    def add(self, meter: Meter) -> None:
        """Take a meter in that others have filled."""
        self._given.append(meter)

    def function(self, function: Any) -> Any:
        """Meter a function of the program, which has just been made; return it."""
        if self.over or type(function) is not types.FunctionType or function.__code__.co_flags & GENERATES:
            return function
        plain = function.__code__
        meter = self._of_code.get(plain)
        if meter is None:
            meter = self._of_code[plain] = Meter(f"{function.__module__}.{function.__qualname__}", program=True)
        if any(len(each.samples) >= REPEATED for each in here.stack):
            meter.left = True  # what is made within calls of a better task
        if meter.left:
            return function
        meter.made += 1
        if meter.made > LOOKED_AT or _looks_at_callers(plain):
            return function
        body = clone(function)
        meter.function = function
        kind = _Coroutine if plain.co_flags & 0x80 else Called
        self._of_function[function] = made = kind(self, meter, function, body)
        function.__code__ = made.instructions
        function.__wrapped__ = body  # type: ignore[attr-defined]
        self._changed.append((weakref.ref(function), plain))
        return function

    @staticmethod
    def is_within(meter: Meter, stack: list[Meter]) -> bool:
        """Whether a function has shown to be called within calls of one that is the better task."""
        return meter.inner >= _INNER and any(len(each.samples) >= REPEATED and each is not meter for each in stack)

    def called(self, function: Any, place: str = "") -> Any:
        """Return what to call for a function that the program calls in a loop, at a place that may be left from now on."""
        if self.over or not _is_foreign(function):
            self._plain_at[place] = seen = self._plain_at.get(place, 0) + 1
            if place and seen >= _PLAIN:
                setattr(builtins, place, False)
            return function
        try:
            key = getattr(function, "__func__", function)
            meter = self._of_foreign.get(key)
        except TypeError:
            return function
        if meter is None:
            module = getattr(key, "__module__", None) or "builtins"
            module = "os" if module == "posix" else module  # as programs have it
            meter = self._of_foreign[key] = Meter(f"{module}.{key.__qualname__}", program=False)
        if meter.left:
            if place:
                setattr(builtins, place, False)
            return function
        if len(meter.samples) >= LOOKED_AT:
            meter.more[0] += 1
            return function
        meter.function = function
        return Foreign(meter, function)

    def begun(self, function: Any) -> Any:
        """Return what to call for a function that the program has other threads begin."""
        if type(function) is types.FunctionType and (made := self._of_function.get(function)) is not None:
            return function if type(made) is _Coroutine or self.over else Begun(made, function)
        return self.called(function)

    def meter_of(self, function: Any) -> Meter | None:
        """The meter of a function that the program hands on, if there is to be one."""
        if self.over:
            return None
        if type(function) is types.FunctionType and (meter := self._of_code.get(own_code(function))) is not None:
            return meter
        if self.called(function) is function:
            return None
        return self._of_foreign.get(getattr(function, "__func__", function))

    def gather(self, seen: dict[str, tuple[int, list[list[int]]]]) -> None:
        """Take in what was seen in other processes."""
        named = {meter.name: meter for meter in self.all}
        for name in seen.keys() & named.keys():
            calls, rows = seen[name]
            named[name].elsewhere = True
            named[name].more[0] += calls - len(rows)
            for began, wall, cpu, held, wanted, ready in rows:
                sample = Sample(None, began, wall, cpu)
                sample.held, sample.wanted, sample.ready = held, wanted, ready
                named[name].samples.append(sample)

    def end(self) -> None:
        """Give functions their own code back."""
        self.over = True
        for reference, plain in self._changed:
            function = reference()
            if function is not None:
                function.__code__ = plain
                if getattr(function.__dict__.get("__wrapped__"), "__code__", None) is plain:
                    del function.__dict__["__wrapped__"]
        self._changed.clear()


class Called:
    """What the instructions of a function call instead of its body."""

    _KIND = "measure"

    def __init__(self, meters: Meters, meter: Meter, function: types.FunctionType, body: types.FunctionType) -> None:
        self._meters = meters
        self._meter = meter
        # The function has these instructions: with it, it would be kept for ever.
        self._function = weakref.ref(function)
        self.body = body
        self._lock = threading.RLock()
        self._under_way = 0
        self.instructions = instructions(self._KIND, body.__code__, self)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        body, meter, function = self.body, self._meter, self._function()
        if pickling.now or self._meters.over or function is None:
            return body(*args, **kwargs)
        stack, plain = here.stack, body.__code__
        if meter in stack:
            # Its own calls of itself are none of ours, and would be deeper than they are.
            if not meter.recursive:
                meter.recursive = True
                meter.slowed = len(meter.samples) + 1
            function.__code__ = plain
            return body(*args, **kwargs)
        if stack and Meters.is_within(meter, stack):
            meter.left = True
            function.__code__ = plain
        elif len(meter.samples) >= LOOKED_AT and not meter.recursive:
            function.__code__ = instructions("count", plain, body, meter.more)
            for outer in stack:
                outer.inside.append((function, plain, meter))
        else:
            return self._outermost(function, args, kwargs)
        return measured(meter, body, args, kwargs)

    def begin(self, function: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call that another thread begins, also while the function has its own instructions since it calls itself."""
        meter = self._meter
        aside = function.__code__ is self.body.__code__ and meter.recursive and not (meter.left or self._meters.over)
        if not aside or meter in here.stack or pickling.now:
            return function(*args, **kwargs)
        return self._outermost(function, args, kwargs)

    def _outermost(self, function: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One that may turn out to call itself: the function has its own instructions until none of these is under way."""
        meter, body = self._meter, self.body
        with self._lock:
            self._under_way += 1
            if meter.recursive:
                function.__code__ = body.__code__
        try:
            if len(meter.samples) >= LOOKED_AT:
                meter.more[0] += 1
                return body(*args, **kwargs)
            return measured(meter, body, args, kwargs)
        finally:
            with self._lock:
                self._under_way -= 1
                if meter.recursive and not (meter.left or self._under_way or self._meters.over):
                    function.__code__ = self.instructions

    def __reduce__(self) -> tuple[Any, ...]:
        from plait.advice import _handed

        names = {name: getattr(builtins, name) for name in dir(builtins) if name.startswith("__plait_")}
        as_they_are = {name: False if isinstance(value, bool) else _itself for name, value in names.items()}
        return _handed.Plain, (), (self.body, as_they_are)


class _Coroutine(Called):
    _KIND = "await"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        meter, coroutine = self._meter, self.body(*args, **kwargs)
        if meter.arguments is None:
            meter.arguments, meter.named = shape(self.body, args, kwargs)
        if meter in here.stack:
            return coroutine  # its own await of itself
        if len(meter.samples) < LOOKED_AT and not self._meters.over:
            return Steps(meter, coroutine)
        meter.more[0] += 1
        return coroutine


class _Stand:
    """What stands for a function where it is handed on; to other processes it is that function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._function,)

    def __eq__(self, other: object) -> bool:
        return bool(self._function == (other._function if isinstance(other, _Stand) else other))

    def __hash__(self) -> int:
        return hash(self._function)

    def __repr__(self) -> str:
        return repr(self._function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


class Begun(_Stand):
    """A function of the program that other threads begin."""

    def __init__(self, called: Called, function: types.FunctionType) -> None:
        super().__init__(function)
        self._called = called

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        function: Any = self._function
        try:
            return self._called.begin(function, args, kwargs)
        except BaseException:
            pass_on()
            raise


class Foreign(_Stand):
    """A function of another package that is metered."""

    def __init__(self, meter: Meter, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._meter = meter

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        meter = self._meter
        if pickling.now:
            return self._function(*args, **kwargs)
        if here.stack and Meters.is_within(meter, here.stack):
            meter.left = True
        try:
            return measured(meter, self._function, args, kwargs)
        except BaseException:
            pass_on()
            raise


def _looks_at_callers(code: types.CodeType) -> bool:
    """Whether a function asks who has called it, and would find a meter."""
    names = code.co_names
    return (
        not _FRAMES.isdisjoint(names)
        or ("inspect" in names and "stack" in names)
        or any(isinstance(each, tuple) and "stacklevel" in each for each in code.co_consts)
    )


#: Names of functions that ask for their callers.
_FRAMES = {"_getframe", "_getframemodulename", "currentframe", "getouterframes", "extract_stack"}


def own_code(function: types.FunctionType) -> types.CodeType:
    """A function's own instructions, also while others stand for them."""
    code = function.__code__
    for each in code.co_consts if is_ours(code) else ():
        body = each.body if isinstance(each, Called) else each
        if isinstance(body, types.FunctionType) and body is not pass_on:
            return body.__code__
    return code


def _itself(function: Any, *_: str) -> Any:
    return function


#: Modules whose functions are quick, look at who calls them, or are what programs wait in for their own calls.
_LEFT = {
    "builtins", "sys", "inspect", "warnings", "logging", "typing", "traceback", "threading", "asyncio", "concurrent",
    "contextlib", "dataclasses", "collections", "multiprocessing", "functools", "itertools", "operator", "plait",
    "random", "math", "_thread", "gc", "types", "importlib", "signal", "atexit", "argparse", "queue", "_queue",
}  # fmt: skip


def is_left(module: str) -> bool:
    """Whether no function of a module is looked at."""
    return module.partition(".")[0] in _LEFT


def _is_foreign(function: Any) -> bool:
    if isinstance(function, types.BuiltinFunctionType):
        owner = function.__self__
        if owner is not None and not isinstance(owner, types.ModuleType):
            return False
    elif isinstance(function, types.MethodType):
        if isinstance(function.__self__, type) or not isinstance(function.__func__, types.FunctionType):
            return False
        if getattr(function.__func__, "__wrapped__", None) is not None:
            return False
    elif not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        return False
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None and code.co_flags & (GENERATES | 0x80):
        return False
    module: Any = getattr(function, "__module__", None) or ""
    return isinstance(module, str) and bool(module) and module != "__main__" and not is_left(module)
