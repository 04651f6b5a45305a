from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.traces.store import Store
from judges.guard import descendants
from judges.load import read_source
from tests.support.judging import KEPT, YES, RunnerProcess, add, feedback_on, judged, some_traces, wait_for
from tests.support.store import started_store, write_config


def ids(traces) -> set[str]:
    return {trace.trace_id for trace in traces}


def test_the_backlog_and_what_arrives_later_are_judged(
    clean_store: Store, write_judge, judges_config, start_runner
):
    backlog, fresh = some_traces(300), some_traces(20)
    add(clean_store, *backlog)
    runner = start_runner(judges_config(write_judge(YES)))
    wait_for(lambda: judged(clean_store).keys() == ids(backlog))
    add(clean_store, *fresh)
    wait_for(lambda: judged(clean_store).keys() == ids(backlog + fresh))
    assert set(judged(clean_store).values()) == {1.0}
    assert runner.stop() == 0


def test_a_judge_that_abstained_judges_again_when_feedback_arrives(
    clean_store: Store, write_judge, judges_config, start_runner
):
    right, wrong, silent = traces = some_traces(3)
    add(clean_store, *traces)
    start_runner(judges_config(write_judge(KEPT)))
    wait_for(lambda: judged(clean_store) == dict.fromkeys(ids(traces), "nobody said"))
    by_session = feedback_on(wrong, "something else", trace_id=None, session=wrong.session)
    add(clean_store, feedback_on(right, "hi"), by_session)
    expected = {right.trace_id: 1.0, wrong.trace_id: 0.0, silent.trace_id: "nobody said"}
    wait_for(lambda: judged(clean_store) == expected)
    counted = (
        "SELECT route, variant, sum(m.judgments) AS judgments, sum(m.scored) AS scored, sum(m.score_sum) AS score_sum "
        "FROM judgments_by_minute AS m GROUP BY route, variant"
    )
    row = {"route": "support-bot", "variant": "stable", "judgments": 3, "scored": 2, "score_sum": 1.0}
    wait_for(lambda: clean_store.query(counted) == [row])


def test_an_edited_judge_is_a_new_version_that_judges_everything(
    clean_store: Store, write_judge, judges_config, start_runner
):
    traces = some_traces(5)
    add(clean_store, *traces)
    judge = write_judge(YES)
    start_runner(judges_config(judge))
    wait_for(lambda: len(judged(clean_store)) == 5)
    former = read_source(judge.file, "good").version
    write_judge(YES.replace("True", "0.25"))
    current = read_source(judge.file, "good").version

    def by_version() -> dict[str, list[float]]:
        rows = clean_store.query(
            "SELECT version, groupArray(score) AS scores FROM judgments GROUP BY version"
        )
        return {row["version"]: row["scores"] for row in rows}

    wait_for(lambda: by_version() == {former: [1.0] * 5, current: [0.25] * 5})


def test_a_broken_judge_is_one_line_and_the_others_go_on_until_it_is_mended(
    clean_store: Store, write_judge, judges_config, start_runner
):
    traces = some_traces(5)
    add(clean_store, *traces)
    broken = write_judge("import nowhere_to_be_found\n", name="broken")
    runner = start_runner(judges_config(broken, write_judge(YES)))
    wait_for(lambda: len(judged(clean_store)) == 5 and runner.said("broken.py:1: does not import") > 0)
    time.sleep(1.5)
    assert runner.said("broken") == 1
    write_judge(YES, name="broken")
    wait_for(lambda: len(judged(clean_store, "broken")) == 5)


def test_a_judge_that_hangs_holds_up_no_other_and_nothing_is_left_running(
    clean_store: Store, write_judge, judges_config, start_runner
):
    traces = some_traces(40)
    add(clean_store, *traces)
    hanging = write_judge("import time\ndef good(trace):\n    time.sleep(3600)\n", name="hangs", timeout_s=1)
    before = set(descendants(os.getpid()))
    runner = start_runner(judges_config(hanging, write_judge(YES)))
    wait_for(lambda: judged(clean_store).keys() == ids(traces))
    wait_for(lambda: bool(judged(clean_store, "hangs")))
    assert set(judged(clean_store, "hangs").values()) == {"took longer than 1 s; timeout_s raises the bound"}
    assert len(judged(clean_store, "hangs")) < len(traces)
    assert runner.stop() == 0
    assert set(descendants(os.getpid())) <= before


def test_a_judge_added_to_the_configuration_is_picked_up_and_an_invalid_edit_is_ignored(
    clean_store: Store, write_judge, judges_config, start_runner
):
    add(clean_store, *some_traces(3))
    first, second = write_judge(YES), write_judge(YES, name="second")
    config_path = judges_config(first)
    runner = start_runner(config_path)
    wait_for(lambda: len(judged(clean_store)) == 3)
    config_path.write_text("upstreams: 7\n")
    wait_for(lambda: runner.said("the former configuration stays in force") == 1)
    judges_config(first, second)
    wait_for(lambda: len(judged(clean_store, "second")) == 3)


def test_kill_9_at_random_moments_leaves_every_trace_judged_exactly_once(
    clean_store: Store, write_judge, judges_config, start_runner
):
    traces = some_traces(400)
    add(clean_store, *traces[:200])
    slow = "import time\ndef good(trace):\n    time.sleep(0.005)\n    return True\n"
    config_path = judges_config(write_judge(slow))
    chance = random.Random(5)
    for start in (200, 250, 300, 350):
        runner = start_runner(config_path)
        if start > 200:
            wait_for(lambda: runner.said("judge good: version") == 1)  # noqa: B023 -- called at once
        time.sleep(chance.uniform(0.1, 0.8))
        add(clean_store, *traces[start : start + 50])
        runner.kill()
    start_runner(config_path)
    wait_for(lambda: judged(clean_store).keys() == ids(traces))


@pytest.mark.slow
def test_a_store_that_goes_away_is_waited_for(tmp_path: Path, write_judge):
    directory = tmp_path / "own"
    judge = write_judge(YES)
    config_path = write_config(directory, f'judges:\n  - {{name: good, path: "{judge.path}"}}\n')
    runner = RunnerProcess(config_path)
    try:
        wait_for(lambda: runner.said("ERROR judge good: ") == 1)
        first, second = some_traces(2)
        with started_store(config_path), connected(config_path) as store:
            add(store, first)
            wait_for(lambda: judged(store).keys() == {first.trace_id})
        with started_store(config_path), connected(config_path) as store:
            add(store, second)
            wait_for(lambda: judged(store).keys() == {first.trace_id, second.trace_id})
        assert runner.stop() == 0
    finally:
        runner.stop()


def connected(config_path: Path) -> Store:
    return Store.connect(load_config(config_path), {})


@pytest.mark.parametrize(
    ("yaml", "said"),
    [("judges: 7\n", "Expected `array`"), (None, "no such file")],
)
def test_a_configuration_that_cannot_be_used_is_one_line_and_exit_code_2(
    tmp_path: Path, start_runner, yaml: str | None, said: str
):
    path = write_config(tmp_path, yaml) if yaml else tmp_path / "missing.yaml"
    runner = start_runner(path)
    assert runner.process.wait(30) == 2
    runner.kill()
    assert runner.said(said) == 1
    assert len(runner.lines) == 1
