"""`plait.EventLoop`: the standard library's Unix loop on plait's scheduling and readiness."""

from __future__ import annotations

import inspect
import os
import selectors
import signal
import sys
import threading
import weakref
from asyncio import events, tasks
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import plait
from plait import _core
from plait.loop import _names, _pipes, _subprocess
from plait.loop._sockets import SocketLoop
from plait.loop._standard import base, futures_, helpers
from plait.observe import _sources

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Executor
    from typing import TypedDict

    class LagStatistics(TypedDict):
        """How late something was: see `EventLoop.statistics`."""

        count: int
        sum: float
        p50: float
        p90: float
        p99: float
        max: float
        histogram: list[tuple[float, int]]

    class LoopStatistics(TypedDict):
        """What `EventLoop.statistics()` returns."""

        turns: int
        callbacks: int
        timers: int
        ready: int
        scheduled: int
        lag: LagStatistics
        timer_lag: LagStatistics
        awake: float
        asleep: float
        held_up: float
        connections: int
        endpoints: int
        pipes: int
        opened: int
        accepted: int
        bytes_read: int
        bytes_written: int


T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")

os.register_at_fork(after_in_child=_core.restore_interval_in_child)


class EventLoop(SocketLoop):
    """An event loop for asyncio: `asyncio.AbstractEventLoop`, complete.

    Every version of Python has the arguments of the newest one. It is the standard library's Unix loop with another
    scheduler and other sockets: callbacks, timers, readiness and transports are plait's, and everything else is
    asyncio's own, so that programs find what they know. Most never name it: see `plait.run`, `plait.install`, and
    `plait.new_event_loop` for whoever takes a `loop_factory`. It may be extended.

    A loop belongs to the thread that runs it; other threads use `call_soon_threadsafe`. Timers are never early, later by some
    microseconds, and come in the order of scheduling where their times are equal. It opens no descriptor before it
    first waits for something.

    A thread that computes keeps the interpreter lock for whole switch intervals (5 ms), and a loop in the same process would
    wait as long for each event. This one asks for the lock 50 microseconds after an event has woken it, once it has had to wait
    for long. What is set by `sys.setswitchinterval` goes on to hold for everybody else.

    Args:
        prompt: False to wait for the switch interval as other threads do. May be changed later, by the attribute of this name.

    >>> loop = plait.EventLoop()
    >>> handle = loop.call_later(0.001, loop.stop)
    >>> loop.run_forever()
    >>> loop.close()
    """

    def __init__(self, *, prompt: bool = True) -> None:
        try:
            self.prompt = prompt
        except TypeError:
            self._closed = True  # nothing is there yet that its finalizer would have to close
            raise
        # Not that of the selector loop, which makes a selector and a pair of sockets.
        base.BaseEventLoop.__init__(self)
        self._transports = weakref.WeakValueDictionary()
        self._signal_handlers = {}
        self._unix_server_sockets = {}
        self._files = {}
        self._signal_pipe: tuple[int, int] | None = None
        self._wakeup_before = -1
        self._child_fds: set[int] = set()
        self._open_pipes: weakref.WeakSet[Any] = weakref.WeakSet()
        self._find_own()
        self._known_as = _sources.add("loop", self)

    # ---- run

    def run_forever(self) -> None:
        """Run until `stop` is called."""
        self._run_forever_setup()
        try:
            self._turn_until_stopped()
        finally:
            self._run_forever_cleanup()

    def _run_forever_setup(self) -> None:
        self._check_closed()
        self._check_running()
        self._find_own()
        self._set_coroutine_origin_tracking(self._debug)
        self._old_agen_hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
        events._set_running_loop(self)

    def _run_forever_cleanup(self) -> None:
        self._stopping = False
        self._thread_id = None
        events._set_running_loop(None)
        self._set_coroutine_origin_tracking(False)
        if self._old_agen_hooks is not None:
            sys.set_asyncgen_hooks(*self._old_agen_hooks)
            self._old_agen_hooks = None
        self._disarm_signals()

    def close(self) -> None:
        """Close the loop: nothing that was scheduled will run. It must not be running."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        super().close()
        self._close_core()
        self._files.clear()
        while self._child_fds:
            os.close(self._child_fds.pop())
        if self._signal_pipe is not None:
            self._disarm_signals()
            for fd in self._signal_pipe:
                os.close(fd)
            self._signal_pipe = None
        self._known_as.note(self)

    def statistics(self) -> LoopStatistics:
        """Return figures since the loop was made; from any thread, and also when it is closed. They are always counted.

        Now: `ready` (callbacks that wait for the next turn), `scheduled` (timers, without cancelled ones), `connections`
        (streams over sockets, TLS included, until the protocol has heard of their end), `endpoints` (the same of
        datagrams), `pipes`.
        In all: `turns`, `callbacks` (called, those of timers and of ready sockets included), `timers` (that went off),
        `opened` (transports of the three kinds), `accepted` (connections taken off listening sockets).
        Bytes: `bytes_read` and `bytes_written`, by transports and by the methods `sock_...` and `sendfile`; with TLS as they go
        over the socket. A `sendfile` that is cancelled or fails counts nothing.
        Seconds: `awake` (in turns: callbacks, and looking at sockets in between), `asleep` (waiting for something to do),
        `held_up` (woken, but waiting for the interpreter lock).

        `lag` says how late callbacks ran, with a sample for each turn that ran any: from the wake-up of the loop to the end of
        the turn, the longest that something ready can have waited. `timer_lag` says how late timers were, with a sample for
        each that went off: from its deadline to the turn that ran it. Both have `count`, and in seconds `sum`, `p50`, `p90`,
        `p99` (too large by a quarter or a microsecond at most), `max`, and `histogram`: in order, pairs of an upper bound and
        how many samples are below it and not below the bound before; pairs without samples are left out.

        The difference of two calls tells what happened in between, also of `histogram`.

        >>> loop = plait.EventLoop()
        >>> handle = loop.call_later(0.001, loop.stop)
        >>> loop.run_forever()
        >>> loop.close()
        >>> figures = loop.statistics()
        >>> figures["timers"], figures["timer_lag"]["count"], figures["ready"], figures["bytes_read"]
        (1, 1, 0, 0)
        >>> figures["asleep"] > 0.0005
        True
        """
        figures: Any = self._figures()
        figures["pipes"] = len(self._open_pipes)
        return figures  # type: ignore[no-any-return]

    def _find_own(self) -> None:
        """See whether a program's class has something else in place of `time` or `call_soon`."""
        self._own_clock = type(self).time is not _core.LoopCore.time
        self._own_calls = type(self).call_soon is not _core.LoopCore.call_soon

    # ---- callbacks: what the fast roads of `_core` leave to Python

    # The first four: with arguments missing, or passed by name.

    def _named_call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_soon(callback, *args, context=context)

    def _named_call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_soon_threadsafe(callback, *args, context=context)

    def _named_call_later(self, delay: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_later(delay, callback, *args, context=context)

    def _named_call_at(self, when: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(when, callback, *args, context=context)

    def _source(self, depth: int = 1) -> Any:
        return helpers.extract_stack(sys._getframe(depth)) if self._debug else None

    def _slow_call_soon(self, args: tuple[Any, ...], context: Any) -> Any:
        if self._debug:
            self._check_thread()
        return self._slow_call("call_soon", args, context, None, self._source(2))

    def _slow_call_soon_threadsafe(self, args: tuple[Any, ...], context: Any) -> Any:
        return self._slow_call("call_soon_threadsafe", args, context, None, self._source(2))

    def _slow_call_later(self, args: tuple[Any, ...], context: Any) -> Any:
        delay, *rest = args
        if delay is None:
            raise TypeError("delay must not be None")
        when = self.time() + delay
        if self._debug:
            self._check_thread()
        return self._slow_call("call_at", rest, context, when, self._source(2))

    def _slow_call_at(self, args: tuple[Any, ...], context: Any) -> Any:
        when, *rest = args
        if when is None:
            raise TypeError("when cannot be None")
        if self._debug:
            self._check_thread()
        return self._slow_call("call_at", rest, context, when, self._source(2))

    def _slow_call(self, name: str, args: Any, context: Any, when: float | None, source: Any) -> Any:
        self._check_closed()
        callback, *rest = args
        if self._debug:
            self._check_callback(callback, name)
        return self._make_handle(callback, tuple(rest), context, when, source)

    def _add_callback(self, handle: Any) -> None:
        """Have a handle run that may come from anywhere."""
        if isinstance(handle, _core.Handle):
            self._push_handle(handle)
        elif not handle._cancelled:
            self._push(self._run_handle, handle)

    def _run_handle(self, handle: Any) -> None:
        """Run a handle as the standard loop does: timed, in debug mode."""
        if handle._cancelled:
            return
        if not self._debug:
            handle._run()
            return
        try:
            self._current_handle = handle
            began = self.time()
            handle._run()
            took = self.time() - began
            if took >= self.slow_callback_duration:
                base.logger.warning("Executing %s took %.3f seconds", base._format_handle(handle), took)
        finally:
            self._current_handle = None

    def _callback_failed(self, handle: Any, exception: BaseException) -> None:
        callback = helpers._format_callback_source(handle._callback, handle._args)
        context = {"message": f"Exception in callback {callback}", "exception": exception, "handle": handle}
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        self.call_exception_handler(context)

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """A timer's handle of the standard library was cancelled: none of them is scheduled here."""

    # ---- tasks

    def set_task_factory(self, factory: Any) -> None:
        """Have `create_task` call `factory(loop, coro, **kwargs)`; None for tasks of asyncio itself."""
        super().set_task_factory(factory)
        self._own_tasks = factory is not None
        self._factory_takes_name = factory is not None and _takes(factory, "name")

    def _slow_create_task(self, coro: Any, *, name: object = None, context: Any = None, **kwargs: Any) -> Any:
        self._check_closed()
        if self._task_factory is not None:
            return self._make_task(coro, name, context, kwargs)
        if kwargs:
            _settle_eagerness(kwargs)
        make: Any = tasks.Task
        task = make(coro, loop=self, name=name, context=context, **kwargs)
        if task._source_traceback:
            del task._source_traceback[-1]
        return task

    def _make_task(self, coro: Any, name: object, context: Any, kwargs: dict[str, Any]) -> Any:
        if context is not None:
            kwargs["context"] = context
        if sys.version_info < (3, 14) and kwargs.get("eager_start", True) is None:
            del kwargs["eager_start"]  # what factories know of it they have learnt in 3.14
        if name is not None and self._factory_takes_name:
            return self._task_factory(self, coro, name=name, **kwargs)
        task = self._task_factory(self, coro, **kwargs)
        if name is not None:
            # A factory may return any future; those have no names.
            set_name = getattr(task, "set_name", None)
            if set_name is not None:
                set_name(name)
        return task

    # ---- names

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """Look up addresses as `socket.getaddrinfo` does: numeric ones at once, names in a thread."""
        if not self._debug and (found := _names.addresses(host, port, family, type, proto, flags)) is not None:
            return found
        return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        """Look up names as `socket.getnameinfo` does: at once where numbers are asked for, in a thread where names are."""
        if (found := _names.name(sockaddr, flags)) is not None:
            return found
        return await super().getnameinfo(sockaddr, flags)

    # ---- functions in threads

    def run_in_executor(self, executor: Executor | None, func: Callable[[*_Ts], T], *args: *_Ts) -> asyncio.Future[T]:
        """Call `func(*args)` in a thread, of the default pool where `executor` is None, and return a future of its result.

        The default pool is a `plait.ThreadPool`, unless the program has set one; it is made when it is first needed.
        """
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None:
            self._check_default_executor()
            executor = self._default_executor
            if executor is None:
                executor = self._default_executor = plait._default_executor()
        future: asyncio.Future[T] = futures_.wrap_future(executor.submit(func, *args), loop=self)
        return future

    # ---- pipes and child processes

    def _make_read_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        return _pipes.ReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        return _pipes.WritePipeTransport(self, pipe, protocol, waiter, extra)

    def _pipe_opened(self, transport: Any) -> None:
        self._open_pipes.add(transport)
        self._count_opened()

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> Any:
        return await _subprocess.start(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, extra=extra, **kwargs
        )

    # ---- what the selector loop has instead

    @property
    def _selector(self) -> _Selector | None:
        return None if self.is_closed() else _Selector(self)

    @_selector.setter
    def _selector(self, value: object) -> None:
        """The standard loop forgets its selector in the end."""

    def _make_self_pipe(self) -> None:
        """There is none: threads wake the loop by a flag of its own, which is made when it first sleeps."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        self._push(_nothing)

    # ---- signals

    @property
    def _csock(self) -> _Writer:
        """Where Python writes the numbers of signals, as the standard loop's `add_signal_handler` wants it."""
        return _Writer(self._open_signal_pipe()[1])

    def remove_signal_handler(self, sig: int) -> bool:
        """Give a signal back its default; whether there was a handler of this loop."""
        removed = super().remove_signal_handler(sig)
        if removed and not self._signal_handlers and self.is_running():
            self._arm_signals()  # the standard library has Python write signals nowhere from here on
        return removed

    def _open_signal_pipe(self) -> tuple[int, int]:
        if self._signal_pipe is None:
            self._signal_pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._add_reader(self._signal_pipe[0], self._read_signals)
        return self._signal_pipe

    def _arm_signals(self) -> None:
        """Have every signal wake the loop from now on, so that none is seen late; called before the first sleep of a run."""
        if threading.main_thread().ident != self._thread_id:
            return
        try:
            writer = self._open_signal_pipe()[1]
            before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        except (ValueError, OSError):
            return  # no descriptor is left, or Python's main thread is another: a signal still ends a system call
        if before != writer:
            self._wakeup_before = before

    def _disarm_signals(self) -> None:
        """Give back the place where signals are written to, with those that came and were not seen yet."""
        if self._signal_pipe is None or (self._signal_handlers and not self._closed):
            return
        try:
            found = signal.set_wakeup_fd(self._wakeup_before)
            if found != self._signal_pipe[1]:
                signal.set_wakeup_fd(found)  # somebody has taken it meanwhile
        except (ValueError, OSError):
            pass
        self._read_signals()
        self._wakeup_before = -1

    def _read_signals(self) -> None:
        if self._signal_pipe is None:
            return
        try:
            data = os.read(self._signal_pipe[0], 4096)
        except BlockingIOError:
            return
        if self._wakeup_before >= 0:
            try:
                os.write(self._wakeup_before, data)
            except OSError:
                pass
        self._process_self_data(data)


class _Writer:
    """The number of a descriptor in the shape of a file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


class _Selector:
    """What the standard library's transports ask of a selector."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop

    def get_key(self, fd: int) -> Any:
        reader, writer = self._loop._watchers(fd)
        if reader is None and writer is None:
            raise KeyError(f"{fd!r} is not registered")
        wanted = (selectors.EVENT_READ if reader else 0) | (selectors.EVENT_WRITE if writer else 0)
        return selectors.SelectorKey(fd, fd, wanted, (reader, writer))

    def close(self) -> None:
        """Nothing is its own."""


def _nothing() -> None:
    """Something to wake up for."""


def _takes(function: Any, name: str) -> bool:
    """Whether a function can be called with an argument of that name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        each.kind is each.VAR_KEYWORD or (each.name == name and each.kind is not each.POSITIONAL_ONLY)
        for each in parameters
    )


def _settle_eagerness(kwargs: dict[str, Any]) -> None:
    """Leave `eager_start` to the interpreters that know it."""
    if kwargs.get("eager_start", True) is None:
        del kwargs["eager_start"]
    elif sys.version_info < (3, 12) and kwargs.pop("eager_start", False):
        raise NotImplementedError("eager_start: Python 3.11 has no eager tasks")


def _before_fork() -> None:
    """Write out what transports have taken in this turn: the child has a copy, and would write it as well."""
    loop = events._get_running_loop()
    if isinstance(loop, _core.LoopCore):
        loop._write_out()


os.register_at_fork(before=_before_fork)
