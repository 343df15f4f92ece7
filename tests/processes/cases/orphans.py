"""Programs that are killed: each says "ready" and waits for it. The test looks what is left."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import plait
from tests.processes import _tasks
from tests.processes._support import WATCHDOG
from tests.processes._tasks import Tally


def _ready():
    print("ready", flush=True)
    time.sleep(_tasks.LIMIT)


def idle(folder: Path) -> None:
    with plait.ProcessPool(2) as pool:
        assert list(pool.map(abs, range(-100, 0))) == list(range(100, 0, -1))
        _ready()


def fresh(folder: Path) -> None:
    """Killed the moment it has submitted something: workers are about to start."""
    with plait.ProcessPool(2) as pool:
        pool.submit(_tasks.hang_in_c)
        _ready()


def busy(folder: Path, task: str) -> None:
    tally = Tally(folder / "tally")
    function = getattr(_tasks, task)
    lines = 6 if "children" in task else 2
    with plait.ProcessPool(2) as pool:
        for _ in range(50):
            pool.submit(function, tally)
        tally.wait(lines)
        _ready()


def streaming(folder: Path) -> None:
    """In the middle of an exchange of large and small messages."""

    def chatter():
        while True:
            pool.submit(_tasks.size_of, bytes(2_000_000)).result()
            list(pool.map(abs, range(1000)))

    with plait.ProcessPool(2) as pool:
        threading.Thread(target=chatter, daemon=True).start()
        threading.Thread(target=chatter, daemon=True).start()
        time.sleep(0.3)
        _ready()


def nested(folder: Path) -> None:
    """Workers have pools of their own, whose workers are busy."""
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2) as pool:
        for _ in range(2):
            pool.submit(_tasks.nested_hang, tally)
        tally.wait(2)
        _ready()


def several_pools(folder: Path) -> None:
    tally = Tally(folder / "tally")
    pools = [plait.ProcessPool(1) for _ in range(3)]
    for pool in pools:
        pool.submit(_tasks.hang_in_c, tally)
    pools.append(plait.ProcessPool(1, preload=("decimal",)))
    pools[-1].submit(_tasks.echo).result(WATCHDOG)
    tally.wait(3)
    _ready()


def fork_context(folder: Path) -> None:
    """Workers that are copies of this process."""
    import warnings

    warnings.simplefilter("ignore")
    tally = Tally(folder / "tally")
    with plait.ProcessPool(2, mp_context="fork") as pool:
        pool.submit(_tasks.hang_in_c, tally)
        tally.wait()
        _ready()
