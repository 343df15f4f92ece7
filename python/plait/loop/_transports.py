"""The transports: `_core` moves the bytes, this says what happens rarely."""

from __future__ import annotations

import logging
import warnings
from asyncio import constants, transports
from typing import Any, Final, Self

from plait import _core

logger: Final = logging.getLogger("asyncio")

_MOST: Final = 2**63 - 1


class _StreamTransport(transports._FlowControlMixin):
    """What `SocketTransport` says that it is: real bases would cost each connection the attributes that they have."""

    __slots__ = ()


class _DatagramTransport(transports._FlowControlMixin, transports.DatagramTransport):
    """What `DatagramTransport` says that it is."""

    __slots__ = ()


class _Transport(_core.StreamCore):
    """What both have."""

    __slots__ = ()

    max_size = 256 * 1024

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._sock is None:
            info.append("closed")
        elif self.is_closing():
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        loop = self._loop
        if loop is not None and not loop.is_closed():
            reads, writes = self._polling()
            info.append(f"read={'polling' if reads else 'idle'}")
            info.append(f"write=<{'polling' if writes else 'idle'}, bufsize={self.get_write_buffer_size()}>")
        return f"<{' '.join(info)}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self._sock is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._disown()
            self._leave()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Have the protocol paused above `high` bytes that wait to be written, and resumed at `low`."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._set_limits(int(min(low, _MOST)), int(min(high, _MOST)))

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if not isinstance(exc, OSError):
            self._report(message, exc)
        elif self._loop is not None and self._loop.get_debug():
            logger.debug("%r: %s", self, message, exc_info=exc)
        self._force_close(exc)

    def _report(self, message: str, exc: BaseException) -> None:
        if self._loop is not None:
            context = {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            self._loop.call_exception_handler(context)

    def _log(self, text: str) -> None:
        logger.debug(text, self)

    def _log_slow(self, seconds: float) -> None:
        if self._loop is not None and seconds >= self._loop.slow_callback_duration:
            logger.warning("Executing %r took %.3f seconds", self, seconds)

    def _warn_lost(self) -> None:
        logger.warning("socket.send() raised exception.")


class SocketTransport(_Transport):
    """A stream over a socket, of TCP or Unix; to `isinstance` it is an `asyncio.Transport`."""

    __slots__ = ()

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    @property
    def __class__(self) -> type[Any]:
        return _StreamTransport

    @__class__.setter
    def __class__(self, value: type[Any]) -> None:
        raise TypeError("the class of a transport cannot be changed")


class DatagramTransport(_Transport):
    """Datagrams over a socket; to `isinstance` it is an `asyncio.DatagramTransport`."""

    __slots__ = ()

    def __new__(
        cls,
        loop: Any,
        sock: Any,
        protocol: Any,
        address: Any = None,  # noqa: ARG004  for `__init__`
        waiter: Any = None,
        extra: Any = None,
    ) -> Self:
        """Make one; see `__init__`."""
        return super().__new__(cls, loop, sock, protocol, waiter, extra)

    def __init__(
        self, loop: Any, sock: Any, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> None:
        """Begin; with an `address`, datagrams go nowhere else."""
        self._set_datagram(address)
        super().__init__(loop, sock, protocol, waiter, extra)

    @property
    def __class__(self) -> type[Any]:
        return _DatagramTransport

    @__class__.setter
    def __class__(self, value: type[Any]) -> None:
        raise TypeError("the class of a transport cannot be changed")

    sendto = _core.StreamCore._sendto

    def write(self, data: object) -> None:
        """Datagrams are sent by `sendto`."""
        raise NotImplementedError

    def writelines(self, list_of_data: object) -> None:
        """Datagrams are sent by `sendto`."""
        raise NotImplementedError

    def write_eof(self) -> None:
        """Datagrams have no end."""
        raise NotImplementedError

    def can_write_eof(self) -> bool:
        """Datagrams have no end."""
        raise NotImplementedError
