"""An advice as text and as a page."""

from __future__ import annotations

import html
import math
import textwrap
from typing import TYPE_CHECKING

from plait._words import seconds, size, times
from plait.advice._words import lines as change_lines
from plait.advice._work import MODELS

if TYPE_CHECKING:
    from plait.advice._advise import Advice, Option


_REMARK = (
    "Memory is what is there beyond the program's own: of the workers, as measured on this machine, and of what is sent "
    "to them; ~ where only typical figures are known."
)


def _memory(option: Option) -> str:
    return "-" if not option.memory else f"{'' if option.memory_measured else '~'}{size(option.memory)}"


def _limits(advice: Advice, width: int) -> list[str]:
    """What the profile could not see."""
    return [line for limit in advice.limits for line in textwrap.wrap(f"Limit: {limit.rstrip('.')}.", width)]


def text(advice: Advice, *, width: int = 80) -> str:
    """The advice as text, in so many columns."""
    if advice.tasks is None:
        return "\n".join([*textwrap.wrap(f"Cannot tell: {advice.why}.", width), *_limits(advice, width)]) + "\n"
    lines = textwrap.wrap(f"{advice.tasks}, called {times(advice.calls)}; {advice.cores} cores", width)
    lines += textwrap.wrap(f"{advice.verdict or 'cannot tell'}: {advice.why}.", width)
    lines += _limits(advice, width)
    lines += ["", f"  {'model':<16} {'workers':>7} {'seconds':>9}  {'interval':<21} {'memory':>9}"]
    for option in advice.options:
        mark = ">" if option.model == advice.verdict else " "
        interval = f"{option.low:.3g} to {option.high:.3g}"
        workers = str(option.workers) if option.model not in {"serial", "asyncio"} else ""
        lines.append(
            f"{mark} {option.model:<16} {workers:>7} {option.seconds:>9.3g}  {interval:<21} {_memory(option):>9}"
        )
        for words in (f"{option.reason}.", *([f"Not as it is, since {option.refused}."] if option.refused else [])):
            lines += textwrap.wrap(words, width, initial_indent="    ", subsequent_indent="    ")
    lines.append("")
    lines += textwrap.wrap(_REMARK, width)
    lines.append("")
    chosen = next((option for option in advice.options if option.model == advice.verdict), advice.options[0])
    if chosen.change != "nothing":
        lines.append("To change:" if advice.verdict else f"To change, for {chosen.model}:")
        for line in change_lines(chosen.change):
            code = line.lstrip(" ")
            indent = " " * (2 + len(line) - len(code))
            lines += textwrap.wrap(code, width, initial_indent=indent, subsequent_indent=f"{indent}    ")
        lines.append("")
    if advice.what_if:
        models = [option.model for option in advice.options]
        names = {"subinterpreters": "subinterp.", "free-threaded": "free-thr."}
        lines.append("Seconds on so many cores:")
        lines.append("  cores " + "".join(f"{names.get(model, model):>11}" for model in models))
        for cores, each in advice.what_if.items():
            lines.append(f"  {cores:>5} " + "".join(f"{each[model]:>11.3g}" for model in models))
    return "\n".join(lines) + "\n"


