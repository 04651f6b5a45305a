"""What stands behind a judgment's score, as lines: each criterion, member or order with its quote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


def behind_score(detail: str) -> list[str]:
    """Lines for the JSON *detail* of a judgment; none where there is none, or it was erased."""
    try:
        found = msgspec.json.decode(detail or "null")
    except msgspec.DecodeError:
        return []
    return list(_lines(found)) if isinstance(found, dict) else []


def _lines(detail: dict[str, Any]) -> Iterator[str]:
    for criterion in _rows(detail, "criteria"):
        yield f"{criterion.get('name')}: {criterion.get('answer')}{_quote(criterion)}"
    for member in _rows(detail, "members"):
        score = "abstained" if member.get("score") is None else f"{member['score']:.3g}"
        why = f", {member['reason']}" if member.get("reason") else ""
        yield f"{member.get('model')} of {member.get('upstream')}: {score}{why}"
        for line in _lines({"criteria": member.get("criteria")}):
            yield f"  {line}"
    for order in _rows(detail, "orders"):
        better = order.get("better") or "off the menu"
        yield f"{order.get('first')} shown first, better: {better}{_quote(order)}"
    if isinstance(detail.get("cosine"), float):
        yield f"cosine {detail['cosine']:.3f} to {detail.get('against')}"


def _rows(detail: dict[str, Any], name: str) -> list[dict[str, Any]]:
    rows = detail.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _quote(said: dict[str, Any]) -> str:
    """Its quote, marked where the judged text does not have these words, and why."""
    quote = f" “{said['quote']}”" if said.get("quote") else ""
    unfound = " (not in the text)" if quote and said.get("quoted") is False else ""
    return f"{quote}{unfound}" + (f": {said['why']}" if said.get("why") else "")
