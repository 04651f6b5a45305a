"""A dataset of encrypted traces: its rows are under the same keys, and go with them."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.config import Config, load_config
from gateway.paths import paths_of
from gateway.traces.bodies.bodies import Bodies, Owner, place_of
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.encryption.keyring import FORGET_WITHIN_S, open_keyring
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Trace
from learner.dataset import build_dataset
from learner.evaluation import generation_job, with_prompts
from learner.files import read_json, read_jsonl, write_json
from learner.generate import Answer, Job, _Answers
from learner.read import count_winners
from learner.rows import TraceIds, owner_of, read_rows
from learner.select import ERASED
from learner.settings import learner_of
from learner.types import Example, HoldoutRow, Recipe, TrainPlan
from tests.learner.traffic import ROUTE, a_config, add, judged_traffic

ENVIRON = {"MASTER": base64.b64encode(b"m" * 32).decode()}
PRIVACY = "privacy: {encrypt: per_subject, master_key: {env: MASTER}}\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    a_config(tmp_path)
    path = tmp_path / "tracetune.yaml"
    path.write_text(path.read_text() + PRIVACY)
    monkeypatch.setenv("MASTER", ENVIRON["MASTER"])
    return load_config(path)


@pytest.fixture
def store(config: Config, clean_store: Store) -> Iterator[Store]:
    """The store with 120 judged traces, encrypted as the recorder does it."""
    former, clean_store.bodies = clean_store.bodies, Bodies.of(KeySource.of(config), ENVIRON)
    judged_traffic(clean_store, config, 120)
    traces = [
        msgspec.structs.replace(msgspec.convert(row, Trace, strict=False), subject=f"p{number % 12}")
        for number, row in enumerate(clean_store.query("SELECT * FROM traces ORDER BY started_at"))
    ]
    said = [
        msgspec.convert(row, Feedback, strict=False) for row in clean_store.query("SELECT * FROM feedback")
    ]
    clean_store.command("TRUNCATE TABLE traces")
    clean_store.command("TRUNCATE TABLE feedback")
    owners = {row.trace_id: owner_of(row) for row in traces}
    add(
        clean_store,
        *(sealed_trace(row, clean_store.bodies) for row in traces),
        *(sealed_feedback(row, owners[row.trace_id or ""], clean_store.bodies) for row in said),
    )
    yield clean_store
    clean_store.bodies = former


def sealed_trace(row: Trace, bodies: Bodies) -> Trace:
    texts = {
        column: bodies.seal(
            getattr(row, column) or "", owner_of(row), place_of("traces", column, row.trace_id)
        )
        for column in ("request", "response")
    }
    return msgspec.structs.replace(row, **texts)


def sealed_feedback(row: Feedback, owner: Owner, bodies: Bodies) -> Feedback:
    place = place_of("feedback", "text", row.feedback_id)
    return msgspec.structs.replace(row, text=bodies.seal(row.text or "", owner, place))


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_rows_are_encrypted_on_disk_and_go_with_their_keys(config: Config, store: Store) -> None:
    manifest = build_dataset(config, ROUTE, store)
    folder = paths_of(config).datasets / manifest.dataset
    bodies = Bodies.of(KeySource.of(config), ENVIRON)
    examples = read_rows(folder / "train.jsonl", Example, bodies)
    holdout = read_rows(folder / "holdout.jsonl", HoldoutRow, bodies)
    assert (len(examples), len(holdout)) == (manifest.examples, manifest.holdout)
    on_disk = everything_in(paths_of(config).data)
    for example in examples:
        assert example.prompt[-1]["content"].encode() not in on_disk
        assert example.completion[0]["content"].encode() not in on_disk
    assert [line.traces for line in read_jsonl(folder / "train.jsonl", TraceIds)] == [
        example.traces for example in examples
    ], "lineage and erasure find a trace without its key"

    gone = holdout[0].trace
    ring = open_keyring(KeySource.of(config), ENVIRON)
    assert ring is not None
    assert ring.destroy(gone.client, gone.subject) == 1
    time.sleep(FORGET_WITHIN_S)
    left = read_rows(folder / "holdout.jsonl", HoldoutRow, bodies)
    assert [row.trace.trace_id for row in left] == [
        row.trace.trace_id for row in holdout if row.trace.subject != gone.subject
    ]
    again = build_dataset(config, ROUTE, store)
    assert again.left_out[ERASED] == 10
    assert again.judged == manifest.judged - 10


def test_the_same_encrypted_traces_give_the_same_dataset(config: Config, store: Store) -> None:
    first = build_dataset(config, ROUTE, store)
    assert build_dataset(config, ROUTE, store).dataset == first.dataset


def test_every_encrypted_winner_counts_until_a_dataset_says_otherwise(config: Config, store: Store) -> None:
    manifest = build_dataset(config, ROUTE, store)
    assert count_winners(config, learner_of(config, ROUTE), store) >= manifest.examples


def test_neither_prompts_nor_answers_of_a_run_are_readable_on_disk(
    config: Config, store: Store, tmp_path: Path
) -> None:
    manifest = build_dataset(config, ROUTE, store)
    recipe = Recipe(
        method="sft",
        epochs=1.0,
        learning_rate=1e-3,
        batch_size=1,
        lora_rank=8,
        lora_alpha=16,
        max_tokens=99,
        seed=1,
    )
    plan = TrainPlan(
        route=ROUTE,
        dataset=manifest.dataset,
        dataset_dir=paths_of(config).datasets / manifest.dataset,
        base_model=tmp_path,
        base_digest="d",
        recipe=recipe,
        checkpoint_steps=1,
        keys=KeySource.of(config),
    )
    run = paths_of(config).runs / "run"
    write_json(run / "generate.json", generation_job(learner_of(config, ROUTE), run, plan))
    job = read_json(run / "generate.json", Job)
    bodies = Bodies.of(job.sealed.plan.keys if job.sealed else None, os.environ)
    whole, owners = with_prompts(job, bodies)
    assert len(whole.arms[1].prompts) == manifest.holdout
    answers = [
        Answer(trace_id=key, text=f"planted {key}", stopped=True, tokens_in=1, tokens_out=1, seconds=1.0)
        for key in whole.arms[1].prompts
    ]
    kept = _Answers(run / "answers-candidate.jsonl", owners, bodies)
    kept.write(answers)
    assert kept.read() == answers
    on_disk = everything_in(run)
    assert b"planted" not in on_disk
    assert not any(messages[-1]["content"].encode() in on_disk for messages in whole.arms[1].prompts.values())
