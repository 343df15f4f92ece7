"""The errors of plait: each one is a subclass of what a caller already catches.

    Exception
     ├── RuntimeError
     │    ├── concurrent.futures.process.BrokenProcessPool
     │    │    └── WorkerDied        a worker was killed, crashed or left while it ran a task
     │    ├── OwnerDied              the process that held a shared lock or channel died
     │    ├── LimitExceeded          a task went over a limit of `plait.Limits`
     │    ├── DeadlockError          tasks wait for one another in a circle
     │    └── threading.BrokenBarrierError, asyncio.BrokenBarrierError
     │         └── BrokenBarrierError  a barrier is broken, or was broken or reset meanwhile
     ├── TimeoutError
     │    └── TaskTimeout            a task ran longer than its `timeout`
     ├── concurrent.futures.CancelledError
     │    └── TaskCancelled          a task was stopped by `future.kill()` or Ctrl-C
     ├── pickle.PicklingError
     │    └── NotPicklable           a function, an argument or a result cannot travel
     ├── queue.Empty, asyncio.QueueEmpty
     │    └── ChannelEmpty           a channel has no message, or had none in time
     ├── queue.Full, asyncio.QueueFull
     │    └── ChannelFull            a channel has no room, or had none in time
     └── queue.ShutDown, asyncio.QueueShutDown (where Python has them: from 3.13 on)
          └── ChannelShutDown        a channel was shut down and has no message left

Fields are keyword arguments, and the message is made from them; a message given as the only positional argument is kept
instead. Fields, message and notes survive `pickle` and `copy`, since errors of nested pools travel. `import plait` does
not load this module: it needs `concurrent.futures.process`, which is slow to import.
"""

from __future__ import annotations

import concurrent.futures
import pickle
import signal as signals
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait._barrier_error import BrokenBarrierError
    from plait._channel_errors import ChannelEmpty, ChannelFull, ChannelShutDown

__all__ = [
    "BrokenBarrierError",
    "ChannelEmpty",
    "ChannelFull",
    "ChannelShutDown",
    "DeadlockError",
    "LimitExceeded",
    "NotPicklable",
    "OwnerDied",
    "TaskCancelled",
    "TaskTimeout",
    "WorkerDied",
]


def __getattr__(name: str) -> Any:
    home: Any
    if name == "BrokenBarrierError":
        from plait import _barrier_error

        home = _barrier_error
    elif name in {"ChannelEmpty", "ChannelFull", "ChannelShutDown"}:
        from plait import _channel_errors

        home = _channel_errors
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(home, name))


_CRASHES = frozenset(
    {signals.SIGSEGV, signals.SIGBUS, signals.SIGABRT, signals.SIGFPE, signals.SIGILL, signals.SIGSYS, signals.SIGTRAP}
)


