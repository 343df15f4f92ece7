"""The contract of a queue: what holds for the standard library's two and for a channel alike.

`QueueContract` is for threads, after CPython's `test_queue`; `TaskQueueContract` for tasks, after `test_asyncio.test_queues`.
What is left out of those looks into a queue's inside (`_getters`, `_put`), or sets `maxsize`.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from typing import Any

import pytest

WATCHDOG = 30.0
SIZE = 5


def started(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def ended(*threads):
    for thread in threads:
        thread.join(WATCHDOG)
        assert not thread.is_alive(), "still blocked"


class Outcomes:
    """What calls in threads came to, in the order in which they ended."""

    def __init__(self):
        self.seen = []

    def call(self, function, *args):
        try:
            value = function(*args)
        except Exception as error:
            value = type(error)
        self.seen.append(value)


class QueueContract:
    make: Any
    shut_down: Any  # the class of what a queue raises after its shutdown; None where it has none

    def filled(self, size=SIZE):
        q = self.make(size)
        for number in range(size):
            q.put(number)
        return q

    # ---- put and get -----------------------------------------------------------------------------

    def test_order_and_figures(self):
        q = self.make(SIZE)
        assert q.empty()
        assert q.qsize() == 0
        for number in (111, 333, 222):
            q.put(number)
        assert not q.empty()
        assert not q.full()
        assert q.qsize() == 3
        assert [q.get(), q.get(), q.get()] == [111, 333, 222]
        for number in range(SIZE):
            q.put(number)
        assert q.full()
        assert q.maxsize == SIZE

    def test_a_full_queue_refuses(self):
        q = self.filled()
        for put in (lambda: q.put("x", block=False), lambda: q.put("x", timeout=0.01), lambda: q.put_nowait("x"),
                    lambda: q.put("x", True, 0.01), lambda: q.put("x", 0)):  # fmt: skip
            with pytest.raises(queue.Full):
                put()
        assert q.qsize() == SIZE

    def test_an_empty_queue_refuses(self):
        q = self.make(SIZE)
        for get in (lambda: q.get(block=False), lambda: q.get(timeout=0.01), q.get_nowait, lambda: q.get(True, 0.01),
                    lambda: q.get(0)):  # fmt: skip
            with pytest.raises(queue.Empty):
                get()

    def test_get_waits_for_a_put(self):
        q = self.make(SIZE)
        outcomes = Outcomes()
        for args in ((), (True, WATCHDOG)):
            thread = started(outcomes.call, q.get, *args)
            time.sleep(0.02)
            q.put("here")
            ended(thread)
        assert outcomes.seen == ["here", "here"]

    def test_put_waits_for_a_get(self):
        q = self.filled()
        outcomes = Outcomes()
        for args in (("x",), ("y", True, WATCHDOG)):
            thread = started(outcomes.call, q.put, *args)
            time.sleep(0.02)
            assert outcomes.seen.count(None) == len(outcomes.seen)
            q.get()
            ended(thread)
        assert [q.get() for _ in range(SIZE)] == [2, 3, 4, "x", "y"]

    def test_without_a_bound(self):
        q = self.make(0)
        for number in range(3000):
            q.put(number, timeout=0)
        assert not q.full()
        assert [q.get() for _ in range(3000)] == list(range(3000))

    def test_a_negative_timeout(self):
        q = self.make(1)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.get(timeout=-1)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.put(1, timeout=-1)
        q.put(1, block=False, timeout=-1)
        assert q.get(block=False, timeout=-1) == 1

    def test_arguments_by_name(self):
        q = self.make(1)
        q.put(item=1, block=True, timeout=None)
        assert q.get(block=True, timeout=None) == 1
        q.put_nowait(item=2)
        with pytest.raises(TypeError):
            q.put()
        with pytest.raises(TypeError):
            q.put(1, True, None, None)
        with pytest.raises(TypeError):
            q.put(1, item=2)
        with pytest.raises(TypeError):
            q.get(wait=True)
        with pytest.raises(TypeError):
            q.put_nowait(1, 2)
        assert q.get_nowait() == 2

    # ---- task_done and join ----------------------------------------------------------------------

    def test_join_waits_for_every_item(self):
        q = self.make(0)
        done = []

        def work():
            while (item := q.get()) is not None:
                done.append(item)
                q.task_done()
            q.task_done()

        threads = [started(work) for _ in range(2)]
        for _ in range(2):
            done.clear()
            for number in range(100):
                q.put(number)
            q.join()
            assert sorted(done) == list(range(100))
        for _ in threads:
            q.put(None)
        q.join()
        ended(*threads)

    def test_task_done_too_often(self):
        q = self.make(0)
        with pytest.raises(ValueError, match="task_done"):
            q.task_done()
        q.put(1)
        q.task_done()
        with pytest.raises(ValueError, match="task_done"):
            q.task_done()
        q.join()

    # ---- shutdown --------------------------------------------------------------------------------

    def test_shutdown_leaves_what_is_in_it(self):
        q = self.filled(2)
        q.shutdown()
        q.shutdown()
        for put in (lambda: q.put(1), lambda: q.put_nowait(1), lambda: q.put(1, timeout=1)):
            with pytest.raises(self.shut_down):
                put()
        assert [q.get(), q.get_nowait()] == [0, 1]
        for get in (q.get, q.get_nowait, lambda: q.get(timeout=1)):
            with pytest.raises(self.shut_down):
                get()

    def test_an_immediate_shutdown_drops_it(self):
        q = self.filled(2)
        q.shutdown(immediate=True)
        assert q.qsize() == 0
        with pytest.raises(self.shut_down):
            q.get()
        q.join()
        with pytest.raises(ValueError, match="task_done"):
            q.task_done()

    def test_an_immediate_shutdown_after_another(self):
        q = self.filled(2)
        q.shutdown()
        q.shutdown(True)
        with pytest.raises(self.shut_down):
            q.get_nowait()

    @pytest.mark.parametrize("immediate", [False, True])
    def test_shutdown_wakes_all_who_get(self, immediate):
        q = self.make(SIZE)
        outcomes = Outcomes()
        threads = [started(outcomes.call, q.get) for _ in range(4)]
        time.sleep(0.02)
        q.shutdown(immediate)
        ended(*threads)
        assert outcomes.seen == [self.shut_down] * 4

    @pytest.mark.parametrize("immediate", [False, True])
    def test_shutdown_wakes_all_who_put(self, immediate):
        q = self.filled(1)
        outcomes = Outcomes()
        threads = [started(outcomes.call, q.put, number) for number in range(4)]
        time.sleep(0.02)
        q.shutdown(immediate)
        ended(*threads)
        assert outcomes.seen == [self.shut_down] * 4
        assert q.qsize() == (0 if immediate else 1)

    def test_join_after_shutdown_waits_for_what_was_taken(self):
        q = self.filled(3)
        q.get()
        outcomes = Outcomes()
        thread = started(outcomes.call, q.join)
        q.shutdown(immediate=True)
        thread.join(0.05)
        assert outcomes.seen == []
        q.task_done()
        ended(thread)
        assert outcomes.seen == [None]

    def test_shutdown_and_join_count_what_is_left(self):
        q = self.filled(2)
        q.shutdown()
        outcomes = Outcomes()
        thread = started(outcomes.call, q.join)
        for _ in range(2):
            q.get()
            assert outcomes.seen == []
            q.task_done()
        ended(thread)

    # ---- threads ---------------------------------------------------------------------------------

    def test_many_threads(self):
        q = self.make(7)
        seen: list[list] = [[] for _ in range(4)]
        feeding = [started(lambda base=base: [q.put((base, number)) for number in range(500)]) for base in range(4)]

        def take(mine):
            while (item := q.get()) is not None:
                mine.append(item)

        taking = [started(take, mine) for mine in seen]
        ended(*feeding)
        for _ in taking:
            q.put(None)
        ended(*taking)
        assert sorted(item for mine in seen for item in mine) == [
            (base, number) for base in range(4) for number in range(500)
        ]
        for mine in seen:
            for base in range(4):
                numbers = [number for sender, number in mine if sender == base]
                assert numbers == sorted(numbers), "one sender's messages keep their order"


class TaskQueueContract:
    """The queues' methods for tasks are those of `asyncio.Queue`; a channel is given an adapter with those names."""

    make: Any
    shut_down: Any

    async def filled(self, size=SIZE):
        q = self.make(size)
        for number in range(size):
            q.put_nowait(number)
        return q

    @staticmethod
    async def settle():
        for _ in range(5):
            await asyncio.sleep(0)

    def run(self, main):
        async def limited():
            async with asyncio.timeout(WATCHDOG):
                await main()

        asyncio.run(limited())

    def test_get_does_not_suspend_when_there_is_an_item(self):
        async def main():
            q = await self.filled()
            ran: list[int] = []
            asyncio.get_running_loop().call_soon(ran.append, 1)
            assert [await q.get() for _ in range(SIZE)] == list(range(SIZE))
            assert not ran

        self.run(main)

    def test_get_waits_for_a_put(self):
        async def main():
            q = self.make()
            getter = asyncio.create_task(q.get())
            await self.settle()
            assert not getter.done()
            q.put_nowait(1)
            assert await getter == 1

        self.run(main)

    def test_put_waits_for_a_get(self):
        async def main():
            q = await self.filled(1)
            putter = asyncio.create_task(q.put("x"))
            await self.settle()
            assert not putter.done()
            assert q.get_nowait() == 0
            await putter
            assert q.get_nowait() == "x"

        self.run(main)

    def test_nowait(self):
        async def main():
            q = await self.filled(2)
            with pytest.raises(asyncio.QueueFull):
                q.put_nowait(1)
            assert (q.get_nowait(), q.get_nowait()) == (0, 1)
            with pytest.raises(asyncio.QueueEmpty):
                q.get_nowait()

        self.run(main)

    def test_first_come_first_served(self):
        async def main():
            q = self.make()
            getters = [asyncio.create_task(q.get()) for _ in range(4)]
            await self.settle()
            for number in range(4):
                q.put_nowait(number)
            assert await asyncio.gather(*getters) == [0, 1, 2, 3]
            q = await self.filled(1)
            putters = [asyncio.create_task(q.put(number)) for number in "abc"]
            await self.settle()
            assert [await q.get() for _ in range(4)] == [0, "a", "b", "c"]
            await asyncio.gather(*putters)

        self.run(main)

    def test_a_cancelled_get_takes_nothing(self):
        async def main():
            q = self.make()
            getter = asyncio.create_task(q.get())
            await self.settle()
            getter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getter
            q.put_nowait(1)
            assert q.get_nowait() == 1

        self.run(main)

    def test_a_get_that_is_cancelled_when_it_was_woken_passes_that_on(self):
        async def main():
            q = self.make()
            first, second = asyncio.create_task(q.get()), asyncio.create_task(q.get())
            await self.settle()
            q.put_nowait(1)
            first.cancel()
            assert await asyncio.wait_for(second, WATCHDOG) == 1
            with pytest.raises(asyncio.CancelledError):
                await first

        self.run(main)

    def test_a_put_that_is_cancelled_when_it_was_woken_passes_that_on(self):
        async def main():
            q = await self.filled(1)
            first, second = asyncio.create_task(q.put("a")), asyncio.create_task(q.put("b"))
            await self.settle()
            assert q.get_nowait() == 0
            first.cancel()
            await asyncio.wait_for(second, WATCHDOG)
            assert q.get_nowait() == "b"
            with contextlib.suppress(asyncio.CancelledError):
                await first
            assert q.empty()

        self.run(main)

    def test_a_get_that_runs_into_a_timeout_takes_nothing(self):
        async def main():
            q = self.make()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(q.get(), 0.01)
            q.put_nowait(1)
            assert await asyncio.wait_for(q.get(), WATCHDOG) == 1

        self.run(main)

    def test_many_cancelled_at_once(self):
        async def main():
            q = self.make()
            getters = [asyncio.create_task(q.get()) for _ in range(100)]
            await self.settle()
            for number in range(50):
                q.put_nowait(number)
            for getter in getters[::2]:
                getter.cancel()
            await self.settle()
            for getter in getters:
                getter.cancel()
            ends = await asyncio.gather(*getters, return_exceptions=True)
            taken = [end for end in ends if isinstance(end, int)]
            while not q.empty():
                taken.append(q.get_nowait())
            assert sorted(taken) == list(range(50))

        self.run(main)

    def test_join_waits_for_every_item(self):
        async def main():
            q = self.make()
            for number in range(10):
                q.put_nowait(number)
            joining = [asyncio.create_task(q.join()) for _ in range(2)]
            for _ in range(10):
                await q.get()
                await self.settle()
                assert not any(each.done() for each in joining)
                q.task_done()
            await asyncio.gather(*joining)
            await q.join()
            with pytest.raises(ValueError, match="task_done"):
                q.task_done()

        self.run(main)

    def test_shutdown_leaves_what_is_in_it(self):
        async def main():
            q = await self.filled(2)
            q.shutdown()
            with pytest.raises(self.shut_down):
                await q.put(1)
            with pytest.raises(self.shut_down):
                q.put_nowait(1)
            assert [await q.get(), q.get_nowait()] == [0, 1]
            with pytest.raises(self.shut_down):
                await q.get()

        self.run(main)

    @pytest.mark.parametrize("immediate", [False, True])
    def test_shutdown_wakes_all(self, immediate):
        async def main():
            empty, full = self.make(), await self.filled(1)
            tasks = [asyncio.create_task(empty.get()) for _ in range(3)]
            tasks += [asyncio.create_task(full.put(1)) for _ in range(3)]
            await self.settle()
            empty.shutdown(immediate)
            full.shutdown(immediate)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ends] == [self.shut_down] * 6
            assert full.qsize() == (0 if immediate else 1)

        self.run(main)

    def test_producers_and_consumers(self):
        async def main():
            q = self.make(3)
            seen: list[int] = []

            async def produce(base):
                for number in range(200):
                    await q.put(base + number)

            async def consume():
                while True:
                    seen.append(await q.get())
                    q.task_done()
                    await asyncio.sleep(0)

            consumers = [asyncio.create_task(consume()) for _ in range(3)]
            await asyncio.gather(*(produce(base) for base in (0, 1000, 2000)))
            await q.join()
            for consumer in consumers:
                consumer.cancel()
            await asyncio.gather(*consumers, return_exceptions=True)
            assert sorted(seen) == [base + number for base in (0, 1000, 2000) for number in range(200)]

        self.run(main)
