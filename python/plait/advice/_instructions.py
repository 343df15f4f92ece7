"""Instructions that stand for a function's own, and hand its calls to a meter."""

from __future__ import annotations

import inspect
import os
import sys
import time
import types
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATES = 0x20 | 0x200  # generators, of both kinds: their calls only make them

_MARK, _COUNT, _PASS = "plait: the meter", "plait: the count", "plait: what passes"

_TEMPLATES = {
    "measure": ("", "return"),
    "count": (f"{_COUNT!r}[0] += 1", "return"),
    "await": ("", "return await"),
}

#: What these instructions have among their constants, to be told from others.
_OURS = "plait: instructions of its own"

_codes: dict[tuple[Any, ...], types.CodeType] = {}


def instructions(kind: str, plain: types.CodeType, meter: Any, count: Any = None) -> types.CodeType:
    """Instructions that call a meter, in a code object that can stand for `plain`, and takes what that takes."""
    given = plain.co_argcount + plain.co_kwonlyargcount
    flags = plain.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    names = plain.co_varnames[: given + flags.bit_count()]
    key = kind, len(plain.co_freevars), plain.co_posonlyargcount, plain.co_argcount, flags, names
    template = _codes.get(key)
    if template is None:
        template = _codes[key] = _template(kind, plain, names, flags)
    put = {_MARK: meter, _COUNT: count, _PASS: pass_on}
    constants = tuple(put.get(each, each) if isinstance(each, str) else each for each in template.co_consts)
    return template.replace(
        co_consts=(*constants, _OURS),
        co_name=plain.co_name,
        co_qualname=plain.co_qualname,
        co_filename=plain.co_filename,
        co_firstlineno=plain.co_firstlineno,
        co_varnames=names,
        co_freevars=plain.co_freevars,
    )


def _template(kind: str, plain: types.CodeType, names: tuple[str, ...], flags: int) -> types.CodeType:
    # Names of its own: those of the function may be no words here.
    own = [f"given{number}" for number in range(len(names))]
    only, many, named = plain.co_posonlyargcount, plain.co_argcount, plain.co_kwonlyargcount
    rest = own[many + named :]
    takes = [*own[:only], *(["/"] if only else []), *own[only:many]]
    hands = own[:many]
    if flags & inspect.CO_VARARGS:
        hands.append(f"*{rest[0]}")
        takes.append(f"*{rest[0]}")
    elif named:
        takes.append("*")
    takes += own[many : many + named]
    hands += [f"**{{{name!r}: {mine}}}" for name, mine in zip(names[many:], own[many : many + named], strict=False)]
    if flags & inspect.CO_VARKEYWORDS:
        hands.append(f"**{rest[-1]}")
        takes.append(f"**{rest[-1]}")
    free = [f"outer{number}" for number in range(len(plain.co_freevars))]
    first, returns = _TEMPLATES[kind]
    # What a function takes from outside has to be named in it, also where it cannot be reached.
    source = f"""
def make({", ".join(free)}):
    {"async " if kind == "await" else ""}def made({", ".join(takes)}):
        {first}
        try:
            {returns} {_MARK!r}({", ".join(hands)})
        except BaseException:
            {_PASS!r}()
            raise
        {", ".join(free)}
    return made
"""
    space: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(source, "<plait>", "exec"), space)
    code: types.CodeType = space["make"](*[None] * len(free)).__code__
    return code


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


def pass_on() -> None:
    """Take the frames of meters out of the exception that passes through them; who calls this raises it again."""
    error = sys.exc_info()[1]
    if error is None:
        return
    trace = error.__traceback__
    while trace is not None and _is_of_meters(trace.tb_frame.f_code):
        trace = trace.tb_next
    BaseException.with_traceback(error, trace)  # whatever its class makes of that


def without_meters(trace: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback as it would be without meters."""
    kept: list[types.TracebackType] = []
    while trace is not None:
        if not _is_of_meters(trace.tb_frame.f_code):
            kept.append(trace)
        trace = trace.tb_next
    made: types.TracebackType | None = None
    for each in reversed(kept):
        made = types.TracebackType(made, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return made


def _is_of_meters(code: types.CodeType) -> bool:
    return is_ours(code) or code.co_filename.startswith(_HERE)


def is_ours(code: types.CodeType) -> bool:
    """Whether these instructions stand for others."""
    return code.co_consts[-1:] == (_OURS,)


_HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
