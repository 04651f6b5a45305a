"""What was learnt from erased traces loses its rows, or is retired; and it says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from gateway.config import Config
from gateway.errors import OperationError
from gateway.paths import paths_of
from gateway.traces.erasure.erasures import Erasure, ErasureList
from gateway.traces.store import Store
from gateway.traces.types import RolloutEvent
from learner.dataset import build_dataset
from learner.erasing import ERASED, WHY_FAILED, Losses, check_whole, is_retired, tainted, unlearn
from learner.errors import LearnerError, LearnerRefusedError
from learner.evaluation import generation_job
from learner.files import jsonl, locked, read_json, read_jsonl, sha256_of, write_bytes, write_json
from learner.generate import Answer
from learner.learn import stable_variant
from learner.registry import register, verify_snapshot
from learner.rollout.start import start_rollout
from learner.runs import Run, list_runs, run_lock, save_run
from learner.settings import frozen, learner_of, recipe_of
from learner.states import EVENTS_SQL, Event, snapshot_states
from learner.types import Example, HoldoutRow, Manifest, SnapshotManifest, TrainPlan
from tests.learner.rollout.gateway import GatewayInMemory
from tests.learner.test_registry import a_draft, an_adapter
from tests.learner.traffic import ROUTE, a_config, judged_traffic

NOW = datetime(2026, 11, 20, tzinfo=UTC)


class Learnt:
    """A dataset of judged traffic with a run of it, and which traces are on which side."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config = config
        self.store = store
        self.paths = paths_of(config)
        judged_traffic(store, config, 120)
        self.manifest: Manifest = build_dataset(config, ROUTE, store)
        self.folder = self.paths.datasets / self.manifest.dataset

    def train(self) -> list[str]:
        rows = read_jsonl(self.folder / "train.jsonl", Example)
        return [trace for row in rows for trace in row.traces]

    def holdout(self) -> list[str]:
        return [row.trace.trace_id for row in read_jsonl(self.folder / "holdout.jsonl", HoldoutRow)]

    def listed(self, *traces: str, erasure: str = "er-1") -> str:
        entry = Erasure(
            erasure=erasure, asked_at_us=0, until_us=None, owners=[], sessions=[], traces=list(traces)
        )
        with ErasureList(self.paths.state).changed(lambda entries: [*entries, entry]):
            return erasure

    def run(self) -> Run:
        """A run of the dataset that has just begun, without a base model to train."""
        entry = learner_of(self.config, ROUTE)
        plan = TrainPlan(
            route=ROUTE,
            dataset=self.manifest.dataset,
            dataset_dir=self.folder,
            base_model=entry.base_model,
            base_digest="0" * 64,
            recipe=recipe_of(entry, self.manifest.examples),
            checkpoint_steps=1,
        )
        write_json(self.paths.runs / "run-1" / "plan.json", plan)
        now = datetime.now(UTC)
        run = Run(
            run="run-1",
            route=ROUTE,
            dataset=self.manifest.dataset,
            section=frozen(entry),
            stage="train",
            started_at=now,
            updated_at=now,
        )
        return save_run(self.paths.runs, run)

    def snapshot(self, folder: Path, **changes: object) -> SnapshotManifest:
        draft = msgspec.structs.replace(a_draft(ROUTE), dataset=self.manifest.dataset, **changes)
        return register(self.paths.snapshots, an_adapter(folder), draft)

    def event(self, event: str, snapshot: str, version: int) -> None:
        row = RolloutEvent(
            rollout="ro-1",
            route=ROUTE,
            version=version,
            event=event,  # type: ignore[arg-type]
            snapshot=snapshot,
            at=NOW,
            who="ops",
            why="",
            evidence='{"table":[{"name":"the-stable-one","stable":true}]}',
        )
        self.store.insert("rollouts", [row], token=f"{event}-{version}")

    def states(self, *snapshots: str) -> dict[str, str]:
        events = [msgspec.convert(row, Event) for row in self.store.query(EVENTS_SQL)]
        return dict(snapshot_states(snapshots, events))


@pytest.fixture
def learnt(tmp_path: Path, clean_store: Store) -> Learnt:
    return Learnt(a_config(tmp_path), clean_store)


