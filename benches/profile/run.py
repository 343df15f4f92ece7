"""What it costs to profile a program: `plait profile`, py-spy and viztracer beside the program alone.

    make bench                 measure, store result.json, render README.md here
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result

For whom: somebody who asks whether a program that is profiled is still the program that was meant, and us, who want
`plait profile` to cost less than 3 % of the run time in its default mode, and less than 10 % where a program lets go of the
GIL for every row of a query.

Method: each program (`programs.py`) runs with a profiler and alone right before it, once in each round, and the order of
profilers is rotated from round to round. plait and py-spy look at 100 stacks a second; viztracer writes down every call, as it
comes, and so is measured with few programs. There are three figures, each of which is what is more than alone, as a share of
the time that the program alone takes by the clock. Where other virtual machines make this one slow, for seconds at a time and
by half, they do it to both, at different times: so the lower quartile of the runs with a profiler is held against the lower
quartile of all runs alone. The interval is that of the middle nine tenths of such figures of rounds that are drawn anew, a
thousand times. The first is CPU time of the program's process while it
works, all its threads together: what plait's hooks and its observer need is in it, what py-spy needs in its own process is
not. The second is the program's time by the clock while it works. The third is that of the whole command, with its start, the
report and the end, which are the same however long the program is: what they take is measured by a program that does nothing.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

from benches._rounds import PairedRounds, Peer

HERE = Path(__file__).resolve().parent
RATE = "100"
# By program: what it is, and its size.
PROGRAMS = {
    "computes": ("computes in Python", 100),
    "longer_waits": ("eight threads that wait for 10 ms each time", 100),
    "waits": ("eight threads that wait for 1 ms each time", 800),
    "mixed": ("four threads that wait beside one that computes", 70),
    "tasks": ("a hundred tasks of asyncio that wait for 1 ms each time", 200),
    "rows": ("SQLite, 2.7 million pairs of letting go and taking in 2.3 s", 30_000),
    "bare_rows": ("SQLite, nothing done with the rows", 60_000),
}
# In percent, where it is not 3.
AIMS = {"rows": 10, "bare_rows": 10}
# Times that rounds are drawn anew.
DRAWN = 1000
# What it takes a minute for says nothing new.
VIZTRACER_RUNS = ("longer_waits", "mixed", "nothing")
FIGURES = {"cpu": "CPU", "wall": "clock", "whole": "whole command"}


@dataclass
class Profiler(Peer):
    command: tuple[str, ...] = ()
    tool: str = ""
    """The program that has to be there."""
    last: tuple[str, ...] = ()
    """What the program gets besides."""


PLAIT = (sys.executable, "-m", "plait", "profile", "-q", "--rate", RATE, "-o", "{file}")
PY_SPY = ("py-spy", "record", "--rate", RATE, "--format", "raw", "-o", "{file}", "--", sys.executable)
VIZTRACER = (sys.executable, "-m", "viztracer", "--quiet", "-o", "{file}.json")
PEERS = {
    "plait profile": Profiler(command=PLAIT, package="plait", ours=True),
    "py-spy record": Profiler(command=PY_SPY, package="py-spy", tool="py-spy"),
    "plait.watch()": Profiler(last=("watch",), ours=True),
    "viztracer": Profiler(command=VIZTRACER, package="viztracer", tool="viztracer"),
}


class Interval(NamedTuple):
    """A figure, and what it might as well have been."""

    middle: float
    low: float
    high: float


def low(values: Iterable[float]) -> float:
    """The lower quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")[0]


def found(tool: str) -> str | None:
    return shutil.which(tool, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))


