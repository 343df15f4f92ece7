"""What an echo costs in system calls, counted by strace."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = """
import asyncio, sys
import plait

class Plain(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        asyncio.get_running_loop().stop()

class Buffered(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, memoryview(bytearray(4096))

    def get_buffer(self, hint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(self.buffer[:count])

    connection_lost = Plain.connection_lost

loop = plait.new_event_loop()
server = loop.run_until_complete(loop.create_server(globals()[sys.argv[1]], "127.0.0.1", 0))
print(server.sockets[0].getsockname()[1], flush=True)
loop.run_forever()
"""
ECHOES = 50


@pytest.mark.parametrize("protocol", ["Plain", "Buffered"])
def test_an_echo_is_three_system_calls(protocol: str, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    calls = tmp_path / "calls"
    command = [strace, "-o", str(calls), sys.executable, "-c", SERVER, protocol]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline()
        if not port:
            assert server.stderr is not None
            said = server.stderr.read()
            if "ptrace" in said:
                pytest.skip("strace may not trace here")
            pytest.fail(said)
        with socket.create_connection(("127.0.0.1", int(port))) as peer:
            for word in [b"begin", *[b"again"] * ECHOES, b"ended"]:
                peer.sendall(word)
                assert peer.recv(99) == word
        assert server.wait() == 0
    found = calls.read_text()
    between = found[found.index('"begin"') : found.index('"ended"')]
    names = re.findall(r"^(\w+)\(", between, re.MULTILINE)
    # What follows the line of the first read, up to that of the last.
    assert names[0] == "sendto"
    assert names[-1] == "recvfrom"
    wait, *others = names[1:-1]
    assert [wait, *others] == [wait, "recvfrom", "sendto"] * ECHOES + [wait]
    assert wait in ("epoll_pwait2", "epoll_wait", "epoll_pwait")
