"""What an upstream's refusal means for another try: may it be asked again, may a fallback, which? Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.data_plane.attempt import Failure, Response
from gateway.upstream.errors import UpstreamError
from gateway.upstream.retries import is_moved, is_retried, parse_retry_after

MAX_REFUSAL_BYTES = 1024 * 1024  # of a body that is looked into; one of `/v1/responses` echoes its request
_TOO_LONG_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"}
)
_TOO_MANY_REQUESTS = 429
# Servers without a code for it say it in words: vLLM, TGI, Mistral.
_TOO_LONG_WORDS = re.compile(
    r"maximum context length|context (?:length|window|size) (?:of|is|exceed)|"
    r"exceeds? the (?:model's )?context|prompt is too long|too many tokens|max_model_len",
    re.IGNORECASE,
)


class _Refusal(msgspec.Struct):
    error: Any = None
    response: Any = None  # of an event of `/v1/responses`
    message: Any = None
    code: Any = None
    type: Any = None


def refused(response: Response, now: float) -> Failure:
    """The failure that *response*, of a status from 400 on, is. *now*: seconds since the epoch."""
    status = response.status
    too_long = status in {400, 413, 422} and is_too_long(response.body)
    return Failure(
        reason="status_429" if status == 429 else "status_4xx" if status < 500 else "status_5xx",
        may_retry=is_retried(status),
        may_move=is_moved(status) or too_long,
        needs_larger_context=too_long,
        response=response,
        retry_after_s=parse_retry_after(response.headers, now),
    )


def failed_in_200(response: Response, error: bytes, cause: UpstreamError | None = None) -> Failure:
    """The failure that *response*, of a status below 400, is by the *error* in it: its body or an event."""
    too_long = is_too_long(error)
    return Failure(
        reason="error_in_200",
        may_retry=not too_long,
        may_move=True,
        needs_larger_context=too_long,
        error=cause,
        response=response,
    )


def is_too_long(body: bytes) -> bool:
    """Whether an error's *body* says that the request exceeds the model's context."""
    if len(body) > MAX_REFUSAL_BYTES:
        return False
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    response = refusal.response if isinstance(refusal.response, dict) else {}
    for holder in (msgspec.structs.asdict(refusal), refusal.error, response.get("error")):
        if isinstance(holder, dict) and _says_too_long(holder):
            return True
    return False


def _says_too_long(holder: dict[str, Any]) -> bool:
    code, kind, message = holder.get("code"), holder.get("type"), holder.get("message")
    if any(isinstance(name, str) and name in _TOO_LONG_CODES for name in (code, kind)):
        return True
    # Where tokens are too many for a minute, an error inside a 200 says so by its code alone.
    return code != _TOO_MANY_REQUESTS and isinstance(message, str) and bool(_TOO_LONG_WORDS.search(message))
