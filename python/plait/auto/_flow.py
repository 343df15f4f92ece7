"""Calls of one function that are to be made: threads take them one by one, worker processes get some at a time.

A thread that makes calls has a *seat*. How many seats and how many messages to processes a flow may have follows from what was
decided for its function, which is decided anew while it runs: threads leave between two calls, others come.
"""

from __future__ import annotations

import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from plait._executor import uninterrupted
from plait.auto import _calls
from plait.auto._calls import Lot, Packed, Part
from plait.auto._choice import ASYNCIO, PROCESSES, SLICE
from plait.auto._errors import Raised
from plait.auto._figures import Sample
from plait.auto._learning import ANY, Learner
from plait.auto._reads import Differs, setting_in
from plait.auto._seat import here

if TYPE_CHECKING:
    import concurrent.futures
    from contextvars import Context

    from plait.auto._engine import Engine
    from plait.auto._function import Function
    from plait.auto._meter import Meter
    from plait.auto._seat import Seat

#: Seconds of work that wait in the queue for each worker process, beside what it works on: so long it may take until a core is
#: free for the thread that sends more. And messages, which are one at least.
_AHEAD, _MOST_AHEAD = 0.006, 6

#: Tasks on the loop at a time, for one `map`.
_LOOP_TASKS = 1000

#: Of threads that do little, or that are more than a few, so many let their calls go unmeasured for one that is.
_MEASURED, _FEW = 8, 4

#: Of messages to processes that take no longer than so many seconds, whose calls are known, one of so many is measured: a
#: worker takes as long for it as for all else that a message takes.
_SHORT_MESSAGE, _MEASURED_THERE = 0.03, 4

#: How many times as long slices are where threads share the GIL, which is held while clocks are read; how many times when
#: some were seen; and how many these are.
_CROWD_SLICES, _LONG_CROWD_SLICES, _CROWD_KNOWN = 4, 8, 6

SLICE_NS = int(SLICE * 1e9)


