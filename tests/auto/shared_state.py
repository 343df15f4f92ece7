"""Functions that change what outlives their calls, or what they are given, in roundabout ways; and some that look as if they did."""

# ruff: noqa: C416, E501, FURB110, PLC3002, RET503, RUF059

from __future__ import annotations

import array
import bisect
import collections
import contextlib
import contextvars
import dataclasses
import enum
import functools
import heapq
import io
import itertools
import operator
import sys
import threading
import types
from typing import Any

STATS: collections.Counter = collections.Counter()
LOG: list = []
NESTED: dict = {"rows": [[]]}
GROUPS: collections.defaultdict = collections.defaultdict(list)
COUNTER = itertools.count()
ITEMS = iter(range(1000))
FILE = io.StringIO()
VARIABLE = contextvars.ContextVar("VARIABLE", default=0)
MARK = object()
STEP = 1


def helper(number):
    STATS["helper"] += 1
    return number


def pure(number):
    return number + STEP


TABLE = {"helper": helper}
PURE_TABLE = {"pure": pure}
BOUND = functools.partial(helper)


def counted(function) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments):
        wrapper.calls += 1  # type: ignore[attr-defined]
        return function(*arguments)

    wrapper.calls = 0  # type: ignore[attr-defined]
    return wrapper


@counted
def decorated(number):
    return number


class Parser:
    found: list = []

    def parse(self, number):
        STATS["parse"] += 1
        return number

    @property
    def size(self):
        LOG.append(1)
        return 1

    @staticmethod
    def static(number):
        return helper(number)


class Made:
    made = 0

    def __new__(cls):
        cls.made += 1
        return object.__new__(cls)


class Meta(type):
    made = 0

    def __call__(cls):
        Meta.made += 1
        return super().__call__()


class ByMeta(metaclass=Meta):
    pass


class Base:
    known: list = []

    def __init_subclass__(cls):
        Base.known.append(cls.__name__)


class Operators:
    def __add__(self, other):
        LOG.append(other)
        return 0


class Iterates:
    def __iter__(self):
        LOG.append(2)
        return iter([])


class Named:
    def __str__(self):
        LOG.append(1)
        return ""


class Hooked:
    def __getattr__(self, name):
        LOG.append(name)
        return 0


class Descriptor:
    seen = 0

    def __get__(self, owner, kind):
        Descriptor.seen += 1
        return 0


class Described:
    field = Descriptor()


class Context:
    def __enter__(self):
        STATS["context"] += 1

    def __exit__(self, *_):
        pass


@dataclasses.dataclass
class Seen:
    number: int

    def __post_init__(self):
        STATS["seen"] += 1


class Colour(enum.Enum):
    RED = 1


class Account:
    def __init__(self):
        self.total = 0

    def pay(self, number):
        self.total += number

    def look(self):
        return self.total


class Order:
    def __init__(self):
        self.account = Account()


def get():
    return STATS


def get_log():
    return LOG


# fmt: off
# ruff: noqa: E704
def c1(number): return c2(number)
def c2(number): return c3(number)
def c3(number): return c4(number)
def c4(number): return c5(number)
def c5(number): return c6(number)
def c6(number): return c7(number)
def c7(number): return c8(number)
def c8(number): return helper(number)


def local_object(number): return Parser().parse(number)
def local_object_by_name(number):
    parser = Parser()
    return parser.parse(number)
def in_a_list_of_objects(number): return [each.parse(number) for each in [Parser(), Parser()]]
def dispatches(number): return TABLE["helper"](number)
def dispatches_by_get(number): return TABLE.get("helper")(number)  # type: ignore[misc]
def dispatches_by_loop(number): return [each(number) for each in TABLE.values()]
def maps(number): return list(map(helper, [number]))
def sorts(number): return sorted([number], key=helper)
def reduces(number): return functools.reduce(lambda one, other: helper(other), [number, number])
def in_a_thread(number):
    thread = threading.Thread(target=helper, args=(number,))
    thread.start()
def makes_seen(number): return Seen(number)
def by_getter(number): get()["x"] += 1
def by_getter_name(number):
    log = get_log()
    log.append(number)
def in_a_context(number):
    with Context():
        return number
def deep(number): return c1(number)
def alias(number):
    other = helper
    return other(number)
def by_partial(number): return functools.partial(helper, number)()
def by_bound(number): return BOUND(number)
def by_module(number): return getattr(sys.modules[__name__], "helper")(number)
def static(number): return Parser.static(number)
def new(number): return Made()
def by_meta(number): return ByMeta()
def subclass(number):
    class Sub(Base):
        pass
    return number
def reads_property(number):
    parser = Parser()
    return parser.size
def adds(number): return Operators() + number
def iterates(number): return [each for each in Iterates()]
def formats(number): return f"{Named()}"
def hooked(number): return Hooked().field
def described(number): return Described.field
def looks_up(number): return GROUPS[number]
def takes_next(number): return next(COUNTER)
def loops(number):
    for each in ITEMS:
        return each
def prints(number): print(number, file=FILE)
def in_a_dict(number): {"log": LOG}["log"].append(number)
def in_a_list(number):
    box = [LOG]
    box[0].append(number)
def in_a_namespace(number):
    box = types.SimpleNamespace(log=LOG)
    box.log.append(number)
def of_a_class(number): Parser().found.append(number)
def of_a_member(number):
    member = Colour.RED
    member.note = number  # type: ignore[attr-defined]
def of_the_environment(number):
    from os import environ as names
    names["PLAIT_TEST_NOTHING"] = "1"
