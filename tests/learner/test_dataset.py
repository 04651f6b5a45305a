from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from demo.messages import messages
from gateway.paths import paths_of
from gateway.traces.store import Store
from judges.trace import trace_from
from learner.dataset import build_dataset, dataset_digest, load_manifest
from learner.errors import LearnerRefusedError
from learner.files import locked, read_jsonl, sha256_of
from learner.read import count_judged, count_winners
from learner.runs import run_lock
from learner.select import (
    ABSTAINED,
    CUT,
    DUPLICATE,
    FAILED,
    LOW_SCORE,
    NOT_JUDGED,
    NOT_STOPPED,
    PINNED,
    TOOLS,
    WITHHELD,
    why_unusable,
)
from learner.status import route_status
from learner.types import Example, HoldoutRow
from tests.learner.traffic import (
    ROUTE,
    a_config,
    add,
    judged_traffic,
    judgment_on,
    kept_on,
    trace_of,
    version_of,
)

MESSAGES = list(islice(messages(2), 20))


def test_every_trace_is_trained_on_or_held_out_or_counted_with_its_reason(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 120)
    odd = [
        trace_of(MESSAGES[0], 500, outcome="timeout", status=504),
        trace_of(MESSAGES[1], 501, finish_reason="length"),
        trace_of(MESSAGES[2], 502, propensity=None),
        trace_of(MESSAGES[3], 503, finish_reason="tool_calls"),
        trace_of(MESSAGES[4], 504),
        trace_of(MESSAGES[5], 505),
    ]
    add(clean_store, *odd, *(judgment_on(trace, config, 1.0) for trace in odd[:4]))
    add(clean_store, judgment_on(odd[5], config, None))
    manifest = build_dataset(config, ROUTE, clean_store)
    reasons = manifest.left_out
    for reason in (FAILED, NOT_STOPPED, PINNED, TOOLS, NOT_JUDGED, ABSTAINED):
        assert reasons[reason] == 1, reason
    assert manifest.judged == 120
    assert manifest.examples + manifest.holdout + sum(reasons.values()) == 126
    assert reasons[LOW_SCORE] > 0


def test_imported_traces_train_though_nobody_chose_their_variant(tmp_path: Path, clean_store: Store) -> None:
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 120)
    before = build_dataset(config, ROUTE, clean_store)
    imported = trace_of(MESSAGES[5], 600, propensity=None, imported=True, variant="imported", session="new")
    add(clean_store, imported, judgment_on(imported, config, 1.0))
    after = build_dataset(config, ROUTE, clean_store)

    assert (after.judged, after.left_out.get(PINNED, 0)) == (
        before.judged + 1,
        before.left_out.get(PINNED, 0),
    )


def test_what_a_client_keeps_out_of_training_is_in_no_dataset_whatever_is_said_of_it_later(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 120)
    entry = config.learner[0]
    before = count_judged(config, entry, clean_store), count_winners(config, entry, clean_store)
    no = trace_of(MESSAGES[0], 500, session="private", training=False)
    # It quotes the trace before it, as every later turn of a conversation does.
    later = trace_of(MESSAGES[1], 501, session="private")
    of_another_client = trace_of(MESSAGES[2], 502, session="private", client="other")
    add(clean_store, no, later, of_another_client)
    add(clean_store, *(judgment_on(trace, config, 1.0) for trace in (no, later, of_another_client)))
    add(clean_store, *(kept_on(trace, trace.response or "") for trace in (no, later)))

    manifest = build_dataset(config, ROUTE, clean_store)

    folder = paths_of(config).datasets / manifest.dataset
    used = {trace for row in read_jsonl(folder / "train.jsonl", Example) for trace in row.traces}
    used |= {row.trace.trace_id for row in read_jsonl(folder / "holdout.jsonl", HoldoutRow)}
    assert used.isdisjoint({no.trace_id, later.trace_id})
    assert of_another_client.trace_id in used
    assert manifest.left_out[WITHHELD] == 2
    after = count_judged(config, entry, clean_store), count_winners(config, entry, clean_store)
    assert after == (before[0] + 1, before[1] + 1)


