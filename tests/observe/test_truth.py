"""What a profile says is what is: programs that know their own answer (`_truths.py`), whose figures have to be within 5 %.

On a busy machine a program may lose its core between a look at its clock and what it looks at. So a program is tried again
when its figures differ, three times in all: what is wrong by itself is wrong each time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import plait
from plait.observe._states import STATES

PROGRAMS = Path(__file__).with_name("_truths.py")
TRIES = 3
Found = tuple[dict[str, Any], dict[str, Any]]

HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")
NEEDS_GIL = pytest.mark.skipif(not HAS_GIL, reason="there is no GIL")


def near(figure: float, truth: float, room: float = 0.004) -> bool:
    """Whether a figure is within 5 % of the truth, or some milliseconds: what a turn of the machine's scheduler is."""
    return abs(figure - truth) <= max(0.05 * truth, room)


def shared(truth: dict[str, Any], name: str) -> float:
    """Room for a wait on a busy machine: time on the run queue is known in sums, and divided among the waits of a tick."""
    return 0.004 + float(truth["threads"][name]["ready"])


def overslept(naps: int, seconds: float) -> float:
    """How much longer so many sleeps take by themselves: that is the timer's doing, and no wait for anybody."""
    late = []
    for _ in range(4):
        began = time.perf_counter()
        time.sleep(seconds)
        late.append(time.perf_counter() - began - seconds)
    return naps * max(late)


def spent(thread: dict[str, Any], *states: str) -> float:
    return sum(thread[state] for state in states)