class WorkerDied(BrokenProcessPool):
    """The worker that ran a task was killed, crashed, or left with `os._exit`.

    Only the task it ran is lost; the pool has replaced the worker and goes on. What to do next: look at `.signal`.
    SIGKILL without your doing is mostly the kernel short of memory (the message says so when its counter rose): use
    fewer workers or `plait.Limits`. SIGSEGV is a bug in an extension module. If the task may run twice, submit it
    through `pool.options(retries=1)`.

    Args:
        pid: Process id of the worker.
        signal: Number of the signal that ended it; `None` if it exited.
        exitcode: Its exit code, or minus the signal, as in `multiprocessing`.
        task: Qualified name of the function.
        index: Which item of a `map`, from 0; `None` for `submit`.
        tries: How often the item was begun, this time included.
        max_tries: How often it may be begun, that is 1 + `retries`.
        hint: The likely reason, put at the end of the message.

    >>> error = WorkerDied(pid=812, signal=9, task="mod.fn", index=3, tries=1, max_tries=2)
    >>> print(error)
    worker 812 was killed by SIGKILL while it ran mod.fn (item 3, try 1 of 2)
    >>> error.signal, error.exitcode
    (<Signals.SIGKILL: 9>, -9)
    >>> print(WorkerDied(pid=812, exitcode=3, task="mod.fn"))
    worker 812 exited with code 3 while it ran mod.fn
    >>> isinstance(error, concurrent.futures.BrokenExecutor)
    True
    """

    pid: int | None
    signal: int | None
    exitcode: int | None
    task: str | None
    index: int | None
    tries: int
    max_tries: int | None
    hint: str | None

    def __init__(
        self,
        message: str | None = None,
        /,
        *,
        pid: int | None = None,
        signal: int | None = None,
        exitcode: int | None = None,
        task: str | None = None,
        index: int | None = None,
        tries: int = 1,
        max_tries: int | None = None,
        hint: str | None = None,
    ) -> None:
        if signal is None and exitcode is not None and exitcode < 0:
            signal = -exitcode
        elif exitcode is None and signal is not None:
            exitcode = -signal
        self.pid = pid
        self.signal = None if signal is None else _known_signal(signal)
        self.exitcode = exitcode
        self.task = task
        self.index = index
        self.tries = tries
        self.max_tries = max_tries
        self.hint = hint
        super().__init__(self._describe() if message is None else message)

    def _describe(self) -> str:
        worker = "a worker" if self.pid is None else f"worker {self.pid}"
        if self.signal is not None:
            end = f"{'crashed with' if self.signal in _CRASHES else 'was killed by'} {_signal_name(self.signal)}"
        else:
            end = "died" if self.exitcode is None else f"exited with code {self.exitcode}"
        details = [] if self.index is None else [f"item {self.index}"]
        if self.tries > 1 or (self.max_tries or 1) > 1:
            details.append(f"try {self.tries}" + ("" if self.max_tries is None else f" of {self.max_tries}"))
        ran = "" if self.task is None else f" while it ran {self.task}"
        aside = f" ({', '.join(details)})" if details else ""
        return f"{worker} {end}{ran}{aside}{'' if self.hint is None else f'; {self.hint}'}"


class OwnerDied(RuntimeError):
    """The process that held a shared lock, or shared memory, or the last one at the other end of a shared channel, is gone.

    Of memory it also says that the process has let go of it: whoever sends a handle by a road that plait does not see must keep
    its own until it has arrived.

    What the lock protected may be half changed, and the lock was not acquired. What to do next: call its `recover()`, which
    takes it over. If that returns True, put the state right or throw it away; if False, somebody else did so meanwhile.
    Then go on, and release the lock.

    >>> raise OwnerDied("process 812 died while it held <plait.Lock 'table'>")
    Traceback (most recent call last):
    ...
    plait.errors.OwnerDied: process 812 died while it held <plait.Lock 'table'>
    """


class TaskTimeout(TimeoutError):
    """A task ran longer than the `timeout` it was given.

    A task in a process was stopped, together with what it had started. A thread cannot be killed: a task of a `ThreadPool`
    goes on in its thread, which takes no other one until it returns, and `.thread` has that thread's name.

    It is not raised where only the *waiting* took too long (`future.result(timeout=...)`): that is a plain
    `TimeoutError`, and the task goes on. What to do next: look at `.stack` to see where it stood; give it more time
    with `pool.options(timeout=...)`, or cut it into smaller items.

    Args:
        task: Qualified name of the function.
        index: Which item of a `map`, from 0; `None` for `submit`.
        timeout: The limit, in seconds.
        stack: Where the task stood then: the worker's Python stack, as `faulthandler` or `traceback` prints it; `None` if it
            could not be had.
        thread: Name of the thread in which the task goes on; `None` if it was stopped.

    >>> error = TaskTimeout(task="mod.fn", index=3, timeout=2.5)
    >>> print(error)
    mod.fn (item 3) ran longer than its timeout of 2.5 s
    >>> isinstance(error, TimeoutError)
    True
    """

    task: str | None
    index: int | None
    timeout: float | None
    stack: str | None
    thread: str | None

    def __init__(
        self,
        message: str | None = None,
        /,
        *,
        task: str | None = None,
        index: int | None = None,
        timeout: float | None = None,
        stack: str | None = None,
        thread: str | None = None,
    ) -> None:
        self.task = task
        self.index = index
        self.timeout = timeout
        self.stack = stack
        self.thread = thread
        super().__init__(self._describe() if message is None else message)

    def _describe(self) -> str:
        item = "" if self.index is None else f" (item {self.index})"
        limit = "" if self.timeout is None else f" of {self.timeout:g} s"
        text = f"{self.task or 'a task'}{item} ran longer than its timeout{limit}"
        if self.thread is not None:
            text += f" and goes on in thread {self.thread!r}, since a thread cannot be killed"
        return f"{text}; it stood at:\n{self.stack.rstrip()}" if self.stack else text


