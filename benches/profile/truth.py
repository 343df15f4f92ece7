"""Whether what `plait profile` says is true: programs that know their own answer (`truths.py`), and what it says of them.

    truth.py [NAME ...]      run them, and print each figure, its truth and how far it is off

A figure is good within 5 % of the truth, or within 2 ms: what a program does around what it measures. Run it on a quiet
machine: what a program measures of itself is as exact as the scheduler lets it be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import truths  # noqa: E402 - the folder has to be there first

STATES = ("on_cpu_gil", "on_cpu_released", "ready", "gil_wait", "gil_held_off_cpu", "io_wait", "lock_wait", "idle")
NEAR = 0.05
ROOM = 0.002


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


def compare(name: str) -> list[dict[str, Any]]:
    truth, profile = profiled(name)
    rows = []
    for kind, named in truth.items():
        for who, figures in named.items():
            record = of(profile, kind, who)
            for figure, true in figures.items():
                if true < ROOM:
                    continue
                found = sum(record[part] for part in figure.split("+"))
                good = abs(found - true) <= max(NEAR * true, ROOM)
                rows.append({"program": name, "who": who, "figure": figure, "true": true, "found": found, "good": good})
    for thread in profile["threads"]:
        total = sum(thread[state] for state in STATES)
        good = abs(total - thread["wall"]) <= 0.01 * thread["wall"]
        who = thread["name"] or str(thread["tid"])
        if not good:
            rows.append({"program": name, "who": who, "figure": "sum", "true": thread["wall"], "found": total, "good": good})
    return rows


def main() -> None:
    names = sys.argv[1:] or list(truths.PROGRAMS)
    wrong = 0
    for name in names:
        for row in compare(name):
            true, found = row["true"], row["found"]
            off = f"{(found - true) / true:+7.1%}" if true else "      -"
            mark = "" if row["good"] else "  <<<"
            print(f"{name:14} {row['who']:11} {row['figure']:30} {true * 1e3:9.2f} {found * 1e3:9.2f} ms {off}{mark}", flush=True)
            wrong += not row["good"]
    print(f"{wrong} figures are off")


if __name__ == "__main__":
    main()
