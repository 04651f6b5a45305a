"""What an upstream has stored is asked for by its id, where the default upstream lists that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.openai_client import KINDS, Call, Kind, see
from tests.support.request_path import RunningGateway, config_for, running_gateway
from tests.support.responses import (
    ask,
    responds,
    response_object,
)
from tests.support.stored import STORED, request
from tests.support.upstream import (
    ScriptedUpstream,
    answers_status,
    completion,
)

KEYS = {"WEB": "key-web", "BOT": "key-bot", "UP": "key-upstream"}
# Under which path it is asked for, by which methods, and what traces call it.
PATHS = {
    "/responses/resp_1": ({"GET", "DELETE"}, "/v1/responses/{id}"),
    "/responses/resp_1/cancel": ({"POST"}, "/v1/responses/{id}/cancel"),
    "/responses/resp_1/input_items": ({"GET"}, "/v1/responses/{id}/input_items"),
    "/chat/completions/c-1": ({"GET", "POST", "DELETE"}, "/v1/chat/completions/{id}"),
    "/chat/completions/c-1/messages": ({"GET"}, "/v1/chat/completions/{id}/messages"),
}


def items(*each: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(each),
        "first_id": "msg_1",
        "last_id": "msg_1",
        "has_more": False,
    }


QUESTION = {
    "type": "message",
    "id": "msg_1",
    "role": "user",
    "status": "completed",
    "content": [{"type": "input_text", "text": "hi"}],
}
DELETED = {"id": "c-1", "object": "chat.completion.deleted", "deleted": True}

CASES: dict[str, tuple[Any, Call]] = {
    "retrieve": (response_object(unknown=[1.50]), lambda client: client.responses.retrieve("resp_1")),
    "retrieve one that failed": (
        response_object(status="failed", error={"code": "server_error", "message": "it broke"}),
        lambda client: client.responses.retrieve("resp_1"),
    ),
    "cancel": (
        response_object(status="cancelled", background=True),
        lambda client: client.responses.cancel("resp_1"),
    ),
    "input items": (
        items(QUESTION),
        lambda client: client.responses.input_items.list("resp_1", limit=1, order="asc"),
    ),
    "chat, retrieve": (completion(), lambda client: client.chat.completions.retrieve("c-1")),
    "chat, update": (
        completion(metadata={"a": "b"}),
        lambda client: client.chat.completions.update("c-1", metadata={"a": "b"}),
    ),
    "chat, delete": (DELETED, lambda client: client.chat.completions.delete("c-1")),
    "chat, messages": (
        items({"id": "msg_1", "role": "user", "content": "hi"}),
        lambda client: client.chat.completions.messages.list("c-1"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_the_official_client_gets_the_same_objects(
    storing: RunningGateway, upstream: ScriptedUpstream, name: str, kind: Kind
):
    body, call = CASES[name]
    upstream.default = answers_status(200, body)
    through, direct = (see(kind, url, call) for url in (storing.base_url, upstream.base_url))
    one, other = upstream.received

    assert through == direct
    assert through.error is None
    assert len(through.objects) == 1
    assert (one.method, one.target, one.body) == (other.method, other.target, other.body)
    assert storing.trace().outcome == "ok"


def test_the_official_client_deletes_a_response(storing: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = answers_status(200, {"id": "resp_1", "object": "response", "deleted": True})
    client = openai.OpenAI(base_url=storing.base_url, api_key="k", max_retries=0)
    client.responses.delete("resp_1")  # returns nothing, whatever the upstream says

    assert [(each.method, each.target) for each in upstream.received] == [("DELETE", "/v1/responses/resp_1")]
    assert storing.trace().outcome == "ok"


def test_a_response_in_the_background_is_made_by_a_route_and_asked_for_until_it_is_there(
    storing: RunningGateway, upstream: ScriptedUpstream
):
    upstream.then(
        responds(status="queued", background=True),
        answers_status(200, response_object(status="in_progress", background=True)),
        answers_status(200, response_object("done", background=True)),
    )
    client = openai.OpenAI(base_url=storing.base_url, api_key="k", max_retries=0)
    response = client.responses.create(model="bot", input="hi", background=True)
    while response.status in ("queued", "in_progress"):
        response = client.responses.retrieve(response.id)

    assert response.output_text == "done"
    assert [trace.route for trace in storing.traces(3)] == ["bot", "", ""]
    assert upstream.received[0].json()["model"] == "served-model"


@pytest.mark.parametrize("path", PATHS)
def test_its_trace_is_metadata_without_a_route_or_an_id(
    storing: RunningGateway, upstream: ScriptedUpstream, path: str
):
    methods, label = PATHS[path]
    for count, method in enumerate(sorted(methods), 1):
        assert request(storing, method, path).status_code == 200
        record = storing.records(count)[-1]
        trace = storing.traces(count)[-1]

        assert (trace.route, trace.variant, trace.capture, trace.outcome) == ("", "", "metadata", "ok")
        assert (trace.endpoint, trace.upstream, trace.model) == (label, "up", "")
        assert (record.request, record.response) == (b"", b"")


@pytest.mark.parametrize("path", PATHS)
def test_other_methods_do_not_pass(storing: RunningGateway, upstream: ScriptedUpstream, path: str):
    methods, _ = PATHS[path]
    for method in {"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"} - methods:
        answer = request(storing, method, path)

        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == methods
    assert upstream.received == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("default", [True, False])
def test_what_is_not_listed_is_a_404_that_names_the_setting(
    upstream: ScriptedUpstream, tmp_path: Path, path: str, default: bool
):
    families = ["audio"] if default else []
    with running_gateway(
        tmp_path, config_for(upstream.base_url, default=default, passthrough=families)
    ) as gateway:
        answer = request(gateway, "GET", path)
    error = answer.json()["error"]

    assert (answer.status_code, error["code"]) == (404, "unknown_url")
    family = "responses" if path.startswith("/responses") else "chat/completions"
    assert f"passthrough: [{family}]" in error["message"]
    assert ("'up'" in error["message"]) is default
    assert upstream.received == []


@pytest.mark.parametrize(
    "path",
    [
        "/responses/",
        "/responses/resp_1/",
        "/responses/resp_1/other",
        "/responses/resp_1/cancel/more",
        "/responses/resp_1/c%61ncel",
        "/responses/compact",
        "/responses/input_tokens",
        "/responses/..%2fload_lora_adapter/cancel",
        "/responses/%2e%2e/cancel",
        "/responses/a%3fb=c",
        "/chat/completions/",
        "/chat/completions/c-1/other",
        "/chat/other",
        "/chat",
        "/completions/c-1",
        "/embeddings/e-1",
    ],
)
def test_nothing_else_passes(storing: RunningGateway, upstream: ScriptedUpstream, path: str):
    head = f"POST /v1{path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    with storing.connect() as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert upstream.received == []


@pytest.mark.parametrize("path", ["/responses", "/chat/completions"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_nobody_can_list_what_is_stored(
    storing: RunningGateway, upstream: ScriptedUpstream, path: str, method: str
):
    assert request(storing, method, path).status_code == 405
    assert upstream.received == []


def test_creating_stays_routed(storing: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = responds()
    answer = ask(storing, store=True)

    assert answer.headers["x-tracetune-route"] == "bot"
    assert upstream.received[0].json()["model"] == "served-model"
    assert (storing.trace().endpoint, storing.trace().capture) == ("/v1/responses", "full")


def test_a_key_for_some_routes_reaches_nothing_stored(upstream: ScriptedUpstream, tmp_path: Path):
    made = config_for(upstream.base_url, default=True, passthrough=STORED, api_key={"env": "UP"})
    keys = [
        {"name": "web", "key": {"env": "WEB"}},
        {"name": "bot", "key": {"env": "BOT"}, "routes": ["bot"]},
    ]
    with running_gateway(tmp_path, {**made, "auth": {"keys": keys}}, KEYS) as gateway:
        statuses = [
            request(gateway, "GET", path, headers={"authorization": f"Bearer {key}"}).status_code
            for key in ("key-web", "key-bot", "wrong")
            for path in ("/responses/resp_1", "/chat/completions/c-1")
        ]

    assert statuses == [200, 200, 403, 403, 401, 401]
    assert {each.header("authorization") for each in upstream.received} == {"Bearer key-upstream"}


def test_what_the_upstream_does_not_have_is_its_own_404(storing: RunningGateway, upstream: ScriptedUpstream):
    missing = {"error": {"message": "Response 'resp_1' not found.", "type": "invalid_request_error"}}
    upstream.default = answers_status(404, missing)
    call: Call = lambda client: client.responses.retrieve("resp_1")  # noqa: E731 -- it is a value
    through, direct = (see("sync", url, call) for url in (storing.base_url, upstream.base_url))

    assert through == direct
    assert through.error is not None
    assert through.error["body"] == missing["error"]
