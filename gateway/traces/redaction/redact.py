"""Replaces personal data and secrets by stable typed placeholders before anything reaches a disk.

`[EMAIL_1f09ac]` stands for the same address wherever it appears in one session of one client, so that
training still sees who is who; the hash is keyed with a secret of this installation, so that nobody can test
a guess.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gateway.errors import OperationError
from gateway.traces.redaction.keys import API_KEYS, NAMED_KEYS
from gateway.traces.redaction.leaves import MAX_NESTED_JSON, Leaves, texts_of
from gateway.traces.redaction.numbers import CARDS, PHONES
from gateway.traces.redaction.rules import EMAILS, IBANS, PRIVATE_KEYS, Rule
from gateway.traces.redaction.scan import NOTHING, UNKNOWN, Scanner, Span, Suspects

SHORTEST = 6  # characters of the shortest value that a built-in rule finds ("a@b.de")
KEY_BYTES = 32
PLACEHOLDER_BYTES = 3  # of the digest in a placeholder: enough to tell the values of one session apart
MAX_SCANNERS = 64  # kept, for as many choices of rules; each takes some ten milliseconds to make
IDENTIFIER_BYTES = 8  # in an identifier, where two values must stay two among all of a client's

# In order of precedence: where two overlap, the first holds.
BUILTIN = (PRIVATE_KEYS, API_KEYS, NAMED_KEYS, EMAILS, IBANS, CARDS, *PHONES)

# A run of backslashes is tried at its start alone, so that it costs its length.
_ESCAPE = re.compile(
    r"(?<!\\)\\+(?:u([0-9a-fA-F]{4})|x([2-7][0-9a-fA-F])|/)"
    r"|%([2-7][0-9a-fA-F])|&#(?:x([2-7][0-9a-fA-F])|([0-9]{2,3}));"
)


class Names(Protocol):
    """Finds names in texts; of all texts of a trace it is given at most *max_chars* characters."""

    max_chars: int

    def find(self, texts: Sequence[str]) -> dict[int, list[Span]]:
        """What is in *texts*, by their number, each in order and without overlaps."""


class Redactor:
    """Redacts text and decoded JSON. `scope` is what placeholders are stable in: a session of a client.

    `patterns`, a user's own rules, come before the built-in ones; `names` looks at what both have left.
    """

    def __init__(
        self,
        key: bytes,
        rules: Sequence[Rule] = BUILTIN,
        patterns: Sequence[Rule] = (),
        names: Names | None = None,
    ) -> None:
        self._key = key
        self._names = names
        self._scanner = _scanner((*patterns, *rules))
        self._shortest = 1 if patterns or names is not None else SHORTEST

    def value(self, value: Any, scope: str) -> Any:
        """*value*, changed in place, redacted in strings, keys, nested JSON and long numbers."""
        suspects = self.suspects(value)
        return value if suspects == NOTHING else self.replaced(value, scope, suspects)

    def suspects(self, value: Any) -> Suspects:
        """What one pass over all of *value* says that there may be to find: NOTHING in most bodies."""
        if self._names is not None:
            return UNKNOWN
        texts = texts_of(value, self._shortest)
        return UNKNOWN if texts is None else self._scanner.suspects(texts)

    def replaced(self, value: Any, scope: str, suspects: Suspects = UNKNOWN) -> Any:
        """`value` for one of which `suspects` said so, or for a part of it."""
        return self._replaced(Leaves(value, self._shortest), scope, PLACEHOLDER_BYTES, suspects)

    def text(self, text: str, scope: str) -> str:
        """*text* redacted; JSON in it is read, so that no escape hides anything."""
        return self._text(text, scope, PLACEHOLDER_BYTES, MAX_NESTED_JSON)

    def identifier(self, text: str, scope: str) -> str:
        """*text*, a key that rows are joined by, redacted: equal stays equal and different different."""
        return self._text(text, scope, IDENTIFIER_BYTES, 0)

    def _text(self, text: str, scope: str, digest_bytes: int, nested: int) -> str:
        suspects = self.suspects(text)
        if suspects == NOTHING:
            return text
        leaves = Leaves(text, self._shortest, nested=nested)
        redacted: str = self._replaced(leaves, scope, digest_bytes, suspects)
        return redacted

    def _replaced(self, leaves: Leaves, scope: str, digest_bytes: int, suspects: Suspects) -> Any:
        spans, escaped = self._scanner.scan(leaves.texts, leaves.contexts, suspects)
        new = self._redacted(leaves.texts, spans, scope, digest_bytes)
        if escaped:
            # Escapes in text that is no JSON (any more): a stream that broke off, source code, a URL.
            hidden = {
                index: plain
                for index, text in enumerate(leaves.texts)
                if (plain := _unescaped(seen := new.get(index, text))) != seen
            }
            contexts = [leaves.contexts[index] for index in hidden]
            bare = list(hidden.values())
            spans, _ = self._scanner.scan(bare, contexts)
            bared = self._redacted(bare, spans, scope, digest_bytes)
            numbers = list(hidden)
            new |= {numbers[index]: text for index, text in bared.items()}
        if self._names is not None and digest_bytes == PLACEHOLDER_BYTES:
            seen_last = [new.get(index, text) for index, text in enumerate(leaves.texts)]
            new |= self._without_names(seen_last, scope)
        return leaves.replaced(new)

    def _without_names(self, texts: list[str], scope: str) -> dict[int, str]:
        """Those of *texts* with a name in them, redacted, and what is more than may be looked at left out."""
        assert self._names is not None
        room, left_out = self._names.max_chars, {}
        for index, text in enumerate(texts):
            if len(text) > room:
                texts[index] = left_out[index] = f"{text[:room]}[left out, privacy.presidio.max_chars]"
            room = max(0, room - len(text))
        found = self._names.find(texts)
        return left_out | self._redacted(texts, found, scope, PLACEHOLDER_BYTES)

    def _redacted(
        self, texts: Sequence[str], spans: dict[int, list[Span]], scope: str, digest_bytes: int
    ) -> dict[int, str]:
        """Those of *texts* that *spans* has something of, by their number, redacted."""
        scoped = f"{scope}\0".encode("utf-8", "replace")
        hashed = hashlib.blake2b(scoped, key=self._key, digest_size=digest_bytes)
        new = {}
        for index, found in spans.items():
            text, at = texts[index], 0
            pieces: list[str] = []
            for start, end, kind, canonical in found:
                digest = hashed.copy()
                digest.update(f"{kind}\0{canonical}".encode("utf-8", "replace"))
                pieces += (text[at:start], f"[{kind}_{digest.hexdigest()}]")
                at = end
            new[index] = "".join((*pieces, text[at:]))
        return new


@functools.lru_cache(maxsize=MAX_SCANNERS)
def _scanner(rules: tuple[Rule, ...]) -> Scanner:
    return Scanner(rules)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    four, two, percent, entity, decimal = match.groups()
    code = int(decimal) if decimal else int(four or two or percent or entity or "2f", 16)
    # Half of a character, or one that means nothing: it hides no more than it is.
    return match.group() if code < 0x20 or 0xD800 <= code < 0xE000 else chr(code)


def redaction_key(path: Path) -> bytes:
    """The installation's secret for placeholders, made at first use. Raises OperationError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fresh = path.with_name(f"{path.name}.{os.urandom(6).hex()}")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(os.urandom(KEY_BYTES))
            try:
                os.link(fresh, path)  # whole or not at all, and never over another process's
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        key = path.read_bytes()
    except OSError as error:
        raise OperationError(f"redaction key {path} cannot be used: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise OperationError(f"redaction key {path} is damaged; remove it and placeholders start anew")
    return key
