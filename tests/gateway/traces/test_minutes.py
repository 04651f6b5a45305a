"""The per-minute aggregates say what a query over the rows themselves says, whatever was inserted how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.traces.store import Store
from gateway.traces.types import Judgment, Trace
from tests.support.store import a_trace, empty

MINUTE = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)
TRACES_SQL = """
SELECT toStartOfMinute(started_at) AS minute, route, variant, ifNull(t.snapshot, '') AS of_snapshot, outcome,
       count() AS traces, countIf(isNotNull(t.tokens_in) AND isNotNull(t.tokens_out)) AS counted,
       sum(ifNull(t.tokens_in, 0)) AS tokens_in, sum(ifNull(t.tokens_cached, 0)) AS tokens_cached,
       sum(ifNull(t.tokens_out, 0)) AS tokens_out, countIf(isNotNull(t.cost_usd)) AS priced,
       round(sum(ifNull(t.cost_usd, 0)), 6) AS cost_usd
FROM traces AS t GROUP BY ALL ORDER BY ALL
"""
MINUTES_SQL = """
SELECT minute, route, variant, snapshot AS of_snapshot, outcome,
       sum(m.traces) AS traces, sum(m.counted) AS counted, sum(m.tokens_in) AS tokens_in,
       sum(m.tokens_cached) AS tokens_cached, sum(m.tokens_out) AS tokens_out, sum(m.priced) AS priced,
       round(sum(m.cost_usd), 6) AS cost_usd
FROM traces_by_minute AS m GROUP BY ALL ORDER BY ALL
"""
JUDGED_SQL = """
SELECT toStartOfMinute(started_at) AS minute, route, variant, ifNull(j.snapshot, '') AS of_snapshot, judge, version,
       count() AS judgments, count(score) AS scored, round(sum(ifNull(score, 0)), 6) AS score_sum,
       count(j.cost_usd) AS priced, round(sum(ifNull(j.cost_usd, 0)), 6) AS usd
FROM judgments AS j GROUP BY ALL ORDER BY ALL
"""
JUDGED_MINUTES_SQL = """
SELECT minute, route, variant, snapshot AS of_snapshot, judge, version,
       m.judgments AS judgments, m.scored AS scored, round(m.score_sum, 6) AS score_sum,
       m.priced AS priced, round(m.cost_usd, 6) AS usd
FROM judgments_by_minute AS m ORDER BY ALL
"""

traces = st.builds(
    lambda minutes, **changes: a_trace(started_at=MINUTE + timedelta(seconds=20 * minutes), **changes),
    st.integers(0, 8),
    route=st.sampled_from(["a", "b"]),
    variant=st.sampled_from(["stable", "canary"]),
    snapshot=st.sampled_from([None, "s-1"]),
    outcome=st.sampled_from(["ok", "timeout"]),
    tokens_in=st.sampled_from([None, 0, 7]),
    tokens_cached=st.sampled_from([None, 3]),
    tokens_out=st.sampled_from([None, 5]),
    cost_usd=st.sampled_from([None, 0.25]),
)
batches = st.lists(st.lists(traces, min_size=1, max_size=6), min_size=1, max_size=3)
on_one_store = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def judgment_of(trace: Trace, score: float | None, at_s: int, version: str = "v") -> Judgment:
    return Judgment(
        trace_id=trace.trace_id,
        judge="j",
        version=version,
        score=score,
        reason="",
        judged_at=MINUTE + timedelta(days=9 * at_s),
        started_at=trace.started_at,
        route=trace.route,
        variant=trace.variant,
        snapshot=trace.snapshot,
        cost_usd=None if at_s % 2 else 0.125,
    )


@on_one_store
@given(batches, st.lists(st.integers(0, 2), max_size=4))
def test_traces_are_counted_once_however_often_their_insert_is_repeated(
    clean_store: Store, batches: list[list[Trace]], repeated: list[int]
) -> None:
    empty(clean_store)
    for number, batch in enumerate(batches):
        clean_store.insert("traces", batch, token=str(number))
    for number in repeated:
        if number < len(batches):
            clean_store.insert("traces", batches[number], token=str(number))

    counted = clean_store.query(MINUTES_SQL)
    assert counted == clean_store.query(TRACES_SQL)
    assert sum(row["traces"] for row in counted) == sum(len(batch) for batch in batches)


@on_one_store
@given(
    st.lists(traces, min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([None, 0.0, 0.25, 1.0]), st.sampled_from(["v", "w"])),
        min_size=1,
        max_size=5,
    ),
)
def test_a_judgment_that_replaces_another_is_counted_in_its_place(
    clean_store: Store, traces: list[Trace], verdicts: list[tuple[int, float | None, str]]
) -> None:
    empty(clean_store)
    clean_store.insert("traces", traces, token="t")
    for at_s, (number, score, version) in enumerate(verdicts):
        said = judgment_of(traces[number % len(traces)], score, at_s, version)
        clean_store.insert("judgments", [said], token=f"{at_s}")
        clean_store.insert("judgments", [said], token=f"{at_s} again, from a process that did not know")

    counted = clean_store.query(JUDGED_MINUTES_SQL)
    assert counted == clean_store.query(JUDGED_SQL)
    judged = {(number % len(traces), version) for number, _, version in verdicts}
    assert sum(row["judgments"] for row in counted) == len(judged)


def test_the_latest_judgment_counts_in_whatever_order_they_arrive(clean_store: Store) -> None:
    trace = a_trace(started_at=MINUTE)
    for at_s in (1, 2, 0):
        clean_store.insert("judgments", [judgment_of(trace, at_s / 2, at_s)], token=f"{at_s}")
    for _ in range(2):
        (row,) = clean_store.query("SELECT judgments, scored, score_sum FROM judgments_by_minute")
        assert row == {"judgments": 1, "scored": 1, "score_sum": 1.0}
        clean_store.command("OPTIMIZE TABLE judged_minutes FINAL")


def test_a_judgment_whose_trace_is_not_known_is_in_no_minute(clean_store: Store) -> None:
    stray = Judgment(trace_id="t", judge="j", version="v", score=1, reason="", judged_at=MINUTE)
    clean_store.insert("judgments", [stray], token="j")

    assert clean_store.query("SELECT * FROM judgments_by_minute") == []


@pytest.mark.parametrize("column", ["latency_ms", "ttft_ms"])
def test_latencies_merge_over_minutes_into_their_quantiles(clean_store: Store, column: str) -> None:
    values = [float(n) for n in range(1, 102)]
    for start in range(0, 101, 20):
        some = [
            a_trace(started_at=MINUTE + timedelta(minutes=n % 3), **{column: values[n]})
            for n in range(start, min(start + 20, 101))
        ]
        clean_store.insert("traces", some, token=str(start))

    merged: Any = clean_store.query(
        f"SELECT quantilesTDigestMerge(0.5, 0.95, 0.99)({column}) AS q FROM traces_by_minute"
    )[0]["q"]
    assert list(merged) == pytest.approx([51, 96, 100], abs=1)
