"""`plait top`: what the threads of a running program do, live or as lines, seen from outside.

One thread waits for everything: the end of the process, signals, keys, and the next look at the figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from plait.cli import _screen, _usage
from plait.cli._program import Program
from plait.cli._signals import Signals
from plait.cli._usage import Option, WrongUsage
from plait.cli._witness import Witness
from plait.observe._top import Top
from plait.observe.report import terminal, top as report
from plait.observe.report.top import Order

if TYPE_CHECKING:
    from plait.observe._top import TopRecord

__all__ = ["run"]

_USAGE: Final = f"""\
usage: plait top [options] --pid N
       plait top [options] -- command [args ...]

Shows what the threads of a process and of its children do: of each how much of its time went to what, in percent, how
often it was switched in a second, and the function that it was found in most often. The process runs Python 3.11 or
newer, and belongs to the same user. A command that is started keeps its exit code.

In a terminal the figures are shown live: arrows left and right choose the column to sort by, r turns the order round,
space pauses, arrows up and down scroll, ? tells what the columns mean, q quits. Elsewhere they are lines.

  -p, --pid N          the process
  -i, --interval S     seconds from one to the next (1)
  -n, --count N        so many times, as lines
  --once               once, as lines
  --json[=FILE]        one JSON object in a line for each interval, to standard output or to a file;
                       the = may be left out before a name that ends with .json
  -s, --sort COLUMN    {", ".join(report.COLUMNS)}

