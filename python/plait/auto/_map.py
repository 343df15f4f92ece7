"""One `map` under way."""

from __future__ import annotations

import contextvars
import itertools
import threading
import time
from collections import deque
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from plait._executor import uninterrupted
from plait.auto._calls import Call, Lot, Part, not_awaited
from plait.auto._choice import SERIAL
from plait.auto._chunk import Chunk, Rest, Slot
from plait.auto._errors import Raised
from plait.auto._flow import Flow
from plait.auto._meter import Meter
from plait.auto._results import are_small

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._executor import MapArguments
    from plait.auto._engine import Engine
    from plait.auto._function import Function
    from plait.auto._items import Items
    from plait.auto._seat import Seat

#: Seconds of calls that the caller makes itself rather than hand them over.
INLINE = 0.01

#: Seconds that a call may take for the caller to make others itself, before it is decided and afterwards.
_SHORT, _SHORT_SERIAL = 0.0005, 0.02

#: Seconds after which a caller that does not come for results is not expected to make any.
_AWAY = 0.01

#: Nanoseconds of short calls that are made in one go.
CHUNK_NS = 4_000_000

#: Nanoseconds of calls that a thread makes one by one before it looks at what they take.
_BY_ONE_NS = 9_000_000

#: Nanoseconds after which calls of the caller are measured again.
_MEASURE_NS = 10_000_000

#: Seconds for which the caller waits to see whether calls are short.
_PATIENCE = 0.05

#: Seconds of work that a worker process gets at a time, at most; and of how many such rounds the work should still have.
_LONG_SLICE, _ROUNDS = 0.024, 2

#: And at least, unless a call takes longer, or there would not be some for each.
_LEAST_SLICE = 0.0015

#: How many times as long as thought calls of a slice may take, and how many seconds longer, before the rest of it comes back.
_PATIENT, _PATIENT_ALSO = 1.5, 0.004

#: Items of an input without a length that are pulled ahead of who takes results.
_AHEAD = 1024

#: So many times less are pulled at a time, at least, while there are others under way.
_PULLED = 4

#: Seconds between two times that who waits is told, where calls are so short, or there are so many threads, that another one
#: tells it soon.
_TELL, _MANY = 0.002, 3

#: Outcomes that are handed on together, about, at most.
_TAKEN = 128


