"""The shared contract: what the worker captures, what the store keeps, what judges and learner read.

Stored rows are lenient (old rows must load forever); unknown is None, never 0. Times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

MAX_KEY_BYTES = 512  # of a session or a subject; a longer one is cut
BLOBS = "blobs"  # the table of what bodies share; its rows are parts of others, and are counted with none

Outcome = Literal["ok", "upstream_error", "timeout", "truncated", "client_cancelled", "rejected"]
CaptureLevel = Literal["full", "metadata", "none"]
# Why a trace has bodies or none: its route's `capture` or `capture_bodies`, or that they were too large. ""
# of rows from before it was told.
CapturedBodies = Literal["", "full", "metadata", "sampled_out", "left_out"]
RolloutEventKind = Literal[
    "started",
    "weight",
    "paused",
    "resumed",
    "promoted",
    "rolled_back",
    "inconclusive",
    "overlay_dropped",
    "retired",
]


def cut_key(name: str) -> str:
    """A session or a subject as it is taken, so that one is one wherever it was named."""
    return name.encode("utf-8", "surrogatepass")[:MAX_KEY_BYTES].decode("utf-8", "replace")


class PriceTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """USD per million tokens that applied when the request was routed; `cost.rates` fills what is None."""

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    reasoning: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None


NO_TOKEN_PRICE = PriceTerms(input=0, output=0)  # of an upstream whose machine is paid by the hour


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at one upstream server inside a trace. Times in milliseconds since the request arrived."""

    upstream: str
    server: str
    model: str
    started_ms: float
    ended_ms: float
    status: int | None = None
    error: str | None = None  # "connect", "headers_timeout", "first_token_timeout", "idle_timeout", …


class CapturedTrace(msgspec.Struct, frozen=True, tag="trace", array_like=True):
    """What a worker knows when it appends a trace. The bodies travel beside it, as received.

    Written as an array, without the fields' names, which halves its cost: new fields go last, with a default.
    For the same reason the worker makes it by position, in this order.
    """

    trace_id: str  # UUIDv7, minted at the gateway
    started_at_us: int  # microseconds since the epoch, UTC
    route: str  # "" for a model name no route serves
    variant: str
    snapshot: str | None
    rollout: str | None
    propensity: float | None  # None for a pinned trace
    client: str
    session: str
    subject: str | None
    upstream: str
    model: str
    endpoint: str  # "/v1/chat/completions"
    stream: bool
    status: int  # what the client got
    outcome: Outcome
    latency_ms: float
    ttft_ms: float | None
    attempts: list[Attempt]
    tags: dict[str, str]
    table_hash: str
    traceparent: str | None
    capture: CaptureLevel
    price: PriceTerms | None  # None: the model's price is unknown
    machine_cost_usd: float | None  # share of the machines, of all attempts at upstreams paid by the hour
    content_encoding: str | None = None  # of the response body, when the upstream compressed it
    error: str | None = None  # our own reason when outcome is not ok; never prompt text
    training: bool = True  # False: its client, or its key's setting, keeps it out of training for good


class CapturedFeedback(msgspec.Struct, frozen=True, kw_only=True, tag="feedback", array_like=True):
    """One thing a person or the app said afterwards."""

    feedback_id: str
    trace_id: str | None
    session: str | None
    client: str
    kind: str  # "rating", "outcome", "kept", "comment", or the caller's own name
    value: float | None
    text: str | None
    created_at_us: int


class CapturedRolloutEvent(msgspec.Struct, frozen=True, kw_only=True, tag="rollout_event", array_like=True):
    """One recorded decision about a route."""

    rollout: str
    route: str
    version: int
    event: RolloutEventKind
    snapshot: str
    at_us: int
    who: str
    why: str
    evidence: dict[str, Any]  # JSON; holds the variants in force afterwards under "table"


Captured = CapturedTrace | CapturedFeedback | CapturedRolloutEvent


