"""Connections under resets, cancellations, timeouts and descriptors that are used again: see `_soak.py`."""

from __future__ import annotations

import collections
import gc
import sys
from typing import Any

import pytest

from tests.loop._soak import open_files, resident, soak_round

TRANSPORTS = ("SocketTransport", "DatagramTransport")


def left_over() -> list[Any]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each).__name__ in (*TRANSPORTS, "Side", "Talk", "Place")]


@pytest.mark.parametrize("seed", range(3))
def test_every_byte_has_its_place(seed: int) -> None:
    files = open_files()
    counts = soak_round(seed, connections=400)
    assert counts["whole"] > 100
    assert counts["datagrams"] > 200
    assert counts["robbed"] > 3
    assert open_files() == files
    assert not left_over()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_thousand_connections(capsys: pytest.CaptureFixture[str]) -> None:
    """And files and memory are in the end what they were after the first tenth."""
    each, rounds = 2000, 100
    files, first = open_files(), 0
    total: collections.Counter[str] = collections.Counter()
    for number in range(rounds):
        total += soak_round(1000 + number, connections=each)
        gc.collect()
        if number == rounds // 10:
            first = resident()
        with capsys.disabled():
            print(f"{(number + 1) * each:>7} connections, {total['whole']} whole, {resident() >> 20} MiB", flush=True)
        assert open_files() == files
    assert not left_over()
    with capsys.disabled():
        print(dict(sorted(total.items())), file=sys.stderr)
    assert resident() < first + (8 << 20)
