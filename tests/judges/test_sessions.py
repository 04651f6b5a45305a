from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.config import JudgeConfig
from gateway.traces.store import Store
from gateway.traces.types import Trace
from judges.coverage import coverage, latest_traces
from judges.credit import ELSEWHERE, NOT_SHOWN
from judges.definition import definition_of
from judges.executor import executor_of
from judges.once import count_left, judge_once
from judges.passes import Tally, version_of
from judges.pending import JudgeVersion, pending
from judges.rows import MAX_SESSION_TRACES
from tests.support.judging import ALWAYS, ANY_CONFIG, add, feedback_on, judged, wait_for
from tests.support.store import a_trace

LENGTH = "def good(session):\n    return min(1.0, len(session) / 10)\n"
IDLE_S = 60.0
START = datetime.now(UTC) - timedelta(days=1)


def turns(count: int, *, session: str = "s", start: datetime = START, **changes: Any) -> list[Trace]:
    return [
        a_trace(session=session, started_at=start + timedelta(seconds=n), **changes) for n in range(count)
    ]


def of_session(judge: JudgeConfig) -> JudgeVersion:
    return version_of(judge, definition_of(judge))


def judge_now(store: Store, judge: JudgeConfig) -> Tally:
    version = of_session(judge)
    with executor_of(ANY_CONFIG, judge, definition_of(judge)) as executor:
        return judge_once(store, executor, version, stored=lambda _: None)


def ordered(store: Store, rows: Sequence[Trace]) -> list[float | str]:
    found = judged(store)
    return [found[row.trace_id] for row in rows]


@pytest.fixture
def write(write_judge):
    def write(source: str = LENGTH, rule: str = "all", **settings: Any) -> JudgeConfig:
        judge: JudgeConfig = write_judge(
            source, of="session", credit={"rule": rule, "gamma": 0.5}, session_idle_s=IDLE_S, **settings
        )
        return judge

    return write


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("last", [ELSEWHERE, ELSEWHERE, 0.3]),
        ("all", [0.3, 0.3, 0.3]),
        ("discounted", [0.075, 0.15, 0.3]),
    ],
)
def test_a_session_is_judged_once_and_its_turns_get_what_the_rule_says(
    clean_store: Store, write, rule: str, expected: list
):
    session = turns(3)
    add(clean_store, *session)
    judge = write(rule=rule)
    assert count_left(clean_store, of_session(judge)) == 3
    assert judge_now(clean_store, judge).total == 3
    assert ordered(clean_store, session) == [
        pytest.approx(e) if isinstance(e, float) else e for e in expected
    ]
    assert count_left(clean_store, of_session(judge)) == 0
    assert judge_now(clean_store, judge).total == 0
    found = coverage(clean_store, of_session(judge))
    assert (found.traces, found.judged + found.abstained) == (3, 3)


def test_a_session_waits_until_nothing_was_added_for_a_while(clean_store: Store, write):
    now = datetime.now(UTC)
    over = turns(2, session="over")
    talking = [*turns(2, session="talking"), a_trace(session="talking", started_at=now)]
    failing = [*turns(2, session="failing"), a_trace(session="failing", started_at=now, outcome="timeout")]
    add(clean_store, *over, *talking, *failing)
    judge = write()
    assert pending(clean_store, of_session(judge), ALWAYS, limit=10) == [over[-1].trace_id]
    assert judge_now(clean_store, judge).total == 2
    assert judged(clean_store).keys() == {trace.trace_id for trace in over}


def test_a_session_that_goes_on_is_judged_again_as_a_whole(clean_store: Store, write):
    session = turns(4)
    judge = write(rule="last")
    add(clean_store, *session[:2])
    judge_now(clean_store, judge)
    assert ordered(clean_store, session[:2]) == [ELSEWHERE, 0.2]
    add(clean_store, *session[2:])
    judge_now(clean_store, judge)
    assert ordered(clean_store, session) == [ELSEWHERE, ELSEWHERE, ELSEWHERE, 0.4]


def test_another_version_judges_it_again_and_feedback_on_any_turn_does_too(clean_store: Store, write):
    session = turns(2)
    add(clean_store, *session)
    rated = (
        "def good(session, feedback, trace):\n"
        "    assert trace is session[-1]\n"
        "    return [f.value for f in feedback] == [0.5, 1.0] and session[0].feedback[0].value == 0.5\n"
    )
    judge = write(rated)
    judge_now(clean_store, judge)
    assert ordered(clean_store, session) == [0.0, 0.0]
    add(clean_store, feedback_on(session[0], None, kind="rating", value=0.5, created_at=START))
    whole = feedback_on(session[0], None, trace_id=None, session="s", kind="rating", value=1.0)
    add(clean_store, whole)
    assert count_left(clean_store, of_session(judge)) == 2
    judge_now(clean_store, judge)
    assert count_left(clean_store, of_session(judge)) == 0


