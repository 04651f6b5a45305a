"""Whether the answer comes to the right number, however it is written."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from judges.builtin.shown import (
    KEPT,
    answer_of,
    at,
    check_against,
    decoded,
    is_missing,
    reference_of,
    without_fence,
)
from judges.protocol import Abstain, abstain
from judges.trace import JudgedTrace

TAIL_CHARS = 2_000  # of a text, where its last number is looked for
MAX_DIGITS_CHARS = 60  # of one number as it is written
AtLeastZero = Annotated[float, Meta(ge=0)]
Decimal = Literal["auto", ".", ","]
_SPACES = " \u00a0\u2009\u202f'\u2019"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.,])[-+\u2212])?(?P<digits>(?:\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?![\d])(?:[.,]\d+)?)"
    r"|\d[\d.,]*|[.,]\d+)(?P<power>[eE][-+]?\d{1,3}(?!\d))?\s?(?P<unit>%|[^\W\d_]+|[€$£¥°])?"
)


class Quantity(NamedTuple):
    """A number as it was written, and what stands behind it ("" where nothing does)."""

    value: float
    unit: str


def numeric(
    trace: JudgedTrace,
    *,
    against: str = KEPT,
    reference: str | float | None = None,
    absolute: AtLeastZero = 0,
    relative: AtLeastZero = 0,
    field: str | None = None,
    decimal: Decimal = "auto",
    units: dict[str, float] | None = None,
) -> bool | Abstain:
    """True where the last number of the answer is that of the reference, by *absolute* or *relative* at most.

    *relative* is a share of the reference. *field*: the number at that path of the answer's JSON (and of the
    reference's, where that is JSON). `12 %` is 0.12. *units*: what one of each is worth, `{g: 1, kg: 1000}`;
    a unit that is not among them, or none, counts as 1. *decimal* says which sign stands before the decimals;
    auto: of two kinds the last one, and of one kind alone a comma before three digits groups thousands.
    """
    answer = answer_of(trace)
    if isinstance(answer, Abstain):
        return answer
    expected = reference_of(trace, against, None if reference is None else str(reference))
    if isinstance(expected, Abstain):
        return expected
    wanted = _value(expected, field, decimal, units or {}, plain_too=True)
    if wanted is None:
        return abstain("what the answer is held against has no number")
    given = _value(answer, field, decimal, units or {}, plain_too=False)
    if given is None:
        return False
    # Decimals are no binary fractions: what is written as the bound is within it.
    slack = 4 * math.ulp(max(abs(given), abs(wanted)))
    return abs(given - wanted) <= max(absolute, relative * abs(wanted)) + slack


def last_number(text: str, decimal: Decimal = "auto") -> Quantity | None:
    """The last number in *text*; None where there is none in its last TAIL_CHARS characters."""
    numbers = list(_NUMBER.finditer(text[-TAIL_CHARS:]))
    if not numbers:
        return None
    found = numbers[-1]
    value = _read(found["digits"], decimal)
    if value is None:
        return None
    value *= float(f"1{found['power']}") if found["power"] else 1.0
    value = -value if found["sign"] in {"-", "\u2212"} else value
    return Quantity(value, found["unit"] or "") if math.isfinite(value) else None


def _value(
    text: str, field: str | None, decimal: Decimal, units: dict[str, float], *, plain_too: bool
) -> float | None:
    """The number that *text* comes to; *plain_too*: also where it is no JSON and *field* is given."""
    if field is not None:
        try:
            found = at(decoded(without_fence(text)), field)
        except ValueError:
            found = text if plain_too else None
        else:
            if is_missing(found) and plain_too:
                found = text
        if isinstance(found, bool) or is_missing(found) or not isinstance(found, int | float | str):
            return None
        if not isinstance(found, str):
            return float(found) if abs(found) < 1e300 else None
        text = found
    quantity = last_number(text, decimal)
    if quantity is None:
        return None
    if quantity.unit == "%" and "%" not in units:
        return quantity.value / 100
    return quantity.value * units.get(quantity.unit, 1.0)


def _read(digits: str, decimal: Decimal) -> float | None:
    """*digits* with separators, as a number; None where it is none."""
    plain = digits.strip(_SPACES).rstrip(".,")
    if not plain or len(plain) > MAX_DIGITS_CHARS or (not plain.isascii() and not _only_known(plain)):
        return None
    for space in _SPACES:
        plain = plain.replace(space, "")
    mark = _decimal_mark(plain) if decimal == "auto" else decimal
    group = "," if mark == "." else "."
    whole, _, part = plain.rpartition(mark) if mark in plain else (plain, "", "")
    groups = whole.split(group)
    if mark in whole or any(len(digits) != 3 for digits in groups[1:]):
        return _read(re.split("[.,]", plain)[-1], decimal)  # `1,2,3` is a list, of which the last one counts
    try:
        return float(f"{''.join(groups) or '0'}.{part or '0'}")
    except ValueError:
        return None


def _only_known(text: str) -> bool:
    return all(char in "0123456789.," or char in _SPACES for char in text)


def _decimal_mark(text: str) -> Literal[".", ","]:
    dots, commas = text.count("."), text.count(",")
    if dots and commas:
        return "." if text.rfind(".") > text.rfind(",") else ","
    if commas == 1:
        before, _, after = text.partition(",")
        grouped = len(after) == 3 and 1 <= len(before) <= 3 and before[0] != "0"
        return "." if grouped else ","
    return "," if dots > 1 else "."


def check_options(judge: str, options: dict[str, Any]) -> None:  # noqa: ARG001 -- one judge alone
    """Raises ValueError naming the option that is wrong."""
    check_against(options.get("against", KEPT))
    for unit, worth in msgspec.convert(options.get("units") or {}, dict[str, float]).items():
        if not math.isfinite(worth) or worth <= 0:
            raise ValueError(f"option 'units': one {unit!r} is worth {worth:g}, which is not above 0")
    reference = options.get("reference")
    if reference is not None and last_number(str(reference), options.get("decimal", "auto")) is None:
        raise ValueError("option 'reference' is not a number")
