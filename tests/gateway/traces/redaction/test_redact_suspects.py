"""What the first pass over a trace leaves out is never something that a closer look would have found."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.privacy import Pattern
from gateway.traces.redaction.patterns import rules_of
from gateway.traces.redaction.redact import BUILTIN, Redactor
from gateway.traces.redaction.scan import NOTHING

PATTERNS = rules_of([Pattern(name="CUSTOMER", pattern=r"^cust\s+[0-9]{4}$")])
REDACTORS = (Redactor(b"k" * 32), Redactor(b"k" * 32, BUILTIN, PATTERNS))

PIECES = st.sampled_from(
    [
        "4111 1111 1111 1111",
        "4111111111111111",
        "3782 822463 10005",
        "DE89 3704 0044 0532 0130 00",
        "gb29nwbk60161331926819",
        "jane@example.com",
        "x%40y.org",
        "+49 30 1234567",
        "0049 30 1234567",
        "(555) 123-4567",
        "0171/1234567",
        "phone: 5551234567",
        "sk-proj-abcdefghij0123456789xyz",
        "api_key = abcdefghijklmnop1234",
        "-----BEGIN PRIVATE KEY-----\nabc",
        "cust 1234",
        "order C4821 of 2026-01-02",
        "\\u0040",
        "\uff14\uff11\uff11\uff11",
        "{",
        "[",
        "\0",
        "\x1f",
        "\n",
        "  ",
        "1",
    ]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=5).map(" ".join) | st.lists(PIECES, max_size=3).map("".join)
NAMES = st.sampled_from(["content", "role", "phone", "api_key", "a b"]) | TEXTS
LEAVES = TEXTS | st.sampled_from([4111111111111111, 17, 0.5, True, None])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3) | inner.map(json.dumps)
    ),
    max_leaves=8,
)


@given(VALUES, st.sampled_from(REDACTORS))
@settings(max_examples=300, deadline=None)
def test_a_suspicion_changes_nothing_of_what_is_found(value: Any, redactor: Redactor) -> None:
    closely = redactor.replaced(copy.deepcopy(value), "s")
    suspects = redactor.suspects(value)

    if suspects != NOTHING:
        assert redactor.replaced(copy.deepcopy(value), "s", suspects) == closely
    # JSON in a string is written anew where something in it was replaced, and only there.
    assert redactor.value(copy.deepcopy(value), "s") == closely


@given(VALUES, VALUES, st.sampled_from(REDACTORS))
@settings(max_examples=150, deadline=None)
def test_the_suspicion_of_a_whole_holds_for_its_parts(value: Any, more: Any, redactor: Redactor) -> None:
    suspects = redactor.suspects([value, more])
    closely = redactor.replaced(copy.deepcopy(value), "s")

    if suspects != NOTHING:
        assert redactor.replaced(copy.deepcopy(value), "s", suspects) == closely


@pytest.mark.parametrize("mark", ["\0", "\x1f"], ids=["nul", "unit"])
@pytest.mark.parametrize("place", ["in the value", "alone"])
def test_a_control_character_hides_nothing(mark: str, place: str) -> None:
    text = f"0171/123{mark}4567" if place == "alone" else f"4111 1111{mark}1111 1111, jane@example.com"
    redacted = REDACTORS[0].value({"content": text}, "s")["content"]

    assert "4567" not in redacted
    assert "1111" not in redacted
