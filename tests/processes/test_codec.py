"""The native codec gives what a pickle round trip gives, or refuses."""

from __future__ import annotations

import enum
import math
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, strategies as st

from plait import _core

NAN_WITH_PAYLOAD: float = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_DEAD_BEEF))[0]


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


class Blob(bytes):
    __slots__ = ()


class Weight(float):
    __slots__ = ()


class Point(NamedTuple):
    x: int
    y: int


def fresh(text: str) -> str:
    """An equal str that is another object, where there can be one."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=True),
    st.text(max_size=300),
    st.binary(max_size=300),
)
ODD = st.one_of(
    st.sampled_from(
        [Colour.RED, Name("name"), Blob(b"blob"), Weight(1.5), Point(1, 2), NAN_WITH_PAYLOAD, 1j, {1}, object]
    ),
    st.sampled_from([2**63, -(2**63) - 1, 2**64, -(2**200)]),
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),
    st.sampled_from(["é", "ÿ", "Ā", "€", "\0", "", b"", b"a", ()]),
)


@st.composite
def values(draw: st.DrawFn) -> Any:
    """Values whose parts are drawn from one stock, so that many occur twice: the same object, or an equal one."""
    stock: list[Any] = draw(st.lists(st.one_of(PLAIN, PLAIN, ODD), min_size=1, max_size=8))
    for _ in range(draw(st.integers(0, 6))):
        items = draw(st.lists(st.sampled_from(stock), max_size=draw(st.sampled_from([2, 4, 17]))))
        kind = draw(st.sampled_from([tuple, tuple, list, bytearray, dict]))
        if kind is dict:
            keys = draw(st.lists(PLAIN, min_size=len(items), max_size=len(items)))
            stock.append(dict(zip(keys, items, strict=True)))
        elif kind is bytearray:
            stock.append(bytearray(draw(st.binary(max_size=20))))
        else:
            stock.append(kind(items))
            if kind is list and draw(st.booleans()):
                stock[-1].append(stock[-1])  # a cycle
        if type(stock[0]) is str:
            stock.append(fresh(stock[0]))
    return draw(st.one_of(st.just(stock[-1]), st.sampled_from(stock), st.just(tuple(stock))))


def parts(value: Any) -> list[Any]:
    """All parts, in order; what was met before is not entered again."""
    found: list[Any] = []
    entered: list[Any] = []

    def walk(value: Any) -> None:
        found.append(value)
        if not isinstance(value, tuple | list | dict) or any(value is other for other in entered):
            return
        entered.append(value)
        for item in [part for pair in value.items() for part in pair] if isinstance(value, dict) else value:
            walk(item)

    walk(value)
    return found


def same(left: Any, right: Any) -> bool:
    """Equal in type and to the last bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    return bool(left == right)


def identities(value: Any) -> list[int]:
    """For each part, the place where the same object is first met. Large ints and floats are never shared by pickle."""
    seen: dict[int, int] = {}
    return [seen.setdefault(id(part), place) for place, part in enumerate(parts(value))]


@given(values())
@example((NAN_WITH_PAYLOAD, -0.0, math.inf))
@example(("é", "é", "", "", b"", b"", (), (), True, 1, None, None))
@example((b"a", b"a"))
@example(((((1,),),),))
@example((((((1,),),),),))
def test_gives_what_pickle_gives(value: Any) -> None:
    data = _core.codec_encode(value)
    if data is None:
        return
    ours = _core.codec_decode(data)  # no cycle then
    theirs = pickle.loads(pickle.dumps(value, 5))
    assert same(ours, theirs)
    assert identities(ours) == identities(theirs)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 2**63 - 1, -(2**63), 0.0, math.nan, "", "a", "é", "€uro", "x" * 30_000),
        *(b"", b"a", b"\0" * 30_000, (), (5,), ("abc", 1, 2.5), ((1, (2, (3,))), b"x"), tuple(range(255))),
        *([], {}, [1, [2], "a"], {"a": 1, 2: [b"c"], None: {}}, bytearray(), bytearray(b"a"), {1.5: (), (1, 2): 3}),
        (1000, 1000, 2.5, 2.5, "a", "a", "", "", None, None, (), ()),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_takes_plain_values(value: Any) -> None:
    data = _core.codec_encode(value)
    assert data is not None
    assert same(_core.codec_decode(data), value)


class Items(list[int]):
    __slots__ = ()


SHARED: tuple[Any, ...] = ("shared text", b"shared bytes", (1, 2), [], {}, bytearray())


@pytest.mark.parametrize(
    "value",
    [
        *(2**63, -(2**63) - 1, 1j, {1}, object, len, Colour.RED, Name("a"), Blob(b"a"), Weight(1), Point(1, 2)),
        *("\ud800", ("a\udfff",), (1, Colour.RED), tuple(range(256)), list(range(256)), (((((),),),),), ...),
        *([[[[[]]]]], {"a": {1}}, {Colour.RED: 1}, OrderedDict(a=1), defaultdict(int), Counter("a"), Items([1])),
        *((part, part) for part in SHARED),
        *(((part,), (1, part)) for part in SHARED),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_leaves_the_rest_to_pickle(value: Any) -> None:
    assert _core.codec_encode(value) is None


def test_a_cycle_is_left_to_pickle() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    ring: dict[str, Any] = {}
    ring["ring"] = (ring,)
    assert _core.codec_encode(cycle) is None
    assert _core.codec_encode(ring) is None


def test_a_repeated_float_or_large_int_is_plain() -> None:
    number, weight = 10**15, 1.5
    data = _core.codec_encode((number, number, weight, weight))
    assert data is not None
    assert _core.codec_decode(data) == (number, number, weight, weight)


@given(st.binary(max_size=40))
def test_foreign_bytes_are_refused_or_read_as_a_value(data: bytes) -> None:
    try:
        value = _core.codec_decode(data)
    except ValueError:
        return
    encoded = _core.codec_encode(value)
    assert encoded is None or same(_core.codec_decode(encoded), value)


@given(st.lists(PLAIN, max_size=6).map(tuple), st.data())
def test_a_cut_off_value_is_refused(value: Any, data: st.DataObject) -> None:
    encoded = _core.codec_encode(value)
    if encoded is not None:
        cut = data.draw(st.integers(0, len(encoded) - 1))
        with pytest.raises(ValueError, match="corrupt"):
            _core.codec_decode(encoded[:cut])
