"""Turns what a worker captured into the rows of the store: assembled, counted, priced, redacted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from gateway.traces.assembling.jsontext import json_text
from gateway.traces.assembling.usage import Usage, finish_reason, read_usage
from gateway.traces.bodies.blobs import BlobRow
from gateway.traces.bodies.bodies import Owner
from gateway.traces.bodies.captured import decoded_answer, decoded_request, response_of
from gateway.traces.bodies.writer import BodyWriter, WrittenBodies
from gateway.traces.capture_policy import CapturePolicy, RoutePolicy, keeps_bodies
from gateway.traces.cost import cost_usd
from gateway.traces.erasure.erasures import Named
from gateway.traces.redaction.redact import Redactor
from gateway.traces.redaction.scan import NOTHING
from gateway.traces.segments import Record
from gateway.traces.types import (
    Attempt,
    Captured,
    CapturedBodies,
    CapturedFeedback,
    CapturedRolloutEvent,
    CapturedTrace,
    Feedback,
    RolloutEvent,
    Trace,
    cut_key,
)

MAX_RECENT_TRACES = 50_000  # remembered, so that feedback gets the placeholders and the key of its trace

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


class Row(NamedTuple):
    """One row and the table it belongs to; of a trace also what its answer used."""

    table: str
    values: Trace | Feedback | RolloutEvent
    usage: Usage | None = None
    blobs: Sequence[BlobRow] = ()  # what its bodies refer to; to be in the store no later than the row


class _Recent(NamedTuple):
    """What feedback has to know of its trace."""

    scope: str
    owner: Owner


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
    """Builds rows by a policy, which may be replaced at any time; a redactor alone is one for all routes.

    *writer* says what becomes of bodies; by default they are not encrypted.
    """

    def __init__(self, policy: CapturePolicy | Redactor | None, writer: BodyWriter | None = None) -> None:
        self.policy = policy if isinstance(policy, CapturePolicy) else CapturePolicy(RoutePolicy(policy), {})
        self._writer = writer or BodyWriter()
        self._recent: dict[str, _Recent] = {}

    def build(self, record: Record) -> Row:
        """The row of *record*, whose meta must be readable."""
        captured = record.captured
        if isinstance(captured, CapturedTrace):
            answer = decoded_answer(captured, record.response)
            usage = read_usage(answer)
            values, blobs = self._trace(captured, record, answer, usage)
            return Row("traces", values, usage, blobs)
        if isinstance(captured, CapturedFeedback):
            return Row("feedback", self._feedback(captured))
        assert isinstance(captured, CapturedRolloutEvent)
        return Row("rollouts", self._rollout_event(captured))

    def named(self, captured: Captured) -> Named | None:
        """Whose *captured* is, by the names that its row will have; None: nobody's in particular."""
        if isinstance(captured, CapturedRolloutEvent):
            return None
        is_trace = isinstance(captured, CapturedTrace)
        session = captured.session
        subject = captured.subject if isinstance(captured, CapturedTrace) else None
        return Named(
            table="traces" if is_trace else "feedback",
            client=captured.client,
            subject=None if subject is None else self._identifier(subject, captured.client),
            session=None if session is None else self._identifier(session, captured.client),
            trace_id=captured.trace_id,
            at_us=captured.started_at_us if isinstance(captured, CapturedTrace) else captured.created_at_us,
        )

    def stored_name(self, name: str, client: str) -> str:
        """How a subject or a session that a person types is named in the rows of *client*."""
        return self._identifier(cut_key(name), client)

    def _trace(
        self, captured: CapturedTrace, record: Record, answer: Any, usage: Usage
    ) -> tuple[Trace, Sequence[BlobRow]]:
        """The row of a trace, and what its bodies refer to."""
        policy = self.policy.of(captured.route)
        kept = _kept(captured, record, policy)
        full = kept in ("full", "left_out") and captured.capture == "full"
        finished = finish_reason(answer)
        written = self._redacted(
            captured,
            policy.redactor,
            _Written(
                request=decoded_request(record) if full else None,
                response=response_of(answer, captured, record) if full else None,
                usage=usage.raw,  # of a response it is a part, and is redacted in place with it
                tags=dict(captured.tags),
                models=[captured.model, *[attempt.model for attempt in captured.attempts]],
                session=captured.session,
                subject=captured.subject,
            ),
        )
        owner = Owner(captured.client, written.subject, written.session)
        self._remember(captured, owner)
        bodies = WrittenBodies(None, None, ())
        if full:
            at = _at(captured.started_at_us)
            bodies = self._writer.bodies(owner, captured.trace_id, at, written.request, written.response)
        row = Trace(
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
            request=bodies.request,
            response=bodies.response,
            tags=written.tags,
            table_hash=captured.table_hash,
            traceparent=_traceparent(captured.traceparent),
            training=captured.training,
            captured=kept,
        )
        return row, bodies.blobs

    def _redacted(self, captured: CapturedTrace, redactor: Redactor | None, written: _Written) -> _Written:
        """What people and upstreams wrote, redacted; the model's name among it where no route served it."""
        suspects = NOTHING if redactor is None else redactor.suspects(list(written))
        if redactor is None or suspects == NOTHING:
            return written
        bodies = [written.request, written.response, written.usage, written.tags]
        if not captured.route:
            bodies.append(written.models)
        request, response, usage, tags, *models = redactor.replaced(bodies, _scope(captured), suspects)
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
        recent = self._recent.get(captured.trace_id or "")
        named = captured.session or captured.trace_id or captured.feedback_id
        scope = f"{captured.client}\0{named}" if recent is None else recent.scope
        session = None if captured.session is None else self._identifier(captured.session, captured.client)
        text = None
        if captured.text is not None:
            # Another client's feedback is not its trace's, and not under its key.
            owner = Owner(captured.client, None, session or named)
            if recent is not None and recent.owner.client == captured.client:
                owner = recent.owner
            text = self._writer.feedback_text(owner, captured.feedback_id, self._text(captured.text, scope))
        return Feedback(
            feedback_id=captured.feedback_id,
            trace_id=captured.trace_id,
            session=session,
            client=captured.client,
            kind=self._text(captured.kind, scope),
            value=captured.value,
            text=text,
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

    def _remember(self, captured: CapturedTrace, owner: Owner) -> None:
        self._recent[captured.trace_id] = _Recent(_scope(captured), owner)
        if len(self._recent) > MAX_RECENT_TRACES:
            del self._recent[next(iter(self._recent))]

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


def _scope(captured: CapturedTrace) -> str:
    """What the placeholders of a trace are stable in."""
    return f"{captured.client}\0{captured.session}"


def _json(value: Any) -> str | None:
    return None if value is None else json_text(value)


def _attempts(attempts: list[Attempt], models: list[str]) -> str:
    """JSON of *attempts*, with *models* in place of theirs."""
    named = [
        attempt if attempt.model == model else msgspec.structs.replace(attempt, model=model)
        for attempt, model in zip(attempts, models, strict=True)
    ]
    return _encode(named).decode()


def _traceparent(header: str | None) -> str | None:
    """The header of a request where it is one of W3C's; anything else may be anything, and is unknown."""
    return header if header is not None and _TRACEPARENT.fullmatch(header) else None


def _at(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
