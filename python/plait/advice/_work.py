"""From the record of a program's calls to a workload, and to what each model would take for it."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from plait import _core
from plait.advice._start import TYPICAL, start
from plait.model import Burst, Item, Parcel, Resource, Workload, calibrate, simulate

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

#: Tasks at once at most: more gain next to nothing, and take long to simulate.
_AT_ONCE = 1000


#: How much faster than predicted nine of ten runs are at most, where that comes from no simulated one.
_FASTER = 1.25

#: Calls of which one that takes most of the time is no wonder.
_FEW = 3

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
        self.held, self.asleep, self.released, waiting, self.children = means
        self.blocked = waiting + self.children
        self.wall = sum(means)
        if not record["gil"]:  # whoever computes keeps nobody from it, and what a call costs beside that stays
            rows = [[0.0, asleep, held + released, *waits] for held, asleep, released, *waits in rows]
        waits: dict[str, float] = record["waits"]
        known = waits.get("awaitable", 0.0) + waits.get("other", 0.0)
        # Waits for locks are those of the main thread for others, most often.
        share = waits.get("awaitable", 0.0) / known if known > 0 else 0.0
        self.awaitable: float = record.get("awaited", 1.0) if record["coroutine"] else share
        argument, result = _parcels(record["parcels"])
        turn = record["in_turn"]
        resources = {_TURN: Resource(servers=1), _CHILDREN: Resource(on_cores=True)}

        def workload(awaitable: float) -> Workload:
            items = [_item(row, argument, result, awaitable, turn) for row in rows]
            return Workload(items, self.calls, resources, speed=record["speed"])

        self._threads = workload(1.0)
        self._tasks = workload(self.awaitable) if self.awaitable < 1.0 and waiting > 0 else self._threads
        #: By how much the time of a call may be off, in seconds, and what one takes at least.
        self.unsure: float = record.get("unsure", 0.0)
        self._shortest = max(record.get("quickest", 0.0), self.wall - self.unsure)
        #: What threads of a library compute beside a call.
        self.beside: float = record.get("beside", 0.0)
        times = [sum(row) for row in rows]
        #: The share of the longest call in the time of all.
        self.longest = max(times) / (self.wall * self.calls) if self.wall > 0 and self.calls >= _FEW else 0.0
        #: What it takes to send what a call is given and returns, in seconds.
        self.sending = argument.pickle + argument.unpickle + result.pickle + result.unpickle
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
        begin = start().seconds if model == PROCESSES else 0.0
        return found._replace(seconds=found.seconds + begin, low=found.low + begin, high=found.high + begin)

    def given(self, model: str, workers: int, cores: int, costs: Costs, *, replicas: int = _REPLICAS) -> Predicted:
        """Predict a model with so many workers, where this is not the program's first pool."""
        work = self._tasks if model == ASYNCIO else self._threads
        found = simulate(work, model=_SIMULATED[model], workers=workers, cores=cores, costs=costs, replicas=replicas)
        least = self._least(cores)
        high = max(found.high, least)
        if model == THREADS and self.record["at_once"] == 1:
            high = max(high, self._apart())
        low = max(found.low, least / _FASTER)
        if self.unsure and self.wall > 0:
            low *= min(1.0, self._shortest / self.wall)
            high += self.calls * self.unsure
        return Predicted(max(found.seconds, least), low, high, workers, self._memory(model, workers))

    def _least(self, cores: int) -> float:
        """Seconds that all calls take where a library computes with threads of its own: those have the cores already."""
        if not self.beside:
            return 0.0
        return self.calls * (self.wall - self.blocked + self.beside) / min(cores, _core.usable_cpus())

    def _apart(self) -> float:
        """Seconds if what C code does, and waits for disks, do not overlap: no call was seen beside another one."""
        rest = self.asleep + self.released + (self.blocked - self.children) * (1 - self.awaitable)
        return self.calls * (self.held + rest) if rest > 0.2 * self.wall else 0.0

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
        takes = start()
        if model == SERIAL:
            return 0.0
        if model == ASYNCIO:
            return workers * takes.task
        if model in {THREADS, FREE}:
            return workers * takes.thread
        if model == INTERPRETERS:
            return workers * ((takes.interpreter or TYPICAL.interpreter) + self.parcel_bytes)
        return workers * (takes.process + self.parcel_bytes)


def memory_is_measured(model: str) -> bool:
    """Whether what a model's workers take was measured on this machine."""
    takes = start()
    return model == SERIAL or (takes.measured and (model != INTERPRETERS or takes.interpreter > 0))


#: What calls wait for: for one another, in turn, and for processes that compute.
_TURN, _CHILDREN = "turn", "children"


def _item(row: Sequence[float], argument: Parcel, result: Parcel, awaitable: float, turn: bool) -> Item:
    held, asleep, released, blocked, children = row
    bursts = [
        Burst("hold", held / 2),
        Burst("held_off_cpu", asleep + blocked * (1 - awaitable)),
        Burst("released", released),
        Burst("blocked", blocked * awaitable, resource=_TURN if turn else None),
        Burst("blocked", children, resource=_CHILDREN),
        Burst("hold", held / 2),
    ]
    return Item(tuple(burst for burst in bursts if burst.seconds > 0), argument, result)


def _parcels(parcels: list[list[float]]) -> tuple[Parcel, Parcel]:
    if not parcels:
        return Parcel(), Parcel()
    # The quickest: the first one has looked up how its classes are pickled.
    first, second, size, third, fourth, result = (min(column) for column in zip(*parcels, strict=True))
    return Parcel(first, second, round(size * 1e9)), Parcel(third, fourth, round(result * 1e9))
