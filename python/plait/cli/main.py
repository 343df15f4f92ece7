"""The command line: which command, and what it ends with.

| exit code | what |
|---|---|
| the program's own | `plait profile`, `plait top` or `plait advise` ran it; 128 + n if signal n ended it |
| 1 | a rule of `--fail-if` held, and the program itself ended with 0 |
| 2 | wrong usage |
| 125 | plait itself failed |
"""

from __future__ import annotations

import sys

from plait.cli._usage import WrongUsage, plainly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["FAILED", "main"]

FAILED: Final = 125

_USAGE: Final = """\
usage: plait COMMAND ...

  plait profile [options] script.py [args ...]   run a program and tell what it did with its time
  plait profile [options] -m module [args ...]
  plait report FILE [options]                    the same of a profile that was saved
  plait top [options] --pid N                    what the threads of a running program do
  plait top [options] -- command [args ...]
  plait advise [options] script.py [args ...]    what its calls would take under each concurrency model
  plait compare [options]                        asyncio, threads and processes, measured on this machine
  plait compare [options] file.py:function       a function of yours under every model, measured

`plait COMMAND --help` tells the options.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Its words; by default those that the program was called with.

    Returns:
        The code to exit with.
    """
    words = sys.argv[1:] if arguments is None else arguments
    _replace_closed()
    if not words:
        sys.stderr.write(_USAGE)
        return 2
    command, *rest = words
    try:
        if command in {"-h", "--help", "help"}:
            sys.stdout.write(_USAGE)
            return 0
        if command in {"-V", "--version"}:
            import plait

            sys.stdout.write(f"plait {plait.__version__}\n")
            return 0
        if command == "profile":
            from plait.cli import _profile

            return _profile.run(rest)
        if command == "report":
            from plait.cli import _report

            return _report.run(rest)
        if command == "top":
            from plait.cli import _top

            return _top.run(rest)
        if command == "advise":
            from plait.cli import _advise

            return _advise.run(rest)
        if command == "compare":
            from plait.cli import _compare

            return _compare.run(rest)
        raise WrongUsage(f"there is no command {command!r}; there are profile, report, top, advise and compare")
    except WrongUsage as error:
        sys.stderr.write(f"plait: {error}\n")
        return 2
    except BrokenPipeError:  # whoever read the report has seen enough
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (OSError, ValueError, RuntimeError) as error:
        sys.stderr.write(f"plait: {plainly(error)}\n")
        return FAILED


def _replace_closed() -> None:
    """Let what is written to a stream that was closed from the beginning go nowhere, and its number be no other file's."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open("/dev/null", "w"))  # noqa: SIM115 - for as long as the process lives
