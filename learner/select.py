"""Which traces may be learnt from, and why each of the others may not. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.traces.assembling.jsontext import is_cut
from gateway.traces.markers import ERASED_REASON, why_unreadable
from judges.trace import JudgedTrace, text_of
from learner.types import Example

# Reasons, as the manifest counts them.
WITHHELD = "kept out of training by its client"
FAILED = "the answer failed or was cut short"
NOT_STOPPED = "the answer did not end by itself"
PINNED = "pinned to a variant by its client"
METADATA_ONLY = "no bodies were captured"
ERASED = "erased"
CUT = "bodies longer than capture.body_bytes"
DAMAGED = "the stored bodies are damaged"
UNREADABLE = "no messages or no text answer"
TOOLS = "uses tools"
TOO_LONG = "bodies too long to learn from"
NOT_JUDGED = "not judged yet"
ABSTAINED = "the judge abstained"
LOW_SCORE = "judged below min_score"
DUPLICATE = "the same prompt and answer as another trace"
HOLDOUT_FULL = "the holdout is full (dataset.max_holdout)"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A judged trace that can be rendered: on which side it lands is not decided here."""

    trace: JudgedTrace
    prompt: list[dict[str, str]]
    score: float

    @property
    def session(self) -> str:
        """Sessions belong to the client that named them."""
        return f"{self.trace.client}\0{self.trace.session}"

    @property
    def text(self) -> str:
        """What was said, without the system prompt: the same for a whole route, it would drown the rest."""
        return "\n".join(
            message["content"] for message in self.prompt if message["role"] not in {"system", "developer"}
        )

    @classmethod
    def of(cls, trace: JudgedTrace, score: float) -> Candidate:
        """*trace*, for which `why_unusable` is None, with its score."""
        prompt = plain_messages(trace.request)
        assert prompt is not None, "why_unusable refuses such a trace"
        return cls(trace=trace, prompt=prompt, score=score)

    def example(self) -> Example:
        """The training row: this trace's prompt and its own answer."""
        return Example(
            traces=[self.trace.trace_id],
            prompt=self.prompt,
            completion=[{"role": "assistant", "content": self.trace.answer}],
            score=self.score,
        )


def why_unusable(trace: JudgedTrace) -> str | None:
    """Why *trace* can be neither trained on nor held out, whatever a judge says of it; None if it can."""
    if trace.outcome != "ok":
        return FAILED
    if trace.finish_reason != "stop":
        return TOOLS if trace.finish_reason in {"tool_calls", "function_call"} else NOT_STOPPED
    if trace.propensity is None and not trace.imported:
        return PINNED
    if (missing := _why_missing(trace)) is not None:
        return missing
    if isinstance(trace.request, dict) and (trace.request.get("tools") or trace.request.get("functions")):
        return TOOLS
    return UNREADABLE if not trace.answer.strip() or plain_messages(trace.request) is None else None


def _why_missing(trace: JudgedTrace) -> str | None:
    if trace.request is None or trace.response is None:
        return METADATA_ONLY
    reasons = [why for body in (trace.request, trace.response) if (why := why_unreadable(body)) is not None]
    if not reasons:
        return CUT if is_cut(trace.request) or is_cut(trace.response) else None
    return ERASED if ERASED_REASON in reasons else DAMAGED


def plain_messages(request: Any) -> list[dict[str, str]] | None:
    """The messages of a chat request as role and text; None without any, or where one is not only text."""
    messages = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(messages, list) or not messages:
        return None
    plain: list[dict[str, str]] = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in {
            "system",
            "developer",
            "user",
            "assistant",
        }:
            return None
        content = message.get("content")
        if isinstance(content, list) and any(
            not isinstance(part, dict) or part.get("type") != "text" for part in content
        ):
            return None
        if not isinstance(content, str | list):
            return None
        # Models' templates know no "developer": it is the later name of the same role.
        role = "system" if message["role"] == "developer" else message["role"]
        plain.append({"role": role, "content": text_of(content)})
    return plain if plain[-1]["role"] == "user" else None
