"""What one gateway worker counts. Some two microseconds a request, no lock, nothing a client can name.

`gateway.control.metrics_page` adds up all workers and renders them. Label values come from the configuration,
from the routing table and from fixed sets; where the slots run out, further variants are not counted, and a
line in the log says so.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec

from gateway.errors import OperationError
from gateway.metric_slots import SeriesKey, SlotReader, SlotWriter
from gateway.paths import Paths
from gateway.traces.types import Outcome

log = logging.getLogger(__name__)

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MAX_REASONS = 64  # failure and drop reasons are fixed sets; more of them is a bug that must not eat the slots

_ANSWER_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 600.0)
_OWN_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0)


class Metric(msgspec.Struct, frozen=True):
    """One metric of a worker: its labels, and bucket bounds in seconds where it is a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Metric(
    "tracetune_requests_total",
    "counter",
    "Requests that were finished, by outcome.",
    ("route", "variant", "outcome"),
)
# Where OpenTelemetry's conventions for generative AI have a name, it is theirs, as Prometheus writes it. The
# requested model is the route's name.
_GEN_AI_LABELS = ("gen_ai_operation_name", "gen_ai_request_model", "variant")
REQUEST_S = Metric(
    "gen_ai_server_request_duration_seconds",
    "histogram",
    "From the request's arrival to its last byte, less pauses between attempts.",
    _GEN_AI_LABELS,
    _ANSWER_S,
)
UPSTREAM_S = Metric(
    "tracetune_upstream_seconds",
    "histogram",
    "Time spent waiting for upstreams.",
    ("route", "variant"),
    _ANSWER_S,
)
OVERHEAD_S = Metric(
    "tracetune_overhead_seconds",
    "histogram",
    "The gateway's own time.",
    ("route", "variant"),
    _OWN_S,
)
TTFT_S = Metric(
    "gen_ai_server_time_to_first_token_seconds",
    "histogram",
    "From the request's arrival to the first byte of content, of streams.",
    _GEN_AI_LABELS,
    _ANSWER_S,
)
IN_FLIGHT = Metric("tracetune_in_flight", "gauge", "Requests being answered now.")
ATTEMPTS_FAILED = Metric(
    "tracetune_attempts_failed_total",
    "counter",
    "Attempts at upstreams that failed, by reason.",
    ("upstream", "reason"),
)
DROPPED = Metric(
    "tracetune_capture_dropped_total",
    "counter",
    "Records that were not kept, by the stage that dropped them.",
    ("stage", "reason"),
)
RELOADS = Metric(
    "tracetune_config_reloads_total",
    "counter",
    "Configuration files that were swapped in, or refused as invalid.",
    ("result",),
)
METRICS = (
    REQUESTS,
    REQUEST_S,
    UPSTREAM_S,
    OVERHEAD_S,
    TTFT_S,
    IN_FLIGHT,
    ATTEMPTS_FAILED,
    DROPPED,
    RELOADS,
)
GAUGES = frozenset(metric.name for metric in METRICS if metric.kind == "gauge")


def metrics_directory(paths: Paths) -> Path:
    """Where the workers of one data directory count."""
    return paths.segments / "metrics"


def _fold_former_workers(directory: Path) -> None:
    # At each start, so that a worker that keeps dying fills no memory where nobody reads /metrics.
    try:
        SlotReader(directory, GAUGES).totals()
    except OperationError as error:
        log.warning("%s", error)


class _Histogram:
    """Slots of one histogram: the sum, then one per bucket, not cumulated."""

    __slots__ = ("bounds", "slots", "start")

    def __init__(self, slots: memoryview[float], start: int, bounds: tuple[float, ...]) -> None:
        self.slots, self.start, self.bounds = slots, start, bounds

    def observe(self, seconds: float) -> None:
        self.slots[self.start] += seconds
        self.slots[self.start + 1 + bisect_left(self.bounds, seconds)] += 1.0


