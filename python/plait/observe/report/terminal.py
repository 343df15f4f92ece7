"""The summary for a terminal of 80 columns: the verdict first, then where the time went, and what looking has cost."""

from __future__ import annotations

import os
import unicodedata

from plait._words import seconds, size
from plait.observe._states import STATES
from plait.observe.report._words import (
    NOT_KNOWN,
    STOPPED,
    VERDICTS,
    about,
    asked_by,
    figure,
    holder_of,
    how_exactly,
    limits_beside_methods,
    lock_name,
    percent,
    plain,
    short,
    waited_for,
    without_gil,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final, Literal, TextIO

    from plait.observe._records import BlockedRecord, LockRecord, ProfileRecord, States

WIDTH: Final = 80
ROWS: Final = 8
"""Rows of a table; what follows is counted in one more."""

# How a state looks in a bar: with colours, without, in ASCII; its colour; what the key below calls it.
LOOKS: Final[dict[str, tuple[str, str, str, str]]] = {
    "on_cpu_gil": ("█", "#", "34", "runs Python"),
    "on_cpu_released": ("▓", "=", "36", "runs without the GIL"),
    "ready": ("r", "r", "33", "ready, no core"),
    "gil_wait": ("G", "G", "31", "waits for the GIL"),
    "gil_held_off_cpu": ("H", "H", "35", "sleeps with the GIL"),
    "io_wait": ("i", "i", "32", "waits for I/O"),
    "lock_wait": ("L", "L", "95", "waits for a lock"),
    STOPPED: ("S", "S", "91", "stands still"),
    "idle": ("·", ".", "90", "idle"),
}
_MOST_DEADLOCKS = 3
_ASCII = str.maketrans({"µ": "u", "…": "~", "·": ".", "█": "#", "▓": "="})
_VERDICT_COLORS: Final = {"idle": "1", "cpu-bound": "1;34", "gil-bound": "1;31", "io-bound": "1;32"}


def show(profile: ProfileRecord, stream: TextIO) -> None:
    """Write the summary to a stream, as well as it can be shown there.

    Colours are for terminals, where neither `NO_COLOR` is set nor `TERM` is `dumb`. What the stream's encoding lacks is
    replaced.
    """
    encoding = stream.encoding or "ascii"
    try:
        "█▓·…µ".encode(encoding)
        rich = True
    except (UnicodeEncodeError, LookupError):
        rich = False
    color = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    text = render(profile, color=color, rich=rich)
    stream.write(text.encode(encoding, "replace").decode(encoding))


def render(profile: ProfileRecord, *, width: int = WIDTH, color: bool = False, rich: bool = True) -> str:
    """Make the summary.

    Args:
        profile: A profile, as `load_profile` gives it.
        width: How many columns no line exceeds, 60 at least.
        color: Whether to use the colours of terminals.
        rich: Whether characters beyond ASCII may be used besides those of names.

    Returns:
        The lines, each with its end.
    """
    summary = _Summary(max(60, width), color, rich)
    for part in (
        _verdict,
        _deadlocks,
        _threads,
        _processes,
        _tasks,
        _functions,
        _waits,
        _locks,
        _pauses,
        _loops,
        _pools,
        _method,
    ):
        part(summary, profile)
    return "\n".join(summary.lines) + "\n"


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(map(_columns_of, text))


def _columns_of(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def cut(text: str, width: int, *, left: bool = False) -> str:
    """The text in exactly so many columns: cut where it is too long (from its beginning if `left`), else filled up."""
    text = plain(text)
    if columns(text) > width:
        kept: list[str] = []
        room = width - 1
        for letter in reversed(text) if left else text:
            room -= _columns_of(letter)
            if room < 0:
                break
            kept.append(letter)
        text = "…" + "".join(reversed(kept)) if left else "".join(kept) + "…"
    return text + " " * (width - columns(text))


def wrapped(text: str, width: int) -> list[str]:
    """The words of a text in lines of at most so many columns; longer words are broken."""
    lines = [""]
    for word in plain(text).split():
        while columns(word) > width:
            head = cut(word, width + 1).rstrip()[:-1]
            lines += [head]
            word = word[len(head) :]
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if columns(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [line for line in lines if line] or [""]


def parts(states: States) -> dict[str, float]:
    """Where the time went, for a bar: the states, and apart from other waits for locks how long a thread stood still."""
    stopped: Any = states.get(STOPPED, 0.0)
    times: dict[str, float] = {name: states[name] for name in STATES}
    times["lock_wait"] = max(0.0, times["lock_wait"] - stopped)
    idle = times.pop("idle")
    return {**times, STOPPED: stopped, "idle": idle}


class _Summary:
    """Lines that are being written."""

    def __init__(self, width: int, color: bool, rich: bool) -> None:
        self.width, self.color, self.rich = width, color, rich
        self.lines: list[str] = []

    def line(self, text: str = "") -> None:
        self.lines.append((text if self.rich else text.translate(_ASCII)).rstrip())

    def paint(self, text: str, color: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self.color and text else text

    def title(self, text: str, *heads: str) -> None:
        """A heading, with the names of columns that end at the right."""
        tail = "".join(heads)
        self.line()
        self.line(self.paint(cut(text, self.width - columns(tail)), "1") + self.paint(tail, "2"))

    def wrap(self, text: str, first: str, rest: str, color: str = "") -> None:
        """A paragraph; `first` stands before its first line, painted, and `rest`, no wider, before the others."""
        for number, each in enumerate(wrapped(text, self.width - columns(first))):
            self.line((rest if number else self.paint(first, color) if color else first) + each)

    def rows(self, made: Sequence[str], count: int) -> None:
        for each in made:
            self.line(each)
        if count > len(made):
            self.line(self.paint(f"  and {count - len(made):,} more", "2"))

    def bar(self, states: States, width: int) -> str:
        """Where the time went: each state that had some has a column at least, as far as there are columns."""
        times = parts(states)
        total = sum(times.values())
        if total <= 0:
            return ""
        shares = [time / total * width for time in times.values()]
        cells = [int(share) or int(share >= 0.2) for share in shares]
        while over := sum(cells) - width:
            sign = 1 if over > 0 else -1
            free = [number for number, count in enumerate(cells) if count > 1 or over < 0] or range(len(cells))
            most = max(free, key=lambda number: (cells[number] - shares[number]) * sign)
            cells[most] -= sign
        return "".join(
            self.paint(self.glyph(name) * count, LOOKS[name][2]) for name, count in zip(times, cells, strict=True)
        )

    def glyph(self, name: str) -> str:
        """A column of a bar: colours tell states apart where there are some, letters otherwise."""
        glyph, ascii_glyph, _, _ = LOOKS[name]
        return ascii_glyph if not self.rich else "█" if self.color else glyph

    def key(self, used: Iterable[str], free: bool = False) -> None:
        """What the parts of bars mean; `free` where there is no GIL."""
        line, length = " ", 1
        for name in used:
            _, _, color, words = LOOKS[name]
            words = "runs" if free and name == "on_cpu_released" else words
            item = f" {self.glyph(name)} {words} "
            if length + len(item) > self.width:
                self.line(line)
                line, length = " ", 1
            line += self.paint(item[:2], color) + item[2:]
            length += len(item)
        if line.strip():
            self.line(line)


def _verdict(summary: _Summary, profile: ProfileRecord) -> None:
    first = profile["processes"][0] if profile["processes"] else None
    facts = [seconds(profile["wall"]), f"{profile['cores']} core{'' if profile['cores'] == 1 else 's'}"]
    if first and first["python"]:
        facts.append(f"Python {plain(first['python'])[:12]}")
    tail = ", ".join(facts)
    name = f"plait profile of {first['name']}" if first else "plait profile"
    summary.line(cut(name, summary.width - columns(tail) - 2) + "  " + tail)
    summary.line()
    evidence = profile["evidence"]
    verdict = VERDICTS.get(profile["verdict"], plain(profile["verdict"]))
    lead = f"{verdict}: " if profile["threads"] else ""
    summary.wrap(evidence["sentence"], lead, "  ", _VERDICT_COLORS.get(profile["verdict"], "1;35"))
    figures = [
        f"{value} {label}"
        for label, value in (figure(*each) for each in evidence["figures"].items() if each[1] and each[0] != "wall")
    ]
    if figures:
        summary.wrap(", ".join(figures), "  ", "  ")
    for each in evidence["functions"][:4]:
        summary.wrap(f"{cut(each['name'], 40).rstrip()} {about(each['name'], each['sentence'])}", "  - ", "    ")
    for number, advice in enumerate(evidence["try"][:5]):
        summary.wrap(advice, "  try: " if number == 0 else "       ", "       ", "1" if number == 0 else "")


def _threads(summary: _Summary, profile: ProfileRecord) -> None:
    threads = sorted(profile["threads"], key=lambda each: each["idle"] - each["wall"])
    if not threads:
        return
    free = without_gil(profile)
    heads = ("runs", "stopped", "locks") if free else ("Python", "GIL wait", "I/O")
    several = len({each["pid"] for each in threads}) > 1
    # What tells processes apart takes its room from bars, where those have it.
    room = 24 if several and summary.width >= WIDTH else 18
    bar = summary.width - room - 36
    summary.title(
        f"Threads ({sum(each.get('count', 1) for each in threads):,})",
        f"{'wall':>9}{heads[0]:>8}{heads[1]:>10}{heads[2]:>6}  ",
        f"{'their time':<{bar}}",
    )
    made: list[str] = []
    used: dict[str, float] = {}
    for each in threads:
        wall, times = each["wall"] or 1.0, parts(each)
        used = {name: used.get(name, 0.0) + time for name, time in times.items()}
        if len(made) == ROWS:
            continue
        names = ("on_cpu_released", STOPPED, "lock_wait") if free else ("on_cpu_gil", "gil_wait", "io_wait")
        first, second, third = (percent(times[name] / wall) for name in names)
        of = f" ({each['pid']})" if several else ""
        name = cut(cut(f"  {each['name'] or each['tid']}", room - len(of)).rstrip() + of, room)
        made.append(f"{name}{seconds(each['wall']):>10}{first:>8}{second:>10}{third:>6}  {summary.bar(each, bar)}")
    summary.rows(made, len(threads))
    summary.key((name for name, time in used.items() if time > 0), free)
    longest = max(threads, key=lambda each: each["longest_gil_hold"])
    if longest["longest_gil_hold"] > 0:
        at = longest["longest_gil_hold_at"]
        where = f" in {at['function']} ({short(at['file'])}:{at['line']})" if at else ""
        reason = longest.get("longest_gil_hold_for")
        called = f", called by {reason['function']} ({short(reason['file'])}:{reason['line']})" if reason else ""
        of = f" ({longest['pid']})" if several else ""
        text = f"{seconds(longest['longest_gil_hold'])} by {cut(longest['name'], 30).rstrip()}{of}{where}{called}"
        summary.line()
        summary.wrap(f"Longest GIL hold: {text}", "", "  ")


def _pauses(summary: _Summary, profile: ProfileRecord) -> None:
    """Who has stopped all other threads, and how long that took."""
    pauses = profile.get("stop_the_world")
    if pauses is None:
        return
    rows: list[tuple[str, Sequence[str]]] = []
    for each in pauses["askers"][:ROWS]:
        at = each["at"]
        where = f", {at['function']} {short(at['file'])}:{at['line']}" if at else ""
        times = [seconds(each[name]) for name in ("time", "longest", "stood")]
        rows.append((f"by {asked_by(each)}{where}", [f"{each['count']:,}", *times]))
    heads = [("times", 8), ("time", 10), ("longest", 10), ("stood", 10)]
    _table(summary, "Stop-the-world", heads, rows, len(pauses["askers"]))
    if pauses["count"]:
        lengths = pauses["lengths"]
        text = f"half of them up to {seconds(lengths['p50'])}, 99% up to {seconds(lengths['p99'])}"
        summary.line(cut(f"  {pauses['count']:,} pauses, {text}, longest {seconds(lengths['max'])}", summary.width))


def _table(
    summary: _Summary,
    title: str,
    heads: Sequence[tuple[str, int]],
    rows: Sequence[tuple[str, Sequence[str]]],
    count: int,
) -> None:
    """A heading and rows: names at the left, figures at the right, each in a column of its own width."""
    if not count:
        return
    summary.title(f"{title} ({count:,})", *(f"{head:>{width}}" for head, width in heads))
    room = summary.width - sum(width for _, width in heads)
    made = [
        cut(f"  {name}", room - 1)
        + " "
        + "".join(f"{value:>{width}}" for value, (_, width) in zip(values, heads, strict=True))
        for name, values in rows[:ROWS]
    ]
    summary.rows(made, count)


def _worst(each: Callable[[int], float], count: int) -> list[int]:
    return sorted(range(count), key=each, reverse=True)[:ROWS]


def _deadlocks(summary: _Summary, profile: ProfileRecord) -> None:
    """Each in full: who waits for a lock for ever reads nothing else."""
    for each in profile["deadlocks"][:_MOST_DEADLOCKS]:
        summary.title("Deadlock")
        many = len(each["parties"])
        said = "A thread waits for a lock that it has" if many == 1 else f"{many} threads wait for one another"
        summary.wrap(f"{said}, and none can go on:" if many > 1 else f"{said}:", "  ", "  ")
        for party in each["parties"]:
            holder = party["holder_name"] or str(party["holder"])
            where = f" in {party['where']}" if party["where"] else ""
            summary.wrap(
                f"{party['name'] or party['tid']} waits for {party['lock']}{where}, held by {holder}", "  - ", "    "
            )
    if (left := len(profile["deadlocks"]) - _MOST_DEADLOCKS) > 0:
        summary.wrap(f"{left} more: see the page, or the JSON", "  ", "  ")


def _processes(summary: _Summary, profile: ProfileRecord) -> None:
    processes = profile["processes"]
    if len(processes) < 2:
        return
    rows = [
        (
            f"{each['name']} ({each['pid']})",
            [seconds(each["wall"]), seconds(each["cpu"]), seconds(each["states"]["waiting"]), _code(each["exit"])],
        )
        for each in (processes[index] for index in _worst(lambda index: processes[index]["cpu"], len(processes)))
    ]
    _table(summary, "Processes", [("wall", 10), ("CPU", 10), ("waiting", 10), ("exit", 8)], rows, len(processes))


def _code(code: int | None) -> str:
    return "-" if code is None else str(code)


def _tasks(summary: _Summary, profile: ProfileRecord) -> None:
    tasks = profile["tasks"]
    rows: list[tuple[str, Sequence[str]]] = []
    for index in _worst(lambda index: tasks[index]["running"], len(tasks)):
        each = tasks[index]
        rows.append(
            (
                f"{each['name']} {each['function']}",
                [
                    *(seconds(each[name]) for name in ("running", "ready", "awaiting", "longest_step")),
                    f"{each['steps']:,}",
                ],
            )
        )
    heads = [("running", 10), ("ready", 10), ("awaiting", 10), ("longest", 10), ("steps", 7)]
    _table(summary, "Tasks", heads, rows, max(len(tasks), profile.get("tasks_seen", 0)))


def _functions(summary: _Summary, profile: ProfileRecord) -> None:
    functions = [
        each
        for each in profile["functions"]
        if max(each["self_cpu"], each["caused_gil_wait"], each["longest_gil_hold"]) > 0
    ]
    free = without_gil(profile)
    names: tuple[Literal["self_cpu", "lock_wait", "io_wait", "caused_gil_wait", "longest_gil_hold"], ...]
    names = ("self_cpu", "caused_gil_wait", "longest_gil_hold")
    if free:
        names = ("self_cpu", "lock_wait", "io_wait")
    rows: list[tuple[str, Sequence[str]]] = []
    for index in _worst(
        lambda index: functions[index]["self_cpu"] + functions[index]["caused_gil_wait"], len(functions)
    ):
        each = functions[index]
        name = cut(each["function"], 24).rstrip()
        rows.append((f"{name} {short(each['file'])}:{each['line']}", [seconds(each[column]) for column in names]))
    heads = [("CPU", 10), ("GIL wait caused", 17), ("longest", 10)]
    if free:
        heads = [("CPU", 10), ("lock wait", 11), ("I/O wait", 10)]
    _table(summary, "Functions", heads, rows, len(functions))


def _waits(summary: _Summary, profile: ProfileRecord) -> None:
    sums: dict[tuple[int, str, str], list[float]] = {}
    for number, thread in enumerate(profile["threads"]):
        for wait in thread["waits"]:
            sum_ = sums.setdefault((number, *waited_for(wait)), [0, 0.0])
            sum_[0] += wait["count"]
            sum_[1] += wait["time"]
    waits = list(sums.items())
    rows: list[tuple[str, Sequence[str]]] = []
    for index in _worst(lambda index: waits[index][1][1], len(waits)):
        (number, call, target), (count, time) = waits[index]
        what = f"{call} {cut(target, 30, left=True).strip()}".strip()
        rows.append((f"{what}, {profile['threads'][number]['name']}", [f"{count:,.0f}", seconds(time)]))
    _table(summary, "Waits", [("times", 9), ("time", 10)], rows, len(waits))


def _locks(summary: _Summary, profile: ProfileRecord) -> None:
    waits: dict[tuple[int, str], list[tuple[str, LockRecord]]] = {}
    for thread in profile["threads"]:
        for lock in thread["locks"]:
            waits.setdefault((thread["pid"], lock["lock"]), []).append((thread["name"], lock))
    locks = [(name, of_one, sum(lock["time"] for _, lock in of_one)) for (_, name), of_one in waits.items()]
    rows: list[tuple[str, Sequence[str]]] = []
    for index in _worst(lambda index: locks[index][2], len(locks)):
        name, of_one, time = locks[index]
        holders = _by_time((holder_of(lock), lock["time"]) for _, lock in of_one)
        waiters = _by_time((waiter, lock["time"]) for waiter, lock in of_one)
        how = "released" if ", wanted by " in name else "held"
        more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
        who = waiters[0] if len(waiters) == 1 else f"{len(waiters)} threads"
        by = "holder not known" if holders[0] == NOT_KNOWN else f"{how} by {cut(holders[0], 12).rstrip()}"
        text = f"{cut(lock_name(name), 30).rstrip()}, {by}{more}, {who}"
        rows.append((text, [f"{sum(lock['count'] for _, lock in of_one):,}", seconds(time)]))
    _table(summary, "Locks", [("times", 9), ("time", 10)], rows, len(locks))


def _by_time(times: Iterable[tuple[str, float]]) -> list[str]:
    """Those that took most first."""
    sums: dict[str, float] = {}
    for name, time in times:
        sums[name] = sums.get(name, 0.0) + time
    return sorted(sums, key=sums.__getitem__, reverse=True)


def _loops(summary: _Summary, profile: ProfileRecord) -> None:
    blocked = profile["blocked"]
    rows: list[tuple[str, Sequence[str]]] = []
    for index in _worst(lambda index: blocked[index]["time"], len(blocked)):
        each = blocked[index]
        place = each["loop"]
        if each["function"]:
            place = f"{cut(each['function'], 24).rstrip()} {short(each['file'])}:{each['line']}"
        held = named(each)
        name = f"{cut(held, 28).rstrip()} in {place}" if held else place
        rows.append((name, [seconds(each["start"]), seconds(each["time"])]))
    _table(summary, "Blocked the loop", [("from", 10), ("for", 10)], rows, len(blocked))


def named(blocked: BlockedRecord) -> str:
    """A callback, or a task and its coroutine where that says more."""
    coroutine = blocked.get("coroutine", "")
    return f"{blocked['callback']} {coroutine}" if coroutine not in {"", blocked["callback"]} else blocked["callback"]


def _pools(summary: _Summary, profile: ProfileRecord) -> None:
    pools = profile["pools"]
    rows: list[tuple[str, Sequence[str]]] = []
    for index in _worst(lambda index: pools[index]["run"], len(pools)):
        each = pools[index]
        times = [seconds(each[name]) for name in ("queue", "run", "pickling", "transfer")]
        rows.append((f"{each['function']} in {each['pool']}", [f"{each['count']:,}", *times]))
    heads = [("tasks", 8), ("queue", 9), ("run", 9), ("pickling", 10), ("transfer", 10)]
    _table(summary, "Pools", heads, rows, len(pools))


def _method(summary: _Summary, profile: ProfileRecord) -> None:
    overhead = profile["overhead"]
    summary.title("How this was measured")
    for each in profile["methods"]:
        why = f" ({each['why']})" if each["why"] else ""
        summary.wrap(how_exactly(each) + why, f"  {cut(each['what'], 9)} ", " " * 12)
    lost = f", {overhead['lost_records']:,} records lost" if overhead["lost_records"] else ""
    cost = (
        f"{percent(overhead['fraction'])} of the CPU time used (observer {seconds(overhead['observer_cpu'])}, "
        f"hooks {seconds(overhead['hooks_cpu'])}), trace {size(overhead['trace_bytes'])}{lost}"
    )
    summary.wrap(cost, f"  {'cost':<9} ", " " * 12)
    for limit in limits_beside_methods(profile):
        summary.wrap(limit, f"  {'limit':<9} ", " " * 12)
