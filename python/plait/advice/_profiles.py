"""What can be said of a profile: it has threads and their states, and no calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait import _core
from plait.advice._advise import Advice, nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.observe._records import ProfileRecord


def advice(record: ProfileRecord, cores: Sequence[int] | None = None) -> Advice:
    """Say what a profile's sums say: what bounds the program, and no more.

    Raises:
        ValueError: It is empty.
    """
    if not record["threads"] or record["wall"] <= 0:
        raise ValueError("the profile is empty: no thread was seen in it")
    here = cores[0] if cores is not None and len(cores) == 1 else _core.usable_cpus()
    sentence = record["evidence"]["sentence"].rstrip(".")
    ideas = "; ".join(record["evidence"]["try"])
    return nothing(
        f"a profile has threads and no calls, so what could run side by side is not known. {sentence} "
        f"({record['verdict']}){'. To try: ' + ideas if ideas else ''}. For a prediction: plait advise script.py",
        here,
    )
