"""What the benches share: peers in processes of their own, rounds in rotated order, the stored result, pages made from it.

A bench is a script `benches/<name>/run.py` with a subclass of `Bench`, or of `Rounds` where its table has another form: who the
peers are, and what is measured of one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

ROOT = Path(__file__).resolve().parent.parent
CORES = len(os.sched_getaffinity(0))


@dataclass(kw_only=True)
class Peer:
    package: str | None = None  # what has to be installed
    ours: bool = False
    env: tuple[tuple[str, str], ...] = ()


@dataclass
class Measure:
    title: str
    unit: str
    more_is_better: bool
    text: str


P = TypeVar("P", bound=Peer)


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


class Rounds(ABC, Generic[P]):
    """Peers measured in rounds; what the result looks like and how it is shown is the bench's own."""

    script: ClassVar[Path]
    summary: ClassVar[str]
    peers: Mapping[str, P]
    rounds: ClassVar[int]
    quick_rounds: ClassVar[int]
    limit: ClassVar[float] = 300.0
    """Seconds for one peer in one round."""

    @abstractmethod
    def measure(self, peer: P, quick: bool) -> dict[str, float]:
        """One peer, once: called in a process of its own."""

    @abstractmethod
    def run_all(self, quick: bool, rounds: int) -> dict[str, Any]:
        """Measure all peers and return the result as it is stored."""

    @abstractmethod
    def table(self, result: dict[str, Any]) -> str: ...

    @abstractmethod
    def page(self, result: dict[str, Any]) -> str: ...

    def installed(self) -> list[str]:
        return [name for name, peer in self.peers.items() if not peer.package or importlib.util.find_spec(peer.package)]

    def run_child(self, name: str, quick: bool) -> dict[str, Any]:
        """Measure one peer in a process of its own."""
        command = [sys.executable, "-W", "ignore", str(self.script), "--child", name, *(["--quick"] if quick else [])]
        load = os.getloadavg()[0]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **dict(self.peers[name].env)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self.limit,
                check=True,
            )
        except subprocess.TimeoutExpired:
            return {"peer": name, "load": load, "failed": f"not done in {self.limit:.0f} s"}
        except subprocess.CalledProcessError as error:
            return {"peer": name, "load": load, "failed": (error.stderr.strip().splitlines() or ["no message"])[-1]}
        return {"peer": name, "load": load, "measures": json.loads(done.stdout.splitlines()[-1])}

    def run_rounds(self, quick: bool, rounds: int) -> list[dict[str, Any]]:
        names = self.installed()
        rows = []
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                row = self.run_child(name, quick)
                rows.append({"round": number, **row})
                shown = row.get("failed") or "  ".join(f"{key} {value:.4g}" for key, value in row["measures"].items())
                print(f"round {number + 1}/{rounds}  {name:<34}{shown}", file=sys.stderr, flush=True)
        return rows

    def versions(self) -> dict[str, str]:
        packages = {
            peer.package for peer in self.peers.values() if peer.package and importlib.util.find_spec(peer.package)
        }
        return {name: importlib.metadata.version(name) for name in sorted(packages)}

    def render(self, result: dict[str, Any]) -> None:
        self.script.with_name("README.md").write_text(self.page(result))

    def report(self, result: dict[str, Any]) -> str:
        """What is printed in the end."""
        return self.table(result)

    def main(self) -> None:
        parser = argparse.ArgumentParser(description=self.summary)
        parser.add_argument("--quick", action="store_true", help="a short run that stores and renders nothing")
        parser.add_argument("--render", action="store_true", help="render the pages from the stored result")
        parser.add_argument("--child", choices=self.peers, help=argparse.SUPPRESS)
        parser.add_argument("--rounds", type=int, help="how often each peer is measured")
        options = parser.parse_args()
        stored = self.script.with_name("result.json")
        if options.child:
            print(json.dumps(self.measure(self.peers[options.child], options.quick)))
            return
        if options.render:
            result = json.loads(stored.read_text())
        else:
            rounds = options.rounds or (self.quick_rounds if options.quick else self.rounds)
            result = self.run_all(options.quick, rounds)
        if not options.quick:
            if not options.render:
                stored.write_text(json.dumps(result, indent=1) + "\n")
            self.render(result)
        print(self.report(result))


class PairedRounds(Rounds[P]):
    """Stored by round, so that ratios are those of one round: all peers have to be measured in each."""

    def run_all(self, quick: bool, rounds: int) -> dict[str, Any]:
        measured: list[dict[str, Any]] = [{} for _ in range(rounds)]
        for row in self.run_rounds(quick, rounds):
            if "failed" in row:
                sys.exit(f"run.py: {row['peer']}: {row['failed']}")  # no ratio without it
            measured[row["round"]][row["peer"]] = row["measures"]
        return {
            "python": platform.python_version(),
            "machine": f"{CORES} cores, Linux {platform.release()}",
            "load": round(os.getloadavg()[0], 1),
            "versions": self.versions(),
            "rounds": measured,
        }


