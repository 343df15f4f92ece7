"""TLS transports: `_core` encrypts and decrypts by the program's own `ssl.SSLContext`, this says what happens rarely."""

from __future__ import annotations

import warnings
from asyncio import constants, exceptions, transports
from asyncio.streams import StreamReaderProtocol
from typing import Any, Final

from plait import _core
from plait.loop._standard import tls
from plait.loop._transports import SocketTransport, logger

# None where the interpreter was built without it.
ssl: Any = tls.ssl

_MOST: Final = 2**63 - 1


class _SSLProtocolTransport(transports._FlowControlMixin):
    """What `TlsTransport` says that it is: programs look for 'ssl' in the name."""

    __slots__ = ()


class TlsTransport(_core.TlsCore):
    """TLS over another transport, whose protocol it is; to `isinstance` it is an `asyncio.Transport`."""

    __slots__ = ()

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    @property
    def __class__(self) -> type[Any]:
        return _SSLProtocolTransport

    @__class__.setter
    def __class__(self, value: type[Any]) -> None:
        raise TypeError("the class of a transport cannot be changed")

    def __repr__(self) -> str:
        state = "handshake" if self._shaking_hands else "closing" if self.is_closing() else "open"
        return f"<{type(self).__name__} {state} over {self._transport!r}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self._unclosed:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection: `ssl_object`, `peercert`, ..., and what the transport below knows."""
        if name == "sslcontext":
            return self._sslcontext
        if (ssl_object := self._sslobj) is not None:
            if name == "ssl_object":
                return ssl_object
            if name == "peercert":
                return ssl_object.getpeercert()
            if name == "cipher":
                return ssl_object.cipher()
            if name == "compression":
                return ssl_object.compression()
        transport = self._transport
        return default if transport is None else transport.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Have the protocol paused when `high` bytes wait to be encrypted, and resumed at `low`."""
        self._put_limits(False, *tls.add_flowcontrol_defaults(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE))

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Read no more when `high` bytes wait for a protocol that has paused reading, and again at `low`."""
        self._put_limits(True, *tls.add_flowcontrol_defaults(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ))

    def _put_limits(self, reading: bool, high: int, low: int) -> None:
        self._set_limits(reading, int(min(low, _MOST)), int(min(high, _MOST)))

    @property
    def _ssl_protocol(self) -> TlsTransport:
        """Where the standard library has two objects, this is both."""
        return self

    def _handshake_late(self) -> None:
        if self._shaking_hands:
            seconds = self._timeouts[0]
            message = f"SSL handshake is taking longer than {seconds:g} seconds: aborting the connection"
            self._fatal_error(ConnectionAbortedError(message))

    def _shutdown_late(self) -> None:
        if self._transport is not None:
            self._force_close(TimeoutError("SSL shutdown timed out"))

    def _handshake_failed(self, exc: BaseException) -> None:
        if isinstance(exc, ssl.CertificateError):
            self._fatal_error(exc, "SSL handshake failed on verifying the certificate")
        else:
            self._fatal_error(exc, "SSL handshake failed")

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        transport, loop = self._transport, self._loop
        if transport is not None:
            transport._force_close(exc)
        if isinstance(exc, OSError):
            if loop is not None and loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        elif loop is not None and not isinstance(exc, exceptions.CancelledError):
            context = {"message": message, "exception": exc, "transport": transport, "protocol": self}
            loop.call_exception_handler(context)

    def _report(self, message: str, exc: BaseException) -> None:
        if self._loop is not None:
            context = {"message": message, "exception": exc, "transport": self, "protocol": self}
            self._loop.call_exception_handler(context)

    def _log_start(self) -> None:
        logger.debug("%r starts SSL handshake", self)

    def _log_done(self) -> None:
        logger.debug("%r: SSL handshake is done", self)

    def _log_end(self) -> None:
        logger.debug("%r received EOF", self)

    def _warn_kept(self) -> None:
        logger.warning("returning true from eof_received() has no effect when using ssl")

    def _warn_lost(self) -> None:
        logger.warning("SSL connection is closed")


