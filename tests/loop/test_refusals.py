"""What is wrong is refused as the standard loop refuses it: the same exception, with the same words."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

import pytest

import plait

if sys.version_info < (3, 13):
    pytest.skip("ours has the refusals of 3.13 on all versions", allow_module_level=True)

Protocol = asyncio.Protocol
CALLS: list[Any] = []


def told(error: BaseException) -> tuple[str, str]:
    text = re.sub(r"0x[0-9a-f]+|fd=\d+|(?<=, )\d{4,5}(?=\))|\d{5}", "N", str(error))
    text = re.sub(r"EventLoop|_UnixSelectorEventLoop", "Loop", text).replace("_UnixSelectorLoop", "Loop")
    return type(error).__name__, text.replace("SocketLoop", "Loop").replace("BaseLoop", "Loop")


def call(text: str) -> Callable[[Any], Any]:
    """A call that is wrong, under a name of its own."""

    def add(function: Any) -> Any:
        CALLS.append(pytest.param(function, id=text))
        return function

    return add


def stream() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    return sock


def datagrams() -> socket.socket:
    return socket.socket(type=socket.SOCK_DGRAM)


def given(name: str, *args: Any, **kwargs: Any) -> None:
    """A wrong call of a method of the loop; arguments that are functions without a name are called for the value."""

    async def function(loop: Any) -> Any:
        made = [each() if each in (stream, datagrams) else each for each in (*args, *kwargs.values())]
        try:
            result = getattr(loop, name)(*made[: len(args)], **dict(zip(kwargs, made[len(args) :], strict=True)))
            return await result if asyncio.iscoroutine(result) or asyncio.isfuture(result) else result
        finally:
            for each in made:
                if isinstance(each, socket.socket):
                    each.close()

    shown = ", ".join([*map(str, args), *(f"{key}={value}" for key, value in kwargs.items())])
    CALLS.append(
        pytest.param(function, id=re.sub(r"<(\w+) ([\w.]+) at 0x\w+>|<class '.*?(\w+)'>", r"\2\3", f"{name}({shown})"))
    )


given("create_connection", Protocol)
given("create_connection", Protocol, "127.0.0.1", 1, sock=stream)
given("create_connection", Protocol, sock=datagrams)
given("create_connection", Protocol, "127.0.0.1", 1, server_hostname="x")
given("create_connection", Protocol, "", 1, ssl=True)
given("create_connection", Protocol, sock=stream, ssl=True)
given("create_connection", Protocol, "127.0.0.1", 1, ssl_handshake_timeout=5)
given("create_connection", Protocol, "127.0.0.1", 1, ssl_shutdown_timeout=5)
given("create_connection", Protocol, "127.0.0.1", 1, ssl=True, ssl_handshake_timeout=0)
given("create_connection", Protocol, "127.0.0.1", 1, nonsense=1)
given("create_connection", Protocol, "127.0.0.1", 1)
given("create_connection", Protocol, "127.0.0.1", "no-such-service")
given("create_connection", Protocol, "127.0.0.1", 1, family=socket.AF_INET6)
given("create_connection", Protocol, "127.0.0.1", 1, local_addr=("192.0.2.1", 0))
given("create_connection", Protocol, "127.0.0.1", 1, local_addr=5)
given("create_connection", Protocol, 5, 1)
given("create_connection", Protocol, "127.0.0.1", [])
given("create_connection", Protocol, "127.0.0.1", 1, interleave="x", happy_eyeballs_delay=1)
given("create_connection", Protocol, "127.0.0.1", 1, all_errors=True)
given("create_connection", 5, sock=5)
given("create_server", Protocol)
given("create_server", Protocol, "127.0.0.1", 1, sock=stream)
given("create_server", Protocol, sock=datagrams)
given("create_server", Protocol, "127.0.0.1", 0, ssl=True)
given("create_server", Protocol, "127.0.0.1", 0, ssl_handshake_timeout=5)
given("create_server", Protocol, "127.0.0.1", 0, ssl_shutdown_timeout=5)
given("create_server", Protocol, "192.0.2.1", 0)
given("create_server", Protocol, "127.0.0.1", -1)
given("create_server", Protocol, "127.0.0.1", 70_000)
given("create_server", Protocol, "no such host", 0)
given("create_server", Protocol, 5, 0)
given("create_server", Protocol, "127.0.0.1", 0, backlog="x")
given("create_server", Protocol, "127.0.0.1", 0, nonsense=1)
given("create_unix_connection", Protocol)
given("create_unix_connection", Protocol, "/no/such/path")
given("create_unix_connection", Protocol, "/x", sock=stream)
given("create_unix_connection", Protocol, sock=stream)
given("create_unix_connection", Protocol, "/x", ssl=True)
given("create_unix_connection", Protocol, "/x", server_hostname="x")
given("create_unix_connection", Protocol, "/x", ssl_handshake_timeout=5)
given("create_unix_connection", Protocol, "x" * 200)
given("create_unix_server", Protocol)
given("create_unix_server", Protocol, "/no/such/path")
given("create_unix_server", Protocol, "/x", sock=stream)
given("create_unix_server", Protocol, sock=stream)
given("create_unix_server", Protocol, "/x", ssl=True)
given("create_unix_server", Protocol, "/x", ssl_shutdown_timeout=5)
given("create_datagram_endpoint", asyncio.DatagramProtocol)
given("create_datagram_endpoint", asyncio.DatagramProtocol, sock=stream)
given("create_datagram_endpoint", asyncio.DatagramProtocol, sock=datagrams, local_addr=("127.0.0.1", 0))
given("create_datagram_endpoint", asyncio.DatagramProtocol, local_addr="127.0.0.1")
given("create_datagram_endpoint", asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), remote_addr=("::1", 5))
given("create_datagram_endpoint", asyncio.DatagramProtocol, local_addr=("192.0.2.1", 0))
given("create_datagram_endpoint", asyncio.DatagramProtocol, local_addr="/no/such/path", family=socket.AF_UNIX)
given("create_datagram_endpoint", asyncio.DatagramProtocol, local_addr=5, family=socket.AF_UNIX)
given("connect_accepted_socket", Protocol, datagrams)
given("connect_accepted_socket", Protocol, stream, ssl=True)
given("connect_accepted_socket", Protocol, stream, ssl_handshake_timeout=5)
given("connect_accepted_socket", Protocol, stream, ssl_shutdown_timeout=5)
given("start_tls", 5, Protocol, ssl.create_default_context())
given("start_tls", 5, Protocol, 5)
given("sendfile", 5, 5)
given("sock_sendfile", stream, 5)
given("sock_recv", stream, -1)
given("sock_recv", stream, "x")
given("sock_recv", 5, 1)
given("sock_recv_into", stream, b"read only")
given("sock_recv_into", stream, 5)
given("sock_recvfrom", datagrams, "x")
given("sock_recvfrom_into", datagrams, b"read only")
given("sock_recvfrom_into", datagrams, bytearray(5), 10)
given("sock_sendall", stream, "x")
given("sock_sendall", stream, 5)
given("sock_sendall", stream, b"not connected")
given("sock_sendto", datagrams, "x", ("127.0.0.1", 5))
given("sock_sendto", datagrams, b"x", 5)
given("sock_sendto", datagrams, b"x", ("127.0.0.1", 70_000))
given("sock_accept", stream)
given("sock_connect", stream, 5)
given("sock_connect", stream, ("127.0.0.1",))
given("sock_connect", stream, ("127.0.0.1", 1))
given("subprocess_exec", asyncio.SubprocessProtocol)
given("subprocess_exec", asyncio.SubprocessProtocol, 5)
given("subprocess_exec", asyncio.SubprocessProtocol, "/no/such/program")
given("subprocess_exec", asyncio.SubprocessProtocol, "true", shell=True)
given("subprocess_exec", asyncio.SubprocessProtocol, "true", text=True)
given("subprocess_exec", asyncio.SubprocessProtocol, "true", pass_fds=5)
given("subprocess_exec", asyncio.SubprocessProtocol, "true", user="no such user")
given("subprocess_exec", asyncio.SubprocessProtocol, "true", process_group="x")
given("subprocess_exec", asyncio.SubprocessProtocol, "true", stdout=b"x")
given("subprocess_shell", asyncio.SubprocessProtocol, 5)
given("subprocess_shell", asyncio.SubprocessProtocol, "true", shell=False)
given("subprocess_shell", asyncio.SubprocessProtocol, "true", bufsize=5)
given("connect_read_pipe", Protocol, 5)
given("connect_write_pipe", Protocol, 5)
given("getaddrinfo", 5, 5)
given("getnameinfo", 5)
given("run_in_executor", None, 5)
given("run_in_executor", 5, print)
given("create_task", 5)
given("shutdown_default_executor", "soon")
given("add_reader", 5.5, print)
given("add_reader", None, print)
given("add_writer", -1, print)
given("remove_reader", "x")
given("remove_writer", -1)
given("call_exception_handler", 5)


async def connected(loop: Any, protocol: Any = Protocol) -> tuple[Any, socket.socket]:
    one, other = socket.socketpair()
    transport, _ = await loop.create_connection(protocol, sock=one)
    return transport, other


def wrong(name: str, *args: Any, before: str = "") -> None:
    """A wrong call of a method of a transport, after another."""

    async def function(loop: Any) -> Any:
        transport, peer = await connected(loop)
        try:
            if before:
                getattr(transport, before)()
            return getattr(transport, name)(*args)
        finally:
            transport.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            peer.close()

    CALLS.append(pytest.param(function, id=f"transport.{before}{name}({', '.join(map(str, args))})"))


for data in ("text", 5, None, [b"x"], object):
    wrong("write", data)
for data in ("text", 5, object):
    wrong("writelines", data)
wrong("writelines", ["text"])
wrong("writelines", [b"x", 5])
wrong("write", b"x", before="write_eof")
wrong("writelines", [b"x"], before="write_eof")
wrong("write_eof", before="write_eof")
wrong("write", b"x", before="close")
wrong("write_eof", before="close")
wrong("close", before="close")
wrong("abort", before="abort")
wrong("pause_reading", before="pause_reading")
wrong("resume_reading")
wrong("pause_reading", before="close")
wrong("resume_reading", before="close")
wrong("set_write_buffer_limits", 1, 2)
wrong("set_write_buffer_limits", -1)
wrong("set_write_buffer_limits", "x")
wrong("set_write_buffer_limits", None, -5)


@call("datagrams refuse")
async def datagram_calls(loop: Any) -> Any:
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), remote_addr=("127.0.0.1", 5)
    )
    outcomes = []
    for args in (("text",), (5,), (b"x", ("127.0.0.1", 6)), (b"x", 5), (None,), ()):
        try:
            outcomes.append(transport.sendto(*args))
        except Exception as error:
            outcomes.append(told(error)[0])
    transport.abort()
    outcomes.append(transport.sendto(b"after the end"))
    await asyncio.sleep(0)
    return outcomes


@call("servers in wrong states")
async def server_states(loop: Any) -> Any:
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    serving = asyncio.ensure_future(server.serve_forever())
    await asyncio.sleep(0)
    outcomes = []
    try:
        await server.serve_forever()
    except Exception as error:
        outcomes.append(told(error))
    server.close()
    server.close()
    try:
        await serving
    except asyncio.CancelledError:
        outcomes.append(("cancelled", ""))
    for again in (server.serve_forever, server.start_serving):
        try:
            await again()
        except Exception as error:
            outcomes.append(told(error))
    await server.wait_closed()
    return outcomes, server.sockets, server.is_serving()


@call("processes that have ended")
async def ended_processes(loop: Any) -> Any:
    process = await asyncio.create_subprocess_exec("true", stdin=-1)
    await process.wait()
    while process._transport._proc is not None:  # noqa: ASYNC110  its pipe has an end too
        await asyncio.sleep(0)
    outcomes = []
    for late in (process.kill, process.terminate, lambda: process.send_signal(9)):
        try:
            outcomes.append(late())
        except Exception as error:
            outcomes.append(told(error))
    return outcomes, await process.communicate(), process.returncode


@call("a listening socket as a connection")
async def listening(loop: Any) -> Any:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        transport, _ = await loop.create_connection(Protocol, sock=sock)
        transport.write(b"x")
        await asyncio.sleep(0.01)
        closing = transport.is_closing()
        transport.abort()
        await asyncio.sleep(0)
        return closing


@call("a closed socket")
async def closed(loop: Any) -> Any:
    sock = stream()
    sock.close()
    outcomes = []
    for each in (
        lambda: loop.create_connection(Protocol, sock=sock),
        lambda: loop.create_server(Protocol, sock=sock),
        lambda: loop.connect_accepted_socket(Protocol, sock),
        lambda: loop.sock_recv(sock, 1),
        lambda: loop.sock_sendall(sock, b"x"),
        lambda: loop.sock_accept(sock),
        lambda: loop.sock_connect(sock, ("127.0.0.1", 1)),
        lambda: loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock),
    ):
        try:
            outcomes.append(await each())
        except Exception as error:
            outcomes.append(told(error)[0])
    return outcomes


def outcome(make: Callable[[], Any], function: Callable[[Any], Any]) -> Any:
    async def main() -> Any:
        reports = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
        try:
            result = await function(loop)
        except Exception as error:
            result = told(error)
        # The loop is alive, whatever it was asked.
        await asyncio.sleep(0)
        assert await asyncio.get_running_loop().create_task(asyncio.sleep(0, 5)) == 5
        return result if isinstance(result, str | tuple | list | None | bool) else type(result).__name__, reports

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", CALLS)
def test_it_is_refused_as_the_standard_loop_refuses_it(function: Callable[[Any], Any]) -> None:
    assert outcome(plait.new_event_loop, function) == outcome(asyncio.SelectorEventLoop, function)
