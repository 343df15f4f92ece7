"""Callbacks, handles, timers and the clock: what is ours of the loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import random
import threading
import time
import weakref

import pytest

import plait

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")


def turn(loop):
    """Run what is ready now, and no more."""
    loop.call_soon(loop.stop)
    loop.run_forever()


class Seen(list):
    """Remembers what it was called with."""

    def __call__(self, *args):
        self.append(args)


@pytest.mark.parametrize("count", range(8))
def test_any_number_of_arguments(loop, count):
    seen = Seen()
    loop.call_soon(seen, *range(count))
    loop.call_later(0, seen, *range(count))
    loop.call_soon_threadsafe(seen, *range(count))
    loop.call_at(loop.time(), seen, *range(count))
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert seen == [tuple(range(count))] * 4


def test_bound_methods_get_their_object_and_arguments(loop):
    class Thing:
        def method(self, *args):
            seen.append((self, args))

    seen, thing = [], Thing()
    loop.call_soon(thing.method)
    loop.call_soon(thing.method, 1, 2, 3, 4)
    loop.call_soon(thing.method, 1, 2, 3, 4, 5)
    turn(loop)
    assert seen == [(thing, ()), (thing, (1, 2, 3, 4)), (thing, (1, 2, 3, 4, 5))]


def test_callbacks_of_callbacks_wait_for_the_next_turn(loop):
    seen = []
    loop.call_soon(lambda: (seen.append(1), loop.call_soon(seen.append, 3)))
    loop.call_soon(seen.append, 2)
    turn(loop)
    assert seen == [1, 2]
    turn(loop)
    assert seen == [1, 2, 3]


def test_arguments_by_name(loop):
    seen = Seen()
    loop.call_soon(callback=seen)
    loop.call_later(delay=0, callback=seen)
    loop.call_at(when=0, callback=seen)
    loop.call_soon_threadsafe(callback=seen, context=None)
    turn(loop)
    assert seen == [()] * 4


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("call_soon", (), {}),
        ("call_soon", (print,), {"nonsense": 1}),
        ("call_later", (1,), {}),
        ("call_later", ("soon", print), {}),
        ("call_later", (None, print), {}),
        ("call_at", (None, print), {}),
        ("call_at", (1,), {}),
        ("call_soon", (print,), {"context": 5}),
    ],
)
def test_bad_arguments_are_type_errors(loop, name, args, kwargs):
    with pytest.raises(TypeError):
        getattr(loop, name)(*args, **kwargs)
    turn(loop)


def test_what_cannot_be_called_is_told_to_the_exception_handler(loop):
    told = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    loop.call_soon(5)
    turn(loop)
    assert isinstance(told[0]["exception"], TypeError)


# ---- contexts


def test_callbacks_run_in_a_copy_of_the_present_context(loop):
    var.set("before")
    loop.call_soon(lambda: (seen.append(var.get()), var.set("inside")))
    loop.call_soon(lambda: seen.append(var.get()))
    var.set("after")
    seen = []
    turn(loop)
    assert seen == ["before", "before"]
    assert var.get() == "after"


@pytest.mark.parametrize("name", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_a_context_of_ones_own(loop, name):
    context = contextvars.copy_context()
    context.run(var.set, "mine")
    seen = []
    args = () if name.startswith("call_soon") else (0,)
    handle = getattr(loop, name)(*args, lambda: (seen.append(var.get()), var.set("changed")), context=context)
    assert handle.get_context() is context
    turn(loop)
    assert seen == ["mine"]
    assert context[var] == "changed"


def test_a_context_that_is_entered_already_is_an_error(loop, caplog):
    context, seen = contextvars.copy_context(), []

    def inside():
        loop.call_soon(seen.append, 1, context=context)
        turn(loop)

    context.run(inside)
    assert seen == []
    assert "is already entered" in caplog.text


# ---- handles


def test_handles_are_asyncios_own_to_whoever_asks(loop):
    soon, later = loop.call_soon(print, 1), loop.call_later(60, print, 1)
    assert isinstance(soon, asyncio.Handle)
    assert not isinstance(soon, asyncio.TimerHandle)
    assert isinstance(later, asyncio.Handle)
    assert isinstance(later, asyncio.TimerHandle)
    assert soon._callback is print
    assert soon._args == (1,)
    assert "print" in repr(soon)
    assert repr(soon).startswith("<Handle ")
    assert f"when={later.when()}" in repr(later)
    assert later.when() > loop.time() + 50
    for handle in (soon, later):
        assert not handle.cancelled()
        handle.cancel()
        handle.cancel()
        assert handle.cancelled()
        assert handle._callback is None
        assert handle._args is None
        assert "cancelled" in repr(handle)
    turn(loop)


def test_timers_compare_by_time(loop):
    early, late = loop.call_at(1e9, print), loop.call_at(2e9, print)
    assert early < late
    assert late >= early
    assert early <= loop.call_at(2e9, print)
    assert early == loop.call_at(1e9, print)
    assert early != late
    assert hash(early) == hash(1e9)
    assert (early == 5) is False
    with pytest.raises(TypeError):
        early < 5
    early.cancel()
    late.cancel()


def test_a_handle_that_was_kept_is_not_used_again(loop):
    kept = [loop.call_soon(lambda: None) for _ in range(10)]
    context = kept[0].get_context()
    turn(loop)
    others = [loop.call_soon(lambda: None) for _ in range(100)]
    assert not {id(each) for each in kept} & {id(each) for each in others}
    assert kept[0].get_context() is context
    assert kept[0]._callback is not None
    kept[0].cancel()
    turn(loop)


def test_a_handle_that_is_weakly_kept_is_not_used_again(loop):
    ended = []
    weak = weakref.ref(loop.call_soon(lambda: None), ended.append)
    turn(loop)
    loop.call_soon(lambda: None)
    turn(loop)
    assert weak() is None
    assert len(ended) == 1


def test_a_callback_may_cancel_itself_and_what_comes_after_it(loop):
    seen = []

    def first():
        own.cancel()
        other.cancel()
        timer.cancel()
        seen.append("first")

    own, other = loop.call_soon(first), loop.call_soon(seen.append, "other")
    timer = loop.call_later(0, seen.append, "timer")
    turn(loop)
    turn(loop)
    assert seen == ["first"]
    assert own.cancelled()


def test_arguments_end_when_the_callback_has_run_or_was_cancelled(loop):
    class Thing:
        pass

    things = [Thing() for _ in range(5)]
    weak = [weakref.ref(each) for each in things]
    loop.call_soon(id, things[0])
    loop.call_soon(id, things[1]).cancel()
    loop.call_later(60, id, things[2]).cancel()
    loop.call_later(0, id, things[3])
    kept = loop.call_later(60, id, things[4])
    kept.cancel()
    turn(loop)
    del things
    assert [each() for each in weak] == [None] * 5


# ---- errors


def test_errors_go_to_the_exception_handler_and_the_loop_goes_on(loop):
    told, seen = [], []
    loop.set_exception_handler(lambda where, context: told.append((where, context)))
    handle = loop.call_soon(lambda: 1 / 0)
    loop.call_soon(seen.append, 1)
    turn(loop)
    ((where, context),) = told
    assert where is loop
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["handle"] is handle
    assert context["message"].startswith("Exception in callback ")
    assert seen == [1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_leaves_the_loop_and_the_rest_waits(loop, kind):
    def end():
        raise kind

    seen = []
    loop.call_soon(end)
    loop.call_soon(seen.append, 1)
    with pytest.raises(kind):
        loop.run_forever()
    assert not loop.is_running()
    assert seen == []
    turn(loop)
    assert seen == [1]


def test_other_base_exceptions_are_the_handlers(loop):
    class Odd(BaseException):
        pass

    def odd():
        raise Odd

    told = []
    loop.set_exception_handler(lambda _, context: told.append(type(context["exception"])))
    loop.call_soon(odd)
    turn(loop)
    assert told == [Odd]


# ---- timers


def test_timers_are_never_early_and_come_in_order(loop):
    seen, random_ = [], random.Random(5)
    for number in range(300):
        delay = random_.choice([0, 1e-5, 0.0004, 0.0013, 0.0017, 0.003, 0.01])
        when = loop.time() + delay
        loop.call_at(when, lambda *args: seen.append((*args, loop.time())), when, number)
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert len(seen) == 300
    assert all(now >= when for when, _, now in seen)
    assert [each[:2] for each in seen] == sorted(each[:2] for each in seen)


def test_equal_deadlines_in_the_order_of_scheduling(loop):
    seen, when = [], loop.time() + 0.001
    for number in range(200):
        loop.call_at(when, seen.append, number)
    loop.call_at(when, loop.stop)
    loop.run_forever()
    assert seen == list(range(200))


def test_odd_times(loop):
    seen = []
    loop.call_later(-5, seen.append, "past")
    loop.call_at(math.nan, seen.append, "nan")
    never = loop.call_later(math.inf, seen.append, "never")
    turn(loop)
    turn(loop)
    assert sorted(seen) == ["nan", "past"]
    never.cancel()


def test_a_sleep_below_a_millisecond_does_not_cost_one(run):
    async def main():
        loop, best = asyncio.get_running_loop(), 1.0
        for _ in range(50):
            began = loop.time()
            await asyncio.sleep(0.0002)
            took = loop.time() - began
            assert took >= 0.0002
            best = min(best, took)
        return best

    assert run(main()) < 0.001


def test_cancelled_timers_do_not_pile_up(loop):
    for _ in range(20):
        for each in [loop.call_later(1000 + number, print) for number in range(500)]:
            each.cancel()
    assert loop._waiting()[1] <= 500


def test_the_clock_is_that_of_time_monotonic(loop):
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()


@pytest.mark.parametrize("how", ["instance", "class", "patch"])
def test_a_clock_of_the_programs_own(how, monkeypatch):
    now = 100.0

    def clock(*_):
        return now

    kind = type("Loop", (plait.EventLoop,), {"time": clock}) if how == "class" else plait.EventLoop
    loop = kind()
    if how == "instance":
        loop.time = clock
    elif how == "patch":
        monkeypatch.setattr(loop, "time", clock)
    seen = []
    assert loop.call_later(50, seen.append, 1).when() == 150
    loop.call_at(120, seen.append, 0)
    turn(loop)
    assert seen == []
    now = 150.0
    turn(loop)
    assert seen == [0, 1]
    if how == "instance":
        del loop.time
        assert abs(loop.time() - time.monotonic()) < 60
    loop.close()


# ---- threads


def test_threads_wake_a_sleeping_loop(loop):
    seen = []

    def give():
        for number in range(2000):
            loop.call_soon_threadsafe(seen.append, number)
        loop.call_soon_threadsafe(ended.append, 1)
        loop.call_soon_threadsafe(lambda: loop.stop() if len(ended) == 4 else None)

    ended = []
    threads = [threading.Thread(target=give) for _ in range(4)]
    loop.call_soon(lambda: [each.start() for each in threads])
    loop.run_forever()
    for each in threads:
        each.join()
    assert len(seen) == 8000
    assert sorted(seen) == sorted(list(range(2000)) * 4)


def test_one_at_a_time_every_call_wakes_the_loop(loop):
    """Each call finds the loop asleep or falling asleep."""
    event, count = threading.Event(), 0

    def come():
        nonlocal count
        count += 1
        event.set()

    def give():
        for _ in range(2000):
            loop.call_soon_threadsafe(come)
            event.wait()
            event.clear()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=give)
    thread.start()
    loop.run_forever()
    thread.join()
    assert count == 2000


def test_calls_of_the_same_thread_stay_in_order_whatever_they_are(loop):
    seen = []
    for number in range(100):
        (loop.call_soon if number % 3 else loop.call_soon_threadsafe)(seen.append, number)
    turn(loop)
    assert seen == list(range(100))


def test_a_loop_for_every_thread():
    def work():
        async def main():
            await asyncio.sleep(0.001)
            return await asyncio.gather(*(asyncio.sleep(0, number) for number in range(50)))

        results.extend(plait.run(main()) for _ in range(10))

    results = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert results == [list(range(50))] * 40


def test_handles_cancelled_by_other_threads(loop):
    """Wrong of a program, but never worse than a callback too many."""
    stop = threading.Event()
    handles: list[asyncio.Handle] = []

    def cancel():
        while not stop.is_set():
            try:
                handles.pop().cancel()
            except IndexError:
                pass

    thread = threading.Thread(target=cancel)
    thread.start()
    for _ in range(200):
        handles.extend(loop.call_soon(lambda *_: None, 1, 2, 3) for _ in range(50))
        turn(loop)
    stop.set()
    thread.join()


# ---- life and death


def test_a_closed_loop_takes_nothing(loop):
    loop.close()
    loop.close()
    assert loop.is_closed()
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.add_reader(0, print),
        lambda: loop.run_forever(),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    assert not loop._remove_reader(0)


def test_what_waits_ends_with_the_loop():
    class Thing:
        def call(self):
            pass

    loop, thing = plait.new_event_loop(), Thing()
    weak = weakref.ref(thing)
    loop.call_soon(thing.call)
    loop.call_later(60, thing.call)
    loop.close()
    del thing
    assert weak() is None


@pytest.mark.parametrize(("closed", "kept"), [(True, True), (True, False), (False, False)])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_collector_finds_a_loop_in_a_circle(closed, kept):
    class Thing:
        def call(self):
            pass

    loop, thing = plait.new_event_loop(), Thing()
    thing.loop = loop
    thing.handles = [loop.call_soon(thing.call), loop.call_later(60, thing.call), loop.call_soon(thing.call, *range(9))]
    if not kept:
        thing.handles.clear()
    weak, gone = weakref.ref(thing), weakref.ref(loop)
    if closed:
        loop.close()
    del loop, thing
    for _ in range(3):
        gc.collect()
    assert weak() is None
    assert gone() is None


@pytest.mark.parametrize("timers", [True, False])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_collector_takes_nothing_from_who_keeps_a_handle(timers):
    class Thing:
        def call(self):
            return self.loop

        def __del__(self):
            ended.append(self)

    ended = []
    loop, thing = plait.new_event_loop(), Thing()
    thing.loop = loop
    handle = loop.call_later(60, thing.call) if timers else loop.call_soon(thing.call)
    gone = weakref.ref(loop)
    del loop, thing
    for _ in range(3):
        gc.collect()
    assert not ended
    assert handle._callback() is gone()
    gone().close()


@pytest.mark.parametrize("timers", [True, False])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_collector_finds_a_loop_in_the_contexts_of_many_calls(timers):
    class Thing:
        pass

    def schedule(loop, thing):
        variable.set(thing)
        for number in range(300):
            handle = loop.call_later(60 + number, int) if timers else loop.call_soon(int)
            if number % 7 == 0:
                thing.contexts.append(handle.get_context())

    variable = contextvars.ContextVar("variable")
    loop, thing = plait.new_event_loop(), Thing()
    thing.loop, thing.contexts = loop, []
    contextvars.copy_context().run(schedule, loop, thing)
    weak, gone = weakref.ref(thing), weakref.ref(loop)
    del loop, thing
    for _ in range(3):
        gc.collect()
    assert weak() is None
    assert gone() is None


@pytest.mark.parametrize("timers", [True, False])
def test_many_calls_keep_their_contexts(loop, timers):
    def schedule(number):
        variable.set([number])
        handle = loop.call_later(0, call, number) if timers else loop.call_soon(call, number)
        handles.append(handle)
        if number % 5 == 0:
            contexts[number] = handle.get_context()
        if number % 11 == 0:
            handle.cancel()

    def call(number):
        seen[number] = variable.get()
        variable.set("changed")
        if number % 50 == 0:
            gc.collect()

    variable = contextvars.ContextVar("variable")
    seen, contexts, handles = {}, {}, []
    for number in range(500):
        contextvars.copy_context().run(schedule, number)
    gc.collect()
    turn(loop)
    turn(loop)
    assert seen == {number: [number] for number in range(500) if number % 11}
    for number, context in contexts.items():
        assert handles[number].get_context() is context
        assert context[variable] == ("changed" if number % 11 else [number])
    assert variable.get(None) is None


def test_the_collector_leaves_alone_what_will_run(loop):
    class Thing:
        def __init__(self):
            self.me = self

        def call(self):
            seen.append(self.me is self)

    seen = []
    for _ in range(50):
        loop.call_soon(Thing().call)
        loop.call_later(0, Thing().call)
        loop.call_soon(gc.collect)
    gc.collect()
    turn(loop)
    turn(loop)
    assert seen == [True] * 100


def test_the_collector_finds_a_handle_that_the_exception_handler_keeps(loop):
    class Thing:
        handle = None

    def fail(thing):
        raise ValueError

    def keep(_, context):
        lives().handle = context["handle"]

    thing = Thing()
    lives = weakref.ref(thing)
    loop.set_exception_handler(keep)
    loop.call_soon(fail, thing)
    turn(loop)
    assert thing.handle._args == (thing,)
    del thing
    gc.collect()
    assert lives() is None


def test_what_ends_with_a_cancelled_timer_ends_before_the_loop_sleeps(loop):
    class Thing:
        pass

    context, thing = contextvars.Context(), Thing()
    context.run(contextvars.ContextVar("thing").set, thing)
    ended = []
    weakref.finalize(thing, lambda: (ended.append(1), loop.stop()))
    first = loop.call_later(0.001, print, context=context)
    last = loop.call_later(60, loop.stop)
    first.cancel()
    del first, thing, context
    assert not ended  # it lies in the heap still
    loop.run_forever()
    assert ended
    last.cancel()


def test_a_loop_that_was_forgotten_warns():
    loops = [plait.new_event_loop()]
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        loops.clear()


def test_a_loop_costs_no_descriptor_before_it_sleeps():
    import os

    before = len(os.listdir("/proc/self/fd"))
    loops = [plait.new_event_loop() for _ in range(10)]
    for each in loops:
        turn(each)
    assert len(os.listdir("/proc/self/fd")) == before
    for each in loops:
        each.close()


def test_the_loop_is_of_asyncios_classes_and_can_be_extended():
    class Loop(plait.EventLoop):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def call_soon(self, callback, *args, context=None):
            seen.append(callback)
            return super().call_soon(callback, *args, context=context)

    seen = []
    loop = Loop("mine")
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert loop.run_until_complete(asyncio.sleep(0, 7)) == 7
    assert loop.name == "mine"
    assert seen
    loop.close()


def test_a_turn_at_a_time(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop._run_once()
    assert seen == [1]
    loop.call_later(0.001, seen.append, 2)
    while len(seen) < 2:
        loop._run_once()
