"""What a profile is made of, as `load_profile` gives it and every report takes it: plain dicts, times in seconds.

The same as section 3 of `docs/design/observation.md`. What is marked as not required may be missing from profiles that were
made without it, or stored with `--json`, which leaves out `stacks`, `lanes`, `gil` and `notes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict


class FunctionVerdict(TypedDict):
    """What the time of one function went into, in words."""

    name: str
    verdict: str
    sentence: str


# `try` is no name that a class can have.
Evidence = TypedDict(
    "Evidence", {"sentence": str, "try": list[str], "figures": dict[str, float], "functions": list[FunctionVerdict]}
)


class Overhead(TypedDict):
    """What looking has cost."""

    fraction: float
    observer_cpu: float
    hooks_cpu: float
    lost_records: int
    lost_names: int
    trace_bytes: int


class Method(TypedDict):
    """How something was observed; `why` is empty where it is the best way."""

    what: str
    how: str
    exact: bool
    why: str


class ProcessStates(TypedDict):
    """A process's life by the states of textbooks."""

    new: float
    ready: float
    running: float
    waiting: float
    terminated: float


class ProcessRecord(TypedDict):
    """One process; `stopped` is how long of its time it stood still as a whole: it was stopped, or its machine was."""

    pid: int
    parent: int
    name: str
    python: str
    start: float
    wall: float
    stopped: float
    exit: int | None
    cpu: float
    faults_minor: int
    faults_major: int
    states: ProcessStates


class Bursts(TypedDict):
    """How long bursts were; `buckets` counts them by powers of two microseconds."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float
    buckets: NotRequired[list[int]]


class Place(TypedDict):
    """A line of a function."""

    function: str
    file: str
    line: int


class WaitRecord(TypedDict):
    """What a thread has waited for."""

    kind: str
    call: str
    target: str
    where: NotRequired[str]
    count: int
    time: float


class LockRecord(TypedDict):
    """A lock that a thread has waited for, and who had it."""

    lock: str
    holder: int
    holder_name: str
    where: str
    count: int
    time: float


class States(TypedDict):
    """Seconds in each state."""

    on_cpu_gil: float
    on_cpu_released: float
    ready: float
    gil_wait: float
    gil_held_off_cpu: float
    io_wait: float
    lock_wait: float
    idle: float


class ThreadRecord(States):
    """One thread; its states add up to its `wall`.

    `stop_the_world` is the part of `lock_wait` in which it stood still because another thread had stopped all others, or waited
    until they did; `stops` counts how often it stood still. Where very many have ended, some rows are the sum of `count`
    threads with names alike, and their `tid` is 0.
    """

    pid: int
    tid: int
    count: NotRequired[int]
    name: str
    start: float
    wall: float
    switches_voluntary: int
    switches_forced: int
    gil_takes: int
    longest_gil_hold: float
    longest_gil_hold_at: Place | None
    longest_gil_hold_for: NotRequired[Place | None]
    stop_the_world: NotRequired[float]
    stops: NotRequired[int]
    longest_stop: NotRequired[float]
    cpu_bursts: Bursts
    io_bursts: Bursts
    waits: list[WaitRecord]
    locks: list[LockRecord]


class AwaitRecord(TypedDict):
    """What a task has awaited."""

    what: str
    place: str
    count: int
    time: float


class TaskRecord(TypedDict):
    """One task of an event loop."""

    pid: int
    id: int
    name: str
    function: str
    start: float
    wall: float
    running: float
    ready: float
    awaiting: float
    steps: int
    longest_step: float
    awaits: list[AwaitRecord]


class FunctionRecord(States):
    """One function, by the stacks that were sampled."""

    function: str
    file: str
    line: int
    pid: int | None
    self_cpu: float
    total_cpu: float
    caused_gil_wait: float
    longest_gil_hold: float
    samples: int
    verdict: str


class BlockedRecord(TypedDict):
    """A callback that has kept its loop from everything else."""

    pid: int
    tid: int
    loop: str
    callback: str
    coroutine: NotRequired[str]
    function: str
    file: str
    line: int
    library: NotRequired[Place | None]
    start: float
    time: float


class PoolRecord(TypedDict):
    """The tasks of one function in one pool, by their stations."""

    pool: str
    function: str
    count: int
    queue: float
    run: float
    pickling: float
    transfer: float


class AskerRecord(TypedDict):
    """Pauses that one thread has asked for at one place; `tid` 0 where it is not known which."""

    pid: int
    tid: int
    name: str
    collects: bool
    at: Place | None
    count: int
    time: float
    longest: float
    stood: float


class PausesRecord(TypedDict):
    """Pauses in which all threads but one stood still; `stood` is for how long, all threads together."""

    count: int
    time: float
    longest: float
    stood: float
    lengths: Bursts
    askers: list[AskerRecord]


class PartyRecord(TypedDict):
    """A thread of a deadlock: which lock it waits for, where, and who has that."""

    tid: int
    name: str
    lock: str
    where: str
    holder: int
    holder_name: str


class DeadlockRecord(TypedDict):
    """Threads of a process, each of which waits for a lock that the next one has, and the last for one of the first."""

    pid: int
    at: float
    parties: list[PartyRecord]


class FrameRecord(TypedDict):
    """A frame of a stack: which function, which line, and who called it (-1: nobody)."""

    function: int
    line: int
    caller: int


class SampleRecord(TypedDict):
    """A thread's innermost frame at a time, and for how long it stands."""

    thread: int
    at: float
    frame: int
    weight: float
    why: str


class Stacks(TypedDict):
    """All sampled stacks."""

    frames: list[FrameRecord]
    samples: list[SampleRecord]


class Lane(TypedDict):
    """A thread's or task's states, one after the other."""

    kind: Literal["thread", "task"]
    index: int
    start: Sequence[float]
    length: Sequence[float]
    state: Sequence[int]
    note: Sequence[int]


class GilLane(TypedDict):
    """Who held the GIL of one process, and when."""

    pid: int
    start: Sequence[float]
    length: Sequence[float]
    thread: Sequence[int]


class ProfileRecord(TypedDict):
    """A whole profile."""

    schema: int
    plait: str
    started: float
    wall: float
    verdict: str
    evidence: Evidence
    overhead: Overhead
    methods: list[Method]
    switch_interval: float
    cores: int
    limits: list[str]
    processes: list[ProcessRecord]
    threads: list[ThreadRecord]
    tasks: list[TaskRecord]
    tasks_seen: NotRequired[int]
    functions: list[FunctionRecord]
    blocked: list[BlockedRecord]
    pools: list[PoolRecord]
    stop_the_world: NotRequired[PausesRecord]
    deadlocks: list[DeadlockRecord]
    stacks: NotRequired[Stacks]
    lanes: NotRequired[list[Lane]]
    gil: NotRequired[list[GilLane]]
    notes: NotRequired[list[str]]


class LoadedRecord(ProfileRecord):
    """A profile as it was read, and besides what whoever put it together has added, and which processes have no end."""

    words: NotRequired[list[str]]
    unended: NotRequired[list[int]]
