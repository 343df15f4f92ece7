"""Figures of a watch as observable instruments of OpenTelemetry."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import plait
from plait.observe import _metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from plait.observe._metrics import Metric
    from plait.observe._watch import Watch

__all__ = ["install"]

_PARTS = ("count", "sum", "bucket")


def install(watch: Watch, meter_provider: Any) -> None:
    """Make an instrument for each metric, three for each distribution."""
    api = _api()
    meter: Any = (meter_provider or api.get_meter_provider()).get_meter("plait", plait.__version__)
    for metric in _metrics.metrics(watch.snapshot()):
        name = metric.name.replace("_", ".")
        make: Any = meter.create_observable_gauge if metric.kind == "gauge" else meter.create_observable_counter
        if metric.kind != "histogram":
            callback = _callback(watch, metric.name, _plain)
            make(name, callbacks=[callback], unit=_unit(metric.name), description=metric.help)
            continue
        for part in _PARTS:
            unit = "s" if part == "sum" else "1"
            callback = _callback(watch, metric.name, _BY_PART[part])
            make(f"{name}.{part}", callbacks=[callback], unit=unit, description=metric.help)


def _unit(name: str) -> str:
    return {"seconds": "s", "bytes": "By"}.get(name.rpartition("_")[2], "1")


def _callback(watch: Watch, name: str, observe: Callable[[Metric], list[Any]]) -> Callable[[Any], Iterable[Any]]:
    def callback(_options: Any) -> Iterable[Any]:
        return [one for metric in watch._metrics() if metric.name == name for one in observe(metric)]

    return callback


def _api() -> Any:
    return importlib.import_module("opentelemetry.metrics")


def _plain(metric: Metric) -> list[Any]:
    return _observed((sample.value, sample.labels) for sample in metric.samples)


def _count(metric: Metric) -> list[Any]:
    return _observed((sample.value["count"], sample.labels) for sample in metric.samples)


def _sum(metric: Metric) -> list[Any]:
    return _observed((sample.value["sum"], sample.labels) for sample in metric.samples)


def _bucket(metric: Metric) -> list[Any]:
    return _observed(
        (count, {**sample.labels, "le": _metrics.bound(bound)})
        for sample in metric.samples
        for bound, count in sample.value["buckets"]
    )


def _observed(values: Iterable[tuple[Any, dict[str, str]]]) -> list[Any]:
    observation: Any = _api().Observation
    return [observation(value, labels) for value, labels in values]


_BY_PART = {"count": _count, "sum": _sum, "bucket": _bucket}
