"""`plait.share`: any object, put into shared memory once."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import plait
from tests.shared import _tasks
from tests.shared._support import files, inode, wait_until_gone


class Table:
    """An object with large parts."""

    def __init__(self) -> None:
        self.columns = {"a": np.arange(1000), "b": np.linspace(0, 1, 1000), "c": np.arange(6).reshape(2, 3).T}
        self.name = "table"


@pytest.mark.parametrize(
    "value",
    [None, 1, "text", [1, [2]], {"a": (1, 2)}, b"", b"bytes" * 100, bytearray(b"x" * 10), range(5), len, Table],
    ids=repr,
)
def test_any_object_comes_back(value: Any) -> None:
    assert plait.share(value).get() == value
    with plait.ProcessPool(1) as pool:
        assert pool.submit(plait.Shared.get, plait.share(value)).result() == value


def test_buffers_lie_in_the_shared_memory() -> None:
    table = Table()
    handle = plait.share(table)
    got = handle.get()
    begin = handle._segment.address
    for name, column in table.columns.items():
        shared = got.columns[name]
        np.testing.assert_array_equal(shared, column)
        assert not shared.flags.writeable
        address = shared.__array_interface__["data"][0]
        assert begin <= address < begin + handle.nbytes
        assert address % 64 == 0
    assert got.name == "table"


def test_what_was_shared_is_a_copy() -> None:
    original = np.zeros(3)
    handle = plait.share(original)
    original[0] = 1
    assert handle.get().tolist() == [0, 0, 0]


def test_one_handle_for_threads_that_get_it_at_once() -> None:
    def get() -> Any:
        begin.wait()
        return make(*parts)

    begin = threading.Barrier(8)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(200):
            make, parts = plait.share([1]).__reduce__()  # the handle is gone, its memory is not
            handles = [future.result() for future in [pool.submit(get) for _ in range(8)]]
            assert all(handle is handles[0] for handle in handles)


def test_one_object_and_one_handle_in_a_process() -> None:
    handle = plait.share([1])
    assert handle.get() is handle.get()
    assert pickle.loads(pickle.dumps(handle)) is handle
    assert copy.copy(handle) is handle
    assert copy.deepcopy([handle])[0] is handle
    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.identity, [handle, handle]).result() == [handle, handle]
        assert pool.submit(_tasks.same_object_at_every_call, handle).result()


def test_threads_get_the_same_object() -> None:
    for _ in range(50):
        handle = plait.share(list(range(100)))
        got: list[Any] = []
        threads = [threading.Thread(target=lambda got=got, handle=handle: got.append(handle.get())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(each is got[0] for each in got)


def test_read_only_means_that_nobody_writes() -> None:
    handle = plait.share(np.arange(10))
    assert not handle.writable
    with pytest.raises(ValueError, match="read-only"):
        handle.get()[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        handle.get().flags.writeable = True
    with plait.ProcessPool(1) as pool:
        assert pool.submit(_tasks.refuses_writes, handle).result()
    assert memoryview(handle._segment).readonly


def test_the_kernel_refuses_writes_too() -> None:
    handle = plait.share(np.arange(10))
    pid, fd, _, _ = handle._segment.source()
    with open(f"/proc/{pid}/fd/{fd}", "r+b", buffering=0) as file, pytest.raises(PermissionError):
        file.write(b"x")
    with open(f"/proc/{pid}/fd/{fd}", "r+b", buffering=0) as file, pytest.raises(OSError, match="not permitted"):
        file.truncate(0)


def test_writable_is_seen_by_all() -> None:
    handle: Any = plait.share({"a": np.zeros(3), "b": [1]}, writable=True)
    assert handle.writable
    array = handle.get()["a"]
    whole = plait.share(np.zeros(2), writable=True)
    with plait.ProcessPool(1) as pool:
        pool.submit(_tasks.add_in_handle, whole).result()
        array[1] = 5
        assert pool.submit(plait.Shared.get, handle).result()["a"].tolist() == [0, 5, 0]
    assert whole.get().tolist() == [1, 1]


def test_bytes_without_a_copy() -> None:
    view: Any = plait.share(pickle.PickleBuffer(b"data" * 1000)).get()
    assert bytes(view) == b"data" * 1000
    assert view.readonly


def test_what_came_out_outlives_the_handle() -> None:
    handle = plait.share(np.arange(1000))
    number = inode(handle)
    array = handle.get()[10:20]
    del handle
    gc.collect()
    assert array.tolist() == list(range(10, 20))
    assert files()
    del array
    wait_until_gone(number)
    assert not files()


def test_functions_go_by_value() -> None:
    offset = 3
    handle = plait.share(lambda value: value + offset)
    assert handle.get()(4) == 7


@pytest.mark.parametrize("value", [threading.Lock(), [open]], ids=["lock", "nested"])
def test_what_cannot_be_pickled(value: Any) -> None:
    value = [threading.Lock()] if isinstance(value, list) else value
    with pytest.raises(plait.NotPicklable, match="to be shared cannot be pickled"):
        plait.share(value)
    assert not files()


def test_what_pickling_raises_comes_as_it_is() -> None:
    class Odd:
        def __reduce__(self) -> Any:
            raise RuntimeError("odd")

    with pytest.raises(RuntimeError, match="odd"):
        plait.share(Odd())


def test_handles_are_made_by_share_alone() -> None:
    with pytest.raises(TypeError, match=r"plait\.share"):
        plait.Shared()


def test_it_says_what_it_is() -> None:
    assert repr(plait.share(b"")) == f"<plait.Shared {plait.share(b'').nbytes} bytes>"
    assert repr(plait.share(np.zeros(2), writable=True)).endswith(" bytes, writable>")


def test_an_array_of_shared_array_is_copied_into_it() -> None:
    array = plait.shared_array(3, int)
    handle = plait.share({"array": array})
    array[:] = 1
    assert handle.get()["array"].tolist() == [0, 0, 0]
