"""Connections that are given up on the way: nothing stays open, and no descriptor is spoilt for those who come after."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

import plait


def open_sockets() -> int:
    """How many there are; what the loop opens for itself when it first sleeps is none."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue  # the descriptor of the listing itself
    return count


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """An address that lets connections wait: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        held = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            held.append(sock)
        yield listener.getsockname()
        for sock in held:
            sock.close()


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def settled(count):
    """No more sockets are left than there were; some end a few turns later."""
    for _ in range(1000):
        if open_sockets() == count:
            break
        await asyncio.sleep(0)
    assert open_sockets() == count


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("way", ["plain", "eyeballs", "timeout", "tls"])
def test_a_cancelled_connection_closes_what_it_opened(run, deaf, way, debug):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        options = {"happy_eyeballs_delay": 0.001} if way == "eyeballs" else {}
        if way == "tls":
            options["ssl"] = True
        await turns(3)
        before = open_sockets()
        for steps in range(12):
            connecting = asyncio.ensure_future(loop.create_connection(asyncio.Protocol, *deaf, **options))
            if way == "timeout":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(connecting, 0.001)
            else:
                await turns(steps)
                await cancelled(connecting)
            await settled(before)
        # The numbers are free for others, transports and watchers alike.
        for _ in range(5):
            one, other = socket.socketpair()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
            loop.add_reader(other, other.recv, 10)
            transport.write(b"x")
            await turns(3)
            loop.remove_reader(other)
            transport.close()
            await turns(3)
            other.close()
        await settled(before)

    told: list[object] = []
    run(main(), debug=debug)
    assert told == []


@pytest.mark.parametrize("steps", range(8))
def test_a_connection_cancelled_while_it_is_made(run, steps):
    """To a server that takes it: at whatever step, it is closed or it is there."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        await turns(3)
        before = open_sockets()
        for _ in range(20):
            connecting = asyncio.ensure_future(
                loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
            )
            await turns(steps)
            connecting.cancel()
            try:
                transport, _ = await connecting
                transport.close()
            except asyncio.CancelledError:
                pass
        server.close()
        await server.wait_closed()
        await settled(before - 1)

    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_a_socket_is_closed_and_its_number_another_s_before_the_loop_hears_of_it(run, deaf, debug):
    """The next owner of the number keeps its watcher, and hears nothing of the connection that was given up."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        for kind in ("watched", "connected", "connecting"):
            sock = socket.socket()
            sock.setblocking(False)
            number = sock.fileno()
            connecting = asyncio.ensure_future(loop.sock_connect(sock, deaf))
            await turns(2)
            assert not connecting.done()
            # In one go: cancelled, closed, and the number taken by another.
            connecting.cancel()
            sock.close()
            one, other = socket.socketpair()
            assert one.fileno() == number
            one.setblocking(False)
            other.setblocking(False)
            if kind == "watched":
                ready = loop.create_future()
                loop.add_writer(one, lambda ready=ready: ready.done() or ready.set_result(None))
                await ready
                await turns(3)
                assert loop.remove_writer(one)
                one.close()
            elif kind == "connected":
                transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
                transport.write(b"x" * 3_000_000)
                got = 0
                while got < 3_000_000:
                    got += len(await loop.sock_recv(other, 1 << 20))
                transport.close()
            else:
                sending = asyncio.ensure_future(loop.sock_sendall(one, b"x" * 3_000_000))
                got = 0
                while got < 3_000_000:
                    got += len(await loop.sock_recv(other, 1 << 20))
                await sending
                one.close()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            other.close()
            await turns(3)

    told: list[object] = []
    run(main(), debug=debug)
    assert told == []


def test_a_socket_may_be_used_again_after_a_cancelled_connect(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
            sock.setblocking(False)
            connecting = asyncio.ensure_future(loop.sock_connect(sock, listener.getsockname()))
            await turns(1)
            await cancelled(connecting)
            # The kernel has gone on meanwhile; asked again, it says so.
            try:
                await loop.sock_connect(sock, listener.getsockname())
            except OSError as error:
                assert "already" in str(error) or "connected" in str(error)
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            await loop.sock_sendall(sock, b"x")
            assert await loop.sock_recv(accepted, 10) == b"x"
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
            transport.close()
            accepted.close()

    run(main())


def test_connections_that_fail_fail_as_ever():
    async def main():
        loop, seen = asyncio.get_running_loop(), []
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            refused = unused.getsockname()
        for family, address in (
            (socket.AF_INET, refused),
            (socket.AF_INET, ("no such host.invalid", 1)),
            (socket.AF_INET, ("127.0.0.1", "no such service")),
            (socket.AF_INET, ("127.0.0.1", 70_000)),
            (socket.AF_INET, ("127.0.0.1",)),
            (socket.AF_INET, 5),
            (socket.AF_INET, None),
            (socket.AF_INET6, ("::1", refused[1])),
            (socket.AF_UNIX, "/no/such/path"),
            (socket.AF_UNIX, 5),
        ):
            sock = socket.socket(family)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except Exception as error:
                seen.append((type(error), str(error).replace(str(refused[1]), "PORT")))
            sock.close()
        return seen

    def of(make):
        with asyncio.Runner(loop_factory=make) as runner:
            return runner.run(main())

    ours = of(plait.new_event_loop)
    assert ours == of(asyncio.SelectorEventLoop)
    assert len(ours) == 10
