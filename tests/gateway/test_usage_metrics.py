"""Tokens and USD in `/metrics`: what was counted, by kind; what is not known is told apart and never zero."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config
from gateway.config.types import PassthroughFamily
from gateway.control.metrics_page import render
from gateway.data_plane.families import passed_of
from gateway.data_plane.serve import ENDPOINTS
from gateway.metric_slots import SlotReader
from gateway.metrics import GAUGES, METRICS, WorkerMetrics, metrics_directory
from gateway.paths import Paths, paths_of
from gateway.table import Table
from gateway.traces.recorder import Recorder
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.traces.types import Attempt, CapturedTrace
from gateway.usage_metrics import operation_of
from tests.support.capture import ANSWER, captured_feedback, captured_trace
from tests.support.request_path import chat, config_for, running_gateway
from tests.support.store import store_config
from tests.support.upstream import ScriptedUpstream, answers_status

NO_TABLE = Table(routes={}, default_upstream=None, hash="")
ARM = 'route="support-bot",variant="stable"'
CHAT = 'gen_ai_operation_name="chat",gen_ai_request_model="support-bot"'
DETAILED = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20, "audio_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 25, "audio_tokens": 5},
}
ANSWERED = Attempt(upstream="up", server="s", model="m", started_ms=0, ended_ms=1, status=200)
FAILED = Attempt(upstream="up", server="s", model="m", started_ms=0, ended_ms=1, error="connect")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    made = store_config(tmp_path)
    yield made
    shutil.rmtree(paths_of(made).segments, ignore_errors=True)


def captured(**changes: Any) -> CapturedTrace:
    return captured_trace(**{"attempts": [ANSWERED], **changes})


def answer(usage: dict[str, Any] | None) -> bytes:
    return json.dumps({**ANSWER, "usage": usage}).encode()


def record(config: Config, *traces: tuple[CapturedTrace, bytes], worker: int = 0) -> None:
    writer = SegmentWriter(
        paths_of(config).segments, writer_name(worker), max_bytes=256_000_000, at_bound="drop_oldest"
    )
    for trace, response in traces:
        assert writer.append(trace, b"{}", [response])
    writer.close()


def counted(paths: Paths) -> dict[str, float]:
    """Every sample of tokens and USD on the page."""
    page, _ = render(metrics_directory(paths), {}, NO_TABLE, "")
    lines = [line.rpartition(" ") for line in page.decode().splitlines() if not line.startswith("#")]
    ours = ("gen_ai_client_", "tracetune_cost_", "tracetune_tokens_")
    return {
        name: float(value) for name, _, value in lines if name.startswith(ours) and "_created" not in name
    }


def tokens(name: str, modality: str = "unknown") -> str:
    return (
        f'gen_ai_client_inference_usage_{name}_tokens_total{{{CHAT},gen_ai_token_modality="{modality}",'
        f'variant="stable"}}'
    )


def test_every_kind_of_token_is_counted_and_parts_are_within_their_sides(config: Config):
    record(config, (captured(), answer(DETAILED)))
    Recorder(config).close()
    assert counted(paths_of(config)) == {
        tokens("input"): 90,
        tokens("input", "audio"): 10,
        tokens("cache_read_input"): 30,
        tokens("cache_write_input"): 20,
        tokens("output"): 45,
        tokens("output", "audio"): 5,
        tokens("reasoning_output"): 25,
        f"tracetune_cost_usd_total{{{ARM}}}": pytest.approx((100 * 1.0 + 50 * 2.0) / 1e6),
    }


def test_the_answers_of_all_workers_are_added_up_by_route_and_variant(config: Config):
    plain = answer(ANSWER["usage"])
    record(config, (captured(), plain), (captured(variant="canary"), plain), worker=0)
    record(config, (captured(), plain), worker=1)
    Recorder(config).close()
    found = counted(paths_of(config))
    assert found[tokens("input")] == 200
    assert found[tokens("input").replace("stable", "canary")] == 100
    assert found[f"tracetune_cost_usd_total{{{ARM}}}"] == pytest.approx(2 * 140 / 1e6)


@pytest.mark.parametrize(
    ("changes", "usage", "cost_unknown", "tokens_unknown"),
    [
        ({"price": None}, ANSWER["usage"], 1, None),
        ({}, None, 1, 1),
        ({"price": None}, None, 1, 1),
        ({}, {"prompt_tokens": 100}, 1, 1),
        ({"outcome": "client_cancelled", "attempts": [FAILED]}, None, 1, 1),
        ({"outcome": "client_cancelled", "attempts": []}, None, None, None),
        ({"outcome": "upstream_error", "attempts": [FAILED]}, None, None, None),
        ({"outcome": "rejected", "attempts": []}, None, None, None),
    ],
)
def test_what_is_not_known_is_counted_apart_and_adds_nothing(
    config: Config,
    changes: dict[str, Any],
    usage: dict[str, Any] | None,
    cost_unknown: int | None,
    tokens_unknown: int | None,
):
    record(config, (captured(**changes), answer(usage)))
    Recorder(config).close()
    found = counted(paths_of(config))
    assert found.get(f"tracetune_cost_unknown_total{{{ARM}}}") == cost_unknown
    assert found.get(f"tracetune_tokens_unknown_total{{{ARM}}}") == tokens_unknown
    assert f"tracetune_cost_usd_total{{{ARM}}}" not in found
    assert [name for name in found if "audio" in name or "cache" in name] == []


def test_the_time_of_a_machine_is_a_known_cost_of_what_failed_there_too(config: Config):
    failed = captured(
        attempts=[FAILED], outcome="upstream_error", price={"input": 0, "output": 0}, machine_cost_usd=0.25
    )
    record(config, (failed, b""))
    Recorder(config).close()
    assert counted(paths_of(config)) == {f"tracetune_cost_usd_total{{{ARM}}}": 0.25}


def test_an_answer_counts_once_however_often_recorders_start(config: Config):
    paths = paths_of(config)
    writer = SegmentWriter(paths.segments, writer_name(0), max_bytes=256_000_000, at_bound="drop_oldest")
    for number in range(3):
        writer.append(captured(trace_id=f"t{number}"), b"{}", [answer(ANSWER["usage"])])
        writer.append(captured_feedback(f"f{number}"))
        recorder = Recorder(config)
        recorder.step()
        recorder.step()
        recorder.close()
        assert counted(paths)[tokens("input")] == 100 * (number + 1)
    writer.close()
    assert len(list(metrics_directory(paths).glob("*.values"))) == 0, "the dead are folded"


def test_an_answer_counts_only_once_it_is_in_the_spool(config: Config, tmp_path: Path):
    refusing = store_config(tmp_path, "capture: {max_bytes: 1000000, at_bound: refuse}\n")
    paths = paths_of(refusing)
    large = answer(ANSWER["usage"]).replace(b"On its way.", b"x" * 200_000)
    writer = SegmentWriter(paths.segments, writer_name(0), max_bytes=256_000_000, at_bound="refuse")
    for number in range(8):
        writer.append(captured(trace_id=f"t{number}"), b"{}", [large])
    recorder = Recorder(refusing)
    for _ in range(3):
        assert recorder.step() is False
    held = counted(paths)[tokens("input")]
    assert 0 < held < 800
    for path in paths.spool.glob("*.sealed"):
        path.unlink()
    assert recorder.step() is True
    assert counted(paths)[tokens("input")] == 800
    recorder.close()
    writer.close()


@given(st.text() | st.text().map("/v1/{}".format) | st.text().map("/v1/audio/{}".format))
def test_no_path_makes_a_label_of_its_own(path: str):
    fixed = {"chat", "text_completion", "embeddings", "other"}
    assert operation_of(path) in fixed | set(get_args(PassthroughFamily))


def test_workers_and_recorder_name_operations_alike():
    assert {operation_of(endpoint.path) for endpoint in ENDPOINTS.values()} == {
        endpoint.operation for endpoint in ENDPOINTS.values()
    }
    for endpoint in ENDPOINTS.values():
        assert operation_of(endpoint.path) == endpoint.operation
    for path in ("/v1/audio/speech", "/v1/files/f-1", "/v1/responses/r-1/cancel", "/v1/chat/completions/c-1"):
        passed = passed_of(path)
        assert passed is not None
        assert operation_of(passed.label) == passed.endpoint(path).operation


def test_a_model_that_a_client_invents_is_in_no_label(config: Config):
    record(config, (captured(route="", variant="", model="invented"), answer(ANSWER["usage"])))
    Recorder(config).close()
    page, _ = render(metrics_directory(paths_of(config)), {}, NO_TABLE, "")
    assert b'gen_ai_request_model=""' in page
    assert b"invented" not in page


def test_the_recorder_is_no_worker(config: Config):
    paths = paths_of(config)
    recorder = Recorder(config)
    worker = WorkerMetrics(metrics_directory(paths), "w0")
    page, _ = render(metrics_directory(paths), {}, NO_TABLE, "")
    assert b"\ntracetune_workers 1.0\n" in page
    worker.close()
    page, _ = render(metrics_directory(paths), {}, NO_TABLE, "")
    assert b"\ntracetune_workers 1.0\n" not in page
    assert SlotReader(metrics_directory(paths), GAUGES).totals()[1] == 1
    recorder.close()


def test_where_nothing_is_captured_the_cost_is_unknown_and_not_zero(
    upstream: ScriptedUpstream, tmp_path: Path
):
    config = config_for(upstream.base_url, prices=[{"model": "served-model", "input": 1, "output": 1}])
    config["routes"][0]["capture"] = "none"
    with running_gateway(tmp_path, config) as gateway:
        for _ in range(2):
            assert httpx.post(f"{gateway.base_url}/chat/completions", json=chat()).status_code == 200
        assert httpx.post(f"{gateway.base_url}/chat/completions", json={"model": "bot@no"}).status_code == 404
        upstream.default = answers_status(500)
        assert httpx.post(f"{gateway.base_url}/chat/completions", json=chat()).status_code == 500
        assert counted(gateway.state.paths) == {
            'tracetune_cost_unknown_total{route="bot",variant="stable"}': 2
        }


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


def test_every_metric_has_its_help_and_only_labels_of_fixed_sets():
    allowed = {
        "route",
        "variant",
        "outcome",
        "upstream",
        "reason",
        "stage",
        "result",
        "gen_ai_operation_name",
        "gen_ai_request_model",
        "gen_ai_token_modality",
    }
    for metric in METRICS:
        assert metric.help.endswith(".")
        assert set(metric.labels) <= allowed
