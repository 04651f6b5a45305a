"""How text that is judged is shown to a model: between two lines that nobody could know, as JSON.

The text cannot forge the lines: they hold 128 random bits of this call alone, and no line begins within the
text, as JSON escapes every line break. What models and chat templates give a meaning of their own (tags,
control tokens, characters that are not seen) is escaped as well, so that it stays text.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import msgspec

BOUNDARY_BYTES = 16
MAX_SHOWN_CHARS = 400_000  # of one text block; about 100,000 tokens

# < and > begin and end control tokens (<|im_end|>, <start_of_turn>, </s>), as [INST] and its like do.
_TOKENS = re.compile(r"[<>]|\[(?=/?[A-Z_]{2,})")
# Controls, formats, separators and lone surrogates: what is not seen, or breaks a line.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


class TooLongError(Exception):
    """The text is more than a model is shown; `chars` long."""

    def __init__(self, chars: int) -> None:
        super().__init__(f"{chars} characters")
        self.chars = chars


def new_boundary() -> str:
    """A line that nobody who wrote a trace could know."""
    return f"=== {secrets.token_hex(BOUNDARY_BYTES)} ==="


def fenced(boundary: str, data: dict[str, Any]) -> str:
    """*data* as one line of JSON between two lines *boundary*. Raises TooLongError."""
    text = escaped(data)
    if len(text) > MAX_SHOWN_CHARS:
        raise TooLongError(len(text))
    return f"{boundary}\n{text}\n{boundary}"


def escaped(data: Any) -> str:
    """*data* as one line of JSON that decodes to the same, in which nothing has a meaning but JSON's."""
    # Outside of strings JSON has none of these: an opening bracket is followed by a quote or another value.
    encoded = msgspec.json.encode(data).decode()
    return _UNSEEN.sub(_code, _TOKENS.sub(_code, encoded))


def _code(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return f"\\u{code:04x}"
