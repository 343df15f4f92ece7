"""Predictions from Python: figures that can be worked out, and bad arguments."""

from __future__ import annotations

import errno
import json
import math
import os
import pwd
import re
import sys
import threading
from typing import Any

import pytest

import plait
from plait import _core, simulate
from plait.model import (
    Burst,
    Costs,
    Item,
    Parcel,
    Resource,
    Workload,
    _calibrate,
    _measure,
    calibrate,
    measure_speed,
    what_if,
)
from plait.model._calibrate import _load, _path

FREE = Costs(
    dict.fromkeys(Costs().all, (0.0, 0.0))
    | {"slice": (0.004, 0.0), "interval": (0.005, 0.0), "speed": (1.0, 0.0), "apart": (1.0, 0.0)}
)
HOLD = [[Burst("hold", 0.010)]] * 16
untyped: Any = plait.model
"""For arguments that a type checker refuses, too."""


def seconds(work: Any, model: Any, workers: int = 4, cores: int = 4, **more: Any) -> float:
    return simulate(work, model=model, workers=workers, cores=cores, costs=FREE, chunksize=1, **more).seconds


def test_each_model_gains_what_it_can() -> None:
    models = ["serial", "threads", "processes", "asyncio", "interpreters", "free-threaded"]
    waits = [[Burst("blocked", 0.010)]] * 16
    released = [[Burst("released", 0.010)]] * 16
    assert [seconds(HOLD, model) for model in models] == pytest.approx([0.16, 0.16, 0.04, 0.16, 0.04, 0.04])
    assert [seconds(waits, model) for model in models] == pytest.approx([0.16, 0.04, 0.04, 0.04, 0.04, 0.04])
    assert [seconds(released, model) for model in models] == pytest.approx([0.16, 0.04, 0.04, 0.16, 0.04, 0.04])
    assert [simulate(HOLD, model=model, costs=FREE).bound for model in models] == [False] * 5 + [True]  # type: ignore[arg-type]


def test_resources_limit_what_overlaps() -> None:
    item = Item((Burst("blocked", 0.010, resource="disk"),))
    for servers, expected in [(None, 0.01), (1, 0.08), (2, 0.04)]:
        work = Workload([item] * 8, resources={"disk": Resource(servers)})
        assert seconds(work, "threads", workers=8) == pytest.approx(expected)
    work = Workload([item] * 8, resources={"disk": Resource(on_cores=True)})
    assert seconds(work, "threads", workers=8, cores=2) == pytest.approx(0.04)
    work = Workload([item] * 8, resources={"disk": Resource(1, together=True)})
    assert [seconds(work, "threads", workers=many) for many in (2, 4, 8)] == pytest.approx([0.08, 0.04, 0.02])


def test_a_quota_is_shared_by_all_cores() -> None:
    assert seconds(HOLD, "processes", quota=1.0) == pytest.approx(0.16, abs=0.08)
    assert seconds(HOLD * 10, "processes", quota=2.0) == pytest.approx(0.8, rel=0.1)


def test_pickles_cost_both_sides() -> None:
    parcel = Parcel(0.001, 0.002, 1000)
    assert seconds(Workload([Item((), parcel, parcel)]), "processes", workers=1) == pytest.approx(0.006)
    assert seconds(Workload([Item((), parcel, parcel)]), "threads", workers=1) == 0.0


def test_results_are_kept_by_who_makes_them_or_calls() -> None:
    work = Workload([Item((), kept=0.010)] * 8)
    assert work.serial_seconds == pytest.approx(0.080)
    assert [seconds(work, model) for model in ("serial", "threads", "processes", "asyncio")] == pytest.approx(
        [0.080] * 4
    )
    assert seconds(work, "free-threaded") == pytest.approx(0.020)


