"""Requests that begin alike have equal keys, and nothing else of them matters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.prefix import (
    HASHED_BYTES,
    MAX_BODY_BYTES,
    MIN_SHARED_BYTES,
    PROMPT_BYTES,
    prefix_key,
)

LONG = "You answer in one word. " * (MIN_SHARED_BYTES // 20)
TEXT = st.text(max_size=40)
CONTENT = st.one_of(
    TEXT, st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2)
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": CONTENT}
)
FIRST = st.lists(MESSAGE, max_size=5)
SYSTEM: dict[str, Any] = {"role": "system", "content": LONG}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def key_of(model: str = "m", **fields: Any) -> int | None:
    return prefix_key(json.dumps({"model": model, **fields}).encode(), model)


@given(FIRST, TEXT, TEXT)
def test_requests_that_share_their_first_messages_and_differ_in_the_last_have_one_key(
    first: list[dict[str, Any]], one: str, other: str
):
    shared = [SYSTEM, *first]
    key = key_of(messages=[*shared, user(one)])

    assert key is not None
    assert key == key_of(messages=[*shared, user(other)])


@given(st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=6), st.booleans())
def test_all_turns_of_a_conversation_from_the_second_on_have_one_key(
    turns: list[tuple[str, str]], instructed: bool
):
    messages = [SYSTEM] if instructed else []
    keys = []
    for question, reply in turns:
        messages.append(user(question))
        keys.append(key_of(messages=messages))
        messages.append(assistant(reply))

    assert None not in keys[1:]
    assert len(set(keys[1:])) == 1


@given(st.permutations(["model", "messages", "tools", "temperature", "stream", "user"]), st.booleans())
def test_the_order_of_fields_and_what_they_say_beside_the_prompt_do_not_matter(
    order: list[str], spaced: bool
):
    fields: dict[str, Any] = {
        "model": "m",
        "messages": [{"content": LONG, "role": "system", "name": "x"}, user("hi")],
        "tools": [{"type": "function", "function": {"name": "messages", "parameters": {"messages": []}}}],
        "temperature": 0.5,
        "stream": True,
        "user": "someone",
    }
    separators = None if spaced else (",", ":")
    body = json.dumps({name: fields[name] for name in order}, separators=separators).encode()

    assert prefix_key(body, "m") == key_of(messages=[SYSTEM, user("hi")])


def test_models_and_beginnings_are_told_apart():
    keys = [
        key_of(messages=[SYSTEM, user("hi")]),
        key_of("other", messages=[SYSTEM, user("hi")]),
        key_of(messages=[{**SYSTEM, "content": LONG + "!"}, user("hi")]),
        key_of(messages=[{**SYSTEM, "role": "developer"}, user("hi")]),
        key_of(messages=[SYSTEM, user("hi"), assistant("yes"), user("and?")]),
        key_of(messages=[SYSTEM, user("ho"), assistant("yes"), user("and?")]),
        key_of(prompt=LONG * 4),
    ]

    assert None not in keys
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [user("hi" * 1000)]},
        {"messages": [{"role": "system", "content": "Be kind."}, user("hi")]},
        {"messages": []},
        {"messages": [SYSTEM]},
        {"prompt": "x" * 100},
        {"prompt": ["a", "b"]},
        {"input": "What?"},
        {"input": ["a", "b"]},
        {"instructions": "Be kind.", "input": "What?"},
        {},
    ],
)
def test_what_shares_nothing_worth_it_has_no_key(fields: dict[str, Any]):
    assert key_of(**fields) is None


def test_prompts_of_one_piece_go_by_their_first_bytes():
    shared = "x" * PROMPT_BYTES

    assert key_of(prompt=shared + "one") == key_of(prompt=shared + "two") is not None
    assert key_of(prompt="y" + shared) != key_of(prompt=shared)
    tokens = list(range(PROMPT_BYTES))
    assert key_of(prompt=[*tokens, 1]) == key_of(prompt=[*tokens, 2]) is not None


def test_responses_go_by_their_instructions_and_first_items():
    one = key_of(instructions=LONG, input="one")

    assert one == key_of(instructions=LONG, input="two") is not None
    assert one == key_of(instructions=LONG, input=[user("three")])
    calls = [user("four"), {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]
    more = [*calls, {"type": "function_call_output", "call_id": "c", "output": "7"}]
    assert key_of(instructions=LONG, input=calls) == key_of(instructions=LONG, input=more) != one


def test_of_a_beginning_longer_than_is_hashed_the_rest_does_not_count():
    shared = {"role": "system", "content": "x" * HASHED_BYTES}
    key = key_of(messages=[shared, user("a")])

    assert key == key_of(messages=[shared, user("b"), assistant("c"), user("d")]) is not None
    assert key == key_of(messages=[{**shared, "content": "x" * 2 * HASHED_BYTES}, user("a")])


def test_the_bound_is_of_all_parts_together():
    nearly = {"role": "system", "content": "x" * (HASHED_BYTES - 100)}
    one, other = user("y" * 200), user("y" * 201)
    rest = [assistant("c"), user("d")]

    assert key_of(messages=[nearly, one, *rest]) == key_of(messages=[nearly, other, *rest]) is not None


def test_a_body_beyond_the_bound_has_no_key():
    assert key_of(messages=[SYSTEM, user("x" * (MAX_BODY_BYTES // 2))]) is not None
    assert key_of(messages=[SYSTEM, user("x" * MAX_BODY_BYTES)]) is None


JSON = st.recursive(st.none() | st.integers() | TEXT, st.lists, max_leaves=5).map(
    lambda value: json.dumps(value).encode()
)


@given(st.binary(max_size=200) | JSON)
def test_whatever_a_body_is_nothing_is_raised(value: bytes):
    prefix_key(value, "m")
    prefix_key(b'{"messages":' + value + b"}", "m")
    prefix_key(b'{"input":' + value + b"}", "m")
    prefix_key(b'{"messages":[{"role":' + value + b"}]}", "m")


def test_deep_nesting_is_refused_rather_than_followed():
    assert prefix_key(b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "m") is None
    assert prefix_key(b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "m") is None
