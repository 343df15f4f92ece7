"""A flow of calls of one function: slices are cut off, handed to an executor, and what comes back is delivered and learnt from."""

from __future__ import annotations

import heapq
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from plait.auto import _engine, _slices
from plait.auto._choice import PROCESSES, SERIAL
from plait.auto._figures import Sample
from plait.errors import NotPicklable

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable

    from plait.auto._engine import Executors, Function

#: Slices that a worker process has waiting beside the one that it makes.
_AHEAD = 1

#: Seconds of a flow after which its pace is compared with the prediction.
_PACE = 0.05


class Part(NamedTuple):
    """Some calls of a flow, and for each what its outcome is delivered to."""

    calls: list[_slices.Call]
    sinks: list[Any]


class Flow:
    """See the module. Who has calls gives them by `take`, and gets outcomes by `deliver`."""

    def __init__(self, function: Callable[..., Any], state: Function, executors: Executors, watch: Watch) -> None:
        self.function = function
        self.state = state
        self.executors = executors
        self._watch = watch
        self._lock = threading.Lock()
        self._rest = threading.Condition(self._lock)
        self._under_way = 0
        self._filling = False
        self._again = False
        self._looked = False
        """Whether a call that takes long has been looked at, so that others need not wait for its end."""
        self._paced = (0, 0.0, 0)
        self._made = 0

    # ---- for those who have calls

    def take(self, most: int) -> Part | None:
        """Cut off as many calls, or fewer; None if there are none now."""
        raise NotImplementedError

    def deliver(self, part: Part, outcomes: list[Any]) -> None:
        """Hand out what came of a part."""
        raise NotImplementedError

    def left(self) -> int:
        """How many calls are still to be taken, as far as anybody knows."""
        raise NotImplementedError

    # ---- the flow

    def fill(self) -> None:
        """Hand over slices while there are calls and workers for them."""
        with self._lock:
            if self._filling:
                self._again = True
                return
            self._filling = True
        while True:
            with self._lock:
                self._again = False
                room = self._under_way < self._allowed()
            part = self.take(self._slice()) if room else None
            if part is not None:
                self._send(part)
                continue
            with self._lock:
                if not self._again:
                    self._filling = False
                    return

    def _allowed(self) -> int:
        decision = self.state.decision
        if decision is None:
            return 1
        if decision.plan.model == SERIAL:
            return 1
        return decision.plan.workers * (1 + _AHEAD if decision.plan.model == PROCESSES else 1)

    def _slice(self) -> int:
        if self.state.decision is not None:
            return self.state.decision.slice
        return max(1, self.state.figures.calls)

    def _send(self, part: Part) -> None:
        with self._lock:
            self._under_way += 1
        running = _slices.Running()
        decision = self.state.decision
        try:
            if decision is None:
                self.state.check(self.function, part.calls[0])
            try:
                future = self._hand_over(part, running)
            except NotPicklable as error:  # nothing was called yet
                self._stay(f"cannot be pickled: {error}")
                future = self._hand_over(part, running)
        except BaseException as error:  # the pool was shut down, say: who waits is told
            self._over(part, [_slices.Raised(error)] * len(part.calls))
            return
        if decision is None:
            self._watch.look(self, running, future, time.monotonic() + _engine.PATIENCE)
        future.add_done_callback(partial(self._done, part, running))

    def _hand_over(self, part: Part, running: _slices.Running) -> concurrent.futures.Future[Any]:
        decision = self.state.decision
        if decision is not None and decision.plan.model == PROCESSES:
            pool = self.executors.processes()
            return pool.submit(_slices.in_process, self.function, _slices.for_process(part.calls))
        workers = 1 if decision is None else decision.plan.workers
        return self.executors.threads(workers).submit(_slices.in_thread, self.function, part.calls, running)

    def _done(self, part: Part, running: _slices.Running, future: concurrent.futures.Future[Any]) -> None:
        if future.cancelled():
            self._over(part, [None] * len(part.calls), cancelled=True)
            return
        error = future.exception()
        if isinstance(error, NotPicklable):
            self._stay(f"returns what cannot be pickled: {error}")
        if error is not None:
            self._over(part, [_slices.Raised(error)] * len(part.calls))
            return
        outcomes, sample = future.result()
        self._learn(sample, outcomes)
        self._over(part, outcomes)

    def _stay(self, why: str) -> None:
        """From now on all calls are made in this process."""
        with self.state.lock:
            self.state.refused[PROCESSES] = why
            self._decide()

    def _over(self, part: Part, outcomes: list[Any], *, cancelled: bool = False) -> None:
        with self._lock:
            self._made += len(part.calls)
        if cancelled:
            self.cancelled(part)
        else:
            self.deliver(part, outcomes)
        with self._lock:
            self._under_way -= 1
        self.fill()
        with self._lock:
            if not self._under_way:
                self._rest.notify_all()

    def wait(self) -> None:
        """Return when nothing is under way, and nothing left that goes by itself."""
        with self._lock:
            self._rest.wait_for(lambda: not self._under_way and not self.goes_on())

    def goes_on(self) -> bool:
        """Whether there are calls that will be taken without anybody doing anything."""
        raise NotImplementedError

    def cancelled(self, part: Part) -> None:
        """Say that a part will not be made."""
        raise NotImplementedError

    # ---- what is learnt

    def _learn(self, sample: Sample, outcomes: list[Any]) -> None:
        state = self.state
        with state.lock:
            if state.decision is None:
                if state.figures.calls == 0 and outcomes and not isinstance(outcomes[0], _slices.Raised):
                    state.check_result(outcomes[0])
                state.figures.add(sample)
                if state.known() or self._looked:
                    self._decide()
                return
            if state.figures.changed(sample):
                state.figures.forget()
                state.figures.add(sample)
                self._decide()
                return
            state.figures.add(sample)
            self._compare_pace()

    def _decide(self) -> None:
        self.state.decide(self.left(), self.executors.processes_run)
        self._paced = (self._made, time.monotonic(), self.state.decided)

    def _compare_pace(self) -> None:
        """Hold the prediction against what is: a model that is slower here than it should be is thought so from now on."""
        made, since, decided = self._paced
        state, now = self.state, time.monotonic()
        decision = state.decision
        if decision is None or now - since < _PACE:
            return
        if decided == state.decided and self._made - made >= 2 * decision.plan.workers:
            predicted = decision.plan.seconds / max(1, decision.calls)
            state.correct(decision.plan.model, (now - since) / (self._made - made) / max(predicted, 1e-9))
            if self.left() > 0:
                state.decide(self.left(), self.executors.processes_run)
        self._paced = (self._made, now, state.decided)

    def look_at(self, running: _slices.Running) -> None:
        """A call takes long: decide by what it has done so far, so that others need not wait for its end."""
        sample = _engine.look_at(running)
        state = self.state
        if sample is None:
            return
        with state.lock:
            if state.decision is not None:
                return
            self._looked = True
            # Nobody knows how long it goes on; what has lasted so long lasts as long again, mostly.
            doubled = Sample(1, *(2 * value if value > 0 else value for value in sample[1:6]))
            state.figures.add(doubled)
            self._decide()
            state.figures.forget()
            state.figures.calls -= 1
        self.fill()


class Watch:
    """A thread that looks at calls which take long; it is there while some are to be looked at."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Flow, _slices.Running, concurrent.futures.Future[Any]]] = []
        self._number = 0
        self._thread: threading.Thread | None = None

    def look(
        self, flow: Flow, running: _slices.Running, future: concurrent.futures.Future[Any], deadline: float
    ) -> None:
        """Look at a slice of `flow` at `deadline`, if it is still under way."""
        with self._condition:
            self._number += 1
            heapq.heappush(self._heap, (deadline, self._number, flow, running, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="plait-Pool-watch", daemon=True)
                self._thread.start()
            else:
                self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._heap or self._heap[0][0] > time.monotonic():
                    wait = self._heap[0][0] - time.monotonic() if self._heap else 1.0
                    if not self._condition.wait(max(wait, 0.0)) and not self._heap:
                        self._thread = None
                        return
                _, _, flow, running, future = heapq.heappop(self._heap)
            if future.done() or flow.state.decision is not None:
                continue
            if running.began:
                flow.look_at(running)
            else:  # it waits for its thread
                self.look(flow, running, future, time.monotonic() + _engine.PATIENCE)
