"""What chunks of choices say: content, finish reasons, usage, errors."""

from __future__ import annotations

import pytest

from gateway.data_plane.dialect_chat import CHAT, ChatWatcher
from tests.support.upstream import DONE, completion, delta, event, usage_chunk


def fed(*events: bytes, choices: int = 1) -> ChatWatcher:
    watcher = ChatWatcher(choices=choices)
    watcher.feed(b"".join(events))
    return watcher


def text(content: str, finish: str | None = None, index: int = 0) -> bytes:
    """A chunk of `/v1/completions`."""
    return event({"choices": [{"index": index, "text": content, "finish_reason": finish}]})


def test_usage_beside_choices_is_never_left_out():
    chunk = event({**delta("x", finish="stop"), "usage": {"prompt_tokens": 1}})

    assert ChatWatcher(hide_usage=True).feed(chunk) == chunk


@pytest.mark.parametrize("choices", [{}, {"choices": None}])
def test_usage_in_a_chunk_that_is_not_of_our_asking_is_not_left_out(choices: dict[str, None]):
    chunk = event({"usage": {"prompt_tokens": 1}, **choices})

    assert ChatWatcher(hide_usage=True).feed(chunk) == chunk


@pytest.mark.parametrize("fields", [{"prompt_filter_results": []}, {"usage": None}])
def test_a_chunk_without_choices_that_is_no_usage_is_not_left_out(fields: dict[str, object]):
    """Azure begins with one."""
    chunk = event({"choices": [], **fields})

    assert ChatWatcher(hide_usage=True).feed(chunk) == chunk


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
        (["of a shape we do not know"], True),
    ],
)
def test_content_begins_with_the_first_thing_said(chunk: object, content: bool):
    watcher = fed(event(chunk))

    assert (watcher.has_content, watcher.is_committed) == (content, content)
    assert watcher.awaits == ("end" if watcher.is_complete else "text" if content else "work")


def test_complete_means_a_finish_reason_for_every_answer_that_began():
    watcher = fed(
        event(delta("a", index=0)), event(delta("b", index=1)), event(delta(finish="stop")), choices=2
    )
    assert not watcher.is_complete

    watcher.feed(event(delta(finish="length", index=1)))
    assert (watcher.is_complete, watcher.awaits) == (True, "end")


@pytest.mark.parametrize(
    "answer", [lambda index: event(delta("a", "stop", index)), lambda index: text("a", "stop", index)]
)
def test_one_answer_of_two_is_complete_but_more_is_waited_for(answer):
    watcher = fed(answer(0), choices=2)
    assert (watcher.is_complete, watcher.awaits) == (True, "text")

    watcher.feed(answer(1))
    assert (watcher.is_complete, watcher.awaits) == (True, "end")


def test_an_answer_more_than_was_asked_for_is_waited_for_too():
    watcher = fed(text("a", "stop"))
    assert watcher.awaits == "end"

    watcher.feed(text("b", index=1))
    assert (watcher.is_complete, watcher.awaits) == (False, "text")


def test_an_error_event_is_held_without_what_follows():
    before, error = event(delta("x")), event({"error": {"message": "overloaded"}})
    watcher = ChatWatcher()

    assert watcher.feed(before) + watcher.feed(error + DONE) == before
    assert (watcher.held, watcher.ending) == (error, "error")


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_an_error_of_nothing_is_none(nothing: object):
    chunk = event({**delta("x"), "error": nothing})
    watcher = ChatWatcher()

    assert (watcher.feed(chunk), watcher.ending) == (chunk, "open")


def test_an_empty_finish_reason_is_none():
    watcher = fed(event(delta("x", finish="")))
    assert (watcher.is_complete, watcher.awaits) == (False, "text")

    watcher.feed(event(delta(finish="stop")))
    assert watcher.is_complete


UNUSUAL = {
    "half an emoji": rb'{"index":0,"delta":{"content":"\ud83d"},"finish_reason":%b}',
    "minus infinity": b'{"index":0,"delta":{"content":"a"},"logprobs":-Infinity,"finish_reason":%b}',
    "no number": b'{"index":0,"delta":{"content":"a"},"logprobs":NaN,"finish_reason":%b}',
    "a number that no float holds": b'{"index":0,"delta":{"content":"a","x":1e999},"finish_reason":%b}',
    "broken utf-8": b'{"index":0,"delta":{"content":"\xf0\x9f"},"finish_reason":%b}',
    "an index of null": b'{"index":null,"delta":{"content":"a"},"finish_reason":%b}',
    "a delta of text": b'{"index":0,"delta":"a","finish_reason":%b}',
}


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("before", [(), (event(delta("x")),)], ids=["first", "later"])
def test_what_other_parsers_read_is_read(name: str, before: tuple[bytes, ...]):
    def chunk(finish: bytes) -> bytes:
        return event(b'{"choices":[' + UNUSUAL[name] % finish + b"]}")

    watcher = fed(*before)
    assert watcher.feed(chunk(b"null")) == chunk(b"null")
    assert (watcher.ending, watcher.has_content, watcher.is_complete) == ("open", True, False)

    assert watcher.feed(chunk(b'"stop"')) == chunk(b'"stop"')
    assert watcher.is_complete


def test_a_last_event_without_its_blank_line_counts():
    last = event(delta(finish="stop")).rstrip(b"\n")
    watcher = fed(event(delta("x")), last)

    assert watcher.close() == last
    assert watcher.is_complete


def test_an_answer_after_the_end_mark_is_none():
    watcher = fed(event(delta("x")), DONE, event(delta(finish="stop")))

    assert (watcher.ending, watcher.is_complete) == ("done", False)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error": {"message": "x"}}', True),
        (b'{"object": "error", "error": "x"}', True),
        (b'{"object": "error", "message": "x", "code": 400}', True),
        (b"\n" * 1000 + b'{"id": "x", "error": {"message": "x"}}', True),
        (b'{"object": "error", "choices": [1]}', False),
        (b'{"error": null, "choices": []}', False),
        (b'{"error": {"message": "x"}, "choices": [1]}', False),
        (b'{"error": {"message": "x"}, "data": [1]}', False),
        (b'{"data": [], "model": "error"}', False),
        (b'"error"', False),
        (b'{"error"', False),
        (b"[" * 100_000 + b'"error"', False),
        (b'{"error":' + b"[" * 100_000, False),
        (str(completion()).encode(), False),
        (b"", False),
    ],
)
def test_a_200_is_an_error_if_it_reports_one_and_no_answer(body: bytes, error: bool):
    assert CHAT.reports_error(body) is error
