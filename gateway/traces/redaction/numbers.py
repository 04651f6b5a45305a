"""Redaction rules for card and phone numbers: digits that mean somebody, told from digits that do not."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.traces.redaction.rules import (
    BEFORE,
    Found,
    Rule,
    compile_pattern,
    joined_after,
    joined_before,
    spans_of,
)

# How cards are written: in one piece, or in the groups printed on them.
# Kept by the first two of them.
_CARD_GROUPS: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {
    (4, 4): ((4, 4, 4, 4, 3), (4, 4, 4, 4), (4, 4, 4, 1)),
    (4, 6): ((4, 6, 5), (4, 6, 4)),
    (8, 8): ((8, 8),),
}
_MIN_CARD, _MAX_CARD = 13, 19
_CALLING_CODES = re.compile(
    r"1|7|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|2[1-69]\d|3[578]\d|42\d|5[09]\d|6[789]\d|8[057]\d|9[679]\d"
)
_DATE = re.compile(rb"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d{2}(?!\d)")
# Days and times with short years, and what is numbered by year or month: 01.02.24 - 05.02.24, 05/2024-00123.
# In four and four digits behind two it may be a phone number all the same.
_NUMBERED = re.compile(
    rb"(?:0[1-9]|[12]\d|3[01])([./-])(?:0[1-9]|1[0-2])\1\d\d[ /-]{1,3}"
    rb"(?:(?:0[1-9]|[12]\d|3[01])\1(?:0[1-9]|1[0-2])\1\d\d|(?:[01]\d|2[0-3])\.[0-5]\d)"
    rb"|(?:0[1-9])[./-](?:19|20)\d\d(?![ /.-]{1,3}\d{4}(?!\d))[ /.-].*"
)
_MIN_INTERNATIONAL, _MAX_INTERNATIONAL = 8, 15  # digits, E.164
_PLUS = ord("+")
_MIN_NATIONAL, _MAX_NATIONAL = 9, 13
_SEP = r"[ .\-/()]{0,3}"
_PHONE_WORDS = "phone|tel|mobile?|handy|cell|fax|whatsapp|call me|text me|reach me"


def find_cards(data: bytes) -> Iterator[Found]:
    """Card numbers of known networks whose Luhn digit holds; what follows them (expiry, CVV) may be near."""
    for first, behind in spans_of(_CARD_DIGITS, data):
        groups = data[first:behind].translate(_SPACED).split()
        last = len(groups) - joined_after(data, behind)
        at = 0
        spans: list[tuple[int, int]] = []
        while at < last:
            count = _card_at(groups, at, last)
            if count:
                spans = spans or [group.span() for group in _DIGITS.finditer(data, first, behind)]
                start, end = spans[at][0], spans[at + count - 1][1]
                # Behind a decimal point a single group is the digits of a fraction.
                if count == 1 and _continues(data, start):
                    count = 0
                else:
                    yield Found(start, end, "CARD", b"".join(groups[at : at + count]).decode())
            at += count or 1


def _card_at(groups: list[bytes], at: int, last: int) -> int:
    """How many of *groups* of digits from *at* on make a card number before *last*; 0 for none."""
    length = len(groups[at])
    if length >= _MIN_CARD:
        return int(is_card(groups[at].decode()))
    if at + 1 < last:
        for card in _CARD_GROUPS.get((length, len(groups[at + 1])), ()):
            count = len(card)
            number = groups[at : at + count]
            if at + count <= last and tuple(map(len, number)) == card and is_card(b"".join(number).decode()):
                return count
    return 0


def is_card(digits: str) -> bool:
    """Whether *digits* has a known network's prefix and length, and Luhn's check digit."""
    length, four = len(digits), int(digits[:4] or 0)
    two = four // 100
    known = (
        (digits[:1] == "4" and length in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and length == 16)
        or (two in (34, 37) and length == 15)
        or (two in (30, 36, 38, 39) and 14 <= length <= 19)
        or (two in (35, 60, 62, 64, 65) and 16 <= length <= 19)
        or (two in (50, 56, 57, 58, 63, 67) and 13 <= length <= 19)
    )
    return known and luhn_holds(digits)


def luhn_holds(digits: str) -> bool:
    """ISO/IEC 7812: every second digit from the right doubled, the digit sum divides by ten."""
    data = digits.encode()
    kept, doubled = data[-1::-2], data[-2::-2]
    return (sum(kept) - len(kept) * ord("0") + sum(doubled.translate(_DOUBLED))) % 10 == 0


def find_international(data: bytes) -> Iterator[Found]:
    """Phone numbers with + or 00 and a country's calling code."""
    for start, end in spans_of(_INTERNATIONAL_NUMBER, data):
        found = _international(data, _first_of(b"+0", data, start), end)
        if found is not None:
            yield found


