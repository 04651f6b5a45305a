"""A request as httpx takes it: all of it, byte for byte."""

from __future__ import annotations

import httpx

from gateway.upstream.httpx_request import Outgoing, request_of

HEAD = b"POST /v1/x?a=%7e&b=\"<'|>{}%zz HTTP/1.1\r\nhost: h\r\nX-A: 1\r\nx-a: \xe9: 2\r\nx-empty: \r\n\r\n"


async def ignore(event: str, info: dict) -> None:
    del event, info


def test_a_head_becomes_a_request_with_the_same_bytes():
    request = request_of(httpx.URL("https://h:8443/v1"), HEAD, httpx.ByteStream(b"body"), ignore)

    assert request.method == "POST"
    assert request.url.raw_path == b"/v1/x?a=%7e&b=\"<'|>{}%zz"
    assert (request.url.scheme, request.url.host, request.url.port) == ("https", "h", 8443)
    assert request.headers.raw == [(b"host", b"h"), (b"X-A", b"1"), (b"x-a", b"\xe9: 2"), (b"x-empty", b"")]


async def sent(outgoing: Outgoing) -> list[bytes]:
    return [piece async for piece in outgoing]


async def test_pieces_are_sent_in_order_to_the_end():
    outgoing = Outgoing(lambda: None)
    assert [outgoing.put(b"ab"), outgoing.put(b"c")] == [2, 3]
    outgoing.end()

    assert await sent(outgoing) == [b"ab", b"c"]


async def test_what_comes_just_when_all_else_was_sent_is_sent_too():
    waiting = [b"second", b"last"]

    def refill() -> None:
        if waiting:
            outgoing.put(waiting.pop(0))
        if not waiting:
            outgoing.end()

    outgoing = Outgoing(refill)
    outgoing.put(b"first")

    assert await sent(outgoing) == [b"first", b"second", b"last"]


async def test_a_body_of_nothing_ends():
    outgoing = Outgoing(lambda: None)
    outgoing.end()

    assert await sent(outgoing) == []
