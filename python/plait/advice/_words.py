"""The words of an advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait._words import seconds
from plait.advice import _work

if TYPE_CHECKING:
    from plait.advice._work import Work


def does(work: Work) -> str:
    """What a call does."""
    wall = work.wall or 1e-9
    parts = [
        (work.held, "with the GIL" if work.record["gil"] else "computing"),
        (work.asleep, "asleep with the GIL"),
        (work.released, "computing without it"),
        (work.blocked - work.children, "waiting"),
        (work.children, "waiting for processes that compute"),
    ]
    told = ", ".join(f"{value / wall:.0%} {what}" for value, what in parts if value >= 0.005 * wall)
    return f"a call takes {seconds(work.wall)}: {told}"


def _bound(work: Work) -> str:
    """What a call does most of."""
    if work.blocked >= max(work.held, work.released):
        return "waits"
    return "released" if work.released > work.held else "held"


def reason(model: str, work: Work, cores: int) -> str:
    """Why a model takes that long."""
    bound = _bound(work)
    if model == _work.SERIAL:
        return _serial(work, bound)
    if model == _work.THREADS:
        return _threads(work, bound, cores)
    if model == _work.PROCESSES:
        return _processes(work, bound, cores)
    if model == _work.ASYNCIO:
        return _asyncio(work)
    if model == _work.INTERPRETERS:
        return "as processes, in one process; from Python 3.14 on, and not all packages can be imported there"
    return "a bound: what threads without a GIL take at least"


#: Seconds of work for which nobody starts processes.
_LITTLE = 0.1


def _serial(work: Work, bound: str) -> str:
    if work.wall * work.calls < _LITTLE:
        return "one call after the other; so little work is not worth workers"
    if work.record["in_turn"]:
        return "one call after the other, which they do anyway: they wait for one another, as for a lock"
    if bound == "waits":
        return "one call after the other, and their waits add up"
    return "one call after the other, on one core"


def _threads(work: Work, bound: str, cores: int) -> str:
    if work.record["in_turn"]:
        return _IN_TURN
    if bound == "waits" and work.children > 0.5 * work.wall:
        return "threads wait side by side, for processes that share the cores"
    if bound == "waits":
        return "threads wait side by side"
    if bound == "held" and work.record["gil"]:
        return "threads take turns with the GIL, and gain nothing"
    if cores == 1:
        return "threads take turns on one core"
    if bound == "released":
        return "C code lets go of the GIL, so threads compute side by side"
    return "there is no GIL, so threads compute side by side"


_IN_TURN = "calls wait for one another, as for a lock: at once, they take their turns"


def _processes(work: Work, bound: str, cores: int) -> str:
    if work.record["in_turn"]:
        return _IN_TURN
    if bound == "waits":
        return "processes wait side by side, but cost more than threads"
    if cores == 1:
        return "processes take turns on one core"
    if work.wall * work.calls < _LITTLE:
        return "starting processes takes longer than the work"
    return f"processes have a GIL each, and {cores} cores"


def _asyncio(work: Work) -> str:
    if work.blocked <= 0.05 * work.wall:
        return "there is nothing to await"
    if work.record["in_turn"]:
        return _IN_TURN
    if work.awaitable < 0.2:
        return "what it waits for (files, locks) cannot be awaited"
    return "tasks wait side by side on one thread"


def change(model: str, work: Work, workers: int, refused: str = "") -> str:
    """What to change in the program, also where it cannot be run so as it is."""
    name = work.record["tasks"].rpartition(".")[2]
    name = "the function" if name.startswith("<") else name
    first = ""
    if refused.startswith("shared state is written"):
        first = f"let {name} return what it changes, and put that together afterwards; "
    elif refused.startswith("shared state is used"):
        first = f"let each call of {name} have one of its own; "
    elif refused.startswith("not picklable"):
        first = f"give {name} a name of its own at the top of a module, and arguments that can be pickled; "
    return first + _change(model, work, workers)


def _change(model: str, work: Work, workers: int) -> str:
    name = work.record["tasks"].rpartition(".")[2]
    name = "function" if name.startswith("<") else f"object.{name}" if work.record["method"] else name
    coroutine = work.record["coroutine"]
    given = work.record.get("arguments", 1)
    call = f"{name}({'item' if given == 1 else '*item'})"
    if model == _work.SERIAL:
        return "call one after the other" if work.record["at_once"] > 1 else "nothing"
    if model == _work.THREADS:
        if coroutine:
            return f"make {name} a function that blocks, and call it in plait.ThreadPool({workers})"
        return f"with plait.ThreadPool({workers}) as pool: results = {_mapped(name, given, work.calls)}"
    if model == _work.PROCESSES:
        pool = f"with plait.ProcessPool({workers}) as pool: results = "
        if not work.record.get("guarded", True):
            pool = f'below if __name__ == "__main__":, since processes import the script: {pool}'
        if not coroutine:
            return pool + _mapped(name, given, work.calls)
        if _bound(work) == "waits":
            return f"def run(item): return asyncio.run({call}); {pool}{_mapped('run', 1, work.calls)}"
        return f"make {name} a function without async; {pool}{_mapped(name, given, work.calls)}"
    if model == _work.ASYNCIO and not coroutine and work.blocked * work.awaitable <= 0.05 * work.wall:
        return f"nothing that would help: {name} awaits nothing"
    if model == _work.ASYNCIO:
        gather = f"await asyncio.gather(*[{call} for item in items])"
        if not given:
            gather = f"await asyncio.gather(*[{name}() for _ in range({work.calls})])"
        return gather if coroutine else f"make {name} a coroutine that awaits its waits; {gather}"
    if model == _work.INTERPRETERS:
        return f"concurrent.futures.InterpreterPoolExecutor({workers}), from Python 3.14 on"
    return "run it with a free-threaded Python, with plait.ThreadPool"


def _mapped(name: str, given: int, calls: int) -> str:
    """How a pool makes the calls, whose arguments are `items`, or tuples in them."""
    if not given:
        return f"[call.result() for call in [pool.submit({name}) for _ in range({calls})]]"
    return f"list(pool.map({name}, {'items' if given == 1 else '*zip(*items)'}))"
