"""JSON as we relay it: lenient in, always valid out.

Upstreams and callers send what no strict parser takes: byte order marks, lone surrogates, NaN, raw control
characters, broken UTF-8. What can be read is read; what is not JSON at all becomes a JSON string.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

MAX_BODY_CHARS = 2_000_000  # a stored body's JSON text; longer ones are cut, with a marker
MARKER = "x_tracetune"  # the key under which we add something of ours to a stored body

_CUT_TO = (100_000, 10_000, 1_000)  # characters left of a long string, tried in this order
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


def json_text(value: Any) -> str:
    """*value* as JSON text of at most MAX_BODY_CHARS; longer ones have their long strings cut, and say so."""
    text = _encoder.encode(value).decode()
    if len(text) <= MAX_BODY_CHARS:
        return text
    for limit in _CUT_TO:
        cut = _encoder.encode(cut_strings(value, limit)).decode()
        if len(cut) <= MAX_BODY_CHARS:
            return cut
    marker = {"cut": True, "chars": len(text), "bound": "MAX_BODY_CHARS", "head": text[: _CUT_TO[0]]}
    return _encoder.encode({MARKER: marker}).decode()


def cut_strings(value: Any, limit: int) -> Any:
    """*value* with every string longer than *limit* cut to it, followed by a marker with its length."""
    if isinstance(value, str):
        return value if len(value) <= limit else f"{value[:limit]}[cut, {len(value)} characters]"
    if isinstance(value, dict):
        return {key: cut_strings(item, limit) for key, item in value.items()}
    if isinstance(value, list):
        return [cut_strings(item, limit) for item in value]
    return value
