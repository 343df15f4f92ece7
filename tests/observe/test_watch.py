"""`plait.watch()`: its figures are what happened, it costs nothing when it is closed, and others can read what it says."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sysconfig
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import plait
from plait import _core
from plait.observe import _metrics, _watch

HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")


@pytest.fixture
def watch() -> Iterator[plait.Watch]:
    with plait.watch() as figures:
        yield figures


def contend() -> None:
    """Two threads that want the interpreter lock at the same time."""
    begun, over = threading.Event(), threading.Event()

    def spin() -> None:
        begun.set()
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    begun.wait()
    for _ in range(20):
        time.sleep(0.001)
    over.set()
    thread.join()


def test_one_watch_at_a_time() -> None:
    first = plait.watch()
    assert plait.watch() is first
    with first as entered, plait.watch() as again:
        assert entered is again is first
    assert first.closed
    first.close()
    with pytest.raises(RuntimeError, match="watch is closed"):
        first.snapshot()
    second = plait.watch()
    assert second is not first
    assert not second.closed
    second.close()


@pytest.mark.skipif(not HAS_GIL, reason="there is no GIL")
def test_waits_for_the_gil(watch: plait.Watch) -> None:
    before: Any = watch.snapshot()["gil"]
    began = time.monotonic()
    contend()
    wall = time.monotonic() - began
    after: Any = watch.snapshot()["gil"]
    waits = after["wait"]["count"] - before["wait"]["count"]
    waited = after["wait"]["sum"] - before["wait"]["sum"]
    held = after["hold"]["sum"] - before["hold"]["sum"]
    assert waits >= 10, "all but those that found it free by chance"
    assert after["hold"]["count"] - before["hold"]["count"] > waits / 2
    assert 0 < waited < 2 * wall
    assert 0 < held < wall * 1.01
    for name in ("wait", "hold"):
        counts = [count for _, count in after[name]["buckets"]]
        assert counts == sorted(counts)
        assert counts[-1] == after[name]["count"]
        assert after[name]["buckets"][-1][0] == float("inf")


@pytest.mark.skipif(not HAS_GIL, reason="there is no GIL")
def test_how_long_the_gil_is_held(watch: plait.Watch) -> None:
    before: Any = watch.snapshot()["gil"]["hold"]  # type: ignore[index]
    gil = _core.GilWatch()
    began = time.perf_counter()
    sum(range(5_000_000))
    length = time.perf_counter() - began
    time.sleep(0)
    after: Any = watch.snapshot()["gil"]["hold"]  # type: ignore[index]
    assert after["sum"] - before["sum"] > length * 0.9
    assert [bound for bound, _ in after["buckets"][:-1]] == pytest.approx(gil.figures()["bounds"])


@pytest.mark.skipif(not HAS_GIL, reason="there is no GIL")
def test_very_many_holds_are_counted_and_a_long_one_that_somebody_waits_for_is_among_them(watch: plait.Watch) -> None:
    connection = sqlite3.connect(":memory:")
    source = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100000) SELECT x FROM n"
    before: Any = watch.snapshot()["gil"]
    began = time.perf_counter()
    for _row in connection.execute(source):  # lets go of it for each
        pass
    wall = time.perf_counter() - began
    between: Any = watch.snapshot()["gil"]
    held = between["hold"]["sum"] - before["hold"]["sum"]
    assert between["hold"]["count"] - before["hold"]["count"] > 90_000
    assert 0 < held < wall * 1.01
    over = threading.Event()

    def wants_it() -> None:
        while not over.is_set():
            time.sleep(0.001)

    thread = threading.Thread(target=wants_it)
    thread.start()
    for _row in connection.execute(source):
        pass
    began = time.perf_counter()
    sum(range(8_000_000))
    length = time.perf_counter() - began
    over.set()
    thread.join()
    connection.close()
    after: Any = watch.snapshot()["gil"]
    assert after["wait"]["count"] > between["wait"]["count"]
    assert long_ones(after["hold"], length / 8) > long_ones(between["hold"], length / 8)
    assert long_ones(after["wait"], length / 8) > long_ones(between["wait"], length / 8)


def long_ones(spans: Any, length: float) -> int:
    """How many took as long, or a little less: as the buckets have it."""
    return int(spans["count"]) - max(count for bound, count in spans["buckets"] if bound <= length)


@pytest.mark.skipif(not HAS_GIL, reason="there is no GIL")
def test_nothing_is_counted_when_nobody_watches(watch: plait.Watch) -> None:
    before: Any = watch.snapshot()["gil"]
    watch.close()
    contend()
    with plait.watch() as other:
        after: Any = other.snapshot()["gil"]
    # Those of the calls that begin and end the watch.
    assert after["wait"]["count"] - before["wait"]["count"] < 10


def test_loops(watch: plait.Watch) -> None:
    before = watch.snapshot()["loops"]

    async def block() -> None:
        assert watch.snapshot()["loops"]["running"] == before["running"] + 1
        await asyncio.sleep(0.001)
        time.sleep(0.02)  # noqa: ASYNC251 - it is what is measured

    plait.run(block())
    gc.collect()
    after = watch.snapshot()["loops"]
    assert after["running"] == before["running"]
    assert after["timers"] >= before["timers"]
    loop = plait.EventLoop()
    loop.run_until_complete(block())
    between = watch.snapshot()["loops"]
    loop.close()
    assert between["callbacks"] > after["callbacks"]
    assert between["timers"] == after["timers"] + 1
    assert between["lag"]["sum"] - after["lag"]["sum"] > 0.019
    late = [sum(count for bound, count in each["lag"]["buckets"] if bound < 0.015) for each in (after, between)]
    assert between["lag"]["count"] - after["lag"]["count"] >= 1
    assert late[1] >= late[0]
    del loop
    gc.collect()
    gone = watch.snapshot()["loops"]
    assert gone["callbacks"] >= between["callbacks"], "what only grows does not fall"
    assert gone["lag"]["count"] >= between["lag"]["count"]


def test_pools(watch: plait.Watch) -> None:
    before = watch.snapshot()["threads"]
    with plait.ThreadPool(1) as pool:
        first = pool.submit(time.sleep, 0.03)
        second = pool.submit(len, "abc")
        assert watch.snapshot()["threads"]["pools"] == before["pools"] + 1
        assert second.result() == 3
        first.result()
        after = watch.snapshot()["threads"]
        assert after["submitted"] - before["submitted"] == 2
        assert after["queue_wait"]["count"] - before["queue_wait"]["count"] == 2
        assert after["queue_wait"]["sum"] - before["queue_wait"]["sum"] > 0.02
        watch.close()
        pool.submit(len, "abc").result()
    del pool
    gc.collect()
    with plait.watch() as other:
        last = other.snapshot()["threads"]
        assert last["queue_wait"]["count"] == after["queue_wait"]["count"]
        assert last["submitted"] >= after["submitted"]
        processes = other.snapshot()["processes"]["submitted"]
        with plait.ProcessPool(1) as workers:
            workers.submit(len, "abc").result()
            assert other.snapshot()["processes"]["submitted"] == processes + 1


@pytest.mark.parametrize("chunksize", [1, 3, 6])
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_items_of_a_map_wait_until_they_begin(watch: plait.Watch, kind: str, chunksize: int) -> None:
    with plait.ThreadPool(1) if kind == "threads" else plait.ProcessPool(1) as pool:
        pool.submit(int).result()  # its worker is there
        before: Any = watch.snapshot()[kind]  # type: ignore[literal-required]
        assert list(pool.map(time.sleep, [0.02] * 6, chunksize=chunksize)) == [None] * 6
        after: Any = watch.snapshot()[kind]  # type: ignore[literal-required]
        assert after["submitted"] - before["submitted"] == 6
        assert after["queue_wait"]["count"] - before["queue_wait"]["count"] == 6
        # One after the other: the second waits for 20 ms, the last for 100.
        assert after["queue_wait"]["sum"] - before["queue_wait"]["sum"] >= 0.299
        watch.close()
        list(pool.map(abs, range(3)))
    with plait.watch() as other:
        last: Any = other.snapshot()[kind]  # type: ignore[literal-required]
        assert last["submitted"] - after["submitted"] == 3
        assert last["queue_wait"]["count"] == after["queue_wait"]["count"], "nobody watched"


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_items_that_are_pulled_wait_from_then_on(watch: plait.Watch, kind: str) -> None:
    with plait.ThreadPool(1) if kind == "threads" else plait.ProcessPool(1) as pool:
        pool.submit(int).result()
        before: Any = watch.snapshot()[kind]  # type: ignore[literal-required]
        began = time.monotonic()
        for _ in pool.map(time.sleep, iter([0.02] * 6), buffersize=1):
            pass
        spent = time.monotonic() - began
        after: Any = watch.snapshot()[kind]  # type: ignore[literal-required]
    assert after["queue_wait"]["count"] - before["queue_wait"]["count"] == 6
    # None waits for another: all their waits lie beside the six runs.
    assert after["queue_wait"]["sum"] - before["queue_wait"]["sum"] <= spent - 0.119


def waits_of(text: str, pool: str) -> tuple[int, float, int]:
    """How many waits a page for Prometheus tells of, their sum, and how many of at least 16 ms."""
    name = "plait_pool_queue_wait_seconds"
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name))
    count = int(values[f'{name}_count{{pool="{pool}"}}'])
    below = [
        int(value)
        for key, value in values.items()
        if "_bucket" in key and f'pool="{pool}"' in key and float(key.split('le="')[1].split('"')[0]) < 0.017
    ]
    return count, float(values[f'{name}_sum{{pool="{pool}"}}']), count - max(below)


def test_waits_for_workers_of_a_pool_of_processes(watch: plait.Watch) -> None:
    with plait.ProcessPool(1) as pool:
        pool.submit(len, "abc").result()  # a worker is there then
        before = waits_of(watch.prometheus(), "processes")
        first = pool.submit(time.sleep, 0.05)
        rest = [pool.submit(len, "abc") for _ in range(3)]
        first.result()
        assert [each.result() for each in rest] == [3, 3, 3]
        assert list(pool.map(len, ["abc"] * 10, chunksize=5)) == [3] * 10
        after = waits_of(watch.prometheus(), "processes")
        assert after[0] - before[0] == 4 + 10, "calls, and items"
        assert after[1] - before[1] > 3 * 0.04
        assert after[2] - before[2] >= 3
        watch.close()
        assert pool.submit(len, "abc").result() == 3
        with plait.watch() as other:
            assert waits_of(other.prometheus(), "processes")[0] == after[0]
    del pool
    gc.collect()
    with plait.watch() as other:
        assert waits_of(other.prometheus(), "processes")[0] >= after[0], "what only grows does not fall"


def test_the_text_is_prometheus_own(watch: plait.Watch) -> None:
    contend()
    parser: Any = pytest.importorskip("prometheus_client.parser")
    snapshot = watch.snapshot()
    families = {family.name: family for family in parser.text_string_to_metric_families(_metrics.text(snapshot))}
    for metric in _metrics.metrics(snapshot):
        family = families.pop(metric.name)
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        if metric.kind == "histogram":
            counts = [each.value for each in family.samples if each.name.endswith("_count")]
            last = [each.value for each in family.samples if each.labels.get("le") == "+Inf"]
            assert counts == last == [each.value["count"] for each in metric.samples]
        else:
            assert [each.value for each in family.samples] == [each.value for each in metric.samples]
    assert not families


def test_the_text(watch: plait.Watch) -> None:
    with plait.ThreadPool(1) as pool:
        pool.submit(len, "abc").result()
        lines = watch.prometheus().splitlines()
    assert "# TYPE plait_pool_submitted_tasks_total counter" in lines
    [count] = [line for line in lines if line.startswith('plait_pool_queue_wait_seconds_count{pool="threads"} ')]
    assert int(count.split()[-1]) >= 1
    assert any(line.startswith('plait_loop_lag_seconds_bucket{le="+Inf"} ') for line in lines)


def test_a_registry_of_prometheus() -> None:
    client: Any = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    with plait.watch() as watch:
        registry.register(watch.collector())
        with plait.ThreadPool(1) as pool:
            pool.submit(len, "abc").result()
            said = client.generate_latest(registry).decode()
        value = registry.get_sample_value
        assert value("plait_pool_submitted_tasks_total", {"pool": "threads"}) >= 1
        names = {line.split()[2] for line in said.splitlines() if line.startswith("# TYPE")}
        own = {line.split()[2] for line in watch.prometheus().splitlines() if line.startswith("# TYPE")}
        assert names == own
    assert client.generate_latest(registry) == b""


def test_instruments_of_opentelemetry() -> None:
    metrics: Any = pytest.importorskip("opentelemetry.sdk.metrics")
    export: Any = pytest.importorskip("opentelemetry.sdk.metrics.export")
    reader = export.InMemoryMetricReader()
    provider = metrics.MeterProvider([reader])

    def read() -> dict[str, Any]:
        data = reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else []
        scopes = [scope for resource in resources for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}

    with plait.watch() as watch:
        watch.opentelemetry(provider)
        with plait.ThreadPool(1) as pool:
            pool.submit(len, "abc").result()
            seen = read()
            snapshot = watch.snapshot()
        waits = {dict(point.attributes)["pool"]: point.value for point in seen["plait.pool.queue.wait.seconds.count"]}
        assert waits["threads"] == snapshot["threads"]["queue_wait"]["count"] >= 1
        assert waits["processes"] == snapshot["processes"]["queue_wait"]["count"]
        assert {dict(point.attributes)["le"] for point in seen["plait.loop.lag.seconds.bucket"]} >= {"+Inf"}
        assert {dict(point.attributes)["pool"] for point in seen["plait.pool.workers"]} == {"threads", "processes"}
    assert not any(read().values())
    provider.shutdown()


def test_what_is_not_installed(run_script: Any) -> None:
    source = """