class Bench(Rounds[P]):
    """A column for each measure, and a table that stands in the top README.md too. The first peer is plait as it comes."""

    text: ClassVar[str]
    """The script's docstring: what stands after "For whom:" and "Method:" goes to the page."""
    title: ClassVar[str]
    markers: ClassVar[tuple[str, str]]
    """What stands around the table in the top README.md."""
    measures: Mapping[str, Measure]
    peers_are: ClassVar[str]
    verdicts_are: ClassVar[str]
    missing: ClassVar[str] = "-"
    """The cell of a peer without figures."""

    @abstractmethod
    def figure(self, value: float) -> str: ...

    def run_all(self, quick: bool, rounds: int) -> dict[str, Any]:
        environment = self.environment()
        return {"environment": environment, "rounds": self.run_rounds(quick, rounds)}

    def environment(self) -> dict[str, Any]:
        model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        with_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
        return {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "python": platform.python_version() + ("" if with_gil else " (no GIL)"),
            "kernel": platform.release(),
            "libc": "-".join(platform.libc_ver()),
            "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
            "cores": CORES,
            "versions": self.versions(),
        }

    def values(self, result: dict[str, Any], peer: str, key: str) -> list[float]:
        rows = [row["measures"] for row in result["rounds"] if row["peer"] == peer and "measures" in row]
        return [row[key] for row in rows if key in row]

    def cell(self, found: list[float]) -> str:
        if not found:
            return self.missing
        low, middle, high = (self.figure(value) for value in (min(found), statistics.median(found), max(found)))
        return f"{middle} ({low} to {high})" if low != high else middle

    def measured_peers(self, result: dict[str, Any]) -> list[str]:
        return [name for name in self.peers if any(row["peer"] == name for row in result["rounds"])]

    def table_of(self, result: dict[str, Any], measures: Mapping[str, Measure]) -> str:
        heads = [f"{each.title}, {each.unit}" for each in measures.values()]
        lines = [f"| {self.peers_are} | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        lines += [
            f"| {name} | " + " | ".join(self.cell(self.values(result, name, key)) for key in measures) + " |"
            for name in self.measured_peers(result)
        ]
        return "\n".join(lines)

    def table(self, result: dict[str, Any]) -> str:
        return self.table_of(result, self.measures)

    def verdict(self, each: Measure, mine: float, theirs: float) -> str:
        """What plait's median is beside the best median of the others, in words."""
        loses = mine < theirs if each.more_is_better else mine > theirs
        return "**loses to**" if loses else "equals" if mine == theirs else "is better than"

    def verdicts(self, result: dict[str, Any]) -> list[str]:
        """For each measure, plait's median against the best median of the others."""
        lines = []
        plait = next(iter(self.peers))
        for key, each in self.measures.items():
            found = {name: self.values(result, name, key) for name in self.measured_peers(result)}
            medians = {name: statistics.median(those) for name, those in found.items() if those}
            others = {name: value for name, value in medians.items() if not self.peers[name].ours}
            if plait not in medians or not others:
                continue
            best = (max if each.more_is_better else min)(others, key=lambda name: others[name])
            mine, theirs = medians[plait], others[best]
            lines.append(
                f"- {each.title}: plait ({self.figure(mine)} {each.unit}) {self.verdict(each, mine, theirs)}"
                f" the best of the others, {best} ({self.figure(theirs)} {each.unit})"
            )
        return lines

    def place(self, where: dict[str, Any]) -> str:
        """What of the environment the caption names first."""
        return f"{where['cores']} cores ({where['processor']})"

    def caption(self, result: dict[str, Any]) -> str:
        where = result["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        rounds = 1 + max(row["round"] for row in result["rounds"])
        counted = "One round" if rounds == 1 else f"Medians of {rounds} rounds and their range"
        return f"{counted}; {self.place(where)}, Python {where['python']}, {versions}, {where['date']}"

    def loads(self, result: dict[str, Any]) -> str:
        loads = [row["load"] for row in result["rounds"]]
        return f"load average {min(loads):.1f} to {max(loads):.1f}"

    def short_caption(self, result: dict[str, Any]) -> str:
        """What stands below the table in the top README.md."""
        return f"{self.caption(result)}."

    def long_caption(self, result: dict[str, Any]) -> str:
        """What stands below the table in the bench's own page."""
        where = result["environment"]
        system = ", ".join(where[key] for key in ("kernel", "libc") if key in where)
        return f"{self.caption(result)}. Kernel {system}; {self.loads(result)}."

    def page(self, result: dict[str, Any]) -> str:
        purpose, _, method = self.text.partition("For whom:")[2].partition("Method:")
        measures = [
            f"- **{each.title}** ({each.unit}, {'more' if each.more_is_better else 'less'} is better): {each.text}."
            for each in self.measures.values()
        ]
        failed = [
            f"- round {row['round'] + 1}, {row['peer']}: {row['failed']}" for row in result["rounds"] if "failed" in row
        ]
        parts = [
            f"# {self.title}",
            f"Made by `make bench` (`{self.script.relative_to(ROOT)}`) from [result.json](result.json): do not edit.",
            f"For whom:{purpose.rstrip()}",
            f"Method:{method.rstrip()}",
            "## Measures",
            "\n".join(measures),
            "## Result",
            self.table(result),
            self.long_caption(result),
            f"## {self.verdicts_are}",
            "\n".join(self.verdicts(result)),
        ]
        if failed:
            parts += ["## Failed", "\n".join(failed)]
        return "\n\n".join(parts) + "\n"

    def render(self, result: dict[str, Any]) -> None:
        super().render(result)
        readme = ROOT / "README.md"
        before, begin, rest = readme.read_text().partition(self.markers[0])
        _, end, after = rest.partition(self.markers[1])
        if not begin or not end:
            sys.exit(f"run.py: no markers {' and '.join(self.markers)} in README.md")
        readme.write_text(f"{before}{begin}\n{self.table(result)}\n\n{self.short_caption(result)}\n{end}{after}")

    def report(self, result: dict[str, Any]) -> str:
        return "\n".join([self.table(result), "", *self.verdicts(result)])
