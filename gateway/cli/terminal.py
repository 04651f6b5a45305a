"""Text that others wrote, made fit for a terminal."""

from __future__ import annotations

import re

# C0 but for newline and tab, DEL, C1, and what turns the direction of writing around.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CONTROL_PICTURES = 0x2400


def plain(text: str) -> str:
    """*text* with every character that a terminal would obey replaced by one that shows it."""
    return _UNSAFE.sub(_shown, text)


def plain_line(text: str) -> str:
    """The same on one line: newlines and tabs become spaces."""
    return plain(" ".join(text.split()))


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"
