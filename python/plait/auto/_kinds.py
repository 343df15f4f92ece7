"""Classes of values of which nobody knows anything."""

from __future__ import annotations

from typing import Any, cast


def is_a(value: Any, *kinds: Any) -> bool:
    """`isinstance`, for values of which nobody knows anything else."""
    return isinstance(value, kinds)


def kind_of(value: Any) -> Any:
    """`type`, for values of which nobody knows anything else."""
    return cast("Any", type(value))
