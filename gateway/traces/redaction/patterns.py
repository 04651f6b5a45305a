"""Redaction rules that a user wrote: their patterns as finders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.config.privacy import Pattern
from gateway.traces.redaction.rules import KEY_MARK, SEPARATOR, Finder, Found, Rule, compile_pattern

_SEPARATOR, _KEY_MARK = SEPARATOR.encode(), KEY_MARK.encode()


def rules_of(patterns: Iterable[Pattern]) -> tuple[Rule, ...]:
    """A rule for each of *patterns*, whose name becomes the type of its placeholders.

    A pattern sees every text by itself: its ^ and $ are the text's start and end.
    """
    # Searched for in all texts at once, a line's start and end can be those of a text.
    return tuple(
        Rule(pattern.name, f"(?m:{pattern.pattern})", _finder(pattern.name, pattern.pattern))
        for pattern in patterns
    )


def _finder(kind: str, pattern: str) -> Finder:
    compiled = compile_pattern(pattern)

    def find(data: bytes) -> Iterator[Found]:
        at = 0
        for named in data.split(_SEPARATOR):
            _, mark, after = named.partition(_KEY_MARK)
            text = after if mark else named
            start_of_text = at + len(named) - len(text)
            for match in compiled.finditer(text):
                start, end = match.span()
                if start < end:
                    value = text[start:end].decode("utf-8", "replace")
                    yield Found(start_of_text + start, start_of_text + end, kind, value)
            at += len(named) + len(_SEPARATOR)

    return find
