"""Knows a client's head again. Pure.

A client sends the same head with every request on a connection, but for the length of the body and perhaps
the session. One that equals, byte for byte outside these two values, a head that the HTTP parser has accepted
on the same connection means what that one meant: it is neither parsed nor read a second time.
"""

from __future__ import annotations

import re

from gateway.head_template import HeadTemplate, head_before

MAX_MISSES = 4  # of a connection in a row: its heads differ, so remembering them is wasted
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)(?=\r\n)", re.IGNORECASE)
_SESSION = re.compile(rb"\r\nx-tracetune-session:[ \t]*([!-~]+)(?=\r\n)", re.IGNORECASE)
_ANY_SESSION = re.compile(rb"\r\nx-tracetune-session[ \t]*:", re.IGNORECASE)
_OTHER_FRAMING = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)


class HeadMemo:
    """One head, with holes for the body's length and, where `session_at` says so, for the session."""

    __slots__ = ("_session_at", "_template")

    def __init__(self, template: HeadTemplate, session_at: int | None) -> None:
        self._template = template
        self._session_at = session_at

    def read(self, data: bytes) -> tuple[bytes, bytes | None] | None:
        """Body and session of *data* where it is one whole request with this head; else None.

        A session of None: the head names the one that it always does, or none.
        """
        found = self._template.match(data)
        if found is None:
            return None
        values, body = found
        return body, None if self._session_at is None else values[self._session_at]


def memo_of(data: bytes, length: int) -> HeadMemo | None:
    """The memo of *data*, a packet that was one whole request with a body of *length* bytes.

    None where it is not one, or its head says more about its framing than a length.
    """
    head = head_before(data, length)
    if length == 0 or head is None:
        return None
    lengths = list(_LENGTH.finditer(head))
    if len(lengths) != 1 or int(lengths[0].group(1)) != length or _OTHER_FRAMING.search(head):
        return None
    holes = [lengths[0].span(1)]
    session = _SESSION.search(head)
    if session is None or len(_ANY_SESSION.findall(head)) != 1:
        return HeadMemo(HeadTemplate(head, holes, 0), None)
    session_at = int(session.span(1) > holes[0])
    holes.insert(session_at, session.span(1))
    return HeadMemo(HeadTemplate(head, holes, 1 - session_at), session_at)
