"""The default executor: a `plait.ThreadPool`, made when it is needed, that ends as the standard loop's does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading

import pytest

import plait

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")


def test_it_is_made_when_it_is_first_needed(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert loop._default_executor is None
        assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
        first = loop._default_executor
        assert type(first) is plait.ThreadPool
        assert isinstance(first, concurrent.futures.ThreadPoolExecutor)
        await asyncio.to_thread(int)
        assert loop._default_executor is first

    run(main())


def test_a_call_sees_the_callers_variables_and_keeps_its_changes(run):
    async def main():
        var.set("of the caller")
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, var.get) == "of the caller"
        await loop.run_in_executor(None, var.set, "changed")
        assert var.get() == "of the caller"

    run(main())


def test_what_is_cancelled_before_it_begins_is_not_called(run):
    async def main():
        loop, gate, called = asyncio.get_running_loop(), threading.Event(), []
        loop.set_default_executor(plait.ThreadPool(1))
        first = loop.run_in_executor(None, gate.wait)
        second = loop.run_in_executor(None, called.append, 1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        assert await first
        await loop.shutdown_default_executor()
        assert called == []

    run(main())


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (ZeroDivisionError, ZeroDivisionError),
        (concurrent.futures.CancelledError, asyncio.CancelledError),
        (concurrent.futures.InvalidStateError, asyncio.InvalidStateError),
        (TimeoutError, TimeoutError),
        (SystemExit, SystemExit),
        (GeneratorExit, GeneratorExit),
        pytest.param(
            StopIteration,
            RuntimeError,
            marks=pytest.mark.skipif(sys.version_info < (3, 13), reason="the future of asyncio would never end"),
        ),
    ],
)
def test_what_a_call_raises(run, raised, seen):
    def fail():
        raise raised("of the call")

    async def main():
        try:
            await asyncio.get_running_loop().run_in_executor(None, fail)
        except seen as error:
            return error
        raise AssertionError("nothing was raised")

    if issubclass(seen, asyncio.CancelledError):
        with pytest.raises(asyncio.CancelledError):
            run(cancelled(main))
    else:
        assert isinstance(run(main()), seen)


async def cancelled(main):
    raise await main()


def test_a_closed_loop_lets_what_was_begun_go_on(loop):
    gate, done = threading.Event(), threading.Event()
    loop.run_in_executor(None, lambda: (gate.wait(), done.set()))
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_in_executor(None, print)
    gate.set()
    assert done.wait(60)


LEFT = """
import asyncio, os, sys, threading
say = lambda text: os.write(1, text + b"\\n")
loop = asyncio.SelectorEventLoop() if sys.argv[1] == "asyncio" else __import__("plait").new_event_loop()
gate = threading.Event()

async def main():
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, lambda: (gate.wait(), say(b"begun")))
    for number in range(100):
        loop.run_in_executor(None, lambda number=number: number == 99 and say(b"the last one"))

loop.run_until_complete(main())
if sys.argv[2] == "closed":
    loop.close()
threading.Timer(0.05, gate.set).start()
say(b"main ends")
"""


@pytest.mark.parametrize("closed", ["closed", "open"])
@pytest.mark.parametrize("which", ["asyncio", "plait"])
def test_a_program_that_ends_waits_for_what_was_submitted(run_script, which, closed):
    ended = run_script(LEFT, which, closed)
    said = ended.stdout.splitlines()
    assert sorted(said) == ["begun", "main ends", "the last one"]
    assert said.index("main ends") < said.index("begun")


RUN = """
import asyncio, sys, threading, plait

async def main():
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, lambda: (event.wait(0.1), print("finished", flush=True)))

event = threading.Event()
plait.run(main())
print("run has returned")
"""


def test_run_waits_for_the_default_executor(run_script):
    assert run_script(RUN).stdout == "finished\nrun has returned\n"


def test_many_loops_have_many_executors():
    async def main():
        return await asyncio.gather(*(asyncio.to_thread(abs, -number) for number in range(50)))

    results = []
    threads = [threading.Thread(target=lambda: results.append(plait.run(main()))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert results == [list(range(50))] * 4
