"""What programs use of asyncio besides: tasks, descriptors, signals, processes, names, servers, debug mode."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest

import plait


def turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


# ---- tasks


def test_tasks_are_cpythons_own(run):
    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(asyncio.sleep(0, 5), name="five")
        assert type(task) is asyncio.Task
        assert task.get_name() == "five"
        assert task in asyncio.all_tasks()
        assert type(loop.create_future()) is asyncio.Future
        return await task

    assert run(main()) == 5


def test_a_task_gets_its_context(run):
    import contextvars

    var = contextvars.ContextVar("var", default=0)

    async def main():
        context = contextvars.copy_context()

        async def child():
            var.set(var.get() + 1)

        await asyncio.get_running_loop().create_task(child(), context=context)
        await asyncio.create_task(child(), context=context)
        return context[var], var.get()

    assert run(main()) == (2, 0)


def test_a_factory_gets_what_create_task_was_given(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []

        def factory(loop, coro, **kwargs):
            seen.append(dict(kwargs))
            kwargs.pop("extra", None)
            return asyncio.Task(coro, loop=loop, **kwargs)

        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        await loop.create_task(asyncio.sleep(0), name="n", extra=1)
        loop.set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))
        plain = loop.create_task(asyncio.sleep(0), name="old")
        assert plain.get_name() == "old"
        await plain
        loop.set_task_factory(None)
        await loop.create_task(asyncio.sleep(0))
        with pytest.raises(TypeError):
            loop.set_task_factory(5)
        return seen

    assert run(main()) == [{"name": "n", "extra": 1}]


def test_eager_tasks(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []

        async def child():
            seen.append(1)

        coro = child()
        if sys.version_info < (3, 12):
            with pytest.raises(NotImplementedError):
                loop.create_task(coro, eager_start=True)
            await loop.create_task(coro, eager_start=None)
            return
        task = loop.create_task(coro, eager_start=True)
        assert (seen, task.done()) == ([1], True)
        loop.set_task_factory(asyncio.eager_task_factory)
        assert loop.create_task(child()).done()

    run(main())


# ---- descriptors


def test_readers_and_writers(loop, pair):
    ours, theirs = pair
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(10)) or loop.stop())
    loop.call_soon(theirs.send, b"one")
    loop.run_forever()
    loop.add_writer(ours.fileno(), lambda: seen.append("writable") or loop.stop())
    loop.run_forever()
    assert seen == [b"one", "writable"]
    assert loop.remove_writer(ours)
    assert not loop.remove_writer(ours)
    theirs.send(b"two")
    loop.run_forever()
    assert seen[2:] == [b"two"]
    assert loop.remove_reader(ours.fileno())
    assert not loop.remove_reader(ours)


def test_a_reader_takes_the_place_of_another(loop, pair):
    ours, theirs = pair
    seen = []
    loop.add_reader(ours, seen.append, "old")
    old, _ = loop._watchers(ours)
    loop.add_reader(ours, lambda: (seen.append("new"), loop.stop()))
    assert old.cancelled()
    theirs.send(b"x")
    loop.run_forever()
    assert seen == ["new"]
    loop.remove_reader(ours)


def test_a_reader_removed_in_the_same_turn_is_not_called(loop, pair):
    ours, theirs = pair
    seen = []
    loop.add_reader(ours, lambda: (seen.append("read"), loop.remove_writer(theirs), loop.remove_reader(ours)))
    loop.add_writer(theirs, lambda: (seen.append("write"), loop.remove_reader(ours), loop.remove_writer(theirs)))
    theirs.send(b"x")
    turn(loop)
    turn(loop)
    assert len(seen) == 1


def test_a_file_that_is_closed_while_it_is_watched_can_be_taken_out(loop):
    """As anyio does with its sockets; a number that is another's by then keeps its watcher."""
    ours, theirs = socket.socketpair()
    loop.add_reader(ours, print)
    loop.add_writer(ours, print)
    ours.close()
    assert loop.remove_reader(ours)
    assert loop.remove_writer(ours)
    with pytest.raises(ValueError, match="Invalid file"):
        loop.remove_reader(ours)
    theirs.close()
    old, theirs = socket.socketpair()
    loop.add_reader(old, print)
    old.close()
    new = socket.socket()
    loop.add_reader(new, print)
    with pytest.raises(ValueError, match="Invalid file"):
        loop.remove_reader(old)
    assert loop.remove_reader(new.fileno())
    assert not loop.remove_reader(new)
    new.close()
    theirs.close()


