"""What a fork server imports for automatic pools, so that their workers have it from the start."""

from __future__ import annotations

from plait import _core, errors
from plait.auto import _calls

__all__ = ["_calls", "errors"]

# To find where the interpreter takes and lets go of its GIL takes a millisecond: once, in what workers are forked from.
_ = _core.gil_tally()
