"""JSON as we relay it: lenient in, always valid out.

Upstreams and callers send what no strict parser takes: byte order marks, lone surrogates, NaN, raw control
characters, broken UTF-8. What can be read is read; what is not JSON at all becomes a JSON string.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

MAX_BODY_BYTES = 2_000_000  # of a stored body's JSON text, unless capture.body_bytes says otherwise
MARKER = "x_tracetune"  # the key under which we add something of ours to a stored body

# What is tried, in this order, until a body fits: the share of the bound that a string may have, then also
# the items that a list may have.
_STRING_SHARES = (4, 16, 64, 256, 1024)
_LIST_ITEMS = (1000, 100, 10)
_SHORTEST = 100  # characters are left of a string in any case
_encoder = msgspec.json.Encoder()


def parse_json(data: bytes) -> Any:
    """The decoded value of *data*; the text itself when it is not JSON. Never raises, never a surrogate."""
    value = parse_json_or_none(data)
    return data.decode("utf-8-sig", "replace") if value is None and data.strip() != b"null" else value


def parse_json_or_none(data: bytes) -> Any:
    """The decoded value of *data*; None when it is not JSON (or null)."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _parse_leniently(data)


def _parse_leniently(data: bytes) -> Any:
    text = data.decode("utf-8-sig", "replace")
    try:
        value = json.loads(text, strict=False, parse_constant=lambda _: None, parse_float=_finite)
        clean = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
        return msgspec.json.decode(clean.decode("utf-16", "replace"))
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
        return None


def _finite(literal: str) -> float | None:
    value = float(literal)
    return value if math.isfinite(value) else None


def json_text(value: Any, max_bytes: int = MAX_BODY_BYTES) -> str:
    """*value* as JSON text of at most *max_bytes* in UTF-8.

    In a longer one long strings are cut first, then long lists, so that its structure stays; it says so under
    MARKER, with the bytes it had. What no cutting makes small enough is its beginning, as a string.
    """
    encoded = _encoder.encode(value)
    if len(encoded) <= max_bytes:
        return encoded.decode()
    told = {"cut": True, "bytes": len(encoded), "bound": "capture.body_bytes"}
    shortest = max(_SHORTEST, max_bytes // _STRING_SHARES[-1])
    attempts = [(max(_SHORTEST, max_bytes // share), None) for share in _STRING_SHARES]
    for characters, items in [*attempts, *((shortest, items) for items in _LIST_ITEMS)]:
        cut = _encoder.encode(_marked(cut_down(value, characters, items), told))
        if len(cut) <= max_bytes:
            return cut.decode()
    # A character of JSON in JSON is at most six bytes more.
    head = encoded[: max(0, max_bytes // 8 - 100)].decode(errors="ignore")
    return _encoder.encode({MARKER: {**told, "head": head}}).decode()


def _marked(value: Any, told: dict[str, Any]) -> dict[str, Any]:
    return {**value, MARKER: told} if isinstance(value, dict) else {MARKER: {**told, "rest": value}}


def cut_down(value: Any, characters: int, items: int | None) -> Any:
    """*value* with longer strings cut to *characters*, and longer lists to their first and last *items*.

    A marker with the full length stands where something is missing.
    """
    if isinstance(value, str):
        return value if len(value) <= characters else f"{value[:characters]}[cut, {len(value)} characters]"
    if isinstance(value, dict):
        return {key: cut_down(item, characters, items) for key, item in value.items()}
    if isinstance(value, list):
        if items is not None and len(value) > items:
            left_out = {MARKER: {"cut": True, "items": len(value)}}
            half = items // 2
            value = [*value[:half], left_out, *value[len(value) - half :]]
        return [cut_down(item, characters, items) for item in value]
    return value


def is_cut(body: Any) -> bool:
    """Whether a decoded body is less than what was captured."""
    marker = body.get(MARKER) if isinstance(body, dict) else None
    return isinstance(marker, dict) and marker.get("cut") is True