class TaskCancelled(concurrent.futures.CancelledError):
    """A task was stopped while it ran, by `future.kill()`, by Ctrl-C or by a shutdown that does not wait.

    What to do next: nothing, mostly; it was asked for. It is a `concurrent.futures.CancelledError`, so code that handles
    `future.cancel()` handles it. What the task had already done outside its worker stays done.

    Args:
        task: Qualified name of the function.

    >>> print(TaskCancelled(task="mod.fn"))
    mod.fn was cancelled
    >>> isinstance(TaskCancelled(), concurrent.futures.CancelledError)
    True
    """

    task: str | None

    def __init__(self, message: str | None = None, /, *, task: str | None = None) -> None:
        self.task = task
        super().__init__(f"{task or 'a task'} was cancelled" if message is None else message)


class LimitExceeded(RuntimeError):
    """A task went over one of the pool's `Limits`.

    Only this task fails. What to do next: raise the limit, or give the task less to hold at once (smaller items, results
    written to a file). `.used` says how far it came, where that is known.

    Args:
        limit: Name of the limit, as in `plait.Limits`: `"memory"`.
        value: The limit as it was set: bytes for memory.
        task: Qualified name of the function.
        used: What the task had reached, in the same unit; `None` if that is not known.

    >>> error = LimitExceeded(limit="memory", value=512 << 20, task="mod.fn", used=530 << 20)
    >>> print(error)
    mod.fn exceeded its memory limit of 512.0 MiB (it used 530.0 MiB)
    >>> error.limit, error.value
    ('memory', 536870912)
    """

    limit: str | None
    value: float | None
    task: str | None
    used: float | None

    def __init__(
        self,
        message: str | None = None,
        /,
        *,
        limit: str | None = None,
        value: float | None = None,
        task: str | None = None,
        used: float | None = None,
    ) -> None:
        self.limit = limit
        self.value = value
        self.task = task
        self.used = used
        super().__init__(self._describe() if message is None else message)

    def _describe(self) -> str:
        name = "a limit" if self.limit is None else f"its {self.limit.replace('_', ' ')} limit"
        figure = "" if self.value is None else f" of {_figure(self.limit, self.value)}"
        used = "" if self.used is None else f" (it used {_figure(self.limit, self.used)})"
        return f"{self.task or 'a task'} exceeded {name}{figure}{used}"


class DeadlockError(RuntimeError):
    """Tasks, threads or processes wait for one another in a circle, and none of them can go on.

    It is raised in one of them, which waits no longer and has not got what it waited for, where
    `plait.sync.watch_deadlocks()` is on. The message names the waiters, the locks and the lines. What to do next: take the
    locks in the same order everywhere.

    Args:
        parties: The waiters, each as the message names it.

    >>> raise DeadlockError("thread A waits for lock 2 held by thread B, which waits for lock 1 held by thread A")
    Traceback (most recent call last):
    ...
    plait.errors.DeadlockError: thread A waits for lock 2 held by thread B, which waits for lock 1 held by thread A
    """

    parties: tuple[str, ...]

    def __init__(self, message: str = "a deadlock", /, *, parties: tuple[str, ...] = ()) -> None:
        self.parties = parties
        super().__init__(message)


class NotPicklable(pickle.PicklingError):
    """A function, an argument or a result cannot be sent to another process.

    What to do next: the message names the object. Define the function at the top of a module, open files and
    connections inside the task, and send names or numbers instead of handles. Installing `cloudpickle` makes lambdas,
    closures and functions of an interactive session travel.

    >>> isinstance(NotPicklable("<lambda> in mod cannot be pickled"), pickle.PicklingError)
    True
    """


def _known_signal(number: int) -> int:
    """Return the member of `signal.Signals` if there is one: it is an int that prints well."""
    try:
        return signals.Signals(number)
    except ValueError:
        return number


def _signal_name(number: int) -> str:
    known = _known_signal(number)
    return known.name if isinstance(known, signals.Signals) else f"signal {number}"


def _figure(limit: str | None, value: float) -> str:
    """Write a limit's figure in the unit people use for it."""
    if limit == "memory":
        return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    return f"{value:g} s" if limit == "cpu_time" else f"{value:g}"