def test_only_winners_are_trained_on_and_losers_are_held_out_too(tmp_path: Path, clean_store: Store) -> None:
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 120)
    manifest = build_dataset(config, ROUTE, clean_store)
    folder = paths_of(config).datasets / manifest.dataset
    examples = read_jsonl(folder / "train.jsonl", Example)
    holdout = read_jsonl(folder / "holdout.jsonl", HoldoutRow)
    assert {example.score for example in examples} == {1.0}
    assert {row.score for row in holdout} == {0.0, 1.0}
    assert all(row.feedback[-1].kind == "kept" for row in holdout), "evaluation judges by what was kept"
    assert not {trace for example in examples for trace in example.traces} & {
        row.trace.trace_id for row in holdout
    }


def test_traces_with_a_holdout_tag_are_never_trained_on_and_are_a_slice(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path)
    traces = judged_traffic(clean_store, config, 120)
    unseen = {trace.trace_id for trace in traces if trace.tags["template"] == "unseen"}
    manifest = build_dataset(config, ROUTE, clean_store)
    folder = paths_of(config).datasets / manifest.dataset
    trained = {t for example in read_jsonl(folder / "train.jsonl", Example) for t in example.traces}
    assert unseen
    assert not trained & unseen
    assert manifest.slices["template=unseen"] == len(unseen)


def test_the_same_traces_make_the_same_dataset_and_one_row(tmp_path: Path, clean_store: Store) -> None:
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 80)
    first = build_dataset(config, ROUTE, clean_store)
    again = build_dataset(config, ROUTE, clean_store)
    assert first.dataset == again.dataset
    folder = paths_of(config).datasets / first.dataset
    assert {name: sha256_of(folder / name) for name in first.files} == first.files
    stored = load_manifest(paths_of(config).datasets, first.dataset)
    assert dataset_digest(stored)[:12] == first.dataset.rpartition("-")[2]
    rows = clean_store.query("SELECT dataset, examples, holdout FROM datasets")
    assert rows == [{"dataset": first.dataset, "examples": first.examples, "holdout": first.holdout}]


def test_too_few_judged_traces_are_refused_with_the_numbers(tmp_path: Path, clean_store: Store) -> None:
    config = a_config(tmp_path, min_traces=200)
    judged_traffic(clean_store, config, 87)
    with pytest.raises(LearnerRefusedError, match=r"87 of 200 judged traces") as refused:
        build_dataset(config, ROUTE, clean_store)
    assert refused.value.exit_code == 3
    assert "learner.dataset.min_traces" in str(refused.value)
    (status,) = route_status(config, clean_store)
    assert (status.line, status.next) == ("87 of 200 judged traces", "tracetune judge list")


def test_status_calls_nothing_ready_that_learning_would_refuse(tmp_path: Path, clean_store: Store) -> None:
    config = a_config(tmp_path)
    same = [trace_of(MESSAGES[number % 4], number) for number in range(60)]
    add(clean_store, *same, *(judgment_on(row, config, 1.0) for row in same))
    (status,) = route_status(config, clean_store)
    assert status.line == "4 of 8 different winners (score at least 1) among 60 judged traces"
    assert status.next == "tracetune judge list"
    with pytest.raises(LearnerRefusedError, match=r"of 8 winners .*; send traffic that differs more"):
        build_dataset(config, ROUTE, clean_store)


def test_status_repeats_a_refusal_while_what_it_was_about_is_the_same(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path)
    stream = list(islice(messages(3, unseen_share=0.0), 51))
    rows = [trace_of(message, number, session="one") for number, message in enumerate(stream)]
    add(clean_store, *rows[:50], *(judgment_on(row, config, 1.0) for row in rows[:50]))
    (status,) = route_status(config, clean_store)
    assert status.line == "50 judged traces, 40 needed: ready to learn"
    with pytest.raises(LearnerRefusedError) as refused:
        build_dataset(config, ROUTE, clean_store)
    (status,) = route_status(config, clean_store)
    assert status.line == f"50 judged traces, not enough to learn from: {refused.value}"
    assert status.next == "tracetune judge list"
    add(clean_store, rows[50], judgment_on(rows[50], config, 1.0))
    (status,) = route_status(config, clean_store)
    assert status.next == f"tracetune learn run --route {ROUTE}"


