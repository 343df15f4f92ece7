"""A forked child has a channel with what was in it, and nobody of its parent waits there."""

from __future__ import annotations

from typing import Any

import pytest

PROGRAM = """
import asyncio, os, sys, threading, time, warnings
import plait

warnings.simplefilter("ignore")  # of a fork beside threads: that is what this is about
channel, full, done = plait.Channel(), plait.Channel(1), plait.Channel()
full.put("x")
done.put("unfinished")

def until(condition):
    while not condition():
        time.sleep(0.001)

waiting = [threading.Thread(target=channel.get, daemon=True) for _ in range(3)]
waiting += [threading.Thread(target=full.put, args=("y",), daemon=True), threading.Thread(target=done.join, daemon=True)]
for thread in waiting:
    thread.start()
loop_thread = threading.Thread(target=lambda: asyncio.run(channel.aget()), daemon=True)
loop_thread.start()
until(lambda: channel.statistics()["waiting_get"] == 4 and full.statistics()["waiting_put"] == 1)

def use():
    found = []
    getting = threading.Thread(target=lambda: found.append(channel.get()))
    getting.start()
    until(lambda: channel.statistics()["waits"] >= 5)
    channel.put(1)
    getting.join(20)
    assert found == [1], found
    putting = threading.Thread(target=full.put, args=("z",))
    putting.start()
    until(lambda: full.statistics()["waits"] >= 2)
    assert full.get() == "x"
    putting.join(20)
    assert not putting.is_alive()

    async def main():
        task = asyncio.create_task(channel.aget())
        await asyncio.sleep(0.01)
        other = threading.Thread(target=channel.put, args=(2,))
        other.start()
        assert await asyncio.wait_for(task, 20) == 2
        assert await asyncio.wait_for(full.aget(), 20) == "z"

    asyncio.run(main())
    done.get()
    done.task_done()
    done.join()
    channel.shutdown()
    assert list(channel) == []

pid = os.fork()
if pid == 0:
    try:
        use()
    except BaseException as error:
        print("child:", repr(error), channel, full, flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
# The parent's own are still there.
for number in range(4):
    channel.put(number)
assert full.get() == "x"
for thread in (*waiting[:4], loop_thread):
    thread.join(20)
    assert not thread.is_alive()
print("ok")
"""


def test_a_forked_child_uses_it(run_script: Any) -> None:
    assert run_script(PROGRAM).stdout == "ok\n"


@pytest.mark.parametrize("what", ["get", "aget"])
def test_a_child_that_was_forked_from_a_waiting_program_ends(run_script: Any, what: str) -> None:
    """The copies of those who wait are left alone when the child's interpreter ends."""
    source = f"""
import asyncio, os, threading, time, warnings
import plait
warnings.simplefilter("ignore")
channel = plait.Channel()
target = channel.get if {what!r} == "get" else lambda: asyncio.run(channel.aget())
thread = threading.Thread(target=target, daemon=True)
thread.start()
while not channel.statistics()["waiting_get"]:
    time.sleep(0.001)
pid = os.fork()
if pid == 0:
    del channel
    raise SystemExit(0)
assert os.waitpid(pid, 0)[1] == 0
channel.put(1)
thread.join(20)
print(thread.is_alive())
"""
    assert run_script(source).stdout == "False\n"


@pytest.mark.parametrize("put", ["channel.aput(LARGE)", "channel.aput_many([LARGE, LARGE])"])
def test_a_child_leaves_alone_what_its_parent_has_still_to_put(run_script: Any, put: str) -> None:
    source = f"""
import asyncio, os, sys, warnings
import plait
warnings.simplefilter("ignore")
LARGE, OTHER = b"A" * 50_000, b"B" * 50_000

async def main():
    channel = plait.Channel(1, shared=True)
    channel.put(b"x")
    task = asyncio.create_task({put})
    while not channel.statistics()["waiting_put"]:
        await asyncio.sleep(0)
    before = channel.statistics()["block_bytes"]
    ended = asyncio.get_running_loop().create_future()
    def fork():  # in no task: from 3.14 on asyncio takes none to its end that was forked within
        if (child := os.fork()) == 0:
            sys.exit(0)
        ended.set_result(os.waitpid(child, 0)[1])
    asyncio.get_running_loop().call_soon(fork)
    assert await ended == 0
    assert channel.statistics()["block_bytes"] == before
    for _ in range(200):
        try:
            channel.put_nowait(OTHER)
        except plait.ChannelFull:
            pass
    channel.get()
    while not task.done() or channel.qsize():
        await asyncio.sleep(0)
        if channel.qsize():
            assert channel.get() == LARGE
    assert channel.statistics()["block_bytes"] == 0

asyncio.run(main())
print("ok")
"""
    assert run_script(source).stdout == "ok\n"