def test_workers_elsewhere_do_not_have_the_heap_of_the_program() -> None:
    work = Workload([Item((Burst("hold", 0.010),), heap=0.010)] * 8)
    assert work.serial_seconds == pytest.approx(0.160)
    taken = [seconds(work, model) for model in ("serial", "threads", "asyncio", "processes", "interpreters")]
    assert taken == pytest.approx([0.160, 0.160, 0.160, 0.020, 0.020])


def test_work_without_the_gil_is_slowed_down_half_as_much() -> None:
    items = [Item((Burst(kind, 0.010),)) for kind in ("hold", "released")]
    work = Workload(items, speed=0.001)
    assert seconds(work, "serial", speed=0.004) == pytest.approx(0.040 + 0.020)


def test_calibration_keeps_to_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def figure() -> float:
        nonlocal now
        now += 0.010
        return 0.010

    monkeypatch.setattr("plait.model._measure.time.perf_counter", lambda: now)
    monkeypatch.setattr("plait.model._speed.look", lambda: 0.001)
    budget = _measure._Budget(1.0)
    assert budget.rounds(5, 0.5, figure) == [pytest.approx([0.010] * 5)]
    many, other = budget.rounds(10_000, 0.5, figure, figure)
    assert len(many) == len(other)
    assert now == pytest.approx(0.05 + 0.95 / 2, abs=0.021)
    now = 2.0  # all is used: a few rounds that are needed for a figure
    assert len(budget.rounds(10_000, 0.5, figure)[0]) == _measure._FEWEST


def test_the_rest_of_a_long_workload_goes_on_at_the_pace() -> None:
    work = Workload([Item((Burst("hold", 0.001),))], count=1_000_000)
    one = simulate(work, model="serial", costs=FREE)
    assert one.seconds == pytest.approx(1000.0)
    assert one.items < 10_000
    assert work.serial_seconds == pytest.approx(1000.0)


def test_the_interval_comes_from_bursts_and_costs() -> None:
    uneven = [[Burst("hold", 0.001 * (number % 5))] for number in range(40)]
    known = simulate(uneven, model="serial", costs=FREE)
    assert known.low == known.seconds == known.high
    more = Workload([Item(tuple(bursts)) for bursts in uneven], count=400)
    one = simulate(more, model="serial", costs=FREE)
    assert one.low < one.seconds < one.high
    even = simulate(HOLD, model="serial", costs=FREE)
    assert even.low == even.seconds == even.high
    unsure = Costs({**FREE.known, "speed": (1.0, 0.2)})
    wide = simulate(HOLD, model="serial", costs=unsure)
    assert wide.low < 0.95 * wide.seconds
    assert wide.high > 1.05 * wide.seconds


def test_the_seed_decides() -> None:
    uneven = [[Burst("hold", 0.001 * (number % 5))] for number in range(40)]
    ask = lambda seed: simulate(uneven, model="threads", workers=3, cores=2, costs=Costs(), seed=seed)  # noqa: E731
    assert ask(1) == ask(1)
    assert ask(1).low != ask(2).low


def test_costs_follow_the_speed_of_the_machine() -> None:
    costs = Costs({**FREE.known, "threads.run": (0.001, 0.0)}, speed=0.01)
    work = lambda speed: Workload([Item(())] * 100, speed=speed)  # noqa: E731
    ask = lambda speed: simulate(work(speed), model="threads", workers=1, cores=1, costs=costs).seconds  # noqa: E731
    assert ask(None) == pytest.approx(0.1)
    assert ask(0.02) == pytest.approx(0.2)


def test_what_if_answers_all_that_makes_a_difference() -> None:
    found = what_if(HOLD, models=["serial", "processes"], workers=[1, 2], cores=[1, 2], costs=FREE)
    assert [(one.model, one.workers, one.cores) for one in found] == [
        ("serial", 1, 1),
        ("processes", 1, 1),
        ("processes", 2, 1),
        ("serial", 1, 2),
        ("processes", 1, 2),
        ("processes", 2, 2),
    ]


