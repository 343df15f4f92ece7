"""`plait profile`: runs a program as Python itself would, observed from inside, and tells what it did.

The program is a process of its own, so that it is in everything what it is without: its arguments, its paths, its tracebacks,
its signals, its end. This process waits for it, passes signals on, and puts the report together, whatever has become of it.
"""

from __future__ import annotations

import os
import sys
import time

from plait.cli import _output, _script, _usage
from plait.cli._usage import Option, WrongUsage
from plait.cli._witness import Witness
from plait.observe._settings import Settings, environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, Final

    from plait.observe._ended import Ended
else:
    import _signal as signal  # what makes enumerations of these numbers takes longer to load than all of this

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
    given, program = _usage.parse(words, _OPTIONS, _output.SHORT)
    names = {name for name, _ in given}
    if "--help" in names:
        sys.stdout.write(_USAGE)
        return 0
    if not program or (program[0] in {"-m", "-c"} and len(program) < 2):
        raise WrongUsage("profile needs a program: a script, -m module or -c code")
    if not program[0].startswith("-") and not os.path.exists(program[0]):
        raise WrongUsage(f"there is no file {program[0]!r}")  # rather than a report on an interpreter that found none
    if not program[0].startswith("-"):
        _script.check(program[0])
    if sys.flags.no_site or sys.flags.ignore_environment or sys.flags.isolated:
        raise WrongUsage("profile cannot look into a Python that runs with -I, -E or -S")
    output = _output.Output(given)
    folder = _folder()
    try:
        settings = Settings(folder, _rate(given), "--no-tasks" not in names, "--no-children" not in names)
        return _tell(folder, output, _run_program(program, settings, output))
    finally:
        if os.path.exists(folder):
            _remove(folder)


def _folder() -> str:
    """Make a folder that nobody else can look into, as `tempfile` does, which takes longer to load than the rest of this."""
    tried = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for parent in filter(None, [*tried, "/tmp", "/var/tmp", "/usr/tmp"]):
        folder = os.path.join(os.path.abspath(parent), f"plait-profile-{os.urandom(6).hex()}")
        try:
            os.mkdir(folder, 0o700)
        except OSError:
            continue
        return folder
    import tempfile

    return tempfile.mkdtemp(prefix="plait-profile-")


def _remove(folder: str) -> None:
    """Remove it with its files."""
    try:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError:  # a process that lives on may write to it now
        import shutil

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


def _flags() -> list[str]:
    """Return the options of this interpreter that its children are to have."""
    first = sys.orig_argv[1] if len(sys.orig_argv) > 1 else "-"
    if first == "-m" or not first.startswith("-"):  # it has none but those of the environment, which they get too
        return []
    import subprocess

    own: Any = subprocess
    return [*own._args_from_interpreter_flags()]


def _load(output: _output.Output) -> None:
    """Load what the report needs, while the program runs."""
    from plait.observe import _ended, _profile

    if not output.quiet:
        from plait.observe.report import terminal

        del terminal
    del _ended, _profile


def _run_program(program: list[str], settings: Settings, output: _output.Output) -> Ended:
    """Run it to its end."""
    command = [sys.executable, *_flags(), *program]
    changed = environment(settings, dict(os.environb))
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    awaited = {*_PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    witness = Witness(set(_PASSED_ON), command)
    try:
        began = time.monotonic()
        early: list[int] = []
        while (caught := signal.sigtimedwait(awaited, 0)) is not None:
            early.append(caught.si_signo)  # there was no program yet
        pid = os.posix_spawn(sys.executable, command, changed, setsigmask=before)
        for number in early:
            os.kill(pid, number)
        _load(output)
        while True:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                from plait.observe._ended import Ended

                return Ended(_name(program), pid, status, time.monotonic() - began, usage)
            caught = signal.sigwaitinfo(awaited)
            number = caught.si_signo
            if number != signal.SIGCHLD and not witness.has_too(pid, number, caught.si_code <= 0):
                os.kill(pid, number)
    finally:
        witness.close()
        # What came after its end is nobody's.
        while signal.sigtimedwait(awaited, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _name(program: list[str]) -> str:
    """What a program calls itself in its profile."""
    if program[0] == "-c":
        return "python -c"
    return f"-m {program[1]}" if program[0] == "-m" else os.path.basename(program[0])


def _tell(folder: str, output: _output.Output, ended: Ended) -> int:
    """Make the report."""
    from plait.observe import _profile

    whole = os.path.join(folder, "whole")
    kept, failure = True, ""
    try:
        record = _profile.collect(folder, whole, ended, detail=output.detail)
        kept = output.write(_profile.Profile(record, whole), sys.stderr)
    except BrokenPipeError:
        raise
    except _output.Unwritten as error:
        failure = f"{error}; {_keep(folder, whole)}"
    except (OSError, ValueError, RuntimeError) as error:
        failure = f"no report: {error}"
        if isinstance(error, OSError):  # the disk is full, say
            failure += f"; {_keep(folder, None)}"
    if failure:
        sys.stderr.write(f"plait: {failure} (the program ended with {ended.code})\n")
        return 125
    return ended.code if kept or ended.code else 1


def _keep(folder: str, whole: str | None) -> str:
    """Keep what was seen: the whole trace, or, where it could not be put together, its parts. Say where."""
    kept = f"{folder}.{'parts' if whole is None else 'plait'}"
    try:
        os.rename(whole or folder, kept)
    except OSError as error:
        return f"its trace is lost: {error}"
    return f"the trace is {kept!r}: `plait report` reads it"
