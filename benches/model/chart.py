"""The chart: predicted over measured, each time a mark, both axes by powers of ten. Legible on light and on dark ground."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

WIDTH, HEIGHT = 760, 620
LEFT, RIGHT, TOP, BOTTOM = 88, 20, 96, 58
WITHIN = 0.15

#: Of each model: its colour on light ground, on dark ground.
COLOURS = {
    "serial": ("#52514e", "#c3c2b7"),
    "threads": ("#2a78d6", "#3987e5"),
    "processes": ("#eb6834", "#d95926"),
    "asyncio": ("#1baf7a", "#199e70"),
}


class Mark(NamedTuple):
    """A work under a model: seconds predicted and measured."""

    work: str
    way: str
    model: str
    predicted: float
    low: float
    high: float
    measured: float
    held_out: bool


def draw(marks: list[Mark]) -> str:
    """The chart as SVG."""
    values = [value for mark in marks for value in (mark.predicted, mark.measured)]
    least, most = math.floor(math.log10(min(values)) * 4) / 4, math.ceil(math.log10(max(values)) * 4) / 4

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - least) / (most - least) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(value) - least) / (most - least) * (HEIGHT - TOP - BOTTOM)

    low, high = 10**least, 10**most
    lines = [*_head(), *_legend()]
    band = [(low, 1 + WITHIN), (high / (1 + WITHIN), 1 + WITHIN), (high, 1.0), (high, 1 - WITHIN)]
    corners = [(x(at), y(at * factor)) for at, factor in band]
    corners += [(x(low / (1 - WITHIN)), y(low)), (x(low), y(low))]
    lines.append(f"<polygon class='band' points='{' '.join(f'{a:.1f},{b:.1f}' for a, b in corners)}'/>")
    for tick in _ticks(low, high):
        lines += [
            f"<line class='grid' x1='{x(tick):.1f}' y1='{TOP}' x2='{x(tick):.1f}' y2='{HEIGHT - BOTTOM}'/>",
            f"<line class='grid' x1='{LEFT}' y1='{y(tick):.1f}' x2='{WIDTH - RIGHT}' y2='{y(tick):.1f}'/>",
            f"<text x='{x(tick):.1f}' y='{HEIGHT - BOTTOM + 18}' text-anchor='middle'>{_seconds(tick)}</text>",
            f"<text x='{LEFT - 8}' y='{y(tick) + 4:.1f}' text-anchor='end'>{_seconds(tick)}</text>",
        ]
    lines.append(f"<line class='even' x1='{x(low):.1f}' y1='{y(low):.1f}' x2='{x(high):.1f}' y2='{y(high):.1f}'/>")
    for mark in marks:
        at = x(mark.measured)
        kept = " kept" if mark.held_out else ""
        lines.append(
            f"<g class='{mark.model}{kept}'><title>{mark.work}, {mark.way}: predicted {mark.predicted:.3f} s,"
            f" measured {mark.measured:.3f} s</title><line x1='{at:.1f}' x2='{at:.1f}'"
            f" y1='{y(max(mark.low, low)):.1f}' y2='{y(min(mark.high, high)):.1f}'/>"
            f"<circle cx='{at:.1f}' cy='{y(mark.predicted):.1f}' r='4'/></g>"
        )
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    lines += [
        f"<text class='axis' x='{LEFT + (WIDTH - LEFT - RIGHT) / 2}' y='{HEIGHT - 14}' text-anchor='middle'>measured</text>",
        f"<text class='axis' x='18' y='{middle}' text-anchor='middle' transform='rotate(-90 18 {middle})'>predicted</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _head() -> Iterator[str]:
    yield (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'"
        " role='img' aria-label='Predicted against measured seconds'>"
    )
    rules = [
        ".ground{fill:#fcfcfb}text{font:12px system-ui,sans-serif;fill:#52514e}",
        ".title{font-size:15px;font-weight:600;fill:#0b0b0b}.axis{font-size:13px}",
        ".grid{stroke:#e1e0d9}.even{stroke:#898781}.band{fill:#898781;fill-opacity:.16}",
        "g line{stroke-width:1;stroke-opacity:.55}g circle{stroke-width:1.6}.kept circle{fill-opacity:0}",
    ]
    rules += [f".{model} *{{stroke:{light}}}.{model} circle{{fill:{light}}}" for model, (light, _) in COLOURS.items()]
    dark = [
        ".ground{fill:#1a1a19}text{fill:#c3c2b7}.title{fill:#fff}.grid{stroke:#2c2c2a}",
        *(f".{model} *{{stroke:{colour}}}.{model} circle{{fill:{colour}}}" for model, (_, colour) in COLOURS.items()),
    ]
    yield f"<style>{''.join(rules)}@media (prefers-color-scheme:dark){{{''.join(dark)}}}</style>"
    yield f"<rect class='ground' width='{WIDTH}' height='{HEIGHT}'/>"


def _legend() -> Iterator[str]:
    yield f"<text class='title' x='{LEFT}' y='26'>Predicted from one serial run, and measured</text>"
    at = LEFT
    for model in COLOURS:
        yield f"<g class='{model}'><circle cx='{at + 5}' cy='48' r='4'/></g><text x='{at + 15}' y='52'>{model}</text>"
        at += 40 + 7 * len(model)
    yield f"<g class='serial kept'><circle cx='{at + 5}' cy='48' r='4'/></g>"
    yield f"<text x='{at + 15}' y='52'>hollow: a work kept apart</text>"
    yield f"<text x='{LEFT}' y='74'>The band is 15 % to either side of what was measured; a bar is the interval of a prediction.</text>"


def _ticks(low: float, high: float) -> list[float]:
    steps = [factor * 10.0**power for power in range(-6, 4) for factor in (1, 2, 5)]
    return [tick for tick in steps if low <= tick <= high]


def _seconds(value: float) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"
