"""Bad calls raise what the standard loop raises: each is made on both loops, and types and words are compared."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import plait


class Place:
    """What a bad call is made with: a loop, sockets, transports, files; closed in the end."""

    def __init__(self, loop: Any, folder: Path, stack: ExitStack) -> None:
        self.loop, self.folder, self.stack = loop, folder, stack

    def sock(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        sock = self.stack.enter_context(socket.socket(family, kind))
        sock.setblocking(False)
        return sock

    def pair(self) -> socket.socket:
        """One of two that are connected."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.stack.enter_context(theirs)
        return self.stack.enter_context(ours)

    def closed(self) -> socket.socket:
        sock = self.sock()
        sock.close()
        return sock

    def bound(self) -> socket.socket:
        sock = self.sock()
        sock.bind(("127.0.0.1", 0))
        return sock

    def free_port(self) -> int:
        """Of which nobody listens."""
        return int(self.bound().getsockname()[1])

    def tls(self) -> socket.socket:
        context = ssl.create_default_context()
        return self.stack.enter_context(
            context.wrap_socket(self.sock(), do_handshake_on_connect=False, server_hostname="x")
        )

    def file(self, mode: str = "rb") -> Any:
        path = self.folder / "file"
        path.write_bytes(b"text")
        return self.stack.enter_context(path.open(mode))

    async def transport(self) -> Any:
        transport, _ = await self.loop.create_connection(asyncio.Protocol, sock=self.pair())
        self.stack.callback(transport.abort)
        return transport

    async def datagrams(self, **kwargs: Any) -> Any:
        made = kwargs or {"local_addr": ("127.0.0.1", 0)}
        transport, _ = await self.loop.create_datagram_endpoint(asyncio.DatagramProtocol, **made)
        self.stack.callback(transport.abort)
        return transport

    async def server(self) -> Any:
        server = await self.loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        self.stack.callback(server.close)
        return server

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        return self.loop.create_connection(asyncio.Protocol, *args, **kwargs)

    def serve(self, *args: Any, **kwargs: Any) -> Any:
        return self.loop.create_server(asyncio.Protocol, *args, **kwargs)

    def unix(self, *args: Any, **kwargs: Any) -> Any:
        return self.loop.create_unix_connection(asyncio.Protocol, *args, **kwargs)

    def serve_unix(self, *args: Any, **kwargs: Any) -> Any:
        return self.loop.create_unix_server(asyncio.Protocol, *args, **kwargs)

    def endpoint(self, *args: Any, **kwargs: Any) -> Any:
        return self.loop.create_datagram_endpoint(asyncio.DatagramProtocol, *args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        return self.loop.subprocess_exec(asyncio.SubprocessProtocol, *args, **kwargs)

    def closed_loop(self) -> Any:
        loop = type(self.loop)()
        loop.close()
        return loop


async def _never() -> None: ...


def _with_fileno(value: object) -> Any:
    class Odd:
        def __repr__(self) -> str:
            return "<odd>"

        def fileno(self) -> Any:
            return value

    return Odd()


async def _on_transport(place: Place, *calls: Callable[[Any], Any]) -> Any:
    transport, result = await place.transport(), None
    for call in calls:
        result = call(transport)
        if asyncio.iscoroutine(result):
            result = await result
    return result


async def _on_datagrams(place: Place, call: Callable[[Any], Any], **kwargs: Any) -> Any:
    return call(await place.datagrams(**kwargs))


async def _twice(place: Place) -> None:
    server = await place.server()
    serving = asyncio.ensure_future(server.serve_forever())
    await asyncio.sleep(0)
    try:
        await server.serve_forever()
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def _after_shutdown(place: Place) -> None:
    await place.loop.shutdown_default_executor()
    await place.loop.run_in_executor(None, int)


async def _closed_server(place: Place) -> None:
    server = await place.server()
    server.close()
    await server.start_serving()


async def _in_use(place: Place) -> None:
    server = await place.server()
    await place.serve("127.0.0.1", server.sockets[0].getsockname()[1])


async def _at_a_file(place: Place) -> None:
    await place.serve_unix(place.file().name)


async def _refused_datagram_target(place: Place) -> None:
    transport = await place.datagrams(remote_addr=("127.0.0.1", 9))
    transport.sendto(b"x", ("127.0.0.1", 10))


# Names say what is wrong; with a `*` after it only the type is compared, with a `!` the loop is in debug mode.
CASES: dict[str, Callable[[Place], Any]] = {
    # ---- scheduling
    "call_soon of nothing *": lambda p: p.loop.call_soon(),
    "call_soon of what cannot be called !": lambda p: p.loop.call_soon(5),
    "call_soon of a coroutine function !": lambda p: p.loop.call_soon(_never),
    "call_soon_threadsafe of nothing *": lambda p: p.loop.call_soon_threadsafe(),
    "call_later without a delay": lambda p: p.loop.call_later(None, print),
    "call_later with a word *": lambda p: p.loop.call_later("1", print),
    "call_later of nothing *": lambda p: p.loop.call_later(1),
    "call_later of a coroutine function !": lambda p: p.loop.call_later(1, _never),
    "call_at without a time": lambda p: p.loop.call_at(None, print),
    "call_at of what cannot be called !": lambda p: p.loop.call_at(1, 5),
    "call_soon, closed": lambda p: p.closed_loop().call_soon(print),
    "call_soon_threadsafe, closed": lambda p: p.closed_loop().call_soon_threadsafe(print),
    "call_later, closed": lambda p: p.closed_loop().call_later(1, print),
    "call_at, closed": lambda p: p.closed_loop().call_at(1, print),
    "run_forever, closed": lambda p: p.closed_loop().run_forever(),
    "run_in_executor, closed": lambda p: p.closed_loop().run_in_executor(None, int),
    "add_reader, closed": lambda p: p.closed_loop().add_reader(p.pair(), print),
    "create_task of a number": lambda p: p.loop.create_task(5),
    "run_until_complete of a number": lambda p: p.loop.run_until_complete(5),
    "run_until_complete while running": lambda p: p.loop.run_until_complete(p.loop.create_future()),
    "run_forever while running": lambda p: p.loop.run_forever(),
    "another loop while running": lambda p: p.stack.enter_context(closing(type(p.loop)())).run_forever(),
    "close while running": lambda p: p.loop.close(),
    "a task factory that cannot be called": lambda p: p.loop.set_task_factory(5),
    "an exception handler that cannot be called": lambda p: p.loop.set_exception_handler(5),
    "run_in_executor of a coroutine function !": lambda p: p.loop.run_in_executor(None, _never),
    "run_in_executor in a number *": lambda p: p.loop.run_in_executor(5, int),
    "run_in_executor after the shutdown": _after_shutdown,
    # ---- descriptors
    "add_reader of -1": lambda p: p.loop.add_reader(-1, print),
    "add_reader of a word": lambda p: p.loop.add_reader("x", print),
    "add_reader of None": lambda p: p.loop.add_reader(None, print),
    "add_reader of a closed socket": lambda p: p.loop.add_reader(p.closed(), print),
    "add_reader of a number that nobody has": lambda p: p.loop.add_reader(99_999, print),
    "add_reader of a large number *": lambda p: p.loop.add_reader(2**40, print),
    "add_reader of a file": lambda p: p.loop.add_reader(p.file(), print),
    "add_reader of an odd file": lambda p: p.loop.add_reader(_with_fileno("x"), print),
    "add_writer of an odd file": lambda p: p.loop.add_writer(_with_fileno(-3), print),
    "add_writer of -1": lambda p: p.loop.add_writer(-1, print),
    "remove_reader of -1": lambda p: p.loop.remove_reader(-1),
    "remove_writer of a word": lambda p: p.loop.remove_writer("x"),
    "add_reader of nothing *": lambda p: p.loop.add_reader(p.pair()),
    "add_reader of a transport's": lambda p: _on_transport(p, lambda t: p.loop.add_reader(t._sock_fd, print)),
    # ---- signals
    "a signal that cannot be caught": lambda p: p.loop.add_signal_handler(signal.SIGKILL, print),
    "a signal that there is not": lambda p: p.loop.add_signal_handler(1000, print),
    "a signal by its name": lambda p: p.loop.add_signal_handler("SIGUSR1", print),
    "a coroutine function for a signal": lambda p: p.loop.add_signal_handler(signal.SIGUSR1, _never),
    "remove a signal that there is not": lambda p: p.loop.remove_signal_handler(1000),
    # ---- sock_*
    "sock_recv, closed": lambda p: p.loop.sock_recv(p.closed(), 1),
    "sock_recv of None *": lambda p: p.loop.sock_recv(None, 1),
    "sock_recv of less than nothing": lambda p: p.loop.sock_recv(p.pair(), -1),
    "sock_recv of a word *": lambda p: p.loop.sock_recv(p.pair(), "1"),
    "sock_recv, not connected": lambda p: p.loop.sock_recv(p.sock(), 1),
    "sock_recv of TLS": lambda p: p.loop.sock_recv(p.tls(), 1),
    "sock_recv_into, closed": lambda p: p.loop.sock_recv_into(p.closed(), bytearray(1)),
    "sock_recv_into of TLS": lambda p: p.loop.sock_recv_into(p.tls(), bytearray(1)),
    "sock_recvfrom, closed": lambda p: p.loop.sock_recvfrom(p.closed(), 1),
    "sock_recvfrom of less than nothing": lambda p: p.loop.sock_recvfrom(p.sock(socket.SOCK_DGRAM), -1),
    "sock_recvfrom_into what cannot change *": lambda p: p.loop.sock_recvfrom_into(p.sock(socket.SOCK_DGRAM), b"x"),
    "sock_sendall of text *": lambda p: p.loop.sock_sendall(p.pair(), "text"),
    "sock_sendall of None *": lambda p: p.loop.sock_sendall(p.pair(), None),
    "sock_sendall, closed": lambda p: p.loop.sock_sendall(p.closed(), b"x"),
    "sock_sendall, not connected": lambda p: p.loop.sock_sendall(p.sock(), b"x"),
    "sock_sendall of TLS": lambda p: p.loop.sock_sendall(p.tls(), b"x"),
    "sock_sendto of text *": lambda p: p.loop.sock_sendto(p.sock(socket.SOCK_DGRAM), "x", ("127.0.0.1", 9)),
    "sock_sendto nowhere *": lambda p: p.loop.sock_sendto(p.sock(socket.SOCK_DGRAM), b"x", 5),
    "sock_sendto, too large": lambda p: p.loop.sock_sendto(p.sock(socket.SOCK_DGRAM), bytes(70_000), ("127.0.0.1", 9)),
    "sock_connect, closed": lambda p: p.loop.sock_connect(p.closed(), ("127.0.0.1", 9)),
    "sock_connect to a number *": lambda p: p.loop.sock_connect(p.sock(), 5),
    "sock_connect to a word for a port *": lambda p: p.loop.sock_connect(p.sock(), ("127.0.0.1", "x")),
    "sock_connect, refused": lambda p: p.loop.sock_connect(p.sock(), ("127.0.0.1", p.free_port())),
    "sock_connect to no path": lambda p: p.loop.sock_connect(p.sock(family=socket.AF_UNIX), str(p.folder / "none")),
    "sock_accept, closed": lambda p: p.loop.sock_accept(p.closed()),
    "sock_accept, not listening": lambda p: p.loop.sock_accept(p.bound()),
    "sock_sendfile of text": lambda p: p.loop.sock_sendfile(p.pair(), p.file("r")),
    "sock_sendfile of less than nothing": lambda p: p.loop.sock_sendfile(p.pair(), p.file(), 0, -1),
    "sock_sendfile from before the beginning": lambda p: p.loop.sock_sendfile(p.pair(), p.file(), -1),
    "sock_sendfile of a word *": lambda p: p.loop.sock_sendfile(p.pair(), p.file(), 0, "1"),
    "sock_sendfile by datagrams": lambda p: p.loop.sock_sendfile(p.sock(socket.SOCK_DGRAM), p.file()),
    "sock_recv, blocking !": lambda p: p.loop.sock_recv(socket.socket.dup(_blocking(p)), 1),
    "sock_sendall, blocking !": lambda p: p.loop.sock_sendall(_blocking(p), b"x"),
    "sock_connect, blocking !": lambda p: p.loop.sock_connect(_blocking(p), ("127.0.0.1", 9)),
    "sock_accept, blocking !": lambda p: p.loop.sock_accept(_blocking(p)),
    "sock_recvfrom, blocking !": lambda p: p.loop.sock_recvfrom(_blocking(p), 1),
    # ---- connections
    "connect nowhere": lambda p: p.connect(),
    "connect with a host and a socket": lambda p: p.connect("127.0.0.1", 9, sock=p.pair()),
    "connect with a socket of datagrams": lambda p: p.connect(sock=p.sock(socket.SOCK_DGRAM)),
    "connect with a name and no TLS": lambda p: p.connect("127.0.0.1", 9, server_hostname="x"),
    "connect with TLS and no name": lambda p: p.connect(sock=p.pair(), ssl=True),
    "connect with a time for no handshake": lambda p: p.connect("127.0.0.1", 9, ssl_handshake_timeout=1),
    "connect with a time for no shutdown": lambda p: p.connect("127.0.0.1", 9, ssl_shutdown_timeout=1),
    "connect, refused": lambda p: p.connect("127.0.0.1", p.free_port()),
    "connect from elsewhere": lambda p: p.connect("127.0.0.1", 9, local_addr=("203.0.113.1", 0)),
    "connect with a closed socket *": lambda p: p.connect(sock=p.closed()),
    "connect to no number": lambda p: p.connect("256.256.256.256", 9, flags=socket.AI_NUMERICHOST),
    "connect with a factory that fails *": lambda p: p.loop.create_connection(lambda: 1 / 0, sock=p.pair()),
    "accept a socket of datagrams": lambda p: p.loop.connect_accepted_socket(
        asyncio.Protocol, p.sock(socket.SOCK_DGRAM)
    ),
    "accept with a time for no handshake": lambda p: p.loop.connect_accepted_socket(
        asyncio.Protocol, p.pair(), ssl_handshake_timeout=1
    ),
    "connect to no path": lambda p: p.unix(str(p.folder / "none")),
    "connect to a file": lambda p: p.unix(p.file().name),
    "connect to no Unix socket at all": lambda p: p.unix(),
    "connect to a path with a socket": lambda p: p.unix("x", sock=p.pair()),
    "connect a Unix socket that is none": lambda p: p.unix(sock=p.sock()),
    "connect to a path with TLS and no name": lambda p: p.unix("x", ssl=True),
    "connect to a path that is too long": lambda p: p.unix("x" * 300),
    # ---- servers
    "serve nothing": lambda p: p.serve(),
    "serve a host and a socket": lambda p: p.serve("127.0.0.1", 0, sock=p.bound()),
    "serve with TLS that is a word": lambda p: p.serve("127.0.0.1", 0, ssl=True),
    "serve with a time for no handshake": lambda p: p.serve("127.0.0.1", 0, ssl_handshake_timeout=1),
    "serve datagrams": lambda p: p.serve(sock=p.sock(socket.SOCK_DGRAM)),
    "serve where somebody does": _in_use,
    "serve elsewhere": lambda p: p.serve("203.0.113.1", 0),
    "serve a number that is none": lambda p: p.serve("256.256.256.256", 0, flags=socket.AI_NUMERICHOST),
    "serve twice": _twice,
    "serve when closed": _closed_server,
    "serve at a file": _at_a_file,
    "serve at no folder": lambda p: p.serve_unix(str(p.folder / "none" / "x")),
    "serve at no path": lambda p: p.serve_unix(),
    "serve at a path and a socket": lambda p: p.serve_unix("x", sock=p.pair()),
    "serve a Unix socket that is none": lambda p: p.serve_unix(sock=p.bound()),
    "serve at a path that is too long": lambda p: p.serve_unix("x" * 300),
    # ---- datagrams
    "datagrams of a stream": lambda p: p.endpoint(sock=p.sock()),
    "datagrams of a socket and an address": lambda p: p.endpoint(("127.0.0.1", 0), sock=p.sock(socket.SOCK_DGRAM)),
    "datagrams of no family": lambda p: p.endpoint(),
    "datagrams of two families": lambda p: p.endpoint(("127.0.0.1", 0), ("::1", 9)),
    "datagrams of half an address": lambda p: p.endpoint(("127.0.0.1",)),
    "datagrams at a number *": lambda p: p.endpoint(local_addr=5, family=socket.AF_UNIX),
    "sendto of text *": lambda p: _on_datagrams(p, lambda t: t.sendto("text", ("127.0.0.1", 9))),
    "sendto of a number *": lambda p: _on_datagrams(p, lambda t: t.sendto(5, ("127.0.0.1", 9))),
    "sendto another than the one": _refused_datagram_target,
    # ---- pipes and processes
    "read a file like a pipe": lambda p: p.loop.connect_read_pipe(asyncio.Protocol, p.file()),
    "write a file like a pipe": lambda p: p.loop.connect_write_pipe(asyncio.BaseProtocol, p.file("wb")),
    "run what is not there": lambda p: p.run(str(p.folder / "none")),
    "run a number *": lambda p: p.run(5),
    "run with text": lambda p: p.run("true", universal_newlines=True),
    "run with text by another name": lambda p: p.run("true", text=True),
    "run with an encoding": lambda p: p.run("true", encoding="utf-8"),
    "run with a shell": lambda p: p.run("true", shell=True),
    "run with buffers": lambda p: p.run("true", bufsize=1),
    "run in no folder": lambda p: p.run("true", cwd=str(p.folder / "none")),
    "a shell that runs a number": lambda p: p.loop.subprocess_shell(asyncio.SubprocessProtocol, 5),
    "a shell that is none": lambda p: p.loop.subprocess_shell(asyncio.SubprocessProtocol, "true", shell=False),
    # ---- names
    "getaddrinfo of no number": lambda p: p.loop.getaddrinfo("x", 1, flags=socket.AI_NUMERICHOST),
    "getaddrinfo of no service": lambda p: p.loop.getaddrinfo("127.0.0.1", "none-such"),
    "getaddrinfo of a wrong family": lambda p: p.loop.getaddrinfo("127.0.0.1", 1, family=socket.AF_INET6),
    "getaddrinfo of odd flags": lambda p: p.loop.getaddrinfo("127.0.0.1", 1, flags=1 << 30),
    "getaddrinfo of a number": lambda p: p.loop.getaddrinfo(5, 1),
    "getaddrinfo of a large port": lambda p: p.loop.getaddrinfo("127.0.0.1", 2**70),
    "getnameinfo of a number": lambda p: p.loop.getnameinfo(5),
    # ---- transports
    "write text": lambda p: _on_transport(p, lambda t: t.write("text")),
    "write None": lambda p: _on_transport(p, lambda t: t.write(None)),
    "write a number": lambda p: _on_transport(p, lambda t: t.write(5)),
    "write lines of a number *": lambda p: _on_transport(p, lambda t: t.writelines(5)),
    "write lines of text *": lambda p: _on_transport(p, lambda t: t.writelines(["text"])),
    "write after the end": lambda p: _on_transport(p, lambda t: t.write_eof(), lambda t: t.write(b"x")),
    "write lines after the end *": lambda p: _on_transport(p, lambda t: t.write_eof(), lambda t: t.writelines([b"x"])),
    "limits the wrong way round": lambda p: _on_transport(p, lambda t: t.set_write_buffer_limits(high=5, low=10)),
    "limits below zero": lambda p: _on_transport(p, lambda t: t.set_write_buffer_limits(high=-1)),
    "limits of words *": lambda p: _on_transport(p, lambda t: t.set_write_buffer_limits(high="x")),
    "send a text file": lambda p: _on_transport(p, lambda t: p.loop.sendfile(t, p.file("r"))),
    "send a file from before the beginning": lambda p: _on_transport(p, lambda t: p.loop.sendfile(t, p.file(), -1)),
    "send less than nothing of a file": lambda p: _on_transport(p, lambda t: p.loop.sendfile(t, p.file(), 0, -1)),
    "send a file when closed": lambda p: _on_transport(p, lambda t: t.close(), lambda t: p.loop.sendfile(t, p.file())),
    "send a file by datagrams": lambda p: _send_by_datagrams(p),
    "start TLS with a word": lambda p: _on_transport(p, lambda t: p.loop.start_tls(t, asyncio.Protocol(), "x")),
    "start TLS on datagrams": lambda p: _start_tls_on_datagrams(p),
}


def _blocking(place: Place) -> socket.socket:
    sock = place.pair()
    sock.setblocking(True)
    return sock


async def _send_by_datagrams(place: Place) -> None:
    await place.loop.sendfile(await place.datagrams(), place.file())


async def _start_tls_on_datagrams(place: Place) -> None:
    await place.loop.start_tls(await place.datagrams(), asyncio.Protocol(), ssl.create_default_context())


def plain(text: str, folder: Path) -> str:
    """Without what differs from one run to the next (folders, descriptors, ports), and what objects call themselves."""
    text = text.replace(str(folder), "FOLDER")
    text = text.replace("EventLoop", "_UnixSelectorEventLoop").replace("_UnixSelector_UnixSelector", "_UnixSelector")
    # Ours says less of the transport that has a descriptor.
    text = re.sub(r"used by transport <.*>$", "used by transport <>", text)
    text = re.sub(r"<_?\w*Transport\b[^<>]*(<[^<>]*>)?[^<>]*>", "<transport>", text)
    text = re.sub(r"'_?\w*?(Datagram|Socket)Transport'", r"'\1Transport'", text)
    text = re.sub(r"\b(fd=|0x|descriptor )[0-9a-f]+", r"\1", text)
    return re.sub(r"\d{4,5}\b", "PORT", text)


def outcome(name: str, make: Callable[[], Any], folder: Path) -> tuple[type[BaseException] | None, str]:
    """What the call raises on a loop of `make`."""
    folder.mkdir()

    async def main() -> Any:
        with ExitStack() as stack:
            place = Place(asyncio.get_running_loop(), folder, stack)
            result = CASES[name](place)
            return await result if asyncio.iscoroutine(result) or asyncio.isfuture(result) else result

    with asyncio.Runner(loop_factory=make, debug="!" in name) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: None)
        try:
            runner.run(main())
        except Exception as error:
            raised = error
        else:
            return None, ""
        runner.run(asyncio.sleep(0))  # it is alive
    return type(raised), "" if "*" in name else plain(str(raised), folder)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("name", CASES)
def test_bad_calls_raise_what_the_standard_loop_raises(name: str, tmp_path: Path) -> None:
    theirs = outcome(name, asyncio.SelectorEventLoop, tmp_path / "theirs")
    assert outcome(name, plait.new_event_loop, tmp_path / "ours") == theirs
    assert theirs[0] is not None, "the call is not a bad one"