def test_a_child_puts_a_copy_of_its_own(run_script: Any) -> None:
    """The process is forked by what is pickled after a large message."""
    source = """
import os, warnings
import plait
warnings.simplefilter("ignore")
channel = plait.Channel(8, shared=True)
LARGE = b"A" * 50_000
child = None

class Forks:
    def __reduce__(self):
        global child
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
        return (str, ("forked",))

channel.put_many([LARGE, Forks()])
if child == 0:
    os._exit(0)
assert channel.statistics()["block_bytes"] >= 2 * len(LARGE), channel.statistics()
assert channel.get_many(8) == [LARGE, "forked"] * 2
print("ok")
"""
    assert run_script(source).stdout == "ok\n"


@pytest.mark.parametrize(
    ("make", "take", "give"),
    [
        ("Channel(4, shared=True)", "get()", "put(1)"),
        ("Semaphore(0, shared=True)", "acquire()", "release()"),
        ("Event(shared=True)", "wait()", "set()"),
    ],
)
def test_a_child_of_a_signals_handler_waits_on_in_a_place_of_its_own(
    run_script: Any, make: str, take: str, give: str
) -> None:
    """Each gets what it waits for: the child neither takes its parent's place nor gives it up."""
    source = f"""
import os, signal, threading, time, warnings
import plait
warnings.simplefilter("ignore")
thing = plait.{make}
child = None

def fork(*_):
    global child
    child = os.fork()

def give():
    while child is None:
        time.sleep(0.01)
    thing.{give}
    thing.{give}

signal.signal(signal.SIGALRM, fork)
giver = threading.Thread(target=give)
giver.start()
signal.setitimer(signal.ITIMER_REAL, 0.05)
thing.{take}
if child == 0:
    os._exit(7)
giver.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
thing.{give}
thing.{take}
print("ok")
"""
    assert run_script(source).stdout == "ok\n"


def test_a_child_of_what_is_read_gives_nothing_back(run_script: Any) -> None:
    source = """
import os, warnings
import plait
warnings.simplefilter("ignore")
channel = plait.Channel(8, shared=True)
LARGE = b"A" * 50_000
child = None

def fork(_):
    global child
    child = os.fork()
    return child

class Forks:
    def __reduce__(self):
        return (fork, (LARGE,))

channel.put_many([Forks(), LARGE, LARGE])
taken = channel.get_many(8)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert taken == [child, LARGE, LARGE]
assert channel.statistics()["block_bytes"] == 0, channel.statistics()
channel.put_many([LARGE] * 3)
assert channel.get_many(8) == [LARGE] * 3
print("ok")
"""
    assert run_script(source).stdout == "ok\n"


def test_a_child_that_is_forked_while_a_thread_looks_something_up_finds_it_too(run_script: Any) -> None:
    script = """
import concurrent.futures, os, threading, warnings
import plait

warnings.simplefilter("ignore")
error = concurrent.futures.CancelledError
del concurrent.futures.CancelledError
looks, go, parent = threading.Event(), threading.Event(), os.getpid()

def look_up(name):
    if name != "CancelledError":
        raise AttributeError(name)
    if os.getpid() == parent:
        looks.set()
        go.wait()
    return error

concurrent.futures.__getattr__ = look_up

def cancelled():
    future = plait.Future()
    future.cancel()
    try:
        future.result()
    except error:
        return True

thread = threading.Thread(target=cancelled)
thread.start()
looks.wait()
child = os.fork()
if not child:
    os._exit(0 if cancelled() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
go.set()
thread.join()
assert cancelled()
print("ok")
"""
    assert run_script(script).stdout == "ok\n"
