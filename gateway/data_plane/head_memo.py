"""Knows a client's head again. Pure.

A client sends the same head with every request on a connection, but for the length of the body and a few
values that it makes anew for each: the session, the `traceparent` of an instrumented app, an id of its own. A
head that equals, byte for byte outside these values, one that the HTTP parser has accepted on the same
connection means what that one meant: it is neither parsed nor read a second time.

Which values are made anew is seen and not listed: those that differed between two heads. What says who asks,
for what and in which framing is the same in all of them.
"""

from __future__ import annotations

from gateway.data_plane.headers import VARYING, OwnHeaders, is_plain, may_vary, passes_up, read_own, vary
from gateway.head_template import Headers, HeadTemplate, differing, head_before, value_spans

MAX_MISSES = 4  # of a connection in a row: its heads differ, so remembering them is wasted
MAX_HOLES = 12  # values that differ; a head with more of them is another
_LENGTH = b"content-length"
_OTHER_FRAMING = frozenset({b"transfer-encoding", b"expect", b"upgrade"})


class HeadMemo:
    """One head. `holes` are the headers whose values differ, by number: the body's length and others."""

    __slots__ = ("_ours", "_own", "_passed", "_passing", "_template", "headers", "holes")

    def __init__(self, headers: Headers, holes: list[int], template: HeadTemplate) -> None:
        self.headers = headers
        self.holes = holes
        self._template = template
        self._own, self._passed = read_own(headers)
        self._own.content_length = None  # it is that of one request; of others the whole body is there
        names = [headers[number][0] for number in holes]
        self._ours = [(at, name) for at, name in enumerate(names) if name in VARYING]
        self._passing = [at for at, name in enumerate(names) if passes_up(name)]
        if self._passing:
            _, self._passed = read_own(_with_places(headers, holes))

    def read(self, data: bytes) -> tuple[bytes, OwnHeaders, bytes] | None:
        """The body of *data*, what its head says to us, and the lines of it that go upstream.

        None where it is not one whole request with this head.
        """
        found = self._template.match(data)
        if found is None:
            return None
        values, body = found
        own, passed = self._own, self._passed
        if self._ours:
            own = vary(own, self._ours, values)
        if self._passing:
            passed = passed % tuple([values[at] for at in self._passing])
        return body, own, passed

    def awaits_body(self, data: bytes) -> bool:
        """Whether *data* is this head alone, whose body is still to come."""
        return self._template.awaits_body(data)


def memo_of(data: bytes, length: int, headers: Headers, former: HeadMemo | None) -> HeadMemo | None:
    """The memo of *data*, a packet that was one whole request with *headers* and a body of *length* bytes.

    Its holes are those of the *former* one and where the two differ. None where it is no such packet, or its
    head says more about its framing than a length.
    """
    head = head_before(data, length)
    if length == 0 or head is None:
        return None
    names = [name for name, _ in headers]
    if names.count(_LENGTH) != 1 or _OTHER_FRAMING.intersection(names) or not is_plain(headers):
        return None
    at = names.index(_LENGTH)
    spans = value_spans(head, headers)
    if spans is None or headers[at][1] != b"%d" % length:
        return None
    holes = _holes(headers, names, former) or [at]
    return HeadMemo(headers, holes, HeadTemplate(head, [spans[number] for number in holes], holes.index(at)))


def _holes(headers: Headers, names: list[bytes], former: HeadMemo | None) -> list[int] | None:
    """The holes of the *former* head and of this one; None where they are two and not one."""
    changed = None if former is None else differing(headers, former.headers)
    if former is None or changed is None:
        return None
    holes = sorted({*former.holes, *changed})
    if len(holes) > MAX_HOLES or not all(names[n] == _LENGTH or may_vary(names[n], names) for n in holes):
        return None
    return holes


def _with_places(headers: Headers, holes: list[int]) -> Headers:
    """*headers* with a place for a value in each of the *holes*, to be filled in by `%`."""
    places = [(name, value.replace(b"%", b"%%")) for name, value in headers]
    for number in holes:
        places[number] = (headers[number][0], b"%b")
    return places
