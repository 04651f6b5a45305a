"""What an upstream's error means for another try: may it be asked again, may a fallback, which? Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.data_plane.attempt import Failure, Response
from gateway.upstream.retries import is_moved, is_retried, parse_retry_after

MAX_WORDS = 64 * 1024  # characters of a message that are looked through
_TOO_LONG_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"}
)
_TOO_MANY_REQUESTS = 429
_TOO_LONG_STATUSES = frozenset({400, 413, 422})
# Servers without a code for it say it in words: vLLM, TGI, Mistral.
_TOO_LONG_WORDS = re.compile(
    r"maximum context length|context (?:length|window|size) (?:of|is|exceed)|"
    r"exceeds? the (?:model's )?context|prompt is too long|too many tokens|max_model_len",
    re.IGNORECASE,
)


class _Told(msgspec.Struct):
    error: Any = None
    response: Any = None  # of the event `response.failed`
    message: Any = None
    code: Any = None
    type: Any = None


_decode = msgspec.json.Decoder(_Told).decode


def refused(response: Response, unix_s: float) -> Failure:
    """The failure that *response*, of a status from 400 on and received at *unix_s*, is."""
    status = response.status
    too_long = status in _TOO_LONG_STATUSES and is_too_long(response.body)
    return Failure(
        reason="status_429" if status == 429 else "status_4xx" if status < 500 else "status_5xx",
        may_retry=is_retried(status),
        may_move=is_moved(status) or too_long,
        needs_larger_context=too_long,
        response=response,
        retry_after_s=parse_retry_after(response.headers, unix_s),
    )


def reported(response: Response, told: bytes) -> Failure:
    """The failure that *response*, of a status below 400, is: *told*, its body or one event's data, says so.

    Where an error has a status for its code (OpenRouter's, vLLM's) it means what the status does.
    """
    status = next(
        (code for code in _values(told, "code") if isinstance(code, int) and 400 <= code < 600), None
    )
    too_long = is_too_long(told)
    return Failure(
        reason="error_in_200",
        may_retry=not too_long and (status is None or is_retried(status)),
        may_move=too_long or status is None or is_moved(status),
        needs_larger_context=too_long,
        response=response,
    )


def is_too_long(body: bytes) -> bool:
    """Whether an error's *body* says that the request exceeds the model's context."""
    if any(isinstance(name, str) and name in _TOO_LONG_CODES for name in _values(body, "code", "type")):
        return True
    if _TOO_MANY_REQUESTS in _values(body, "code"):
        return False  # tokens are too many for a minute
    words = _values(body, "message")
    return any(isinstance(each, str) and _TOO_LONG_WORDS.search(each[:MAX_WORDS]) for each in words)


def _values(body: bytes, *fields: str) -> list[Any]:
    """What an error's *body* has under *fields*, wherever servers put them; nothing where it is no error."""
    try:
        told = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    inner = told.response.get("error") if isinstance(told.response, dict) else None
    holders = [holder for holder in (told.error, inner) if isinstance(holder, dict)]
    return [getattr(told, field) for field in fields] + [
        holder.get(field) for holder in holders for field in fields
    ]
