"""What typed events say: content, thought and tools, the final response, failures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.data_plane.body import read_body
from gateway.data_plane.dialect_responses import RESPONSES, ResponsesWatcher
from gateway.data_plane.sse import payload_of
from tests.support.responses import (
    FAILED,
    created,
    ended,
    item_added,
    named,
    numbered,
    opening,
    response_object,
    text_delta,
    typed,
    whole_stream,
)
from tests.support.upstream import DONE, delta, event


def fed(*events: dict[str, Any]) -> ResponsesWatcher:
    watcher = ResponsesWatcher()
    watcher.feed(b"".join(numbered(events)))
    return watcher


REASONING = typed("response.reasoning_summary_text.delta", output_index=0, summary_index=0, delta="hm")
ARGUMENTS = typed("response.function_call_arguments.delta", output_index=0, delta='{"a"')
SEARCHING = typed("response.web_search_call.searching", output_index=0)
KEEPALIVE = typed("keepalive")


@pytest.mark.parametrize(
    ("happened", "content"),
    [
        *[(each, False) for each in opening()],
        (typed("response.queued", response=response_object(status="queued")), False),
        (item_added(type="function_call", name="f", arguments=""), False),
        (KEEPALIVE, False),
        (text_delta(""), False),
        (text_delta("x"), True),
        (REASONING, True),
        (ARGUMENTS, True),
        (typed("response.refusal.delta", delta="no"), True),
        (typed("response.reasoning_text.delta", delta="hm"), True),
        (typed("response.audio.delta", delta="UklG"), True),
        (SEARCHING, True),
        (typed("response.mcp_call.in_progress"), True),
        (typed("response.image_generation_call.partial_image", partial_image_b64="aa"), True),
        (typed("response.output_item.done", output_index=0, item={"type": "reasoning"}), True),
        (typed("response.what_comes_next_year"), True),
        (delta("a chunk of the other dialect"), True),
        (ended(), True),
    ],
)
def test_content_is_all_but_what_says_only_that_work_has_begun(happened: dict[str, Any], content: bool):
    watcher = ResponsesWatcher()
    watcher.feed(event(happened))

    assert watcher.has_content is content


@pytest.mark.parametrize("text", [rb'"\ud83d"', b"NaN", b'"\xf0\x9f"'])
def test_what_other_parsers_read_is_read(text: bytes):
    chunk = event(b'{"type":"response.output_text.delta","sequence_number":4,"delta":%b}' % text)
    watcher = ResponsesWatcher()

    assert watcher.feed(chunk) == chunk
    assert (watcher.ending, watcher.has_content, watcher.awaits) == ("open", True, "text")


def test_the_opening_is_held_until_the_first_content():
    watcher = fed(*opening())
    assert not watcher.is_committed

    watcher.feed(named(text_delta("x")))
    assert watcher.is_committed


def test_the_opening_passes_without_content_when_the_upstream_asks_for_patience():
    watcher = fed(*opening(), KEEPALIVE)

    assert (watcher.is_committed, watcher.has_content, watcher.awaits) == (True, False, "work")


@pytest.mark.parametrize(("background", "commits"), [(True, True), (False, False), (None, False)])
def test_a_response_in_the_background_is_not_begun_twice(background: bool | None, commits: bool):
    watcher = fed(created(background=background))

    assert (watcher.is_committed, watcher.has_content) == (commits, False)


@pytest.mark.parametrize("flows", [text_delta("x"), REASONING, ARGUMENTS])
@pytest.mark.parametrize(
    "works", [SEARCHING, KEEPALIVE, item_added(), typed("response.reasoning_summary_part.done")]
)
def test_a_text_that_flows_is_told_from_thought_and_tools(flows: dict[str, Any], works: dict[str, Any]):
    watcher = fed(*opening(), flows)
    assert watcher.awaits == "text"

    watcher.feed(named(works))
    assert watcher.awaits == "work"

    watcher.feed(named(flows))
    assert watcher.awaits == "text"


@pytest.mark.parametrize(
    "failure",
    [
        numbered([typed("response.failed", response=FAILED)])[0],
        named(typed("error", code="server_error", message="x", param=None, sequence_number=3)),
        b'event: error\ndata: {"code": "server_error", "message": "x"}\n\n',
        event({"error": {"message": "x"}}),
        event({"type": "error", "error": {"message": "x"}}),
        event({"type": "response.in_progress", "sequence_number": "one", "error": {"message": "x"}}),
    ],
)
@pytest.mark.parametrize(
    "before", [[], opening(), [*opening(), text_delta("x")]], ids=["first", "opening", "text"]
)
def test_a_failure_is_held_without_what_follows(failure: bytes, before: list[dict[str, Any]]):
    watcher = ResponsesWatcher()
    passed = watcher.feed(b"".join(numbered(before)) + failure + DONE)

    assert passed == b"".join(numbered(before))
    assert (watcher.held, watcher.ending, watcher.is_complete) == (failure, "error", False)


@pytest.mark.parametrize("failing_tool", ["response.mcp_call.failed", "response.mcp_list_tools.failed"])
def test_a_tool_that_fails_is_not_the_response_that_fails(failing_tool: str):
    watcher = fed(*opening(), typed(failing_tool, output_index=0, item_id="mcp_1"))

    assert (watcher.ending, watcher.has_content) == ("open", True)


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_complete_means_the_final_event(status: str):
    *before, final = whole_stream(["a"], status)
    watcher = fed(*before)
    assert not watcher.is_complete

    watcher.feed(named(final))
    assert (watcher.is_complete, watcher.ending, watcher.held) == (True, "done", named(final))


def test_a_name_on_the_event_counts_where_its_data_has_none():
    final = b"event: response.completed\ndata: {}\n\n"
    watcher = ResponsesWatcher()

    assert watcher.feed(final) == b""
    assert (watcher.is_complete, watcher.held) == (True, final)


def test_the_end_mark_of_the_other_dialect_completes_nothing():
    watcher = fed(*opening(), text_delta("x"))
    watcher.feed(DONE)

    assert (watcher.ending, watcher.is_complete) == ("done", False)


@pytest.mark.parametrize(
    ("events", "number"),
    [
        ([], 0),
        (numbered(opening()), len(opening())),
        ([named(each) for each in opening()], len(opening())),  # an upstream that does not number
        ([event({"type": "response.created", "sequence_number": 41})], 42),
        ([event({"type": "response.created", "sequence_number": "x"}), event({"type": "y"})], 2),
    ],
)
def test_our_error_goes_on_with_the_numbers(events: list[bytes], number: int):
    watcher = ResponsesWatcher()
    watcher.feed(b"".join(events))
    ours = watcher.error_event("it broke off", "stream_truncated")

    assert ours.startswith(b"event: error\ndata: ")
    assert ours.endswith(b"}\n\n")
    assert json.loads(payload_of(ours.strip()) or b"") == {
        "type": "error",
        "code": "stream_truncated",
        "message": "it broke off",
        "param": None,
        "sequence_number": number,
    }


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (json.dumps(FAILED).encode(), True),
        (b'{"error": {"message": "x"}}', True),
        (b'{"object": "error", "message": "x", "code": 400}', True),
        (json.dumps(response_object()).encode(), False),
        (json.dumps(response_object(status="incomplete")).encode(), False),
        (json.dumps(response_object(status="queued", background=True)).encode(), False),
        (json.dumps({"instructions": "x" * 500, **FAILED}).encode(), True),
        (b'{"error": null}', False),
        (b'{"error"', False),
        (b'{"output":' + b"[" * 100_000, False),
        (b"[]", False),
        (b"", False),
    ],
)
def test_a_200_is_an_error_if_its_response_failed(body: bytes, error: bool):
    assert RESPONSES.reports_error(body) is error


def test_a_watcher_is_made_for_each_stream():
    view = read_body(b'{"model": "m", "stream": true}')
    one, other = (RESPONSES.watch(view, hide_usage=False) for _ in range(2))
    one.feed(named(ended()))

    assert (one.is_complete, other.is_complete) == (True, False)
