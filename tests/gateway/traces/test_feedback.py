"""What counts of all that is said of a trace: the definition, in Python and in SQL."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.traces.feedback import (
    ANOTHER_CLIENTS,
    IN_FORCE,
    IN_FORCE_SQL,
    REPLACED,
    SAID_SQL,
    belongs,
    in_force,
    standings,
)
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Trace
from tests.support.judging import add, feedback_on
from tests.support.store import a_trace, empty

NOW = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
# Few values, so that traces, clients, sessions, kinds and moments meet; ids beyond ASCII, as SQL sorts by bytes.
_SAID = st.builds(
    Feedback,
    feedback_id=st.text("aZ0-é€😀", min_size=1, max_size=3),
    trace_id=st.sampled_from([None, "t1", "t2", "gone"]),
    session=st.sampled_from([None, "s", "other"]),
    client=st.sampled_from(["web", "app"]),
    kind=st.sampled_from(["rating", "kept"]),
    value=st.just(None),
    text=st.just("x"),
    created_at=st.integers(-2, 2).map(lambda us: NOW + timedelta(microseconds=us)),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_SAID, max_size=12, unique_by=lambda entry: entry.feedback_id), st.randoms())
def test_sql_and_python_agree_on_what_is_in_force_however_rows_arrive(
    clean_store: Store, said: list[Feedback], chance: random.Random
) -> None:
    traces = [
        a_trace(trace_id=trace_id, client="web", session="s", started_at=NOW) for trace_id in ("t1", "t2")
    ]
    empty(clean_store)
    arriving: list[Trace | Feedback] = [*said, *traces]
    chance.shuffle(arriving)
    cut = chance.randint(0, len(arriving))
    add(clean_store, *arriving[:cut])
    add(clean_store, *arriving[cut:])

    scope = "WITH scope AS (SELECT arrayJoin(['t1', 't2']) AS trace_id) "
    rows = clean_store.query(f"{scope} SELECT * FROM ({IN_FORCE_SQL})")
    all_rows = clean_store.query(f"{scope} SELECT trace_id, feedback_id FROM ({SAID_SQL})")

    for trace in traces:
        counting = [entry for entry in said if belongs(entry, trace)]
        ours = [row for row in rows if row["trace_id"] == trace.trace_id]
        assert {row["feedback_id"] for row in all_rows if row["trace_id"] == trace.trace_id} == {
            entry.feedback_id for entry in counting
        }
        assert sorted(row["feedback_id"] for row in ours) == sorted(
            entry.feedback_id for entry in in_force(counting)
        )
        assert all(row["said"] == len(counting) for row in ours)


@given(st.lists(_SAID, unique_by=lambda entry: entry.feedback_id), st.randoms())
def test_one_of_each_kind_is_in_force_the_last_and_the_order_of_arrival_says_nothing(
    said: list[Feedback], chance: random.Random
) -> None:
    found = in_force(said)
    shuffled = list(said)
    chance.shuffle(shuffled)

    assert in_force(shuffled) == found
    assert {entry.kind: entry for entry in found} == {
        kind: max(
            (entry for entry in said if entry.kind == kind),
            key=lambda entry: (entry.created_at, entry.feedback_id),
        )
        for kind in {entry.kind for entry in said}
    }


def test_each_row_that_names_a_trace_is_shown_with_what_it_counts_for(clean_store: Store) -> None:
    trace = a_trace(client="web", session="s", started_at=NOW)
    later = {"created_at": NOW + timedelta(seconds=1)}
    named = {"trace_id": None, "session": "s"}
    add(
        clean_store,
        trace,
        feedback_on(trace, "draft", feedback_id="1", created_at=NOW),
        feedback_on(trace, "final", feedback_id="2", **later),
        feedback_on(trace, "forged", feedback_id="3", client="app", created_at=NOW + timedelta(days=1)),
        feedback_on(trace, "nice", feedback_id="4", kind="comment", **named, **later),
        feedback_on(trace, "of another's session", feedback_id="5", client="app", **named, **later),
        feedback_on(
            trace, "before it began", feedback_id="6", **named, created_at=NOW - timedelta(seconds=1)
        ),
    )
    (row,) = clean_store.query("SELECT * FROM traces")

    assert [(said["text"], said["standing"]) for said in standings(clean_store, row)] == [
        ("draft", REPLACED),
        ("final", IN_FORCE),
        ("nice", IN_FORCE),
        ("forged", ANOTHER_CLIENTS),
    ]
    assert msgspec.convert(row, Trace) == trace
