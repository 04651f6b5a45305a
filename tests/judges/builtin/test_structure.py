from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import judges
from judges.builtin import json_schema, json_valid, tool_calls
from judges.builtin.schema_rules import MAX_VALUE_CHARS

INVOICE = {
    "type": "object",
    "required": ["total"],
    "properties": {
        "total": {"type": "number", "minimum": 0},
        "id": {"type": "string", "pattern": "^A-[0-9]+$"},
    },
    "additionalProperties": False,
}


def answered(value: Any) -> judges.JudgedTrace:
    return judges.trace_from(answer=value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"a": 1}', True),
        ("[1, 2", False),
        ("", False),
        ("yes", False),
        ("NaN", False),
        ('"x"', True),
        ("1 2", False),
    ],
)
def test_json_is_json(answer: str, score: bool):
    assert json_valid(answered(answer)) is score


def test_a_fence_is_no_json_unless_it_is_allowed():
    fenced = answered('```json\n{"a": 1}\n```')
    assert json_valid(fenced) is False
    assert json_valid(fenced, fence=True) is True
    assert json_schema(fenced, schema={"type": "object"}, fence=True) is True
    assert json_valid(answered('Here:\n```json\n{"a": 1}\n```'), fence=True) is False


@pytest.mark.parametrize(
    ("value", "score"),
    [
        ({"total": 3}, True),
        ({"total": 3, "id": "A-1"}, True),
        ({"total": 3, "id": "B-1"}, False),
        ({"total": -3}, False),
        ({}, False),
        ({"total": 3, "more": 1}, False),
        ("no json", False),
    ],
    ids=ascii,
)
def test_an_answer_satisfies_a_schema(value: Any, score: bool):
    assert json_schema(answered(value), schema=INVOICE) is score


SCHEMAS = [
    {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
    {"properties": {"a": True}, "patternProperties": {"b$": False}, "additionalProperties": False},
    {"items": {"pattern": "a.*b"}, "uniqueItems": True},
    {"uniqueItems": True},
    {"$defs": {"n": {"type": ["integer", "array"], "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([1.0, 0.0, 0.5, "a", "ab", "axb"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "ab", "b", "c"]), inner)
    ),
    max_leaves=8,
)


@given(value=VALUES, schema=st.sampled_from(SCHEMAS))
def test_our_rules_say_what_the_library_says(value: Any, schema: dict[str, Any]):
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert json_schema(answered(json.dumps(value)), schema=schema) is expected


def test_a_schema_that_refers_to_itself_twice_at_each_level_ends():
    levels = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(40)}
    schema = {"$defs": {**levels, "l40": {"type": "integer"}}, "$ref": "#/$defs/l0"}
    verdict = json_schema(answered(1), schema=schema)
    assert isinstance(verdict, judges.Abstain)
    assert "references" in verdict.reason


def test_a_schema_is_never_fetched():
    verdict = json_schema(answered({}), schema={"$ref": "http://127.0.0.1:9/schema.json"})
    assert isinstance(verdict, judges.Abstain)


def test_many_items_are_unique_in_time_by_their_number():
    items = [{"n": n} for n in range(10_000)]
    assert (
        json_schema(answered(json.dumps(items, separators=(",", ":"))), schema={"uniqueItems": True}) is True
    )


def test_a_value_larger_than_the_bound_is_not_judged():
    verdict = json_schema(answered([0] * MAX_VALUE_CHARS), schema={})
    assert isinstance(verdict, judges.Abstain)
    assert "longer than" in verdict.reason


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "refund",
            "parameters": {"type": "object", "properties": {"usd": {"type": "number"}}, "required": ["usd"]},
        },
    },
    {"type": "function", "function": {"name": "ping"}},
]


def called(*calls: tuple[Any, Any], tools: Any = TOOLS) -> judges.JudgedTrace:
    return judges.trace_from(
        request={"messages": [], "tools": tools},
        tool_calls=[
            {"id": str(n), "type": "function", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(calls)
        ],
    )


@pytest.mark.parametrize(
    ("calls", "score"),
    [
        ([("refund", '{"usd": 3}')], True),
        ([("refund", '{"usd": "3"}')], False),
        ([("refund", "{}")], False),
        ([("refund", "{usd: 3}")], False),
        ([("refund", "[3]")], False),
        ([("refund", None)], False),
        ([("delete", "{}")], False),
        ([("ping", "{}")], True),
        ([("ping", "{}"), ("refund", "{}")], False),
    ],
    ids=[str(n) for n in range(9)],
)
def test_a_call_names_a_tool_and_its_arguments_fit(calls: list[tuple[Any, Any]], score: bool):
    assert tool_calls(called(*calls)) is score


def test_no_call_is_wrong_only_where_one_is_required():
    trace = judges.trace_from(request={"tools": TOOLS}, answer="hello")
    assert isinstance(tool_calls(trace), judges.Abstain)
    assert tool_calls(trace, required=True) is False


def test_without_tools_there_is_nothing_to_call():
    verdict = tool_calls(judges.trace_from(answer="x"), required=True)
    assert isinstance(verdict, judges.Abstain)


@pytest.mark.parametrize("parameters", [{"type": 3}, {"pattern": "(?=a)"}, [], "x"], ids=ascii)
def test_a_tool_whose_schema_is_none_cannot_be_judged(parameters: Any):
    tools = [{"type": "function", "function": {"name": "odd", "parameters": parameters}}]
    assert isinstance(tool_calls(called(("odd", "{}"), tools=tools)), judges.Abstain)
    assert tool_calls(called(("other", "{}"), tools=tools)) is False
