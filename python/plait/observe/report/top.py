"""Figures of processes and threads as a table: what `plait top` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from plait.observe._states import STATES
from plait.observe.report._words import short
from plait.observe.report.terminal import cut

if TYPE_CHECKING:
    from plait.observe._top import Place, ProcessFigures, ThreadFigures, TopRecord

__all__ = ["COLUMNS", "LEGEND", "Order", "columns", "heading", "table"]

COLUMNS: Final = {
    "tid": "TID",
    "name": "THREAD",
    "cpu": "CPU",
    "on_cpu_gil": "PY",
    "on_cpu_released": "C",
    "ready": "RDY",
    "gil_wait": "GIL",
    "gil_held_off_cpu": "HLD",
    "io_wait": "IO",
    "lock_wait": "LCK",
    "stop_the_world": "STW",
    "idle": "IDL",
    "switches": "SW/S",
    "top": "FUNCTION",
}
"""What can be sorted by, and its title. Without a GIL some of them are not shown, with one `STW` is not."""

LEGEND: Final = (
    "CPU = PY runs Python + C runs without the GIL   RDY ready, no core",
    "GIL waits for the GIL   HLD sleeps with the GIL   IO waits for I/O",
    "LCK waits for a lock   IDL has no work",
    "without a GIL: STW (part of LCK) stands still, another thread has stopped all",
)

_WIDTHS: Final = {"tid": 7, "name": 11, "switches": 7}
_SHARE: Final = 4
"""A share, or its title, with the blank before it; one more where the title has the sign that rows are sorted by it."""


class Order(NamedTuple):
    """What rows are sorted by; numbers fall and names rise unless it is turned round."""

    column: str = "cpu"
    turned: bool = False

    def _is_text(self) -> bool:
        return self.column in {"tid", "name", "top"}

    def sort(self, rows: list[Any]) -> list[Any]:
        """Return rows of threads or of processes in this order."""
        return sorted(rows, key=self._key, reverse=self._is_text() == self.turned)

    def _key(self, row: Any) -> Any:
        number = row.get("tid", row["pid"])
        if self.column == "tid":
            return number
        if self.column == "name":
            return (row["name"], number)
        if self.column == "top":
            place = row.get("top")
            return (place["function"] if place else "", number)
        return (row[self.column], -number)


def heading(record: TopRecord, program: str, width: int) -> list[str]:
    """Return the lines about all of it."""
    processes = record["processes"]
    cpu, switches = (sum(process[name] for process in processes) for name in ("cpu", "switches"))
    free = _free(record)
    waits = sum(process["stop_the_world" if free else "gil_wait"] for process in processes)
    counts = f"{_many(len(processes), 'process', 'processes')}, {_many(len(record['threads']), 'thread', 'threads')}"
    seen = f"{record['seconds']:.1f} s, {_many(record['looks'], 'look', 'looks')}"
    stopped = sum(_is_stopped(process) for process in processes)
    figures = [
        counts,
        *([] if not stopped else ["STOPPED" if stopped == len(processes) else f"{stopped} STOPPED"]),
        f"CPU {cpu:.0%}",
        f"{'stopped' if free else 'GIL wait'} {waits:.0%}",
        f"{switches:.0f} switches/s",
        seen,
    ]
    while len(figures) > 1 and len("  ".join(figures)) > width:
        figures.pop()  # rather than half of it
    return [cut(program, width), cut("  ".join(figures), width)]


def _is_stopped(row: ThreadFigures | ProcessFigures) -> bool:
    """Whether a signal or a debugger had stopped it for most of the time."""
    return row["halted"] > sum(row[state] for state in STATES)


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def table(record: TopRecord, order: Order, width: int) -> list[str]:
    """Return the titles and the rows: each process, and below it its threads.

    Args:
        record: What was seen.
        order: How processes, and the threads of each, are sorted.
        width: How many columns of a terminal a row takes, 60 at least.
    """
    shown = columns(record, order)
    lines = [_titles(order, width, shown)]
    threads: dict[int, list[ThreadFigures]] = {}
    for thread in record["threads"]:
        threads.setdefault(thread["pid"], []).append(thread)
    for process in order.sort(record["processes"]):
        lines.append(_process(process, width, shown, order))
        lines += [_thread(thread, width, shown, order) for thread in order.sort(threads.get(process["pid"], []))]
    return lines


def columns(record: TopRecord, order: Order) -> list[str]:
    """Return those columns that say something of these processes, and the one that they are sorted by."""
    hidden = {"gil_wait", "gil_held_off_cpu"} if _free(record) else {"stop_the_world"}
    return [column for column in COLUMNS if column not in hidden or column == order.column]


def _free(record: TopRecord) -> bool:
    """Whether there is no GIL in any process that runs Python."""
    told = [process["gil"] for process in record["processes"] if process["gil"] is not None]
    return bool(told) and not any(told)


def _titles(order: Order, width: int, shown: list[str]) -> str:
    words: list[str] = []
    for column in shown:
        title = COLUMNS[column]
        sign = title + ("^" if order.turned else "*") if column == order.column else title
        if column == "top":
            words.append(" " + sign)
        elif column == "name":
            words.append(" " + sign.ljust(_WIDTHS[column]))
        else:
            words.append(sign.rjust(_WIDTHS.get(column) or _share_width(column, order)))
    return cut("".join(words), width)


def _share_width(column: str, order: Order) -> int:
    return _SHARE + (column == order.column)


def _figures(row: ThreadFigures | ProcessFigures, shown: list[str], order: Order) -> str:
    names = [name for name in shown if name not in {"tid", "name", "switches", "top"}]
    shares = "".join(_share(row[name]).rjust(_share_width(name, order)) for name in names)  # type: ignore[literal-required]
    return shares + f"{row['switches']:7.0f}"


def _share(share: float) -> str:
    hundredths = round(share * 100)
    return f"{hundredths:4d}" if hundredths < 1000 else " >9k" if hundredths > 9999 else f"{hundredths}"


def _process(process: ProcessFigures, width: int, shown: list[str], order: Order) -> str:
    python = process["python"]
    why = process["why"] or ""
    head = f"{process['pid']:7d} {cut(process['name'], 11)}{_figures(process, shown, order)} "
    what = f"Python {python}" if python is not None else why if len(head + why) <= width else "no Python"
    if _is_stopped(process):
        what = "stopped"
    return cut(head + what, width)


def _thread(thread: ThreadFigures, width: int, shown: list[str], order: Order) -> str:
    number = f"{thread['tid']:7d}" if thread["tid"] else "      -"
    head = f"{number}  {cut(thread['name'], 10)}{_figures(thread, shown, order)} "
    top = thread["top"]
    if _is_stopped(thread):
        return cut(head + ("stopped" if top is None else f"stopped in {top['function']}"), width)
    return cut(head + _place(top, thread["call"], width - len(head)), width)


def _place(place: Place | None, call: str | None, room: int) -> str:
    waits = f" ({call})" if call else ""
    if place is None:
        return waits.strip()
    whole = f"{place['function']} {short(place['file'])}:{place['line']}{waits}"
    brief = f"{place['function']}{waits}"
    return whole if len(whole) <= room else brief if len(brief) <= room else place["function"]
