"""The table that every text on concurrency in Python has, with the claims put to the test."""

from __future__ import annotations

import os
import platform
import sys
import time
from typing import TYPE_CHECKING

from plait import _core, _words
from plait._words import rate, ratio
from plait.compare import _interpreters, _measure
from plait.compare._comparison import Comparison, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.compare._measure import Figures

MODELS = ("asyncio", "threads", "processes")

#: A ratio within this of 1 is no difference: machines are noisy.
_NOISE = 0.15


def seconds(value: float) -> str:
    """A time in two digits: a machine's noise leaves no more."""
    return _words.seconds(value, 2)


def bytes_(value: float) -> str:
    """A size in two digits."""
    return _words.size(value, 2)


def machine() -> dict[str, object]:
    """Where it was measured."""
    return {
        "python": platform.python_version(),
        "gil": _core.gil_is_on(),
        "cores": _core.usable_cpus(),
        "switch_interval": sys.getswitchinterval(),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
    }


def textbook(*, quick: bool = False, progress: Callable[[str], None] | None = None) -> Comparison:
    """Measure the table of asyncio, threads and processes on this machine: about a minute, a quarter of it with `quick`.

    Each measurement runs in an interpreter of its own. One that fails leaves its rows without figures, and the note says why.

    Args:
        quick: Fewer rounds: figures are coarser.
        progress: Called with the name of each measurement before it begins.
    """
    began = time.monotonic()
    taken: dict[str, Figures] = {}
    failures: dict[str, str] = {}
    for name in _measure.HOMES:
        if progress is not None:
            progress(name)
        try:
            taken[name] = _measure.run(name, quick=quick)
        except _measure.MeasurementError as error:
            failures[name] = str(error)
    more = _take_more(taken, failures, quick, progress)
    rows: list[Row] = []
    for topic, claim, needs, make, shown in _ROWS:
        if needs in failures:
            rows.append(Row(topic, claim, {}, note=f"not measured: {failures[needs]}"))
        else:
            measured, holds, note = make(taken[needs])
            values = dict(taken[needs])
            if "interpreters" in taken and topic in _INTERPRETERS:
                values["subinterpreters"] = taken["interpreters"]["subinterpreters"]
                measured["subinterpreters"] = _INTERPRETERS[topic](values["subinterpreters"])
            rows.append(Row(topic, claim, measured, values, holds, note, shown))
    rows += _more_rows(taken, failures)
    models = (*MODELS, *more)
    title = f"{', '.join(models[:-1])} and {models[-1]}"
    return Comparison(title, models, tuple(rows), machine(), time.monotonic() - began)


def _take_more(
    taken: dict[str, Figures], failures: dict[str, str], quick: bool, progress: Callable[[str], None] | None
) -> list[str]:
    """Measure what only some interpreters have; return the models that this adds."""
    wanted: dict[str, dict[str, str]] = {}
    if _interpreters.are_there():
        wanted["interpreters"] = {}
    if not _core.gil_is_on():
        wanted["with_gil"] = {"PYTHON_GIL": "1"}
    for name, environment in wanted.items():
        if progress is not None:
            progress(name)
        try:
            taken[name] = _measure.run(name, quick=quick, environment=environment)
        except _measure.MeasurementError as error:
            failures[name] = str(error)
    return ["subinterpreters"] if "interpreters" in wanted else []


def _more_rows(taken: dict[str, Figures], failures: dict[str, str]) -> list[Row]:
    """Rows of what only some interpreters have."""
    rows: list[Row] = []
    for topic, claim, needs, make in _MORE_ROWS:
        if needs in failures:
            rows.append(Row(topic, claim, {}, note=f"not measured: {failures[needs]}"))
        elif needs in taken:
            measured, holds, note = make(taken)
            rows.append(Row(topic, claim, measured, taken[needs], holds, note))
    return rows


#: What a row makes of figures: in words by model, whether the claim holds, and a note.
_Made = tuple[dict[str, str], bool | None, str]