def find_north_american(data: bytes) -> Iterator[Found]:
    """Phone numbers grouped as in (555) 123-4567."""
    for start, end in spans_of(_NORTH_AMERICAN_NUMBER, data):
        if not _continues(data, start) and not _goes_on(data, end):
            yield _phone(data, start, end)


def find_national(data: bytes) -> Iterator[Found]:
    """Phone numbers in groups, the first with the 0 that is dialled within a country."""
    for first, end in spans_of(_NATIONAL_NUMBER, data):
        start = data.index(b"0", first)
        # What looks like an extension may be something else.
        ends = (end, end - 2) if data[end - 2 : end - 1] == b"-" else (end,)
        whole = next((behind for behind in ends if _is_national(data, start, behind)), None)
        for at, behind in _apart(data, start, end) if whole is None else ((start, whole),):
            opened = data[at - 1 : at] == b"(" and b")" in data[at:behind]
            yield _phone(data, at - opened, behind)


def _is_national(data: bytes, start: int, end: int) -> bool:
    return (
        _is_long_enough(data[start:end])
        and not _continues(data, start)
        and not _goes_on(data, end)
        and not _DATE.match(data, start)
        and not _NUMBERED.fullmatch(data, start, end)
    )


def _is_long_enough(written: bytes) -> bool:
    digits = len(_digits(written))
    return _MIN_NATIONAL <= digits <= _MAX_NATIONAL and digits < len(written)


def _apart(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """The numbers in what is too long for one: 030 123456 / 0171 1234567."""
    if _continues(data, start) or _goes_on(data, end):
        return []
    gaps = [gap.span() for gap in _NEXT_NUMBER.finditer(data, start, end)]
    parts = zip([start, *(gap[1] for gap in gaps)], [*(gap[0] for gap in gaps), end], strict=True)
    several = [part for part in parts if _is_long_enough(data[slice(*part)])]
    return several if len(several) > 1 else []


def find_named_numbers(data: bytes) -> Iterator[Found]:
    """Phone numbers of any form where the text says that it is one."""
    for first, end in spans_of(_NAMED_NUMBER, data):
        number = _NUMBER_START.search(data, first + 1)  # what stands before the name may be a digit
        assert number is not None
        start = number.start()
        if not _goes_on(data, end) and not _DATE.match(data, start):
            yield _phone(data, start, end)


def _international(data: bytes, start: int, end: int) -> Found | None:
    plus = data[start] == _PLUS
    digits = _digits(data[start:end])
    if data[end : end + 1].isdigit():  # longer than any number: what follows a gap is another one
        end = max((m.end() for m in re.finditer(rb"\d(?=\D)", data[start:end])), default=0) + start
        digits = _digits(data[start:end])
    national = digits if plus else digits[2:]
    if national[:1] == "1" and len(national) > 11:  # North America: always ten digits
        end = _end_of_digits(data, start, 11 + (0 if plus else 2))
        digits, national = digits[: 11 + (0 if plus else 2)], national[:11]
    if (
        _MIN_INTERNATIONAL <= len(national) <= _MAX_INTERNATIONAL
        and _CALLING_CODES.match(national)
        and (national[0] != "1" or len(national) == 11)
        # 00 in front of plain digits pads an id as often as it dials.
        and (plus or len(digits) < end - start)
        and not joined_before(data, start)
        and not joined_after(data, end)
    ):
        return Found(start, end, "PHONE", digits)
    return None


def _end_of_digits(data: bytes, start: int, count: int) -> int:
    at = start
    while count:
        count -= data[at : at + 1].isdigit()
        at += 1
    return at


def _first_of(chars: bytes, data: bytes, at: int) -> int:
    """Where the first of *chars* is from *at* on, behind what a pattern demands before a number."""
    while data[at] not in chars:
        at += 1
    return at


def _continues(data: bytes, start: int) -> bool:
    """Whether a number that starts at *start* is the rest of a longer one: 1,234 or 2024-01."""
    return joined_before(data, start) or (
        data[start - 1 : start] in (b".", b",", b"-", b"/") and data[max(0, start - 2) : start - 1].isdigit()
    )


def _goes_on(data: bytes, end: int) -> bool:
    after = data[end : end + 2]
    return joined_after(data, end) or (after[:1] in (b"-", b".", b"/") and after[1:].isdigit())


def _phone(data: bytes, start: int, end: int) -> Found:
    return Found(start, end, "PHONE", _digits(data[start:end]))


def _digits(data: bytes) -> str:
    return data.translate(None, _NO_DIGITS).decode()


_DIGITS = re.compile(rb"\d+")
_NO_DIGITS = bytes(char for char in range(256) if not 48 <= char <= 57)
_SPACED = bytes(char if 48 <= char <= 57 else 32 for char in range(256))
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))

