"""A reply counts where it is the object that was asked for, whole and alone."""

from __future__ import annotations

import json

import pytest

from judges.llm.menu import MAX_QUOTE_CHARS, CriterionReply, PairReply, is_quoted, read_reply
from tests.support.asking import better, said


@pytest.mark.parametrize("answer", ["yes", "no", "unsure"])
@pytest.mark.parametrize(
    "form", ["{}", " \n{}\n", "```json\n{}\n```", "```\n{}\n```"], ids=["bare", "space", "json", "fence"]
)
def test_what_is_on_the_menu_is_read(answer: str, form: str) -> None:
    reply = read_reply(form.replace("{}", said(answer, "q", "w")), CriterionReply)

    assert reply is not None
    assert (reply.answer, reply.quote, reply.why) == (answer, "q", "w")


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "yes, as the answer says",
        "Yes.",
        said("Yes"),
        said("yes, as the answer says"),
        said("maybe"),
        f"Here it is: {said('yes')}",
        f"{said('yes')}\nI hope this helps",
        f"{said('no')}\n{said('yes')}",
        f"```json\n{said('no')}\n```\n```json\n{said('yes')}\n```",
        '{"answer": "no", "answer": "yes", "quote": ""}',
        '{"answer": "yes"}',
        '{"answer": true, "quote": ""}',
        '{"answer": "yes", "quote": null}',
        '{"answer": "yes", "quote": "", "score": 1}',
        '["yes"]',
        '"yes"',
        "",
        "null",
        "[" * 100_000,
        said("yes")[:-1],
    ],
    ids=lambda text: text[:24],
)
def test_what_is_off_the_menu_is_no_answer(text: str) -> None:
    assert read_reply(text, CriterionReply) is None


def test_a_pair_has_a_menu_of_its_own() -> None:
    reply = read_reply(better("second"), PairReply)

    assert reply is not None
    assert reply.better == "second"
    assert read_reply(better("answer"), PairReply) is None
    assert read_reply(said("yes"), PairReply) is None


def test_quote_and_reason_are_bounded_and_on_one_line() -> None:
    reply = read_reply(said("yes", "a\n" * 10_000, "b" * 10_000), CriterionReply)

    assert reply is not None
    assert len(reply.quote) == len(reply.why) == MAX_QUOTE_CHARS
    assert "\n" not in json.dumps(reply.quote)[1:-1].replace("\\n", "\n")


def test_a_quote_is_looked_for_in_the_text_whatever_its_case_and_space() -> None:
    assert is_quoted("order  7 IS", "My Order 7 is late")
    assert is_quoted("My Order…", "My Order 7 is late")
    assert not is_quoted("order 8", "My Order 7 is late")
    assert not is_quoted("", "My Order 7 is late")
