"""Secrets that are planted everywhere are found nowhere: not in a log, a trace, an error, a metric, an answer."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.data_plane.relay import BUFFERED_BYTES
from gateway.paths import paths_of
from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    Received,
    Reply,
    Script,
    ScriptedUpstream,
    answers,
    answers_status,
    delta,
    event,
    sends,
    stream_events,
    streams,
    streams_events,
)

SECRETS = {
    "UP": "sk-upstream-planted-1",
    "CF": "cf-header-planted-2",
    "WEB": "sk-client-planted-3",
    "TRACETUNE_ADMIN_KEY": "admin-planted-4",
}
WRONG = "sk-wrong-planted-5"
PLANTED = [*SECRETS.values(), WRONG]


def config(base_url: str, **timeouts: float) -> dict[str, Any]:
    made = config_for(
        base_url,
        api_key={"env": "UP"},
        headers=[{"name": "cf-access-token", "secret": {"env": "CF"}}],
        default=True,
        passthrough=["audio"],
        retries={"max": 1},
        timeouts=timeouts,
    )
    limits = [{"per": "day", "requests": 1000}]
    made["auth"] = {"keys": [{"name": "web", "key": {"env": "WEB"}, "limits": limits}]}
    return made


async def quotes(received: Received, reply: Reply) -> None:
    """Says what it was told, as servers do that dislike a key."""
    body = json.dumps({"error": {"message": f"wrong key, headers {received.headers}"}}).encode()
    await reply.whole(body, 401, ("content-type", "application/json"))


async def quotes_in_nonsense(received: Received, reply: Reply) -> None:
    await reply.raw(repr(received.headers).encode() + b"\r\n\r\n")
    reply.close()


def ask(gateway: RunningGateway, key: str, path: str = "/chat/completions", **fields: Any) -> bytes:
    """All that comes back."""
    url = f"{gateway.base_url}{path}"
    try:
        answer = httpx.post(url, json=chat(**fields), headers={"authorization": f"Bearer {key}"}, timeout=10)
    except httpx.HTTPError as error:
        return repr(error).encode()
    return repr((answer.headers.multi_items(), answer.content)).encode()


def told_to_people(gateway: RunningGateway) -> list[bytes]:
    paths = ["/metrics", "/readyz", "/api/upstreams", "/api/limits", "/api/explain?model=bot", "/api/routes"]
    headers = {"authorization": f"Bearer {SECRETS['TRACETUNE_ADMIN_KEY']}"}
    return [httpx.get(gateway.url + path, headers=headers).content for path in paths]


@pytest.mark.transports("native", "httpx")
def test_no_planted_secret_is_found_anywhere(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(
        logging.INFO, "httpcore"
    )  # below, it repeats what goes over the wire; no process asks it to
    scripts = [
        answers(),
        streams(["a"]),
        quotes,
        answers_status(500),
        streams_events([b'data: {"error": {"message": "no"}}\n\n']),
        sends(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"),
        sends(b"nonsense"),
        quotes_in_nonsense,
    ]
    made = config(upstream.base_url, headers_s=0.5, idle_s=0.5)
    with running_gateway(tmp_path, made, SECRETS) as gateway:
        seen: list[bytes] = []
        for script in scripts:
            upstream.default = script
            for key in (SECRETS["WEB"], WRONG):
                seen += [
                    ask(gateway, key),
                    ask(gateway, key, stream=True),
                    ask(gateway, key, "/audio/speech"),
                ]
        seen += told_to_people(gateway)
        path = gateway.state.config_path
        path.write_text(path.read_text() + "\nbroken: [")
        wait_until(lambda: "stays in force" in caplog.text)
        paths = paths_of(gateway.state.live.config)
        files = [file for root in (paths.segments, paths.data) for file in root.rglob("*") if file.is_file()]
        seen += [file.read_bytes() for file in files]
        seen += [repr(gateway.state.live).encode(), caplog.text.encode()]

    assert len(files) >= 3
    assert len(upstream.received) > len(scripts)
    assert [secret for secret in PLANTED if any(secret.encode() in each for each in seen)] == []


def test_an_upstream_that_quotes_our_key_is_masked_and_else_unchanged(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = quotes
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        headers = {"authorization": f"Bearer {SECRETS['WEB']}"}
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), headers=headers)
        record = gateway.records()[0]

    assert answer.status_code == 401
    assert f"Bearer {'*' * len(SECRETS['UP'])}" in answer.json()["error"]["message"]
    assert record.response == answer.content


EVENTS = stream_events(["hello"])
QUOTED = event(delta(f"you said {SECRETS['UP']}, and {SECRETS['CF']}"))
ENDS_LIKE_ONE = SECRETS["UP"][:-1]  # and is none


def drips(head: bytes, body: bytes, *, then: str = "end") -> Script:
    """*body* as it would come over a slow network, every byte of the planted secrets by itself."""

    async def script(received: Received, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        for piece in re.split(rb"(?<=p)(lan)", body):
            await reply.raw(piece)
            await reply.pause(0.01)
        if then == "close" or b"length" not in head:
            reply.close()

    return script


def length_of(body: bytes) -> bytes:
    return b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)


def masked(body: bytes) -> bytes:
    for secret in SECRETS.values():
        body = body.replace(secret.encode(), b"*" * len(secret))
    return body


def post(gateway: RunningGateway, path: str, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {SECRETS['WEB']}"}
    return httpx.post(f"{gateway.base_url}{path}", json=chat(**fields), headers=headers, timeout=10)


@pytest.mark.transports("native", "httpx")
def test_a_secret_that_comes_in_pieces_is_masked_in_a_stream(upstream: ScriptedUpstream, tmp_path: Path):
    events = [EVENTS[0], QUOTED, *EVENTS[1:]]
    upstream.default = drips(b"content-type: text/event-stream\r\n", b"".join(events))
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        answer = post(gateway, "/chat/completions", stream=True)
        record = gateway.records()[0]

    assert answer.content == masked(b"".join(events))
    assert record.response == answer.content


@pytest.mark.transports("native", "httpx")
def test_a_stream_that_ends_as_a_secret_begins_is_whole(upstream: ScriptedUpstream, tmp_path: Path):
    ends = b"".join([*EVENTS[:-1], event(delta(finish="stop"))]).rstrip()
    secrets = {**SECRETS, "CF": f"{ends[-1:].decode()}-header-planted"}
    upstream.default = drips(b"content-type: text/event-stream\r\n", ends)
    with running_gateway(tmp_path, config(upstream.base_url), secrets) as gateway:
        answer = post(gateway, "/chat/completions", stream=True)
        trace = gateway.trace()

    assert answer.content == ends
    assert trace.outcome == "ok"


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("path", ["/chat/completions", "/audio/speech"])
@pytest.mark.parametrize("size", [0, 2 * BUFFERED_BYTES], ids=["held_until_whole", "in_pieces"])
def test_a_secret_that_comes_in_pieces_is_masked_in_a_body(
    upstream: ScriptedUpstream, tmp_path: Path, path: str, size: int
):
    text = f"{'x' * size}, you said {SECRETS['UP']}, and {SECRETS['CF']}, and {ENDS_LIKE_ONE}"
    body = json.dumps({"choices": [], "said": text}).encode()
    upstream.default = drips(length_of(body), body)
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        assert post(gateway, path).content == masked(body)


@pytest.mark.transports("native", "httpx")
def test_what_only_begins_like_a_secret_passes_to_its_last_byte(upstream: ScriptedUpstream, tmp_path: Path):
    body = b"x" * 2 * BUFFERED_BYTES + ENDS_LIKE_ONE.encode()
    upstream.default = drips(length_of(body), body)
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        assert post(gateway, "/audio/speech").content == body


def test_a_secret_in_a_stream_that_breaks_off_is_masked(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = drips(
        b"content-type: text/event-stream\r\ncontent-length: 5000\r\n", EVENTS[0] + QUOTED, then="close"
    )
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        answer = post(gateway, "/chat/completions", stream=True)
        record = gateway.records()[0]

    assert answer.content.startswith(EVENTS[0] + masked(QUOTED))
    assert record.response == EVENTS[0] + masked(QUOTED)


def test_a_secret_in_what_a_client_did_not_wait_for_is_masked(upstream: ScriptedUpstream, tmp_path: Path):
    said = b'{"said": "%b, and %b' % (SECRETS["UP"].encode(), ENDS_LIKE_ONE.encode())
    upstream.default = sends(b"HTTP/1.1 200 OK\r\n" + length_of(b"x" * 5000) + b"\r\n" + said, then="hang")
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        watched = gateway.state.sweeper._watched
        client = gateway.connect()
        authorization = f"authorization: Bearer {SECRETS['WEB']}"
        client.sendall(post_bytes(json.dumps(chat()).encode(), "/v1/chat/completions", authorization))
        wait_until(lambda: len(said) in {getattr(each, "buffered", 0) for each in watched.copy()})
        client.close()
        record = gateway.records()[0]

    assert record.response == masked(said).removesuffix(ENDS_LIKE_ONE.encode())


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("path", ["/chat/completions", "/audio/speech"])
def test_a_secret_in_a_header_of_the_answer_is_masked(upstream: ScriptedUpstream, tmp_path: Path, path: str):
    upstream.default = answers("a", ("x-said", f"Bearer {SECRETS['UP']}"), ("x-other", "b"))
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        for _ in range(2):
            post(gateway, path)
        headers = post(gateway, path).headers  # by now its head is known

    assert (headers["x-said"], headers["x-other"]) == (f"Bearer {'*' * len(SECRETS['UP'])}", "b")
