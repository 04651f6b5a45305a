"""Reads token counts out of an answer, whoever wrote it. What is not said is None, never 0.

Known shapes: OpenAI chat, completions, embeddings and responses; vLLM; llama.cpp (`timings`); Mistral; Groq
(`x_groq`); DeepSeek (`prompt_cache_hit_tokens`); Anthropic (cached tokens are not part of `input_tokens`).
"""

from __future__ import annotations

from typing import Any

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one answer. `cached` are those of `tokens_in` that the upstream had cached."""

    tokens_in: int | None = None
    tokens_cached: int | None = None
    tokens_out: int | None = None
    raw: dict[str, Any] | None = None  # the usage object as received


def read_usage(response: Any) -> Usage:
    """The usage that the decoded answer *response* reports."""
    if not isinstance(response, dict):
        return Usage()
    raw = _usage_object(response)
    if raw is None:
        return _from_timings(response.get("timings"))
    tokens_in = _count(raw, "prompt_tokens", "input_tokens")
    tokens_out = _count(raw, "completion_tokens", "output_tokens")
    tokens_cached = _cached(raw)
    if "input_tokens" in raw and tokens_in is not None and "cache_read_input_tokens" in raw:
        tokens_in += (tokens_cached or 0) + (_count(raw, "cache_creation_input_tokens") or 0)
    total = _count(raw, "total_tokens")
    if tokens_in is None and total is not None and tokens_out is not None and total >= tokens_out:
        tokens_in = total - tokens_out
    if tokens_out is None and total is not None and tokens_in is not None and total >= tokens_in:
        tokens_out = total - tokens_in  # embeddings: nothing is written
    if tokens_cached is not None and tokens_in is not None and tokens_cached > tokens_in:
        tokens_cached = None
    return Usage(tokens_in=tokens_in, tokens_cached=tokens_cached, tokens_out=tokens_out, raw=raw)


def finish_reason(response: Any) -> str | None:
    """Why the answer ended: the first choice that says so; of a Responses answer, its status."""
    if not isinstance(response, dict):
        return None
    choices = response.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and isinstance(reason := choice.get("finish_reason"), str):
                return reason or None
        return None
    details = response.get("incomplete_details")
    if isinstance(details, dict) and isinstance(reason := details.get("reason"), str):
        return reason
    return "stop" if response.get("object") == "response" and response.get("status") == "completed" else None


def _usage_object(response: dict[str, Any]) -> dict[str, Any] | None:
    for holder in (response, response.get("x_groq")):
        if isinstance(holder, dict) and isinstance(usage := holder.get("usage"), dict):
            return usage
    return None


def _cached(raw: dict[str, Any]) -> int | None:
    for key in ("prompt_tokens_details", "prompt_token_details", "input_tokens_details"):
        details = raw.get(key)
        if isinstance(details, dict) and (cached := _count(details, "cached_tokens")) is not None:
            return cached
    return _count(
        raw, "prompt_cache_hit_tokens", "cache_read_input_tokens", "num_cached_tokens", "cached_tokens"
    )


def _from_timings(timings: Any) -> Usage:
    if not isinstance(timings, dict):
        return Usage()
    fresh, cached = _count(timings, "prompt_n"), _count(timings, "cache_n")
    return Usage(
        tokens_in=None if fresh is None else fresh + (cached or 0),
        tokens_cached=cached,
        tokens_out=_count(timings, "predicted_n"),
    )


def _count(holder: dict[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = holder.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32:
            return value
    return None
