from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.batches import cut
from gateway.traces.store import Store
from judges.pending import (
    MAX_FEEDBACK,
    JudgeVersion,
    Since,
    Window,
    arrivals,
    count_pending,
    due,
    merge_hours,
    pending,
    store_clock,
    windows,
)
from judges.rows import BATCH_BYTES, Known, load_tasks
from tests.support.judging import ALWAYS, add, feedback_on, judge_all, some_traces, store_verdicts
from tests.support.judging import ANY_JUDGE as ANY
from tests.support.store import a_trace


def test_a_trace_is_pending_until_this_version_of_this_judge_has_judged_it(clean_store: Store):
    first, second = some_traces(2)
    add(clean_store, first)
    assert pending(clean_store, ANY, ALWAYS, limit=10) == [first.trace_id]
    judge_all(clean_store)
    assert pending(clean_store, ANY, ALWAYS, limit=10) == []
    add(clean_store, second)
    assert pending(clean_store, ANY, ALWAYS, limit=10) == [second.trace_id]
    for other in (JudgeVersion(judge="good", version="v2"), JudgeVersion(judge="other", version="v1")):
        assert pending(clean_store, other, ALWAYS, limit=10) == [first.trace_id, second.trace_id]


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "truncated"},
        {"outcome": "upstream_error"},
        {"request": None},
        {"response": None},
        {"endpoint": "/v1/embeddings"},
    ],
)
def test_what_is_no_whole_answer_is_never_pending(clean_store: Store, changes):
    add(clean_store, a_trace(**changes))
    assert pending(clean_store, ANY, ALWAYS, limit=10) == []
    assert windows(clean_store, ANY) == []


def test_a_judge_of_some_routes_is_asked_about_no_other(clean_store: Store):
    mine, other = a_trace(route="mine"), a_trace(route="other")
    add(clean_store, mine, other)
    judge = JudgeVersion(judge="good", version="v1", routes=("mine",))
    assert pending(clean_store, judge, ALWAYS, limit=10) == [mine.trace_id]


def test_feedback_that_comes_later_makes_a_trace_pending_once(clean_store: Store):
    trace, other = some_traces(2)
    add(clean_store, trace, other)
    judge_all(clean_store)
    add(clean_store, feedback_on(trace, "kept"))
    assert pending(clean_store, ANY, ALWAYS, limit=10) == [trace.trace_id]
    judge_all(clean_store)
    assert pending(clean_store, ANY, ALWAYS, limit=10) == []


