"""The built-in redaction rules: what is an e-mail address, a phone or card number, an IBAN, a vendor's key.

Patterns run on google-re2, whose time is linear in the text whatever the text is. RE2 has no look-around, so
patterns are loose and Python decides: boundaries, checksums, prefixes of countries and card networks. A rule
that is unsure leaves ordinary text alone: order ids, dates, prices, UUIDs, timestamps are not personal data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import re2

_SEP = r"[ .\-/()]{0,3}"

PHONE_WORDS = "phone|tel|mobile?|handy|cell|fax|whatsapp|call me|text me|reach me"

# Every match of a rule contains a match of HINTS, also inside encoded JSON. So one pass over a whole body
# tells in most cases that there is nothing to do.
HINTS = "|".join(
    (
        r"[\pL\pN._%+\-](?:@|%40)[\pL\pN][\pL\pN.\-]*\.\pL",
        rf"(?:\+ ?|00)[1-9](?:{_SEP}[0-9]){{6}}",
        r"[2-9][0-9]{2}(?:\) ?|[.\-])[0-9]{3}[ .\-][0-9]{4}",
        r"0[1-9](?:[ /.\-)]{0,3}[0-9]){7}",
        rf"(?i:{PHONE_WORDS})[A-Za-z\"':.#=\\ _\[]{{0,16}}[+(]{{0,2}}[0-9](?:{_SEP}[0-9]){{6}}",
        r"[0-9](?:[ .\-]{0,3}[0-9]){12}",
        r"(?i:[A-Z]{2})[0-9]{2}(?:[ \-]?[A-Za-z0-9]){11}",
        r"sk-[A-Za-z0-9_\-]{16}|AKIA|ASIA|AIza|ya29\.|GOCSPX-|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-",
        r"xapp-|hooks\.slack\.com/services/|[srw]k_(?:live|test)_|whsec_|hf_|SG\.[A-Za-z0-9_\-]{16}|npm_",
        r"pypi-AgE|do[opr]_v1_|[0-9]{8,10}:AA|eyJ[A-Za-z0-9_\-]{8}|PRIVATE KEY|key-[0-9a-f]{32}|AccountKey=",
        r"gsk_|xai-|pplx-|r8_|dapi[0-9a-f]{32}|lin_api_|ntn_|shp(?:at|ca|pa|ss)_|sq0[a-z]{3}-|ATATT3|hvs\.|dp\.pt\.",
        r"SK[0-9a-f]{32}|(?i:aws.{0,20}secret)|(?i:bearer [A-Za-z0-9._~+/\-]{16})|://[^/\s:@]{1,100}:[^/\s:@]{3}",
    )
)

# What stands before a key: the start, no word character, or an escape such as \n in source text.
_BEFORE = r"(?:^|[^A-Za-z0-9_]|\\[nrtbf])"

_KEYS = (
    r"sk-[A-Za-z0-9_\-]{20,}",  # OpenAI, Anthropic, DeepSeek, OpenRouter
    r"A(?:KIA|SIA)[0-9A-Z]{16}",
    r"AIza[0-9A-Za-z_\-]{35}",
    r"ya29\.[0-9A-Za-z_\-]{20,}",
    r"GOCSPX-[0-9A-Za-z_\-]{20,}",
    r"gh[pousr]_[A-Za-z0-9]{36,}",
    r"github_pat_[A-Za-z0-9_]{22,}",
    r"glpat-[A-Za-z0-9_\-]{20,}",
    r"xox[abeoprs]-[A-Za-z0-9\-]{10,}",
    r"xapp-[A-Za-z0-9\-]{20,}",
    r"[srw]k_(?:live|test)_[0-9A-Za-z]{16,}",
    r"whsec_[A-Za-z0-9+/=]{24,}",
    r"hf_[A-Za-z0-9]{30,}",
    r"SG\.[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{16,64}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-AgE[A-Za-z0-9_\-]{40,}",
    r"do[opr]_v1_[a-f0-9]{64}",
    r"[0-9]{8,10}:AA[A-Za-z0-9_\-]{32,}",  # Telegram
    r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}",  # JWT
    r"key-[0-9a-f]{32}",  # Mailgun
    r"(?:gsk_|xai-|pplx-|r8_|lin_api_|ntn_)[A-Za-z0-9]{32,}",
    r"dapi[0-9a-f]{32}",
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
    r"sq0[a-z]{3}-[0-9A-Za-z_\-]{22,}",
    r"ATATT3[A-Za-z0-9_=\-]{50,}",
    r"(?:hvs|dp\.pt)\.[A-Za-z0-9_\-]{20,}",
    r"SK[0-9a-f]{32}",  # Twilio
)
# A key whose form says nothing: what stands before it does, and stays.
_KEYS_IN_CONTEXT = (
    r"hooks\.slack\.com/services/([A-Za-z0-9/]{20,})",
    r"(?i:aws.{0,20}secret.{0,20}?[ \"'=:>]{1,5})([A-Za-z0-9/+]{40})",
    r"AccountKey=([A-Za-z0-9+/=]{80,})",
    r"(?i:bearer )([A-Za-z0-9._~+/\-]{20,}=*)",
    r"://[^/\s:@]{1,100}:([^/\s:@\[\]]{3,200})@",
)


class Found(NamedTuple):
    """One value to replace: a span of bytes, its type, and its form without formatting."""

    start: int
    end: int
    kind: str
    canonical: str


def compile_pattern(pattern: str) -> Any:
    """*pattern* for google-re2, over UTF-8 bytes."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 64 << 20
    return re2.compile(pattern, options)


