"""The head of an HTTP/1.1 message with holes where messages differ. Pure."""

from __future__ import annotations

import re

MAX_VALUE_BYTES = 512  # in a hole; a head with a longer value there does not match
MAX_LENGTH_DIGITS = 9
HEAD_END = b"\r\n\r\n"
Headers = list[tuple[bytes, bytes]]
# What an HTTP parser takes for a header's value as it is: nothing at its ends to strip, nothing to refuse.
_is_plain = re.compile(rb"[!-~](?:[ -~]*[!-~])?").fullmatch


class HeadTemplate:
    """The bytes before each hole, and those after the last.

    *head* is a whole head, its blank line included; *holes* are where header values lie in it, in order, that
    may differ, as (start, end). The `length_at`-th of them is that of `content-length`.
    """

    __slots__ = ("_after", "_before", "_length_at")

    def __init__(self, head: bytes, holes: list[tuple[int, int]], length_at: int) -> None:
        starts = [0, *(end for _, end in holes)]
        before = [head[start:hole] for start, (hole, _) in zip(starts, holes, strict=False)]
        self._before = [(piece, len(piece)) for piece in before]
        self._after = head[starts[-1] :]
        self._length_at = length_at

    def match(self, data: bytes) -> tuple[list[bytes], bytes] | None:
        """Values in the holes, and the body, where *data* is one whole message with this head; else None."""
        found = self._read(data)
        if found is None:
            return None
        values, body = found
        return found if len(body) == int(values[self._length_at]) else None

    def awaits_body(self, data: bytes) -> bool:
        """Whether *data* is this head and nothing else, and says that a body follows."""
        found = self._read(data)
        return found is not None and not found[1] and int(found[0][self._length_at]) > 0

    def _read(self, data: bytes) -> tuple[list[bytes], bytes] | None:
        """Values in the holes, and what follows the head; None where *data* begins with another head."""
        values: list[bytes] = []
        at = 0
        for piece, size in self._before:
            if not data.startswith(piece, at):
                return None
            start = at + size
            at = data.find(b"\r\n", start, start + MAX_VALUE_BYTES)
            if at < 0:
                return None
            values.append(data[start:at])
        if not data.startswith(self._after, at):
            return None
        body = data[at + len(self._after) :]
        for number, value in enumerate(values):
            if number != self._length_at:
                if not _is_plain(value):
                    return None
            elif len(value) > MAX_LENGTH_DIGITS or not value.isdigit():
                return None
        return values, body


def head_before(data: bytes, length: int) -> bytes | None:
    """The head in *data*, when that is a whole message with a body of *length* bytes and nothing else."""
    head = data[: len(data) - length]
    return head if head.find(HEAD_END) == len(head) - len(HEAD_END) >= 0 else None


def value_spans(head: bytes, headers: Headers) -> list[tuple[int, int]] | None:
    """Where each header's value lies in *head*; None where a line does not say what the parser read in it."""
    spans: list[tuple[int, int]] = []
    first, *lines = head[: -len(HEAD_END)].split(b"\r\n")
    if len(lines) != len(headers):
        return None
    at = len(first) + 2
    for line, (name, value) in zip(lines, headers, strict=True):
        said, colon, rest = line.partition(b":")
        start = len(line) - len(rest.lstrip(b" \t"))
        if not colon or said.lower() != name or line[start:] != value:
            return None
        spans.append((at + start, at + len(line)))
        at += len(line) + 2
    return spans


def differing(headers: Headers, former: Headers) -> list[int] | None:
    """The numbers of the *headers* whose values differ from those of *former*; None where the names do."""
    if [name for name, _ in headers] != [name for name, _ in former]:
        return None
    return [number for number, both in enumerate(zip(headers, former, strict=True)) if both[0] != both[1]]
