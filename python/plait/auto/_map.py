"""One `map` under way."""

from __future__ import annotations

import contextvars
import itertools
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from plait._executor import ProgressBar
from plait.auto import _calls
from plait.auto._calls import Call, Part, Raised
from plait.auto._choice import SERIAL
from plait.auto._flow import Flow
from plait.auto._meter import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from plait._executor import MapArguments
    from plait.auto._engine import Engine
    from plait.auto._function import Function

T = TypeVar("T")

#: Seconds of calls that the caller makes itself rather than hand them over.
INLINE = 0.1

#: Seconds that a call may take for the caller to make others itself.
_SHORT = 0.0005

#: Seconds after which one of them was long after all.
_LONG = 0.005

#: Seconds for which the caller waits to see whether calls are short.
_PATIENCE = 0.005

#: Items of an input without a length that are pulled ahead of who takes results.
_AHEAD = 1024

#: Seconds between two times that who waits is told of short calls.
_TELL = 0.0005


class _Slot:
    """An item's place among the results."""

    __slots__ = ("done", "outcome")

    def __init__(self) -> None:
        self.done = False
        self.outcome: Any = None


class MapFlow(Flow):
    """Calls of a `map`, and what came of them, in the order of the items or as they come."""

    def __init__(
        self,
        function: Callable[..., Any],
        state: Function,
        engine: Engine,
        items: Iterator[tuple[Any, ...]],
        total: int | None,
        arguments: MapArguments,
    ) -> None:
        super().__init__(state, engine)
        self._function = function
        self._items = items
        self._total = total
        self._context = contextvars.copy_context()
        self._chunk = arguments.chunksize
        self._window = arguments.buffersize if arguments.buffersize is not None else _AHEAD
        self._lazily = total is None or arguments.buffersize is not None
        self._pulled: deque[tuple[Any, ...]] = deque()
        self._left = 0 if self._lazily or total is None else total
        """Items that can be taken now."""
        self._exhausted = False
        self._taken = 0
        self._given = 0
        self._closed = False
        self._ordered = arguments.ordered
        self._slots: deque[_Slot] = deque()
        """In the order of items; without order, those that are done."""
        self._there = threading.Condition(threading.RLock())
        self._awaited = False
        self._told = 0.0
        self._inline = False
        """Whether the caller makes calls."""

    # ---- calls

    def go_on(self) -> None:
        """Pull an input without a length as far ahead as is wanted, in the thread that takes results, which it belongs to; make short
        calls here, and hand over the others."""
        if self._pull():
            self._make_short_ones()
            self.fill()

    def _pull(self) -> bool:
        """Whether there is anything new."""
        if not self._lazily or self._exhausted or self._closed:
            return False
        room = self._window - (self._taken + len(self._pulled) - self._given)
        if room <= 0 or (room < self._window // 4 and self._taken > self._given):
            return False
        if self.engine.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        pulled = list(itertools.islice(self._items, room))
        with self.lock:
            self._exhausted = len(pulled) < room
            self._pulled.extend(pulled)
            self._left = len(self._pulled)
        return bool(pulled)

    def pop(self, most: int) -> Part | None:
        """Take out the next items."""
        if self._closed or not self._left:
            return None
        most = min(most, self._left if self._chunk is None else self._chunk)
        if self._lazily:
            items = [self._pulled.popleft() for _ in range(min(most, len(self._pulled)))]
        else:
            items = list(itertools.islice(self._items, most))
        self._left -= len(items)
        self._taken += len(items)
        slots = [_Slot() for _ in items]
        if self._ordered:
            self._slots.extend(slots)
        context = self._context
        return Part([Call(self._function, item, {}, context.copy()) for item in items], slots)

    def waiting(self) -> int:
        """Items that can be taken."""
        return 0 if self._closed else self._left

    def left(self) -> int:
        """What the input says; of one without a length, as many again as there were."""
        return self._left if not self._lazily else len(self._pulled) + max(_AHEAD, self._taken)

    def cancel(self) -> None:
        """Make no more calls; who waits for them is told."""
        import concurrent.futures

        with self.lock:
            part = None if self._lazily and not self._pulled else self.pop(1)
            self._closed = True
        if part is not None:
            self.deliver(part, [Raised(concurrent.futures.CancelledError())])
            self.flush()
        self._tell_rest()

    def close(self) -> None:
        """Make no more calls."""
        with self.lock:
            self._closed = True
            self._pulled.clear()
        self._tell_rest()

    # ---- results

    def deliver(self, part: Part, outcomes: list[Any]) -> None:
        """Put outcomes into their slots, and tell who waits, but not too often."""
        for slot, outcome in zip(part.sinks, outcomes, strict=True):
            slot.outcome = outcome
            slot.done = True
        if not self._ordered:
            self._slots.extend(part.sinks)
        if self._awaited:
            now = time.monotonic()
            if now - self._told > _TELL:
                self._told = now
                self.flush()

    def flush(self) -> None:
        """Tell who waits."""
        if self._awaited:
            with self._there:
                self._there.notify_all()

    def _is_there(self) -> bool:
        return bool(self._slots) and self._slots[0].done

    def outcome(self, deadline: float | None) -> Any:
        """The next outcome; StopIteration where there is none any more."""
        self.go_on()
        if not self._is_there():
            if not self._is_coming():
                raise StopIteration
            self._await(deadline)
            if not self._is_there():
                raise StopIteration  # closed by somebody else
        self._given += 1
        return self._slots.popleft().outcome

    def _is_coming(self) -> bool:
        with self.lock:
            return self._taken > self._given or self.waiting() > 0

    def _await(self, deadline: float | None) -> None:
        with self._there:
            self._awaited = True
            try:
                while not self._is_there() and self._is_coming():
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError
                    self._there.wait(left)
            finally:
                self._awaited = False

    # ---- the caller's own part

    def start(self, *, inline: bool) -> None:
        """Begin: with short calls in this thread, if it is not to return at once."""
        self._pull()
        if inline:
            self._make_short_ones()
        self.fill()

    def _limits(self) -> tuple[int, int]:
        # While the caller makes calls, a thread makes the very first one: it may be long.
        return super()._limits() if not self._inline else (0 if self.state.figures.calls else 1, 0)

    def _make_short_ones(self) -> None:
        with self.lock:
            if self.seats or self._messages or not self.waiting():
                return
            self._inline = True
        try:
            if self.state.decision is not None or self.state.figures.calls or self._first_is_short():
                self._make_some()
        finally:
            self._inline = False

    def _make_some(self) -> None:
        state, meter, lock = self.state, Meter(), self.lock
        now = time.perf_counter_ns()
        end, most = now + int(INLINE * 1e9), int(_LONG * 1e9)
        meter.start()
        while now < end and self._are_short():
            with lock:
                part = None if self.seats else self.pop(1)
            if part is None:
                break
            before = now
            self._make(part, meter)
            now = time.perf_counter_ns()
            if now - meter.began > (10_000_000 if state.decision is not None else 500_000) or now - before > most:
                self._learn(meter)
                if now - before > most:
                    break
        self._learn(meter)

    def _are_short(self) -> bool:
        """Whether calls are so short that nobody else would have made them sooner."""
        decision = self.state.decision
        return (decision is None or decision.plan.model == SERIAL) and self.state.figures.wall < _SHORT

    def _first_is_short(self) -> bool:
        """Have a thread make the first call, and return whether it was over soon."""
        self.fill()
        end = time.monotonic() + _PATIENCE
        with self._there:
            self._awaited = True
            try:
                while self.state.decision is None and self.seats and (left := end - time.monotonic()) > 0:
                    self._there.wait(left)
            finally:
                self._awaited = False
        return not self.seats


class Results(Generic[T]):
    """The results of a `map`, one by one."""

    def __init__(self, flow: MapFlow, arguments: MapArguments, deadline: float | None, total: int | None) -> None:
        self._flow = flow
        self._progress = arguments.progress
        self._deadline = deadline
        self._total = total
        self._done = 0
        self._turn = threading.Lock()

    def __iter__(self) -> Results[T]:
        return self

    def __next__(self) -> T:
        if not self._turn.acquire(blocking=False):  # as a generator has it
            raise ValueError("the results of map are being taken by another thread already")
        try:
            outcome = self._flow.outcome(self._deadline)
            if isinstance(outcome, Raised):
                raise outcome.error
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
            return outcome  # type: ignore[no-any-return]
        except BaseException:
            self.close()
            raise
        finally:
            self._turn.release()

    def close(self) -> None:
        """Stop, and make no call that was not begun."""
        self._flow.close()
        if isinstance(self._progress, ProgressBar):
            self._progress.close()

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
    kept = [
        each if type(each) in (range, tuple, str, bytes) else list(itertools.islice(each, total)) for each in iterables
    ]
    return zip(*kept, strict=False), min((len(each) for each in kept), default=0)  # type: ignore[arg-type]
