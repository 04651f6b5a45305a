"""Knows a client's head again. Pure.

A client sends the same head with every request on a connection, but for the length of the body and perhaps
the session. One that equals, byte for byte outside these two values, a head that the HTTP parser has accepted
on the same connection means what that one meant: it is neither parsed nor read a second time.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_VALUE_BYTES = 512  # of a length or a session; a head with a longer one is left to the parser
MAX_LENGTH_DIGITS = 9
MAX_MISSES = 4  # of a connection in a row: its heads differ, so remembering them is wasted
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)(?=\r\n)", re.IGNORECASE)
_SESSION = re.compile(rb"\r\nx-tracetune-session:[ \t]*([!-~]+)(?=\r\n)", re.IGNORECASE)
_ANY_SESSION = re.compile(rb"\r\nx-tracetune-session[ \t]*:", re.IGNORECASE)
_OTHER_FRAMING = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)
# What the parser takes for a value as it is: nothing at its ends to strip, nothing in it to refuse.
_is_plain = re.compile(rb"[!-~]+").fullmatch


class Known(NamedTuple):
    """What was sent with a known head. `session` None: the head names the one it always does, or none."""

    body: bytes
    session: bytes | None


class HeadMemo:
    """One head: the bytes before each of its varying values, and those after the last."""

    __slots__ = ("_after", "_before", "_length_at", "_session_at")

    def __init__(
        self, before: tuple[bytes, ...], after: bytes, length_at: int, session_at: int | None
    ) -> None:
        self._before = before
        self._after = after
        self._length_at = length_at
        self._session_at = session_at

    def read(self, data: bytes) -> Known | None:
        """What *data* holds where it is one whole request with this head; else None."""
        values: list[bytes] = []
        at = 0
        for piece in self._before:
            if not data.startswith(piece, at):
                return None
            start = at + len(piece)
            at = data.find(b"\r\n", start, start + MAX_VALUE_BYTES)
            if at < 0:
                return None
            values.append(data[start:at])
        if not data.startswith(self._after, at):
            return None
        at += len(self._after)
        digits = values[self._length_at]
        if len(digits) > MAX_LENGTH_DIGITS or not digits.isdigit() or len(data) - at != int(digits):
            return None
        if self._session_at is None:
            return Known(data[at:], None)
        session = values[self._session_at]
        return Known(data[at:], session) if _is_plain(session) else None


def memo_of(data: bytes, length: int) -> HeadMemo | None:
    """The memo of *data*, a packet that was one whole request with a body of *length* bytes.

    None where it is not one, or its head says more about its framing than a length.
    """
    head = data[: len(data) - length]
    if length == 0 or len(data) <= length or head.find(_END) != len(head) - len(_END):
        return None
    found = list(_LENGTH.finditer(head))
    if len(found) != 1 or int(found[0].group(1)) != length or _OTHER_FRAMING.search(head):
        return None
    spans = [found[0].span(1)]
    session = _SESSION.search(head)
    if session is not None and len(_ANY_SESSION.findall(head)) == 1:
        spans.append(session.span(1))
    session_at = None if len(spans) == 1 else int(spans[1] > spans[0])
    spans.sort()
    starts = [0, *(end for _, end in spans)]
    before = tuple(head[start:value] for start, (value, _) in zip(starts, spans, strict=False))
    return HeadMemo(before, head[starts[-1] :], 1 - session_at if session_at is not None else 0, session_at)
