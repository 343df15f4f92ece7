"""The automatic pool: nothing is lost, nothing is made twice, nothing hangs; and what it decides follows from what calls do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import copy
import gc
import hashlib
import itertools
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from typing import Any

import pytest

import plait
from plait import _core
from plait.auto import _choice, _engine
from plait.auto._figures import Figures, Sample
from plait.auto._meter import Meter
from plait.auto._paces import Paces
from tests.auto import bodies

WATCHDOG = 60


@pytest.fixture
def pool():
    with plait.Pool() as pool:
        yield pool


def lines(path):
    with open(path, encoding="ascii") as file:
        return [int(line) for line in file]


class Number:
    def __init__(self, value):
        self.value = value

    def square(self):
        spin = 0
        for step in range(50):
            spin += step
        return self.value * self.value


# ---- nothing is lost, nothing is made twice


class Remote:
    """What is elsewhere, as `xmlrpc` has it: each attribute that it is asked for is another one of the kind."""

    def __init__(self, name: str) -> None:
        self.__name = name

    def __getattr__(self, name: str) -> Remote:
        return Remote(f"{self.__name}.{name}")

    def __call__(self, number: int) -> tuple[str, int]:
        return self.__name, number


def test_an_object_that_has_any_attribute_is_a_function_like_others(pool):
    remote = Remote("server.add")
    assert pool.submit(remote, 1).result(WATCHDOG) == ("server.add", 1)
    assert list(pool.map(remote, range(100))) == [("server.add", number) for number in range(100)]
    assert len(pool.explain()) == 1
    assert "Remote" in pool.explain(remote)["function"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 1000, 20_000])
def test_map_gives_each_result_once_and_in_order(pool, count):
    assert list(pool.map(bodies.square, range(count))) == [number * number for number in range(count)]


@pytest.mark.parametrize("options", [{"chunksize": 3}, {"buffersize": 4}, {"buffersize": 1}, {"timeout": WATCHDOG}])
def test_options_of_map_change_no_result(pool, options):
    for numbers in (range(300), iter(range(300))):
        assert list(pool.map(bodies.square, numbers, **options)) == [number * number for number in range(300)]


def test_results_as_they_come(pool):
    assert sorted(pool.map(bodies.square, range(5000), ordered=False)) == [n * n for n in range(5000)]
    seconds = [0.3, *[0.001] * 30]
    came = list(pool.map(bodies.nap, seconds, seconds, ordered=False))
    assert sorted(came) == sorted(seconds)
    assert came[0] != 0.3


def test_each_call_is_made_once_whatever_is_decided_on_the_way(tmp_path):
    path = str(tmp_path / "calls")
    with plait.Pool(models=["threads", "processes"]) as pool:
        assert list(pool.map(bodies.note_and_spin, itertools.repeat(path), range(400))) == list(range(400))
        futures = [pool.submit(bodies.note_and_spin, path, number) for number in range(400, 800)]
        assert [future.result(WATCHDOG) for future in futures] == list(range(400, 800))
    assert sorted(lines(path)) == list(range(800))


def test_calls_that_change_half_way_are_made_once_each(pool):
    made = []

    def slow_from(number):
        made.append(number)
        return bodies.turns_slow(number)

    count = 5040
    assert list(pool.map(slow_from, range(count))) == list(range(count))
    assert sorted(made) == list(range(count))
    assert pool.explain(slow_from)["model"] == "threads"


def test_many_threads_submit(pool):
    answers: list[int] = []

    def submit(begin):
        futures = [pool.submit(bodies.square, number) for number in range(begin, begin + 500)]
        answers.extend(future.result(WATCHDOG) for future in futures)

    threads = [threading.Thread(target=submit, args=(500 * place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG)
    assert sorted(answers) == [number * number for number in range(4000)]


@pytest.mark.parametrize("seed", range(6))
def test_calls_that_change_again_and_again_are_made_once_each(seed):
    made = []
    chance = random.Random(seed)
    kinds = [chance.choice(["tiny", "compute", "wait", "release"]) for _ in range(8)]

    def change(number):
        made.append(number)
        kind = kinds[number // 60]
        if kind == "compute":
            bodies.spin(8_000)
        elif kind == "wait":
            time.sleep(0.002)
        elif kind == "release":
            hashlib.sha256(bytes(300_000)).digest()
        return number

    with plait.Pool() as pool:
        count = 60 * len(kinds)
        assert list(pool.map(change, range(count), ordered=bool(seed % 2))) == list(range(count)) or not seed % 2
        futures = [pool.submit(change, number) for number in range(count)]
        assert {future.result(WATCHDOG) for future in concurrent.futures.as_completed(futures, WATCHDOG)} == set(
            range(count)
        )
    assert sorted(made) == sorted([*range(count), *range(count)])


def test_calls_that_leave_change_once_they_have_left(tmp_path):
    path = str(tmp_path / "calls")
    with plait.Pool() as pool:
        assert list(pool.map(bodies.note_and_change, itertools.repeat(path), range(400))) == list(range(400))
        futures = [pool.submit(bodies.note_and_change, path, number) for number in range(400)]
        assert [future.result(WATCHDOG) for future in futures] == list(range(400))
    assert sorted(lines(path)) == sorted([*range(400), *range(400)])


def test_a_call_that_raises_stopiteration_ends_no_map(pool):
    def stop(number):
        if number == 700:
            raise StopIteration
        return number

    for count in (2000, 701):
        results = pool.map(stop, range(count))
        assert list(itertools.islice(results, 700)) == list(range(700))
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(results)


@pytest.mark.skipif(
    not _core.gil_is_on(), reason="without a GIL, the thread that made an object frees it, when it comes to it"
)
def test_results_of_a_map_are_not_kept(pool):
    class Result:
        pass

    for numbers in (range(50), [0] * 3000):
        for result in pool.map(lambda _: Result(), numbers):
            seen = weakref.ref(result)
            del result
            assert seen() is None


def test_who_watches_keeps_nothing_of_a_map_that_is_over(pool, monkeypatch):
    monkeypatch.setattr(_engine, "_LINGER", 2.0 * WATCHDOG)
    items = [Number(number) for number in range(2_000)]
    seen = weakref.ref(items[-1])
    assert len(list(pool.map(Number.square, items))) == 2_000
    items.clear()
    end = time.monotonic() + WATCHDOG
    while seen() is not None and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    assert seen() is None
    assert pool._engine._watched, "it is still there"
    monkeypatch.undo()
    pool._engine._condition.acquire()
    pool._engine._condition.notify_all()
    pool._engine._condition.release()


def test_results_can_be_closed(pool):
    results = pool.map(bodies.square, range(5000))
    assert next(results) == 0
    results.close()


# ---- nothing hangs


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_calls_that_wait_for_calls_of_their_own(workers):
    with plait.Pool(workers) as pool:
        assert pool.submit(bodies.fibonacci, pool, 7).result(WATCHDOG) == 13


def test_a_map_within_a_map(pool):
    def inner(number):
        return sum(pool.map(bodies.square, range(number)))

    assert list(pool.map(inner, range(20))) == [sum(n * n for n in range(number)) for number in range(20)]


def test_calls_that_wait_for_one_another(pool):
    barrier = threading.Barrier(12)
    futures = [pool.submit(barrier.wait, WATCHDOG) for _ in range(12)]
    assert sorted(future.result(WATCHDOG) for future in futures) == list(range(12))


def test_short_calls_of_which_one_waits_for_a_later_one():
    gone = threading.Event()

    def wait_or_set(number):
        if number == 3000:
            return gone.wait(WATCHDOG)
        if number == 3001:
            gone.set()
        return True

    with plait.Pool(4, models=["threads"]) as pool:
        assert all(pool.map(wait_or_set, range(6000)))


def test_the_caller_does_not_make_what_it_submits(pool):
    begun = threading.Event()
    own = threading.get_ident()

    def who():
        begun.wait(WATCHDOG)
        return threading.get_ident()

    futures = [pool.submit(who) for _ in range(3)]
    begun.set()
    assert own not in {future.result(WATCHDOG) for future in futures}


# ---- errors


def test_what_a_call_raises_while_it_is_learnt_and_later(pool):
    futures = [pool.submit(bodies.refuse, number) for number in range(200)]
    for number, future in enumerate(futures):
        if number % 7 == 3:
            with pytest.raises(ValueError, match=f"not {number}"):
                future.result(WATCHDOG)
        else:
            assert future.result(WATCHDOG) == number


def test_map_raises_where_the_call_raised(pool):
    came = []
    with pytest.raises(ValueError, match="not 3") as caught:
        came.extend(pool.map(bodies.refuse, range(100)))
    assert caught.traceback[-1].name == "refuse"
    results = pool.map(bodies.refuse, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]


def test_results_that_no_process_can_send():
    with plait.Pool(models=["threads", "processes"]) as pool:
        results = [pool.submit(bodies.locks_later, number) for number in range(300)]
        came = [future.exception(WATCHDOG) for future in results]
    # What was made in a process is told of; nothing is made again; what came later was made here.
    assert all(error is None or isinstance(error, plait.NotPicklable) for error in came)
    assert came[:150] == [None] * 150


def test_a_worker_that_dies_costs_the_calls_that_it_had():
    with plait.Pool(models=["processes"]) as pool:
        while pool.submit(bodies.pid_after, 30_000).result(WATCHDOG) == os.getpid():
            pass
        futures = [pool.submit(bodies.die_at_77, os.getpid(), number) for number in range(200)]
        came = [future.exception(WATCHDOG) for future in futures]
    assert any(isinstance(error, plait.WorkerDied) for error in came)
    assert all(error is None or isinstance(error, plait.WorkerDied) for error in came)
    assert came.count(None) > 150
    ends = {str(error) for error in came if error is not None}
    assert all("exited with code 3 while it ran tests.auto.bodies.die_at_77" in end for end in ends), ends


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0, not 0"),
        ({"max_workers": "2"}, TypeError, "max_workers must be an int, not '2'"),
        ({"models": "threads"}, TypeError, "models must be several"),
        ({"models": ["thread"]}, ValueError, "thread"),
        ({"models": []}, ValueError, "models must have one for plain functions"),
        ({"models": ["asyncio"]}, ValueError, "models must have one for plain functions"),
        ({"models": [3]}, ValueError, "3"),
        ({"models": None}, TypeError, "models must be several of .*, not None"),
        ({"models": 3}, TypeError, "models must be several of .*, not 3"),
        ({"models": [["threads"]]}, ValueError, "threads"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        plait.Pool(**arguments)


@pytest.mark.parametrize("make", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_pool_cannot_be_copied(pool, make):
    with pytest.raises(TypeError, match="cannot pickle 'Pool' object"):
        make(pool)


def test_what_cannot_be_called(pool):
    with pytest.raises(TypeError, match="fn must be a callable, not 3"):
        pool.submit(3)
    with pytest.raises(TypeError, match="fn must be a callable, not 3"):
        pool.map(3, [1])
    with pytest.raises(LookupError, match="this pool has not run"):
        pool.explain(len)


def test_a_timeout_of_map(pool):
    results = pool.map(bodies.nap, [0.0, 5.0, 5.0], timeout=0.1)
    with pytest.raises(TimeoutError):
        list(results)


# ---- what travels, and what stays


def test_a_function_that_changes_what_outlives_it_stays():
    seen = set()

    def remember(number):
        bodies.spin(30_000)
        seen.add(os.getpid())
        return number

    with plait.Pool(models=["threads", "processes"]) as pool:
        assert list(pool.map(remember, range(150))) == list(range(150))
        assert "remember" in pool.explain(remember)["refused"]["processes"]
    assert seen == {os.getpid()}


def test_context_variables_are_the_submitters():
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(5)
    with plait.Pool(models=["serial", "threads"]) as pool:
        assert pool.submit(variable.get).result(WATCHDOG) == 5
        assert set(pool.map(lambda _: variable.get(), range(1000))) == {5}
        list(pool.map(variable.set, range(1000)))
    assert variable.get() == 5


# ---- coroutine functions


async def twice(number):
    await asyncio.sleep(0.01)
    return 2 * number


async def fail():
    raise KeyError("no")


def test_coroutine_functions_are_tasks_of_a_loop(pool):
    assert pool.submit(twice, 2).result(WATCHDOG) == 4
    assert list(pool.map(twice, range(300))) == [2 * number for number in range(300)]
    assert pool.explain(twice)["model"] == "asyncio"
    assert "asyncio" in str(pool.explain(twice))
    with pytest.raises(KeyError):
        pool.submit(fail).result(WATCHDOG)
    with plait.Pool(models=["threads"]) as other, pytest.raises(TypeError, match="asyncio is not among"):
        other.submit(twice, 1)


def test_shutdown_waits_for_coroutines():
    with plait.Pool() as pool:
        futures = [pool.submit(twice, number) for number in range(10)]
    answers: list[Any] = [future.result(0) for future in futures]
    assert answers == [2 * number for number in range(10)]


def test_in_a_loop():
    async def main():
        async with plait.Pool() as pool:
            assert await pool.submit(bodies.square, 3) == 9
            loop = asyncio.get_running_loop()
            several = [loop.run_in_executor(pool, bodies.nap, 0.01, number) for number in range(50)]
            assert await asyncio.gather(*several) == list(range(50))
            last = pool.submit(bodies.nap, 0.1, 1)
        assert last.done()

    asyncio.run(main())


# ---- the end


def test_making_a_pool_starts_nothing():
    before = set(threading.enumerate())
    pool = plait.Pool()
    assert set(threading.enumerate()) == before
    pool.shutdown()


def test_cancelled_futures_are_not_made():
    gate = threading.Event()
    with plait.Pool(1, models=["threads"]) as pool:
        running = pool.submit(gate.wait, WATCHDOG)
        while not running.running():
            time.sleep(0.001)
        waiting = [pool.submit(gate.wait, WATCHDOG) for _ in range(5)]
        assert all(future.cancel() for future in waiting)
        gate.set()
        assert running.result(WATCHDOG)
    assert all(future.cancelled() for future in waiting)
    concurrent.futures.wait(waiting, WATCHDOG)


def test_dropped_results_stop_their_map(pool):
    made = []
    gate = threading.Event()

    def wait(number):
        made.append(number)
        gate.wait(WATCHDOG)

    results = pool.map(wait, range(10_000))
    del results
    gc.collect()
    gate.set()
    pool.shutdown()
    assert len(made) < 1000


def test_short_calls_are_made_though_nobody_takes_results(tmp_path):
    path = str(tmp_path / "calls")
    pool = plait.Pool(models=["serial", "threads"])
    results = pool.map(bodies.note, itertools.repeat(path, 0), [])
    kept = [results, pool.map(bodies.note, [path] * 20_000, range(20_000))]
    pool.shutdown()
    assert sorted(lines(path)) == list(range(20_000))  # who stood still for a moment is overtaken
    assert list(kept[1]) == list(range(20_000))


def test_shutdown_from_a_task():
    pool = plait.Pool()
    assert isinstance(pool.submit(pool.shutdown).exception(WATCHDOG), RuntimeError)
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(bodies.square, 1)


def test_a_program_that_ends_waits_for_what_was_submitted(tmp_path, run_script):
    path = tmp_path / "calls"
    script = f"""
        import time, plait

        def work(number):
            time.sleep(0.01)
            return number

        def note(future):
            with open({str(path)!r}, "a", encoding="ascii") as file:
                file.write(f"{{future.result()}}\\n")

        if __name__ == "__main__":
            pool = plait.Pool(2)
            for number in range(20):
                pool.submit(work, number).add_done_callback(note)
            plait.Pool().submit(work, 20).add_done_callback(note)
        """
    run_script(textwrap.dedent(script))
    assert sorted(lines(path)) == list(range(21))


def test_a_forked_child_begins_anew(pool):
    assert pool.submit(bodies.square, 2).result(WATCHDOG) == 4
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if pool.submit(bodies.square, 3).result(WATCHDOG) == 9 else 2
            pool.shutdown()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.submit(bodies.square, 4).result(WATCHDOG) == 16


def test_results_that_grow_are_weighed_again():
    with plait.Pool(models=["serial", "threads", "processes"]) as pool:
        list(pool.map(bodies.numbers, range(1000)))
        assert pool.explain(bodies.numbers)["figures"]["size"] > 500


def test_a_function_whose_argument_has_the_name_of_a_global_may_leave():
    with plait.Pool(models=["threads", "processes"]) as pool:
        list(pool.map(bodies.hides_a_global, [1] * 20))
        assert "processes" not in pool.explain(bodies.hides_a_global)["refused"]


# ---- Ctrl-C

INTERRUPTED = """
    import os, sys, time, plait

    def tiny(number):
        sum(range(300))
        return note(number)

    def nap(number):
        note(number)
        time.sleep(0.01)

    def compute(number):
        note(number)
        return sum(range(300_000))

    def note(number):
        os.write(file, b"%d\\n" % number)
        return number

    function, use = {"tiny": tiny, "nap": nap, "compute": compute}[sys.argv[1]], sys.argv[2]
    file = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if __name__ == "__main__":
        try:
            with plait.Pool() as pool:
                note(0)
                if use == "map":
                    list(pool.map(function, range(1_000_000)))
                else:
                    for future in [pool.submit(function, number) for number in range(20_000)]:
                        future.result()
        except KeyboardInterrupt:
            os.write(file, b"-1\\n")
            time.sleep(0.1)
            print("interrupted", flush=True)
    """


@pytest.mark.parametrize("use", ["map", "submit"])
@pytest.mark.parametrize("function", ["tiny", "nap", "compute"])
def test_ctrl_c_ends_a_program_whenever_it_comes(function, use, tmp_path, run_script):
    def interrupt(process):
        while not path.exists() or not path.read_bytes():
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.06))
        process.send_signal(signal.SIGINT)

    for turn in range(2):
        path = tmp_path / f"calls{turn}"
        ended = run_script(
            textwrap.dedent(INTERRUPTED), function, use, str(path), during=interrupt, timeout=WATCHDOG / 2
        )
        assert ended.stdout.endswith("interrupted\n")
        assert lines(path)[-1] == -1  # no call begins afterwards


def test_ctrl_c_while_a_thread_starts(monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        start(thread)

    for make in (lambda: plait.ThreadPool(2), plait.Pool):
        with monkeypatch.context() as patched:
            pool = make()
            patched.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.submit(time.sleep, 0)
        pool.shutdown()


def test_where_no_thread_can_be_had_who_waits_is_told(monkeypatch):
    def fail(_):
        raise RuntimeError("can't start new thread")

    with plait.Pool() as pool, monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(time.sleep, 0).result(WATCHDOG)


# ---- what is decided


@pytest.mark.parametrize(
    ("function", "items", "models"),
    [
        (bodies.square, range(20_000), {"serial"}),
        (bodies.nap, [0.01] * 100, {"threads"}),
    ],
)
def test_what_is_decided(pool, function, items, models):
    list(pool.map(function, items))
    explained = pool.explain(function)
    assert explained["model"] in models
    assert explained["figures"]["calls"] > 0
    assert set(explained["predicted"]) >= {"serial", "threads"}
    assert explained["model"] in str(explained)
    assert bodies.__name__ in str(explained)
    assert explained in pool.explain()


def test_what_is_explained_is_what_most_was_made_by(pool):
    list(pool.map(bodies.nap, [0.01] * 100))
    for _ in range(3):
        list(pool.map(bodies.nap, [0.0]))
    explained = pool.explain(bodies.nap)
    assert explained["model"] == "threads"
    assert sum(explained["made"].values()) == explained["calls"] == 103


@pytest.mark.parametrize("way", ["map", "submit"])
def test_all_calls_are_told_with_who_has_made_them(way):
    with plait.Pool() as pool:
        if way == "map":
            pids = list(pool.map(bodies.pid_after, [20_000] * 300))
        else:
            pids = [future.result(WATCHDOG) for future in [pool.submit(bodies.pid_after, 20_000) for _ in range(300)]]
        explained = pool.explain(bodies.pid_after)
    elsewhere = sum(pid != os.getpid() for pid in pids)
    assert sum(explained["made"].values()) == explained["calls"] == 300
    assert explained["made"].get("processes", 0) == elsewhere


def test_the_switch_interval_is_as_before_when_processes_have_started():
    before = sys.getswitchinterval()
    with plait.Pool(models=["processes"]) as pool:
        while pool.submit(bodies.pid_after, 30_000).result(WATCHDOG) == os.getpid():
            pass
        assert sys.getswitchinterval() == before


@pytest.mark.parametrize("wait", [True, False])
def test_processes_that_start_when_the_pool_ends_are_not_waited_for(run_script, wait):
    source = f"""
        import pathlib, sys, time
        import plait

        came = pathlib.Path(__file__).with_name("came")
        if __name__ != "__main__":
            time.sleep(20)
            came.touch()

        def work(number):
            return sum(range(100_000)) + number

        if __name__ == "__main__":
            interval = sys.getswitchinterval()
            pool = plait.Pool(2)
            assert list(pool.map(work, range(400))) == [work(number) for number in range(400)]
            first = pool._engine._first
            assert first is not None, "no process was started"
            pool.shutdown(wait={wait})
            assert first.cancelled() and not came.exists()
            assert sys.getswitchinterval() == interval
            print(pool.explain(work)["refused"])
    """
    assert "processes" not in run_script(textwrap.dedent(source), timeout=WATCHDOG).stdout


def run_with_a_stopped_server(run_script, meanwhile):
    """Run a program in which no process that is asked for comes."""
    source = """
        import os, signal, time
        import plait
        from plait.processes import _launch

        def work(number):
            return sum(range(50_000)) + number

        def other(number):
            return sum(range(60_000)) + number

        if __name__ == "__main__":
            with plait.ProcessPool(1) as pool:
                pool.submit(abs, 1).result()
            server = _launch._servers[()].process.pid
            os.kill(server, signal.SIGSTOP)
            try:
                pool = plait.Pool(2, models=["serial", "processes"])
    MEANWHILE
                assert pool._engine._first is not None, "no process was asked for"
                assert not pool._engine.processes_ready
            finally:
                os.kill(server, signal.SIGCONT)
            pool.shutdown()
            print("done")
    """
    meanwhile = textwrap.indent(textwrap.dedent(meanwhile).strip(), 12 * " ")
    source = textwrap.dedent(source.replace("    MEANWHILE", textwrap.indent(meanwhile, 4 * " ")))
    assert run_script(source, timeout=WATCHDOG).stdout == "done\n"


def test_processes_that_should_be_there_soon_and_are_not_are_not_waited_for(run_script):
    meanwhile = """
        assert list(pool.map(work, range(120))) == [work(number) for number in range(120)]
        futures = [pool.submit(other, number) for number in range(120)]
        assert [future.result() for future in futures] == [other(number) for number in range(120)]
    """
    run_with_a_stopped_server(run_script, meanwhile)


@pytest.mark.parametrize(
    "meanwhile",
    [
        # The function's decision is that of the map, and the call that is submitted beside it waits by itself.
        """
                results = pool.map(work, range(120))
                futures = [pool.submit(work, 5)]
                list(results)
        """,
        # Nobody looks while the time passes in which they should have come.
        """
                futures = [pool.submit(work, number) for number in range(200)]
                while pool._known(work)[0].decision is None:
                    time.sleep(0)
                sum(range(6_000_000))
        """,
    ],
    ids=["beside a map", "while the interpreter is held"],
)
def test_calls_do_not_wait_for_processes_that_do_not_come(run_script, meanwhile):
    last = """
        for future in [*futures, pool.submit(work, 6)]:
            future.result(timeout=30)
    """
    run_with_a_stopped_server(run_script, textwrap.dedent(meanwhile) + textwrap.dedent(last))


def test_cores_that_a_child_process_takes_are_no_wait():
    meter, before = Meter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    meter.start()
    began = time.perf_counter_ns()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    meter.ended(1, began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = 1e9 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    among_others, alone = meter.sample(alone=False), meter.sample()
    assert alone.cpu - among_others.cpu > 0.5 * took
    assert alone.cpu <= alone.wall
    assert alone.held <= alone.wall - 0.5 * took


def test_what_a_thread_waits_for_after_a_call_is_none_of_the_calls():
    meter = Meter()
    meter.start()
    began = time.perf_counter_ns()
    hashlib.pbkdf2_hmac("sha256", b"a word", b"salt", 20_000)
    meter.ended(1, began)
    time.sleep(0.05)
    sample = meter.sample()
    assert sample.cpu > 0.9 * sample.alone


def test_what_a_thread_waits_for_a_core_after_a_call_is_none_of_the_calls(monkeypatch):
    waited = 0
    monkeypatch.setattr(_core, "thread_ready_ns", lambda: waited)
    meter = Meter()
    for _ in range(2):
        meter.start()
        began = time.perf_counter_ns()
        time.sleep(0.01)
        meter.ended(1, began)
        waited += 8_000_000
        time.sleep(0.008)
        sample = meter.sample()
        assert (sample.ready, sample.alone) == (0, sample.wall)


def test_what_was_made_is_told_to_who_interrupts_the_count():
    told = []

    def interrupted(pool):
        [flow] = pool._engine.flows()
        with flow._tally:  # a handler of a signal, or a finalizer
            told.append(sum(pool.explain(bodies.nap)["made"].values()))

    with plait.Pool() as pool:
        pool.submit(bodies.nap, 0.0).result(WATCHDOG)
        thread = threading.Thread(target=interrupted, args=(pool,), daemon=True)
        thread.start()
        thread.join(5)
    assert told == [1]


def _cpu_of(number):
    usage = _core.thread_usage(number)
    return usage and usage[0]


def test_what_a_thread_beside_has_computed_is_told_up_to_this_moment():
    done, numbers = threading.Event(), []

    def hash_again_and_again():
        numbers.append(threading.get_native_id())
        while not done.is_set():
            hashlib.pbkdf2_hmac("sha256", b"a word", b"salt", 4_000)  # a millisecond without the GIL

    thread = threading.Thread(target=hash_again_and_again)
    thread.start()
    try:
        while not numbers:
            time.sleep(0.001)
        # As of the kernel's last tick, it would be the same for milliseconds.
        end = time.monotonic() + WATCHDOG
        while len({_cpu_of(numbers[0]) for _ in range(30)}) <= 10:
            assert time.monotonic() < end
    finally:
        done.set()
        thread.join()


def test_waits_that_do_not_overlap_get_few_threads():
    turn = threading.Lock()

    def wait_in_turn(number):
        with turn:
            time.sleep(0.001)
        return number

    with plait.Pool() as pool:
        assert list(pool.map(wait_in_turn, range(600))) == list(range(600))
        assert pool.explain(wait_in_turn)["workers"] <= 8


def test_waiting_calls_get_many_more_threads_than_cores(pool):
    list(pool.map(bodies.nap, [0.02] * 200))
    assert pool.explain(bodies.nap)["workers"] > 4 * (os.cpu_count() or 1)


def test_no_more_threads_than_may_be():
    running, most, guard = 0, 0, threading.Lock()

    def count(_):
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with guard:
            running -= 1

    with plait.Pool(3) as pool:
        list(pool.map(count, range(60)))
        for future in [pool.submit(count, 0) for _ in range(60)]:
            future.result(WATCHDOG)
    assert most <= 3


def test_models_that_are_left_out_are_not_taken():
    with plait.Pool(models=["serial"]) as pool:
        list(pool.map(bodies.nap, [0.005] * 20))
        assert pool.explain(bodies.nap)["model"] == "serial"
        assert pool.explain(bodies.nap)["refused"]["threads"] == "is not among the pool's models"


@pytest.mark.parametrize("gil", [True, False])
def test_reasons_speak_of_the_gil_only_where_there_is_one(gil):
    figures = Figures()
    figures.add(Sample(calls=10, wall=100_000_000, cpu=99_000_000))
    machine = _choice.Machine(cores=2, most=None, gil=gil)
    decision = _choice.choose(
        figures, machine, _choice.Costs(), 100, refused={"processes": "is refused"}, start=0.0, paces=Paces()
    )
    assert decision.plan.model == ("serial" if gil else "threads")
    assert ("99% with the GIL" in decision.why) is gil
    assert ("take turns" in decision.why) is gil


def test_a_tie_goes_to_what_is_in_use():
    assert _choice.STAY > _choice.TIE


@pytest.mark.parametrize("items", ["range(10_000)", "iter(range(10_000))"])
def test_results_that_are_left_when_the_program_ends_are_let_go_of_in_silence(run_script, items):
    source = f"""
        import sys
        import plait

        def triple(number):
            return [number] * 3

        if __name__ == "__main__":
            pool = plait.Pool()
            results = pool.map(triple, {items})
            assert next(results) == [0] * 3
            sys.modules["kept"] = results
    """
    assert run_script(textwrap.dedent(source), timeout=WATCHDOG).stderr == ""


def test_to_make_a_pool_imports_nothing_that_only_processes_need(run_script):
    source = """
        import sys
        import plait
        pool = plait.Pool()
        assert pool.submit(abs, -1).result() == 1
        print(*sorted(sys.modules.keys() & {"multiprocessing", "socket", "subprocess", "decimal", "pathlib", "asyncio"}))
    """
    assert run_script(textwrap.dedent(source), timeout=WATCHDOG).stdout == "\n"


def test_thousands_of_cancelled_calls_end_without_depth():
    with plait.Pool(2, models=["processes"]) as pool:
        assert list(pool.map(bodies.spin, [2_000] * 300))
        futures = [pool.submit(bodies.spin, 60_000) for _ in range(4_000)]
        left = [futures[0], *(future for future in futures[1:] if not future.cancel())]
        assert all(future.result(WATCHDOG) is not None for future in left)
        assert pool.submit(bodies.spin, 10).result(WATCHDOG) is not None


class Lazy:
    """As attributes of frameworks that are made when they are asked for."""

    @property  # type: ignore[misc]
    def __class__(self):
        raise ImproperlyConfigured("settings are not configured")


class ImproperlyConfigured(Exception):
    pass


LAZY = Lazy()


def reads_what_is_lazy(number):
    return (LAZY, number)[1]


def test_what_is_looked_at_may_raise():
    with plait.Pool(2) as pool:
        assert list(pool.map(reads_what_is_lazy, range(300))) == [*range(300)]
        assert [pool.submit(reads_what_is_lazy, number).result(WATCHDOG) for number in range(300)] == [*range(300)]
        assert pool.explain(reads_what_is_lazy)
