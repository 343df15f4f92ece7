"""Rules that a profile has to keep, as `--fail-if` takes them: `[SCOPE:]FIGURE OP NUMBER[UNIT]`.

| part | what |
|---|---|
| scope | `program` (the default: all threads together), `thread`, `process`, `task`, `function`: any one of them |
| figure | a state (`gil_wait`, `on_cpu_gil`, ...), or one of the figures of `FIGURES` |
| op | `>`, `>=`, `<`, `<=`; `=` and `!=` for the verdict alone |
| unit | `%` of the wall time of what the scope names; `s` (the default), `ms`, `us` for times; none for counts |

A rule says when to fail: `gil_wait>20%`, `thread:longest_gil_hold>50ms`, `verdict=gil-bound`.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from plait.observe._states import STATES
from plait.observe.report._words import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from plait.observe._records import ProfileRecord

__all__ = ["Rule", "broken", "parse"]

SCOPES: Final = ("program", "thread", "process", "task", "function")

_STOPPED: Final = ("stop_the_world", "longest_stop")

FIGURES: Final = {
    "program": (
        *STATES,
        *_STOPPED,
        "longest_gil_hold",
        "loop_blocked",
        "overhead",
        "wall",
        "processes",
        "threads",
        "tasks",
    ),
    "thread": (*STATES, *_STOPPED, "longest_gil_hold", "wall", "switches_voluntary", "switches_forced"),
    "process": ("cpu", "wall"),
    "task": ("running", "ready", "awaiting", "longest_step", "wall", "steps"),
    "function": (*STATES, "self_cpu", "total_cpu", "caused_gil_wait", "longest_gil_hold"),
}

_COUNTS: Final = {"processes", "threads", "tasks", "steps", "switches_voluntary", "switches_forced"}
_UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_FORM: Final = re.compile(
    r"\s*(?:(?P<scope>[a-z]+)\s*:)?\s*(?P<figure>[a-z_]+)\s*(?P<op>>=|<=|!=|==|=|>|<)\s*(?P<value>[^\s%]+?)\s*(?P<unit>%|s|ms|us)?\s*"
)


class Rule(NamedTuple):
    """One rule."""

    text: str
    scope: str
    figure: str
    op: str
    limit: float
    share: bool
    word: str


def parse(text: str) -> Rule:
    """Read a rule.

    Raises:
        ValueError: It is none; the message says why.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no rule: it is [SCOPE:]FIGURE OP NUMBER[UNIT], like 'gil_wait>20%'")
    scope, figure, op, value, unit = found.group("scope", "figure", "op", "value", "unit")
    scope = scope or "program"
    if figure == "verdict":
        return _verdict(text, scope, op, value + (unit or ""))
    if scope not in SCOPES:
        raise ValueError(f"{text!r}: {scope!r} is no scope; those are {', '.join(SCOPES)}")
    if figure not in FIGURES[scope]:
        raise ValueError(f"{text!r}: {figure!r} is no figure of a {scope}; those are {', '.join(FIGURES[scope])}")
    if op not in _OPERATORS:
        raise ValueError(f"{text!r}: a number is compared by >, >=, < or <=, not by {op}")
    try:
        limit = float(value)
    except ValueError:
        raise ValueError(f"{text!r}: {value!r} is no number") from None
    if not 0 <= limit < float("inf"):
        raise ValueError(f"{text!r}: the number must be finite and not below 0")
    if unit is not None and figure in _COUNTS:
        raise ValueError(f"{text!r}: {figure} is a count, which has no unit")
    if unit == "%":
        return Rule(text, scope, figure, op, limit / 100, True, "")
    return Rule(text, scope, figure, op, limit * _UNITS.get(unit or "s", 1.0), False, "")


def _verdict(text: str, scope: str, op: str, word: str) -> Rule:
    if scope not in {"program", "function"}:
        raise ValueError(f"{text!r}: a {scope} has no verdict; program and function have")
    if op not in {"=", "==", "!="}:
        raise ValueError(f"{text!r}: a verdict is compared by = or !=, not by {op}")
    if word not in VERDICTS:
        raise ValueError(f"{text!r}: {word!r} is no verdict; those are {', '.join(VERDICTS)}")
    return Rule(text, scope, "verdict", "!=" if op == "!=" else "=", 0.0, False, word)


def broken(rule: Rule, profile: ProfileRecord) -> str | None:
    """Return what breaks the rule, in a few words; None if nothing does."""
    if rule.figure == "verdict":
        for name, word in _verdicts(rule.scope, profile):
            if (word == rule.word) == (rule.op == "="):
                return f"{name}: verdict is {word}"
        return None
    compare = _OPERATORS[rule.op]
    worst: tuple[float, str] | None = None
    for name, value, whole in _values(rule, profile):
        measured = (value / whole if whole > 0 else 0.0) if rule.share else value
        if compare(measured, rule.limit):
            distance = abs(measured - rule.limit)
            if worst is None or distance > worst[0]:
                shown = f"{measured * 100:.1f} %" if rule.share else _shown(rule.figure, measured)
                worst = (distance, f"{name}: {rule.figure} is {shown}")
    return None if worst is None else worst[1]


def _shown(figure: str, value: float) -> str:
    if figure in _COUNTS:
        return str(int(value))
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _verdicts(scope: str, profile: ProfileRecord) -> Iterator[tuple[str, str]]:
    if scope == "program":
        yield "program", profile["verdict"]
        return
    for function in profile["functions"]:
        yield function["function"], function["verdict"]


def _values(rule: Rule, profile: ProfileRecord) -> Iterator[tuple[str, float, float]]:
    """Names, values, and what a percentage is of."""
    figure = rule.figure
    if rule.scope == "program":
        yield "program", *_of_program(figure, profile)
        return
    records: Any = {
        "thread": profile["threads"],
        "process": profile["processes"],
        "task": profile["tasks"],
        "function": profile["functions"],
    }[rule.scope]
    all_threads = sum(thread["wall"] for thread in profile["threads"])
    for record in records:
        name = record.get("name") or record.get("function") or str(record.get("tid") or record.get("pid"))
        whole = record.get("wall", all_threads)
        # What a profile of an older version lacks, it has not seen.
        value = record.get(figure, 0.0) if figure in _STOPPED else record[figure]
        yield f"{rule.scope} {name}", float(value), float(whole)


def _of_program(figure: str, profile: ProfileRecord) -> tuple[float, float]:
    threads: Any = profile["threads"]
    if figure in STATES:
        return sum(thread[figure] for thread in threads), sum(thread["wall"] for thread in threads)
    if figure == "stop_the_world":
        return sum(thread.get(figure, 0.0) for thread in threads), sum(thread["wall"] for thread in threads)
    if figure in {"longest_gil_hold", "longest_stop"}:
        return max((thread.get(figure, 0.0) for thread in threads), default=0.0), profile["wall"]
    if figure == "loop_blocked":
        steps = [task["longest_step"] for task in profile["tasks"]]
        return max([*(blocked["time"] for blocked in profile["blocked"]), *steps], default=0.0), profile["wall"]
    if figure == "overhead":
        return profile["overhead"]["fraction"], 1.0
    if figure == "wall":
        return profile["wall"], profile["wall"]
    if figure == "tasks":  # of very many not all are listed
        return float(max(profile.get("tasks_seen", 0), len(profile["tasks"]))), 1.0
    if figure == "threads":
        return float(sum(thread.get("count", 1) for thread in threads)), 1.0
    counted: Any = profile
    return float(len(counted[figure])), 1.0
