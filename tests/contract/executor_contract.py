"""The contract of an executor: what holds for the standard library's and for ours alike.

`ExecutorContract` holds for pools of threads and of processes, `ProcessContract` and `ThreadContract` for one kind. Each is
mixed into a test class that says how to make an executor. Nothing in it is about plait: a test that fails for one of the two
is a difference that a program would notice.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import itertools
import operator
import os
import threading
import time
import traceback
import weakref
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from pathlib import Path
from typing import Any

import pytest

from tests.contract import contract_tasks as tasks

WATCHDOG = 60.0


def poll(condition, what):
    deadline = time.monotonic() + WATCHDOG
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.005)
    return value


def lines(path):
    return Path(path).read_text().splitlines() if os.path.exists(path) else []


class Gate:
    """Occupies workers until it is opened."""

    def __init__(self, folder):
        self.path = str(folder / "gate")
        self.started = str(folder / "started")

    def occupy(self, executor, workers):
        before = len(lines(self.started))
        futures = [executor.submit(tasks.wait_at, self.path, i, self.started) for i in range(workers)]
        poll(lambda: len(lines(self.started)) >= before + workers, "tasks to start")
        return futures

    def open(self):
        Path(self.path).touch()


class ExecutorContract:
    executor_type: Any
    more_workers = 0
    """How many more than CPUs there may be by default."""
    broken: type[Exception]
    """What a pool whose initializer failed raises."""

    def account_of(self, error):
        """What an exception says of where it was raised."""
        return "".join(traceback.format_exception(error))

    def make(self, max_workers=2, **options):
        return self.executor_type(max_workers, **options)

    @pytest.fixture
    def executor(self):
        with self.make() as executor:
            yield executor

    @pytest.fixture
    def single(self):
        with self.make(1) as executor:
            yield executor

    @pytest.fixture
    def gate(self, tmp_path):
        gate = Gate(tmp_path)
        yield gate
        gate.open()

    # ---- submit ----------------------------------------------------------------------------------

    def test_submit(self, executor):
        future = executor.submit(tasks.add, 1, b=2)
        assert isinstance(executor, concurrent.futures.Executor)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(WATCHDOG) == 3
        assert future.done()
        assert not future.running()
        assert not future.cancelled()
        assert future.exception() is None

    def test_submit_takes_any_keyword(self, executor):
        future = executor.submit(tasks.collect, 1, self=2, fn=3, timeout=4)
        assert future.result(WATCHDOG) == ((1,), {"self": 2, "fn": 3, "timeout": 4})

    def test_submit_needs_a_function_by_position(self, executor):
        with pytest.raises(TypeError):
            executor.submit()
        with pytest.raises(TypeError):
            executor.submit(fn=tasks.echo)

    def test_callables(self, executor):
        calls = [
            (abs, (-1,), 1),
            (tasks.Thing(3).plus, (4,), 7),
            (tasks.Thing(3), (4,), 7),
            (functools.partial(tasks.add, 1), (2,), 3),
            (operator.itemgetter(1), ("xyz",), "y"),
            ("a-b".replace, ("-", "+"), "a+b"),
        ]
        for function, args, result in calls:
            assert executor.submit(function, *args).result(WATCHDOG) == result

    def test_values_arrive_as_they_left(self, executor):
        values = [None, True, -1, 10**30, 1.5, "ä", b"\0", [1, [2]], {"a": (1,)}, {1}, ..., int, "x" * 1_000_000]
        for value in values:
            answer = executor.submit(tasks.echo, value).result(WATCHDOG)
            assert answer == value
            assert type(answer) is type(value)

    def test_many(self, executor):
        futures = [executor.submit(tasks.add, i, 1) for i in range(2000)]
        assert [f.result(WATCHDOG) for f in futures] == list(range(1, 2001))

    def test_submit_from_threads(self, executor):
        def submit(base):
            return [executor.submit(tasks.add, base, i).result(WATCHDOG) for i in range(50)]

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            for base, values in enumerate(threads.map(submit, range(4))):
                assert values == [base + i for i in range(50)]

    def test_first_in_first_out(self, single, tmp_path):
        path = str(tmp_path / "order")
        futures = [single.submit(tasks.note, path, i) for i in range(100)]
        concurrent.futures.wait(futures, WATCHDOG)
        assert lines(path) == [str(i) for i in range(100)]

    # ---- errors ----------------------------------------------------------------------------------

    def test_exception(self, executor):
        future = executor.submit(tasks.refuse, "no", 7)
        error = future.exception(WATCHDOG)
        assert type(error) is tasks.Refusal
        assert error.args == ("no", 7)
        assert error.code == 7
        assert error.__notes__ == ["a note"]
        assert "in refuse" in self.account_of(error)
        with pytest.raises(tasks.Refusal, match="no"):
            future.result()

    @pytest.mark.parametrize(
        "error",
        [
            KeyError("k"),
            OSError(2, "text", "name"),
            StopIteration(1),
            concurrent.futures.CancelledError("c"),
            asyncio.CancelledError("c"),
            TimeoutError("t"),
            SystemExit(3),
            KeyboardInterrupt("k"),
            GeneratorExit(),
        ],
        ids=lambda e: type(e).__name__,
    )
    def test_exceptions_of_every_kind(self, executor, error):
        future = executor.submit(tasks.throw, error)
        assert type(future.exception(WATCHDOG)) is type(error)
        assert future.exception().args == error.args
        assert not future.cancelled()
        assert executor.submit(abs, -1).result(WATCHDOG) == 1

    # ---- map -------------------------------------------------------------------------------------

    def test_map(self, executor):
        assert list(executor.map(tasks.echo, range(100))) == list(range(100))
        assert list(executor.map(pow, [2, 3, 4], (5, 2), range(1, 9))) == [0, 1]
        assert list(executor.map(tasks.add, [1, 2], itertools.count(10))) == [11, 13]
        assert list(executor.map(tasks.echo, [])) == []
        assert list(executor.map(tasks.echo, (i for i in range(5)))) == [0, 1, 2, 3, 4]
        assert list(executor.map(tasks.echo)) == []

    @pytest.mark.parametrize("chunksize", [1, 3, 20, 100])
    def test_map_chunksize(self, executor, chunksize):
        assert list(executor.map(tasks.add, range(20), range(20), chunksize=chunksize)) == list(range(0, 40, 2))

    def test_map_bad_input(self, executor):
        with pytest.raises(TypeError):
            executor.map(tasks.echo, 5)

    def test_map_is_an_iterator(self, executor):
        results = executor.map(tasks.echo, [1, 2])
        assert iter(results) is results
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(StopIteration):
            next(results)

    @pytest.mark.parametrize("nothing", [[], iter(())], ids=["list", "iterator"])
    def test_map_of_nothing_after_the_shutdown(self, executor, nothing):
        executor.shutdown()
        assert list(executor.map(tasks.echo, nothing)) == []
        assert list(executor.map(tasks.add, [1], nothing)) == []
        with pytest.raises(RuntimeError):
            executor.map(tasks.echo, [1])

    def test_map_submits_at_the_call(self, executor, tmp_path):
        path = str(tmp_path / "runs")
        items = list(range(20))
        results = executor.map(functools.partial(tasks.note, path), items)
        items.clear()
        poll(lambda: len(lines(path)) == 20, "all items to run")
        assert list(results) == list(range(20))

    def test_map_that_nobody_reads_runs_all_the_same(self, executor, tmp_path):
        path = str(tmp_path / "runs")
        executor.map(functools.partial(tasks.note, path), range(20))
        gc.collect()
        poll(lambda: len(lines(path)) == 20, "all items to run")

    def test_map_error_in_its_place(self, executor):
        results = executor.map(functools.partial(tasks.fail_at, 3), range(10))
        assert list(itertools.islice(results, 3)) == [0, 1, 2]
        with pytest.raises(tasks.Refusal):
            next(results)
        with pytest.raises(StopIteration):
            next(results)

    def test_map_closed_cancels_the_rest(self, single, gate, tmp_path):
        path = str(tmp_path / "runs")
        results = single.map(functools.partial(tasks.note, path), range(5000), chunksize=1)
        assert next(results) == 0
        results.close()
        assert single.submit(tasks.echo, 1).result(WATCHDOG) == 1
        assert len(lines(path)) < 5000

    @pytest.mark.parametrize("timeout", [0, 0.05, -1])
    def test_map_timeout(self, executor, gate, timeout):
        with pytest.raises(TimeoutError):
            list(executor.map(tasks.wait_at, [gate.path], timeout=timeout))

    def test_map_timeout_is_overall_and_from_the_call(self, executor, gate):
        results = executor.map(tasks.wait_at, [gate.path], timeout=0.2)
        time.sleep(0.3)
        with pytest.raises(TimeoutError):
            next(results)
        assert list(executor.map(tasks.echo, range(10), timeout=WATCHDOG)) == list(range(10))

    def test_map_does_not_keep_results(self, executor):
        results = executor.map(tasks.Thing, range(3))
        reference = weakref.ref(next(results))
        gc.collect()
        assert reference() is None

    # ---- futures ---------------------------------------------------------------------------------

    def test_timeout_of_result(self, executor, gate):
        future, _ = gate.occupy(executor, 2)
        for timeout in (0, -1, 0.05):
            with pytest.raises(TimeoutError):
                future.result(timeout)
            with pytest.raises(TimeoutError):
                future.exception(timeout=timeout)
        gate.open()
        assert future.result(WATCHDOG) == 0

    def test_running(self, single, gate):
        [future] = gate.occupy(single, 1)
        poll(future.running, "the future to be running")
        assert not future.done()
        assert future.cancel() is False
        gate.open()
        assert future.result(WATCHDOG) == 0
        assert not future.running()
        assert future.cancel() is False

    def test_cancel(self, single, gate, tmp_path):
        gate.occupy(single, 1)
        path = str(tmp_path / "runs")
        futures = [single.submit(tasks.note, path, i) for i in range(30)]
        last = futures[-1]
        called: list = []
        last.add_done_callback(called.append)
        assert last.cancel() is True
        assert last.cancelled()
        assert last.done()
        poll(lambda: called == [last], "the callback")
        with pytest.raises(concurrent.futures.CancelledError):
            last.result(WATCHDOG)
        with pytest.raises(concurrent.futures.CancelledError):
            last.exception(WATCHDOG)
        gate.open()
        assert [f.result(WATCHDOG) for f in futures[:-1]] == list(range(29))
        assert single.submit(tasks.echo, 1).result(WATCHDOG) == 1
        assert "29" not in lines(path)

    def test_wait(self, executor, gate):
        slow = gate.occupy(executor, 1)
        quick = [executor.submit(tasks.echo, i) for i in range(5)]
        done, pending = concurrent.futures.wait([*slow, *quick], WATCHDOG, concurrent.futures.FIRST_COMPLETED)
        assert done
        assert set(slow) <= pending
        bad = executor.submit(tasks.refuse, "no", 1)
        done, pending = concurrent.futures.wait([*slow, bad], WATCHDOG, concurrent.futures.FIRST_EXCEPTION)
        assert (done, pending) == ({bad}, set(slow))
        done, pending = concurrent.futures.wait([*slow, *quick], 0.2)
        assert (done, pending) == (set(quick), set(slow))
        gate.open()
        assert concurrent.futures.wait([*slow, *quick], WATCHDOG) == ({*slow, *quick}, set())

    def test_as_completed(self, executor, gate):
        slow = gate.occupy(executor, 1)
        quick = {executor.submit(tasks.echo, i): i for i in range(5)}
        results = concurrent.futures.as_completed([*slow, *quick], WATCHDOG)
        for future in itertools.islice(results, 5):
            assert future.result(0) == quick[future]
        gate.open()
        assert list(results) == slow
        with pytest.raises(TimeoutError):
            list(concurrent.futures.as_completed([executor.submit(tasks.nap, 0.5)], timeout=0.05))

    def test_mixed_with_futures_of_threads(self, executor):
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            futures = [e.submit(tasks.nap, 0.01, i) for i in range(10) for e in (executor, threads)]
            assert {f.result(0) for f in concurrent.futures.as_completed(futures, WATCHDOG)} == set(range(10))
            assert concurrent.futures.wait(futures, WATCHDOG).done == set(futures)

    def test_callbacks(self, executor, gate):
        future, _ = gate.occupy(executor, 2)
        calls: list = []
        for i in range(5):
            future.add_done_callback(lambda f, i=i: calls.append((i, f, f.result(0))))
        gate.open()
        poll(lambda: len(calls) == 5, "the callbacks")
        assert calls == [(i, future, 0) for i in range(5)]
        future.add_done_callback(lambda f: calls.append(threading.current_thread()))
        assert calls[-1] is threading.current_thread()

    def test_callback_that_raises(self, executor, gate, caplog):
        future, _ = gate.occupy(executor, 2)
        calls: list = []
        future.add_done_callback(lambda f: 1 / 0)
        future.add_done_callback(calls.append)
        gate.open()
        poll(lambda: calls == [future], "the second callback")
        assert "ZeroDivisionError" in caplog.text
        caplog.clear()  # what it keeps holds this frame, and with it the executor

    def test_callback_may_submit(self, executor):
        seen: list = []

        def follow(f):
            seen.append(f.result(0))
            if len(seen) < 20:
                executor.submit(tasks.add, seen[-1], 1).add_done_callback(follow)

        executor.submit(tasks.echo, 0).add_done_callback(follow)
        poll(lambda: len(seen) == 20, "the chain of callbacks")
        assert seen == list(range(20))

    def test_threads_wait_for_one_future(self, executor, gate):
        future, _ = gate.occupy(executor, 2)
        answers: list = []
        threads = [threading.Thread(target=lambda: answers.append(future.result(WATCHDOG))) for _ in range(4)]
        for thread in threads:
            thread.start()
        gate.open()
        for thread in threads:
            thread.join(WATCHDOG)
        assert answers == [0] * 4

    def test_asyncio(self, executor):
        async def main():
            loop = asyncio.get_running_loop()
            wrapped = [asyncio.wrap_future(executor.submit(tasks.add, i, 1)) for i in range(50)]
            called = [loop.run_in_executor(executor, tasks.add, i, 1) for i in range(50)]
            assert await asyncio.gather(*wrapped) == await asyncio.gather(*called) == list(range(1, 51))
            with pytest.raises(tasks.Refusal):
                await loop.run_in_executor(executor, tasks.refuse, "no", 1)

        asyncio.run(asyncio.wait_for(main(), WATCHDOG))

    def test_asyncio_cancellation(self, single, gate):
        async def main():
            loop = asyncio.get_running_loop()
            gate.occupy(single, 1)
            futures = [single.submit(tasks.echo, i) for i in range(30)]
            wrapped = asyncio.wrap_future(futures[-1])
            await asyncio.sleep(0.05)
            wrapped.cancel()
            await asyncio.sleep(0.05)
            assert futures[-1].cancelled()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.run_in_executor(single, tasks.echo, 1), 0.1)
            gate.open()
            assert futures[0].result(WATCHDOG) == 0

        asyncio.run(asyncio.wait_for(main(), WATCHDOG))

    # ---- shutdown --------------------------------------------------------------------------------

    def test_shutdown_completes_the_work(self):
        executor = self.make()
        futures = [executor.submit(tasks.nap, 0.01, i) for i in range(10)]
        executor.shutdown()
        assert all(f.done() for f in futures)
        assert [f.result(0) for f in futures] == list(range(10))
        executor.shutdown()

    def test_shutdown_without_waiting(self, gate):
        executor = self.make()
        futures = [*gate.occupy(executor, 2), executor.submit(tasks.echo, 5)]
        executor.shutdown(wait=False)
        gate.open()
        assert [f.result(WATCHDOG) for f in futures] == [0, 1, 5]

    def test_shutdown_cancels_if_asked(self, gate, tmp_path):
        executor = self.make(1)
        [running] = gate.occupy(executor, 1)
        path = str(tmp_path / "runs")
        futures = [executor.submit(tasks.note, path, i) for i in range(50)]
        executor.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + WATCHDOG
        while not futures[-1].cancelled() and time.monotonic() < deadline:
            time.sleep(0.002)  # the standard library's processes are shut down by a thread
        gate.open()
        assert running.result(WATCHDOG) == 0
        executor.shutdown()
        # The standard library's second `shutdown` waits for nothing, and `wait` for what nobody says of cancelled futures.
        while not all(f.done() for f in futures) and time.monotonic() < deadline + WATCHDOG:
            time.sleep(0.002)
        assert all(f.done() for f in futures)
        cancelled = [f.cancelled() for f in futures]
        assert cancelled.count(True) >= 45  # the standard library has a few in its call queue
        assert len(lines(path)) == cancelled.count(False)

    def test_no_work_after_shutdown(self):
        executor = self.make()
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(tasks.echo)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.map(tasks.echo, [1])

    def test_with_statement(self):
        with self.make() as executor:
            future = executor.submit(tasks.nap, 0.1, 1)
        assert future.done()
        with pytest.raises(RuntimeError):
            executor.submit(tasks.echo)
        with pytest.raises(KeyError), self.make():
            raise KeyError

    def test_forgotten_executor_completes_its_work(self):
        executor = self.make()
        futures = [executor.submit(tasks.nap, 0.01, i) for i in range(10)]
        del executor
        gc.collect()
        assert [f.result(WATCHDOG) for f in futures] == list(range(10))

    # ---- arguments -------------------------------------------------------------------------------

    def test_failing_initializer(self):
        with self.make(2, initializer=tasks.fail_to_initialize) as executor:
            with pytest.raises(self.broken):
                executor.submit(tasks.echo).result(WATCHDOG)
            with pytest.raises(self.broken):
                executor.submit(tasks.echo).result(WATCHDOG)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"max_workers": 0}, ValueError),
            ({"max_workers": -1}, ValueError),
            ({"max_workers": "2"}, TypeError),
            ({"initializer": 1}, TypeError),
            ({"no_such": 1}, TypeError),
        ],
        ids=str,
    )
    def test_bad_arguments(self, arguments, error):
        with pytest.raises(error):
            self.executor_type(**arguments)

    def test_default_number_of_workers(self):
        with self.executor_type() as executor:
            assert 1 <= executor._max_workers <= (os.cpu_count() or 1) + self.more_workers


class ProcessContract(ExecutorContract):
    broken = BrokenProcessPool

    def account_of(self, error):
        return str(error.__cause__)

    def test_runs_in_other_processes(self, executor, gate):
        pids = {executor.submit(tasks.pid).result(WATCHDOG) for _ in range(3)}
        assert os.getpid() not in pids
        gate.occupy(executor, 2)

    def test_arguments_are_copies(self, executor):
        data = [1]
        answer = executor.submit(tasks.echo, data).result(WATCHDOG)
        answer.append(2)
        assert data == [1]

    def test_sys_exit(self, single):
        pid = single.submit(tasks.pid).result(WATCHDOG)
        error = single.submit(tasks.leave, 3).exception(WATCHDOG)
        assert type(error) is SystemExit
        assert error.code == 3
        assert single.submit(tasks.pid).result(WATCHDOG) == pid

    def test_argument_that_does_not_pickle(self, executor):
        bad = executor.submit(tasks.echo, tasks.Cursed())
        good = executor.submit(tasks.echo, 1)
        assert isinstance(bad.exception(WATCHDOG), Exception)
        assert good.result(WATCHDOG) == 1

    def test_result_that_does_not_pickle(self, executor):
        bad = executor.submit(threading.Lock)
        good = executor.submit(tasks.echo, 1)
        assert isinstance(bad.exception(WATCHDOG), Exception)
        assert good.result(WATCHDOG) == 1

    def test_max_tasks_per_child(self):
        with self.make(1, max_tasks_per_child=3) as executor:
            pids = [executor.submit(tasks.pid).result(WATCHDOG) for _ in range(9)]
        assert [len(list(group)) for _, group in itertools.groupby(pids)] == [3, 3, 3]
        assert len(set(pids)) == 3

    def test_death_of_a_worker(self, executor):
        # That far they agree: the victim fails with BrokenProcessPool.
        with pytest.raises(BrokenProcessPool):
            executor.submit(os._exit, 3).result(WATCHDOG)

    @pytest.mark.parametrize("value", [0, "1", 1.5])
    def test_bad_max_tasks_per_child(self, value):
        with pytest.raises(ValueError if value == 0 else TypeError):
            self.executor_type(max_tasks_per_child=value)

    @pytest.mark.parametrize("chunksize", [0, -1])
    def test_map_bad_chunksize(self, executor, chunksize):
        with pytest.raises(ValueError, match="chunksize must be >= 1"):
            executor.map(tasks.echo, [1], chunksize=chunksize)

    def test_initializer(self):
        with self.make(2, initializer=tasks.set_state, initargs=(1, [2])) as executor:
            for _ in range(10):
                assert executor.submit(tasks.state).result(WATCHDOG) == [1, [2]]


class ThreadContract(ExecutorContract):
    broken = BrokenThreadPool
    more_workers = 4

    def test_it_is_a_thread_pool_executor(self, executor):
        assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_default_executor(executor)
            return await asyncio.to_thread(threading.current_thread)

        assert asyncio.run(main()) is not threading.current_thread()

    def test_objects_are_shared(self, executor):
        data = [1]
        assert executor.submit(tasks.echo, data).result(WATCHDOG) is data
        assert next(executor.map(tasks.echo, [data])) is data

    def test_exception_keeps_its_traceback(self, executor):
        error = executor.submit(tasks.refuse, "no", 7).exception(WATCHDOG)
        frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        assert frames[-1] == "refuse"

    def test_exception_of_map_keeps_its_traceback(self, executor):
        with pytest.raises(tasks.Refusal) as caught:
            list(executor.map(tasks.fail_at, [1], [1]))
        assert caught.traceback[-1].name == "fail_at"

    def test_thread_names(self):
        with self.make(2, thread_name_prefix="pre") as executor:
            name = executor.submit(lambda: threading.current_thread().name).result(WATCHDOG)
        assert name in ("pre_0", "pre_1")

    def test_threads_are_pythons_own(self, executor):
        thread = executor.submit(threading.current_thread).result(WATCHDOG)
        assert type(thread) is threading.Thread
        assert thread in threading.enumerate()
        assert not thread.daemon
        assert executor._threads >= {thread}

    def test_thread_locals_stay(self, single):
        local = threading.local()
        single.submit(setattr, local, "value", 5).result(WATCHDOG)
        assert single.submit(getattr, local, "value").result(WATCHDOG) == 5

    def test_tasks_overlap(self, executor):
        for _ in range(50):
            barrier = threading.Barrier(2)
            for future in [executor.submit(barrier.wait, WATCHDOG) for _ in range(2)]:
                future.result(WATCHDOG)

    def test_items_of_map_overlap(self, executor):
        barrier = threading.Barrier(2)
        for _ in range(50):
            list(executor.map(lambda _: barrier.wait(WATCHDOG), range(4)))

    def test_threads_are_made_when_work_waits(self):
        with self.make(4) as executor:
            assert len(executor._threads) == 0
            for _ in range(20):
                executor.submit(tasks.echo).result(WATCHDOG)
                time.sleep(0.005)  # the thread says that it is idle a moment after the result is there
            assert len(executor._threads) == 1
            barrier = threading.Barrier(4)
            list(executor.map(lambda _: barrier.wait(WATCHDOG), range(4)))
            assert len(executor._threads) == 4

    def test_an_idle_thread_keeps_nothing(self, single):
        thing = tasks.Thing(3)
        reference = weakref.ref(thing)
        future = single.submit(thing.plus, 4)
        assert future.result(WATCHDOG) == 7
        del thing
        poll(lambda: reference() is None, "the task to be let go")
        thing = tasks.Thing(3)
        reference = weakref.ref(thing)
        single.submit(tasks.echo, thing).result(WATCHDOG)
        del thing
        poll(lambda: reference() is None, "the result to be let go")

    def test_a_cancelled_task_keeps_nothing(self, single, gate):
        gate.occupy(single, 1)
        thing = tasks.Thing(3)
        reference = weakref.ref(thing)
        future = single.submit(tasks.echo, thing)
        assert future.cancel()
        del thing
        gate.open()
        poll(lambda: reference() is None, "the argument to be let go")

    def test_submit_within_a_task(self, executor):
        inner = executor.submit(lambda: executor.submit(tasks.echo, 5)).result(WATCHDOG)
        assert inner.result(WATCHDOG) == 5

    def test_shutdown_within_a_task(self):
        executor = self.make(1)
        assert executor.submit(lambda: executor.shutdown(wait=False)).result(WATCHDOG) is None
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(tasks.echo)
        executor.shutdown()

    def test_what_other_programs_read(self, single, gate):
        gate.occupy(single, 1)
        assert single._work_queue.qsize() == 0
        single.submit(tasks.echo)
        assert single._work_queue.qsize() == 1
        assert single._max_workers == 1
        assert not single._shutdown
        assert not single._broken
        gate.open()
        single.shutdown()
        assert single._shutdown

    def test_forgotten_executor_ends_its_threads(self):
        executor = self.make(2)
        executor.submit(tasks.echo).result(WATCHDOG)
        threads = list(executor._threads)
        del executor
        gc.collect()
        for thread in threads:
            thread.join(WATCHDOG)
            assert not thread.is_alive()

    def test_profile_functions_see_the_tasks(self):
        seen = []
        threading.setprofile(lambda frame, event, arg: seen.append(frame.f_code.co_name))
        try:
            with self.make(1) as executor:
                executor.submit(tasks.echo, 1).result(WATCHDOG)
        finally:
            threading.setprofile(None)
        assert "echo" in seen

    def test_initializer(self):
        begun = []
        with self.make(2, initializer=lambda *values: begun.append(values), initargs=(1, [2])) as executor:
            barrier = threading.Barrier(2)
            list(executor.map(lambda _: barrier.wait(WATCHDOG), range(2)))
            assert begun == [(1, [2])] * 2
