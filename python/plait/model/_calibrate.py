"""Keeps what was measured of this machine and interpreter, in the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import plait
from plait import _core
from plait.model._costs import Costs
from plait.processes._launch import _executable

_FORMAT = 5
#: Seconds after which the interpreter that measures is given up.
_LONGEST = 60.0
_lock = threading.Lock()
_known: Costs | None = None


def calibrate(*, refresh: bool = False) -> Costs:
    """Measure what this machine and this interpreter take for themselves, or recall it.

    The first call on a machine takes up to two seconds; a fresh interpreter makes pools and an event loop and times tasks
    that do nothing. The result lies in the user's cache directory (`$XDG_CACHE_HOME/plait`, or `~/.cache/plait`), under a
    name made from the processor, the kernel, the number of CPUs, the interpreter and plait's version. Where that cannot be
    written, or the user has no home, it holds for this process.

    Args:
        refresh: Measure again.

    Returns:
        The costs, as `simulate` takes them.

    Raises:
        RuntimeError: The interpreter that measures cannot be started, fails, or takes longer than a minute.

    >>> from plait.model import calibrate
    >>> costs = calibrate()
    >>> 0 < costs.all["threads.submit"].seconds < 0.1
    True
    """
    global _known
    with _lock:
        if refresh or _known is None:
            path = _path()
            _known = (None if refresh else _load(path)) or _measure_and_store(path)
        return _known


def _after_fork() -> None:
    """A thread of the parent may have been measuring, and is not here."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _identity() -> dict[str, Any]:
    """What the costs depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "format": _FORMAT,
        "plait": plait.__version__,
        "python": sys.version,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "kernel": platform.release(),
        "node": platform.node(),
        "processor": names[0] if names else platform.machine(),
        "cpus": _core.usable_cpus(),
        "quota": list(_core.cpu_quota() or ()),
    }


def _path() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(cache) if cache and os.path.isabs(cache) else Path("~/.cache").expanduser()
    except RuntimeError:  # the user has no home: there is nothing to read, nor can it be written
        base = Path(os.devnull)
    name = hashlib.sha256(json.dumps(_identity(), sort_keys=True).encode()).hexdigest()[:16]
    return base / "plait" / f"costs-{name}.json"


def _load(path: Path) -> Costs | None:
    try:
        stored = json.loads(path.read_text())
        return Costs.from_json(stored["costs"]) if stored["identity"] == _identity() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None  # not there, or not ours


def _measure_and_store(path: Path) -> Costs:
    costs = _measure_apart()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            try:
                json.dump({"identity": _identity(), "costs": costs.to_json()}, file)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        pass
    return costs


# Where to import from comes first: the new interpreter may not find plait by itself.
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from plait.model._measure import measure
print("\\n" + json.dumps(measure().to_json()))
"""


def _measure_apart() -> Costs:
    """Measure in a fresh interpreter: the program's threads, modules and main module have no part in it."""
    here = os.getcwd()
    places = json.dumps([place or here for place in sys.path])
    command = [_executable(), "-c", _PROGRAM, places]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_LONGEST,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"the machine's costs could not be measured: {error}") from error
    if done.returncode:
        raise RuntimeError(f"the machine's costs could not be measured: {done.stderr.strip() or done.returncode}")
    # What the interpreter imports at its start may have printed something.
    last = done.stdout.rstrip().rpartition("\n")[2]
    try:
        return Costs.from_json(json.loads(last))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RuntimeError(f"the machine's costs could not be measured: the interpreter said {last!r}") from None