import sys, plait
sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = None
with plait.watch() as watch:
    for call in watch.collector, watch.opentelemetry:
        try:
            call()
        except ModuleNotFoundError as error:
            print(error)
"""
    lines = run_script(source).stdout.splitlines()
    assert len(lines) == 2
    assert "plait[prometheus]" in lines[0]
    assert "plait[opentelemetry]" in lines[1]


def test_a_forked_child_has_figures_of_its_own(run_script: Any) -> None:
    source = """
import os, threading, time, plait
watch = plait.watch()
with plait.ThreadPool(1) as pool:
    pool.submit(len, "abc").result()
for _ in range(50):
    time.sleep(0)
holds = watch.snapshot()["gil"] and watch.snapshot()["gil"]["hold"]["count"]
child = os.fork()
if child == 0:
    figures = watch.snapshot()["gil"]
    assert figures is None or figures["hold"]["count"] < 50 <= holds, figures
    for _ in range(50):
        time.sleep(0)
    figures = watch.snapshot()["gil"]
    assert figures is None or figures["hold"]["count"] >= 40, figures
    watch.close()
    plait.watch().close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
after = watch.snapshot()["gil"]
assert after is None or after["hold"]["count"] >= holds
print("done")
"""
    env = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    assert run_script(source, env=env).stdout == "done\n"


def test_many_threads_come_and_go(watch: plait.Watch) -> None:
    """All their waits are in the sum, also while somebody asks."""
    over = threading.Event()

    def ask() -> None:
        last = 0
        while not over.is_set():
            gil = watch.snapshot()["gil"]
            count = 0 if gil is None else gil["hold"]["count"]
            assert count >= last
            last = count

    asker = threading.Thread(target=ask)
    asker.start()
    before = watch.snapshot()["gil"]
    for _ in range(20):
        threads = [threading.Thread(target=time.sleep, args=(0,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    over.set()
    asker.join()
    after = watch.snapshot()["gil"]
    if before is not None and after is not None:
        assert after["hold"]["count"] - before["hold"]["count"] >= 200


def test_finer_buckets_fall_into_coarser_ones() -> None:
    spans = _watch._Spans()
    spans.add_pairs([(1024e-9, 3), (1280e-9, 2), (2048e-9, 1), (1e9, 4)], 5.0)
    figures = spans.figures()
    assert [count for _, count in figures["buckets"][:3]] == [3, 6, 6]
    assert figures == {"count": 10, "sum": 5.0, "buckets": figures["buckets"]}


def test_it_is_not_loaded_before_it_is_used(run_script: Any) -> None:
    source = "import sys, plait; plait.ThreadPool(1).shutdown(); print('plait.observe._watch' in sys.modules)"
    assert run_script(source, way="-c").stdout == "False\n"


def test_what_loops_and_pools_did_that_came_and_went_is_kept(run_script: Any) -> None:
    """Also where nobody looked in between, and where nobody has shut them down."""
    source = """
