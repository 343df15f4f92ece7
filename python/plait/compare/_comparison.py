"""What a comparison is: rows of claims, with the figures that this machine has for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One topic: what is said of each model, what was measured, and whether that bears it out.

    Attributes:
        topic: What the row is about.
        claim: What is usually said, in one sentence.
        measured: For each model (`asyncio`, `threads`, `processes`) its figures in words.
        values: The same figures as numbers, by model and name; seconds, bytes, or ratios without a unit.
        holds: Whether the claim holds here; None where nothing could be measured, or nothing follows from it.
        note: What a reader should know of how it was measured, or why it was not.
        shown: The name of the figure that a chart shows, and how it is put in words; None where models have no such figure in
            common.

    >>> Row(
    ...     "Parallelism",
    ...     "Only processes use several cores.",
    ...     {"threads": "1.0 cores"},
    ...     {"threads": {"cores": 1.0}},
    ...     True,
    ... ).holds
    True
    """

    topic: str
    claim: str
    measured: dict[str, str]
    values: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    holds: bool | None = None
    note: str = ""
    shown: tuple[str, Callable[[float], str]] | None = None


@dataclass(frozen=True)
class Comparison:
    """A table that was measured.

    Attributes:
        title: What is compared.
        models: The columns, in order.
        rows: The rows, in order.
        machine: Where: version of Python, cores, switch interval, load.
        seconds: How long measuring took.

    >>> Comparison("empty", ("threads",), (), {"cores": 2}, 0.0).to_dict()["schema"]
    1
    """

    title: str
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    machine: dict[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Everything, as it goes into JSON; times in seconds, memory in bytes."""
        return {
            "schema": 1,
            "title": self.title,
            "models": list(self.models),
            "machine": self.machine,
            "seconds": self.seconds,
            "rows": [
                {
                    "topic": row.topic,
                    "claim": row.claim,
                    "measured": row.measured,
                    "values": row.values,
                    "holds": row.holds,
                    "note": row.note,
                }
                for row in self.rows
            ],
        }
