"""The part of the loop that makes transports and servers of sockets."""

from __future__ import annotations

import errno
import socket
import sys
from asyncio import constants, trsock
from typing import TYPE_CHECKING, Any, TypeVarTuple

from plait import _core
from plait.loop import _tls
from plait.loop._standard import StandardLoop
from plait.loop._transports import DatagramTransport, SocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

Ts = TypeVarTuple("Ts")

if sys.version_info >= (3, 13):
    Newest = StandardLoop
else:
    from plait.loop._older import OlderLoop as Newest


class SocketLoop(_core.LoopCore, Newest):
    """The standard library's loop on plait's core, with plait's transports."""

    _files: dict[int, Any]
    """The file objects that are watched, by their numbers."""

    def _make_socket_transport(
        self, sock: Any, protocol: Any, waiter: Any = None, *, extra: Any = None, server: Any = None
    ) -> SocketTransport:
        self._ensure_fd_no_transport(sock)
        return SocketTransport(self, sock, protocol, waiter, extra, server)

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
    ) -> Any:
        self._ensure_fd_no_transport(rawsock)
        try:
            transport: Any = _tls.make(
                self,
                protocol,
                sslcontext,
                waiter,
                server_side,
                server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        except BaseException:
            rawsock.close()  # nobody else has it
            raise
        SocketTransport(self, rawsock, transport, extra=extra, server=server)
        return transport

    async def start_tls(self, transport: Any, protocol: Any, sslcontext: Any, **kwargs: Any) -> Any:
        """Upgrade a connection to TLS, and return the transport that `protocol` is to use; see `asyncio.loop.start_tls`."""
        if _tls.is_for(transport, sslcontext):
            return await _tls.upgrade(self, transport, protocol, sslcontext, **kwargs)
        return await super().start_tls(transport, protocol, sslcontext, **kwargs)

    def _make_datagram_transport(
        self, sock: Any, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> DatagramTransport:
        self._ensure_fd_no_transport(sock)
        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
    ) -> None:
        if type(sock) is not socket.socket:
            super()._start_serving(
                protocol_factory, sock, sslcontext, server, backlog, ssl_handshake_timeout, ssl_shutdown_timeout
            )
        elif sock.fileno() >= 0:  # not closed since it was tried last
            kind = int(sock.family), int(sock.type), sock.proto
            if sslcontext is not None:
                timeouts = ssl_handshake_timeout, ssl_shutdown_timeout
                protocol_factory = _tls.Accepted(self, protocol_factory, sslcontext, *timeouts)
            self._add_reader(sock.fileno(), self._accept, protocol_factory, sock, server, backlog, kind)

    def _accept(self, protocol_factory: Any, sock: Any, server: Any, backlog: int, kind: tuple[int, int, int]) -> None:
        """Take what connections there are."""
        try:
            _core.accept_streams(self, SocketTransport, protocol_factory, sock, server, backlog, kind)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise  # told as any exception in a callback
            message = "socket.accept() out of system resource"
            context = {"message": message, "exception": exc, "socket": trsock.TransportSocket(sock)}
            self.call_exception_handler(context)
            self._remove_reader(sock.fileno())
            delay = constants.ACCEPT_RETRY_DELAY
            self.call_later(delay, self._start_serving, protocol_factory, sock, None, server, backlog)

    def _connection_failed(self, exc: BaseException) -> None:
        """A connection was accepted, but there is no protocol or no transport for it."""
        if self._debug:
            message = "Error on transport creation for incoming connection"
            self.call_exception_handler({"message": message, "exception": exc})

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        super()._ensure_fd_no_transport(fd)
        number = fd if isinstance(fd, int) else int(fd.fileno())
        if self._is_claimed(number):
            raise RuntimeError(f"File descriptor {fd!r} is used by transport <fd={number}>")

    # ---- files that are closed while they are watched: known by the object, as to the standard library's selectors

    def add_reader(self, fd: Any, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        """Call `callback` whenever `fd`, a number or a file object, can be read."""
        super().add_reader(fd, callback, *args)
        if not isinstance(fd, int):
            self._files[fd.fileno()] = fd

    def add_writer(self, fd: Any, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        """Call `callback` whenever `fd`, a number or a file object, can be written."""
        super().add_writer(fd, callback, *args)
        if not isinstance(fd, int):
            self._files[fd.fileno()] = fd

    def remove_reader(self, fd: Any) -> bool:
        """Call nobody any more when `fd` can be read; whether somebody was."""
        return self._unwatch(fd, super().remove_reader)

    def remove_writer(self, fd: Any) -> bool:
        """Call nobody any more when `fd` can be written; whether somebody was."""
        return self._unwatch(fd, super().remove_writer)

    def _unwatch(self, fd: Any, remove: Callable[[Any], bool]) -> bool:
        if not self._files:
            return remove(fd)
        number = fd if isinstance(fd, int) else self._number(fd)
        removed = remove(number)
        if isinstance(number, int) and number >= 0 and self._watchers(number) == [None, None]:
            self._files.pop(number, None)
        return removed

    def _number(self, file: Any) -> Any:
        """The number of a file object, as it was watched if it has none any more; itself if it was not."""
        try:
            number = file.fileno()
        except (AttributeError, TypeError, ValueError):  # ValueError: closed
            number = -1
        if isinstance(number, int) and number >= 0:
            return number
        return next((number for number, watched in self._files.items() if watched is file), file)

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        # A transport of ours lends its socket from `_make_empty_waiter` to `_reset_empty_waiter`.
        if not isinstance(transp, SocketTransport):
            return await super()._sendfile_native(transp, file, offset, count)
        resume_reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        sock: Any = transp._sock
        try:
            return await self.sock_sendfile(sock, file, offset, count, fallback=False)
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()

    async def _sock_sendfile_native(self, sock: Any, file: Any, offset: int, count: int | None) -> int:
        sent = await super()._sock_sendfile_native(sock, file, offset, count)
        self._count_written(sent)
        return sent

    async def _accept_connection2(self, *args: Any, **kwargs: Any) -> None:
        # Of a listening socket that is no plain one.
        self._count_accepted()
        await super()._accept_connection2(*args, **kwargs)

    # The standard library's own waits end with a callback. The number may be another's by then, who keeps it.

    def _sock_read_done(self, fd: int, fut: Any, handle: Any = None) -> None:  # noqa: ARG002  asyncio passes it
        if handle is not None and self._watchers(fd)[0] is handle:
            self._remove_reader(fd)

    def _sock_write_done(self, fd: int, fut: Any, handle: Any = None) -> None:  # noqa: ARG002  asyncio passes it
        if handle is not None and self._watchers(fd)[1] is handle:
            self._remove_writer(fd)

    # ---- sockets: tried at once; where that would block, `_core` waits and keeps its registration for the next time

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """Receive at most `n` bytes; no bytes at the end."""
        if (got := self._receive_or_wait(sock, n) if type(n) is int and n >= 0 else None) is None:
            data = await super().sock_recv(sock, n)
            self._count_read(len(data))
            return data
        try:
            return await got[1] if got[0] else got[1]  # type: ignore[no-any-return]
        finally:
            del got  # it has the error, whose traceback has this frame

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        """Receive into `buf`, and return how many bytes."""
        if (got := self._receive_into_or_wait(sock, buf)) is None:
            count = await super().sock_recv_into(sock, buf)
            self._count_read(count)
            return count
        try:
            return await got[1] if got[0] else got[1]  # type: ignore[no-any-return]
        finally:
            del got  # it has the error, whose traceback has this frame

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram, and return it with its address."""
        if (got := self._call_or_wait(sock, False, sock.recvfrom, bufsize)) is None:
            received = await super().sock_recvfrom(sock, bufsize)
        else:
            try:
                received = await got[1] if got[0] else got[1]
            finally:
                del got  # it has the error, whose traceback has this frame
        self._count_read(len(received[0]))
        return received

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """Receive a datagram into `buf`, and return its size with its address."""
        if (got := self._call_or_wait(sock, False, sock.recvfrom_into, buf, nbytes or len(buf))) is None:
            received = await super().sock_recvfrom_into(sock, buf, nbytes)
        else:
            try:
                received = await got[1] if got[0] else got[1]
            finally:
                del got  # it has the error, whose traceback has this frame
        self._count_read(received[0])
        return received

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        """Send all of `data`."""
        if (got := self._send_or_wait(sock, data)) is None:
            await super().sock_sendall(sock, data)
            self._count_written(memoryview(data).nbytes)
            return None
        try:
            return await got[1] if got[0] else got[1]  # type: ignore[no-any-return]
        finally:
            del got  # it has the error, whose traceback has this frame

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> int:
        """Send a datagram to `address`, and return how many bytes."""
        if (got := self._call_or_wait(sock, True, sock.sendto, data, address)) is None:
            sent = await super().sock_sendto(sock, data, address)
        else:
            try:
                sent = await got[1] if got[0] else got[1]
            finally:
                del got  # it has the error, whose traceback has this frame
        self._count_written(sent)
        return sent

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect a socket to `address`, whose host is looked up if it is a name."""
        if self._debug or type(sock) is not socket.socket:
            return await super().sock_connect(sock, address)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            found = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = found[0][4]
        if (got := self._call_or_wait(sock, True, _Connect(sock, address))) is None:
            return await super().sock_connect(sock, address)
        try:
            return await got[1] if got[0] else got[1]  # type: ignore[no-any-return]
        finally:
            del got  # it has the error, whose traceback has this frame

    async def sock_accept(self, sock: Any) -> tuple[Any, Any]:
        """Take a connection off a listening socket, and return it with its peer's address."""
        if (got := self._call_or_wait(sock, False, _accept, sock)) is None:
            accepted = await super().sock_accept(sock)
        else:
            try:
                accepted = await got[1] if got[0] else got[1]
            finally:
                del got  # it has the error, whose traceback has this frame
        self._count_accepted()
        return accepted


class _Connect:
    """Begins a connection when it is first called, and then says what became of it."""

    def __init__(self, sock: Any, address: Any) -> None:
        self._sock, self._address, self._begun = sock, address, False

    def __call__(self) -> None:
        if not self._begun:
            self._begun = True
            self._sock.connect(self._address)
        elif error := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, f"Connect call failed {self._address}")


def _accept(sock: Any) -> tuple[Any, Any]:
    connection, address = sock.accept()
    connection.setblocking(False)
    return connection, address
