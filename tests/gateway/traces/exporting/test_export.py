"""Exports out of a real store: what is selected, what is told, how much is held in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet
import pytest

from gateway.errors import OperationError, UsageError
from gateway.traces.export import export_traces
from gateway.traces.exporting import pages, pairs
from gateway.traces.exporting.pairs import PAIRED, SAME, UNPAIRED
from gateway.traces.exporting.selection import (
    ABSTAINED,
    CUT_SHORT,
    NOT_JUDGED,
    OTHER_OUTCOME,
    OTHER_SCORE,
    WITHHELD,
    Selection,
)
from gateway.traces.store import Store
from gateway.traces.types import Judgment, Trace
from tests.support.store import a_trace

NOW = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)


def trace(name: str, minutes_ago: int = 0, **changes: Any) -> Trace:
    bodies = {"request": json.dumps({"messages": [{"role": "user", "content": f"ask {name}"}]})}
    return a_trace(
        **{"trace_id": name, "started_at": NOW - timedelta(minutes=minutes_ago), **bodies, **changes}
    )


def judgment(name: str, score: float | None, *, minutes: int = 0, judge: str = "good") -> Judgment:
    at = NOW + timedelta(minutes=minutes)
    return Judgment(trace_id=name, judge=judge, version=f"v{minutes}", score=score, reason="", judged_at=at)


def export(store: Store, kind: Any = "openai", **selection: Any) -> tuple[list[Any], Any]:
    out = io.BytesIO()
    done = export_traces(store, Selection(**selection), kind, out, audit=list)
    return [json.loads(line) for line in out.getvalue().splitlines()], done


def asked(examples: Sequence[Any]) -> list[str]:
    return [example["messages"][0]["content"].removeprefix("ask ") for example in examples]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"route": "other"}, ["b"]),
        ({"variant": "new"}, ["c"]),
        ({"session": "s9"}, ["d"]),
        ({"tags": {"team": "x"}}, ["c", "d"]),
        ({"tags": {"team": "x", "tier": "1"}}, ["d"]),
        ({"since": NOW - timedelta(minutes=1)}, ["a", "b"]),
        ({"until": NOW - timedelta(minutes=1)}, ["c", "d"]),
        ({"since": NOW - timedelta(minutes=2), "until": NOW - timedelta(minutes=1)}, ["c"]),
        ({"limit": 2}, ["a", "b"]),
        ({"route": "support-bot", "limit": 2}, ["a", "c"]),
        ({"judge": "good", "min_score": 0.5}, ["a", "c"]),
        ({"judge": "good", "max_score": 0.5}, ["b", "c"]),
        ({"judge": "good", "min_score": 0.5, "limit": 1}, ["a"]),
        ({"judge": "other"}, ["d"]),
    ],
)
def test_only_what_the_selection_says_is_exported_newest_first(
    clean_store: Store, selection: dict[str, Any], expected: list[str]
) -> None:
    rows = [
        trace("a"),
        trace("b", 1, route="other"),
        trace("c", 2, variant="new", tags={"team": "x"}),
        trace("d", 3, session="s9", tags={"team": "x", "tier": "1"}),
    ]
    clean_store.insert("traces", rows, token="t")
    verdicts = [judgment("a", 0.1), judgment("a", 0.9, minutes=1), judgment("b", 0.2), judgment("c", 0.5)]
    clean_store.insert("judgments", [*verdicts, judgment("d", 1.0, judge="other")], token="j")

    assert asked(export(clean_store, **selection)[0]) == expected


def test_errors_and_truncated_answers_are_examples_only_when_they_are_asked_for(clean_store: Store) -> None:
    rows = [
        trace("good"),
        trace("failed", 1, outcome="upstream_error", status=502),
        trace("broken", 2, outcome="truncated", finish_reason=None),
        trace("long", 3, finish_reason="length"),
        trace("unknown", 4, finish_reason=None),
    ]
    clean_store.insert("traces", rows, token="t")
    examples, done = export(clean_store)

    assert asked(examples) == ["good"]
    assert (done.looked_at, done.written) == (5, 1)
    assert done.left_out == {OTHER_OUTCOME: 2, CUT_SHORT: 2}
    assert asked(export(clean_store, complete=False)[0]) == ["good", "long", "unknown"]
    assert asked(export(clean_store, outcomes=("truncated",))[0]) == ["broken"]
    assert asked(export(clean_store, outcomes=(), complete=False)[0]) == [row.trace_id for row in rows]


def test_everything_that_is_left_out_is_counted_by_its_reason(clean_store: Store) -> None:
    clean_store.insert("traces", [trace(name, n) for n, name in enumerate("abcde")], token="t")
    verdicts = [
        judgment("a", 0.9),
        judgment("b", 0.1),
        judgment("c", None),
        judgment("d", 0.9, judge="other"),
    ]
    clean_store.insert("judgments", verdicts, token="j")
    examples, done = export(clean_store, judge="good", min_score=0.5)

    assert asked(examples) == ["a"]
    assert done.left_out == {OTHER_SCORE: 1, ABSTAINED: 1, NOT_JUDGED: 2}
    assert done.looked_at == done.written + sum(done.left_out.values()) == 5


def test_what_a_client_keeps_out_of_training_is_no_example_with_all_of_its_session(
    clean_store: Store,
) -> None:
    rows = [
        trace("before", 2, session="private", client="app"),
        trace("no", 1, session="private", client="app", training=False),
        trace("other", 0, session="private", client="other"),
    ]
    clean_store.insert("traces", rows, token="t")
    examples, done = export(clean_store)

    assert (asked(examples), done.left_out) == (["other"], {WITHHELD: 2})
    out = io.BytesIO()
    assert export_traces(clean_store, Selection(), "parquet", out, audit=list).written == 3
    read = pyarrow.parquet.read_table(io.BytesIO(out.getvalue())).to_pylist()
    assert [row["training"] for row in read] == [True, False, True]


def test_labels_are_the_judges_and_losers_are_part_of_it(clean_store: Store) -> None:
    clean_store.insert("traces", [trace(name, n) for n, name in enumerate("abc")], token="t")
    clean_store.insert("judgments", [judgment("a", 0.9), judgment("b", 0.1), judgment("c", None)], token="j")

    assert [line["label"] for line in export(clean_store, "trl-unpaired", judge="good")[0]] == [True, False]
    strict = export(clean_store, "trl-unpaired", judge="good", min_score=0.95)[0]
    assert [line["label"] for line in strict] == [False, False]


def test_a_score_without_a_judge_is_a_usage_error(clean_store: Store) -> None:
    with pytest.raises(UsageError, match="name one with --judge"):
        export(clean_store, min_score=0.5)
    with pytest.raises(UsageError, match="name one with --judge"):
        export(clean_store, "trl-unpaired")


def test_parquet_has_every_column_as_it_is_stored_and_the_score(clean_store: Store) -> None:
    rows = [trace("a", tags={"team": "x"}, cost_usd=None), trace("b", 1, route="", endpoint="/v1/embeddings")]
    clean_store.insert("traces", rows, token="t")
    clean_store.insert("judgments", [judgment("a", 0.25), judgment("b", 0.5)], token="j")
    out = io.BytesIO()
    export_traces(clean_store, Selection(judge="good"), "parquet", out, audit=list)
    read = pyarrow.parquet.read_table(io.BytesIO(out.getvalue())).to_pylist(maps_as_pydicts="strict")

    stored = clean_store.query("SELECT * FROM traces ORDER BY started_at DESC")
    assert [{**row, "score": score} for row, score in zip(stored, (0.25, 0.5), strict=True)] == read


class Watched:
    """A store that says how many bytes of bodies were read by one statement."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bodies = store.bodies
        self.held: list[int] = []
        self.rows: list[int] = []

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        rows = self.store.query(sql, parameters)
        self.rows.append(len(rows))
        self.held.append(sum(len(row.get("request") or "") + len(row.get("response") or "") for row in rows))
        return rows


