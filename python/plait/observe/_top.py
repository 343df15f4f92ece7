"""A process and its children, seen from outside while they run: figures of an interval, and of all the time."""

from __future__ import annotations

import time
from typing import Any, Final, TypedDict

from plait import _core
from plait.observe._states import STATES

__all__ = ["Figures", "Place", "ProcessFigures", "ThreadFigures", "Top", "TopRecord"]

ENDED_KEPT: Final = 256
"""So many threads that have ended keep figures of their own; the others are summed by process."""


class Place(TypedDict):
    """A place of a program."""

    function: str
    file: str
    line: int


class Figures(TypedDict):
    """What the time went to.

    Of a thread as shares of the time that it was seen, which add up to 1 without `cpu` and `stop_the_world`, which is part of
    `lock_wait`; of a process as sums over its threads, in seconds per second. `halted`: a signal or a debugger had stopped it.
    """

    pid: int
    name: str
    cpu: float
    on_cpu_gil: float
    on_cpu_released: float
    ready: float
    gil_wait: float
    gil_held_off_cpu: float
    io_wait: float
    lock_wait: float
    idle: float
    stop_the_world: float
    halted: float
    switches: float


class ThreadFigures(Figures):
    """A thread's.

    `seconds` is how long it was seen; `top` where it was found most often; `call` the system call that it was last found
    waiting in.
    """

    tid: int
    seconds: float
    top: Place | None
    call: str | None


class ProcessFigures(Figures):
    """A process's.

    `python` is the version of its interpreter, `gil` whether that has a GIL; `why` says why there is none to be seen.
    """

    parent: int
    python: str | None
    gil: bool | None
    why: str | None


class TopRecord(TypedDict):
    """What was seen in an interval."""

    schema: int
    pid: int
    at: float
    seconds: float
    looks: int
    processes: list[ProcessFigures]
    threads: list[ThreadFigures]


class _Thread:
    """Sums of a thread, in seconds."""

    __slots__ = ("call", "cpu", "halted", "name", "pid", "seconds", "spent", "stopped", "switches", "tid", "tops")

    def __init__(self, pid: int, tid: int, name: str) -> None:
        self.pid = pid
        self.tid = tid
        self.name = name
        self.seconds = self.cpu = self.switches = self.stopped = self.halted = 0.0
        self.spent = [0.0] * len(STATES)
        self.tops: dict[tuple[str, str, int], float] = {}
        self.call: str | None = None

    def add(self, row: dict[str, Any], seconds: float) -> None:
        self.name = row["name"]
        self.seconds += seconds
        self.cpu += row["cpu"] * seconds
        self.switches += row["switches"] * seconds
        self.stopped += row["stop_the_world"] * seconds
        self.halted += row["halted"] * seconds
        for number, state in enumerate(STATES):
            self.spent[number] += row[state] * seconds
        top = row["top"]
        if top is not None:
            key = (top["function"], top["file"], top["line"])
            self.tops[key] = self.tops.get(key, 0.0) + seconds
            if len(self.tops) > ENDED_KEPT:
                del self.tops[min(self.tops, key=self.tops.__getitem__)]
        self.call = row["call"] or self.call

    def join(self, other: _Thread) -> None:
        self.seconds += other.seconds
        self.cpu += other.cpu
        self.switches += other.switches
        self.stopped += other.stopped
        self.halted += other.halted
        self.spent = [one + more for one, more in zip(self.spent, other.spent, strict=True)]

    def figures(self) -> ThreadFigures:
        length = self.seconds or 1.0
        top: Place | None = None
        if self.tops:
            function, file, line = max(self.tops, key=self.tops.__getitem__)
            top = {"function": function, "file": file, "line": line}
        shares: dict[str, Any] = {state: spent / length for state, spent in zip(STATES, self.spent, strict=True)}
        head = {"pid": self.pid, "tid": self.tid, "name": self.name, "seconds": self.seconds}
        more = {"stop_the_world": self.stopped / length, "halted": self.halted / length}
        more["switches"] = self.switches / length
        rest = {"cpu": self.cpu / length, **shares, **more, "top": top, "call": self.call}
        return {**head, **rest}  # type: ignore[typeddict-item]  # pyright: ignore[reportReturnType]


