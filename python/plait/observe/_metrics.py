"""Figures of a watch as metrics: their names, kinds and meanings, and Prometheus' text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Metric", "Sample", "bound", "metrics", "text"]

Kind = Literal["counter", "gauge", "histogram"]


class Sample(NamedTuple):
    """A value. Of a histogram: its record in `Watch.snapshot`."""

    labels: dict[str, str]
    value: Any


class Metric(NamedTuple):
    """A metric by Prometheus' rules, without the suffixes of its samples."""

    name: str
    kind: Kind
    help: str
    samples: list[Sample]


_GIL: Final[tuple[tuple[str, Kind, str, str], ...]] = (
    ("plait_gil_wait_seconds", "histogram", "wait", "Waits of threads for the interpreter lock."),
    ("plait_gil_hold_seconds", "histogram", "hold", "Times that a thread held the interpreter lock without a break."),
    ("plait_gil_waiting_threads", "gauge", "waiting", "Threads that wait for the interpreter lock."),
)
_LOOPS: Final[tuple[tuple[str, Kind, str, str], ...]] = (
    ("plait_loop_lag_seconds", "histogram", "lag", "How late callbacks of event loops ran, once for each turn."),
    ("plait_loop_timer_lag_seconds", "histogram", "timer_lag", "How late timers of event loops were."),
    ("plait_loops", "gauge", "running", "Event loops that are open."),
    ("plait_loop_turns", "counter", "turns", "Turns of event loops."),
    ("plait_loop_callbacks", "counter", "callbacks", "Callbacks that event loops called."),
    ("plait_loop_timers", "counter", "timers", "Timers that went off."),
    ("plait_loop_accepted_connections", "counter", "accepted", "Connections that were accepted."),
    ("plait_loop_read_bytes", "counter", "bytes_read", "Bytes that event loops read."),
    ("plait_loop_written_bytes", "counter", "bytes_written", "Bytes that event loops wrote."),
    ("plait_loop_awake_seconds", "counter", "awake", "Time that event loops were in turns."),
    ("plait_loop_asleep_seconds", "counter", "asleep", "Time that event loops had nothing to do."),
    (
        "plait_loop_held_up_seconds",
        "counter",
        "held_up",
        "Time that woken event loops waited for the interpreter lock.",
    ),
    ("plait_loop_ready_callbacks", "gauge", "ready", "Callbacks that wait for the next turn."),
    ("plait_loop_scheduled_timers", "gauge", "scheduled", "Timers that are set."),
    ("plait_loop_connections", "gauge", "connections", "Connections that are open."),
)
_POOLS: Final[tuple[tuple[str, Kind, str, str], ...]] = (
    ("plait_pool_queue_wait_seconds", "histogram", "queue_wait", "How long tasks waited for a worker."),
    ("plait_pools", "gauge", "pools", "Pools that there are."),
    ("plait_pool_submitted_tasks", "counter", "submitted", "Tasks that were submitted."),
    ("plait_pool_cancelled_tasks", "counter", "cancelled", "Tasks that were cancelled."),
    ("plait_pool_failed_tasks", "counter", "failed", "Tasks that had no result."),
    ("plait_pool_timed_out_tasks", "counter", "timed_out", "Tasks that took too long."),
    ("plait_pool_died_workers", "counter", "workers_died", "Workers that died."),
    ("plait_pool_queued_tasks", "gauge", "queued", "Tasks that wait for a worker."),
    ("plait_pool_workers", "gauge", "workers", "Workers that there are."),
    ("plait_pool_idle_workers", "gauge", "workers_idle", "Workers that have nothing to do."),
)


def metrics(snapshot: Any) -> list[Metric]:
    """Return the metrics of a snapshot of a watch."""
    found: list[Metric] = []
    gil = snapshot["gil"]
    for name, kind, key, what in _GIL:
        if gil is not None:
            found.append(Metric(name, kind, what, [Sample({}, gil[key])]))
    for name, kind, key, what in _LOOPS:
        found.append(Metric(name, kind, what, [Sample({}, snapshot["loops"][key])]))
    for name, kind, key, what in _POOLS:
        pools = [(label, snapshot[label]) for label in ("processes", "threads")]
        samples = [Sample({"pool": label}, figures[key]) for label, figures in pools if key in figures]
        found.append(Metric(name, kind, what, samples))
    return found


def text(snapshot: Any) -> str:
    """Return the metrics in Prometheus' text format."""
    return "".join(line + "\n" for metric in metrics(snapshot) for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
    yield f"# HELP {name} {metric.help}"
    yield f"# TYPE {name} {metric.kind}"
    for labels, value in metric.samples:
        if metric.kind != "histogram":
            yield f"{name}{_labels(labels)} {value!r}"
            continue
        for limit, count in value["buckets"]:
            yield f"{name}_bucket{_labels({**labels, 'le': bound(limit)})} {count}"
        yield f"{name}_sum{_labels(labels)} {value['sum']!r}"
        yield f"{name}_count{_labels(labels)} {value['count']}"


def bound(value: float) -> str:
    """Return an upper bound as Prometheus writes it."""
    return "+Inf" if math.isinf(value) else repr(value)


def _labels(labels: dict[str, str]) -> str:
    inner = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""
