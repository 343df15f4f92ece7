"""What the HTML page is made of: it carries the profile whole, and no name in it can leave its place."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import struct
import zlib
from typing import Any

import pytest

from plait.observe._states import STATES
from plait.observe.report import html as report
from tests.observe._profiles import NASTY, a_profile, in_json, without_gil


class Page(html.parser.HTMLParser):
    """The scripts of a page, the names of all its elements, and everything that it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        self.loads += [
            str(value) for name, value in attrs if name in {"src", "href"} and not str(value).startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and self.cdata_elem == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def unpacked(page: Page) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The profile, what the columns are, and the columns."""
    data = json.loads(page.scripts[0][1])
    about, text = page.scripts[1]
    columns = base64.b64decode(text)
    return (
        data["profile"],
        data["columns"],
        zlib.decompress(columns) if about["data-encoding"] == "deflate" else columns,
    )


CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "nothing": {"threads": 0, "tasks": 0},
    "one segment": {"segments": 1, "threads": 1, "tasks": 0},
    "nasty names": {"threads": 12, "nasty": True},
    "many": {"segments": 12_000, "threads": 40, "tasks": 300, "pace": 0.1},
}


@pytest.mark.parametrize("name", CASES)
def test_the_page_carries_the_whole_profile(name: str) -> None:
    profile = a_profile(**CASES[name])
    page = Page(report.render(profile))
    stored, about, columns = unpacked(page)
    assert stored == {key: value for key, value in in_json(profile).items() if key not in {"lanes", "gil", "stacks"}}
    segments = sum(len(lane["start"]) for lane in profile["lanes"])
    assert about["segments"] == segments
    starts = struct.unpack_from(f"<{segments}I", columns)
    lengths = struct.unpack_from(f"<{segments}I", columns, 4 * segments)
    states = columns[len(columns) - segments :]
    tick = about["tick"]
    for lane, (kind, index, first, count) in zip(profile["lanes"], about["lanes"], strict=True):
        assert (kind, index, count) == (lane["kind"], lane["index"], len(lane["start"]))
        assert list(states[first : first + count]) == list(lane["state"])
        for at in range(count):
            assert starts[first + at] * tick == pytest.approx(lane["start"][at], abs=2 * tick)
            assert lengths[first + at] * tick == pytest.approx(lane["length"][at], abs=3 * tick)
    words = 3 * segments + 3 * about["held"] + 4 * about["samples"] + 3 * about["frames"]
    assert len(columns) == 4 * words + segments


def test_without_a_gil_lanes_tell_who_stands_still_from_who_waits_for_locks() -> None:
    with_gil = a_profile()
    profile = without_gil(with_gil)
    page = Page(report.render(profile))
    _, about, columns = unpacked(page)
    words = json.loads(page.scripts[0][1])["words"]["states"]
    assert [each["name"] for each in words] == [*STATES, "stop_the_world"]
    assert words[1]["title"] == "Running"
    states = columns[len(columns) - about["segments"] :]
    for lane, (kind, _, first, count) in zip(with_gil["lanes"], about["lanes"], strict=True):
        if kind == "thread":
            found = list(states[first : first + count])
            assert [state == len(STATES) for state in found] == [state == 3 for state in lane["state"]]
    assert [
        each["name"] for each in json.loads(Page(report.render(with_gil)).scripts[0][1])["words"]["states"]
    ] == list(STATES)


def test_names_stay_where_they_are() -> None:
    plain, nasty = Page(report.render(a_profile(threads=12))), Page(report.render(a_profile(threads=12, nasty=True)))
    assert nasty.tags == plain.tags
    assert nasty.loads == plain.loads == ["data:,"]
    text = report.render(a_profile(threads=12, nasty=True))
    text.encode("utf-8")
    assert not set(text) & {"\0", "\x07", "\x1b", "\u202e", "\u2028"}
    stored = json.loads(nasty.scripts[0][1])
    assert {each["name"] for each in stored["profile"]["threads"]} == set(NASTY)


def test_only_its_own_script_may_run() -> None:
    page = Page(text := report.render(a_profile()))
    digest = base64.b64encode(hashlib.sha256(page.scripts[2][1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert [about.get("type") for about, _ in page.scripts] == ["application/json", "text/plain", None]


def test_spans_out_of_order_or_one_over_another_are_put_in_order() -> None:
    profile = a_profile(segments=1, threads=1, tasks=0)
    profile["lanes"] = [
        {
            "kind": "thread",
            "index": 0,
            "start": [2.0, 0.0, 1.5, 9.0],
            "length": [1.0, 1.0, 0.75, 0.0],
            "state": [5, 0, 3, 1],
            "note": [0, -1, -1, -1],
        }
    ]
    _, about, columns = unpacked(Page(report.render(profile)))
    assert about["segments"] == 3, "one without any time is none"
    starts, lengths = struct.unpack_from("<3I", columns), struct.unpack_from("<3I", columns, 12)
    spans = [
        (start * about["tick"], (start + length) * about["tick"]) for start, length in zip(starts, lengths, strict=True)
    ]
    assert spans == [pytest.approx(each, abs=1e-6) for each in ((0, 1), (1.5, 2.25), (2.25, 3))]
    assert list(columns[-3:]) == [0, 3, 5]


def test_infinite_figures_do_not_break_the_page() -> None:
    profile = a_profile()
    profile["functions"][0]["self_cpu"] = float("nan")
    profile["evidence"]["figures"]["odd"] = float("inf")
    stored, _, _ = unpacked(Page(report.render(profile)))
    assert stored["functions"][0]["self_cpu"] == 0


def test_what_is_read_first_needs_no_script() -> None:
    profile = a_profile()
    top = report.render(profile).split("<noscript>")[0]
    for text in (profile["evidence"]["sentence"], *profile["evidence"]["try"], "GIL-bound", "5.08 s long"):
        assert text in top


def test_it_is_written_as_utf_8(tmp_path: Any) -> None:
    report.write(a_profile(threads=12, nasty=True), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes().decode("utf-8").startswith("<!DOCTYPE html>")
