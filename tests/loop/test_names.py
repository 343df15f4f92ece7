"""Names and addresses: what is numeric is answered at once, and exactly as the system answers."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest
from hypothesis import example, given, settings, strategies as st

import plait

HOSTS = [
    None,
    "127.0.0.1",
    b"127.0.0.1",
    "127.1",
    "0x7f.1",
    "0177.0.0.1",
    "2130706433",
    "0.0.0.0",
    "255.255.255.255",
    "::",
    "::1",
    b"::1",
    "::ffff:127.0.0.1",
    "fe80::1",
    "fe80::1%1",
    "fe80::1%lo",
    b"fe80::1%lo",
    "::1%lo",
    "ff02::1%lo",
    "2001:db8::5%7",
]
# Look like addresses. Without a flag that forbids it they are asked of a server, who is not to be troubled here.
NEARLY = [
    "",
    b"",
    "1.2.3.4.5",
    "256.0.0.1",
    "[::1]",
    "fe80::1%no-such-interface",
    "fe80::1%",
    "127.0.0.1%lo",
    " 127.0.0.1",
    "127.0.0.1 ",
    "127.0.0.1\0",
    "\uff11\uff12\uff17.0.0.1",
]
PORTS = [
    None,
    0,
    80,
    65535,
    65536,
    70000,
    -1,
    2**31,
    2**63,
    2**64,
    True,
    "80",
    b"80",
    "",
    " 80",
    "+80",
    "0x50",
    "80x",
    "٨٠",
]
FAMILIES = [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 99]
KINDS = [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET, 99]
PROTOS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, 99]
FLAGS = [
    0,
    socket.AI_PASSIVE,
    socket.AI_CANONNAME,
    socket.AI_NUMERICHOST,
    socket.AI_NUMERICSERV,
    socket.AI_ADDRCONFIG,
    socket.AI_V4MAPPED,
    socket.AI_V4MAPPED | socket.AI_ALL,
    socket.AI_PASSIVE | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    -1,
]


def outcome(call):
    """What comes of it, with the types; of errors the type and what they say."""
    try:
        found = call()
    except Exception as error:
        return type(error), str(error)
    return [(each, [type(part) for part in each], [type(part) for part in each[4]]) for each in found]


def drive(coro):
    """Run a coroutine that must not wait."""
    try:
        coro.send(None)
    except StopIteration as done:
        return done.value
    coro.close()
    raise AssertionError("it waits")


def is_numeric(host, port, family, kind, proto, flags):
    """Whether the system can answer without asking anybody."""
    try:
        with_service = isinstance(port, str | bytes)
        flags |= int(socket.AI_NUMERICHOST) | (int(socket.AI_NUMERICSERV) if with_service else 0)
        socket.getaddrinfo(host, port, family, kind, proto, flags)
        return host is None or host.isascii()
    except Exception:
        return False


class Here(plait.EventLoop):
    """Asks the system in this very thread, so that a combination costs no thread."""

    asked = 0

    def run_in_executor(self, executor, func, *args):
        self.asked += 1
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture(scope="module")
def here():
    loop = Here()
    yield loop
    loop.close()


def compare(here, host, port, family, kind, proto, flags):
    expected = outcome(lambda: socket.getaddrinfo(host, port, family, kind, proto, flags))

    async def ask():
        return await here.getaddrinfo(host, port, family=family, type=kind, proto=proto, flags=flags)

    before = here.asked
    for _ in range(2):  # the second answer may be one that was kept
        assert outcome(lambda: here.run_until_complete(ask())) == expected, (host, port, family, kind, proto, flags)
    if is_numeric(host, port, family, kind, proto, flags):
        assert here.asked == before, f"a thread was used for {host!r}"


def test_thousands_of_combinations(here):
    """Hosts with every family and kind, then the other dimensions against one another: some thousands."""
    combinations = {
        *itertools.product(range(len(HOSTS)), [1, 2], range(len(FAMILIES)), range(len(KINDS)), [0], [0]),
        *itertools.product(range(len(HOSTS)), [2, 11], [0, 1, 2], [0, 1], [0, 1], range(len(FLAGS))),
        *itertools.product([0, 1, 9, 14], range(len(PORTS)), [0, 2], [0, 1], [0, 2], [0, 1, 4]),
        *itertools.product([0, 1, 9, 14], [2], range(len(FAMILIES)), range(len(KINDS)), range(len(PROTOS)), [0, 2]),
    }
    assert len(combinations) > 4000
    for host, port, family, kind, proto, flags in sorted(combinations):
        compare(here, HOSTS[host], PORTS[port], FAMILIES[family], KINDS[kind], PROTOS[proto], FLAGS[flags])


@pytest.mark.parametrize("host", NEARLY)
def test_what_is_nearly_an_address(here, host):
    for flags in (socket.AI_NUMERICHOST, socket.AI_NUMERICHOST | socket.AI_PASSIVE):
        compare(here, host, 80, 0, socket.SOCK_STREAM, 0, flags)
    if is_numeric(host, 80, 0, socket.SOCK_STREAM, 0, 0):
        compare(here, host, 80, 0, socket.SOCK_STREAM, 0, 0)


@pytest.mark.parametrize("host", NEARLY)
def test_what_is_nearly_an_address_is_left_to_the_lookup_of_names(here, monkeypatch, host):
    """With a lookup that answers in place of a server."""
    if is_numeric(host, 80, 0, socket.SOCK_STREAM, 0, 0):
        pytest.skip("the system takes it for a number")
    found = []
    monkeypatch.setattr(here, "run_in_executor", lambda _executor, function, *args: answer(here, function, args, found))
    answered = here.run_until_complete(here.getaddrinfo(host, 80, type=socket.SOCK_STREAM))
    assert answered == "an answer"
    assert found == [(socket.getaddrinfo, (host, 80, 0, socket.SOCK_STREAM, 0, 0))]


def answer(loop, function, args, found):
    found.append((function, args))
    future = loop.create_future()
    future.set_result("an answer")
    return future


V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)


@settings(max_examples=500, deadline=None)
@given(
    host=st.one_of(V4, V6, V6.map(lambda each: each + "%lo"), V6.map(lambda each: each.upper()), V4.map(str.encode)),
    port=st.one_of(st.none(), st.integers(-5, 70_000), st.integers(0, 99_999).map(str)),
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from(KINDS),
    proto=st.sampled_from(PROTOS),
    flags=st.sampled_from(FLAGS),
)
@example("fe80::1%lo", 80, 0, 0, 0, 0)
@example("fe80::1%1", 80, 0, 1, 0, 0)
def test_any_address(here, host, port, family, kind, proto, flags):
    compare(here, host, port, family, kind, proto, flags)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((5, 80), {}),
        (([], 80), {}),
        (("127.0.0.1", 8.5), {}),
        (("127.0.0.1", []), {}),
        (("127.0.0.1", 80), {"type": 1.0}),
        (("127.0.0.1", 80), {"family": "x"}),
        (("127.0.0.1", 80), {"flags": None}),
        (("127.0.0.1", 80), {"proto": []}),
    ],
    ids=str,
)
def test_odd_questions_are_the_systems_to_refuse(here, given, options):
    async def ask():
        return await here.getaddrinfo(*given, **options)

    here.run_until_complete(here.getaddrinfo("127.0.0.1", 80, type=1))  # an equal question must not answer it
    expected = outcome(lambda: socket.getaddrinfo(*given, **options))
    assert outcome(lambda: here.run_until_complete(ask())) == expected


def test_answers_are_the_callers_own(here):
    async def ask():
        return await here.getaddrinfo("127.0.0.1", 80)

    first = here.run_until_complete(ask())
    first.clear()
    assert here.run_until_complete(ask()) == socket.getaddrinfo("127.0.0.1", 80)


def test_a_program_may_put_its_own_lookup_in_place(run, monkeypatch):
    """Of addresses too: it may want to forbid some."""
    asked = []

    def mine(*args, **kwargs):
        asked.append(args[0])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5))]

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(socket, "getaddrinfo", mine)
        monkeypatch.setattr(socket, "getnameinfo", lambda *_: ("mine", "too"))
        assert await loop.getaddrinfo("192.0.2.1", 80) == mine("192.0.2.1")
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await loop.getnameinfo(("127.0.0.1", 80), numeric) == ("mine", "too")

    run(main())
    assert asked == ["192.0.2.1"] * 2


REPLACED_EARLY = """
import asyncio, socket
import plait

