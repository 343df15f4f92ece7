"""The standard loop as it is on this version, with those of its names that type checkers do not know."""

from __future__ import annotations

import asyncio
from asyncio import base_events, events, format_helpers, futures, sslproto, unix_events
from typing import TYPE_CHECKING, Any

# The modules behind it, for names that are private to asyncio or that it wants to lose.
base: Any = base_events
events_: Any = events
futures_: Any = futures
helpers: Any = format_helpers
tls: Any = sslproto
unix: Any = unix_events

if TYPE_CHECKING:

    class StandardLoop(asyncio.SelectorEventLoop):
        """The standard Unix loop: attributes and methods that it keeps to itself."""

        slow_callback_duration: float
        _thread_id: int | None
        _current_handle: Any
        _task_factory: Any
        _default_executor: Any
        _executor_shutdown_called: bool
        _old_agen_hooks: Any
        _transports: Any
        _signal_handlers: dict[int, Any]
        _unix_server_sockets: dict[Any, int]
        _asyncgen_firstiter_hook: Any
        _asyncgen_finalizer_hook: Any

        def _check_running(self) -> None: ...
        def _check_default_executor(self) -> None: ...
        def _check_thread(self) -> None: ...
        def _check_callback(self, callback: Any, method: str) -> None: ...
        def _set_coroutine_origin_tracking(self, enabled: bool) -> None: ...
        def _process_self_data(self, data: bytes) -> None: ...
        def _make_socket_transport(self, sock: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _make_ssl_transport(self, sock: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _make_datagram_transport(self, sock: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _start_serving(self, protocol_factory: Any, sock: Any, *args: Any, **kwargs: Any) -> None: ...
        def _stop_serving(self, sock: Any) -> None: ...
        async def _ensure_resolved(self, address: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _ensure_fd_no_transport(self, fd: Any) -> None: ...
        async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int: ...
        async def _connect_sock(self, exceptions: Any, *args: Any, **kwargs: Any) -> Any: ...

else:
    StandardLoop = asyncio.SelectorEventLoop
