"""What an upstream's refusal means for another try: may it be asked again, may a fallback, which? Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.data_plane.attempt import Failure, Response
from gateway.upstream.retries import is_moved, is_retried, parse_retry_after

MAX_REFUSAL_BYTES = 64 * 1024  # of a body that is looked into
_TOO_LONG_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"}
)
# Servers without a code for it say it in words: vLLM, TGI, Mistral.
_TOO_LONG_WORDS = re.compile(
    r"maximum context length|context (?:length|window|size) (?:of|is|exceed)|"
    r"exceeds? the (?:model's )?context|prompt is too long|too many tokens|max_model_len",
    re.IGNORECASE,
)


class _Refusal(msgspec.Struct):
    error: Any = None
    message: Any = None
    code: Any = None
    type: Any = None


def refused(response: Response) -> Failure:
    """The failure that *response*, of a status from 400 on, is."""
    status = response.status
    too_long = status in {400, 413, 422} and is_too_long(response.body)
    return Failure(
        reason="status_429" if status == 429 else "status_4xx" if status < 500 else "status_5xx",
        may_retry=is_retried(status),
        may_move=is_moved(status) or too_long,
        needs_larger_context=too_long,
        response=response,
        retry_after_s=parse_retry_after(response.headers),
    )


def is_too_long(body: bytes) -> bool:
    """Whether an error's *body* says that the request exceeds the model's context."""
    try:
        refusal = msgspec.json.decode(body[:MAX_REFUSAL_BYTES], type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    holders = [msgspec.to_builtins(refusal)]
    if isinstance(refusal.error, dict):
        holders.append(refusal.error)
    for holder in holders:
        if holder.get("code") in _TOO_LONG_CODES or holder.get("type") in _TOO_LONG_CODES:
            return True
        message = holder.get("message")
        if isinstance(message, str) and _TOO_LONG_WORDS.search(message):
            return True
    return False