real, asked = socket.getaddrinfo, []

def mine(*args, **kwargs):
    asked.append(args[0])
    return real("127.0.0.1", args[1], type=socket.SOCK_STREAM)

socket.getaddrinfo = mine
socket.getnameinfo = lambda *args: ("mine", "too")

async def main():
    loop = asyncio.get_running_loop()
    assert await loop.getaddrinfo("192.0.2.1", 80) == real("127.0.0.1", 80, type=socket.SOCK_STREAM)
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop.getnameinfo(("192.0.2.1", 80), numeric) == ("mine", "too")

plait.run(main())
print(asked)
"""


def test_a_program_may_have_put_its_own_lookup_in_place_before_the_loop_is_first_used(run_script):
    assert run_script(REPLACED_EARLY).stdout == "['192.0.2.1']\n"


@pytest.mark.parametrize(
    "address", [("127.0.0.1", 80), ("::1", 80), ("fe80::1", 80, 0, 1), ("::1", 5, 1), ("0.0.0.0", 0)]
)
@pytest.mark.parametrize("more", [0, socket.NI_DGRAM, socket.NI_NAMEREQD, socket.NI_NOFQDN])
def test_numbers_of_addresses_are_given_at_once(here, address, more):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV | more

    def outcome(call):
        try:
            return call()
        except Exception as error:
            return type(error), str(error)

    assert outcome(lambda: drive(here.getnameinfo(address, flags))) == outcome(
        lambda: socket.getnameinfo(address, flags)
    )


@pytest.mark.parametrize(
    "address", [("localhost", 80), ("no number", 1), ("127.0.0.1", 70000), ("127.0.0.1",), None, 5, ()]
)
def test_what_is_no_address_is_refused_as_ever(run, address):
    async def main():
        loop = asyncio.get_running_loop()
        for flags in (0, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV):
            try:
                expected = socket.getnameinfo(address, flags)
            except Exception as error:
                with pytest.raises(type(error)) as caught:
                    await loop.getnameinfo(address, flags)
                assert str(caught.value) == str(error)
            else:
                assert await loop.getnameinfo(address, flags) == expected

    run(main())
