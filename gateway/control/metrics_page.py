"""`/metrics`: what all workers counted, what recorder and shipper report, and the shares in force."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from gateway.control.stages import StageReport, lag_s
from gateway.metric_series import Metric
from gateway.metric_slots import SeriesKey, SlotReader
from gateway.metrics import DROPPED, GAUGES, METRICS
from gateway.table import Table


def render(directory: Path, stages: dict[str, StageReport], table: Table, accept: str) -> tuple[bytes, str]:
    """The page and its content type, in the format that *accept* asks for. Blocks for file reads."""
    totals, _ = SlotReader(directory, GAUGES).totals()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(totals, stages, table))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Page(Collector):
    def __init__(
        self,
        totals: dict[SeriesKey, list[float]],
        stages: dict[str, StageReport],
        table: Table,
    ) -> None:
        self._series: dict[str, list[tuple[SeriesKey, list[float]]]] = defaultdict(list)
        for key, values in sorted(totals.items(), key=lambda item: (item[0].name, item[0].labels)):
            self._series[key.name].append((key, values))
        self._stages = stages
        self._table = table

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            if metric is not DROPPED:
                yield _family(metric, self._series[metric.name])
        yield self._dropped()
        yield from self._capture()
        yield from self._in_force()

    def _dropped(self) -> Family:
        family = CounterMetricFamily(DROPPED.name, DROPPED.help, labels=DROPPED.labels)
        for key, values in self._series[DROPPED.name]:
            family.add_metric(key.labels, values[0])
        for stage, report in self._stages.items():
            for reason, count in sorted(report.dropped.items()):
                family.add_metric([stage, reason], count)
        return family

    def _capture(self) -> Iterable[Family]:
        counters = [
            CounterMetricFamily(f"tracetune_capture_{name}", help_text, labels=["stage"])
            for name, help_text in (
                ("written", "Records handed on to the next stage."),
                ("torn", "Records cut off by the death of their writer."),
                ("quarantined", "Records the store refused, kept beside the spool."),
            )
        ]
        backlog = GaugeMetricFamily(
            "tracetune_capture_backlog_bytes", "Bytes waiting for this stage.", labels=["stage"]
        )
        age = GaugeMetricFamily(
            "tracetune_capture_oldest_age_seconds", "Age of the oldest record waiting.", labels=["stage"]
        )
        pace = GaugeMetricFamily(
            "tracetune_capture_written_per_second",
            "Records handed on a second, over the last ten.",
            labels=["stage"],
        )
        lag = GaugeMetricFamily(
            "tracetune_capture_lag_seconds",
            "Age of the oldest record that is not stored.",
            lag_s(self._stages),
        )
        up = GaugeMetricFamily(
            "tracetune_capture_stage_up", "Whether the stage reported in the last seconds.", labels=["stage"]
        )
        for stage, report in self._stages.items():
            for family, count in zip(
                counters, (report.written, report.torn, report.quarantined), strict=True
            ):
                family.add_metric([stage], count)
            backlog.add_metric([stage], report.backlog_bytes)
            age.add_metric([stage], report.oldest_age_s or 0.0)
            pace.add_metric([stage], report.written_per_s)
            up.add_metric([stage], report.alive)
        return [*counters, backlog, age, pace, lag, up]

    def _in_force(self) -> Iterable[Family]:
        weights = GaugeMetricFamily(
            "tracetune_variant_weight", "Share of the units in force.", labels=["route", "variant"]
        )
        for route in self._table.routes.values():
            for variant in route.variants:
                weights.add_metric([route.model, variant.name], variant.weight)
        yield weights


def _family(metric: Metric, series: list[tuple[SeriesKey, list[float]]]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(repr, metric.buckets), "+Inf"]
        for key, (total_s, *counts) in series:
            histogram.add_metric(
                key.labels, list(zip(bounds, accumulate(counts), strict=True)), sum_value=total_s
            )
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for key, values in series:
        family.add_metric(key.labels, values[0])
    return family
