"""Debug mode, warnings and refusals: each scene is played on the standard loop and on ours, and has to read the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import plait

# What the two call differently, and what differs from run to run.
SAME = [
    (r"_UnixSelectorEventLoop", "EventLoop"),
    (r"_Selector(Socket|Datagram)Transport", r"\1Transport"),
    (r"_Unix(Subprocess|ReadPipe|WritePipe)Transport", r"\1Transport"),
    (r" (running|returncode=\d+)(?=[ >])", ""),
    (r" std\w+=<[^>]*>", ""),
    (r"0x[0-9a-f]+", "0x"),
    (r"fd=\d+", "fd=N"),
    (r"pid[=: ]+\d+", "pid=N"),
    (r"Task-\d+", "Task-N"),
    (r"took \d+\.\d+ s", "took T s"),
    (r"took \d+\.\d+ms", "took T"),
    (r"when=[\d.]+", "when="),
    (r"(Read|Write) pipe \d+|<Process \d+>", "pipe or process"),
    (r'\n +File ".*(\n {4}.*)*', ""),
    (r"\[<FrameSummary .*?>\]", "[frames]"),
    (r"read=\w+ write=<\w+, bufsize=\d+>", "read= write="),
    (r"(?<=py:)\d+", "N"),
    (r"_ThreadSafeHandle", "Handle"),  # from 3.14 on; ours are all safe
    (r"name='/?[\w/.]+'|<fd:\d+>|name=\d+", "name="),
]


def plain(text: str) -> str:
    for pattern, instead in SAME:
        text = re.sub(pattern, instead, text)
    return text


class Stage:
    """What a scene leaves: what was logged, warned of, refused, and said."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.seen: list[tuple[str, str]] = []

    def say(self, text: object) -> None:
        self.seen.append(("said", plain(str(text))))

    @contextlib.contextmanager
    def refused(self):
        try:
            yield
        except Exception as error:
            self.seen.append((type(error).__name__, plain(str(error))))
        else:
            self.seen.append(("nothing", "was refused"))

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def run(self, main: Any) -> Any:
        return self.loop.run_until_complete(main)


class Logged(logging.Handler):
    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        # There is no selector; and no watcher of children, which has its say before 3.12.
        # What only ends a turn may be slow on a busy machine.
        unlike = ("Using selector", "exited with returncode", ".stop")
        if not any(each in record.getMessage() for each in unlike):
            self.stage.seen.append((record.levelname, plain(record.getMessage())))


def play(make: Callable[[], Any], scene: Callable[[Stage], object], debug: bool) -> list[tuple[str, str]]:
    logger = logging.getLogger("asyncio")
    before = logger.level, logger.propagate
    loop = make()
    loop.set_debug(debug)
    loop.slow_callback_duration = 60  # a slow machine is no part of a scene
    stage = Stage(loop)
    handler = Logged(stage)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                scene(stage)
                gc.collect()
            finally:
                loop.set_debug(False)
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()
        stage.seen += sorted(
            (each.category.__name__, plain(str(each.message)))
            for each in caught
            # A socket may end before or after its transport, as it pleases the collector.
            if not issubclass(each.category, DeprecationWarning) and "unclosed <socket" not in str(each.message)
        )
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
    return stage.seen


SCENES: list[Any] = []


def scene(expect: str, *, modes: tuple[bool, ...] = (True, False), order: bool = True) -> Any:
    """A scene in whose outcome `expect` is found in the first of the modes (debug or not)."""

    def add(function: Callable[[Stage], object]) -> Callable[[Stage], object]:
        for debug in modes:
            name = f"{function.__name__}{'-debug' if debug else ''}"
            SCENES.append(pytest.param(function, debug, expect if debug is modes[0] else "", order, id=name))
        return function

    return add


# ---- slow callbacks


def slow(stage: Stage, *call: Any) -> None:
    stage.loop.slow_callback_duration = 0.005
    stage.loop.call_soon(*call)
    stage.turn()
    stage.loop.slow_callback_duration = 60


def sleep_long() -> None:
    time.sleep(0.008)


@scene("Executing <Handle")
def slow_callbacks(stage: Stage) -> None:
    slow(stage, sleep_long)


@scene("Executing <TimerHandle")
def slow_timers(stage: Stage) -> None:
    stage.loop.slow_callback_duration = 0.005
    stage.loop.call_at(1, sleep_long)
    stage.turn()
    stage.loop.slow_callback_duration = 60


@scene("Executing <Task")
def slow_steps_of_tasks(stage: Stage) -> None:
    async def main() -> None:
        sleep_long()

    task = stage.loop.create_task(main())
    stage.loop.slow_callback_duration = 0.005
    stage.turn()
    stage.loop.slow_callback_duration = 60
    assert task.done()


@scene("Executing <Handle")
def slow_readers(stage: Stage) -> None:
    one, other = socket.socketpair()

    def read() -> None:
        sleep_long()
        one.recv(1)

    stage.loop.add_reader(one, read)
    other.send(b"x")
    stage.loop.slow_callback_duration = 0.005
    stage.turn()
    stage.loop.slow_callback_duration = 60
    stage.loop.remove_reader(one)
    one.close()
    other.close()


