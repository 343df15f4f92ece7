"""From the record of a program's calls to a workload, and to what each model would take for it."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from plait.advice import _start
from plait.model import Burst, Item, Parcel, Workload, calibrate, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.model import Costs, Model

SERIAL, THREADS, PROCESSES, ASYNCIO = "serial", "threads", "processes", "asyncio"
INTERPRETERS, FREE = "subinterpreters", "free-threaded"

#: All models, in the order in which they are told.
MODELS: Final = (SERIAL, THREADS, PROCESSES, ASYNCIO, INTERPRETERS, FREE)

_SIMULATED: Final[dict[str, Model]] = {
    SERIAL: "serial",
    THREADS: "threads",
    PROCESSES: "processes",
    ASYNCIO: "asyncio",
    INTERPRETERS: "interpreters",
    FREE: "free-threaded",
}

#: Bytes that a thread's stack and its state take, and those of a task.
_THREAD, _TASK = 100 << 10, 3 << 10

#: Bytes of an interpreter of its own in this process, without what the program imports in it.
_INTERPRETER = 6 << 20


#: Tasks at once at most: more gain next to nothing, and take long to simulate.
_AT_ONCE = 1000


#: Runs that an interval comes from.
_REPLICAS = 12


class Predicted(NamedTuple):
    """What a model would take: seconds with their interval, workers, bytes beyond the program's own."""

    seconds: float
    low: float
    high: float
    workers: int
    memory: float


class Work:
    """Recorded calls, as the simulator takes them."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self.calls: int = record["calls"]
        rows: list[list[float]] = record["items"]
        means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
        self.held, self.asleep, self.released, self.blocked = means
        self.wall = sum(means)
        if not record["gil"]:  # whoever computes keeps nobody from it, and what a call costs beside that stays
            rows = [[0.0, asleep, held + released, blocked] for held, asleep, released, blocked in rows]
        waits: dict[str, float] = record["waits"]
        known = waits.get("awaitable", 0.0) + waits.get("other", 0.0)
        # Waits for locks are those of the main thread for others, most often.
        share = waits.get("awaitable", 0.0) / known if known > 0 else 0.0
        self.awaitable: float = 1.0 if record["coroutine"] else share
        argument, result = _parcels(record["parcels"])
        self._threads = Workload([_item(row, argument, result, 1.0) for row in rows], self.calls, speed=record["speed"])
        self._tasks = self._threads
        if self.awaitable < 1.0 and self.blocked > 0:
            items = [_item(row, argument, result, self.awaitable) for row in rows]
            self._tasks = Workload(items, self.calls, speed=record["speed"])
        self.parcel_bytes = argument.size_bytes + result.size_bytes

    def predict(self, model: str, cores: int, *, interval: bool) -> Predicted:
        """Predict a model on so many cores, with as many workers as do it good."""
        costs = calibrate()
        if model in {SERIAL, ASYNCIO}:
            return self._predict(model, 1 if model == SERIAL else min(self.calls, _AT_ONCE), cores, costs, interval)
        best: Predicted | None = None
        for workers in self._numbers(model, cores):
            found = self._predict(model, workers, cores, costs, False)
            # More of them have to be worth it.
            if best is None or found.seconds < 0.95 * best.seconds:
                best = found
        assert best is not None
        return self._predict(model, best.workers, cores, costs, True) if interval else best

    def _predict(self, model: str, workers: int, cores: int, costs: Costs, interval: bool) -> Predicted:
        found = self.given(model, workers, cores, costs, replicas=_REPLICAS if interval else 0)
        begin = _start.first_pool().seconds if model == PROCESSES else 0.0
        return found._replace(seconds=found.seconds + begin, low=found.low + begin, high=found.high + begin)

    def given(self, model: str, workers: int, cores: int, costs: Costs, *, replicas: int = _REPLICAS) -> Predicted:
        """Predict a model with so many workers, where this is not the program's first pool."""
        work = self._tasks if model == ASYNCIO else self._threads
        found = simulate(work, model=_SIMULATED[model], workers=workers, cores=cores, costs=costs, replicas=replicas)
        return Predicted(found.seconds, found.low, found.high, workers, self._memory(model, workers))

    def _numbers(self, model: str, cores: int) -> list[int]:
        """Numbers of workers that are worth a look."""
        waits = self.blocked > 0.05 * self.wall
        numbers = {min(cores, 64)}
        if waits:
            most = 64 if model in {THREADS, FREE} else min(16, 4 * cores)
            busy = self.held + self.asleep + self.released
            numbers |= {2 * cores, 4 * cores, 8, 16, 32, 64, math.ceil(1.25 * self.wall / busy) if busy > 0 else 64}
            numbers = {number for number in numbers if number <= most}
        return sorted({max(1, min(number, self.calls)) for number in numbers})

    def _memory(self, model: str, workers: int) -> float:
        if model == SERIAL:
            return 0.0
        if model == ASYNCIO:
            return float(workers * _TASK)
        if model in {THREADS, FREE}:
            return float(workers * _THREAD)
        if model == INTERPRETERS:
            return float(workers * (_INTERPRETER + self.parcel_bytes))
        return workers * (_start.first_pool().worker_bytes + self.parcel_bytes)


def _item(row: Sequence[float], argument: Parcel, result: Parcel, awaitable: float) -> Item:
    held, asleep, released, blocked = row
    bursts = [
        Burst("hold", held / 2),
        Burst("held_off_cpu", asleep + blocked * (1 - awaitable)),
        Burst("released", released),
        Burst("blocked", blocked * awaitable),
        Burst("hold", held / 2),
    ]
    return Item(tuple(burst for burst in bursts if burst.seconds > 0), argument, result)


def _parcels(parcels: list[list[float]]) -> tuple[Parcel, Parcel]:
    if not parcels:
        return Parcel(), Parcel()
    # The quickest: the first one has looked up how its classes are pickled.
    first, second, size, third, fourth, result = (min(column) for column in zip(*parcels, strict=True))
    return Parcel(first, second, round(size * 1e9)), Parcel(third, fourth, round(result * 1e9))
