"""What a flow's calls tell of their function while they are made: it is learnt from them, and decided anew.

The calls themselves are handed over in `_flow.py`.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from typing import TYPE_CHECKING

from plait._executor import uninterrupted
from plait.auto._choice import ASYNCIO, PROCESSES, THREADS
from plait.auto._figures import Figures, Sample
from plait.auto._function import FIRST_MUCH_LONGER, LEARN_SECONDS

if TYPE_CHECKING:
    from plait.auto._engine import Engine
    from plait.auto._function import Function
    from plait.auto._meter import Meter
    from plait.auto._seat import Seat

#: Seconds of calls that say something of their pace: of those that wait, of those that compute; and how many calls, of those
#: that wait in all, of those that compute for each worker, where they are not long.
_PACE, _PACE_COMPUTING, _PACE_CALLS, _PACE_LONG = 0.004, 0.02, 4, 0.05

#: Slices of a plan's calls after which it is known how long they take, and how many calls may wait for one another before.
_KNOWN, _CROWD = 3, 8

#: And after which their length is known about.
_FEW = 2

#: Which part of their time calls wait more than was thought to be others.
_OTHERWISE = 0.25

#: Calls that compute so many times as long are others: so much is not because cores are shared.
_GROWN = 1.6

#: Threads that are added though no call has ended, since all that have begun do nothing but wait.
_MOST_UNSEEN = 128

#: How many times as long as before calls take that are looked at, since they may have turned to computing; how many of them;
#: and after how many turns not any more.
_LATE, _GLANCES, _TURNS = 2.0, 8, 3

#: Nanoseconds after which a call that still runs is long enough to decide on.
_LONG_NS = 3_000_000

#: Slices of a function at most that are not learnt from; of the very first ones, no longer ones than so many nanoseconds.
_SPARED, _SPARED_FIRST_NS = 3, 20_000_000

#: Nanoseconds that a call among others may take longer because garbage is collected, and not because it is a longer one.
_COLLECTED_NS = 100_000_000

#: Seconds of calls after which processes may be started, though it is not decided yet.
_FORESEEN = 0.0003

ANY = 1 << 30


class Learner:
    """See the module."""

    def __init__(self, state: Function, engine: Engine) -> None:
        self.state = state
        self.engine = engine
        # Finalizers may run anywhere, and may use the pool.
        self.lock = threading.RLock()
        self.seats: set[Seat] = set()
        self._coming: int = 0
        """Seats whose threads have not taken a call yet."""
        self._messages: int = 0
        """Messages that are with processes, or tasks on the loop."""
        self.made: int = 0
        self._tally = threading.RLock()
        """For `made`: without a GIL, counts of several threads are lost otherwise, and the pace looks slower than it is.

        Who counts may be asked meanwhile, by a handler of a signal or a finalizer, what was made.
        """
        self._made_elsewhere: int = 0
        """How many of these processes have made."""
        self._told_of = 0, 0
        """How many of both the function was told of."""
        self._since = (0, 0.0)
        """Calls that had been made, and when, at the beginning of those whose pace is looked at."""
        self._next_look = ANY
        """So many calls are made when their pace is looked at."""
        self._slow_start = False
        self._made_then = -1
        """Calls that had been made when the watch was last here."""
        self._stale: set[Seat] = set()
        """Seats whose meters count since times when they were not alone."""
        self._learnt = 0
        self._elsewhere = Figures()
        """What calls in processes take there, each of which has a GIL of its own."""
        self._glanced = 0.0
        """How long a call takes that was decided on before it ended; 0 where that was not so."""
        self._glanced_at: Seat | None = None
        """Whose call that was, until it ends."""
        self._turned = 0
        """Slices in a row whose calls compute in threads that were to wait there."""
        self._foreseen = False
        """Whether processes were started before it was decided."""
        self._left_processes = False
        """Whether other models are used now, and what processes have not begun is to be taken back."""

    # ---- what it knows of the calls

    def waiting(self) -> int:
        """How many calls can be taken now. The lock is held."""
        raise NotImplementedError

    def left(self) -> int:
        """How many calls are still to be made, as far as anybody knows."""
        raise NotImplementedError

    def _limits(self) -> tuple[int, int]:
        """How many threads and messages there may be."""
        raise NotImplementedError

    def set_room(self) -> None:
        """Go by what is decided now."""
        raise NotImplementedError

    def fill(self) -> None:
        """Hand over calls while there are some, and room for them."""
        raise NotImplementedError

    def flush(self) -> None:
        """Tell those who wait of all that was delivered."""

    def look(self) -> None:
        """Have the watch look at it."""
        raise NotImplementedError

    def start_processes(self) -> None:
        """See to it that there are processes."""
        raise NotImplementedError

    # ---- what is learnt

    def tell_made(self) -> None:
        """Let the function know how many calls were made as it is decided now."""
        with self.state.lock:
            with self._tally:
                made, elsewhere = self.made, self._made_elsewhere
            before, elsewhere_before = self._told_of
            self.state.count(made - before, elsewhere - elsewhere_before)
            self._told_of = made, elsewhere

    def _learn(self, meter: Meter, seat: Seat | None = None, *, last: bool = False) -> None:
        if meter.calls:
            alone = not self._in_company() and len(self.seats) <= 1
            sample = meter.sample(alone=alone)  # in any case: the next one's waits for a core begin here
            if not self._is_spared(meter):
                uninterrupted(functools.partial(self._learn_from, sample, seat))
        if not last:
            meter.start()
        self.flush()

    def _is_spared(self, meter: Meter) -> bool:
        """Whether these calls say little: garbage was collected, which may take long, and is that of many calls."""
        state = self.state
        if state.decision is not None or state.spared >= _SPARED:
            return False
        if not state.figures.samples and meter.inside > _SPARED_FIRST_NS:
            return False  # to go without it may take as long again
        spared = meter.has_collected()
        state.spared += spared
        return spared

    def _has_news(self, meter: Meter) -> bool:
        """Whether calls that were measured may be enough to decide, or are as many as all those before."""
        figures = self.state.figures
        return meter.calls >= figures.remembered or meter.inside + 1e9 * figures.seconds >= 1e9 * LEARN_SECONDS

    def _in_company(self) -> bool:
        """Whether calls share the process, or the cores, with others of the same plan."""
        decision = self.state.decision
        return decision is not None and decision.plan.workers > 1

    def _begin_anew(self, sample: Sample | None) -> None:
        """A crowd's calls are others than before: see what one takes by itself, if there are enough to be worth it.

        A `sample` says what one takes in a process, and of those that have turned to computing in a thread, too. The first ones
        in a process say little: much is new to a worker, and they are as few as would be many if they were what they were taken
        for.
        """
        state, decision = self.state, self.state.decision
        if decision is None:
            return
        left, workers = self.left(), decision.plan.workers
        turned = sample is not None and self._turned > 0
        if left <= 2 * (min(workers, self.engine.machine.cores) if turned else workers):
            return
        self._turned = 0
        if sample is not None and (turned or decision.plan.model == PROCESSES):
            state.begin_anew(sample)
            self._decide()
        else:
            self.tell_made()
            state.begin_anew(None)
            self._next_look = ANY
            self._stale = set(self.seats)
            self.set_room()

    def _has_turned(self, sample: Sample) -> bool:
        """Whether calls that were to wait in threads compute, so many times in a row.

        A crowd's waits for the GIL look like any others, and its pace as if there were too many of them.
        """
        state, figures = self.state, self.state.figures
        threads = state.decision is not None and state.decision.plan.model == THREADS
        computes = threads and figures.blocked > 0.5 * figures.wall and figures.bound_otherwise(sample)
        self._turned = self._turned + 1 if computes else 0
        return self._turned >= _KNOWN + state.anew

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

    def _prove(self, sample: Sample) -> bool:
        """Hold what other pools have left against the first calls here; return whether it is so no more.

        Calls that have waited for what is at hand now would be made by many threads that are in each other's way.
        """
        state, seen = self.state, self.state.unproven
        if seen is None:
            return False
        seen.add(sample)
        if len(seen.samples) < _KNOWN:
            return False
        if seen.belie(state.figures):
            return True  # and again, should there be too few calls now to begin anew
        state.unproven = None
        return False

    def _correct(self) -> None:
        """Where it was decided by first calls that took long, or by calls that have grown since, go by the last ones.

        Else a plan would look slow, or fast, and others that nobody has seen as they were predicted by the first ones.
        """
        state, decision, figures = self.state, self.state.decision, self.state.figures
        if decision is None or decision.plan.model not in (THREADS, PROCESSES):
            return
        threads = decision.plan.model == THREADS
        if threads and figures.are_of_first_calls(state.crowd):
            state.figures = figures.recalled(state.crowd)
            state.paces.forget()
        elif figures.are_short_beside(state.crowd, take_turns=threads):
            state.paces.grew(*decision.plan.key, state.crowd.growth)
            state.figures = figures.grown(state.crowd)
            state.crowd.has_grown()
        else:
            return
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
            state.total = own if state.total is None else state.total.with_more(own)
            figures = state.crowd if self._in_company() and state.figures.samples else state.figures
            ended = seat is not None and seat is self._glanced_at  # what it was decided by is known now
            if ended:
                self._glanced_at = None
            if state.decision is None or not state.figures.samples or ended:
                state.figures.add(sample)
                if state.decision is not None:
                    self._decide_again()
                elif state.known(soon=self._foreseen):
                    self._decide()
                elif state.figures.seconds > _FORESEEN:
                    self._foresee()
            elif figures is state.crowd:
                # Like is compared with like: waits for the GIL and a core belong to the plan.
                sample = Sample(sample.calls, sample.wall, sample.cpu)
                state.figures.calls += sample.calls
                patience = (2 if state.decision.plan.model == PROCESSES else 3) + state.anew
                belied = self._prove(own)
                if belied or self._has_turned(own) or figures.changed(sample, patience=patience, factor=3.0):
                    self._begin_anew(None if belied else own)
                else:
                    figures.add(sample)
                    self._compare(own)
                    self._correct()
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
            self.look()
            self.fill()

    def _recall(self) -> None:
        """Begin as other pools have found to be best."""
        if self.state.recalls(self.left(), self.engine.start_seconds(), self._start_early):
            self._decide()

    def _start_early(self) -> None:
        self._foreseen = True
        self.start_processes()

    def take_up(self) -> None:
        """Decide for the calls that there are now: what is known may be of fewer ones, or of other days."""
        with self.state.lock:
            state, decision = self.state, self.state.decision
            if decision is None and state.prior is not None:
                self._recall()
                return
            if decision is None or decision.plan.model == ASYNCIO or self._glanced or not state.figures.samples:
                return  # no call has ended that it could be gone by
            self._decide()
            self._slow_start = True
            self._begin_pace()

    def _foresee(self) -> None:
        """Let processes start while the function is still learnt, if they are what it comes to."""
        state, left, start = self.state, self.left(), self.engine.start_seconds()
        if self._foreseen or not state.foresees_processes(left, start):
            return
        self._foreseen = True
        if state.figures.remembered == 1 and state.foresees_processes(left, start, FIRST_MUCH_LONGER):
            self._decide()  # what starts needs the cores: to learn more would only delay it
        else:
            self.start_processes()

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
            was = None if before is None else before.plan.model
            self._left_processes = was == PROCESSES and decision.plan.model != PROCESSES
            self._slow_start = True
            self._elsewhere.forget()
            self._begin_pace()
        if decision.plan.model == PROCESSES:
            self.start_processes()
            self.set_room()

    # ---- how fast it is

    def _begin_pace(self) -> None:
        """Look at the pace of the calls from here on."""
        decision = self.state.decision
        if decision is None or decision.plan.workers == 1 or not self.state.paces.wants(*decision.plan.key):
            self._next_look = ANY
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

    def _each(self) -> float:
        """How many seconds a call takes where it is made now; 0 where nobody knows."""
        state = self.state
        return state.crowd.wall if self._in_company() and len(state.crowd.samples) >= _FEW else state.figures.wall

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
            if processes and not self.engine.processes_ready:  # a thread makes calls meanwhile
                self._begin_pace()
                return
            least = _PACE_COMPUTING if self._computes() else _PACE
            if self._slow_start and processes and seconds < least:
                self._next_look = self.made + decision.plan.workers
                return
            if self._slow_start or not full or not state.figures.samples:
                self._begin_pace()
                self._slow_start = False
                return
            if seconds < least:
                still = int(calls * (least / seconds - 1)) if seconds > 0 else 0
                self._next_look = self.made + max(decision.plan.workers, min(still, calls))
                return
            state.add_pace(decision.plan, calls, seconds)
            before = decision.plan.key
            self._decide_again()
            if state.decision is None or state.decision.plan.key == before:
                self._begin_pace()
        self.look()
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
        if self._all_wait_unseen(meters) or self._have_turned(meters):
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
                if sample.alone < _COLLECTED_NS and state.figures.samples and seat.meter.has_collected():
                    continue
                with state.lock:
                    self._decide(state.figures.if_only(state.assume_longer(sample)))
                    self._glanced_at = seat
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

    def _have_turned(self, meters: list[Meter]) -> bool:
        """Where calls have waited, and most of those that run compute and do not end, give the others to processes.

        Returns whether it did. Calls that have begun stay, and take turns for long: they need not end to be known.
        """
        state, decision, known = self.state, self.state.decision, self.state.figures
        if (
            decision is None
            or decision.plan.model != THREADS
            or known.blocked < 0.5 * known.wall
            or state.anew >= _TURNS
        ):
            return False
        late = [meter for meter in meters if meter.is_late(_LONG_NS, _LATE * 1e9 * known.wall)]
        if len(late) < max(2, len(meters) // 2):
            return False
        late.sort(key=lambda meter: meter.began)
        samples = [sample for meter in late[:_GLANCES] if (sample := meter.glance()) is not None]
        if not samples or not known.bound_otherwise(seen := functools.reduce(Sample.with_more, samples)):
            return False
        with state.lock:
            figures = state.figures.if_only(state.assume_longer(seen))
            if not state.would_leave(self.left(), self.engine.start_seconds(), figures):
                return False  # or not yet: the longer they take, the more it is worth
            self._decide(figures)
        self.flush()
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
