"""`plait advise`: what the calls that a program makes most of would take under each concurrency model."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Final

from plait.cli import _script, _usage
from plait.cli._usage import Option, WrongUsage

if TYPE_CHECKING:
    from plait.advice import Advice

__all__ = ["run"]

_USAGE: Final = """\
usage: plait advise [options] script.py [args ...]
       plait advise [options] -m module [args ...]
       plait advise [options] -c code [args ...]
       plait advise [options] FILE

Runs the program once, to its end, looks at the calls that it makes most of, and tells what these would take one
after the other, in threads, processes, tasks of asyncio, subinterpreters, and without a GIL.
Of FILE, a saved profile, it takes the tasks, the calls of pools, the threads or the functions called in loops.

  --cores N[,N...]     numbers of cores to predict (1,2,4,8,64); the advice is for the
                       only one, or else for this machine
  --json               as JSON, to standard output; the program's own output goes to
                       standard error then
  --html FILE          as one page that needs nothing else
  -q, --quiet          no table

Options stand before the program or directly behind it. Its own arguments begin at the first
word that is none of them, or after --: plait advise script.py --json -- --json gives the
program --json.
"""

_OPTIONS: Final = {
    "--cores": Option(True),
    "--json": Option(False),
    "--html": Option(True),
    "--quiet": Option(False),
    "--help": Option(False),
}
#: Options that are the program's own where they stand behind it.
_OF_THE_PROGRAM: Final = ("--help", "-h")
#: What stands before a program that is no file.
_NAMED: Final = ("-m", "-c")
_SHORT: Final = {"-q": "--quiet", "-h": "--help"}


def run(words: list[str]) -> int:
    """Run the command; return the code to exit with."""
    given, rest = _usage.parse(words, _OPTIONS, _SHORT)
    ended = len(rest) < len(words) and words[len(words) - len(rest) - 1] == "--"
    if rest and not _is_script(rest[0]):  # a file has no arguments: options may follow
        more, left = _usage.parse(rest[1:], _OPTIONS, _SHORT)
        given, rest = given + more, [rest[0], *left]
    elif not ended:
        program = 2 if rest[:1] and rest[0] in _NAMED else 1
        more, left = _behind(rest[program:])
        given, rest = given + more, [*rest[:program], *left]
    options = dict(given)
    if "--help" in options:
        sys.stdout.write(_USAGE)
        return 0
    if not rest or (rest[0] in _NAMED and len(rest) < 2):
        raise WrongUsage("advise needs a script, -m module, -c code, or a saved profile")
    cores = _cores(options["--cores"]) if "--cores" in options else None
    page = options.get("--html")
    if "--html" in options:
        _usage.check_file("--html", page)
    as_json = "--json" in options
    if not _is_script(rest[0]):
        if len(rest) > 1:
            raise WrongUsage(f"advise takes one file, not {rest[1]!r} as well")
        advice = _of_file(rest[0], cores)
    else:
        from plait.advice import _advise, _program

        if rest[0] not in _NAMED:
            _script.check(rest[0])
        try:
            record = _program.run(rest, apart=as_json)
        except FileNotFoundError:
            raise WrongUsage(f"there is no script {rest[0]!r}") from None
        except _program.ProgramError as error:
            sys.stderr.write(f"plait: no advice: {error}\n")
            return error.code
        advice = _advise.of_calls(record, cores)
    return _tell(advice, as_json, page, "--quiet" in options)


def _behind(words: list[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Options directly behind the program, up to the first word that is none; and the program's own arguments."""
    found: list[tuple[str, str | None]] = []
    while words and words[0] != "--":
        name, equals, _ = words[0].partition("=")
        option = _OPTIONS.get(_SHORT.get(name, name))
        if option is None or name in _OF_THE_PROGRAM:
            return found, words
        takes = 2 if option.takes_value and not equals else 1
        found += _usage.parse(words[:takes], _OPTIONS, _SHORT)[0]
        words = words[takes:]
    return found, words[1:]


def _is_script(word: str) -> bool:
    return word in _NAMED or word.endswith((".py", ".pyw")) or _script.says_python(word)


def _cores(text: str | None) -> list[int]:
    try:
        cores = [int(word) for word in (text or "").split(",")]
    except ValueError:
        raise WrongUsage(f"--cores needs numbers, as in 1,2,4, not {text!r}") from None
    if any(not 1 <= each <= 1024 for each in cores):
        raise WrongUsage(f"--cores must be from 1 to 1024, not {text}")
    return cores


def _of_file(path: str, cores: list[int] | None) -> Advice:
    from plait.advice import advise

    try:
        profile = _usage.load(path)
    except WrongUsage as error:
        if not os.path.isfile(path):
            raise
        raise WrongUsage(f"{error}, and no Python program that is called .py or says so in its first line") from None
    return advise(profile, cores=cores)


def _tell(advice: Advice, as_json: bool, page: str | None, quiet: bool) -> int:
    if page:
        advice.to_html(page)
    if as_json:
        sys.stdout.write(json.dumps(advice.to_dict(), indent=2, allow_nan=False) + "\n")
    elif not quiet:
        sys.stdout.write(str(advice))
    sys.stdout.flush()
    return 0