import asyncio, gc, time
import plait
from plait.observe import _sources

async def turns():
    for _ in range(20):
        await asyncio.sleep(0.001)

def all_of_them(end):
    plait.run(turns())
    pools = [plait.ThreadPool(2), plait.ProcessPool(1)]
    for pool in pools:
        assert [pool.submit(abs, -1).result() for _ in range(5)] == [1] * 5
        pool.itself = pool if end == "collected" else None
        if end == "shut down":
            pool.shutdown()
        elif end == "left":
            pool.shutdown(wait=False)
    return pools if end == "kept" else None

if __name__ == "__main__":
    watch = plait.watch()
    before = None
    for times, end in enumerate(["shut down", "left", "dropped", "collected", "kept"], 1):
        kept = all_of_them(end)
        gc.collect()
        found = watch.snapshot()
        assert found["loops"]["callbacks"] >= 20 * times, (end, found["loops"])
        assert found["loops"]["lag"]["count"] >= 20 * times, (end, found["loops"])
        for kind in "threads", "processes":
            assert found[kind]["submitted"] == 5 * times, (end, found[kind])
            assert found[kind]["queue_wait"]["count"] == 5 * times, (end, found[kind])
            assert found[kind]["pools"] == int(kept is not None), (end, found[kind])
        assert before is None or found["loops"]["awake"] >= before
        before = found["loops"]["awake"]
    for _ in range(50):
        plait.run(asyncio.sleep(0))
    assert len(_sources.known("loop")) < 5, len(_sources.known("loop"))
    print("done")
"""
    assert run_script(source).stdout == "done\n"
