"""What a function reads of the program: workers that have something else make no calls."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from plait.auto import _reads
from plait.auto._reads import Needs, difference, first_difference, setting_in
from plait.processes import _findings
from tests.auto import shared_state

PROGRAM = """
import contextvars, decimal, json, sys
import plait
from plait.auto._calls import lot_in_process
from plait.auto._reads import Differs, Needs, setting_in
from plait.auto._writes import Search, notes_for

FACTOR = 1
TABLE = {"k": 1}
NAMES = {"a", "b", "c"}
class Settings:
    factor = 1
def helper():
    return 1
VARIABLE = contextvars.ContextVar("VARIABLE", default=1)
MARK = object()

def of_global(number): return FACTOR
def of_table(number): return TABLE["k"]
def of_class(number): return Settings.factor
def of_helper(number): return helper()
def of_variable(number): return VARIABLE.get()
def of_name(number): return __name__
def of_decimal(number): return str(decimal.Decimal(1) / 3)
def of_limit(number): return sys.getrecursionlimit()
def of_mark(mark): return mark is MARK
def of_unchanged(number): return sorted(NAMES)

def result(pool, function, item):
    search = Search((type(item),), knows_kinds=True)
    if change := search.change(function):
        return None, str(change)
    needs = Needs()
    needs.add(notes_for(function, search.notes))
    message = needs.message(first=True, anew=True, setting=setting_in(None))
    outcomes = pool.submit(lot_in_process, function, [item], True, 1, (10**12, 10**12), (message,), False).result()[0]
    return (None, outcomes.what) if isinstance(outcomes, Differs) else (outcomes[0], None)

if __name__ == "__main__":
    told = {}
    with plait.ProcessPool(1) as pool:
        told["before"] = [*result(pool, of_global, 0), 1]
        FACTOR = 7; TABLE["k"] = 7; Settings.factor = 7; helper = lambda: 7; VARIABLE.set(7)
        decimal.getcontext().prec = 7; sys.setrecursionlimit(1777)
        for function in (of_global, of_table, of_class, of_helper, of_variable, of_name, of_decimal, of_limit, of_unchanged):
            told[function.__name__] = [*result(pool, function, 0), function(0)]
        told["of_mark"] = [*result(pool, of_mark, MARK), True]
    with plait.Pool(models=["processes"]) as pool:
        told["map"] = [list(pool.map(of_global, range(8))), None, [7] * 8]
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    path = tmp_path_factory.mktemp("reads") / "program.py"
    path.write_text(PROGRAM)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "name", ["of_global", "of_table", "of_class", "of_helper", "of_variable", "of_name", "of_mark"]
)
def test_what_was_set_since_is_read_here(told, name):
    found, why, _ = told[name]
    assert found is None
    assert why


@pytest.mark.parametrize("name", ["before", "of_decimal", "of_limit", "of_unchanged", "map"])
def test_what_workers_have_or_can_be_given_leaves(told, name):
    found, why, serially = told[name]
    assert found == serially
    assert why is None


def test_a_change_between_two_messages_is_seen(monkeypatch):
    needs = Needs()
    needs.add([(shared_state.__name__, "STEP"), (shared_state.__name__, "PURE_TABLE"), (shared_state.__name__, "pure")])
    setting = setting_in(None)
    first = needs.message(first=True, anew=True, setting=setting)
    assert needs.message(first=True, anew=True, setting=setting) == first
    assert difference(first) == ""
    with monkeypatch.context() as patch:
        patch.setattr(shared_state, "STEP", 2)
        assert needs.message(first=True, anew=True, setting=setting) != first
        patch.setattr(_reads, "_agreed", set())
        assert "STEP" in difference(first)
    with monkeypatch.context() as patch:
        patch.setitem(shared_state.PURE_TABLE, "other", len)
        assert needs.message(first=True, anew=True, setting=setting) != first
    assert needs.message(first=True, anew=True, setting=setting) == first


@pytest.mark.parametrize(
    "why_not", ["", "it has made calls", "a module was not there", "what was unpickled may run code"]
)
def test_what_is_so_in_all_copies_of_a_zygote_is_looked_at_once(monkeypatch, why_not):
    digest = _reads.digest
    findings = _findings.Findings()
    if why_not == "a module was not there":
        findings.modules -= {shared_state.__name__}
    monkeypatch.setattr(_findings, "_current", findings)
    monkeypatch.setattr(_reads, "_has_called", why_not == "it has made calls")
    needs = Needs()
    needs.add([(shared_state.__name__, "STEP")])
    message = needs.message(first=True, anew=True, setting=setting_in(None))
    for is_looked_at in (True, bool(why_not)):
        looked: list[object] = []
        monkeypatch.setattr(_reads, "_agreed", set())
        monkeypatch.setattr(_reads, "digest", lambda value, looked=looked: looked.append(value) or digest(value))
        module = "" if why_not == "what was unpickled may run code" else shared_state.__name__
        assert difference(message, module) == ""
        assert bool(looked) == is_looked_at
    assert first_difference((message,)) == ""
    assert _reads._has_called, "calls follow"


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), ("a", b"a"), ([1], (1,)), ({1: 2}, {1: 3}), ({1}, {2}), (shared_state.pure, shared_state.helper),
     ({"a": [1]}, {"a": [2]}), (shared_state.Seen, shared_state.Account)],
)  # fmt: skip
def test_what_differs_has_another_digest(one, other):
    assert _reads.digest(one) != _reads.digest(other)
