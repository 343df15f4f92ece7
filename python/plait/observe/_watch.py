"""`watch()`: figures of a service while it runs, for those who collect them."""

from __future__ import annotations

import bisect
import importlib
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypedDict

from plait import _core
from plait.observe import _metrics, _sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from plait.observe._metrics import Metric

__all__ = ["Distribution", "Snapshot", "Watch", "watch"]

BOUNDS: Final = tuple(1024e-9 * 2**power for power in range(25))
"""Upper bounds of all buckets but the last, in seconds: those of `Histogram` in the crate `plait-shm`."""

_FRESH: Final = 0.1
"""Seconds that figures are used again for, where one collector asks for each metric on its own."""

_LOOP_SUMS: Final = (
    "turns",
    "callbacks",
    "timers",
    "accepted",
    "bytes_read",
    "bytes_written",
    "awake",
    "asleep",
    "held_up",
)
_LOOP_NOW: Final = ("running", "ready", "scheduled", "connections")
_PROCESSES_SUMS: Final = ("submitted", "cancelled", "failed", "retried", "workers_started", "workers_died")
_POOL_NOW: Final = ("pools", "queued", "workers", "workers_idle")


class Distribution(TypedDict):
    """How many there were, their sum in seconds, and pairs of an upper bound, the last infinite, and how many kept to it."""

    count: int
    sum: float
    buckets: list[tuple[float, int]]


class Snapshot(TypedDict):
    """What `Watch.snapshot` returns."""

    gil: dict[str, Any] | None
    gil_why: str
    loops: dict[str, Any]
    threads: dict[str, Any]
    processes: dict[str, Any]


def _distribution(counts: Sequence[int], total: float) -> Distribution:
    buckets: list[tuple[float, int]] = []
    sum_ = 0
    for bound, count in zip((*BOUNDS, math.inf), counts, strict=True):
        sum_ += count
        buckets.append((bound, sum_))
    return {"count": sum_, "sum": total, "buckets": buckets}


class _Spans:
    """Lengths by bucket, and their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, counts: Iterable[int], total: float) -> None:
        self.counts = [one + more for one, more in zip(self.counts, counts, strict=True)]
        self.total += total

    def add_pairs(self, pairs: Iterable[tuple[float, int]], total: float) -> None:
        """Add finer ones: pairs of an upper bound and a count."""
        for bound, count in pairs:
            self.counts[bisect.bisect_left(BOUNDS, bound * (1 - 1e-9))] += count
        self.total += total

    def figures(self) -> Distribution:
        return _distribution(self.counts, self.total)


class _Kind:
    """Loops, or pools of one kind: sums over those that there are and those that there were."""

    def __init__(
        self,
        kind: str,
        sums: tuple[str, ...],
        present: tuple[str, ...],
        spans: tuple[str, ...],
        read: Callable[[Any], dict[str, Any]],
    ) -> None:
        self.name = kind
        self._sums = sums
        self._present = present
        self._spans = spans
        self._read = read
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._gone: list[dict[str, Any]] = []
        self._busy = False
        for source in _sources.known(self.name).copy():
            source.last = None

    def figures(self) -> dict[str, Any]:
        now = [figures for source in self._fold() if (figures := self.note(source, source.get())) is not None]
        return self._public(self._together([*self._gone, *now], self._present))

    def note(self, source: _sources.Source, found: Any) -> dict[str, Any] | None:
        """Remember a source's figures as they are now; those of before where it has gone meanwhile."""
        if found is not None:
            source.last = self._read(found)
        last: dict[str, Any] | None = source.last
        return last

    def fold(self) -> None:
        """Keep the figures of those that have gone, as one: what only grows must not fall when one goes."""
        with _figures_lock:
            self._fold()

    def _fold(self) -> list[_sources.Source]:
        """Do that, and return those that are there. The lock is held; what the collector of garbage calls may come here."""
        known = _sources.known(self.name)
        found = [(source, source.get()) for source in known.copy()]
        if not self._busy:
            self._busy = True
            try:
                gone = [source for source, there in found if there is None]
                ended = [source.last for source in gone if source.last is not None]
                together = [self._together([*self._gone, *ended], ())]
                known.difference_update(gone)
                self._gone = together
            finally:  # Ctrl-C may come anywhere
                self._busy = False
        return [source for source, there in found if there is not None]

    def _together(self, figures: list[dict[str, Any]], present: tuple[str, ...]) -> dict[str, Any]:
        """One for all."""
        together: dict[str, Any] = dict.fromkeys((*self._sums, *self._present), 0)
        for name in (*self._sums, *present):
            together[name] = sum(each[name] for each in figures)
        for name in self._spans:
            spans = together[name] = _Spans()
            for each in figures:
                spans.add(each[name].counts, each[name].total)
        return together

    def _public(self, figures: dict[str, Any]) -> dict[str, Any]:
        return {name: value.figures() if isinstance(value, _Spans) else value for name, value in figures.items()}


