"""What is known of a program without looking into it: who has started it saw its end."""

from __future__ import annotations

import os
import sys
import time

from plait._words import seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage

    from plait.observe._records import ProcessRecord, ProfileRecord

__all__ = ["Ended", "add"]


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
        import signal

        try:
            return f"was ended by {signal.Signals(self.signal).name}"
        except ValueError:  # a signal without a name
            return f"was ended by signal {self.signal}"


def add(record: ProfileRecord, ended: Ended, *, whole: bool) -> None:
    """Add the end of its program to a profile; and the program, where it has ended before anything of it was seen.

    Args:
        record: The profile.
        ended: The program.
        whole: Whether it has written everything that it saw, as it does when the interpreter ends.
    """
    if all(process["pid"] != ended.pid for process in record["processes"]):
        record["processes"].insert(0, _process(ended))
    for process in record["processes"]:
        if process["pid"] == ended.pid and process["exit"] is None:
            process["exit"] = ended.code
    if not record["threads"]:
        _say_alone(record, ended)
        return
    if ended.signal and not whole:
        record["limits"].append(
            f"Process {ended.pid} {ended.how()}: what it did in the last fifth of a second before may be missing."
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


def _say_alone(record: ProfileRecord, ended: Ended) -> None:
    """Say it in the place of a verdict, which there is none on."""
    record["started"] = time.time() - ended.wall
    record["wall"] = ended.wall
    record["cores"] = len(os.sched_getaffinity(0))
    record["switch_interval"] = sys.getswitchinterval()
    sentence = f"{ended.name} {ended.how()} after {seconds(ended.wall)}, before anything of it was seen."
    record["evidence"] = {"sentence": sentence, "try": [], "figures": {"wall": ended.wall}, "functions": []}
