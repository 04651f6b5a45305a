"""What bodies share: system prompts, tool schemas and images, taken out of a body and put back.

Where a part was, `{"x_tracetune":{"blob":ID}}` stands. Only these places are looked at, and what a client
sends there that looks alike is marked, so that nobody can name a part of another's: joining what was split
gives the same body, whatever it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from gateway.traces.assembling.jsontext import MARKER

Kind = Literal["system", "tools", "image"]
Visit = Callable[[Kind, Any], Any]

_SYSTEM_ROLES = ("system", "developer")
_SCHEMAS = ("tools", "functions", "response_format")
_CONVERSATIONS = ("messages", "input")
_REFERENCE, _LITERAL = "blob", "literal"
# In the text of a body that has something to put back; a body without is never parsed for it.
TRACES = (f'{{"{MARKER}":{{"{_REFERENCE}":', f'{{"{MARKER}":{{"{_LITERAL}":')


def split(body: Any, take: Callable[[Kind, Any], str | None]) -> Any:
    """*body* with a reference in place of each part for which *take* gives an id. *body* is not changed."""

    def visit(kind: Kind, value: Any) -> Any:
        if _form(value) is not None:
            return {MARKER: {_LITERAL: value}}
        blob = take(kind, value)
        return value if blob is None else {MARKER: {_REFERENCE: blob}}

    return _rewritten(body, visit)


def references(body: Any) -> list[str]:
    """The ids that a split body names."""
    found: list[str] = []

    def visit(_: Kind, value: Any) -> Any:
        form = _form(value)
        if form == _REFERENCE:
            found.append(value[MARKER][_REFERENCE])
        return value

    _rewritten(body, visit)
    return found


def join(body: Any, blobs: Callable[[str], Any]) -> Any:
    """The body that was split; *blobs* gives the part of an id, and may raise for one that is not there."""

    def visit(_: Kind, value: Any) -> Any:
        form = _form(value)
        if form is None:
            return value
        inside = value[MARKER][form]
        return inside if form == _LITERAL else blobs(inside)

    return _rewritten(body, visit)


def _form(value: Any) -> str | None:
    """Which of our two forms *value* has."""
    inside = value.get(MARKER) if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(inside, dict) or len(inside) != 1:
        return None
    if isinstance(inside.get(_REFERENCE), str):
        return _REFERENCE
    return _LITERAL if _LITERAL in inside else None


def _rewritten(body: Any, visit: Visit) -> Any:
    """*body* with what *visit* makes of each part that may be shared; copied only along what changed."""
    if not isinstance(body, dict):
        return body
    changed: dict[str, Any] = {}
    for name in _SCHEMAS:
        if body.get(name) is not None:
            changed[name] = visit("tools", body[name])
    if body.get("instructions") is not None:
        changed["instructions"] = visit("system", body["instructions"])
    for name in _CONVERSATIONS:
        if isinstance(body.get(name), list):
            changed[name] = [_message(item, visit) for item in body[name]]
    return {**body, **changed}


def _message(item: Any, visit: Visit) -> Any:
    content = item.get("content") if isinstance(item, dict) else None
    if content is None:
        return item
    if item.get("role") in _SYSTEM_ROLES:
        return {**item, "content": visit("system", content)}
    if isinstance(content, list):
        return {**item, "content": [_piece(piece, visit) for piece in content]}
    return item


def _piece(piece: Any, visit: Visit) -> Any:
    """One piece of a message's content. Chat has `image_url: {url: …}`, responses `image_url: …`."""
    image = piece.get("image_url") if isinstance(piece, dict) else None
    if image is None:
        return piece
    if isinstance(image, dict) and image.get("url") is not None:
        return {**piece, "image_url": {**image, "url": visit("image", image["url"])}}
    return {**piece, "image_url": visit("image", image)}
