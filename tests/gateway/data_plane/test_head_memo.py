"""A head is known again only where it is the same, byte for byte, but for its body's length and its session."""

from __future__ import annotations

import json
from pathlib import Path

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane.head_memo import memo_of
from tests.support.request_path import RunningGateway, chat, config_for, post_bytes, running_gateway
from tests.support.upstream import ScriptedUpstream

BODY = b'{"model": "bot"}'
PATH = "/v1/chat/completions"
SESSION = "x-tracetune-session: s-1"
REQUEST = post_bytes(BODY, PATH, "x-a: 1")
MEMO = memo_of(REQUEST, len(BODY))
# The session before the length, and after it.
IN_SESSION = [
    post_bytes(BODY, PATH, SESSION),
    post_bytes(BODY, PATH).replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % SESSION.encode()),
]


def test_the_same_head_is_known_with_a_body_of_any_length():
    assert MEMO is not None
    for body in (b"x", b"y" * 100_000, BODY):
        assert MEMO.read(post_bytes(body, PATH, "x-a: 1")) == (body, None)


@given(st.integers(0, len(REQUEST) - 1), st.binary(max_size=3))
def test_another_byte_is_another_head(at: int, bytes_there: bytes):
    assert MEMO is not None
    changed = REQUEST[:at] + bytes_there + REQUEST[at + 1 :]
    known = MEMO.read(changed)
    head = REQUEST[: -len(BODY)]
    digits = slice(head.index(b"content-length: ") + 16, len(head) - 4)

    if known is not None:
        body, _ = known
        length = changed[: len(changed) - len(body)]
        assert length[: digits.start] == head[: digits.start]
        assert length.endswith(b"\r\n\r\n")
        assert int(length[digits.start : -4]) == len(body)


@pytest.mark.parametrize("request_bytes", IN_SESSION, ids=["session first", "length first"])
def test_the_same_head_is_known_in_any_session(request_bytes: bytes):
    memo = memo_of(request_bytes, len(BODY))
    assert memo is not None
    for session in (b"s-1", b"s-2", b"a@b.example", b"x" * 500):
        assert memo.read(request_bytes.replace(b"s-1", session)) == (BODY, session)
    for session in (b"", b" s", b"s ", b"s\ts", b"s\x00", b"\xc3\xa9", b"s\r\nx-b: 1", b"x" * 600):
        assert memo.read(request_bytes.replace(b"s-1", session)) is None


@pytest.mark.parametrize("request_bytes", IN_SESSION, ids=["session first", "length first"])
@given(st.data())
def test_a_parser_reads_in_a_known_head_what_the_memo_does(request_bytes: bytes, data: st.DataObject):
    memo = memo_of(request_bytes, len(BODY))
    assert memo is not None
    at = data.draw(st.integers(0, len(request_bytes)))
    changed = request_bytes[:at] + data.draw(st.binary(max_size=3)) + request_bytes[at + 1 :]
    known = memo.read(changed)

    if known is not None:
        parsed, original = Parsed(changed), Parsed(request_bytes)
        assert parsed.whole
        assert (parsed.body, parsed.headers.pop(b"x-tracetune-session")) == known
        assert int(parsed.headers.pop(b"content-length")) == len(parsed.body)
        del original.headers[b"x-tracetune-session"], original.headers[b"content-length"]
        assert (parsed.url, parsed.headers) == (original.url, original.headers)


class Parsed:
    """What httptools makes of one request."""

    def __init__(self, data: bytes) -> None:
        self.url = self.body = b""
        self.headers: dict[bytes, bytes] = {}
        self.whole = False
        httptools.HttpRequestParser(self).feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        assert name.lower() not in self.headers
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        assert not self.whole
        self.whole = True


