"""How a `ThreadPool` ends: with the interpreter, in a forked child, by Ctrl-C. In programs of their own."""

from __future__ import annotations

import sysconfig

import pytest

NO_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def test_what_was_submitted_is_done_at_exit(run_script):
    done = run_script(
        """
        import plait, time
        def task(name):
            time.sleep(0.05)
            print(name, flush=True)
        pool = plait.ThreadPool(1)
        for name in "abc":
            pool.submit(task, name)
        plait.ThreadPool(1).submit(task, "forgotten")
        """.replace("\n        ", "\n")
    )
    assert sorted(done.stdout.split()) == ["a", "b", "c", "forgotten"]
    assert not done.stderr


def test_an_exit_just_when_the_time_of_tasks_is_over(run_script):
    source = """
import plait, time
pool = plait.ThreadPool(4)
for number in range(4):
    pool.options(timeout=0.02).submit(time.sleep, 0.02 + number * 1e-4)
"""
    for _ in range(10):
        assert not run_script(source).stderr


def test_no_work_is_taken_at_exit(run_script):
    done = run_script(
        """
        import plait, time
        def late():
            try:
                while True:
                    pool.submit(int)
                    time.sleep(0.01)
            except RuntimeError as error:
                print(error)
        pool = plait.ThreadPool(2)
        pool.submit(late)
        """.replace("\n        ", "\n")
    )
    assert done.stdout.strip() == "cannot schedule new futures after interpreter shutdown"


def test_a_forked_copy_says_so(run_script):
    done = run_script(
        """
        import gc, os, plait, threading, warnings
        warnings.simplefilter("ignore")
        gate = threading.Event()
        pool = plait.ThreadPool(1)
        running, queued = pool.submit(gate.wait), pool.submit(len, "abc")
        results = pool.map(abs, [1])
        pid = os.fork()
        if pid == 0:
            for what in (lambda: pool.submit(len, "abc"), queued.result, queued.cancel, lambda: next(results),
                         lambda: pool.map(abs, [1]), lambda: pool.options(timeout=1).submit(len, "")):
                try:
                    print("returned", what())
                except RuntimeError as error:
                    print("belongs to the process that made it" in str(error))
            pool.shutdown()
            with plait.ThreadPool(1) as own:
                print(own.submit(len, "abc").result(), own.options(timeout=9).submit(len, "abcd").result())
            del pool, queued, running, results
            gc.collect()
            raise SystemExit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        gate.set()
        print("parent", queued.result(), list(results))
        """.replace("\n        ", "\n")
    )
    assert done.stdout.split("\n") == ["True"] * 6 + ["3 4", "parent 3 [1]", ""]


def test_a_child_that_a_task_forks_ends_well(run_script):
    done = run_script(
        """
        import multiprocessing, plait, warnings
        warnings.simplefilter("ignore")
        def forks():
            child = multiprocessing.get_context("fork").Process(target=print, args=("child",), kwargs={"flush": True})
            child.start()
            child.join()
            return child.exitcode
        with plait.ThreadPool(2) as pool:
            print(pool.submit(forks).result())
        """.replace("\n        ", "\n")
    )
    assert (done.stdout.split(), done.stderr) == (["child", "0"], "")


@pytest.mark.parametrize(
    "wait",
    [
        "pool.submit(gate.wait, 60).result()",
        "pool.submit(gate.wait, 60).exception(50)",
        "next(pool.map(gate.wait, [60]))",
        "futures.wait([pool.submit(gate.wait, 60)])",
        "pool.submit(gate.wait, 60); pool.shutdown()",
    ],
)
@pytest.mark.parametrize("spin", ["0", "1"])
def test_signals_are_handled_while_the_main_thread_waits(run_script, wait, spin):
    source = f"""
import os, plait, signal, threading, time
from concurrent import futures
gate = threading.Event()
pool = plait.ThreadPool(2)
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
def send():
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGUSR1)
    while not seen:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send).start()
try:
    {wait}
except KeyboardInterrupt:
    print("interrupted", seen)
gate.set()
pool.shutdown()
"""
    assert run_script(source, env={"PLAIT_SPIN": spin}).stdout == "interrupted [1]\n"


def test_a_busy_pool_does_not_hold_up_signals(run_script):
    source = """
import plait, signal
def ring(*_):
    raise KeyError("the alarm")
signal.signal(signal.SIGALRM, ring)
number = 3**5000
with plait.ThreadPool(1) as pool:
    futures = [pool.submit(pow, number, 4) for _ in range(5000)]
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        futures[-1].result()
    except KeyError:
        print(futures[-1].done())
    pool.shutdown(cancel_futures=True)
"""
    assert run_script(source).stdout == "False\n"


def test_a_task_that_waits_for_the_end_of_its_pool(run_script):
    source = """
import plait
pool = plait.ThreadPool(1)
try:
    pool.submit(pool.shutdown).result()
except RuntimeError as error:
    print(error)
"""
    assert run_script(source).stdout == "cannot join current thread\n"


