"""Large arguments and results: they come out as they went in, private and writable, and their memory comes back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import os
import pickle
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import plait
from plait import _core
from tests.processes import _tasks
from tests.processes._support import WATCHDOG, check_usable, wait_until
from tests.processes._tasks import Gate, Tally

np = pytest.importorskip("numpy")

MIB = 1 << 20
COUNT = 200_000  # items that make an array large, and its float64 not a whole number of pages
kept: list[Any] = []


def echo(value):
    return value


def keep(value):
    """Keep it in the worker, beyond the task."""
    kept.append(value)
    return os.getpid()


def sums():
    return [float(value.sum()) for value in kept]


def forget():
    kept.clear()


def make(seed, count=COUNT):
    return np.arange(count, dtype="float64") + seed


def resident() -> int:
    """Bytes of the pools' shared memory of this process that have pages."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            name, status = os.readlink(entry), os.stat(entry)
        except FileNotFoundError:
            continue
        if name.startswith(("/memfd:plait-arguments", "/memfd:plait-results")):
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def same(ours: Any, theirs: Any) -> bool:
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, np.ndarray):
        return (
            ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and ours.strides == theirs.strides
            and ours.flags.writeable == theirs.flags.writeable
            and ours.tobytes() == theirs.tobytes()
        )
    if isinstance(ours, tuple | list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    return bool(ours == theirs)


def by_pickle(value):
    return pickle.loads(pickle.dumps(value, 5))


DTYPES = [
    "?",
    "i1",
    "u2",
    "i4",
    "<i8",
    ">i8",
    "f2",
    "f4",
    "f8",
    ">f8",
    "c8",
    "c16",
    "S7",
    "U5",
    "M8[ns]",
    "m8[s]",
    "V9",
]


@pytest.mark.parametrize("dtype", [*DTYPES, [("a", "i4"), ("b", "f8", (2,))]], ids=str)
def test_arrays_of_every_kind(pool, dtype):
    for shape in [(), (0,), (3,), (50_000,), (100, 700), (2, 0, 3), (40, 50, 60)]:
        check_arrays(pool, dtype, shape)


def check_arrays(pool, dtype, shape):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.frombuffer(random.Random(1).randbytes(size), dtype="u1")
    array = np.ndarray(shape, dtype, raw.copy()) if size else np.zeros(shape, dtype)
    if np.dtype(dtype).kind == "U":
        array = np.full(shape, "añ€", dtype)
    if np.dtype(dtype).kind == "b":
        array = array.view("u1").astype(bool)
    for variant in (
        array,
        np.asfortranarray(array),
        array[::-1] if shape else array,
        array.T,
        array.copy("F")[..., None],
    ):
        came = pool.submit(echo, variant).result(WATCHDOG)
        assert same(came, by_pickle(variant))
        assert not np.shares_memory(came, variant)


LARGE = st.integers(32 * 1024 - 3, 300 * 1024)
PARTS = st.one_of(
    LARGE.map(lambda size: bytes([size % 251]) * size),
    LARGE.map(lambda size: bytearray([size % 241]) * size),
    LARGE.map(lambda size: "é" * (size // 2)),
    LARGE.map(lambda size: np.arange(size // 8)),
    st.integers(),
    st.text(max_size=5),
    st.none(),
)
VALUES = st.recursive(
    PARTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
    ),
    max_leaves=6,
)


@given(VALUES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_mixture_is_what_pickle_gives(pool, value):
    expected = by_pickle(value)
    assert same(pool.submit(echo, value).result(WATCHDOG), expected)
    assert same(next(iter(pool.map(echo, [value]))), expected)


def test_what_is_shared_stays_shared(pool):
    array, blob = make(1), bytes(MIB)
    first, second = pool.submit(echo, (array, array)).result(WATCHDOG)
    assert first is second
    first, second = pool.submit(echo, [blob, blob]).result(WATCHDOG)
    assert first is second


def write_and_die_once(tally, array):
    seen = float(array.sum())
    array[:] = -1
    tally.note("try", seen)
    if len(tally.rows()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return seen


def test_a_retry_sees_the_original(one, tmp_path):
    tally = Tally(tmp_path / "tally")
    array = make(0)
    expected = float(array.sum())
    assert one.options(retries=1).submit(write_and_die_once, tally, array).result(WATCHDOG) == expected
    assert [float(row[1]) for row in tally.rows()] == [expected, expected]
    assert float(array.sum()) == expected


def test_what_a_worker_writes_is_its_own(pool):
    array = make(0)
    futures = [pool.submit(scribble, array) for _ in range(20)]
    assert {future.result(WATCHDOG) for future in futures} == {float(array.sum())}
    assert array[5] == 5


def scribble(array):
    before = float(array.sum())
    array[:] = 7
    return before


def test_what_the_caller_writes_into_a_result_is_its_own(one):
    first = one.submit(make, 0).result(WATCHDOG)
    first[:] = -1
    second = one.submit(make, 0).result(WATCHDOG)
    assert second[5] == 5
    assert (first == -1).all()


@pytest.mark.parametrize("count", [10, 10_000, COUNT])
def test_read_only_stays_read_only(pool, count):
    array = make(0, count)
    array.flags.writeable = False
    came = pool.submit(echo, array).result(WATCHDOG)
    assert not came.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        came[0] = 1
    assert pool.submit(echo, make(0, count)).result(WATCHDOG).flags.writeable


def test_arguments_that_a_worker_keeps_stay_as_they_are(one):
    for seed in range(5):
        one.submit(keep, make(seed)).result(WATCHDOG)
    for seed in range(100, 120):
        one.submit(echo, make(seed)).result(WATCHDOG)
    assert one.submit(sums).result(WATCHDOG) == [float(make(seed).sum()) for seed in range(5)]
    one.submit(forget).result(WATCHDOG)


def test_more_kept_arguments_than_a_worker_can_hold_are_copied(one):
    for seed in range(50):
        one.submit(keep, make(seed, 20_000)).result(WATCHDOG)
    for seed in range(100, 160):
        one.submit(echo, make(seed, 20_000)).result(WATCHDOG)
    assert one.submit(sums).result(WATCHDOG) == [float(make(seed, 20_000).sum()) for seed in range(50)]


def test_memory_of_a_worker_that_died_comes_back():
    array = make(0)
    with plait.ProcessPool(1, warm_memory=2 * MIB) as pool:
        for _ in range(5):
            pool.submit(keep, array).result(WATCHDOG)
            pool.submit(echo, 1).result(WATCHDOG)
            with pytest.raises(plait.WorkerDied):
                pool.submit(_tasks.die).result(WATCHDOG)
        for _ in range(3):  # while one is held, the next needs another block
            pool.submit(keep, array).result(WATCHDOG)
        wait_until(lambda: resident() < 4 * MIB)


def fork_in_vain():
    _core.gil_tally()  # counts forks from here on
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def test_a_child_that_a_worker_had_before_its_arguments_keeps_none_of_them():
    array = make(0)
    with plait.ProcessPool(1, warm_memory=2 * MIB) as pool:
        for _ in range(5):
            pool.submit(fork_in_vain).result(WATCHDOG)
            pool.submit(keep, array).result(WATCHDOG)
            pool.submit(echo, 1).result(WATCHDOG)
            with pytest.raises(plait.WorkerDied):
                pool.submit(_tasks.die).result(WATCHDOG)
        wait_until(lambda: resident() < 4 * MIB)


def test_kept_results_stay_as_they_are_and_hold_back_no_more_than_the_cap():
    with plait.ProcessPool(2, warm_memory=8 * MIB) as pool:
        results = list(pool.map(make, range(60), chunksize=1))
        figures = pool.statistics()
        assert 0 < figures["memory_held"] <= 2 * figures["memory_cap"] == 16 * MIB
        futures = [pool.submit(make, seed) for seed in range(100, 140)]
        for seed, result in enumerate(results):
            assert same(result, make(seed))
        assert all(same(future.result(WATCHDOG), make(seed)) for seed, future in enumerate(futures, 100))
        # Ordinary memory is whatever does not lie in a block: the blocks in use are bounded.
        del futures
        assert pool.statistics()["memory_held"] <= 16 * MIB
        del results, result
        gc.collect()
        assert pool.statistics()["memory_held"] == 0


def test_results_outlive_the_pool_and_its_workers():
    with plait.ProcessPool(1) as pool:
        result = pool.submit(make, 3).result(WATCHDOG)
        unread = pool.submit(make, 4)
        concurrent.futures.wait([unread], WATCHDOG)
    assert same(result, make(3))
    assert same(unread.result(WATCHDOG), make(4))


def test_results_that_nobody_takes_give_their_memory_back():
    with plait.ProcessPool(1, warm_memory=0) as pool:
        for _ in range(20):
            future = pool.submit(make, 0)
            concurrent.futures.wait([future], WATCHDOG)
            del future
            pool.submit(make, 0)
        pool.submit(echo, 1).result(WATCHDOG)
        pool.submit(make, 0).result(WATCHDOG)
        wait_until(lambda: resident() < 8 * MIB)


def test_the_same_array_is_written_once_for_all_tasks(one, tmp_path):
    with Gate(tmp_path / "gate") as gate:
        blocked = one.submit(gate.wait)
        before = resident()
        array = make(0)
        same_array = [one.submit(echo, array) for _ in range(50)]
        assert resident() - before < 2 * array.nbytes
        array[0] = 1000
        changed = one.submit(echo, array)
        array[0] = 2000
        gate.open()
        blocked.result(WATCHDOG)
        assert all(future.result(WATCHDOG)[0] == 0 for future in same_array)
        assert changed.result(WATCHDOG)[0] == 1000


def test_a_map_that_is_dropped_gives_its_memory_back():
    with plait.ProcessPool(1, warm_memory=0) as pool:
        results: Any = pool.map(echo, [make(seed) for seed in range(40)], chunksize=1)
        assert same(next(results), make(0))
        results.close()
        pool.submit(echo, 1).result(WATCHDOG)
        wait_until(lambda: pool.statistics()["queued"] == 0)
        pool.submit(echo, make(0)).result(WATCHDOG)
        wait_until(lambda: resident() < 8 * MIB)


def test_a_map_over_arrays_survives_deaths(tmp_path):
    with plait.ProcessPool(2, retries=3) as pool:
        arrays = [make(seed) for seed in range(30)]
        fuse = _Fuse(tmp_path / "fuse", 5)
        for seed, result in enumerate(pool.map(fuse, arrays, chunksize=3)):
            assert same(result, make(seed))


class _Fuse:
    """Kills its worker in some calls, each only once."""

    def __init__(self, path, every):
        self.path, self.every = str(path), every

    def __call__(self, array):
        seed = int(array[0])
        if seed % self.every == 0 and not os.path.exists(f"{self.path}{seed}"):
            Path(f"{self.path}{seed}").touch()
            array[:] = 0
            os.kill(os.getpid(), signal.SIGKILL)
        return array


def test_a_forked_child_keeps_what_it_had(one):
    result = one.submit(make, 1).result(WATCHDOG)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0 if same(result, make(1)) else 1)
    os.close(read)
    del result
    gc.collect()
    for seed in range(2, 12):
        one.submit(make, seed).result(WATCHDOG)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0


def fork_and_stay(array, path):
    """Leave a child behind that looks at the array later."""
    if os.fork() == 0:
        os.setsid()
        while not os.path.exists(f"{path}.go"):
            time.sleep(0.01)
        Path(f"{path}.part").write_text(str(set(array.tolist())))
        os.rename(f"{path}.part", path)
        os._exit(0)


def test_a_workers_forked_child_keeps_what_it_had(tmp_path):
    path = tmp_path / "seen"
    with plait.ProcessPool(1, max_tasks_per_child=1) as pool:
        pool.submit(fork_and_stay, np.full(COUNT, 65), path).result(WATCHDOG)
        for value in range(10):
            pool.submit(echo, np.full(COUNT, value)).result(WATCHDOG)
        Path(f"{path}.go").touch()
        wait_until(path.exists)
    assert path.read_text() == "{65}"


SIZES = [0, 1, 1000, 50_000, 300_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_pickle_buffer_arrives_as_pickle_gives_it_whatever_its_size(one, kind, size):
    buffer = pickle.PickleBuffer(kind(b"x" * size))
    for value in (buffer, [buffer], {"a": (buffer, 1)}):
        assert same(one.submit(echo, value).result(WATCHDOG), by_pickle(value))
    came = one.submit(echo, [buffer, buffer]).result(WATCHDOG)
    assert came == [b"x" * size] * 2
    assert type(came[0]) is kind


def views(size):
    """Memoryviews of every format, order, stride and dimension, of about as many bytes."""
    data = random.Random(size).randbytes(size // 24 * 24)
    for code in "cbB?hHiIlLqQnNfdP":
        yield memoryview(data).cast(code)  # type: ignore[call-overload]
    yield memoryview(bytearray(data))
    yield memoryview(bytearray(data)).toreadonly()
    yield memoryview(data)[::-1]
    yield memoryview(bytearray(data)).cast("h")[::3]
    yield memoryview(data).cast("d", ())[:] if len(data) == 8 else memoryview(data)[1:]
    if size:
        yield memoryview(data).cast("i", (2, 3, len(data) // 24))
        yield memoryview(np.asfortranarray(np.ones((3, len(data) // 24)), "f8"))


def same_view(ours, theirs):
    return (
        type(ours) is type(theirs) is memoryview
        and (ours.format, ours.shape, ours.readonly) == (theirs.format, theirs.shape, theirs.readonly)
        and ours.tobytes() == theirs.tobytes()
    )


class Carrier:
    def __init__(self, view):
        self.view = view


@pytest.mark.parametrize("size", [0, 48, 50_016, 300_000])
def test_memoryviews_arrive_as_they_were(one, size):
    for view in views(size):
        assert same_view(one.submit(echo, view).result(WATCHDOG), view)
        assert same_view(next(one.map(echo, [view])), view)
        came = one.submit(echo, Carrier([view, 1])).result(WATCHDOG)
        assert same_view(came.view[0], view)


def test_a_memoryview_that_arrived_is_private_and_can_be_sent_on(one):
    data = bytearray(300_000)
    came = one.submit(echo, memoryview(data)).result(WATCHDOG)
    came[0] = 1
    assert data[0] == 0
    again = one.submit(echo, came).result(WATCHDOG)
    assert again[0] == 1
    assert len(again) == 300_000


def test_a_memoryview_that_no_process_could_make_again_is_refused(one):
    view = memoryview(np.zeros(3, [("a", "i4"), ("b", "f8")]))
    with pytest.raises(TypeError, match="cannot pickle a memoryview of format"):
        plait._core.reduce_view(view)
    with pytest.raises(TypeError, match="cannot pickle a memoryview"):
        plait._core.reduce_view(memoryview(np.zeros((2, 0))))
    view = memoryview(b"x")
    view.release()
    with pytest.raises((plait.NotPicklable, ValueError)):
        one.submit(echo, view).result(WATCHDOG)


def test_memory_comes_back_whoever_is_killed():
    with plait.ProcessPool(2, retries=20, warm_memory=4 * MIB) as pool:
        for _ in range(8):
            futures = {seed: pool.submit(echo, make(seed, 40_000)) for seed in range(20)}
            for pid in pool._pids()[:1]:
                with contextlib.suppress(ProcessLookupError):  # gone since we asked
                    os.kill(pid, signal.SIGKILL)
            for seed, future in futures.items():
                assert same(future.result(WATCHDOG), make(seed, 40_000))
        del futures, future
        gc.collect()
        check_usable(pool)
        pool.submit(echo, make(0, 40_000)).result(WATCHDOG)
        assert wait_until(lambda: resident() < 3 * 4 * MIB + MIB)
        assert pool.statistics()["memory_held"] == 0


@pytest.mark.parametrize("bad", [-1, 1 << 63, 1.5, "1", True], ids=repr)
def test_bad_warm_memory_is_refused(bad):
    with pytest.raises((TypeError, ValueError), match="warm_memory"):
        plait.ProcessPool(1, warm_memory=bad)


def frames_of(library):
    """Tables with a column of each kind, some of them with gaps."""
    module: Any = pytest.importorskip(library)
    integers, floats = list(range(COUNT)), [number / 3 for number in range(COUNT)]
    texts = [f"row {number}" for number in range(COUNT)]
    gaps = [None if number % 7 == 0 else number for number in range(COUNT)]
    data = {"integers": integers, "floats": floats, "texts": texts, "gaps": gaps}
    if library == "pandas":
        frame = module.DataFrame(data)
        frame["times"] = module.date_range("2026-01-01", periods=COUNT, freq="s", tz="UTC")
        frame["categories"] = module.Categorical(["a", "b"] * (COUNT // 2))
        return [frame, frame.set_index("texts"), frame["floats"], frame.iloc[:0]]
    if library == "polars":
        frame = module.DataFrame(data).with_columns(lists=module.concat_list("integers", "floats"))
        return [frame, frame["floats"], frame.head(0)]
    table = module.table(data)
    nested = module.chunked_array([[{"a": 1, "b": [2]}], [None]])
    return [table, table.slice(5, 7), table["texts"], nested, table.to_batches()[0]]


POLARS = pytest.param("polars", marks=pytest.mark.lasting)  # it keeps threads and their descriptors


@pytest.mark.parametrize("library", ["pandas", POLARS, "pyarrow"])
def test_tables_arrive_as_they_were(one, library):
    for frame in frames_of(library):
        came = one.submit(echo, frame).result(WATCHDOG)
        assert type(came) is type(frame)
        assert came.equals(frame)
        for name in ("dtypes", "dtype", "schema", "type"):
            if hasattr(frame, name):
                ours, theirs = getattr(came, name), getattr(frame, name)
                assert ours.equals(theirs) if hasattr(theirs, "equals") else ours == theirs


def test_a_frame_that_arrived_is_writable_and_private(one):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(COUNT), "b": np.arange(COUNT)})
    came = one.submit(echo, frame).result(WATCHDOG)
    came.loc[0, "a"] = 77
    assert (came.loc[0, "a"], frame.loc[0, "a"]) == (77, 0)


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_columns_of_numbers_are_not_copied_on_arrival(one, library):
    module: Any = pytest.importorskip(library)
    columns = {"a": np.arange(COUNT), "b": np.arange(COUNT) / 3}
    frame = module.table(columns) if library == "pyarrow" else module.DataFrame(columns)
    came = one.submit(echo, frame).result(WATCHDOG)
    assert came.equals(frame)
    assert one.statistics()["memory_held"] >= 2 * 8 * COUNT
    del came
    gc.collect()
    assert one.statistics()["memory_held"] == 0
