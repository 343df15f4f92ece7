"""Who holds a piece of shared memory, by what the kernel shows in /proc; and waiting."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WATCHDOG = 60.0
"""Seconds that something may take before a test fails: no measure of speed."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WATCHDOG
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.005)


def inode(thing: Any) -> int:
    """The file behind an array or a handle."""
    base = getattr(thing, "_segment", thing)
    while isinstance(base, np.ndarray):
        base = base.base
    found: int = base.identity[1]
    return found


def holders(number: int) -> set[int]:
    """The processes that have this file of shared memory mapped or open."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            lines = (entry / "maps").read_text().splitlines()
            if any(" /memfd:plait-share" in line and int(line.split()[4]) == number for line in lines):
                found.add(int(entry.name))
                continue
            for fd in os.listdir(entry / "fd"):
                path = entry / "fd" / fd
                if os.readlink(path).startswith("/memfd:plait-share") and os.stat(path).st_ino == number:
                    found.add(int(entry.name))
        except OSError:
            continue  # it ended, or the descriptor was closed
    return found


def wait_until_gone(number: int) -> None:
    gc.collect()
    wait_until(lambda: not holders(number), f"the end of memory {number}, held by {holders(number)}")


def files() -> list[str]:
    """What this process has open for shared memory and its letters."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith(("/memfd:plait-share", "/memfd:plait-post")):
            found.append(target)
    return sorted(found)
