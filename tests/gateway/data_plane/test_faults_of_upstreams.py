"""Each fault that an upstream can have is survived before its first content, at every endpoint that is routed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.upstream import retries
from tests.support.faults import (
    BARE_ERROR,
    ERROR,
    HANGING,
    HANGING_STREAMED,
    HTML,
    STREAMED,
    WHOLE,
    ask,
    faults_of,
    unfailing,
    with_fallback,
)
from tests.support.request_path import config_for, running_gateway
from tests.support.upstream import DONE, Script, ScriptedUpstream, event, streams_events

pytestmark = pytest.mark.transports("native", "httpx")


CASES = [(name, False) for name in WHOLE] + [(name, True) for name in STREAMED]


@pytest.mark.parametrize(("name", "streamed"), CASES)
def test_what_fails_before_its_first_content_is_asked_for_again(
    upstream: ScriptedUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    streamed: bool,
):
    monkeypatch.setattr(retries, "BACKOFF_BASE_S", 0.001)
    path, body, answer = (STREAMED if streamed else WHOLE)[name]
    expected = unfailing(answer, path, body, upstream)
    config = config_for(upstream.base_url, retries={"max": 1, "budget": 1.0})
    with running_gateway(tmp_path, config) as gateway:
        for count, (fault, script) in enumerate(faults_of(name, streamed=streamed).items(), 1):
            upstream.then(script)
            assert ask(gateway, path, body).content == expected, fault
            trace = gateway.traces(count)[-1]
            assert trace.outcome == "ok", fault
            # A connection that is used again and closed without a byte was stale, which is no attempt.
            if not fault.endswith("at once"):
                assert [attempt.error is None for attempt in trace.attempts] == [False, True], fault


@pytest.mark.parametrize(("name", "streamed"), CASES)
def test_what_fails_before_its_first_content_moves_to_a_fallback(
    upstream: ScriptedUpstream, tmp_path: Path, name: str, streamed: bool
):
    path, body, answer = (STREAMED if streamed else WHOLE)[name]
    with ScriptedUpstream() as other:
        expected = unfailing(answer, path, body, other)
        with running_gateway(tmp_path, with_fallback(upstream.base_url, other.base_url)) as gateway:
            for count, (fault, script) in enumerate(faults_of(name, streamed=streamed).items(), 1):
                upstream.default = script
                assert ask(gateway, path, body).content == expected, fault
                trace = gateway.traces(count)[-1]
                assert (trace.outcome, trace.upstream) == ("ok", "other"), fault
                assert [attempt.upstream for attempt in trace.attempts] == ["up", "other"], fault


@pytest.mark.parametrize(("name", "streamed"), CASES)
def test_what_hangs_before_its_first_content_moves_to_a_fallback(
    upstream: ScriptedUpstream, tmp_path: Path, name: str, streamed: bool
):
    path, body, answer = (STREAMED if streamed else WHOLE)[name]
    faults = HANGING_STREAMED if streamed else HANGING
    with ScriptedUpstream() as other:
        expected = unfailing(answer, path, body, other)
        config = with_fallback(
            upstream.base_url, other.base_url, headers_s=0.2, first_token_s=0.2, idle_s=0.2
        )
        with running_gateway(tmp_path, config) as gateway:
            for count, (fault, script) in enumerate(faults.items(), 1):
                upstream.default = script
                assert ask(gateway, path, body).content == expected, fault
                first, second = gateway.traces(count)[-1].attempts
                assert ((first.error or "").endswith("_timeout"), second.error) == (True, None), fault
                assert upstream.received[-1].disconnected.wait(2), fault


FIRST = event({"choices": [{"index": 0, "text": "half an", "delta": {"content": "half an"}}]})
GAP_S = 0.05  # so that the first content is with the client before the stream ends
# After the first content: nothing takes the answer's place, and the client learns that it is not whole.
BREAKING: dict[str, Script] = {
    "ended": streams_events([FIRST], gap_s=GAP_S),
    "ended with the end mark": streams_events([FIRST, DONE], gap_s=GAP_S),
    "closed": streams_events([FIRST], gap_s=GAP_S, then="close"),
    "reset": streams_events([FIRST], gap_s=GAP_S, then="reset"),
    "hanging": streams_events([FIRST], then="hang"),
    "hanging in an event": streams_events([FIRST, b'data: {"cho'], gap_s=GAP_S, then="hang"),
    "not JSON": streams_events([FIRST, event(b"<oops>"), DONE], gap_s=GAP_S),
    "HTML": streams_events([FIRST, HTML + b"\n\n", DONE], gap_s=GAP_S),
    "error": streams_events([FIRST, event(ERROR), DONE], gap_s=GAP_S),
    "bare error": streams_events([FIRST, event(BARE_ERROR), DONE], gap_s=GAP_S),
}


@pytest.mark.parametrize("name", ["chat", "completions"])
def test_what_breaks_after_its_first_content_ends_in_an_error_and_no_end_mark(
    upstream: ScriptedUpstream, tmp_path: Path, name: str
):
    path, body, _ = STREAMED[name]
    with ScriptedUpstream() as other:
        with running_gateway(
            tmp_path, with_fallback(upstream.base_url, other.base_url, idle_s=0.3)
        ) as gateway:
            for count, (fault, script) in enumerate(BREAKING.items(), 1):
                upstream.default = script
                answer = ask(gateway, path, body)
                *_, last = [part for part in answer.content.split(b"\n\n") if part]
                error = json.loads(last.removeprefix(b"data: "))
                assert answer.content.startswith(FIRST), fault
                assert error.get("object") == "error" or error["error"]["message"], fault
                assert b"[DONE]" not in answer.content, fault
                assert gateway.traces(count)[-1].outcome in {"truncated", "upstream_error"}, fault
        assert other.received == []