class ProfileRounds(PairedRounds[Profiler]):
    """Its table has a line for each program and a pair of columns for each profiler."""

    script = Path(__file__).resolve()
    summary = "Measure what profilers cost."
    peers = PEERS
    rounds = 15
    quick_rounds = 2

    def installed(self) -> list[str]:
        return [name for name, peer in self.peers.items() if not peer.tool or found(peer.tool)]

    def versions(self) -> dict[str, str]:
        packages = [self.peers[name].package for name in self.installed()]
        return {package: importlib.metadata.version(package) for package in packages if package}

    def measure(self, peer: Profiler, quick: bool) -> dict[str, float]:
        measured = {}
        for name, (_what, size) in {**PROGRAMS, "nothing": ("", 0)}.items():
            if peer.tool == "viztracer" and name not in VIZTRACER_RUNS:
                continue
            program = [str(HERE / "programs.py"), name, str(size // 4 if quick else size)]
            with tempfile.TemporaryDirectory() as folder:
                command = [each.replace("{file}", str(Path(folder, "found"))) for each in peer.command]
                if peer.tool and command[0] == peer.tool:
                    command[0] = found(peer.tool) or peer.tool
                for kind, given in (("alone", [sys.executable]), ("profiled", command)):
                    began = time.perf_counter()
                    last = peer.last if kind == "profiled" else ()
                    done = subprocess.run(
                        [*(given or [sys.executable]), *program, *last], capture_output=True, text=True, check=True
                    )
                    own = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
                    own["whole"] = time.perf_counter() - began
                    measured.update({f"{name} {kind} {key}": value for key, value in own.items()})
        return measured

    def extra(self, result: dict[str, Any], peer: str, name: str, figure: str) -> Interval | None:
        """How much longer a program takes with a profiler, in seconds."""
        rounds = result["rounds"]
        if f"{name} alone {figure}" not in rounds[0][peer]:
            return None

        def of(drawn: list[dict[str, Any]]) -> float:
            alone = [own[key] for each in drawn for own in each.values() if (key := f"{name} alone {figure}") in own]
            return low(each[peer][f"{name} profiled {figure}"] for each in drawn) - low(alone)

        chance = random.Random(1)
        drawn = sorted(of(chance.choices(rounds, k=len(rounds))) for _ in range(DRAWN))
        return Interval(of(rounds), drawn[DRAWN // 20], drawn[-DRAWN // 20])

    def more(self, result: dict[str, Any], peer: str, name: str, figure: str) -> Interval | None:
        """The same in percent of the program's time by the clock."""
        found = self.extra(result, peer, name, figure)
        if found is None:
            return None
        wall = low(each[peer][f"{name} alone wall"] for each in result["rounds"])
        return Interval(*(100 * value / wall for value in found))

    def cell(self, result: dict[str, Any], peer: str, name: str, figure: str) -> str:
        more = self.more(result, peer, name, figure)
        return "-" if more is None else f"{more.middle:.1f} ({more.low:.1f} to {more.high:.1f})"

    def start(self, result: dict[str, Any], peer: str) -> str:
        """What start, report and end take, in milliseconds."""
        found = self.extra(result, peer, "nothing", "whole")
        assert found is not None
        middle, least, most = (1000 * value for value in found)
        return f"{peer} {middle:.0f} ms ({least:.0f} to {most:.0f})"

    def table(self, result: dict[str, Any]) -> str:
        peers = [peer for peer in PEERS if peer in result["rounds"][0]]
        heads = [f"{peer}, {title}, %" for peer in peers for title in FIGURES.values()]
        lines = ["| program | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        for name, (what, _size) in PROGRAMS.items():
            cells = [self.cell(result, peer, name, figure) for peer in peers for figure in FIGURES]
            lines.append(f"| {what} | {' | '.join(cells)} |")
        return "\n".join(
            [*lines, "", f"Start, report and end take {', '.join(self.start(result, peer) for peer in peers)}."]
        )

    def aims(self, result: dict[str, Any]) -> str:
        """Which of the aims the program's time by the clock keeps."""
        lines = []
        for peer in ("plait profile", "plait.watch()"):
            for name, (what, _size) in PROGRAMS.items():
                aim = AIMS.get(name, 3) if peer == "plait profile" else 1
                figures = [self.more(result, peer, name, figure) for figure in ("wall", "cpu")]
                wall, cpu = (each.middle for each in figures if each is not None)
                kept = "below" if wall < aim else "**above**"
                lines.append(
                    f"- {peer}, {what}: {wall:.1f} % of the clock, {kept} the {aim} % that it is to cost at most; "
                    f"{cpu:.1f} % of CPU time"
                )
        return "\n".join(lines)

    def page(self, result: dict[str, Any]) -> str:
        busy = result["load"] > 2
        warning = (
            "\n**The machine was busy with other things: differences of some percent are noise.**\n" if busy else ""
        )
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        return f"""# What it costs to profile a program

Made by `benches/profile/run.py`, whose first lines say how it is measured; the rounds are in `result.json`.

CPython {result["python"]}, {result["machine"]}, load {result["load"]} at the end; {versions}.
{len(result["rounds"])} rounds: what is more than alone, as a share of the program's time by the clock, and its interval.
{warning}
{self.table(result)}

{self.aims(result)}
"""


if __name__ == "__main__":
    ProfileRounds().main()
