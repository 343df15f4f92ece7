"""One test for each feature that a loop may have: servers, connections, datagrams, files, plain sockets, transports."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.loop._ipv6 import needs_ipv6

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")


class Echo(asyncio.Protocol):
    """Sends back what it gets, and knows its end."""

    made: list[Echo] = []

    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()
        self.data = b""

    def connection_made(self, transport):
        self.transport = transport
        Echo.made.append(self)

    def data_received(self, data):
        self.data += data
        self.transport.write(data)

    def connection_lost(self, exc):
        Echo.made.remove(self)
        self.lost.set_result(exc)


class Client(asyncio.Protocol):
    """Keeps what it gets."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.data, self.events, self.arrived = b"", [], asyncio.Event()
        self.lost, self.ended = loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        self.data += data
        self.arrived.set()

    def eof_received(self):
        self.ended.set_result(None)
        return True

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")
        self.arrived.set()

    def connection_lost(self, exc):
        self.lost.set_result(exc)

    async def has(self, count):
        while len(self.data) < count:
            self.arrived.clear()
            await self.arrived.wait()
        return self.data


async def trip(address, **options):
    """One echo of a server."""
    reader, writer = await asyncio.open_connection(*address[:2], **options)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()


async def end(server):
    server.close()
    for each in list(Echo.made):
        each.transport.abort()
    await server.wait_closed()


async def until(happened):
    while not happened():  # noqa: ASYNC110  the condition is nobody's event
        await asyncio.sleep(0)


# ---- servers


def test_create_server_and_connection(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        assert server.is_serving()
        assert server.get_loop() is loop
        address = server.sockets[0].getsockname()
        transport, client = await loop.create_connection(Client, *address)
        transport.write(b"one")
        assert await client.has(3) == b"one"
        assert transport.get_extra_info("peername") == address
        transport.close()
        assert await client.lost is None
        await end(server)
        assert not server.is_serving()
        assert server.sockets == ()

    run(main())


@needs_ipv6
def test_server_on_several_hosts_and_both_stacks(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, ["127.0.0.1", "::1"], 0)
        assert {each.family for each in server.sockets} == {socket.AF_INET, socket.AF_INET6}
        for sock in server.sockets:
            await trip(sock.getsockname())
        await end(server)
        # Without a host: all interfaces, each family on its own socket.
        server = await loop.create_server(Echo, None, 0)
        both = {each.family: each for each in server.sockets}
        assert both[socket.AF_INET6].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        await trip(("127.0.0.1", both[socket.AF_INET].getsockname()[1]))
        await trip(("::1", both[socket.AF_INET6].getsockname()[1]))
        await end(server)

    run(main())


def test_server_reuse_port(run):
    async def main():
        loop = asyncio.get_running_loop()
        one = await loop.create_server(Echo, "127.0.0.1", 0, reuse_port=True)
        address = one.sockets[0].getsockname()
        two = await loop.create_server(Echo, *address, reuse_port=True)
        for _ in range(10):
            await trip(address)
        with pytest.raises(OSError, match="bind"):
            await loop.create_server(Echo, *address)
        await end(one)
        await trip(address)
        await end(two)

    run(main())


def test_server_keep_alive(run):
    async def main():
        for keep_alive in (True, False, None):
            server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, keep_alive=keep_alive)
            assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == bool(keep_alive)
            await end(server)

    run(main())


