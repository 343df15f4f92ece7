"""The textbook's table: figures that are taken, what they say of the claims, and how they are shown."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from plait import _core
from plait.compare import Comparison, Row, _interpreters, _measure, _render, textbook

#: Figures as a machine with two cores and a GIL has them.
FIGURES: dict[str, dict[str, dict[str, float]]] = {
    "turns": {"threads": {"first_turn": 0.006, "computing": 0.1}, "asyncio": {"first_turn": 0.1, "computing": 0.1}},
    "cores": {
        "threads": {
            "units": 2,
            "python": 0.95,
            "plait_python": 0.97,
            "released": 1.9,
            "plait_released": 1.9,
            "switch_interval": 0.005,
        },
        "processes": {"units": 2, "python": 1.9, "plait_python": 1.92, "released": 1.9, "plait_released": 1.9},
        "asyncio": {"units": 2, "python": 1.0, "released": 1.0},
    },
    "lag": {
        "threads": {"quiet_p50": 1.1e-3, "thread_p50": 6e-3, "process_p50": 1.2e-3},
        "processes": {"quiet_p50": 1.1e-3, "process_p50": 1.2e-3},
        "asyncio": {"quiet_p50": 1.1e-3, "thread_p50": 6e-3, "plait_thread_p50": 1.2e-3, "callback_p50": 0.02},
    },
    "waits": {
        "threads": {"speed_up": 25, "workers": 32, "sleepers_10": 0.1, "sleepers_1000": 0.2},
        "processes": {"speed_up": 7, "workers": 8},
        "asyncio": {
            "speed_up": 40,
            "plait_speed_up": 45,
            "sleepers_10": 0.1,
            "sleepers_1000": 0.11,
            "sleepers_10000": 0.3,
        },
    },
    "creation": {
        "threads": {"unit": 5e-5, "plait_pooled": 1e-6},
        "processes": {"unit_fork": 2e-3, "unit_spawn": 0.08, "plait_pooled": 3e-6},
        "asyncio": {"unit": 9e-6, "plait_unit": 8e-6},
    },
    "memory": {
        "threads": {"unit_10": 2e4, "unit_1000": 1.4e4},
        "processes": {"unit_10": 1.3e7},
        "asyncio": {"unit_10": 800, "unit_1000": 920},
    },
    "switches": {
        "threads": {"switch": 4e-6, "same_core": 5e-6},
        "processes": {"switch": 5e-6, "same_core": 4e-6},
        "asyncio": {"switch": 8e-7, "plait_switch": 5e-7},
    },
    "talk": {
        "threads": {"queue.SimpleQueue per second": 2e6, "queue.SimpleQueue there and back": 1e-5},
        "processes": {"multiprocessing.Queue per second": 1e5, "multiprocessing.Queue there and back": 6e-5},
        "asyncio": {"asyncio.Queue per second": 1e6, "asyncio.Queue there and back": 8e-6},
    },
    "sharing": {
        "threads": {"bytes": 1 << 26, "seen": 1, "plait_hand_over": 1e-5},
        "processes": {"bytes": 1 << 26, "seen": 0, "plait_hand_over": 2e-2, "hand_over": 0.3, "shared_memory": 3e-5},
        "asyncio": {"bytes": 1 << 26, "seen": 1},
    },
    "crashes": {
        "threads": {"exception": 2, "crash": 0},
        "processes": {"exception": 2, "crash": 2, "executor_exception": 2, "executor_crash": 0, "plait_crash": 2},
        "asyncio": {"exception": 2, "crash": 0},
    },
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """The table of a machine that fails to measure memory, and gives the figures above else."""

    def run(name: str, *, quick: bool, environment: Any = None) -> Any:
        assert quick
        assert not environment
        if name == "memory":
            raise _measure.MeasurementError("exit code 3: no memory | here")
        return FIGURES[name]

    monkeypatch.setattr(_measure, "run", run)
    monkeypatch.setattr(_core, "gil_is_on", lambda: True)
    monkeypatch.setattr(_interpreters, "are_there", lambda: False)
    return textbook(quick=True)


def row(comparison: Comparison, topic: str) -> Row:
    return next(row for row in comparison.rows if row.topic == topic)


def test_figures_of_a_usual_machine_bear_the_claims_out(measured: Comparison) -> None:
    assert {row.topic for row in measured.rows if row.holds is not True} == {"Overhead: memory"}
    assert len(measured.rows) == 13
    assert all(set(row.measured) == set(measured.models) for row in measured.rows if row.measured)


@pytest.mark.parametrize(
    ("topic", "measurement", "model", "changes"),
    [
        ("Parallelism", "cores", "threads", {"python": 1.8}),
        ("Parallelism", "cores", "processes", {"python": 0.9}),
        ("Effect of the GIL", "cores", "threads", {"released": 0.9}),
        ("CPU-bound performance", "cores", "threads", {"python": 2.4}),
        ("I/O-bound performance", "waits", "threads", {"speed_up": 1.1}),
        ("Overhead: to create", "creation", "asyncio", {"unit": 1e-3}),
        ("Memory sharing", "sharing", "processes", {"seen": 1}),
        ("Communication", "talk", "processes", {"multiprocessing.Queue there and back": 1e-6}),
        ("Fault tolerance", "crashes", "threads", {"crash": 2}),
        ("Context switch", "switches", "asyncio", {"switch": 1e-3}),
        ("Scalability", "waits", "threads", {"sleepers_10000": 0.1}),
        ("I/O beside computation", "lag", "threads", {"thread_p50": 1.2e-3}),
        ("Type of concurrency", "turns", "threads", {"first_turn": 0.1}),
    ],
)
def test_figures_that_contradict_a_claim_say_so(
    monkeypatch: pytest.MonkeyPatch, topic: str, measurement: str, model: str, changes: dict[str, float]
) -> None:
    figures = {**FIGURES, measurement: {**FIGURES[measurement], model: {**FIGURES[measurement][model], **changes}}}
    monkeypatch.setattr(_measure, "run", lambda name, **_: figures[name])
    monkeypatch.setattr(_core, "gil_is_on", lambda: True)
    monkeypatch.setattr(_interpreters, "are_there", lambda: False)
    assert row(textbook(quick=True), topic).holds is False


def test_where_other_programs_have_the_cores_a_claim_on_them_is_not_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = {**FIGURES["cores"]["processes"], "python": 0.9, "plait_python": 0.9, "cores_free": 1.1}
    figures = {**FIGURES, "cores": {**FIGURES["cores"], "processes": processes}}
    monkeypatch.setattr(_measure, "run", lambda name, **_: figures[name])
    monkeypatch.setattr(_core, "gil_is_on", lambda: True)
    monkeypatch.setattr(_interpreters, "are_there", lambda: False)
    comparison = textbook(quick=True)
    for topic in ("Parallelism", "CPU-bound performance"):
        assert row(comparison, topic).holds is None
        assert "Other programs were busy: of 2 cores 1.1 were to be had." in row(comparison, topic).note


#: As CPython 3.14 has them on two cores.
SUBINTERPRETERS: dict[str, float] = {
    "unit": 0.02, "unit_10": 2.5e6, "units": 2, "python": 1.9, "released": 1.9, "speed_up": 7.5, "workers": 8, "switch": 4e-6,
    "interpreters.Queue per second": 2e5, "interpreters.Queue there and back": 0.01, "bytes": 1 << 26, "seen": 0,
    "hand_over": 0.05, "view": 3e-4, "exception": 2, "crash": 0, "thread_p50": 1.1e-3, "thread_p99": 2e-3,
}  # fmt: skip


def test_subinterpreters_have_a_column_and_a_row_where_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Any] = {**FIGURES, "interpreters": {"subinterpreters": SUBINTERPRETERS}}
    figures["memory"] = {
        "asyncio": {"unit_10": 1e3, "unit_1000": 1e3},
        "threads": {"unit_10": 2e4, "unit_1000": 2e4},
        "processes": {"unit_10": 1e7},
    }
    monkeypatch.setattr(_measure, "run", lambda name, **_: figures[name])
    monkeypatch.setattr(_core, "gil_is_on", lambda: True)
    monkeypatch.setattr(_interpreters, "are_there", lambda: True)
    comparison = textbook(quick=True)
    assert comparison.title == "asyncio, threads, processes and subinterpreters"
    assert all("subinterpreters" in row.measured for row in comparison.rows)
    assert row(comparison, "Subinterpreters").holds is True
    assert "1.9x" in _render.markdown(comparison)
    figures["interpreters"] = {"subinterpreters": {**SUBINTERPRETERS, "python": 1.0}}
    assert row(textbook(quick=True), "Subinterpreters").holds is False


def test_without_a_gil_threads_are_measured_with_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = {**FIGURES["cores"]["threads"], "python": 1.9}
    figures = {**FIGURES, "cores": {**FIGURES["cores"], "threads": threads}, "with_gil": {"threads": {"python": 1.0}}}
    asked: dict[str, Any] = {}

    def run(name: str, *, quick: bool, environment: Any = None) -> Any:
        asked[name] = environment
        if name == "memory":
            raise _measure.MeasurementError("not here")
        return figures[name]

    monkeypatch.setattr(_measure, "run", run)
    monkeypatch.setattr(_core, "gil_is_on", lambda: False)
    monkeypatch.setattr(_interpreters, "are_there", lambda: False)
    found = row(textbook(quick=True), "Free-threading")
    assert asked["with_gil"] == {"PYTHON_GIL": "1"}
    assert found.holds is True
    assert found.measured["threads"] == "Python code without the GIL 1.9x, with it 1.0x"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="interpreters of their own are in the library from 3.14 on")
def test_subinterpreters_are_measured_for_real() -> None:
    figures = _measure.run("interpreters", quick=True)["subinterpreters"]
    assert figures.keys() == SUBINTERPRETERS.keys()
    assert (figures["seen"], figures["exception"], figures["crash"]) == (0, 2, 0)


def test_a_measurement_that_fails_leaves_the_others(measured: Comparison) -> None:
    failed = row(measured, "Overhead: memory")
    assert (failed.measured, failed.values, failed.holds) == ({}, {}, None)
    assert "no memory" in failed.note


def test_it_is_shown_in_80_columns_in_markdown_as_json_and_as_a_page(measured: Comparison) -> None:
    text = _render.text(measured)
    assert max(map(len, text.splitlines())) <= 80
    table = [line for line in _render.markdown(measured).splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(measured.rows)
    assert {line.replace("\\|", "").count("|") for line in table} == {7}
    again = json.loads(json.dumps(measured.to_dict()))
    assert again["schema"] == 1
    assert [each["topic"] for each in again["rows"]] == [row.topic for row in measured.rows]
    page = Page()
    page.feed(_render.page(measured))
    assert page.open == []
    assert page.count["section"] == len(measured.rows)
    assert page.count["svg"] >= 6
    assert "http" not in _render.page(measured)


class Page(html.parser.HTMLParser):
    """Which elements are open, and how many there were."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["turns", "switches", "sharing", "crashes", "talk"])
