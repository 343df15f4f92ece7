"""The summary for terminals: everything in it, nothing too wide, and no more than the terminal can show."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, cast

import pytest

from plait._words import seconds, size
from plait.observe._states import STATES
from plait.observe.report import terminal
from plait.observe.report._words import figure, percent, plain
from tests.observe._profiles import NASTY, a_profile, in_json, without_gil

if TYPE_CHECKING:
    from plait.observe._records import ProfileRecord, States

COLORS = re.compile(r"\x1b\[[0-9;]*m")
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "nothing": {"threads": 0, "tasks": 0},
    "one segment": {"segments": 1, "threads": 1, "tasks": 0},
    "nasty names": {"threads": 12, "nasty": True},
    "300 threads": {"segments": 3000, "threads": 300, "pace": 0.1},
    "2000 tasks": {"tasks": 2000},
}


@pytest.mark.parametrize("width", [60, 80, 132])
@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_no_line_is_too_wide(name: str, rich: bool, width: int) -> None:
    text = terminal.render(a_profile(**CASES[name]), width=width, rich=rich)
    assert [line for line in text.split("\n") if terminal.columns(line) > width] == []
    assert "\x1b" not in text
    assert len(text.splitlines()) < 120


def test_it_says_what_there_is_to_say() -> None:
    profile = a_profile()
    text = terminal.render(profile)
    flat = " ".join(text.split())
    for wanted in (
        "GIL-bound: " + profile["evidence"]["sentence"],
        *profile["evidence"]["try"],
        "MainThread",
        "spawn_main (4249)",
        "parse_order shop/orders.py:28",
        "RLock of",
        "Longest GIL hold: ",
        "Task-3 step of serve_client",
        "resize in ProcessPool-1",
        "condition variables of the interpreter, every event",
        "schedstat and state letters, sampled (perf_event_paranoid is 3)",
        "1.2% of the CPU time used",
        profile["limits"][0],
    ):
        assert wanted in flat, wanted
    for title in ("Threads (7)", "Processes (2)", "Tasks (12)", "Functions (7)", "Waits (", "Locks (", "Pools (1)"):
        assert title in text


@pytest.mark.parametrize(("width", "long"), [(60, "Thread-1… (4242)"), (80, "Thread-1 (_han… (4242)")])
def test_threads_of_several_processes_are_told_apart(width: int, long: str) -> None:
    profile = a_profile(threads=2)
    first, second = profile["threads"]
    first["name"] = second["name"] = "MainThread"
    first["pid"] = second["pid"] = 4242
    alone = terminal.render(profile, width=width)
    assert alone.count("\n  MainThread  ") == 2
    second["pid"] = 4249
    text = terminal.render(profile, width=width)
    assert [line for line in text.split("\n") if terminal.columns(line) > width] == []
    for pid in (4242, 4249):
        assert re.search(rf"^  Main(Thread|\w*…) \({pid}\) ", text, re.MULTILINE), text
    first["name"] = "Thread-1 (_handle_workers)"
    first["longest_gil_hold"], second["longest_gil_hold"] = 2.0, 1.0
    text = terminal.render(profile, width=width)
    assert f"\n  {long} " in text
    assert "by Thread-1 (_handle_workers) (4242)" in " ".join(text.split())


def test_one_busy_thread_is_one() -> None:
    assert figure("busy_threads", 1.0) == ("busy thread", "1")
    assert figure("busy_threads", 2.0) == ("busy threads", "2")
    assert figure("busy_threads", 0.0) == ("busy threads", "0")


@pytest.mark.parametrize("width", [60, 80])
def test_without_a_gil_it_says_who_stood_still(width: int) -> None:
    profile = without_gil(a_profile())
    text = terminal.render(profile, width=width)
    assert [line for line in text.split("\n") if terminal.columns(line) > width] == []
    flat = " ".join(text.split())
    for wanted in ("runs stopped locks", "S stands still", "▓ runs", "Stop-the-world (2)", "3 pauses, half of them"):
        assert wanted in flat, wanted
    assert "by MainThread coll" in flat
    assert "by not known" in flat
    assert "GIL wait" not in flat
    summary = terminal._Summary(80, color=False, rich=True)
    states: Any = {**dict.fromkeys(STATES, 0.0), "lock_wait": 4.0, "stop_the_world": 3.0}
    assert summary.bar(states, 20) == "L" * 5 + "S" * 15


def test_bars_are_as_long_as_their_states() -> None:
    summary = terminal._Summary(80, color=False, rich=True)

    def bar(**states: float) -> str:
        return summary.bar(cast("States", {**dict.fromkeys(STATES, 0.0), **states}), 20)

    assert bar() == ""
    assert bar(on_cpu_gil=3.0) == "█" * 20
    assert bar(on_cpu_gil=1.0, io_wait=3.0) == "█" * 5 + "i" * 15
    assert bar(on_cpu_gil=97.0, gil_wait=1.5, idle=1.5) == "█" * 18 + "G·", "what is there is seen"
    assert bar(on_cpu_gil=1.0, on_cpu_released=1.0, ready=1.0) == "█" * 7 + "▓" * 7 + "r" * 6
    for seed in range(20):
        profile = a_profile(segments=300, seed=seed)
        assert {len(summary.bar(each, 26)) for each in profile["threads"]} <= {0, 26}


def test_more_than_fits_is_counted() -> None:
    text = terminal.render(a_profile(tasks=2000))
    assert "Tasks (2,000)" in text
    assert "  and 1,992 more\n" in text


def test_how_it_was_seen_is_said_once() -> None:
    profile = a_profile()
    profile["methods"] = [
        {"what": "switches", "how": "sampled", "exact": False, "why": "the kernel does not allow it"},
        {"what": "gil", "how": "none", "exact": False, "why": "it was not found"},
        {"what": "stacks", "how": "read from memory", "exact": False, "why": ""},
    ]
    told = "switches: sampled, since the kernel does not allow it"
    profile["limits"] = [told, "something else"]
    text = terminal.render(profile)
    assert "switches  sampled (the kernel does not allow it)\n" in text
    assert "gil       none (it was not found)\n" in text
    assert "stacks    read from memory, sampled\n" in text
    assert told not in text
    assert "limit     something else\n" in text


def locked() -> ProfileRecord:
    """Two threads that wait for one lock, which others had at several places, and one that joins."""
    profile = a_profile(threads=3, tasks=0)
    lock = "0x55dd38c1e0a0, wanted by w (lock.py:6)"
    for thread in profile["threads"]:
        thread["waits"], thread["locks"] = [], []
    holds = [(9, "Thread-3", "w (lock.py:6)", 0.2), (8, "Thread-4", "w (lock.py:7)", 0.5), (8, "Thread-4", "", 0.1)]
    for thread in profile["threads"][1:3]:
        thread["locks"] = [
            {"lock": lock, "holder": holder, "holder_name": name, "where": where, "count": 2, "time": time}
            for holder, name, where, time in holds
        ]
        thread["waits"] = [
            {"kind": "lock", "call": "lock", "target": lock, "count": 6, "time": 0.8},
            {
                "kind": "lock",
                "call": "futex",
                "target": "0x55dd38c1e0a0",
                "where": "w (lock.py:6)",
                "count": 1,
                "time": 4.0,
            },
        ]
    profile["threads"][0]["waits"] = [
        {
            "kind": "lock",
            "call": "futex",
            "target": f"0x7f52000{n}",
            "where": "main (lock.py:13)",
            "count": 1,
            "time": 2.0,
        }
        for n in range(3)
    ]
    return profile


def test_a_lock_is_one_row_by_the_line_that_wants_it() -> None:
    lines = [" ".join(line.split()) for line in terminal.render(locked(), width=100).splitlines()]
    assert "lock at w (lock.py:6), released by Thread-4 and 1 more, 2 threads 12 1.6 s" in [
        line.replace("1.60 s", "1.6 s") for line in lines
    ]
    assert sum("released by" in line for line in lines) == 1
    waits = [line for line in lines if line.startswith("lock at") and "released" not in line]
    assert [line.split(",")[0] for line in waits] == ["lock at main (lock.py:13)", *["lock at w (lock.py:6)"] * 2]
    assert [line.split()[-3] for line in waits] == ["3", "7", "7"]
    assert not any("0x55dd" in line or "0x7f52" in line for line in lines)


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding: str, tty: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty

    def text(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def test_colours_are_for_terminals(usual: pytest.MonkeyPatch) -> None:
    profile = a_profile()
    with Terminal("utf-8") as stream:
        terminal.show(profile, stream)
        shown = stream.text()
    assert "\x1b[31m█" in shown
    # With colours bars are made of one character.
    assert COLORS.sub("", shown).replace("█", "")[:300] == terminal.render(profile).replace("█", "")[:300]
    with Terminal("utf-8", tty=False) as stream:
        terminal.show(profile, stream)
        assert stream.text() == terminal.render(profile)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(usual: pytest.MonkeyPatch, name: str, value: str) -> None:
    usual.setenv(name, value)
    with Terminal("utf-8") as stream:
        terminal.show(a_profile(), stream)
        assert "\x1b" not in stream.text()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_other_encodings_get_what_they_have(usual: pytest.MonkeyPatch, encoding: str) -> None:
    with Terminal(encoding, tty=False) as stream:
        terminal.show(a_profile(threads=12, nasty=True), stream)
        text = stream.text()
    assert "#" in text
    assert "█" not in text
    assert max(map(len, text.split("\n"))) <= 80


@pytest.mark.parametrize("name", NASTY)
def test_names_are_cut_to_columns(name: str) -> None:
    for width in (1, 2, 5, 24, 300):
        for left in (False, True):
            assert terminal.columns(terminal.cut(name, width, left=left)) == width
    assert not set(plain(name)) & {"\0", "\x1b", "\n", "\t", "\u202e", "\u2028", "\ud800"}


def test_words_are_wrapped_by_columns() -> None:
    assert terminal.wrapped("one two three", 7) == ["one two", "three"]
    assert terminal.wrapped("数据处理 线程", 8) == ["数据处理", "线程"]
    assert terminal.wrapped("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]
    assert terminal.wrapped("", 10) == [""]
    assert all(terminal.columns(line) <= 9 for line in terminal.wrapped("数据处理线程名称很长", 9))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1e-9, "1.00 ns"),
        (310e-6, "310 µs"),
        (0.0451, "45.1 ms"),
        (0.9996, "1.00 s"),
        (1.234, "1.23 s"),
        (59.96, "60.0 s"),
        (599.4, "599 s"),
        (3600, "60 min"),
        (86400, "24.0 h"),
    ],
)
def test_times(value: float, text: str) -> None:
    assert seconds(value) == text


def test_figures() -> None:
    assert [percent(part) for part in (0, 0.0001, 0.012, 0.0996, 0.39, 1)] == [
        "0.0%",
        "<0.1%",
        "1.2%",
        "10%",
        "39%",
        "100%",
    ]
    assert [size(count) for count in (12, 2048, 5 << 20, 3 << 30)] == ["12 B", "2.0 KiB", "5.0 MiB", "3.0 GiB"]
    assert figure("gil_wait_share", 0.39) == ("waiting for the GIL", "39%")
    assert figure("odd_share", 1.0) == ("odd share", "100%")
    assert figure("longest_s", 0.2) == ("longest", "200 ms")
    assert figure("wall", 1.0) == ("wall", "1.00 s")
    assert figure("switches", 12_000) == ("switches", "12,000")
    assert figure("cores", 1.44) == ("cores", "1.44")
    assert figure("cores_used", 0.2134) == ("cores used", "0.21")


def test_what_has_no_name_is_called_by_its_place() -> None:
    profile = a_profile()
    profile["blocked"][0]["callback"] = ""
    profile["threads"][0]["waits"] = [{"kind": "", "call": "", "target": "", "count": 1, "time": 99.0}]
    text = terminal.render(profile)
    assert "\n  render_page shop/views.py:131  " in text
    assert "\n  not known, MainThread  " in text


def test_a_profile_from_a_file_without_lanes_reads_the_same() -> None:
    profile = a_profile()
    text = terminal.render(profile)
    for name in ("lanes", "gil", "stacks", "notes"):
        del profile[name]  # type: ignore[misc]
    assert terminal.render(in_json(profile)) == text
