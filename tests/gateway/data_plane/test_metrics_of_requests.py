"""`/metrics` of real requests: our own time apart from the upstream's, and no label that a client makes up."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from gateway.metric_slots import SeriesKey, SlotReader
from gateway.metrics import GAUGES, metrics_directory
from gateway.traces.recorder import Recorder
from tests.support.request_path import RunningGateway, chat, config_for, running_gateway, wait_until
from tests.support.upstream import ScriptedUpstream, answers_status, hangs, streams

PAUSE_S = 1.0  # what the upstream asks for before a retry
GAP_S = 0.3
ARM = ("bot", "stable")
INVENTED = "invented-by-the-client"


def counted(gateway: RunningGateway) -> dict[SeriesKey, list[float]]:
    return SlotReader(metrics_directory(gateway.state.paths), GAUGES).totals()[0]


def test_our_own_time_is_neither_the_upstreams_nor_a_pause(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.then(answers_status(429, retry_after=f"{PAUSE_S:g}"))
    upstream.default = streams(["a", "b", "c", "d"], gap_s=GAP_S)
    with running_gateway(
        tmp_path, config_for(upstream.base_url, retries={"max": 1, "budget": 1.0})
    ) as gateway:
        began = time.monotonic()
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(stream=True), timeout=20)
        took_s = time.monotonic() - began
        assert answer.status_code == 200
        found = counted(gateway)

    sums = {key.name: values[0] for key, values in found.items() if key.labels[-2:] == ARM}
    upstream_s, overhead_s = sums["tracetune_upstream_seconds"], sums["tracetune_overhead_seconds"]
    assert 3 * GAP_S <= upstream_s < took_s - PAUSE_S + 0.05
    assert 0 < overhead_s < took_s - upstream_s - PAUSE_S + 0.05
    assert sums["gen_ai_server_request_duration_seconds"] == pytest.approx(upstream_s + overhead_s)
    assert PAUSE_S <= sums["gen_ai_server_time_to_first_token_seconds"] < took_s - GAP_S


def test_only_streams_have_a_first_token_and_what_runs_is_in_flight(
    upstream: ScriptedUpstream, tmp_path: Path
):
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway:
        assert httpx.post(f"{gateway.base_url}/chat/completions", json=chat()).status_code == 200
        found = counted(gateway)
        assert sum(found[SeriesKey("gen_ai_server_request_duration_seconds", ("chat", *ARM))][1:]) == 1
        assert sum(found[SeriesKey("gen_ai_server_time_to_first_token_seconds", ("chat", *ARM))]) == 0
        upstream.default = hangs()
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=0.5)
        wait_until(lambda: counted(gateway)[SeriesKey("tracetune_in_flight", ())] == [0])
        with gateway.connect() as client:
            body = b'{"model": "bot", "messages": []}'
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: counted(gateway)[SeriesKey("tracetune_in_flight", ())] == [1])


def test_nothing_that_a_client_sends_becomes_a_label(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url, default=True, passthrough=["audio", "files"], retries={"max": 0})
    headers = {
        "x-tracetune-session": INVENTED,
        "x-tracetune-user": INVENTED,
        f"x-tracetune-tag-{INVENTED}": INVENTED,
        "traceparent": INVENTED,
        "authorization": f"Bearer {INVENTED}",
    }
    said = {"error": {"message": INVENTED, "type": INVENTED, "code": INVENTED}}
    with (
        running_gateway(tmp_path, config) as gateway,
        httpx.Client(base_url=gateway.url, headers=headers) as web,
    ):

        def send_all() -> None:
            for model in (INVENTED, f"{INVENTED}@stable", f"bot@{INVENTED}", "bot"):
                web.post("/v1/chat/completions", json={**chat(), "model": model, "user": INVENTED})
            web.post("/v1/chat/completions", json=chat(), headers={"x-tracetune-variant": INVENTED})
            for path in (INVENTED, f"models/{INVENTED}", f"audio/{INVENTED}", f"files/{INVENTED}"):
                web.get(f"/v1/{path}")
            web.request(INVENTED.upper(), "/v1/chat/completions")

        send_all()
        upstream.default = answers_status(418, said)
        send_all()
        recorder = Recorder(gateway.state.live.config)
        recorder.step()
        found = counted(gateway)
        page = web.get("/metrics", headers={"authorization": ""}).text
        recorder.close()

    names = {key.name for key in found}
    assert {
        "tracetune_requests_total",
        "tracetune_attempts_failed_total",
        "tracetune_cost_unknown_total",
    } <= names
    assert "gen_ai_client_inference_usage_input_tokens_total" in names
    assert INVENTED not in page.lower()
    assert {key.labels[:2] for key in found if key.name == "tracetune_requests_total"} == {ARM, ("", "")}
    operations = {key.labels[0] for key in found if key.name == "gen_ai_server_request_duration_seconds"}
    assert operations == {"chat", "audio", "files", "models", ""}  # "": of what was no request
