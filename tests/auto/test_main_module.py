"""What the main module of a program means for the automatic pool: workers import it, and do not find all that is in it."""

from __future__ import annotations

import textwrap

import pytest

WATCHDOG = 60

#: Calls that are worth processes, and a count of those that were made here.
CALLS = """
    import linecache, sys, types
    import plait

    if __name__ == "__main__":
        def work(number):
            return sum(range(50_000)) * 0 + number

        class Item:
            def __init__(self, number):
                self.number = number

    def take(item):
        return sum(range(50_000)) * 0 + getattr(item, "number", item)

    if __name__ == "__main__":
        seen = []
        later = types.ModuleType("made_later")
        sys.modules["made_later"] = later
        source = "def work(number):\\n    return sum(range(50_000)) * 0 + number\\n"
        linecache.cache["<made>"] = (len(source), None, source.splitlines(True), "<made>")
        exec(compile(source, "<made>", "exec"), later.__dict__)
        function, items = {
            "function": (work, range(300)),
            "items": (take, [Item(number) for number in range(300)]),
            "some items": (take, [*range(200), *map(Item, range(200, 300))]),
            "module": (later.work, range(300)),
        }[sys.argv[1]]
        with plait.Pool(2, models=["processes"]) as pool:
            def call():
                if sys.argv[2] == "map":
                    return list(pool.map(function, items))
                return [future.result() for future in [pool.submit(function, item) for item in items]]

            while "processes" not in pool.explain(function)["refused"] if seen else True:
                seen.append(call())
            assert all(given == list(range(300)) for given in seen), seen
            print(pool.explain(function)["refused"]["processes"])
"""


@pytest.mark.parametrize("way", ["map", "submit"])
@pytest.mark.parametrize("what", ["function", "items", "some items", "module"])
def test_what_a_worker_does_not_find_is_called_here(run_script, what, way):
    printed = run_script(textwrap.dedent(CALLS), what, way, timeout=WATCHDOG).stdout
    assert "cannot be loaded by a worker process" in printed


def test_what_was_not_read_is_told_from_what_was_raised():
    from plait.auto import _calls

    error = AttributeError("Can't get attribute 'work'")
    assert not _calls.was_not_read(error)
    error.add_note("while unpickling the arguments of plait.auto._calls.lot_in_process in the worker")
    assert _calls.was_not_read(error)
    error.add_note("while unpickling the result of a task")
    assert not _calls.was_not_read(error)