BUSY = """
import asyncio, os, plait, signal, threading, time
busy = threading.Event()
def work(*ignored):
    busy.set()
    while True:  # asks for the GIL again and again, also while the interpreter ends
        time.sleep(0)
        len("")
def generate():
    yield work()
class Finalized:
    def __del__(self):
        work()
class Reduced:
    def __reduce__(self):
        work()
class Lock:
    def acquire(self, *ignored):
        return True
    release = _is_owned = acquire
class Releasing(Lock):
    def release(self):
        work()
class Restoring(Lock):
    def _acquire_restore(self, state):
        work()
gate = threading.Event()
async def work_in_task(channel):
    await channel.aget()
    work()
"""
INTERRUPTED = """
busy.wait()
leaving = threading.Event()
threading._register_atexit(leaving.set)  # called before those that were there
def interrupt():
    leaving.wait()
    while True:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.parametrize(
    "begin",
    [
        "plait.ThreadPool(1).submit(work)",
        "iterator = plait.ThreadPool(1).map(work, [1])",
        "plait.ThreadPool(1, initializer=work).submit(len, '')",
        "plait.ThreadPool(1).submit(time.sleep, 0.05).add_done_callback(work)",
        pytest.param(
            "pool.submit(lambda argument: gate.wait(), Finalized()); gate.set()",
            marks=pytest.mark.skipif(NO_GIL, reason="finalizers wait for the thread that has made the object"),
        ),
        "pool.submit(lambda: plait.Channel().put_many(generate()))",
        "pool.submit(lambda: plait.Channel(8, shared=True).put(Reduced()))",
    ],
)
def test_a_task_that_runs_when_ctrl_c_ends_the_wait_for_it_at_exit(run_script, begin):
    done = run_script(f"{BUSY}\npool = plait.ThreadPool(1)\n{begin}\n{INTERRUPTED}")
    assert "KeyboardInterrupt" in done.stderr
    assert "fatal" not in done.stderr.lower()


@pytest.mark.parametrize(
    "use",
    [
        "list(plait.ThreadPool(1).map(len, generate()))",
        "plait.Channel().put_many(generate())",
        "plait.Channel(8, shared=True).put_many(generate())",
        "plait.Channel(8, shared=True).put(Reduced())",
        "plait.Condition(Releasing()).wait()",
        "plait.Condition(Restoring()).wait(0.01)",
        "asyncio.run(plait.Channel().aput_many(generate()))",
        "asyncio.run(plait.Channel(8, shared=True).aput(Reduced()))",
    ],
)
def test_a_daemon_thread_in_code_of_the_program_that_is_called_for_it(run_script, use):
    source = f"{BUSY}\nthreading.Thread(target=lambda: {use}, daemon=True).start()\nbusy.wait()\n"
    done = run_script(source)
    assert "fatal" not in done.stderr.lower()


@pytest.mark.parametrize("run", ["asyncio.run", "plait.run"])
@pytest.mark.parametrize("what", ["a task that a channel has woken", "a callback"])
def test_a_loop_in_a_daemon_thread_that_is_busy_at_exit(run_script, run, what):
    source = f"""{BUSY}
channel = plait.Channel()
async def main():
    if {what == "a callback"}:
        asyncio.get_running_loop().call_soon(work)
        await asyncio.sleep(600)
    else:
        await work_in_task(channel)
threading.Thread(target=lambda: {run}(main()), daemon=True).start()
while not channel.statistics()["waiting_get"] and {what != "a callback"}:
    time.sleep(0.001)
channel.put(1)
busy.wait()
"""
    assert run_script(source).stderr == ""


@pytest.mark.parametrize(
    ("method", "use"),
    [
        ("add_reader", "await plait.Channel().aget()"),
        ("call_later", "await plait.Barrier(2, shared=True).await_(timeout=600)"),
    ],
)
def test_a_loop_whose_own_code_is_busy_at_exit(run_script, method, use):
    source = f"""{BUSY}
class Loop(asyncio.SelectorEventLoop):
    pass
async def main():
    await asyncio.sleep(0)
    Loop.{method} = work
    {use}
loop = Loop()
def run():
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main())
threading.Thread(target=run, daemon=True).start()
busy.wait()
"""
    assert "fatal" not in run_script(source).stderr.lower()


def test_threads_that_hand_messages_to_tasks_at_exit(run_script):
    source = f"""{BUSY}
channel = plait.Channel(1)
async def take():
    async for _ in channel:
        busy.set()
def put():
    while True:
        channel.put(1)
for each in (lambda: asyncio.run(take()), put, put):
    threading.Thread(target=each, daemon=True).start()
busy.wait()
"""
    for _ in range(5):
        assert run_script(source).stderr == ""
