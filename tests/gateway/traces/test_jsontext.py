"""Whatever bytes come in, valid JSON text goes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.jsontext import MAX_BODY_CHARS, json_text, parse_json


@given(st.binary(max_size=200))
def test_any_bytes_become_valid_json_text(data: bytes) -> None:
    text = json_text(parse_json(data))
    json.loads(text)
    text.encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a": "x\\ud800y"}', {"a": "x\ufffdy"}),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'{"a": NaN, "b": 1e999, "c": -Infinity}', {"a": None, "b": None, "c": None}),
        (b'"a\tb"', "a\tb"),
        (b'{"a": "\xff"}', {"a": "\ufffd"}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"not json", "not json"),
        (b'{"a": ', '{"a": '),
        (b"null", None),
        (b"12345678901234567890123", 12345678901234567890123),
    ],
)
def test_lenient_in(data: bytes, expected: Any) -> None:
    assert parse_json(data) == expected


def test_nesting_beyond_any_parser_is_kept_as_text() -> None:
    assert parse_json(b"[" * 100_000) == "[" * 100_000


def test_long_strings_are_cut_with_a_marker_and_the_structure_stays() -> None:
    body = {"messages": [{"role": "user", "content": "x" * (MAX_BODY_CHARS + 5)}], "model": "m"}
    text = json_text(body)
    assert len(text) <= MAX_BODY_CHARS
    cut = json.loads(text)
    assert cut["model"] == "m"
    assert cut["messages"][0]["content"].endswith(f"[cut, {MAX_BODY_CHARS + 5} characters]")


def test_a_body_of_too_many_small_parts_is_cut_as_a_whole_and_says_so() -> None:
    text = json_text([1] * (MAX_BODY_CHARS + 5))
    assert len(text) <= MAX_BODY_CHARS
    assert json.loads(text)["x_tracetune"]["cut"] is True