def test_while_a_run_is_at_work_status_names_no_command_that_would_be_refused(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 60)
    with locked(run_lock(paths_of(config).runs, ROUTE), holder="a test is"):
        (status,) = route_status(config, clean_store)
    assert (status.line, status.next) == ("learning: dataset", None)
    (status,) = route_status(config, clean_store)
    assert status.next == f"tracetune learn run --route {ROUTE}"


def test_without_winners_it_is_refused(tmp_path: Path, clean_store: Store) -> None:
    config = a_config(tmp_path)
    rows = [trace_of(message, number) for number, message in enumerate(islice(messages(3), 50))]
    add(clean_store, *rows, *(judgment_on(row, config, 0.5) for row in rows))
    with pytest.raises(LearnerRefusedError, match=r"0 of 8 winners \(score at least 1\) among 50"):
        build_dataset(config, ROUTE, clean_store)


def test_one_session_gives_nothing_to_hold_out_and_is_refused(tmp_path: Path, clean_store: Store) -> None:
    config = a_config(tmp_path)
    stream = islice(messages(3, unseen_share=0.0), 50)
    rows = [trace_of(message, number, session="one") for number, message in enumerate(stream)]
    add(clean_store, *rows, *(judgment_on(row, config, 1.0) for row in rows))
    with pytest.raises(LearnerRefusedError, match=r"0 of 8 traces to hold out, from 1 sessions in 1 groups"):
        build_dataset(config, ROUTE, clean_store)


def test_the_same_prompt_and_answer_trains_once_and_keeps_all_its_traces(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 80)
    same = [trace_of(MESSAGES[7], number) for number in range(900, 920)]
    add(clean_store, *same, *(judgment_on(trace, config, 1.0) for trace in same))
    manifest = build_dataset(config, ROUTE, clean_store)
    folder = paths_of(config).datasets / manifest.dataset
    longest = max((e.traces for e in read_jsonl(folder / "train.jsonl", Example)), key=len)
    assert set(longest) == {trace.trace_id for trace in same}
    assert manifest.left_out[DUPLICATE] == 19


def test_the_holdout_is_bounded_and_what_does_not_fit_trains_nobody(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path, max_holdout=10)
    judged_traffic(clean_store, config, 120)
    manifest = build_dataset(config, ROUTE, clean_store)
    assert manifest.holdout == 10
    assert manifest.left_out["the holdout is full (dataset.max_holdout)"] > 0


def test_verdicts_of_an_older_version_of_the_judge_count_only_until_the_new_one_has_judged(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path)
    rows = [trace_of(message, number) for number, message in enumerate(islice(messages(4), 60))]
    add(clean_store, *rows, *(judgment_on(row, config, 1.0, version="old") for row in rows))
    assert build_dataset(config, ROUTE, clean_store).judge_version == "old"
    add(clean_store, *(judgment_on(row, config, 1.0) for row in rows[:50]))
    manifest = build_dataset(config, ROUTE, clean_store)
    assert manifest.judge_version == version_of(config)
    assert manifest.judged == 50


def test_feedback_of_another_client_is_not_what_was_kept(tmp_path: Path, clean_store: Store) -> None:
    import msgspec

    from tests.learner.traffic import kept_on

    config = a_config(tmp_path)
    traces = judged_traffic(clean_store, config, 60)
    add(clean_store, *(msgspec.structs.replace(kept_on(t, "forged"), client="other") for t in traces))
    manifest = build_dataset(config, ROUTE, clean_store)
    holdout = read_jsonl(paths_of(config).datasets / manifest.dataset / "holdout.jsonl", HoldoutRow)
    assert all(said.text != "forged" for row in holdout for said in row.feedback)


def test_nothing_is_learnt_from_a_body_that_was_cut() -> None:
    request = {"messages": [{"role": "user", "content": "hi"}], "x_tracetune": {"cut": True, "bytes": 9}}
    assert why_unusable(trace_from(request=request, answer="ho")) == CUT
