from __future__ import annotations

from typing import Any

import pytest

import judges
from judges.builtin import (
    cost,
    exact_match,
    language,
    latency,
    length,
    normalised_match,
    numeric,
    regex,
)
from judges.builtin.quantities import last_number


def reason(verdict: object) -> str:
    assert isinstance(verdict, judges.Abstain), verdict
    return verdict.reason


def test_exact_is_to_the_letter():
    assert exact_match(judges.trace_from(answer="Yes", kept="Yes")) is True
    assert exact_match(judges.trace_from(answer="yes", kept="Yes")) is False
    assert "nobody said" in reason(exact_match(judges.trace_from(answer="yes")))


@pytest.mark.parametrize(
    ("answer", "kept", "counts"),
    [
        ("YES", "yes", "case"),
        ("a  b\n", "a b", "space"),
        ("x²", "x2", "unicode"),
        ("so, then!", "so then", "punctuation"),
    ],
    ids=["case", "space", "unicode", "punctuation"],
)
def test_normalised_forgives_what_does_not_count(answer: str, kept: str, counts: str):
    trace = judges.trace_from(answer=answer, kept=kept)
    assert normalised_match(trace) is True
    assert normalised_match(trace, **{counts: True}) is False
    assert exact_match(trace) is False


def test_a_sharp_s_in_capitals_is_the_same_word():
    assert normalised_match(judges.trace_from(answer="STRASSE", kept="Straße")) is True


@pytest.mark.parametrize(
    ("against", "same"),
    [
        ("tags.label", True),
        ("request.metadata.expected", True),
        ("request.metadata.list.1", True),
        ("request.metadata.other", False),
    ],
    ids=["tag", "metadata", "list", "other"],
)
def test_the_reference_may_lie_in_the_trace(against: str, same: bool):
    metadata = {"expected": "spam", "list": ["x", "spam"], "other": "ham"}
    trace = judges.trace_from(answer="spam", tags={"label": "spam"}, request={"metadata": metadata})
    assert exact_match(trace, against=against) is same


@pytest.mark.parametrize("against", ["tags.none", "request.metadata.list.9", "request.messages.x"])
def test_nothing_at_the_path_is_an_abstention(against: str):
    trace = judges.trace_from(answer="x", request={"metadata": {"list": []}, "messages": []})
    assert "has nothing at" in reason(exact_match(trace, against=against))


def test_a_given_reference_comes_before_what_was_kept():
    assert exact_match(judges.trace_from(answer="a", kept="b"), reference="a") is True


@pytest.mark.parametrize(
    ("options", "score"),
    [
        ({"pattern": r"\b[A-Z]-\d+\b"}, True),
        ({"pattern": r"[A-Z]-\d+", "whole": True}, False),
        ({"pattern": r"order", "absent": True}, False),
        ({"pattern": r"ORDER"}, False),
        ({"pattern": r"ORDER", "ignore_case": True}, True),
        ({"pattern": r"größe"}, False),
    ],
    ids=["found", "whole", "absent", "case", "ignored", "umlaut"],
)
def test_a_pattern_is_found_or_not(options: dict[str, Any], score: bool):
    assert regex(judges.trace_from(answer="Your order is A-17."), **options) is score


