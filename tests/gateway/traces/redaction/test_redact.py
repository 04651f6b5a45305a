"""What a rule covers never gets out, in whatever form it comes in; ordinary text is left alone."""

from __future__ import annotations

import json
import re
import string
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import OperationError
from gateway.traces.assembling.assemble import assemble
from gateway.traces.assembling.jsontext import json_text, parse_json
from gateway.traces.redaction.leaves import MAX_DEPTH
from gateway.traces.redaction.numbers import is_card
from gateway.traces.redaction.redact import Redactor, redaction_key
from gateway.traces.redaction.rules import IBAN_LENGTHS, iban_checksum_holds

REDACTOR = Redactor(b"k" * 32)
PLACEHOLDER = re.compile(r"\[(?:EMAIL|PHONE|CARD|IBAN|API_KEY|PRIVATE_KEY)_[0-9a-f]{6}\]")
ALNUM = string.ascii_letters + string.digits


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text(string.digits, min_size=count, max_size=count)


def grouped(number: str, sizes: list[int], separator: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return separator.join([*parts, *([number[at:]] if number[at:] else [])])


@st.composite
def cards(draw: Any) -> str:
    prefix, length, sizes = draw(
        st.sampled_from(
            [
                ("4", 16, [4, 4, 4]),
                ("55", 16, [4, 4, 4]),
                ("2345", 16, [4, 4, 4]),
                ("37", 15, [4, 6]),
                ("6011", 16, [4, 4, 4]),
            ]
        )
    )
    body = prefix + draw(digits(length - len(prefix) - 1))
    number = next(body + str(check) for check in range(10) if is_card(body + str(check)))
    return grouped(number, sizes, draw(st.sampled_from(["", " ", "-", "\u00a0", "\u2011", "  ", "."])))


@st.composite
def ibans(draw: Any) -> str:
    country = draw(st.sampled_from(sorted(IBAN_LENGTHS)))
    rest = draw(digits(IBAN_LENGTHS[country] - 4))
    number = next(
        f"{country}{c:02}{rest}" for c in range(2, 99) if iban_checksum_holds(f"{country}{c:02}{rest}")
    )
    number = draw(st.sampled_from([number, number.lower()]))
    return grouped(number, [4] * (len(number) // 4), draw(st.sampled_from(["", " ", "-", "\u00a0"])))


@st.composite
def emails(draw: Any) -> str:
    local = draw(st.text(ALNUM + "._%+-", min_size=1, max_size=20).filter(lambda s: s != "git"))
    host = draw(st.text(ALNUM + "äöüß", min_size=2, max_size=12))
    at = draw(st.sampled_from(["@", "%40", "\uff20"]))
    return f"{local}{at}{host}.{draw(st.sampled_from(['com', 'co.uk', 'de', 'museum']))}"


@st.composite
def phones(draw: Any) -> str:
    area, number = draw(digits(2)), draw(digits(4))
    return draw(
        st.sampled_from(
            [
                f"+49 30 12{area}{number}",
                f"+4915{area}12{number}",
                f"+1-555-1{area}-{number}",
                f"+1 (555) 1{area} {number}",
                f"+44 20 79{area} {number}",
                f"+33 6 12 34 {area} {number[:2]}",
                f"0049 30 12{area}{number}",
                f"(555) 1{area}-{number}",
                f"555-1{area}-{number}",
                f"555.1{area}.{number}",
                f"030 12{area}{number}",
                f"0171/12{area}{number}",
                f"01 23 45 {area} {number[:2]}",
                f"020 79{area} {number}",
                f"+49\u00a030\u00a012{area}{number}",
                f"\uff0b\uff14\uff19 30 12{area}{number}",
            ]
        )
    )


@st.composite
def api_keys(draw: Any) -> str:
    def token(alphabet: str, count: int) -> str:
        return draw(st.text(alphabet, min_size=count, max_size=count))

    hexadecimal = "0123456789abcdef"
    return draw(
        st.sampled_from(
            [
                f"sk-proj-{token(ALNUM, 30)}12",
                f"sk-ant-api03-{token(ALNUM, 30)}",
                f"AKIA{token(string.ascii_uppercase + string.digits, 16)}",
                f"AIza{token(ALNUM, 35)}",
                f"ghp_{token(ALNUM, 36)}",
                f"github_pat_{token(ALNUM, 40)}",
                f"glpat-{token(ALNUM, 20)}",
                f"xoxb-{token(string.digits, 12)}-{token(ALNUM, 24)}",
                f"sk_live_{token(ALNUM, 24)}",
                f"hf_{token(ALNUM, 34)}",
                f"SG.{token(ALNUM, 22)}.{token(ALNUM, 43)}",
                f"npm_{token(ALNUM, 36)}",
                f"gsk_{token(ALNUM, 52)}",
                f"dapi{token(hexadecimal, 32)}",
                f"eyJ{token(ALNUM, 20)}.eyJ{token(ALNUM, 30)}.{token(ALNUM, 43)}",
                f"-----BEGIN PRIVATE KEY-----\n{token(ALNUM, 60)}\n-----END PRIVATE KEY-----",
            ]
        )
    )


VALUES = st.one_of(cards(), ibans(), emails(), phones(), api_keys())
AROUND = st.sampled_from(
    [
        ("", ""),
        ("My data: ", "."),
        ("(", ")"),
        ("é “", "”"),
        ("a\n", "\nb"),
        ('say "', '" now'),
        ("x, ", ", and 7 more"),
    ]
)


def leaks(value: str, text: str) -> bool:
    """Whether *value* can be read in *text*: as it is, or by its letters and digits."""

    def bare(s: str) -> str:
        return re.sub(r"[^a-z0-9]", "", PLACEHOLDER.sub("|", s).lower().replace("%40", ""))

    return value in text or bare(
        value.replace("PRIVATE KEY", "").replace("BEGIN", "").replace("END", "")
    ) in bare(text)


def as_plain(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()


def as_escaped(text: str) -> bytes:
    escaped = "".join(f"\\u{unit:04x}" for unit in memoryview(text.encode("utf-16-le")).cast("H"))
    return b'{"messages": [{"role": "user", "content": "' + escaped.encode() + b'"}]}'


def as_tool_arguments(text: str) -> bytes:
    arguments = as_escaped(text).decode()
    return json.dumps({"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}).encode()


def as_broken_arguments(text: str) -> bytes:
    return json.dumps({"arguments": as_tool_arguments(text).decode()[:-3].replace('\\"', "'")}).encode()


def as_key(text: str) -> bytes:
    return json.dumps({"customers": {text: {"orders": 3}}}).encode()


def as_text(text: str) -> bytes:
    return f"upstream said: {text}".encode()


FORMS = [as_plain, as_escaped, as_tool_arguments, as_key, as_text]


@given(VALUES, AROUND, st.sampled_from(FORMS))
@settings(max_examples=250, deadline=None)
def test_a_planted_value_never_gets_out(value: str, around: tuple[str, str], form: Any) -> None:
    stored = json_text(REDACTOR.value(parse_json(form(around[0] + value + around[1])), "s"))
    assert not leaks(value, stored)
    assert not leaks(value, json.dumps(json.loads(stored), ensure_ascii=False))
    assert PLACEHOLDER.search(stored)


@given(VALUES, st.data())
@settings(max_examples=100, deadline=None)
def test_a_value_split_over_the_chunks_of_a_stream_never_gets_out(value: str, data: st.DataObject) -> None:
    text = f"You wrote: {value}. Right?"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    body = b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}).encode() + b"\n\n"
        for piece in pieces
    )
    assert not leaks(value, json_text(REDACTOR.value(assemble(body), "s")))


@given(emails())
@settings(max_examples=50, deadline=None)
def test_an_escaped_value_in_json_that_broke_off_never_gets_out(value: str) -> None:
    stored = json_text(REDACTOR.value(parse_json(as_broken_arguments(f" {value} ")), "s"))
    assert not leaks(value, stored.encode().decode("unicode_escape"))


@given(VALUES, AROUND)
@settings(max_examples=100, deadline=None)
def test_redacting_again_changes_nothing(value: str, around: tuple[str, str]) -> None:
    once = REDACTOR.text(around[0] + value + around[1], "s")
    assert REDACTOR.text(once, "s") == once


ORDINARY = st.one_of(
    st.from_regex(r"[A-Z]{1,3}-?[0-9]{3,8}", fullmatch=True),  # order ids
    st.dates().map(str),
    st.dates().map(lambda day: f"{day:%d.%m.%Y}"),
    st.dates().map(lambda day: f"{day:%m/%d/%Y}"),
    st.datetimes().map(lambda at: at.isoformat()),
    st.times().map(lambda at: f"{at:%H:%M}"),
    st.decimals(0, 99_999, places=2).map(lambda price: f"{price:,} EUR"),
    st.decimals(0, 99_999, places=2).map(lambda price: f"${price}"),
    st.uuids().map(str),
    st.integers(0, 99_999_999).map(str),
    st.integers(10**9, 2 * 10**9).map(str),  # timestamps
    st.integers(10**12, 2 * 10**12).map(str),
    st.floats(0, 1).map(str),
    st.ip_addresses(v=4).map(str),
    st.from_regex(r"v?[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,3}", fullmatch=True),
    st.sampled_from(
        [
            "my order C4821 is late",
            "logo@2x.png",
            "git@github.com:a/b.git",
            "@app.route",
            "risk-assessment-of-long-names-2",
            "3 x 4 = 12",
            "tel aviv",
            "hotel 1234567",
            "DE is a country",
            "iPhone 15 Pro",
            "100 000 000",
            "10:30-12:45",
            "task-1234",
            "pip install foo==1.2.3",
            "Chapter 12, page 345",
            "GB99 is no bank",
            "1 2 3 4 5 6 7 8 9",
            "5551234567",
            "#4821",
        ]
    ),
)


@given(st.lists(ORDINARY, min_size=1, max_size=4), st.sampled_from([", ", "; ", " and ", "\n"]))
@settings(max_examples=250, deadline=None)
def test_ordinary_text_is_left_alone(parts: list[str], separator: str) -> None:
    text = separator.join(parts)
    assert REDACTOR.text(text, "s") == text
    assert REDACTOR.value({"content": text, "n": 17}, "s") == {"content": text, "n": 17}


def test_the_same_value_has_the_same_placeholder_within_a_session_and_another_one_elsewhere() -> None:
    first = REDACTOR.text("john@example.com", "client\0s1")
    assert REDACTOR.text("JOHN@example.com", "client\0s1") == first
    assert REDACTOR.text("john%40example.com", "client\0s1") == first
    assert REDACTOR.text("john@example.com", "client\0s2") != first
    assert Redactor(b"x" * 32).text("john@example.com", "client\0s1") != first
    card = REDACTOR.text("4111 1111 1111 1111", "s")
    assert REDACTOR.text("4111-1111-1111-1111", "s") == card


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card 4111 1111 1111 1111 12/26 cvv 123", "card [CARD] 12/26 cvv 123"),
        ("pay to DE89 3704 0044 0532 0130 00 BIC COBADEFFXXX", "pay to [IBAN] BIC COBADEFFXXX"),
        ("DE89370400440532013000 and GB29NWBK60161331926819", "[IBAN] and [IBAN]"),
        ("https://bob:hunter2x@db.example.com/x", "https://bob:[API_KEY]@db.example.com/x"),
        ("Authorization: Bearer abcdefghij0123456789xyz", "Authorization: Bearer [API_KEY]"),
        (
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "aws_secret_access_key = [API_KEY]",
        ),
        ("call me at 555 123 4567", "call me at [PHONE]"),
        ("+1 555 123 4567 2024-01-02", "[PHONE] 2024-01-02"),
        ("4111111111111112", "4111111111111112"),  # Luhn does not hold
        ("DE89370400440532013001", "DE89370400440532013001"),  # nor the checksum
    ],
)
def test_only_the_value_itself_is_replaced(text: str, expected: str) -> None:
    redacted = REDACTOR.text(text, "s")
    assert re.sub(r"_[0-9a-f]{6}\]", "]", redacted) == expected


def test_numbers_and_named_fields_are_covered_too() -> None:
    value = REDACTOR.value(
        {"card": 4111111111111111, "phone_number": "5551234567", "phones": ["5551234567"]}, "s"
    )
    assert PLACEHOLDER.fullmatch(value["card"])
    assert PLACEHOLDER.fullmatch(value["phone_number"])
    assert value["phones"] == [value["phone_number"]]
    assert REDACTOR.value({"created": 1700000000, "n": 4111}, "s") == {"created": 1700000000, "n": 4111}


def test_untouched_nested_json_keeps_its_formatting() -> None:
    arguments = '{ "a" : 1,  "b": "x@y.de" }'
    value = REDACTOR.value({"arguments": '{ "a" : 1 }', "more": arguments}, "s")
    assert value["arguments"] == '{ "a" : 1 }'
    assert json.loads(value["more"])["a"] == 1


def test_what_is_nested_beyond_reason_is_left_out_and_says_so() -> None:
    value: Any = "x@y.de"
    for _ in range(MAX_DEPTH + 10):
        value = [value]
    stored = json_text(REDACTOR.value(value, "s"))
    assert "x@y.de" not in stored
    assert "left out" in stored


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "redaction_key"
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(redaction_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["redaction_key"]
    path.write_bytes(b"short")
    with pytest.raises(OperationError, match="damaged"):
        redaction_key(path)


def test_what_is_nested_beyond_reason_in_json_in_a_string_is_left_out_there_too() -> None:
    value: Any = "x@y.de"
    for _ in range(MAX_DEPTH + 10):
        value = [value]
    stored = json_text(REDACTOR.value({"arguments": json.dumps({"a": value, "b": "c\nd"})}, "s"))
    assert "x@y.de" not in stored
    assert "left out" in stored


def test_keys_and_values_in_json_in_json_are_replaced_in_their_places() -> None:
    inner = json.dumps({"a@b.de": json.dumps({"c@d.de": ["e@f.de", 1], "n": 2}), "k": "g@h.de"})
    redacted = REDACTOR.value({"x@y.de": inner, "last": True}, "s")
    assert list(redacted)[1:] == ["last"]
    first = json.loads(next(iter(redacted.values())))
    assert list(first)[1:] == ["k"]
    second = json.loads(next(iter(first.values())))
    assert [*second.values()][1] == 2
    found = [
        next(iter(redacted)),
        next(iter(first)),
        first["k"],
        next(iter(second)),
        next(iter(second.values()))[0],
    ]
    assert all(PLACEHOLDER.fullmatch(text) for text in found)
    assert len(set(found)) == 5