class Flow(Learner):
    """See the module. Who has calls gives them by `pop`, and gets outcomes by `deliver`."""

    def __init__(self, state: Function, engine: Engine) -> None:
        super().__init__(state, engine)
        self._bells: list[threading.Lock] = []
        """Locked, and released when it is idle, for who waits for that. A `Condition` that Ctrl-C leaves may keep its lock."""
        self._under_way: dict[concurrent.futures.Future[Any], None] = {}
        """Messages that were handed to processes, in this order."""
        self._late = False
        """Whether some were taken back, since processes take long to start: no more are handed over before they are there."""
        self._pauses = False
        """Whether it was seen that no thread makes calls for the moment, since processes are about to be there."""
        self._part: Sample | None = None
        """What calls in processes took that are no whole slice yet."""
        self._sent = 0
        """Messages so far."""
        self._recalled: set[concurrent.futures.Future[Any]] = set()
        """Those of them that are being taken back."""
        self._kept: list[Part] = []
        """Parts that were to leave and may not."""
        self._more = 0
        """Seats beyond those decided for: calls that have one wait for calls that have none."""
        self.room = 1
        """So many seats there may be before a new call needs no thought."""
        self._number = 0
        """Seats so far, about: where two threads count at a time, another one of them is measured."""
        self.most = 1
        """So many seats there may be."""
        self.full = False
        """Whether there was no room for another call when it was last looked: there is some when an earlier one is over."""

    # ---- for those who have calls

    def pop(self, most: int) -> Part | Lot | None:
        """Take out as many calls, or fewer; None if there are none now. The lock is held."""
        raise NotImplementedError

    def begin(self, part: Part) -> Part | None:
        """The part without calls that were cancelled; None if no call is left."""
        return part

    def keep(self, part: Part | Lot) -> None:
        """Have threads make calls that may not leave. The lock is held."""
        assert isinstance(part, Part)
        self._kept.append(part)

    def take_back(self, part: Part | Lot, made: int) -> None:
        """Have calls of a part made by others, but for so many that were made."""
        raise NotImplementedError

    def _hands_over_early(self) -> bool:
        """Whether processes that start are given calls already, which can be taken back."""
        return False

    def deliver(self, part: Part | Lot, outcomes: list[Any], *, raised: bool) -> None:
        """Hand out what came of a part; `raised` says that there are errors among it."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Drop what was not handed over."""
        raise NotImplementedError

    # ---- the flow

    def look(self) -> None:
        """Have the watch look at it."""
        self.engine.look(self)

    def start_processes(self) -> None:
        """See to it that there are processes."""
        self.engine.start_processes(self)
        self.look()  # they may be late

    def has_waiting(self) -> bool:
        """Whether calls wait for somebody who makes them, those that came back from processes among them."""
        return bool(self._kept) or self.waiting() > 0

    def idle(self) -> bool:
        """Whether nothing is under way, and nothing waits. The lock is held."""
        return not (self.seats or self._messages or self._kept or self.waiting())

    def wait(self) -> None:
        """Return when it is idle."""
        self.fill()  # who queued a call may have been interrupted before it was handed over
        while True:
            bell = threading.Lock()
            _ = bell.acquire()
            with self.lock:
                if self.idle():
                    return
                self._bells.append(bell)
            _ = bell.acquire()

    def _limits(self) -> tuple[int, int]:
        """How many threads and messages there may be."""
        decision = self.state.decision
        if decision is None:
            return 1 + self._more, 0
        model, workers = decision.plan.model, decision.plan.workers
        if model == ASYNCIO:
            return 0, _LOOP_TASKS
        if model != PROCESSES:
            return workers + self._more, 0
        if self.engine.processes_ready:
            return 1 if self._kept else 0, workers * (1 + self._ahead())
        takes = self._hands_over_early() and not self._late and self.engine.processes_take()
        messages = workers * (1 + self._ahead()) if takes else 0
        # One thread goes on until there are processes, unless that is soon.
        soon = self.engine.starts_soon()
        if soon and not self._pauses:
            self._pauses = True
            self.look()  # it ends the pause, whoever began it
        return 1 if self._kept or not soon else 0, messages

    def add_seats(self) -> None:
        """Let there be more threads: those that there are wait for calls that wait for one."""
        with self.lock:
            self._more += max(1, len(self.seats) // 2)
            self.set_room()
        self.fill()

    def set_room(self) -> None:
        with self.lock:  # or what was decided before may be written over what was decided since
            self.most, messages = self._limits()
            self.room = ANY if messages else self.most
            self.full = False

    def fill(self) -> None:
        """Hand over calls while there are some, and room for them; take back what processes make no more."""
        with self.lock:
            left, self._left_processes = self._left_processes, False
        if left:
            uninterrupted(self.recall)
        with self.lock:
            some = self._has_room()
        if some:
            uninterrupted(self._fill)

    def _has_room(self) -> bool:
        """Whether there is a call to hand over, and room for it. The lock is held."""
        threads, messages = self._limits()
        self.full = self._messages >= messages and len(self.seats) >= threads
        waiting = self.waiting()  # afterwards: who adds a call then sees that it is full, or the call is seen here
        return bool(waiting and self._messages < messages) or (
            len(self.seats) < threads and self._coming < waiting + len(self._kept)
        )

    def _fill(self) -> None:
        if getattr(here, "sends", None) is self:
            return  # what was sent is over at once: further out it goes on
        while True:
            part = seat = None
            with self.lock:
                threads, messages = self._limits()
                if messages and self._messages < messages and (part := self.pop(self._batch())) is not None:
                    self._messages += 1
                elif len(self.seats) < threads and self._coming < self.waiting() + len(self._kept):
                    seat = self.engine.take_seat(self)
                    if seat is not None:
                        self.seats.add(seat)
                        self._coming += 1
            if part is not None:
                outer, here.sends = getattr(here, "sends", None), self
                try:
                    self._send(part)
                finally:
                    here.sends = outer
            elif seat is None or not self._start(seat):
                return

    def _batch(self) -> int:
        decision = self.state.decision
        if decision is None or decision.plan.model != PROCESSES:
            return 1
        return max(1, min(decision.slice, self.waiting() // (2 * decision.plan.workers)))

    def _ahead(self) -> int:
        """How many messages wait for each worker process."""
        seconds = self._batch() * self._each()
        return max(1, min(_MOST_AHEAD, math.ceil(_AHEAD / seconds))) if seconds else 1

    # ---- threads

    def _start(self, seat: Seat) -> bool:
        """Have a thread make calls; return whether it can be had."""
        try:
            _ = self.engine.threads().submit(self._drain, seat)
        except (
            BaseException
        ) as error:  # there are no more threads; or a signal's handler raised, and the thread may run
            with self.lock:
                given_up, seat.coming = seat.coming, False
                part = None
                if given_up:
                    self._coming -= 1
                    self.seats.discard(seat)
                    self.full = False
                    alone = not self.seats and not self._messages and isinstance(error, Exception)
                    part = self.pop(self.waiting()) if alone else None
            if given_up:
                self.engine.give_back(seat)
            if part is not None:  # who waits is told
                self._over(part, [Raised(error)] * part.size, raised=True)
            if not isinstance(error, Exception):
                raise
            return False
        return True

    def _next(self, seat: Seat) -> Part | None:
        """A call for a seat; the seat is given up where there is none, or a seat too many. The lock is held."""
        if len(self.seats) <= max(self._limits()[0], 1 if self._kept else 0):
            part = self._kept.pop() if self._kept else self.pop(1)
            if part is not None:
                assert isinstance(part, Part)
                return part
        self.seats.discard(seat)
        if not self.seats and self._more:
            self._more = 0
            self.set_room()
        return None

    def _drain(self, seat: Seat) -> None:
        """Make calls, one after the other: what a seat's thread does."""
        with self.lock:
            if not seat.coming:
                return  # it was given up meanwhile
            seat.coming = False
            self._coming -= 1
        outer, here.seat = getattr(here, "seat", None), seat
        try:
            self._make_all(seat)
        finally:
            here.seat = outer
            with self.lock:
                self.seats.discard(seat)
                self.full = False
            self.flush()
            self.engine.leave_seat(seat)
            if not self.engine.starts_soon():
                self._go_on_alone()
            self.fill()
            self._tell_rest()

    def _go_on_alone(self) -> None:
        """Where processes take long to start, and have been given all that there is, take some of it back."""
        with self.lock:
            none_left = bool(self._under_way) and not (self.seats or self.waiting() or self.engine.processes_ready)
        if none_left:
            self.recall(1)

    def processes_begin(self) -> None:
        """There are processes now, or there will not be any."""
        self._pauses = False
        super().processes_begin()

    def tick(self) -> bool:
        """Look at calls that take long; go on without processes that should be there by now."""
        if self._pauses and not self.engine.starts_soon():
            self._pauses = False
            self.set_room()
            self._go_on_alone()
            self.fill()
        return super().tick()

    def _make_all(self, seat: Seat) -> None:
        meter, state = seat.meter, self.state
        self._number += 1
        turn = self._number % _MEASURED == 0
        measured = turn or self._is_worth_measuring()
        meter.start()
        self.look()
        while self.make_next(seat, meter):
            learns = (state.decision is None or state.unproven is not None) and self._has_news(meter)
            measured = measured or self._is_worth_measuring()
            if learns or (measured and time.perf_counter_ns() - meter.began >= self._slice_ns()):
                self._learn(meter, seat)
                measured = True
        if measured:
            self._learn(meter, seat, last=True)

    def _slice_ns(self) -> int:
        """How long a thread's calls are until it is learnt from them."""
        if not self._in_company():
            return SLICE_NS
        known = self.state.unproven is None and len(self.state.crowd.samples) >= _CROWD_KNOWN
        return (_LONG_CROWD_SLICES if known else _CROWD_SLICES) * SLICE_NS

    def _is_worth_measuring(self) -> bool:
        """Whether each thread's calls are looked at: there are few threads, and calls are long, or nobody knows how long."""
        state = self.state
        few = state.decision is None or state.decision.plan.workers <= _FEW
        return few and (state.figures.wall > 1e-3 or not state.figures.samples)

    def make_next(self, seat: Seat, meter: Meter) -> bool:
        """Make a call for a seat, or some; return whether there was one."""
        with self.lock:
            part = self._next(seat)
        if part is None:
            return False
        for call, sink in zip(part.calls, part.sinks, strict=True):
            self._make(Part([call], [sink]), meter)
        return True

    def _make(self, part: Part, meter: Meter) -> None:
        begun = self.begin(part)
        if begun is None:
            return
        call, state = begun.calls[0], self.state
        if not state.figures.calls and state.size_arguments(call):
            meter.start()
        meter.running = True
        began = time.perf_counter_ns()
        outcome = _calls.make(call)
        meter.running = False
        meter.ended(1, began)
        if not state.figures.result_sized and not isinstance(outcome, Raised):
            state.size_result(outcome)
        with self._tally:
            self.made += 1
        self.deliver(begun, [outcome], raised=isinstance(outcome, Raised))
        if self.made >= self._next_look:
            self._look_at_pace()

    # ---- processes, and the loop

    def _send(self, part: Part | Lot) -> None:
        decision = self.state.decision
        if decision is not None and decision.plan.model == ASYNCIO:
            assert isinstance(part, Part)
            self._send_to_loop(part)
            return
        if why := part.why_not_leave(self.state.why_not_leave):
            self._keep(part, why)
            return
        begun = self.begin(part) if isinstance(part, Part) else part
        if begun is None:
            self._arrive()
            return
        try:
            message = begun.message(self._needs(begun), measured=self._is_measured(begun))
            future = self.engine.processes().submit(*message)
            if future.done() and _is_not_picklable(error := future.exception()):
                self._keep(begun, f"has arguments that cannot be pickled: {error}")  # they have not left
                return
        except BaseException as error:  # the pool is broken, say
            if self._never_began(error) and not self.engine.processes_ready:
                self._keep(begun, self.state.refused.get(PROCESSES, f"cannot run in processes: {error}"))
                return
            self._over(begun, [Raised(error)] * begun.size, raised=True)
            self._arrive()
            return
        with self.lock:
            self._under_way[future] = None
        future.add_done_callback(partial(self._arrived, begun))

    def _is_measured(self, part: Part | Lot) -> bool:
        """Whether a process is to say what calls take."""
        state = self.state
        self._sent += 1
        known = state.unproven is None and len(state.crowd.samples) > _FEW and part.size * self._each() < _SHORT_MESSAGE
        return not known or self._sent % _MEASURED_THERE == 0

    def _contexts(self, _part: Part | Lot) -> list[Context | None]:
        """The contexts that calls are to be made in."""
        return [call.context for call in _part.calls] if isinstance(_part, Part) else [None]

    def _needs(self, part: Part | Lot) -> tuple[bytes, ...]:
        """What a process has to have for a part.

        A `map` is made with what there was when it began; who submits may have changed it since the last one.
        """
        first, anew = self._messages <= 1, isinstance(part, Part)
        if isinstance(part, Part) and len(part.calls) == 1:
            [call] = part.calls
            needs = self.state.needs(call.function)
            return (needs.message(first=first, anew=anew, setting=setting_in(call.context)),)
        settings = set(map(setting_in, self._contexts(part)))
        setting = settings.pop() if len(settings) == 1 else None
        functions = [part.function] if isinstance(part, Lot) else [call.function for call in part.calls]
        different = {id(function): function for function in functions}.values()
        known = {id(each): each for each in map(self.state.needs, different)}.values()
        return tuple({each.message(first=first, anew=anew, setting=setting) for each in known})

    def _never_began(self, error: BaseException) -> bool:
        """Whether this is what comes of processes that could not be started, rather than of one that has died."""
        from concurrent.futures.process import BrokenProcessPool

        from plait.errors import WorkerDied

        return isinstance(error, BrokenProcessPool) and not isinstance(error, WorkerDied)

    def recall(self, most: int = ANY) -> None:
        """Take back what processes have not begun, the last first, or so many messages of it."""
        with self.lock:
            self._late = True
            messages = list(self._under_way)[: -most - 1 : -1]
            self._recalled.update(messages)
        for future in messages:
            if not future.cancel():
                self._recalled.discard(future)

    def _keep(self, part: Part | Lot, why: str) -> None:
        """A part may not leave, and nor does anything of its function from now on."""
        with self.lock:
            self.keep(part)
            self._messages -= 1
        self._refuse(why)
        self.fill()

    def _refuse(self, why: str) -> None:
        """Let no more calls leave."""
        with self.state.lock:
            self.state.refused[PROCESSES] = why
            self._decide()

    def _arrived(self, part: Part | Lot, future: concurrent.futures.Future[Any]) -> None:
        with self.lock:
            del self._under_way[future]
        numbers: tuple[int, ...] = ()
        outcomes: list[Any] | Packed | Differs
        try:
            outcomes, raised, numbers = future.result()
            if isinstance(outcomes, Differs):
                self._keep(part, f"may not leave this process: it {outcomes.what}")
                return
            if isinstance(outcomes, Packed):
                outcomes = outcomes.outcomes()
        except BaseException as error:  # it was cancelled; a worker has died; what came cannot be read
            if future.cancelled() and future in self._recalled:  # it has not begun
                with self.lock:
                    self._recalled.discard(future)
                    self.keep(part)
                self.flush()  # of what was cancelled meanwhile there is an outcome now
                self._arrive()
                return
            if self._never_began(error) and self.engine.processes_never_began():
                self._keep(part, self.state.refused.get(PROCESSES, "cannot run in processes"))
                return
            if _calls.was_not_read(error):  # no call of it has begun
                self._keep(part, f"cannot be loaded by a worker process: {error}")
                return
            outcomes, raised = [Raised(_named(error, self.state.name))] * part.size, True
            if _is_not_picklable(error):
                self._refuse(f"returns what cannot be pickled: {error}")
        if raised and (why := next((each.stays for each in outcomes if type(each) is Raised and each.stays), "")):
            self._refuse(why)
        with self._tally:
            self.made += len(outcomes)
            self._made_elsewhere += len(outcomes)
        try:
            if len(outcomes) < part.size:
                self.take_back(part, len(outcomes))
            self._over(part, outcomes, raised=raised)
        finally:
            self._arrive()
        if numbers and (seen := self._whole_slice(Sample(*numbers))) is not None:
            self._learn_from(seen)
        if self.made >= self._next_look:
            self._look_at_pace()

    def _whole_slice(self, sample: Sample) -> Sample | None:
        """What calls in processes took since the last slice, if it is a slice by now. The first ones are believed at once."""
        with self._tally:
            whole = sample if self._part is None else self._part.with_more(sample)
            self._part = whole if whole.wall < SLICE_NS and len(self.state.crowd.samples) > _FEW else None
            return whole if self._part is None else None

    def _send_to_loop(self, part: Part) -> None:
        [call] = part.calls
        future = self.engine.loop().submit(call.function, call.args, call.kwargs)

        def ended(future: concurrent.futures.Future[Any]) -> None:
            error = _cancelled() if future.cancelled() else future.exception()
            self._over(part, [future.result() if error is None else Raised(error)], raised=error is not None)
            self._arrive()

        future.add_done_callback(ended)

    def _over(self, part: Part | Lot, outcomes: list[Any], *, raised: bool) -> None:
        self.deliver(part, outcomes, raised=raised)
        self.flush()

    def _arrive(self) -> None:
        with self.lock:
            self._messages -= 1
        self.fill()
        self._tell_rest()

    def _tell_rest(self) -> None:
        with self.lock:
            if not self.idle():
                return
        self.tell_made()
        with self.lock:
            idle = self.idle()
            while idle and self._bells:
                self._bells.pop().release()
        if idle:
            self.engine.settle()

    def stuck(self) -> bool:
        """Whether calls wait while those that have threads do little but wait too."""
        with self.lock:
            if not self.has_waiting() or self._coming:
                return False
            meters = [seat.meter for seat in self.seats if seat.meter.running]
        samples = [sample for meter in meters if (sample := meter.glance()) is not None]
        return bool(samples) and sum(sample.cpu for sample in samples) < 0.5 * sum(sample.alone for sample in samples)

    def in_a_hurry(self) -> bool:
        """Whether it is to be looked at soon again."""
        return self._pauses


def _cancelled() -> BaseException:
    import concurrent.futures

    return concurrent.futures.CancelledError()


def _is_not_picklable(error: BaseException | None) -> bool:
    from plait.errors import NotPicklable

    return isinstance(error, NotPicklable)


def _named(error: BaseException, function: str) -> BaseException:
    """The error with the function that was called, if it names the pool's own that called it."""
    from plait.errors import WorkerDied

    if not isinstance(error, WorkerDied) or error.task is None:
        return error
    fields = {name: getattr(error, name) for name in ("pid", "signal", "exitcode", "tries", "max_tries", "hint")}
    told = WorkerDied(task=function, **fields)
    told.__cause__ = error.__cause__
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told
