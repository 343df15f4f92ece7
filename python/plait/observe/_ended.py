"""What is known of processes without looking into them: who has started one saw its end, or says that it was there.

Whoever puts a profile together writes it into the file as a word of JSON, so that the file says all that is known:

| key | what |
|---|---|
| `program` | the end of the program, where that was seen; else null |
| `ends` | codes of processes by their numbers, as the shell has them |
| `limits` | what was not looked into |
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time

from plait import _core
from plait._words import seconds
from plait.observe import _session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage
    from typing import Any

    from plait.observe._records import ProcessRecord, ProfileRecord

__all__ = ["Ended", "loaded", "to_word"]

_BIRTH = 0.001
"""Of a program of which no more seconds were seen nothing was seen but that it was there."""


class Ended:
    """A program that has ended.

    Attributes:
        pid: Its number.
        code: The code that it ended with; 128 + n for signal n.
        name: What it is called.
        signal: The signal that has ended it; 0 for none.
        wall: Seconds that it lived.
        usage: What it has used.
    """

    __slots__ = ("code", "name", "pid", "signal", "usage", "wall")

    def __init__(self, name: str, pid: int, status: int, wall: float, usage: struct_rusage) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.pid = pid
        self.code = 128 - code if code < 0 else code
        self.name = name
        self.signal = max(0, -code)
        self.wall = wall
        self.usage = usage

    def how(self) -> str:
        """Return how it has ended, in words."""
        if not self.signal:
            return f"ended with code {self.code}"
        try:
            return f"was ended by {signal.Signals(self.signal).name}"
        except ValueError:  # a signal without a name
            return f"was ended by signal {self.signal}"


def to_word(folder: str, ended: Ended | None) -> str:
    """Return what is known of the processes of a profile in that folder, for its file."""
    return json.dumps(_known(folder, ended))


def _known(folder: str, ended: Ended | None) -> dict[str, Any]:
    names = sorted(os.listdir(folder))
    ends = {name.removesuffix(_session.EXIT): _read(folder, name) for name in names if name.endswith(_session.EXIT)}
    codes = {pid: int(code) for pid, code in ends.items() if re.fullmatch(r"-?\d+", code)}
    return {
        "program": None if ended is None else _program(ended),
        "ends": {pid: 128 - code if code < 0 else code for pid, code in codes.items()},
        "limits": _not_seen(folder, names, codes),
    }


def _read(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # a child has taken it back
        return ""


def _holds_something(folder: str, name: str) -> bool:
    try:
        return os.path.getsize(os.path.join(folder, name)) > 0
    except OSError:  # it has another name by now
        return True


def _not_seen(folder: str, names: list[str], codes: dict[str, int]) -> list[str]:
    """Say what children have left word of, and which have not."""
    matches = map(re.compile(r"(\d+)(-[\d.]+\.(part|trace)|\.server|\.note)").fullmatch, names)
    seen = {match[1] for match in matches if match and _holds_something(folder, match[0])}
    unseen: list[str] = []
    died = [
        "a fork" + _by(code)
        for pid, code in codes.items()
        if code < 0 and not {pid, pid + _session.STARTED} & {*seen, *names}
    ]
    for name in names:
        pid, kind = os.path.splitext(name)
        if kind == _session.BECAME or (kind == _session.STARTED and pid not in seen):
            program, code = _read(folder, name), codes.get(pid, 0)
            if code < 0 and re.fullmatch(r"(python|pypy)[\d.]*t?", program):
                died.append(program + _by(code))
            else:
                unseen.append(program)
    found: list[str] = []
    if died:
        which = "1 child process" if len(died) == 1 else f"{len(died)} child processes"
        them = "it" if len(died) == 1 else "them"
        found.append(f"{which} ended before anything of {them} was seen: {_listed(died)}.")
    if unseen:
        found.append(f"Not looked into, since it is not Python or runs with -I, -E or -S: {_listed(unseen)}.")
    notes = [name for name in names if name.endswith(".note")]
    return found + [f"Process {name.removesuffix('.note')} was not observed: {_read(folder, name)}." for name in notes]


def _by(code: int) -> str:
    return f" (killed by signal {-code})"


def _listed(all_: list[str]) -> str:
    counts: dict[str, int] = {}
    for each in all_:
        counts[each] = counts.get(each, 0) + 1
    return ", ".join(each if count == 1 else f"{each} ({count} times)" for each, count in counts.items())


def _program(ended: Ended) -> dict[str, Any]:
    return {
        "pid": ended.pid,
        "code": ended.code,
        "signal": ended.signal,
        "how": ended.how(),
        "process": _process(ended),
        "started": time.time() - ended.wall,
        "cores": len(os.sched_getaffinity(0)),
        "switch_interval": sys.getswitchinterval(),
    }


def loaded(paths: list[str], *, whole: bool = True, folder: str | None = None) -> ProfileRecord:
    """Return the profile in these files, with all that is known of its processes.

    Args:
        paths: The files.
        whole: Whether stacks, lanes and strips are wanted too.
        folder: Where the files are, if nobody has put them together: then others there tell of processes too.
    """
    record = _core.load_profile(paths, whole=whole)
    words: list[dict[str, Any]] = [json.loads(word) for word in record.pop("words", [])]
    if folder is not None:
        words.append(_known(folder, None))
    pids = {int(pid) for word in words for pid in word["ends"]} | {
        word["program"]["pid"] for word in words if word["program"]
    }
    cut = [record["processes"][index] for index in record.pop("unended", [])]
    _say_unended(record, [process for process in cut if process["pid"] not in pids])
    whole_ones = {process["pid"] for process in record["processes"]} - {process["pid"] for process in cut}
    for word in words:
        if word["program"]:
            _add_program(record, word["program"], whole=word["program"]["pid"] in whole_ones)
        last = {process["pid"]: process for process in record["processes"]}  # of those that became another program
        for pid, process in last.items():
            if process["exit"] is None:
                process["exit"] = word["ends"].get(str(pid))
        if record["processes"]:
            record["limits"].extend(word["limits"])
    return record


def _say_unended(record: ProfileRecord, cut: list[ProcessRecord]) -> None:
    """Say of which processes the trace has no end, which each writes that is not killed."""
    if not cut:
        return
    more = "" if len(cut) == 1 else f" and of {len(cut) - 1} more"
    record["limits"].append(
        f"The trace has no end of process {cut[0]['pid']} {cut[0]['name']}{more}: it was killed or still runs, or the trace "
        "was cut off there. What it did last is missing"
    )


def _add_program(record: ProfileRecord, program: dict[str, Any], *, whole: bool) -> None:
    """Add the end of the program; and the program, where it has ended before anything of it was seen.

    Args:
        record: The profile.
        program: What is known of it.
        whole: Whether it has written everything that it saw, as it does when the interpreter ends.
    """
    pid = program["pid"]
    if program["signal"] and record["wall"] < _BIRTH:
        record["processes"] = [process for process in record["processes"] if process["pid"] != pid]
    if all(process["pid"] != pid for process in record["processes"]):
        record["processes"].insert(0, program["process"])
    for process in record["processes"]:
        if process["pid"] == pid and process["exit"] is None:
            process["exit"] = program["code"]
    if not record["threads"] or (program["signal"] and record["wall"] < _BIRTH):
        _say_alone(record, program)
    elif program["signal"] and not whole:
        record["limits"].append(
            f"Process {pid} {program['how']}: what it did in the last fifth of a second before may be missing."
        )


def _process(ended: Ended) -> ProcessRecord:
    cpu = min(ended.usage.ru_utime + ended.usage.ru_stime, ended.wall)
    return {
        "pid": ended.pid,
        "parent": os.getpid(),
        "name": ended.name,
        "python": ".".join(map(str, sys.version_info[:3])),
        "start": 0.0,
        "wall": ended.wall,
        "stopped": 0.0,
        "exit": ended.code,
        "cpu": cpu,
        "faults_minor": ended.usage.ru_minflt,
        "faults_major": ended.usage.ru_majflt,
        "states": {"new": 0.0, "ready": 0.0, "running": cpu, "waiting": ended.wall - cpu, "terminated": 0.0},
    }


def _say_alone(record: ProfileRecord, program: dict[str, Any]) -> None:
    """Say it in the place of a verdict, which there is none on."""
    process: ProcessRecord = program["process"]
    record["started"] = program["started"]
    record["wall"] = process["wall"]
    record["cores"] = program["cores"]
    record["switch_interval"] = program["switch_interval"]
    sentence = f"{process['name']} {program['how']} after {seconds(process['wall'])}, before anything of it was seen."
    record["evidence"] = {"sentence": sentence, "try": [], "figures": {"wall": process["wall"]}, "functions": []}
