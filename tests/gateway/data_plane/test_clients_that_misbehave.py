"""Whatever a client sends that is no request gets an error in OpenAI's shape, and is counted once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    running_gateway,
    wait_until,
)
from tests.support.upstream import ScriptedUpstream

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
BODY = json.dumps(chat()).encode()
WHOLE = post_bytes(BODY)
LARGE = json.dumps(chat(x="y" * 2000)).encode()

REFUSED = {
    "no http": (b"nonsense\r\n\r\n", 400),
    "no json": (post_bytes(b'{"model": '), 400),
    "no object": (post_bytes(b"[]"), 400),
    "no model": (post_bytes(b"{}"), 400),
    "two lengths": (HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400),
    "a length and chunks": (HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", 400),
    "a negative length": (HEAD + b"content-length: -1\r\n\r\n{}", 400),
    "a body that stops being http": (CHUNKED + b"2\r\n{}\r\nnonsense\r\n", 400),
    "an unknown path": (WHOLE.replace(b"/chat/", b"/chit/"), 404),
    "an unknown model": (post_bytes(json.dumps({**chat(), "model": "nobody"}).encode()), 404),
    "a wrong method": (WHOLE.replace(b"POST", b"PUT"), 405),
    "a wrong method for models": (b"POST /v1/models HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 405),
    "half a head": (WHOLE[:30], 408),
    "half a body": (WHOLE[:-5], 408),
    "half a body in chunks": (CHUNKED + b"2\r\n{}\r\n", 408),
    "a large body": (post_bytes(LARGE), 413),
    "a large body that is still to come": (HEAD + b"content-length: 5000\r\n\r\n", 413),
    "a large body in chunks": (CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE), 413),
    "a large body in chunks without an end": (CHUNKED + b"%x\r\n%b\r\n" % (len(LARGE), LARGE), 413),
    "a form": (WHOLE.replace(b"application/json", b"multipart/form-data; boundary=b"), 415),
    "no type": (WHOLE.replace(b"content-type: application/json\r\n", b""), 415),
    "a compressed body": (post_bytes(BODY, "/v1/chat/completions", "content-encoding: gzip"), 415),
    "a large head": (HEAD + b"x: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    "a large head without an end": (HEAD + b"x: " + b"y" * 400_000, 431),
    "trailers without an end": (CHUNKED + b"2\r\n{}\r\n0\r\nx: " + b"y" * 600_000, 431),
}


@pytest.fixture
def strict(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    """Low bounds for what a client sends."""
    listen = {"head_s": 0.3, "body_s": 0.3, "keep_alive_s": 0.3, "max_body_bytes": 1000}
    with running_gateway(tmp_path, {**config_for(upstream.base_url), "listen": listen}) as running:
        yield running


def answer_to(gateway: RunningGateway, data: bytes) -> bytes:
    """What comes back until the gateway closes."""
    with gateway.connect() as connection:
        answer = b""
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            return answer
        return answer


def counted(gateway: RunningGateway) -> dict[str, float]:
    """Requests by outcome, and what is in flight."""
    page = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    counts: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in {"tracetune_requests_total", "tracetune_in_flight"}:
                outcome = sample.labels.get("outcome", "in flight")
                counts[outcome] = counts.get(outcome, 0) + sample.value
    return {outcome: count for outcome, count in counts.items() if count}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_told_so_and_counted(
    strict: RunningGateway, upstream: ScriptedUpstream, name: str
):
    data, status = REFUSED[name]
    head, _, body = answer_to(strict, data).partition(b"\r\n\r\n")
    error = json.loads(body)["error"]

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/json" in head.lower()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert counted(strict) == {"rejected": 1}
    assert upstream.received == []


def test_what_is_no_request_behind_a_request_is_counted_too(strict: RunningGateway):
    assert answer_to(strict, WHOLE + b"nonsense\r\n\r\n").count(b"HTTP/1.1 200 ") == 1
    assert counted(strict) == {"ok": 1, "rejected": 1}


def test_whoever_leaves_is_counted_as_that(strict: RunningGateway):
    connection = strict.connect()
    connection.sendall(WHOLE[:-5])
    wait_until(lambda: strict.state.in_flight == 1)
    connection.close()
    wait_until(lambda: strict.state.in_flight == 0)

    assert counted(strict) == {"client_cancelled": 1}


def test_trailers_of_a_request_are_no_headers(strict: RunningGateway, upstream: ScriptedUpstream):
    chunk = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
    answer = answer_to(strict, CHUNKED + chunk + b"x-tracetune-session: theirs\r\nx-late: 1\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert upstream.received[0].header("x-late") is None
    assert strict.trace().session == strict.trace().trace_id


def test_what_frames_a_body_that_comes_is_not_held_against_the_head(
    upstream: ScriptedUpstream, tmp_path: Path
):
    body = json.dumps(chat(x="y" * 300_000)).encode()
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway, gateway.connect() as connection:
        connection.sendall(CHUNKED)
        for at in range(0, len(body), 100_000):
            piece = body[at : at + 100_000]
            connection.sendall(b"%x;note=%b\r\n" % (len(piece), b"z" * 40_000))
            time.sleep(0.1)  # a packet of its own
            connection.sendall(b"%b\r\n" % piece)
            time.sleep(0.1)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")

    assert upstream.received[0].body == body.replace(b'"bot"', b'"served-model"')
