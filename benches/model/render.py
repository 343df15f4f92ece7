"""What is made of the stored result: errors, coverage, ranking."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

Row = dict[str, Any]


def measured(row: Row, way: str) -> float:
    return statistics.median(row["measured"][way])


def error(row: Row, way: str) -> float:
    """Relative, with the sign."""
    return float(row["predicted"][way]["seconds"] / measured(row, way) - 1.0)


def under(way: str) -> bool:
    """Whether the way is the one that the calls were recorded in."""
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


def covered(rows: list[Row]) -> tuple[int, int]:
    """Of all times: how many lie within the interval, and all."""
    inside = [
        row["predicted"][way]["low"] <= measured(row, way) <= row["predicted"][way]["high"]
        for row in rows
        for way in row["measured"]
    ]
    return sum(inside), len(inside)


def lines_of(row: Row) -> list[str]:
    kinds = ", ".join(f"{name} {seconds:.3f}" for name, seconds in row["kinds"].items())
    lines = [f"{row['name']}: {kinds}; {row['releases']} releases, {row['bursts']} bursts"]
    for way in row["measured"]:
        one = row["predicted"][way]
        lines.append(
            f"  {way:12} {one['seconds']:7.3f} ({one['low']:.3f} to {one['high']:.3f}) for {measured(row, way):7.3f}"
            f" {error(row, way):+.0%}"
        )
    return lines


def summary(rows: list[Row]) -> str:
    def median(those: list[Row], own: bool) -> str:
        errors = [abs(error(row, way)) for row in those for way in row["measured"] if under(way) is own]
        return f"{statistics.median(errors):.1%} of {len(errors)}" if errors else "-"

    lines = []
    for title, those in (
        ("all", rows),
        ("looked at", [row for row in rows if not row["held_out"]]),
        ("kept apart", [row for row in rows if row["held_out"]]),
    ):
        if those:
            (right, pairs), (inside, times) = ranking(those), covered(those)
            lines.append(
                f"{title} ({len(those)}): median error as recorded {median(those, True)}, other models"
                f" {median(those, False)}; order {right} of {pairs}; within the interval {inside} of {times}"
            )
    return "\n".join(lines)


def write(result: dict[str, Any], order: list[str]) -> None:
    del result, order