def in_a_row(number):
    for place, row in enumerate(NESTED["rows"]):
        row.append(number)
def of_the_function(number): pure.calls = number  # type: ignore[attr-defined]
def calls_decorated(number): return decorated(number)


@functools.lru_cache(None)
def kept(number): return number
def asks_kept(number): return kept(number)


def in_a_slice(number): [number, LOG][1:][0].append(number)


def in_a_slice_of_what_is_chosen(number): max([LOG], [LOG])[:1][0].append(number)


CHANGES = [
    local_object, local_object_by_name, in_a_list_of_objects, decorated, calls_decorated, dispatches, dispatches_by_get,
    dispatches_by_loop, maps, sorts, reduces, in_a_thread, makes_seen, by_getter, by_getter_name, in_a_context, deep, alias,
    by_partial, by_bound, BOUND, by_module, static, new, by_meta, subclass, reads_property, adds, iterates, formats, hooked,
    described, looks_up, takes_next, loops, prints, in_a_dict, in_a_list, in_a_namespace, of_a_class, of_a_member,
    of_the_environment, in_a_row, in_a_slice, in_a_slice_of_what_is_chosen, of_the_function,
    asks_kept, kept,
]  # fmt: skip


def adds_in_place(row): row += [1]
def pushes(row): heapq.heappush(row, 1)
def inserts(row): bisect.insort(row, 1)
def sets_by_operator(row): operator.setitem(row, 0, 1)
def appends_by_class(row): list.append(row, 1)
def by_star(*rows): rows[0].append(1)
def unpacks(pair):
    one, other = pair
    one.append(1)
def enumerates(table):
    for place, row in enumerate(table):
        row.append(place)
def comprehends(table): [row.append(1) for row in table]
def matches(table):
    match table:
        case [row]:
            row.append(1)
def chooses(row):
    other = row if row else []
    other.append(1)
def in_a_lambda(row): (lambda other: other.append(1))(row)
def gets(table): table.get("k").append(1)
def loops_values(table):
    for row in table.values():
        row.append(1)
def of_its_part(order): order.account.pay(1)
def of_its_item(orders): orders[0].pay(1)
def of_itself(account): account.pay(1)
def views(data): memoryview(data)[0] = 7
def of_an_array(data): data.fromlist([1])
def takes_its_next(items): return next(items)
def normalise(row): row.sort()
def in_a_helper(row): normalise(row)
def in_a_mapped_helper(rows): return list(map(normalise, rows))
def by_setattr(account): object.__setattr__(account, "total", 1)
def keeps_it(row):
    box = types.SimpleNamespace(row=row)
    box.row.append(1)
def calls_it(function): return function(1)
def asks_for_a_mark(mark): return mark is MARK


ARGUMENTS = [
    (adds_in_place, [0]), (pushes, [0]), (inserts, [0]), (sets_by_operator, [0]), (appends_by_class, [0]), (by_star, [0]),
    (unpacks, ([], [])), (enumerates, [[]]), (comprehends, [[]]), (matches, [[]]), (chooses, [0]), (in_a_lambda, []),
    (gets, {"k": []}), (loops_values, {"k": []}), (of_its_part, Order()), (of_its_item, [Account()]), (of_itself, Account()),
    (views, bytearray(4)), (of_an_array, array.array("i", [0])), (takes_its_next, iter([1, 2])), (in_a_helper, [2, 1]),
    (in_a_mapped_helper, [[2, 1]]), (by_setattr, Account()), (keeps_it, []), (list.sort, [2, 1]), (heapq.heapify, [2, 1]),
    (calls_it, helper), (asks_for_a_mark, MARK),
]  # fmt: skip


def copies(rows):
    rows = [*rows]
    rows.append([])
    mine = sorted(rows)
    mine.append(1)
    for number in range(3):
        mine[number] = number
    return mine
def totals(pairs):
    total = 0
    found: dict = {}
    for name, number in pairs:
        total += number
        found.setdefault(name, []).append(number)
        found[name].append(number)
    return total, found
def reads_rows(rows): return [row["name"].strip().lower() for row in rows if row.get("name")]
def pays_its_own(number):
    account = Account()
    account.pay(number)
    return account.look()
def looks_at(account): return account.look() + account.total
def dispatches_well(number): return PURE_TABLE["pure"](number)
def maps_well(number): return list(map(pure, range(number)))
def pushes_its_own(number):
    heap: list = []
    for each in range(number):
        heapq.heappush(heap, each)
    return heap
def nests(number):
    seen: set = set()
    def walk(value):
        seen.add(value)
        return walk(value - 1) if value else len(seen)
    return walk(number)
def counts_within(number):
    count = 0
    def add():
        nonlocal count
        count += 1
    add()
    return count
def caches_within(number):
    @functools.lru_cache(None)
    def ways(left):
        return 1 if left < 2 else ways(left - 1) + ways(left - 2)
    return ways(number)
@contextlib.contextmanager
def entered(number):
    yield number
def enters(number):
    with entered(number) as it:
        return it
def groups(words):
    found = collections.defaultdict(list)
    for word in words:
        found[len(word)].append(word)
    return {size: sorted(each) for size, each in found.items()}


HARMLESS = [
    (copies, [[]]), (totals, [("a", 1)]), (reads_rows, [{"name": "a"}]), (pays_its_own, 1), (looks_at, Account()),
    (dispatches_well, 1), (maps_well, 1), (pushes_its_own, 3), (nests, 3), (counts_within, 1), (caches_within, 5), (enters, 1),
    (groups, ["a"]), (pure, 1),
]  # fmt: skip
