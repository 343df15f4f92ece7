"""What a look at arguments and results does to them: nothing; and what it finds."""

from __future__ import annotations

import io
import itertools
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from plait.advice import _state
from plait.advice._calls import measured_calls
from plait.advice._meter import Meter, measured
from plait.advice._meters import Meters
from plait.advice._pickles import pickled


class Rows:
    """An iterator that says itself how it is pickled, and takes everything for that."""

    def __init__(self) -> None:
        self.left = [1, 2, 3]

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        return self.left.pop()

    def __reduce__(self) -> tuple[Any, ...]:
        return iter, (list(self),)


class Draining(list[int]):
    """A list that is empty once it has been gone through."""

    def __iter__(self) -> Iterator[int]:
        while self:
            yield self.pop()


class Numbers:
    """Has its items by number, and says to nobody how many there are."""

    def __getitem__(self, at: int) -> int:
        if at > 3:
            raise IndexError(at)
        return at

    def __len__(self) -> int:
        raise NotImplementedError


class Backwards(Numbers):
    """Says how many there are to the first who asks."""

    def __init__(self) -> None:
        self.asked = False

    def __len__(self) -> int:
        if self.asked:
            raise NotImplementedError
        self.asked = True
        return 4


def look(items: Any) -> None:
    """Take nothing."""


def take(items: Any) -> Any:
    return next(items, None) if hasattr(items, "__next__") else None


@pytest.mark.parametrize(
    "made",
    [
        lambda: (number for number in (1, 2, 3)),
        lambda: iter([1, 2, 3]),
        lambda: iter({1: 1, 2: 2, 3: 3}),
        lambda: map(str, iter([1, 2, 3])),
        lambda: zip(iter([1, 2, 3]), iter([1, 2, 3]), strict=True),
        lambda: enumerate(Rows()),
        lambda: filter(None, Rows()),
        lambda: itertools.islice(iter([1, 2, 3]), 3),
        lambda: itertools.chain([1], [2, 3]),
        lambda: io.StringIO("one\ntwo\nthree\n"),
        Rows,
    ],
)
@pytest.mark.parametrize("within", [lambda each: each, lambda each: [each], lambda each: {"key": each}])
def test_nothing_is_taken(made: Callable[[], Any], within: Callable[[Any], Any]) -> None:
    items = made()
    _, error = measured_calls(look, [(within(items),)] * 4)
    assert error is None
    assert len(list(items)) == 3


def metered(function: Callable[..., Any], *given: tuple[Any, ...]) -> Meter:
    meter = Meter(f"module.{function.__name__}", program=True)
    meter.function = function
    for each in given:
        measured(meter, function, each, {})
    return meter


ONE: tuple[Callable[[], Any], ...] = (
    lambda: iter(range(9)),
    lambda: iter(list(range(9))),
    lambda: map(str, range(9)),
    lambda: zip(range(9), range(9), strict=True),
    lambda: (number for number in range(9)),
    Rows,
    lambda: iter(cast("Any", Numbers())),
    lambda: reversed(Backwards()),
    lambda: itertools.count(1),
)


@pytest.mark.parametrize("made", ONE)
def test_the_one_iterator_of_all_calls(made: Callable[[], Any]) -> None:
    items = made()
    assert metered(take, (items,), (items,), (items,)).change == "takes from `items`, the one iterator of all calls"


@pytest.mark.parametrize("made", ONE[:-1])
def test_an_iterator_of_each_call(made: Callable[[], Any]) -> None:
    meter = Meter("module.take", program=True)
    for _ in range(3):
        measured(meter, take, (made(),), {})  # at the same address, most often
    assert meter.change == ""


def test_a_call_in_another_thread_meanwhile() -> None:
    def work(items: Any, beside: Callable[[], None] | None) -> Any:
        if beside is not None:
            thread = threading.Thread(target=beside)
            thread.start()
            thread.join()
        return take(items)

    items = iter(range(9))
    meter = Meter("module.work", program=True)
    meter.function = work
    assert measured(meter, work, (items, lambda: measured(meter, work, ([1], None), {})), {}) == 0
    assert measured(meter, work, (items, None), {}) == 1
    assert meter.change == "takes from `items`, the one iterator of all calls"


