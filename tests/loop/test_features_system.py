"""One test for each feature that a loop may have: descriptors, pipes, child processes, signals, names."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import pytest


def kill_soon(number):
    timer = threading.Timer(0.02, os.kill, (os.getpid(), number))
    timer.start()
    return timer


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    yield one, other
    one.close()
    other.close()


# ---- names


def test_getaddrinfo(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM) == socket.getaddrinfo(
            "127.0.0.1", 80, type=socket.SOCK_STREAM
        )
        return await loop.getaddrinfo("localhost", 80, proto=socket.IPPROTO_TCP)

    assert run(main()) == socket.getaddrinfo("localhost", 80, proto=socket.IPPROTO_TCP)


def test_getnameinfo(run):
    async def main():
        loop = asyncio.get_running_loop()
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await loop.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")
        assert await loop.getnameinfo(("::1", 80), flags) == ("::1", "80")
        assert await loop.getnameinfo(("127.0.0.1", 80)) == socket.getnameinfo(("127.0.0.1", 80), 0)
        with pytest.raises(socket.gaierror):
            await loop.getnameinfo(("no number", 80), flags)

    run(main())


# ---- descriptors


def test_add_reader_file_object(loop, pair):
    one, other = pair
    seen = []
    loop.add_reader(one, lambda *args: (seen.append((args, one.recv(10))), loop.stop()), 1, 2)
    other.send(b"x")
    loop.run_forever()
    assert loop.remove_reader(one)
    assert not loop.remove_reader(one)
    assert seen == [((1, 2), b"x")]


def test_a_file_object_is_looked_for_only_if_it_is_closed(loop):
    """Or to stop watching thousands would look at each for each."""

    looked = []

    class Watched(dict):
        def items(self):
            looked.append(None)
            return super().items()

    pairs = [socket.socketpair() for _ in range(3)]
    loop._files = Watched()
    files = [one for one, _ in pairs]
    for file in files:
        loop.add_reader(file, int)
    for _, other in pairs:
        loop.add_writer(other.fileno(), int)
        assert loop.remove_writer(other.fileno())
    assert loop.remove_reader(files[2])
    assert not loop.remove_reader(files[2])
    assert not looked
    files[1].close()
    assert loop.remove_reader(files[1])
    assert looked == [None]
    assert loop.remove_reader(files[0])
    assert not loop._files
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_add_reader_and_writer_by_number(loop, pair):
    one, other = pair
    seen = []
    loop.add_reader(one.fileno(), lambda: (seen.append("read"), one.recv(10), loop.stop()))
    loop.add_writer(one.fileno(), lambda: (seen.append("write"), loop.remove_writer(one.fileno()), other.send(b"x")))
    loop.run_forever()
    assert seen == ["write", "read"]
    assert not loop.remove_writer(one.fileno())
    assert loop.remove_reader(one.fileno())


def test_add_reader_regular_file_is_an_error(loop):
    with tempfile.TemporaryFile() as file:
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(PermissionError):
                add(file, print)
    loop.call_soon(loop.stop)
    loop.run_forever()


# ---- pipes


class Reading(asyncio.Protocol):
    def __init__(self):
        self.data, self.events = b"", []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.events.append("eof")

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def test_connect_read_pipe(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        pipe = os.fdopen(reader, "rb", 0)
        transport, protocol = await loop.connect_read_pipe(Reading, pipe)
        assert isinstance(transport, asyncio.ReadTransport)
        assert transport.get_extra_info("pipe") is pipe
        os.write(writer, b"one")
        os.close(writer)
        assert await protocol.lost is None
        assert protocol.data == b"one"
        assert protocol.events == ["made", "eof"]
        assert pipe.closed

    run(main())


def test_connect_write_pipe(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        pipe = os.fdopen(writer, "wb", 0)
        transport, protocol = await loop.connect_write_pipe(Reading, pipe)
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport.get_extra_info("pipe") is pipe
        transport.write(b"one")
        transport.writelines([b"two", bytearray(b"three")])
        assert transport.can_write_eof()
        transport.write_eof()
        assert await protocol.lost is None
        assert os.read(reader, 100) == b"onetwothree"
        assert os.read(reader, 100) == b""
        os.close(reader)
        assert pipe.closed

    run(main())


# ---- child processes


def test_subprocess_exec(run):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, err = await process.communicate(b"through")
        assert err is None
        assert process.pid > 0
        return out, process.returncode

    assert run(main()) == (b"through", 0)


def test_subprocess_shell(run):
    async def main():
        process = await asyncio.create_subprocess_shell("echo to stderr >&2; exit 3", stderr=subprocess.PIPE)
        return await process.communicate(), process.returncode

    assert run(main()) == ((None, b"to stderr\n"), 3)


SHOW = """
import os, sys, stat
print(os.getcwd(), os.environ.get("MINE"), os.path.exists("/proc/self/fd/%s" % sys.argv[1]), os.getsid(0) == os.getpid(),
      os.environ.get("PREEXEC"), flush=True)