def test_server_start_serving_false(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        assert server.is_serving()
        await trip(server.sockets[0].getsockname())
        serving = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
        await end(server)

    run(main())


async def served(**options: Any) -> Any:
    """A server, and a client that is connected to it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, **options)
    transport, client = await loop.create_connection(Client, *server.sockets[0].getsockname())
    await until(lambda: Echo.made)
    return server, transport, client


def test_server_close_clients(run):
    """What was written is still sent."""

    async def main():
        server, transport, client = await served()
        transport.pause_reading()
        Echo.made[0].transport.write(b"x" * 3_000_000)
        server.close_clients()
        server.close()
        transport.resume_reading()
        assert len(await client.has(3_000_000)) == 3_000_000
        await client.ended
        transport.close()
        await server.wait_closed()
        assert Echo.made == []

    run(main())


def test_server_abort_clients(run):
    async def main():
        server, transport, client = await served()
        transport.pause_reading()
        Echo.made[0].transport.write(b"x" * 30_000_000)
        server.close()
        server.abort_clients()
        await server.wait_closed()
        assert Echo.made == []
        transport.resume_reading()
        await asyncio.wait([client.lost, client.ended], return_when=asyncio.FIRST_COMPLETED)
        assert len(client.data) < 30_000_000
        transport.close()

    run(main())


def test_server_wait_closed_waits(run):
    """For the server to be closed, and for its last connection to end: in either order."""

    async def main():
        server, transport, _ = await served()
        waiting = asyncio.ensure_future(server.wait_closed())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done(), "the server is open"
        server.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done(), "a connection is open"
        transport.close()
        await waiting
        await server.wait_closed()
        server, transport, _ = await served()
        transport.close()
        await until(lambda: not Echo.made)
        waiting = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0)
        assert not waiting.done(), "no connection is left, but the server is open"
        server.close()
        await waiting

    run(main())


def test_a_server_as_a_context(run):
    async def main():
        async with await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0) as server:
            await trip(server.sockets[0].getsockname())
        assert server.sockets == ()

    run(main())


# ---- connections


def test_connection_happy_eyeballs(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def both(host, *_, **__):
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        loop.getaddrinfo = both
        for interleave in (None, 1, 2):
            await trip(("both", port), happy_eyeballs_delay=0.01, interleave=interleave)
            await trip(("both", port), happy_eyeballs_delay=10, interleave=interleave)
        del loop.getaddrinfo
        await end(server)

    run(main())


def unused_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.mark.parametrize("delay", [None, 0.01])
def test_connection_all_errors(run, delay):
    async def main():
        loop, port = asyncio.get_running_loop(), unused_port()

        async def two(host, *_, **__):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]

        loop.getaddrinfo = two
        with pytest.raises(ExceptionGroup) as caught:
            await loop.create_connection(Client, "both", port, all_errors=True, happy_eyeballs_delay=delay)
        with pytest.raises(OSError, match="Multiple exceptions") as one:
            await loop.create_connection(Client, "both", port, happy_eyeballs_delay=delay)
        assert not isinstance(one.value, ExceptionGroup)
        return [type(each) for each in caught.value.exceptions]

    assert run(main()) == [ConnectionRefusedError] * 2


def test_connection_local_addr(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        transport, client = await loop.create_connection(
            Client, *server.sockets[0].getsockname(), local_addr=("127.0.0.2", 0)
        )
        assert transport.get_extra_info("sockname")[0] == "127.0.0.2"
        transport.close()
        await client.lost
        with pytest.raises(OSError, match="bind"):
            await loop.create_connection(Client, *server.sockets[0].getsockname(), local_addr=("192.0.2.1", 0))
        await end(server)

    run(main())


def test_create_connection_sock(run):
    async def main():
        loop, (one, other) = asyncio.get_running_loop(), socket.socketpair()
        transport, client = await loop.create_connection(Client, sock=one)
        other.send(b"x")
        assert await client.has(1) == b"x"
        assert transport.get_extra_info("socket").fileno() == one.fileno()
        transport.close()
        await client.lost
        assert one.fileno() == -1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            with pytest.raises(ValueError, match="Stream Socket was expected"):
                await loop.create_connection(Client, sock=datagrams)
        with pytest.raises(ValueError, match="host/port and sock"):
            await loop.create_connection(Client, "127.0.0.1", 1, sock=other)
        other.close()

    run(main())


def test_connect_accepted_socket(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            accepted, address = listener.accept()
        transport, echo = await loop.connect_accepted_socket(Echo, accepted)
        assert transport.get_extra_info("peername") == address
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        peer.setblocking(False)
        await loop.sock_sendall(peer, b"x")
        assert await loop.sock_recv(peer, 10) == b"x"
        peer.close()
        await echo.lost

    run(main())


@pytest.mark.parametrize("kind", ["path", "bytes", "abstract"])
def test_unix_server_and_connection(run, tmp_path, kind):
    name = {"path": tmp_path / "s", "bytes": os.fsencode(tmp_path / "s"), "abstract": f"\0plait-{os.getpid()}"}[kind]

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, name)
        transport, client = await loop.create_unix_connection(Client, name)
        transport.write(b"one")
        assert await client.has(3) == b"one"
        transport.close()
        await client.lost
        await end(server)
        for bad in ({}, {"path": name, "sock": socket.socket}):
            with pytest.raises(ValueError, match="path"):
                await loop.create_unix_server(Echo, **bad)

    run(main())


@pytest.mark.parametrize("cleanup", [True, False])
def test_unix_cleanup_socket(run, tmp_path, cleanup):
    async def main():
        path = tmp_path / "socket"
        server = await asyncio.start_unix_server(lambda *_: None, path, cleanup_socket=cleanup)
        await end(server)
        assert path.exists() is not cleanup
        path.unlink(missing_ok=True)
        # What lies there by then may be another's.
        server = await asyncio.start_unix_server(lambda *_: None, path, cleanup_socket=cleanup)
        path.rename(tmp_path / "moved")
        path.write_text("another's")
        await end(server)
        assert path.read_text() == "another's"

    run(main())


# ---- datagrams


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        self.errors: asyncio.Queue[Any] = asyncio.Queue()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.got.put_nowait((data, addr))

    def error_received(self, exc):
        self.errors.put_nowait(exc)


async def datagrams(**options):
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, **options)
    return transport, protocol


def test_udp(run):
    async def main():
        one, first = await datagrams(local_addr=("127.0.0.1", 0))
        two, second = await datagrams(remote_addr=one.get_extra_info("sockname"), allow_broadcast=True)
        assert isinstance(one, asyncio.DatagramTransport)
        two.sendto(b"there")
        data, address = await first.got.get()
        one.sendto(data + b" and back", address)
        assert await second.got.get() == (b"there and back", one.get_extra_info("sockname"))
        assert two.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        one.close()
        two.close()
        three, _ = await datagrams(local_addr=("127.0.0.1", 0), reuse_port=True)
        four, _ = await datagrams(local_addr=three.get_extra_info("sockname"), reuse_port=True)
        three.close()
        four.close()
        await asyncio.sleep(0)

    run(main())


def test_udp_empty_datagram(run):
    async def main():
        one, first = await datagrams(local_addr=("127.0.0.1", 0))
        two, _ = await datagrams(local_addr=("127.0.0.1", 0))
        two.sendto(b"", one.get_extra_info("sockname"))
        assert await first.got.get() == (b"", two.get_extra_info("sockname"))
        one.close()
        two.close()
        await asyncio.sleep(0)

    run(main())


def test_udp_unix_sock(run):
    async def main():
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        first, _ = await datagrams(sock=one)
        second, got = await datagrams(sock=other)
        first.sendto(b"through")
        assert (await got.got.get())[0] == b"through"
        first.close()
        second.close()
        await asyncio.sleep(0)

    run(main())


def test_udp_error_received(run):
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind(("127.0.0.1", 0))
            address = unused.getsockname()
        transport, protocol = await datagrams(remote_addr=address)
        transport.sendto(b"to nobody")
        assert isinstance(await protocol.errors.get(), ConnectionRefusedError)
        assert not transport.is_closing()
        transport.close()
        await asyncio.sleep(0)

    run(main())


# ---- files


@pytest.mark.parametrize("fallback", [True, False])
def test_sendfile_transport(run, tmp_path, fallback):
    content = os.urandom(2_000_000)
    (tmp_path / "file").write_bytes(content)

    async def main():
        loop, (one, other) = asyncio.get_running_loop(), socket.socketpair()
        transport, _ = await loop.create_connection(Client, sock=one)
        _, client = await loop.create_connection(Client, sock=other)
        with (tmp_path / "file").open("rb") as file:
            transport.write(b"head")
            assert await loop.sendfile(transport, file, fallback=fallback) == len(content)
            assert file.tell() == len(content)
            assert await loop.sendfile(transport, file, 10, 20, fallback=fallback) == 20
            assert file.tell() == 30
        transport.close()
        await client.ended
        assert client.data == b"head" + content + content[10:30]
        client.transport.close()

    run(main())


def test_sendfile_of_what_is_no_file(run):
    """By reading and writing, unless that is forbidden."""
    import io

    async def main():
        loop, (one, other) = asyncio.get_running_loop(), socket.socketpair()
        transport, _ = await loop.create_connection(Client, sock=one)
        _, client = await loop.create_connection(Client, sock=other)
        with pytest.raises((asyncio.SendfileNotAvailableError, RuntimeError)):
            await loop.sendfile(transport, io.BytesIO(b"data"), fallback=False)
        assert await loop.sendfile(transport, io.BytesIO(b"data"), 1) == 3
        assert await client.has(3) == b"ata"
        for bad in ({"offset": -1}, {"count": 0}, {"count": "much"}):
            with pytest.raises((ValueError, TypeError)):
                await loop.sendfile(transport, nothing, **bad)
        transport.close()
        client.transport.close()
        await client.lost

    with Path(os.devnull).open("rb") as nothing:
        run(main())


def test_sock_sendfile(run, tmp_path):
    content = os.urandom(2_000_000)
    (tmp_path / "file").write_bytes(content)

    async def main():
        loop, (one, other) = asyncio.get_running_loop(), socket.socketpair()
        one.setblocking(False)
        _, client = await loop.create_connection(Client, sock=other)
        with (tmp_path / "file").open("rb") as file:
            assert await loop.sock_sendfile(one, file, fallback=False) == len(content)
            assert await loop.sock_sendfile(one, file, 5, 10) == 10
        import io

        assert await loop.sock_sendfile(one, io.BytesIO(b"tail")) == 4
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(one, io.BytesIO(b"tail"), fallback=False)
        one.close()
        await client.ended
        assert client.data == content + content[5:15] + b"tail"
        client.transport.close()
        await client.lost

    run(main())


# ---- plain sockets


def pair(kind=socket.SOCK_STREAM):
    both = socket.socketpair(socket.AF_UNIX, kind)
    for each in both:
        each.setblocking(False)
    return both


def test_sock_recv_sendall(run):
    async def main():
        loop, (one, other) = asyncio.get_running_loop(), pair()
        data = os.urandom(1_000_000)
        sending = asyncio.ensure_future(loop.sock_sendall(one, data))
        got = b""
        while len(got) < len(data):
            got += await loop.sock_recv(other, 1 << 18)
        await sending
        one.close()
        assert await loop.sock_recv(other, 1) == b""
        other.close()
        return got == data

    assert run(main())


def test_sock_recv_into(run):
    async def main():
        loop, (one, other) = asyncio.get_running_loop(), pair()
        memory = bytearray(10)
        waiting = asyncio.ensure_future(loop.sock_recv_into(other, memoryview(memory)[2:]))
        await asyncio.sleep(0)
        await loop.sock_sendall(one, b"abc")
        assert await waiting == 3
        one.close()
        other.close()
        return bytes(memory[:6])

    assert run(main()) == b"\0\0abc\0"


def test_sock_recvfrom_sendto(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
            for each in (one, two):
                each.setblocking(False)
                each.bind(("127.0.0.1", 0))
            waiting = asyncio.ensure_future(loop.sock_recvfrom(two, 100))
            await asyncio.sleep(0)
            assert await loop.sock_sendto(one, b"abc", two.getsockname()) == 3
            assert await waiting == (b"abc", one.getsockname())

    run(main())


def test_sock_recvfrom_into(run):
    async def main():
        loop, memory = asyncio.get_running_loop(), bytearray(10)
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
            for each in (one, two):
                each.setblocking(False)
                each.bind(("127.0.0.1", 0))
            one.sendto(b"abcdef", two.getsockname())
            assert await loop.sock_recvfrom_into(two, memory, 4) == (4, one.getsockname())
            one.sendto(b"xyz", two.getsockname())
            assert await loop.sock_recvfrom_into(two, memory) == (3, one.getsockname())
        return bytes(memory[:5])

    assert run(main()) == b"xyzd\0"


def test_sock_connect_and_accept(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
            listener.setblocking(False)
            sock.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await loop.sock_connect(sock, listener.getsockname())
            accepted, address = await accepting
            assert address == sock.getsockname()
            assert accepted.gettimeout() == 0
            accepted.close()
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(sock, ("127.0.0.1", unused_port()))
        # The name of a host is looked up.
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("localhost", listener.getsockname()[1]))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            with pytest.raises(FileNotFoundError):
                await loop.sock_connect(sock, "/no/such/socket")

    run(main())


# ---- transports


async def joined():
    loop, (one, other) = asyncio.get_running_loop(), socket.socketpair()
    _, first = await loop.create_connection(Client, sock=one)
    _, second = await loop.create_connection(Client, sock=other)
    return first, second


async def part(*clients):
    for each in clients:
        each.transport.close()
        await each.lost


def test_transport_flow_control(run):
    async def main():
        one, other = await joined()
        one.transport.set_write_buffer_limits(high=1000, low=100)
        assert one.transport.get_write_buffer_limits() == (100, 1000)
        other.transport.pause_reading()
        one.transport.write(b"x" * 3_000_000)
        assert one.events == ["made", "pause"]
        assert one.transport.get_write_buffer_size() > 1000
        other.transport.resume_reading()
        await other.has(3_000_000)
        await until(lambda: "resume" in one.events)
        assert one.transport.get_write_buffer_size() <= 100
        with pytest.raises(ValueError, match="must be"):
            one.transport.set_write_buffer_limits(high=1, low=2)
        await part(one, other)

    run(main())


def test_transport_pause_resume_reading(run):
    async def main():
        one, other = await joined()
        other.transport.pause_reading()
        other.transport.pause_reading()
        assert not other.transport.is_reading()
        one.transport.write(b"held")
        for _ in range(20):
            await asyncio.sleep(0)
        assert other.data == b""
        other.transport.resume_reading()
        other.transport.resume_reading()
        assert other.transport.is_reading()
        assert await other.has(4) == b"held"
        await part(one, other)

    run(main())


def test_transport_writelines_and_write_eof(run):
    async def main():
        one, other = await joined()
        one.transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        assert one.transport.can_write_eof()
        one.transport.write_eof()
        await other.ended
        assert other.data == b"abc"
        with pytest.raises(RuntimeError, match="after write_eof"):
            one.transport.write(b"more")
        other.transport.write(b"the other way")
        assert await one.has(13) == b"the other way"
        await part(one, other)

    run(main())


def test_transport_set_and_get_protocol(run):
    async def main():
        one, other = await joined()
        later = Client()
        other.transport.set_protocol(later)
        assert other.transport.get_protocol() is later
        one.transport.write(b"x")
        assert await later.has(1) == b"x"
        assert other.data == b""
        one.transport.close()
        await later.ended
        other.transport.close()
        await later.lost

    run(main())


def test_transport_extra_info_socket(run):
    async def main():
        server, transport, _ = await served()
        sock = transport.get_extra_info("socket")
        assert sock.fileno() > 0
        assert sock.family == socket.AF_INET
        assert sock.getsockname() == transport.get_extra_info("sockname")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        transport.close()
        await end(server)

    run(main())


def test_transports_are_asyncios_own_to_whoever_asks(run):
    async def main():
        server, transport, _ = await served()
        for each in (transport, Echo.made[0].transport):
            for kind in (asyncio.Transport, asyncio.ReadTransport, asyncio.WriteTransport, asyncio.BaseTransport):
                assert isinstance(each, kind)
        transport.close()
        await end(server)
        first, _ = await datagrams(local_addr=("127.0.0.1", 0))
        assert isinstance(first, asyncio.DatagramTransport)
        first.close()
        await asyncio.sleep(0)

    run(main())


class Buffered(asyncio.BufferedProtocol):
    def __init__(self):
        self.memory, self.data, self.arrived = bytearray(7), b"", asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        assert sizehint == -1 or sizehint > 0
        return self.memory

    def buffer_updated(self, nbytes):
        self.data += self.memory[:nbytes]
        self.arrived.set()


def test_buffered_protocol(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        transport, client = await loop.create_connection(Buffered, *server.sockets[0].getsockname())
        transport.write(b"more than seven bytes")
        while len(client.data) < 21:
            client.arrived.clear()
            await client.arrived.wait()
        assert client.data == b"more than seven bytes"
        transport.close()
        await end(server)

    run(main())


def test_protocols_are_called_in_the_context_of_the_connection(run):
    seen = []

    class Sees(Client):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(var.get())

        def data_received(self, data):
            super().data_received(data)
            seen.append(var.get())
            var.set("changed")

        def connection_lost(self, exc):
            super().connection_lost(exc)
            seen.append(var.get())

    async def main():
        loop, (one, other) = asyncio.get_running_loop(), socket.socketpair()
        var.set("mine")
        _, client = await loop.create_connection(Sees, sock=one)
        var.set("later")
        other.send(b"x")
        await client.has(1)
        client.transport.close()
        await client.lost
        other.close()
        assert var.get() == "later"

    run(main())
    assert seen == ["mine", "mine", "changed"]


# ---- small pieces


@pytest.mark.parametrize("way", ["server", "given", "accepted", "client"])
def test_small_pieces_go_out_at_once_whatever_the_protocol_of_the_socket(run, way):
    """A listening socket made by `socket.create_server` has the protocol 0, and so have its connections."""

    async def main():
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        assert listener.proto == 0
        if way == "server":
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            listener.close()
        else:
            server = await loop.create_server(Echo, sock=listener)
        transport, client = await loop.create_connection(Client, *server.sockets[0].getsockname())
        await until(lambda: Echo.made)
        of = transport if way == "client" else Echo.made[0].transport
        assert of.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.close()
        await client.lost
        await end(server)

    run(main())


if sys.version_info >= (3, 12):

    def test_servers_and_eager_tasks(run):
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            await trip(server.sockets[0].getsockname())
            server.close()
            await server.wait_closed()

        async def echo(reader, writer):
            writer.write(await reader.readexactly(5))
            await reader.read()
            writer.close()

        run(main())
