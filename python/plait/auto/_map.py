"""One `map` under way."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from plait._future import Future
from plait.auto import _slices
from plait.auto._choice import SERIAL
from plait.auto._engine import PATIENCE
from plait.auto._flow import Flow, Part, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from plait._executor import MapArguments
    from plait.auto._engine import Executors, Function

T = TypeVar("T")

#: Seconds of calls that the caller makes itself rather than hand them over.
INLINE = 0.1

#: Items of an input without a length that are pulled ahead of who takes results.
_AHEAD = 1024


class MapFlow(Flow):
    """Calls of a `map`. Its parts are delivered to futures, in the order of the items, or to a queue."""

    def __init__(
        self,
        function: Callable[..., Any],
        state: Function,
        executors: Executors,
        watch: Watch,
        items: Iterator[tuple[Any, ...]],
        total: int | None,
        arguments: MapArguments,
    ) -> None:
        super().__init__(function, state, executors, watch)
        self._items = items
        self._total = total
        self._taken = 0
        self._context = contextvars.copy_context()
        self._chunk = arguments.chunksize
        self._window = arguments.buffersize
        self._pulled: deque[tuple[Any, ...]] = deque()
        self.lazily = total is None or arguments.buffersize is not None
        self.exhausted = False
        self.parts: deque[Future[list[Any]]] = deque()
        self.any_order: queue.SimpleQueue[list[Any]] | None = None if arguments.ordered else queue.SimpleQueue()
        self.outstanding = 0
        self._closed = False
        self._cut = threading.Lock()
        self._last: Future[list[Any]] | None = None

    def pull(self) -> None:
        """Pull an input without a length as far ahead as is wanted: in the thread that takes results, which it belongs to."""
        most = self._window if self._window is not None else _AHEAD
        room = most - len(self._pulled) - self.outstanding
        if not self.lazily or self.exhausted or room <= 0:
            return
        before = len(self._pulled)
        self._pulled.extend(itertools.islice(self._items, room))
        self.exhausted = len(self._pulled) - before < room
        self.fill()

    def _slice(self) -> int:
        size = super()._slice()
        return min(size, self._chunk) if self._chunk is not None else size

    def take(self, most: int) -> Part | None:
        """Cut off the next items."""
        with self._cut:
            if self._closed:
                return None
            if self.lazily:
                items = [self._pulled.popleft() for _ in range(min(most, len(self._pulled)))]
            else:
                items = list(itertools.islice(self._items, most))
                self.exhausted = len(items) < most
            if not items:
                return None
            self._taken += len(items)
            self.outstanding += len(items)
            self._last = future = Future[list[Any]]()
            if self.any_order is None:
                self.parts.append(future)
            return Part([_slices.Call(item, {}, self._context.copy()) for item in items], [future])

    def left(self) -> int:
        """What the input says; of one without a length, as many again as there were."""
        return self._total - self._taken if self._total is not None else max(_AHEAD, self._taken)

    def deliver(self, part: Part, outcomes: list[Any]) -> None:
        """Give a part's outcomes to who takes results."""
        self.outstanding -= len(part.calls)
        if self.any_order is None:
            part.sinks[0].set_result(outcomes)
            return
        self.any_order.put(outcomes)
        part.sinks[0].set_result([])  # for who waits to learn

    def cancelled(self, part: Part) -> None:
        """The pool was shut down: what was not begun is not made."""
        import concurrent.futures

        self.deliver(part, [_slices.Raised(concurrent.futures.CancelledError()) for _ in part.calls])

    def goes_on(self) -> bool:
        """Unless its input is pulled by who takes results."""
        return not (self.lazily or self.exhausted or self._closed)

    def learn_here(self) -> None:
        """Wait until it is decided, unless a call takes long: the watch looks at those."""
        last: Future[list[Any]] | None = None
        while self.state.decision is None and self._last is not last:
            last = self._last
            if last is None:
                return
            with contextlib.suppress(TimeoutError):
                last.result(PATIENCE)

    def close(self) -> None:
        """Make no more calls."""
        with self._cut:
            self._closed = True
            self._pulled.clear()

    def inline(self) -> list[Any] | None:
        """Make all calls here, where that is decided and short; None where it is not."""
        decision = self.state.decision
        if self.lazily or decision is None or decision.plan.model != SERIAL:
            return None
        if self.left() * self.state.figures.wall > INLINE:
            return None
        function, outcomes = self.function, list[Any]()
        with self._cut:
            items, self._closed = self._items, True
        for item in items:
            try:
                outcomes.append(function(*item))
            except BaseException as error:  # it is raised when its turn comes
                outcomes.append(_slices.Raised(error))
                break
        return outcomes


class Results(Generic[T]):
    """The results of a `map`, one by one."""

    def __init__(
        self, flow: MapFlow, arguments: MapArguments, deadline: float | None, inline: list[Any] | None
    ) -> None:
        self._flow = flow
        self._progress = arguments.progress
        self._deadline = deadline
        self._ready: deque[Any] = deque()
        self._last = deque(inline) if inline is not None else deque[Any]()
        self._total = flow._total
        self._done = 0
        self._given = 0

    def __iter__(self) -> Results[T]:
        return self

    def __next__(self) -> T:
        try:
            if not self._ready:
                self._await()
            outcome = self._ready.popleft()
            if isinstance(outcome, _slices.Raised):
                raise outcome.error
        except BaseException:
            self.close()
            raise
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
        return outcome  # type: ignore[no-any-return]

    def _await(self) -> None:
        flow = self._flow
        flow.pull()
        if flow.any_order is not None:
            if self._given < flow._taken:
                self._receive(flow.any_order)
                return
        elif flow.parts:
            outcomes = flow.parts[0].result(self._left())
            flow.parts.popleft()
            self._given += len(outcomes)
            self._ready.extend(outcomes)
            return
        if not self._last:
            raise StopIteration
        self._ready.append(self._last.popleft())

    def _receive(self, line: queue.SimpleQueue[list[Any]]) -> None:
        try:
            outcomes = line.get(timeout=self._left())
        except queue.Empty:
            raise TimeoutError from None
        self._given += len(outcomes)
        self._ready.extend(outcomes)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def close(self) -> None:
        """Stop, and make no call that was not begun."""
        self._flow.close()

    def __del__(self) -> None:
        self._flow.close()


def items_of(iterables: tuple[Iterable[Any], ...], *, lazily: bool) -> tuple[Iterator[tuple[Any, ...]], int | None]:
    """The inputs as tuples of arguments, and how many there are. Those with a length are taken as they are now."""
    try:
        total: int | None = min((len(iterable) for iterable in iterables), default=0)  # type: ignore[arg-type]
    except TypeError:
        total = None
    if total is None or lazily:
        return zip(*iterables, strict=False), total
    kept = [each if isinstance(each, range | tuple | str | bytes) else list(each) for each in iterables]
    return zip(*kept, strict=False), total
