"""Work that is recorded: what a call is made of."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import hashlib
import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
import weakref
from typing import Any

import pytest

from plait import _core, simulate
from plait.model import Burst, Costs, Item, Workload, _foreign, _kept, _overlap, _record, _speed, record

GIL = pytest.mark.skipif(not _core.gil_is_on(), reason="there is no GIL to be seen")


def total(work: Workload, kind: str, resource: str | None = None) -> float:
    """Seconds of all bursts of a kind."""
    bursts = [burst for item in work.items for burst in item.bursts]
    return sum(burst.seconds for burst in bursts if burst.kind == kind and resource in {None, burst.resource})


def count(below: int) -> int:
    return sum(range(below))


def identity(value: Any) -> Any:
    return value


class Result:
    """Something whose end can be seen."""


async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_what_computes_with_the_gil_holds_it() -> None:
    work = record(count, [200_000] * 10)
    assert (work.count, len(work.items), work.on_loop) == (10, 10, False)
    assert total(work, "hold") > 0.9 * work.serial_seconds
    assert work.speed is not None
    assert work.speed > 0


@GIL
def test_what_computes_without_the_gil_is_released() -> None:
    data = bytes(5_000_000)
    work = record(lambda _: hashlib.sha256(data).digest(), range(5))
    assert total(work, "released") > 0.8 * work.serial_seconds
    assert total(work, "hold") < 0.2 * work.serial_seconds


def test_waits_are_blocked() -> None:
    work = record(time.sleep, [0.005] * 5)
    assert total(work, "blocked") >= 0.015  # a busy machine takes some away
    assert total(work, "hold") + total(work, "released") < 0.01


def test_work_of_children_wants_cores() -> None:
    command = [sys.executable, "-I", "-S", "-c", "sum(range(3_000_000))"]
    work = record(lambda _: subprocess.run(command, check=True).returncode, range(3))
    # It takes longer than that on any machine; what else was waited for depends on who had the cores.
    assert total(work, "blocked", "children") > 0.03
    assert work.resources["children"].on_cores


@GIL
def test_instants_without_the_gil_are_counted() -> None:
    def release(_: int) -> None:
        for _ in range(100):
            os.stat("/")

    work = record(release, range(10))
    releases = sum(burst.short_releases for item in work.items for burst in item.bursts)
    # A few were longer than an instant.
    assert 500 <= releases <= 1000


def test_tiny_calls_are_looked_at_together() -> None:
    work = record(abs, range(5000))
    assert len(work.items) == 5000
    assert work.items[4000] == work.items[4001]
    assert 0 < work.serial_seconds < 1.0


def test_coroutines_are_awaited_one_by_one() -> None:
    work = record(nap, [0.004] * 5)
    assert work.on_loop
    assert total(work, "blocked") >= 0.012
    together = simulate(work, model="asyncio", costs=Costs()).seconds
    assert 0.004 <= together < 0.6 * work.serial_seconds


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_a_probe_that_fails_leaves_the_recording(error: type[BaseException]) -> None:
    calls = itertools.count()

    def once(seconds: float) -> None:
        if next(calls) >= 6:
            raise error
        time.sleep(seconds)

    async def once_later(seconds: float) -> None:
        once(seconds)
        await asyncio.sleep(seconds)

    for function in (once, once_later):
        calls = itertools.count()
        work = record(function, [0.004] * 6, probe=2)
        assert (len(work.items), next(calls) > 6) == (6, True)
        assert total(work, "blocked", "line") == 0


@pytest.mark.parametrize(("longest", "rounds"), [(60.0, 3), (0.0, 1)])
def test_a_long_probe_is_made_once(monkeypatch: pytest.MonkeyPatch, longest: float, rounds: int) -> None:
    monkeypatch.setattr(_overlap, "_LONG", longest)
    calls = itertools.count()

    def wait(seconds: float) -> None:
        next(calls)
        time.sleep(seconds)

    record(wait, [0.004] * 6, probe=2)
    in_two_and_six = 2 * 6 * rounds
    assert next(calls) == 6 + in_two_and_six


class Fetcher:
    async def __call__(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def test_objects_that_are_called_as_coroutines_are_awaited() -> None:
    for function in (Fetcher(), Fetcher().__call__, functools.partial(nap)):
        work = record(function, [0.004] * 2)
        assert work.on_loop
        assert len(work.items) == 2


@pytest.mark.filterwarnings("error")
def test_what_is_to_be_awaited_is_told_from_results() -> None:
    def begin(seconds: float) -> Any:
        return nap(seconds)

    with pytest.raises(TypeError, match=r"begin returned <coroutine object nap .*needs a coroutine function"):
        record(begin, [0.1])
    with pytest.raises(TypeError, match=r"Fetcher object at .* returned <coroutine"):
        record(functools.partial(Fetcher()), [0.1])
    gc.collect()


@pytest.mark.filterwarnings("error")
def test_within_a_loop_there_is_no_other() -> None:
    async def main() -> None:
        with pytest.raises(
            RuntimeError, match=r"record\(\) of a coroutine function cannot be called while an event loop"
        ):
            record(nap, [0.001])
        assert not record(count, [100]).on_loop

    asyncio.run(main())
    gc.collect()


def test_a_probe_finds_what_stands_in_line() -> None:
    lock = threading.Lock()

    def one_at_a_time(seconds: float) -> None:
        with lock:
            time.sleep(seconds)

    work = record(one_at_a_time, [0.004] * 12, probe=4)
    assert total(work, "blocked", "line") > 0.5 * total(work, "blocked")
    assert not work.resources["line"].together
    assert total(record(one_at_a_time, [0.004] * 12), "blocked", "line") == 0


def _truths() -> dict[str, tuple[Workload, Any]]:
    """Calls as they were recorded, and what they really do."""
    outside, beside = _record.RESOURCES["outside"], _record.RESOURCES["beside"]
    resources = {"outside": outside, "beside": beside, "kernel": beside}
    waits = (Burst("blocked", 0.0015, resource="kernel"), Burst("blocked", 0.0025, resource="outside"))
    asks = (Burst("blocked", 0.0040, resource="beside"),)
    disk, server = (
        Workload([Item((Burst("hold", 0.0005), *bursts))] * 40, resources=resources, speed=0.001)
        for bursts in (waits, asks)
    )
    together = _overlap._OUTSIDE._replace(line=dataclasses.replace(_overlap._OUTSIDE.line, together=True))
    return {
        "free": (disk, disk),
        "one after the other": (disk, _overlap._in_line(disk, _overlap._OUTSIDE, 1.0, 0.0)),
        "together": (disk, _overlap._in_line(disk, together, 1.0, 0.0)),
        "in its own way": (server, _overlap._in_line(server, _overlap._BESIDE, 1.0, 1.0)),
        "somewhere else": (server, _overlap._away(server)),
    }


@pytest.mark.parametrize("name", ["free", "one after the other", "together", "in its own way", "somewhere else"])
def test_probes_in_several_numbers_of_threads_tell_lines_apart(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    work, truth = _truths()[name]

    def probe(_: Any, few: Any, __: int, at_once: int, **___: Any) -> _overlap._Probes:
        found = _overlap._Probes(at_once, on_loop=False)
        seconds = found.ask(_overlap._some(truth, len(few)), speed=0.001, seed=1).seconds
        found.made = [_overlap._Probe(1.03 * seconds, 0.001, 0.0)] * 3
        return found

    monkeypatch.setattr(_overlap, "_probes", probe)
    found = _overlap.with_limits(work, count, [0] * 40, 4)
    assert ("line" in found.resources) == ("line" in truth.resources)
    if "line" in found.resources:
        assert found.resources["line"].together == truth.resources["line"].together
        assert found.resources["line"].on_cores == truth.resources["line"].on_cores
    for many in (3, 8, 20):
        ask = functools.partial(simulate, model="threads", workers=many, cores=2, costs=Costs(), warm=True, replicas=0)
        assert ask(found).seconds == pytest.approx(ask(truth).seconds, rel=0.2)


def test_a_probe_is_as_fast_as_the_cores_were_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Workload([Item((Burst("released", 0.010),))] * 8, speed=0.001)
    asked = []
    for speeds in ((), (1.0, 0.5)):
        monkeypatch.setattr(_overlap, "calibrate", lambda speeds=speeds: Costs({}, speeds, 0.001))
        asked.append(_overlap._Probes(2, on_loop=False).ask(work, speed=0.001, cores=2).seconds)
    # They were looked at: what they lose when both are busy was seen.
    assert asked[0] == asked[1]


@GIL
@pytest.mark.parametrize(("longer", "least", "most"), [(0.5, 0.0, 2e-5), (2.0, 1e-4, 0.003)])
def test_a_probe_finds_what_switches_cost(
    monkeypatch: pytest.MonkeyPatch, longer: float, least: float, most: float
) -> None:
    def probe(unsure: float) -> _overlap._Probes:
        found = _overlap._Probes(4, on_loop=False)
        found.made = [_overlap._Probe(longer * 0.2, 0.001, unsure)] * 3
        return found

    calls = Workload([Item((Burst("hold", 0.020),))] * 10, speed=0.001)
    monkeypatch.setattr(_overlap, "_probes", lambda *_, **__: probe(0.0))
    found = _overlap.with_limits(calls, count, [0] * 10, 4)
    assert found.switch is not None
    assert least <= found.switch <= most
    # Who does not know how fast the machine was meanwhile cannot tell.
    monkeypatch.setattr(_overlap, "_probes", lambda *_, **__: probe(0.2))
    assert _overlap.with_limits(calls, count, [0] * 10, 4).switch is None
    ask = lambda work: simulate(work, model="threads", workers=4, cores=2, costs=Costs(), warm=True).seconds  # noqa: E731
    assert ask(Workload(found.items, speed=0.001, switch=0.003)) > ask(Workload(found.items, speed=0.001, switch=0.0))


def test_the_machine_is_looked_at_all_along(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    # Twice in each look, and once where it is too early for one.
    monkeypatch.setattr("plait.model._speed.time.perf_counter", lambda: next(clock) * 0.001)
    looks = iter([0.001, 0.001, 0.004])
    monkeypatch.setattr(_speed, "look", lambda: next(looks))
    pace = _speed.Pace()
    for _ in range(7):
        pace.look()
    assert next(looks, None) is None
    # Between three moments it got four times as slow: that is where the time went, and not the work.
    assert pace.seconds == pytest.approx(4 / (1 / 0.001 + 2 / 0.001 + 1 / 0.004))
    assert pace.unsure == 0.0


def test_what_was_not_looked_into_is_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    def pace(*times: float) -> _speed.Pace:
        clock = itertools.chain.from_iterable(itertools.repeat(when, 2) for when in times)
        monkeypatch.setattr("plait.model._speed.time.perf_counter", lambda: next(clock))
        found = _speed.Pace()
        for _ in times:
            found.look()
        return found

    monkeypatch.setattr(_speed, "look", itertools.cycle([0.001, 0.0012]).__next__)
    assert pace(0.0).unsure > pace(0.0, 1.0).unsure > pace(0.0, 0.5, 1.0).unsure > 0.05
    assert pace(*(number * 0.005 for number in range(100))).unsure == 0.0
    calls = [Item((Burst("hold", 0.020),))] * 10
    widths: list[float] = []
    for unsure in (0.0, 0.2):
        one = simulate(Workload(calls, speed=0.001, unsure=unsure), model="threads", costs=Costs(), speed=0.001)
        widths.append(one.high / one.low)
    assert widths[1] > 1.2 * widths[0]
    with pytest.raises(ValueError, match="unsure must be from 0 to 1, not 2"):
        Workload(calls, unsure=2)


def test_bad_arguments_and_errors_of_calls() -> None:
    with pytest.raises(ValueError, match="arguments must not be empty"):
        record(abs, [])
    with pytest.raises(ValueError, match="probe"):
        record(abs, [1], probe=0)
    with pytest.raises(TypeError, match="function must be callable, not 5"):
        record(5, [1])  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        record(lambda number: 1 // number, [1, 0])
    assert record(count, [1000]).count == 1  # and it can be done again


def test_what_cannot_be_pickled_has_no_parcel() -> None:
    made: list[Any] = [lambda: 1] * 3
    work = record(lambda function: function(), made)
    assert work.items[0].argument.size_bytes == 0
    assert work.items[0].result.size_bytes > 0


def test_a_shared_value_is_pickled_for_each_call() -> None:
    big = bytes(20_000)
    few, many = record(identity, [big] * 20), record(identity, [big] * 1000)
    assert few.items[0].argument.size_bytes > 20_000
    assert {item.argument.size_bytes for item in many.items} == {few.items[0].argument.size_bytes}
    assert {item.result.size_bytes for item in many.items} == {few.items[0].result.size_bytes}
    # Numbers of calls that parts do not divide evenly.
    assert len(record(identity, range(1001)).items) == 1001


def test_what_it_takes_to_keep_results_is_told_apart() -> None:
    def many(_: int) -> list[list[int]]:
        made = [[number] for number in range(5_000)]
        gc.collect()  # it looks at what is alive, and that gets more
        return made

    work = record(many, range(30))
    kept = [item.kept for item in work.items]
    assert sum(kept) > 0
    # Other processes do not keep them: the caller does.
    ask = lambda items, model: simulate(Workload(items), model=model, workers=1, costs=Costs(), warm=True).seconds  # noqa: E731
    without = [dataclasses.replace(item, kept=0.0) for item in work.items]
    assert ask(work.items, "serial") - ask(without, "serial") == pytest.approx(sum(kept))


def test_what_the_collector_looks_at_beside_a_call_is_told_apart() -> None:
    def collects(_: int) -> int:
        return gc.collect()

    heap = [[number] for number in range(200_000)]
    work = record(collects, range(10))
    assert sum(item.heap for item in work.items) > 0.5 * work.serial_seconds
    # Workers in other processes have not got that.
    ask = lambda model: simulate(work, model=model, workers=1, costs=Costs(), warm=True).seconds  # noqa: E731
    assert ask("processes") < 0.5 * ask("serial")
    assert len(heap) == 200_000


def test_plain_values_are_sent_as_a_pool_of_processes_does() -> None:
    (item,) = record(identity, ["word"]).items
    assert item.argument.size_bytes == len(_core.codec_encode("word") or b"") < len(pickle.dumps("word"))
    assert item.result.size_bytes == item.argument.size_bytes
    (other,) = record(identity, [1j]).items
    assert other.argument.size_bytes == len(pickle.dumps(1j, pickle.HIGHEST_PROTOCOL))


def test_results_are_kept_while_there_is_room() -> None:
    alive: weakref.WeakSet[Result] = weakref.WeakSet()

    def make(_: int) -> Result:
        alive.add(made := Result())
        return made

    most = 0

    def count_and_make(number: int) -> Result:
        nonlocal most
        most = max(most, len(alive))
        return make(number)

    record(count_and_make, range(1000))
    assert most == 999
    assert not alive


def test_results_that_cannot_be_sent_are_dropped_as_they_come() -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    def make(_: int) -> Any:
        nonlocal most
        most = max(most, len(alive))
        alive.add(made := open(os.devnull, "rb"))  # noqa: SIM115
        return made

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        record(make, range(2000))
    assert most <= 150  # short calls are looked at together


def test_results_that_take_too_much_are_dropped_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kept, "_MOST", -1)
    alive: weakref.WeakSet[Result] = weakref.WeakSet()
    most = 0

    def make(_: int) -> Result:
        nonlocal most
        most = max(most, len(alive))
        alive.add(made := Result())
        return made

    async def make_later(number: int) -> Result:
        return make(number)

    assert record(make, range(20_000)).items[0].result.size_bytes > 0
    # Short ones are looked at together.
    assert most <= 2000
    assert record(make_later, range(300)).items[299].result.size_bytes > 0
    assert not alive


def test_a_following_that_was_not_begun_is_empty() -> None:
    assert _core.followed_gil() == []


@GIL
def test_of_very_many_stretches_the_last_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def naps(_: int) -> None:
        for _ in range(20):
            time.sleep(0.0002)
            count(2000)

    kinds = lambda work: [len([burst for burst in item.bursts if burst.kind == "hold"]) for item in work.items]  # noqa: E731
    assert min(kinds(record(naps, range(8)))) > 10
    monkeypatch.setattr(_record, "_STRETCHES", 100)
    work = record(naps, range(8))
    assert kinds(work)[0] > 10
    assert kinds(work)[-4:] == [1] * 4
    assert sum(burst.seconds for item in work.items[-4:] for burst in item.bursts if burst.kind == "blocked") > 0.001


@GIL
def test_of_a_recording_within_a_call_nothing_is_seen_of_the_gil() -> None:
    data = bytes(3_000_000)

    def outer(_: int) -> None:
        record(count, [1000])
        hashlib.sha256(data).digest()

    work = record(outer, range(3))
    assert total(work, "released") == 0
    assert total(work, "hold") > 0


def test_a_number_that_is_another_process_by_now_takes_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = lambda seconds: {number: _foreign.Ran(each, number == 4) for number, each in seconds.items()}  # noqa: E731
    later = {1: 5.0, 2: 1.0, 3: 0.25, 4: 0.5}
    monkeypatch.setattr(_foreign, "others", lambda: ran(later))
    assert _foreign.between(ran({1: 4.0, 2: 30.0, 4: 0.25}), ran(later), 1.0) == _foreign.Beside(1.0, 0.25, 0.0)
    busy = {number: spent + 1.0 for number, spent in later.items()}
    monkeypatch.setattr(_foreign, "others", lambda: ran(busy))
    assert _foreign.between(ran({1: 4.5, 2: 30.0}), ran(later), 1.0) == _foreign.Beside(0.0, 0.0, 0.5)


def test_what_others_do_anyway_is_not_done_for_this_program(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = lambda seconds: {1: _foreign.Ran(seconds), 2: _foreign.Ran(seconds, kernel=True)}  # noqa: E731
    monkeypatch.setattr(_foreign, "others", lambda: ran(1.0 + 0.1 * _foreign._PAUSE))
    # A tenth of the time they work without it, too.
    assert _foreign.between(ran(0.5), ran(1.0), 2.0) == pytest.approx((0.3, 0.3, 0.4))


SPINNER = """
import sys, time
for _ in sys.stdin:
    end = time.process_time() + 0.003
    while time.process_time() < end: pass
    print(time.process_time(), flush=True)
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/schedstat"), reason="this kernel tells other processes' time in ticks only"
)
def test_what_others_take_is_seen_to_less_than_a_tick() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SPINNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        told, seen = [], []
        for _ in range(4):
            child.stdin.write("\n")
            child.stdin.flush()
            told.append(float(child.stdout.readline()))
            seen.append(_foreign.others()[child.pid])
        child.stdin.close()
    assert not any(each.kernel for each in seen)
    # It goes on for a moment after it has told.
    assert all(-0.0005 < each.seconds - spent < 0.002 for each, spent in zip(seen, told, strict=True))


def test_short_parts_of_others_are_put_off() -> None:
    others = _record._Others({"beside": 0.3, "kernel": 0.01})
    found = [others.parts(80e-6, 0.0) for _ in range(100)]
    beside = [parts["beside"] for parts in found if "beside" in parts]
    assert sum(beside) == pytest.approx(0.3 * 100 * 80e-6, rel=0.05)
    assert min(beside) > 70e-6
    assert not any("kernel" in parts for parts in found)
    assert all(sum(parts.values()) == pytest.approx(80e-6) for parts in found)
    assert others.parts(1.0, 0.5) == pytest.approx({"children": 0.5, "beside": 0.3, "outside": 0.2}, abs=1e-4)