def find_private_keys(data: bytes) -> Iterator[Found]:
    """PEM blocks; one without an end reaches to the end of the text."""
    for match in _PEM.finditer(data):
        start, end = match.span()
        yield Found(start, end, "PRIVATE_KEY", data[start:end].decode("utf-8", "replace"))


def find_api_keys(data: bytes) -> Iterator[Found]:
    """Keys and tokens of common vendors, and passwords in URLs."""
    for pattern in (_KEY, _KEY_IN_CONTEXT):
        for match in pattern.finditer(data):
            group = match.lastindex
            start, end = match.span(group)
            value = data[start:end]
            # `sk-…` is also how long hyphenated names begin; keys have digits.
            if not value.startswith(b"sk-") or sum(48 <= char <= 57 for char in value) >= 2:
                yield Found(start, end, "API_KEY", value.decode("utf-8", "replace"))


def find_emails(data: bytes) -> Iterator[Found]:
    """E-mail addresses, international and percent-encoded ones too; not `logo@2x.png`, not `git@host`."""
    for match in _EMAIL.finditer(data):
        # Slices of the spans: asking the match for its groups costs as much as finding it.
        start, local_end = match.span(1)
        domain_start, end = match.span(2)
        local, domain = data[start:local_end], data[domain_start:end]
        if local != b"git" and not _IMAGE_SCALE.match(domain):
            address = local + b"@" + domain
            yield Found(start, end, "EMAIL", address.decode("utf-8", "replace").lower())


def find_ibans(data: bytes) -> Iterator[Found]:
    """IBANs of known countries with the right length and checksum, in any grouping."""
    at = 0
    while (match := _IBAN_START.search(data, at)) is not None:
        start = match.start()
        at = start + 1
        length = IBAN_LENGTHS.get(data[start : start + 2].upper().decode())
        if length is None or joined_before(data, start):
            continue
        end, compact = _take_alphanumerics(data, start, length)
        if len(compact) == length and not joined_after(data, end) and iban_checksum_holds(compact):
            yield Found(start, end, "IBAN", compact)
            at = end


def _take_alphanumerics(data: bytes, start: int, count: int) -> tuple[int, str]:
    """The end and the letters and digits of the next *count* ones, single spaces and hyphens skipped."""
    taken = bytearray()
    at = start
    while at < len(data) and len(taken) < count:
        if data[at : at + 1].isalnum():
            taken += data[at : at + 1]
        elif data[at] not in b" -" or data[at - 1] in b" -":
            break
        at += 1
    return at, taken.decode().upper()


def iban_checksum_holds(compact: str) -> bool:
    """ISO 13616: the rearranged number leaves 1 when divided by 97."""
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(char, 36)) for char in rearranged)) % 97 == 1


def joined_before(data: bytes, at: int) -> bool:
    """Whether what starts at *at* is the tail of a longer word or number."""
    if at == 0:
        return False
    before = data[at - 1]
    if before in b"nrtbf" and data[at - 2 : at - 1] == b"\\":
        return False  # the tail of an escape in quoted source text, not of a word
    return data[at - 1 : at].isalnum() or before == ord("_")


def joined_after(data: bytes, at: int) -> bool:
    """Whether what ends before *at* goes on as a word or number."""
    return data[at : at + 1].isalnum() or data[at : at + 1] == b"_"


Finder = Callable[[bytes], Iterator[Found]]

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

HINT = compile_pattern(HINTS)
_PEM = compile_pattern(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)"
    r"(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z)"
)
_KEY = compile_pattern(_BEFORE + "(" + "|".join(_KEYS) + ")")
_KEY_IN_CONTEXT = compile_pattern("|".join(_KEYS_IN_CONTEXT))
_EMAIL = compile_pattern(
    r"([\pL\pN._%+\-]{1,64}?)(?:@|%40)"
    r"((?:[\pL\pN][\pL\pN\-]*\.)+(?:\pL{2,24}|xn--[a-z0-9\-]+))"
)
_IBAN_START = compile_pattern(r"(?i:[A-Z]{2})[0-9]{2}(?:[ \-]?[A-Za-z0-9]){11}")
_IMAGE_SCALE = re.compile(rb"[1-9]x\.(?:png|jpe?g|gif|webp|svg|avif|bmp|ico)$")