def test_more_is_exported_than_may_be_held_in_memory(
    clean_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "BATCH_BYTES", 20_000)
    monkeypatch.setattr(pages, "PAGE_TRACES", 7)
    body = json.dumps({"messages": [{"role": "user", "content": "y" * 3_000}]})
    same_time = [trace(f"t{n:03}", n // 10, request=body) for n in range(100)]  # ties at the ends of pages
    clean_store.insert(
        "traces",
        [
            *same_time,
            trace("z", 20, request=json.dumps({"messages": [{"role": "user", "content": "y" * 50_000}]})),
        ],
        token="t",
    )
    watched, out, seen = Watched(clean_store), io.BytesIO(), []
    done = export_traces(watched, Selection(), "openai", out, audit=seen.append)

    assert done.written == len(out.getvalue().splitlines()) == 101
    assert sum(watched.held) > 300_000
    assert sorted(watched.held)[-2] <= 20_000  # a single larger trace is a batch of its own
    assert max(watched.rows) <= 7
    assert sorted(name for batch in seen for name in batch) == [f"t{n:03}" for n in range(100)] + ["z"]


def test_no_body_is_read_before_its_reading_is_recorded(clean_store: Store) -> None:
    clean_store.insert("traces", [trace("a"), trace("failed", 1, outcome="timeout")], token="t")
    watched, told = Watched(clean_store), []

    def audit(trace_ids: Sequence[str]) -> None:
        told.append((list(trace_ids), sum(watched.held)))
        raise OperationError("the audit cannot be written")

    out = io.BytesIO()
    with pytest.raises(OperationError, match="the audit cannot be written"):
        export_traces(watched, Selection(), "openai", out, audit=audit)

    assert (told, sum(watched.held), out.getvalue()) == ([(["a"], 0)], 0, b"")


def test_with_a_limit_no_more_bodies_are_read_than_are_exported(clean_store: Store) -> None:
    clean_store.insert("traces", [trace(f"t{n}", n) for n in range(9)], token="t")
    seen: list[str] = []
    done = export_traces(clean_store, Selection(limit=3), "openai", io.BytesIO(), audit=seen.extend)

    assert (done.written, seen) == (3, ["t0", "t1", "t2"])


def answered(name: str, minutes_ago: int, prompt: str, answer: str) -> Trace:
    return trace(
        name,
        minutes_ago,
        request=json.dumps({"messages": [{"role": "user", "content": prompt}]}),
        response=json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}),
    )


