"""Calls of one function that are to be made: threads take them one by one, worker processes get some at a time.

A thread that makes calls has a *seat*. How many seats and how many messages to processes a flow may have follows from what was
decided for its function, which is decided anew while it runs: threads leave between two calls, others come.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING, Any

from plait._executor import uninterrupted
from plait.auto import _calls
from plait.auto._calls import Lot, Packed, Part, Raised
from plait.auto._choice import ASYNCIO, PROCESSES, SLICE, THREADS
from plait.auto._figures import Figures, Sample
from plait.auto._meter import Meter
from plait.errors import NotPicklable

if TYPE_CHECKING:
    import concurrent.futures

    from plait.auto._engine import Engine
    from plait.auto._function import Function

#: Seconds of work that wait in the queue for each worker process, beside what it works on: so long it may take until a core is
#: free for the thread that sends more. And messages, which are one at least.
_AHEAD, _MOST_AHEAD = 0.006, 6

#: Tasks on the loop at a time, for one `map`.
_LOOP_TASKS = 1000

#: Seconds of calls that say something of their pace: of those that wait, of those that compute; and how many calls, of those
#: that wait in all, of those that compute for each worker, where they are not long.
_PACE, _PACE_COMPUTING, _PACE_CALLS, _PACE_LONG = 0.004, 0.02, 4, 0.05

#: Slices of a plan's calls after which it is known how long they take, and how many calls may wait for one another before.
_KNOWN, _CROWD = 3, 8

#: Which part of their time calls wait more than was thought to be others.
_OTHERWISE = 0.25

#: Calls that compute so many times as long are others: so much is not because cores are shared.
_GROWN = 1.6

#: Threads that are added though no call has ended, since all that have begun do nothing but wait.
_MOST_UNSEEN = 128

#: Of threads that do little, or that are more than a few, so many let their calls go unmeasured for one that is.
_MEASURED, _FEW = 8, 4

#: How many times as long slices are where threads share the GIL, which is held while clocks are read.
_CROWD_SLICES = 4

#: Nanoseconds after which a call that still runs is long enough to decide on.
_LONG_NS = 3_000_000

#: Seconds of calls after which processes may be started, though it is not decided yet.
_FORESEEN = 0.001

_ANY = 1 << 30

SLICE_NS = int(SLICE * 1e9)

here = threading.local()
"""`seat`: that of the calling thread, if it has one."""


class Seat:
    """A thread that makes calls of a flow, or is about to."""

    __slots__ = ("coming", "engine", "meter", "nests")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.coming = True
        """Whether its thread has not begun."""
        self.meter = Meter()
        self.nests = False
        """Whether a call of it has given the pool calls of its own, which it may wait for."""


class Flow:
    """See the module. Who has calls gives them by `pop`, and gets outcomes by `deliver`."""

    def __init__(self, state: Function, engine: Engine) -> None:
        self.state = state
        self.engine = engine
        # Finalizers may run anywhere, and may use the pool.
        self.lock = threading.RLock()
        self._rest = threading.Condition(self.lock)
        self.seats: set[Seat] = set()
        self._coming = 0
        """Seats whose threads have not taken a call yet."""
        self._messages = 0
        self._kept: list[Part] = []
        """Parts that were to leave and may not."""
        self._more = 0
        """Seats beyond those decided for: calls that have one wait for calls that have none."""
        self.made = 0
        self._tally = threading.Lock()
        """For `made`: without a GIL, counts of several threads are lost otherwise, and the pace looks slower than it is."""
        self._told_of = 0
        """How many of these the function was told of."""
        self._since = (0, 0.0)
        """Calls that had been made, and when, at the beginning of those whose pace is looked at."""
        self._next_look = _ANY
        """So many calls are made when their pace is looked at."""
        self._slow_start = False
        self._made_then = -1
        """Calls that had been made when the watch was last here."""
        self._stale: set[Seat] = set()
        """Seats whose meters count since times when they were not alone."""
        self.most = 1
        """So many seats there may be."""
        self.room = 1
        """So many seats there may be before a new call needs no thought."""
        self._number = 0
        """Seats so far, about: where two threads count at a time, another one of them is measured."""
        self._learnt = 0
        self._elsewhere = Figures()
        """What calls in processes take there, each of which has a GIL of its own."""
        self._glanced = 0.0
        """How long a call takes that was decided on before it ended; 0 where that was not so."""
        self._foreseen = False
        """Whether processes were started before it was decided."""

    # ---- for those who have calls

    def pop(self, most: int) -> Part | Lot | None:
        """Take out as many calls, or fewer; None if there are none now. The lock is held."""
        raise NotImplementedError

    def waiting(self) -> int:
        """How many calls can be taken now. The lock is held."""
        raise NotImplementedError

    def left(self) -> int:
        """How many calls are still to be made, as far as anybody knows."""
        raise NotImplementedError

    def begin(self, part: Part) -> Part | None:
        """The part without calls that were cancelled; None if no call is left."""
        return part

    def keep(self, part: Part | Lot) -> None:
        """Have threads make calls that may not leave. The lock is held."""
        assert isinstance(part, Part)
        self._kept.append(part)

    def take_back(self, part: Part | Lot, outcomes: list[Any]) -> bool:
        """Have calls of a part made by others that were not; whether there is an error among the outcomes for it."""
        raise NotImplementedError

    def deliver(self, part: Part | Lot, outcomes: list[Any], *, raised: bool) -> None:
        """Hand out what came of a part; `raised` says that there are errors among it."""
        raise NotImplementedError

    def flush(self) -> None:
        """Tell those who wait of all that was delivered."""

    def cancel(self) -> None:
        """Drop what was not handed over."""
        raise NotImplementedError

    # ---- the flow

    def idle(self) -> bool:
        """Whether nothing is under way, and nothing waits. The lock is held."""
        return not (self.seats or self._messages or self._kept or self.waiting())

    def wait(self) -> None:
        """Return when it is idle."""
        self.fill()  # who queued a call may have been interrupted before it was handed over
        with self.lock:
            self._rest.wait_for(self.idle)

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
        messages = workers * (1 + self._ahead()) if self.engine.processes_take() else 0
        # One thread goes on until there are processes.
        return 1 if self._kept or not self.engine.processes_ready else 0, messages

    def add_seats(self) -> None:
        """Let there be more threads: those that there are wait for calls that wait for one."""
        with self.lock:
            self._more += max(1, len(self.seats) // 2)
            self.set_room()
        self.fill()

    def set_room(self) -> None:
        with self.lock:  # or what was decided before may be written over what was decided since
            self.most, messages = self._limits()
            self.room = _ANY if messages else self.most

    def fill(self) -> None:
        """Hand over calls while there are some, and room for them."""
        with self.lock:
            some = self._has_room()
        if some:
            uninterrupted(self._fill)

    def _has_room(self) -> bool:
        """Whether there is a call to hand over, and room for it. The lock is held."""
        threads, messages = self._limits()
        waiting = self.waiting()
        return bool(waiting and self._messages < messages) or (
            len(self.seats) < threads and self._coming < waiting + len(self._kept)
        )

    def _fill(self) -> None:
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
                self._send(part)
            elif seat is None or not self._start(seat):
                return

    def _batch(self) -> int:
        decision = self.state.decision
        if decision is None or decision.plan.model != PROCESSES:
            return 1
        return max(1, min(decision.slice, self.waiting() // (2 * decision.plan.workers)))

    def _ahead(self) -> int:
        """How many messages wait for each worker process."""
        seconds = self._batch() * self.state.figures.wall
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
            self.flush()
            self.engine.leave_seat(seat)
            self.fill()
            self._tell_rest()

    def _make_all(self, seat: Seat) -> None:
        meter, state = seat.meter, self.state
        self._number += 1
        turn = self._number % _MEASURED == 0
        measured = turn or self._is_worth_measuring()
        meter.start()
        self.engine.look(self)
        while self.make_next(seat, meter):
            learns = state.decision is None and meter.calls >= state.figures.remembered
            least = _CROWD_SLICES * SLICE_NS if self._in_company() else SLICE_NS
            measured = measured or self._is_worth_measuring()
            if learns or (measured and time.perf_counter_ns() - meter.began >= least):
                self._learn(meter, seat)
                measured = True
        if measured:
            self._learn(meter, seat, last=True)

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
        if not state.figures.calls:
            state.size_arguments(call)
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
            future = self.engine.processes().submit(*begun.message())
            if future.done() and isinstance(error := future.exception(), NotPicklable):
                self._keep(begun, f"has arguments that cannot be pickled: {error}")  # they have not left
                return
        except BaseException as error:  # the pool is broken, say
            self._over(begun, [Raised(error)] * begun.size, raised=True)
            self._arrive()
            return
        future.add_done_callback(partial(self._arrived, begun))

    def _keep(self, part: Part | Lot, why: str) -> None:
        """A part may not leave, and nor does anything of its function from now on."""
        with self.lock:
            self.keep(part)
            self._messages -= 1
        with self.state.lock:
            self.state.refused[PROCESSES] = why
            self._decide()
        self.fill()

    def _arrived(self, part: Part | Lot, future: concurrent.futures.Future[Any]) -> None:
        sample: Sample | None = None
        outcomes: list[Any] | Packed
        try:
            outcomes, raised, sample = future.result()
            if isinstance(outcomes, Packed):
                outcomes = outcomes.outcomes()
        except BaseException as error:  # it was cancelled; a worker has died; what came cannot be read
            if isinstance(error, BrokenProcessPool) and self.engine.processes_never_began():
                self._keep(part, self.state.refused.get(PROCESSES, "cannot run in processes"))
                return
            outcomes, raised = [Raised(error)] * part.size, True
            if isinstance(error, NotPicklable):
                with self.state.lock:
                    self.state.refused[PROCESSES] = f"returns what cannot be pickled: {error}"
                    self._decide()
        with self._tally:
            self.made += len(outcomes)
        if len(outcomes) < part.size:
            raised = self.take_back(part, outcomes) or raised
        self._over(part, outcomes, raised=raised)
        self._arrive()
        if sample is not None:
            self._learn_from(sample)
        if self.made >= self._next_look:
            self._look_at_pace()

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
        self.tell_made()
        with self.lock:
            idle = self.idle()
            if idle:
                self._rest.notify_all()
        if idle:
            self.engine.settle()

    # ---- what is learnt

    def tell_made(self) -> None:
        """Let the function know how many calls were made as it is decided now."""
        with self.state.lock:
            made = self.made
            self.state.count(made - self._told_of)
            self._told_of = made

    def _learn(self, meter: Meter, seat: Seat | None = None, *, last: bool = False) -> None:
        if meter.calls:
            uninterrupted(partial(self._learn_from, meter.sample(), seat))
        if not last:
            meter.start()
        self.flush()

    def _in_company(self) -> bool:
        """Whether calls share the process, or the cores, with others of the same plan."""
        decision = self.state.decision
        return decision is not None and decision.plan.workers > 1

    def _begin_anew(self, sample: Sample) -> None:
        """A crowd's calls are others than before: see what one takes by itself, if there are enough to be worth it."""
        state, decision = self.state, self.state.decision
        if decision is None or self.left() <= 2 * decision.plan.workers:
            return
        if decision.plan.model == PROCESSES:
            state.begin_anew(sample)
            self._decide()
        else:
            state.begin_anew(None)
            self._next_look = _ANY
            self._stale = set(self.seats)
            self.set_room()

    def _compare(self, sample: Sample) -> None:
        """Where calls in processes wait or compute otherwise than those that were seen before, go by what they do there."""
        state, known = self.state, self.state.figures
        if state.decision is None or state.decision.plan.model != PROCESSES:
            return
        self._elsewhere.add(sample)
        there = self._elsewhere
        if len(there.samples) < 2 * _KNOWN:
            return
        waits = there.blocked / max(there.wall, 1e-9) - known.blocked / max(known.wall, 1e-9) > _OTHERWISE
        most = _GROWN * (1 + min(1.0, there.spread))
        if waits or not 1 / most < (there.cpu + 5e-6) / (known.cpu + 5e-6) < most:
            state.begin_anew(sample)
            for each in list(there.samples)[:-1]:
                state.figures.add(each)
            self._decide_again()

    def _was_stale(self, seat: Seat) -> bool:
        stale = seat in self._stale
        self._stale.discard(seat)
        return stale

    def processes_begin(self) -> None:
        """There are processes now."""
        with self.state.lock:
            self.set_room()
            self._slow_start = True
            self._begin_pace()
        self.fill()

    def _learn_from(self, sample: Sample, seat: Seat | None = None) -> None:
        state, own = self.state, sample
        before = state.decision
        if seat is not None and not self._in_company() and (self.seats - {seat} or self._was_stale(seat)):
            return  # it was not alone
        with state.lock:
            figures = state.crowd if self._in_company() and state.figures.samples else state.figures
            if state.decision is None or not state.figures.samples:
                state.figures.add(sample)
                if state.decision is not None:
                    self._decide_again()
                elif state.known():
                    self._decide()
                elif state.figures.seconds > _FORESEEN:
                    self._foresee()
            elif figures is state.crowd:
                # Like is compared with like: waits for the GIL and a core belong to the plan.
                sample = Sample(sample.calls, sample.wall, sample.cpu)
                state.figures.calls += sample.calls
                patience = (2 if state.decision.plan.model == PROCESSES else 3) + state.anew
                if figures.changed(sample, patience=patience, factor=3.0):
                    self._begin_anew(own)
                else:
                    figures.add(sample)
                    self._compare(own)
            elif figures.changed(sample, patience=(1 if self._glanced else 2) + state.anew):
                state.begin_anew(sample)
                self._decide_again()
            else:
                figures.add(sample)
                state.paces.check(figures.wall)
                self._learnt += 1
                if self._learnt & (self._learnt - 1) == 0:  # it is known better and better
                    figures.result_sized = False
                    self._decide_again()
        if state.decision is not before:
            self.engine.look(self)
            self.fill()

    def take_up(self) -> None:
        """Decide for the calls that there are now: what is known may be of fewer ones, or of other days."""
        with self.state.lock:
            decision = self.state.decision
            if decision is not None and decision.plan.model != ASYNCIO:
                self._decide()
                self._slow_start = True
                self._begin_pace()

    def _foresee(self) -> None:
        """Let processes start while the function is still learnt, if they are what it comes to."""
        if not self._foreseen and self.state.foresees_processes(self.left(), self.engine.start_seconds()):
            self._foreseen = True
            self.engine.start_processes(self)

    def _decide_again(self) -> None:
        decision = self.state.decision
        if decision is None or self.left() > decision.plan.workers:  # for the last few it is too late
            self._decide()

    def _decide(self, figures: Figures | None = None) -> None:
        self._glanced = 0.0 if figures is None else figures.wall
        before = self.state.decision
        self.tell_made()
        decision = self.state.decide(self.left(), self.engine.start_seconds(), figures)
        self.set_room()
        if before is None or before.plan.key != decision.plan.key:
            self._stale = set(self.seats) if before is not None and before.plan.workers > 1 else set()
            self._slow_start = True
            self._elsewhere.forget()
            self._begin_pace()
        if decision.plan.model == PROCESSES:
            self.engine.start_processes(self)

    # ---- how fast it is

    def _begin_pace(self) -> None:
        """Look at the pace of the calls from here on."""
        decision = self.state.decision
        if decision is None or decision.plan.workers == 1 or not self.state.paces.wants(*decision.plan.key):
            self._next_look = _ANY
            return
        workers = decision.plan.workers
        self._since = self.made, time.monotonic()
        # As many for each worker. The first ones of a plan are none of these, since much is new to new workers.
        each = (
            _PACE_CALLS
            if self._computes() and self.state.figures.wall < _PACE_LONG
            else math.ceil(_PACE_CALLS / workers)
        )
        self._next_look = self.made + workers * each

    def _computes(self) -> bool:
        """Whether cores, or the GIL, are what the workers share."""
        decision, figures = self.state.decision, self.state.figures
        return decision is not None and (decision.plan.model == PROCESSES or figures.blocked < 0.5 * figures.wall)

    def _look_at_pace(self) -> None:
        """Enough calls have been made in a plan to hold what was predicted of it against what is."""
        state, now = self.state, time.monotonic()
        with state.lock:
            decision = state.decision
            if decision is None or self.made < self._next_look:
                return
            with self.lock:
                threads, messages = self._limits()
                # Where calls come one by one, it is not the model that sets the pace.
                full = self.waiting() > 0 and (len(self.seats) >= threads if threads else self._messages >= messages)
            made, since = self._since
            calls, seconds = self.made - made, now - since
            processes = decision.plan.model == PROCESSES
            least = _PACE_COMPUTING if self._computes() else _PACE
            if self._slow_start and processes and seconds < least:
                self._next_look = self.made + decision.plan.workers
                return
            if self._slow_start or not full or not state.figures.samples:
                self._begin_pace()
                self._slow_start = False
                return
            if seconds < least:
                self._next_look = self.made + decision.plan.workers
                return
            state.add_pace(decision.plan, calls, seconds)
            before = decision.plan.key
            self._decide_again()
            if state.decision is None or state.decision.plan.key == before:
                self._begin_pace()
        self.engine.look(self)
        self.fill()

    def tick(self) -> bool:
        """Look at calls that take long, since others need not wait for their end; return whether it decided."""
        self.flush()
        state = self.state
        with self.lock:
            running = [seat for seat in self.seats if seat.meter.running]
            meters = [seat.meter for seat in running]
            if state.decision is not None and not self.waiting():
                return False
        if self._all_wait_unseen(meters):
            return True
        made, self._made_then = self._made_then, self.made
        if self._in_company() and made != self.made:
            return False  # others end meanwhile: it is not all calls that have become long
        each, alone = self._thought(), not self._in_company()
        for seat in running:
            if (alone and seat in self._stale) or not seat.meter.is_late(_LONG_NS, 1.5e9 * each):
                continue  # its calls began in company; or to look costs a moment, in which nobody else has the GIL
            sample = seat.meter.glance()
            if sample is not None and sample.alone >= _LONG_NS and self._is_news(sample):
                with state.lock:
                    self._decide(state.figures.if_only(state.assume_longer(sample)))
                self.flush()
                self.fill()
                return True
        return False

    def _all_wait_unseen(self, meters: list[Meter]) -> bool:
        """Where none of a plan's calls has ended yet, and all of its threads wait, add some; return whether it did."""
        state = self.state
        with state.lock:
            decision = state.decision
            if decision is None or decision.plan.model != THREADS or not self._glanced or self._coming:
                return False
            if self.made != self._since[0]:
                return False
            workers = decision.plan.workers
            if not len(meters) == workers < min(_MOST_UNSEEN, self.engine.machine.most or _MOST_UNSEEN):
                return False
            samples = [sample for meter in meters if (sample := meter.glance()) is not None]
            cpu, wall = sum(sample.cpu for sample in samples), sum(sample.alone for sample in samples)
            if len(samples) < workers or cpu * 4 * workers > wall:
                return False
            self.tell_made()
            state.take_threads(min(4 * workers, _MOST_UNSEEN, self.engine.machine.most or _MOST_UNSEEN))
            self.set_room()
            self._slow_start = True
            self._begin_pace()
        self.fill()
        return True

    def _thought(self) -> float:
        """How long a call is thought to take in the plan that is in use."""
        state, decision = self.state, self.state.decision
        if decision is None or not self._in_company():
            return state.figures.wall
        # Calls may wait for one another, those of an earlier plan among them: how long they do is not known yet.
        others = max(decision.plan.workers, len(self.seats), _CROWD)
        alone = state.figures.wall * others
        return max(alone, 2 * state.crowd.wall) if len(state.crowd.samples) >= _KNOWN else alone

    def _is_news(self, sample: Sample) -> bool:
        """Whether a call that still runs is not what was decided for."""
        state = self.state
        if state.decision is None:
            return True
        known = max(state.figures.seconds, self.made * state.figures.wall)
        if not self._glanced and known > 2e-9 * sample.alone:
            return False  # a long one among others: what they take in all is known better than what it will
        figures = state.crowd if self._in_company() and state.crowd.samples else state.figures
        wall = self._glanced or self._thought()
        each = sample.alone / sample.calls / 1e9
        return each > 2 * wall or (each > 1.5 * wall and figures.bound_otherwise(sample))

    def stuck(self) -> bool:
        """Whether calls wait while those that have threads do little but wait too."""
        with self.lock:
            if not self.waiting() or self._coming:
                return False
            meters = [seat.meter for seat in self.seats if seat.meter.running]
        samples = [sample for meter in meters if (sample := meter.glance()) is not None]
        return bool(samples) and sum(sample.cpu for sample in samples) < 0.5 * sum(sample.alone for sample in samples)

    def in_a_hurry(self) -> bool:
        """Whether it is to be looked at soon again."""
        return False


def _cancelled() -> BaseException:
    import concurrent.futures

    return concurrent.futures.CancelledError()
