"""Knows a client's head again. Pure.

A client sends the same head with every request on a connection, but for the length of the body. One that
equals, byte for byte outside the digits of `content-length`, a head that the HTTP parser has accepted on the
same connection means what that one meant: it is neither parsed nor read a second time.
"""

from __future__ import annotations

import re

MAX_LENGTH_DIGITS = 9
MAX_MISSES = 4  # of a connection in a row: its heads differ, so remembering them is wasted
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)(?=\r\n)", re.IGNORECASE)
_OTHER_FRAMING = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)


class HeadMemo:
    """One head: what comes before the digits of its content-length, and what comes after them."""

    __slots__ = ("after", "before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before = before
        self.after = after

    def body_of(self, data: bytes) -> bytes | None:
        """The body of *data* where it is one whole request with this head; else None."""
        before, after = self.before, self.after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r\n", start, start + MAX_LENGTH_DIGITS + 2)
        digits = data[start:end]
        body = end + len(after)
        if end < 0 or data[end:body] != after or not digits.isdigit() or len(data) - body != int(digits):
            return None
        return data[body:]


def memo_of(data: bytes, length: int) -> HeadMemo | None:
    """The memo of *data*, a packet that was one whole request with a body of *length* bytes.

    None where it is not one, or its head says more about its framing than a length.
    """
    head = data[: len(data) - length]
    if length == 0 or len(data) <= length or head.find(_END) != len(head) - len(_END):
        return None
    found = _LENGTH.findall(head)
    if len(found) != 1 or int(found[0]) != length or _OTHER_FRAMING.search(head):
        return None
    digits = _LENGTH.search(head)
    assert digits is not None, "it was found before"
    return HeadMemo(head[: digits.start(1)], head[digits.end(1) :])
