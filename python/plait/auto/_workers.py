"""The processes of an automatic pool, and what is needed only where there are some."""

from __future__ import annotations

from plait import errors  # what becomes of calls there is told by these
from plait.processes import _ahead
from plait.processes._pool import ProcessPool

__all__ = ["Workers", "errors"]

_ahead.import_ahead("plait.auto._ahead")


class Workers(ProcessPool):
    """Where the main module cannot be imported for its missing guard, the pool says so, once."""

    _prints_missing_guard = False
