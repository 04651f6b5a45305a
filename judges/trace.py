"""The trace as a judge sees it: the stored columns, both bodies decoded, and what was said of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.traces.feedback import in_force
from gateway.traces.types import Feedback, Trace

KEPT = "kept"  # the kind of feedback that says what the answer was in the end


class JudgedTrace(Trace, frozen=True, kw_only=True):
    """One trace. Every column of `traces` is an attribute; `request` and `response` are decoded JSON."""

    request: Any
    response: Any
    feedback: tuple[Feedback, ...] = ()  # in force on this trace, oldest first: the last one of each kind

    @property
    def answer(self) -> str:
        """The text the model answered, of a stream the whole; "" where it only called tools."""
        choice = self._choice
        if isinstance(choice.get("text"), str):
            return str(choice["text"])
        return text_of(self._message.get("content"))

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls of the answer as the API has them; empty where there are none."""
        calls = self._message.get("tool_calls")
        return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []

    @property
    def prompt(self) -> str:
        """The text of the last message the user sent."""
        messages = self.request.get("messages") if isinstance(self.request, dict) else None
        for message in reversed(messages if isinstance(messages, list) else []):
            if isinstance(message, dict) and message.get("role") == "user":
                return text_of(message.get("content"))
        return ""

    @property
    def kept(self) -> str | None:
        """The answer as finally kept, as the app reported it (JSON as text); None where nobody said."""
        texts = [entry.text for entry in self.feedback if entry.kind == KEPT and entry.text is not None]
        return texts[-1] if texts else None

    def with_answer(self, answer: str) -> JudgedTrace:
        """The same trace as if the model had answered *answer*: to judge a generated answer."""
        return msgspec.structs.replace(self, response=_completion(answer, None), finish_reason="stop")

    @property
    def _choice(self) -> dict[str, Any]:
        choices = self.response.get("choices") if isinstance(self.response, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        return first if isinstance(first, dict) else {}

    @property
    def _message(self) -> dict[str, Any]:
        message = self._choice.get("message")
        return message if isinstance(message, dict) else {}


def text_of(content: object) -> str:
    """The text of a message's content: a string, or a list of parts of which the text ones count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def judged_trace(row: Trace, feedback: Iterable[Feedback] = ()) -> JudgedTrace:
    """The stored *row* as a judge sees it. Raises msgspec.DecodeError where a body is not JSON."""
    columns = msgspec.structs.asdict(row)
    columns["request"] = msgspec.json.decode(row.request or "null")
    columns["response"] = msgspec.json.decode(row.response or "null")
    return JudgedTrace(**columns, feedback=tuple(in_force(feedback)))


def stored_row(trace: JudgedTrace) -> Trace:
    """The way back: *trace* as a row, its bodies as JSON text."""
    columns = {name: getattr(trace, name) for name in Trace.__struct_fields__}
    columns["request"] = msgspec.json.encode(trace.request).decode()
    columns["response"] = msgspec.json.encode(trace.response).decode()
    return Trace(**columns)


def trace_from(
    *,
    request: Any = None,
    response: Any = None,
    answer: str | None = None,
    tool_calls: Sequence[dict[str, Any]] | None = None,
    kept: str | dict[str, Any] | list[Any] | None = None,
    feedback: Sequence[Feedback] = (),
    **columns: Any,
) -> JudgedTrace:
    """A trace to test a judge with: `judge(judges.trace_from(answer="yes", kept="yes"))`.

    *answer* and *tool_calls* stand for a response of that content. *kept* is what feedback says was
    kept; JSON may be given decoded. Any column of `traces` can be set by name; the others have plain values.
    """
    started_at = columns.setdefault("started_at", datetime.now(UTC))
    values = _PLAIN | columns
    said = in_force(feedback)
    if kept is not None:
        text = kept if isinstance(kept, str) else msgspec.json.encode(kept).decode()
        said.append(
            Feedback(
                feedback_id="kept",
                trace_id=values["trace_id"],
                session=None,
                client=values["client"],
                kind=KEPT,
                value=None,
                text=text,
                created_at=started_at,
            )
        )
    return JudgedTrace(
        **values,
        request={"messages": []} if request is None else request,
        response=_completion(answer, tool_calls) if response is None else response,
        feedback=tuple(said),
    )


def said(kind: str, what: float | str) -> Feedback:
    """One word of feedback for a test: `judges.trace_from(answer=…, feedback=[judges.said("rating", 0.2)])`.

    *kind* is rating, outcome, kept, comment, or a signal of your own; a number is its value, else its text.
    """
    text, value = (what, None) if isinstance(what, str) else (None, float(what))
    return Feedback(
        feedback_id=kind,
        trace_id=_PLAIN["trace_id"],
        session=None,
        client=_PLAIN["client"],
        kind=kind,
        value=value,
        text=text,
        created_at=datetime.now(UTC),
    )


def _completion(answer: str | None, tool_calls: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer}
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


_PLAIN: dict[str, Any] = {
    "trace_id": "01900000-0000-7000-8000-000000000000",
    "route": "route",
    "variant": "stable",
    "snapshot": None,
    "rollout": None,
    "propensity": 1.0,
    "client": "",
    "session": "session",
    "subject": None,
    "upstream": "upstream",
    "model": "model",
    "endpoint": "/v1/chat/completions",
    "stream": False,
    "status": 200,
    "outcome": "ok",
    "finish_reason": "stop",
    "attempts": "[]",
    "latency_ms": 1.0,
    "ttft_ms": None,
    "tokens_in": None,
    "tokens_cached": None,
    "tokens_out": None,
    "usage": None,
    "cost_usd": None,
    "tags": {},
    "table_hash": "",
    "traceparent": None,
}