class _AcceptedTransport(TlsTransport):
    """That of a server's connection, for which nobody waits."""

    __slots__ = ()

    def _handshake_failed(self, exc: BaseException) -> None:
        loop = self._loop
        super()._handshake_failed(exc)
        if loop is not None:
            loop._connection_failed(exc)


class Accepted:
    """Makes what a server's new connection speaks to first: TLS, for a protocol of the program."""

    def __init__(self, loop: Any, factory: Any, sslcontext: Any, handshake_timeout: Any, shutdown_timeout: Any) -> None:
        self._loop = loop
        self._factory = factory
        self._sslcontext = sslcontext
        self._timeouts = {"ssl_handshake_timeout": handshake_timeout, "ssl_shutdown_timeout": shutdown_timeout}

    def __call__(self) -> TlsTransport:
        protocol = self._factory()
        return make(self._loop, protocol, self._sslcontext, None, True, None, kind=_AcceptedTransport, **self._timeouts)


def make(
    loop: Any,
    protocol: Any,
    sslcontext: Any,
    waiter: Any,
    server_side: bool = False,
    server_hostname: str | None = None,
    *,
    knows: bool = False,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    kind: type[TlsTransport] = TlsTransport,
) -> TlsTransport:
    """Make a TLS transport, to be the protocol of another; `knows`: `protocol` had that other one until now."""
    handshake = _positive("ssl_handshake_timeout", ssl_handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT)
    shutdown = _positive("ssl_shutdown_timeout", ssl_shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT)
    if ssl is None:
        raise RuntimeError("stdlib ssl module not available")
    if not sslcontext:
        sslcontext = tls._create_transport_context(server_side, server_hostname)
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = None if server_side else server_hostname or None
    ssl_object = sslcontext.wrap_bio(*bios, server_side=server_side, server_hostname=name)
    return kind(loop, protocol, sslcontext, bios, ssl_object, waiter, bool(server_side), knows, (handshake, shutdown))


def _positive(name: str, seconds: float | None, default: float) -> float:
    if seconds is None:
        return default
    if seconds <= 0:
        raise ValueError(f"{name} should be a positive number, got {seconds}")
    return seconds


def is_for(transport: Any, sslcontext: Any) -> bool:
    """Whether `upgrade` is for these: others are the standard library's to serve, or to refuse."""
    ours = isinstance(transport, SocketTransport | TlsTransport)
    return ours and ssl is not None and isinstance(sslcontext, ssl.SSLContext)


async def upgrade(
    loop: Any,
    transport: Any,
    protocol: Any,
    sslcontext: Any,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> TlsTransport:
    """Put TLS between a transport of ours and its protocol."""
    if transport._loop is None:
        # It would tell nobody of its end again.
        raise ConnectionResetError("Connection lost")
    waiter = loop.create_future()
    upgraded = make(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        knows=True,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    # Nothing is to arrive before the connection has begun.
    transport.pause_reading()
    transport.set_protocol(upgraded)
    later = [loop.call_soon(upgraded.connection_made, transport)]
    if server_side and (early := _taken_early(protocol)):
        later.append(loop.call_soon(upgraded.data_received, early))
    later.append(loop.call_soon(transport.resume_reading))
    try:
        await waiter
    except BaseException:
        transport.close()
        for handle in later:
            handle.cancel()
        raise
    return upgraded


def _taken_early(protocol: Any) -> bytes:
    """Take back what a stream reader has got of the client's TLS already, as asyncio does from 3.14 on."""
    reader: Any = getattr(protocol, "_stream_reader", None) if isinstance(protocol, StreamReaderProtocol) else None
    if reader is None:
        return b""
    early = bytes(reader._buffer)
    reader._buffer.clear()
    return early
