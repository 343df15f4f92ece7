"""Random kills with exact accounting: whatever is killed when, every task is answered once and run as often as allowed.

Each task appends its name and pid to a file when it starts; a thread kills random workers meanwhile. Then it holds:

- every future is done, with the task's own result or with `WorkerDied`, nothing else;
- every start but the one that gave the result was in a worker that is dead now;
- a task with a result gave it in its last start; a task that failed used up its tries, `1 + retries` of them;
- a task that kills itself at every start was started exactly `1 + retries` times.

A kill may hit a worker that holds a task and has not come to its first line, so a try need not leave a start.
`PLAIT_SOAK_KILLS` sets the number of kills, `PLAIT_TEST_SEED` the seed.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections import defaultdict

import pytest

import plait
from tests.processes import _tasks
from tests.processes._support import WATCHDOG, Killer, alive, check_usable, run_case, wait_until
from tests.processes._tasks import Tally

KILLS = int(os.environ.get("PLAIT_SOAK_KILLS", "60"))
"""Workers killed in each test: 60 by default; `PLAIT_SOAK_KILLS=10000` for the long version."""

pytestmark = pytest.mark.timeout(120 + KILLS)


class Account:
    """What was asked, what was answered, what really ran."""

    def __init__(self, tally, retries):
        self.tally = tally
        self.retries = retries
        self.results = {}
        self.errors = {}
        self.suicidal = set()

    def answer(self, name, outcome):
        assert name not in self.results
        assert name not in self.errors
        if isinstance(outcome, BaseException):
            self.errors[name] = outcome
        else:
            self.results[name] = outcome

    def check(self, names, killed):
        starts = defaultdict(list)
        for name, pid in self.tally.rows():
            starts[name].append(int(pid))
        dead = set(killed)
        for name in self.suicidal:
            dead.update(starts[name])
        answered = set(self.results) | set(self.errors)
        assert answered == set(names), "each task is answered"
        assert set(starts) <= set(names)
        for name in names:
            runs = starts[name]
            assert len(runs) <= 1 + self.retries, (name, runs)
            if name in self.results:
                word, pid = self.results[name]
                assert word == name, "its own result"
                assert runs, name
                assert runs[-1] == pid, "the last start gave the result"
                assert pid not in runs[:-1]
                assert set(runs[:-1]) <= dead, f"{name} was started again although nobody died: {runs}"
                assert name not in self.suicidal
            else:
                error = self.errors[name]
                assert type(error) is plait.WorkerDied, (name, error)
                assert error.tries == 1 + self.retries, (name, error)
                assert error.signal == signal.SIGKILL
                assert error.pid in dead
                assert set(runs) <= dead, (name, runs)
                assert len(set(runs)) == len(runs)
        failed = [n for n in self.errors if n not in self.suicidal]
        # A worker that is killed takes one task with it, at most.
        assert len(failed) * (1 + self.retries) <= len(killed), (len(failed), len(killed))

    def __repr__(self):
        return f"{len(self.results)} results, {len(self.errors)} failures, {len(self.suicidal)} suicides"


@pytest.fixture
def chance():
    seed = int(os.environ.get("PLAIT_TEST_SEED") or random.randrange(1 << 32))
    print("PLAIT_TEST_SEED =", seed)
    return random.Random(seed)


@pytest.fixture
def tally(tmp_path):
    return Tally(tmp_path / "tally")


@pytest.mark.parametrize("collect", ["result", "callback"])
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_submit_under_random_kills(retries, collect, chance, tally):
    account = Account(tally, retries)
    outcomes: dict = defaultdict(list)
    lock = threading.Lock()

    def told(name):
        def callback(future):
            with lock:
                outcomes[name].append(future.exception(0) or future.result(0))

        return callback

    names: list[str] = []
    with plait.ProcessPool(2, retries=retries) as pool, Killer(pool, KILLS, chance) as killer:
        window: list = []
        while killer.busy or len(names) < 500:
            for _ in range(50):
                name = f"task{len(names)}"
                names.append(name)
                suicidal = chance.random() < 0.01
                if suicidal:
                    account.suicidal.add(name)
                seconds = chance.choice((0, 0, 0.0002, 0.002))
                future = pool.submit(_tasks.account, tally, name, suicidal, seconds)
                if collect == "callback":
                    future.add_done_callback(told(name))
                window.append((name, future))
            while len(window) > 200 or (window and not killer.busy):
                name, future = window.pop(0)
                error = future.exception(WATCHDOG)
                account.answer(name, error or future.result(0))
        for name, future in window:
            account.answer(name, future.exception(WATCHDOG) or future.result(0))
        check_usable(pool)
        wait_until(lambda: pool._processes and all(map(alive, pool._processes)), "the dead to be replaced")
    assert len(killer.killed) == KILLS
    account.check(names, killer.killed)
    print(account)
    if collect == "callback":
        wait_until(lambda: len(outcomes) == len(names), "the callbacks")
        assert {len(told) for told in outcomes.values()} == {1}, "each callback ran once"
        assert set(outcomes) == set(names)
        for name, [outcome] in outcomes.items():
            expected = account.errors.get(name) or account.results[name]
            assert outcome == expected


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("chunksize", [None, 1, 16])
def test_map_under_random_kills_with_retries(chunksize, ordered, chance, tally):
    # So many retries that none runs out: every result comes, and only killed items ran again.
    account = Account(tally, retries=1000)
    names: list[str] = []
    with plait.ProcessPool(2, retries=1000) as pool, Killer(pool, KILLS, chance) as killer:
        while killer.busy:
            batch = [f"item{len(names) + i}" for i in range(400)]
            names += batch
            seconds = [chance.choice((0, 0, 0.0002, 0.002)) for _ in batch]
            results = pool.map(
                _tasks.account,
                itertools.repeat(tally),
                batch,
                itertools.repeat(False),
                seconds,
                chunksize=chunksize,
                ordered=ordered,
                timeout=WATCHDOG,
            )
            answers = list(results)
            assert len(answers) == len(batch)
            if ordered:
                assert [name for name, _ in answers] == batch
            for name, pid in answers:
                account.answer(name, (name, pid))
        check_usable(pool)
    assert len(killer.killed) == KILLS
    account.check(names, killer.killed)
    assert len(tally.rows()) - len(names) <= KILLS, "one kill costs one run of one item at most"


@pytest.mark.parametrize("chunksize", [None, 1, 16])
def test_map_under_random_kills_without_retries(chunksize, chance, tally):
    # A map ends with its first death; what came before is right, and nothing ran twice.
    deaths = rounds = 0
    with plait.ProcessPool(2) as pool, Killer(pool, KILLS, chance) as killer:
        while killer.busy:
            rounds += 1
            batch = [f"round{rounds}-{i}" for i in range(200)]
            seconds = [chance.choice((0, 0.0002, 0.002)) for _ in batch]
            results = pool.map(
                _tasks.account,
                itertools.repeat(tally),
                batch,
                itertools.repeat(False),
                seconds,
                chunksize=chunksize,
                timeout=WATCHDOG,
            )
            answers: list[tuple[object, int]] = []
            try:
                answers.extend(results)
            except plait.WorkerDied as error:
                deaths += 1
                assert error.tries == 1
                assert error.index == len(answers)
                assert error.pid in killer.killed
            else:
                assert len(answers) == len(batch)
            assert [name for name, _ in answers] == batch[: len(answers)]
        check_usable(pool)
    counts = tally.count()
    assert set(counts.values()) == {1}, [name for name, count in counts.items() if count > 1]
    assert deaths <= KILLS
    print(rounds, "maps,", deaths, "ended by a death")


def test_what_is_left_of_a_cancelled_chunk_is_not_run_after_a_death(one, tally):
    results = one.map(
        _tasks.account,
        itertools.repeat(tally),
        range(8),
        itertools.repeat(False),
        [0, WATCHDOG, 0, 0, 0, 0, 0, 0],
        chunksize=8,
    )
    tally.wait(2)
    del results
    (pid,) = one._processes
    os.kill(pid, signal.SIGKILL)
    check_usable(one)
    assert tally.count() == {"0": 1, "1": 1}


def test_kills_while_megabytes_are_on_their_way(tmp_path):
    # In a program of its own: what goes wrong here may take the parent down.
    run_case(tmp_path, "deaths.killed_at_random_among_large_results", KILLS)


@pytest.mark.parametrize("retries", [0, 2])
def test_suicides_are_run_exactly_so_often(retries, tally):
    # No outside killer, so the count is exact: 1 + retries starts of each, one of all others.
    with plait.ProcessPool(2, retries=retries) as pool:
        futures = {
            f"task{i}": pool.submit(_tasks.account, tally, f"task{i}", i % 10 == 3, 0) for i in range(max(150, KILLS))
        }
        for i, (name, future) in enumerate(futures.items()):
            error = future.exception(WATCHDOG)
            if i % 10 == 3:
                assert type(error) is plait.WorkerDied
                assert error.tries == 1 + retries
            else:
                assert future.result(0)[0] == name
    counts = tally.count()
    for i, name in enumerate(futures):
        assert counts[name] == (1 + retries if i % 10 == 3 else 1), name


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("retries", [0, 1])
def test_ten_thousand_kills(retries, chance, tally, monkeypatch):
    monkeypatch.setitem(globals(), "KILLS", max(KILLS, 10_000))
    test_submit_under_random_kills(retries, "result", chance, tally)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("chunksize", [None, 16])
def test_ten_thousand_kills_in_maps(chunksize, chance, tally, monkeypatch):
    monkeypatch.setitem(globals(), "KILLS", max(KILLS, 10_000))
    test_map_under_random_kills_with_retries(chunksize, True, chance, tally)
