"""What the loop counts: `EventLoop.statistics`."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import plait
from tests.loop._tls import Contexts, until

LARGE = 3_000_000


def figures() -> Any:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, plait.EventLoop)
    return loop.statistics()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends much, and a little, to `echo`, and gets it back."""
    for data in (b"small", os.urandom(LARGE)):
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
    writer.close()
    await writer.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 20):
        writer.writelines([data[:1], data[1:]])
        await writer.drain()
    writer.close()


def check_exchange(least: int) -> None:
    """Both ends are this loop's, so what was written was read."""
    assert figures()["bytes_read"] == figures()["bytes_written"]
    assert least <= figures()["bytes_read"] <= least * 1.1
    assert (figures()["accepted"], figures()["opened"], figures()["connections"]) == (1, 2, 0)


def test_a_new_loop_has_done_nothing(loop: plait.EventLoop) -> None:
    found: Any = loop.statistics()
    for lags in (found.pop("lag"), found.pop("timer_lag")):
        assert lags == {"count": 0, "sum": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0, "histogram": []}
    assert set(found.values()) == {0}


def test_callbacks_are_counted_when_they_are_called(loop: plait.EventLoop) -> None:
    ready, done = list[int](), list[int]()
    for number in range(10):
        handle = loop.call_soon(done.append, number)
        if number % 2:
            handle.cancel()
        ready.append(loop.statistics()["ready"])
    kept = loop.call_soon(int)  # somebody else has it
    kept.cancel()
    loop.call_soon(lambda: done.append(loop.statistics()["callbacks"]))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ready == list(range(1, 11))
    assert done == [0, 2, 4, 6, 8, 6]  # the one that looks is itself one
    assert (loop.statistics()["callbacks"], loop.statistics()["turns"], loop.statistics()["ready"]) == (7, 1, 0)


def test_a_callback_that_raises_was_called(loop: plait.EventLoop) -> None:
    loop.set_exception_handler(lambda *_: loop.stop())
    loop.call_soon(int, "x")
    loop.run_forever()
    assert loop.statistics()["callbacks"] == 1


def test_debug_mode_counts_the_same(loop: plait.EventLoop) -> None:
    loop.set_debug(True)
    loop.call_soon(int)
    loop.call_soon(int).cancel()
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert (loop.statistics()["callbacks"], loop.statistics()["timers"]) == (2, 1)


def test_timers(loop: plait.EventLoop) -> None:
    handles = [loop.call_later(3600, int) for _ in range(300)]
    assert loop.statistics()["scheduled"] == 300
    for handle in handles[::2]:
        handle.cancel()
    assert loop.statistics()["scheduled"] == 150
    for handle in handles:
        handle.cancel()
    assert loop.statistics()["scheduled"] == 0
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    found = loop.statistics()
    assert (found["timers"], found["timer_lag"]["count"], found["scheduled"]) == (1, 1, 0)
    assert found["asleep"] > 0.0005


def test_timers_behind_a_callback_that_blocks_are_late(loop: plait.EventLoop) -> None:
    loop.call_later(0.001, int)
    loop.call_later(0.15, loop.stop)
    loop.call_soon(time.sleep, 0.1)
    loop.run_forever()
    late = loop.statistics()["timer_lag"]
    assert late["count"] == 2
    assert 0.098 <= late["max"] <= late["sum"]
    (bound, count), *_ = [pair for pair in late["histogram"] if pair[0] >= 0.098]
    assert bound >= 0.098
    assert count >= 1
    assert sum(count for _, count in late["histogram"]) == 2


def test_a_timer_is_not_later_than_it_was_scheduled(loop: plait.EventLoop) -> None:
    made = time.monotonic()
    for when in (0, -5, float("-inf"), float("nan")):
        loop.call_at(when, int)
    loop.call_soon(loop.stop)
    loop.run_forever()
    late = loop.statistics()["timer_lag"]
    assert late["count"] == 4
    assert late["max"] <= time.monotonic() - made + 1.0


