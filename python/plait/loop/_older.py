"""What the standard loop has learnt since Python 3.11, for the versions that lack it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import stat
import sys
import threading
import warnings
import weakref
from asyncio import base_events, timeouts
from typing import Any

from plait.loop._standard import StandardLoop, base, futures_

# Where the connection attempts of one `create_connection(all_errors=True)` leave their errors.
_errors: contextvars.ContextVar[list[list[list[Exception]]] | None] = contextvars.ContextVar("_errors", default=None)


class Server(base_events.Server):
    """A server that knows its connections and waits for them, as from 3.13 on."""

    _clients: weakref.WeakSet[Any]
    _loop: asyncio.AbstractEventLoop
    _waiters: list[asyncio.Future[None]] | None

    def close_clients(self) -> None:
        """Close all connections, after what was written has been sent."""
        for transport in self._clients.copy():
            transport.close()

    def abort_clients(self) -> None:
        """Close all connections at once; what was not sent is lost."""
        for transport in self._clients.copy():
            transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its last connection too."""
        if self._waiters is None:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter


def renew(server: Any) -> Any:
    """Make a server of the standard library one of ours; nobody has seen it yet."""
    server.__class__ = Server
    server._clients = weakref.WeakSet()
    return server


class OlderLoop(StandardLoop):
    """The standard Unix loop with all arguments of the newest one."""

    async def create_server(
        self, *args: Any, keep_alive: bool | None = None, start_serving: bool = True, **kwargs: Any
    ) -> Any:
        """Make a TCP server; see `asyncio.loop.create_server`. `keep_alive` is the option of that name of its sockets."""
        server = renew(await super().create_server(*args, start_serving=False, **kwargs))
        if keep_alive and kwargs.get("sock") is None:
            for sock in server._sockets:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
        return await self._begin(server, start_serving)

    async def create_unix_server(
        self, *args: Any, start_serving: bool = True, cleanup_socket: bool = False, **kwargs: Any
    ) -> Any:
        """Make a server on a Unix socket; see `asyncio.loop.create_unix_server`."""
        server = renew(await super().create_unix_server(*args, start_serving=False, **kwargs))
        if cleanup_socket:
            for sock in server._sockets:
                path = sock.getsockname()
                if path and path[0] not in (0, "\x00"):
                    try:
                        self._unix_server_sockets[sock] = os.stat(path).st_ino
                    except FileNotFoundError:
                        continue
        return await self._begin(server, start_serving)

    async def _begin(self, server: Any, start_serving: bool) -> Any:
        if start_serving:
            server._start_serving()
            await asyncio.sleep(0)
        return server

    def _stop_serving(self, sock: Any) -> None:
        inode = self._unix_server_sockets.pop(sock, None)
        path = sock.getsockname() if inode is not None else None
        super()._stop_serving(sock)
        if path is None:
            return
        try:
            found = os.stat(path)
            if found.st_ino == inode and stat.S_ISSOCK(found.st_mode):
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            base.logger.error("Unable to clean up listening UNIX socket %r: %r", path, error)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Shut the default executor down, waiting `timeout` seconds at most for what it runs."""
        self._executor_shutdown_called = True
        if self._default_executor is None:
            return
        future = self.create_future()
        thread = threading.Thread(target=self._shut_down, args=(future,))
        thread.start()
        try:
            async with timeouts.timeout(timeout):
                await future
        except TimeoutError:
            message = f"The executor did not finishing joining its threads within {timeout} seconds."
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            self._default_executor.shutdown(wait=False)
        else:
            thread.join()

    def _shut_down(self, future: Any) -> None:
        try:
            self._default_executor.shutdown(wait=True)
            if not self.is_closed():
                self.call_soon_threadsafe(futures_._set_result_unless_cancelled, future, None)
        except Exception as error:
            if not self.is_closed() and not future.cancelled():
                self.call_soon_threadsafe(future.set_exception, error)

    if sys.version_info < (3, 12):

        async def create_connection(self, *args: Any, all_errors: bool = False, **kwargs: Any) -> Any:
            """Connect by TCP; see `asyncio.loop.create_connection`."""
            if not all_errors:
                return await super().create_connection(*args, **kwargs)
            attempts: list[list[list[Exception]]] = []
            token = _errors.set(attempts)
            try:
                return await super().create_connection(*args, **kwargs)
            except OSError:
                found = [error for lists in attempts for each in lists for error in each]
                if not found:
                    raise
                raise ExceptionGroup("create_connection failed", found) from None
            finally:
                _errors.reset(token)

        async def _connect_sock(self, exceptions: Any, *args: Any, **kwargs: Any) -> Any:
            attempts = _errors.get()
            if attempts is not None and all(each is not exceptions for each in attempts):
                attempts.append(exceptions)
            try:
                return await super()._connect_sock(exceptions, *args, **kwargs)
            finally:
                exceptions = attempts = None  # the errors in them have this frame
