"""The report as one HTML page: no request is made, and it works from a file, by keyboard and on paper.

What is read first is written as HTML here; lanes, charts and tables are drawn by the page's scripts from the profile, which the
page carries as JSON, and from its long columns (lanes, holders of the GIL, stacks), which it carries as bytes in base64.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import sys
import time
import zlib
from array import array
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from plait._words import seconds, size
from plait.observe._states import STATES
from plait.observe.report._words import (
    MEANINGS,
    STOPPED,
    STOPPED_WORDS,
    TITLES,
    VERDICTS,
    WITHOUT_GIL,
    about,
    figure,
    how_much,
    limits_beside_methods,
    percent,
    plain,
    without_gil,
)

if TYPE_CHECKING:
    from plait.observe._records import ProfileRecord

SCRIPTS: Final = ("data.js", "lanes.js", "charts.js", "tables.js", "main.js")
STOOD: Final = "stop-the-world"
"""What lanes say of waits in which a thread stands still."""
DEFLATED: Final = 1 << 17
"""Columns of so many bytes are deflated: shorter ones can be read by a browser that cannot inflate."""


def render(profile: ProfileRecord) -> str:
    """Make the page.

    Args:
        profile: A profile, as `load_profile` gives it. Without `lanes` and `stacks` the page has no
            timeline and no flame graph.

    Returns:
        The whole page as text, to be written in UTF-8.
    """
    described, columns = _columns(profile)
    encoding = "none"
    if len(columns) >= DEFLATED:
        columns, encoding = zlib.compress(columns, 6), "deflate"
    small = {key: value for key, value in profile.items() if key not in {"lanes", "gil", "stacks"}}
    script = '(() => {\n"use strict";\n' + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();"
    style = _asset("style.css")
    described_states: list[tuple[str, str, str]] = [(name, TITLES[name], MEANINGS[name]) for name in STATES]
    if without_gil(profile):
        described_states = [(name, *WITHOUT_GIL.get(name, (TITLES[name], MEANINGS[name]))) for name in STATES]
    if (pauses := profile.get("stop_the_world")) is not None and pauses["count"]:
        described_states.append((STOPPED, *STOPPED_WORDS))
    words = {
        "states": [{"name": name, "title": title, "meaning": meaning} for name, title, meaning in described_states],
        "verdicts": VERDICTS,
        "gil": not without_gil(profile),
    }
    parts = {
        **_top(profile),
        **_bottom(profile),
        "style": style,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "data": _json({"profile": small, "columns": described, "words": words}),
        "encoding": encoding,
        "columns": base64.b64encode(columns).decode(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("template.html"))


def write(profile: ProfileRecord, path: str | Path) -> None:
    """Write the page to a file."""
    Path(path).write_text(render(profile), encoding="utf-8")


def _asset(name: str) -> str:
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """JSON that can stand in a script element whatever is in its texts: no `<`, and ASCII alone."""
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: object) -> object:
    """The same without infinities, which JSON cannot say."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else 0.0
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_finite(each) for each in cast("list[object]", value)]
    return value


def _text(text: str) -> str:
    return html.escape(plain(text))


def _items(texts: Iterable[str]) -> str:
    return "".join(f"<li>{each}</li>" for each in texts)


def _top(profile: ProfileRecord) -> dict[str, str]:
    """What is read first: which program, the verdict, what speaks for it, what to try."""
    first = profile["processes"][0] if profile["processes"] else None
    program = _text(first["name"]) if first else "profile"
    evidence = profile["evidence"]
    meta = [f"{seconds(profile['wall'])} long", _count(profile["cores"], "core")]
    if first and first["python"]:
        meta.insert(0, f"Python {_text(first['python'])}")
    if profile["started"] > 0:
        meta.insert(0, time.strftime("%Y-%m-%d %H:%M", time.localtime(profile["started"])))
    figures = [figure(name, value) for name, value in evidence["figures"].items() if value and name != "wall"]
    tries = _items(_text(each) for each in evidence["try"])
    functions = "".join(
        f"<li><code><bdi>{_text(each['name'])}</bdi></code> <span class='tag'>{_text(_verdict(each['verdict']))}</span> "
        f"{_text(about(each['name'], each['sentence']))}</li>"
        for each in evidence["functions"]
    )
    return {
        "program": program,
        "meta": "".join(f"<span>{each}</span>" for each in meta),
        "verdict_name": _text(profile["verdict"]),
        "verdict": _text(_verdict(profile["verdict"])),
        "sentence": _text(evidence["sentence"]),
        "try": f"<section class='try'><h2>What to try</h2><ol>{tries}</ol></section>" if tries else "",
        "figures": "".join(f"<div><dt>{_text(name)}</dt><dd>{value}</dd></div>" for name, value in figures),
        "findings": f"<ul class='findings'>{functions}</ul>" if functions else "",
    }


