"""What calls raise, and how it comes from a worker process to the program: as it was, however its class is pickled."""

from __future__ import annotations

import copyreg
import io
import pickle
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

#: Errors that travel with one, by which it was caused or which it has inside.
_MOST = 100

#: Classes that are made at run time have this flag; those of the interpreter have not.
_HEAP = 1 << 9

#: How errors are pickled: as their classes say; by their parts, of which none is missing; by those parts that can be.
_AS_IT_SAYS, _BY_PARTS, _BY_SOME = range(3)


class Raised:
    """What a call raised, and why calls of its function should rather stay in the program, if they should."""

    __slots__ = ("error", "stays")

    def __init__(self, error: BaseException, stays: str = "") -> None:
        self.error = error
        self.stays = stays


class Sent:
    """What a call raised, as a pickle that has been read for a trial. What arrives is a `Raised`."""

    __slots__ = ("_data", "_stays")

    def __init__(self, data: bytes, stays: str) -> None:
        self._data = data
        self._stays = stays

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._data, self._stays)


def send(error: BaseException, stays: str = "") -> Sent:
    """What a call raised, fit to travel, with its traceback as a text."""
    text = "".join(traceback.format_exception(error))
    why: Exception | None = None
    found = _chain(error)
    for errors, how in ((found, _AS_IT_SAYS), (found, _BY_PARTS), (found, _BY_SOME), ([error], _BY_SOME)):
        file = io.BytesIO()
        pickler = _Pickler(file, how)
        try:
            pickler.dump((errors, _links(errors), text))
            _ = _opened(file.getvalue())
            if how == _BY_SOME:
                stays = stays or f"raises what loses something on its way from a process: {_shown(error)}"
            return Sent(file.getvalue(), stays)
        except Exception as failure:  # whatever its reducers raise
            why = why or failure
    from plait.errors import NotPicklable

    told = NotPicklable(f"a call raised {_shown(error)}, which cannot be pickled: {why}")
    return send(told, f"raises what cannot be pickled: {_shown(error)}")


def _arrive(data: bytes, stays: str) -> Raised:
    try:
        return Raised(_opened(data), stays)
    except Exception as why:  # whatever its reducers raise
        from plait.errors import NotPicklable

        return Raised(
            NotPicklable(f"what a call raised cannot be unpickled: {why!r}"), "raises what cannot be unpickled"
        )


def _opened(data: bytes) -> BaseException:
    """The error with what it was caused by, and the traceback, from the other process, behind all that."""
    from concurrent.futures import process

    errors, links, text = pickle.loads(data)
    for error, (cause, context, suppressed) in zip(errors, links, strict=True):
        error.__cause__ = None if cause is None else errors[cause]
        error.__context__ = None if context is None else errors[context]
        error.__suppress_context__ = suppressed
    last, seen = errors[0], {id(errors[0])}
    while (before := last.__cause__ or (None if last.__suppress_context__ else last.__context__)) is not None:
        if id(before) in seen:
            return cast("BaseException", errors[0])  # they are in a circle
        seen.add(id(before))
        last = before
    last.__cause__ = getattr(process, "_RemoteTraceback")(f'\n"""\n{text}"""')  # noqa: B009
    return cast("BaseException", errors[0])


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and those that it was caused by or has inside, the nearest first."""
    found: dict[int, BaseException] = {}
    left: deque[BaseException | None] = deque([error])
    while left and len(found) < _MOST:
        each = left.popleft()
        if each is None or id(each) in found:
            continue
        found[id(each)] = each
        left += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            inner: Any = each  # pyright: ignore[reportUnknownVariableType]
            left += inner.exceptions
    return list(found.values())


def _links(errors: list[BaseException]) -> list[tuple[int | None, int | None, bool]]:
    places = {id(error): place for place, error in enumerate(errors)}
    return [
        (places.get(id(error.__cause__)), places.get(id(error.__context__)), error.__suppress_context__)
        for error in errors
    ]


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, how: int) -> None:
        super().__init__(file, 5)
        self._how = how

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, BaseException) or (self._how == _AS_IT_SAYS and _says(type(value))):
            return NotImplemented
        return _reduced(value, whole=self._how != _BY_SOME)


def _of_interpreter(kind: type) -> Any:
    """The class of the interpreter that this one is derived from."""
    return next(base for base in kind.__mro__ if not base.__flags__ & _HEAP)


def _says(kind: Any) -> bool:
    """Whether a class has its own way of being pickled, beside what was raised being made anew from its arguments.

    That is how all others are; it goes wrong where `__init__` takes others than it passes on.
    """
    base = _of_interpreter(kind)
    names = ("__reduce__", "__reduce_ex__", "__setstate__")
    return kind in copyreg.dispatch_table or any(getattr(kind, name) is not getattr(base, name) for name in names)


def _reduced(error: Any, *, whole: bool) -> tuple[Any, ...]:
    """How an error is made anew, without its `__init__`."""
    kind: Any = error.__class__
    base: Any = _of_interpreter(kind)
    state: Any = object.__getstate__(error)
    reduced: Any = base.__reduce__(error)
    args: Any = reduced[1]
    attributes: dict[str, Any] = {}
    if len(reduced) > 2:
        attributes.update(reduced[2] or ())
    if not isinstance(state, dict | None):
        attributes.update(state[1])  # what is in slots
    if not whole:
        lost = [name for name, value in attributes.items() if not _travels(value)]
        attributes = {name: value for name, value in attributes.items() if name not in lost}
        if base is not BaseExceptionGroup:
            args = tuple(arg if _travels(arg) else _shown(arg) for arg in args)
        if lost:
            note = f"lost on the way from a worker process, since it cannot be pickled: {', '.join(lost)}"
            attributes["__notes__"] = [*attributes.get("__notes__", ()), note]
    return _make, (kind, base, args), attributes, None, None, _set


def _make(kind: Any, base: Any, args: tuple[Any, ...]) -> BaseException:
    error: BaseException = base.__new__(kind, *args)
    base.__init__(error, *args)
    return error


def _set(error: BaseException, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        object.__setattr__(error, name, value)


def _travels(value: Any) -> bool:
    file = io.BytesIO()
    try:
        _Pickler(file, _BY_PARTS).dump(value)
        pickle.loads(file.getvalue())
    except Exception:  # whatever its reducers raise
        return False
    return True


def _shown(value: Any) -> str:
    show: Callable[[Any], str] = repr
    try:
        return show(value)
    except Exception:  # its own
        return f"<{type(value).__qualname__}>"