@pytest.mark.parametrize("told", [True, False])
def test_a_descriptor_closed_and_reopened_is_another(loop, told):
    """A hundred times the same number, always another pipe; with and without `remove_reader` before the close."""
    numbers, seen = set(), []
    for round_ in range(100):
        reader, writer = os.pipe()
        numbers.add(reader)
        loop.add_reader(reader, lambda fd, now: seen.append((now, os.read(fd, 10))), reader, round_)
        os.write(writer, b"%d" % round_)
        turn(loop)
        if told:
            loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)
    assert seen == [(number, b"%d" % number) for number in range(100)]
    assert len(numbers) == 1
    loop.remove_reader(numbers.pop())


def test_an_event_of_a_former_owner_reaches_nobody(loop, pair):
    """Both are ready in one look; the first to run closes the other's descriptor and reopens its number."""
    ours, theirs = pair
    reader, writer = os.pipe()
    seen, kept = [], []

    def swap():
        loop.remove_reader(ours)
        loop.remove_reader(reader)
        os.close(reader)
        again, other = os.pipe()
        kept.extend([again, other])
        assert again == reader
        loop.add_reader(again, seen.append, "wrong")

    loop.add_reader(ours, swap)
    loop.add_reader(reader, swap)
    theirs.send(b"x")
    os.write(writer, b"x")
    for _ in range(3):
        turn(loop)
    assert seen == []
    loop.remove_reader(reader)
    for fd in (*kept, writer):
        os.close(fd)


def test_what_cannot_be_waited_for_says_so(loop, tmp_path):
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(PermissionError):
            loop.add_reader(file, print)
    for bad in ("nonsense", None, -1, 1.5):
        with pytest.raises((ValueError, TypeError)):
            loop.add_reader(bad, print)
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add_reader(987654, print)
    turn(loop)


def test_busy_callbacks_do_not_shut_out_descriptors(loop, pair):
    ours, theirs = pair
    loop.add_reader(ours, lambda: (ours.recv(1), loop.stop()))
    theirs.send(b"x")

    def again():
        loop.call_soon(again)

    loop.call_soon(again)
    loop.run_forever()
    loop.remove_reader(ours)


# ---- signals


def kill_soon(number, delay=0.05):
    timer = threading.Timer(delay, os.kill, (os.getpid(), number))
    timer.start()
    return timer


def test_signal_handlers_of_the_loop(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda *args: (seen.append(args), loop.stop()), 1, 2)
    timer = kill_soon(signal.SIGUSR1)
    loop.run_forever()
    timer.join()
    assert seen == [(1, 2)]
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert not loop.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    with pytest.raises(ValueError, match="invalid signal"):
        loop.add_signal_handler(1000, print)
    with pytest.raises(RuntimeError):
        loop.add_signal_handler(signal.SIGKILL, print)


def test_a_signal_between_two_runs_is_seen_by_the_next(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    turn(loop)
    os.kill(os.getpid(), signal.SIGUSR1)
    while not seen:
        turn(loop)
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_plain_signal_handler_wakes_the_idle_loop(loop):
    before = signal.signal(signal.SIGUSR2, lambda *_: loop.call_soon(loop.stop))
    timer = kill_soon(signal.SIGUSR2)
    loop.run_forever()
    timer.join()
    signal.signal(signal.SIGUSR2, before)


def test_what_the_program_had_signals_written_to_gets_them_and_is_back_afterwards(loop):
    reader, writer = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writer)
    handler = signal.signal(signal.SIGUSR2, lambda *_: loop.stop())
    timer = kill_soon(signal.SIGUSR2)
    loop.run_forever()
    timer.join()
    turn(loop)
    assert signal.set_wakeup_fd(before) == writer
    assert os.read(reader, 10) == bytes([signal.SIGUSR2])
    signal.signal(signal.SIGUSR2, handler)
    os.close(reader)
    os.close(writer)


