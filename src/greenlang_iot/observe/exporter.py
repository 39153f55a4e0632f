"""All shards' counters as Prometheus text, made in the parent from the shared arrays."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from greenlang_iot import __version__
from greenlang_iot.model.batches import F64
from greenlang_iot.observe.catalog import CATALOG, PREFIX, Metric, cell
from greenlang_iot.observe.counters import Counters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exporter(Collector):
    """Reads the shards' arrays and the parent's own; `shards` and `sites` may change between scrapes.

    sites: (org, site) → its quality figures, NaN where one is not known.
    """

    def __init__(
        self,
        shards: Mapping[int, Counters],
        gateway: Counters,
        sites: Mapping[tuple[str, str], Sequence[float]] | None = None,
    ) -> None:
        self._shards = shards
        self._gateway = gateway
        self._sites = {} if sites is None else sites
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(namespace=PREFIX + "supervisor", registry=self._registry)

    def generate(self) -> bytes:
        """The exposition text (UTF-8) of this moment; `CONTENT_TYPE` is its type."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Family]:
        now_ns = time.monotonic_ns()
        shards = {str(number): c.snapshot() for number, c in sorted(self._shards.items())}
        gateway = self._gateway.snapshot()
        for metric in CATALOG:
            labels = [label for label, _ in metric.labels]
            if metric.scope == "gateway":
                family = _family(metric, labels)
                _add(family, metric, gateway, (), now_ns)
            elif metric.scope == "site":
                family = _family(metric, ["org", "site", *labels])
                _add_sites(family, metric, self._sites)
            else:
                family = _family(metric, ["shard", *labels])
                for number, cells in shards.items():
                    _add(family, metric, cells, (number,), now_ns)
            yield family
        yield InfoMetricFamily(PREFIX + "build", "The running version.", {"version": __version__})

    def describe(self) -> Iterable[Family]:
        """Nothing: names come from the catalogue, so registering needs no scrape."""
        return ()


def _family(metric: Metric, labels: list[str]) -> Family:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        return CounterMetricFamily(name, metric.help, labels=labels)
    if metric.kind == "histogram":
        return HistogramMetricFamily(name, metric.help, labels=labels)
    return GaugeMetricFamily(name, metric.help, labels=labels)


def _add(family: Family, metric: Metric, cells: F64, prefix: tuple[str, ...], now_ns: int) -> None:
    """Add one process's values of `metric`; gauges that were never set are left out."""
    names = [label for label, _ in metric.labels]
    for values in metric.combinations():
        first = cell(metric.name, **dict(zip(names, values, strict=True)))
        labels = [*prefix, *values]
        value = float(cells[first])
        if metric.kind == "histogram":
            counts = cells[first : first + len(metric.buckets) + 1]
            total = float(cells[first + len(metric.buckets) + 1])
            cast(HistogramMetricFamily, family).add_metric(
                labels, list(_cumulative(metric, counts)), total
            )
        elif metric.kind == "counter":
            cast(CounterMetricFamily, family).add_metric(labels, value)
        elif not isnan(value):
            age = (now_ns - value) / 1e9
            cast(GaugeMetricFamily, family).add_metric(
                labels, age if metric.kind == "age" else value
            )


def _add_sites(
    family: Family, metric: Metric, sites: Mapping[tuple[str, str], Sequence[float]]
) -> None:
    for place, figures in sorted(sites.items()):
        for values, figure in zip(metric.combinations(), figures, strict=True):
            if not isnan(figure):
                cast(GaugeMetricFamily, family).add_metric([*place, *values], figure)


def _cumulative(metric: Metric, counts: F64) -> Iterator[tuple[str, float]]:
    running = 0.0
    for bound, count in zip((*metric.buckets, float("inf")), counts, strict=True):
        running += float(count)
        yield ("+Inf" if bound == float("inf") else repr(bound)), running