class _Sums:
    """Sums over a time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.looks = 0
        self.threads: dict[tuple[int, int], _Thread] = {}
        self.processes: dict[int, dict[str, Any]] = {}

    def add(self, seen: dict[str, Any]) -> None:
        seconds: float = seen["seconds"]
        self.seconds += seconds
        self.looks += seen["looks"]
        for process in seen["processes"]:
            pid: int = process["pid"]
            before = self.processes.get(pid)
            if before is not None and process["python"] is None and before["python"] is not None:
                # It is about to end.
                process.update(python=before["python"], gil=before["gil"], why=None)
            self.processes[pid] = process
        for row in seen["threads"]:
            key = (row["pid"], row["tid"])
            thread = self.threads.get(key)
            if thread is None:
                thread = self.threads[key] = _Thread(*key, row["name"])
            thread.add(row, seconds)

    def bound(self, alive: set[tuple[int, int]]) -> None:
        """Sum up threads that have ended, where there are very many."""
        ended = [key for key in self.threads if key not in alive and key[1] != 0]
        if len(ended) <= ENDED_KEPT:
            return
        for key in sorted(ended, key=lambda key: self.threads[key].cpu)[: len(ended) - ENDED_KEPT // 2]:
            thread = self.threads.pop(key)
            rest = self.threads.setdefault((thread.pid, 0), _Thread(thread.pid, 0, "(ended)"))
            rest.join(thread)
        used = {pid for pid, _ in self.threads}
        self.processes = {pid: process for pid, process in self.processes.items() if pid in used}

    def record(self, pid: int) -> TopRecord:
        threads = [thread.figures() for thread in self.threads.values()]
        length = self.seconds or 1.0
        names = ("cpu", *STATES, "stop_the_world", "halted", "switches")
        sums: dict[int, dict[str, float]] = {one: dict.fromkeys(names, 0.0) for one in self.processes}
        for thread in threads:
            sum_: dict[str, float] = sums.get(thread["pid"]) or sums.setdefault(
                thread["pid"], dict.fromkeys(names, 0.0)
            )
            for name in names:
                sum_[name] += thread[name] * thread["seconds"] / length  # type: ignore[literal-required]
        processes: list[Any] = [
            {"pid": one, "parent": process["parent"], "name": process["name"], **sums[one]}
            | {"python": process["python"], "gil": process["gil"], "why": process["why"]}
            for one, process in self.processes.items()
        ]
        return {
            "schema": 1,
            "pid": pid,
            "at": time.time(),
            "seconds": self.seconds,
            "looks": self.looks,
            "processes": processes,
            "threads": threads,
        }


class Top:
    """Looks at a process and its children, from now on.

    Args:
        pid: The process. It has to run Python 3.11 or newer.
        new: It has just been started: it need not run Python yet, and may leave that to its children.

    Raises:
        ProcessLookupError: There is no such process.
        PermissionError: It may not be looked at; the message says what to do.
        ValueError: It does not run Python, or one that is not known.
    """

    def __init__(self, pid: int, *, new: bool = False) -> None:
        self.pid = pid
        self._outside = _core.Outside(pid, new)
        self._interval = _Sums()
        self._whole = _Sums()

    def sample(self) -> None:
        """Take what was seen since the last time: so often that threads which end are not missed."""
        seen = self._outside.snapshot()
        self._interval.add(seen)
        self._whole.add(seen)
        self._whole.bound({(row["pid"], row["tid"]) for row in seen["threads"]})

    @property
    def looks(self) -> int:
        """How often it was looked at since the last interval: its figures are worth nothing without."""
        return self._interval.looks

    def interval(self) -> TopRecord:
        """Return the figures since the last one."""
        sums, self._interval = self._interval, _Sums()
        return sums.record(self.pid)

    def whole(self) -> TopRecord:
        """Return the figures of all the time."""
        return self._whole.record(self.pid)
