"""What takes the GIL's place where there is none: pauses of the world, and waits for the interpreter's locks.

The programs (`_world_truths.py`) know their answer. On a busy machine one may lose its core between a look at its clock and
what it looks at: so it is tried again when its figures differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import plait

PROGRAMS = Path(__file__).with_name("_world_truths.py")
TRIES = 4
FREE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
SEEN = FREE and sys.version_info[:2] == (3, 14)
NEEDS_FREE = pytest.mark.skipif(not SEEN, reason="of free-threaded builds of 3.14")


def near(figure: float, truth: float, room: float = 0.0) -> bool:
    return abs(figure - truth) <= 0.05 * truth + room


def thread(profile: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [each for each in profile["threads"] if each["name"] == name]
    return found


@pytest.fixture
def true(run_script: Any, tmp_path: Path) -> Callable[[str, Callable[..., None]], None]:
    def run(name: str, check: Callable[..., None]) -> None:
        for left in reversed(range(TRIES)):
            file = tmp_path / f"{name}.json"
            run_script(PROGRAMS, name, str(file))
            found = json.loads(file.read_text())
            try:
                check(found["truth"], found["profile"], found["text"])
            except AssertionError:
                if not left:
                    raise
            else:
                return

    return run


@NEEDS_FREE
def test_pauses_of_known_lengths(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any], text: str) -> None:
        measured = truth["pauses"]
        found = profile["stop_the_world"]
        assert found["count"] == len(measured), (found, measured)
        assert near(found["time"], sum(measured)), (found, sum(measured))
        assert near(found["longest"], max(measured)), (found, max(measured))
        assert near(found["lengths"]["p50"], sorted(measured)[len(measured) // 2 - 1]), (found, measured)
        (asker,) = found["askers"]
        assert (asker["name"], asker["collects"], asker["at"]["function"]) == ("MainThread", False, "pause")
        spin, nap, main = (thread(profile, name) for name in ("spin", "nap", "MainThread"))
        # A thread that is woken may have to wait for a core.
        assert near(spin["stop_the_world"], sum(measured), truth["spin"]["ready"]), (spin, sum(measured))
        assert near(spin["longest_stop"], max(measured)), (spin, max(measured))
        assert spin["stops"] == nap["stops"] == len(measured)
        assert nap["stop_the_world"] >= 0.8 * sum(measured) - nap["ready"], nap
        assert main["stops"] == 0
        assert near(found["stood"], spin["stop_the_world"] + nap["stop_the_world"], spin["ready"] + nap["ready"])
        assert "Stop-the-world" in text
        assert "S stands still" in text

    true("pauses", check)


@NEEDS_FREE
def test_collections_stop_the_others(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any], _: str) -> None:
        found, spin, gaps = profile["stop_the_world"], thread(profile, "spin"), truth["spin"]["gaps"]
        collected = [each for each in found["askers"] if each["collects"]]
        assert collected, found
        assert {each["name"] for each in collected} == {"MainThread"}
        assert sum(each["time"] for each in collected) >= 0.9 * found["time"]
        # All that it noticed itself, but for a time without a core.
        assert near(spin["stop_the_world"], sum(gaps), truth["spin"]["ready"] + 0.002), (spin, gaps)
        assert near(found["longest"], max(gaps), truth["spin"]["ready"] + 0.002), (found, gaps)

    true("collections", check)


@NEEDS_FREE
def test_waits_for_locks_of_known_lengths(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any], _: str) -> None:
        waiter = thread(profile, "waiter")
        waited = sum(truth["waited"])
        # Turns at the barriers are waits for locks too: what is left of its time.
        others = truth["wall"] - waited
        assert waited >= truth["held"]
        assert waiter["lock_wait"] >= 0.95 * waited - waiter["ready"], (waiter, waited)
        assert waiter["lock_wait"] <= waited + others, (waiter, waited)
        assert waiter["io_wait"] <= 0.05 * waited, waiter
        assert near(waiter["lock_wait"] + waiter["ready"] + waiter["on_cpu_released"], waiter["wall"]), waiter
        assert waiter["stop_the_world"] <= 0.05 * waited
        holder = thread(profile, "holder")
        assert near(holder["io_wait"], truth["held"], holder["ready"] + 0.01), (holder, truth["held"])

    true("locks", check)


def test_states_add_up_and_what_there_is_not_is_zero(true: Any) -> None:
    from plait.observe._states import STATES

    def check(_: dict[str, Any], profile: dict[str, Any], text: str) -> None:
        for each in profile["threads"]:
            assert sum(each[state] for state in STATES) == pytest.approx(each["wall"], rel=0.01), each
            assert each["stop_the_world"] <= each["lock_wait"] + 1e-9
            assert FREE or each["stop_the_world"] == each["stops"] == each["longest_stop"] == 0
            assert not FREE or each["gil_wait"] == each["gil_takes"] == each["on_cpu_gil"] == 0
        methods = {each["what"]: each for each in profile["methods"]}
        assert ("pauses" in methods) == FREE
        assert not SEEN or (methods["pauses"]["exact"] and methods["locks"]["exact"])
        if not FREE:
            assert profile["stop_the_world"] == {
                "count": 0,
                "time": 0.0,
                "longest": 0.0,
                "stood": 0.0,
                "lengths": {"count": 0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0, "buckets": []},
                "askers": [],
            }
            assert "GIL wait" in text

    true("collections", check)


@pytest.mark.skipif(not FREE, reason="of free-threaded builds")
def test_a_free_threaded_build_that_has_a_gil() -> None:
    """What is said of it is what is: it can be asked for, and then it is seen as elsewhere."""
    program = """if True:
        import json, threading, time, plait
        def spin():
            end = time.thread_time() + 0.2  # of its own: on a busy machine too there is time in which the other waits
            while time.thread_time() < end:
                pass
        with plait.watch() as watch, plait.profile() as found:
            threads = [threading.Thread(target=spin, name=f"spin {number}") for number in range(2)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            seen = watch.snapshot()
        gil = [each for each in found.record["methods"] if each["what"] == "gil"]
        waits = [each["gil_wait"] for each in found.threads if each["name"].startswith("spin")]
        print(json.dumps([gil, waits, seen["gil"] is not None, seen["gil_why"]]))
    """
    told = []
    for gil in "01":
        ran = subprocess.run(
            [sys.executable, "-X", f"gil={gil}", "-c", program], capture_output=True, text=True, check=True, timeout=60
        )
        told.append(json.loads(ran.stdout))
    (without, none, watched, why), (with_gil, waits, watched_too, empty) = told
    assert ([each["how"] for each in without], sum(none), watched) == (["none"], 0, False)
    assert why == "this interpreter has no GIL"
    assert [(each["how"], each["exact"]) for each in with_gil] == [("condition variables", True)]
    assert all(each > 0.05 for each in waits), waits
    assert (watched_too, empty) == (True, "")


@NEEDS_FREE
def test_from_outside(tmp_path: Path) -> None:
    """Half of the time everybody stands still but who has stopped them, and looks find that."""
    program = f"""if True:
        import sys, time
        sys.path.insert(0, {str(PROGRAMS.parent)!r})
        import _world_truths
        def work():
            print(flush=True)
            while True:
                time.sleep(0.05)
                _world_truths.pause(50_000)
        _world_truths.beside({{}}, work)
    """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            command = [sys.executable, "-m", "plait", "top", "--json", "--once", "-i", "1.5", "--pid", str(process.pid)]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            shown = subprocess.run(
                [each for each in command if each != "--json"], capture_output=True, text=True, timeout=60
            )
        finally:
            process.kill()
    record = json.loads(ran.stdout)
    assert record["processes"][0]["gil"] is False
    spin = next(each for each in record["threads"] if each["name"] == "spin")
    assert 0.25 < spin["stop_the_world"] < 0.75, spin
    assert spin["stop_the_world"] <= spin["lock_wait"] + 1e-9
    assert "STW" in shown.stdout
    assert "GIL" not in shown.stdout


@NEEDS_FREE
def test_the_page_and_the_trace_have_pauses(tmp_path: Path, run_script: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""import sys
sys.path.insert(0, {str(PROGRAMS.parent)!r})
import _world_truths, plait
with plait.profile() as found:
    _world_truths.pauses({{}})
found.to_html({str(tmp_path / "page.html")!r})
found.save({str(tmp_path / "trace")!r})
"""
    )
    run_script(script)
    page = (tmp_path / "page.html").read_text()
    assert '"name":"stop_the_world"' in page
    assert "Stop-the-world pauses" in page
    loaded = plait.Profile.load(tmp_path / "trace")
    assert loaded.record["stop_the_world"]["count"] == 18
