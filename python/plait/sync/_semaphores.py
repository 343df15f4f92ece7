"""`plait.Semaphore` and `BoundedSemaphore`, for threads and tasks together."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from plait import _core
from plait.sync._common import refuse_pickling, shared_kind, within

if TYPE_CHECKING:
    from typing import Self, TypedDict

    class SemaphoreStatistics(TypedDict):
        """What `Semaphore.statistics()` returns."""

        value: int
        waiting: int
        waits: int
        handed_over: int


__all__ = ["BoundedSemaphore", "Semaphore"]


class Semaphore(_core.SemaphoreCore, metaclass=ABCMeta):
    """A number of permits for threads and asyncio tasks to take and give back.

    It is a `threading.Semaphore` and an `asyncio.Semaphore` in one, and waits as `Lock` does. `release` may be called
    by anybody, also more often than `acquire`: `BoundedSemaphore` refuses that.

    With `shared=True` it works between processes too, as a shared `Lock` does. Permits belong to nobody: those that a
    process had taken when it died stay taken.

    Args:
        value: How many can be taken before somebody has to wait.
        shared: Whether other processes can have it too.

    Raises:
        ValueError: `value` is negative.

    >>> import asyncio
    >>> few = plait.Semaphore(2)
    >>> async def fetch(number):
    ...     async with few:  # no more than two at a time
    ...         await asyncio.sleep(0)
    ...         return number
    >>> async def main():
    ...     return await asyncio.gather(*map(fetch, range(5)))
    >>> asyncio.run(main())
    [0, 1, 2, 3, 4]
    """

    __slots__ = ()

    def __new__(cls, value: int = 1, *, shared: bool = False) -> Self:
        if shared:
            made: Self = shared_kind(cls, Semaphore, "SharedSemaphore", value)
            return made
        return super().__new__(cls, value, False)

    def aacquire(self, blocking: bool = True, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        """Take one from the value in a task, which waits until it is above 0; for `await`, which returns whether it was taken.

        Args:
            blocking: False does not wait.
            timeout: Seconds to wait at most; `None` waits as long as it takes.

        Raises:
            ValueError: `timeout` is given for a call that does not wait.
        """
        if blocking and timeout is None:
            return self._aacquire()
        return self._aacquire_unless(blocking, timeout)

    async def _aacquire_unless(self, blocking: bool, timeout: float | None) -> bool:
        if not blocking:
            if timeout is not None:
                raise ValueError("can't specify timeout for non-blocking acquire")
            return self._atry()
        assert timeout is not None
        return self._atry() or await within(timeout, self._aacquire())

    def statistics(self) -> SemaphoreStatistics:
        """Return what goes on: a plain dict.

        The `value`, how many are `waiting`, and since it was made the `waits` and how many of these were
        `handed_over` to the one that had waited longest.

        >>> plait.Semaphore(3).statistics()
        {'value': 3, 'waiting': 0, 'waits': 0, 'handed_over': 0}
        """
        waiting, waits, handed_over = self._figures()
        return {"value": self._value, "waiting": waiting, "waits": waits, "handed_over": handed_over}

    def _value_text(self) -> str:
        return str(self._value)

    def __repr__(self) -> str:
        value = self._value_text()
        waiting = self._figures()[0]
        more = f" waiting={waiting}" if waiting else ""
        return f"<plait.{type(self).__name__} at {id(self):#x}: value={value}{more}>"

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self)


class BoundedSemaphore(Semaphore):
    """A `Semaphore` whose value never exceeds its initial one: `release` raises ValueError instead.

    Args:
        value: How many can be taken before somebody has to wait.
        shared: Whether other processes can have it too.

    Raises:
        ValueError: `value` is negative.

    >>> plait.BoundedSemaphore(2).release()
    Traceback (most recent call last):
    ...
    ValueError: Semaphore released too many times
    """

    __slots__ = ()

    def __new__(cls, value: int = 1, *, shared: bool = False) -> Self:
        if shared:
            made: Self = shared_kind(cls, BoundedSemaphore, "SharedBoundedSemaphore", value)
            return made
        return _core.SemaphoreCore.__new__(cls, value, True)

    def _value_text(self) -> str:
        return f"{self._value}/{self._initial_value}"
