"""What a function changes that outlives its call: found in its source, and nothing found where there is nothing."""

# Bodies as people write them: some of what they do is odd on purpose.
# ruff: noqa: C416, E501, E731, LOG015, PERF402, PLC3002, SIM115

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import io
import itertools
import json
import logging
import lzma
import math
import os
import random
import re
import sys
import threading
import warnings
import zlib

import pytest

from benches.model import workloads
from plait.auto._source import node_of
from plait.auto._writes import Search, find_change
from tests.auto import shared_state

CACHE: dict = {}
TABLE = {1: 2}
COUNT = 0
NUMBERS = itertools.count()
ROWS = (row for row in range(1000))
LOG: list = []
CALLS: collections.Counter = collections.Counter()
LOCK = threading.Lock()
PATTERN = re.compile("a+")
FILE = open(os.devnull, "w", encoding="ascii")
logger = logging.getLogger("plait.tests")


def counted(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        CALLS[function.__name__] += 1
        return function(*arguments)

    return wrapper


def passed_on(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


class State:
    total = 0

    def __init__(self):
        self.n = 0

    def __call__(self, number):
        self.n += number

    def look(self, number):
        return self.n + number

    def change(self, number):
        self.n = number

    @classmethod
    def change_class(cls, number):
        cls.total += number


def sets_global(number):
    global COUNT
    COUNT += number


def fills(number):
    CACHE[number] = 1


def fills_by_another_name(number):
    cache = CACHE
    cache[number] = 2


def adds_in_place(number):
    log = LOG
    log += [number]


def appends(number):
    LOG.append(number)


def calls(number):
    return appends(number)


def calls_with_a_star(number):
    return appends(*[number])


def deletes(number):
    del CACHE[number]


def takes_the_next(number):
    return next(NUMBERS) + number


def takes_some(number):
    return sum(itertools.islice(NUMBERS, number))


def takes_in_a_loop(number):
    total = number
    for each in ROWS:
        total += each
    return total


def takes_within_a_comprehension(number):
    return [each for each, _ in zip(ROWS, range(number), strict=False)]


@counted
def is_counted(number):
    return number


@passed_on
def appends_within(number):
    LOG.append(number)


def has_a_cache(number, cache={}):
    cache[number] = 1


def has_a_keyword_cache(number, *, cache=[]):
    cache.append(number)


def generates(number):
    yield number
    LOG.append(number)


def logs(number):
    logger.info("it is %s", number)


def logs_by_the_module(number):
    logging.info("it is %s", number)


@functools.lru_cache
def is_cached(number):
    return number


def draws(number):
    return random.random() + number


def seeds(number):
    random.seed(number)


def sets_environment(number):
    os.environ["PLAIT_TEST_NOTHING"] = str(number)


def changes_folder(path):
    os.chdir(path)


def writes_to_a_file(number):
    FILE.write(str(number))


def writes_to_stdout(number):
    sys.stdout.write(str(number))


def sets_by_name(number):
    setattr(State, "total", number)


def sets_a_class(number):
    State.total = number


def sets_a_module(number):
    math.tau_of_mine = number  # type: ignore[attr-defined]


def uses_globals(number):
    globals()["COUNT"] = number


def in_a_lambda(number):
    return (lambda value: LOG.append(value))(number)


def in_a_function_within(number):
    def add(value):
        LOG.append(value)

    return add(number)


def hands_a_method_on(numbers):
    return list(map(LOG.append, numbers))


def takes_a_method(number):
    add = LOG.append
    add(number)


def takes_a_lock(number):
    with LOCK:
        return number


def changes_its_argument(number, found):
    found.append(number)


def sets_in_its_argument(found):
    found[0] = 1


def fills_what_its_argument_has(found):
    found.numbers.append(1)


def sets_in_what_its_argument_has(found):
    found.numbers[0] = 1


def fills_rows(rows):
    for row in rows:
        row.append(1)


BLOB = bytes(1000)
NOTHING = None
EMPTY = ()
PAIRS = ((1, 2), (3, 4))


def adds_to_what_may_be_a_constant(number):
    found = BLOB if number else [LOG]
    found[0].append(number)  # type: ignore[union-attr]


def adds_to_what_was_a_constant(number):
    found = NOTHING
    for each in range(number):
        if found is None:
            found = {"log": LOG}
        found["log"].append(each)


def adds_to_what_an_object_may_hold(number):
    found = NOTHING if number else Holds()
    found.log.append(number)  # type: ignore[union-attr]


def adds_to_its_argument_or_a_constant(rows):
    for row in rows or BLOB:
        row.append(1)  # type: ignore[union-attr]


def adds_to_its_argument_or_an_empty_tuple(rows):
    for row in rows or EMPTY:
        row.append(1)


def adds_to_its_argument_or_a_table(rows):
    found = rows or TABLE
    found[1].append(1)  # type: ignore[union-attr]


def adds_to_what_may_be_a_tuple(number):
    found = PAIRS if number else [LOG]
    found[0].append(number)  # type: ignore[union-attr]


def adds_to_what_may_be_in_a_table(number):
    found = TABLE if number else {1: LOG}
    found[number].append(number)  # type: ignore[union-attr]


class Holds:
    def __init__(self):
        self.log = LOG


class Kept:
    def __init__(self):
        self.asked = []

    def get(self, number):
        self.asked.append(number)
        return number

    def note(self, number):
        self.asked.append(number)

    def asks(self, number):
        return self.get(number)


kept = Kept()


def asks_what_is_kept(number):
    return kept.get(number)


def silences_for_good(number):
    warnings.simplefilter("ignore")
    return number


def imports_within(number):
    import os as system

    system.environ["PLAIT_TEST_NOTHING"] = str(number)


def closures():
    seen = set()
    last = 0

    def adds(number):
        seen.add(number)

    def sets(number):
        nonlocal last
        last = number

    def looks(number):
        return number in seen, last

    return adds, sets, looks


adds, sets, looks = closures()
state = State()
short = lambda number: LOG.append(number)


@pytest.mark.parametrize(
    "function",
    [
        sets_global, fills, fills_by_another_name, adds_in_place, appends, calls, calls_with_a_star, deletes, is_counted,
        appends_within, has_a_cache, has_a_keyword_cache, generates, logs, logs_by_the_module, draws, seeds, sets_environment,
        changes_folder, writes_to_a_file, writes_to_stdout, sets_by_name, sets_a_class, sets_a_module, uses_globals, in_a_lambda,
        in_a_function_within, hands_a_method_on, takes_a_method, takes_a_lock, changes_its_argument, sets_in_its_argument,
        imports_within, adds, sets, short, is_cached, state, state.change, State.change_class, LOG.append,
        functools.partial(appends, 1),
        fills_what_its_argument_has, sets_in_what_its_argument_has, fills_rows,
        adds_to_what_may_be_a_constant, adds_to_what_was_a_constant, adds_to_what_an_object_may_hold,
        adds_to_its_argument_or_a_constant, adds_to_its_argument_or_an_empty_tuple, adds_to_what_may_be_a_tuple,
        adds_to_what_may_be_in_a_table, adds_to_its_argument_or_a_table, Kept.note, kept.note, kept.asks, asks_what_is_kept,
        silences_for_good, takes_the_next, takes_some, takes_in_a_loop, takes_within_a_comprehension,
    ],
    ids=lambda function: getattr(function, "__name__", type(function).__name__),
)  # fmt: skip
def test_a_change_is_found(function):
    assert find_change(function) is not None


def pure(number):
    return math.sqrt(number) + TABLE.get(1, 0) + len(TABLE)


def hands_to_what_looks(number):
    return json.dumps(TABLE), number


def reads(number):
    out = []
    for key in TABLE:
        out.append(key)
    return out, [item for item in TABLE.items()], number


def changes_its_own(number):
    found = {}
    found[number] = 1
    found.update(a=2)

    def inner():
        found[1] = 2

    inner()
    return found


def changes_a_copy(numbers):
    numbers = sorted(numbers)
    numbers.append(1)
    return numbers


def makes_an_object(number):
    made = State()
    made.change(number)
    return made.n


def draws_from_its_own(seed):
    return random.Random(seed).random()


def matches(text):
    return PATTERN.sub("b", text), os.environ.get("HOME")


row = Kept()


def has_an_argument_of_that_name(row):
    return pure(row)


def has_a_local_of_that_name(number):
    row = [number]
    row.append(1)
    return [pure(row) for row in [row, row]]


def silences_for_a_while(number):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return math.sqrt(number)


def compresses_a_part(number):
    return lzma.compress(BLOB[number:], preset=0), zlib.compress(BLOB)


@passed_on
def doubles(number):
    return 2 * number


@pytest.mark.parametrize(
    "function",
    [
        pure, hands_to_what_looks, reads, changes_its_own, changes_a_copy, makes_an_object, draws_from_its_own, matches, doubles,
        compresses_a_part,
        has_an_argument_of_that_name, has_a_local_of_that_name, silences_for_a_while,
        looks, state.look, State, hashlib.sha256, abs, len, functools.partial(pow, 2), (lambda number: number * 2),
        *(work.run for work in workloads.WORKS.values()),
    ],
    ids=lambda function: getattr(function, "__name__", type(function).__name__),
)  # fmt: skip
def test_nothing_is_found_where_there_is_nothing(function):
    assert find_change(function) is None


def test_what_is_printed_to_a_stdout_of_this_process_stays():
    def prints(number):
        print(number)

    with contextlib.redirect_stdout(io.StringIO()):
        assert find_change(prints) is not None


def test_a_change_says_what_and_where():
    change = find_change(fills)
    assert change is not None
    assert str(change) == f"fills (line {fills.__code__.co_firstlineno + 1}) changes `CACHE`"


def test_without_a_source_what_can_be_changed_counts_as_a_change():
    names: dict = {"LOG": []}
    exec("look = lambda number: number + len(LOG)", names)
    exec("add = lambda number: number + 1", names)
    assert find_change(names["look"]) is not None
    assert find_change(names["add"]) is None


def test_methods_of_arguments_are_followed_where_their_class_is_known():
    def asks(it, number):
        return it.get(number)

    assert find_change(asks) is None
    assert find_change(asks, (Kept, int)) is not None
    assert find_change(asks, (dict, int)) is None


def test_code_that_was_made_in_a_module_is_not_taken_for_the_modules_own_lines(tmp_path, monkeypatch):
    (tmp_path / "module_with_lines.py").write_text("def work(number):\n    return number\nseen = []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import module_with_lines  # type: ignore[import-not-found]

    code = "def work(number):\n    seen.append(number)\n    return number\n"
    exec(compile(code, "made.py", "exec"), module_with_lines.__dict__)
    assert find_change(module_with_lines.work) is not None


def test_the_source_of_a_function_is_found_once_and_what_it_reaches_each_time():
    def made(items):
        def add(number):
            return len(items) + number

        return add

    one, other = made((1, 2)), made([1, 2])
    assert node_of(one) is node_of(other) is not None

    def calling(function):
        def call(number):
            return function(number)

        return call

    assert find_change(calling(abs)) is None
    assert find_change(calling(LOG.append)) is not None
    assert find_change(calling(abs)) is None


def name_of(value):
    return getattr(value, "__name__", type(value).__name__)


@pytest.mark.parametrize("function", shared_state.CHANGES, ids=name_of)
def test_shared_state_is_found_behind_what_is_called(function):
    assert Search((int,), knows_kinds=True).change(function) is not None


@pytest.mark.parametrize(("function", "argument"), shared_state.ARGUMENTS, ids=name_of)
def test_a_change_of_an_argument_is_found_however_it_is_reached(function, argument):
    assert Search((type(argument),), knows_kinds=True).change(function) is not None


@pytest.mark.parametrize(("function", "argument"), shared_state.HARMLESS, ids=name_of)
def test_what_changes_only_its_own_may_leave(function, argument):
    assert Search((type(argument),), knows_kinds=True).change(function) is None


def test_arguments_by_name_have_classes_too():
    def pays(number, account=None):
        account.pay(number)

    kinds: dict[str, type] = {"account": shared_state.Account}
    assert Search((int,), kinds, knows_kinds=True).change(pays) is not None


def test_what_is_bound_is_an_argument():
    assert find_change(functools.partial(shared_state.in_a_helper, [2, 1])) is not None


def test_what_a_function_reads_is_noted():
    search = Search((int,), knows_kinds=True)
    assert search.change(shared_state.dispatches_well) is None
    names = {path for _, path in search.notes}
    assert {"dispatches_well", "PURE_TABLE", "STEP"} <= names
