"""The fault table: each case is a program of its own under a watchdog (`cases/`), and leaves nothing behind.

A case checks itself that only the guilty task pays and that the pool is usable afterwards. Here it is checked that the
program ends as it should, that no process, zombie or name in /dev/shm survives it, and what happens when the program
itself is killed.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.processes._support import SLACK, gone, run_case, start_case
from tests.processes._tasks import Tally

PROMISED = 1.0
"""Seconds after the parent's SIGKILL in which everything is gone."""


def _id(case):
    return " ".join(case)


DEATHS = [
    ("deaths.killed_from_outside",),
    *(("deaths.killed_by_signal", str(int(s))) for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT)),
    *(("deaths.exited", code) for code in ("7", "0", "1", "255")),
    ("deaths.segfault",),
    ("deaths.killed_while_idle",),
    ("deaths.all_killed_while_idle",),
    ("deaths.all_killed_while_busy",),
    ("deaths.many_in_a_row",),
    ("deaths.killed_at_random_without_retries",),
    ("deaths.initializer_that_exits",),
    ("deaths.map_with_a_death",),
    *(("deaths.children_die_with", how) for how in ("kill", "timeout", "sigkill")),
    *(("deaths.hang_with_timeout", where) for where in ("python", "c")),
    *(("deaths.hang_killed", where) for where in ("python", "c")),
    *(("deaths.memory_hog", how) for how in ("at_once", "slowly")),
    ("deaths.memory_within_the_limit",),
    ("deaths.fork_server_killed",),
]

PICKLING = [
    ("pickling.argument_refused",),
    ("pickling.argument_deep_inside",),
    ("pickling.argument_raises",),
    ("pickling.argument_too_deep",),
    ("pickling.argument_not_loadable",),
    ("pickling.argument_exits_on_load",),
    ("pickling.argument_leaves_on_load",),
    ("pickling.function_not_importable",),
    ("pickling.result_refused",),
    ("pickling.result_raises",),
    ("pickling.result_too_deep",),
    ("pickling.result_not_loadable",),
    ("pickling.result_leaves_on_load",),
    ("pickling.exception_refused",),
    ("pickling.exception_not_loadable",),
    ("pickling.many_kinds_at_once",),
    *(("pickling.bad_item_in_map", size) for size in ("0", "1", "3", "6")),
    *(("pickling.bad_result_in_map", size) for size in ("0", "1", "3", "5")),
    ("pickling.bad_function_in_map",),
    ("pickling.bad_initializer",),
]

SIGNALS = [
    *(
        ("signals.ctrl_c_kept_pool", where)
        for where in (
            "result",
            "result_timeout",
            "exception",
            "map",
            "map_chunks",
            "map_timeout",
            "map_unordered",
            "map_lazy",
        )
    ),
    *(("signals.ctrl_c_in_with", where) for where in ("result", "map", "as_completed", "wait", "exit")),
    ("signals.ctrl_c_in_shutdown",),
    ("signals.ctrl_c_at_random",),
    ("signals.workers_ignore_sigint",),
    *(
        ("signals.handler_that_raises", where)
        for where in ("result", "result_timeout", "exception", "map", "shutdown", "as_completed", "wait")
    ),
    ("signals.handler_that_returns",),
    ("signals.another_thread_gets_the_signal",),
    ("signals.wakeup_descriptor_is_kept",),
    ("signals.wait_without_descriptors",),
    ("signals.handler_that_waits_and_sets_a_descriptor",),
    ("signals.storm_of_signals",),
    ("signals.dispositions_in_workers",),
]

FORKS = [
    *(("forks.forked_copy_is_inert", what) for what in ("drop", "use", "shut_down", "new_pool")),
    ("forks.multiprocessing_child",),
    ("forks.fork_many_times",),
    ("forks.lock_held_by_a_thread",),
    ("forks.fork_context_warns",),
    ("forks.fork_context_inherits",),
    ("forks.clean_without_fork_context",),
    ("forks.pools_in_workers",),
    *(("forks.killed_with_pool_inside", how) for how in ("kill", "sigkill")),
    ("forks.pool_made_in_a_thread",),
]


@pytest.mark.parametrize("case", DEATHS, ids=_id)
def test_worker_dies(case, tmp_path):
    run_case(tmp_path, *case)


@pytest.mark.parametrize("case", PICKLING, ids=_id)
def test_cannot_travel(case, tmp_path):
    run_case(tmp_path, *case)


@pytest.mark.parametrize("case", SIGNALS, ids=_id)
def test_signal(case, tmp_path):
    run_case(tmp_path, *case)


@pytest.mark.parametrize("case", FORKS, ids=_id)
def test_fork(case, tmp_path):
    run_case(tmp_path, *case)


def test_forked_copy_that_exits_normally(tmp_path):
    # The child leaves through `with`, atexit and finalization, and prints nothing; the parent goes on.
    run_case(tmp_path, "forks.forked_copy_is_inert", "exit")