class Watch:
    """A watch over this process, made by `watch()`.

    Usable from any thread. In a forked child it goes on, with figures of the child's own.
    """

    def __init__(self) -> None:
        self._entered = 0
        self._closed = False
        self._recent: tuple[float, Snapshot] | None = None
        self._why = ""
        self._gil: _core.GilWatch | None = None
        try:
            self._gil = _core.GilWatch()
        except RuntimeError as error:
            self._why = str(error)
        _core.watch_pools(True)

    def __enter__(self) -> Self:
        with _lock:
            self._entered += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            self._entered -= 1
            ends = self._entered == 0
        if ends:
            self.close()

    @property
    def closed(self) -> bool:
        """Whether the watch has ended."""
        return self._closed

    def close(self) -> None:
        """End the watch: nothing is counted any more that is not counted anyway. Does nothing the second time."""
        with _lock:
            if self._closed:
                return
            self._closed = True
            self._gil = None
            _core.watch_pools(False)

    def snapshot(self) -> Snapshot:
        """Return the figures as they are now, in seconds and plain numbers.

        - `gil`: `wait` and `hold`, every wait of a thread for the interpreter lock and every time that one held it, of all
          threads since the process was first watched, those that have ended included; `waiting`, threads that wait now. None
          where there is nothing to see, and `gil_why` says why. Where it is taken more than some twenty thousand times in a
          second and nobody waits, one hold in so many is timed and the others are taken to be as long.
        - `loops`: sums over plait's event loops, with the meanings of `EventLoop.statistics`; `running`, those that are not
          closed.
        - `threads` and `processes`: sums over the pools of each kind, with the meanings of their `statistics`; `pools`, how
          many there are. `queue_wait` counts tasks, and items of a `map`, that were submitted while the process was watched:
          from then, or from when `map` took the item from its input, until it began to run.

        Distributions have `count`, `sum` and `buckets`: pairs of an upper bound and how many did not exceed it. What counts
        something only grows: loops and pools that have ended are in it. What a pool still does when nobody refers to it any
        more is not.

        Raises:
            RuntimeError: The watch is closed.

        >>> import plait
        >>> with plait.watch() as figures, plait.ThreadPool(1) as pool:
        ...     pool.submit(len, "abc").result()
        ...     figures.snapshot()["threads"]["queue_wait"]["count"] > 0
        3
        True
        """
        if self._closed:
            raise RuntimeError("this watch is closed: begin another with plait.watch()")
        gil = self._gil
        with _figures_lock:
            loops, threads, processes = (kind.figures() for kind in _KINDS)
        return {
            "gil": None if gil is None else _gil_figures(gil),
            "gil_why": self._why,
            "loops": loops,
            "threads": threads,
            "processes": processes,
        }

    def prometheus(self) -> str:
        """Return the figures in Prometheus' text format, version 0.0.4. Needs nothing but plait.

        Raises:
            RuntimeError: The watch is closed.

        >>> import plait
        >>> with plait.watch() as figures:
        ...     "# TYPE plait_gil_wait_seconds histogram" in figures.prometheus() or figures.snapshot()["gil"] is None
        True
        """
        return _metrics.text(self.snapshot())

    def collector(self) -> Any:
        """Return a collector for a registry of `prometheus_client`: `REGISTRY.register(plait.watch().collector())`.

        Raises:
            ModuleNotFoundError: `prometheus_client` is not installed; the extra `prometheus` has it.
        """
        _need("prometheus_client", "prometheus")
        from plait.observe import _prometheus

        return _prometheus.Collector(self)

    def opentelemetry(self, meter_provider: Any = None) -> None:
        """Make observable instruments, which end with the watch.

        OpenTelemetry has no histogram that is observed, so each distribution is three counters: `NAME.count`, `NAME.sum`, and
        `NAME.bucket` with the attribute `le`.

        Args:
            meter_provider: Whose meter makes them; by default the global one.

        Raises:
            ModuleNotFoundError: `opentelemetry-api` is not installed; the extra `opentelemetry` has it.
        """
        _need("opentelemetry", "opentelemetry")
        from plait.observe import _opentelemetry

        _opentelemetry.install(self, meter_provider)

    def _metrics(self) -> list[Metric]:
        """Return metrics that are not older than a moment; none when the watch is closed."""
        if self._closed:
            return []
        now, recent = time.monotonic(), self._recent
        if recent is None or now - recent[0] > _FRESH:
            recent = self._recent = (now, self.snapshot())
        return _metrics.metrics(recent[1])


