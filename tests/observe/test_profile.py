"""`plait.profile` in a program: threads, tasks and children while a `with` block runs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import plait

LOOPS = ["asyncio.run", "plait.run"]


@pytest.mark.parametrize("run", LOOPS)
def test_tasks_tell_what_they_await(run_script: Any, run: str) -> None:
    source = f"""
import asyncio, plait, time
async def inner():
    await asyncio.sleep(0.1)
async def part():
    await inner()
    time.sleep(0.02)
async def main():
    first = asyncio.create_task(part())
    second = asyncio.create_task(part(), name="second")
    await asyncio.gather(first, second)
with plait.profile() as found:
    {run}(main())
tasks = {{task["name"]: task for task in found.tasks}}
assert {{"Task-1", "Task-2", "second"}} <= tasks.keys(), tasks
second = tasks["second"]
assert second["function"] == "part"
assert second["awaiting"] > 0.08, second
assert second["running"] >= 0.02, second
assert second["ready"] >= 0.015, second
places = [each["place"] for each in second["awaits"] if each["what"] == "sleep"]
assert any("inner" in place and place.endswith(":4)") for place in places), second
total = second["running"] + second["ready"] + second["awaiting"]
assert abs(total - second["wall"]) < 0.01 * second["wall"], second
"""
    run_script(source)


@pytest.mark.parametrize("run", LOOPS)
def test_what_tasks_await_is_named_as_people_know_it(run_script: Any, run: str) -> None:
    source = f"""
import asyncio
import plait

async def child():
    await asyncio.sleep(0.06)

async def takes(lock):
    async with lock:
        pass

async def gets(channel):
    await channel.aget()

async def joins(task):
    await task

async def gathers():
    await asyncio.gather(child(), child(), child())

async def main():
    locks = asyncio.Lock(), asyncio.Semaphore(1), plait.Lock()
    channel = plait.Channel()
    for lock in locks[:2]:
        await lock.acquire()
    await locks[2].aacquire()
    named, unnamed = asyncio.create_task(child(), name="the child"), asyncio.create_task(child())
    works = [*map(takes, locks), gets(channel), joins(named), joins(unnamed), gathers()]
    tasks = [asyncio.create_task(work, name=f"waits {{number}}") for number, work in enumerate(works)]
    await asyncio.sleep(0.05)
    for lock in locks:
        lock.release()
    await channel.aput(1)
    await asyncio.wait(tasks)

with plait.profile() as found:
    {run}(main())
said = {{each["name"]: [await_["what"] for await_ in each["awaits"]] for each in found.tasks}}
expected = [
    "Lock.acquire", "Semaphore.acquire", "Lock.__aenter__", "Channel.aget", "task the child", "task child", "gather of 3"
]
for number, what in enumerate(expected):
    assert what in said[f"waits {{number}}"], (what, said)
print("done")
"""
    assert run_script(source).stdout == "done\n"


@pytest.mark.parametrize("run", LOOPS)
def test_a_callback_that_blocks_is_told(run_script: Any, run: str) -> None:
    source = f"""
import asyncio, plait, time
def blocks():
    time.sleep(0.2)
async def main():
    asyncio.get_running_loop().call_soon(blocks)
    await asyncio.sleep(0.01)
with plait.profile() as found:
    {run}(main())
blocked, = [each for each in found.record["blocked"] if "blocks" in each["callback"]]
assert blocked["time"] > 0.19, blocked
"""
    run_script(source)


@pytest.mark.parametrize(
    ("base", "late"),
    [("asyncio.SelectorEventLoop", True), ("plait.EventLoop", True)]
    + [(f"Clock, {base}", False) for base in ("asyncio.SelectorEventLoop", "plait.EventLoop")],
)
def test_what_waits_with_a_timeout_is_ready_once_that_has_passed(run_script: Any, base: str, late: bool) -> None:
    source = f"""
import asyncio, plait, time
class Clock:  # says nothing about when a timer was due on ours
    def time(self):
        return time.monotonic() - 1000.0
class Loop({base}):
    pass
async def waits():
    try:
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), 0.1)
    except asyncio.TimeoutError:
        pass
async def blocks():
    await asyncio.sleep(0.02)
    time.sleep(0.3)
async def main():
    await asyncio.gather(waits(), blocks())
with plait.profile() as found:
    loop = Loop()
    loop.run_until_complete(main())
    loop.close()
