"""Child processes: started by `subprocess.Popen`, their end seen through a pidfd in the loop's own epoll."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import warnings
from asyncio import base_subprocess
from typing import TYPE_CHECKING, Any

from plait.loop._standard import events_

if TYPE_CHECKING:
    from plait.loop._loop import EventLoop

logger = logging.getLogger("asyncio")


class SubprocessTransport(base_subprocess.BaseSubprocessTransport):
    """A child process with its pipes, which are pipes on every version."""

    _proc: Any

    def pid(self) -> int:
        """The number of the process, which has been started."""
        return int(self._proc.pid)

    def _start(self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any) -> None:
        self._proc = subprocess.Popen(
            args,
            shell=shell,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=False,
            bufsize=bufsize,
            **kwargs,
        )


async def start(loop: EventLoop, *args: Any, **kwargs: Any) -> SubprocessTransport:
    """Start a process, and have `loop` wait for it and for its pipes to be connected."""
    if sys.version_info < (3, 14):
        # Not needed here; but a program that has set one which does not work is told so, as ever.
        watcher = getattr(events_.get_event_loop_policy(), "_watcher", None)
        if watcher is not None:
            with watcher as entered:
                # Which of the two is asked depends on the version; they are the same but for watchers that are odd.
                if not (entered if sys.version_info < (3, 12) else watcher).is_active():
                    raise RuntimeError(
                        "asyncio.get_child_watcher() is not activated, subprocess support is not installed."
                    )
    waiter = loop.create_future()
    make: Any = SubprocessTransport
    transport: SubprocessTransport = make(loop, *args, waiter=waiter, **kwargs)
    watch(loop, transport)
    try:
        await waiter
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        transport.close()
        await transport._wait()
        raise
    return transport


def watch(loop: EventLoop, transport: SubprocessTransport) -> None:
    """Tell `transport` when its process has ended."""
    pid = transport.pid()
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        # Forbidden here, or no descriptor is left.
        thread = threading.Thread(target=wait_in_thread, args=(loop, transport), name=f"waitpid-{pid}", daemon=True)
        thread.start()
        return
    loop._child_fds.add(pidfd)
    loop._add_reader(pidfd, ended, loop, pidfd, transport)


def ended(loop: EventLoop, pidfd: int, transport: SubprocessTransport) -> None:
    loop._remove_reader(pidfd)
    loop._child_fds.discard(pidfd)
    os.close(pidfd)
    transport._process_exited(reap(transport))


def reap(transport: SubprocessTransport) -> int:
    """Wait for the process and return its exit code, as `subprocess` counts them."""
    pid = transport.pid()
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        # Somebody else has waited for it: the `Popen` itself, or a handler of SIGCHLD.
        known: int | None = transport._proc.returncode
        if known is not None:
            return known
        logger.warning("child process pid %d exit status already read: will report returncode 255", pid)
        return 255
    try:
        return os.waitstatus_to_exitcode(status)
    except ValueError:
        return status


def wait_in_thread(loop: EventLoop, transport: SubprocessTransport) -> None:
    code = reap(transport)
    if loop.is_closed():
        warnings.warn(f"Loop {loop!r} that handles pid {transport.get_pid()} is closed", ResourceWarning, stacklevel=1)
    else:
        loop.call_soon_threadsafe(transport._process_exited, code)
