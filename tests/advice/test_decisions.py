"""From records of calls to verdicts: ties, what is refused, what cannot be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import plait
from plait.advice import _advise, _blocking, _find, _meter, _render, _words
from plait.advice._calls import measured_calls
from plait.advice._meter import Meter, Sample
from plait.advice._work import Work


def record(rows: list[list[float]], **more: Any) -> dict[str, Any]:
    """Calls that each hold, hold asleep, compute without the GIL, and wait so long."""
    return {
        "gil": True,
        "waits": {},
        "held_by_one": "",
        "in_turn": False,
        "method": False,
        "speed": None,
        "tasks": "module.work",
        "calls": len(rows),
        "items": [[*row, 0.0] for row in rows],
        "parcels": [],
        "coroutine": False,
        "change": None,
        "unpicklable": "",
        "chained": False,
        "span": 1.0,
        "at_once": 1,
        "others": [],
        **more,
    }


HOLDS = [[0.05, 0.0, 0.0, 0.0]] * 40
RELEASES = [[0.002, 0.0, 0.05, 0.0]] * 40
WAITS = [[0.001, 0.0, 0.0, 0.05]] * 40
AWAITABLE = {"awaitable": 2.0}
FILES = {"other": 2.0}


@pytest.mark.parametrize(
    ("rows", "more", "verdict"),
    [
        (HOLDS, {}, "processes"),
        (RELEASES, {}, "threads"),
        (WAITS, {"waits": FILES}, "threads"),
        (WAITS, {"waits": {}}, "threads"),
        (WAITS, {"waits": AWAITABLE, "coroutine": True}, "asyncio"),
        ([[0.0001, 0.0, 0.0, 0.0]] * 40, {}, "serial"),
        (HOLDS, {"gil": False}, "threads"),
        (HOLDS, {"chained": True}, "serial"),
        (HOLDS, {"change": "work (line 3) sets `total`"}, None),
        (HOLDS, {"unpicklable": "a lambda cannot be pickled"}, None),
        (WAITS, {"waits": FILES, "change": "work (line 3) sets `total`"}, "threads"),
    ],
)
def test_verdicts(rows: list[list[float]], more: dict[str, Any], verdict: str | None) -> None:
    advice = _advise.of_calls(record(rows, **more), [4])
    assert advice.verdict == verdict, advice.why
    seconds = {option.model: option.seconds for option in advice.options}
    assert seconds["serial"] == pytest.approx(sum(map(sum, rows)), rel=0.1)
    if verdict is not None and not more.get("chained"):
        assert seconds[verdict] <= 1.1 * min(seconds[each] for each in ("serial", "threads", "processes", "asyncio"))
        assert advice.options[0].model in {verdict, "serial"}


def test_one_core_gains_nothing() -> None:
    assert _advise.of_calls(record(HOLDS), [1]).verdict == "serial"
    assert _advise.of_calls(record(RELEASES), [1]).verdict == "serial"


@pytest.mark.parametrize(("gil", "more"), [(True, set[str]()), (False, {"threads"})])
def test_what_is_written_to_is_not_for_threads_without_a_gil(gil: bool, more: set[str]) -> None:
    change = "work (line 3) sets `total`"
    advice = _advise.of_calls(record(HOLDS, gil=gil, change=change), [4])
    refused = {option.model: option.refused for option in advice.options if option.refused}
    assert refused.keys() == {"processes", "subinterpreters", "free-threaded"} | more
    assert refused["free-threaded"] == f"shared state is written: {change}, which threads would do side by side"
    # Those that wait meet seldom.
    waits = _advise.of_calls(record(WAITS, gil=gil, change=change), [4])
    assert {option.model for option in waits.options if option.refused} == {"processes", "subinterpreters"}


def test_the_reason_is_told() -> None:
    advice = _advise.of_calls(record(HOLDS, unpicklable="a lambda cannot be pickled"), [4])
    assert advice.why.endswith(
        "processes cannot be taken as the program is, since calls cannot be sent to another process: "
        "a lambda cannot be pickled"
    )
    assert next(option for option in advice.options if option.model == "processes").refused


@pytest.mark.parametrize(
    ("more", "model", "said"),
    [
        ({"arguments": 1}, "threads", "pool.map(work, items)"),
        ({"arguments": 2}, "threads", "pool.map(work, *zip(*items))"),
        ({"arguments": 2}, "processes", "pool.map(work, *zip(*items))"),
        ({"arguments": 0}, "processes", "pool.submit(work) for _ in range(40)"),
        ({"arguments": 2, "coroutine": True, "waits": AWAITABLE}, "asyncio", "work(*item) for item in items"),
        ({"arguments": 0, "coroutine": True, "waits": AWAITABLE}, "asyncio", "work() for _ in range(40)"),
        ({"guarded": False}, "processes", 'below if __name__ == "__main__":'),
    ],
)
def test_what_to_change(more: dict[str, Any], model: str, said: str) -> None:
    options = _advise.of_calls(record(WAITS if "coroutine" in more else HOLDS, **more), [4]).options
    assert said in next(option.change for option in options if option.model == model)


@pytest.mark.parametrize(
    ("blocking", "said"),
    [
        (
            ["urllib.request"],
            "an async client (aiohttp's, or httpx.AsyncClient) in place of urllib.request, which blocks",
        ),
        (["requests", "time.sleep"], "in place of requests and asyncio.sleep in place of time.sleep, which block the"),
        (
            ["sqlite3", "sqlite3.connect"],
            "with calls in asyncio.to_thread (or aiosqlite, which does that) in place",
        ),
        ([], "awaits in place of each call that blocks: while one does, no other task runs"),
    ],
)
def test_what_blocks_a_loop_has_to_be_replaced(blocking: list[str], said: str) -> None:
    advice = _advise.of_calls(record(WAITS, waits=AWAITABLE, blocking=blocking), [4])
    option = next(option for option in advice.options if option.model == "asyncio")
    assert said in option.change
    assert option.change.endswith("await asyncio.gather(*[asyncio.to_thread(work, item) for item in items])")
    assert "or leave work as it is, in 40 threads, which takes about" in option.change
    assert "with plait.ThreadPool(40) as pool: results = list(pool.map(work, items))" in option.change
    # 40 calls of 51 ms, by 8 threads.
    assert "CPUs + 4 of them, which takes longer, about 255 ms" in option.change
    assert option.reason == "tasks wait side by side on one thread, once work awaits what it blocks for now"
    assert max(map(len, str(advice).splitlines())) <= 80


@pytest.mark.parametrize(
    ("blocking", "threads", "processes"),
    [
        (
            ["sqlite3"],
            "give each thread a connection of its own: sqlite3 refuses one",
            "open a connection in each process",
        ),
        (["sqlite3", "sqlite3.connect"], "but writers take turns", "but writers take turns"),
    ],
)
def test_connections_of_sqlite(blocking: list[str], threads: str, processes: str) -> None:
    options = _advise.of_calls(record(RELEASES, waits=FILES, blocking=blocking), [4]).options
    changes = {option.model: option.change for option in options}
    assert threads in changes["threads"]
    assert processes in changes["processes"]
    assert "sqlite3" not in changes["free-threaded"]


CALLS = """
import requests, sqlite3, subprocess as sub, time, redis.asyncio
from urllib.request import urlopen
import httpx