_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2330; --faint: #5c6575; --line: #d9dee7; --paper: #fff; --good: #1a7f37; --bad: #b3541e;
  --c0: #5c6575; --c1: #2f6fb3; --c2: #b3541e; --c3: #7a3fb0; --c4: #0f8577; --c5: #a0782a;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --faint: #9aa4b5; --line: #333b49; --paper: #14181f; --good: #56c271; --bad: #f0a06a; }
  :root { --c0: #9aa4b5; --c1: #6aa9e9; --c2: #f0a06a; --c3: #c596f0; --c4: #4fc9b8; --c5: #dcb75f; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
p { margin: .2rem 0; }
.faint { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-top: 1px solid var(--line); }
th { color: var(--faint); font-weight: normal; border-top: 0; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.best td:first-child { font-weight: bold; color: var(--good); }
.refused { color: var(--bad); }
code { font: .85rem ui-monospace, monospace; white-space: pre-wrap; }
svg { display: block; width: 100%; max-width: 50rem; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--faint); }
svg .grid { stroke: var(--line); }
svg .dot { fill: var(--ink); stroke: var(--paper); stroke-width: 2; }
@media (max-width: 45rem) {
  tr { display: grid; grid-template-columns: 5rem 1fr 4.5rem 5.5rem; border-top: 1px solid var(--line); padding: .4rem 0; }
  tr:first-child { border-top: 0; }
  th, td { border-top: 0; padding: .1rem .6rem .1rem 0; }
  th.n, td.n { text-align: left; white-space: normal; }
  th:first-child, th:last-child, td:first-child, td:last-child { grid-column: 1 / -1; }
  h1, td, code { overflow-wrap: anywhere; }
}
"""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 800, 360, 64, 190, 16, 40


def page(advice: Advice) -> str:
    """One page that needs nothing else."""
    title = f"Advice for {advice.tasks}" if advice.tasks else "No advice"
    out = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{html.escape(title)}</h1>",
        f"<p><b>{html.escape(advice.verdict or 'Cannot tell')}</b>: {html.escape(advice.why)}.</p>",
    ]
    out += [f'<p class="faint">Limit: {html.escape(limit.rstrip("."))}.</p>' for limit in advice.limits]
    if advice.tasks:
        out.append(f'<p class="faint">Called {times(advice.calls)}; for {advice.cores} cores.</p>')
        out.append(_table(advice))
        out.append("<h2>On other numbers of cores</h2>")
        out.append(_chart(advice))
    out.append("</main></body></html>\n")
    return "".join(out)


def _table(advice: Advice) -> str:
    heads = "".join(f'<th class="n">{head}' for head in ("time", "from, to", "workers", "memory"))
    out = [f'<div class="wide"><table><tr><th>model{heads}<th>why, and what to change</tr>']
    for option in advice.options:
        best = ' class="best"' if option.model == advice.verdict else ""
        refused = (
            f' <span class="refused">Not as it is, since {html.escape(option.refused)}.</span>'
            if option.refused
            else ""
        )
        workers = str(option.workers) if option.model not in {"serial", "asyncio"} else ""
        change = html.escape("\n".join(change_lines(option.change)))
        out.append(
            f"<tr{best}><td>{html.escape(option.model)}"
            f'<td class="n">{seconds(option.seconds)}'
            f'<td class="n">{seconds(option.low)}, {seconds(option.high)}'
            f'<td class="n">{workers}<td class="n">{_memory(option)}'
            f"<td>{html.escape(option.reason)}.{refused}<br><code>{change}</code></tr>"
        )
    out.append(f'</table></div><p class="faint">{html.escape(_REMARK)}</p>')
    return "".join(out)


def _chart(advice: Advice) -> str:
    """Lines of the predicted time over cores, both on scales of doublings, and a dot for the run that was measured."""
    numbers = sorted(advice.what_if)
    models = [option.model for option in advice.options]
    every = [time for each in advice.what_if.values() for time in each.values() if time > 0]
    if not numbers or not every:
        return ""
    dot = advice.measured if advice.measured > 0 else None
    if dot is not None:
        every.append(dot)
    low, high = min(every) / 1.15, max(every) * 1.15
    widest = max(numbers[-1], advice.cores, 2)

    def across(cores: float) -> float:
        return _LEFT + math.log(cores) / math.log(widest) * (_WIDTH - _LEFT - _RIGHT)

    def down(time: float) -> float:
        return _TOP + math.log(high / time) / math.log(high / low) * (_HEIGHT - _TOP - _BOTTOM)

    out = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Predicted time over cores">']
    for mark in _marks(low, high):
        y = down(mark)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{seconds(mark, 2)}</text>')
    for cores in numbers:
        x = across(cores)
        out.append(f'<text x="{x:.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{cores}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    out.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 3}" text-anchor="middle">cores</text>')
    refused = {option.model for option in advice.options if option.refused}
    for model in models:
        points = " ".join(
            f"{across(cores):.1f},{down(advice.what_if[cores][model]):.1f}"
            for cores in numbers
            if advice.what_if[cores][model] > 0
        )
        dashes = ' stroke-dasharray="5 4"' if model in {"free-threaded", "subinterpreters"} else ""
        wide = 3.5 if model == advice.verdict else 2
        colour = f"var(--c{MODELS.index(model)})"
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{wide}"{dashes}/>')
    for y, model in _labels({model: down(advice.what_if[numbers[-1]][model]) for model in models}):
        words = f"{model} (not as it is)" if model in refused else model
        colour = f"var(--c{MODELS.index(model)})"
        out.append(f'<text x="{_WIDTH - _RIGHT + 8}" y="{y + 4:.1f}" style="fill:{colour}">{html.escape(words)}</text>')
    if dot:
        x, y = across(advice.cores), down(dot)
        words = f"measured run: {seconds(dot)}, {advice.at_once} at once"
        out.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{words}</title></circle>')
    out.append("</svg>")
    if dot:
        out.append(f'<p class="faint">The dot is the run that was measured: {seconds(dot)}, with ')
        out.append(
            f"{advice.at_once} {'call' if advice.at_once == 1 else 'calls'} at once, and whatever else the machine did.</p>"
        )
    return "".join(out)


def _marks(low: float, high: float) -> list[float]:
    """Round figures between two."""
    found: list[float] = []
    power = math.floor(math.log10(low))
    steps = (1, 2, 5) if high / low < 100 else (1,)
    while 10.0**power <= high:
        found += [step * 10.0**power for step in steps if low <= step * 10.0**power <= high]
        power += 1
    return found


def _labels(places: dict[str, float]) -> list[tuple[float, str]]:
    """Where names stand beside their lines, so that none lies on another."""
    found: list[tuple[float, str]] = []
    least = float(_TOP)
    for place, model in sorted((place, model) for model, place in places.items()):
        y = max(place, least)
        found.append((y, model))
        least = y + 15
    over = max(0.0, least - 15 - (_HEIGHT - _BOTTOM))
    return [(y - over, model) for y, model in found]
