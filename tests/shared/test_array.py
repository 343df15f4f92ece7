"""`plait.shared_array`: an array as numpy has them, in memory that is shared."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest

import plait
from tests.shared import _tasks
from tests.shared._support import inode, wait_until_gone

DTYPES = [
    *"?bBhHiIlLqQefdgFDG",
    ">i4",
    "<f8",
    ">c16",
    "S5",
    "U3",
    "S",
    "V7",
    "M8[ns]",
    "m8[s]",
    [("x", "<i4"), ("y", ">f8", (2, 3)), ("name", "S4")],
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0], "itemsize": 16}),
]


@pytest.fixture(scope="module")
def pool() -> Any:
    with plait.ProcessPool(1) as pool:
        yield pool


@pytest.mark.lasting
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(pool: Any, dtype: Any) -> None:
    array = plait.shared_array((2, 3), dtype)
    assert (array.dtype, array.shape) == (np.zeros(1, dtype).dtype, (2, 3))
    assert array.tobytes() == bytes(array.nbytes), "zeros"
    ones = np.ones((2, 3), array.dtype) if array.dtype.kind != "V" else array
    pool.submit(_tasks.fill, array, ..., ones).result()
    np.testing.assert_array_equal(array, ones)
    back = pool.submit(_tasks.identity, array).result()
    assert back.dtype == array.dtype
    assert np.shares_memory(back, array)


@pytest.mark.lasting
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), 0, 5, (0,), (3, 0, 2), (1,), (2, 3), (2, 3, 4), [4, 2]], ids=str)
def test_every_shape_and_order(pool: Any, shape: Any, order: Any) -> None:
    array = plait.shared_array(shape, "i4", order=order)
    like = np.zeros(shape, "i4", order=order)
    assert (array.shape, array.flags.c_contiguous) == (like.shape, like.flags.c_contiguous)
    assert array.strides == like.strides or not array.size
    pool.submit(_tasks.add_one, array).result()
    np.testing.assert_array_equal(array, like + 1)
    back = pool.submit(_tasks.identity, array).result()
    assert (back.shape, back.flags.f_contiguous) == (array.shape, array.flags.f_contiguous)


VIEWS = {
    "slice": lambda array: array[1:3],
    "step": lambda array: array[::2, 1::2],
    "backwards": lambda array: array[::-1, ::-1],
    "transposed": lambda array: array.T,
    "reshaped": lambda array: array.reshape(6, 4),
    "row": lambda array: array[2],
    "empty": lambda array: array[4:],
    "retyped": lambda array: array.view("u1"),
    "diagonal": lambda array: array.diagonal(),
    "of a view": lambda array: array[1:][:, 2:].T[::-1],
}


@pytest.mark.lasting
@pytest.mark.parametrize("view", VIEWS)
def test_views_travel_without_a_copy(pool: Any, view: str) -> None:
    array = plait.shared_array((4, 6), "i8")
    array[...] = np.arange(24).reshape(4, 6)
    part = VIEWS[view](array)
    back = pool.submit(_tasks.identity, part).result()
    np.testing.assert_array_equal(back, part)
    assert (back.shape, back.dtype) == (part.shape, part.dtype)
    if part.size:
        assert back.__array_interface__["data"] == part.__array_interface__["data"]
        assert inode(back) == inode(array)


@pytest.mark.lasting
def test_a_view_that_is_read_only_stays_so(pool: Any) -> None:
    array = plait.shared_array(3)
    array.flags.writeable = False
    assert not pool.submit(_tasks.identity, array).result().flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        pool.submit(_tasks.add_one, array).result()


def test_it_is_a_numpy_array_that_owns_nothing_else() -> None:
    array = plait.shared_array((2, 2), "f4")
    assert isinstance(array, np.ndarray)
    assert array.flags.writeable
    assert array.flags.aligned


def test_what_is_computed_from_it_is_an_ordinary_array() -> None:
    array = plait.shared_array((3, 4), int)
    out: Any = np.empty((3, 4), int)
    computed = [
        array + 1,
        -array,
        array @ array.T,
        array.sum(axis=0),
        np.sqrt(array),
        np.add(array, 1, out=out),
        array == array,  # noqa: PLR0124
        np.concatenate([array, array]),
        np.where(array > 0, array, 1),
        array.copy(),
        array.copy("F"),
        array.astype("f4"),
        np.array(array),
    ]
    assert [type(each) for each in computed] == [np.ndarray] * len(computed)
    assert isinstance(array.sum(), np.integer)
    assert not any(np.shares_memory(array, each) for each in computed)


def test_in_place_operations_keep_it_what_it_is() -> None:
    array = same = plait.shared_array(3, int)
    array += 2
    array[1:] *= 2
    assert array is same
    assert np.add(array, 1, out=array) is same
    assert array.tolist() == [3, 5, 5]


def test_a_selection_has_its_own_memory_and_is_copied_when_it_travels() -> None:
    array = plait.shared_array(5, int)
    number = inode(array)
    chosen = array[[1, 2]]
    del array
    wait_until_gone(number)
    with plait.ProcessPool(1) as pool:
        pool.submit(_tasks.add_one, chosen).result()
        assert type(pool.submit(_tasks.identity, chosen).result()) is np.ndarray
    assert chosen.tolist() == [0, 0]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_for_anywhere_holds_the_contents(protocol: int) -> None:
    array = plait.shared_array(3, int)
    array[:] = 5
    pickled = pickle.dumps(array, protocol)
    array[:] = 6
    back = pickle.loads(pickled)
    assert (type(back), back.tolist()) == (np.ndarray, [5, 5, 5])


def test_saved_and_copied_it_is_contents() -> None:
    array = plait.shared_array(3, int)
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    copies = [np.load(file), copy.copy(array), copy.deepcopy(array), copy.deepcopy([array])[0]]
    array[:] = 1
    assert [each.tolist() for each in copies] == [[0, 0, 0]] * 4


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "words"),
    [
        (-1, int, ValueError, "shape must not be negative, as in -1"),
        ((2, -3), int, ValueError, r"shape must not be negative, as in \(2, -3\)"),
        (1.5, int, TypeError, "shape must be an integer or a sequence of them, not 1.5"),
        ((2, "x"), int, TypeError, "shape must be .*'x'"),
        (None, int, TypeError, "shape must be .*None"),
        ((2**40, 2**40), int, ValueError, "shape is too large"),
        (3, object, TypeError, "dtype must not hold Python objects"),
        (3, [("a", "i4"), ("b", "O")], TypeError, "dtype must not hold Python objects"),
        (3, "no such type", TypeError, "no such type"),
        (2**55, "u1", MemoryError, "no shared memory"),
    ],
)
def test_bad_arguments(shape: Any, dtype: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plait.shared_array(shape, dtype)


def test_bad_order() -> None:
    with pytest.raises(ValueError, match="order must be 'C' or 'F', not 'K'"):
        plait.shared_array(3, int, order="K")  # type: ignore[arg-type]


def test_without_numpy_all_other_names_are_there(run_script: Any) -> None:
    source = """
import sys
sys.modules["numpy"] = None
from plait import *
import plait
assert all(name in globals() for name in plait.__all__)
try:
    shared_array(3)
except ImportError as error:
    print(error)
"""
    assert run_script(source).stdout == "plait.shared_array needs numpy: pip install numpy\n"


def test_without_numpy_it_says_so(run_script: Any) -> None:
    source = """
import sys
sys.modules["numpy"] = None
import plait
handle = plait.share([1, 2])
assert handle.get() == [1, 2]
try:
    plait.shared_array(3)
except ImportError as error:
    print(error)
"""
    assert run_script(source).stdout == "plait.shared_array needs numpy: pip install numpy\n"