def _type(figures: Figures) -> _Made:
    threads, tasks = figures["threads"]["first_turn"], figures["asyncio"]["first_turn"]
    computing = figures["threads"]["computing"]
    measured = {
        "asyncio": f"cooperative: another's turn came after {seconds(tasks)}, the first one computed for {seconds(computing)}",
        "threads": f"pre-emptive: it came after {seconds(threads)}",
        "processes": "pre-emptive, by the operating system alone",
    }
    return measured, threads < tasks / 2, "One unit computes and never gives way by itself; another is due meanwhile."


def _parallelism(figures: Figures) -> _Made:
    units = figures["threads"]["units"]
    measured = {
        model: f"{ratio(figures[model]['python'])} the speed with {units:.0f} units of Python code" for model in MODELS
    }
    alone = figures["threads"]["python"] < 1 + _NOISE * 2 or not _core.gil_is_on()
    several = figures["processes"]["python"] > 1 + _NOISE
    holds = alone and several and figures["asyncio"]["python"] < 1 + _NOISE
    return _unless_busy(figures, measured, holds, "Against the same units one after the other.")


def _gil(figures: Figures) -> _Made:
    python, released = figures["threads"]["python"], figures["threads"]["released"]
    measured = {
        "asyncio": f"hashing in C on one thread: {ratio(figures['asyncio']['released'])}",
        "threads": f"Python code {ratio(python)}, hashing in C that lets go of the GIL {ratio(released)}",
        "processes": (
            f"each has its own: Python code {ratio(figures['processes']['python'])}, "
            f"hashing in C {ratio(figures['processes']['released'])}"
        ),
    }
    if not _core.gil_is_on():
        return measured, None, "This interpreter runs without a GIL."
    interval = f"Switch interval {seconds(figures['threads']['switch_interval'])}."
    return _unless_busy(figures, measured, released > python + _NOISE, interval)


def _memory_sharing(figures: Figures) -> _Made:
    size = bytes_(figures["threads"]["bytes"])
    processes = figures["processes"]
    measured = {
        "asyncio": "shared: a task's change is seen at once",
        "threads": f"shared: {size} shown to a thread in {seconds(figures['threads']['plait_hand_over'])}",
        "processes": (
            f"not shared: {size} copied in {seconds(processes['hand_over'])} (plait: {seconds(processes['plait_hand_over'])}); "
            f"opened as shared memory in {seconds(processes['shared_memory'])}"
        ),
    }
    seen = [figures[model]["seen"] for model in MODELS]
    return measured, seen == [1.0, 1.0, 0.0], "A unit appends to a list of the program; does the program see it?"


def _cpu(figures: Figures) -> _Made:
    measured = {
        model: f"{ratio(figures[model]['python'])}"
        + (f" (plait's pool {ratio(figures[model]['plait_python'])})" if "plait_python" in figures[model] else "")
        for model in MODELS
    }
    best = max(MODELS, key=lambda model: figures[model]["python"])
    workers = f"Speed-up with {figures['threads']['units']:.0f} workers."
    if not _core.gil_is_on():
        return measured, None, f"{workers} Without a GIL threads gain too."
    gains = figures["processes"]["python"] > 1 + _NOISE
    others = max(figures[model]["python"] for model in ("asyncio", "threads")) < 1 + 2 * _NOISE
    return _unless_busy(figures, measured, best == "processes" and gains and others, workers)


def _io(figures: Figures) -> _Made:
    tasks, threads, processes = (figures[model] for model in MODELS)
    measured = {
        "asyncio": f"{ratio(tasks['speed_up'])} (on plait's loop {ratio(tasks['plait_speed_up'])})",
        "threads": f"{ratio(threads['speed_up'])} with {threads['workers']:.0f}",
        "processes": f"{ratio(processes['speed_up'])} with {processes['workers']:.0f}",
    }
    holds = threads["speed_up"] > 2 and tasks["speed_up"] > 2
    return measured, holds, "Fetches from a server that takes 10 ms for each answer, against one after the other."