task, = [each for each in found.tasks if each["function"] == "waits"]
ready = task["ready"]
assert (0.15 < ready < 0.25) if {late} else ready < 0.05, task
assert abs(ready + task["running"] + task["awaiting"] - task["wall"]) < 1e-4, task
"""
    run_script(source)


@pytest.mark.parametrize("run", LOOPS)
@pytest.mark.parametrize("base", ["_CTask", "_PyTask"])
def test_methods_of_tasks_of_the_program_are_not_called(run_script: Any, run: str, base: str) -> None:
    source = f"""
import asyncio, plait
asked = []
class Mine(asyncio.tasks.{base}):
    def get_name(self):
        asked.append("name")
        return "asked"
    def get_coro(self):
        asked.append("coroutine")
        return super().get_coro()
async def sleeps():
    await asyncio.sleep(0.02)
async def main():
    asyncio.get_running_loop().set_task_factory(lambda loop, coro, **more: Mine(coro, loop=loop, **more))
    await asyncio.create_task(sleeps(), name="given")
    await asyncio.create_task(waits())
async def waits():
    await asyncio.create_task(sleeps(), name="awaited")
with plait.profile() as found:
    {run}(main())
assert not asked, asked
names = [task["name"] for task in found.tasks]
assert "given" in names and "awaited" in names, names
# Tasks in Python are awaited by a generator of asyncio's.
what = "task awaited" if "{base}" == "_CTask" else "Future.__await__"
assert what in [each["what"] for task in found.tasks for each in task["awaits"]], found.tasks
"""
    run_script(source)


@pytest.mark.parametrize("run", LOOPS)
def test_tasks_are_to_programs_what_they_were(run_script: Any, run: str) -> None:
    source = f"""
import asyncio, collections.abc, inspect, plait, traceback, types
async def fails():
    await asyncio.sleep(0)
    raise ValueError("mine")
