"""Figures of a watch for a registry of `prometheus_client`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from plait.observe import _metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plait.observe._watch import Watch

__all__ = ["Collector"]


class Collector:
    """Asks a watch whenever the registry is asked. Nothing is left of it when the watch is closed."""

    def __init__(self, watch: Watch) -> None:
        core: Any = importlib.import_module("prometheus_client.core")
        self._watch = watch
        self._histogram = core.HistogramMetricFamily
        self._families: dict[str, Any] = {"counter": core.CounterMetricFamily, "gauge": core.GaugeMetricFamily}

    def describe(self) -> list[Any]:
        """Return nothing: names are not known before."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics."""
        for metric in self._watch._metrics():
            labels = list(metric.samples[0].labels) if metric.samples else []
            family: Any
            if metric.kind != "histogram":
                family = self._families[metric.kind](metric.name, metric.help, labels=labels)
                for sample in metric.samples:
                    family.add_metric(list(sample.labels.values()), sample.value)
            else:
                family = self._histogram(metric.name, metric.help, labels=labels)
                for sample in metric.samples:
                    buckets = [(_metrics.bound(bound), count) for bound, count in sample.value["buckets"]]
                    family.add_metric(list(sample.labels.values()), buckets, sample.value["sum"])
            yield family