_lock = threading.Lock()
_figures_lock = threading.RLock()
_current: list[Watch] = []


def watch() -> Watch:
    """Watch this process from now on: waits for the interpreter lock, how late event loops are, how long tasks wait.

    While a watch is open, every call returns that one, so a program may call it wherever figures are wanted. It is closed by
    `close()`, or as a context manager when the last `with` ends.

    It costs a few readings of the clock for each wait for the interpreter lock, and for some of the times that it is taken
    without one; nothing when it is closed. Figures are summed when somebody asks.

    >>> import plait
    >>> with plait.watch() as figures:
    ...     sorted(figures.snapshot())
    ['gil', 'gil_why', 'loops', 'processes', 'threads']
    """
    with _lock:
        if not _current or _current[0].closed:
            _current[:] = [Watch()]
        return _current[0]


def _need(module: str, extra: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'plait[{extra}]'", name=error.name) from error


def _gil_figures(gil: _core.GilWatch) -> dict[str, Any]:
    figures = gil.figures()
    return {
        "wait": _distribution(*figures["wait"]),
        "hold": _distribution(*figures["hold"]),
        "waiting": figures["waiting"],
    }


def _of_loop(loop: Any) -> dict[str, Any]:
    figures = loop.statistics()
    for name in ("lag", "timer_lag"):
        spans = _Spans()
        spans.add_pairs(figures[name]["histogram"], figures[name]["sum"])
        figures[name] = spans
    return {**figures, "running": int(not loop.is_closed())}


def _of_pool(pool: Any) -> dict[str, Any]:
    spans = _Spans()
    spans.add(*pool._waits())
    return {**pool.statistics(), "pools": 1, "queue_wait": spans}


_KINDS: Final = (
    _Kind("loop", _LOOP_SUMS, _LOOP_NOW, ("lag", "timer_lag"), _of_loop),
    _Kind("threads", ("submitted", "cancelled", "timed_out"), _POOL_NOW, ("queue_wait",), _of_pool),
    _Kind("processes", _PROCESSES_SUMS, _POOL_NOW, ("queue_wait",), _of_pool),
)


def _noted(source: _sources.Source, found: Any) -> None:
    """A loop was closed, a pool shut down, or one of them is about to go."""
    for kind in _KINDS:
        if kind.name == source.kind:
            kind.note(source, found)


def _added(name: str) -> None:
    """Those that have gone are not to pile up where nobody looks for long."""
    for kind in _KINDS:
        if kind.name == name:
            kind.fold()


_sources.listen(_noted, _added)


def _forked() -> None:
    global _lock, _figures_lock
    _lock, _figures_lock = threading.Lock(), threading.RLock()
    for kind in _KINDS:
        kind.forget()
    _core.gil_watch_forked()


os.register_at_fork(after_in_child=_forked)