def test_callbacks_behind_one_that_blocks_are_late(loop: plait.EventLoop) -> None:
    loop.call_soon(time.sleep, 0.1)
    loop.call_soon(int)
    loop.call_soon(loop.stop)
    loop.run_forever()
    lag = loop.statistics()["lag"]
    assert lag["count"] == 1
    assert lag["max"] >= 0.1
    assert lag["p50"] == lag["p99"] == lag["max"] == pytest.approx(lag["sum"])
    assert loop.statistics()["awake"] >= 0.1


def test_sleep_is_no_lag(loop: plait.EventLoop) -> None:
    slept = threading.Event()
    held = ThreadPoolExecutor(1)
    with held:
        future = loop.run_in_executor(held, slept.wait, 30)
        loop.call_later(0.2, slept.set)
        loop.run_until_complete(future)
    found = loop.statistics()
    assert found["asleep"] >= 0.19
    assert found["lag"]["p50"] < 0.1
    assert found["lag"]["count"] <= found["turns"]


def test_turns_and_times_add_up(loop: plait.EventLoop) -> None:
    began = time.monotonic()
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0.01))
    passed = time.monotonic() - began
    found = loop.statistics()
    assert found["awake"] + found["asleep"] + found["held_up"] <= passed
    assert found["asleep"] >= 0.02


@pytest.mark.skipif(hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled(), reason="nobody holds a loop up")
@pytest.mark.parametrize("prompt", [True, False])
def test_a_loop_that_waits_for_the_interpreter_is_held_up(prompt: bool) -> None:
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(1000))

    loop = plait.EventLoop(prompt=prompt)
    thread = threading.Thread(target=compute)
    thread.start()
    try:
        for _ in range(1000):
            loop.run_until_complete(asyncio.sleep(0.002))
            if loop.statistics()["held_up"] > 0.0005:
                break
        else:
            pytest.fail("it never was")
    finally:
        ended.set()
        thread.join()
        loop.close()
    assert loop.statistics()["lag"]["max"] > 0.00004


def test_tcp(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: figures()["accepted"] == 1)
            assert (figures()["connections"], figures()["opened"]) == (2, 2)
            await exchange(reader, writer)
            await until(lambda: figures()["connections"] == 0)
        check_exchange(2 * (LARGE + 5))
        assert figures()["bytes_read"] == 2 * (LARGE + 5)

    run(main())


def test_unix_sockets_and_protocols_with_buffers(run: Callable[[Any], Any], tmp_path: Path) -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.room = bytearray(1000)

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.room

        def buffer_updated(self, nbytes: int) -> None:
            self.transport.write(self.room[:nbytes])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "socket"
        async with await loop.create_unix_server(Buffered, path):
            await exchange(*await asyncio.open_unix_connection(path))
            await until(lambda: figures()["connections"] == 0)
        check_exchange(2 * (LARGE + 5))

    run(main())


def test_tls_is_counted_as_it_goes_over_the_socket(run: Callable[[Any], Any], tls: Contexts) -> None:
    async def main() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls.server) as server:
            port = server.sockets[0].getsockname()[1]
            pair = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client, server_hostname="localhost")
            assert figures()["connections"] == 2
            await exchange(*pair)
            await until(lambda: figures()["connections"] == 0)
        check_exchange(2 * (LARGE + 5))
        assert figures()["bytes_read"] > 2 * (LARGE + 5)

    run(main())


def test_datagrams(run: Callable[[Any], Any], tmp_path: Path) -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        unix: Any = {"local_addr": str(tmp_path / "a"), "family": socket.AF_UNIX}
        inet: Any = {"local_addr": ("127.0.0.1", 0)}
        for kwargs in (inet, unix):
            before = figures()
            there, _ = await loop.create_datagram_endpoint(Echo, **kwargs)
            address = there.get_extra_info("sockname")
            if isinstance(address, str):
                kwargs["local_addr"] = str(tmp_path / "b")
            here, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, **kwargs)
            assert figures()["endpoints"] == 2
            for size in (0, 1, 1000):
                here.sendto(bytes(size), address)
            await until(lambda: figures()["bytes_read"] - before["bytes_read"] == 2002)
            here.close()
            there.close()
            await until(lambda: figures()["endpoints"] == 0)
            assert figures()["bytes_written"] - before["bytes_written"] == 2002
            assert figures()["opened"] - before["opened"] == 2
        assert figures()["connections"] == 0

    run(main())


