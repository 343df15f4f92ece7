"""The processes of an automatic pool."""

from __future__ import annotations

from plait.processes._pool import ProcessPool


class Workers(ProcessPool):
    """Where the main module cannot be imported for its missing guard, the pool says so, once."""

    _prints_missing_guard = False