def test_details_add_up_and_text_says_what_it_is() -> None:
    one = simulate(HOLD, model="threads", workers=2, cores=2, costs=FREE)
    assert one.details["running"] == pytest.approx(0.16)
    assert one.details["gil_wait"] > 0
    assert str(one).startswith("threads, 2 workers, 2 cores: 0.16 s")
    assert "at least" in str(simulate(HOLD, model="free-threaded", costs=FREE))


def test_many_threads_ask_at_once() -> None:
    answers: list[float] = []
    work = Workload([Item((Burst("hold", 0.001),))] * 50)
    ask = lambda: answers.append(seconds(work, "threads"))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Burst("asleep", 1.0), "kind must be one of 'hold', .*'asleep'"),  # type: ignore[arg-type]
        (lambda: Burst("hold", -1.0), r"seconds must be from 0 .*-1\.0"),
        (lambda: Burst("hold", float("nan")), "seconds must be from 0 .*nan"),
        (lambda: Burst("hold", 1e12), "seconds must be from 0"),
        (lambda: Burst("hold", 1.0, short_releases=-1), "short_releases must be .*-1"),
        (lambda: Burst("hold", 1.0, resource="disk"), "only a 'blocked' burst"),
        (lambda: Item((), kept=-1.0), r"kept must be from 0 .*-1\.0"),
        (lambda: Item((), heap=float("nan")), "heap must be from 0 .*nan"),
        (lambda: Workload([Item(())], switch=-1.0), r"switch must be from 0 .*-1\.0"),
        (lambda: Parcel(size_bytes=-1), "size_bytes must be from 0 to .*, not -1"),
        (lambda: Resource(0), "servers must be from 1 to .*, not 0"),
        (lambda: Workload([]), "items must have"),
        (lambda: Workload([Item(())] * 2, count=1), "count must be at least .*2, not 1"),
        (lambda: Workload([Item(())], speed=0.0), r"speed must be from .*, not 0\.0"),
        (lambda: Workload([Item(())], speed=math.inf), "speed must be from .*, not inf"),
        (lambda: Workload([Item((Burst("blocked", 1.0, resource="x"),))]), "waits for 'x'"),
        (lambda: Costs({"magic": (1.0, 0.0)}), "no cost is called 'magic'; there are .*wake"),
        (lambda: Costs({"wake": (-1.0, 0.0)}), "the cost 'wake' must not be negative"),
        (lambda: Costs({"wake": (math.inf, 0.0)}), "the cost 'wake' must .*inf"),
        (lambda: Costs(speed=math.nan), "speed must be from .*, not nan"),
        (lambda: Costs.from_json({"known": {}, "speeds": []}), "value must have 'speed', as to_json"),
        (lambda: Workload([Item(())], count=2**70), "count must be from 0 to .*, not 1180591620717411303424"),
        (lambda: Workload([Item(())], unsure=math.nan), "unsure must be from 0 to 1, not nan"),
        (lambda: Costs(speeds=(1.0, 0.0)), "speeds must be positive"),
        (lambda: simulate(HOLD, model="magic", costs=FREE), "model must be one of 'serial', .*'magic'"),  # type: ignore[arg-type]
        (lambda: simulate(HOLD, model="threads", workers=0, costs=FREE), "workers must be .*0"),
        (lambda: simulate(HOLD, model="threads", cores=0, costs=FREE), "cores must be .*0"),
        (
            lambda: simulate(HOLD, model="threads", cores=10**9, costs=FREE),
            "cores must be 65536 at most, not 1000000000",
        ),
        (lambda: seconds(HOLD, "threads", quota=1e-6), "quota must be from 0.01 .*, not 1e-06"),
        (lambda: Costs({"slice": (0, 0)}), r"the cost 'slice' must be 1e-06 seconds at least, and is \(0.0, 0.0\)"),
        (lambda: simulate(HOLD, model="threads", quota=0.0, costs=FREE), r"quota must be from 0.01 .*, not 0\.0"),
        (lambda: simulate(HOLD, model="threads", chunksize=0, costs=FREE), "chunksize must be .*0"),
        (lambda: simulate(HOLD, model="threads", replicas=-1, costs=FREE), "replicas must be from 0 to .*-1"),
        (lambda: seconds(HOLD, "threads", replicas=2**70), "replicas must be from 0 to .*, not 1180591620717411303424"),
        (lambda: seconds(HOLD, "threads", seed=-1), "seed must be from 0 to .*, not -1"),
        (lambda: seconds(HOLD, "threads", quota=1e12), r"quota must be from 0.01 .*, not 1000000000000\.0"),
        (lambda: seconds(HOLD, "threads", quota=math.nan), "quota must be from 0.01 .*, not nan"),
        (lambda: seconds(HOLD, "threads", quota=10**400), "quota is too large: 1000"),
        (lambda: seconds(HOLD, "threads", speed=math.inf), "speed must be from .*, not inf"),
        (lambda: seconds(HOLD, "threads", speed=1e300), r"speed must be from .*, not 1e\+300"),
        (lambda: seconds(HOLD, "threads", nice=20), "nice must be from -20 to 19, not 20"),
    ],
)
def test_nonsense_is_refused_by_name_and_value(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nice": 0.5}, r"nice must be an int, not 0\.5"),
        ({"replicas": 2.0}, r"replicas must be an int, not 2\.0"),
        ({"seed": None}, "seed must be an int, not None"),
        ({"quota": "2"}, "quota must be a number, not '2'"),
        ({"speed": "1"}, "speed must be a number, not '1'"),
    ],
)
def test_what_is_no_number_is_refused_by_name_and_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        seconds(HOLD, "threads", **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: untyped.Burst("hold", "1"), "seconds must be a number, not '1'"),
        (lambda: untyped.Burst("hold", True), "seconds must be a number, not True"),
        (lambda: untyped.Burst("hold", 1.0, short_releases=1.5), r"short_releases must be an int, not 1\.5"),
        (lambda: untyped.Burst("blocked", 1.0, resource=5), "resource must be a str, not 5"),
        (lambda: untyped.Parcel(None), "pickle must be a number, not None"),
        (lambda: untyped.Parcel(size_bytes=1.5), r"size_bytes must be an int, not 1\.5"),
        (lambda: untyped.Item(5), "bursts must be an iterable, not 5"),
        (lambda: untyped.Item((1,)), "bursts must be Burst objects, not 1"),
        (lambda: untyped.Item((), 0.5), r"argument and result must be Parcel objects, not 0\.5"),
        (lambda: untyped.Resource("1"), "servers must be an int, not '1'"),
        (lambda: untyped.Resource(1, contended="x"), "contended must be a number, not 'x'"),
        (lambda: untyped.Workload(5), "items must be an iterable, not 5"),
        (lambda: untyped.Workload([[untyped.Burst("hold", 1.0)]]), r"items must be Item objects, not \[Burst"),
        (lambda: untyped.Workload([untyped.Item(())], count=2.5), r"count must be an int, not 2\.5"),
        (
            lambda: untyped.Workload([untyped.Item(())], resources=[1]),
            r"resources must be a mapping of names, not \[1\]",
        ),
        (lambda: untyped.Workload([untyped.Item(())], resources={"q": 1}), "resources must be Resource objects, not 1"),
        (lambda: untyped.Workload([untyped.Item(())], switch="1"), "switch must be a number, not '1'"),
        (lambda: untyped.Costs([1]), r"known must be a mapping of names, not \[1\]"),
        (lambda: untyped.Costs({"wake": 1}), r"the cost 'wake' must be \(seconds, relative spread\), not 1"),
        (lambda: untyped.Costs(speeds=5), "speeds must be an iterable, not 5"),
        (lambda: untyped.Costs.from_json([]), r"value must be what to_json made, not \[\]"),
        (lambda: untyped.simulate(None, model="serial"), "workload must be an iterable, not None"),
        (lambda: untyped.simulate("abc", model="serial"), "workload must be an iterable, not 'abc'"),
        (lambda: untyped.simulate([5], model="serial"), "each call of workload must be an iterable, not 5"),
        (lambda: untyped.simulate([[("hold", 1)]], model="serial"), r"bursts must be Burst objects, not \('hold', 1\)"),
        (lambda: untyped.simulate(HOLD, model="serial", costs={}), r"costs must be Costs, not \{\}"),
        (lambda: untyped.what_if(HOLD, cores=0, costs=FREE), "cores must be an iterable, not 0"),
        (lambda: untyped.what_if(HOLD, workers=4, costs=FREE), "workers must be an iterable, not 4"),
        (lambda: untyped.what_if(HOLD, models="threads", costs=FREE), "models must be an iterable, not 'threads'"),
    ],
)
def test_what_is_something_else_is_refused_by_name_and_value(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_calls_of_days_are_answered_too() -> None:
    days = [[Burst("hold", 86_400.0)]] * 6
    answers = {model: seconds(days, model, workers=3) for model in ("threads", "processes")}
    assert answers == pytest.approx({"threads": 6 * 86_400.0, "processes": 2 * 86_400.0}, rel=0.02)


def test_costs_survive_json() -> None:
    costs = Costs({"wake": (1e-5, 0.1)}, speeds=(1.0, 0.8), speed=0.001)
    assert Costs.from_json(json.loads(json.dumps(costs.to_json()))) == costs


def test_measured_costs_are_kept_and_found_again(run_script: Any, tmp_path: Any) -> None:
    source = """
if __name__ == "__main__":
    import json
    from plait.model import calibrate
    print(json.dumps(calibrate().to_json()))
"""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    first = json.loads(run_script(source, env=env).stdout)
    (path,) = (tmp_path / "plait").iterdir()
    assert re.fullmatch(r"costs-[0-9a-f]{16}\.json", path.name)
    assert json.loads(run_script(source, env=env).stdout) == first
    assert set(first["known"]) >= {"wake", "threads.run", "processes.start", "loop.task", "byte", "gil_release"}
    # One that is broken is measured again.
    path.write_text("{")
    assert json.loads(run_script(source, env=env).stdout)["known"].keys() == first["known"].keys()
    assert json.loads(path.read_text())["identity"]["python"] == sys.version


def test_costs_of_another_machine_are_not_taken(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = _path()
    path.parent.mkdir()
    path.write_text(json.dumps({"identity": {"node": "elsewhere"}, "costs": Costs().to_json()}))
    assert _load(path) is None
    assert _load(path.with_name("missing")) is None


def test_a_home_that_cannot_be_written_to_is_no_error(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    costs = calibrate(refresh=True)
    assert costs is calibrate()
    assert costs.speed
    assert 0 < measure_speed() < 60


def test_without_a_home_costs_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(_calibrate, "_known", None)
    monkeypatch.setattr(_calibrate, "_measure_apart", Costs)
    assert calibrate(refresh=True) == Costs()


def test_what_the_interpreter_prints_beside_costs_is_left_out(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.stdout.write('[1]\\nwelcome ')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(_calibrate, "_PROGRAM", f"print('\\n' + {json.dumps(Costs().to_json())!r})")
    assert _calibrate._measure_apart() == Costs()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit('no room')", "no room"),
        ("print('[3]')", r"the interpreter said '\[3\]'"),
        ("import time; time.sleep(60)", "timed out"),
    ],
)
def test_an_interpreter_that_cannot_measure(program: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calibrate, "_PROGRAM", program)
    monkeypatch.setattr(_calibrate, "_LONGEST", 0.5 if "sleep" in program else 60.0)
    with pytest.raises(RuntimeError, match=f"costs could not be measured: .*{message}"):
        _calibrate._measure_apart()


def test_an_interpreter_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calibrate, "_executable", lambda: "/nowhere/python")
    with pytest.raises(RuntimeError, match=r"costs could not be measured: .*/nowhere/python"):
        _calibrate._measure_apart()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"identity": 0, "costs": {"known": {"wake": [1' + "0" * 400 + ", 0]}}}"]
)
def test_stored_costs_that_are_broken_are_not_taken(text: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calibrate, "_identity", lambda: 0)
    (tmp_path / "costs").write_text(text)
    assert _load(tmp_path / "costs") is None


def test_costs_that_cannot_be_written_leave_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(value: object, file: Any) -> None:
        file.write("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_calibrate, "_measure_apart", Costs)
    monkeypatch.setattr(json, "dump", full)
    assert _calibrate._measure_and_store(tmp_path / "plait" / "costs") == Costs()
    assert list((tmp_path / "plait").iterdir()) == []


def test_a_fork_while_another_thread_measures_does_not_hang_the_child(run_script: Any) -> None:
    source = """
import os, threading
from plait.model import _calibrate
begun, over = threading.Event(), threading.Event()
def slow(path):
    begun.set()
    over.wait(60)
    return _calibrate.Costs()
_calibrate._load = lambda path: None
_calibrate._measure_and_store = slow
thread = threading.Thread(target=_calibrate.calibrate)
thread.start()
begun.wait(60)
child = os.fork()
if not child:
    _calibrate._measure_and_store = lambda path: _calibrate.Costs()
    _calibrate.calibrate()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
thread.join()
"""
    assert run_script(source).stdout == "7\n"


def test_the_package_has_the_name() -> None:
    assert plait.simulate is simulate


CGROUP_2 = {
    "proc/self/cgroup": "0::/pod/app\n",
    "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/pod/app/cpu.max": "max 100000\n",
    "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
}
CGROUP_1 = {
    "proc/self/cgroup": "2:cpu,cpuacct:/jobs/7\n",
    "proc/self/mountinfo": "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
    "sys/fs/cgroup/cpu/jobs/7/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu/jobs/7/cpu.cfs_period_us": "200000\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [(CGROUP_2, (150_000_000, 100_000_000)), (CGROUP_1, (50_000_000, 200_000_000)), ({}, None)],
)
def test_the_quota_of_a_container_is_found(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: tuple[int, int] | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = _core.cpu_quota(str(tmp_path))
    assert found == expected
    cores = _core.usable_cpus()
    many = [[Burst("hold", 0.010)]] * (100 * cores)
    monkeypatch.setattr(_core, "cpu_quota", lambda: found)
    here = simulate(many, model="processes", costs=FREE).seconds
    free = simulate(many, model="processes", costs=FREE, quota=math.inf).seconds
    share = 1.0 if expected is None else min(1.0, expected[0] / expected[1] / cores)
    assert here == pytest.approx(free / share, rel=0.15)
    # More cores than there are: that is another machine.
    assert simulate(many, model="processes", cores=cores + 1, costs=FREE).seconds < free


def test_priorities() -> None:
    # A worker that computes, and one that waits for what a child does on the same core.
    items = [Item((Burst("hold", 0.100),)), Item((Burst("blocked", 0.100, resource="child"),))]
    work = Workload(items, resources={"child": Resource(on_cores=True)})

    def waited(nice: int) -> float:
        ask = simulate(work, model="processes", workers=2, cores=1, nice=nice, costs=FREE, chunksize=1)
        assert ask.seconds == pytest.approx(0.200)
        return ask.details["io_wait"]

    assert 0.180 <= waited(0) <= 0.200
    assert 0.100 <= waited(19) <= 0.112


def test_a_slower_machine_takes_longer_for_what_it_computes_and_not_for_waits() -> None:
    item = Item((Burst("hold", 0.010), Burst("blocked", 0.010)))
    work = Workload([item] * 4, speed=0.001)
    assert seconds(work, "serial", speed=0.002) == pytest.approx(0.120)
    assert seconds(work, "serial") == pytest.approx(0.080)
    with pytest.raises(ValueError, match=r"speed must be from .*, not 0"):
        seconds(work, "serial", speed=0)
