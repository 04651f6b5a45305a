"""Whether the answer kept to its length, its time and its money. What is not known is never zero."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta

from judges.builtin.shown import answer_of
from judges.protocol import Abstain, abstain
from judges.trace import JudgedTrace

Unit = Literal["chars", "words", "tokens_out"]
AtLeastZero = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]


def length(
    trace: JudgedTrace,
    *,
    at_most: AboveZero,
    at_least: AtLeastZero = 0,
    unit: Unit = "words",
    zero_at: AboveZero | None = None,
) -> float | Abstain:
    """1 where the answer has *at_least* to *at_most* of *unit*, else 0.

    *zero_at*: above the bound the score falls in a line, to 0 there.
    """
    if unit == "tokens_out":
        size: float | None = trace.tokens_out
        if size is None:
            return abstain("tokens_out of the trace is not known")
    else:
        answer = answer_of(trace)
        if isinstance(answer, Abstain):
            return answer
        size = len(answer) if unit == "chars" else len(answer.split())
    return 0.0 if size < at_least else within(size, at_most, zero_at)


def latency(
    trace: JudgedTrace,
    *,
    at_most_ms: AboveZero | None = None,
    first_token_ms: AboveZero | None = None,
    zero_at_ms: AboveZero | None = None,
) -> float | Abstain:
    """1 where the whole answer took *at_most_ms*, and its first token *first_token_ms*; else 0.

    *zero_at_ms*: beyond *at_most_ms* the score falls in a line, to 0 there.
    """
    score = 1.0
    if at_most_ms is not None:
        taken = _known(trace.latency_ms)
        if taken is None:
            return abstain("latency_ms of the trace is not known")
        score = within(taken, at_most_ms, zero_at_ms)
    if first_token_ms is not None:
        first = _known(trace.ttft_ms)
        if first is None:
            return abstain("ttft_ms of the trace is not known")
        score = min(score, within(first, first_token_ms, None))
    return score


def cost(
    trace: JudgedTrace, *, at_most_usd: AboveZero, zero_at_usd: AboveZero | None = None
) -> float | Abstain:
    """1 where the answer cost *at_most_usd*, else 0; *zero_at_usd*: above, it falls in a line, to 0 there."""
    paid = _known(trace.cost_usd)
    if paid is None:
        return abstain("cost_usd of the trace is not known; give its upstream prices")
    return within(paid, at_most_usd, zero_at_usd)


def within(size: float, most: float, zero_at: float | None) -> float:
    """1 up to *most*, then 0; or, where *zero_at* is above *most*, in a line down to 0 there."""
    if size <= most:
        return 1.0
    if zero_at is None or size >= zero_at:
        return 0.0
    return (zero_at - size) / (zero_at - most)


def check_options(judge: str, options: dict[str, Any]) -> None:
    """Raises ValueError naming the option that is wrong."""
    if judge == "latency" and not {"at_most_ms", "first_token_ms"} & set(options):
        raise ValueError("needs option 'at_most_ms' or 'first_token_ms'")
    for most, zero_at in (
        ("at_most", "zero_at"),
        ("at_most_ms", "zero_at_ms"),
        ("at_most_usd", "zero_at_usd"),
    ):
        if options.get(zero_at) is not None and options[zero_at] <= options.get(most, math.inf):
            raise ValueError(f"option {zero_at!r} is not above {most!r}")
    if options.get("at_least", 0) > options.get("at_most", math.inf):
        raise ValueError("option 'at_least' is above 'at_most'")


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
