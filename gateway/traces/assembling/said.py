"""What a person or the app can say of an answer, the same over HTTP and in a file: several things at once."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from gateway.config.base import Fraction, Name, Strict

Outcome = Literal["accepted", "edited", "rejected"]
KINDS = frozenset({"rating", "outcome", "kept", "comment"})


class Statement(NamedTuple):
    """One thing said: a row of feedback has its kind, and a value or a text."""

    kind: str
    value: float | None
    text: str | None


class Said(Strict, frozen=True, kw_only=True):
    """One or more ways of saying what became of an answer.

    `kept` is the answer as finally kept, text or JSON. `name` and `value` are the app's own signal.
    """

    rating: Fraction | None = None
    outcome: Outcome | None = None
    kept: Any = None
    comment: str | None = None
    name: Name | None = None
    value: float | bool | str | None = None

    def __post_init__(self) -> None:
        if (self.name is None) != (self.value is None):
            raise ValueError("name and value belong together: a signal needs both")
        if self.name in KINDS:
            raise ValueError(f"name {self.name!r} is a field of its own; send {{{self.name!r}: …}}")
        if all(said is None for said in (self.rating, self.outcome, self.kept, self.comment, self.name)):
            raise ValueError("feedback needs one of rating, outcome, kept, comment, or name with value")

    def statements(self) -> list[Statement]:
        """What was said, one by one; no kind is there twice."""
        said = [
            Statement("rating", self.rating, None),
            Statement("outcome", None, self.outcome),
            Statement("kept", None, _as_text(self.kept)),
            Statement("comment", None, self.comment),
        ]
        if self.name is not None and self.value is not None:
            said.append(signal(self.name, self.value))
        return [one for one in said if one.value is not None or one.text is not None]


def signal(name: str, value: float | bool | str) -> Statement:
    """The app's own signal *name*: a number, yes (1) or no (0), or a text."""
    return Statement(name, None, value) if isinstance(value, str) else Statement(name, float(value), None)


def _as_text(kept: Any) -> str | None:
    if kept is None or isinstance(kept, str):
        return kept
    return msgspec.json.encode(kept).decode()