class _Arm:
    """The pre-bound series of one operation (chat, embeddings, …) on one variant."""

    __slots__ = ("outcomes", "overhead", "request", "ttft", "upstream")

    def __init__(self, metrics: WorkerMetrics, route: str, variant: str, operation: str) -> None:
        labels = (route, variant)
        self.outcomes = {outcome: metrics.slot(REQUESTS, (*labels, outcome)) for outcome in OUTCOMES}
        self.request = metrics.histogram(REQUEST_S, (operation, *labels))
        self.upstream = metrics.histogram(UPSTREAM_S, labels)
        self.overhead = metrics.histogram(OVERHEAD_S, labels)
        self.ttft = metrics.histogram(TTFT_S, (operation, *labels))


class WorkerMetrics:
    """The `gateway.state.Metrics` of one worker, counted into its file in *directory*. One thread uses it.

    *directory* is `metrics_directory(paths)`; *name* is a worker's own, as its segments' is.
    """

    def __init__(self, directory: Path, name: str) -> None:
        _fold_former_workers(directory)
        self._writer = SlotWriter(directory, name)
        self._slots = self._writer.slots
        self._arms: dict[tuple[str, str, str], _Arm] = {}
        self._starts: dict[SeriesKey, int] = {}
        self._full = False
        # Where a series without room counts: a place that nobody reads.
        waste = self._writer.allocate(SeriesKey("", ()), 1 + max(len(_ANSWER_S), len(_OWN_S)) + 1)
        assert waste is not None, "the first series fits"
        self._waste = waste
        self._in_flight = self.slot(IN_FLIGHT, ())

    def request_started(self) -> None:
        self._slots[self._in_flight] += 1.0

    def request_finished(
        self,
        route: str,
        variant: str,
        operation: str,
        outcome: Outcome,
        *,
        upstream_s: float,
        overhead_s: float,
        ttft_s: float | None,
    ) -> None:
        """Count a request that was started; times in seconds."""
        arm = self._arms.get((route, variant, operation))
        if arm is None:
            arm = self._arms[route, variant, operation] = _Arm(self, route, variant, operation)
        self._slots[self._in_flight] -= 1.0
        self._slots[arm.outcomes[outcome]] += 1.0
        arm.request.observe(upstream_s + overhead_s)
        arm.upstream.observe(upstream_s)
        arm.overhead.observe(overhead_s)
        if ttft_s is not None:
            arm.ttft.observe(ttft_s)

    def attempt_failed(self, upstream: str, reason: str) -> None:
        self._slots[self.slot(ATTEMPTS_FAILED, (upstream, reason))] += 1.0

    def config_reloaded(self, result: Literal["ok", "invalid"]) -> None:
        self._slots[self.slot(RELOADS, (result,))] += 1.0

    def capture_dropped(self, dropped: Mapping[str, int]) -> None:
        """Publish what the worker's segment writer has dropped so far, by reason."""
        for reason, count in list(dropped.items())[:MAX_REASONS]:
            self._slots[self.slot(DROPPED, ("worker", reason))] = float(count)

    def close(self) -> None:
        self._writer.close()

    def slot(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """The slot of a counter or gauge."""
        return self._start(metric, labels, 1)

    def histogram(self, metric: Metric, labels: tuple[str, ...]) -> _Histogram:
        """The slots of a histogram."""
        return _Histogram(self._slots, self._start(metric, labels, 2 + len(metric.buckets)), metric.buckets)

    def _start(self, metric: Metric, labels: tuple[str, ...], width: int) -> int:
        key = SeriesKey(metric.name, labels)
        start = self._starts.get(key)
        if start is None:
            start = self._starts[key] = self._allocate(key, width)
        return start

    def _allocate(self, key: SeriesKey, width: int) -> int:
        start = self._writer.allocate(key, width)
        if start is not None:
            return start
        if not self._full:
            self._full = True
            log.warning(
                "no more room for metrics (MAX_SLOTS in gateway/metric_slots.py): %s %s and what comes after "
                "it is not counted until a restart",
                key.name,
                key.labels,
            )
        return self._waste
