"""The words of an advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait._words import seconds
from plait.advice import _blocking, _work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.advice._work import Predicted, Work


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
    takes = f"a call takes {seconds(work.wall)}"
    if work.unsure >= work.wall:
        takes = f"a call takes less than {seconds(work.wall + work.unsure, 2)}, too short to be measured exactly"
    return f"{takes}: {told}" if told else takes


def _bound(work: Work) -> str:
    """What a call does most of."""
    if work.blocked > 0 and work.blocked >= max(work.held, work.released):
        return "waits"
    return "released" if work.released > work.held else "held"


def natural(work: Work) -> str:
    """The model that is meant for such calls."""
    return _work.PROCESSES if _bound(work) == "held" and work.record["gil"] else _work.THREADS


def reason(model: str, work: Work, cores: int, *, gains: bool = True) -> str:
    """Why a model takes that long; `gains`: it takes less than one call after the other."""
    bound = _bound(work)
    if model == _work.SERIAL:
        return _serial(work, bound)
    if model == _work.THREADS:
        return _threads(work, bound, cores, gains)
    if model == _work.PROCESSES:
        return _processes(work, bound, cores, gains)
    if model == _work.ASYNCIO:
        return _asyncio(work)
    if model == _work.INTERPRETERS:
        return "as processes, in one process; from Python 3.14 on, and not all packages can be imported there"
    return "a bound: what threads without a GIL take at least"


#: Seconds of work for which nobody starts processes.
_LITTLE = 0.1


def is_little(work: Work) -> bool:
    """Whether all calls together are hardly worth workers."""
    return work.wall * work.calls < _LITTLE


def _serial(work: Work, bound: str) -> str:
    if is_little(work):
        return "one call after the other; so little work is not worth workers"
    if work.record["in_turn"]:
        return "one call after the other, which they do anyway: they wait for one another, as for a lock"
    if bound == "waits":
        return "one call after the other, and their waits add up"
    return "one call after the other, on one core"


def _threads(work: Work, bound: str, cores: int, gains: bool) -> str:
    if work.record["in_turn"]:
        return _IN_TURN
    if work.longest >= _MOST and not gains:
        return _one_long(work)
    if work.beside > 0:
        return _BESIDE
    if bound == "waits" and work.children > 0.5 * work.wall and cores == 1:
        return "threads wait side by side, but for processes that take turns on one core"
    if bound == "waits" and work.children > 0.5 * work.wall:
        return "threads wait side by side, for processes that share the cores"
    if bound == "waits":
        return "threads wait side by side"
    if bound == "held" and work.record["gil"]:
        rest = 1 - work.held / (work.wall or 1e-9)
        if rest > 0.1:
            return f"threads take turns with the GIL, and do the rest, {rest:.0%} of a call, side by side"
        return "threads take turns with the GIL, and gain nothing"
    if cores == 1:
        return "threads take turns on one core"
    if bound == "released":
        return "C code lets go of the GIL, so threads compute side by side"
    return "there is no GIL, so threads compute side by side"


#: The share of all the time from which on the rest of the calls hardly matters.
_MOST = 0.6


def _one_long(work: Work) -> str:
    return f"one call takes {work.longest:.0%} of the time of all, and that cannot be shared"


_BESIDE = "a library that it calls computes with threads of its own, which have the cores already"

_IN_TURN = "calls wait for one another, as for a lock: at once, they take their turns"


def _processes(work: Work, bound: str, cores: int, gains: bool) -> str:
    if work.record["in_turn"]:
        return _IN_TURN
    if work.longest >= _MOST and not gains:
        return _one_long(work)
    if work.beside > 0:
        return _BESIDE
    if work.sending > 0.3 * work.wall and not is_little(work):
        return f"to send arguments and results takes {seconds(work.sending)} a call, which takes {seconds(work.wall)} itself"
    if bound == "waits":
        return "processes wait side by side, but cost more than threads"
    if cores == 1:
        return "processes take turns on one core"
    if is_little(work):
        return "starting processes takes longer than the work"
    if not gains:
        return "processes take longer to start than they gain"
    return f"processes have a GIL each, and {cores} cores"


def _asyncio(work: Work) -> str:
    if work.blocked <= 0.05 * work.wall:
        return "there is nothing to await"
    if work.record["in_turn"]:
        return _IN_TURN
    if work.awaitable < 0.2 and work.record["coroutine"]:
        return "what it waits for is not awaited, and keeps the other tasks waiting"
    if work.awaitable < 0.2:
        return "what it waits for (files, locks) cannot be awaited"
    if not work.record["coroutine"]:
        return f"tasks wait side by side on one thread, once {_called(work)} awaits what it blocks for now"
    return "tasks wait side by side on one thread"


#: Begins the reason why calls cannot be made by other processes.
UNSENT = "calls cannot be sent to another process"


def change(model: str, work: Work, found: Mapping[str, Predicted], cores: int, refused: Mapping[str, str]) -> str:
    """What to change in the program, also where it cannot be run so as it is."""
    first = _first(work, refused.get(model, "")) + _connections(model, work)
    told = first + _change(model, work, found[model].workers)
    if model != _work.ASYNCIO or work.record["coroutine"] or not _has_waits(work):
        return told
    if _work.THREADS in refused:  # asyncio's are threads, too
        return told
    as_it_is = _pooled(work, found[_work.THREADS])
    return f"{told}; {as_it_is}{_apart(work, cores, found[model].seconds)}"


def _first(work: Work, refused: str) -> str:
    """What has to go before, for a model to be taken."""
    name = _called(work)
    if "the one iterator" in refused:
        return f"take the items before, and give each call of {name} its own; "
    elif refused.startswith("shared state is written"):
        return f"let {name} return what it changes, and put that together afterwards; "
    elif refused.startswith("shared state is used"):
        return f"let each call of {name} have one of its own; "
    elif refused.startswith(UNSENT):
        return _picklable(name, refused)
    return ""


def _connections(model: str, work: Work) -> str:
    """What connections to SQLite ask for."""
    blocks = work.record.get("blocking", ())
    if "sqlite3" not in blocks or work.record["coroutine"] or model not in {_work.THREADS, _work.PROCESSES}:
        return ""
    turns = "writers take turns on the database's lock"
    if _blocking.CONNECTS in blocks:
        return f"each call has a connection of its own, as sqlite3 needs it, but {turns}; "
    if model == _work.THREADS:
        return (
            "give each thread a connection of its own: sqlite3 refuses one that another thread has made "
            f"(check_same_thread), and {turns}; "
        )
    return f"open a connection in each process: none can be sent there, and {turns}; "


def _called(work: Work) -> str:
    """What the program has the function by."""
    name: str = work.record.get("name") or work.record["tasks"].rpartition(".")[2]
    return "function" if name.rpartition(".")[2].startswith("<") else name


def _picklable(name: str, refused: str) -> str:
    if "an argument cannot" in refused:
        return f"give {name} arguments that can be pickled; "
    if "the result cannot" in refused:
        return f"let {name} return what can be pickled; "
    if name == "function":
        return "make the lambda a function with a name, at the top of a module; "
    return f"move {name} to the top of a module; "


def _change(model: str, work: Work, workers: int) -> str:
    name, coroutine = _called(work), work.record["coroutine"]
    if model == _work.SERIAL:
        return "call one after the other" if work.record["at_once"] > 1 else "nothing"
    if model == _work.THREADS:
        if coroutine:
            return f"make {name} a function that blocks, and call it in plait.ThreadPool({workers})"
        return f"with plait.ThreadPool({workers}) as pool: results = {_mapped(work, name)}"
    if model == _work.PROCESSES:
        pool = f"with plait.ProcessPool({workers}) as pool: results = "
        if not work.record.get("guarded", True):
            pool = f'below if __name__ == "__main__":, since processes import the script; {pool}'
        if not coroutine:
            return pool + _mapped(work, name)
        if _bound(work) == "waits":
            return f"def run(item): return asyncio.run({name}({_given(work) or '*item'})); {pool}list(pool.map(run, items))"
        return f"make {name} a function without async; {pool}{_mapped(work, name)}"
    if model == _work.ASYNCIO:
        return _tasks(work, name)
    if model == _work.INTERPRETERS:
        return f"concurrent.futures.InterpreterPoolExecutor({workers}), from Python 3.14 on"
    return "run it with a free-threaded Python, with plait.ThreadPool"


def lines(change: str) -> list[str]:
    """What to change, line by line, as it stands in a program."""
    found: list[str] = []
    for part in change.split("; "):
        begin, colon, rest = part.partition(" as pool: ")
        found += [f"{begin} as pool:", f"    {rest}"] if colon else [part]
    return found


def _tasks(work: Work, name: str) -> str:
    """How the calls are made as tasks of an event loop."""
    coroutine = work.record["coroutine"]
    if not coroutine and not _has_waits(work):
        return f"nothing that would help: {name} awaits nothing"
    gather = f"await asyncio.gather(*[{name}({_given(work)}) for {_each(work)}])"
    if coroutine and work.awaitable < 0.2:
        return f"let {name} await what it waits for, with asyncio.to_thread if there is nothing else; {gather}"
    if coroutine:
        return gather
    if not work.record.get("program", True):
        other = _blocking.awaited(name) or "a package for asyncio"
        return f"{name} blocks the loop: await {other} in its place, in tasks that asyncio.gather awaits"
    return f"{_rewritten(work, name)}; {gather}"


def _has_waits(work: Work) -> bool:
    """Whether there is something that tasks could await."""
    return work.blocked * work.awaitable > 0.05 * work.wall


def _rewritten(work: Work, name: str) -> str:
    """What a function that blocks needs to be a coroutine."""
    blocks = [each for each in work.record.get("blocking", ()) if each != _blocking.CONNECTS]
    if not blocks:
        return (
            f"make {name} a coroutine that awaits in place of each call that blocks: while one does, no other task runs"
        )
    pairs = " and ".join(f"{_blocking.awaited(each)} in place of {each}" for each in blocks)
    return f"make {name} a coroutine, with {pairs}, which block{'s' if len(blocks) == 1 else ''} the loop"


def _pooled(work: Work, threads: Predicted) -> str:
    """How the calls are made side by side as they are, without a loop."""
    pool = _change(_work.THREADS, work, threads.workers)
    many = f"{threads.workers} thread{'s' if threads.workers > 1 else ''}"
    took = f"in {many}, which takes about {seconds(threads.seconds, 2)}"
    return f"or leave {_called(work)} as it is, {took}; {_connections(_work.THREADS, work)}{pool}; "


#: Threads that asyncio has at most.
_LOOPS_MOST = 32


def _apart(work: Work, cores: int, awaited: float) -> str:
    """How the calls are made by a loop as they are, which is in its threads; `awaited`: seconds of all as coroutines."""
    name = _called(work)
    threads = min(_LOOPS_MOST, cores + 4, work.calls)
    each_takes = (work.wall / threads, work.held + work.asleep, (work.held + work.released) / cores)
    takes = work.calls * max(each_takes)
    longer = "longer, " if takes > awaited else ""
    given = f"{name}, {_given(work)}" if _given(work) else name
    gather = f"await asyncio.gather(*[asyncio.to_thread({given}) for {_each(work)}])"
    return (
        f"or leave {name} as it is, in asyncio's threads, CPUs + 4 of them, which takes {longer}"
        f"about {seconds(takes, 2)}; {gather}"
    )


def _given(work: Work) -> str:
    """What an item has for a call, as it stands between the brackets."""
    count = work.record.get("arguments", 1)
    if work.record.get("named"):
        return "*item[0], **item[1]" if count else "**item"
    return {0: "", 1: "item"}.get(count, "*item")


def _each(work: Work) -> str:
    """What the calls are made for, one by one."""
    return "item in items" if _given(work) else f"_ in range({work.calls})"


def _mapped(work: Work, name: str) -> str:
    """How a pool makes the calls, whose arguments are `items`, or tuples in them."""
    given = _given(work)
    if work.record.get("named") or not given:
        words = f"{name}, {given}" if given else name
        return f"[call.result() for call in [pool.submit({words}) for {_each(work)}]]"
    return f"list(pool.map({name}, {'items' if given == 'item' else '*zip(*items)'}))"
