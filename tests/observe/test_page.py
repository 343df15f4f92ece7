"""The HTML page in a real browser: it draws, answers, and asks nobody for anything."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from plait._words import seconds
from plait.observe._states import STATES
from plait.observe.report import html
from plait.observe.report._words import STOPPED_WORDS, TITLES, VERDICTS
from tests.observe._chromium import Browser
from tests.observe._profiles import GIL, IO, Player, a_profile, in_json, lane, without_gil

if TYPE_CHECKING:
    from plait.observe._records import ProfileRecord

RANGE = "(({ from, to }) => [Number(from), Number(to)])(document.getElementById('lanes').dataset)"
# A copy of the lanes that may be read: the browser warns who reads the canvas itself.
PIXELS = """(() => {
    const canvas = document.getElementById("canvas");
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    return copy;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Any:
    """Opens the page of a profile; afterwards nothing may have gone wrong in it, and nothing may have been asked for."""

    def show(profile: ProfileRecord, **how: Any) -> Browser:
        html.write(profile, tmp_path / "report.html")
        browser.open(tmp_path / "report.html", **how)
        return browser

    yield show
    assert browser.troubles() == []
    assert [url for url in browser.requests() if url != (tmp_path / "report.html").as_uri() and url != "data:,"] == []
    browser.call("Page.navigate", url="about:blank")


def two_states() -> ProfileRecord:
    """One thread that runs for the first half of eight seconds and reads for the second."""
    profile = a_profile(segments=1, threads=1, tasks=0)
    player = Player("half and half", "io", 0.0)
    player.does(0.0, 4.0, GIL)
    player.does(4.0, 8.0, IO, 0)
    profile["wall"] = 8.0
    profile["lanes"] = [lane("thread", 0, player)]
    profile["gil"] = [{"pid": profile["threads"][0]["pid"], "start": [0.0], "length": [4.0], "thread": [0]}]
    cast("dict[str, Any]", profile["threads"][0]).update(name="half and half", wall=8.0, on_cpu_gil=4.0, io_wait=4.0)
    return profile


def colour(browser: Browser, part: float, up: float) -> tuple[int, int, int]:
    """The pixel of the last lane that is drawn: so far to the right of its time, so far above its floor in pixels."""
    return cast(
        "tuple[int, int, int]",
        tuple(
            browser.run(
                f"""(() => {{
                    const {{ width, height }} = document.getElementById("canvas");
                    const left = Number(document.getElementById("lanes").dataset.left);
                    const x = left + {part} * (width - left - 10), y = height - 6 - 2 - {up};
                    return [...{PIXELS}.getImageData(x, y, 1, 1).data].slice(0, 3);
                }})()"""
            )
        ),
    )


def css(browser: Browser, name: str) -> tuple[int, int, int]:
    word = browser.run(f"getComputedStyle(document.documentElement).getPropertyValue('{name}').trim()")
    return int(word[1:3], 16), int(word[3:5], 16), int(word[5:7], 16)


CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "nothing": {"threads": 0, "tasks": 0},
    "one segment": {"segments": 1, "threads": 1, "tasks": 0},
    "nasty names": {"threads": 12, "nasty": True},
    "300 threads": {"segments": 9000, "threads": 300, "pace": 0.1},
    "2000 tasks": {"tasks": 2000},
}


@pytest.mark.parametrize("name", CASES)
def test_the_page_opens(show: Any, name: str) -> None:
    profile = a_profile(**CASES[name])
    browser = show(profile)
    assert browser.run("document.querySelector('h1').textContent") == VERDICTS[profile["verdict"]]
    assert browser.run("document.title").endswith("plait profile")
    assert browser.run("[...document.scripts].map((each) => each.id)") == ["data", ""], "no name became a script"
    assert browser.run("document.getElementById('timeline').hidden") == (not profile["lanes"])
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    if profile["lanes"]:
        colours = browser.run(
            f"""(() => {{
                const {{ width, height }} = document.getElementById("canvas");
                const left = Number(document.getElementById("lanes").dataset.left);
                const {{ data }} = {PIXELS}.getImageData(left, 0, width - left, height);
                return new Set(new Uint32Array(data.buffer)).size;
            }})()"""
        )
        assert colours > 3


def test_it_opens_on_a_narrow_screen_and_in_the_dark(show: Any) -> None:
    browser = show(a_profile(), width=500, height=900, scheme="dark")
    assert browser.run("document.documentElement.dataset.scheme") == "dark"
    assert browser.run("document.documentElement.scrollWidth") <= 500


def test_a_lock_is_one_row_by_the_line_that_wants_it(show: Any) -> None:
    profile = a_profile(threads=3, tasks=0)
    lock = "0x55dd38c1e0a0, wanted by w (lock.py:6)"
    for thread in profile["threads"]:
        thread["waits"], thread["locks"] = [], []
        for name, where in (("one", "w (lock.py:6)"), ("other", "w (lock.py:7)")):
            thread["locks"] = [
                *thread["locks"],
                {"lock": lock, "holder": 9, "holder_name": name, "where": where, "count": 2, "time": len(name)},
            ]
        thread["waits"] = [
            {"kind": "lock", "call": "lock", "target": lock, "count": 4, "time": 8.0},
            {
                "kind": "lock",
                "call": "futex",
                "target": "0x55dd38c1e0a0",
                "where": "w (lock.py:6)",
                "count": 1,
                "time": 1.0,
            },
        ]
    browser = show(profile)
    ((name, waiters, holders, where, count, time),) = rows(browser, "locks")
    assert (name, holders, where, count) == (
        "lock at w (lock.py:6)",
        "other, one",
        "w (lock.py:7), w (lock.py:6)",
        "12",
    )
    assert len(waiters.split(", ")) == 3
    assert time.startswith("24")
    waits = rows(browser, "waits")
    assert [row[:2] + row[4:5] for row in waits] == [["lock", "at w (lock.py:6)", "5"]] * 3


@pytest.mark.parametrize("width", [1020, 1200, 1366])
def test_no_column_is_cut_off_on_the_screen_of_a_laptop(show: Any, width: int) -> None:
    profile = a_profile()
    for each in profile["functions"]:
        each["function"] = "_ExecutorManagerThread.wait_result_broken_or_wakeup"
        each["file"] = "/usr/lib/python3.11/concurrent/futures/process.py"
        each["verdict"] = "pickling-bound"
    browser = show(profile, width=width, height=900)
    tables = "document.querySelectorAll('#functions .table, #threads .table')"
    assert browser.run(f"[...{tables}].map((each) => each.scrollWidth - each.clientWidth)") == [0, 0]


def test_a_profile_without_lanes_and_stacks_has_its_tables(show: Any) -> None:
    profile = a_profile()
    for name in ("lanes", "gil", "stacks", "notes"):
        del profile[name]  # type: ignore[misc]
    browser = show(in_json(profile))
    assert browser.run("['timeline', 'flame'].map((id) => document.getElementById(id).hidden)") == [True, True]
    assert browser.run("document.querySelectorAll('#functions tbody tr').length") == len(profile["functions"])
    assert browser.run("document.querySelectorAll('#cpu-bursts rect').length") > 0


def test_lanes_show_their_states_where_they_are(show: Any) -> None:
    browser = show(two_states())
    running, reading, track = css(browser, "--s0"), css(browser, "--s5"), css(browser, "--track")
    assert [colour(browser, part, 2) for part in (0.01, 0.48, 0.52, 0.98)] == [running, running, reading, reading]
    assert colour(browser, 0.25, 17) == running, "running stands tall"
    assert colour(browser, 0.75, 17) == track, "waiting is low"


@pytest.mark.parametrize("way", ["keys", "buttons", "wheel"])
def test_zoom(show: Any, way: str) -> None:
    browser = show(two_states())
    box = browser.box("#scroll")
    assert browser.run(RANGE) == pytest.approx([0, 8])
    if way == "keys":
        browser.run("document.getElementById('scroll').focus()")
        browser.key("+")
    elif way == "buttons":
        browser.run("document.querySelector('[data-do=in]').click()")
    else:
        y = box["top"] + 60
        browser.mouse("mouseWheel", box["left"] + box["width"] * 0.6, y, deltaX=0, deltaY=-400, modifiers=2)
    browser.frame()
    first, last = browser.run(RANGE)
    assert 0 < first < 4.6 < last < 8
    assert last - first < 5
    running, reading = css(browser, "--s0"), css(browser, "--s5")
    middle = (4 - first) / (last - first)
    assert [colour(browser, middle - 0.02, 2), colour(browser, middle + 0.02, 2)] == [running, reading]
    browser.run("document.querySelector('[data-do=all]').click()")
    browser.frame()
    assert browser.run(RANGE) == pytest.approx([0, 8])


def test_drag_moves_lanes_and_the_overview_chooses_a_range(show: Any) -> None:
    browser = show(two_states())
    box = browser.box("#overview")
    left = browser.run("Number(document.getElementById('lanes').dataset.left)")
    span = box["width"] - left - 10
    at = box["left"] + left
    browser.drag(at + span * 0.25, box["top"] + 20, at + span * 0.75)
    assert browser.run(RANGE) == pytest.approx([2, 6], abs=0.05)
    box = browser.box("#scroll")
    browser.drag(box["left"] + left + span * 0.5, box["top"] + 60, box["left"] + left + span * 0.75)
    assert browser.run(RANGE) == pytest.approx([1, 5], abs=0.05)
    browser.drag(box["left"] + left + 5, box["top"] + 60, box["left"] + left + span)
    assert browser.run(RANGE) == pytest.approx([0, 4], abs=0.05), "not before its beginning"


def test_it_says_what_is_pointed_at(show: Any) -> None:
    profile = two_states()
    browser = show(profile)
    box = browser.box("#scroll")
    left = browser.run("Number(document.getElementById('lanes').dataset.left)")
    x = box["left"] + left + (box["width"] - left - 10) * 0.75
    browser.mouse("mouseMoved", x, box["top"] + box["height"] - 16)
    browser.frame()
    tip = browser.run("[document.getElementById('tip').hidden, document.getElementById('tip').innerText]")
    assert not tip[0]
    assert "half and half" in tip[1]
    assert TITLES["io_wait"] in tip[1]
    assert "4.00 s" in tip[1]
    assert profile["notes"][0] in tip[1]


def test_the_timeline_can_be_read_with_the_keyboard(show: Any) -> None:
    browser = show(two_states())
    browser.run("document.getElementById('scroll').focus()")
    detail = "document.getElementById('detail').innerText"
    for key, wanted in (("ArrowDown", "GIL held by"), ("ArrowDown", TITLES["io_wait"]), ("p", TITLES["on_cpu_gil"])):
        browser.key(key)
        assert wanted in browser.run(detail)
    browser.key("n")
    assert TITLES["io_wait"] in browser.run(detail)
    browser.key("Enter")
    first, last = browser.run(RANGE)
    assert 2.5 < first < 4 < last == pytest.approx(8)
    browser.key("0")
    assert browser.run(RANGE) == pytest.approx([0, 8])


def test_everything_that_can_be_used_has_a_name(show: Any) -> None:
    browser = show(a_profile())
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    wanted = {"button", "textbox", "searchbox", "combobox", "image", "application", "table", "region", "link"}
    nameless = [
        (node["role"]["value"], node.get("backendDOMNodeId"))
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in wanted and not node.get("name", {}).get("value")
    ]
    assert not nameless


def rows(browser: Browser, section: str) -> list[list[str]]:
    script = "(row) => [...row.cells].map((cell) => (cell.querySelector('code') ?? cell).textContent)"
    return cast("list[list[str]]", browser.run(f"[...document.querySelectorAll('#{section} tbody tr')].map({script})"))


def test_the_table_of_functions_is_what_the_profile_says(show: Any) -> None:
    profile = a_profile()
    browser = show(profile)
    wanted = [
        [
            each["function"],
            *(
                seconds(each[name])
                for name in (
                    "self_cpu",
                    "total_cpu",
                    "caused_gil_wait",
                    "gil_wait",
                    "io_wait",
                    "lock_wait",
                    "longest_gil_hold",
                )
            ),
            VERDICTS[each["verdict"]],
            "",
        ]
        for each in sorted(profile["functions"], key=lambda each: -each["self_cpu"])
    ]
    assert rows(browser, "functions") == wanted
    browser.run("document.querySelector('#functions thead th:nth-child(4) button').click()")
    assert (
        browser.run("document.querySelector('#functions thead th:nth-child(4)').getAttribute('aria-sort')")
        == "descending"
    )
    ordered = sorted(profile["functions"], key=lambda each: -each["caused_gil_wait"])
    assert [row[0] for row in rows(browser, "functions")] == [each["function"] for each in ordered]
    browser.run("document.querySelector('#functions thead th:nth-child(4) button').click()")
    assert rows(browser, "functions")[-1][0] == ordered[0]["function"]
    browser.run(
        """(() => {
            const field = document.querySelector("#functions input");
            field.value = "images.py";
            field.dispatchEvent(new Event("input"));
        })()"""
    )
    assert sorted(row[0] for row in rows(browser, "functions")) == ["compress", "resize"]


def test_long_tables_are_cut_until_asked(show: Any) -> None:
    browser = show(a_profile(tasks=400))
    assert len(rows(browser, "tasks")) == 50
    browser.run("document.querySelector('#tasks .more button').click()")
    assert len(rows(browser, "tasks")) == 400


def test_colours_follow_the_system_and_the_switch(show: Any) -> None:
    browser = show(two_states())
    light = colour(browser, 0.25, 2)
    browser.run("document.querySelector('button[data-theme=dark]').click()")
    browser.frame()
    assert colour(browser, 0.25, 2) == css(browser, "--s0") != light
    browser.run("document.querySelector('button[data-theme=auto]').click()")
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.frame()
    assert colour(browser, 0.25, 2) == light
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.frame()
    assert browser.run("document.documentElement.dataset.scheme") == "dark"
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.frame()
    assert browser.run("document.documentElement.dataset.scheme") == "light", "paper is white"
    browser.call("Emulation.setEmulatedMedia", media="")


def test_the_sums_of_any_range_are_those_of_its_spans(show: Any) -> None:
    """The index behind the lanes, asked for random ranges, against adding up one by one."""
    browser = show(two_states())
    dice = random.Random(5)
    source = resources.files("plait.observe.report").joinpath("data.js").read_text()
    for count in (1, 2, 15, 16, 17, 31, 32, 33, 500, 3000):
        starts, lengths, kinds = [], [], []
        free = 0
        for _ in range(count):
            free += dice.choice((0, 0, 0, 3, 40))
            length = dice.choice((1, 2, 5, 90))
            starts.append(free)
            lengths.append(length)
            kinds.append(dice.randrange(8))
            free += length
        edges = sorted(dice.uniform(-2, free + 2) for _ in range(40))
        steps = [max(0.0, edge) for edge in edges]
        found = browser.run(
            f"""(() => {{ {source}
                const spans = new Spans({starts}, {lengths}, {kinds}), out = new Float64Array(KINDS), edges = {steps};
                const given = [];
                let next = spans.after(edges[0]);
                for (let i = 1; i < edges.length; i++) {{
                    next = spans.between(edges[i - 1], edges[i], next, out);
                    given.push([...out]);
                }}
                const far = spans.after(edges[3]);
                spans.between(edges[3], edges[36], far, out);
                return [...given, [...out]];
            }})()"""
        )
        ranges = [*itertools.pairwise(steps), (steps[3], steps[36])]
        for (begin, end), sums in zip(ranges, found, strict=True):
            wanted = [0.0] * 8
            for start, length, kind in zip(starts, lengths, kinds, strict=True):
                wanted[kind] += max(0.0, min(end, start + length) - max(begin, start))
            assert sums == pytest.approx(wanted, abs=1e-6), (count, begin, end)


def test_bursts_are_those_that_were_counted_or_else_those_of_the_lanes(show: Any) -> None:
    profile = a_profile()
    heights = "[...document.querySelectorAll('#cpu-bursts rect title, #io-bursts rect title')].map((each) => each.textContent)"
    counted = show(profile).run(heights)
    for thread in profile["threads"]:
        del thread["cpu_bursts"]["buckets"]
        del thread["io_bursts"]["buckets"]
    assert counted
    assert show(profile).run(heights) == counted
    assert "5 ms" in show(profile).run("document.querySelector('#cpu-bursts .mark-text').textContent")


def test_the_flame_graph_has_the_time_of_all_stacks(show: Any) -> None:
    profile = a_profile()
    browser = show(profile)
    total = sum(each["weight"] for each in profile["stacks"]["samples"])
    labels = browser.run(
        "[...document.querySelectorAll('#flame-graph button')].map((each) => each.getAttribute('aria-label'))"
    )
    assert labels[0].startswith(f"<module>, {seconds(total)}, 100% of all")
    browser.run(
        "[...document.querySelectorAll('#flame-graph button')].find((each) => each.textContent === 'render_page').click()"
    )
    assert browser.run("document.querySelector('#flame-graph button').textContent") == "render_page"
    browser.run("document.getElementById('flame-all').click()")
    assert browser.run("document.querySelectorAll('#flame-graph button').length") == len(labels)


def test_a_hundred_thousand_segments(show: Any, record_property: Any) -> None:
    profile = a_profile(segments=120_000, threads=12, grain=0.2, pace=0.05)
    segments = sum(len(each["start"]) for each in profile["lanes"])
    assert segments > 100_000
    browser = show(profile)
    browser.run("document.getElementById('scroll').focus()")
    times = []
    for key in "++++++++----++++":
        browser.key(key)
        times.append(float(browser.run("document.getElementById('lanes').dataset.ms")))
    first, last = browser.run(RANGE)
    assert last - first == pytest.approx(profile["wall"] / 2**8, rel=1e-3)
    middle = sorted(times)[len(times) // 2]
    record_property("redraw_ms", middle)
    print(f"{segments} segments: redrawn in {middle:.1f} ms, {max(times):.1f} ms at most")


def test_it_can_be_printed(show: Any) -> None:
    browser = show(a_profile())
    assert len(browser.call("Page.printToPDF", printBackground=True)["data"]) > 20_000


def test_without_a_gil_it_shows_who_stood_still(show: Any) -> None:
    browser = show(without_gil(a_profile()))
    legend = browser.run("[...document.querySelectorAll('#legend b')].map((each) => each.textContent)")
    assert legend[1] == "Running"
    assert legend[-1] == STOPPED_WORDS[0]
    assert browser.run("document.getElementById('pauses').hidden") is False
    assert "MainThread" in browser.run("document.getElementById('pauses').textContent")
    assert "stood still" in browser.run("document.querySelector('#threads thead').textContent")


def test_all_states_have_their_legend(show: Any) -> None:
    browser = show(a_profile())
    assert browser.run("[...document.querySelectorAll('#legend b')].map((each) => each.textContent)") == [
        TITLES[name] for name in STATES
    ]
    assert json.loads(browser.run("document.getElementById('data').textContent"))["profile"]["schema"] == 1
