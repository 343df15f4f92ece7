"""Profile the programs of examples/gil and make docs/gil-programs.md of their reports.

    python scripts/gil_programs.py

The sentences about a program are here; every figure in them and every report comes from the run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "examples" / "gil"
PAGE = ROOT / "docs" / "gil-programs.md"


class Report:
    """What a profile of one run found."""

    def __init__(self, record: dict[str, Any], text: str) -> None:
        self.record = record
        self.text = text
        self.wall = str(seconds(record["wall"]))

    def of(self, state: str, *names: str) -> float:
        """Time in a state, of all threads or those whose names begin so."""
        threads = self.record["threads"]
        return float(sum(each[state] for each in threads if not names or each["name"].startswith(names)))

    def share(self, state: str, *names: str) -> str:
        """The same as a share of those threads' time."""
        whole = sum(each["wall"] for each in self.record["threads"] if not names or each["name"].startswith(names))
        return f"{100 * self.of(state, *names) / whole:.0f} %"

    def cores(self) -> str:
        used = self.of("on_cpu_gil") + self.of("on_cpu_released")
        return f"{used / self.record['wall']:.2f}"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def profile(script: str, *arguments: str) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.json")
        command = [sys.executable, "-m", "plait", "profile", f"--json={file}", str(PROGRAMS / script), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        return Report(json.loads(file.read_text()), done.stderr.strip("\n"))


@dataclass(frozen=True)
class Program:
    script: str
    title: str
    ways: tuple[str, ...]
    why: Callable[[dict[str, Report]], str]


def countdown(by: dict[str, Report]) -> str:
    whole, halves = by["whole"], by["halves"]
    waited = seconds(halves.of("gil_wait", "first", "second"))
    return f"""
        The whole takes {whole.wall}, the two halves together {halves.wall}. Both threads want to run Python all the
        time, and one can: they spent {waited} waiting for the GIL, which the other had, and used {halves.cores()} cores
        between them, against {whole.cores()} for the whole. Two threads do not make it faster, whatever the number of
        cores."""


def sums(by: dict[str, Report]) -> str:
    serial, threads, processes = by["serial"], by["threads"], by["processes"]
    waited, waited_in_processes = seconds(threads.of("gil_wait")), seconds(processes.of("gil_wait"))
    return f"""
        One after the other: {serial.wall} with {serial.cores()} cores. Four threads: {threads.wall} with
        {threads.cores()} cores; they waited for the GIL for {waited} in all. Four processes: {processes.wall} with
        {processes.cores()} cores; each has a GIL of its own, so they waited {waited_in_processes} for it. What they wait
        for instead is a core: {seconds(processes.of("ready"))} were spent ready without one, for there are
        {processes.record["cores"]} cores and four processes. And they have to be started first."""


def pages(by: dict[str, Report]) -> str:
    serial, threads, gathered = by["serial"], by["threads"], by["gathered"]
    return f"""
        One by one: {serial.wall}, of which the program waited for I/O for {serial.share("io_wait")}: it has the GIL
        whenever it wants, and nothing to do. In ten threads the waits overlap, for who waits does not have the GIL:
        {threads.wall}, with {threads.share("io_wait", "ThreadPoolExecutor")} of the time of the pool's threads in I/O.
        Gathered, one thread does all of it: {gathered.wall}; its tasks await at the same time, and the loop itself
        waits for all of them at once."""


def sleeps(by: dict[str, Report]) -> str:
    (only,) = by.values()
    slept = seconds(only.of("io_wait", "Thread-"))
    return f"""
        Ten sleeps of half a second take {only.wall}. A thread that sleeps needs neither the GIL nor a core: {slept} of
        sleep passed at the same time, with {only.cores()} cores used and {seconds(only.of("gil_wait"))} of waiting for
        the GIL."""


def beside(by: dict[str, Report]) -> str:
    (only,) = by.values()
    answers, gil = seconds(only.of("io_wait", "asks")), seconds(only.of("gil_wait", "asks"))
    ran = seconds(only.of("on_cpu_gil", "asks") + only.of("on_cpu_released", "asks"))
    return f"""
        A hundred answers, each there after a millisecond, take {only.wall}. The thread that asks waited for its answers
        for {answers} and for the GIL for {gil}: each time it comes back, the thread that computes has the GIL and keeps
        it for the switch interval. It needed a core for no more than {ran}."""


ALL = (
    Program("countdown.py", "Counting down, whole and in halves", ("whole", "halves"), countdown),
    Program("sums.py", "Sums in threads and in processes", ("serial", "threads", "processes"), sums),
    Program("pages.py", "Pages one by one, in threads, gathered", ("serial", "threads", "gathered"), pages),
    Program("sleeps.py", "Sleeping in threads", ("",), sleeps),
    Program("beside.py", "Waiting beside a thread that computes", ("",), beside),
)

HEAD = """# The programs that every text on the GIL shows, and why they take what they take

Made by `scripts/gil_programs.py` from runs of `examples/gil` under `plait profile`: do not edit. What the states in a report
mean is told in [profile.md](profile.md).
"""


def section(program: Program) -> str:
    reports = {way: profile(program.script, *filter(None, [way])) for way in program.ways}
    parts = [f"## {program.title}", textwrap.fill(" ".join(program.why(reports).split()), 130)]
    for way, report in reports.items():
        parts += [
            f"`plait profile examples/gil/{program.script}{' ' + way if way else ''}`",
            f"```text\n{report.text}\n```",
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text("\n".join([HEAD, *map(section, ALL)]))
