"""A loop in a daemon thread that runs code of the program just when the interpreter ends. In programs of their own."""

from __future__ import annotations

import pytest

PROGRAM = """
import asyncio, plait, socket, sys, threading, time
what = sys.argv[1]
busy = threading.Event()
def work(*ignored):
    busy.set()
    while True:  # asks for the GIL again and again, also while the interpreter ends
        time.sleep(0)
        len("")
def work_if(name):
    if what == name:
        work()
class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        work_if("connection_made")
    def data_received(self, data):
        work_if("data_received")
    def eof_received(self):
        work_if("eof_received")
    def connection_lost(self, error):
        work_if("connection_lost")
class Buffered(asyncio.BufferedProtocol):
    def get_buffer(self, hint):
        work_if("get_buffer")
        return bytearray(9)
    def buffer_updated(self, count):
        work_if("buffer_updated")
class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        transport.sendto(b"1", transport.get_extra_info("sockname"))
    def datagram_received(self, data, address):
        work()
class Finalized:
    def __del__(self):
        work()
class Future(asyncio.Future):
    def set_result(self, result):
        work()
class Writer(asyncio.Protocol):
    def connection_made(self, transport):
        transport.set_write_buffer_limits(0)
        transport.write(bytes(9_000_000))
    def pause_writing(self):
        work()
def factory():
    work_if("factory")
    if what == "pause_writing":
        return Writer()
    return Buffered() if what in ("get_buffer", "buffer_updated") else Protocol()
async def main():
    loop = asyncio.get_running_loop()
    if what == "datagram_received":
        await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    elif what == "callback":
        loop.call_soon(work)
    elif what == "callback in debug mode":
        loop.set_debug(True)
        loop.call_soon(work)
    elif what == "finalizer of an argument":
        loop.call_soon(len, [Finalized()])
    elif what == "finalizer of a result":
        loop.call_soon(Finalized)
    elif what == "exception handler":
        loop.set_exception_handler(work)
        loop.call_soon(int, "x")
    elif what == "future of a socket":
        one, other = socket.socketpair()
        one.setblocking(False)
        loop.call_later(0.01, other.send, b"x")
        loop.create_future = lambda: Future(loop=loop)
        await loop.sock_recv(one, 9)
    else:
        server = await loop.create_server(factory, "127.0.0.1", 0)
        peer = socket.create_connection(server.sockets[0].getsockname())
        peer.sendall(b"x")
        if what in ("eof_received", "connection_lost"):
            loop.call_later(0.01, peer.close)
    await asyncio.sleep(600)
threading.Thread(target=lambda: plait.run(main()), daemon=True).start()
busy.wait()
"""


@pytest.mark.parametrize(
    "what",
    [
        "connection_made",
        "data_received",
        "eof_received",
        "connection_lost",
        "get_buffer",
        "buffer_updated",
        "pause_writing",
        "datagram_received",
        "factory",
        "callback",
        "callback in debug mode",
        "finalizer of an argument",
        "finalizer of a result",
        "exception handler",
        "future of a socket",
    ],
)
def test_code_of_the_program_that_is_busy_at_exit(run_script, what):
    assert run_script(PROGRAM, what).stderr == ""


def test_the_exit_code_is_the_program_s(run_script):
    done = run_script(PROGRAM + "raise SystemExit(7)\n", "data_received", check=False)
    assert (done.returncode, done.stderr) == (7, "")