def test_a_preference_is_the_newest_good_and_the_newest_bad_answer_to_one_prompt(clean_store: Store) -> None:
    rows = [
        answered("a", 0, "p", "good, new"),
        answered("b", 1, "p", "good, old"),
        answered("c", 2, "p", "bad, new"),
        answered("d", 3, "p", "bad, old"),
        answered("e", 4, "q", "bad first"),
        answered("f", 5, "q", "good after it"),
        answered("g", 6, "alone", "good"),
        answered("h", 7, "torn", "the same"),
        answered("i", 8, "torn", "the same"),
    ]
    clean_store.insert("traces", rows, token="t")
    scores = {"a": 0.9, "b": 0.8, "c": 0.1, "d": 0.2, "e": 0.0, "f": 1.0, "g": 1.0, "h": 1.0, "i": 0.0}
    clean_store.insert("judgments", [judgment(name, score) for name, score in scores.items()], token="j")
    lines, done = export(clean_store, "trl-preference", judge="good")

    assert lines == [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for prompt, chosen, rejected in [("p", "good, new", "bad, new"), ("q", "good after it", "bad first")]
    ]
    assert (done.looked_at, done.written) == (9, 4)  # a pair is two traces
    assert done.left_out == {PAIRED: 1, SAME: 1, UNPAIRED: 3}


def test_answers_that_wait_for_their_counterpart_are_bounded(
    clean_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MAX_HELD_BYTES", 100)
    clean_store.insert("traces", [trace(name, n) for n, name in enumerate("abcd")], token="t")
    clean_store.insert("judgments", [judgment(name, 1.0) for name in "abcd"], token="j")

    with pytest.raises(
        OperationError, match=r"MAX_HELD_BYTES\); export less at a time: --route, --from and --to"
    ):
        export(clean_store, "trl-preference", judge="good")