def thread(profile: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [each for each in profile["threads"] if each["name"] == name]
    return found


def held_together(truth: dict[str, Any], profile: dict[str, Any]) -> None:
    """What is so for every program: states add up, and time on cores and on the run queue is what the kernel says."""
    for each in profile["threads"]:
        assert spent(each, *STATES) == pytest.approx(each["wall"], rel=0.01), each
    for name, own in truth.get("threads", {}).items():
        each = thread(profile, name)
        assert near(spent(each, "on_cpu_gil", "on_cpu_released"), own["cpu"]), (own, each)
        # What the kernel has counted since the last look at a thread that ends is not known.
        assert near(each["ready"], own["ready"], 0.02), (own, each)


@pytest.fixture
def true(run_script: Any, tmp_path: Path) -> Callable[[str, Callable[[dict[str, Any], dict[str, Any]], None]], None]:
    def run(name: str, check: Callable[[dict[str, Any], dict[str, Any]], None], *settings: str) -> None:
        for left in reversed(range(TRIES)):
            file = tmp_path / f"{name}.json"
            run_script(PROGRAMS, name, str(file), *settings)
            found = json.loads(file.read_text())
            try:
                held_together(found["truth"], found["profile"])
                check(found["truth"], found["profile"])
            except AssertionError:
                if not left:
                    raise
            else:
                return

    return run


@NEEDS_GIL
def test_the_gil_held_off_cpu(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        holder, measured = thread(profile, "holder"), truth["threads"]["holder"]["measured"]
        assert near(holder["gil_held_off_cpu"], sum(measured), shared(truth, "holder")), (measured, holder)
        assert near(holder["longest_gil_hold"], max(measured)), (max(measured), holder)
        assert holder["longest_gil_hold_at"]["function"].endswith(("holder", "timed")), holder
        spinner = thread(profile, "spinner")
        assert spent(spinner, "gil_wait", "ready") >= 0.9 * 0.3, spinner
        charged = max(profile["functions"], key=lambda each: float(each["caused_gil_wait"]))
        assert charged["function"].endswith("timed"), charged

    true("holds_off_cpu", check)


@NEEDS_GIL
def test_the_gil_held_by_one_call(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        sorter, measured = thread(profile, "sorter"), truth["threads"]["sorter"]["measured"]
        assert near(sorter["longest_gil_hold"], max(measured)), (max(measured), sorter)
        sleeper, late = thread(profile, "sleeper"), sum(truth["threads"]["sleeper"]["measured"])
        room = shared(truth, "sleeper") + overslept(len(truth["threads"]["sleeper"]["measured"]), 0.05)
        assert near(spent(sleeper, "gil_wait", "ready"), late, room), (late, sleeper)
        assert near(sleeper["io_wait"], 0.4, room), sleeper

    true("holds_on_cpu", check)


def test_two_spinners_and_a_sleeper(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        for name in ("one", "two"):
            spinner, own = thread(profile, name), truth["threads"][name]
            assert near(spinner["gil_wait"], spinner["wall"] - own["cpu"] - own["ready"], 0.02), (own, spinner)
        sleeper = thread(profile, "sleeper")
        assert near(sleeper["io_wait"], 10 * 0.08, shared(truth, "sleeper")), sleeper
        assert near(spent(sleeper, "io_wait", "gil_wait", "ready"), sum(truth["threads"]["sleeper"]["measured"]), 0.02)
        assert sleeper["waits"][0]["kind"] == "sleep"
        assert profile["verdict"] in ("gil-bound" if HAS_GIL else "cpu-bound", "ready-bound")

    true("spinners_and_sleeper", check)


@NEEDS_GIL
def test_who_computes_in_python_has_the_gil_also_where_no_switches_are_told(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        assert [each["exact"] for each in profile["methods"] if each["what"] == "switches"] == [False]
        for name in ("one", "two"):
            spinner, own = thread(profile, name), truth["threads"][name]
            assert near(spinner["on_cpu_gil"], own["cpu"], 0.02), (own, spinner)
            assert spent(spinner, "on_cpu_released", "gil_held_off_cpu") < 0.02, (own, spinner)
        assert "slept" not in profile["evidence"]["sentence"], profile["evidence"]

    true("spinners_and_sleeper", check, "without-switches")


def test_who_computes_in_c_waits_for_nothing_but_a_core_also_where_no_switches_are_told(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        for name, own in truth["threads"].items():
            hasher = thread(profile, name)
            assert hasher["io_wait"] < 0.01, (own, hasher)
            assert near(hasher["ready"], own["ready"], 0.02), (own, hasher)

    true("hashes_crowded", check, "without-switches")


@NEEDS_GIL
def test_who_sleeps_with_the_gil_is_seen_also_where_no_switches_are_told(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        holder, measured = thread(profile, "holder"), truth["threads"]["holder"]["measured"]
        assert near(holder["gil_held_off_cpu"], sum(measured), shared(truth, "holder") + 0.02), (measured, holder)
        spinner = thread(profile, "spinner")
        assert spent(spinner, "on_cpu_released", "gil_held_off_cpu") < 0.02, spinner

    true("holds_off_cpu", check, "without-switches")


@NEEDS_GIL
def test_a_stage_of_many_threads_and_a_longer_one_that_computes(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        figures = profile["evidence"]["figures"]
        waited = sum(thread(profile, name)["gil_wait"] for name in truth["threads"])
        assert waited > 0.1 * profile["wall"], "more than the verdict once went by"
        assert figures["gil_wall_share"] < 0.3, figures
        assert profile["verdict"] in ("cpu-bound", "ready-bound")  # the last on a busy machine

    true("stages", check)


def test_sleepers(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        for name, own in truth["threads"].items():
            sleeper = thread(profile, name)
            assert near(sleeper["io_wait"], sum(own["measured"]), shared(truth, name)), (own, sleeper)
            assert (sleeper["waits"][0]["kind"], sleeper["waits"][0]["target"]) == ("sleep", "")
        assert profile["verdict"] in ("io-bound", "idle", "ready-bound")  # the last on a busy machine

    true("sleepers", check)


def test_a_slow_pipe(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        reader, own = thread(profile, "reader"), truth["threads"]["reader"]
        assert near(reader["io_wait"], sum(own["measured"]), shared(truth, "reader")), (own, reader)
        wait = reader["waits"][0]
        assert (wait["kind"], wait["call"]) == ("read", "read")
        assert wait["target"].startswith("pipe:[")
        assert near(wait["time"], reader["io_wait"])

    true("slow_pipe", check)


def test_more_processes_than_cores(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        for pid, cpu, ready in truth["processes"]:
            (each,) = [each for each in profile["threads"] if each["pid"] == pid]
            assert near(spent(each, "on_cpu_gil", "on_cpu_released"), cpu, 0.02), (cpu, each)
            assert near(each["ready"], ready, 0.03), (ready, each)
            assert each["gil_wait"] < 0.01
            assert each["switches_forced"] > 0
            (process,) = [each for each in profile["processes"] if each["pid"] == pid]
            assert near(process["cpu"], cpu, 0.02)
            assert near(process["states"]["ready"], ready, 0.03)
            assert process["exit"] == 0
        assert profile["verdict"] == "ready-bound"

    true("too_few_cores", check)


@pytest.mark.parametrize("name", ["asyncio_blocked", "plait_blocked"])
def test_a_blocked_loop(true: Any, name: str) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        (blocked,) = profile["blocked"]
        assert near(blocked["time"], truth["blocked"][0]), (truth, blocked)
        assert blocked["function"].endswith("blocks"), blocked
        tasks = {each["name"]: each for each in profile["tasks"]}
        assert near(tasks["blocks"]["longest_step"], truth["blocked"][0])
        # What a sleep is late by itself, a millisecond or two of each, is nobody's fault, and so awaited.
        late = sum(truth["late"])
        assert late - 0.002 * len(truth["late"]) - 0.01 < tasks["polite"]["ready"] < late + 0.004, (truth, tasks)
        for each in tasks.values():
            assert spent(each, "running", "ready", "awaiting") == pytest.approx(each["wall"], rel=0.01, abs=1e-4)
        assert profile["verdict"] == "loop-blocked"

    true(name, check)


@NEEDS_GIL
@pytest.mark.parametrize("name", ["standard_convoy", "plait_convoy"])
def test_a_convoy(true: Any, name: str) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        for part, own in truth["threads"].items():
            each = thread(profile, part)
            waited = sum(own["measured"])
            assert near(each["lock_wait"], waited, shared(truth, part)), (own, each)
            assert near(each["io_wait"], 5 * 0.03, shared(truth, part)), each
            assert each["waits"][0]["kind"] == "lock", each["waits"]
            # Whoever lets go is one of the others, and sleeps in the next line.
            assert near(sum(lock["time"] for lock in each["locks"]), each["lock_wait"], 0.03), each["locks"]
            assert {lock["holder_name"] for lock in each["locks"]} <= set(truth["threads"]) - {part}
            assert all(lock["where"].startswith("convoy.<locals>.part (_truths.py:") for lock in each["locks"])
        # On a busy machine waiting for cores may be more.
        assert profile["verdict"] in ("lock-bound", "ready-bound")
        assert "circle" not in profile["evidence"]["sentence"]

    true(name, check)


def test_short_waits_for_time_and_for_locks_in_turns(true: Any) -> None:
    """Which of them a wait is nobody has to look up."""

    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        each = thread(profile, "part")
        for state, asleep in truth["threads"]["part"]["measured"].items():
            assert near(each[state], asleep, shared(truth, "part")), (truth, each)
        methods = {method["what"]: method for method in profile["methods"]}
        assert methods["locks"]["exact"] or not HAS_GIL, methods

    true("turns", check)


def test_a_pool_that_has_nothing_to_do(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        (main,) = [each for each in profile["threads"] if each["pid"] == each["tid"] == profile["processes"][0]["pid"]]
        workers = [each for each in profile["threads"] if each["name"].startswith(("standard", "plait_", "plait-0"))]
        workers += [each for each in profile["threads"] if each["name"] == "MainThread" and each is not main]
        assert len(workers) == 3, profile["threads"]
        for worker in workers:
            # One may have been idle until the others had started.
            assert worker["idle"] >= 0.95 * truth["idle"][0], (truth, worker)
            assert near(worker["io_wait"], 0.2, 0.02), worker

    true("idle_pool", check)


@NEEDS_GIL
def test_c_code_that_lets_go_of_the_gil(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        hasher = thread(profile, "hasher")
        assert near(hasher["on_cpu_released"], truth["threads"]["hasher"]["measured"], 0.01), hasher
        assert hasher["on_cpu_gil"] < 0.1 * hasher["on_cpu_released"]
        spinner = thread(profile, "spinner")
        assert near(spinner["on_cpu_gil"], truth["threads"]["spinner"]["cpu"], 0.01), spinner

    true("hashes_beside_spinner", check)


@NEEDS_GIL
def test_a_release_for_every_row(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        reader = thread(profile, "reader")
        assert reader["gil_takes"] >= truth["threads"]["reader"]["measured"]
        assert reader["on_cpu_gil"] > 0
        assert reader["on_cpu_released"] > 0
        assert profile["overhead"]["lost_records"] == 0

    true("rows", check)


@NEEDS_GIL
def test_what_comes_after_many_rows(true: Any) -> None:
    """Takes and lettings go that follow one another are counted rather than timed, and what lasts is seen all the same."""

    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        (method,) = [each for each in profile["methods"] if each["what"] == "gil pairs"]
        assert not method["exact"], method
        own = {name: each["measured"] for name, each in truth["threads"].items()}
        assert near(thread(profile, "sleeps")["io_wait"], own["sleeps"]["wall"], shared(truth, "sleeps")), own
        for name, state in (("hashes", "on_cpu_released"), ("counts", "on_cpu_gil")):
            each = thread(profile, name)
            rows = truth["threads"][name]["cpu"] - own[name]["cpu"]
            assert 0.95 * own[name]["cpu"] - 0.004 <= each[state] <= 1.05 * own[name]["cpu"] + rows, (own, each)
        visitor = thread(profile, "visitor")
        assert near(visitor["gil_wait"], own["visitor"]["waited"], shared(truth, "visitor")), (own, visitor)

    true("bursts", check)


@NEEDS_GIL
def test_habits_that_change_between_rows(true: Any) -> None:
    """What lasts among takes that are counted is what it is now, and not what such things were before."""

    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        own = {name: each["measured"] for name, each in truth["threads"].items()}
        sleeps, sums = thread(profile, "sleeps"), thread(profile, "sums")
        room = 0.01 + truth["threads"]["sleeps"]["ready"]
        assert near(spent(sleeps, "io_wait", "ready"), own["sleeps"], room), (own, sleeps)
        assert sleeps["gil_held_off_cpu"] < 0.05 * own["sleeps"], sleeps
        # The rows let go of the GIL as well.
        assert sums["on_cpu_released"] >= 0.95 * own["sums"] - 0.004, (own, sums)
        assert sums["on_cpu_gil"] >= 0.95 * 1.5, sums

    true("habits", check)


def test_children(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        assert profile["functions"][0]["function"] == "spin", profile["functions"][0]
        for kind, those in truth["children"].items():
            for pid, cpu in those:
                (process,) = [each for each in profile["processes"] if each["pid"] == pid]
                assert process["cpu"] >= 0.95 * cpu - 0.004, (kind, cpu, process)
                own = [each for each in profile["threads"] if each["pid"] == pid]
                ran = sum(spent(each, "on_cpu_gil", *([] if HAS_GIL else ["on_cpu_released"])) for each in own)
                assert ran >= 0.95 * cpu - 0.01, (kind, cpu, ran)

    true("children", check)


def test_a_child_that_is_killed(true: Any) -> None:
    def check(truth: dict[str, Any], profile: dict[str, Any]) -> None:
        pid, cpu = truth["child"]
        (process,) = [each for each in profile["processes"] if each["pid"] == pid]
        (each,) = [each for each in profile["threads"] if each["pid"] == pid]
        assert process["wall"] >= 1.0 - 0.3, process  # all but its last moment
        # A stretch of the GIL is written in parts of half a second.
        assert spent(each, "on_cpu_gil", "ready", *([] if HAS_GIL else ["on_cpu_released"])) >= 0.4, each
        assert process["cpu"] <= cpu * 1.05 + 0.3

    true("killed_child", check)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that a profile needs is root's alone: all exact methods are there for everybody."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv")
    folder = tmp_path_factory.mktemp("everybody's")
    shutil.copytree(Path(plait.__file__).parent, folder / "plait", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROGRAMS, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o644)
    user = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
    # Parents that are closed to others, as pytest's are, are left out of the way.
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001 and parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    if subprocess.run([*user, sys.executable, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("others may not run this interpreter")
    file = folder / "found.json"
    env = {**os.environ, "PYTHONPATH": str(folder), "HOME": str(folder), "TMPDIR": str(folder)}
    command = [*user, sys.executable, str(folder / "_truths.py"), "slow_pipe", str(file)]
    subprocess.run(command, check=True, env=env, cwd=folder, timeout=60)
    found = json.loads(file.read_text())
    profile, own = found["profile"], found["truth"]["threads"]["reader"]
    reader = thread(profile, "reader")
    assert near(reader["io_wait"], sum(own["measured"]), shared(found["truth"], "reader")), (own, reader)
    assert reader["waits"][0]["call"] == "read"
    assert {each["what"]: each["exact"] for each in profile["methods"]}.items() >= {
        "gil": True,
        "switches": True,
    }.items()
