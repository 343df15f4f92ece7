"""Interpreters in one process with a GIL each, where Python has them: from 3.14 on.

What they run is source text: nothing of plait is imported in them.
"""

from __future__ import annotations

import importlib
import os
import resource
import statistics
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait import _core
from plait.compare._cores import digest, rounds_for, spin
from plait.compare._crashes import survivors
from plait.compare._measure import computed, timed
from plait.compare._waits import Server, ask_blocking, quantiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.compare._measure import Figures


def are_there() -> bool:
    """Whether this Python has them in its library."""
    return sys.version_info >= (3, 14)


def _library() -> Any:
    return importlib.import_module("concurrent.interpreters")


_WORK = """
import hashlib
data = bytes(1 << 20)
def spin(rounds):
    total = 0
    for number in range(rounds):
        total += number * number
    return total
def digest(rounds):
    for _ in range(rounds):
        hashlib.sha256(data).digest()
"""

_FETCH = """
import socket
def fetch(port, count):
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"0.010000\\n")
            connection.recv(100)
"""


def _all(calls: list[Callable[[], Any]]) -> None:
    """Make calls at once, a thread for each."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _in_turn(calls: list[Callable[[], Any]]) -> None:
    for call in calls:
        call()


def interpreters(quick: bool) -> Figures:
    """All figures of theirs that the table has for the other models."""
    figures: dict[str, float] = {}
    figures.update(_creation(5 if quick else 20))
    figures.update(_memory(10))
    figures.update(_cores(quick))
    figures.update(_waits(200 if quick else 800))
    figures.update(_switch(500 if quick else 3_000))
    figures.update(_talk(300 if quick else 2_000))
    figures.update(_sharing(8 << 20 if quick else 64 << 20))
    figures.update(_crashes())
    figures.update(_lag(60 if quick else 200))
    return {"subinterpreters": figures}


def _creation(count: int) -> dict[str, float]:
    library = _library()

    def one() -> None:
        made = library.create()
        made.exec("pass")
        made.close()

    one()
    return {"unit": statistics.median(timed(one) for _ in range(count))}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _memory(count: int) -> dict[str, float]:
    library = _library()
    before = _resident()
    made = [library.create() for _ in range(count)]
    for each in made:
        each.exec("pass")
    grown = _resident() - before
    for each in made:
        each.close()
    return {f"unit_{count}": grown / count}


def _cores(quick: bool) -> dict[str, float]:
    """As many units of the same work as there are cores, two at least, against one after the other."""
    library = _library()
    count = max(2, _core.usable_cpus())
    made = [library.create() for _ in range(count)]
    for each in made:
        each.exec(_WORK)
    found: dict[str, float] = {"units": float(count)}
    seconds = 0.1 if quick else 0.25
    for key, function in (("python", spin), ("released", digest)):
        source = f"{function.__name__}({rounds_for(function, seconds)})"
        alone: list[float] = []
        together: list[float] = []
        for _ in range(3 if quick else 5):
            calls: list[Callable[[], Any]] = [partial(each.exec, source) for each in made]
            alone.append(computed(partial(_in_turn, calls)))
            together.append(timed(partial(_all, calls)))
        found[key] = min(alone) / min(together)
    for each in made:
        each.close()
    return found


def _waits(count: int) -> dict[str, float]:
    library, server, workers = _library(), Server(), 8
    made = [library.create() for _ in range(workers)]
    try:
        for each in made:
            each.exec(_FETCH)
        port = server.address[1]
        alone = timed(lambda: made[0].exec(f"fetch({port}, 25)")) / 25 * count
        source = f"fetch({port}, {count // workers})"
        together = timed(lambda: _all([partial(each.exec, source) for each in made]))
        return {"speed_up": alone / together, "workers": float(workers)}
    finally:
        for each in made:
            each.close()
        server.close()


def _switch(count: int) -> dict[str, float]:
    """A byte that is handed to and fro between two interpreters, each in a thread of its own."""
    library = _library()
    there, back = os.pipe(), os.pipe()
    other = library.create()
    source = f"import os\nwhile os.read({there[0]}, 1) == b'x':\n    os.write({back[1]}, b'x')\n"
    echo = threading.Thread(target=other.exec, args=(source,))
    echo.start()
    times: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(count):
            os.write(there[1], b"x")
            os.read(back[0], 1)
        times.append((time.perf_counter() - began) / (2 * count))
    os.write(there[1], b"q")
    echo.join()
    other.close()
    for end in (*there, *back):
        os.close(end)
    return {"switch": statistics.median(times)}


def _talk(count: int) -> dict[str, float]:
    """Messages of 64 bytes through the queues of the library."""
    library = _library()
    there, back = library.create_queue(), library.create_queue()
    other = library.create()
    other.prepare_main(there=there, back=back)
    item = b"m" * 64
    sends = threading.Thread(target=other.exec, args=(f"for _ in range({count}): back.put({item!r})",))
    began = time.perf_counter()
    sends.start()
    for _ in range(count):
        back.get()
    one_way = time.perf_counter() - began
    sends.join()
    echo = threading.Thread(target=other.exec, args=("while (item := there.get()) is not None:\n    back.put(item)\n",))
    echo.start()
    times: list[float] = []
    for _ in range(max(10, count // 50)):
        began = time.perf_counter()
        there.put(item)
        back.get()
        times.append(time.perf_counter() - began)
    there.put(None)
    echo.join()
    other.close()
    return {
        "interpreters.Queue per second": count / one_way,
        "interpreters.Queue there and back": statistics.median(times),
    }


def _sharing(size: int) -> dict[str, float]:
    """Whether another one's change of a list is seen; how long bytes take to get there, copied, and as a view of them."""
    library = _library()
    other = library.create()
    queue = library.create_queue()
    other.prepare_main(queue=queue)
    data = bytearray(size)

    def copied() -> None:
        queue.put(bytes(data))
        other.exec("held = queue.get()")

    took = min(timed(copied) for _ in range(3))
    view = memoryview(data)
    viewed = min(timed(lambda: other.prepare_main(view=view)) for _ in range(3))
    other.exec("view[0] = 1; del view; del held")
    shared = data[0] == 1
    things = bytearray()
    other.call(bytearray.append, things, 1)  # to a copy of it
    other.close()
    found = {"bytes": float(size), "seen": float(len(things)), "hand_over": took}
    if shared:
        found["view"] = viewed
    return found


