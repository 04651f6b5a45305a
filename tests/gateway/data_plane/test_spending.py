"""What an answer used is read off it by the worker, whole or streamed, in every dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.data_plane.spending import MAX_ASKED, MAX_READ_BYTES, UNKNOWN, Spent, asked_for, spent
from gateway.traces.types import PriceTerms
from tests.support.upstream import DONE, completion, delta, event, stream_events

PRICE = PriceTerms(input=1_000_000, output=2_000_000)  # a dollar a token, two for each that is written


def of(*pieces: bytes, stream: bool = False, price: PriceTerms | None = PRICE) -> Spent:
    return spent(pieces, stream=stream, price=price, machine_usd=None)


def test_a_whole_answer():
    body = json.dumps(completion()).encode()

    assert of(body[:40], body[40:]) == (13, 15.0)


def test_a_stream_that_tells_at_its_end():
    assert of(*stream_events(["a", "b"], usage=True), stream=True) == (13, 15.0)


def test_a_stream_that_tells_more_with_every_chunk():
    chunks = [{**delta("x"), "usage": {"prompt_tokens": 11, "completion_tokens": n}} for n in (1, 2)]

    assert of(*map(event, chunks), DONE, stream=True) == (13, 15.0)


def test_a_typed_stream_tells_in_its_last_event():
    usage = {"input_tokens": 11, "output_tokens": 2, "total_tokens": 13}
    last = event({"type": "response.completed", "response": {"usage": usage}})

    assert of(event({"type": "response.created", "response": {}}), last, stream=True) == (13, 15.0)


def test_without_a_price_the_cost_is_unknown_and_the_tokens_are_not():
    assert of(json.dumps(completion()).encode(), price=None) == (13, None)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"usage": 5}', b"x" * (MAX_READ_BYTES + 1)])
@pytest.mark.parametrize("stream", [False, True])
def test_what_says_nothing_is_unknown(body: bytes, stream: bool):
    assert of(body, stream=stream) == UNKNOWN


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (None, 2)),
        ({"max_tokens": 5}, (5, 2)),
        ({"max_tokens": 5, "max_completion_tokens": 7}, (7, 2)),
        ({"max_output_tokens": 9}, (9, 2)),
        ({"max_tokens": "5", "best_of": 4}, (None, 4)),
        ({"max_tokens": -1, "best_of": 0}, (None, 2)),
        ({"max_tokens": 10**400}, (MAX_ASKED, 2)),
        ({"best_of": 10**400}, (None, MAX_ASKED)),
        ({"max_tokens": 5, "user": "\ud83d"}, (5, 2)),
    ],
)
def test_what_is_asked_for(fields: dict[str, Any], expected: tuple[int | None, int]):
    assert asked_for(json.dumps(fields).encode(), 2) == expected
