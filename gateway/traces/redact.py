"""Replaces personal data and secrets by stable typed placeholders before anything reaches a disk.

`[EMAIL_1f09ac]` stands for the same address wherever it appears in one session of one client, so that
training still sees who is who; the hash is keyed with a secret of this installation, so that nobody can test
a guess.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import OperationError
from gateway.traces.jsontext import parse_json_or_none
from gateway.traces.redact_numbers import find_cards, find_phones
from gateway.traces.redact_rules import (
    HINT,
    Finder,
    Found,
    find_api_keys,
    find_emails,
    find_ibans,
    find_private_keys,
)

MAX_NESTED_JSON = 4  # JSON inside strings inside JSON: tool arguments are one level deep
MAX_DEPTH = 100  # of decoded JSON; what lies deeper is left out, and says so
SHORTEST = 6  # characters of the shortest value that any rule finds ("a@b.de")
KEY_BYTES = 32
PLACEHOLDER_BYTES = 3  # of the digest in a placeholder: enough to tell the values of one session apart
IDENTIFIER_BYTES = 8  # in an identifier, where two values must stay two among all of a client's

# In order of precedence: where two overlap, the first holds.
FINDERS: tuple[Finder, ...] = (
    find_private_keys,
    find_api_keys,
    find_emails,
    find_ibans,
    find_cards,
    find_phones,
)

# One character for one character, so that a span found in the folded text is a span of the text: full-width
# forms, digits of other scripts, the spaces and hyphens that word processors and models put into numbers.
_FOLD = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    **dict.fromkeys([0xA0, *range(0x2000, 0x200E), 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF], " "),
    **dict.fromkeys([0xAD, *range(0x2010, 0x2014), 0x2212, 0xFE58, 0xFE63], "-"),
    **{zero + digit: str(digit) for zero in (0x660, 0x6F0, 0x966) for digit in range(10)},
}
_FOLDABLE = re.compile("[" + "".join(map(chr, sorted(_FOLD))) + "]")
_ESCAPE = re.compile(r"\\u00([2-7][0-9a-fA-F])")
_encode = msgspec.json.Encoder().encode


class Redactor:
    """Redacts text and decoded JSON. `scope` is what placeholders are stable in: a session of a client."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def value(self, value: Any, scope: str) -> Any:
        """*value* with every string in it redacted, in keys, nested JSON and long numbers too."""
        encoded = _encode(value)
        if HINT.search(encoded) is None and b"\\u00" not in encoded and not _foldable(encoded):
            return value  # one pass over the body says that there is nothing to find
        return self._walk(value, scope, "", MAX_NESTED_JSON, 0)

    def text(self, text: str, scope: str) -> str:
        """*text* redacted; JSON in it is read, so that no escape hides anything."""
        return self._string(text, scope, "", MAX_NESTED_JSON)

    def identifier(self, text: str, scope: str) -> str:
        """*text*, a key that rows are joined by, redacted: equal stays equal and different different."""
        return self._plain(text, scope, "", IDENTIFIER_BYTES)

    def _walk(self, value: Any, scope: str, key: str, nested: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            return f"[nested deeper than {MAX_DEPTH}, left out]"
        if isinstance(value, str):
            return self._string(value, scope, key, nested)
        if isinstance(value, dict):
            return {
                self._string(name, scope, "", 0): self._walk(item, scope, name, nested, depth + 1)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self._walk(item, scope, key, nested, depth + 1) for item in value]
        if isinstance(value, int) and abs(value) >= 1_000_000:  # a card or phone number sent as a number
            digits = str(value)
            redacted = self._string(digits, scope, key, 0)
            return value if redacted == digits else redacted
        return value

    def _string(self, text: str, scope: str, key: str, nested: int) -> str:
        """*text* redacted; *key* is the name it has in its object, for rules that need to be told."""
        if len(text) < SHORTEST:
            return text
        if nested and text.lstrip()[:1] in ("{", "["):
            inner = parse_json_or_none(text.encode("utf-8", "replace"))
            if isinstance(inner, dict | list):
                redacted = self._walk(inner, scope, "", nested - 1, 0)
                return text if redacted == inner else _encode(redacted).decode()
        if "\\u00" in text:
            # Escapes in text that is no JSON (any more): a stream that broke off, source code.
            plain = _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), text)
            redacted = self._plain(plain, scope, key)
            return text if redacted == plain else redacted
        return self._plain(text, scope, key)

    def _plain(self, text: str, scope: str, key: str, digest_bytes: int = PLACEHOLDER_BYTES) -> str:
        context = f"{key}: " if key else ""
        full = context + text
        ascii_only = full.isascii()
        data = (full if ascii_only else full.translate(_FOLD)).encode("utf-8", "replace")
        if HINT.search(data) is None:
            return text
        pieces: list[str] = []
        at = len(context)
        for found, start, end in _in_characters(data, _without_overlaps(data), ascii_only=ascii_only):
            if start >= len(context):  # what lies before it is the key's own text
                pieces += (full[at:start], self._placeholder(found, scope, digest_bytes))
                at = end
        return "".join((*pieces, full[at:])) if pieces else text

    def _placeholder(self, found: Found, scope: str, digest_bytes: int) -> str:
        content = f"{scope}\0{found.kind}\0{found.canonical}".encode("utf-8", "replace")
        digest = hashlib.blake2b(content, key=self._key, digest_size=digest_bytes).hexdigest()
        return f"[{found.kind}_{digest}]"


def _foldable(encoded: bytes) -> bool:
    return not encoded.isascii() and _FOLDABLE.search(encoded.decode()) is not None


def _in_characters(data: bytes, found: list[Found], *, ascii_only: bool) -> Iterator[tuple[Found, int, int]]:
    """Each of *found*, in order, with its span in characters."""
    byte = character = 0
    for one in found:
        if ascii_only:
            yield one, one.start, one.end
            continue
        start = character + len(data[byte : one.start].decode())
        byte, character = one.end, start + len(data[one.start : one.end].decode())
        yield one, start, character


def _without_overlaps(data: bytes) -> list[Found]:
    taken: list[Found] = []
    covered = bytearray(len(data))  # looking up a span costs its length, however many were found before
    for finder in FINDERS:
        for found in finder(data):
            if not any(covered[found.start : found.end]):
                covered[found.start : found.end] = b"\1" * (found.end - found.start)
                taken.append(found)
    return sorted(taken)


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
