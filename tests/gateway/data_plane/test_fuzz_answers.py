"""Random and mangled answers of an upstream, on every endpoint: what the client gets and what the trace says.

Whatever comes: an answer within the deadlines, of no 500 of ours; one trace that tells of it; no stream without
a finish reason that passes for whole (law 5); and the bytes that came, but for what a rule changes (law 1).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.traces.types import CapturedTrace
from tests.support.fuzz import (
    ONLY,
    PATIENCE_S,
    REQUESTS,
    assert_none_failed,
    assert_nothing_is_left,
    config,
    numbers,
    say_how_to_repeat,
)
from tests.support.fuzz_answers import KINDS, USAGE_EVENT, Case, case_of, play
from tests.support.request_path import RunningGateway, running_gateway, wait_until
from tests.support.upstream import Received, Reply, ScriptedUpstream, answers

AT_ONCE = 16
COUNT = REQUESTS // 4
SHOWN_BYTES = 6000
# An event of the gateway's own that ends a stream, with what may stand before it.
OWN_ERROR = re.compile(
    rb'(?:\n\n)?(?:event: error\n)?data: \{[^\n]*"message":"The upstream\'s stream broke off[^\n]*\n\n$'
)
LINE_END = re.compile(rb"\r\n|\n|\r")

pytestmark = pytest.mark.timeout(60 + REQUESTS // 20)


@dataclass
class Seen:
    """What a client got. `status` 0: nothing; `is_whole`: the answer's end came."""

    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    body: bytes = b""
    is_whole: bool = False
    left: bool = False
    error: str = ""

    @property
    def is_events(self) -> bool:
        return self.status == 200 and self.headers.get("content-type", "").startswith("text/event-stream")


async def ask(client: httpx.AsyncClient, case: Case) -> Seen:
    seen = Seen()
    headers = {"x-fuzz": str(case.number), "x-tracetune-tag-fuzz": str(case.number)}
    content = {"json": case.request} if case.kind.method == "POST" else {}
    try:
        async with (
            asyncio.timeout(case.leaves_s),
            client.stream(case.kind.method, case.kind.target, headers=headers, **content) as answer,
        ):
            seen.status, seen.headers = answer.status_code, answer.headers
            async for piece in answer.aiter_raw():
                seen.body += piece
            seen.is_whole = True
    except TimeoutError:
        seen.left = True
    except httpx.HTTPError as error:
        seen.error = repr(error)
    return seen


