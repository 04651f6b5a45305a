"""Judges that come with us: plain functions of a trace, for your own judge to call or to name in YAML.

`from judges.builtin import json_schema` in a judge's file, or `path: "builtin:json_schema"` with `options`.
A family is loaded when one of its judges is first used: some of them need a library that takes a while.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.builtin.budgets import cost, latency, length
    from judges.builtin.languages import language
    from judges.builtin.matching import exact_match, normalised_match
    from judges.builtin.patterns import regex
    from judges.builtin.quantities import numeric
    from judges.builtin.refusals import refusal
    from judges.builtin.runs import runs_as_code
    from judges.builtin.session_signals import abandoned, retried
    from judges.builtin.signals import accepted, edited, rating
    from judges.builtin.structure import json_schema, json_valid
    from judges.builtin.tools import tool_calls

# Name of each judge -> the file of its family.
FAMILIES = {
    "abandoned": "session_signals",
    "accepted": "signals",
    "cost": "budgets",
    "edited": "signals",
    "exact_match": "matching",
    "json_schema": "structure",
    "json_valid": "structure",
    "language": "languages",
    "latency": "budgets",
    "length": "budgets",
    "normalised_match": "matching",
    "numeric": "quantities",
    "rating": "signals",
    "refusal": "refusals",
    "regex": "patterns",
    "retried": "session_signals",
    "runs_as_code": "runs",
    "tool_calls": "tools",
}

__all__ = [
    "FAMILIES",
    "abandoned",
    "accepted",
    "cost",
    "edited",
    "exact_match",
    "json_schema",
    "json_valid",
    "language",
    "latency",
    "length",
    "normalised_match",
    "numeric",
    "rating",
    "refusal",
    "regex",
    "retried",
    "runs_as_code",
    "tool_calls",
]


def __getattr__(name: str) -> Any:
    if name not in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FAMILIES[name]}"), name)
