"""Whether the answer is JSON, and the JSON that a schema asks for."""

from __future__ import annotations

from typing import Any

import msgspec

from judges.builtin.shown import answer_of, decoded, without_fence
from judges.protocol import Abstain
from judges.trace import JudgedTrace


def json_valid(trace: JudgedTrace, *, fence: bool = False) -> bool | Abstain:
    """True where the answer is JSON and nothing else; *fence*: in a code fence too."""
    answer = answer_of(trace)
    if isinstance(answer, Abstain):
        return answer
    try:
        decoded(without_fence(answer) if fence else answer)
    except ValueError:
        return False
    return True


def json_schema(trace: JudgedTrace, *, schema: dict[str, Any] | bool, fence: bool = False) -> bool | Abstain:
    """True where the answer is JSON that satisfies *schema*; *fence*: in a code fence too."""
    from judges.builtin.schema_rules import satisfies

    answer = answer_of(trace)
    if isinstance(answer, Abstain):
        return answer
    text = without_fence(answer) if fence else answer
    try:
        value = decoded(text)
    except ValueError:
        return False
    return satisfies(value, len(text), msgspec.json.encode(schema))


def check_options(judge: str, options: dict[str, Any]) -> None:
    """Raises ValueError naming the option that is wrong."""
    from judges.builtin.schema_rules import SchemaError, checked_validator

    if judge == "json_schema":
        try:
            checked_validator(msgspec.json.encode(options["schema"]))
        except SchemaError as error:
            raise ValueError(f"option 'schema': {error}") from error