def _creation(figures: Figures) -> _Made:
    tasks, threads, processes = (figures[model] for model in MODELS)
    measured = {
        "asyncio": f"{seconds(tasks['unit'])} a task (on plait's loop {seconds(tasks['plait_unit'])})",
        "threads": f"{seconds(threads['unit'])} a thread; {seconds(threads['plait_pooled'])} a call in plait's pool",
        "processes": (
            f"{seconds(processes['unit_fork'])} a fork, {seconds(processes['unit_spawn'])} a new interpreter; "
            f"{seconds(processes['plait_pooled'])} a call in plait's pool"
        ),
    }
    return (
        measured,
        tasks["unit"] < threads["unit"] < processes["unit_fork"],
        "Make it, run nothing in it, wait for its end.",
    )


def _memory_per_unit(figures: Figures) -> _Made:
    def listed(model: str) -> str:
        known = {int(key.removeprefix("unit_")): value for key, value in figures[model].items()}
        return (
            # A process grows by pages: a few units may have room in those that are there.
            ", ".join(
                f"{bytes_(each) if each > 0 else 'no new page'} with {number:,}"
                for number, each in sorted(known.items())
            )
            or "not to be had here"
        )

    measured = {model: listed(model) for model in MODELS}
    tasks, threads = figures["asyncio"].get("unit_1000"), figures["threads"].get("unit_1000")
    processes = figures["processes"]["unit_10"]
    holds = None if tasks is None or threads is None else tasks < threads < processes
    return measured, holds, "Resident memory for each unit that waits; of a process, what it shares with no other."


def _communication(figures: Figures) -> _Made:
    def listed(model: str) -> str:
        names = [key.removesuffix(" per second") for key in figures[model] if key.endswith(" per second")]
        found = figures[model]
        return "; ".join(
            f"{name} {rate(found[f'{name} per second'])}, {seconds(found[f'{name} there and back'])} there and back"
            for name in names
        )

    measured = {model: listed(model) for model in MODELS}
    between = figures["processes"]["multiprocessing.Queue there and back"]
    within = figures["threads"]["queue.SimpleQueue there and back"]
    return measured, between > within, "Messages of 64 bytes."


def _faults(figures: Figures) -> _Made:
    def survived(model: str, key: str) -> str:
        return f"{figures[model][key]:.0f} of 2"

    def both(model: str) -> str:
        return f"others went on after an exception {survived(model, 'exception')}, after a crash {survived(model, 'crash')}"

    executor, plaits = survived("processes", "executor_crash"), survived("processes", "plait_crash")
    measured = {model: both(model) for model in MODELS}
    measured["processes"] += f"; in ProcessPoolExecutor {executor}, in plait's pool {plaits}"
    crashed = [figures[model]["crash"] for model in MODELS]
    return measured, crashed == [0.0, 0.0, 2.0], "One of three units raises, or calls abort()."


def _switch(figures: Figures) -> _Made:
    tasks, threads, processes = (figures[model] for model in MODELS)
    measured = {
        "asyncio": f"{seconds(tasks['switch'])} (on plait's loop {seconds(tasks['plait_switch'])})",
        "threads": f"{seconds(threads['switch'])}, on one core {seconds(threads['same_core'])}",
        "processes": f"{seconds(processes['switch'])}, on one core {seconds(processes['same_core'])}",
    }
    holds = tasks["switch"] < min(threads["switch"], threads["same_core"])
    note = "Tasks that take turns; threads and processes that hand a byte to and fro through pipes."
    if processes["same_core"] < threads["same_core"]:
        note += " Between processes it is cheaper than between threads here: those hand over the GIL too."
    return measured, holds, note