def captured_at_us(captured: Captured | None) -> int:
    """When what *captured* tells of happened, in microseconds since the epoch; 0 where it cannot be read."""
    if isinstance(captured, CapturedTrace):
        return captured.started_at_us
    if isinstance(captured, CapturedFeedback):
        return captured.created_at_us
    return captured.at_us if captured is not None else 0


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `traces`: one request through the gateway and its response, whatever the outcome."""

    trace_id: str
    started_at: datetime
    route: str
    variant: str
    snapshot: str | None
    rollout: str | None
    propensity: float | None
    client: str
    session: str
    subject: str | None
    upstream: str
    model: str
    endpoint: str
    stream: bool
    status: int
    outcome: Outcome
    finish_reason: str | None
    attempts: str  # JSON list of Attempt
    latency_ms: float
    ttft_ms: float | None
    tokens_in: int | None
    tokens_cached: int | None
    tokens_out: int | None
    usage: str | None  # the upstream's usage object, JSON as received
    cost_usd: float | None
    request: str | None  # JSON text; None where the route captures metadata only
    response: str | None  # JSON text; of a stream, assembled into the buffered shape
    tags: dict[str, str]
    table_hash: str
    traceparent: str | None
    training: bool = True  # False: never learnt from, whatever comes later
    imported: bool = False  # taken over from another tool's log: trains, and is no evidence about traffic
    captured: CapturedBodies = ""


class Judgment(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `judgments`: a score in [0, 1], or None: abstained, for `reason`.

    `feedback_seen` is how many rows of feedback the trace had when the judge was shown what was in force of
    them, and how many later turns of its session, for a judge that asks for them. Where there are more, the
    trace is judged again and the later row replaces this one.
    `started_at` to `snapshot` are the trace's own, so that judgments are counted by them without a join.
    `seconds`, money and tokens are what judging took (None: nothing was paid); `detail` is JSON of what
    stands behind the score.
    """

    trace_id: str
    judge: str
    version: str
    score: float | None
    reason: str
    judged_at: datetime
    feedback_seen: int = 0
    started_at: datetime | None = None
    route: str = ""
    variant: str = ""
    snapshot: str | None = None
    seconds: float | None = None
    cost_usd: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    detail: str = ""


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `feedback`: said over HTTP, or imported from a file (`imported_by` says by whom)."""

    feedback_id: str
    trace_id: str | None
    session: str | None
    client: str
    kind: str
    value: float | None
    text: str | None
    created_at: datetime
    imported_by: str | None = None


class RolloutEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `rollouts`, append-only."""

    rollout: str
    route: str
    version: int
    event: RolloutEventKind
    snapshot: str
    at: datetime
    who: str
    why: str
    evidence: str  # JSON


class SnapshotRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `snapshots`."""

    snapshot: str
    route: str
    kind: Literal["adapter", "prompt", "hosted"]
    base_model: str
    dataset: str
    parents: list[str]
    evaluation: str  # JSON
    created_at: datetime


class DatasetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `datasets`."""

    dataset: str
    route: str
    manifest: str  # JSON
    examples: int
    holdout: int
    created_at: datetime


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `labels`: whether *who* finds the answer of a trace good (1) or bad (0)."""

    trace_id: str
    who: str
    label: int
    source: Literal["file", "terminal"]
    labelled_at: datetime


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `calibrations`: how often one version of a judge is right. None: not measured.

    J is TPR + TNR - 1; limits are those of 95 % intervals. `injected` is the share of injection cases that
    passed as good. `problems` are named by the calibration, `report` is JSON of everything.
    """

    calibration_id: str
    judge: str
    version: str
    calibrated_at: datetime
    labels: int
    source: Literal["feedback", "file", "terminal", "mixed"]
    j: float | None = None
    j_low: float | None = None
    tpr: float | None = None
    tpr_low: float | None = None
    tpr_high: float | None = None
    tnr: float | None = None
    tnr_low: float | None = None
    tnr_high: float | None = None
    kappa: float | None = None
    kappa_low: float | None = None
    kappa_high: float | None = None
    flip_rate: float | None = None
    order_consistency: float | None = None
    length_correlation: float | None = None
    injected: float | None = None
    problems: list[str] = []
    report: str = ""
