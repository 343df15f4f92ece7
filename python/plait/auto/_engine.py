"""What a pool has inside: threads, processes and a loop, made when they are first needed, and who may use how many of them.

The *watch* is a thread that is there while calls are under way which may take long. It looks at them every few
milliseconds, and less and less often while nothing changes.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from plait import _core
from plait._executor import uninterrupted
from plait.auto import _calls, _main_module
from plait.auto._choice import PROCESSES, Costs, Machine, is_soon
from plait.auto._function import Function
from plait.auto._seat import here
from plait.threads._pool import ThreadPool  # first, so that at exit it is closed last

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable

    from plait.auto._backlog import Backlog
    from plait.auto._coroutines import LoopThread
    from plait.auto._flow import Flow
    from plait.auto._seat import Seat
    from plait.processes._pool import ProcessPool

#: Threads at most where nobody says.
MOST_THREADS = 256

#: Threads at most, those that were added because all others waited among them.
_MOST_AT_ALL = 4096

#: Seconds between two looks of the watch, at first and at last, and how long it stays without anything to look at.
_TICK, _TICK_MOST, _LINGER = 0.005, 0.08, 0.5

#: The switch interval while processes start, in seconds.
_SOON = 0.0002

#: Seconds without a call that ends after which calls that wait for others get more threads.
_STUCK = 0.02

#: And those which have none, but could have by what may be.
_STUCK_LONG = 0.1

_starts = {False: [0.12] * 2, True: [0.006] * 2}
"""Seconds that processes took to start the last times: where a fork server runs, and where not."""

#: Seconds for which the number of cores is taken to stay what it is: to read the quota takes longer than to make a pool.
_CORES_STAY = 5.0

_cores = (0, 0.0, 0)
"""The cores that there were, when they were counted, and of how many in the affinity mask."""

engines: weakref.WeakSet[Engine] = weakref.WeakSet()
"""All of this process, to be waited for when the interpreter exits."""


class Engine:
    """See the module. One pool has it, and what the pool has under way keeps it."""

    def __init__(self, max_workers: int | None, models: frozenset[str], costs: Costs) -> None:
        self.machine = Machine(_usable_cores(), max_workers, _core.gil_is_on())
        self.models = models
        self.costs = costs
        self.closed = False
        self._left = False
        """Whether what was learnt was left to other pools."""
        self.functions: dict[Any, tuple[Function, Backlog]] = {}
        self.maps: weakref.WeakSet[Flow] = weakref.WeakSet()
        self.processes_ready = False
        self._first: concurrent.futures.Future[float] | None = None
        """What the processes are asked first, when they start: before anything that was handed to them."""
        self._greetings: list[concurrent.futures.Future[float]] = []
        """What all of them are."""
        self._lock = threading.RLock()
        self._threads: ThreadPool | None = None
        self._processes: ProcessPool | None = None
        self._starting = self._near = False
        self._started = self._start_takes = 0.0
        self._loop: LoopThread | None = None
        self._seats = 0
        self._more = 0
        """Seats beyond the limit, for calls that others wait for."""
        self._starved: dict[Flow, None] = {}
        self._seated: set[Seat] = set()
        self._condition = threading.Condition(self._lock)
        self._looked_at: dict[Flow, None] = {}
        self._tick = _TICK
        self._watched = False
        self._pid = os.getpid()
        engines.add(self)

    # ---- executors

    def threads(self) -> ThreadPool:
        """The threads."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPool(_MOST_AT_ALL, thread_name_prefix="plait-Pool")
            return self._threads

    def processes(self) -> ProcessPool:
        """The processes."""
        from plait.auto._workers import Workers

        with self._lock:
            if self._processes is None:
                cores, most = self.machine.cores, self.machine.most
                self._processes = Workers(cores if most is None else max(1, min(cores, most)))
            return self._processes

    def loop(self) -> LoopThread:
        """The loop."""
        from plait.auto._coroutines import LoopThread

        with self._lock:
            if self._loop is None:
                self._loop = LoopThread()
            return self._loop

    def start_seconds(self) -> float:
        """Seconds until processes take calls, as far as anybody knows."""
        if self.processes_ready or PROCESSES not in self.models:
            return 0.0
        if self._starting:
            return max(0.002, self._start_takes - (time.monotonic() - self._started))
        return min(_starts[_server_runs()])  # one of them may have met with a busy machine

    def starts_soon(self) -> bool:
        """Whether processes start, and are there so soon that to make calls meanwhile would only be in their way."""
        if self.processes_ready or self._first is None or not self._near:
            return False
        return is_soon(self.machine, time.monotonic() - self._started)

    def start_processes(self, flow: Flow) -> None:
        """See to it that there are processes, and tell `flow` when they take calls."""
        with self._lock:
            if self.processes_ready or self._starting:
                return
            self._starting = True
            self._started = time.monotonic()
            near = self._near = _server_runs()
            self._start_takes = min(_starts[near])
        _hurry()

        def started(future: concurrent.futures.Future[float]) -> None:
            _calm()
            if future.cancelled() and self.closed:
                return  # given up: nobody needs them
            failure = "was cancelled" if future.cancelled() else future.exception()
            if failure is not None:
                if isinstance(failure, BaseException):
                    _main_module.note_failure(failure)
                why = _main_module.why_not() or f"cannot run in processes, which do not start: {failure}"
                self._refuse_processes(why)
            else:
                self.processes_ready = True
                _starts[near] = [_starts[near][-1], max(0.0, future.result() - self._started)]
            for other in {flow, *self.flows()}:
                other.processes_begin()

        try:
            pool = self.processes()
            pool._will_call(flow.state.function())
            pool._will_call(_calls.lot_in_process)
            # As many as there will be calls for, so that all are asked for at once. What is told is when the first one
            # began, not when it was told of here.
            count = max(1, min(pool._max_workers, flow.left()))
            self._greetings = [pool.submit(time.monotonic) for _ in range(count)]
            self._first = self._greetings[0]
            self._first.add_done_callback(started)
        except Exception as error:
            _calm()
            self._refuse_processes(f"cannot run in processes, which do not start: {error}")
        except BaseException:  # a signal's handler has raised: another time
            _calm()
            self._starting = False
            raise

    def processes_take(self) -> bool:
        """Whether processes take calls, or will as soon as they have started."""
        return self._first is not None

    def processes_never_began(self) -> bool:
        """Whether they could not be started: what they were given was not begun."""
        first = self._first
        return first is not None and first.done() and (first.cancelled() or first.exception() is not None)

    def _refuse_processes(self, why: str) -> None:
        self.models -= {PROCESSES}
        for state, backlog in list(self.functions.values()):
            state.refused[PROCESSES] = why
            if state.decision is not None and state.decision.plan.model == PROCESSES:
                state.decide(backlog.left(), 0.0)

    def flows(self) -> list[Flow]:
        """All that have calls."""
        with self._lock:
            backlogs: list[Flow] = [backlog for _, backlog in self.functions.values()]
            return [*backlogs, *self.maps]

    def add_map(self, flow: Flow) -> None:
        """Know of a `map`."""
        with self._lock:
            self.maps.add(flow)

    # ---- functions

    def known(self, key: Any, function: Callable[..., Any]) -> tuple[Function, Backlog]:
        """What is known of a function, and its submitted calls."""
        from plait.auto._backlog import Backlog

        with self._lock:
            known = self.functions.get(key)
            if known is None:
                state = Function(function, self.models, self.machine, self.costs)
                state.recall()
                known = self.functions[key] = state, Backlog(state, self)
            return known

    # ---- seats

    def take_seat(self, flow: Flow) -> Seat | None:
        """A seat for another thread; None where there are enough: then `flow` is told of the next that is free."""
        from plait.auto._seat import Seat

        with self._lock:
            if self._seats >= (self.machine.most or MOST_THREADS) + self._more:
                self._starved[flow] = None
                return None
            self._seats += 1
            seat = Seat(self)
            self._seated.add(seat)
            return seat

    def give_back(self, seat: Seat) -> None:
        """Give up a seat that nobody has taken: there are no more threads."""
        with self._lock:
            self._seated.discard(seat)
            self._seats -= 1

    def leave_seat(self, seat: Seat) -> None:
        """Give up a seat, to a flow that waits for one."""
        self.give_back(seat)
        with self._lock:
            starved = next(iter(self._starved), None)
            if starved is None:
                self._more = 0
            else:
                del self._starved[starved]
        if starved is not None:
            starved.fill()

    # ---- the watch

    def look(self, flow: Flow) -> None:
        """Have the watch look at a flow."""
        with self._lock:
            if flow in self._looked_at and self._tick <= _TICK:
                return
        uninterrupted(partial(self._look, flow))

    def _look(self, flow: Flow) -> None:
        with self._lock:
            self._looked_at[flow] = None
            self._tick = _TICK
            if not self._watched:
                self._watched = True
                try:
                    # A `Thread` is waited for until it runs, which takes longer than many a call.
                    _thread.start_new_thread(self._look_on, ())
                except RuntimeError:  # no more threads, or the interpreter exits
                    self._watched = False
            else:
                self._condition.notify()

    def _look_on(self) -> None:
        made, since = -1, 0.0
        # A thread that waits has nothing of a flow that is over: its items may be large.
        while self._await_flows():
            made, since = self._look_once(made, since)

    def _await_flows(self) -> bool:
        """Wait until it is time to look; return whether there is anything to look at."""
        with self._condition:
            if not self._looked_at and not self._condition.wait(_LINGER) and not self._looked_at:
                self._watched = False
                return False
            end = time.monotonic() + self._tick
            while (left := min(end - time.monotonic(), self._tick)) > 0 and self._condition.wait(left):
                end = min(end, time.monotonic() + self._tick)  # there is something new
            return True

    def _look_once(self, made: int, since: float) -> tuple[int, float]:
        """Look at all flows; return how many calls have ended, and since when no more have."""
        with self._condition:
            flows = list(self._looked_at)
        decided = False
        for flow in flows:
            decided = flow.tick() or flow.in_a_hurry() or decided
            with flow.lock:
                done = not (flow.seats or flow.in_a_hurry())
                if done:
                    with self._lock:
                        self._looked_at.pop(flow, None)
        now, total = time.monotonic(), sum(flow.made for flow in self.flows())
        if total != made:
            made, since = total, now
        elif now - since > _STUCK and self._add_seats():
            since = now
        elif now - since > _STUCK_LONG:
            for flow in flows:
                if flow.stuck():
                    flow.add_seats()
        self._tick = _TICK if decided else min(_TICK_MOST, 1.5 * self._tick)
        return made, since

    def _add_seats(self) -> bool:
        """Where no call ends, and some may wait for calls that wait for a thread, let there be more threads."""
        with self._lock:
            if not any(seat.nests for seat in self._seated):
                return False
            flows = [flow for flow in self.flows() if flow.has_waiting()]
            if not flows:
                return False
            self._more += max(1, self._seats // 2)
            self._starved.clear()
        for flow in flows:
            flow.add_seats()
        return True

    # ---- the end

    def shutdown(self, *, wait: bool, cancel: bool) -> None:
        """Take no more calls; what is queued is still made, or cancelled."""
        if self._pid != os.getpid():
            return  # its threads and its work are the parent's
        if wait and getattr(here, "seat", None) is not None and here.seat.engine is self:
            raise RuntimeError("cannot join current thread")
        self.closed = True
        flows = self.flows()
        if cancel:
            for flow in flows:
                flow.cancel()
        loop = self._loop
        if loop is not None:
            loop.close(wait=wait)
        if wait:
            for flow in flows:
                flow.wait()
            self._end(wait=True)
        else:
            self.settle()

    def settle(self) -> None:
        """Shut the executors down, if the pool was shut down, and all is done."""
        if not self.closed:
            return
        for flow in self.flows():
            with flow.lock:
                if not flow.idle():
                    return
        self._end(wait=False)

    def _end(self, *, wait: bool) -> None:
        """Leave what was learnt to other pools, and shut the executors down: all is done."""
        if not self._left:
            self._left = True  # later, others may know better
            for state, _ in list(self.functions.values()):
                state.remember()
        # Where processes still start, nobody needs them any more: a fork server may take a tenth of a second.
        for greeting in self._greetings:
            uninterrupted(greeting.cancel)
        for pool in (self._threads, self._processes):
            if pool is not None:
                pool.shutdown(wait=wait)


def _server_runs() -> bool:
    launch: Any = sys.modules.get("plait.processes._launch")  # slow to import: nobody has started one who has not
    return launch is not None and bool(launch.is_running())


def _usable_cores() -> int:
    global _cores
    mask, now = len(os.sched_getaffinity(0)), time.monotonic()
    found, when, of = _cores
    if of != mask or now - when > _CORES_STAY:
        found = _core.usable_cpus()
        _cores = found, now, mask
    return found


_guard = threading.RLock()  # finalizers end pools too
_hurried = 0
_interval = 0.0


def _hurry() -> None:
    """Have threads that compute let go of the GIL sooner.

    To start processes takes a dozen steps that let the GIL go; beside a thread that computes, each of them waits for a whole
    switch interval otherwise, which is more than all the rest.
    """
    global _hurried, _interval
    with _guard:
        _hurried += 1
        if _hurried == 1 and sys.getswitchinterval() > _SOON:
            _interval = sys.getswitchinterval()
            sys.setswitchinterval(_SOON)


def _calm() -> None:
    """Take that back, unless the program has set an interval meanwhile."""
    global _hurried, _interval
    with _guard:
        _hurried -= 1
        if _hurried == 0 and _interval:
            if abs(sys.getswitchinterval() - _SOON) < 1e-6:
                sys.setswitchinterval(_interval)
            _interval = 0.0


def after_fork() -> None:
    """A forked child has none of its parent's pools."""
    global _guard, _hurried
    engines.clear()
    _guard = threading.RLock()
    if _hurried:
        _hurried = 1
        _calm()


def _at_exit() -> None:
    """Let every pool finish what was submitted, as the standard library does when the interpreter exits."""
    for engine in list(engines):
        engine.shutdown(wait=True, cancel=False)


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
