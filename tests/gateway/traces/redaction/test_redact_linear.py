"""No text stalls the recorder: four times as much takes at most some four times as long."""

from __future__ import annotations

import json
import time

import pytest

from gateway.config.privacy import Pattern
from gateway.traces.assembling.jsontext import parse_json
from gateway.traces.redaction.patterns import rules_of
from gateway.traces.redaction.redact import BUILTIN, Redactor

REDACTOR = Redactor(
    b"k" * 32,
    BUILTIN,
    rules_of([Pattern(name="NESTED", pattern=r"(x+x+)+y"), Pattern(name="Z", pattern="z.{0,50}q")]),
)
SMALL = 40_000  # characters; the larger text is a hundred times a usual one
FACTOR = 4
SLACK = 2.5  # for a busy machine; what is quadratic takes FACTOR times as long as it may

PARTS = {
    "at": "@",
    "an address without an end": "a@",
    "addresses": "ab@example.com ",
    "dots": "a.@b.",
    "digits": "1",
    "cards": "4111 1111 1111 1111 ",
    "dates": "2026-01-02 ",
    "almost phones": "+1 (23) ",
    "phones": "+49 30 12345678 ",
    "phone words": "phone: ",
    "almost ibans": "DE12 ",
    "ibans": "DE89370400440532013000 ",
    "half escapes": "\\u00",
    "backslashes": "\\",
    "escapes": "\\u0041",
    "percents": "%4",
    "keys": "sk-",
    "names of keys": "api_key=",
    "aws": "aws secret ",
    "tokens": "eyJhbGciOiJI.",
    "private keys": "-----BEGIN PRIVATE KEY-----",
    "urls": "://a:b",
    "entities": "&#",
    "nul": "\0\x1f",
    "full-width": "\uff20\uff11",
    "nested patterns": "x",
    "patterns without an end": "z",
    "open brackets": "[",
    "open objects": '{"a":',
}


def seconds(body: bytes) -> float:
    """CPU of the quickest of three."""
    times = []
    for _ in range(3):
        started = time.thread_time()
        REDACTOR.value(parse_json(body), "s")
        times.append(time.thread_time() - started)
    return min(times)


def grows_linearly(small: bytes, large: bytes) -> None:
    REDACTOR.value(parse_json(small), "s")
    before, after = seconds(small), seconds(large)
    # Below a millisecond there is nothing to compare.
    assert after <= FACTOR * SLACK * max(before, 0.001), (before, after)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_hostile_text_costs_its_length(part: str) -> None:
    def body(size: int) -> bytes:
        return json.dumps({"content": part * (size // len(part)), "n": 1}).encode()

    grows_linearly(body(SMALL), body(SMALL * FACTOR))


def many_keys(count: int) -> bytes:
    return json.dumps({f"user{number}@example.com": f"a{number}@b.de" for number in range(count)}).encode()


def many_texts(count: int) -> bytes:
    return json.dumps({"k" * 99: [f"{number}@b.de" for number in range(count)]}).encode()


def many_nested(count: int) -> bytes:
    return json.dumps(
        [json.dumps({f"a{number}@b.de": [f"{number}@b.de"]}) for number in range(count)]
    ).encode()


def a_long_name(count: int) -> bytes:
    return json.dumps({"k" * count: [["abcdef"] * 10] * (count // 10)}).encode()


@pytest.mark.parametrize("make", [many_keys, many_texts, many_nested, a_long_name])
def test_many_finds_in_many_places_cost_their_number(make: object) -> None:
    assert callable(make)
    grows_linearly(make(1_000), make(1_000 * FACTOR))


def test_json_in_json_in_json_is_read_four_deep_and_costs_its_length() -> None:
    def body(size: int) -> bytes:
        text = " ".join(["jane@example.com"] * (size // 17))
        for _ in range(6):
            text = json.dumps({"a": text})
        return text.encode()

    grows_linearly(body(SMALL // 8), body(SMALL // 8 * FACTOR))
    assert "jane" not in json.dumps(REDACTOR.value(parse_json(body(200)), "s"))
