"""What redaction rules are made of, and those for e-mail addresses, IBANs and private keys.

Patterns run on google-re2, whose time is linear in the text whatever the text is. RE2 has no look-around, so
patterns are loose and Python decides: boundaries, checksums, prefixes of countries and card networks. A rule
that is unsure leaves ordinary text alone: order ids, dates, prices, UUIDs, timestamps are not personal data.

A finder is given many texts at once, each ended by SEPARATOR and, where it has a name in its object, led by
that name and KEY_MARK. No rule's match reaches over a SEPARATOR.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import re2

SEPARATOR = "\n\0\n"
KEY_MARK = "\n\x1f\n"
MAX_PATTERN_MEMORY = 64 << 20  # of RE2 for one pattern, or for all as a set

_ANYWHERE = re2._Anchor.UNANCHORED  # noqa: SLF001 -- see spans_of
_NOWHERE = (-1, -1)

# What stands before a value: the start, no word character, or an escape such as \n in source text.
BEFORE = r"(?:^|[^A-Za-z0-9_]|\\[nrtbf])"


class Found(NamedTuple):
    """One value to replace: a span of bytes, its type, and its form without formatting."""

    start: int
    end: int
    kind: str
    canonical: str


Finder = Callable[[bytes], Iterator[Found]]


class Rule(NamedTuple):
    """`pattern` matches in every text in which `find` finds anything: a text without is not searched."""

    kind: str
    pattern: str
    find: Finder


def re2_options() -> Any:
    """Options for RE2 over UTF-8 bytes."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_PATTERN_MEMORY
    return options


def compile_pattern(pattern: str) -> Any:
    """*pattern* for google-re2, over UTF-8 bytes."""
    return re2.compile(pattern, re2_options())


def spans_of(pattern: Any, data: bytes, at: int = 0) -> Iterator[tuple[int, int]]:
    """The span of each match in *data* from *at* on of a compiled *pattern* that never matches nothing.

    As `finditer`, without its layer of Python: that costs as much as most matches.
    """
    match, size = pattern._regexp.Match, len(data)  # noqa: SLF001 -- the engine below that layer
    while (span := match(_ANYWHERE, data, at, size)[0]) != _NOWHERE:
        yield span
        at = span[1]


def find_private_keys(data: bytes) -> Iterator[Found]:
    """PEM blocks; one without an end reaches to the end of its text."""
    for start, end in spans_of(_PEM_BLOCK, data):
        value = data[start:end].removesuffix(b"\0").removesuffix(b"\n")
        yield Found(start, start + len(value), "PRIVATE_KEY", value.decode("utf-8", "replace"))


def find_emails(data: bytes) -> Iterator[Found]:
    """E-mail addresses, international and percent-encoded ones too; not `logo@2x.png`, not `git@host`."""
    for start, end in spans_of(_EMAIL_ADDRESS, data):
        value = data[start:end]
        local, _, domain = value.rpartition(b"@" if b"@" in value else b"%40")
        if local != b"git" and not _IMAGE_SCALE.match(domain):
            address = local + b"@" + domain
            yield Found(start, end, "EMAIL", address.decode("utf-8", "replace").lower())


def find_ibans(data: bytes) -> Iterator[Found]:
    """IBANs of known countries with the right length and checksum, in any grouping."""
    at = 0
    while (first := next(spans_of(_IBAN_START, data, at), None)) is not None:
        start = behind_before(data, first[0])
        if data[start - 1] in b"nrtbf" and data[start - 1 : start + 1].upper().decode() in IBAN_LENGTHS:
            start -= 1  # the backslash before it was no escape
        at = start + 1
        length = IBAN_LENGTHS.get(data[start : start + 2].upper().decode("latin-1"), 0)
        whole = _IBAN_OF[length].match(data, start) if length else None
        if whole is not None and not joined_after(data, whole.end()):
            compact = whole.group().translate(None, b" -").decode().upper()
            if iban_checksum_holds(compact):
                at = whole.end()
                yield Found(start, at, "IBAN", compact)


def behind_before(data: bytes, at: int) -> int:
    """Where a value begins whose match with BEFORE, of a pattern without groups, begins at *at*.

    RE2 finds where a match is many times quicker than where the groups in it are.
    """
    if data[at] == ord("\\"):
        return at + 2 if data[at + 1] in b"nrtbf" else at + 1
    while data[at] not in _WORD:
        at += 1
    return at


def iban_checksum_holds(compact: str) -> bool:
    """ISO 13616: the rearranged number leaves 1 when divided by 97."""
    return int((compact[4:] + compact[:4]).translate(_IBAN_DIGITS)) % 97 == 1


def joined_before(data: bytes, at: int) -> bool:
    """Whether what starts at *at* is the tail of a longer word or number."""
    if at == 0:
        return False
    before = data[at - 1]
    if before in b"nrtbf" and data[at - 2 : at - 1] == b"\\":
        return False  # the tail of an escape in quoted source text, not of a word
    return before in _ALPHANUMERIC or before == ord("_")


def joined_after(data: bytes, at: int) -> bool:
    """Whether what ends before *at* goes on as a word or number."""
    return at < len(data) and (data[at] in _ALPHANUMERIC or data[at] == ord("_"))


IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FK", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK", "MN"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HN", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}

_PEM = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_PEM_BLOCK = compile_pattern(rf"{_PEM}[^\x00]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\x00|\z)")
_EMAIL = r"[\pL\pN._%+\-](?:@|%40)[\pL\pN][\pL\pN.\-]*\.(?:\pL|xn--)"
_EMAIL_ADDRESS = compile_pattern(
    r"[\pL\pN._%+\-]{1,64}?(?:@|%40)(?:[\pL\pN][\pL\pN\-]*\.)+(?:\pL{2,24}|xn--[a-z0-9\-]+)"
)
_IBAN = rf"{BEFORE}(?i:{'|'.join(IBAN_LENGTHS)})[0-9]{{2}}(?:[ \-]?[A-Za-z0-9]){{11}}"
_IBAN_START = compile_pattern(_IBAN)
# By their lengths: that many letters and digits, with single spaces and hyphens in between.
_IBAN_OF = {
    length: re.compile(rb"[A-Za-z0-9](?:[ \-]?[A-Za-z0-9]){%d}" % (length - 1))
    for length in set(IBAN_LENGTHS.values())
}
_IBAN_DIGITS = str.maketrans({chr(55 + value): str(value) for value in range(10, 36)})
_ALPHANUMERIC = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_WORD = _ALPHANUMERIC | {ord("_")}
_IMAGE_SCALE = re.compile(rb"[1-9]x\.(?:png|jpe?g|gif|webp|svg|avif|bmp|ico)$")

PRIVATE_KEYS = Rule("PRIVATE_KEY", _PEM, find_private_keys)
EMAILS = Rule("EMAIL", _EMAIL, find_emails)
IBANS = Rule("IBAN", _IBAN, find_ibans)
