"""Turns what a worker captured into the rows of the store: assembled, counted, priced, redacted."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from gateway.traces.assemble import assemble
from gateway.traces.capture_policy import CapturePolicy, RoutePolicy, keeps_bodies
from gateway.traces.content import decode_content, is_event_stream
from gateway.traces.cost import cost_usd
from gateway.traces.jsontext import MARKER, json_text, parse_json
from gateway.traces.redact import Redactor
from gateway.traces.segments import Record
from gateway.traces.types import (
    Attempt,
    CapturedBodies,
    CapturedFeedback,
    CapturedRolloutEvent,
    CapturedTrace,
    Feedback,
    RolloutEvent,
    Trace,
)
from gateway.traces.usage import Usage, finish_reason, read_usage

MAX_RECENT_TRACES = 50_000  # whose session is remembered, so that feedback gets the same placeholders

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


class Row(NamedTuple):
    """One row and the table it belongs to; of a trace also what its answer used."""

    table: str
    values: Trace | Feedback | RolloutEvent
    usage: Usage | None = None


class _Written(NamedTuple):
    """What of a trace holds anybody's text."""

    request: Any
    response: Any
    usage: Any
    tags: dict[str, str]
    models: list[str]  # the trace's, and those of its attempts
    session: str
    subject: str | None


class RowBuilder:
    """Builds rows by a policy, which may be replaced at any time; a redactor alone is one for all routes."""

    def __init__(self, policy: CapturePolicy | Redactor | None) -> None:
        self.policy = policy if isinstance(policy, CapturePolicy) else CapturePolicy(RoutePolicy(policy), {})
        self._scopes: dict[str, str] = {}

    def build(self, record: Record) -> Row:
        """The row of *record*, whose meta must be readable."""
        captured = record.captured
        if isinstance(captured, CapturedTrace):
            answer = _answer(captured, record.response)
            usage = read_usage(answer)
            return Row("traces", self._trace(captured, record, answer, usage), usage)
        if isinstance(captured, CapturedFeedback):
            return Row("feedback", self._feedback(captured))
        assert isinstance(captured, CapturedRolloutEvent)
        return Row("rollouts", self._rollout_event(captured))

    def _trace(self, captured: CapturedTrace, record: Record, answer: Any, usage: Usage) -> Trace:
        policy = self.policy.of(captured.route)
        kept = _kept(captured, record, policy)
        full = kept in ("full", "left_out") and captured.capture == "full"
        finished = finish_reason(answer)
        written = self._redacted(
            captured,
            policy.redactor,
            _Written(
                request=_request(record) if full else None,
                response=_with_error(answer, captured, record) if full else None,
                usage=usage.raw,  # of a response it is a part, and is redacted in place with it
                tags=dict(captured.tags),
                models=[captured.model, *[attempt.model for attempt in captured.attempts]],
                session=captured.session,
                subject=captured.subject,
            ),
        )
        return Trace(
            trace_id=captured.trace_id,
            started_at=_at(captured.started_at_us),
            route=captured.route,
            variant=captured.variant,
            snapshot=captured.snapshot,
            rollout=captured.rollout,
            propensity=captured.propensity,
            client=captured.client,
            session=written.session,
            subject=written.subject,
            upstream=captured.upstream,
            model=written.models[0],
            endpoint=captured.endpoint,
            stream=captured.stream,
            status=captured.status,
            outcome=captured.outcome,
            finish_reason=finished,
            attempts=_attempts(captured.attempts, written.models[1:]),
            latency_ms=captured.latency_ms,
            ttft_ms=captured.ttft_ms,
            tokens_in=usage.tokens_in,
            tokens_cached=usage.tokens_cached,
            tokens_out=usage.tokens_out,
            usage=_json(written.usage),
            cost_usd=cost_usd(captured.price, usage, captured.machine_cost_usd),
            request=_json(written.request),
            response=_json(written.response),
            tags=written.tags,
            table_hash=captured.table_hash,
            traceparent=_traceparent(captured.traceparent),
            captured=kept,
        )

    def _redacted(self, captured: CapturedTrace, redactor: Redactor | None, written: _Written) -> _Written:
        """What people and upstreams wrote, redacted; the model's name among it where no route served it."""
        scope = self._remember(captured)
        if redactor is None or redactor.untouched(list(written)):
            return written
        bodies = [written.request, written.response, written.usage, written.tags]
        if not captured.route:
            bodies.append(written.models)
        request, response, usage, tags, *models = redactor.replaced(bodies, scope)
        return _Written(
            request=request,
            response=response,
            usage=usage,
            tags=tags,
            models=models[0] if models else written.models,
            session=self._identifier(written.session, captured.client),
            subject=None if written.subject is None else self._identifier(written.subject, captured.client),
        )

    def _feedback(self, captured: CapturedFeedback) -> Feedback:
        own = f"{captured.client}\0{captured.session or captured.trace_id}"
        scope = self._scopes.get(captured.trace_id or "", own)
        return Feedback(
            feedback_id=captured.feedback_id,
            trace_id=captured.trace_id,
            session=None if captured.session is None else self._identifier(captured.session, captured.client),
            client=captured.client,
            kind=self._text(captured.kind, scope),
            value=captured.value,
            text=None if captured.text is None else self._text(captured.text, scope),
            created_at=_at(captured.created_at_us),
        )

    def _rollout_event(self, captured: CapturedRolloutEvent) -> RolloutEvent:
        return RolloutEvent(
            rollout=captured.rollout,
            route=captured.route,
            version=captured.version,
            event=captured.event,
            snapshot=captured.snapshot,
            at=_at(captured.at_us),
            who=captured.who,
            why=self._text(captured.why, captured.route),
            evidence=_encode(captured.evidence).decode(),
        )

    def _remember(self, captured: CapturedTrace) -> str:
        scope = f"{captured.client}\0{captured.session}"
        self._scopes[captured.trace_id] = scope
        if len(self._scopes) > MAX_RECENT_TRACES:
            del self._scopes[next(iter(self._scopes))]
        return scope

    def _identifier(self, key: str, client: str) -> str:
        """A session or a subject. Apps use e-mail addresses; feedback has to meet its traces all the same."""
        redactor = self.policy.default.redactor  # the same for all routes, so that equal stays equal
        if redactor is None or _UUID.fullmatch(key):
            return key
        return redactor.identifier(key, f"{client}\0")

    def _text(self, text: str, scope: str) -> str:
        redactor = self.policy.default.redactor
        return text if redactor is None else redactor.text(text, scope)


