"""Files of outcomes: what a line may say, and what is refused with its place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.outcome_file import MAX_LINE_CHARACTERS, Outcome, columns_of, read_outcomes
from gateway.traces.assembling.said import Statement

ORDER = columns_of("tag", "order_id", ["refunded", "days"])


def outcomes(directory: Path, name: str, content: str | bytes) -> list[Outcome]:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_outcomes(path, ORDER))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "o.jsonl",
            (
                '{"order_id":"007","refunded":true,"days":2.5,"at":"2026-03-04T07:06:07+02:00"}\n\n'
                '{"order_id":8,"rating":0.5,"kept":{"a":1},"name":"csat","value":"good","refunded":null}\n'
            ),
        ),
        (
            "o.NDJSON",
            (
                '{"order_id":"007","refunded":1,"days":2.5,"at":"2026-03-04T05:06:07"}\n\n'
                '{"order_id":"8","rating":0.5,"kept":"{\\"a\\":1}","name":"csat","value":"good"}'
            ),
        ),
        (
            "o.csv",
            (
                "\ufefforder_id,refunded,days,at,rating,kept,name,value\r\n"
                "007,True,2.5,2026-03-04T05:06:07Z,,,,\r\n\r\n"
                '8,,,,0.5,"{""a"":1}",csat,good\r\n'
            ),
        ),
    ],
)
def test_json_lines_and_csv_say_the_same(tmp_path: Path, name: str, content: str) -> None:
    at = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    first, second = outcomes(tmp_path, name, content)

    assert (first.key, first.at, second.key, second.at) == ("007", at, "8", None)
    assert first.said == [Statement("refunded", 1.0, None), Statement("days", 2.5, None)]
    assert second.said == [
        Statement("rating", 0.5, None),
        Statement("kept", None, '{"a":1}'),
        Statement("csat", None, "good"),
    ]
    assert second.line == (4 if name == "o.csv" else 3)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("o.jsonl", '{"order_id":"1","refunded":1}\n{"order_id":"1",', "o.jsonl:2: Input data was truncated"),
        ("o.jsonl", "[]", "o.jsonl:1: Expected `object`"),
        ("o.jsonl", '{"refunded":1}', "o.jsonl:1: order_id is missing"),
        ("o.jsonl", '{"order_id":true,"refunded":1}', "o.jsonl:1: order_id is missing, or is no text"),
        ("o.jsonl", '{"order_id":"1"}', "o.jsonl:1: feedback needs one of rating"),
        ("o.jsonl", '{"order_id":"1","rating":2}', "o.jsonl:1: Expected `float` <= 1.0 - at `$.rating`"),
        ("o.jsonl", '{"order_id":"1","raiting":1}', "unknown column 'raiting'; name it with --signal"),
        ("o.jsonl", '{"order_id":"1","refunded":[1]}', "refunded: a signal is a number"),
        ("o.jsonl", '{"order_id":"1","rating":1,"at":"yesterday"}', "o.jsonl:1: at: not a time as 2026-"),
        ("o.jsonl", '{"order_id":"1","refunded":1,"name":"refunded","value":0}', "two things of one kind"),
        ("o.jsonl", b'{"order_id":"\xff"}', "not UTF-8"),
        ("o.csv", "", "o.csv:1: the first line must name each column"),
        ("o.csv", "order_id,days,days\n1,2,3\n", "o.csv:1: the first line must name each column, once"),
        ("o.csv", "order_id,days\n1,2\n1,2,3\n", "o.csv:3: not as many cells"),
        ("o.csv", "order_id,days\n1\n", "o.csv:2: not as many cells"),
        ("o.csv", 'order_id,days\n"1"x,2\n', "o.csv:2: "),
        ("o.csv", "order_id,rating\n1,good\n", "o.csv:2: Expected `float"),
        ("o.csv", "order_id,rating\n1,nan\n", "o.csv:2: Expected `float"),
        ("o.txt", "", "neither .csv nor .jsonl"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_line_and_reason(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        outcomes(tmp_path, name, content)

    assert says in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("name", ["o.jsonl", "o.csv"])
def test_a_line_without_an_end_is_refused_at_the_bound(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="MAX_LINE_CHARACTERS"):
        outcomes(tmp_path, name, "x" * (MAX_LINE_CHARACTERS + 5))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"o\.csv cannot be read: No such file"):
        list(read_outcomes(tmp_path / "o.csv", ORDER))


@pytest.mark.parametrize(
    ("on", "tag", "signals"),
    [("tag", None, []), ("trace", "order_id", []), ("tag", "rating", []), ("trace", None, ["trace_id"])],
)
def test_what_does_not_fit_together_is_refused(on: str, tag: str | None, signals: list[str]) -> None:
    with pytest.raises(UsageError):
        columns_of(on, tag, signals)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["o.csv", "o.jsonl"]))
def test_no_bytes_make_anything_but_outcomes_or_a_refusal(tmp_path: Path, content: bytes, name: str) -> None:
    try:
        found = outcomes(tmp_path, name, b"order_id,days\n" + content if name == "o.csv" else content)
    except UsageError:
        return
    assert all(outcome.key and outcome.said for outcome in found)
