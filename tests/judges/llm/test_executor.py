"""An executor of models: together but bounded, in order, and nothing is left of it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import pytest

from gateway.config import Member
from gateway.config.judges import JudgeLimits
from gateway.traces.markers import ERASED, ERASED_REASON
from judges.definition import definition_of
from judges.errors import JudgeUpstreamError
from judges.evaluate import evaluate_answers
from judges.executor import executor_of
from judges.llm.fence import MAX_SHOWN_CHARS
from judges.trace import trace_from
from judges.wire import Task
from tests.support.asking import a_config, a_judge, a_route, a_task, said, user_text, verdicts
from tests.support.judging import wait_for
from tests.support.upstream import Received, Reply, ScriptedUpstream, answers, answers_status, hangs

ONE = 'task: t\ncriteria: [{name: one, question: "Is it good?"}]\n'


def test_answers_come_in_the_order_of_the_traces_whatever_takes_longer(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async def script(received: Received, reply: Reply) -> None:
        even = '"answer":"0' in user_text(received)
        await reply.pause(0.1 if even else 0)
        await answers(said("yes" if even else "no"))(received, reply)

    upstream.default = script
    judge = a_judge(tmp_path, rubric_text=ONE, limits=JudgeLimits(concurrent=4))
    tasks = [a_task(f"{number % 2} is the answer") for number in range(12)]

    assert [answer.score for answer in verdicts(a_config(upstream.base_url), judge, *tasks)] == [1.0, 0.0] * 6


@pytest.mark.parametrize("concurrent", [1, 3])
def test_at_most_so_many_calls_are_in_flight(
    tmp_path: Path, upstream: ScriptedUpstream, concurrent: int
) -> None:
    flying, most = 0, 0

    async def script(received: Received, reply: Reply) -> None:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await reply.pause(0.02)
        flying -= 1
        await answers(said("yes"))(received, reply)

    upstream.default = script
    judge = a_judge(tmp_path, limits=JudgeLimits(concurrent=concurrent))
    verdicts(a_config(upstream.base_url), judge, *[a_task() for _ in range(9)])

    assert most == concurrent


def test_tasks_are_drawn_as_needed_and_stop_ends_it_soon(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.default = hangs()
    judge = a_judge(tmp_path, limits=JudgeLimits(concurrent=2))
    drawn: list[Task] = []
    stop = threading.Event()

    def tasks():
        while True:
            drawn.append(a_task())
            yield drawn[-1]

    with executor_of(a_config(upstream.base_url), judge, definition_of(judge)) as executor:
        threading.Timer(0.3, stop.set).start()
        started = time.monotonic()
        assert list(executor.judge(tasks(), stop.is_set)) == []
        assert time.monotonic() - started < 5
        assert len(drawn) == 2
        wait_for(lambda: all(received.disconnected.is_set() for received in upstream.received))


def test_nothing_is_left_running_and_it_can_be_started_again(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    judge = a_judge(tmp_path)
    executor = executor_of(a_config(upstream.base_url), judge, definition_of(judge))
    for _ in range(2):
        assert [answer.score for answer in executor.judge([a_task()])] == [1.0]
        executor.close()
        assert [thread for thread in threading.enumerate() if thread.name.startswith("asking-")] == []
        wait_for(lambda: upstream.open_connections == 0)
    executor.close()


def test_a_trace_has_its_time_and_what_it_cost_until_then_counts(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.then(answers(said("yes")), hangs(), answers(said("yes")), answers(said("yes")))
    judge = a_judge(tmp_path, timeout_s=0.5)
    slow, fine = verdicts(a_config(upstream.base_url), judge, a_task(), a_task())

    assert (slow.score, slow.tokens_in) == (None, 11)
    assert slow.reason == "took longer than 0.5 s; timeout_s raises the bound"
    assert fine.score == 1.0


def test_a_refused_key_ends_the_pass_with_what_was_judged_before_it(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.then(answers(said("yes")), answers(said("yes")))
    upstream.default = answers_status(401)
    judge = a_judge(tmp_path)
    with executor_of(a_config(upstream.base_url), judge, definition_of(judge)) as executor:
        found = executor.judge([a_task() for _ in range(9)])
        assert next(found).score == 1.0
        with pytest.raises(JudgeUpstreamError):
            next(found)
    assert len(upstream.received) == 3


def test_after_a_refused_key_nothing_more_is_asked_though_an_earlier_trace_is_still_waited_for(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async def slow(received: Received, reply: Reply) -> None:
        while len(upstream.received) < 2:
            await reply.pause(0.01)
        await reply.pause(0.5)  # the other one is refused long before
        await answers(said("yes"))(received, reply)

    upstream.then(slow)
    upstream.default = answers_status(401)
    judge = a_judge(tmp_path, rubric_text=ONE, limits=JudgeLimits(concurrent=2))
    with executor_of(a_config(upstream.base_url), judge, definition_of(judge)) as executor:
        found = executor.judge([a_task() for _ in range(9)])
        with pytest.raises(JudgeUpstreamError):
            list(found)
    assert len(upstream.received) == 2


def test_erased_and_unreadable_traces_are_shown_to_nobody(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    task = a_task()
    erased = msgspec.structs.replace(task, trace=msgspec.structs.replace(task.trace, response=ERASED))
    broken = msgspec.structs.replace(task, trace=msgspec.structs.replace(task.trace, response="{"))
    found = verdicts(a_config(upstream.base_url), a_judge(tmp_path), erased, broken)

    assert [answer.reason for answer in found] == [ERASED_REASON, "the trace's bodies are not JSON of text"]
    assert upstream.received == []


def test_a_giant_answer_is_an_abstention_and_not_cut(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    (answer,) = verdicts(a_config(upstream.base_url), a_judge(tmp_path), a_task("a" * (MAX_SHOWN_CHARS + 1)))

    assert answer.score is None
    assert f"more than {MAX_SHOWN_CHARS}" in answer.reason
    assert upstream.received == []


PRIVATE = [a_route("secret", private=True), a_route("route")]


def test_text_of_a_private_route_goes_to_no_upstream_that_is_not_trusted(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    config, judge = a_config(upstream.base_url, routes=PRIVATE), a_judge(tmp_path)
    refused, gone, fine = verdicts(config, judge, a_task(route="secret"), a_task(route="removed"), a_task())

    assert refused.score is None
    assert "'secret' is private" in refused.reason
    assert "'judging', which is not trusted" in refused.reason
    assert "'removed' is not in the configuration" in gone.reason
    assert fine.score == 1.0
    assert len(upstream.received) == 2


def test_a_session_with_a_private_turn_is_private(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    config, judge = a_config(upstream.base_url, routes=PRIVATE), a_judge(tmp_path, of="session")
    task = msgspec.structs.replace(a_task(), session=[a_task(route="secret").trace])
    (refused,) = verdicts(config, judge, task)

    assert "'secret' is private" in refused.reason
    assert upstream.received == []


@pytest.mark.parametrize("kind", ["llm", "pairwise", "embedding", "jury"])
def test_every_kind_of_judge_that_asks_is_bound_and_a_trusted_upstream_is_shown_all(
    tmp_path: Path, upstream: ScriptedUpstream, kind: str
) -> None:
    alone = kind != "jury"
    changes = (
        {}
        if alone
        else {"upstream": None, "model": None, "members": [Member(upstream="judging", model="m")] * 2}
    )
    judge = a_judge(tmp_path, kind=kind, **changes)
    task = a_task(route="secret", kept="Another answer.")
    (refused,) = verdicts(a_config(upstream.base_url, routes=PRIVATE), judge, task)
    assert "'secret' is private" in refused.reason
    assert upstream.received == []

    verdicts(a_config(upstream.base_url, routes=PRIVATE, trusted=True), judge, task)
    assert upstream.received


def test_a_session_is_shown_turn_by_turn(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    judge = a_judge(tmp_path, of="session", rubric_text=ONE)
    task = msgspec.structs.replace(a_task("The second."), session=[a_task("The first.", trace_id="1").trace])
    with executor_of(a_config(upstream.base_url), judge, definition_of(judge)) as executor:
        executor.start()
        assert "session" in executor.parameters
        assert [answer.score for answer in executor.judge([task])] == [1.0]

    shown = user_text(upstream.received[0])
    assert shown.index("The first.") < shown.index("The second.")


def test_answers_that_are_not_stored_are_judged_by_models_too(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    judge = a_judge(tmp_path)
    (judgment,) = evaluate_answers(a_config(upstream.base_url), judge, [trace_from(answer="yes")])

    assert (judgment.score, judgment.version) == (1.0, definition_of(judge).version)
    assert judgment.tokens_in == 22
    assert '"polite"' in judgment.detail
