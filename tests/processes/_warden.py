"""Runs one program and waits until nothing of it is left: `_warden.py STATUS-FILE COMMAND...`.

It is the reaper of every orphan below it, so no descendant of the program can hide. It writes `{"pid": …}` and, when the
program has ended, `{"exit": …}` to the status file, and ends when the last descendant has.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    status_file, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)

    def die_with_the_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def tell(**facts: int) -> None:
        with open(status_file, "a") as file:
            file.write(json.dumps(facts) + "\n")

    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    die_with_the_parent()
    program = subprocess.Popen(command, process_group=0, preexec_fn=die_with_the_parent)
    tell(pid=program.pid)
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            break
        if pid == program.pid:
            program.returncode = os.waitstatus_to_exitcode(status)
            tell(exit=program.returncode)


main()
