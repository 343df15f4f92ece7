"""`plait compare`: the models side by side, on this machine: the textbook's table, or a function of the user's own."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from plait.cli import _usage
from plait.cli._usage import Option, WrongUsage

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]

_USAGE: Final = """\
usage: plait compare [options]
       plait compare [options] file.py:function

Without a function: measures what texts say of asyncio, threads and processes; takes about a minute, a quarter of it
with --quick. With one: makes its calls one after the other, in threads, in processes, or as tasks, in turns, in an
interpreter of their own, and says what was predicted of each, and whether the results are the same.

  --over NAME          what the function is called with, item by item: an iterable in the
                       file, or a function that returns one (ITEMS; where there is none, it
                       is called without arguments)
  --calls N            how often, if it is called without arguments (20)
  --rounds N           rounds that are measured (3)
  --workers N[,N...]   numbers of threads and processes (the cores, and four times as many threads)
  --quick              fewer rounds, coarser figures
  --json               as JSON
  --markdown           in Markdown
  --html FILE          as one page that needs nothing else

Exit codes: 0; 1 if the function failed in every way; 2 for wrong usage; 125 if plait itself failed.
"""

_OPTIONS: Final = {
    "--over": Option(True),
    "--calls": Option(True),
    "--rounds": Option(True),
    "--workers": Option(True),
    "--quick": Option(False),
    "--json": Option(False),
    "--markdown": Option(False),
    "--html": Option(True),
    "--help": Option(False),
}
_SHORT: Final = {"-h": "--help"}
_OF_FUNCTIONS: Final = ("--over", "--calls", "--rounds", "--workers")


def run(words: list[str]) -> int:
    """Run the command; return the code to exit with."""
    given, rest = _usage.parse(words, _OPTIONS, _SHORT)
    more, left = _usage.parse(rest[1:], _OPTIONS, _SHORT)
    options = dict(given + more)
    if "--help" in options:
        sys.stdout.write(_USAGE)
        return 0
    if left:
        raise WrongUsage(f"compare takes one function, not {left[0]!r} as well")
    if "--html" in options:
        _usage.check_file("--html", options["--html"])
    if "--json" in options and "--markdown" in options:
        raise WrongUsage("--json and --markdown both go to standard output: take one")
    return _function(rest[0], options) if rest else _textbook(options)


def _textbook(options: dict[str, str | None]) -> int:
    from plait.compare import _render, textbook

    for name in _OF_FUNCTIONS:
        if name in options:
            raise WrongUsage(f"{name} is for a function: plait compare file.py:function")

    def progress(name: str) -> None:
        sys.stderr.write(f"plait: measuring {name}\n")
        sys.stderr.flush()

    comparison = textbook(quick="--quick" in options, progress=progress)
    _tell(comparison, options, _render.text, _render.markdown, _render.page)
    return 0


def _function(word: str, options: dict[str, str | None]) -> int:
    from plait.compare import _function as function, _render_function as render

    path, colon, name = word.rpartition(":")
    if not colon or not path or not name:
        raise WrongUsage(f"a function is given as file.py:function, not {word!r}")
    try:
        found = function.compare_function(
            path,
            name,
            over=options.get("--over"),
            calls=_numbers(options, "--calls", 20)[0],
            rounds=_numbers(options, "--rounds", 2 if "--quick" in options else 3)[0],
            workers=tuple(_numbers(options, "--workers")),
        )
    except function.FunctionError as error:
        raise WrongUsage(str(error)) from None
    _tell(found, options, render.text, render.markdown, render.page)
    if any(way.measured for way in found.ways):
        return 0
    sys.stderr.write(f"plait: {name!r} failed in every way\n")
    return 1


def _numbers(options: dict[str, str | None], name: str, usual: int | None = None) -> list[int]:
    text = options.get(name)
    if text is None:
        return [] if usual is None else [usual]
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise WrongUsage(f"{name} needs numbers, not {text!r}") from None
    if any(not 1 <= each <= 100_000 for each in numbers) or (usual is not None and len(numbers) != 1):
        raise WrongUsage(f"{name} must be a positive number, not {text}")
    if name == "--workers" and max(numbers) > 256:
        raise WrongUsage(f"--workers must be from 1 to 256, not {text}")
    return numbers


def _tell(
    found: Any,
    options: dict[str, str | None],
    text: Callable[[Any], str],
    markdown: Callable[[Any], str],
    page: Callable[[Any], str],
) -> None:
    path = options.get("--html")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(page(found))
    if "--json" in options:
        sys.stdout.write(json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n")
    elif "--markdown" in options:
        sys.stdout.write(markdown(found))
    else:
        sys.stdout.write(text(found))
    sys.stdout.flush()
