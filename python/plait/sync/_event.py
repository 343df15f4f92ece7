"""`plait.Event`, for threads and tasks together."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from plait import _core
from plait.sync._common import refuse_pickling, shared_kind, within

if TYPE_CHECKING:
    from typing import Self, TypedDict

    class EventStatistics(TypedDict):
        """What `Event.statistics()` returns."""

        set: bool
        waiting: int


__all__ = ["Event"]


class Event(_core.EventCore, metaclass=ABCMeta):
    """A flag that threads and asyncio tasks wait for.

    It is a `threading.Event` and an `asyncio.Event` in one: `wait()` for threads, `await event.await_()` for tasks.
    `set()` lets all go on who wait at that moment, also when it is cleared right afterwards. Signal handlers may set
    it.

    With `shared=True` it works between processes too, as a shared `Lock` does.

    Args:
        shared: Whether other processes can have it too.

    >>> import asyncio, threading
    >>> ready = plait.Event()
    >>> async def main():
    ...     threading.Timer(0.01, ready.set).start()
    ...     return await ready.await_()
    >>> asyncio.run(main())
    True
    """

    __slots__ = ()

    def __new__(cls, *, shared: bool = False) -> Self:
        if shared:
            made: Self = shared_kind(cls, Event, "SharedEvent")
            return made
        return super().__new__(cls)

    def await_(self, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        """Wait in a task until it is set; for `await`, which returns whether it was.

        Args:
            timeout: Seconds to wait at most; `None` waits as long as it takes.
        """
        return self._await() if timeout is None else self._await_within(timeout)

    async def _await_within(self, timeout: float) -> bool:
        return self.is_set() or await within(timeout, self._await())

    def statistics(self) -> EventStatistics:
        """Return what goes on: whether it is `set`, and who is `waiting`.

        >>> plait.Event().statistics()
        {'set': False, 'waiting': 0}
        """
        return {"set": self.is_set(), "waiting": self._waiting()}

    def __repr__(self) -> str:
        waiting = self._waiting()
        more = f" waiting={waiting}" if waiting else ""
        return f"<plait.{type(self).__name__} at {id(self):#x}: {'set' if self.is_set() else 'unset'}{more}>"

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self)
