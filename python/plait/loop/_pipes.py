"""Pipes: the standard library's transports, reading in pieces that cost no memory of the system."""

from __future__ import annotations

from typing import Any

from plait.loop._standard import unix

_Base: Any = unix._UnixReadPipeTransport


class ReadPipeTransport(_Base):  # type: ignore[misc]
    """The reading end of a pipe.

    A pipe holds 64 KiB. A buffer of four times as much, which the standard library takes, comes from the system and
    goes back to it with each read, and every page of it costs a fault.
    """

    max_size = 64 * 1024