_NEXT_NUMBER = re.compile(rb"(?<=[0-9])[ /.\-]{1,3}(?=0[1-9])")
_NUMBER_START = re.compile(rb"[+(]{0,2}[0-9]")

# The first four digits of a card are written together, and say whose it is.
_NETWORK = rf"{BEFORE}(?:[3-6][0-9]|2[2-7])[0-9]{{2}}(?:[ .\-+]{{0,3}}[0-9]){{9,}}"
_INTERNATIONAL = rf"{BEFORE}(?:\+ ?|00)[1-9](?:{_SEP}[0-9]){{6,14}}"
_NORTH_AMERICAN = r"(?:1[ .\-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.\-])[0-9]{3}[ .\-][0-9]{4}"
# Not behind the rest of a longer number, as in 2024-01-02.
_BEHIND_NO_NUMBER = r"(?:^|[^A-Za-z0-9_\-./,]|[^0-9][\-./,]|\\[nrtbf])"
# What comes before the subscriber: (089), (0 30), (0)30, 030. Behind a longer one a digit may stand
# alone, as in 0211 / 8 80 12.
_AREAS = (
    r"\(0 ?[1-9][0-9]{1,4}\)[ /.\-]{0,3}(?:[0-9] )?",
    r"\(0\) ?[1-9][0-9]{1,4}[ /.\-]{1,3}(?:[0-9] )?",
    r"0[1-9][0-9]{1,4}\)?[ /.\-]{1,3}(?:[0-9] )?",
    r"\(?0[1-9]\)?[ /.\-]{1,3}",
)
# An extension may be a single digit: 123 456-0.
_SUBSCRIBER = r"[0-9]{2,8}(?:[ /.\-]{1,3}[0-9]{2,8}){0,4}(?:-[0-9])?"
_NATIONAL = rf"{_BEHIND_NO_NUMBER}(?:{'|'.join(_AREAS)}){_SUBSCRIBER}"
_NINE_DIGITS = _BEHIND_NO_NUMBER + r"\(?0[ )]{0,2}[1-9](?:[ /.\-)]{0,4}[0-9]){7}"
_NAMED = (
    rf"(?:^|[^A-Za-z]|(?i:tele|smart))(?i:{_PHONE_WORDS})"
    r"(?i:efon|nummer|number|s|_no| no| nr| at| on| is|[_.:#=\"'\\ \x1f\n]){0,8}"
    rf"[+(]{{0,2}}[0-9](?:{_SEP}[0-9]){{6,14}}"
)
_CARD_DIGITS = compile_pattern(_NETWORK)
_INTERNATIONAL_NUMBER = compile_pattern(_INTERNATIONAL)
_NORTH_AMERICAN_NUMBER = compile_pattern(_NORTH_AMERICAN)
_NATIONAL_NUMBER = compile_pattern(_NATIONAL)
_NAMED_NUMBER = compile_pattern(_NAMED)

CARDS = Rule("CARD", _NETWORK, find_cards)
PHONES = (
    Rule("PHONE", _INTERNATIONAL, find_international),
    Rule("PHONE", BEFORE + _NORTH_AMERICAN, find_north_american),
    Rule("PHONE", _NINE_DIGITS, find_national),
    Rule("PHONE", _NAMED, find_named_numbers),
)