def test_a_connection_of_all_calls() -> None:
    base = sqlite3.connect(":memory:")
    meter = metered(look, (base,), (base,), (base,))
    base.close()
    assert _state.held_by_one(meter) == "`items`"
    assert _state.held_by_one(metered(look, *[(io.StringIO(),) for _ in range(3)])) == ""


class Counted:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.value = 0

    def __reduce__(self) -> tuple[Any, ...]:
        self.asked += 1
        return Counted, ()


class Stated(Counted):
    """Counts in another way."""

    __reduce__ = object.__reduce__  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, int]:
        self.asked += 1
        return {}


def same(thing: Counted, value: int = 0) -> Counted:
    thing.value = value
    return thing


@pytest.mark.parametrize("kind", [Counted, Stated])
def test_the_program_is_asked_once_how_something_is_pickled(kind: type[Counted]) -> None:
    things = [kind() for _ in range(4)]
    meter = metered(same, *[(thing,) for thing in things])
    assert [thing.asked for thing in things] == [1, 1, 1, 0]
    assert meter.change == ""


class Account:
    """Leaves out of its pickle what cannot be pickled, and what it has worked out."""

    def __init__(self, locked: bool = True) -> None:
        self.value = 0
        self.lock = threading.Lock() if locked else None
        self.worked_out: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, int]:
        return {"value": self.value}


def credit(thing: Account) -> None:
    thing.value += 1


def work_out(thing: Account) -> None:
    thing.worked_out["twice"] = 2 * thing.value


def keep_a_lock(thing: Account) -> None:
    thing.worked_out["lock"] = threading.Lock()


def credit_and_keep_a_lock(thing: Account) -> None:
    keep_a_lock(thing)
    credit(thing)


class By:
    """Makes an item; what it makes it by is none of its pickle."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self) -> Any:
        return self.make()


def append(items: list[Any], item: Any) -> None:
    items.append(item())


@pytest.mark.parametrize("item", [Account, threading.Lock, lambda: 1, lambda: bytes(5 << 20), lambda: iter([1])])
def test_what_gets_something_has_changed(item: Callable[[], Any]) -> None:
    assert metered(append, ([1], By(item))).change == "changes its argument `items`"


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("within", [lambda each: each, lambda each: [each], lambda each: {"key": each}])
def test_what_says_itself_how_it_is_pickled_changes_by_what_it_says(locked: bool, within: Callable[[Any], Any]) -> None:
    def changed_by(function: Callable[[Account], None]) -> str:
        def through(thing: Any) -> None:
            function(account)

        account = Account(locked)
        return metered(through, (within(account),)).change

    told = "changes its argument `thing`"
    assert [changed_by(function) for function in (credit, credit_and_keep_a_lock)] == [told, told]
    # A cache, or what has to be made anew anyway.
    assert [changed_by(function) for function in (look, work_out, keep_a_lock)] == ["", "", ""]


def test_a_list_that_empties_itself() -> None:
    given = Draining([1, 2, 3])
    pickled(given, quiet=True)
    assert len(given) == 3


def test_frames_of_meters_are_none_of_a_traceback() -> None:
    def fail(number: int) -> None:
        raise ValueError(number)

    meters = Meters()
    metered_one = meters.function(fail)
    for number in range(5):
        with pytest.raises(ValueError, match=str(number)) as caught:
            metered_one(number)
        assert [frame.name for frame in traceback.extract_tb(caught.tb)][1:] == ["fail"]
    meters.end()


def test_what_the_look_shows_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\ntwo\n")
    with path.open() as file:
        meter = metered(look, (file,), (file,))
        assert file.read() == "one\ntwo\n"
    assert "cannot pickle" in meter.unpicklable
