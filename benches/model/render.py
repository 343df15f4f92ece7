"""What is made of the stored result: errors, coverage, ranking; docs/predictions.md and its chart."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

from benches.model import chart

Row = dict[str, Any]

DOCS = Path(__file__).resolve().parents[2] / "docs"

METHOD = """\
Made by `benches/model/run.py` from its [result.json](../benches/model/result.json): do not edit.

For whom: somebody who is to believe `plait.simulate`, `plait advise` or `plait.Pool`, and us, who want to know where they are
wrong.

**Method.** The calls of a function are made one after the other, and `plait.model.record` writes down what each is made of,
exactly. What follows is predicted from that, from a probe of the first of them in four threads, or in two, four and sixteen
if they wait (how far waits and C code without the GIL overlap; what switches of the GIL cost), and from the costs that
`plait.model.calibrate` measured on this machine. Then the calls are made for real in every way, in turns, in {rounds}
rounds; a pool or a loop is started each time, in a program that has one already. Other virtual machines change the speed of
this machine's cores by a factor of almost two, for milliseconds or for seconds. So it is looked at all along, every few
milliseconds for a tenth of one: between calls, and where those are made in other processes or take long by a process beside
on each core (of which the slowdown of cores that are all busy is a part). The prediction is made for that speed; nothing is
scaled afterwards. Who predicts what has not been run does not know it: such predictions are made too ("beforehand"), and
their intervals are wider. All of it is done once before, so that files are in the page cache. Where a work has a coroutine
function too ("one by one", "asyncio 32"), that is recorded and predicted for itself, for it is other code. What it takes to
start a worker process is measured with this program, whose main module they import.