{chr(10).join(report.LEGEND)}
"""

_OPTIONS: Final = {
    "--pid": Option(True),
    "--interval": Option(True),
    "--count": Option(True),
    "--once": Option(False),
    "--json": Option(False, may_take=".json"),
    "--sort": Option(True),
    "--help": Option(False),
}
_SHORT: Final = {"-p": "--pid", "-i": "--interval", "-n": "--count", "-s": "--sort", "-h": "--help"}

_STEP: Final = 0.25
"""Seconds: what ends within them is missed."""
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PASSED_ON: Final = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2)
_OF_SCREENS: Final = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


class _Settings(NamedTuple):
    """What was asked for."""

    pid: int | None
    command: list[str]
    interval: float
    most: int | None
    """So many intervals, as lines."""
    json: str | None
    """The file, empty for standard output; None for no JSON."""
    order: Order


def run(words: list[str]) -> int:
    """Run the command; return the code to exit with."""
    given, command = _usage.parse(words, _OPTIONS, _SHORT)
    if any(name == "--help" for name, _ in given):
        sys.stdout.write(_USAGE)
        return 0
    settings = _settings(given, command)
    live = settings.most is None and settings.json is None and _screen.is_able()
    awaited = [*(_PASSED_ON if command else _ENDING), *(_OF_SCREENS if live else ())]
    with contextlib.ExitStack() as stack:
        into: TextIO = sys.stderr if command and settings.json is None else sys.stdout
        if settings.json:
            into = stack.enter_context(open(settings.json, "w", encoding="utf-8"))
        witness = Witness(set(_PASSED_ON), command) if command else None
        signals = stack.enter_context(Signals(awaited))
        if witness is not None:
            stack.callback(witness.close)
            sys.stdout.flush()
            sys.stderr.flush()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                program = Program(command, signals.before, aside=live)
            except FileNotFoundError:
                raise WrongUsage(f"there is no program {command[0]!r}") from None
            except PermissionError:
                raise WrongUsage(f"{command[0]!r} cannot be run: it is no program, or there is no right to") from None
            return _OfProgram(settings, into, signals, live, program, witness).run()
        return _OfProcess(settings, into, signals, live).run()


def _settings(given: list[tuple[str, str | None]], command: list[str]) -> _Settings:
    pid: int | None = None
    interval, count, file, order = 1.0, None, None, Order()
    for name, value in given:
        word = value or ""
        if name == "--pid":
            pid = _number(name, word, "a number of a process")
        elif name == "--interval":
            interval = _interval(word)
        elif name == "--count":
            count = _number(name, word, "a number of times")
        elif name == "--once":
            count = 1
        elif name == "--json":
            file = word
        elif name == "--sort":
            order = Order(_column(word))
    if (pid is None) == (not command):
        raise WrongUsage("top needs a process (--pid N) or a command (-- command args), and not both")
    return _Settings(pid, command, interval, count, file, order)


def _number(name: str, word: str, what: str) -> int:
    if not (word.isascii() and word.isdigit() and 0 < int(word) < 1 << 31):
        raise WrongUsage(f"{name} needs {what}, not {word!r}")
    return int(word)


def _interval(word: str) -> float:
    try:
        interval = float(word)
    except ValueError:
        raise WrongUsage(f"--interval needs a number of seconds, not {word!r}") from None
    if not 0.05 <= interval <= 86_400:
        raise WrongUsage(f"--interval must be from 0.05 to 86400 seconds, not {word}")
    return interval


def _column(word: str) -> str:
    for column, title in report.COLUMNS.items():
        if word.lower() in {column, title.lower()}:
            return column
    raise WrongUsage(f"--sort needs one of {', '.join(report.COLUMNS)}, not {word!r}")


class _Watching:
    """What both ways share: figures at their times, as lines or on the screen."""

    def __init__(self, settings: _Settings, into: TextIO, signals: Signals, live: bool) -> None:
        self.settings: Final = settings
        self.into: Final = into
        self.signals: Final = signals
        self.top: Top | None = None
        self.title = ""
        self.screen: _Live | None = _Live(settings.order) if live else None
        self.shown = 0
        self.sample_at = self.show_at = 0.0

    def begin(self, top: Top, title: str) -> None:
        """Look at it from now on."""
        self.top, self.title = top, f"{top.pid} {title}"
        now = time.monotonic()
        self.sample_at = now + min(_STEP, self.settings.interval)
        # A screen is not left empty.
        self.show_at = self.sample_at if self.screen is not None else now + self.settings.interval
        if self.screen is not None:
            self.screen.enter()

    def timeout(self) -> float | None:
        """Return for how long there is nothing to do."""
        if self.top is None:
            return None
        return max(0.0, min(self.sample_at, self.show_at) - time.monotonic())

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if self.top is None or now < min(self.sample_at, self.show_at):
            return
        self.top.sample()
        self.sample_at = now + min(_STEP, self.settings.interval)
        if now < self.show_at:
            return
        if not self.top.looks:  # figures of no look say nothing: the interval becomes longer
            self.show_at = self.sample_at
            return
        self.show_at += self.settings.interval
        if self.show_at < now + self.settings.interval / 2:
            # This process, or the machine, has stood still: what is left until then is no interval.
            self.show_at = now + self.settings.interval
        self.show(self.top.interval())

    def show(self, record: TopRecord) -> None:
        """Show the figures of an interval."""
        if self.screen is not None:
            self.screen.show(record, self.title)
            return
        self.shown += 1
        self.write(record)
        if self.shown == self.settings.most:
            self.top = None

    def write(self, record: TopRecord, ended: dict[str, Any] | None = None) -> None:
        """Write lines: the figures of an interval, or, at the end, of all the time."""
        if self.settings.json is not None:
            self.into.write(json.dumps({**record, **(ended or {})}) + "\n")
        else:
            width = shutil.get_terminal_size((80, 24)).columns
            order = self.screen.order if self.screen is not None else self.settings.order
            lines = [*report.heading(record, self.title, width), *report.table(record, order, width)]
            encoding = self.into.encoding or "ascii"
            text = "".join(line.rstrip() + "\n" for line in lines) + ("\n" if ended is None else "")
            self.into.write(text.encode(encoding, "replace").decode(encoding))
        self.into.flush()

    def leave_screen(self) -> None:
        """Give the terminal back."""
        if self.screen is not None:
            self.screen.leave()

    def end(self, code: int | None) -> None:
        """The process has ended: write what was seen in all."""
        top, self.top = self.top, None
        self.leave_screen()
        if top is None:
            return
        whole = top.whole()
        if self.settings.json is None:
            what = "all that was seen of it:" if whole["threads"] else "it was too short to be seen"
            if whole["threads"] and all(process["python"] is None for process in whole["processes"]):
                what = f"it never ran Python that can be looked into; {what}"
            with_code = "" if code is None else f" with {code}"
            self.into.write(f"plait: process {top.pid} has ended{with_code}; {what}\n")
        if whole["threads"] or self.settings.json is not None:
            self.write(whole, {"ended": True, "code": code})

    def react(self, signals: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
        """Do what signals of the terminal ask for; return the others."""
        if self.screen is not None:
            for number, _ in signals:
                if number in _OF_SCREENS:
                    self.screen.react(number)
        return [(number, sent) for number, sent in signals if number not in _OF_SCREENS]


class _OfProcess(_Watching):
    """Watches a process that somebody else has started."""

    def run(self) -> int:
        pid = self.settings.pid or 0
        try:
            top = Top(pid)
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise WrongUsage(f"--pid {pid}: there is no process {pid}") from None
        try:
            self.begin(top, _command_of(pid))
            return self._run(pidfd)
        finally:
            self.leave_screen()
            os.close(pidfd)

    def _run(self, pidfd: int) -> int:
        while self.top is not None:
            awaited: list[Any] = [pidfd, self.signals, *([0] if self.screen is not None else [])]
            ready, _, _ = select.select(awaited, [], [], self.timeout())
            for number, _ in self.react(self.signals.take()):
                if self.screen is not None:
                    return 0 if number == signal.SIGINT else 128 + number
                return 128 + number
            if 0 in ready and self.screen is not None and not self.screen.press():
                return 0
            if pidfd in ready:
                self.top.sample()
                self.end(None)
                return 0
            self.tick()
        return 0


class _OfProgram(_Watching):
    """Starts a program, watches it, and ends as it does."""

    def __init__(
        self,
        settings: _Settings,
        into: TextIO,
        signals: Signals,
        live: bool,
        program: Program,
        witness: Witness,
    ) -> None:
        super().__init__(settings, into, signals, live)
        self.program: Final = program
        self._witness: Final = witness
        self.failure: str | None = None

    def run(self) -> int:
        with self._may_fail():
            try:
                self.begin(Top(self.program.pid, new=True), _brief(self.settings.command))
            except ProcessLookupError:  # it has ended already
                self.screen = None
        while not self._wait():
            pass
        with self._may_fail():
            if self.top is not None:
                self.top.sample()
        self.leave_screen()
        code = self.program.code()
        self.program.release()
        with self._may_fail():
            self.end(code)
        if self.failure is not None:
            sys.stderr.write(f"plait: {self.failure} (the program ended with {code})\n")
            return 125
        return code

    def _wait(self) -> bool:
        """Do what comes next; whether the program has ended."""
        program, screen = self.program, self.screen
        output = program.output()
        awaited: list[Any] = [program.pidfd, self.signals]
        awaited += [fd for fd, is_awaited in ((0, screen is not None), (output, output is not None)) if is_awaited]
        ready, _, _ = select.select(awaited, [], [], self.timeout())
        for number, sent in self.react(self.signals.take()):
            if not self._witness.has_too(program.pid, number, sent):
                os.kill(program.pid, number)
        if output in ready:
            program.move()
        with self._may_fail():
            if screen is not None and 0 in ready and not screen.press():
                self._no_more()
            self.tick()
        return program.pidfd in ready

    def _no_more(self) -> None:
        self.top = None
        self.leave_screen()
        self.screen = None
        self.program.release()

    @contextlib.contextmanager
    def _may_fail(self) -> Any:
        """The program goes on, whatever becomes of looking at it."""
        try:
            yield
        except BrokenPipeError:  # whoever read the lines has seen enough
            self._no_more()
        except (OSError, ValueError, RuntimeError) as error:
            self.failure = str(error)
            self._no_more()


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().rstrip(b"\0").split(b"\0")]
    except OSError:
        return ""
    return _brief(words)


def _brief(words: list[str]) -> str:
    return " ".join([os.path.basename(words[0]), *words[1:]])


class _Live:
    """The screen of figures, and what keys do to it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._screen = _screen.Screen()
        self._record: TopRecord | None = None
        self._title = ""
        self._is_paused = False
        self._explains = False
        self._first = 0
        self._is_on = False

    def enter(self) -> None:
        self._screen.enter()
        self._is_on = True

    def leave(self) -> None:
        if self._is_on:
            self._is_on = False
            self._screen.leave()

    def react(self, number: int) -> None:
        """A signal of the terminal has come."""
        if number == signal.SIGTSTP:
            self.leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            self.enter()
        self._draw()

    def show(self, record: TopRecord, title: str) -> None:
        """Show this, unless it is paused."""
        if not self._is_paused:
            self._record, self._title = record, title
        self._draw()

    def press(self) -> bool:
        """Do what keys say; whether to go on."""
        keys = self._screen.keys()
        if keys is None:
            return False
        for key in keys:
            if key in {"q", "Q"}:
                return False
            self._do(key)
        self._draw()
        return True

    def _do(self, key: str) -> None:
        page = max(1, self._screen.size()[1] - 5)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page}
        columns = list(report.COLUMNS) if self._record is None else report.columns(self._record, self.order)
        turns = {"left": -1, "<": -1, "right": 1, ">": 1, "s": 1}
        if key in steps:
            self._first = max(0, self._first + steps[key])
        elif key in turns:
            at = columns.index(self.order.column) + turns[key]
            self.order = Order(columns[at % len(columns)])
        elif key == "r":
            self.order = self.order._replace(turned=not self.order.turned)
        elif key in {" ", "p"}:
            self._is_paused = not self._is_paused
        elif key in {"?", "h"}:
            self._explains = not self._explains

    def _draw(self) -> None:
        if self._record is None or not self._is_on:
            return
        width, height = self._screen.size()
        heading = report.heading(self._record, self._title, width)
        titles, *rows = report.table(self._record, self.order, width)
        legend = [terminal.cut(line, width) for line in report.LEGEND] if self._explains else []
        room = max(1, height - 4 - len(legend))
        self._first = max(0, min(self._first, len(rows) - room))
        rows = rows[self._first : self._first + room]
        state = "PAUSED  " if self._is_paused else ""
        foot = terminal.cut(f"{state}q quit  <> sort  r turn  space pause  ? columns", width - 1)
        blank = [""] * (room - len(rows))
        lines = [*heading, titles, *rows, *blank, *legend, foot]
        self._screen.draw(lines, bright={2, len(lines) - 1})