def test_a_pattern_that_explodes_elsewhere_ends_here():
    assert regex(judges.trace_from(answer="a" * 200_000 + "b"), pattern="^(a+)+$") is False


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("It is 42.", "auto", 42),
        ("1,234.56", "auto", 1234.56),
        ("1.234,56", "auto", 1234.56),
        ("1,234", "auto", 1234),
        ("1.234", "auto", 1.234),
        ("1.234", ",", 1234),
        ("1,234", ",", 1.234),
        ("3,5", "auto", 3.5),
        ("0,123", "auto", 0.123),
        ("1234,567", "auto", 1234.567),
        ("1,234,567", "auto", 1234567),
        ("1,2,3", "auto", 3),
        ("1.2.3", "auto", 3),
        ("2026.", "auto", 2026),
        ("1 234 567", "auto", 1234567),
        ("in 2024 there were 15", "auto", 15),
        ("1.234.567", "auto", 1234567),
        ("-5", "auto", -5),
        ("\u22125", "auto", -5),
        ("3-5", "auto", 5),
        ("2e3", "auto", 2000),
        (".5", "auto", 0.5),
        ("1'000'000", "auto", 1000000),
        ("a1 b2 c3", "auto", 3),
    ],
    ids=ascii,
)
def test_numbers_are_read_as_people_write_them(text: str, decimal: Any, value: float):
    found = last_number(text, decimal)
    assert found is not None
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "kept", "options", "score"),
    [
        ("about 10.05", "10", {"absolute": 0.05}, True),
        ("10.06", "10", {"absolute": 0.05}, False),
        ("101", "100", {"relative": 0.01}, True),
        ("102", "100", {"relative": 0.01}, False),
        ("12 %", "0.12", {}, True),
        ("12", "12 %", {}, False),
        ("1.5 kg", "1500 g", {"units": {"g": 1, "kg": 1000}}, True),
        ("none", "3", {}, False),
        ('{"total": 3}', '{"total": 3.0}', {"field": "total"}, True),
        ('```json\n{"total": "3 EUR"}\n```', "3", {"field": "total"}, True),
        ('{"sum": 3}', "3", {"field": "total"}, False),
        ("3", "3", {"field": "total"}, False),
        ('{"total": true}', "1", {"field": "total"}, False),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_number_is_right_within_its_tolerance(answer: str, kept: str, options: dict[str, Any], score: bool):
    assert numeric(judges.trace_from(answer=answer, kept=kept), **options) is score


def test_a_reference_without_a_number_says_nothing():
    assert "no number" in reason(numeric(judges.trace_from(answer="3", kept="three")))


TEXTS = {
    "en": "Please reset your password in the account settings and then try to sign in again.",
    "de": "Bitte setzen Sie Ihr Passwort in den Einstellungen zurück und melden Sie sich dann neu an.",
    "fr": "Veuillez réinitialiser votre mot de passe dans les paramètres, puis reconnectez-vous.",
    "es": "Por favor, restablezca su contraseña en la configuración y vuelva a iniciar sesión.",
    "zh": "请在帐户设置中重设您的密码,然后再次尝试登录系统。",
}


@pytest.mark.parametrize("asked", sorted(TEXTS))
@pytest.mark.parametrize("answered", sorted(TEXTS))
def test_an_answer_is_in_the_language_of_its_question(asked: str, answered: str):
    request = {"messages": [{"role": "user", "content": TEXTS[asked]}]}
    trace = judges.trace_from(request=request, answer=TEXTS[answered])
    assert language(trace) is (asked == answered)
    assert language(trace, expected=asked) is (asked == answered)


@pytest.mark.parametrize(
    "answer", ["OK.", "", "```python\n" + "import os, sys, json\n" * 9 + "```", "17 3 4 " * 40]
)
def test_too_little_text_has_no_language(answer: str):
    assert "too short" in reason(language(judges.trace_from(answer=answer), expected="en"))


def test_a_short_question_has_no_language():
    request = {"messages": [{"role": "user", "content": "Hi"}]}
    assert "the prompt is too short" in reason(
        language(judges.trace_from(request=request, answer=TEXTS["de"]))
    )


@pytest.mark.parametrize(
    ("options", "score"),
    [
        ({"at_most": 3}, 1.0),
        ({"at_most": 2}, 0.0),
        ({"at_most": 2, "zero_at": 4}, 0.5),
        ({"at_most": 9, "at_least": 4}, 0.0),
        ({"at_most": 13, "unit": "chars"}, 1.0),
        ({"at_most": 12, "unit": "chars"}, 0.0),
        ({"at_most": 5, "unit": "tokens_out"}, 1.0),
    ],
    ids=["within", "beyond", "falling", "short", "chars", "chars-beyond", "tokens"],
)
def test_length_has_a_budget(options: dict[str, Any], score: float):
    assert length(judges.trace_from(answer="one two three", tokens_out=5), **options) == score


def test_what_is_not_known_is_not_zero():
    trace = judges.trace_from(answer="x", latency_ms=float("nan"))
    for verdict in (
        cost(trace, at_most_usd=1),
        latency(trace, at_most_ms=100),
        latency(trace, first_token_ms=10),
        length(trace, at_most=1, unit="tokens_out"),
    ):
        assert "not known" in reason(verdict)


def test_time_and_money_have_budgets():
    trace = judges.trace_from(answer="x", latency_ms=150.0, ttft_ms=20.0, cost_usd=0.03)
    assert latency(trace, at_most_ms=150) == 1.0
    assert latency(trace, at_most_ms=100) == 0.0
    assert latency(trace, at_most_ms=100, zero_at_ms=200) == 0.5
    assert latency(trace, at_most_ms=150, first_token_ms=10) == 0.0
    assert cost(trace, at_most_usd=0.02, zero_at_usd=0.04) == pytest.approx(0.5)
    assert cost(trace, at_most_usd=0.03) == 1.0
