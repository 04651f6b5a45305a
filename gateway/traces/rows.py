"""Turns what a worker captured into the rows of the store: assembled, counted, priced, redacted."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gateway.traces.assemble import assemble
from gateway.traces.bodies import place_of
from gateway.traces.content import decode_content, is_event_stream
from gateway.traces.cost import cost_usd
from gateway.traces.jsontext import MARKER, MAX_BODY_BYTES, json_text, parse_json
from gateway.traces.redact import Redactor
from gateway.traces.sealing import Sealer, unsealed
from gateway.traces.segments import Record
from gateway.traces.types import (
    CapturedFeedback,
    CapturedRolloutEvent,
    CapturedTrace,
    Feedback,
    RolloutEvent,
    Trace,
)
from gateway.traces.usage import Usage, finish_reason, read_usage

if TYPE_CHECKING:
    from gateway.traces.keyring import DataKey, Keyring

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


class _Recent(NamedTuple):
    """What feedback has to know of its trace. `owner`: whose key it is under, as the store has the names."""

    scope: str
    client: str
    owner: tuple[str | None, str]  # subject and session


class RowBuilder:
    """Builds rows. `redactor` None leaves text as it is (privacy.redact: none).

    `body_bytes` is `capture.body_bytes`. With a *keyring* bodies and the text of feedback are encrypted; its
    `commit` is to be called before a row reaches a disk.
    """

    def __init__(
        self,
        redactor: Redactor | None,
        keyring: Keyring | None = None,
        *,
        body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._redactor = redactor
        self._body_bytes = body_bytes
        self._keyring = keyring
        self._sealer = Sealer()
        self._recent: dict[str, _Recent] = {}

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
        session = self._identifier(captured.session, captured.client)
        subject = None if captured.subject is None else self._identifier(captured.subject, captured.client)
        scope = self._remember(captured, subject, session)
        request = response = None
        if captured.capture == "full":
            key = self._key(captured.client, subject, session)
            place = captured.trace_id
            request = self._sealed(self._json(_request(record), scope), key, "traces", "request", place)
            answered = self._json(_with_error(answer, captured, record), scope)
            response = self._sealed(answered, key, "traces", "response", place)
        return Trace(
            trace_id=captured.trace_id,
            started_at=_at(captured.started_at_us),
            route=captured.route,
            variant=captured.variant,
            snapshot=captured.snapshot,
            rollout=captured.rollout,
            propensity=captured.propensity,
            client=captured.client,
            session=session,
            subject=subject,
            upstream=captured.upstream,
            model=self._model(captured, captured.model, scope),
            endpoint=captured.endpoint,
            stream=captured.stream,
            status=captured.status,
            outcome=captured.outcome,
            finish_reason=finish_reason(answer),
            attempts=_encode(
                [
                    msgspec.structs.replace(attempt, model=self._model(captured, attempt.model, scope))
                    for attempt in captured.attempts
                ]
            ).decode(),
            latency_ms=captured.latency_ms,
            ttft_ms=captured.ttft_ms,
            tokens_in=usage.tokens_in,
            tokens_cached=usage.tokens_cached,
            tokens_out=usage.tokens_out,
            usage=None if usage.raw is None else self._json(usage.raw, scope),
            cost_usd=cost_usd(captured.price, usage, captured.machine_cost_usd),
            request=request,
            response=response,
            tags={self._text(name, scope): self._text(value, scope) for name, value in captured.tags.items()},
            table_hash=captured.table_hash,
            traceparent=_traceparent(captured.traceparent),
            training=captured.training,
        )

    def _feedback(self, captured: CapturedFeedback) -> Feedback:
        recent = self._recent.get(captured.trace_id or "")
        named = captured.session or captured.trace_id or captured.feedback_id
        scope = f"{captured.client}\0{named}" if recent is None else recent.scope
        session = None if captured.session is None else self._identifier(captured.session, captured.client)
        text = None
        if captured.text is not None:
            # Another client's feedback is not its trace's, and not under its key.
            owner: tuple[str | None, str] = (None, session or named)
            if recent is not None and recent.client == captured.client:
                owner = recent.owner
            key = self._key(captured.client, *owner)
            text = self._sealed(
                self._text(captured.text, scope), key, "feedback", "text", captured.feedback_id
            )
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

    def _remember(self, captured: CapturedTrace, subject: str | None, session: str) -> str:
        scope = f"{captured.client}\0{captured.session}"
        self._recent[captured.trace_id] = _Recent(scope, captured.client, (subject, session))
        if len(self._recent) > MAX_RECENT_TRACES:
            del self._recent[next(iter(self._recent))]
        return scope

    def _key(self, client: str, subject: str | None, session: str) -> DataKey | None:
        return None if self._keyring is None else self._keyring.key_for(client, subject, session)

    def _sealed(
        self, text: str | None, key: DataKey | None, table: str, column: str, row_id: str
    ) -> str | None:
        if text is None:
            return None
        return (
            unsealed(text) if key is None else self._sealer.seal(text, key, place_of(table, column, row_id))
        )

    def _json(self, value: Any, scope: str) -> str | None:
        if value is None:
            return None
        redacted = value if self._redactor is None else self._redactor.value(value, scope)
        return json_text(redacted, self._body_bytes)

    def _identifier(self, key: str, client: str) -> str:
        """A session or a subject. Apps use e-mail addresses; feedback has to meet its traces all the same."""
        if self._redactor is None or _UUID.fullmatch(key):
            return key
        return self._redactor.identifier(key, f"{client}\0")

    def _model(self, captured: CapturedTrace, model: str, scope: str) -> str:
        """A model's name; where no route served the request, it is whatever the client wrote."""
        return model if captured.route else self._text(model, scope)

    def _text(self, text: str, scope: str) -> str:
        return text if self._redactor is None else self._redactor.text(text, scope)


def without_bodies(record: Record) -> Record:
    """*record* with its metadata alone: what can still be kept of one whose bodies cannot be handled."""
    return msgspec.structs.replace(record, request=b"", response=b"", bodies_left_out=True)


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
