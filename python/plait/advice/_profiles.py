"""What can be said of a profile: it knows tasks, calls that pools made, threads, and sampled stacks.

Each of these gives calls of a function, as the record of a metered program does, and the largest of them is what the advice is
about. Calls that only stacks tell of have been seen, and not counted: of them it is said what holds for few as for many.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from plait import _core
from plait.advice import _blocking, _find, _reading
from plait.advice._advise import Advice, nothing, of_calls
from plait.advice._work import ASYNCIO, THREADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from plait.observe._records import ProfileRecord, States

#: Tasks, calls or threads below which nothing is said.
_FEWEST = _find.FEWEST

#: Numbers of calls that are tried where they were not counted, the last the one that is told.
_TRIED = (8, 1000, 64)

#: The share of the program's time that its calls have to have.
_WORTH = 0.1

#: The share of their time from which on threads that waited for locks cannot be told from threads that take turns.
_LOCKED = 0.2


class _Found(NamedTuple):
    """Calls of a function: how long they took without others, and what is to be known of them."""

    seconds: float
    record: dict[str, Any]
    counted: bool = True


def advice(record: ProfileRecord, cores: Sequence[int] | None = None) -> Advice:
    """Say under which model the calls that a profile has seen would take how long.

    Raises:
        ValueError: It is empty.
    """
    if not record["threads"] or record["wall"] <= 0:
        raise ValueError("the profile is empty: no thread was seen in it")
    return replace(_of_what_was_seen(record, cores), limits=tuple(record.get("limits", ())))


def _of_what_was_seen(record: ProfileRecord, cores: Sequence[int] | None) -> Advice:
    here = cores[0] if cores is not None and len(cores) == 1 else _core.usable_cpus()
    sentence = record["evidence"]["sentence"].rstrip(".")
    found = [*_of_tasks(record), *_of_pools(record), *_of_threads(record), *_of_stacks(record)]
    best = max(found, key=lambda each: each.seconds, default=None)
    if best is None or best.seconds < _WORTH * record["wall"]:
        ideas = "; ".join(record["evidence"]["try"])
        missing = _without_stacks(record)
        return nothing(
            "too few samples: no function was seen to be called again and again, in a loop, by a pool, as tasks or threads. "
            f"{missing}{sentence} ({record['verdict']}){'. To try: ' + ideas if ideas else ''}. "
            "plait advise script.py looks at calls",
            here,
        )
    if best.record.get("locked"):
        waited = f"its threads waited for locks for {best.record['locked']:.0%} of their time"
        why = f"{best.record['tasks']}: {waited}, so what they could do side by side is not known. {sentence}"
        return nothing(why, here)
    return of_calls(best.record, cores) if best.counted else _of_any_number(best, cores)


def _without_stacks(record: ProfileRecord) -> str:
    """What a profile lacks that would show which functions are called in loops, and what has it; "" if it is there."""
    if "stacks" not in record or "lanes" not in record:
        return (
            "What is called in a loop is seen in stacks, and stacks are not in a profile's JSON: make a trace file with "
            "plait profile -o saved.trace script.py, and give that to plait advise. "
        )
    if not record["stacks"]["samples"]:
        return "What is called in a loop is seen in stacks, and no stacks were looked at. "
    return ""


def _of_any_number(found: _Found, cores: Sequence[int] | None) -> Advice:
    """Where calls were not counted: what holds for few of them as for many."""
    tried: list[Advice] = []
    for number in _TRIED:
        rows = [[each / number for each in row] for row in found.record["items"]] * number
        tried.append(of_calls({**found.record, "items": rows, "calls": number}, cores))
    told = tried[-1]
    options = tuple(
        replace(
            option,
            low=min(each.low for other in tried for each in other.options if each.model == option.model),
            high=max(each.high for other in tried for each in other.options if each.model == option.model),
        )
        for option in told.options
    )
    why = f"{told.why} (how many calls there were is not in the profile: {_TRIED[-1]} are assumed)"
    verdict, verdicts = told.verdict, {each.verdict for each in tried}
    if verdicts == {THREADS, ASYNCIO}:
        verdict = THREADS  # the simpler one; tasks gain where there are very many
    elif len(verdicts) > 1:
        verdict = None
        each = "; ".join(f"with {other.calls} calls {other.verdict or 'none'}" for other in tried[:2])
        why = (
            f"too few samples: how many calls of {told.tasks} there were is not in the profile, and it matters: {each}"
        )
    return replace(told, options=options, why=why, verdict=verdict)


def _record(profile: ProfileRecord, tasks: str, rows: list[list[float]], **more: Any) -> dict[str, Any]:
    """The record of calls that `of_calls` takes."""
    return {
        "gil": any(each["on_cpu_gil"] > 0 for each in profile["threads"]) or _core.gil_is_on(),
        "waits": {},
        "speed": None,
        "tasks": tasks,
        "calls": len(rows),
        "items": rows,
        "parcels": [],
        "coroutine": False,
        "change": None,
        "held_by_one": "",
        "unpicklable": "",
        "chained": False,
        "in_turn": False,
        "method": False,
        "span": 0.0,
        "at_once": 1,
        "others": [],
        **more,
    }


def _name(profile: ProfileRecord, function: str, path: str) -> str:
    """A function as "module.function"; only the function where the file is not known."""
    if not path:
        return function
    main = os.path.basename(profile["processes"][0]["name"]) if profile["processes"] else ""
    base = os.path.basename(path)
    return f"{'__main__' if base == main else os.path.splitext(base)[0]}.{function}"


def _place(profile: ProfileRecord, function: str) -> tuple[str, int]:
    """The file and line of a function of the program that is known by its name alone; "" and 0 unless there is one of them."""
    seen = {
        (each["file"], each["line"])
        for each in profile["functions"]
        if each["function"] == function and _reading.is_of_program(each["file"])
    }
    return seen.pop() if len(seen) == 1 else ("", 0)


def _refusals(function: str, path: str, line: int) -> dict[str, Any]:
    """What the function's own lines say: whether it leaves something behind, and whether it can be sent."""
    told: dict[str, Any] = {}
    short = function.rpartition(".")[2]
    if short == "<lambda>":
        told["unpicklable"] = "a lambda cannot be pickled"
    elif "<locals>" in function:
        told["unpicklable"] = f"{short} is made within a function, and cannot be pickled"
    if path and (change := _reading.left_behind(path, line, function)):
        told["change"] = change
    if path:
        told["blocking"] = list(_blocking.blocking(path, line, function))
    return told


