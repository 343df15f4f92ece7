"""No descriptor is left: clean errors, servers that recover, and a loop that goes on.

The programs take all descriptors that they may have, in a process of their own, and give them back.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import Any

import pytest

PROGRAM = """
import asyncio, errno, logging, os, resource, signal, socket, subprocess, sys, threading
import plait

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
make = {"plait": plait.new_event_loop, "asyncio": asyncio.SelectorEventLoop}[sys.argv[1]]
taken = []

def take_all(but=0):
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        assert error.errno == errno.EMFILE
    give(but)

def give(count=None):
    for _ in range(len(taken) if count is None else count):
        os.close(taken.pop())

async def refused(awaitable):
    try:
        await awaitable
    except OSError as error:
        assert error.errno == errno.EMFILE, repr(error)
        return True
    raise AssertionError("it was not refused")

def run(main):
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())
"""

SERVER = (
    PROGRAM
    + """
async def main():
    loop, told = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: told.append(context))

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    waiting = socket.create_connection(address)
    waiting.close()
    waiting = socket.socket()
    began = loop.time()
    take_all()
    waiting.connect(address)  # the kernel takes the connection, and the server cannot
    waiting.sendall(b"hello")
    waiting.setblocking(False)
    while not told:
        await asyncio.sleep(0.01)
    writer.write(b"meanwhile")
    assert await reader.readexactly(9) == b"meanwhile"
    await asyncio.sleep(0.2)
    # It tries again after a delay only, however slow this machine is; the standard loop of older versions does within its turn.
    most = 1 + int((loop.time() - began) / asyncio.constants.ACCEPT_RETRY_DELAY)
    assert len(told) <= most or sys.argv[1] == "asyncio", (most, told)
    context = told[0]
    assert context["message"] == "socket.accept() out of system resource"
    assert context["exception"].errno == errno.EMFILE
    assert context["socket"].getsockname() == address
    give()
    assert await loop.sock_recv(waiting, 100) == b"hello"
    again, _ = await loop.create_connection(asyncio.Protocol, *address)
    again.close()
    waiting.close()
    writer.close()
    server.close()
    await server.wait_closed()

run(main)
print("ok")
"""
)

EVERYTHING = (
    PROGRAM
    + """
async def main():
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    folder = sys.argv[2]
    await asyncio.sleep(0.01)
    for left in range(4):
        take_all(left)
        if left == 0:
            await refused(loop.create_connection(asyncio.Protocol, *address))
            await refused(loop.create_unix_connection(asyncio.Protocol, folder + "/none"))
            await refused(loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)))
            await refused(loop.create_unix_server(asyncio.Protocol, folder + "/server"))
        await refused(asyncio.create_subprocess_exec("/bin/true", stdin=-1, stdout=-1, stderr=-1))
        loop.call_soon_threadsafe(int)
        ended = loop.create_future()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(ended.set_result, 5))
        thread.start()
        assert await ended == 5
        thread.join()
        await asyncio.sleep(0.001)
        give()
        files = os.listdir("/proc/self/fd")
        process = await asyncio.create_subprocess_exec("/bin/echo", "out", stdout=-1)
        assert (await process.communicate())[0] == b"out\\n"
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.01)
        assert os.listdir("/proc/self/fd") == files
    server.close()
    await server.wait_closed()
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("ok")

run(main)
"""
)

FIRST_SLEEP = (
    PROGRAM
    + """
loop = make()
take_all()
for program in (lambda: asyncio.sleep(0.01), lambda: loop.run_in_executor(None, int)):
    try:
        coroutine = program()
        loop.run_until_complete(coroutine)
    except OSError as error:
        assert error.errno == errno.EMFILE
    else:
        raise AssertionError("it had something to sleep on")
give()
assert loop.run_until_complete(asyncio.sleep(0.01, 5)) == 5
for task in asyncio.all_tasks(loop):
    task.cancel()
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
print("ok")
"""
)


@pytest.mark.parametrize("kind", ["plait", "asyncio"])
@pytest.mark.parametrize("program", [SERVER, EVERYTHING], ids=["server", "everything"])
def test_out_of_descriptors(run_script: Any, tmp_path: Any, program: str, kind: str) -> None:
    result = run_script(program, kind, str(tmp_path))
    assert result.stdout == "ok\n"
    assert result.stderr == ""


def test_out_of_descriptors_before_the_first_sleep(run_script: Any) -> None:
    """Ours opens what it sleeps on when it first sleeps. What cannot be slept on is told, and the loop can run later."""
    result = run_script(FIRST_SLEEP, "plait")
    assert result.stdout == "ok\n"


def test_a_process_is_waited_for_by_a_thread_when_no_descriptor_is_left(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> int | None:
        command = sys.executable, "-c", "input(); raise SystemExit(7)"
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
        assert any(each.name == f"waitpid-{process.pid}" for each in threading.enumerate())
        await process.communicate(b"end\n")
        return process.returncode

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert run(main()) == 7
