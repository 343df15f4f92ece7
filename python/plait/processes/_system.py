"""What the fork server asks of the system: messages with descriptors, its children, the program's resource tracker."""

from __future__ import annotations

import array
import os
import resource
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

__all__ = [
    "DESCRIPTORS",
    "LONGEST",
    "children_of_self",
    "close",
    "kill",
    "leave_resource_tracker",
    "limit_files",
    "raise_file_limit",
    "receive",
    "resource_tracker",
    "use_resource_tracker",
]

DESCRIPTORS: Final = 7
"""How many descriptors come with `S`."""

LONGEST: Final = 1024
"""Bytes of the longest message to a server."""


def receive(connection: socket.socket) -> tuple[bytes, list[int], bool] | None:
    """Return a message (empty at the end), its descriptors, and whether these are all; `None` if nothing came yet."""
    descriptors = array.array("i")
    room = socket.CMSG_LEN(DESCRIPTORS * descriptors.itemsize)
    try:
        # Not `socket.recv_fds`, which drops the flags: what a task executes would inherit the descriptors.
        message, extra, flags, _ = connection.recvmsg(LONGEST, room, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except OSError:  # a reset is an end too
        return b"", [], True
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, descriptors.tolist(), not flags & socket.MSG_CTRUNC


def kill(pid: int) -> bool:
    """Kill a child that was not reaped yet, so that the number is still its own; tell whether that was allowed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:  # it has become another user's, as `sudo` does
        return False
    return True


def close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def raise_file_limit() -> tuple[int, int]:
    """Let this process have as many descriptors as it may; return how many that were before, for `limit_files`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit_files((hard, hard))
    return soft, hard


def limit_files(limit: tuple[int, int]) -> None:
    """Set how many descriptors this process and its children may have."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    except (ValueError, OSError):  # more than the system allows by now
        pass


def children_of_self() -> list[int]:
    """Return the process ids of all children, ended ones included."""
    found: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):  # a preloaded module may have made threads
            with open(f"/proc/self/task/{thread}/children", "rb", buffering=0) as file:
                found += map(int, file.readall().split())
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return _children_by_scan(os.getpid())
    return found


def _children_by_scan(parent: int) -> list[int]:
    """Return the children of `parent` by looking at every process there is."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                    after_name = file.readall().rpartition(b")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if int(after_name[1]) == parent:
                found.append(int(name))
    return found


def resource_tracker() -> int | None:
    """Return the pipe of the resource tracker that this process uses, its own or the program's, if there is one."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    return None if module is None else module._resource_tracker._fd


def use_resource_tracker(descriptor: int) -> None:
    """Let workers use the parent's resource tracker, or one of their own would unlink shared memory still in use."""
    import multiprocessing.resource_tracker

    tracker: Any = multiprocessing.resource_tracker
    leave_resource_tracker()
    tracker._resource_tracker._fd = descriptor


def leave_resource_tracker() -> None:
    """Let go of the parent's resource tracker, which ends when nobody holds its pipe any more."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    if module is not None and module._resource_tracker._fd is not None:
        os.close(module._resource_tracker._fd)
        module._resource_tracker._fd = None
