"""What becomes of a profile: the summary, files, rules."""

from __future__ import annotations

import contextlib
import os
import stat
import sys

from plait.cli import _usage
from plait.cli._usage import Option, WrongUsage, check_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TextIO

    from plait.observe._profile import Profile
    from plait.observe._rules import Rule

__all__ = ["HELP", "OPTIONS", "SHORT", "Output", "Unwritten"]

OPTIONS: Final = {
    "--output": Option(True),
    "--html": Option(True),
    "--perfetto": Option(True),
    "--speedscope": Option(True),
    "--json": Option(False, may_take=".json"),
    "--fail-if": Option(True),
    "--quiet": Option(False),
    "--help": Option(False),
}

_FILES: Final = {"--output", "--html", "--perfetto", "--speedscope", "--json"}

SHORT: Final = {"-o": "--output", "-q": "--quiet", "-h": "--help"}

HELP: Final = """\
  -o, --output FILE    write a file, by its name: .html, .json, .pftrace or .perfetto,
                       .speedscope.json; any other is the trace, for `plait report`
  --html FILE          one page that needs nothing else
  --perfetto FILE      for https://ui.perfetto.dev
  --speedscope FILE    for https://www.speedscope.app
  --json[=FILE]        the figures as JSON, to standard output or to a file; the = may be left
                       out before a name that ends with .json
  --fail-if RULE       exit with 1 if the rule holds: gil_wait>20%,
                       thread:longest_gil_hold>50ms, verdict=gil-bound (may be repeated)
  -q, --quiet          no summary
"""


class Output:
    """What is to be written of a profile, and what it has to keep to."""

    def __init__(self, given: list[tuple[str, str | None]]) -> None:
        self.files: list[tuple[str, str]] = []
        """Kinds, and paths."""
        self.rules: list[Rule] = []
        self.json = False
        self.quiet = False
        for name, value in given:
            if name == "--fail-if":
                from plait.observe import _rules

                try:
                    self.rules.append(_rules.parse(value or ""))
                except ValueError as error:
                    raise WrongUsage(str(error)) from None
            elif name == "--quiet":
                self.quiet = True
            elif name == "--json" and value is None:
                self.json = True
            elif name == "--output":
                self.files.append((_kind(value or ""), value or ""))
            elif name in _FILES:
                self.files.append((name.removeprefix("--"), value or ""))
            if name in _FILES and value is not None:
                check_file(name, value)

    @property
    def detail(self) -> bool:
        """Whether more than sums is wanted of the profile itself; the trace has everything in any case."""
        return any(kind in {"html", "speedscope"} for kind, _ in self.files)

    def write(self, profile: Profile, summary: TextIO) -> bool:
        """Write everything, the summary to `summary`; return whether all rules were kept.

        Raises:
            Unwritten: Files could not be written. Everything else was.
        """
        failed: list[str] = []
        for kind, path in self.files:
            before = _looks(path)
            try:
                _write(profile, kind, path)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError):
                    error.filename = None  # it is named already
                failed.append(f"{path!r} cannot be written: {_usage.plainly(error)}")
                _remove_half(path, before)
        kept = self._show(profile, summary)
        if failed:
            raise Unwritten("; ".join(failed))
        return kept

    def _show(self, profile: Profile, summary: TextIO) -> bool:
        if self.json:
            sys.stdout.write(profile.to_json() + "\n")
            sys.stdout.flush()
        if not self.quiet and not (self.json and summary is sys.stdout):
            from plait.observe.report import terminal

            terminal.show(profile.record, summary)
        kept = True
        for rule in self.rules:
            from plait.observe import _rules

            what = _rules.broken(rule, profile.record)
            if what is not None:
                kept = False
                sys.stderr.write(f"plait: --fail-if {rule.text!r}: {what}\n")
        return kept


class Unwritten(Exception):
    """Some files could not be written; the message says which, and why."""


def _looks(path: str) -> tuple[int, ...] | None:
    """Return by what it can be told whether a file was written to; None for what is no plain file, or not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _remove_half(path: str, before: tuple[int, ...] | None) -> None:
    """Remove what was half written: nobody can use it, or tells it from a whole one."""
    now = _looks(path)
    if now is not None and now != before:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _kind(path: str) -> str:
    if path.endswith(".speedscope.json"):
        return "speedscope"
    suffix = path.rpartition(".")[2].lower()
    known = {"html": "html", "htm": "html", "json": "json", "pftrace": "perfetto", "perfetto": "perfetto"}
    return known.get(suffix, "trace")


def _write(profile: Profile, kind: str, path: str) -> None:
    if kind == "html":
        profile.to_html(path)
    elif kind == "perfetto":
        profile.to_perfetto(path)
    elif kind == "speedscope":
        profile.to_speedscope(path)
    elif kind == "json":
        profile.to_json(path)
    else:
        profile.save(path)
