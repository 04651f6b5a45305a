"""One call of another tool's log in our words, and what the mappings of the tools share.

Reasons name fields and never quote what is in them.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.traces.assembling.jsontext import parse_json_or_none

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)

Line = dict[str, Any]

_YEARS = range(2000, 2100)  # what the store's times hold, and no timestamp in another unit
_MILLISECONDS_FROM = 1e11  # a number of seconds would lie in the year 5138


class UnreadableLineError(Exception):
    """A line that is no call: `str` says why in one clause, and quotes nothing of it."""


class OtherLineError(Exception):
    """A line that is well, and that nobody would take for a call to a model. `str` says what it is."""


class ImportedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One request and its answer. None: the log does not say; durations in milliseconds."""

    request: Line
    response: Line | None
    endpoint: str = CHAT
    model: str = ""
    upstream: str = ""
    started_at: datetime | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    stream: bool = False
    status: int = 200
    session: str | None = None
    subject: str | None = None
    tags: dict[str, str] = {}
    cost_usd: float | None = None

    @property
    def failed(self) -> bool:
        return self.status >= 400


def decoded(value: Any) -> Any:
    """*value*, or what it says where it is text that is JSON, as exports write objects into columns."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        inner = parse_json_or_none(value.encode())
        return value if inner is None else inner
    return value


def an_object(line: Line, *names: str) -> Line | None:
    """The first of *names* that is an object, decoded where it is text; None where there is none."""
    for name in names:
        value = decoded(line.get(name))
        if isinstance(value, dict):
            return value
    return None


def text(line: Line, *names: str) -> str | None:
    """The first of *names* that is a text that is not empty."""
    return next((line[name] for name in names if isinstance(line.get(name), str) and line[name]), None)


def number(line: Line, *names: str) -> float | None:
    """The first of *names* that is a finite number."""
    for name in names:
        value = line.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def a_cost(line: Line, *names: str) -> float | None:
    """The first of *names* that is a cost in USD; 0 is what a log writes that knows none."""
    found = number(line, *names)
    return found if found is not None and found > 0 else None


def moment(line: Line, *names: str) -> datetime | None:
    """The first of *names* that is there, as a time: ISO 8601 (UTC if it says nothing), or since 1970.

    A number is of seconds or of milliseconds, which its size tells. Raises UnreadableLineError for others.
    """
    name = next((name for name in names if line.get(name) not in (None, "")), None)
    if name is None:
        return None
    at = _moment(line[name])
    if at is None or at.year not in _YEARS:
        raise UnreadableLineError(f"{name!r} is no time")
    return at


def _moment(value: Any) -> datetime | None:
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        if isinstance(value, int | float):
            seconds = value / 1000 if value >= _MILLISECONDS_FROM else value
            return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def between_ms(start: datetime | None, end: datetime | None) -> float | None:
    """Milliseconds from *start* to *end*; None where one is unknown or they are the wrong way round."""
    if start is None or end is None or end < start:
        return None
    return (end - start).total_seconds() * 1000


def completion(
    message: Line, *, finish_reason: str | None, model: str = "", usage: Line | None = None
) -> Line:
    """A whole answer of chat completions around *message*."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    answer: Line = {"object": "chat.completion", "choices": [choice]}
    return answer | ({"model": model} if model else {}) | ({"usage": usage} if usage else {})


def failure(message: str | None) -> Line:
    """The answer of a call that failed, in the shape of the API's errors."""
    return {"error": {"message": message or "the call failed", "type": "imported_error"}}


def http_status(value: Any, *, failed: bool) -> int:
    """*value* as an HTTP status; where it is none, 200, or 500 for a call that *failed*."""
    plain = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(plain, int) and 100 <= plain < 600 and not (failed and plain < 400):
        return plain
    return 500 if failed else 200


def endpoint_of(request: Line) -> str | None:
    """Where a request of this shape goes; None where its shape is no endpoint's."""
    if isinstance(request.get("messages"), list):
        return CHAT
    if "prompt" in request:
        return COMPLETIONS
    if "input" in request:
        return EMBEDDINGS if "embedding" in str(request.get("model", "")) else RESPONSES
    return None


def string_tags(value: Any) -> dict[str, str]:
    """Tags of an object of texts, or of a list of `name:value` or bare texts."""
    if isinstance(value, dict):
        return {name: item for name, item in value.items() if isinstance(item, str)}
    if not isinstance(value, list):
        return {}
    pairs = (item.partition(":") for item in value if isinstance(item, str) and item)
    return {name: said or "true" for name, _, said in pairs}