async def waits():
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        return "cancelled"
async def main():
    task = asyncio.create_task(waits(), name="mine")
    await asyncio.sleep(0)
    coroutine = task.get_coro()
    assert coroutine.__name__ == "waits" and coroutine.__qualname__ == "waits"
    assert isinstance(coroutine, collections.abc.Coroutine) and isinstance(coroutine, types.CoroutineType)
    assert asyncio.iscoroutine(coroutine) and inspect.iscoroutine(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
    assert coroutine.cr_frame.f_code is waits.__code__ and coroutine.cr_code is waits.__code__
    frame, = task.get_stack()
    assert frame.f_code is waits.__code__
    assert "coro=<waits() running at" in repr(task), repr(task)
    assert task in asyncio.all_tasks()
    task.cancel()
    assert await task == "cancelled"
    failed = asyncio.create_task(fails())
    try:
        await failed
    except ValueError as error:
        shown = "".join(traceback.format_exception(error))
        assert "plait/observe" not in shown and "_core" not in shown
        assert [each.name for each in traceback.extract_tb(error.__traceback__)][-1] == "fails"
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
    assert await loop.create_task(waits_for_nothing(), name="made") == 5
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    assert await loop.create_task(waits_for_nothing()) == 5
async def waits_for_nothing():
    return 5
with plait.profile() as found:
    {run}(main())
assert {{"mine", "made"}} <= {{task["name"] for task in found.tasks}}
before = asyncio.BaseEventLoop.create_task, asyncio.BaseEventLoop.call_soon, asyncio.Handle._run
assert all(type(each) is types.FunctionType for each in before), before
"""
    run_script(source)


def test_inside_a_running_loop_and_in_other_threads(run_script: Any) -> None:
    source = """
import asyncio, plait, threading, time
release = threading.Event()
old = threading.Thread(target=release.wait, name="old")
old.start()
async def child():
    await asyncio.sleep(0.05)
async def main():
    before = asyncio.create_task(asyncio.sleep(0.1))
    await asyncio.sleep(0)
    with plait.profile() as found:
        await asyncio.create_task(child(), name="child")
    await before
    release.set()
    assert [task["name"] for task in found.tasks] == ["child"]
    assert "old" in {thread["name"] for thread in found.threads}
    assert any("before the profile began" in method["why"] for method in found.methods)
asyncio.run(main())
old.join()
results = []
def elsewhere():
    with plait.profile(tasks=False, children=False) as found:
        time.sleep(0.05)
    results.append(found)
thread = threading.Thread(target=elsewhere, name="elsewhere")
thread.start()
thread.join()
assert {"MainThread", "elsewhere"} <= {each["name"] for each in results[0].threads}
"""
    run_script(source)


def test_one_profile_at_a_time(run_script: Any) -> None:
    source = """
import plait
with plait.profile() as found:
    try:
        with plait.profile():
            raise AssertionError
    except RuntimeError as error:
        assert "already" in str(error)
    try:
        found.verdict
        raise AssertionError
    except RuntimeError as error:
        assert "not ended" in str(error)
assert found.wall > 0
with plait.profile() as again:
    pass
assert again.wall > 0
"""
    run_script(source)


def test_an_exception_passes_and_the_profile_is_there(run_script: Any) -> None:
    source = """
import plait, time
try:
    with plait.profile() as found:
        time.sleep(0.05)
        raise LookupError
except LookupError:
    assert found.wall >= 0.05
"""
    run_script(source)


def test_saved_and_loaded(run_script: Any, tmp_path: Path) -> None:
    source = f"""
import pathlib, plait, time
folder = pathlib.Path({str(tmp_path)!r})
with plait.profile(save=folder / "kept") as found:
    assert (folder / "kept.parts").is_dir()
    time.sleep(0.05)
assert not (folder / "kept.parts").exists()
loaded = plait.Profile.load(folder / "kept")
assert (loaded.wall, loaded.verdict) == (found.wall, found.verdict)
found.to_json(folder / "sums.json")
assert plait.Profile.load(folder / "sums.json").verdict == found.verdict
found.to_json(folder / "whole.json", whole=True)
assert plait.Profile.load(folder / "whole.json").record["lanes"]
found.to_html(folder / "page.html")
found.to_perfetto(folder / "page.pftrace")
found.to_speedscope(folder / "page.json")
assert "plait profile" in found.summary()
"""
    run_script(source)


def test_a_program_that_dies_leaves_its_parts(run_script: Any, tmp_path: Path) -> None:
    source = f"""
import os, plait, signal, time
with plait.profile(save={str(tmp_path / "kept")!r}):
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run_script(source, check=False)
    assert plait.Profile.load(tmp_path / "kept.parts").wall > 0.2


def test_a_block_that_is_not_left_when_the_program_ends_leaves_no_folder(tmp_path: Path) -> None:
    source = """
import threading, plait
began = threading.Event()
def profiles():
    with plait.profile():
        began.set()
        threading.Event().wait()
threading.Thread(target=profiles, daemon=True).start()
began.wait()
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert os.listdir(tmp_path) == []


def test_children_stop_with_the_profile(run_script: Any) -> None:
    source = """
import plait, subprocess, sys, time
with plait.profile() as found:
    program = "print('up', flush=True); import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    child.stdout.readline()
    time.sleep(0.1)
child.kill()
child.wait()
child.stdout.close()
assert len(found.processes) == 2, found.processes
"""
    run_script(source)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [({"rate": -1}, ValueError), ({"rate": 1e9}, ValueError), ({"rate": "x"}, TypeError), ({"save": 3}, TypeError)],
)
def test_arguments_are_checked(arguments: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        plait.profile(**arguments)


def test_tasks_of_thread_pools_tell_how_long_they_waited(run_script: Any) -> None:
    source = """
import concurrent.futures, plait, time, traceback
def work(number):
    time.sleep(0.1)
    return number
def fails():
    raise ValueError
with plait.profile() as found:
    for kind in (concurrent.futures.ThreadPoolExecutor, plait.ThreadPool):
        with kind(1) as pool:
            assert [each.result() for each in [pool.submit(work, 1), pool.submit(work, number=2)]] == [1, 2]
            error = pool.submit(fails).exception()
            assert "observe" not in "".join(traceback.format_exception(error))
pools = {(each["pool"], each["function"]): each for each in found.pools}
for name in ("ThreadPoolExecutor", "ThreadPool"):
    tasks = pools[name, "work"]
    assert tasks["count"] == 2 and tasks["run"] >= 0.2 and tasks["queue"] > 0, tasks
"""
    run_script(source)


def test_threads_that_wait_for_a_lock_all_the_time(run_script: Any) -> None:
    source = """
import plait, threading, time
from concurrent.futures import ThreadPoolExecutor
lock = threading.Lock()
lock.acquire()
def sleep():
    lock.acquire()
sleeper = threading.Thread(target=sleep, name="sleeper")
with ThreadPoolExecutor(2, thread_name_prefix="idle") as pool:
    list(pool.map(time.sleep, [0.05, 0.05]))
    sleeper.start()
    time.sleep(0.05)
    with plait.profile() as found:
        time.sleep(0.5)
    lock.release()
sleeper.join()
threads = {each["name"]: each for each in found.threads}
for name in ("idle_0", "idle_1", "sleeper"):
    each = threads[name]
    states = ("lock_wait",) if name == "sleeper" else ("lock_wait", "idle")
    assert sum(each[state] for state in states) > 0.9 * each["wall"], each
"""
    run_script(source)


def test_functions_are_found_by_their_stacks(run_script: Any) -> None:
    source = """
import plait, time
def busy():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
with plait.profile(rate=500) as found:
    busy()
top = found.functions[0]
assert top["function"] == "busy" and top["self_cpu"] > 0.2, top
assert found.overhead["observer_cpu"] > 0, found.overhead
"""
    run_script(source)


def test_a_fork_that_leaves_the_block_is_a_child(run_script: Any) -> None:
    source = """
import os, plait, time
with plait.profile() as found:
    pid = os.fork()
    time.sleep(0.05)
if not pid:
    os._exit(6)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
assert len(found.processes) == 2, found.processes
"""
    run_script(source)


@pytest.mark.parametrize("run", LOOPS)
def test_callbacks_that_raise_are_reported_as_ever(run_script: Any, run: str) -> None:
    source = f"""
import asyncio, contextvars, logging, plait, traceback
variable = contextvars.ContextVar("variable", default=0)
def fails(number):
    variable.set(number)
    raise LookupError(number)
async def main():
    told = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(context))
    handle = loop.call_soon(fails, 7)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert variable.get() == 0 and handle._context[variable] == 7
    told, = told
    names = [each.name for each in traceback.extract_tb(told["exception"].__traceback__)]
    return told["message"].split(" at ")[0], names, told["handle"] is handle, repr(handle).split(" at ")[0]