def _waits(profile: ProfileRecord, threads: Iterable[Mapping[str, Any]] | None = None) -> dict[str, float]:
    """Seconds that threads of the first process waited, by what that is to an event loop."""
    found: dict[str, float] = {}
    first = profile["threads"][0]["pid"]
    for thread in profile["threads"] if threads is None else threads:
        if thread["pid"] == first:
            for wait in thread["waits"]:
                what = _find.kind_of_wait(wait)
                found[what] = found.get(what, 0.0) + wait["time"]
    return found


def _of_tasks(profile: ProfileRecord) -> list[_Found]:
    """Tasks of event loops, by their function."""
    groups: dict[tuple[int, str], list[Any]] = {}
    for task in profile["tasks"]:
        groups.setdefault((task["pid"], task["function"]), []).append(task)
    found: list[_Found] = []
    for (_, function), tasks in groups.items():
        if len(tasks) < _FEWEST:
            continue
        # It may be one of another library's: where it stands is told by what it awaits.
        places = [
            await_["place"]
            for task in tasks
            for await_ in task["awaits"]
            if await_["place"].startswith(f"{function} (")
        ]
        path, line = _place(profile, function)
        if not path and places and (at := re.search(r"\((.*):(\d+)\)$", places[0])):
            path, line = at[1], int(at[2])
        if path and not _reading.is_of_program(path):
            continue
        rows = [[each["running"], 0.0, 0.0, each["awaiting"], 0.0] for each in tasks]
        edges = [(each["start"], each["start"] + each["wall"]) for each in tasks]
        made = _record(
            profile,
            _name(profile, function, path),
            rows,
            coroutine=True,
            waits={"awaitable": 1.0},
            span=max(end for _, end in edges) - min(start for start, _ in edges),
            at_once=_most_at_once(edges),
            **_refusals(function, path, line),
        )
        found.append(_Found(sum(map(sum, rows)), made))
    return found


def _most_at_once(spans: list[tuple[float, float]]) -> int:
    most = now = 0
    for _, change in sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans]):
        now += change
        most = max(most, now)
    return most


def _of_pools(profile: ProfileRecord) -> list[_Found]:
    """Calls that pools made, by their function: how long one took, divided as the function's samples are."""
    found: list[_Found] = []
    for pool in profile["pools"]:
        count, run = pool["count"], pool["run"]
        if count < _FEWEST or run <= 0:
            continue
        function = pool["function"]
        path, line = _place(profile, function)
        spent = _states(each for each in profile["functions"] if each["function"] == function)
        row = _row(spent) if sum(spent.values()) > 0 else [0.0, 0.0, 0.0, 1.0, 0.0]
        # What it waited for the GIL or a core is part of how long it ran, and none of its own.
        whole = sum(spent[state] for state in _OWN) + spent["ready"] + spent["gil_wait"]
        scale = run / count / (whole or 1.0)
        rows = [[each * scale for each in row]] * count
        sent = pool["pickling"] / count / 4
        made = _record(
            profile,
            _name(profile, function, path),
            rows,
            waits=_waits(
                profile, [each for each in profile["threads"][1:] if each["pid"] == profile["threads"][0]["pid"]]
            ),
            parcels=[[sent, sent, 0.0, sent, sent, 0.0]],
            span=0.0,
            at_once=max(1, _workers(profile)),
            **_refusals(function, path, line),
        )
        found.append(_Found(sum(map(sum, rows)), made))
    return found


def _workers(profile: ProfileRecord) -> int:
    return sum(each["idle"] > 0 or "Pool" in each["name"] for each in profile["threads"])


