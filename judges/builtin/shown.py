"""What built-in judges look at: the answer, what it is held against, JSON in a text. Never raises.

A reason says what is missing and where it was looked for; it repeats no text of the trace.
"""

from __future__ import annotations

from typing import Any

import msgspec

from judges.protocol import Abstain, abstain
from judges.trace import JudgedTrace

MAX_ANSWER_CHARS = 1_000_000  # a longer answer is not judged: a judge has seconds
KEPT = "kept"
PLACES = ("tags", "request", "response")  # what a path of `against` may begin with
TOO_LONG = f"the answer is longer than {MAX_ANSWER_CHARS:,} characters"
_MISSING = object()


def answer_of(trace: JudgedTrace) -> str | Abstain:
    """The text of the answer; an abstention where it is too long, or where it only called tools."""
    answer = trace.answer
    if len(answer) > MAX_ANSWER_CHARS:
        return abstain(TOO_LONG)
    if not answer and trace.tool_calls:
        return abstain("the answer only calls tools")
    return answer


def reference_of(trace: JudgedTrace, against: str, reference: str | None) -> str | Abstain:
    """The text that an answer is held against: *reference* where one is given, else what *against* names."""
    if reference is not None:
        return reference
    if against == KEPT:
        kept = trace.kept
        return abstain("nobody said what was kept") if kept is None else _bounded(kept)
    place, _, path = against.partition(".")
    found = at(getattr(trace, place), path) if place in PLACES else _MISSING
    if found is _MISSING or found is None:
        return abstain(f"the trace has nothing at {against!r}")
    if isinstance(found, str):
        return _bounded(found)
    return _bounded(msgspec.json.encode(found).decode())


def check_against(against: str) -> None:
    """Raises ValueError where *against* names no place of a trace."""
    place, dot, path = against.partition(".")
    if against != KEPT and (place not in PLACES or not dot or not path):
        raise ValueError(
            f"option 'against' is {against!r}; it is 'kept' or a path from tags., request. or response."
        )


def at(value: Any, path: str) -> Any:
    """What lies at *path* of decoded JSON: names and positions between dots. A mark of ours where nothing."""
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def is_missing(value: Any) -> bool:
    """Whether `at` found nothing."""
    return value is _MISSING


def decoded(text: str) -> Any:
    """*text* as JSON. Raises ValueError where it is none, or nested too deeply to be read."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError("not JSON") from error


def without_fence(text: str) -> str:
    """What stands in the fence where *text* is one fenced block and nothing else; else *text*."""
    stripped = text.strip()
    if not stripped.startswith("```") or not stripped.endswith("```") or stripped.count("```") != 2:
        return text
    first, newline, rest = stripped[3:-3].partition("\n")
    return rest if newline and len(first.split()) <= 1 else text


def _bounded(text: str) -> str | Abstain:
    if len(text) > MAX_ANSWER_CHARS:
        return abstain(f"what the answer is held against is longer than {MAX_ANSWER_CHARS:,} characters")
    return text