plain = {run}(main())
with plait.profile():
    assert {run}(main()) == plain, plain
"""
    run_script(source)


@pytest.mark.parametrize("run", LOOPS)
def test_names_that_look_like_asyncios_are_names(run_script: Any, run: str) -> None:
    source = f"""
import asyncio, plait
async def given():
    await asyncio.sleep(0.01)
async def automatic():
    await asyncio.sleep(0.01)
async def main():
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(given(), name=f"Task-{{number}}") for number in (1, 2)]
    tasks += [loop.create_task(given(), name=f"Task-{{number}}") for number in (3, 4)]
    tasks += [asyncio.create_task(automatic()) for _ in range(4)]
    tasks[-1].set_name("Task-1")
    await asyncio.gather(*tasks)
with plait.profile() as found:
    {run}(main())
functions = [task["function"] for task in found.tasks]
assert functions.count("given") == functions.count("automatic") == 4, functions
names = sorted(task["name"] for task in found.tasks if task["function"] == "given")
assert names == ["Task-1", "Task-2", "Task-3", "Task-4"], names
assert [task["name"] for task in found.tasks].count("Task-1") == 3, found.tasks
"""
    run_script(source)


def test_tasks_that_never_ran_are_told(run_script: Any) -> None:
    source = """
import asyncio, plait, time
async def never():
    pass
async def main():
    with plait.profile() as found:
        tasks = [asyncio.create_task(never()) for _ in range(3)]
        time.sleep(0.05)
    told = [task for task in found.tasks if task["function"] == "never"]
    assert len(told) == 3 and all(task["ready"] > 0.04 and task["steps"] == 0 for task in told), found.tasks
    await asyncio.gather(*tasks)
asyncio.run(main())
"""
    run_script(source)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are eager from 3.12 on")
def test_eager_tasks_have_names_and_go_away(run_script: Any) -> None:
    source = """
import asyncio, gc, plait, weakref
gc.disable()
left = []
async def waits():
    await asyncio.sleep(0)
async def ends():
    return 1
async def main():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    for coroutine in (waits(), ends()):
        name = coroutine.__name__
        task = loop.create_task(coroutine, name=f"eager {name}")
        await task
        left.append(weakref.ref(task))
        del task, coroutine
    await asyncio.sleep(0)
    assert [each() for each in left] == [None, None], left