_OWN: tuple[str, ...] = ("on_cpu_gil", "gil_held_off_cpu", "on_cpu_released", "io_wait", "lock_wait")


def _states(each: Iterable[States]) -> dict[str, float]:
    """The sums of states."""
    found: dict[str, float] = dict.fromkeys((*_OWN, "ready", "gil_wait"), 0.0)
    for states in each:
        values: Mapping[str, Any] = states
        for state in found:
            found[state] += values[state]
    return found


def _row(states: Mapping[str, float]) -> list[float]:
    """With the GIL on a core, with it asleep, on a core without it, waiting, waiting for processes."""
    return [
        states["on_cpu_gil"],
        states["gil_held_off_cpu"],
        states["on_cpu_released"],
        states["io_wait"] + states["lock_wait"],
        0.0,
    ]


def _of_threads(profile: ProfileRecord) -> list[_Found]:
    """Threads of the first process that were started with the same function."""
    groups: dict[str, list[Any]] = {}
    first = profile["threads"][0]["pid"]
    for thread in profile["threads"]:
        if thread["pid"] == first and (named := re.fullmatch(r"Thread-\d+ \((.+)\)", thread["name"])):
            groups.setdefault(named[1], []).append(thread)
    found: list[_Found] = []
    for function, threads in groups.items():
        path, line = _place(profile, function)
        if len(threads) < _FEWEST or not path:
            continue
        rows = [_row(each) for each in threads]
        seconds = sum(map(sum, rows))
        locked = sum(each["lock_wait"] for each in threads) / seconds if seconds > 0 else 0.0
        edges = [(each["start"], each["start"] + each["wall"]) for each in threads]
        made = _record(
            profile,
            _name(profile, function, path),
            rows,
            waits=_waits(profile, threads),
            span=max(end for _, end in edges) - min(start for start, _ in edges),
            at_once=_most_at_once(edges),
            locked=locked if locked > _LOCKED else 0.0,
            **_refusals(function, path, line),
        )
        found.append(_Found(seconds, made))
    return found


def _of_stacks(profile: ProfileRecord) -> list[_Found]:
    """Functions of the program that it calls in a loop, by the stacks of its threads."""
    stacks, lanes = profile.get("stacks"), profile.get("lanes")
    if not stacks or not lanes:
        return []
    frames, functions = stacks["frames"], profile["functions"]
    first = profile["threads"][0]["pid"]
    in_loop = {at: _in_loop(at, frames, functions) for at in range(len(frames))}
    spent: dict[int, dict[str, float]] = {}
    lane_of = {each["index"]: each for each in lanes if each["kind"] == "thread"}
    samples: dict[int, list[Any]] = {}
    for sample in stacks["samples"]:
        if profile["threads"][sample["thread"]]["pid"] == first:
            samples.setdefault(sample["thread"], []).append(sample)
    for thread, seen in samples.items():
        seen.sort(key=lambda sample: sample["at"])
        function_at = [(sample["at"], in_loop[sample["frame"]]) for sample in seen]
        if lane := lane_of.get(thread):
            _divide(lane, function_at, spent)
    found: list[_Found] = []
    for at, states in spent.items():
        function = functions[at]
        row = _row(states)
        made = _record(
            profile,
            _name(profile, function["function"], function["file"]),
            [row],
            waits=_waits(profile),
            span=sum(row),
            **_refusals(function["function"], function["file"], function["line"]),
        )
        found.append(_Found(sum(row), made, counted=False))
    return found


def _in_loop(at: int, frames: Sequence[Any], functions: Sequence[Any]) -> int | None:
    """The outermost function of a stack that the program calls in a loop."""
    found: int | None = None
    while at != -1:
        frame = frames[at]
        caller = frame["caller"]
        if caller != -1 and _reading.is_of_program(functions[frame["function"]]["file"]):
            place = functions[frames[caller]["function"]]["file"]
            made = functions[frame["function"]]["function"].rpartition(".")[2]
            is_function = not made.startswith("<") or made == "<lambda>"
            if is_function and _reading.is_of_program(place) and _reading.is_repeated(place, frames[caller]["line"]):
                found = frame["function"]
        at = caller
    return found


def _divide(lane: Any, function_at: list[tuple[float, int | None]], spent: dict[int, dict[str, float]]) -> None:
    """Add a thread's time to the functions that its samples were in, each until the next one."""
    from plait.observe._states import STATES

    place = 0
    for start, length, state in zip(lane["start"], lane["length"], lane["state"], strict=True):
        at, end = start, start + length
        while at < end:
            while place + 1 < len(function_at) and function_at[place + 1][0] <= at:
                place += 1
            until = min(end, function_at[place + 1][0]) if place + 1 < len(function_at) else end
            function = function_at[place][1] if function_at and function_at[place][0] <= at else None
            if function_at and at < function_at[0][0]:
                until = min(end, function_at[0][0])
            if function is not None:
                states = spent.setdefault(function, dict.fromkeys((*STATES,), 0.0))
                states[STATES[state]] += until - at
            at = max(until, at + 1e-9)
