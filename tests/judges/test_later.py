from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from gateway.config import JudgeConfig
from gateway.traces.store import Store
from gateway.traces.types import Judgment
from judges.definition import definition_of
from judges.executor import executor_of
from judges.load import takes
from judges.once import judge_once
from judges.passes import version_of
from judges.pending import MAX_LATER_TRACES, JudgeVersion, Since, count_pending, pending, store_clock
from judges.rows import load_tasks
from tests.support.judging import ALWAYS, ANY_JUDGE, add, config_with, feedback_on, judged
from tests.support.store import a_trace


def run_once(store: Store, judge: JudgeConfig) -> None:
    config = config_with(judge)
    definition = definition_of(judge)
    with executor_of(config, judge, definition) as executor:
        judge_once(store, executor, version_of(judge, definition), stored=lambda _: None)


def test_a_retry_is_seen_when_it_has_come(clean_store: Store):
    judge = JudgeConfig(name="good", path="builtin:retried", timeout_s=20)
    now = datetime.now(UTC)

    def turn(asked: str, seconds_ago: float) -> str:
        request = f'{{"messages": [{{"role": "user", "content": "{asked}"}}]}}'
        trace = a_trace(session="s", request=request, started_at=now - timedelta(seconds=seconds_ago))
        add(clean_store, trace)
        return trace.trace_id

    first = turn("where is my order", 900)
    run_once(clean_store, judge)
    assert judged(clean_store) == {first: "the last turn of its session so far"}
    second = turn("where is my order?", 850)
    run_once(clean_store, judge)
    assert judged(clean_store) == {first: 0.0, second: "the last turn of its session so far"}
    third = turn("thank you, bye", 800)
    run_once(clean_store, judge)
    assert judged(clean_store) == {first: 0.0, second: 1.0, third: "the last turn of its session so far"}


def test_a_session_that_was_left_is_abandoned(clean_store: Store):
    judge = JudgeConfig(name="good", path="builtin:abandoned", timeout_s=20)
    now = datetime.now(UTC)
    turns = [a_trace(session="s", started_at=now - timedelta(seconds=ago)) for ago in (5000, 4000)]
    fresh = [a_trace(session="t", started_at=now - timedelta(seconds=ago)) for ago in (20, 10)]
    add(clean_store, *turns, *fresh)
    run_once(clean_store, judge)
    assert judged(clean_store) == {turns[0].trace_id: 1.0, turns[1].trace_id: 0.0, fresh[0].trace_id: 1.0}


def test_what_a_judge_takes_is_read_without_running_it(write_judge):
    judge = write_judge("raise SystemExit\ndef good(trace, *, later): ...\ndef other(session): ...\n")
    assert takes(definition_of(judge), "later")
    assert not takes(definition_of(judge), "session")
    assert not takes(definition_of(write_judge("def good(trace, later:\n")), "later")


LATER = JudgeVersion(judge="good", version="v1", later_after_s=60)


def judge_later(store: Store) -> None:
    tasks = load_tasks(store, pending(store, LATER, ALWAYS, limit=100), sessions=False, later=True)
    judgments = [
        Judgment(
            trace_id=task.trace.trace_id,
            judge="good",
            version="v1",
            score=1.0,
            reason="",
            judged_at=datetime.now(UTC),
            feedback_seen=task.feedback_seen,
        )
        for task in tasks
    ]
    store.insert("judgments", judgments, token=os.urandom(8).hex())


def test_a_task_brings_the_turns_after_it_oldest_first(clean_store: Store):
    now = datetime.now(UTC)
    turns = [a_trace(session="s", started_at=now + timedelta(seconds=n)) for n in range(3)]
    failed = a_trace(session="s", started_at=now + timedelta(seconds=9), outcome="timeout")
    stranger = a_trace(session="s", client="other", started_at=now + timedelta(seconds=9))
    add(clean_store, *reversed(turns), failed, stranger)
    tasks = list(load_tasks(clean_store, [turns[2].trace_id, turns[0].trace_id], sessions=False, later=True))
    assert [[turn.trace_id for turn in task.later] for task in tasks] == [
        [],
        [turns[1].trace_id, turns[2].trace_id],
    ]
    assert tasks[1].later[0] == turns[1]


def test_so_many_later_turns_are_shown_and_no_more(clean_store: Store):
    now = datetime.now(UTC) - timedelta(hours=1)
    turns = [a_trace(session="s", started_at=now + timedelta(seconds=n)) for n in range(MAX_LATER_TRACES + 5)]
    add(clean_store, *turns)
    (task,) = load_tasks(clean_store, [turns[0].trace_id], sessions=False, later=True)
    assert len(task.later) == MAX_LATER_TRACES
    judge_later(clean_store)
    assert pending(clean_store, LATER, ALWAYS, limit=100) == []


def test_a_turn_is_judged_again_when_the_session_goes_on(clean_store: Store):
    now = datetime.now(UTC)
    first = a_trace(session="s", started_at=now - timedelta(seconds=300))
    add(clean_store, first, feedback_on(first, "kept"))
    judge_later(clean_store)
    assert pending(clean_store, LATER, ALWAYS, limit=10) == []
    since = Since(store_clock(clean_store))
    second = a_trace(session="s", started_at=now - timedelta(seconds=200))
    add(clean_store, second, a_trace(session="s", client="other", started_at=now))
    assert pending(clean_store, LATER, ALWAYS, limit=10) == [first.trace_id, second.trace_id]
    assert pending(clean_store, LATER, since, limit=10) == [first.trace_id, second.trace_id]
    assert count_pending(clean_store, LATER, ALWAYS) == 2
    assert first.trace_id not in pending(clean_store, ANY_JUDGE, since, limit=10)
    judge_later(clean_store)
    assert pending(clean_store, LATER, ALWAYS, limit=10) == []
    add(clean_store, feedback_on(first, "kept again"))
    assert pending(clean_store, LATER, ALWAYS, limit=10) == [first.trace_id]


def test_the_last_turn_waits_until_its_session_is_over(clean_store: Store):
    now = datetime.now(UTC)
    fresh, over = (
        a_trace(session="s", started_at=now),
        a_trace(session="t", started_at=now - timedelta(seconds=61)),
    )
    add(clean_store, fresh, over)
    assert pending(clean_store, LATER, ALWAYS, limit=10) == [over.trace_id]