#: Three units, the second of which ends badly; the program prints how many of the other two came to their end.
_PROGRAM = """
import threading
from concurrent import interpreters
done = []
def unit(number):
    other = interpreters.create()
    try:
        other.exec("import os, time\\n" + ("{fail}" if number == 1 else "time.sleep(0.3)"))
        done.append(number)
    except interpreters.ExecutionFailed:
        pass
threads = [threading.Thread(target=unit, args=(number,)) for number in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(done))
"""


def _crashes() -> dict[str, float]:
    found: dict[str, float] = {}
    for key, fail in (("exception", "raise ValueError"), ("crash", "os.abort()")):
        found[key] = survivors(_PROGRAM.replace("{fail}", fail))
    return found


def _lag(count: int) -> dict[str, float]:
    """How long an answer takes while another interpreter computes."""
    library, server = _library(), Server()
    other = library.create()
    read, write = os.pipe()
    source = f"{_WORK}\nimport select\nwhile not select.select([{read}], [], [], 0)[0]:\n    spin(1000)\n"
    computes = threading.Thread(target=other.exec, args=(source,))
    computes.start()
    try:
        times = ask_blocking(server.address, count)
    finally:
        os.write(write, b"q")
        computes.join()
        other.close()
        server.close()
        os.close(read)
        os.close(write)
    return quantiles(times, "thread")
