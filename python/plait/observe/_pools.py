"""Tasks of pools: how long each waited, was pickled, travelled and ran."""

from __future__ import annotations

__all__ = ["install"]


def install() -> None:
    """Look at pools from now on."""
