"""What a fork server imports for automatic pools, so that their workers have it from the start."""

from __future__ import annotations

from plait.auto import _calls, _errors, _meter, _reads

__all__ = ["_calls", "_errors"]


def _do_once() -> None:
    """Do what takes long the first time, up to a millisecond each, in what workers are forked from."""
    meter = _meter.Meter()
    meter.start()
    _reads.digest(_do_once)
    _reads.setting_in(None)
    meter.ended(1, meter.began)
    meter.sample()


_do_once()
