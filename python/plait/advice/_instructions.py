"""Instructions that stand for a function's own, and hand its calls to a meter."""

from __future__ import annotations

import os
import sys
import time
import types
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATES = 0x20 | 0x200  # generators, of both kinds: their calls only make them

_MARK, _COUNT = "plait: the meter", "plait: the count"

_TEMPLATES = {
    "measure": f"""
    def made(*args, **kwargs):
        meter = {_MARK!r}
        return meter(args, kwargs)
""",
    "count": f"""
    def made(*args, **kwargs):
        meter = {_MARK!r}
        count = {_COUNT!r}
        count[0] += 1
        return meter(*args, **kwargs)
""",
    "await": f"""
    async def made(*args, **kwargs):
        meter = {_MARK!r}
        return await meter(args, kwargs)
""",
}

_codes: dict[tuple[str, int], types.CodeType] = {}


def instructions(kind: str, plain: types.CodeType, meter: Any, count: Any = None) -> types.CodeType:
    """Instructions that call a meter, in a code object that can stand for `plain`."""
    free = len(plain.co_freevars)
    if (kind, free) not in _codes:
        names = [f"outer{number}" for number in range(free)]
        # What a function takes from outside has to be named in it, also where it cannot be reached.
        named = f"        {', '.join(names)}\n" if names else ""
        source = f"def make({', '.join(names)}):{_TEMPLATES[kind]}{named}    return made\n"
        space: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(source, "<plait>", "exec"), space)
        _codes[kind, free] = space["make"](*[None] * free).__code__
    template = _codes[kind, free]
    put = {_MARK: meter, _COUNT: count}
    constants = tuple(put.get(each, each) if isinstance(each, str) else each for each in template.co_consts)
    return template.replace(
        co_consts=constants,
        co_name=plain.co_name,
        co_qualname=plain.co_qualname,
        co_filename=plain.co_filename,
        co_firstlineno=plain.co_firstlineno,
    )


def longer(changed: Callable[[types.FunctionType, types.CodeType], types.CodeType]) -> float:
    """Nanoseconds that a call of a small function takes longer with other instructions."""

    def plain(number: int) -> int:
        return number

    def other(number: int) -> int:
        return number

    assert isinstance(plain, types.FunctionType)
    other.__code__ = changed(plain, other.__code__)
    return max(0.0, min(_took(other) for _ in range(5)) - min(_took(plain) for _ in range(5)))


def plain_cost() -> float:
    """Nanoseconds that a call of a small function takes."""

    def plain(number: int) -> int:
        return number

    def loop() -> float:
        began = time.thread_time_ns()
        for _ in _ROUNDS:
            pass
        return (time.thread_time_ns() - began) / len(_ROUNDS)

    return max(0.0, min(_took(plain) for _ in range(5)) - min(loop() for _ in range(5)))


def _took(function: Callable[[int], int]) -> float:
    began = time.thread_time_ns()  # others may have the GIL
    for number in _ROUNDS:
        function(number)
    return (time.thread_time_ns() - began) / len(_ROUNDS)


_ROUNDS = range(400)


def clone(function: types.FunctionType) -> types.FunctionType:
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__ = function.__qualname__
    made.__module__ = function.__module__
    made.__doc__ = function.__doc__
    if sys.version_info >= (3, 14):
        made.__annotate__ = function.__annotate__
    else:
        made.__annotations__ = function.__annotations__
    return made


def without_meters(trace: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback as it would be without meters."""
    kept: list[types.TracebackType] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if not _is_ours(code):
            kept.append(trace)
        trace = trace.tb_next
    made: types.TracebackType | None = None
    for each in reversed(kept):
        made = types.TracebackType(made, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return made


def _is_ours(code: types.CodeType) -> bool:
    return code.co_filename.startswith(_HERE) or code.co_varnames[:3] == ("args", "kwargs", "meter")


_HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