CTRL_C = """
import asyncio, os, signal, sys, threading, time, plait

async def main():
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

try:
    plait.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_cancels_the_main_task(run_script):
    assert run_script(CTRL_C).stdout == "cancelled\ninterrupted\n"


CTRL_C_BARE = """
import os, signal, threading, plait
loop = plait.new_event_loop()
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    loop.run_forever()
except KeyboardInterrupt:
    print("interrupted", loop.is_running())
loop.close()
"""


def test_ctrl_c_leaves_a_bare_loop(run_script):
    assert run_script(CTRL_C_BARE).stdout == "interrupted False\n"


# ---- processes


def test_processes(run):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = await process.communicate(b"through")
        shell = await asyncio.create_subprocess_shell("exit 3")
        killed = await asyncio.create_subprocess_exec("sleep", "60")
        killed.kill()
        return out, process.returncode, await shell.wait(), await killed.wait()

    assert run(main()) == (b"through", 0, 3, -signal.SIGKILL)


def test_processes_in_a_thread_and_many_at_once(run):
    async def one(number):
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {number}")
        return await process.wait()

    async def main():
        return await asyncio.gather(*map(one, range(8)))

    assert run(main()) == list(range(8))
    results = []
    thread = threading.Thread(target=lambda: results.append(plait.run(main())))
    thread.start()
    thread.join()
    assert results == [list(range(8))]


def test_the_pipes_of_a_process_are_pipes(run):
    async def main():
        process = await asyncio.create_subprocess_shell(
            "cat /proc/self/fd/0 > /dev/null; readlink /proc/self/fd/0 /proc/self/fd/1",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate(b"x")
        return out.decode().split()

    assert all(each.startswith("pipe:") for each in run(main()))


def test_a_process_that_somebody_else_has_waited_for(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 4")
        process._transport._proc.wait()
        return await process.wait()

    assert run(main()) == 4


def test_a_loop_closed_before_its_process_has_ended(loop):
    async def main():
        return await asyncio.create_subprocess_exec("sleep", "60")

    process = loop.run_until_complete(main())
    transport = process._transport
    loop.close()
    transport._proc.kill()
    transport._proc.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        transport._closed = True


# ---- names


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo", "127.1", b"127.0.0.1", None, "0.0.0.0"])
@pytest.mark.parametrize("port", [80, None, "443", b"25"])
@pytest.mark.parametrize("kind", [0, socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("flags", [0, socket.AI_PASSIVE, socket.AI_CANONNAME])
def test_numeric_addresses_are_exactly_those_of_the_system(run, host, port, kind, flags):
    def outcome(call):
        try:
            return call()
        except OSError as error:
            return type(error), error.args

    async def look():
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=kind, flags=flags)

    expected = outcome(lambda: socket.getaddrinfo(host, port, type=kind, flags=flags))
    got = outcome(lambda: run(look()))
    assert got == expected
    assert repr(got) == repr(expected), "of the same types"


def test_names_are_looked_up_elsewhere(run):
    async def main():
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("127.0.0.1", 80, family=socket.AF_INET6)
        return {each[4][0] for each in found}

    assert run(main()) & {"127.0.0.1", "::1"}


# ---- servers


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


def test_servers_know_their_connections(run):
    async def main():
        loop = asyncio.get_running_loop()
        for end in ("close_clients", "abort_clients"):
            server = await loop.create_server(Echo, "127.0.0.1", 0, keep_alive=True)
            sock = server.sockets[0]
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
            await asyncio.sleep(0.01)
            assert not waiting.done(), "a connection is open"
            getattr(server, end)()
            await waiting
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                assert end == "abort_clients"
            writer.close()

    run(main())


@pytest.mark.parametrize("cleanup", [True, False])
def test_unix_servers_take_their_socket_away(run, tmp_path, cleanup):
    async def main():
        path = tmp_path / "socket"
        server = await asyncio.get_running_loop().create_unix_server(Echo, path, cleanup_socket=cleanup)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        writer.close()
        server.close()
        await server.wait_closed()
        return path.exists()

    assert run(main()) is not cleanup


def test_connections_that_fail_tell_all_errors(run):
    async def main():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(ExceptionGroup) as caught:
                await asyncio.get_running_loop().create_connection(
                    Echo, "127.0.0.1", port, all_errors=True, happy_eyeballs_delay=0.1, interleave=1
                )
        return [type(each) for each in caught.value.exceptions]

    assert run(main()) == [ConnectionRefusedError]


def test_connections_do_not_hold_small_writes_back(run):
    """Also where the listening socket was made without naming a protocol."""

    async def main():
        made = asyncio.get_running_loop().create_future()

        class Noted(Echo):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.set_result(transport)

        listener = socket.create_server(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(Noted, sock=listener)
        _, writer = await asyncio.open_connection(*listener.getsockname())
        sock = (await made).get_extra_info("socket")
        nodelay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        server.close()
        server.close_clients()
        await server.wait_closed()
        return nodelay

    assert run(main())


def test_the_executor_is_waited_for_as_long_as_asked(run):
    async def main():
        loop, go = asyncio.get_running_loop(), threading.Event()
        assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
        waiting = loop.run_in_executor(None, go.wait)
        try:
            with pytest.warns(RuntimeWarning, match="did not finish"):
                await loop.shutdown_default_executor(timeout=0.01)
        finally:
            go.set()
        await waiting

    run(main())


# ---- debug mode


def test_debug_mode_keeps_source_tracebacks(run):
    async def main():
        loop, told = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: told.append(context))
        handles = [loop.call_soon(id, 1), loop.call_later(60, id, 2), loop.call_at(loop.time() + 60, id, 3)]
        for each in handles:
            assert each._source_traceback[-1].filename == __file__
            assert "created at" in repr(each)
            each.cancel()
            assert "id" in repr(each)
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert told[0]["source_traceback"][-1].filename == __file__

    run(main(), debug=True)


def test_debug_mode_tells_slow_callbacks(run, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.01
        loop.call_soon(time.sleep, 0.02)
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main(), debug=True)
    assert any("Executing <Handle" in each.getMessage() and "sleep" in each.getMessage() for each in caplog.records)


def test_debug_mode_refuses_wrong_threads_and_coroutines(run):
    async def main():
        loop, errors = asyncio.get_running_loop(), []

        async def coroutine():
            pass

        def wrong():
            for call in (lambda: loop.call_soon(id, 1), lambda: loop.call_later(1, id), lambda: loop.call_at(1, id)):
                try:
                    call()
                except RuntimeError as error:
                    errors.append(str(error))
            loop.call_soon_threadsafe(id, 1)

        await loop.run_in_executor(None, wrong)
        assert len(errors) == 3
        assert all("Non-thread-safe operation" in each for each in errors)
        for call in (loop.call_soon, lambda each: loop.call_later(1, each)):
            with pytest.raises(TypeError, match="coroutines cannot be used"):
                call(coroutine)
            with pytest.raises(TypeError, match="callable"):
                call(5)

    run(main(), debug=True)


def test_debug_mode_by_the_environment(run_script):
    source = "import plait\nloop = plait.new_event_loop()\nprint(loop.get_debug())\nloop.close()"
    assert run_script(source, env={"PYTHONASYNCIODEBUG": "1"}).stdout == "True\n"
    assert run_script(source, env={"PYTHONASYNCIODEBUG": ""}).stdout == "False\n"


# ---- ways in


def test_run_is_refused_inside_a_loop(run):
    async def main():
        coro = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"plait\.run\(\) cannot be called"):
            plait.run(coro)
        coro.close()

    run(main())
    with pytest.raises((ValueError, TypeError)):
        plait.run(5)


INSTALLED = """
import asyncio, warnings, plait
plait.install()
async def main():
    return isinstance(asyncio.get_running_loop(), plait.EventLoop)
print(asyncio.run(main()))
"""


def test_install_makes_it_everybodys_loop(run_script):
    assert run_script(INSTALLED).stdout == "True\n"


def test_a_loop_that_runs_cannot_be_run(run):
    async def main():
        loop, other, coro = asyncio.get_running_loop(), plait.new_event_loop(), asyncio.sleep(0)
        for call in (loop.run_forever, lambda: loop.run_until_complete(coro), other.run_forever, loop.close):
            with pytest.raises(RuntimeError, match="running"):
                call()
        coro.close()
        other.close()
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0.001)

    run(main())
