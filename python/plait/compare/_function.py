"""A function of the user's own under every model: measured, with the prediction beside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from plait.advice._children import ended_by


@dataclass(frozen=True)
class Way:
    """A way to make the calls.

    Attributes:
        model: "serial", "threads", "processes" or "asyncio".
        workers: How many there are; None where that is no question.
        measured: Seconds of each round, a pool's start and end included; empty if it failed.
        predicted: Seconds that a serial run has led one to expect, None where there was none.
        low: Nine of ten runs were expected from so many seconds,
        high: to so many.
        same: Whether results are those of the serial run; None if that cannot be told.
        failure: What was raised, or why it cannot be run so; empty if it was run.
        raised: Whether it was run, and has raised what `failure` says.
    """

    model: str
    workers: int | None
    measured: tuple[float, ...]
    predicted: float | None
    low: float | None
    high: float | None
    same: bool | None
    failure: str = ""
    raised: bool = False

    @property
    def seconds(self) -> float | None:
        """The fastest round: what else a machine does only makes it slower."""
        return min(self.measured, default=None)

    @property
    def error(self) -> float | None:
        """How far the prediction was off, as a share of what was measured."""
        if self.seconds is None or self.predicted is None or self.seconds <= 0:
            return None
        return self.predicted / self.seconds - 1

    @property
    def name(self) -> str:
        """The model, with its workers."""
        return self.model if self.workers is None else f"{self.model} {self.workers}"

    @property
    def outcome(self) -> str:
        """What came of it where nothing was measured, in words."""
        return f"{'raised' if self.raised else 'not run:'} {self.failure or '-'}"


@dataclass(frozen=True)
class FunctionComparison:
    """A function's calls under every model.

    Attributes:
        function: As "file.py:function".
        calls: How many calls a round makes.
        rounds: How many rounds there were.
        ways: The ways, the fastest first, those that failed last.
        machine: Where: version of Python, cores, load.

    >>> FunctionComparison("work.py:work", 20, 3, (), {}).to_dict()["schema"]
    1
    """

    function: str
    calls: int
    rounds: int
    ways: tuple[Way, ...]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as it goes into JSON; times in seconds."""
        return {
            "schema": 1,
            "function": self.function,
            "calls": self.calls,
            "rounds": self.rounds,
            "machine": self.machine,
            "ways": [
                {
                    "model": way.model,
                    "workers": way.workers,
                    "seconds": way.seconds,
                    "measured": list(way.measured),
                    "predicted": way.predicted,
                    "interval": None if way.low is None else [way.low, way.high],
                    "error": way.error,
                    "same_results": way.same,
                    "failure": way.failure or None,
                    "raised": way.raised,
                }
                for way in self.ways
            ],
        }


class FunctionError(Exception):
    """There is no such function, or nothing to call it with; the message says what is missing."""


_START = """
import sys
home, parent = sys.argv[1:3]
if sys.path and not sys.path[0]:
    del sys.path[0]
sys.path.insert(0, home)
from plait.advice._children import end_with
end_with(int(parent))
from plait.compare._ways import main
main(*sys.argv[3:])
"""


def compare_function(
    path: str, name: str, *, over: str | None = None, calls: int = 20, rounds: int = 3, workers: tuple[int, ...] = ()
) -> FunctionComparison:
    """Make the calls of a function under every model, in an interpreter of their own, in turns.

    Args:
        path: The file that has the function.
        name: The function; with dots for one within a class.
        over: The name of what it is called with, item by item, in the same file: an iterable, or a function that returns one.
            None: `ITEMS`; where there is none, the function is called without arguments.
        calls: How often, if it is called without arguments.
        rounds: How many rounds are measured.
        workers: Numbers of threads and processes; by default the machine's cores, and four times as many threads.

    Raises:
        FunctionError: There is no such file, function or iterable, or the file cannot be imported.
        RuntimeError: The interpreter came to a sudden end.
    """
    import plait
    from plait.compare._textbook import machine

    if not os.path.isfile(path):
        raise FunctionError(f"there is no file {path!r}")
    home = os.path.dirname(os.path.dirname(os.path.abspath(plait.__file__)))
    with tempfile.TemporaryDirectory(prefix="plait-compare-") as folder:
        into = os.path.join(folder, "ways.json")
        words = [into, os.path.abspath(path), name, over or "", str(calls), str(rounds), ",".join(map(str, workers))]
        command = [sys.executable, "-c", _START, home, str(os.getpid()), *words]
        sys.stdout.flush()
        # What the function prints is not the table.
        with (
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                process_group=0,
            ) as process,
            ended_by(lambda number: sys.exit(128 + number)),
        ):
            try:
                status = process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        try:
            with open(into, encoding="utf-8") as file:
                told: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            ended = f"signal {-status}" if status < 0 else f"exit code {status}"
            raise RuntimeError(f"the interpreter that made the calls came to a sudden end ({ended})") from None
    if "wrong" in told:
        raise FunctionError(told["wrong"])
    fields: list[dict[str, Any]] = told["ways"]
    ways: list[Way] = []
    for each in fields:
        values: dict[str, Any] = {**each, "measured": tuple(each["measured"])}
        ways.append(Way(**values))
    ways.sort(key=lambda way: (way.seconds is None, way.seconds))
    return FunctionComparison(f"{os.path.basename(path)}:{name}", told["calls"], rounds, tuple(ways), machine())