def test_a_head_with_two_sessions_is_known_with_these_two_alone():
    two = post_bytes(BODY, PATH, SESSION, "X-Tracetune-Session : s-2")
    memo = memo_of(two, len(BODY))
    assert memo is not None
    assert memo.read(two) == (BODY, None)
    assert memo.read(two.replace(b"s-1", b"s-3")) is None


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


@pytest.mark.parametrize("more", ["transfer-encoding: chunked", "expect: 100-continue", "Content-Length: 16"])
def test_a_head_that_says_more_about_its_framing_is_not_remembered(more: str):
    assert memo_of(post_bytes(BODY, "/v1/chat/completions", more), len(BODY)) is None


def test_no_part_of_a_body_is_taken_for_a_head():
    assert memo_of(REQUEST, len(REQUEST)) is None
    assert memo_of(REQUEST + REQUEST, len(BODY)) is None
    assert memo_of(REQUEST, 0) is None


def exchange(gateway: RunningGateway, *requests: bytes) -> list[bytes]:
    """The answers' heads, one connection, one request after the other."""
    heads = []
    with gateway.connect() as connection:
        for request in requests:
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            heads.append(answer)
    return heads


def body(**fields: object) -> bytes:
    return json.dumps(chat(**fields)).encode()


def test_what_follows_a_known_head_is_answered_as_if_it_were_new(upstream: ScriptedUpstream, tmp_path: Path):
    path = "/v1/chat/completions"
    requests = [
        post_bytes(body(user="a"), path, "x-a: 1", "x-tracetune-session: s1"),
        post_bytes(body(user="bb"), path, "x-a: 1", "x-tracetune-session: s1"),
        post_bytes(body(user="ccc"), path, "x-a: 2", "x-tracetune-session: s2"),
        post_bytes(b"{", path, "x-a: 2", "x-tracetune-session: s2"),
        post_bytes(body(user="d"), path, "x-a: 2", "x-tracetune-session: s3"),
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        post_bytes(body(user="e"), path, "x-a: 2", "x-tracetune-session: s2"),
    ]
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway:
        answers = exchange(gateway, *requests)
        traces = gateway.traces(6)

    assert [answer.split(b" ")[1] for answer in answers] == [b"200"] * 3 + [b"400"] + [b"200"] * 3
    assert [received.json()["user"] for received in upstream.received] == ["a", "bb", "ccc", "d", "e"]
    assert [received.header("x-a") for received in upstream.received] == ["1", "1", "2", "2", "2"]
    assert [trace.session for trace in traces if trace.status == 200] == ["s1", "s1", "s2", "s3", "s2"]
    assert len({trace.trace_id for trace in traces}) == 6


def test_a_key_that_is_taken_away_is_refused_on_a_connection_that_knows_it(
    upstream: ScriptedUpstream, tmp_path: Path
):
    config = config_for(upstream.base_url)
    config["auth"] = {"keys": [{"name": "web", "key": {"env": "WEB"}}]}
    environ = {"WEB": "key-web"}
    request = post_bytes(body(), "/v1/chat/completions", "authorization: Bearer key-web")
    with running_gateway(tmp_path, config, environ) as gateway, gateway.connect() as connection:
        statuses = []
        for key in ("key-web", "key-web", "another-key"):
            environ["WEB"] = key
            live = gateway.state.live
            gateway.state.swap(live.config, live.table)
            connection.sendall(request)
            statuses.append(connection.recv(65536).split(b" ")[1])

    assert statuses == [b"200", b"200", b"401"]


def test_a_body_beyond_the_bound_is_refused_after_a_known_head_too(
    upstream: ScriptedUpstream, tmp_path: Path
):
    config = {**config_for(upstream.base_url), "listen": {"max_body_bytes": 1000}}
    with running_gateway(tmp_path, config) as gateway:
        answers = exchange(gateway, *(post_bytes(body(x="y" * size)) for size in (1, 1, 2000)))

    assert [answer.split(b" ")[1] for answer in answers] == [b"200", b"200", b"413"]
