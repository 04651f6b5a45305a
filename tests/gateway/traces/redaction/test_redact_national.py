"""Phone numbers as they are written within a country are found; what else has digits in groups is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.traces.redaction.redact import Redactor

REDACTOR = Redactor(b"k" * 32)
PHONE = re.compile(r"\[PHONE_[0-9a-f]{6}\]")

NUMBERS = [
    "030 1234567",
    "030/1234567",
    "030-1234567",
    "030.1234567",
    "030 / 1234567 - 12",
    "0171 1234567",
    "0171 123 4567",
    "01512/3456789",
    "(0171) 1234567",
    "(089) 123 456-0",
    "089/123456-0",
    "089 123456-78",
    "(030)1234567",
    "(07071)29-12345",
    "(0 30) 12 34 56-7",
    "(0)30 1234567",
    "0211 / 8 80 12",
    "0221 4710-0",
    "01 23 45 67 89",
    "020 7946 0123",
    "03-5999-1234",
]
ORDINARY = [
    "0012345-67",
    "0815-4711",
    "00340434161094042557",
    "0171234567",
    "AB0171 234567",
    "RE-2024-00123",
    "RE-01-2024-00123",
    "01/2024-00123",
    "INV/2024/0123/4567",
    "2024-0171-123456",
    "ORD-0123456789",
    "028-3456789-0123456",
    "#0171234567",
    "1.0171.123456",
    "978-0-306-40615-7",
    "0-306-40615-2",
    "HRB 012345",
    "PLZ 01067",
    "0401234567890",
    "01.02.2024",
    "01.02.2024 12:30",
    "01.02.2024 - 05.02.2024",
    "01.02.24 - 05.02.24",
    "01-02-24 / 05-02-24",
    "01.02.24 10.30",
    "05/2024 - 06/2024",
    "05.2024-06.2024",
    "2024-08-01 09:00",
    "2024-08-01T09:00:00.123456",
    "08:00-12:00 / 13:00-17:00",
    "08.00 - 12.30",
    "09.15 Uhr - 10.45 Uhr",
    "01:02:03.456789",
    "0.1.2.3456789",
    "v0.12.345.6789",
    "01.02.03-4",
    "0,50 - 12,99",
    "05 von 12",
    "1 2 3 4 5 6 7 8 9",
    "0 1 2 3 4 5 6 7 8 9",
    "0 30 60 90 120 150",
]
PLACES = st.sampled_from([("", ""), ("Tel.: ", "."), ("ruf ", " an"), ("(", ")"), ("a\n", "\nb"), ("„", "“")])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_with_the_0_that_is_dialled_within_a_country_is_found_whole(number: str) -> None:
    assert PHONE.fullmatch(REDACTOR.text(number, "s"))
    redacted = REDACTOR.text(f"Sie erreichen uns unter {number}, danke", "s")
    assert PHONE.sub("", redacted) == "Sie erreichen uns unter , danke"


@given(st.sampled_from(NUMBERS), PLACES)
@settings(max_examples=150, deadline=None)
def test_what_stands_around_a_number_stays_and_hides_nothing(number: str, place: tuple[str, str]) -> None:
    redacted = REDACTOR.text(f"{place[0]}{number}{place[1]}", "s")

    assert PHONE.sub("|", redacted) == f"{place[0]}|{place[1]}"


@pytest.mark.parametrize("text", ORDINARY)
def test_orders_invoices_days_times_and_versions_are_left_alone(text: str) -> None:
    for around in (text, f"Bestellung {text} vom Montag", f"({text})", f"{text}, {text}"):
        assert REDACTOR.text(around, "s") == around


def test_however_it_is_written_it_is_the_same_number() -> None:
    forms = ("030 1234567", "(030) 123 45 67", "(0 30) 12 34 56-7", "(0)30 1234567")

    assert len({REDACTOR.text(form, "s") for form in forms}) == 1


@pytest.mark.parametrize(
    "between", [" / ", "/", ", ", " - ", " "], ids=["apart", "slash", "comma", "dash", "blank"]
)
def test_two_numbers_in_a_row_are_two(between: str) -> None:
    redacted = REDACTOR.text(f"Tel. 030 1234567{between}0171 1234567.", "s")

    assert PHONE.sub("|", redacted) == f"Tel. |{between}|."
