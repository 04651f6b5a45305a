"""The watcher over streams, at every split point."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane import sse
from gateway.data_plane.sse import StreamWatcher
from tests.support.upstream import DONE, delta, event, stream_events, usage_chunk

COMMENT = b": still working\n\n"
RECORDED = {
    "openai": b"".join(stream_events(["Hel", "lo"], usage=True)),
    "comments": COMMENT + b"".join(stream_events(["x"])) + COMMENT,
    "crlf": b"".join(stream_events(["a", "b"], usage=True)).replace(b"\n", b"\r\n"),
    "cr": b"".join(stream_events(["a"])).replace(b"\n", b"\r"),
    "multi-line data": b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "x"}}]}\n\n' + DONE,
    "tools": event(delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}])) + DONE,
}


def run(pieces: list[bytes], **options) -> tuple[bytes, StreamWatcher]:
    watcher = StreamWatcher(**options)
    passed = b"".join(watcher.feed(piece) for piece in pieces)
    return passed + watcher.close(), watcher


@pytest.mark.parametrize("name", RECORDED)
def test_what_passes_and_what_is_held_is_the_stream_at_every_split_point(name: str):
    stream = RECORDED[name]
    for at in range(len(stream) + 1):
        passed, watcher = run([stream[:at], stream[at:]])

        assert passed + watcher.held == stream
        assert watcher.ending == "done"


@pytest.mark.parametrize("name", RECORDED)
def test_the_end_mark_is_held_byte_by_byte(name: str):
    stream = RECORDED[name]
    passed, watcher = run([stream[at : at + 1] for at in range(len(stream))])

    assert passed + watcher.held == stream
    assert b"[DONE]" not in passed
    assert watcher.held.strip().startswith(b"data: [DONE]")


@given(st.lists(st.integers(0, 600), max_size=8))
def test_the_usage_that_we_asked_for_is_hidden_whatever_the_pieces(cuts: list[int]):
    events = stream_events(["Hel", "lo"], usage=True)
    stream = b"".join(events)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    passed, watcher = run([stream[start:end] for start, end in pairwise(bounds)], hide_usage=True)

    assert passed == b"".join(events[:-2])
    assert watcher.held == DONE


def test_usage_beside_choices_is_never_hidden():
    chunk = event({**delta("x", finish="stop"), "usage": {"prompt_tokens": 1}})
    passed, _ = run([chunk], hide_usage=True)

    assert passed == chunk


@pytest.mark.parametrize(
    ("chunk", "content"),
    [
        (delta("", role="assistant"), False),
        (delta(None, role="assistant", refusal=None), False),
        (usage_chunk(), False),
        (delta("x"), True),
        (delta(reasoning_content="hm"), True),
        (delta(refusal="no"), True),
        (delta(tool_calls=[{"index": 0}]), True),
        (delta(finish="stop"), True),
        ({"choices": [{"index": 0, "text": "x"}]}, True),
        ({"choices": [{"index": 0, "text": ""}]}, False),
        ({"choices": "of a shape we do not know"}, True),
    ],
)
def test_content_begins_with_the_first_thing_said(chunk: dict, content: bool):
    _, watcher = run([event(chunk)])

    assert watcher.has_content is content


def test_complete_means_a_finish_reason_for_every_answer_that_began():
    watcher = StreamWatcher(choices=2)
    watcher.feed(
        event(delta("a", index=0)) + event(delta("b", index=1)) + event(delta(finish="stop", index=0))
    )
    assert not watcher.is_complete

    watcher.feed(event(delta(finish="length", index=1)))
    assert watcher.is_complete
    assert watcher.is_exhausted


def test_one_answer_of_two_is_complete_but_more_may_come():
    _, watcher = run([event(delta("a", finish="stop"))], choices=2)

    assert watcher.is_complete
    assert not watcher.is_exhausted


@pytest.mark.parametrize("bad", [b"data: {not json\n\n", b"data: <html>\n\n", b"data: \xff\xfe\n\n"])
def test_a_chunk_that_is_not_json_ends_the_stream_and_does_not_pass(bad: bytes):
    before = event(delta("x"))
    passed, watcher = run([before + bad + DONE])

    assert passed == before
    assert watcher.ending == "broken"


def test_an_error_event_is_held_with_all_that_follows():
    before, error = event(delta("x")), event({"error": {"message": "overloaded"}})
    passed, watcher = run([before, error + DONE])

    assert passed == before
    assert watcher.held == error + DONE
    assert watcher.ending == "error"


def test_an_error_of_null_is_none():
    chunk = event({**delta("x"), "error": None})
    passed, watcher = run([chunk])

    assert (passed, watcher.ending) == (chunk, "open")


def test_a_last_event_without_its_blank_line_counts():
    last = event(delta(finish="stop")).rstrip(b"\n")
    passed, watcher = run([event(delta("x")), last])

    assert passed.endswith(last)
    assert watcher.is_complete


def test_half_an_event_at_the_end_does_not_pass():
    passed, watcher = run([event(delta("x")), b'data: {"choices": [{"ind'])

    assert passed == event(delta("x"))
    assert watcher.ending == "broken"


def test_an_event_beyond_the_bound_ends_the_stream(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    _, watcher = run([b"data: " + b"x" * 60, b"x" * 60])

    assert watcher.ending == "broken"