def test_a_later_word_of_the_same_kind_makes_a_trace_pending_and_is_what_a_judge_is_shown(clean_store: Store):
    trace = a_trace()
    add(clean_store, trace)
    for word in [str(n) for n in range(MAX_FEEDBACK + 2)][:: MAX_FEEDBACK // 3]:
        add(clean_store, feedback_on(trace, word))
        (task,) = load_tasks(clean_store, [trace.trace_id], sessions=False)
        assert [entry.text for entry in task.feedback] == [word]
        assert pending(clean_store, ANY, ALWAYS, limit=10) == [trace.trace_id]
        judge_all(clean_store)
        assert pending(clean_store, ANY, ALWAYS, limit=10) == []


def test_an_earlier_word_that_arrives_later_is_judged_and_changes_nothing(clean_store: Store):
    trace = a_trace()
    now = datetime.now(UTC)
    add(clean_store, trace, feedback_on(trace, "final", created_at=now))
    judge_all(clean_store)
    add(clean_store, feedback_on(trace, "first draft", created_at=now - timedelta(days=2)))
    assert pending(clean_store, ANY, ALWAYS, limit=10) == [trace.trace_id]
    (task,) = load_tasks(clean_store, [trace.trace_id], sessions=False)
    assert [entry.text for entry in task.feedback] == ["final"]


def test_feedback_that_came_before_its_trace_counts_and_another_clients_does_not(clean_store: Store):
    trace = a_trace(client="web", session="s")
    early = {"created_at": trace.started_at - timedelta(seconds=1)}
    add(
        clean_store,
        feedback_on(trace, "ours", **early),
        feedback_on(trace, "theirs", client="other"),
        feedback_on(trace, "theirs", client="other", trace_id=None, session="s"),
    )
    add(clean_store, trace)
    (task,) = load_tasks(clean_store, [trace.trace_id], sessions=False)
    assert [entry.text for entry in task.feedback] == ["ours"]


def test_feedback_on_a_session_belongs_to_its_traces_that_had_started(clean_store: Store):
    now = datetime.now(UTC)
    before, after = (a_trace(session="s", started_at=now + timedelta(seconds=at)) for at in (-5, 5))
    add(clean_store, before, after)
    judge_all(clean_store)
    add(clean_store, feedback_on(before, "kept", trace_id=None, session="s", created_at=now))
    assert pending(clean_store, ANY, ALWAYS, limit=10) == [before.trace_id]


@pytest.mark.parametrize("by_session", [False, True])
def test_feedback_of_another_client_does_not_count(clean_store: Store, by_session: bool):
    trace = a_trace(client="web", session="s")
    named = {"trace_id": None, "session": "s"} if by_session else {}
    add(clean_store, trace, feedback_on(trace, "theirs", client="other", **named))
    (task,) = load_tasks(clean_store, [trace.trace_id], sessions=False)
    assert task.feedback == []
    judge_all(clean_store)
    assert pending(clean_store, ANY, ALWAYS, limit=10) == []


def test_more_feedback_than_a_judge_is_shown_does_not_keep_a_trace_pending(clean_store: Store):
    trace = a_trace()
    add(clean_store, trace, *[feedback_on(trace, "x", kind=str(n)) for n in range(MAX_FEEDBACK + 5)])
    (task,) = load_tasks(clean_store, [trace.trace_id], sessions=False)
    assert (len(task.feedback), task.feedback_seen) == (MAX_FEEDBACK, MAX_FEEDBACK + 5)
    judge_all(clean_store)
    assert pending(clean_store, ANY, ALWAYS, limit=10) == []


def test_windows_cover_all_that_is_pending_and_nothing_twice(clean_store: Store):
    day = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    traces = [a_trace(started_at=day + timedelta(hours=hour)) for hour in (0, 0, 1, 7, 400)]
    add(clean_store, *traces)
    found = windows(clean_store, ANY)
    ids = [trace_id for window in found for trace_id in pending(clean_store, ANY, window, limit=10)]
    assert sorted(ids) == sorted(trace.trace_id for trace in traces)
    assert sum(count_pending(clean_store, ANY, window) for window in found) == len(traces)


def test_new_traces_and_new_feedback_on_old_ones_are_found_by_when_they_arrived(clean_store: Store):
    old, quiet, in_session = some_traces(3)
    add(clean_store, old, quiet, in_session)
    judge_all(clean_store)
    # stored_at has milliseconds: what comes next is later by more.
    now = store_clock(clean_store) + timedelta(milliseconds=2)
    while store_clock(clean_store) <= now:
        pass
    fresh = a_trace()
    add(
        clean_store,
        fresh,
        feedback_on(old, "kept"),
        feedback_on(in_session, "kept", trace_id=None, session=in_session.session),
    )
    expected = {fresh.trace_id, old.trace_id, in_session.trace_id}
    assert set(pending(clean_store, ANY, Since(now), limit=10)) == expected
    counted = arrivals(clean_store, now)
    assert (counted.traces, counted.feedback) == (1, 2)
    clean_store.command("TRUNCATE TABLE judgments")
    assert set(pending(clean_store, ANY, Since(now), limit=10)) == expected


def test_a_task_brings_the_session_so_far_oldest_first(clean_store: Store):
    now = datetime.now(UTC)
    turns = [a_trace(session="s", started_at=now + timedelta(seconds=n)) for n in range(4)]
    failed = a_trace(session="s", started_at=now, outcome="timeout")
    stranger = a_trace(session="s", client="other", started_at=now)
    add(clean_store, *turns, failed, stranger)
    tasks = list(load_tasks(clean_store, [turns[2].trace_id, turns[0].trace_id], sessions=True))
    assert [[turn.trace_id for turn in task.session] for task in tasks] == [
        [turns[0].trace_id, turns[1].trace_id],
        [],
    ]


def test_a_stored_trace_comes_back_as_it_was(clean_store: Store):
    trace = a_trace(stream=True, tags={"a": "b"}, ttft_ms=1.5, usage="{}", subject="me", session="ü\n")
    note = feedback_on(trace, "kept")
    add(clean_store, trace, note)
    (task,) = load_tasks(clean_store, ["gone", trace.trace_id], sessions=False)
    assert task.trace == trace
    assert [entry.feedback_id for entry in task.feedback] == [note.feedback_id]
    assert task.feedback[0].created_at == note.created_at


@pytest.mark.parametrize("most", [2_000, 100_000, 10**9])
def test_small_and_large_bodies_come_in_the_order_asked_for_however_they_are_fetched(
    clean_store: Store, monkeypatch: pytest.MonkeyPatch, most: int
):
    monkeypatch.setattr("judges.rows.BATCH_BYTES", most)
    monkeypatch.setattr("judges.rows.BATCH_TRACES", 20)
    monkeypatch.setattr("judges.rows.FIRST_BATCH_TRACES", 3)
    traces = [a_trace(response='{"text": "%s"}' % ("x" * (7_000 * (n % 3)))) for n in range(50)]
    add(clean_store, *traces)
    asked = [trace.trace_id for trace in traces[::-1]]
    found = [task.trace for task in load_tasks(clean_store, [*asked, "gone"], sessions=False)]
    assert found == traces[::-1]


def test_what_was_said_since_a_trace_was_found_due_makes_it_due_again(clean_store: Store):
    quiet, rated = some_traces(2)
    add(clean_store, quiet, rated, feedback_on(rated, "kept"))
    found = due(clean_store, ANY, ALWAYS, limit=10)
    assert [(trace.trace_id, trace.said) for trace in found] == [
        (quiet.trace_id, False),
        (rated.trace_id, True),
    ]
    add(clean_store, feedback_on(quiet, "late"))
    known = Known(quiet.started_at, rated.started_at, frozenset({quiet.trace_id}))
    tasks = list(load_tasks(clean_store, [quiet.trace_id, rated.trace_id], sessions=False, known=known))
    assert [(task.feedback_seen, len(task.feedback)) for task in tasks] == [(0, 0), (1, 1)]
    store_verdicts(clean_store, ANY, tasks)
    assert pending(clean_store, ANY, ALWAYS, limit=10) == [quiet.trace_id]


def test_the_latest_can_be_asked_for_first(clean_store: Store):
    traces = some_traces(4)
    add(clean_store, *traces)
    found = due(clean_store, ANY, ALWAYS, limit=2, latest_first=True)
    assert [trace.trace_id for trace in found] == [traces[3].trace_id, traces[2].trace_id]


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 50)), unique_by=lambda hour: hour[0]),
    st.integers(1, 100),
)
def test_every_hour_lies_in_one_window_and_windows_keep_to_the_limit(
    hours: list[tuple[int, int]], limit: int
):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    given_hours = [(start + timedelta(hours=hour), count) for hour, count in sorted(hours, reverse=True)]
    merged: list[Window] = merge_hours(given_hours, limit=limit)
    for hour, _ in given_hours:
        assert sum(window.start <= hour < window.end for window in merged) == 1
    for window in merged:
        counts = [count for hour, count in given_hours if window.start <= hour < window.end]
        assert sum(counts) <= limit or len(counts) == 1


@given(st.lists(st.integers(0, BATCH_BYTES)), st.integers(1, 5))
def test_batches_keep_the_order_and_both_bounds(sizes: list[int], limit: int):
    sized = [(str(index), size) for index, size in enumerate(sizes)]
    batches = list(cut(sized, most_bytes=BATCH_BYTES, limit=limit))
    assert [trace_id for batch in batches for trace_id in batch] == [trace_id for trace_id, _ in sized]
    for batch in batches:
        assert len(batch) <= limit
        assert sum(sizes[int(trace_id)] for trace_id in batch) <= BATCH_BYTES
