"""What a person may write about redaction: which rules, and patterns of their own."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

import msgspec
import re2
from msgspec import Meta

from gateway.config.base import Strict

BuiltinRule = Literal["PRIVATE_KEY", "API_KEY", "EMAIL", "IBAN", "CARD", "PHONE"]
BUILTIN_RULES: tuple[BuiltinRule, ...] = get_args(BuiltinRule)
MAX_PATTERNS = 50  # one pass looks for all of them; each makes it dearer for every trace
MAX_PATTERN_CHARS = 500
MAX_PATTERN_INSTRUCTIONS = 20_000  # of RE2's program: a{1000} is a thousand, one letter of any script too

# Found in all texts of a trace at once, so that the start of a text must be the start of a line.
_WHOLE_TEXT = re.compile(r"\\[AzC]|\(\?[a-zA-Z]*-[a-zA-Z]*m")

PatternName = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=40)]


class Pattern(Strict, frozen=True, kw_only=True):
    """A pattern in RE2's syntax, and the type of the placeholders for what it finds."""

    name: PatternName
    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_CHARS)]

    def __post_init__(self) -> None:
        if self.name in BUILTIN_RULES:
            raise ValueError(f"pattern {self.name!r} has the name of a built-in rule; give it another one")
        if _WHOLE_TEXT.search(self.pattern):
            raise ValueError(
                rf"pattern {self.name!r}: write ^ and $ in place of \A and \z, without (?-m) and \C"
            )
        compiled = _compile(self.name, self.pattern)
        if compiled.programsize > MAX_PATTERN_INSTRUCTIONS:
            raise ValueError(
                f"pattern {self.name!r} is too large: {compiled.programsize} instructions of RE2, and "
                f"at most {MAX_PATTERN_INSTRUCTIONS} are taken; repeat less in it"
            )
        if compiled.search("") is not None:
            raise ValueError(f"pattern {self.name!r} matches the empty text; make it match something")


Entity = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=40)]


class Presidio(Strict, frozen=True, kw_only=True):
    """With `redact: presidio`: which entities a spaCy model looks for, beside the built-in rules."""

    model: Annotated[str, Meta(min_length=1)] = "en_core_web_sm"  # an installed package, or a folder
    language: Annotated[str, Meta(pattern="^[a-z]{2,3}$")] = "en"
    entities: Annotated[list[Entity], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["PERSON", "LOCATION"]
    )
    max_chars: Annotated[int, Meta(ge=1_000)] = 200_000  # of one trace; what is more is left out, and says so


def check_patterns(patterns: list[Pattern]) -> None:
    """Raise ValueError where there are too many *patterns*, or two of one name."""
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"privacy.patterns has {len(patterns)} patterns; at most {MAX_PATTERNS} are taken")
    names = [pattern.name for pattern in patterns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"privacy.patterns names {repeated[0]!r} twice")


def _compile(name: str, pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it cannot be compiled"
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"pattern {name!r} is not in RE2's syntax: {text}") from error