Measured is the median of the rounds. An error is predicted time over measured time, less one. "As recorded" are the serial
ways; all others are another model than the one that the work was recorded under. The works kept apart were not looked at
while the simulator was made.
"""

SUMMARY = """\
Medians of the errors without their sign; of pairs of ways whose measured times differ by more than 10 %, those that are
predicted in the right order; of all measured times, those within the interval that is meant for nine of ten; and the median of
such an interval's upper end over its lower one. The last two are the same for predictions that know nothing of the machine's
speed at the time, as of who asks `plait.simulate` beforehand."""

KINDS = """\
Milliseconds of all calls as recorded: with the GIL on a core; asleep with it; on a core without it; waiting for what lies
outside, for programs beside it that had cores meanwhile, for the kernel's threads that had, and for children that had; and the
part of those that the probe found to stand in line."""


def measured(row: Row, way: str) -> float:
    return float(statistics.median(row["measured"][way]))


def error(row: Row, way: str) -> float:
    """Relative, with the sign."""
    return float(row["predicted"][way]["seconds"] / measured(row, way) - 1.0)


def as_recorded(way: str) -> bool:
    return way in {"serial", "one by one"}


def ranking(rows: list[Row]) -> tuple[int, int]:
    """Of pairs of ways of a work whose times differ by more than a tenth: those in the right order, and all."""
    right = total = 0
    for row in rows:
        for one, other in itertools.combinations(row["measured"], 2):
            first, second = measured(row, one), measured(row, other)
            if max(first, second) > 1.1 * min(first, second):
                total += 1
                predicted = row["predicted"]
                right += (predicted[one]["seconds"] < predicted[other]["seconds"]) == (first < second)
    return right, total


def covered(rows: list[Row], kind: str = "predicted") -> tuple[int, int]:
    """Of all times: how many lie within the interval, and all."""
    inside = [
        row[kind][way]["low"] <= measured(row, way) <= row[kind][way]["high"] for row in rows for way in row["measured"]
    ]
    return sum(inside), len(inside)


def width(rows: list[Row], kind: str = "predicted") -> float:
    """Of the intervals: the upper end over the lower one, the median."""
    return float(statistics.median(one["high"] / one["low"] for row in rows for one in row[kind].values()))


def lines_of(row: Row) -> list[str]:
    """For the terminal."""
    kinds = ", ".join(f"{name} {seconds:.3f}" for name, seconds in row["kinds"].items())
    lines = [f"{row['name']}: {kinds}; {row['releases']} releases, {row['bursts']} bursts; {row['coroutine_kinds']}"]
    for way in row["measured"]:
        one = row["predicted"][way]
        lines.append(
            f"  {way:12} {one['seconds']:7.3f} ({one['low']:.3f} to {one['high']:.3f}) for {measured(row, way):7.3f}"
            f" {error(row, way):+.0%}"
        )
    return lines


def summary(rows: list[Row]) -> str:
    """A table of medians."""
    lines = [
        "| works | as recorded | other models | right order | within the interval | its width | beforehand | its width |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for title, those in groups(rows):
        (right, pairs), (inside, times), (before, _) = ranking(those), covered(those), covered(those, "beforehand")
        own, other = (
            _median(those, [way for way in _ways(those) if as_recorded(way) is kind]) for kind in (True, False)
        )
        cells = [
            f"{title} ({len(those)})",
            own,
            other,
            f"{right} of {pairs} ({right / max(pairs, 1):.0%})",
            f"{inside} of {times} ({inside / times:.0%})",
            f"{width(those):.2f}",
            f"{before} of {times} ({before / times:.0%})",
            f"{width(those, 'beforehand'):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def by_way(rows: list[Row]) -> str:
    """Median error of each way."""
    ways = _ways(rows)
    lines = ["| works | " + " | ".join(ways) + " |", "|---|" + "---:|" * len(ways)]
    lines += [
        f"| {title} | " + " | ".join(_median(those, [way]) for way in ways) + " |" for title, those in groups(rows)
    ]
    return "\n".join(lines)


def groups(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """All, and those that were and were not looked at."""
    found = [
        ("all", rows),
        ("looked at", [row for row in rows if not row["held_out"]]),
        ("kept apart", [row for row in rows if row["held_out"]]),
    ]
    return [(title, those) for title, those in found if those]


def _ways(rows: list[Row]) -> list[str]:
    found: dict[str, None] = {}
    for row in sorted(rows, key=lambda row: -len(row["measured"])):
        found.update(dict.fromkeys(row["measured"]))
    return list(found)


def _median(rows: list[Row], ways: list[str]) -> str:
    errors = [abs(error(row, way)) for row in rows for way in ways if way in row["measured"]]
    return f"{statistics.median(errors):.1%}" if errors else "-"


def table(rows: list[Row]) -> str:
    """Each work: predicted, measured, and the error, of every way."""
    lines = ["| work, calls | way | predicted (interval) | measured | error |", "|---|---|---:|---:|---:|"]
    for row in rows:
        name = f"**{row['name']}**, {row['count']:,}"
        for way in row["measured"]:
            one = row["predicted"][way]
            interval = f"{_ms(one['seconds'])} ({_ms(one['low'])} to {_ms(one['high'])})"
            lines.append(f"| {name} | {way} | {interval} | {_ms(measured(row, way))} | {error(row, way):+.0%} |")
            name = ""
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}" if seconds >= 0.0995 else f"{seconds * 1000:.1f}"


def kinds(rows: list[Row]) -> str:
    """What the works are made of."""
    names = ["hold", "held_off_cpu", "released", "outside", "beside", "kernel", "children", "line"]
    lines = ["| work | " + " | ".join(names) + " | short releases |", "|---|" + "---:|" * (len(names) + 1)]
    for row in rows:
        cells = [_ms(row["kinds"][name]) if row["kinds"].get(name, 0) >= 0.0005 else "" for name in names]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + f" | {row['releases']:,} |")
    return "\n".join(lines)


def page(rows: list[Row]) -> str:
    """The whole page."""
    looked, apart = [row for row in rows if not row["held_out"]], [row for row in rows if row["held_out"]]
    last = rows[-1]
    loads = sorted(row["load"] for row in rows)
    parts = [
        "# Predicted against measured",
        METHOD.format(rounds=len(last["measured"]["serial"])).rstrip(),
        "## How far off",
        SUMMARY,
        summary(rows),
        by_way(rows),
        "![Predicted over measured seconds, each way of each work a mark](predictions.svg)",
        f"CPython {last['python']}, {last['machine']}, load average {loads[0]} to {loads[-1]}.",
        "## Works looked at",
        "Times in milliseconds, of all calls together.",
        table(looked),
        "## Works kept apart",
        table(apart),
        "## What the works are made of",
        KINDS,
        kinds(rows),
    ]
    return "\n\n".join(parts) + "\n"


def write(result: dict[str, Any], order: list[str]) -> None:
    """Write the page and its chart."""
    rows = [result["rows"][name] for name in order if name in result["rows"]]
    if not rows:
        return
    (DOCS / "predictions.md").write_text(page(rows))
    marks = [
        chart.Mark(
            row["name"],
            way,
            "serial" if way == "serial" else "asyncio" if way == "one by one" else way.split()[0],
            row["predicted"][way]["seconds"],
            row["predicted"][way]["low"],
            row["predicted"][way]["high"],
            measured(row, way),
            row["held_out"],
        )
        for row in rows
        for way in row["measured"]
    ]
    (DOCS / "predictions.svg").write_text(chart.draw(marks))