@scene("", modes=(True,))
def quick_callbacks(stage: Stage) -> None:
    stage.loop.slow_callback_duration = 30
    stage.loop.call_soon(int)
    stage.turn()


# ---- threads and arguments


@scene("Non-thread-safe operation")
def calls_from_other_threads(stage: Stage) -> None:
    loop = stage.loop

    def other() -> None:
        for call in (lambda: loop.call_soon(int), lambda: loop.call_later(60, int), lambda: loop.call_at(1e9, int)):
            with stage.refused():
                call().cancel()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


@scene("coroutines cannot be used with call_soon()")
def coroutines_as_callbacks(stage: Stage) -> None:
    loop = stage.loop

    async def coroutine() -> None:
        pass

    loop.set_exception_handler(lambda _, context: stage.say(type(context.get("exception")).__name__))
    made = coroutine()
    for call in (
        lambda each: loop.call_soon(each),
        lambda each: loop.call_soon_threadsafe(each),
        lambda each: loop.call_later(60, each),
        lambda each: loop.call_at(1e9, each),
        lambda each: loop.run_in_executor(None, each).cancel(),
    ):
        if not loop.get_debug():
            break  # there it is found out when it is called
        for each in (coroutine, made, 5):
            with stage.refused():
                call(each)
    made.close()
    for wrong in (coroutine, 5):
        with stage.refused():
            loop.add_signal_handler(10, wrong)


@scene("TypeError")
def bad_arguments(stage: Stage) -> None:
    loop = stage.loop
    for call in (
        lambda: loop.call_later(None, int),
        lambda: loop.call_at(None, int),
        lambda: loop.set_exception_handler(5),
        lambda: loop.set_task_factory(5),
        lambda: loop.set_default_executor(5),
        lambda: loop.add_signal_handler("x", int),
        lambda: loop.add_signal_handler(1000, int),
        lambda: loop.remove_signal_handler(1000),
        lambda: loop.add_reader(-1, int),
        lambda: loop.add_reader("x", int),
        lambda: loop.run_until_complete(5),
    ):
        with stage.refused():
            call()


@scene("the socket must be non-blocking", modes=(True,))
def blocking_sockets(stage: Stage) -> None:
    loop = stage.loop

    async def main() -> None:
        with socket.socket() as sock, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            for call in (
                lambda: loop.sock_recv(sock, 1),
                lambda: loop.sock_recv_into(sock, bytearray(1)),
                lambda: loop.sock_recvfrom(datagrams, 1),
                lambda: loop.sock_recvfrom_into(datagrams, bytearray(1)),
                lambda: loop.sock_sendall(sock, b"x"),
                lambda: loop.sock_sendto(datagrams, b"x", ("127.0.0.1", 1)),
                lambda: loop.sock_accept(sock),
                lambda: loop.sock_connect(sock, ("127.0.0.1", 1)),
                lambda: loop.sock_sendfile(sock, io.BytesIO(b"x")),
            ):
                with stage.refused():
                    await call()

    stage.run(main())


# ---- states


# 3.13 takes a loop that is refused for ended, and has none from then on.
@scene("This event loop is already running", modes=() if sys.version_info[:2] == (3, 13) else (True, False))
def running_loops(stage: Stage) -> None:
    loop = stage.loop

    async def main() -> None:
        with stage.refused():
            loop.run_forever()
        coro = asyncio.sleep(0)
        with stage.refused():
            loop.run_until_complete(coro)
        coro.close()
        with stage.refused():
            loop.close()
        other = type(loop)()
        with stage.refused():
            other.run_forever()
        other.close()

    stage.run(main())
    stage.say(repr(loop).replace(f"debug={loop.get_debug()}", "debug="))


@scene("Event loop is closed")
def closed_loops(stage: Stage) -> None:
    loop = type(stage.loop)()
    loop.close()
    coro = asyncio.sleep(0)
    for call in (
        lambda: loop.call_soon(int),
        lambda: loop.call_soon_threadsafe(int),
        lambda: loop.call_later(1, int),
        lambda: loop.call_at(1, int),
        lambda: loop.run_forever(),
        lambda: loop.run_until_complete(coro),
        lambda: loop.create_task(coro),
        lambda: loop.run_in_executor(None, int),
        lambda: loop.add_reader(0, int),
        lambda: loop.add_writer(0, int),
        lambda: loop.add_signal_handler(10, int),
    ):
        with stage.refused():
            call()
    coro.close()
    stage.say(loop.remove_reader(0))
    stage.say(repr(loop))


@scene("Event loop stopped before Future completed.")
def stopped_too_early(stage: Stage) -> None:
    stage.loop.call_soon(stage.loop.stop)
    coro = asyncio.sleep(60)
    with stage.refused():
        stage.loop.run_until_complete(coro)
    for task in asyncio.all_tasks(stage.loop):
        task.cancel()
    stage.turn(2)


# ---- what was not closed


@scene("unclosed event loop <EventLoop running=False closed=False debug=")
def unclosed_loops(stage: Stage) -> None:
    loop = type(stage.loop)()
    loop.call_soon(int)
    del loop
    gc.collect()


