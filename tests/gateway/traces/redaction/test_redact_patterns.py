"""A user's own patterns are rules like the built-in ones, and see through the same disguises."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import pytest

from gateway.config.privacy import Pattern
from gateway.traces.assembling.jsontext import json_text, parse_json
from gateway.traces.redaction.patterns import rules_of
from gateway.traces.redaction.redact import BUILTIN, Redactor

VALUE = "K-12345678"
PLACEHOLDER = re.compile(r"\[CUSTOMER_NO_[0-9a-f]{6}\]")


def redactor(*patterns: str) -> Redactor:
    named = [
        Pattern(name="CUSTOMER_NO" if not number else f"OTHER_{number}", pattern=pattern)
        for number, pattern in enumerate(patterns)
    ]
    return Redactor(b"k" * 32, BUILTIN, rules_of(named))


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


BODIES: list[Any] = [
    f'{{"content": "{VALUE}"}}',
    f'{{"content": "{escaped(VALUE)}"}}',
    f'{{"content": "a\\n{VALUE}\\nb"}}',
    json.dumps({"arguments": json.dumps({"number": VALUE, "more": [f"x {VALUE}"]})}),
    json.dumps({"arguments": f'{{"number": "{escaped(VALUE)}"}}'}),
    json.dumps({"arguments": f'{{"number": "{escaped(VALUE)}'}),
    json.dumps({"url": f"https://example.com/?a=%20&n={quote(VALUE, safe='').replace('-', '%2D')}"}),
    json.dumps({VALUE: 1, "more": {VALUE: {VALUE: [VALUE]}}}),
    json.dumps({"content": VALUE.replace("-", "\u2011")}),
    json.dumps({"html": VALUE.replace("-", "&#45;")}),
    json.dumps([VALUE, [VALUE], f"{VALUE}{VALUE}"]),
]


@pytest.mark.parametrize("body", BODIES)
def test_what_a_pattern_finds_is_replaced_in_whatever_form_it_comes(body: str) -> None:
    stored = json_text(redactor(r"K-\d{8}").value(parse_json(body.encode()), "s"))
    assert "12345678" not in stored
    assert PLACEHOLDER.search(stored)
    json.loads(stored)


@pytest.mark.parametrize("pattern", [r"^K-\d{8}$", r"\bK-\d{8}\b", r"^K-\d{8}\b|never", r"(K)-(\d{8})"])
@pytest.mark.parametrize("body", [{"number": VALUE}, {"content": VALUE}, [VALUE], {VALUE: VALUE}, VALUE])
def test_anchors_mean_the_text_by_itself_wherever_it_is(pattern: str, body: Any) -> None:
    stored = json_text(redactor(pattern).value(json.loads(json.dumps(body)), "s"))
    assert VALUE not in stored


def test_an_anchored_pattern_leaves_alone_what_only_begins_a_line() -> None:
    text = f"first\n{VALUE}\nlast"
    assert redactor(r"^K-\d{8}$").text(text, "s") == text


def test_a_pattern_with_quotes_line_ends_and_short_values_finds_them_in_decoded_text() -> None:
    one = redactor(r'no: "\d\d"\nend', "Q[0-9]")
    assert one.value({"content": 'no: "17"\nend Q7'}, "s")["content"].startswith("[CUSTOMER_NO_")
    assert one.value({"x": "Q7"}, "s")["x"].startswith("[OTHER_1_")


def test_a_pattern_comes_before_the_built_in_rules_and_they_find_the_rest() -> None:
    text = redactor(r"[a-z]+@internal\.example").text("bob@internal.example and bob@example.com", "s")
    assert re.sub(r"_[0-9a-f]{6}\]", "]", text) == "[CUSTOMER_NO] and [EMAIL]"


def test_the_same_value_has_the_same_placeholder_within_a_session_and_another_one_elsewhere() -> None:
    one = redactor(r"K-\d{8}")
    assert one.text(f"{VALUE} {VALUE}", "s") == " ".join([one.text(VALUE, "s")] * 2)
    assert one.text(VALUE, "s") != one.text(VALUE, "t")


def test_marks_of_ours_in_a_text_hide_nothing_and_stay() -> None:
    text = f"a\0b {VALUE}\x1f\n{VALUE} jane@example.com\0"
    stored = redactor(r"K-\d{8}").text(text, "s")
    assert VALUE not in stored
    assert "jane" not in stored
    assert (stored[:4], stored[-1], stored.count("\x1f")) == ("a\0b ", "\0", 1)
