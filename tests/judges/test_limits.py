from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from gateway.config.judges import JudgeLimits
from gateway.traces.store import Store
from gateway.traces.types import Judgment
from judges.budget import Budget
from judges.once import judge_once
from judges.passes import judge_traces
from judges.pending import due
from judges.wire import Answer, Task
from tests.judges.test_cli import tracetune
from tests.support.judging import ALWAYS, ANY_JUDGE, YES, add, judged, some_traces, wait_for


class Dear(contextlib.AbstractContextManager["Dear"]):
    """An executor whose every answer costs half a dollar."""

    parameters = ("trace",)

    def __init__(self) -> None:
        self.asked_at: list[float] = []

    def start(self, within_s: float = 1.0) -> None:
        pass

    def judge(self, tasks: Iterable[Task], stop: Callable[[], bool] = lambda: False) -> Iterator[Answer]:
        for _ in tasks:
            if stop():
                return
            self.asked_at.append(time.monotonic())
            yield Answer(score=1.0, reason="", seconds=0.1, cost_usd=0.5, tokens_in=10, tokens_out=1)

    def close(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.close()


def spent_today(store: Store, usd: float) -> None:
    """By a judge named good, on a trace that is not there any more."""
    row = Judgment(
        trace_id="gone",
        judge="good",
        version="v0",
        score=1.0,
        reason="",
        judged_at=datetime.now(UTC),
        cost_usd=usd,
    )
    store.insert("judgments", [row], token=f"{usd}{time.time_ns()}")


def test_a_judge_stops_where_the_money_of_the_day_is_spent_and_goes_on_the_next_day(clean_store: Store):
    add(clean_store, *some_traces(10))
    now = datetime.now(UTC)
    budget = Budget("good", JudgeLimits(usd_per_day=2.0), clock=lambda: now)
    done = judge_once(clean_store, Dear(), ANY_JUDGE, stored=lambda _: None, budget=budget)
    assert (done.total, budget.exhausted(), len(judged(clean_store))) == (4, True, 4)
    again = Budget("good", JudgeLimits(usd_per_day=2.0), clock=lambda: now)
    assert judge_once(clean_store, Dear(), ANY_JUDGE, stored=lambda _: None, budget=again).total == 0
    now += timedelta(days=1)
    assert judge_once(clean_store, Dear(), ANY_JUDGE, stored=lambda _: None, budget=budget).total == 4


def test_what_other_processes_spend_meanwhile_counts_from_the_next_insert_on(clean_store: Store):
    add(clean_store, *some_traces(10))
    budget = Budget("good", JudgeLimits(usd_per_day=100.0))
    told = False

    def stored(_: object) -> None:
        nonlocal told
        if not told:
            spent_today(clean_store, 100.0)
        told = True

    ids = due(clean_store, ANY_JUDGE, ALWAYS, limit=100)
    done = judge_traces(clean_store, Slow(), ANY_JUDGE, ids, stop=lambda: False, stored=stored, budget=budget)
    assert 0 < done.total < 10


class Slow(Dear):
    """Takes nearly as long over each answer as rows wait to be stored."""

    def judge(self, tasks: Iterable[Task], stop: Callable[[], bool] = lambda: False) -> Iterator[Answer]:
        for answer in super().judge(tasks, stop):
            time.sleep(0.4)
            yield answer


def test_no_more_traces_a_minute_are_asked_than_the_setting_says(clean_store: Store):
    add(clean_store, *some_traces(12))
    executor = Dear()
    ids = due(clean_store, ANY_JUDGE, ALWAYS, limit=100)
    budget = Budget("good", JudgeLimits(per_minute=300.0))
    done = judge_traces(clean_store, executor, ANY_JUDGE, ids, stop=lambda: False, budget=budget)
    assert done.total == 12
    for first, start in enumerate(executor.asked_at):
        for count, end in enumerate(executor.asked_at[first:], 1):
            assert count <= 5 + (end - start + 0.05) * 5


def test_while_a_judge_waits_for_its_turn_what_it_judged_is_stored_and_it_can_be_stopped(clean_store: Store):
    add(clean_store, *some_traces(3))
    ids = due(clean_store, ANY_JUDGE, ALWAYS, limit=100)
    stop, budget = threading.Event(), Budget("good", JudgeLimits(per_minute=1.0))
    stored = threading.Event()
    judging = threading.Thread(
        target=lambda: judge_traces(
            clean_store,
            Dear(),
            ANY_JUDGE,
            ids,
            stop=stop.is_set,
            stored=lambda _: stored.set(),
            budget=budget,
        )
    )
    judging.start()
    assert stored.wait(20)
    assert judging.is_alive()
    stop.set()
    judging.join(10)
    assert not judging.is_alive()
    assert len(judged(clean_store)) == 1


def test_run_says_which_setting_ended_it_and_what_is_left_and_that_is_no_failure(
    clean_store: Store, write_judge, judges_config
):
    add(clean_store, *some_traces(3))
    spent_today(clean_store, 5.5)
    paused = write_judge(YES, limits={"usd_per_day": 5})
    config = judges_config(paused, write_judge(YES, name="free"))
    ran = tracetune("judge", "run", "--config", config)
    assert (ran.returncode, ran.stderr) == (0, "")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    first, second, third = ran.stdout.splitlines()
    assert (first, third) == ("good: 0 judged, 0 abstained", "free: 3 judged, 0 abstained")
    assert second == (
        "judge good pauses: its limits.usd_per_day of 5 USD is reached (5.5 spent since midnight UTC); "
        f"it goes on at {tomorrow:%Y-%m-%d} 00:00 UTC, or when that is raised; 3 traces are left"
    )
    row, other = json.loads(tracetune("judge", "run", "--config", config, "--json").stdout)
    assert (row["left"], second.startswith(row["paused"]), other["paused"]) == (3, True, None)


def test_the_runner_says_once_that_a_judge_pauses_and_goes_on_when_the_limit_is_raised(
    clean_store: Store, write_judge, judges_config, start_runner
):
    add(clean_store, *some_traces(3))
    spent_today(clean_store, 5.5)
    judge = write_judge(YES, limits={"usd_per_day": 5})
    runner = start_runner(judges_config(judge, write_judge(YES, name="free")))
    wait_for(lambda: len(judged(clean_store, "free")) == 3 and runner.said("limits.usd_per_day") > 0)
    time.sleep(2.5)
    assert runner.said("limits.usd_per_day of 5 USD is reached") == 1
    raised = msgspec.structs.replace(judge, limits=JudgeLimits(usd_per_day=6))
    judges_config(raised)
    wait_for(
        lambda: clean_store.query("SELECT count() AS n FROM judgments WHERE judge = 'good'")[0]["n"] == 4
    )