def _scalability(figures: Figures) -> _Made:
    def listed(model: str) -> str:
        return ", ".join(
            f"{number:,} in {seconds(figures[model][f'sleepers_{number}'])}"
            if f"sleepers_{number}" in figures[model]
            else f"{number:,} cannot be had"
            for number in (10, 1_000, 10_000)
        )

    measured = {"asyncio": listed("asyncio"), "threads": listed("threads"), "processes": "not tried with thousands"}
    threads = figures["threads"].get("sleepers_10000")
    return (
        measured,
        threads is None or figures["asyncio"]["sleepers_10000"] < threads,
        "Units that each wait for 0.1 s, all at once.",
    )


def _lag(figures: Figures) -> _Made:
    tasks, threads, processes = (figures[model] for model in MODELS)
    ours = f"on plait's loop {seconds(tasks['plait_thread_p50'])}"
    beside = f"beside a thread that computes {seconds(tasks['thread_p50'])} ({ours})"
    itself = f"when the loop itself computes 20 ms at a time {seconds(tasks['callback_p50'])}"
    measured = {
        "asyncio": f"quiet {seconds(tasks['quiet_p50'])}; {beside}; {itself}",
        "threads": f"quiet {seconds(threads['quiet_p50'])}; beside a thread that computes {seconds(threads['thread_p50'])}",
        "processes": f"beside a process that computes {seconds(processes['process_p50'])}",
    }
    starved = threads["thread_p50"] > 2 * threads["quiet_p50"] or not _core.gil_is_on()
    return measured, starved, "Median time of an answer from a server that takes 1 ms for it."


def _unless_busy(cores: Figures | None, measured: dict[str, str], holds: bool, note: str) -> _Made:
    """Where other programs had the cores, a claim on them that seems not to hold says nothing."""
    if cores is not None:
        units = cores["processes"].get("units", 0.0)
        free = cores["processes"].get("cores_free", units)
        if free < 0.8 * units:
            busy = f"Other programs were busy: of {units:.0f} cores {free:.1f} were to be had."
            return measured, True if holds else None, f"{busy} {note}"
    return measured, holds, note


#: What the rows say of subinterpreters.
_INTERPRETERS: dict[str, Callable[[dict[str, float]], str]] = {
    "Type of concurrency": lambda _: "pre-emptive, by the operating system alone: each has a thread and a GIL",
    "Parallelism": lambda found: f"{ratio(found['python'])} the speed with {found['units']:.0f} units of Python code",
    "Effect of the GIL": lambda found: (
        f"each has its own: Python code {ratio(found['python'])}, hashing in C {ratio(found['released'])}"
    ),
    "Memory sharing": lambda found: (
        f"not shared: {bytes_(found['bytes'])} copied in {seconds(found['hand_over'])}"
        + (f", shown as a memoryview in {seconds(found['view'])}" if "view" in found else "")
    ),
    "CPU-bound performance": lambda found: ratio(found["python"]),
    "I/O-bound performance": lambda found: f"{ratio(found['speed_up'])} with {found['workers']:.0f}",
    "Overhead: to create": lambda found: f"{seconds(found['unit'])} an interpreter",
    "Overhead: memory": lambda found: f"{bytes_(found['unit_10'])} with 10",
    "Communication": lambda found: (
        f"interpreters.Queue {rate(found['interpreters.Queue per second'])}, "
        f"{seconds(found['interpreters.Queue there and back'])} there and back"
    ),
    "Fault tolerance": lambda found: (
        f"others went on after an exception {found['exception']:.0f} of 2, after a crash {found['crash']:.0f} of 2"
    ),
    "Context switch": lambda found: seconds(found["switch"]),
    "Scalability": lambda _: "not tried with thousands",
    "I/O beside computation": lambda found: f"beside an interpreter that computes {seconds(found['thread_p50'])}",
}


