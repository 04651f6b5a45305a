"""Knows the head of an upstream's answer again. Pure.

A server says the same in every answer but for its length, the date and perhaps an id. An answer whose head
equals one that the HTTP parser has accepted, byte for byte outside the values that were seen to differ, means
what that one meant: it is not parsed again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.head_template import Headers, HeadTemplate, differing, head_before, value_spans

MAX_HOLES = 12  # values that differ; of a head with more of them nothing is remembered
MAX_MISSES = 4  # in a row: then only every LOOK_AGAIN-th answer is worth the work of learning
LOOK_AGAIN = 256
_LENGTH = b"content-length"
_STATUS = b"HTTP/1.1 200"
# Where one of them differs, another head it is; one that speaks of framing is left to the parser.
_FIXED = frozenset({b"content-type", b"connection"})
_LEFT_TO_THE_PARSER = frozenset(
    {b"content-encoding", b"transfer-encoding", b"trailer", b"upgrade", b"keep-alive"}
)


class ResponseMemo:
    """One head of an answer with status 200. `holes` are the headers whose values differ, by their number.

    `lines` makes of the values in the holes what a client gets of the head.
    """

    __slots__ = ("_headers", "_lines", "_template", "holes")

    def __init__(self, headers: Headers, holes: list[int], template: HeadTemplate) -> None:
        self._headers = headers
        self._template = template
        self._lines: tuple[bytes, list[int]] | None = None
        self.holes = holes

    def match(self, data: bytes) -> tuple[list[bytes], bytes] | None:
        """Values in the holes, and the body, where *data* is one whole answer with this head; else None."""
        return self._template.match(data)

    def headers(self, values: list[bytes]) -> Headers:
        """The headers with *values* in the holes."""
        headers = self._headers.copy()
        for number, value in zip(self.holes, values, strict=True):
            headers[number] = (headers[number][0], value)
        return headers

    def lines(self, values: list[bytes], passes: Callable[[bytes], bool]) -> bytes:
        """The head lines with *values* in the holes, of headers whose name *passes*, always the same one."""
        if self._lines is None:
            self._lines = self._line_format(passes)
        form, used = self._lines
        return form % tuple([values[number] for number in used])

    def differs(self, headers: Headers) -> list[int] | None:
        """The holes of a head that means this one and *headers*; None where they are not of a kind."""
        changed = differing(headers, self._headers)
        if changed is None or any(headers[number][0] in _FIXED for number in changed):
            return None
        return sorted({*self.holes, *changed})

    def _line_format(self, passes: Callable[[bytes], bool]) -> tuple[bytes, list[int]]:
        form = b""
        used: list[int] = []
        for number, (name, value) in enumerate(self._headers):
            if not passes(name):
                continue
            hole = number in self.holes
            form += (
                name.replace(b"%", b"%%") + b": " + (b"%b" if hole else value.replace(b"%", b"%%")) + b"\r\n"
            )
            if hole:
                used.append(self.holes.index(number))
        return form, used


class KnownAnswer(msgspec.Struct, frozen=True):
    """The head of an answer that was known: the memo, and the values in its holes."""

    memo: ResponseMemo
    values: list[bytes]

    def lines(self, passes: Callable[[bytes], bool]) -> bytes:
        """See `ResponseMemo.lines`."""
        return self.memo.lines(self.values, passes)


class ResponseHeads:
    """The head of one server's answers, as far as it is known. Its connections share what they learn."""

    __slots__ = ("_memo", "_misses")

    def __init__(self) -> None:
        self._memo: ResponseMemo | None = None
        self._misses = 0

    def read(self, data: bytes) -> tuple[KnownAnswer, bytes] | None:
        """What is known of *data*, the first packet of an answer, and its body, if it is whole and known."""
        memo = self._memo
        if memo is None:
            return None
        found = memo.match(data)
        if found is None:
            return None
        self._misses = 0
        values, body = found
        return KnownAnswer(memo, values), body

    def learn(self, data: bytes, headers: Headers, length: int) -> None:
        """*data* was a whole answer with *headers*, read by the parser, and a body of *length* bytes."""
        self._misses += 1
        if self._misses > MAX_MISSES and self._misses % LOOK_AGAIN:
            return
        head = head_before(data, length)
        if head is None or not head.startswith(_STATUS):
            return
        holes = self._memo.differs(headers) if self._memo is not None else None
        if holes is None:
            holes = [number for number, (name, _) in enumerate(headers) if name == _LENGTH]
        self._memo = _memo_of(head, headers, holes)


def _memo_of(head: bytes, headers: Headers, holes: list[int]) -> ResponseMemo | None:
    names = [name for name, _ in headers]
    if names.count(_LENGTH) != 1 or _LEFT_TO_THE_PARSER.intersection(names) or len(holes) > MAX_HOLES:
        return None
    spans = value_spans(head, headers)
    if spans is None:
        return None
    template = HeadTemplate(head, [spans[number] for number in holes], holes.index(names.index(_LENGTH)))
    return ResponseMemo(headers, holes, template)
