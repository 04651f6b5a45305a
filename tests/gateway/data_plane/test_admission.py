"""Who may come in, and what the others are told, in OpenAI's error shape."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    running_gateway,
    wait_until,
)
from tests.support.upstream import ScriptedUpstream

KEYS = {"WEB": "key-web", "OPS": "key-ops", "LIMITED": "key-limited", "EARS": "key-ears"}


def keyed_config(base_url: str) -> dict[str, Any]:
    config = config_for(base_url)
    config["upstreams"][0]["default"] = True
    variants = [
        {"name": "stable", "upstream": "up", "model": "m1", "weight": 1.0},
        {"name": "other", "upstream": "up", "model": "m2", "weight": 0.0},
    ]
    config["routes"] = [
        {"model": "bot", "variants": variants},
        {"model": "desk", "variants": [{"name": "only", "upstream": "up", "model": "m3"}]},
    ]
    config["auth"] = {
        "keys": [
            {"name": "web", "key": {"env": "WEB"}},
            {"name": "ops", "key": {"env": "OPS"}, "scopes": ["infer", "pin"]},
            {"name": "limited", "key": {"env": "LIMITED"}, "scopes": ["infer"], "routes": ["desk"]},
            {"name": "ears", "key": {"env": "EARS"}, "scopes": ["feedback"]},
        ]
    }
    return config


@pytest.fixture
def keyed(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path, keyed_config(upstream.base_url), KEYS) as running:
        yield running


def ask(
    gateway: RunningGateway, key: str | None = None, model: str = "bot", **headers: str
) -> httpx.Response:
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return httpx.post(
        f"{gateway.base_url}/chat/completions", json={**chat(), "model": model}, headers=headers, timeout=10
    )


@pytest.mark.parametrize("key", [None, "wrong", "key-we", "key-web2"])
def test_without_a_known_key_nothing_is_answered_or_recorded(
    keyed: RunningGateway, upstream: ScriptedUpstream, key: str | None
):
    answer = ask(keyed, key)

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert upstream.received == []
    assert keyed.records(0) == []


def test_a_keys_name_is_the_client(keyed: RunningGateway, upstream: ScriptedUpstream):
    assert ask(keyed, "key-web").status_code == 200

    assert keyed.trace().client == "web"
    assert upstream.received[0].header("authorization") is None


def test_the_openai_client_raises_its_own_errors(keyed: RunningGateway):
    def create(key: str, model: str) -> None:
        client = openai.OpenAI(base_url=keyed.base_url, api_key=key, max_retries=0)
        client.chat.completions.create(model=model, messages=[])

    with pytest.raises(openai.AuthenticationError):
        create("wrong", "bot")
    with pytest.raises(openai.PermissionDeniedError):
        create("key-limited", "bot")
    with pytest.raises(openai.PermissionDeniedError):
        create("key-ears", "bot")
    with pytest.raises(openai.NotFoundError, match="Routes: desk"):
        create("key-limited", "unknown")


def test_routes_of_a_key_bound_what_it_reaches_and_sees(keyed: RunningGateway, upstream: ScriptedUpstream):
    def models(key: str) -> list[str]:
        client = openai.OpenAI(base_url=keyed.base_url, api_key=key)
        return [model.id for model in client.models.list()]

    assert ask(keyed, "key-limited", "desk").status_code == 200
    assert ask(keyed, "key-limited", "bot").status_code == 403
    assert (models("key-limited"), models("key-web")) == (["desk"], ["bot", "desk"])


def test_pinning_needs_its_scope_and_has_no_propensity(keyed: RunningGateway, upstream: ScriptedUpstream):
    assert ask(keyed, "key-web", "bot@other").status_code == 403
    assert ask(keyed, "key-web", **{"x-tracetune-variant": "other"}).status_code == 403
    assert ask(keyed, "key-ops", "bot@other").headers["x-tracetune-variant"] == "other"
    assert ask(keyed, "key-ops", **{"x-tracetune-variant": "other"}).status_code == 200
    missing = ask(keyed, "key-ops", "bot@nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "variant_not_found")

    pinned = [trace for trace in keyed.traces(5) if trace.outcome == "ok"]
    assert [(trace.variant, trace.propensity, trace.model) for trace in pinned] == [("other", None, "m2")] * 2
    assert [received.json()["model"] for received in upstream.received] == ["m2", "m2"]


def test_without_keys_pinning_is_allowed(gateway: RunningGateway):
    assert ask(gateway, model="bot@stable").status_code == 200
    assert gateway.trace().propensity is None


def test_a_model_that_no_route_serves_goes_to_the_default_upstream(
    keyed: RunningGateway, upstream: ScriptedUpstream
):
    answer = ask(keyed, "key-web", "gpt-9@2030")
    trace = keyed.trace()

    assert answer.status_code == 200
    assert upstream.received[0].json()["model"] == "gpt-9@2030"
    assert (trace.route, trace.variant, trace.propensity, trace.model) == ("", "", None, "gpt-9@2030")
    assert "x-tracetune-route" not in answer.headers


def test_without_a_default_an_unknown_model_is_a_404_that_lists_the_routes(gateway: RunningGateway):
    answer = ask(gateway, model="bott")

    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "No route serves model 'bott'. Routes: bot.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert gateway.trace().outcome == "rejected"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("POST", "/v1/models", 405, "method_not_supported"),
        ("POST", "/v1/load_lora_adapter", 404, "unknown_url"),
        ("POST", "/v1/unload_lora_adapter", 404, "unknown_url"),
        ("POST", "/v1/chat/completions/", 404, "unknown_url"),
        ("POST", "/v1/chat/../load_lora_adapter", 404, "unknown_url"),
        ("DELETE", "/v1/files/1", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
    ],
)
def test_what_we_do_not_serve(
    gateway: RunningGateway, upstream: ScriptedUpstream, method: str, path: str, status: int, code: str
):
    answer = httpx.request(method, gateway.url + path)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert upstream.received == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"{}", {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"model=bot", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b"\x1f\x8b", {"content-encoding": "gzip"}, 415),
    ],
)
def test_what_is_no_json_request_is_told_so(
    gateway: RunningGateway, body: bytes, headers: dict[str, str], status: int
):
    answer = httpx.post(
        f"{gateway.base_url}/chat/completions",
        content=body,
        headers={"content-type": "application/json", **headers},
    )

    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_bound_is_a_413_that_names_the_setting(
    upstream: ScriptedUpstream, tmp_path: Path, chunked: bool
):
    config = {**config_for(upstream.base_url), "listen": {"max_body_bytes": 1000}}
    body = json.dumps(chat(x="y" * 2000)).encode()
    with running_gateway(tmp_path, config) as gateway:
        answer = httpx.post(
            f"{gateway.base_url}/chat/completions",
            content=iter([body]) if chunked else body,
            headers={"content-type": "application/json"},
        )

    assert answer.status_code == 413
    assert "listen.max_body_bytes" in answer.json()["error"]["message"]
    assert upstream.received == []


def raw(gateway: RunningGateway, data: bytes) -> bytes:
    """What comes back until the gateway closes."""
    with gateway.connect() as connection:
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            return answer
        return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", b"400"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 400_000, b"431"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_what_is_not_http_gets_an_openai_error_and_a_closed_connection(
    gateway: RunningGateway, data: bytes, status: bytes
):
    head, _, body = raw(gateway, data).partition(b"\r\n\r\n")

    assert head.split(b" ")[1] == status
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_expect_continue_is_answered_before_the_body(gateway: RunningGateway):
    request = post_bytes(json.dumps(chat()).encode(), "/v1/chat/completions", "expect: 100-continue")
    head, _, body = request.partition(b"\r\n\r\n")
    with gateway.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_web_page_cannot_call_a_gateway_without_keys(gateway: RunningGateway, upstream: ScriptedUpstream):
    assert ask(gateway, origin="https://evil.example").status_code == 403
    assert ask(gateway, origin="null").status_code == 403
    assert ask(gateway, origin="http://localhost:3000").status_code == 200
    assert len(upstream.received) == 1


def test_everything_else_is_the_control_apps(gateway: RunningGateway):
    assert httpx.get(f"{gateway.url}/healthz").status_code == 200
    assert httpx.get(f"{gateway.url}/no/such/page").status_code == 404


def test_full_capture_memory_refuses_where_it_was_told_to(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url)
    config["capture"] = {"memory_bytes": 1_000_000, "at_bound": "refuse"}
    with running_gateway(tmp_path, config) as gateway:
        statuses = []
        for _ in range(12):
            answer = httpx.post(
                f"{gateway.base_url}/chat/completions", json=chat(x="y" * 100_000), timeout=10
            )
            statuses.append(answer.status_code)

        assert statuses[0] == 200
        assert statuses[-1] == 503
        assert "capture.memory_bytes" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(("level", "rows"), [("metadata", 1), ("none", 0)])
def test_a_route_may_capture_less(upstream: ScriptedUpstream, tmp_path: Path, level: str, rows: int):
    config = config_for(upstream.base_url)
    config["routes"][0]["capture"] = level
    with running_gateway(tmp_path, config) as gateway:
        assert ask(gateway).status_code == 200
        wait_until(lambda: gateway.state.in_flight == 0)

        assert [trace.capture for trace in gateway.traces(rows)] == [level] * rows


def test_a_swapped_table_leaves_running_requests_alone(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url)
    path = tmp_path / "tracetune.yaml"
    with running_gateway(tmp_path, config) as gateway:
        before = gateway.state.live.table.hash
        ask(gateway)
        path.write_text(path.read_text().replace("served-model", "newer-model"))
        wait_until(lambda: gateway.state.live.table.hash != before)
        ask(gateway)
        first, second = gateway.traces(2)

    assert (first.table_hash, first.model) == (before, "served-model")
    assert (second.table_hash != before, second.model) == (True, "newer-model")


def test_a_half_sent_head_does_not_count_as_a_request(gateway: RunningGateway):
    with gateway.connect() as connection:
        connection.sendall(b"POST /v1/chat/completions HT")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert gateway.records(0) == []


def test_the_answer_to_head_has_no_body_that_the_next_answer_would_begin_with(gateway: RunningGateway):
    address = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
    for method, status in (("HEAD", 405), ("GET", 200)):
        connection.request(method, "/v1/models")
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (status, method == "GET")
    connection.close()


@pytest.fixture
def impatient(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    """Short deadlines for what a client sends."""
    config = {**config_for(upstream.base_url), "listen": {"head_s": 0.3, "body_s": 0.3, "keep_alive_s": 0.3}}
    with running_gateway(tmp_path, config) as running:
        yield running


@pytest.mark.parametrize(("missing", "setting"), [(5, b"listen.body_s"), (400, b"listen.head_s")])
def test_half_a_request_is_told_so_in_time(
    impatient: RunningGateway, upstream: ScriptedUpstream, missing: int, setting: bytes
):
    request = post_bytes(json.dumps(chat(x="y" * 280)).encode())
    answer = raw(impatient, request[:-missing])

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert setting in answer
    assert upstream.received == []


def test_half_a_control_request_is_told_so_in_time(impatient: RunningGateway):
    answer = raw(impatient, post_bytes(b'{"trace_id": "t", "rating": 1}', "/api/feedback")[:-5])

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"listen.body_s" in answer


def test_silent_connections_are_closed(impatient: RunningGateway):
    assert raw(impatient, b"") == b""
    answer = raw(impatient, post_bytes(json.dumps(chat()).encode()))
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_body_that_stops_being_http_is_a_400(gateway: RunningGateway, upstream: ScriptedUpstream):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    answer = raw(gateway, head + b'transfer-encoding: chunked\r\n\r\n5\r\n{"mod\r\nnonsense\r\n')

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert upstream.received == []


def test_garbage_in_the_packet_that_ends_a_body_does_not_hide_its_end(gateway: RunningGateway):
    request = post_bytes(json.dumps(chat()).encode())
    with gateway.connect() as connection:
        connection.sendall(request[:-5])
        wait_until(lambda: gateway.state.in_flight == 1)
        connection.sendall(request[-5:] + b"}}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_control_request_behind_another_closes_after_the_first(gateway: RunningGateway):
    health = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    answer = raw(gateway, health + post_bytes(b"{}", "/api/feedback"))

    assert answer.count(b"HTTP/1.1 200") == answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("follower", [b"nonsense\r\n\r\n", b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"])
def test_what_cannot_be_answered_behind_a_request_closes_after_its_answer(
    gateway: RunningGateway, follower: bytes
):
    answer = raw(gateway, post_bytes(json.dumps(chat()).encode()) + follower)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_requests_behind_one_for_the_control_app_wait_for_it(gateway: RunningGateway):
    health = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    answer = raw(
        gateway, health + post_bytes(json.dumps(chat()).encode(), "/v1/chat/completions", "connection: close")
    )

    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.index(b"x-tracetune-trace-id") > answer.index(b"HTTP/1.1 200", 1)
