"""One measurement in an interpreter of its own: none sees what another has left behind, and one may crash."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What a measurement gives: figures by model and name.
Figures = dict[str, dict[str, float]]

#: The measurements, and the modules that have them.
HOMES = {
    "turns": "plait.compare._cores",
    "cores": "plait.compare._cores",
    "lag": "plait.compare._waits",
    "waits": "plait.compare._waits",
    "creation": "plait.compare._units",
    "memory": "plait.compare._units",
    "switches": "plait.compare._talk",
    "talk": "plait.compare._talk",
    "sharing": "plait.compare._talk",
    "crashes": "plait.compare._crashes",
}

#: What only some interpreters have.
MORE = {
    "interpreters": "plait.compare._interpreters",
    "with_gil": "plait.compare._cores",
}

#: Seconds after which a measurement is given up.
PATIENCE = 120.0


class MeasurementError(RuntimeError):
    """A measurement failed; its message says how."""


def run(name: str, *, quick: bool, environment: Mapping[str, str] | None = None) -> Figures:
    """Take a measurement in a new interpreter, whose children end with it; with more in its environment."""
    from plait.advice._children import ended_by  # measurements themselves do without

    command = [sys.executable, "-m", "plait.compare._child", name, *(["quick"] if quick else [])]
    with (
        # Who is killed cannot take its files away.
        tempfile.TemporaryDirectory(prefix="plait-compare-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            env={**os.environ, "TMPDIR": folder, **(environment or {})},
        ) as process,
        ended_by(lambda number: sys.exit(128 + number)),
    ):
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"gave no figures within {PATIENCE:g} s") from None
        finally:
            # Whatever it has started, also when it was killed itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        said = err.strip().splitlines()
        raise MeasurementError(f"exit code {process.returncode}: {said[-1] if said else 'without a word'}")
    return cast("Figures", json.loads(out.splitlines()[-1]))


def computed(call: Callable[[], object]) -> float:
    """Seconds that a call computes: what it takes at least where other programs have the cores meanwhile."""
    began = time.process_time()
    call()
    return time.process_time() - began


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