class MapFlow(Flow):
    """Calls of a `map`, and what came of them, in the order of the items or as they come."""

    def __init__(
        self,
        function: Callable[..., Any],
        state: Function,
        engine: Engine,
        items: Items,
        arguments: MapArguments,
    ) -> None:
        super().__init__(state, engine)
        self._function = function
        self._items = items.items
        self._bare = items.bare
        self._sequence = items.sequence
        self._at = 0
        self._context = contextvars.copy_context()
        self._most = arguments.chunksize
        self._window = arguments.buffersize if arguments.buffersize is not None else _AHEAD
        self._lazily = items.total is None or arguments.buffersize is not None
        # Or nobody would work while those are used up that were handed on.
        self._together = max(1, min(_TAKEN, self._window // _PULLED)) if self._lazily else _TAKEN
        self._pulled: deque[Any] = deque()
        self._returned: deque[Rest] = deque()
        """Items that were taken and not begun."""
        self._left = 0 if self._lazily or items.total is None else items.total
        """Items that can be taken now."""
        self._chunk_size = 1
        self._chunk: Chunk | None = None
        self._exhausted = False
        self._taken = 0
        self._given = 0
        self._closed = self._cancelled = False
        self._ordered = arguments.ordered
        self._slots: deque[Slot] = deque()
        """In the order of items; without order, those that are done."""
        self._gate = threading.RLock()
        self._bell: threading.Lock | None = None
        """Locked, and released when there is news for who waits. A `Condition` that Ctrl-C leaves may keep its lock."""
        self._told = 0.0
        self._inline = False
        """Whether the caller makes calls."""
        self._may_come = False
        """Whether the caller may make calls."""
        self._comes = False
        """Whether the caller will come for results soon, and make calls then."""
        self._measured = 0
        """When the caller's calls were last measured."""
        self._came = 0.0
        """When it was last here."""

    # ---- calls

    def _go_on(self) -> None:
        """Pull an input without a length, in the thread that takes results; make short calls, and hand over the others."""
        new = self._pull()
        if self._may_come and self._left and not self._is_there() and self._are_short():
            self._comes = True  # a thread that makes calls leaves now
            self._make_short_ones(0)
        if new or not self._comes:
            self.fill()

    def _pull(self) -> bool:
        """Whether there is anything new."""
        if not self._lazily or self._exhausted or self._closed:
            return False
        room = self._window - (self._taken + self._left - self._given)
        if room <= 0 or (room < self._window // _PULLED and self._taken > self._given):
            return False
        if self.engine.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        pulled = list(itertools.islice(self._items, room))
        with self.lock:
            self._exhausted = len(pulled) < room
            self._pulled.extend(pulled)
            self._left += len(pulled)
        return bool(pulled)

    def pop(self, most: int) -> Part | Lot | None:
        """Take out the next items."""
        if self._closed or not self._left:
            return None
        items, slot = self._take(min(most, self._left if self._most is None else self._most))
        if not items:
            return None
        if most > 1:
            wall = self._each()
            step = max(1, int(_LEAST_SLICE / wall)) if wall else 1
            patience = int(1e9 * _PATIENT_ALSO), int(1e9 * _PATIENT * wall)
            return Lot(self._function, items, self._bare, slot, step, patience)
        call = Call(self._function, (items[0],) if self._bare else items[0], {}, self._context.copy())
        return Part([call], [slot])

    def _hands_over_early(self) -> bool:
        return True  # and it can be taken back

    def _contexts(self, _part: Part | Lot) -> list[contextvars.Context | None]:
        """The context of who called `map`."""
        return [self._context]

    def keep(self, part: Part | Lot) -> None:
        """Have threads make calls that may not leave. The lock is held."""
        if isinstance(part, Part):
            super().keep(part)
        else:
            self._put_back(part.slot, part.items)
            part.slot.outcomes = []

    def take_back(self, part: Part | Lot, made: int) -> None:
        """Have others make calls of a lot that have not begun."""
        assert isinstance(part, Lot)
        with self.lock:
            self._put_back(part.slot, part.items[made:])

    def _take(self, most: int) -> tuple[list[Any], Slot]:
        """Take out items, and give them a place among the results. The lock is held."""
        rest = self._returned[0] if self._returned else None
        items: list[Any]
        if rest is not None:
            items = [rest.items.popleft() for _ in range(min(most, len(rest.items)))]
        elif self._lazily:
            items = [self._pulled.popleft() for _ in range(min(most, len(self._pulled)))]
        elif self._sequence is not None:
            taken: Any = self._sequence[self._at : self._at + most]
            items = taken if isinstance(taken, list) else list(taken)  # pyright: ignore[reportUnknownVariableType]
            self._at += len(items)
        else:
            items = list(itertools.islice(self._items, most))
        self._left -= len(items)
        self._taken += len(items)
        slot = Slot()
        if self._ordered and rest is None:
            self._slots.append(slot)
        elif self._ordered and rest is not None:
            self._slots.insert(self._slots.index(rest.end), slot)
        if rest is not None and not rest.items:
            self._returned.popleft()
            rest.end.outcomes = []
        return items, slot

    def _put_back(self, slot: Slot, items: list[Any]) -> bool:
        """Let what is left of what had one place be taken by others; they come behind it. The lock is held."""
        if not items:
            return False
        rest = Rest(deque(items), Slot())
        if self._ordered:
            self._slots.insert(self._slots.index(slot) + 1, rest.end)
        if self._closed:  # nobody makes them any more
            self._tell_cancelled(rest.end)
            return True
        later = len(self._returned)
        if self._ordered:  # those that are awaited first are taken first
            place = self._slots.index(rest.end)
            later = sum(self._slots.index(other.end) < place for other in self._returned)
        self._returned.insert(later, rest)
        self._left += len(items)
        self._taken -= len(items)
        return True

    def _tell_cancelled(self, slot: Slot) -> None:
        """Whoever waits for what had this place is told that it will not come."""
        import concurrent.futures

        slot.raised = True
        slot.outcomes = [Raised(concurrent.futures.CancelledError())]
        if not self._ordered:
            self._slots.append(slot)

    def _batch(self) -> int:
        """Many items at first, since each message costs the caller's process some time, and few at last."""
        fewest, wall, plan = super()._batch(), self._each(), self.state.decision
        if plan is None or not wall:
            return fewest
        waiting, workers = self.waiting(), plan.plan.workers
        seconds = min(_LONG_SLICE, waiting * wall / (_ROUNDS * workers))
        most = max(waiting // (2 * workers), min(int(_LEAST_SLICE / wall), -(-waiting // workers)))
        return max(fewest, min(int(max(seconds, _LEAST_SLICE) / wall), most))

    def waiting(self) -> int:
        """Items that can be taken."""
        return 0 if self._closed else self._left

    def left(self) -> int:
        """What the input says; of one without a length, as many again as there were."""
        return self._left if not self._lazily else len(self._pulled) + max(_AHEAD, self._taken)

    def cancel(self) -> None:
        """Make no more calls; who waits for them is told."""
        with self.lock:
            part = self.pop(1)
            self._closed = self._cancelled = True
            if isinstance(part, Part):
                self._tell_cancelled(part.sinks[0])
            for rest in self._returned:
                self._tell_cancelled(rest.end)
            self._returned.clear()
        self.recall()
        self.flush()
        self._tell_rest()

    def close(self) -> None:
        """Make no more calls."""
        with self.lock:
            self._closed = True
            self._may_come = self._comes = self._inline = False
            self._pulled.clear()
            self._returned.clear()
            chunk, self._chunk = self._chunk, None
            if chunk is not None:
                _ = chunk.take_back()
        self.recall()
        self._tell_rest()

    # ---- results

    def deliver(self, part: Part | Lot, outcomes: list[Any], *, raised: bool) -> None:
        """Put outcomes into their slot, and tell who waits, but not too often."""
        self._put(part.slot if isinstance(part, Lot) else part.sinks[0], outcomes, raised=raised)

    def _put(self, slot: Slot, outcomes: list[Any], *, raised: bool) -> None:
        slot.raised = raised
        slot.outcomes = outcomes
        if not self._ordered:
            self._slots.append(slot)
        if self._bell is not None and self._is_there():
            now = time.monotonic()
            # To wake somebody up costs all threads the GIL for a moment.
            if now - self._told > _TELL or (len(self.seats) < _MANY and self.state.figures.wall > _TELL):
                self._told = now
                self.flush()

    def flush(self) -> None:
        """Tell who waits."""
        with self._gate:
            bell, self._bell = self._bell, None
            if bell is not None:
                bell.release()

    def _is_there(self) -> bool:
        try:
            return self._slots[0].outcomes is not None
        except IndexError:  # who takes results may have taken it meanwhile
            return False

    def next_outcomes(self, deadline: float | None) -> tuple[list[Any], bool]:
        """The next outcomes, and whether there are errors among them; none where there are no more."""
        self._go_on()
        while True:
            if not self._is_there():
                if self._is_coming() and not self._await(lambda: self._is_there() or not self._is_coming(), deadline):
                    raise TimeoutError
                if not self._is_there():
                    return self._end(), False
            with self.lock:
                outcomes, raised = self._take_outcomes()
            if outcomes:
                self._given += len(outcomes)
                return outcomes, raised

    def _end(self) -> list[Any]:
        """What comes when all that was taken has come: nothing, unless it was cancelled before all of the input was pulled."""
        import concurrent.futures

        if not self._cancelled or self._exhausted or not self._lazily:
            return []
        self._exhausted = True
        for _ in self._items:
            raise concurrent.futures.CancelledError
        return []

    def _take_outcomes(self) -> tuple[list[Any], bool]:
        """The next outcomes, with those right behind them that are there. The lock is held."""
        slot = self._slots.popleft()
        outcomes, raised = slot.outcomes or [], slot.raised
        while len(outcomes) < self._together and self._slots and (more := self._slots[0].outcomes) is not None:
            if outcomes and more and are_small(outcomes) is not are_small(more):
                break  # large ones would be kept as long as small ones
            raised = self._slots.popleft().raised or raised
            outcomes += more
            more.clear()  # who made them may have the list for a while
        return outcomes, raised

    def _is_coming(self) -> bool:
        with self.lock:
            return self._taken > self._given or self.waiting() > 0

    def _await(self, over: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until it is over, and return True, or for so long."""
        try:
            while True:
                bell = threading.Lock()
                _ = bell.acquire()
                self._bell = bell
                if over():
                    return True
                left = -1.0 if deadline is None else deadline - time.monotonic()
                if deadline is not None and left <= 0:
                    return False
                _ = bell.acquire(timeout=min(left, threading.TIMEOUT_MAX))
        finally:
            self._bell = None

    # ---- the caller's own part

    def start(self, *, inline: bool) -> None:
        """Begin: with short calls in this thread, if it is not to return at once."""
        self._may_come = inline
        self._pull()
        uninterrupted(self.take_up)
        if inline:
            self._make_short_ones(INLINE)
        self.fill()

    def _limits(self) -> tuple[int, int]:
        # While the caller makes calls, a thread makes the very first one: it may be long.
        if self._comes and self._are_short():
            return 0, 0
        return super()._limits() if not self._inline else (0 if self.state.figures.calls else 1, 0)

    def _make_short_ones(self, seconds: float) -> None:
        """Make calls for so long, or, for 0 seconds, until there is an outcome that is awaited."""
        with self.lock:
            if self.seats or self._messages or not self.waiting():
                return
            self._inline = True
        try:
            if self.state.decision is not None or self.state.figures.calls or self._first_is_short():
                self._make_some(seconds)
        finally:
            self._inline = False
            self._came = time.monotonic()
            self._comes = self._may_come and self.state.decision is not None and self._are_short()
            if self._comes:
                self.look()

    def _make_some(self, seconds: float) -> None:
        meter, now = Meter(), time.perf_counter_ns()
        end = now + int(seconds * 1e9)
        measured = self.state.decision is None or now - self._measured > _MEASURE_NS
        if measured:
            self._measured = now
            meter.start()
        while (time.perf_counter_ns() < end if seconds else not self._is_there()) and self._are_short():
            with self.lock:
                chunk = None if self.seats else self._cut()
            if chunk is None:
                break
            self.look()
            self._make_chunk(chunk, meter)
            learns = self.state.decision is None and self._has_news(meter)
            if measured and (learns or meter.inside > CHUNK_NS):
                self._learn(meter)
        if measured:
            self._learn(meter, last=True)

    def make_next(self, seat: Seat, meter: Meter) -> bool:
        """Make a call for a seat, or several that are short."""
        chunk = one = None
        with self.lock:
            if self.state.figures.calls and not self._kept and len(self.seats) <= self._limits()[0] and self.waiting():
                if len(self.seats) == 1 and self._are_short():
                    chunk = self._cut()
                else:
                    one = self._take(1)
        if chunk is not None:
            self._make_chunk(chunk, meter)
        elif one is not None and one[0]:
            self._make_by_one(*one, meter)
        else:
            return super().make_next(seat, meter)
        return True

    def _make_by_one(self, items: list[Any], slot: Slot, meter: Meter) -> None:
        """Make the call for an item, and for more of them one by one, for a while and as long as nothing else is decided."""
        state, decision = self.state, self.state.decision
        now, end = 0, self._make_one(items, slot, meter) + _BY_ONE_NS
        while now < end and decision is not None and state.unproven is None and len(self.seats) <= self.most:
            if state.decision is not decision:
                return
            with self.lock:
                if not self._left or self._closed or self._kept or self._comes or self._inline:
                    return
                items, slot = self._take(1)
            if not items:
                return
            now = self._make_one(items, slot, meter)

    def _make_one(self, items: list[Any], slot: Slot, meter: Meter) -> int:
        """Make the call for an item; like `_make` for a `Part`, in fewer steps. When it was over, in nanoseconds."""
        arguments, figures = items if self._bare else items[0], self.state.figures
        context = self._context.copy()
        meter.running = True
        began = time.perf_counter_ns()
        outcomes: list[Any]
        raised = False
        try:
            outcomes = [context.run(self._function, *arguments)]
        except BaseException as error:  # it is raised when its turn comes
            outcomes, raised = [Raised(error)], True
        if type(outcomes[0]) is CoroutineType:
            outcomes, raised = [Raised(not_awaited(self._function, outcomes[0]))], True
        meter.running = False
        now = meter.ended(1, began)
        if not figures.result_sized and not raised:
            self.state.size_result(outcomes[0])
        with self._tally:
            self.made += 1
        self._put(slot, outcomes, raised=raised)  # nothing here keeps the result
        if self.made >= self._next_look:
            self._look_at_pace()
        return now

    def _are_short(self) -> bool:
        """Whether calls are so short that nobody else would have made them sooner."""
        decision = self.state.decision
        if decision is None:
            return self.state.figures.wall < _SHORT
        return decision.plan.model == SERIAL and self.state.figures.wall < _SHORT_SERIAL

    def _cut(self) -> Chunk | None:
        """Cut off some items, about as many as take some milliseconds. The lock is held."""
        if not self.waiting():
            return None
        items, slot = self._take(min(self._chunk_size, self._left))
        self._chunk = chunk = Chunk(items, self._bare, slot, self._inline, self.engine.machine.gil)
        return chunk

    def _make_chunk(self, chunk: Chunk, meter: Meter) -> None:
        began = time.perf_counter_ns()
        meter.running = True
        outcomes = self._context.copy().run(chunk.make, self._function)
        meter.running = False
        took = meter.ended(len(outcomes), began) - began
        with self.lock:
            whole = not self._put_back(chunk.slot, chunk.rest(len(outcomes)))
            self._chunk = None
            if took < CHUNK_NS // 2 and whole:
                self._chunk_size *= 2 if took > CHUNK_NS // 16 else 4
            elif took > 2 * CHUNK_NS:
                self._chunk_size = max(1, min(self._chunk_size, len(outcomes) // 2))
        with self._tally:
            self.made += len(outcomes)
        if not self.state.figures.result_sized and outcomes and not chunk.raised:
            self.state.size_result(outcomes[-1])
        chunk.slot.raised = chunk.raised
        chunk.slot.outcomes = outcomes
        if not self._ordered:
            self._slots.append(chunk.slot)
        self.flush()

    def tick(self) -> bool:
        """Look at calls that take long; take back what waits behind one in a chunk."""
        with self.lock:
            chunk = self._chunk
            if chunk is not None:
                if chunk.seen != (left := chunk.left()):
                    chunk.seen = left
                    return False
                self._put_back(chunk.slot, chunk.take_back())
                self._chunk_size = 1
                self._inline = False  # others need not wait for it
        if self._comes and not self._inline and time.monotonic() - self._came > _AWAY:
            self._comes = False
            self.fill()
        if chunk is not None:
            self.fill()
        return super().tick()

    def wait(self) -> None:
        """Return when it is idle."""
        self._may_come = self._comes = False
        self.fill()
        super().wait()

    def in_a_hurry(self) -> bool:
        """Whether it is to be looked at soon again."""
        return self._chunk is not None or (self._comes and self.waiting() > 0) or super().in_a_hurry()

    def _first_is_short(self) -> bool:
        """Have a thread make the first call, and return whether it was over soon."""
        self.look()  # the watch comes beside it
        self.fill()
        _ = self._await(lambda: self.state.decision is not None or not self.seats, time.monotonic() + _PATIENCE)
        return not self.seats
