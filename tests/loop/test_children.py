"""Child processes: every end is told once, whoever waits and whatever goes wrong, and nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest


async def until(happened):
    while not happened():  # noqa: ASYNC110
        await asyncio.sleep(0)


def test_a_hundred_at_once(run):
    async def one(number):
        process = await asyncio.create_subprocess_exec("sh", "-c", f"cat; exit {number}", stdin=-1, stdout=-1)
        out, _ = await process.communicate(b"%d" % number)
        return out, process.returncode

    async def main():
        return await asyncio.gather(*map(one, range(100)))

    assert run(main()) == [(b"%d" % number, number) for number in range(100)]


def test_many_wait_for_the_same(run):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=-1)
        waiting = [asyncio.ensure_future(process.wait()) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        process.stdin.close()
        assert await asyncio.gather(*waiting[1:]) == [0] * 4
        assert await process.wait() == 0
        assert waiting[0].cancelled()

    run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_signals_end_it(run, number):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "60")
        process.send_signal(number)
        return await process.wait()

    assert run(main()) == -number


def test_a_child_that_does_not_read(run):
    async def main():
        process = await asyncio.create_subprocess_exec("true", stdin=-1)
        process.stdin.write(b"x" * 1_000_000)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                await process.stdin.drain()
                process.stdin.write(b"x")
                await asyncio.sleep(0)
        assert await process.communicate(b"more") == (None, None)
        return process.returncode

    assert run(main()) == 0


@pytest.mark.parametrize("reason", [OSError, PermissionError])
def test_where_the_system_gives_no_descriptor_of_a_process(run, monkeypatch, reason):
    """A thread waits then."""

    def refuse(pid, flags=0):
        raise reason("not here")

    async def main():
        results = []
        for number in (0, 7):
            process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {number}", stdout=-1)
            await process.communicate()
            results.append(process.returncode)
        killed = await asyncio.create_subprocess_exec("sleep", "60")
        killed.kill()
        return [*results, await killed.wait()]

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert run(main()) == [0, 7, -9]


def test_no_descriptors_are_left_to_start_one(run):
    """It is told, and when there are some again all is well."""

    async def main():
        process = await asyncio.create_subprocess_exec("true", stdout=-1)
        await process.communicate()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        for more in range(1, 8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, hard))
            try:
                process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3", stdin=-1, stdout=-1, stderr=-1)
            except OSError:
                continue
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await process.communicate()
            assert process.returncode == 3
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 4", stdin=-1, stdout=-1, stderr=-1)
        await process.communicate()
        return process.returncode

    assert run(main()) == 4


def children() -> set[str]:
    """Processes of this one, dead ones that nobody has waited for included. Others of the tests have some too."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


@pytest.mark.parametrize("steps", range(6))
def test_cancelled_while_it_starts(run, steps):
    """There is a process or there is none, but none that nobody knows of."""

    async def main():
        starting = asyncio.ensure_future(asyncio.create_subprocess_exec("sleep", "60", stdout=-1))
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        try:
            process = await starting
        except asyncio.CancelledError:
            return
        process.kill()
        await process.communicate()

    before = children()
    run(main())
    gc.collect()
    assert children() == before


def test_a_transport_that_is_closed_ends_its_process(run):
    async def main():
        transport, _ = await asyncio.get_running_loop().subprocess_exec(asyncio.SubprocessProtocol, "sleep", "60")
        pid = transport.get_pid()
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert await transport._wait() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(main())


def test_what_a_protocol_is_told(run):
    class Told(asyncio.SubprocessProtocol):
        def __init__(self):
            self.events, self.done = [], asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.events.append("made")

        def pipe_data_received(self, fd, data):
            self.events.append((fd, data))

        def pipe_connection_lost(self, fd, exc):
            self.events.append((fd, exc))

        def process_exited(self):
            self.events.append("exited")

        def connection_lost(self, exc):
            self.events.append("lost")
            self.done.set_result(exc)

    async def main():
        transport, protocol = await asyncio.get_running_loop().subprocess_shell(
            Told, "printf out; printf err >&2; exit 5"
        )
        assert transport.get_pipe_transport(1) is not None
        assert transport.get_pipe_transport(7) is None
        await protocol.done
        assert transport.get_returncode() == 5
        transport.close()
        return protocol.events

    events = run(main())
    assert events[0] == "made"
    assert events[-1] == "lost"
    assert set(events[1:-1]) == {(0, None), (1, b"out"), (1, None), (2, b"err"), (2, None), "exited"}


def test_somebody_else_waits_for_all_children(run, caplog):
    """The end is told all the same; how it ended nobody knows any more."""

    def take(pid):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "60")
        take(process.pid)
        return await process.wait()

    assert run(main()) == 255
    assert "exit status already read" in caplog.text


def test_a_handler_of_sigchld_is_the_programs_own(run):
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))

    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 6")
        code = await process.wait()
        await until(lambda: seen)
        return code

    try:
        assert run(main()) == 6
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_standard_output_and_error_together_and_to_nowhere(run):
    async def main():
        process = await asyncio.create_subprocess_shell(
            "echo out; echo err >&2", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        both, none = await process.communicate()
        silent = await asyncio.create_subprocess_shell("echo out; echo err >&2", stdout=-3, stderr=-3)
        return both, none, await silent.wait()

    assert run(main()) == (b"out\nerr\n", None, 0)


UNCLOSED = """
import asyncio, plait, warnings

async def main():
    process = await asyncio.create_subprocess_exec("sleep", "60")
    return process._transport.get_pid()

loop = plait.new_event_loop()
pid = loop.run_until_complete(main())
loop.close()
import gc
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    gc.collect()
import os, signal
try:
    os.kill(pid, signal.SIGKILL)
except ProcessLookupError:
    pass
print(sum("unclosed transport <SubprocessTransport" in str(each.message) for each in caught))
"""


def test_one_that_was_forgotten_is_warned_of(run_script):
    assert run_script(UNCLOSED).stdout == "1\n"


if sys.version_info < (3, 14):

    def test_a_watcher_that_does_not_work_is_told(run):
        class Inactive:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                return None

            def is_active(self):
                return False

        policy = asyncio.get_event_loop_policy()  # type: ignore[deprecated]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before, policy._watcher = policy._watcher, Inactive()
        try:
            with pytest.raises(RuntimeError, match="not activated"):
                run(asyncio.create_subprocess_exec("true"))
        finally:
            policy._watcher = before
