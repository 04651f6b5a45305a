"""Reads token counts out of an answer, whoever wrote it. What is not said is None, never 0. Pure and quick.

Known shapes: OpenAI chat, completions, embeddings, responses and transcriptions; Azure; vLLM; llama.cpp
(`timings`); Mistral; Groq (`x_groq`); DeepSeek; OpenRouter; xAI and Gemini (thinking beside the completion);
LiteLLM; Perplexity; Anthropic (cached tokens beside `input_tokens`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.traces.assembling.token_parts import InputTokens, OutputTokens

_INPUT_DETAILS = (
    "prompt_tokens_details",
    "input_tokens_details",
    "prompt_token_details",  # Mistral
    "input_token_details",  # OpenAI's transcriptions
)
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_ANTHROPIC = ("cache_read_input_tokens", "cache_creation_input_tokens")
_OPENAI = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
    }
)
_NOTHING: dict[str, Any] = {}
MAX_TOKENS = (1 << 32) - 1  # of one side, which is what the store's columns hold; a larger number is no count
MAX_USD = 1e9  # of one answer; a larger number is no price


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one answer, a side None where the upstream did not say how many it was.

    A side's count is the sum of its parts and nothing else, so that they add up whatever was reported.
    """

    input: InputTokens | None = None
    output: OutputTokens | None = None
    reported_cost_usd: float | None = None  # what the upstream itself says it charged; above 0
    raw: dict[str, Any] | None = None  # the usage object as received

    @property
    def tokens_in(self) -> int | None:
        return None if self.input is None else self.input.total

    @property
    def tokens_cached(self) -> int | None:
        """Those of `tokens_in` that the upstream had cached, if it says."""
        return None if self.input is None else self.input.cached

    @property
    def tokens_out(self) -> int | None:
        return None if self.output is None else self.output.total


def read_usage(response: Any) -> Usage:
    """The usage that the decoded answer *response* reports."""
    if not isinstance(response, dict):
        return Usage()
    raw = _usage_object(response)
    timings = response.get("timings")
    timed = timings if isinstance(timings, dict) else _NOTHING
    return _from_timings(timed) if raw is None else usage_of(raw, cached=_count(timed, "cache_n"))


def usage_of(raw: dict[str, Any], *, cached: int | None = None) -> Usage:
    """The usage that the usage object *raw* reports; *cached* tokens are used where it names none.

    Details that overlap or exceed their side are cut to fit. What `total_tokens` has more than both sides was
    billed as well, and is placed: reasoning or cached tokens that are reported beside their side, else audio
    where seconds of it are reported, else reasoning that nobody itemised.
    """
    if cached is None and _OPENAI.issuperset(raw) and (usage := _of_openai(raw)) is not None:
        return usage
    into, out = _details(raw, _INPUT_DETAILS), _details(raw, _OUTPUT_DETAILS)
    cached = _cached(raw, into, cached)
    cache_write = _cache_write(raw, into)
    audio_in, audio_out = _fresh_audio(into), _count(out, "audio_tokens")
    reasoning = _first(_count(out, "reasoning_tokens", "thinking_tokens"), _count(raw, "reasoning_tokens"))
    total = _count(raw, "total_tokens")
    tokens_in, tokens_out = _sides(raw, total)
    if tokens_in is not None and tokens_out is not None:
        aside = (cached or 0) + (cache_write or 0)
        if (
            any(key in raw for key in _ANTHROPIC)
            and "input_tokens" in raw
            and total != tokens_in + tokens_out
        ):
            tokens_in += aside
        rest = 0 if total is None else max(0, total - tokens_in - tokens_out)
        if rest in (0, reasoning):  # xAI
            tokens_out += rest
        elif rest == aside:
            tokens_in += rest
        elif _money(raw.get("prompt_audio_seconds")) is not None:  # Mistral
            tokens_in += rest
            audio_in = (audio_in or 0) + rest
        else:  # Gemini
            tokens_out += rest
            reasoning = (reasoning or 0) + rest
    return Usage(
        input=_input(tokens_in, cached, cache_write, audio_in),
        output=_output(tokens_out, reasoning, audio_out),
        reported_cost_usd=_reported_cost(raw),
        raw=raw,
    )