def without_bodies(record: Record) -> Record:
    """*record* with its metadata alone: what can still be kept of one whose bodies cannot be handled."""
    return msgspec.structs.replace(record, request=b"", response=b"", bodies_left_out=True)


def _kept(captured: CapturedTrace, record: Record, policy: RoutePolicy) -> CapturedBodies:
    """What of the bodies is kept, or why they are not."""
    if record.bodies_left_out:
        return "left_out"
    if captured.capture != "full":
        # A worker keeps the metadata alone of an answer that is too large, whatever its route says.
        return "left_out" if captured.route and policy.capture == "full" else "metadata"
    return "full" if keeps_bodies(captured.client, captured.session, policy.bodies) else "sampled_out"


def _json(value: Any) -> str | None:
    return None if value is None else json_text(value)


def _attempts(attempts: list[Attempt], models: list[str]) -> str:
    """JSON of *attempts*, with *models* in place of theirs."""
    named = [
        attempt if attempt.model == model else msgspec.structs.replace(attempt, model=model)
        for attempt, model in zip(attempts, models, strict=True)
    ]
    return _encode(named).decode()


def _request(record: Record) -> Any:
    if record.bodies_left_out:
        return {MARKER: {"left_out": True}}
    return parse_json(record.request) if record.request else None


def _answer(captured: CapturedTrace, response: bytes) -> Any:
    """The decoded answer, a stream assembled; None when there was none."""
    if not response:
        return None
    data = decode_content(response, captured.content_encoding)
    if data is None:
        return {MARKER: {"undecoded": captured.content_encoding, "bytes": len(response)}}
    if not data:
        return None
    if is_event_stream(data, streamed=captured.stream):
        assembled = assemble(data)
        if assembled is not None or is_event_stream(data, streamed=False):
            return assembled
    return parse_json(data)  # a page of a proxy that was in the way, say, where a stream was asked for


def _with_error(answer: Any, captured: CapturedTrace, record: Record) -> Any:
    """*answer*, or in its absence what is known about why there is none."""
    if record.bodies_left_out:
        return {MARKER: {"left_out": True}}
    if answer is None and captured.error is not None:
        return {MARKER: {"error": captured.error}}
    return answer


def _traceparent(header: str | None) -> str | None:
    """The header of a request where it is one of W3C's; anything else may be anything, and is unknown."""
    return header if header is not None and _TRACEPARENT.fullmatch(header) else None


def _at(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
