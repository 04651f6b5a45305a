"""What the processes of the gateway count, and what a worker does of it: no lock, nothing a client can name.

`gateway.control.metrics_page` adds up all processes and renders them. Label values come from the
configuration, from the routing table and from fixed sets. A request costs its worker some two microseconds
here; tokens and USD cost it nothing, as the recorder counts them (`gateway.usage_metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from gateway.metric_series import Metric, Series
from gateway.paths import Paths
from gateway.traces.types import Outcome

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MAX_REASONS = 64  # failure and drop reasons are fixed sets; more of them is a bug that must not eat the slots

_ANSWER_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 600.0)
_OWN_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0)


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
WORKERS = Metric("tracetune_workers", "gauge", "Gateway workers that are alive.")
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
# The conventions' `cache_read`, `cache_write` and `reasoning` are parts of `input` and `output`. A modality
# is `audio` where the upstream says so, else `unknown`: it may be text and images.
_TOKEN_LABELS = (*_GEN_AI_LABELS, "gen_ai_token_modality")
TOKENS_IN = Metric(
    "gen_ai_client_inference_usage_input_tokens_total",
    "counter",
    "Tokens that upstreams read, cached ones included.",
    _TOKEN_LABELS,
)
TOKENS_CACHED = Metric(
    "gen_ai_client_inference_usage_cache_read_input_tokens_total",
    "counter",
    "Of the input tokens, those that the upstream had in its cache.",
    _TOKEN_LABELS,
)
TOKENS_CACHE_WRITE = Metric(
    "gen_ai_client_inference_usage_cache_write_input_tokens_total",
    "counter",
    "Of the input tokens, those that the upstream wrote to its cache.",
    _TOKEN_LABELS,
)
TOKENS_OUT = Metric(
    "gen_ai_client_inference_usage_output_tokens_total",
    "counter",
    "Tokens that upstreams wrote, reasoning included.",
    _TOKEN_LABELS,
)
TOKENS_REASONING = Metric(
    "gen_ai_client_inference_usage_reasoning_output_tokens_total",
    "counter",
    "Of the output tokens, those that were thought.",
    _TOKEN_LABELS,
)
TOKENS_UNKNOWN = Metric(
    "tracetune_tokens_unknown_total",
    "counter",
    "Answers whose tokens read or written are not known; they are not in the sums.",
    ("route", "variant"),
)
COST_USD = Metric(
    "tracetune_cost_usd_total",
    "counter",
    "What requests cost, as far as it is known.",
    ("route", "variant"),
)
COST_UNKNOWN = Metric(
    "tracetune_cost_unknown_total",
    "counter",
    "Requests that an upstream worked on for a cost that is not known; they are not in the sum.",
    ("route", "variant"),
)
METRICS = (
    WORKERS,
    REQUESTS,
    REQUEST_S,
    UPSTREAM_S,
    OVERHEAD_S,
    TTFT_S,
    IN_FLIGHT,
    ATTEMPTS_FAILED,
    DROPPED,
    RELOADS,
    TOKENS_IN,
    TOKENS_CACHED,
    TOKENS_CACHE_WRITE,
    TOKENS_OUT,
    TOKENS_REASONING,
    TOKENS_UNKNOWN,
    COST_USD,
    COST_UNKNOWN,
)
GAUGES = frozenset(metric.name for metric in METRICS if metric.kind == "gauge")


def metrics_directory(paths: Paths) -> Path:
    """Where the workers of one data directory count."""
    return paths.segments / "metrics"


class _Arm:
    """The pre-bound series of one operation (chat, embeddings, …) on one variant."""

    __slots__ = ("outcomes", "overhead", "request", "ttft", "upstream")

    def __init__(self, series: Series, route: str, variant: str, operation: str) -> None:
        labels = (route, variant)
        self.outcomes = {outcome: series.slot(REQUESTS, (*labels, outcome)) for outcome in OUTCOMES}
        self.request = series.histogram(REQUEST_S, (operation, *labels))
        self.upstream = series.histogram(UPSTREAM_S, labels)
        self.overhead = series.histogram(OVERHEAD_S, labels)
        self.ttft = series.histogram(TTFT_S, (operation, *labels))


class WorkerMetrics:
    """The `gateway.state.Metrics` of one worker, counted into its file in *directory*. One thread uses it.

    *directory* is `metrics_directory(paths)`; *name* is a worker's own, as its segments' is.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._series = Series(directory, name, GAUGES)
        self._slots = self._series.slots
        self._arms: dict[tuple[str, str, str], _Arm] = {}
        self._in_flight = self._series.slot(IN_FLIGHT, ())
        self._slots[self._series.slot(WORKERS, ())] = 1.0

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
            arm = self._arms[route, variant, operation] = _Arm(self._series, route, variant, operation)
        self._slots[self._in_flight] -= 1.0
        self._slots[arm.outcomes[outcome]] += 1.0
        arm.request.observe(upstream_s + overhead_s)
        arm.upstream.observe(upstream_s)
        arm.overhead.observe(overhead_s)
        if ttft_s is not None:
            arm.ttft.observe(ttft_s)

    def attempt_failed(self, upstream: str, reason: str) -> None:
        self._slots[self._series.slot(ATTEMPTS_FAILED, (upstream, reason))] += 1.0

    def cost_unknown(self, route: str, variant: str) -> None:
        self._slots[self._series.slot(COST_UNKNOWN, (route, variant))] += 1.0

    def config_reloaded(self, result: Literal["ok", "invalid"]) -> None:
        self._slots[self._series.slot(RELOADS, (result,))] += 1.0

    def capture_dropped(self, dropped: Mapping[str, int]) -> None:
        """Publish what the worker's segment writer has dropped so far, by reason."""
        for reason, count in list(dropped.items())[:MAX_REASONS]:
            self._slots[self._series.slot(DROPPED, ("worker", reason))] = float(count)

    def close(self) -> None:
        self._series.close()