@scene("unclosed transport <SocketTransport", order=False)
def unclosed_streams(stage: Stage) -> None:
    one, other = socket.socketpair()
    given = [one]
    del one

    async def main() -> int:
        transport, _ = await stage.loop.create_connection(asyncio.Protocol, sock=given.pop())
        transport.pause_reading()
        await asyncio.sleep(0)
        return transport.get_extra_info("socket").fileno()

    fd = stage.run(main())
    stage.turn(3)
    # Nobody has the transport but the loop, which watches for nothing.
    stage.loop.remove_reader(other)
    gc.collect()
    other.close()
    assert fd > 0


@scene("unclosed transport <DatagramTransport", order=False)
def unclosed_datagrams(stage: Stage) -> None:
    async def main() -> None:
        transport, _ = await stage.loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        stage.loop._remove_reader(transport.get_extra_info("socket").fileno())

    stage.run(main())
    gc.collect()


@scene("unclosed transport <ReadPipeTransport", order=False)
def unclosed_pipes(stage: Stage) -> None:
    read, write = os.pipe()

    async def main() -> None:
        transport, _ = await stage.loop.connect_read_pipe(asyncio.Protocol, os.fdopen(read, "rb", 0))
        transport.pause_reading()
        other, _ = await stage.loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write, "wb", 0))
        stage.loop._remove_reader(other.get_extra_info("pipe").fileno())

    stage.run(main())
    gc.collect()


# ---- where things come from


@scene("Coroutine created at")
def coroutines_that_nobody_awaits(stage: Stage) -> None:
    async def forgotten() -> None:
        pass

    async def main() -> None:
        forgotten()  # type: ignore[unused-coroutine]

    stage.run(main())
    gc.collect()


@scene("Object created at")
def errors_of_callbacks(stage: Stage) -> None:
    def fails() -> None:
        raise ZeroDivisionError("of the callback")

    stage.loop.call_soon(fails)
    stage.loop.call_at(1, fails)
    stage.turn()


@scene("Object created at")
def errors_that_nobody_asked_for(stage: Stage) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("of the task")

    async def main() -> None:
        task = stage.loop.create_task(fails(), name="fails")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert task.done()

    stage.run(main())
    gc.collect()


@scene("test_debug.py")
def handles_know_where_they_were_made(stage: Stage) -> None:
    loop = stage.loop

    async def main() -> None:
        for handle in (
            loop.call_soon(int),
            loop.call_soon_threadsafe(int),
            loop.call_later(60, int),
            loop.call_at(1e9, int),
        ):
            source = handle._source_traceback
            stage.say(None if source is None else source[-1][:1])
            stage.say(repr(handle))
            handle.cancel()
            stage.say(repr(handle))
        task = loop.create_task(asyncio.sleep(0))
        source = getattr(task, "_source_traceback", None)
        stage.say(None if source is None else traceback.format_list(source)[-1].splitlines()[0])
        await task

    stage.run(main())


@scene("was scheduled after loop.shutdown_asyncgens() call")
def late_generators(stage: Stage) -> None:
    async def numbers():
        yield 1

    async def main() -> None:
        await stage.loop.shutdown_asyncgens()
        async for _ in numbers():
            pass

    stage.run(main())


@scene("in exception handler")
def handlers_that_fail(stage: Stage) -> None:
    def handler(loop: Any, context: Any) -> None:
        raise KeyError("of the handler")

    stage.loop.set_exception_handler(handler)
    stage.loop.call_soon(lambda: 1 / 0)
    stage.turn()


# ---- what debug mode tells of connections, processes and names


@scene("Get address info localhost:80", order=False)
def names(stage: Stage) -> None:
    stage.run(stage.loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM))
    stage.seen[:] = [(kind, re.sub(r" took.*", "", text)) for kind, text in stage.seen]


@scene("created: pid=N", order=False)
def processes(stage: Stage) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3", stdout=-1)
        await process.communicate()
        await process.wait()
        stage.say(process.returncode)

    if isinstance(stage.loop, asyncio.SelectorEventLoop) and not isinstance(stage.loop, plait.EventLoop):
        asyncio.set_event_loop(stage.loop)
    try:
        stage.run(main())
    finally:
        asyncio.set_event_loop(None)


@scene("pauses reading", order=False)
def connections(stage: Stage) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        transport, _ = await stage.loop.create_connection(asyncio.Protocol, sock=one)
        transport.pause_reading()
        transport.resume_reading()
        other.close()
        while not transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    stage.run(main())


@pytest.mark.parametrize(("function", "debug", "expect", "order"), SCENES)
def test_it_reads_like_the_standard_loop(
    function: Callable[[Stage], object], debug: bool, expect: str, order: bool
) -> None:
    theirs = play(asyncio.SelectorEventLoop, function, debug)
    ours = play(plait.new_event_loop, function, debug)
    if not order:
        theirs.sort()
        ours.sort()
    assert ours == theirs
    assert expect in "\n".join(f"{kind}: {text}" for kind, text in ours)
