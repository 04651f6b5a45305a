"""Looks for what rules cover in many texts at once, in one pass over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import re2

from gateway.traces.redaction.rules import SEPARATOR, Found, Rule, re2_options

# One character for one character, so that a span found in the folded text is a span of the text: full-width
# forms, digits of other scripts, the spaces and hyphens that word processors and models put into numbers.
_FOLD = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    **dict.fromkeys([0xA0, *range(0x2000, 0x200E), 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF], " "),
    **dict.fromkeys([0xAD, *range(0x2010, 0x2014), 0x2212, 0xFE58, 0xFE63], "-"),
    **{zero + digit: str(digit) for zero in (0x660, 0x6F0, 0x966) for digit in range(10)},
}
_FOLDABLE = "[" + "".join(map(chr, sorted(_FOLD))) + "]"
# A mark of ours in a text, where none of ours stands: what it parts is looked for only once it is a blank.
_MARKED = r"[^\n][\x00\x1f]|[\x00\x1f][^\n]"
_MARKS = str.maketrans({"\0": " ", "\x1f": " "})
# Must be found in itself when a scanner is made. RE2 says of a set that has no room to run only that it has
# found nothing, and that would be every value in the clear.
_PROBE = "\x1c\x1d\x1c"
# What may hide a value: escapes of JSON, of programs, of URLs, of HTML.
ESCAPED = r"\\u[0-9a-fA-F]{4}|\\x[2-7][0-9a-fA-F]|\\/|%[2-7][0-9a-fA-F]|&#x?[0-9]"


class Span(NamedTuple):
    """A value in one text: its span of characters, its type, and its form without formatting."""

    start: int
    end: int
    kind: str
    canonical: str


# Numbers of what a scanner looks for; None where only `Scanner.scan` can tell.
Suspects = tuple[int, ...] | None
NOTHING: Suspects = ()
UNKNOWN: Suspects = None


class Scanner:
    """Finds what *rules* cover; where two overlap, the first rule holds. Linear in the texts' length."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        self._set = re2.Set.SearchSet(re2_options())
        for rule in self._rules:
            self._set.Add(rule.pattern)
        self._escaped = self._set.Add(ESCAPED)
        self._foldable = self._set.Add(_FOLDABLE)
        self._set.Add(_MARKED)
        probe = self._set.Add(_PROBE)
        self._set.Compile()
        assert probe in (self._set.Match(_PROBE.encode()) or ()), "RE2 has no room for the redaction rules"

    def suspects(self, texts: Sequence[str]) -> Suspects:
        """What there may be to find in *texts*, led by their contexts, by one pass over them."""
        joined = SEPARATOR.join(texts)
        matched = self._set.Match(joined.encode("utf-8", "replace"))
        if matched is None:
            return NOTHING
        # JSON in a string is read by itself, and may show more than its text.
        return UNKNOWN if "{" in joined or "[" in joined else tuple(matched)

    def scan(
        self, texts: Sequence[str], contexts: Sequence[str], suspects: Suspects = UNKNOWN
    ) -> tuple[dict[int, list[Span]], bool]:
        """What is in *texts*, by their number, each in order; and whether something in them is escaped.

        *contexts* are what leads each of them; nothing is found that begins in there. *suspects* are what may
        be in these texts or in more.
        """
        marked = any("\0" in text or "\x1f" in text for text in texts)
        if marked:
            texts = [text.translate(_MARKS) for text in texts]
        joined, starts = _join(texts, contexts)
        data = joined.encode("utf-8", "replace")
        if suspects is None or marked:
            suspects = tuple(self._set.Match(data) or ())
        escaped = self._escaped in suspects
        found = self._found(data, suspects)
        if self._foldable in suspects:
            data = joined.translate(_FOLD).encode("utf-8", "replace")
            found = self._found(data, self._set.Match(data) or ())
        return _by_text(data, found, texts, starts), escaped

    def _found(self, data: bytes, suspects: Sequence[int]) -> list[Found]:
        taken: list[Found] = []
        covered = bytearray(len(data))  # looking up a span costs its length, however many were found before
        for number in sorted(suspects):
            if number >= len(self._rules):
                break
            for found in self._rules[number].find(data):
                start, end, _, _ = found
                if covered.find(1, start, end) < 0:
                    covered[start:end] = b"\1" * (end - start)
                    taken.append(found)
        return sorted(taken)


def _join(texts: Sequence[str], contexts: Sequence[str]) -> tuple[str, list[int]]:
    """All texts as one, and where each begins in it, behind its context."""
    starts, at, parts = [], 0, []
    for text, context in zip(texts, contexts, strict=True):
        parts.append(context + text)
        starts.append(at + len(context))
        at = starts[-1] + len(text) + len(SEPARATOR)
    return SEPARATOR.join(parts), starts


def _by_text(
    data: bytes, found: list[Found], texts: Sequence[str], starts: list[int]
) -> dict[int, list[Span]]:
    """*found*, in order, each in characters of the text that it is in."""
    spans: dict[int, list[Span]] = {}
    ascii_only = data.isascii()
    index, last = 0, len(texts) - 1
    byte = character = 0
    for first, behind, kind, canonical in found:
        start, end = first, behind
        if not ascii_only:
            start = character + len(data[byte:first].decode())
            end = start + len(data[first:behind].decode())
            byte, character = behind, end
        while index < last and starts[index] + len(texts[index]) <= start:
            index += 1
        at = starts[index]
        if at <= start:
            spans.setdefault(index, []).append(Span(start - at, end - at, kind, canonical))
    return spans
