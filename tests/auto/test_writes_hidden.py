"""What is changed by way of libraries, callers of methods and classes within a function; and what is only read so."""

from __future__ import annotations

import bisect
import operator

import numpy as np
import pytest

from plait.auto._writes import Search

ARRAY = np.zeros(5)
ROWS: list = [1, 2]


def name_of(value):
    return getattr(value, "__name__", type(value).__name__)


def clips_it(data):
    np.clip(data, 0, 1, data)


def clips_itself(data):
    data.clip(0, 1, data)


def sums_itself(data):
    data.cumsum(0, None, data)


def adds_to_it(data):
    np.add(data, 1, data)


@pytest.mark.parametrize("function", [clips_it, clips_itself, sums_itself, adds_to_it], ids=name_of)
def test_arrays_that_results_are_written_to_are_changed(function):
    assert Search((np.ndarray,), knows_kinds=True).change(function) is not None


def clips(data):
    return np.clip(data, 0, 1)


def clips_its_own(data):
    own = np.zeros(5)
    np.clip(data, 0, 1, own)
    return own


def clips_by_a_method(data):
    return data.clip(0, 1).sum(0)


@pytest.mark.parametrize("function", [clips, clips_its_own, clips_by_a_method], ids=name_of)
def test_arrays_that_are_read_may_leave(function):
    assert Search((np.ndarray,), knows_kinds=True).change(function) is None


def parts_itself(data):
    data.partition(2)


def writes_to_a_tuple(data):
    np.add(data, 1, out=(data,))


def makes_numbers_of_it(data):
    np.nan_to_num(data, copy=False)


APPENDS = operator.methodcaller("append", 1)
SORTS = operator.methodcaller("sort", reverse=True)


def calls_one_that_is_kept(rows):
    APPENDS(rows)


def calls_one_with_names(rows):
    SORTS(rows)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (parts_itself, np.ndarray),
        (writes_to_a_tuple, np.ndarray),
        (makes_numbers_of_it, np.ndarray),
        (calls_one_that_is_kept, list),
        (calls_one_with_names, list),
    ],
    ids=name_of,
)
def test_arguments_are_changed_in_other_ways_too(function, kind):
    assert Search((kind,), knows_kinds=True).change(function) is not None


def splits_it(number):
    for part in np.array_split(ARRAY, 4):
        part += number


def has_its_median(_):
    return np.median(ARRAY, overwrite_input=True)


def has_its_differences(number):
    found = np.diff(ARRAY, 0)
    found += number


def adds_into_a_tuple(number):
    np.add(ARRAY, number, out=(ARRAY,))


OBJECTS = np.array([[], [1]], dtype=object)


def takes_the_greatest(number):
    np.maximum(OBJECTS, OBJECTS)[0].append(number)


def transforms_it(_):
    np.fft.fft(np.zeros(5), out=ARRAY)


def sets_an_object(number):
    class Keeper:
        def set(self, rows):
            self.rows = rows

        def add(self):
            self.rows.append(number)

    keeper = Keeper()
    keeper.set(ROWS)
    keeper.add()


def has_a_class_by_another_name(number):
    class Keeper:
        def __init__(self, rows):
            self.rows = rows

        def add(self):
            self.rows.append(number)

    other = Keeper
    other(ROWS).add()


def clips_all(_):
    np.clip(ARRAY, 0, 1, ARRAY)


def adds_to_all(number):
    np.add(ARRAY, number, ARRAY)


def puts(number):
    np.put(ARRAY, [0], [number])


def calls_a_method(number):
    operator.methodcaller("append", number)(ROWS)


def calls_a_method_later(number):
    call = operator.methodcaller("append", number)
    call(ROWS)


def maps_a_method(name):
    return list(map(operator.methodcaller(str(name)), [ROWS]))


def keeps_in_an_object(number):
    class Keeper:
        def __init__(self):
            self.rows = ROWS

        def add(self):
            self.rows.append(number)

    Keeper().add()


def keeps_deep_in_an_object(number):
    class Keeper:
        def __init__(self):
            self.all = {"rows": [ROWS]}

        def add(self):
            self.all["rows"][0].append(number)

    Keeper().add()


def keeps_in_a_class(number):
    class Keeper:
        rows = ROWS

    Keeper().rows.append(number)


def hands_to_an_object(number):
    class Keeper:
        def __init__(self, rows):
            self.rows = rows

        def add(self):
            self.rows.append(number)

    Keeper(ROWS).add()


@pytest.mark.parametrize(
    "function",
    [
        clips_all, adds_to_all, puts, calls_a_method, calls_a_method_later, maps_a_method, keeps_in_an_object,
        keeps_deep_in_an_object, keeps_in_a_class, hands_to_an_object, splits_it, has_its_median, has_its_differences,
        adds_into_a_tuple, takes_the_greatest, transforms_it, sets_an_object, has_a_class_by_another_name,
    ],
    ids=name_of,
)  # fmt: skip
def test_what_outlives_the_call_is_changed(function):
    assert Search((int,), knows_kinds=True).change(function) is not None


def hands_its_argument_to_an_object(rows):
    class Keeper:
        def __init__(self, rows):
            self.rows = rows

    Keeper(rows).rows.append(1)


def test_an_argument_that_an_object_is_given_is_changed():
    assert Search((list,), knows_kinds=True).change(hands_its_argument_to_an_object) is not None


def has_a_polynomial(number):
    return float(np.poly1d([1.0, 2.0])(np.zeros(3)).sum()) + number


def looks_up(number):
    return bisect.bisect_left(ROWS, number) + float(np.dot(ARRAY, ARRAY)) + float(np.linalg.norm(ARRAY))


def calls_a_safe_method(number):
    return operator.methodcaller("upper")(str(number))


def has_an_object(number):
    class Counter:
        def __init__(self, begin):
            self.count = begin
            self.seen = []

        def add(self):
            self.count += 1
            self.seen.append(self.count)
            return self.count

    return Counter(number).add()


def has_an_error(number):
    class Odd(Exception):
        pass

    try:
        raise Odd(number)
    except Odd:
        return number


@pytest.mark.parametrize(
    "function", [looks_up, calls_a_safe_method, has_an_object, has_an_error, has_a_polynomial], ids=name_of
)
def test_what_is_only_read_may_leave(function):
    assert Search((int,), knows_kinds=True).change(function) is None