session = requests.Session()

class Store:
    def __init__(self):
        self.db = sqlite3.connect("x.db")

    def get(self, key):
        return self.db.execute("select 1").fetchone()

def fetch(url):
    helper(url)
    return urlopen(url).read()

def helper(url):
    time.sleep(1)
    sub.run(["true"])
    fetch(url)

def page(url):
    with httpx.Client() as client:
        client.get(url)
    return session.get(url)

def given(db: sqlite3.Connection, session):
    session.get(1)
    db.execute("x")

def apart():
    httpx.AsyncClient()
    redis.asyncio.Redis()

def connect(path):
    with sqlite3.connect(path) as db:
        db.execute("x")

each = lambda url: urlopen(url)
"""


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("fetch", {"urllib.request", "time.sleep", "subprocess"}),
        ("Store.get", {"sqlite3"}),
        ("page", {"httpx", "requests"}),
        ("given", {"sqlite3"}),
        ("apart", set[str]()),
        ("connect", {"sqlite3", "sqlite3.connect"}),
        ("<lambda>", {"urllib.request"}),
        ("missing", set[str]()),
    ],
)
def test_what_blocks_is_read_in_its_lines(tmp_path: Path, name: str, blocks: set[str]) -> None:
    (tmp_path / "calls.py").write_text(CALLS)
    short = name.rpartition(".")[2]
    begins = "each = lambda" if short == "<lambda>" else f"def {short}("
    line = next((at for at, text in enumerate(CALLS.splitlines(), 1) if begins in text), 1)
    assert set(_blocking.blocking(str(tmp_path / "calls.py"), line, name)) == blocks
    assert _blocking.blocking(str(tmp_path / "none.py"), 1, name) == ()


def test_processes_that_take_turns_on_one_core() -> None:
    children = [[0.001, 0.0, 0.0, 0.001, 0.05]] * 20
    of_cores = [_advise.of_calls({**record(WAITS), "items": children, "calls": 20}, [cores]) for cores in (1, 2)]
    assert of_cores[0].verdict == "serial"
    assert "take turns on one core" in of_cores[0].why
    assert "share the cores" not in of_cores[0].why
    assert "share the cores" in next(option.reason for option in of_cores[1].options if option.model == "threads")


def test_calls_too_short_for_the_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _meter, "_costs", {"clock": 50_000.0, "count": 50.0, "plain": 20.0}
    )  # more than there is to take off
    told, error = measured_calls(_increment, [(number,) for number in range(200)])
    assert error is None
    assert told is not None
    told["calls"] = 20_000
    advice = _advise.of_calls(told, [2])
    assert "a call takes less than 25 µs, too short to be measured exactly: 100% with the GIL" in advice.why
    options = {option.model: option for option in advice.options}
    assert advice.verdict == "serial"
    assert options["serial"].low > 0
    assert options["serial"].seconds >= 20_000 * 20e-9
    assert options["serial"].high >= 20_000 * 25e-6
    assert "side by side" not in options["threads"].reason


def _increment(number: int) -> int:
    return number + 1


def test_calls_of_which_nothing_is_known_do_not_wait() -> None:
    advice = _advise.of_calls(record([[0.0, 0.0, 0.0, 0.0]] * 40), [2])
    assert all("wait side" not in option.reason for option in advice.options)
    assert "0: " not in advice.why


def test_calls_that_wait_for_locks() -> None:
    advice = _advise.of_calls(record(WAITS, locked=0.8), [4])
    assert advice.verdict is None
    assert "80% of the waits are for locks" in advice.why


def test_nothing_to_say() -> None:
    nothing = record([], tasks=None, calls=0, others=[{"name": "module.main", "calls": 1, "seconds": 1.0}])
    advice = _advise.of_calls(nothing, [4])
    assert (advice.verdict, advice.tasks) == (None, None)
    assert "too few samples" in advice.why
    assert "module.main was called once" in advice.why
    assert str(advice).startswith("Cannot tell: too few samples")
    assert "<svg" not in _render.page(advice)


def test_forms(tmp_path: Path) -> None:
    advice = _advise.of_calls(record(HOLDS, tasks="module.<lambda> & co"), [1, 2, 4])
    text = str(advice)
    assert max(map(len, text.splitlines())) <= 80
    page = _render.page(advice)
    assert "&lt;lambda&gt; &amp; co" in page
    assert "<lambda>" not in page
    # On a phone a row's cells stand below one another, and none is out of sight.
    assert "@media (max-width: 45rem) {\n  tr { display: grid;" in page
    data = json.loads(json.dumps(advice.to_dict(), allow_nan=False))
    assert list(data["what_if"]) == ["1", "2", "4"]
    assert data["what_if"]["4"]["processes"] < data["what_if"]["2"]["processes"]
    advice.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page


def meter(name: str, calls: int, each: int, parent: Meter | None = None) -> Meter:
    made = Meter(name, program=True)
    made.samples = [Sample(parent, at * each, each, each) for at in range(calls)]
    return made


def test_the_outermost_repeated_calls_are_the_tasks() -> None:
    main = meter("main", 1, 1_000_000)
    work = meter("work", 20, 50_000, main)
    part = meter("part", 2_000, 450, work)
    assert _find.dominant([part, work, main]) is work
    rounds = meter("rounds", 4, 250_000_000)
    inner = meter("inner", 100, 9_000_000, rounds)
    assert _find.dominant([rounds, inner]) is inner
    assert _find.dominant([main]) is None


def test_an_await_takes_as_long_as_while_the_others_are_idle() -> None:
    sleep, lock = ("/lib/asyncio/tasks.py", 649), ("/lib/asyncio/locks.py", 120)
    waits = [(sleep, 20_000_000, 0)] * 3 + [(sleep, 95_000_000, 90_000_000), (sleep, 30_000_000, 30_000_000)]
    samples: list[Sample] = []
    for place, gap, computed in waits:
        made = Sample(None, 0, 9_000_000 + gap - computed, 9_000_000)
        made.awaited, made.awaits = gap - computed, [(place, gap, computed), (lock, 50_000_000, 1_000_000)]
        samples.append(made)
    _find._settle_awaits(samples)
    assert [sample.awaited for sample in samples] == [20_000_000] * 5
    assert [sample.wall for sample in samples] == [29_000_000] * 5


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nowhere.py",), FileNotFoundError),
        ((3,), TypeError),
        (("x.py", [0]), ValueError),
        (("x.py", []), ValueError),
        (("x.py", 4), TypeError),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        plait.advise(arguments[0], **({"cores": arguments[1]} if len(arguments) > 1 else {}))


def profile(**more: Any) -> plait.Profile:
    evidence = {"sentence": "Threads compute.", "try": ["processes"], "figures": {}, "functions": []}
    thread = {"pid": 1, "name": "MainThread", "on_cpu_gil": 1.0, "waits": []}
    made: Any = {
        "threads": [thread],
        "processes": [{"name": "program.py"}],
        "tasks": [],
        "pools": [],
        "functions": [],
        "wall": 1.0,
        "verdict": "cpu-bound",
        "evidence": evidence,
        **more,
    }
    return plait.Profile(made)


def test_a_profile_without_calls() -> None:
    advice = plait.advise(profile(), cores=[2])
    assert (advice.verdict, advice.tasks, advice.cores) == (None, None, 2)
    assert "no function was seen to be called again and again" in advice.why
    assert "Threads compute (cpu-bound)" in advice.why


def test_a_profile_without_stacks_says_what_would_have_them() -> None:
    """Its JSON has figures only: what is called in a loop is seen in the stacks of the trace file."""
    advice = plait.advise(profile(), cores=[2])
    assert "stacks are not in a profile's JSON" in advice.why
    assert "plait profile -o saved.trace" in advice.why
    assert "plait profile -o saved.trace" in " ".join(str(advice).split())
    empty = {"stacks": {"frames": [], "samples": []}, "lanes": []}
    advice = plait.advise(profile(**empty), cores=[2])
    assert "no stacks were looked at" in advice.why
    assert "JSON" not in advice.why


def test_a_profile_with_tasks() -> None:
    tasks = [
        {"pid": 1, "function": "fetch", "start": 0.0, "wall": 0.5, "running": 0.001, "awaiting": 0.4, "awaits": []}
    ] * 20
    advice = plait.advise(profile(tasks=tasks), cores=[2])
    assert (advice.verdict, advice.tasks, advice.calls, advice.at_once) == ("asyncio", "fetch", 20, 20)


def test_a_profile_of_threads_that_wait_for_locks(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("def work():\n    pass\n")
    states = dict.fromkeys(("on_cpu_gil", "gil_held_off_cpu", "on_cpu_released", "io_wait", "ready", "gil_wait"), 0.01)
    each = {"pid": 1, "start": 0.0, "wall": 1.0, "waits": [], "lock_wait": 0.9, **states}
    threads = [{**each, "name": name} for name in ("MainThread", *(f"Thread-{at} (work)" for at in range(1, 5)))]
    functions = [{"function": "work", "file": str(tmp_path / "program.py"), "line": 1}]
    advice = plait.advise(profile(threads=threads, functions=functions))
    assert advice.verdict is None
    assert "waited for locks" in advice.why


def test_an_empty_profile() -> None:
    with pytest.raises(ValueError, match="the profile is empty"):
        plait.advise(profile(threads=[], wall=0.0))


@pytest.mark.parametrize(
    ("row", "seconds"),
    [([0.0, 0.0, 0.02, 0.02], "1.0 s"), ([0.0, 0.02, 0.0, 0.02], "2.0 s"), ([0.0, 0.0, 0.0, 0.06], "1.0 s")],
    ids=["cores", "the GIL", "threads"],
)
def test_what_loops_threads_take_is_no_less_than_what_they_share_allows(row, seconds):
    told = _words._apart(Work(record([row] * 100)), 2, 10.0)
    assert f"which takes about {seconds}" in told


@pytest.mark.parametrize(("wait", "locked"), [(0.0002, 0.0), (0.01, 1.0)])
def test_what_calls_hardly_wait_for_keeps_nobody_from_advice(wait, locked):
    told = record([[0.01, 0.0, 0.0, wait]] * 8, at_once=4)
    assert _find._locked(told, {"lock": 1.0}) == locked
