"""A comparison as text, Markdown and a page."""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.compare._comparison import Comparison, Row

_VERDICTS = {True: "holds", False: "does not hold here", None: "cannot be told here"}


def _verdict(row: Row) -> str:
    return "not measured" if not row.measured else _VERDICTS[row.holds]


def _where(machine: Mapping[str, object]) -> str:
    gil = "with the GIL" if machine["gil"] else "without a GIL"
    return (
        f"Python {machine['python']} {gil}, {machine['cores']} cores, {machine['system']}, load {machine['load']:.1f}"
    )


def text(comparison: Comparison, *, width: int = 80) -> str:
    """The table as text, in so many columns."""
    lines = [comparison.title, _where(comparison.machine), ""]
    names = max(10, *map(len, comparison.models))
    for row in comparison.rows:
        lines += [
            row.topic,
            *textwrap.wrap(f'"{row.claim}" {_verdict(row)}.', width - 2, initial_indent="  ", subsequent_indent="  "),
        ]
        for model, measured in row.measured.items():
            lines += textwrap.wrap(
                measured, width, initial_indent=f"  {model:<{names}} ", subsequent_indent=" " * (names + 3)
            )
        if row.note:
            lines += textwrap.wrap(row.note, width, initial_indent="  (", subsequent_indent="   ")
            lines[-1] += ")"
        lines.append("")
    lines.append(f"measured in {comparison.seconds:.0f} s")
    return "\n".join(lines) + "\n"


def markdown(comparison: Comparison) -> str:
    """The table in Markdown."""

    def cell(words: str) -> str:
        return words.replace("|", "\\|").replace("\n", " ")

    models = comparison.models
    lines = [
        f"# {comparison.title}",
        "",
        f"{_where(comparison.machine)}.",
        "",
        f"| | claim | {' | '.join(models)} | |",
        f"|---|---|{'---|' * len(models)}---|",
    ]
    for row in comparison.rows:
        figures = " | ".join(cell(row.measured.get(model, "")) for model in models)
        lines.append(f"| {cell(row.topic)} | {cell(row.claim)} | {figures} | {_verdict(row)} |")
    notes = [f"- {row.topic}: {row.note}" for row in comparison.rows if row.note]
    return "\n".join([*lines, "", *notes, ""])


_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2330; --faint: #5c6575; --line: #d9dee7; --paper: #fff; --bar: #2f6fb3; --good: #1a7f37; --bad: #b3541e;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --faint: #9aa4b5; --line: #333b49; --paper: #14181f; --bar: #6aa9e9; --good: #56c271; }
  :root { --bad: #f0a06a; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 0; }
header p, .note { color: var(--faint); margin: .2rem 0 0; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
.claim { margin: .2rem 0 .6rem; }
.claim b { color: var(--good); }
.claim b.no { color: var(--bad); }
.claim b.none { color: var(--faint); }
dl { display: grid; grid-template-columns: 8.5rem 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--faint); }
dd { margin: 0; }
svg { display: block; width: 100%; max-width: 44rem; height: auto; margin-top: .6rem; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .name { fill: var(--faint); }
svg rect { fill: var(--bar); }
"""


def page(comparison: Comparison) -> str:
    """One page that needs nothing else, with a chart for each row that has comparable figures."""
    out = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{html.escape(comparison.title)}</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{html.escape(comparison.title)}</h1><p>{html.escape(_where(comparison.machine))}; ",
        f"measured in {comparison.seconds:.0f} s</p></header><main>",
    ]
    for row in comparison.rows:
        kind = {True: "", False: "no", None: "none"}[row.holds]
        out.append(f"<section><h2>{html.escape(row.topic)}</h2>")
        out.append(f'<p class="claim">{html.escape(row.claim)} <b class="{kind}">{_verdict(row)}</b></p><dl>')
        out += [f"<dt>{html.escape(model)}</dt><dd>{html.escape(words)}</dd>" for model, words in row.measured.items()]
        out.append("</dl>")
        out.append(_chart(row))
        if row.note:
            out.append(f'<p class="note">{html.escape(row.note)}</p>')
        out.append("</section>")
    out.append("</main></body></html>\n")
    return "".join(out)


def _chart(row: Row) -> str:
    """Bars of the figure that the row is about, shared by all models; nothing where there is none."""
    if row.shown is None:
        return ""
    key, words = row.shown
    order = [model for model in row.measured if model in row.values]
    bars = [(model, row.values[model][key]) for model in order if row.values[model].get(key, 0.0) > 0]
    if len(bars) < 2:
        return ""
    longest = max(value for _, value in bars)
    out = [f'<svg viewBox="0 0 700 {len(bars) * 26}" role="img" aria-label="{html.escape(row.topic)}">']
    for at, (model, value) in enumerate(bars):
        y, length = at * 26, max(1.0, value / longest * 420)
        out.append(f'<text class="name" x="0" y="{y + 17}">{html.escape(model)}</text>')
        out.append(f'<rect x="100" y="{y + 4}" width="{length:.1f}" height="18" rx="2"/>')
        out.append(f'<text x="{108 + length:.1f}" y="{y + 17}">{html.escape(words(value))}</text>')
    out.append("</svg>")
    return "".join(out)