def _bottom(profile: ProfileRecord) -> dict[str, str]:
    """How it was found out, what that has cost, and what is not to be seen."""
    overhead = profile["overhead"]
    rows = "".join(
        f"<tr><th scope='row'>{_text(each['what'])}</th><td>{_text(each['how'])}</td>"
        f"<td>{how_much(each) or '&ndash;'}</td><td>{_text(each['why']) or '&ndash;'}</td></tr>"
        for each in profile["methods"]
    )
    costs = [
        ("of the time of all cores used", percent(overhead["fraction"])),
        ("CPU of the observer", seconds(overhead["observer_cpu"])),
        ("CPU of hooks", seconds(overhead["hooks_cpu"])),
        ("trace", size(overhead["trace_bytes"])),
        ("records lost", f"{overhead['lost_records']:,}"),
    ]
    limits = _items(_text(each) for each in limits_beside_methods(profile))
    return {
        "methods": rows,
        "overhead": "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in costs),
        "limits": f"<h3>Limits</h3><ul>{limits}</ul>" if limits else "",
        "version": _text(profile["plait"]),
    }


def _verdict(name: str) -> str:
    return VERDICTS.get(name, name)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _columns(profile: ProfileRecord) -> tuple[dict[str, object], bytes]:
    """The long columns as little-endian words one after the other, and where to find what in them.

    Times are counted in ticks: the horizon has 2^32 of them, so that the times of a day fit into words, too.
    """
    lanes, gil = profile.get("lanes", []), profile.get("gil", [])
    spans = [(each["start"], each["length"]) for each in [*lanes, *gil]]
    horizon = max([profile["wall"], 1e-6, *(start[-1] + length[-1] for start, length in spans if len(start))])
    tick = horizon / (2**32 - 2)
    starts, lengths, states, notes = array("I"), array("I"), bytearray(), array("i")
    held_from, held_for, held_by = array("I"), array("I"), array("I")
    # Waits in which a thread stood still are told from those for locks by what they say.
    stood = {at for at, note in enumerate(profile.get("notes", [])) if note == STOOD}
    lock = STATES.index("lock_wait")
    lane_rows: list[tuple[str, int, int, int]] = []
    for lane in lanes:
        before = len(starts)
        order = _spans(lane["start"], lane["length"], tick, starts, lengths)
        states.extend(
            len(STATES) if lane["state"][each] == lock and lane["note"][each] in stood else lane["state"][each]
            for each in order
        )
        notes.extend(lane["note"][each] for each in order)
        lane_rows.append((lane["kind"], lane["index"], before, len(starts) - before))
    gil_rows: list[tuple[int, int, int]] = []
    for each in gil:
        before = len(held_from)
        order = _spans(each["start"], each["length"], tick, held_from, held_for)
        held_by.extend(each["thread"][index] for index in order)
        gil_rows.append((each["pid"], before, len(held_from) - before))
    stacks = profile.get("stacks")
    samples = sorted(stacks["samples"], key=lambda sample: sample["at"]) if stacks else []
    frames = stacks["frames"] if stacks else []
    top = 2**32 - 1
    words: list[array[int] | array[float]] = [
        starts,
        lengths,
        notes,
        held_from,
        held_for,
        held_by,
        array("I", [each["thread"] for each in samples]),
        array("I", [min(top, max(0, round(each["at"] / tick))) for each in samples]),
        array("i", [each["frame"] for each in samples]),
        array("f", [each["weight"] for each in samples]),
        array("I", [each["function"] for each in frames]),
        array("I", [max(0, each["line"]) for each in frames]),
        array("i", [each["caller"] for each in frames]),
    ]
    if sys.byteorder == "big":
        for column in words:
            column.byteswap()
    described: dict[str, object] = {
        "horizon": horizon,
        "tick": tick,
        "segments": len(starts),
        "held": len(held_from),
        "samples": len(samples),
        "frames": len(frames),
        "lanes": lane_rows,
        "gil": gil_rows,
    }
    return described, b"".join(column.tobytes() for column in words) + bytes(states)


def _spans(
    start: Sequence[float], length: Sequence[float], tick: float, starts: array[int], lengths: array[int]
) -> list[int]:
    """Adds spans in order, none over the one before; gives the indices of those that are left."""
    kept: list[int] = []
    free = 0
    order: Iterable[int] = range(len(start))
    if any(start[each] < start[each - 1] for each in range(1, len(start))):
        order = sorted(order, key=start.__getitem__)
    for each in order:
        begin = start[each]
        first = max(free, round(begin / tick))
        end = round((begin + length[each]) / tick)
        if end > first:
            starts.append(first)
            lengths.append(end - first)
            kept.append(each)
            free = end
    return kept