with plait.profile() as found:
    asyncio.run(main())
names = {task["function"]: task["name"] for task in found.tasks}
assert names["waits"] == "eager waits" and names["ends"] == "eager ends", names
"""
    run_script(source)


def test_a_method_of_a_profile_that_is_put_back_later_still_works(run_script: Any) -> None:
    source = """
import asyncio, plait
from asyncio import base_events, events
async def work():
    await asyncio.sleep(0)
places = [(base_events.BaseEventLoop, "create_task"), (base_events.BaseEventLoop, "call_soon"), (events.Handle, "_run")]
with plait.profile():
    kept = [getattr(*place) for place in places]
for place, method in zip(places, kept):
    setattr(*place, method)
asyncio.run(work())
for _ in range(2):
    with plait.profile() as found:
        asyncio.run(work())
    assert "work" in [task["function"] for task in found.tasks], found.tasks
async def fails():
    asyncio.get_running_loop().call_soon(int, "x")
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
    await asyncio.sleep(0.01)
    assert [type(each) for each in told] == [ValueError], told
with plait.profile():
    asyncio.run(fails())
asyncio.run(fails())
"""
    run_script(source)


def test_a_handle_whose_context_is_entered_keeps_its_callback(run_script: Any) -> None:
    source = """
import asyncio, contextvars, plait
def callback():
    pass
async def main():
    loop = asyncio.get_running_loop()
    told = []
    loop.call_exception_handler = lambda context: told.append(str(context["exception"]))
    context = contextvars.copy_context()
    handle = asyncio.Handle(callback, (), loop, context)
    context.run(handle._run)
    assert handle._callback is callback and handle._args == (), handle
    return [each.split(":")[0] for each in told]
plain = asyncio.run(main())
assert len(plain) == 1
with plait.profile():
    assert asyncio.run(main()) == plain
"""
    run_script(source)


def test_an_exit_ends_the_process_whatever_a_handler_raises(run_script: Any) -> None:
    source = """
import os, plait
from plait.observe import _session
def interrupted(code=None):
    raise KeyboardInterrupt
with plait.profile():
    pid = os.fork()
    if not pid:
        _session.end = interrupted  # a signal that comes while the observer ends
        try:
            os._exit(3)
        except BaseException:
            os.abort()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
"""
    run_script(source)


def test_a_profile_that_cannot_begin_leaves_nothing(run_script: Any) -> None:
    source = """
import os, plait
from plait.observe import _children
install, leave, threads = _children.install, os._exit, len(os.listdir("/proc/self/task"))
def fails():
    install()
    raise OSError(24, "too many")
_children.install = fails
try:
    with plait.profile():
        raise AssertionError("begun")
except OSError as error:
    assert error.errno == 24, error
assert os._exit is leave and len(os.listdir("/proc/self/task")) == threads
_children.install = install
with plait.profile() as found:
    pass
assert len(found.processes) == 1, found.processes
"""
    run_script(source)


def test_an_exec_of_nothing_is_no_end(run_script: Any) -> None:
    source = """
import os, plait, tempfile
with plait.profile() as found, tempfile.TemporaryDirectory() as folder:
    for path in ("no-such-program", folder):
        try:
            os.execvp(path, ["x"])
        except OSError as error:
            assert isinstance(error, (FileNotFoundError, PermissionError)), error
    junk = os.path.join(folder, "junk")
    with open(junk, "wb") as file:
        file.write(b"\\0\\0")
    os.chmod(junk, 0o755)
    try:
        os.execv(junk, ["x"])
    except OSError as error:
        assert error.errno == 8, error
    try:
        os.execv("a\\0b", ["x"])
    except ValueError as error:
        assert "null" in str(error), error
# The one that looked like a program, and was none, has ended the observer once.
assert {each["pid"] for each in found.processes} == {os.getpid()} and len(found.processes) <= 2, found.processes
"""
    run_script(source)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python warns from 3.12 on")
def test_forks_are_warned_of_where_the_program_has_threads(run_script: Any) -> None:
    source = """
import os, plait, threading, warnings
def fork():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pid = os.fork()
        if not pid:
            os._exit(0)
    os.waitpid(pid, 0)
    return [str(each.message) for each in told]
with plait.profile():
    assert fork() == [], "the observer is the only other thread"
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    told, = fork()
    assert "multi-threaded" in told, told
    over.set()
    thread.join()
