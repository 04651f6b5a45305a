"""Streams of both dialects at every split point: whole events pass, the end is held, nothing gets lost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane import sse
from gateway.data_plane.dialect_chat import ChatWatcher
from gateway.data_plane.dialect_responses import ResponsesWatcher
from gateway.data_plane.sse import StreamWatcher, name_of, payload_of
from tests.support.responses import numbered, whole_stream
from tests.support.upstream import DONE, delta, event, stream_events

Watch = Callable[[], StreamWatcher]
Stream = tuple[Watch, bytes, bytes]  # who watches, what passes, what is held

COMMENT = b": still working\n\n"
BOM = b"\xef\xbb\xbf"
CHAT = b"".join(stream_events(["Hel", "lo"], usage=True)[:-1])
CHAT_IN_LINES = b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "x"}}]}\n\n'
TYPED = b"".join(numbered(whole_stream(["Hel", "lo"]))[:-1])
TYPED_IN_LINES = b'event: response.created\ndata: {"type":\ndata: "response.created"}\n\n'
FINAL = numbered(whole_stream(["Hel", "lo"]))[-1]
INCOMPLETE = numbered(whole_stream(["Hel", "lo"], "incomplete"))[-1]


def data_first(events: bytes) -> bytes:
    lines = (each.split(b"\n") for each in events.removesuffix(b"\n\n").split(b"\n\n"))
    return b"".join(data + b"\n" + name + b"\n\n" for name, data in lines)


def without_names(events: bytes) -> bytes:
    return b"".join(line + b"\n\n" for line in events.split(b"\n") if line.startswith(b"data:"))


RECORDED: dict[str, Stream] = {
    "chat": (ChatWatcher, CHAT, DONE),
    "chat, comments": (ChatWatcher, COMMENT + CHAT + COMMENT, DONE + COMMENT),
    "chat, event names": (
        ChatWatcher,
        CHAT.replace(b"data:", b"event: x\nid: 7\ndata:"),
        b"event: x\n" + DONE,
    ),
    "chat, no blank after the colon": (ChatWatcher, CHAT.replace(b"data: ", b"data:"), b"data:[DONE]\n\n"),
    "chat, data in two lines": (ChatWatcher, CHAT_IN_LINES + CHAT, DONE),
    "chat, byte order mark": (ChatWatcher, BOM + CHAT, DONE),
    "chat, no blank line at the end": (ChatWatcher, CHAT, DONE.rstrip(b"\n")),
    "chat, one line end at the end": (ChatWatcher, CHAT, DONE[:-1]),
    "chat, two blank lines": (ChatWatcher, CHAT.replace(b"\n\n", b"\n\n\n"), DONE),
    "chat, empty data": (ChatWatcher, b"data:\n\ndata: \n\nevent: ping\n\n" + CHAT, DONE),
    "typed": (ResponsesWatcher, TYPED, FINAL),
    "typed, incomplete": (ResponsesWatcher, TYPED, INCOMPLETE),
    "typed, comments": (ResponsesWatcher, COMMENT + TYPED + COMMENT, FINAL + COMMENT),
    "typed, name after the data": (ResponsesWatcher, data_first(TYPED), data_first(FINAL)),
    "typed, no names": (ResponsesWatcher, without_names(TYPED), without_names(FINAL)),
    "typed, data in two lines": (ResponsesWatcher, TYPED_IN_LINES + TYPED, FINAL),
    "typed, byte order mark": (ResponsesWatcher, BOM + TYPED, FINAL),
    "typed, no blank line at the end": (ResponsesWatcher, TYPED, FINAL.rstrip(b"\n")),
    "typed, end mark": (ResponsesWatcher, TYPED, FINAL + DONE),
    "typed, empty data": (ResponsesWatcher, b"data:\n\nevent: ping\n\n" + TYPED, FINAL),
}
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


def run(watcher: StreamWatcher, pieces: list[bytes]) -> bytes:
    """What passes of *pieces*."""
    passed = b"".join([watcher.feed(piece) for piece in pieces])
    return passed + watcher.close()


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


def check(recorded: Stream, line_end: bytes, pieces_of: Callable[[bytes], list[bytes]]) -> None:
    """The stream passes up to its end, which is held, and all of it is one or the other."""
    watch, passes, holds = (
        part.replace(b"\n", line_end) if isinstance(part, bytes) else part for part in recorded
    )
    watcher = watch()
    passed = run(watcher, pieces_of(passes + holds))

    assert passed + watcher.held == passes + holds
    # A blank line that is split may pass in two parts, the second one with what follows.
    assert watcher.held.lstrip(b"\r\n") == holds
    assert (watcher.ending, watcher.is_complete) == ("done", True)


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS)
@pytest.mark.parametrize("name", RECORDED)
def test_the_end_is_held_and_all_else_passes_at_every_split_point(name: str, line_end: bytes):
    _, passes, holds = RECORDED[name]
    for at in range(len((passes + holds).replace(b"\n", line_end)) + 1):
        check(RECORDED[name], line_end, lambda stream, at=at: [stream[:at], stream[at:]])


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS)
@pytest.mark.parametrize("name", RECORDED)
def test_the_end_is_held_and_all_else_passes_byte_by_byte(name: str, line_end: bytes):
    check(RECORDED[name], line_end, lambda stream: [stream[at : at + 1] for at in range(len(stream))])


@given(
    name=st.sampled_from(sorted(RECORDED)),
    line_end=st.sampled_from(sorted(LINE_ENDS.values())),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_the_end_is_held_and_all_else_passes_whatever_the_pieces(name: str, line_end: bytes, cuts: list[int]):
    check(RECORDED[name], line_end, lambda stream: split(stream, cuts))


@given(
    cuts=st.lists(st.integers(0, 10_000), max_size=8), line_end=st.sampled_from(sorted(LINE_ENDS.values()))
)
def test_the_usage_that_we_asked_for_is_left_out_whatever_the_pieces(cuts: list[int], line_end: bytes):
    events = [each.replace(b"\n", line_end) for each in stream_events(["Hel", "lo"], usage=True)]
    watcher = ChatWatcher(hide_usage=True)
    passed = run(watcher, split(b"".join(events), cuts))

    assert passed.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n") == b"".join(
        stream_events(["Hel", "lo"])[:-1]
    ).rstrip(b"\n")
    assert watcher.held.lstrip(b"\r\n") == DONE.replace(b"\n", line_end)


@pytest.mark.parametrize("watch", [ChatWatcher, ResponsesWatcher])
@pytest.mark.parametrize(
    "bad",
    [
        b"data: {not json\n\n",
        b"data: <html>\n\n",
        b"event: x\ndata: \xff\xfe\n\n",
        b'data: {"choices": 1, "type": 1, oops\n\n',
        b'data: {"choices": 1, "type": 1, "x": ' + b"[" * 5_000 + b"\n\n",
    ],
)
def test_a_chunk_that_is_not_json_ends_the_stream_and_does_not_pass(watch: Watch, bad: bytes):
    before = TYPED if watch is ResponsesWatcher else CHAT
    for at in range(min(len(bad), 60) + 1):
        watcher = watch()

        assert run(watcher, [before + bad[:at], bad[at:] + DONE]) == before
        assert watcher.ending == "broken"


@given(
    name=st.sampled_from(sorted(RECORDED)),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 20), st.binary(max_size=8)), max_size=4),
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
)
def test_whatever_a_stream_became_what_passes_is_how_it_began(
    name: str, edits: list[tuple[int, int, bytes]], cuts: list[int]
):
    watch, passes, holds = RECORDED[name]
    stream = passes + holds
    for at, dropped, new in edits:
        start = at % (len(stream) + 1)
        stream = stream[:start] + new + stream[start + dropped :]
    watcher = watch()
    passed = run(watcher, split(stream, cuts))

    assert stream.startswith(passed)
    if watcher.ending in ("done", "error"):
        assert passed + watcher.held == stream


@pytest.mark.parametrize("watch", [ChatWatcher, ResponsesWatcher])
def test_a_line_that_a_lone_carriage_return_ends_is_no_json(watch: Watch):
    watcher = watch()
    assert watcher.feed(b'data: {"choices": [],\r"usage": {}}\n\n') == b""
    assert watcher.ending == "broken"


def chunk(*choices: dict[str, object]) -> bytes:
    return event({"choices": list(choices)})


def test_a_role_commits_to_nothing_and_the_first_text_of_the_same_choice_does():
    watcher = ChatWatcher()
    watcher.feed(chunk({"index": 0, "delta": {"role": "assistant"}}))
    assert not watcher.is_committed
    watcher.feed(chunk({"index": 0, "delta": {"content": "x"}}))
    assert watcher.is_committed
    assert watcher.has_content


def test_a_chunk_may_finish_an_answer_beside_more_text_of_another():
    watcher = ChatWatcher(choices=2)
    more, last = {"index": 0, "delta": {"content": "x"}}, {"index": 1, "delta": {}, "finish_reason": "stop"}
    watcher.feed(chunk(more, {"index": 1, "delta": {"content": "y"}}))
    watcher.feed(chunk(more, last))
    watcher.feed(chunk({**last, "index": 0}))
    assert watcher.is_complete
    assert watcher.awaits == "end"


@pytest.mark.parametrize("watch", [ChatWatcher, ResponsesWatcher])
@pytest.mark.parametrize("stream", [b"", b"\n", b"\r\n\r\n", COMMENT, BOM, b"event: ping\n\n"])
def test_a_stream_without_data_has_no_content_and_no_end(watch: Watch, stream: bytes):
    watcher = watch()

    assert run(watcher, [stream]) == stream
    assert (watcher.ending, watcher.has_content, watcher.is_complete) == ("open", False, False)


@pytest.mark.parametrize("watch", [ChatWatcher, ResponsesWatcher])
def test_half_an_event_at_the_end_does_not_pass(watch: Watch):
    before = TYPED if watch is ResponsesWatcher else CHAT
    watcher = watch()

    assert run(watcher, [before, b'data: {"choices": [{"ind']) == before
    assert watcher.ending == "broken"


@pytest.mark.parametrize("watch", [ChatWatcher, ResponsesWatcher])
def test_an_error_of_ours_after_an_event_without_its_blank_line_is_an_event_of_its_own(watch: Watch):
    last = event(delta("x")).rstrip(b"\n")
    watcher = watch()
    passed = run(watcher, [last])
    ours = watcher.error_event("it broke off", "some_code")

    assert passed == last
    assert ours.startswith(b"\n\n")
    assert payload_of(ours.strip()) is not None
    assert not watch().error_event("it broke off", "some_code").startswith(b"\n")


@pytest.mark.parametrize("watch", [ChatWatcher, ResponsesWatcher])
def test_an_event_beyond_the_bound_ends_the_stream(watch: Watch, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    watcher = watch()

    assert run(watcher, [b"data: " + b"x" * 60, b"x" * 60]) == b""
    assert watcher.ending == "too_large"


@pytest.mark.parametrize(
    ("event_bytes", "name", "payload"),
    [
        (b"data: {}", "", b"{}"),
        (b"data:{}", "", b"{}"),
        (b"event: a\ndata: {}", "a", b"{}"),
        (b"event:a\r\ndata: {}", "a", b"{}"),
        (b"event: a\rdata: {}", "a", b"{}"),
        (b"data: {\ndata: }\nevent: a", "a", b"{\n}"),
        (b"event: a\nevent: b\ndata: {}", "b", b"{}"),
        (b"id: 1\nevent: a\nretry: 5\ndata: {}", "a", b"{}"),
        (BOM + b"event: a\ndata: {}", "a", b"{}"),
        (BOM + b"data: {}", "", b"{}"),
        (b": comment\ndata: {}", "", b"{}"),
        (b"event: a", "a", None),
        (b": comment", "", None),
        (b"data:", "", None),
        (b"event: a\ndata: ", "a", None),
    ],
)
def test_an_event_is_its_name_and_its_data(event_bytes: bytes, name: str, payload: bytes | None):
    assert (name_of(event_bytes), payload_of(event_bytes)) == (name, payload)
