"""`plait report`: what a saved profile says."""

from __future__ import annotations

import sys
from typing import Final

from plait.cli import _output, _usage
from plait.cli._usage import WrongUsage

__all__ = ["run"]

_USAGE: Final = f"""\
usage: plait report FILE [options]

FILE is what `plait profile -o FILE` or `plait.profile(save=FILE)` has written, or the folder that is left
where that was killed: plait-profile-... in the folder of temporary files (TMPDIR) of the first, FILE.parts of
the second.

{_output.HELP}"""


def run(words: list[str]) -> int:
    """Run the command; return the code to exit with."""
    given, rest = _usage.parse(words, _output.OPTIONS, _output.SHORT)
    # Options may follow the file too.
    files = rest[:1]
    more, left = _usage.parse(rest[1:], _output.OPTIONS, _output.SHORT)
    if any(name == "--help" for name, _ in given + more):
        sys.stdout.write(_USAGE)
        return 0
    if not files:
        raise WrongUsage("report needs a file")
    if left:
        raise WrongUsage(f"report takes one file, not {left[0]!r} as well")
    output = _output.Output(given + more)
    profile = _usage.load(files[0])
    try:
        return 0 if output.write(profile, sys.stdout) else 1
    except _output.Unwritten as error:
        raise OSError(str(error)) from None