"""
    run_script(source)


def test_a_forking_pool_does_not_take_the_observer_for_a_thread_of_the_program(run_script: Any) -> None:
    source = """
import plait, warnings
warnings.simplefilter("error")
with plait.profile(), plait.ProcessPool(1, "fork") as pool:
    assert pool.submit(abs, -1).result() == 1
"""
    run_script(source)


def test_tasks_of_the_standard_pool_of_processes_are_told(run_script: Any) -> None:
    source = """
import concurrent.futures, plait, time
def work(number):
    time.sleep(0.1)
    return number
if __name__ == "__main__":
    with plait.profile() as found, concurrent.futures.ProcessPoolExecutor(1) as pool:
        tasks = [pool.submit(work, 1) for _ in range(4)]
        assert [task.result() for task in tasks] == [1] * 4
        assert list(pool.map(work, [1, 2, 3, 4], chunksize=2)) == [1, 2, 3, 4]
        assert isinstance(pool.submit(work).exception(), TypeError)
    told, = found.pools
    # Two chunks of a map, and one that fails.
    assert (told["pool"], told["function"], told["count"]) == ("ProcessPoolExecutor", "work", 7), told
    assert told["run"] >= 0.8 and told["queue"] >= 0.1, told
"""
    run_script(source)


def test_pools_of_a_profile_are_seen_though_there_were_some_before(run_script: Any) -> None:
    source = """
import contextlib, os, plait
from plait.processes import _launch
def servers():
    return [server.process.pid for server in _launch._servers.values()]
if __name__ == "__main__":
    with plait.ProcessPool(1) as before:
        before.submit(os.getpid).result()
        first, = servers()
        with plait.profile() as found:
            with plait.ProcessPool(1) as pool:
                worker = pool.submit(os.getpid).result()
            unseen = before.submit(os.getpid).result()
            second, = servers()
            assert second != first
        assert servers() == [first]
        seen = [each["pid"] for each in found.processes]
        assert worker in seen and unseen not in seen, (found.processes, worker, unseen)
        assert any(f"Process {first} was not observed" in each for each in found.limits), found.limits
        with plait.ProcessPool(1) as pool:
            pool.submit(os.getpid).result()
        assert servers() == [first]
        with contextlib.suppress(ChildProcessError):  # it has ended, and was seen to
            os.waitid(os.P_PID, second, os.WEXITED | os.WNOWAIT)  # no pool needs it any more
        with plait.profile():
            assert not _launch._retired
"""
    run_script(source)


def test_a_long_run_stays_small_and_a_folder_of_its_files_is_read(run_script: Any, tmp_path: Path) -> None:
    text = """
import os, plait, threading, time
from plait import _core
folder = FOLDER
os.mkdir(folder)
limit = 64_000
_core.observe_start(
    os.path.join(folder, f"{os.getpid()}-1.part"), "long", over=os.path.join(folder, "over"), parent=1, limit=limit
)
def work():
    for _ in range(3_000):
        time.sleep(0.0002)