def _subinterpreters(taken: dict[str, Figures]) -> _Made:
    figures = taken["interpreters"]["subinterpreters"]
    unit, own = figures["unit"], figures["unit_10"]
    measured = {
        "subinterpreters": f"Python code {ratio(figures['python'])}; {seconds(unit)} to make and end one; {bytes_(own)} each"
    }
    told: list[str] = []
    holds = figures["python"] > 1 + _NOISE
    if "creation" in taken:
        spawned = taken["creation"]["processes"]["unit_spawn"]
        told.append(f"{seconds(spawned)} to start and end one with a new interpreter")
        holds = holds and unit < spawned
    if "memory" in taken:
        each = taken["memory"]["processes"]["unit_10"]
        told.append(f"{bytes_(each)} each")
        holds = holds and own < each
    if told:
        measured["processes"] = "; ".join(told)
    note = "Packages whose C code was not made for it cannot be imported in one."
    return _unless_busy(taken.get("cores"), measured, holds, note)


def _free_threading(taken: dict[str, Figures]) -> _Made:
    with_gil = taken["with_gil"]["threads"]["python"]
    note = "The same interpreter, the second figure with PYTHON_GIL=1."
    if "cores" not in taken:
        return {"threads": f"with the GIL {ratio(with_gil)}"}, None, note
    without = taken["cores"]["threads"]["python"]
    measured = {"threads": f"Python code without the GIL {ratio(without)}, with it {ratio(with_gil)}"}
    return _unless_busy(taken["cores"], measured, without > 1 + _NOISE, note)


#: Rows of what only some interpreters have: topic, claim, the measurement it needs, and what it makes of all of them.
_MORE_ROWS: tuple[tuple[str, str, str, Callable[[dict[str, Figures]], _Made]], ...] = (
    (
        "Subinterpreters",
        "Each has a GIL: they use several cores as processes do, at less cost.",
        "interpreters",
        _subinterpreters,
    ),
    ("Free-threading", "Without a GIL, threads use several cores for Python code.", "with_gil", _free_threading),
)

#: The figure that a chart shows, and how it is put in words.
_Shown = tuple[str, "Callable[[float], str]"] | None

#: Topic, claim, the measurement it needs, what it makes of it, and what of it a chart shows.
_ROWS: tuple[tuple[str, str, str, Callable[[Figures], _Made], _Shown], ...] = (
    (
        "Type of concurrency",
        "Threads and processes are pre-empted; tasks switch where they await, and nowhere else.",
        "turns",
        _type,
        ("first_turn", seconds),
    ),
    ("Parallelism", "Only processes use several cores for Python code.", "cores", _parallelism, ("python", ratio)),
    (
        "Effect of the GIL",
        "It keeps threads from running Python code at once, not C code that releases it.",
        "cores",
        _gil,
        ("released", ratio),
    ),
    ("Memory sharing", "Tasks and threads share all memory, processes none.", "sharing", _memory_sharing, None),
    (
        "CPU-bound performance",
        "Processes are the fastest; threads and tasks gain nothing.",
        "cores",
        _cpu,
        ("python", ratio),
    ),
    (
        "I/O-bound performance",
        "Threads and tasks overlap their waits, whatever the GIL.",
        "waits",
        _io,
        ("speed_up", ratio),
    ),
    (
        "Overhead: to create",
        "A task is cheaper than a thread, a thread cheaper than a process.",
        "creation",
        _creation,
        None,
    ),
    (
        "Overhead: memory",
        "A task takes less memory than a thread, a thread less than a process.",
        "memory",
        _memory_per_unit,
        ("unit_10", bytes_),
    ),
    ("Communication", "Between processes it is slower than between threads.", "talk", _communication, None),
    (
        "Fault tolerance",
        "A crash takes the whole process with it: all threads and tasks, but no other process.",
        "crashes",
        _faults,
        ("crash", lambda value: f"{value:.0f} of 2"),
    ),
    ("Context switch", "Between tasks it is the cheapest.", "switches", _switch, ("switch", seconds)),
    (
        "Scalability",
        "A loop has thousands of waits at less cost than threads.",
        "waits",
        _scalability,
        ("sleepers_1000", seconds),
    ),
    (
        "I/O beside computation",
        "A thread that computes delays the answers of all others.",
        "lag",
        _lag,
        ("thread_p50", seconds),
    ),
)
