"""The stand-in for a frontier model: repeatable, wrong in one answer of six, and OpenAI's protocol on a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice

import httpx
import openai
import pytest

from demo.frontier import JITTER, MODEL, reply_to
from demo.messages import SEED, messages, truth

KNOWN = truth(SEED, 3000)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_one_answer_of_six_is_wrong_and_always_the_same_one() -> None:
    right = {text: reply_to(ask(text), KNOWN, 6).text == known.ticket.json() for text, known in KNOWN.items()}
    assert 0.80 < sum(right.values()) / len(right) < 0.865
    again = {text: reply_to(ask(text), KNOWN, 6).text == known.ticket.json() for text, known in KNOWN.items()}
    assert right == again


def test_errors_are_of_every_kind_and_about_as_frequent_for_every_template() -> None:
    wrong = [
        known.template
        for text, known in KNOWN.items()
        if reply_to(ask(text), KNOWN, 6).text != known.ticket.json()
    ]
    assert len(set(wrong)) > 40
    texts = [reply_to(ask(text), KNOWN, 6).text for text in KNOWN]
    assert any(text.startswith("Here is") for text in texts), "some are no JSON at all"


def test_delays_stay_within_the_jitter_and_reasoning_is_billed() -> None:
    replies = [reply_to(ask(text), KNOWN, 6) for text in KNOWN]
    delays = [reply.delay_s for reply in replies]
    assert 6 * (1 - JITTER) <= min(delays) < max(delays) <= 6 * (1 + JITTER) + 1e-9
    assert abs(sum(delays) / len(delays) - 6) < 0.2
    usage = replies[0].usage
    assert usage["completion_tokens"] > usage["completion_tokens_details"]["reasoning_tokens"] > 100


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "demo.frontier", "--port", str(port), "--delay-s", "0.05"],
        env=dict(os.environ),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                httpx.get(f"{url}/health", trust_env=False).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"{url}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in {0, -signal.SIGTERM}


def test_buffered_and_streamed_answers_are_the_same(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="none", http_client=httpx.Client(trust_env=False))
    for message in islice(messages(SEED), 5):
        expected = reply_to(ask(message.text), KNOWN, 1)
        buffered = client.chat.completions.create(model=MODEL, messages=ask(message.text))  # type: ignore[arg-type]
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=ask(message.text),  # type: ignore[arg-type]
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert buffered.choices[0].message.content == streamed == expected.text
        assert buffered.usage == chunks[-1].usage
        assert chunks[-2].choices[0].finish_reason == buffered.choices[0].finish_reason == "stop"


def test_what_it_does_not_serve_gets_openais_error_shape(base_url: str) -> None:
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{base_url}/nothing").json()["error"]["type"] == "invalid_request_error"
        assert client.post(f"{base_url}/chat/completions", content=b"{").status_code == 400
        assert client.post(f"{base_url}/chat/completions", json={"messages": []}).status_code == 400
        assert client.get(f"{base_url}/models").json()["data"][0]["id"] == MODEL