def test_a_dataset_loses_the_rows_and_says_how_many_and_to_which_erasure(learnt: Learnt) -> None:
    train, holdout = learnt.train(), learnt.holdout()
    before = (learnt.folder / "manifest.json").read_bytes()
    erasure = learnt.listed(train[0], train[1], holdout[0])

    done = unlearn(learnt.config, learnt.store, erasure)

    assert (learnt.train(), learnt.holdout()) == (train[2:], holdout[1:])
    assert [(one.dataset, one.train, one.holdout) for one in done.datasets] == [(learnt.folder.name, 2, 1)]
    assert (learnt.folder / "manifest.json").read_bytes() == before
    losses = read_json(learnt.folder / ERASED, Losses)
    assert [(loss.erasure, loss.train, loss.holdout) for loss in losses.losses] == [("er-1", 2, 1)]
    assert losses.files == {
        name: sha256_of(learnt.folder / name) for name in ("train.jsonl", "holdout.jsonl")
    }


def test_a_dataset_without_erased_rows_is_left_alone(learnt: Learnt) -> None:
    before = {path.name: path.read_bytes() for path in learnt.folder.iterdir()}

    done = unlearn(learnt.config, learnt.store, learnt.listed("nobody's"))

    assert done.datasets == done.snapshots == []
    assert {path.name: path.read_bytes() for path in learnt.folder.iterdir()} == before


def test_repeated_after_a_kill_between_its_files_it_still_says_what_was_lost(learnt: Learnt) -> None:
    train, holdout = learnt.train(), learnt.holdout()
    erasure = learnt.listed(train[0], holdout[0])
    first = unlearn(learnt.config, learnt.store, erasure)
    back = Example(traces=[train[0]], prompt=[], completion=[], score=1.0)
    rows = [back, *read_jsonl(learnt.folder / "train.jsonl", Example)]
    write_bytes(learnt.folder / "train.jsonl", jsonl(rows))

    assert unlearn(learnt.config, learnt.store, erasure).datasets == first.datasets
    assert train[0] not in learnt.train()


def test_a_run_forgets_prompts_answers_and_what_it_showed_and_begins_anew(learnt: Learnt) -> None:
    gone, kept = learnt.holdout()[:2]
    run = learnt.run()
    folder = learnt.paths.runs / run.run
    plan = read_json(folder / "plan.json", TrainPlan)
    write_json(folder / "generate.json", generation_job(learner_of(learnt.config, ROUTE), folder, plan))
    answers = [
        Answer(trace_id=trace, text="text", stopped=True, tokens_in=1, tokens_out=1, seconds=1.0)
        for trace in (gone, kept)
    ]
    write_bytes(folder / "answers-base.jsonl", jsonl(answers))

    unlearn(learnt.config, learnt.store, learnt.listed(gone))

    assert not any(gone.encode() in path.read_bytes() for path in folder.iterdir())
    assert [one.trace_id for one in read_jsonl(folder / "answers-base.jsonl", Answer)] == [kept]
    assert [(one.stage, one.error) for one in list_runs(learnt.paths.runs, ROUTE)] == [("failed", WHY_FAILED)]


def test_a_run_at_work_is_told_and_what_it_learnt_is_never_registered(learnt: Learnt) -> None:
    run = learnt.run()
    erasure = learnt.listed(learnt.train()[0])

    with locked(run_lock(learnt.paths.runs, ROUTE), holder="a run is"):
        assert unlearn(learnt.config, learnt.store, erasure).at_work == [ROUTE]
    with pytest.raises(LearnerError, match="lost rows that were erased"):
        check_whole(learnt.folder, run.started_at)
    check_whole(learnt.folder, datetime.now(UTC) + timedelta(seconds=1))
    assert unlearn(learnt.config, learnt.store, erasure).at_work == []


def test_a_run_that_is_building_a_dataset_may_know_what_was_erased(learnt: Learnt) -> None:
    erasure = learnt.listed("in no dataset yet")

    with locked(run_lock(learnt.paths.runs, ROUTE), holder="a run is"):
        assert unlearn(learnt.config, learnt.store, erasure).at_work == [ROUTE]
    assert unlearn(learnt.config, learnt.store, erasure).at_work == []


