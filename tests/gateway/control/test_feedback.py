"""Feedback: what is taken, what becomes of it, and what is refused with a reason."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest

from gateway.traces.types import CapturedFeedback
from tests.support.control_gateway import Gateway, eventually, web

TRACE = "0199f3a0-7c1e-7b2a-9d3f-2f4f6a8b9c0d"


def give(gateway: Gateway, **body: object) -> httpx.Response:
    return web.post(f"{gateway.url}/api/feedback", json=body)


def rows(gateway: Gateway, feedback_id: str) -> list[CapturedFeedback]:
    return [row for row in gateway.seen(CapturedFeedback) if row.feedback_id.startswith(feedback_id)]


@pytest.mark.parametrize(
    ("said", "kind", "value", "text"),
    [
        ({"rating": 0}, "rating", 0.0, None),
        ({"rating": 0.75}, "rating", 0.75, None),
        ({"outcome": "edited"}, "outcome", None, "edited"),
        ({"kept": "the answer"}, "kept", None, "the answer"),
        ({"kept": ""}, "kept", None, ""),
        ({"kept": {"intent": "swap", "n": 1}}, "kept", None, '{"intent":"swap","n":1}'),
        ({"kept": [1, 2]}, "kept", None, "[1,2]"),
        ({"kept": False}, "kept", None, "false"),
        ({"comment": "nice"}, "comment", None, "nice"),
        ({"name": "csat", "value": 4}, "csat", 4.0, None),
        ({"name": "solved", "value": True}, "solved", 1.0, None),
        ({"name": "label", "value": "refund"}, "label", None, "refund"),
    ],
)
def test_each_thing_said_becomes_a_row_before_the_trace_is_stored(
    one: Gateway, said: dict, kind: str, value: float | None, text: str | None
):
    answer = give(one, trace_id=TRACE, **said)
    assert answer.status_code == 202
    (row,) = rows(one, answer.json()["feedback_id"])
    assert (row.kind, row.value, row.text) == (kind, value, text)
    assert (row.trace_id, row.session, row.client) == (TRACE, None, "")


def test_several_things_said_at_once_are_several_rows_with_ids_of_their_own(one: Gateway):
    answer = give(one, session="s-1", rating=1, outcome="accepted", kept="k", comment="c", name="n", value=2)
    found = rows(one, answer.json()["feedback_id"])
    assert [row.kind for row in found] == ["rating", "outcome", "kept", "comment", "n"]
    assert len({row.feedback_id for row in found}) == 5
    assert {row.session for row in found} == {"s-1"}


def test_of_two_said_in_one_millisecond_the_second_sorts_last(one: Gateway):
    session = str(uuid4())
    ids = []
    with httpx.Client(base_url=one.url, trust_env=False) as kept_alive:
        for n in range(20):
            body = {"session": session, "name": "n", "value": n}
            ids.append(kept_alive.post("/api/feedback", json=body).json()["feedback_id"])
    found = {row.feedback_id: row for row in one.seen(CapturedFeedback) if row.session == session}
    assert sorted(found, key=lambda said: (found[said].created_at_us, said)) == ids


def test_a_session_is_cut_as_the_header_of_a_request_is(one: Gateway):
    answer = give(one, session="x" * 2000, rating=1)
    assert rows(one, answer.json()["feedback_id"])[0].session == "x" * 512


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"rating": 1}, 422, "needs trace_id or session"),
        ({"session": "s"}, 422, "needs one of rating, outcome, kept, comment"),
        ({"trace_id": str(uuid4())}, 422, "needs one of"),
        ({"trace_id": "not-an-id", "rating": 1}, 422, "$.trace_id"),
        ({"session": "", "rating": 1}, 422, "$.session"),
        ({"session": "s", "rating": 1.5}, 422, "Expected `float` <= 1.0 - at `$.rating`"),
        ({"session": "s", "rating": "good"}, 422, "$.rating"),
        ({"session": "s", "outcome": "liked"}, 422, "$.outcome"),
        ({"session": "s", "raiting": 1}, 422, "unknown field `raiting`"),
        ({"session": "s", "name": "csat"}, 422, "name and value belong together"),
        ({"session": "s", "value": 3}, 422, "name and value belong together"),
        ({"session": "s", "name": "rating", "value": 3}, 422, "is a field of its own"),
        ([], 422, "Expected `object`"),
    ],
)
def test_what_cannot_be_feedback_is_refused_with_the_place_and_the_reason(
    one: Gateway, body: object, status: int, says: str
):
    answer = web.post(f"{one.url}/api/feedback", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, "invalid_request_error")
    assert says in error["message"]


def test_a_refusal_does_not_repeat_what_was_said(one: Gateway):
    answer = give(one, session="s", outcome="a very private remark - at `$.x`")
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "Invalid enum value - at `$.outcome`"


@pytest.mark.parametrize("content", [b"", b"{", b"rating=1", b"\xff\xfe"])
def test_a_body_that_is_no_json_is_a_400(one: Gateway, content: bytes):
    answer = web.post(f"{one.url}/api/feedback", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_a_body_beyond_the_bound_is_a_413_that_names_the_bound(one: Gateway):
    chunks = (b"x" * 65536 for _ in range(32))
    for content in (b"x" * (2 << 20), chunks):  # with a length, and without one
        answer = web.post(f"{one.url}/api/feedback", content=content)
        assert answer.status_code == 413
        assert "MAX_BODY_BYTES" in answer.json()["error"]["message"]


def test_nobodys_words_stand_in_a_log(one: Gateway):
    give(one, session="s", comment="a very private remark")
    give(one, session="s", comment="a very private remark", outcome="nonsense")
    assert eventually(one.log.exists, 1)
    assert "private" not in one.log.read_text()