async def ask_all(gateway: RunningGateway) -> list[tuple[Case, Seen]]:
    found: list[tuple[Case, Seen]] = []
    left = numbers(COUNT)

    async def some(client: httpx.AsyncClient) -> None:
        for number in left:
            case = case_of(number)
            found.append((case, await ask(client, case)))

    limits = httpx.Limits(keepalive_expiry=None)  # on a slow machine httpx expires what it is about to use
    async with (
        httpx.AsyncClient(
            base_url=gateway.base_url, timeout=PATIENCE_S, trust_env=False, limits=limits
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(AT_ONCE):
            group.create_task(some(client))
    return found


def payloads(body: bytes) -> list[bytes]:
    """The data of each event, as the standard has them read."""
    found: list[bytes] = []
    data: list[bytes] = []
    for line in LINE_END.split(body):
        if not line and data:
            found.append(b"\n".join(data))
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return [each for each in found if each.strip()]


def parsed(payload: bytes) -> dict[str, Any]:
    try:
        data = json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def is_finish(chunk: dict[str, Any]) -> bool:
    """Whether *chunk* says of an answer why it ended, or of a response that it did."""
    if chunk.get("type") in ("response.completed", "response.incomplete"):
        return True
    choices = chunk.get("choices")
    each = choices if isinstance(choices, list) else []
    return any(isinstance(choice, dict) and choice.get("finish_reason") is not None for choice in each)


def passes_for_whole(case: Case, body: bytes) -> bool:
    """Whether a client takes *body* for a whole stream."""
    events = payloads(body)
    if not events:
        return False
    if "responses" in case.kind.target:
        return is_finish(parsed(events[-1]))
    return events[-1].strip() == b"[DONE]" and not any(parsed(each).get("error") for each in events)


def broken_law(case: Case, seen: Seen, traces: list[CapturedTrace]) -> str | None:
    """What is wrong with the answer to *case*."""
    if len(traces) > 1 or (not traces and not seen.left):
        return f"{len(traces)} traces"
    if seen.left:
        return None
    return mistold(seen, traces[0]) or unfinished(case, seen, traces[0]) or changed(case, seen, traces[0])


def mistold(seen: Seen, trace: CapturedTrace) -> str | None:
    """Whether there is no answer of anybody but a bug, or the trace tells another tale of it."""
    if not seen.status or b'"internal_error"' in seen.body:
        return "no answer" if not seen.status else "a bug of ours"
    if (seen.status, seen.headers.get("x-tracetune-trace-id")) != (trace.status, trace.trace_id):
        return "the trace is of another answer"
    if trace.outcome == "ok" and (not seen.is_whole or seen.status >= 400):
        return "the trace says that it went well"
    return None


def unfinished(case: Case, seen: Seen, trace: CapturedTrace) -> str | None:
    """Whether a stream without its end passes for whole, to the client or in the trace."""
    if not seen.is_events:
        return None
    if passes_for_whole(case, seen.body) and trace.outcome != "ok":
        return "a stream that broke off passes for whole"
    if trace.outcome == "ok" and not any(is_finish(parsed(each)) for each in payloads(seen.body)):
        return "a stream without a finish reason is a success"
    if trace.outcome == "truncated" and seen.is_whole and not OWN_ERROR.search(seen.body):
        return "nobody told the client that it broke off"
    return None


def changed(case: Case, seen: Seen, trace: CapturedTrace) -> str | None:
    """Whether bytes are others than the upstream's that should be the same."""
    plan = case.plan
    if plan.body is None or (trace.error or "").endswith("timeout"):
        return None  # nobody knows them, or the machine was too slow for them
    if not plan.is_events:
        if plan.body.lstrip()[:1] not in (b"{", b"[") and b"with what is not JSON" in seen.body:
            return None if seen.status == 502 else "what is no answer is refused, but not as that"
        same = (seen.status, seen.body) == (plan.status, plan.body)
        return None if same and seen.headers.get("x-upstream") == "yes" else "another answer"
    if seen.status != 200:
        return None if trace.outcome != "ok" and not plan.is_sound else "a sound stream is refused"
    told = OWN_ERROR.sub(b"", seen.body)
    before, mark, after = plan.body.partition(b"data: [DONE]")  # what comes behind it nobody reads
    without_usage = before.replace(USAGE_EVENT, b"") + mark + after if case.hides_usage else plan.body
    # What is mangled before a usage can make another event of it.
    possible = (without_usage,) if plan.is_sound else (without_usage, plan.body)
    if not any(body.startswith(told) for body in possible):
        return "another stream"
    return "a sound stream is cut" if plan.is_sound and seen.body != without_usage else None


def described(case: Case, seen: Seen, traces: list[CapturedTrace], law: str) -> str:
    sent = b"".join(case.plan.packets)
    cuts = [len(packet) for packet in case.plan.packets]
    return "\n".join(
        (
            f"case {case.number}: {law}",
            f"asked: {case.kind.method} {case.kind.target} {case.request}, leaves: {case.leaves_s}",
            f"the upstream sent, in packets of {cuts}, {case.plan.gap_s} s apart, then {case.plan.then}:",
            repr(sent[:SHOWN_BYTES]),
            f"the client got {seen.status}, whole: {seen.is_whole} {seen.error}, {seen.headers}",
            repr(seen.body[:SHOWN_BYTES]),
            *(f"the trace: {trace.outcome}, {trace.status}, {trace.error}" for trace in traces),
        )
    )


@pytest.mark.transports("native", "httpx")
def test_no_answer_of_an_upstream_breaks_the_gateway(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, transport: str
):
    say_how_to_repeat(f"tests/gateway/data_plane/test_fuzz_answers.py -k {transport}")

    async def script(received: Received, reply: Reply) -> None:
        with contextlib.suppress(ConnectionError):
            await play(case_of(int(received.header("x-fuzz") or 0)).plan, reply)

    upstream.default = script
    made = config(upstream.base_url, keep_alive_s=600, head_s=60, body_s=60)  # the client is a sound one
    made["routes"][0]["capture"] = (
        "metadata"  # the answers are compared here; all of them would fill the memory
    )
    with running_gateway(tmp_path, made) as gateway:
        found = asyncio.run(ask_all(gateway))
        wait_until(lambda: gateway.state.in_flight == 0, 10)
        traces: dict[str, list[CapturedTrace]] = {}
        for trace in gateway.traces(0):
            traces.setdefault(trace.tags["fuzz"], []).append(trace)
        told = [(case, seen, traces.get(str(case.number), [])) for case, seen in found]
        assert_none_failed([described(*each, law) for each in told if (law := broken_law(*each)) is not None])
        upstream.default = answers()
        assert_nothing_is_left(gateway, caplog)

    outcomes = Counter((case.name, case.stream, trace.outcome) for case, _, each in told for trace in each)
    for name in KINDS if ONLY is None else ():
        for stream in {case.stream for case, _ in found if case.name == name}:
            assert {(name, stream, "ok"), (name, stream, "upstream_error")} <= set(outcomes), outcomes
            assert (name, stream, "truncated") in outcomes or not stream, outcomes