began = time.monotonic()
threads = [threading.Thread(target=work) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
wall = time.monotonic() - began
_core.observe_stop(0)
names = sorted(os.listdir(folder))
assert len(names) > 1 and all(name.endswith(".trace") for name in names), names
assert not names[0].endswith(".00000000.trace"), names
found = plait.Profile.load(folder)
assert found.wall >= wall, (found.wall, wall)
assert found.processes[0]["name"] == "long" and found.processes[0]["exit"] == 0
assert len(found.threads) == 5, found.threads
"""
    run_script(text.replace("FOLDER", repr(str(tmp_path / "parts"))))


def test_threads_that_live_for_a_few_milliseconds_have_their_own_times(run_script: Any) -> None:
    run_script("""
import plait, threading, time
def work():
    end = time.thread_time() + 0.003
    while time.thread_time() < end: pass
true = 0.0
with plait.profile() as found:
    for number in range(40):
        thread = threading.Thread(target=work, name=f"short {number}")
        began = time.monotonic()
        thread.start()
        thread.join()
        true += time.monotonic() - began
    time.sleep(2)
short = [thread for thread in found.threads if thread["name"].startswith("short")]
assert len(short) == 40, [thread["name"] for thread in found.threads]
runs = ("on_cpu_gil", "on_cpu_released", "gil_wait", "ready")
assert all(sum(thread[state] for state in runs) > 0 for thread in short), short
# An end may come a little after whoever waits for it goes on.
assert sum(thread["wall"] for thread in short) < 2 * true + 0.5, short
""")


def test_children_that_still_write_when_it_ends(run_script: Any) -> None:
    """Their files get other names, and become fewer, while they are put together."""
    source = """
import functools, os, signal, time
import plait
from plait import _core
from plait.observe import _profile, _states

_profile._PATIENCE = 0.0
_core.observe_start = functools.partial(_core.observe_start, limit=1 << 15)

def write():
    while True:
        for _ in range(200):
            time.sleep(0)
        time.sleep(0.0002)

read, begun = os.pipe()
for _ in range(6):
    with plait.profile() as found:
        children = []
        for _ in range(4):
            child = os.fork()
            if not child:
                os.write(begun, b"x")
                write()
            children.append(child)
        for _ in children:
            os.read(read, 1)
        time.sleep(0.3)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    seen = {each["pid"] for each in found.processes}
    assert seen == {os.getpid(), *children}, (seen, children)
    for thread in found.threads:
        parts = sum(thread[state] for state in _states.STATES)
        assert abs(parts - thread["wall"]) <= 0.01 * thread["wall"] + 0.001, thread
print("done")
"""
    env = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    assert run_script(source, env=env).stdout == "done\n"


def test_tasks_of_uvloop(run_script: Any) -> None:
    pytest.importorskip("uvloop")
    source = """
import asyncio, time
import plait, uvloop

async def child():
    await asyncio.sleep(0.05)
    time.sleep(0.06)

async def main():
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
    await asyncio.gather(*[asyncio.create_task(child(), name=f"child-{number}") for number in range(3)])

with plait.profile() as found:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
tasks = {each["name"]: each for each in found.tasks}
for number in range(3):
    each = tasks[f"child-{number}"]
    assert each["function"] == "child" and each["steps"] == 2, each
    assert 0.055 < each["running"] < 0.12 and each["longest_step"] > 0.055, each
    assert each["awaiting"] > 0.045 and each["awaits"][0]["what"] == "sleep", each
assert sum(each["ready"] for each in tasks.values()) > 0.15, "the second and the third wait for their turn"
assert found.verdict == "loop-blocked"
print("done")
"""
    assert run_script(source).stdout == "done\n"


def test_who_waits_with_a_timeout_or_selects_one_waits_for_a_peer(run_script: Any) -> None:
    source = """
import select, socket, threading, time
import plait

def with_timeout(near):
    near.settimeout(30)
    near.recv(1)

def selects(near):
    select.select([near], [], [], 30)

def polls(near):
    poll = select.poll()
    poll.register(near, select.POLLIN)
    poll.poll(30_000)

def selects_two(near):
    select.select([near, near.dup()], [], [], 30)

server = socket.create_server(("127.0.0.1", 0))
name = "127.0.0.1:%d" % server.getsockname()[1]
with plait.profile() as found:
    ends, threads = [], []
    for work in with_timeout, selects, polls, selects_two:
        near = socket.create_connection(server.getsockname())
        ends += [near, server.accept()[0]]
        threads.append(threading.Thread(target=work, args=(near,), name=work.__name__))
    for thread in threads:
        thread.start()
    time.sleep(0.4)
    for end in ends[1::2]:
        end.send(b"x")
    for thread in threads:
        thread.join()
for thread in found.threads:
    if thread["name"] not in ("with_timeout", "selects", "polls", "selects_two"):
        continue
    targets = {wait["target"] for wait in thread["waits"] if "poll" in wait["call"] or "select" in wait["call"]}
    assert targets == ({""} if thread["name"] == "selects_two" else {name}), (thread["name"], thread["waits"])
print("done")
"""
    assert run_script(source).stdout == "done\n"


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="there is no GIL")
def test_a_short_program_with_some_rows_is_not_said_to_be_an_estimate(run_script: Any) -> None:
    """What is not timed of it is less than is known of any other program."""
    source = """
import sqlite3, plait

rows = sqlite3.connect(":memory:").execute(
    "WITH RECURSIVE numbers(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000) SELECT n FROM numbers"
)
with plait.profile() as found:
    for row in rows:
        pass
print([each for each in found.methods if each["what"] == "gil pairs"])
"""
    # On a busy machine it may lose its core among the rows.
    assert "[]\n" in {run_script(source).stdout for _ in range(3)}