def test_feedback_of_all_turns_is_shown_and_what_was_said_of_the_session_once(clean_store: Store, write):
    first, second = session = turns(2)
    add(clean_store, *session)
    add(clean_store, feedback_on(first, "mine", created_at=START + timedelta(seconds=5)))
    add(
        clean_store,
        feedback_on(
            second,
            None,
            trace_id=None,
            session="s",
            kind="rating",
            value=1.0,
            created_at=START + timedelta(9),
        ),
    )
    judge = write(
        "def good(session, feedback):\n"
        "    return [f.kind for f in feedback] == ['kept', 'rating'] and session[0].kept == 'mine' "
        "and [f.kind for f in session[1].feedback] == ['rating']\n"
    )
    judge_now(clean_store, judge)
    assert ordered(clean_store, session) == [1.0, 1.0]


def test_an_abstention_is_every_turns_and_a_faulty_judge_is_one(clean_store: Store, write):
    session = turns(3)
    add(clean_store, *session)
    judge_now(clean_store, write("def good(session):\n    raise KeyError('x')\n", rule="discounted"))
    assert ordered(clean_store, session) == ["raised KeyError: 'x' (good.py:2)"] * 3


def test_other_clients_routes_and_failed_turns_are_no_part_of_it(clean_store: Store, write):
    mine = turns(2, client="web", route="mine")
    other = [
        *turns(3, client="other", route="mine", start=START + timedelta(hours=1)),
        *turns(2, client="web", route="another"),
        *turns(1, client="web", route="mine", outcome="truncated"),
    ]
    add(clean_store, *mine, *other)
    judge_now(clean_store, write(routes=["mine"]))
    assert ordered(clean_store, mine) == [0.2, 0.2]
    assert ordered(clean_store, other[:3]) == [0.3] * 3
    assert len(judged(clean_store)) == 5


def test_a_long_session_is_shown_by_its_latest_turns_and_the_others_are_settled(clean_store: Store, write):
    session = turns(MAX_SESSION_TRACES + 7)
    add(clean_store, *session)
    judge = write(f"def good(session):\n    return len(session) == {MAX_SESSION_TRACES}\n")
    judge_now(clean_store, judge)
    assert ordered(clean_store, session) == [NOT_SHOWN] * 7 + [1.0] * MAX_SESSION_TRACES
    assert count_left(clean_store, of_session(judge)) == 0


def test_sessions_over_several_windows_are_judged_once_each(
    clean_store: Store, write, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("judges.pending.WINDOW_TRACES", 2)
    sessions = [
        [a_trace(session=f"s{s}", started_at=START - timedelta(hours=3 * turn + s)) for turn in range(4)]
        for s in range(3)
    ]
    add(clean_store, *itertools.chain.from_iterable(sessions))
    judge = write()
    assert count_left(clean_store, of_session(judge)) == 12
    assert judge_now(clean_store, judge).total == 12
    assert set(judged(clean_store).values()) == {0.4}


def test_what_a_session_cost_is_counted_once(clean_store: Store, write):
    session = turns(3)
    add(clean_store, *session)
    judge_now(clean_store, write())
    rows = clean_store.query("SELECT trace_id FROM judgments WHERE seconds IS NOT NULL AND seconds > 0")
    assert [row["trace_id"] for row in rows] == [session[-1].trace_id]


def test_trying_a_judge_of_sessions_takes_the_latest_sessions(clean_store: Store, write):
    first, second = turns(3, session="a"), turns(2, session="b", start=START + timedelta(hours=1))
    add(clean_store, *first, *second)
    found = latest_traces(clean_store, of_session(write()), limit=5)
    assert found == [second[-1].trace_id, first[-1].trace_id]


def test_the_runner_judges_a_session_as_soon_as_it_is_over_and_again_when_it_went_on(
    clean_store: Store, write_judge, judges_config, start_runner
):
    judge = write_judge(LENGTH, of="session", credit={"rule": "all"}, session_idle_s=1.5)
    session = os.urandom(4).hex()
    start_runner(judges_config(judge))
    first = a_trace(session=session)
    add(clean_store, first)
    wait_for(lambda: judged(clean_store) == {first.trace_id: 0.1})
    second = a_trace(session=session)
    add(clean_store, second)
    wait_for(lambda: judged(clean_store) == {first.trace_id: 0.2, second.trace_id: 0.2})