@pytest.mark.parametrize("where", ["result", "map", "shutdown", "as_completed"])
def test_ctrl_c_in_a_terminal(where, tmp_path):
    with start_case(tmp_path, "signals.ctrl_c_from_terminal", where) as case:
        case.wait_line("ready")
        Tally(tmp_path / "tally").wait(2)
        case.interrupt()
        begin = time.monotonic()
        case.check(code=-signal.SIGINT)
        assert time.monotonic() - begin < PROMISED + 2 * SLACK, case.report()
        assert case.errors().splitlines().count("KeyboardInterrupt") == 1, case.report()


def test_ctrl_c_in_a_terminal_with_asyncio(tmp_path):
    # One press is enough (python/cpython#111358). Running tasks are left to end, so there is no bound here.
    with start_case(tmp_path, "signals.ctrl_c_from_terminal", "asyncio") as case:
        case.wait_line("ready")
        Tally(tmp_path / "tally").wait(2)
        case.interrupt()
        case.check(code=-signal.SIGINT)
        assert "KeyboardInterrupt" in case.errors(), case.report()


ORPHANS = [
    ("orphans.idle",),
    ("orphans.fresh",),
    *(("orphans.busy", t) for t in ("hang", "hang_in_c", "hang_with_children", "hang_in_c_with_children")),
    ("orphans.streaming",),
    ("orphans.nested",),
    ("orphans.several_pools",),
    ("orphans.fork_context",),
]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("case", ORPHANS, ids=_id)
def test_parent_killed(case, signum, tmp_path):
    with start_case(tmp_path, *case) as program:
        program.wait_line("ready")
        pids = [p.pid for p in program.below()]
        assert len(pids) > 1 or case == ("orphans.fresh",), program.report("no workers yet")
        program.send(signum)
        assert program.wait() == -signum
        seconds = program.settle()
        assert gone(pids)
        assert seconds < PROMISED + SLACK, f"everything was gone after {seconds} s"
        program.check_shm()


def test_parent_killed_at_any_moment(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for i in range(12):
        with start_case(tmp_path / str(i), "orphans.streaming") as program:
            time.sleep(chance.uniform(0.02, 0.5))
            program.send(signal.SIGKILL)
            assert program.wait() == -signal.SIGKILL
            seconds = program.settle()
            assert seconds < PROMISED + SLACK, f"everything was gone after {seconds} s"
            program.check_shm()


def test_parent_leaves_by_os_exit(tmp_path):
    with start_case(tmp_path, "forks.exit_by_os_exit") as program:
        assert program.wait() == 0, program.report()
        seconds = program.settle()
        assert seconds < PROMISED + SLACK, f"everything was gone after {seconds} s"
        program.check_shm()


def test_50_pools_leave_nothing(tmp_path):
    run_case(tmp_path, "forks.many_pools", 50)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_1000_pools_leave_nothing(tmp_path):
    with start_case(tmp_path, "forks.many_pools", 1000) as case:
        case.check(timeout=540)


@pytest.mark.parametrize("how", ["kept", "forgotten", "shutdown_nowait"])
def test_end_of_the_program_completes_what_was_submitted(how, tmp_path):
    run_case(tmp_path, "forks.exit_with_pending_work", how)
    assert sorted(map(int, Tally(tmp_path / "tally").order())) == list(range(50))


@pytest.mark.parametrize("cpus", [1, 2])
def test_default_number_of_workers_respects_affinity(cpus, tmp_path):
    if len(os.sched_getaffinity(0)) < cpus:
        pytest.skip("fewer CPUs here")
    run_case(tmp_path, "forks.default_workers", cpus)


@pytest.mark.parametrize("spin", ["0", None], ids=["spin-off", "spin-default"])
@pytest.mark.parametrize(
    "case",
    [
        ("deaths.killed_from_outside",),
        ("deaths.many_in_a_row",),
        ("deaths.all_killed_while_idle",),
        ("signals.ctrl_c_kept_pool", "result"),
        ("signals.ctrl_c_at_random",),
        ("signals.storm_of_signals",),
        ("forks.forked_copy_is_inert", "use"),
    ],
    ids=_id,
)
def test_with_and_without_spinning(case, spin, tmp_path):
    # The whole suite may run under either setting; these waits are the delicate ones, so both are seen in every run.
    run_case(tmp_path, *case, env={"PLAIT_SPIN": spin})


BY_VALUE = ["function", "method", "argument", "result", "map", "exception", "changes"]


@pytest.mark.parametrize("how", BY_VALUE)
def test_by_value(how, tmp_path):
    pytest.importorskip("cloudpickle")
    run_case(tmp_path, "pickling.by_value", how)


def test_without_cloudpickle_the_error_says_so(tmp_path):
    run_case(tmp_path, "pickling.without_cloudpickle", env={"HIDDEN_MODULES": "cloudpickle"})