def _of_openai(raw: dict[str, Any]) -> Usage | None:
    """The same where OpenAI's fields are all there is and add up, as in most answers; else None."""
    tokens_in, tokens_out = raw.get("prompt_tokens"), raw.get("completion_tokens")
    if type(tokens_in) is not int or type(tokens_out) is not int or tokens_in < 0 or tokens_out < 0:
        return None
    if raw.get("total_tokens") != tokens_in + tokens_out or tokens_in + tokens_out > MAX_TOKENS:
        return None
    into, out = raw.get("prompt_tokens_details"), raw.get("completion_tokens_details")
    if isinstance(into, dict) and into:
        read = _input(tokens_in, _count(into, "cached_tokens"), _cache_write(raw, into), _fresh_audio(into))
    else:
        read = InputTokens(text=tokens_in)
    if isinstance(out, dict) and out:
        reasoning = _count(out, "reasoning_tokens", "thinking_tokens")
        written = _output(tokens_out, reasoning, _count(out, "audio_tokens"))
    else:
        written = OutputTokens(text=tokens_out)
    return Usage(input=read, output=written, raw=raw)


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


def _sides(raw: dict[str, Any], total: int | None) -> tuple[int | None, int | None]:
    """Tokens in and out; one that is missing is what the total leaves for it (embeddings write nothing)."""
    tokens_in = _count(raw, "prompt_tokens", "input_tokens")
    tokens_out = _count(raw, "completion_tokens", "output_tokens")
    if total is not None and tokens_in is None and tokens_out is not None and total >= tokens_out:
        tokens_in = total - tokens_out
    if total is not None and tokens_out is None and tokens_in is not None and total >= tokens_in:
        tokens_out = total - tokens_in
    return tokens_in, tokens_out


def _cached(raw: dict[str, Any], into: dict[str, Any], default: int | None) -> int | None:
    named = _count(into, "cached_tokens")
    others = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "num_cached_tokens", "cached_tokens")
    return _first(named, _count(raw, *others), default)


def _cache_write(raw: dict[str, Any], into: dict[str, Any]) -> int | None:
    named = _count(into, "cache_write_tokens", "cache_creation_tokens")
    return _first(named, _count(raw, "cache_creation_input_tokens", "cache_write_tokens"))


def _fresh_audio(into: dict[str, Any]) -> int | None:
    """Audio that was not cached: cached audio counts as cached."""
    audio, cached = _count(into, "audio_tokens"), into.get("cached_tokens_details")
    if audio is None or not isinstance(cached, dict):
        return audio
    return max(0, audio - (_count(cached, "audio_tokens") or 0))


def _reported_cost(raw: dict[str, Any]) -> float | None:
    """OpenRouter's `cost`, Perplexity's `cost.total_cost`. 0 counts as not reported.

    A free model and a field that nobody fills look alike; who has a free model prices it at 0.
    """
    cost = raw.get("cost")
    charged = _money(cost.get("total_cost") if isinstance(cost, dict) else cost)
    if charged is not None and raw.get("is_byok") is True:
        # With the caller's own key at the provider, `cost` is the router's fee alone.
        details = raw.get("cost_details")
        provider = _money(details.get("upstream_inference_cost")) if isinstance(details, dict) else None
        charged = None if not provider else charged + provider
    return charged or None


def _from_timings(timings: dict[str, Any]) -> Usage:
    fresh, cached, written = (_count(timings, key) for key in ("prompt_n", "cache_n", "predicted_n"))
    return Usage(
        input=_input(None if fresh is None else fresh + (cached or 0), cached), output=_output(written)
    )


def _input(total: int | None, *parts: int | None) -> InputTokens | None:
    return None if total is None else InputTokens.of(min(total, MAX_TOKENS), *parts)


def _output(total: int | None, *parts: int | None) -> OutputTokens | None:
    return None if total is None else OutputTokens.of(min(total, MAX_TOKENS), *parts)


def _details(raw: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    for key in keys:
        if isinstance(details := raw.get(key), dict) and details:
            return details
    return _NOTHING


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def _money(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MAX_USD else None


def _count(holder: dict[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = holder.get(key)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
            return value
    return None