def test_it_is_measured_for_real(name: str) -> None:
    """By name, the figures are those that the table is made of; how large they are is the machine's affair."""
    figures = _measure.run(name, quick=True)
    assert {model: figures[model].keys() & names.keys() for model, names in FIGURES[name].items()} == {
        model: names.keys() for model, names in FIGURES[name].items()
    }
    assert all(value >= 0 for names in figures.values() for value in names.values())
    if name == "crashes":
        assert figures["threads"] == {"exception": 2, "crash": 0}
        assert figures["processes"]["plait_crash"] == 2
    if name == "sharing":
        assert [figures[model]["seen"] for model in ("asyncio", "threads", "processes")] == [1, 1, 0]


def test_pools_are_not_said_to_crash_where_only_cloudpickle_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["cloudpickle"] = None\n')
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    figures = _measure.run("crashes", quick=True, environment={"PYTHONPATH": os.pathsep.join(filter(None, paths))})
    processes = figures["processes"]
    assert (processes["plait_exception"], processes["plait_crash"], processes["executor_exception"]) == (2, 2, 2)


@pytest.mark.parametrize("fail", ["raise TypeError(number)", "sys.exit(3)"])
def test_what_is_no_crash_is_not_taken_for_one(fail: str) -> None:
    from plait.compare import _crashes

    with pytest.raises(RuntimeError, match="no crash, but exit code"):
        _crashes._survivors("executor", fail)


