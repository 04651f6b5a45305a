"""Whatever the model answered and the client asked: a score or an abstention, soon, and nothing of it repeated."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import judges
from judges import builtin
from judges.protocol import PARAMETERS, read_verdict, wanted_parameters

MARK = "qzxsecret"
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "cost": [{"at_most_usd": 1}],
    "exact_match": [
        {},
        {"against": "tags.x"},
        {"against": "request.messages.0.content"},
        {"against": "response.choices"},
    ],
    "json_schema": [
        {"schema": {"type": "object", "properties": {"a": {"pattern": "a+"}}, "additionalProperties": False}},
        {"schema": {"uniqueItems": True, "items": {"multipleOf": 0.1}}, "fence": True},
    ],
    "json_valid": [{"fence": True}],
    "language": [{}, {"expected": "de"}],
    "latency": [{"at_most_ms": 1, "first_token_ms": 1}],
    "length": [{"at_most": 5}, {"at_most": 5, "unit": "tokens_out"}],
    "normalised_match": [{}, {"reference": MARK}],
    "numeric": [{}, {"field": "a.0"}, {"reference": 3, "units": {"kg": 1000}}],
    "regex": [{"pattern": "(a|b)*c"}],
    "tool_calls": [{}, {"required": True}],
}
CASES = [(name, options) for name in sorted(builtin.FAMILIES) for options in OPTIONS.get(name, [{}])]
CHEAP = [case for case in CASES if case[0] != "runs_as_code"]

TEXT = st.text(max_size=20) | st.sampled_from(
    ["{", "```", "1e999", "```python\n", "[" * 3000, MARK, '{"a": [1]}', "-"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={"content": JSON, "refusal": JSON, "tool_calls": JSON | st.lists(JSON), "role": JSON}
)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.just("f") | JSON, "arguments": TEXT | JSON})}
)
RESPONSE = JSON | st.fixed_dictionaries(
    {
        "choices": JSON
        | st.lists(JSON | st.fixed_dictionaries({"message": MESSAGE | JSON, "text": JSON}), max_size=2)
    }
)
TOOL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.just("f") | JSON, "parameters": JSON})}
)
REQUEST = JSON | st.fixed_dictionaries(
    {},
    optional={
        "messages": JSON | st.lists(MESSAGE, max_size=3),
        "tools": JSON | st.lists(TOOL | JSON, max_size=3),
    },
)


def verdict_of(name: str, options: dict[str, Any], trace: judges.JudgedTrace) -> tuple[float | None, str]:
    function = getattr(builtin, name)
    shown = {"trace": trace, "session": [trace, trace], "later": [trace], "feedback": list(trace.feedback)}
    wanted = {each: shown[each] for each in wanted_parameters(function, options) if each in PARAMETERS}
    return read_verdict(function(**wanted, **options))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@pytest.mark.parametrize(("name", "options"), CHEAP, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CHEAP)])
@given(request=REQUEST, response=RESPONSE, kept=TEXT | st.none(), tool=CALL)
def test_nothing_that_is_shown_makes_a_judge_raise(
    name: str, options: dict[str, Any], request: Any, response: Any, kept: str | None, tool: Any
):
    trace = judges.trace_from(request=request, response=response, kept=kept, tags={"x": MARK})
    called = judges.trace_from(request=request, tool_calls=[tool], kept=kept)
    for shown in (trace, called):
        score, reason = verdict_of(name, options, shown)
        assert (score is None) is bool(reason)
        assert "returned" not in reason
        assert MARK not in reason


GIANTS = {
    "letters": "a" * 3_000_000,
    "just-allowed": "a b, " * 199_999,
    "brackets": "[" * 900_000,
    "digits": "9" * 900_000,
    "fences": "```\n" * 200_000,
    "quotes": '"' * 900_000,
    "list": "[" + "1," * 80_000 + "1]",
    "groups": "1 " + "234 " * 200_000,
    "backticks": "`" * 900_000,
    "angles": "<" * 900_000,
}
WITHIN_S = 10.0  # what takes time by the square of such a size takes hours


@pytest.mark.parametrize("giant", GIANTS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_a_giant_answer_is_judged_or_put_aside_soon(name: str, options: dict[str, Any], giant: str):
    text = GIANTS[giant]
    request = {"messages": [{"role": "user", "content": text}]}
    trace = judges.trace_from(request=request, answer=text, kept=text, tags={"x": text})
    started = time.monotonic()
    score, reason = verdict_of(name, options, trace)
    assert time.monotonic() - started < WITHIN_S
    assert (score is None) is bool(reason)
