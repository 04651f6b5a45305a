"""Reads a model's reply. What is not on the menu, whole and nothing else, is no answer. Pure.

A reply that merely begins with a word of the menu ("yes, as the answer says") may have been written by the
text that is judged; only the JSON object that was asked for counts.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, TypeVar

import msgspec

MAX_QUOTE_CHARS = 300  # of what is kept of a quote, and of a reason

_FENCED = re.compile(r"\A```(?:json)?[ \t]*\n(.*?)\n?```\Z", re.DOTALL)


class CriterionReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's answer to one criterion."""

    answer: Literal["yes", "no", "unsure"]
    quote: str
    why: str = ""


class PairReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of two answers a model finds better."""

    better: Literal["first", "second", "tie"]
    quote: str
    why: str = ""


R = TypeVar("R", CriterionReply, PairReply)


def read_reply(text: str, kind: type[R]) -> R | None:
    """*text* as one *kind*, quote and reason cut to what is kept; None where it is off the menu.

    A code fence around the whole object is the only thing beside it that is let pass.
    """
    stripped = text.strip()
    fence = _FENCED.match(stripped)
    body = fence[1] if fence is not None else stripped
    try:
        reply = msgspec.convert(json.loads(body, object_pairs_hook=_no_key_twice), kind, strict=True)
    except (ValueError, RecursionError):  # a ValidationError is one
        return None
    return msgspec.structs.replace(reply, quote=short(reply.quote), why=short(reply.why))


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two answers in one object the last would win silently."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is repeated")
    return fields


def short(text: str) -> str:
    """*text* on one line, at most MAX_QUOTE_CHARS long."""
    line = " ".join(text[: 4 * MAX_QUOTE_CHARS].split())
    return line if len(line) <= MAX_QUOTE_CHARS else line[: MAX_QUOTE_CHARS - 1] + "…"


def is_quoted(quote: str, text: str) -> bool:
    """Whether *text* holds the words *quote*, but for case and space. An empty one quotes nothing."""
    words = " ".join(quote.rstrip("…").split()).casefold()
    return bool(words) and words in " ".join(text.split()).casefold()
