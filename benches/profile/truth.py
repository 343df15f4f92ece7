"""Whether what `plait profile` says is true: programs that know their own answer (`truths.py`), and what it says of them.

    truth.py [--store] [NAME ...]

Each program runs three times under `plait profile --json`, and the middle one of how far each figure is off is shown. A
figure is good within 5 % of the truth, or within 2 ms, which a program needs around what it measures. Run it on a quiet
machine: figures are of the scheduler too. With `--store` they go to `truth.json`, by version of Python, and to `TRUTH.md`;
of programs that were not run now, those that are there stay.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

from benches.profile import truths

HERE = Path(__file__).resolve().parent

STATES = ("on_cpu_gil", "on_cpu_released", "ready", "gil_wait", "gil_held_off_cpu", "io_wait", "lock_wait", "idle")
NEAR = 0.05
ROOM = 0.002
RUNS = 3


def profiled(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a program says of itself, and what its profile does."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "profile.json")
        command = [sys.executable, "-m", "plait", "profile", "-q", f"--json={file}", str(HERE / "truths.py"), name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1]), json.loads(file.read_text())


def of(profile: dict[str, Any], kind: str, name: str) -> dict[str, float]:
    """The figures of a thread or task of that name, or of all threads of a process."""
    if kind == "processes":
        own = [each for each in profile["threads"] if str(each["pid"]) == name]
        return {state: sum(each[state] for each in own) for state in STATES}
    found: list[dict[str, float]] = [each for each in profile[kind] if each["name"] == name]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} {kind} are called {name}: {[each['name'] for each in profile[kind]]}")
    return found[0]


def compare(name: str) -> dict[tuple[str, str], tuple[float, float]]:
    """By whose it is and figure: the truth, and what was found."""
    truth, profile = profiled(name)
    found = {}
    for kind, named in truth.items():
        for number, (who, figures) in enumerate(named.items(), 1):
            record = of(profile, kind, who)
            shown = f"child {number}" if kind == "processes" else who
            for figure, true in figures.items():
                if true >= ROOM:
                    found[shown, figure] = (true, sum(record[part] for part in figure.split("+")))
    walls = sum(each["wall"] for each in profile["threads"])
    worst = max(profile["threads"], key=lambda each: abs(sum(each[state] for state in STATES) - each["wall"]))
    found["all", "sum of states"] = (walls, walls + sum(worst[state] for state in STATES) - worst["wall"])
    return found


def good(true: float, found: float) -> bool:
    return abs(found - true) <= max(NEAR * true, ROOM)


def rows_of(name: str) -> list[dict[str, Any]]:
    runs = [compare(name) for _ in range(RUNS)]
    rows = []
    for who, figure in runs[0]:
        each = [run[who, figure] for run in runs if (who, figure) in run]
        off = statistics.median((found - true) / true for true, found in each)
        true, found = min(each, key=lambda pair: abs((pair[1] - pair[0]) / pair[0] - off))
        rows.append({"program": name, "who": who, "figure": figure, "true": true, "found": found, "off": off})
    return rows


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Whether a profile is true",
        "",
        "Made by `benches/profile/truth.py`, whose first lines say how; all figures are in `truth.json`. Milliseconds.",
        "",
    ]
    versions = list(result)
    lines += ["| program | whose | figure | " + " | ".join(f"{each}: true | found | off" for each in versions) + " |"]
    lines += ["|---|---|---|" + "---:|---:|---:|" * len(versions)]
    found = {(row["program"], row["who"], row["figure"], each): row for each in versions for row in result[each]}
    for program, who, figure in dict.fromkeys(key[:3] for key in found):
        cells = []
        for version in versions:
            same = found.get((program, who, figure, version))  # what is next to nothing may be left out
            times = (
                [f"{same['true'] * 1e3:.1f}", f"{same['found'] * 1e3:.1f}", f"{same['off']:+.1%}"]
                if same
                else ["-"] * 3
            )
            cells += times
        lines.append(f"| {program} | {who} | {figure} | {' | '.join(cells)} |")
    wrong = sum(not good(row["true"], row["found"]) for rows in result.values() for row in rows)
    total = sum(len(rows) for rows in result.values())
    return "\n".join([*lines, "", f"{total - wrong} of {total} figures are good.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare what `plait profile` says of programs with what they know of themselves."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which of {', '.join(truths.PROGRAMS)}; all by default"
    )
    parser.add_argument("--store", action="store_true", help="keep the figures in truth.json and TRUTH.md")
    options = parser.parse_args()
    if unknown := set(options.names) - set(truths.PROGRAMS):
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    names = options.names or list(truths.PROGRAMS)
    rows = []
    for name in names:
        for row in rows_of(name):
            rows.append(row)
            mark = "" if good(row["true"], row["found"]) else "  <<<"
            times = f"{row['true'] * 1e3:9.2f} {row['found'] * 1e3:9.2f} ms {row['off']:+7.1%}{mark}"
            print(f"{row['program']:14} {row['who']:11} {row['figure']:30} {times}", flush=True)
    print(f"{sum(not good(row['true'], row['found']) for row in rows)} of {len(rows)} figures are off")
    if options.store:
        stored = HERE / "truth.json"
        result = json.loads(stored.read_text()) if stored.exists() else {}
        before = result.get(platform.python_version(), [])
        rows += [row for row in before if row["program"] not in names]
        rows.sort(key=lambda row: list(truths.PROGRAMS).index(row["program"]))
        result[platform.python_version()] = rows
        stored.write_text(json.dumps(result, indent=1) + "\n")
        (HERE / "TRUTH.md").write_text(page(result))


if __name__ == "__main__":
    main()