def test_an_interpreter_that_fails_is_an_error_that_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_measure.HOMES, "nothing", "plait.compare._render")
    with pytest.raises(_measure.MeasurementError, match=r"exit code 1: KeyError: 'nothing'"):
        _measure.run("nothing", quick=True)
    monkeypatch.setattr(_measure, "PATIENCE", 0.01)
    with pytest.raises(_measure.MeasurementError, match="no figures within"):
        _measure.run("turns", quick=True)


def test_what_takes_no_new_page_is_not_told_as_no_bytes() -> None:
    from plait.compare import _textbook

    figures = {**FIGURES["memory"], "asyncio": {"unit_10": 0.0, "unit_1000": 920}}
    assert _textbook._memory_per_unit(figures)[0]["asyncio"] == "no new page with 10, 920 B with 1,000"


def test_processes_hash_side_by_side_too() -> None:
    from plait.compare import _textbook

    assert _textbook._gil(FIGURES["cores"])[0]["processes"] == "each has its own: Python code 1.9x, hashing in C 1.9x"


def test_a_measurement_that_is_given_up_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(_measure, "PATIENCE", 1.5)
    with pytest.raises(_measure.MeasurementError, match="no figures within"):
        _measure.run("crashes", quick=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("measurement", ["cores", "with_gil"])
def test_threads_with_a_gil_gain_nothing_where_others_have_the_cores(measurement: str) -> None:
    if not _core.gil_is_on():
        pytest.skip("there is no GIL")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * _core.usable_cpus())]
    try:
        figures = _measure.run(measurement, quick=True)
    finally:
        for each in busy:
            each.kill()
            each.wait()
    assert figures["threads"]["python"] < 1.15