def test_a_snapshot_that_learnt_from_erased_rows_is_retired_by_an_event_and_nothing_else_changes(
    learnt: Learnt, tmp_path: Path
) -> None:
    first = learnt.snapshot(tmp_path / "a").snapshot
    other = register(learnt.paths.snapshots, an_adapter(tmp_path / "b", b"other"), a_draft(ROUTE)).snapshot
    learnt.event("started", other, 1)
    learnt.event("promoted", other, 2)
    erasure = learnt.listed(learnt.train()[0])

    done = unlearn(learnt.config, learnt.store, erasure)

    assert [(one.snapshot, one.state, one.serves) for one in done.snapshots] == [(first, "retired", False)]
    assert learnt.states(first, other) == {first: "retired", other: "stable"}
    (event,) = learnt.store.query("SELECT * FROM rollouts WHERE event = 'retired'")
    assert (event["snapshot"], event["why"]) == (first, "it learnt from traces that were erased")
    assert is_retired(learnt.store, first)
    assert not is_retired(learnt.store, other)
    # Whoever reads the table in force from the last event reads what it was.
    assert stable_variant(learnt.config, ROUTE, learnt.store) == "the-stable-one"
    verify_snapshot(learnt.paths.snapshots, first)

    unlearn(learnt.config, learnt.store, erasure)
    assert learnt.store.query("SELECT count() AS n FROM rollouts WHERE event = 'retired'") == [{"n": 1}]


def test_a_snapshot_that_was_retired_starts_no_rollout(learnt: Learnt, tmp_path: Path) -> None:
    first = learnt.snapshot(tmp_path / "a").snapshot
    unlearn(learnt.config, learnt.store, learnt.listed(learnt.train()[0]))

    with pytest.raises(
        LearnerRefusedError, match=r"learnt from traces that were erased; `tracetune learn run"
    ):
        start_rollout(
            learnt.config,
            learnt.store,
            GatewayInMemory(learnt.config),
            lambda *_: pytest.fail("it was published"),
            route=ROUTE,
            snapshot=first,
            share=None,
            who="ops",
            why="",
            now=NOW,
        )


def test_a_snapshot_that_only_was_evaluated_on_erased_rows_did_not_learn_from_them(
    learnt: Learnt, tmp_path: Path
) -> None:
    first = learnt.snapshot(tmp_path / "a").snapshot

    assert unlearn(learnt.config, learnt.store, learnt.listed(learnt.holdout()[0])).snapshots == []
    assert learnt.states(first) == {first: "candidate"}


@pytest.mark.parametrize("event", ["started", "promoted"])
def test_one_that_serves_is_told_and_left_until_it_is_rolled_back(
    learnt: Learnt, tmp_path: Path, event: str
) -> None:
    first = learnt.snapshot(tmp_path / "a").snapshot
    learnt.event(event, first, 1)
    erasure = learnt.listed(learnt.train()[0])

    (serving,) = unlearn(learnt.config, learnt.store, erasure).snapshots
    learnt.event("rolled_back", first, 2)
    (retired,) = unlearn(
        learnt.config, learnt.store, learnt.listed("another's", erasure="er-2")
    ).snapshots or [None]

    assert (serving.snapshot, serving.serves) == (first, True)
    assert retired is None
    assert learnt.states(first) == {first: "retired"}


def test_what_goes_back_to_a_snapshot_that_knew_knows_too(learnt: Learnt, tmp_path: Path) -> None:
    parent = learnt.snapshot(tmp_path / "a")
    draft = msgspec.structs.replace(a_draft(ROUTE), parents=[parent.snapshot])
    child = register(learnt.paths.snapshots, an_adapter(tmp_path / "b", b"child"), draft)
    grandchild = register(
        learnt.paths.snapshots,
        an_adapter(tmp_path / "c", b"grandchild"),
        msgspec.structs.replace(draft, parents=[child.snapshot]),
    )
    other = register(learnt.paths.snapshots, an_adapter(tmp_path / "d", b"other"), a_draft(ROUTE))

    found = tainted([grandchild, other, child, parent], [learnt.manifest.dataset])

    assert {one.snapshot for one in found} == {parent.snapshot, child.snapshot, grandchild.snapshot}


def test_an_erasure_that_is_not_in_the_list_is_one_line(learnt: Learnt) -> None:
    with pytest.raises(OperationError, match=r"^no erasure 'er-9' in "):
        unlearn(learnt.config, learnt.store, "er-9")


def test_a_finished_run_stays_done(learnt: Learnt) -> None:
    run = learnt.run()
    save_run(learnt.paths.runs, run, stage="done")

    unlearn(learnt.config, learnt.store, learnt.listed(learnt.train()[0]))

    assert [one.stage for one in list_runs(learnt.paths.runs, ROUTE)] == ["done"]
