"""Whatever bytes come in, valid JSON text goes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.assembling.jsontext import is_cut, json_text, parse_json


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


def test_long_strings_are_cut_first_and_the_structure_stays() -> None:
    body = {
        "messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "x" * 100_005}],
        "n": 1,
    }
    text = json_text(body, 50_000)
    cut = json.loads(text)
    assert (cut["n"], cut["messages"][0]) == (1, {"role": "system", "content": "short"})
    assert cut["messages"][1]["content"].startswith("x" * 10_000)
    assert cut["messages"][1]["content"].endswith("[cut, 100005 characters]")
    assert cut["x_tracetune"] == {"cut": True, "bytes": len(json_text(body)), "bound": "capture.body_bytes"}
    assert is_cut(cut)
    assert not is_cut(body)


def test_of_a_list_that_is_too_long_the_beginning_and_the_end_stay() -> None:
    turns = [{"role": "user", "content": f"turn {n}"} for n in range(5000)]
    cut = json.loads(json_text({"messages": turns}, 50_000))
    messages = cut["messages"]
    assert (messages[0], messages[-1]) == (turns[0], turns[-1])
    assert {"x_tracetune": {"cut": True, "items": 5000}} in messages
    assert is_cut(cut)


def test_what_cannot_be_cut_down_is_its_beginning_and_says_so() -> None:
    body = {f"key {n}": n for n in range(5000)}
    cut = json.loads(json_text(body, 10_000))
    assert cut["x_tracetune"]["head"].startswith('{"key 0":0,')
    assert is_cut(cut)


@given(
    value=st.recursive(
        st.none() | st.integers() | st.text(max_size=300),
        lambda inner: (
            st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=50), inner, max_size=30)
        ),
        max_leaves=60,
    ),
    max_bytes=st.integers(1000, 3000),
)
def test_whatever_the_body_its_text_keeps_the_bound_and_is_json(value: Any, max_bytes: int) -> None:
    text = json_text(value, max_bytes)
    assert len(text.encode()) <= max_bytes
    decoded = json.loads(text)
    assert decoded == value or is_cut(decoded)
