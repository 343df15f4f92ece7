"""The comparison of a function as text, Markdown and a page."""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING

from plait._words import seconds
from plait.compare._render import _STYLE, _where

if TYPE_CHECKING:
    from plait.compare._function import FunctionComparison, Way

_NOTE = (
    "Measured: the fastest round, the pool's start and end included. Predicted: by how the calls behaved one after the "
    "other, for a machine that does nothing else. A program's first pool of processes takes longer to start."
)
_SAME = {True: "the same", False: "DIFFERENT", None: "not known"}


def _title(comparison: FunctionComparison) -> str:
    rounds = "one round" if comparison.rounds == 1 else f"{comparison.rounds} rounds"
    return f"{comparison.function}, {comparison.calls} calls, {rounds}"


def _cells(way: Way) -> list[str]:
    """Measured, predicted, error, results."""
    if way.seconds is None:
        return ["-", "-", "-", way.outcome]
    predicted = interval = error = "-"
    if way.predicted is not None and way.low is not None and way.high is not None:
        predicted = seconds(way.predicted)
        interval = f" ({seconds(way.low)} to {seconds(way.high)})"
        error = f"{way.error:+.0%}" if way.error is not None else "-"
    return [seconds(way.seconds), predicted + interval if predicted != "-" else "-", error, _SAME[way.same]]


def text(comparison: FunctionComparison, *, width: int = 80) -> str:
    """The table as text, in so many columns."""
    lines = [_title(comparison), _where(comparison.machine), ""]
    lines.append(f"  {'':<14} {'measured':>9}  {'predicted':<28} {'error':>6}  results")
    for way in comparison.ways:
        measured, predicted, error, results = _cells(way)
        if way.seconds is None:
            words = f"{way.name:<14} {results}"
            lines += textwrap.wrap(words, width, initial_indent="  ", subsequent_indent=" " * 17)
        else:
            lines.append(f"  {way.name:<14} {measured:>9}  {predicted:<28} {error:>6}  {results}")
    return "\n".join([*lines, "", *textwrap.wrap(_NOTE, width)]) + "\n"


def markdown(comparison: FunctionComparison) -> str:
    """The table in Markdown."""
    lines = [f"# {_title(comparison)}", "", f"{_where(comparison.machine)}.", ""]
    lines += ["| | measured | predicted | error | results |", "|---|---|---|---|---|"]
    for way in comparison.ways:
        cells = " | ".join(cell.replace("|", "\\|") for cell in [way.name, *_cells(way)])
        lines.append(f"| {cells} |")
    return "\n".join([*lines, "", _NOTE, ""])


def page(comparison: FunctionComparison) -> str:
    """One page that needs nothing else, with bars of what was measured and marks of what was predicted."""
    title = html.escape(_title(comparison))
    out = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{title}</title><style>{_STYLE}\nsvg .mark {{ fill: var(--bad); }}</style></head><body>",
        f"<header><h1>{title}</h1><p>{html.escape(_where(comparison.machine))}</p></header><main><section>",
    ]
    run = [way for way in comparison.ways if way.seconds is not None]
    longest = max((max(way.seconds or 0.0, way.predicted or 0.0) for way in run), default=0.0)
    if longest > 0:
        out.append(f'<svg viewBox="0 0 760 {len(run) * 26}" role="img" aria-label="Measured and predicted time">')
        for at, way in enumerate(run):
            y, length = at * 26, max(1.0, (way.seconds or 0.0) / longest * 340)
            out.append(f'<text class="name" x="0" y="{y + 17}">{html.escape(way.name)}</text>')
            out.append(f'<rect x="110" y="{y + 4}" width="{length:.1f}" height="18" rx="2"/>')
            end = length
            if way.predicted is not None:
                place = way.predicted / longest * 340
                end = max(end, place)
                out.append(f'<rect class="mark" x="{109 + place:.1f}" y="{y + 2}" width="3" height="22"/>')
            measured, predicted, error, results = _cells(way)
            words = f"{measured}; predicted {predicted.partition(' (')[0]}, {error}; results {results}"
            out.append(f'<text x="{118 + end:.1f}" y="{y + 17}">{html.escape(words)}</text>')
        out.append("</svg>")
    failed = [way for way in comparison.ways if way.seconds is None]
    if failed:
        rows = [f"<dt>{html.escape(way.name)}</dt><dd>{html.escape(way.outcome)}</dd>" for way in failed]
        out.append(f"<dl>{''.join(rows)}</dl>")
    out.append(f'<p class="note">{html.escape(_NOTE)}</p></section></main></body></html>\n')
    return "".join(out)
