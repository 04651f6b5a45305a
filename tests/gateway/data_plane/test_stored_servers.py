"""What is stored lies at one server of an upstream, and is found there whichever is asked first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.data_plane.passthrough import MAX_ASKED
from tests.support.request_path import running_gateway
from tests.support.responses import response_object
from tests.support.stored import request, storing_config
from tests.support.upstream import Received, Reply, ScriptedUpstream, answers_status

MISSING = answers_status(404, {"error": {"message": "Response 'resp_1' not found.", "code": None}})
HERE = answers_status(200, response_object("here"))
PATH = "/responses/resp_1"


@pytest.fixture
def servers() -> Iterator[list[ScriptedUpstream]]:
    with ExitStack() as stack:
        made = [stack.enter_context(ScriptedUpstream()) for _ in range(3)]
        for each in made:
            each.default = MISSING
        yield made


def urls(servers: list[ScriptedUpstream]) -> list[str]:
    return [each.base_url for each in servers]


def asked(servers: list[ScriptedUpstream]) -> int:
    return sum(len(each.received) for each in servers)


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("DELETE", PATH), ("POST", f"{PATH}/cancel")])
def test_it_is_found_at_whichever_server_has_it(
    servers: list[ScriptedUpstream], tmp_path: Path, method: str, path: str
):
    servers[1].default = HERE
    with running_gateway(tmp_path, storing_config(urls(servers))) as gateway:
        answers = [request(gateway, method, path) for _ in range(6)]
        traces = gateway.traces(6)

    assert [answer.json()["id"] for answer in answers] == [response_object()["id"]] * 6
    assert {trace.outcome for trace in traces} == {"ok"}
    assert all([each.status for each in trace.attempts][-1] == 200 for trace in traces)
    assert len(servers[1].received) == 6
    assert 6 < asked(servers) <= 18


def test_what_none_has_is_a_404_of_a_server_after_each_was_asked_once(
    servers: list[ScriptedUpstream], tmp_path: Path
):
    with running_gateway(tmp_path, storing_config(urls(servers))) as gateway:
        answer = request(gateway, "GET", PATH)
        trace = gateway.trace()

    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Response 'resp_1' not found.")
    assert [len(each.received) for each in servers] == [1, 1, 1]
    assert [attempt.status for attempt in trace.attempts] == [404] * 3


def test_not_every_server_of_a_large_fleet_is_asked_for_an_id(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = MISSING
    fleet = [f"{upstream.url}/{number}/v1" for number in range(MAX_ASKED + 3)]
    with running_gateway(tmp_path, storing_config(fleet)) as gateway:
        assert request(gateway, "GET", PATH).status_code == 404

    assert len({received.target for received in upstream.received}) == MAX_ASKED == len(upstream.received)


def test_what_has_a_body_is_sent_to_one_server_only(servers: list[ScriptedUpstream], tmp_path: Path):
    with running_gateway(tmp_path, storing_config(urls(servers))) as gateway:
        answer = request(gateway, "POST", "/chat/completions/c-1", json={"metadata": {}})

    assert answer.status_code == 404
    assert asked(servers) == 1


@pytest.mark.parametrize("status", [400, 401, 410, 429, 500])
def test_another_refusal_is_the_answer(servers: list[ScriptedUpstream], tmp_path: Path, status: int):
    for each in servers:
        each.default = answers_status(status)
    with running_gateway(tmp_path, storing_config(urls(servers))) as gateway:
        assert request(gateway, "GET", PATH).status_code == status

    assert asked(servers) == 1


def test_all_servers_together_have_the_time_of_one_request(servers: list[ScriptedUpstream], tmp_path: Path):
    async def slowly(received: Received, reply: Reply) -> None:
        await reply.pause(0.3)
        await MISSING(received, reply)

    for each in servers:
        each.default = slowly
    made = storing_config(urls(servers))
    made["upstreams"][0]["timeouts"] = {"total_s": 0.5}
    with running_gateway(tmp_path, made) as gateway:
        assert request(gateway, "GET", PATH).status_code == 504

    assert asked(servers) == 2
