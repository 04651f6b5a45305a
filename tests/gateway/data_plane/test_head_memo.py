"""A head is known again only where it is the same, byte for byte, but for its body's length and what is made anew."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane.head_memo import MAX_HOLES, HeadMemo, memo_of
from gateway.data_plane.headers import read_own
from gateway.head_template import Headers
from tests.support.request_path import post_bytes

BODY = b'{"model": "bot"}'
PATH = "/v1/chat/completions"
SESSION = "x-tracetune-session: s-%d"
TRACEPARENT = "traceparent: 00-%032x-00f067aa0ba902b7-01"
# What clients and their instruments make anew for each request.
ANEW = [
    SESSION,
    TRACEPARENT,
    "x-tracetune-user: u-%d",
    "tracestate: dd=s:1;p:%d",
    "baggage: request=%d",
    "idempotency-key: k-%d",
    "X-Request-Id: 50%%-r-%d",
    "x-stainless-retry-count: %d",
]
PLAIN = st.from_regex(rb"[!-~]([ -~]{0,60}[!-~])?", fullmatch=True)


def last(data: bytes, line: str) -> bytes:
    """*data* with a header *line* behind its length, where clients put some of theirs."""
    return data.replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % line.encode(), 1)


class Parsed:
    """What httptools and `read_own` make of one request."""

    def __init__(self, data: bytes) -> None:
        self.url = self.body = b""
        self.headers: Headers = []
        self.whole = False
        httptools.HttpRequestParser(self).feed_data(data)
        own, self.passed = read_own(self.headers)
        own.content_length = None
        self.own = own

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        assert not self.whole
        self.whole = True


def memo_after(*packets: bytes) -> HeadMemo | None:
    """What is known after these requests have been parsed, one after the other."""
    memo = None
    for packet in packets:
        parsed = Parsed(packet)
        memo = memo_of(packet, len(parsed.body), parsed.headers, memo)
    return memo


def in_all(*lines: str) -> tuple[bytes, bytes]:
    """Two requests which differ in what each of *lines* has in its place."""
    one, other = ([line % number for line in lines] for number in (1, 2))
    return post_bytes(BODY, PATH, "x-a: 1", *one), post_bytes(BODY, PATH, "x-a: 1", *other)


REQUEST = post_bytes(BODY, PATH, "x-a: 1")
MEMO = memo_after(REQUEST)
# Of two requests in two sessions: the session before the length, and after it.
IN_SESSION = [
    in_all(SESSION),
    (last(REQUEST, SESSION % 1), last(REQUEST, SESSION % 2)),
]
IDS = ["session first", "length first"]


def test_the_same_head_is_known_with_a_body_of_any_length():
    assert MEMO is not None
    for body in (b"x", b"y" * 100_000, BODY):
        known = MEMO.read(post_bytes(body, PATH, "x-a: 1"))
        assert known is not None
        assert (known[0], known[2]) == (body, b"content-type: application/json\r\nx-a: 1\r\n")


@given(st.integers(0, len(REQUEST) - 1), st.binary(max_size=3))
def test_another_byte_is_another_head(at: int, bytes_there: bytes):
    assert MEMO is not None
    changed = REQUEST[:at] + bytes_there + REQUEST[at + 1 :]
    known = MEMO.read(changed)
    head = REQUEST[: -len(BODY)]
    digits = slice(head.index(b"content-length: ") + 16, len(head) - 4)

    if known is not None:
        body = known[0]
        length = changed[: len(changed) - len(body)]
        assert length[: digits.start] == head[: digits.start]
        assert length.endswith(b"\r\n\r\n")
        assert int(length[digits.start : -4]) == len(body)


@pytest.mark.parametrize("requests", IN_SESSION, ids=IDS)
def test_the_same_head_is_known_in_any_session(requests: tuple[bytes, bytes]):
    memo = memo_after(*requests)
    assert memo is not None
    for session in ("s-1", "s-2", "s-3", "a@b.example", "x" * 500):
        known = memo.read(requests[0].replace(b"s-1", session.encode()))
        assert known is not None
        assert (known[0], known[1].session) == (BODY, session)


@pytest.mark.parametrize("line", ANEW)
@pytest.mark.parametrize(
    "value", [b"", b" s", b"s ", b"s\ts", b"s\x00", b"\xc3\xa9", b"s\r\nx-b: 1", b"s\nx-b: 1", b"x" * 600]
)
def test_a_value_that_is_not_plain_is_left_to_the_parser(line: str, value: bytes):
    one, other = in_all(line)
    memo = memo_after(one, other)
    name, _, said = (line % 1).encode().partition(b": ")
    assert memo is not None
    assert memo.read(one) is not None
    assert memo.read(one.replace(b"%b: %b" % (name, said), b"%b: %b" % (name, value))) is None


@pytest.mark.parametrize("requests", [*IN_SESSION, in_all(*ANEW)], ids=[*IDS, "all that is made anew"])
@given(st.data())
def test_a_parser_reads_in_a_known_head_what_the_memo_does(
    requests: tuple[bytes, bytes], data: st.DataObject
):
    memo = memo_after(*requests)
    assert memo is not None
    at = data.draw(st.integers(0, len(requests[0])))
    changed = requests[0][:at] + data.draw(st.binary(max_size=3)) + requests[0][at + 1 :]
    known = memo.read(changed)

    if known is not None:
        parsed = Parsed(changed)
        assert parsed.whole
        assert known == (parsed.body, parsed.own, parsed.passed)
        assert parsed.url == Parsed(requests[0]).url


@given(
    st.lists(st.tuples(st.sampled_from(ANEW), PLAIN), min_size=1, unique_by=lambda each: each[0]),
    st.binary(min_size=1),
)
def test_heads_that_differ_in_what_is_made_anew_mean_what_a_parser_reads_in_them(
    values: list[tuple[str, bytes]], body: bytes
):
    memo = memo_after(*in_all(*(line for line, _ in values)))
    lines = [(line.partition(":")[0].encode() + b": " + value).decode() for line, value in values]
    data = post_bytes(body, PATH, "x-a: 1", *lines)
    parsed = Parsed(data)

    assert memo is not None
    assert memo.read(data) == (body, parsed.own, parsed.passed)


def test_what_differs_in_some_is_known_in_all_that_follow():
    packets = [
        post_bytes(BODY, PATH, SESSION % one, TRACEPARENT % other) for one, other in ((1, 1), (2, 1), (2, 2))
    ]
    memo = memo_after(*packets)
    assert memo is not None
    assert memo.read(post_bytes(BODY, PATH, SESSION % 3, TRACEPARENT % 3)) is not None


@pytest.mark.parametrize(
    "line",
    [
        "authorization: Bearer %d",
        "content-type: application/json;a=%d",
        "x-tracetune-variant: v%d",
        "x-tracetune-tag-a: %d",
        "origin: http://%d",
        "cookie: a=%d",
        "host: h%d",
    ],
)
def test_what_says_who_asks_and_for_what_never_differs(line: str):
    one, other = in_all(line)
    memo = memo_after(one, other)
    assert memo is not None
    assert memo.read(one) is None
    assert memo.read(other) is not None


@pytest.mark.parametrize("line", ["x-tracetune-session: s-3", "Traceparent: 00-3", "X-Tracetune-User: u"])
def test_of_two_that_say_the_same_thing_none_differs(line: str):
    one, other = (last(packet, line) for packet in in_all(SESSION, TRACEPARENT, "x-tracetune-user: u%d"))
    memo = memo_after(one, other)
    assert memo is None or memo.read(one) is None


def test_a_head_of_which_too_much_differs_is_another():
    memo = memo_after(*in_all(*(f"x-{number}: %d" for number in range(MAX_HOLES))))
    assert memo is not None
    assert memo.holes == [len(Parsed(in_all()[0]).headers) - 1 + MAX_HOLES]


@pytest.mark.parametrize(
    "data",
    [
        REQUEST[:-1],
        REQUEST + b"x",
        REQUEST + REQUEST,
        REQUEST.replace(b"content-length: 16", b"content-length: +16"),
        REQUEST.replace(b"content-length: 16", b"content-length: 1_6"),
        REQUEST.replace(b"content-length: 16", b"content-length: \xb2"),
        REQUEST.replace(b"content-length: 16", b"content-length: " + b"0" * 20 + b"16"),
        REQUEST.replace(b"content-length: 16", b"content-length: 16\r\ncontent-length: 17"),
        REQUEST.replace(b"content-length: 16", b"content-length: 16\r\ntransfer-encoding: chunked"),
        REQUEST.replace(b"x-a: 1", b"x-a: 2"),
        b"",
    ],
)
def test_what_is_not_one_whole_request_is_left_to_the_parser(data: bytes):
    assert MEMO is not None
    assert MEMO.read(data) is None


@pytest.mark.parametrize(
    "more",
    ["transfer-encoding: chunked", "expect: 100-continue", "Content-Length: 16", "connection: x-a", "x%: 1"],
)
def test_a_head_that_says_more_about_its_framing_is_not_remembered(more: str):
    data = post_bytes(BODY, PATH, "connection: keep-alive")
    assert memo_after(data) is not None
    headers = [*Parsed(data).headers, tuple(more.encode().lower().split(b": "))]
    assert memo_of(last(data, more), len(BODY), headers, None) is None


def test_no_part_of_a_body_is_taken_for_a_head():
    headers = Parsed(REQUEST).headers
    assert memo_of(REQUEST, len(REQUEST), headers, None) is None
    assert memo_of(REQUEST + REQUEST, len(BODY), headers, None) is None
    assert memo_of(REQUEST, 0, headers, None) is None


@pytest.mark.parametrize("end", range(len(REQUEST) + 1))
def test_a_head_awaits_its_body_where_it_has_come_whole_and_alone(end: int):
    assert MEMO is not None
    assert MEMO.awaits_body(REQUEST[:end]) is (end == len(REQUEST) - len(BODY))


@pytest.mark.parametrize(
    "data",
    [post_bytes(b"", PATH, "x-a: 1"), post_bytes(BODY, PATH, "x-a: 2")[: -len(BODY)], b"\r\n\r\n", b""],
)
def test_what_has_no_body_or_another_head_awaits_none(data: bytes):
    assert MEMO is not None
    assert not MEMO.awaits_body(data)
