"""Which headers cross the gateway."""

from __future__ import annotations

from gateway.data_plane.headers import MAX_TAGS, downstream, header_value, read_own


def pairs(**headers: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


def test_credentials_and_our_own_headers_never_go_upstream():
    own, passed = read_own(
        pairs(
            authorization="Bearer secret",
            api_key="secret",
            x_api_key="secret",
            cookie="secret",
            x_tracetune_session="s",
            x_tracetune_tag_team="secret",
            x_tracetune_anything="secret",
            proxy_authorization="secret",
        )
    )

    assert passed == b""
    assert (own.authorization, own.session, own.tags) == (b"Bearer secret", "s", {"team": "secret"})


def test_hop_by_hop_headers_and_those_that_connection_names_stay_here():
    _, passed = read_own(
        pairs(connection="X-Hop, close", x_hop="1", te="trailers", upgrade="h2c", host="h", x_kept="1")
    )

    assert passed == b"x-kept: 1\r\n"


def test_unknown_headers_pass_in_order_and_repeated():
    headers = [(b"openai-beta", b"a"), (b"x-new", b"1"), (b"openai-beta", b"b")]

    assert read_own(headers)[1] == b"openai-beta: a\r\nx-new: 1\r\nopenai-beta: b\r\n"


def test_what_an_upstream_says_survives_but_for_its_cookies_and_names_of_ours():
    said = pairs(
        content_type="application/json",
        retry_after="3",
        x_ratelimit_remaining="0",
        x_request_id="req-1",
        set_cookie="a=b",
        x_tracetune_route="spoofed",
        transfer_encoding="chunked",
        content_length="9",
    )
    given = downstream(said, [(b"x-tracetune-route", b"bot")], keep_length=True)

    assert given == [
        (b"content-type", b"application/json"),
        (b"retry-after", b"3"),
        (b"x-ratelimit-remaining", b"0"),
        (b"x-request-id", b"req-1"),
        (b"content-length", b"9"),
        (b"x-tracetune-route", b"bot"),
    ]
    assert b"content-length" not in dict(downstream(said, [], keep_length=False))


def test_tags_are_bounded():
    own, _ = read_own([(b"x-tracetune-tag-%d" % n, b"v" * 1000) for n in range(100)])

    assert len(own.tags) == MAX_TAGS
    assert {len(value) for value in own.tags.values()} == {256}


def test_a_route_name_of_any_characters_is_a_header_value():
    assert header_value("bot v2\r\né@%") == b"bot%20v2%0D%0A%C3%A9@%"
