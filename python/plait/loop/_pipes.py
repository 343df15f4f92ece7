"""Pipes: the standard library's transports, reading in pieces that cost no memory of the system, and counted."""

from __future__ import annotations

import os
from asyncio.log import logger
from typing import Any

from plait.loop._standard import unix

_ReadBase: Any = unix._UnixReadPipeTransport
_WriteBase: Any = unix._UnixWritePipeTransport


class ReadPipeTransport(_ReadBase):  # type: ignore[misc]
    """The reading end of a pipe.

    A pipe holds 64 KiB. A buffer of four times as much, which the standard library takes, comes from the system and
    goes back to it with each read, and every page of it costs a fault.
    """

    max_size = 64 * 1024

    def __init__(self, loop: Any, *args: Any, **kwargs: Any) -> None:
        _ReadBase.__init__(self, loop, *args, **kwargs)
        loop._pipe_opened(self)

    def _read_ready(self) -> None:
        """As the standard library has it, and counted."""
        try:
            data = os.read(self._fileno, self.max_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._fatal_error(exc, "Fatal read error on pipe transport")
            return
        if data:
            self._loop._count_read(len(data))
            self._protocol.data_received(data)
            return
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)
        self._closing = True
        self._loop._remove_reader(self._fileno)
        self._loop.call_soon(self._protocol.eof_received)
        self._loop.call_soon(self._call_connection_lost, None)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._loop._open_pipes.discard(self)
        _ReadBase._call_connection_lost(self, exc)


class WritePipeTransport(_WriteBase):  # type: ignore[misc]
    """The writing end of a pipe."""

    _taken = 0
    """Bytes that were given to be written."""
    _told = 0
    """Those of them that are counted as written."""
    _dropped = False
    """What was queued was given up."""

    def __init__(self, loop: Any, *args: Any, **kwargs: Any) -> None:
        _WriteBase.__init__(self, loop, *args, **kwargs)
        loop._pipe_opened(self)

    def write(self, data: Any) -> None:
        """Write some bytes; what does not go out now is queued."""
        loop = self._loop
        taken = not self._conn_lost and not self._closing
        _WriteBase.write(self, data)  # which refuses what is no bytes
        if taken:
            self._taken += memoryview(data).nbytes
        self._tell(loop)

    def _write_ready(self) -> None:
        loop = self._loop  # which is gone when that was the end
        _WriteBase._write_ready(self)
        self._tell(loop)

    def _tell(self, loop: Any) -> None:
        written = self._taken - len(self._buffer) - self._told
        if written > 0 and not self._conn_lost and not self._dropped:
            self._told += written
            loop._count_written(written)

    def _close(self, exc: BaseException | None = None) -> None:
        self._dropped = self._dropped or bool(self._buffer)
        _WriteBase._close(self, exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._loop._open_pipes.discard(self)
        _WriteBase._call_connection_lost(self, exc)