def test_pipes_and_child_processes(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert figures()["pipes"] == 2
        data = os.urandom(LARGE)
        assert (await child.communicate(data))[0] == data
        await until(lambda: figures()["pipes"] == 0)
        assert (figures()["bytes_read"], figures()["bytes_written"], figures()["opened"]) == (LARGE, LARGE, 2)

    run(main())


def test_a_pipe_that_breaks_counts_what_went_out(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        lost = loop.create_future()

        class End(asyncio.BaseProtocol):
            def connection_lost(self, exc: BaseException | None) -> None:
                lost.set_result(exc)

        transport, _ = await loop.connect_write_pipe(End, os.fdopen(writer, "wb"))
        transport.write(bytes(LARGE))
        written = figures()["bytes_written"]
        assert 0 < written < LARGE
        assert written == LARGE - transport.get_write_buffer_size()
        os.close(reader)
        await lost
        transport.write(b"more")
        assert (figures()["bytes_written"], figures()["pipes"]) == (written, 0)

    run(main())


def test_a_pipe_counts_bytes_and_not_what_it_refuses(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writer, "wb"))
        before = figures()["bytes_written"]
        with pytest.raises((AssertionError, TypeError)):
            transport.write("text" * 100)  # type: ignore[arg-type]
        transport.write(b"1234")
        assert figures()["bytes_written"] - before == 4
        transport.close()
        os.close(reader)

    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_sockets_without_transports(run: Any, debug: bool, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            for sock in (listener, client):
                sock.setblocking(False)
            _, (server, _) = await asyncio.gather(
                loop.sock_connect(client, listener.getsockname()), loop.sock_accept(listener)
            )
            with server:
                data = os.urandom(LARGE)
                (tmp_path / "file").write_bytes(data)
                with (tmp_path / "file").open("rb") as file:
                    sending = asyncio.gather(loop.sock_sendall(client, data), loop.sock_sendfile(server, file))
                    for sock in (server, client):
                        got = bytearray(len(data))
                        view, room = memoryview(got), 0
                        while room < len(data):
                            if room % 2:
                                more = await loop.sock_recv(sock, 50_000)
                                got[room : room + len(more)] = more
                                room += len(more)
                            else:
                                room += await loop.sock_recv_into(sock, view[room:])
                        assert got == data
                    await sending
        assert figures()["accepted"] == 1
        assert (figures()["bytes_read"], figures()["bytes_written"]) == (2 * LARGE, 2 * LARGE)

        with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
            for sock in (a, b):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            for size in (100, 200):
                assert await loop.sock_sendto(a, bytes(size), b.getsockname()) == size
            assert len((await loop.sock_recvfrom(b, 1000))[0]) == 100
            assert (await loop.sock_recvfrom_into(b, bytearray(1000)))[0] == 200
        assert (figures()["bytes_read"], figures()["bytes_written"]) == (2 * LARGE + 300, 2 * LARGE + 300)
        assert figures()["opened"] == 0

    run(main(), debug=debug)


def test_connections_that_are_aborted_or_forgotten_are_not_open(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            transport.write(bytes(LARGE))
            transport.close()
            await asyncio.sleep(0)
            assert figures()["connections"] == 1  # it still has to be written
            transport.abort()
            await until(lambda: figures()["connections"] == 0)

    async def forget() -> Any:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        await loop.create_connection(asyncio.Protocol, sock=ours)
        theirs.close()
        assert figures()["connections"] == 1
        return loop

    run(main())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop = run(forget())
        gc.collect()
    assert (loop.statistics()["connections"], loop.statistics()["opened"]) == (0, 1)


def test_other_threads_may_ask_and_a_closed_loop_tells() -> None:
    loop = plait.EventLoop()
    ended, seen = threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            seen.append(loop.statistics()["callbacks"])

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]

        loop.run_until_complete(until(lambda: bool(seen and seen[-1])))
        ended.set()
        for each in asking:
            each.result()
    assert 0 < max(seen) <= loop.statistics()["callbacks"]
    before = loop.statistics()
    handle = loop.call_later(3600, int)
    assert loop.statistics()["scheduled"] == 1
    loop.close()
    del handle
    assert loop.statistics() == before
