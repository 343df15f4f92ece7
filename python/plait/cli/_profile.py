"""`plait profile`: runs a program as Python itself would, observed from inside, and tells what it did.

The program is a process of its own, so that it is in everything what it is without: its arguments, its paths, its tracebacks,
its signals, its end. This process waits for it, passes signals on, and puts the report together, whatever has become of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any, Final

from plait.cli import _output, _usage
from plait.cli._usage import Option, WrongUsage

__all__ = ["run"]

_USAGE: Final = f"""\
usage: plait profile [options] script.py [args ...]
       plait profile [options] -m module [args ...]
       plait profile [options] -c code [args ...]

Runs the program and tells how long its threads, processes and tasks ran, waited and for what. The summary goes to
standard error when the program has ended; its own output and its exit code are what they are without.

  --rate N             stacks a second to look at (100); 0 for none
  --no-children        observe this process alone
  --no-tasks           do not observe tasks of event loops
{_output.HELP}"""

_OPTIONS: Final = {
    **_output.OPTIONS,
    "--rate": Option(True),
    "--no-children": Option(False),
    "--no-tasks": Option(False),
}

_PASSED_ON: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def run(words: list[str]) -> int:
    """Run the command; return the code to exit with."""
    from plait.observe import _session

    given, program = _usage.parse(words, _OPTIONS, _output.SHORT)
    names = {name for name, _ in given}
    if "--help" in names:
        sys.stdout.write(_USAGE)
        return 0
    if not program or (program[0] in {"-m", "-c"} and len(program) < 2):
        raise WrongUsage("profile needs a program: a script, -m module or -c code")
    if not program[0].startswith("-") and not os.path.exists(program[0]):
        raise WrongUsage(f"there is no file {program[0]!r}")  # rather than a report on an interpreter that found none
    if sys.flags.no_site or sys.flags.ignore_environment or sys.flags.isolated:
        raise WrongUsage("profile cannot look into a Python that runs with -I, -E or -S")
    output = _output.Output(given)
    folder = tempfile.mkdtemp(prefix="plait-profile-")
    try:
        settings = _session.Settings(folder, _rate(given), "--no-tasks" not in names, "--no-children" not in names)
        pid, status = _run_program(program, settings)
        return _tell(folder, output, pid, _code(status))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rate(given: list[tuple[str, str | None]]) -> float:
    rate = 100.0
    for name, value in given:
        if name == "--rate":
            try:
                rate = float(value or "")
            except ValueError:
                raise WrongUsage(f"--rate needs a number of stacks a second, not {value!r}") from None
            if not 0 <= rate <= 10_000:
                raise WrongUsage(f"--rate must be from 0 to 10000 stacks a second, not {value}")
    return rate


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _run_program(program: list[str], settings: Any) -> tuple[int, int]:
    """Run it to its end: its number, and the status of its end."""
    from plait.observe import _children

    flags: Any = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command: list[str] = [sys.executable, *flags, *program]
    environment = _children.environment(settings, dict(os.environb))
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    awaited = {*_PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        pid = os.posix_spawn(sys.executable, command, environment, setsigmask=before)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return pid, status
            caught = signal.sigwaitinfo(awaited)
            # The terminal's own go to the program too; those that somebody sends are meant for it.
            if caught.si_signo != signal.SIGCHLD and caught.si_code <= 0:
                os.kill(pid, caught.si_signo)
    finally:
        # What came after its end is nobody's.
        while signal.sigtimedwait(awaited, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tell(folder: str, output: _output.Output, pid: int, code: int) -> int:
    """Make the report."""
    from plait.observe import _profile

    whole = os.path.join(folder, "whole")
    try:
        record = _profile.collect(folder, whole, {pid: code})
        kept = output.write(_profile.Profile(record, whole), sys.stderr)
    except BrokenPipeError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        sys.stderr.write(f"plait: no report: {error} (the program ended with {code})\n")
        return 125
    return code if kept or code else 1
