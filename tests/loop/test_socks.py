"""`sock_recv` and its kin on plain sockets, ours and the standard library's."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait


@pytest.fixture
def ours() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=plait.new_event_loop) as runner:
        yield runner


def pair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    one.setblocking(False)
    other.setblocking(False)
    return one, other


async def waiting(operation: Any) -> asyncio.Task[Any]:
    """Begins an operation that has to wait."""
    task = asyncio.ensure_future(operation)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    return task


def test_bytes_are_received_and_sent(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop, (one, other) = asyncio.get_running_loop(), pair()
        for size in (1, 5000, 300_000, 3_000_000):
            data = os.urandom(size)
            sending = asyncio.ensure_future(loop.sock_sendall(one, data))
            got, memory = bytearray(), bytearray(10_000)
            while len(got) < size:
                if len(got) % 2:
                    got += await loop.sock_recv(other, 1 << 20)
                else:
                    got += memory[: await loop.sock_recv_into(other, memory)]
            await sending
            assert got == data
        task = await waiting(loop.sock_recv(other, 10))
        one.close()
        assert await task == b"" == await loop.sock_recv(other, 10)
        other.close()

    runner.run(main())


def test_a_cancelled_receive_takes_nothing(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop, (one, other) = asyncio.get_running_loop(), pair()
        for turns in range(5):
            task = await waiting(loop.sock_recv(other, 10))
            if turns % 2:
                one.send(b"kept")
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            if not turns % 2:
                one.send(b"kept")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await loop.sock_recv(other, 10) == b"kept"
        one.close()
        other.close()

    runner.run(main())


def test_a_descriptor_that_is_used_again_is_waited_for_anew(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        kept: list[socket.socket] = []
        for number in range(20):
            one, other = pair()
            for _ in range(2):
                task = await waiting(loop.sock_recv(other, 10))
                one.send(b"%d" % number)
                assert await task == b"%d" % number
            if number % 3 == 0:
                kept.append(other.dup())  # the file stays open when the descriptor is closed
                one.send(b"for nobody")
            one.close()
            other.close()
        for each in kept:
            each.close()

    runner.run(main())


def test_a_kept_registration_is_nobodys_reader(ours: asyncio.Runner) -> None:
    async def main() -> None:
        loop, (one, other) = asyncio.get_running_loop(), pair()
        task = await waiting(loop.sock_recv(other, 10))
        one.send(b"x")
        assert await task == b"x"
        assert not loop.remove_reader(other)
        seen = asyncio.Event()
        task = await waiting(loop.sock_recv(other, 10))
        one.send(b"y")
        assert await task == b"y"
        loop.add_reader(other, seen.set)
        one.send(b"z")
        await seen.wait()
        assert loop.remove_reader(other)
        assert not loop.remove_reader(other)
        assert await loop.sock_recv(other, 10) == b"z"
        _, _protocol = await loop.create_connection(asyncio.Protocol, sock=other)
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(other, 10)
        one.close()

    ours.run(main())


def test_what_arrives_while_nobody_waits_is_there_later(ours: asyncio.Runner) -> None:
    async def main() -> None:
        loop, (one, other) = asyncio.get_running_loop(), pair()
        for _ in range(3):
            task = await waiting(loop.sock_recv(other, 10))
            one.send(b"first")
            assert await task == b"first"
            one.send(b"second")
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert await loop.sock_recv(other, 10) == b"second"
        one.close()
        other.close()

    ours.run(main())


def test_connections_are_made_and_taken(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop, listener = asyncio.get_running_loop(), socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        for _ in range(3):
            task = await waiting(loop.sock_accept(listener))
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            connection, address = await task
            assert address == client.getsockname()
            assert connection.gettimeout() == 0
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            task = await waiting(loop.sock_recv(connection, 10))
            client.close()
            with pytest.raises(ConnectionResetError):
                await task
            with pytest.raises(BrokenPipeError):
                await loop.sock_sendall(connection, b"x")
            connection.close()
        task = await waiting(loop.sock_accept(listener))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        listener.close()

    runner.run(main())


def test_datagrams(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        for data in (b"data", b"", b"d" * 60_000):
            task = await waiting(loop.sock_recvfrom(other, 1 << 16))
            assert await loop.sock_sendto(one, data, other.getsockname()) == len(data)
            assert await task == (data, one.getsockname())
            memory = bytearray(1 << 16)
            task = await waiting(loop.sock_recvfrom_into(other, memory))
            await loop.sock_sendto(one, data, other.getsockname())
            assert await task == (len(data), one.getsockname())
            assert memory.startswith(data)
        one.close()
        other.close()

    runner.run(main())


@pytest.mark.parametrize("call", ["sock_recv", "sock_recv_into", "sock_sendall", "sock_accept"])
def test_bad_input_raises_and_harms_nothing(runner: asyncio.Runner, call: str) -> None:
    async def main() -> None:
        loop, (one, other) = asyncio.get_running_loop(), pair()
        wrong: dict[str, list[tuple[Any, ...]]] = {
            "sock_recv": [(one, -1), (one, "x"), (one, 1 << 80)],
            "sock_recv_into": [(one, b"read only"), (one, "x")],
            "sock_sendall": [(one, "x"), (one, 5)],
            "sock_accept": [(one,)],
        }
        for arguments in wrong[call]:
            with pytest.raises((ValueError, TypeError, OverflowError, BufferError, OSError)):
                await getattr(loop, call)(*arguments)
        other.send(b"fine")
        assert await loop.sock_recv(one, 10) == b"fine"
        one.close()
        other.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            await loop.sock_recv(one, 10)

    runner.run(main())


def test_two_who_wait_for_one_socket_do_as_with_the_standard_library(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop, (one, other) = asyncio.get_running_loop(), pair()
        first = await waiting(loop.sock_recv(other, 1))
        second = await waiting(loop.sock_recv(other, 1))
        one.send(b"ab")
        assert await second == b"a"
        first.cancel()
        assert await loop.sock_recv(other, 1) == b"b"
        one.close()
        other.close()

    runner.run(main())


def test_loops_closed_while_somebody_waits_give_everything_up() -> None:
    one, other = pair()
    loops: list[Callable[[], Any]] = [plait.new_event_loop]
    for make in loops:
        loop = make()

        async def main() -> None:
            await waiting(asyncio.get_running_loop().sock_recv(other, 1))

        with asyncio.Runner(loop_factory=lambda loop=loop: loop) as runner:  # type: ignore[misc]
            runner.run(main())
    one.close()
    other.close()


def test_who_waits_for_a_closed_socket_gets_nothing_of_the_next_one_with_its_number(ours: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = pair()
        task = await waiting(loop.sock_recv(one, 10))
        number = one.fileno()
        one.close()
        next_one, next_other = pair()
        assert next_one.fileno() == number
        sending = await waiting(loop.sock_sendall(next_one, bytes(5_000_000)))  # the number is watched again
        next_other.send(b"not yours")
        with pytest.raises(OSError, match="Bad file descriptor"):
            await task
        assert next_one.recv(20) == b"not yours"
        sending.cancel()
        for each in (other, next_one, next_other):
            each.close()

    ours.run(main())


def test_a_socket_that_is_closed_in_the_turn_that_it_is_ready_in(runner: asyncio.Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        trigger, pull = pair()
        one, other = pair()
        made: list[socket.socket] = []

        def close() -> None:
            loop.remove_reader(trigger)
            number = one.fileno()
            one.close()
            made.extend(pair())
            assert made[0].fileno() == number
            made[1].send(b"not yours")

        loop.add_reader(trigger, close)
        task = await waiting(loop.sock_recv(one, 10))
        pull.send(b"1")
        other.send(b"2")
        with pytest.raises(OSError, match="Bad file descriptor"):
            await task
        assert made[0].recv(20) == b"not yours"
        for each in (trigger, pull, other, *made):
            each.close()

    runner.run(main())


def looks(loop: Any) -> Callable[[], int]:
    """Counts the turns of the loop from now on, without making any: each one asks a clock."""
    count, clock = 0, loop.time

    def time() -> float:
        nonlocal count
        count += 1
        return float(clock())

    loop.time = time
    return lambda: count


@pytest.mark.parametrize("again", [False, True], ids=["closed", "its number used again"])
def test_a_socket_that_a_child_process_still_has_does_not_keep_the_loop_awake(
    ours: asyncio.Runner, again: bool
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = pair()
        receiving = await waiting(loop.sock_recv(one, 10))
        other.send(b"1")
        assert await receiving == b"1"
        number, copy = one.fileno(), os.dup(one.fileno())  # a child's copy is the same to the kernel
        one.close()
        more: list[socket.socket] = []
        if again:
            more.extend(pair())
            assert more[0].fileno() == number
            receiving = await waiting(loop.sock_recv(more[0], 10))
        other.send(b"2")
        turns = looks(loop)
        await asyncio.sleep(0.2)
        assert turns() < 100
        if again:
            more[1].send(b"3")
            assert await receiving == b"3"
        loop.call_soon_threadsafe(asyncio.current_task().cancel)  # type: ignore[union-attr]
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(60)
        os.close(copy)
        for each in (other, *more):
            each.close()

    ours.run(main())


def test_who_catches_an_error_is_alone_with_it(ours: asyncio.Runner) -> None:
    """Nothing that was awaited on the way keeps it, and with it all frames that it has passed, in a circle.

    The standard library's loop does: its `sock_recv` has the future that has the error.
    """

    async def keepers(operation: Any) -> list[object]:
        try:
            await operation
        except OSError as error:
            await asyncio.sleep(0)  # whoever has told of it has it until this step ends
            found = gc.get_referrers(error)
            return [type(each) for each in found if not isinstance(each, (types.FrameType, types.CoroutineType))]
        raise AssertionError("it fails")

    async def main() -> None:
        loop, (one, other) = asyncio.get_running_loop(), pair()
        # Bound and not listening: it refuses, and nobody else on the machine gets the port meanwhile.
        with socket.socket() as silent, socket.socket() as refused:
            silent.bind(("127.0.0.1", 0))
            refused.setblocking(False)
            assert await keepers(loop.sock_connect(refused, silent.getsockname())) == []
        other.send(b"never read")
        reset = asyncio.ensure_future(keepers(loop.sock_recv(other, 10)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        one.close()
        assert await reset == []
        other.close()

    ours.run(main())
