"""A trace while its request runs. `finish` writes it down once, before the last byte leaves (law 2)."""

from __future__ import annotations

import time

from gateway.data_plane.auth import ANYONE
from gateway.data_plane.endpoint import Endpoint
from gateway.data_plane.headers import OwnHeaders
from gateway.data_plane.plan import NO_PLAN
from gateway.data_plane.spending import UNKNOWN, spent
from gateway.quotas import Reservation
from gateway.state import Live, State
from gateway.traces.cost import may_cost
from gateway.traces.types import Attempt, CapturedTrace, Outcome, PriceTerms

MAX_KEPT_BYTES = 32 * 1024 * 1024  # of one response; of a larger one only the metadata is captured
_ANSWERED = range(200, 300)
CLIENT_LEFT = 499  # the status of a request whose client left before it was given one


class Kept:
    """What an upstream has sent, for the trace: pieces of at most MAX_KEPT_BYTES in all, or nothing."""

    __slots__ = ("_bytes", "content_encoding", "pieces")

    def __init__(self, content_encoding: str | None = None) -> None:
        self.pieces: list[bytes] = []
        self.content_encoding = content_encoding
        self._bytes = 0

    def add(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes <= MAX_KEPT_BYTES:
            self.pieces.append(data)

    def skip(self) -> None:
        """Keep nothing, and capture the metadata alone."""
        self.pieces = []
        self._bytes = MAX_KEPT_BYTES + 1

    @property
    def is_whole(self) -> bool:
        return self._bytes <= MAX_KEPT_BYTES


class OpenTrace:
    """Collects what becomes a CapturedTrace. Times are monotonic, in seconds."""

    # What most requests never set is not set for each.
    client = ANYONE
    own = OwnHeaders()
    plan = NO_PLAN
    trace_id = ""
    session = ""
    subject: str | None = None
    request = b""
    stream = False
    status = 0
    ttft_s: float | None = None
    upstream = ""
    model = ""
    price: PriceTerms | None = None
    machine_cost_usd: float | None = None
    reservation: Reservation | None = None  # of a key with limits
    kept: Kept | None = None  # of the attempt that answers, or answered last
    upstream_s = 0.0
    paused_s = 0.0  # in queues and between attempts
    admitted = False  # only then it is a trace; before, it is a number in the metrics
    expired = False  # the total deadline passed while the client was taking its answer
    finished = False

    def __init__(self, state: State, live: Live, endpoint: Endpoint, arrived: float) -> None:
        self.state = state
        self.live = live
        self.endpoint = endpoint
        self.arrived = arrived
        self.started_ns = time.time_ns()
        self.attempts: list[Attempt] = []

    def settle(self, body: bytes, content_encoding: str | None = None) -> None:
        """*body* is the response, whatever attempts have sent."""
        self.kept = Kept(content_encoding)
        self.kept.add(body)

    def first_content(self) -> None:
        """The first byte of content is on its way to the client."""
        self.ttft_s = time.monotonic() - self.arrived

    def finish(self, outcome: Outcome, error: str | None = None) -> None:
        """Append the trace to shared memory and count it. Only the first call counts; never raises."""
        if self.finished:
            return
        self.finished = True
        if self.reservation is not None:
            self._settle(self.reservation, outcome)
        latency_s = time.monotonic() - self.arrived
        plan = self.plan
        if self.admitted and plan.capture != "none":
            response = self.kept or Kept()
            is_whole = response.is_whole
            captured = self._captured(outcome, error, latency_s, response.content_encoding, is_whole)
            self.state.writer.append(captured, self.request, response.pieces if is_whole else ())
        elif may_cost(self.attempts, outcome):
            self.state.metrics.cost_unknown(plan.route, plan.variant)
        self.state.metrics.request_finished(
            plan.route,
            plan.variant,
            self.endpoint.operation,
            outcome,
            upstream_s=self.upstream_s,
            overhead_s=max(0.0, latency_s - self.upstream_s - self.paused_s),
            ttft_s=self.ttft_s,
        )

    def _settle(self, reservation: Reservation, outcome: Outcome) -> None:
        """Replace what was reserved by what was used, as far as anybody can know."""
        ledger, kept = self.state.ledger, self.kept
        if outcome == "rejected" or not self.attempts:
            ledger.release(reservation)
        elif kept is not None and any(attempt.status in _ANSWERED for attempt in self.attempts):
            readable = kept.is_whole and kept.content_encoding is None
            used = UNKNOWN
            if readable:
                used = spent(
                    kept.pieces, stream=self.stream, price=self.price, machine_usd=self.machine_cost_usd
                )
            ledger.settle(reservation, tokens=used.tokens, usd=used.usd)
        elif outcome == "client_cancelled":
            # The upstream may have worked on it. Else whoever always leaves in time would have no limits.
            ledger.settle(reservation, tokens=None, usd=None)
        else:
            ledger.settle(reservation, tokens=0, usd=self.machine_cost_usd or 0.0)

    def _captured(
        self,
        outcome: Outcome,
        error: str | None,
        latency_s: float,
        content_encoding: str | None,
        response_is_whole: bool,
    ) -> CapturedTrace:
        plan, own = self.plan, self.own
        return CapturedTrace(
            self.trace_id,
            self.started_ns // 1000,
            plan.route,
            plan.variant,
            plan.snapshot,
            plan.rollout,
            plan.propensity,
            self.client.name,
            self.session,
            self.subject,
            self.upstream,
            self.model,
            self.endpoint.path,
            self.stream,
            self.status or CLIENT_LEFT,
            outcome,
            latency_s * 1000,
            None if self.ttft_s is None else self.ttft_s * 1000,
            self.attempts,
            own.tags,
            self.live.table.hash,
            own.traceparent,
            plan.capture if response_is_whole else "metadata",
            self.price,
            self.machine_cost_usd,
            content_encoding,
            error,
            own.training and self.client.training,
        )