"""


def test_subprocess_options(run, tmp_path):
    """Where it runs, its environment, sessions, descriptors that it gets, and what is called before it begins."""

    async def main(options):
        reader, writer = os.pipe()
        os.set_inheritable(reader, True)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", SHOW, str(reader), stdout=subprocess.PIPE, **options(reader)
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode().split()
        finally:
            os.close(reader)
            os.close(writer)

    here, env = str(tmp_path), {**os.environ, "MINE": "yes"}
    shown = run(main(cwd_and(here, env)))
    assert shown == [here, "yes", "False", "False", "None"]
    shown = run(main(lambda fd: {"pass_fds": [fd], "start_new_session": True}))
    assert shown[2:4] == ["True", "True"]
    shown = run(main(lambda fd: {"close_fds": False}))
    assert shown[2] == "True"
    shown = run(main(lambda fd: {"preexec_fn": os.setsid, "close_fds": True, "restore_signals": False}))
    assert shown[2:4] == ["False", "True"]


def cwd_and(here, env):
    return lambda _: {"cwd": here, "env": env}


IDS = """
import os
mask = os.umask(0)
print(oct(mask), os.getpgid(0) == os.getpid(), os.getuid(), os.getgid(), sorted(os.getgroups()))
"""


def test_subprocess_umask_process_group(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", IDS, stdout=subprocess.PIPE, umask=0o027, process_group=0
        )
        out, _ = await process.communicate()
        return out.decode().split()[:2]

    assert run(main()) == ["0o27", "True"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become others")
def test_subprocess_user_group_extra_groups(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            "id -u; id -g; id -G",
            stdout=subprocess.PIPE,
            user=65534,
            group=65533,
            extra_groups=[65531, 65532],
        )
        out, _ = await process.communicate()
        return [sorted(map(int, line.split())) for line in out.decode().splitlines()]

    assert run(main()) == [[65534], [65533], [65531, 65532, 65533]]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"universal_newlines": True}, ValueError),
        ({"text": True}, ValueError),
        ({"encoding": "utf-8"}, ValueError),
        ({"errors": "strict"}, ValueError),
        ({"shell": True}, ValueError),
        ({"bufsize": 5}, ValueError),
        ({"nonsense": 1}, TypeError),
        ({"cwd": "/no/such/folder"}, FileNotFoundError),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else each.__name__,
)
def test_subprocess_refuses(run, options, error):
    async def main():
        with pytest.raises(error):
            await asyncio.get_running_loop().subprocess_exec(asyncio.SubprocessProtocol, "true", **options)
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/no/such/program")

    run(main())


# ---- signals


def test_add_signal_handler(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda *args: (seen.append(args), loop.stop()), 1)
    timer = kill_soon(signal.SIGUSR1)
    loop.run_forever()
    timer.join()
    assert seen == [(1,)]
    assert loop.remove_signal_handler(signal.SIGUSR1)


def test_signal_signal_still_works(loop):
    seen = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    loop.call_later(0.001, os.kill, os.getpid(), signal.SIGUSR2)
    loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    signal.signal(signal.SIGUSR2, before)
    loop.remove_signal_handler(signal.SIGUSR1)
    assert seen == [signal.SIGUSR2]


def test_a_plain_handler_wakes_the_idle_loop(loop):
    before = signal.signal(signal.SIGUSR2, lambda *_: loop.stop())
    timer = kill_soon(signal.SIGUSR2)
    loop.run_forever()
    timer.join()
    signal.signal(signal.SIGUSR2, before)
