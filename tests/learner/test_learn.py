"""One learning run on a tiny random model and a real store: killed, resumed, registered, traced back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.config import Config
from gateway.paths import paths_of
from gateway.traces.store import Store
from learner.errors import LearnerError
from learner.evaluation import Evaluation
from learner.files import locked, read_json, slug
from learner.learn import run_learning, stable_variant
from learner.lineage import lineage_of
from learner.registry import verify_snapshot
from learner.runs import list_runs, unfinished_run
from learner.status import route_status
from learner.types import Progress
from tests.learner.traffic import ROUTE, a_config, judged_traffic
from tests.support.store import a_trace
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def pids_of(script: str, folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if script.encode() in line and os.fsencode(folder) in line:
            found.append(int(path.parent.name))
    return found


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_goes_on_when_stopped_and_when_its_trainer_is_killed_and_ends_in_a_verified_snapshot(
    tmp_path: Path, clean_store: Store, tiny_model: Path
) -> None:
    config = a_config(tmp_path, base=str(tiny_model))
    judged_traffic(clean_store, config, 90)
    paths = paths_of(config)

    @contextmanager
    def stores(_: Config) -> Iterator[Store]:
        yield clean_store

    seen: list[Progress] = []
    with pytest.raises(LearnerError, match="goes on from its checkpoint"):
        run_learning(config, ROUTE, tell=seen.append, stop=lambda: bool(seen), stores=stores)
    interrupted = unfinished_run(paths.runs, config.learner[0])
    assert interrupted is not None
    assert interrupted.stage == "train"
    (status,) = route_status(config, clean_store)
    assert status.line.startswith("learning: train")

    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if progress.stage == "train" and progress.done > seen[-1].done and not killed:
            killed.extend(pids_of("learner.train_sft", paths.runs))
            os.kill(killed[0], signal.SIGKILL)

    snapshot = run_learning(config, ROUTE, tell=kill_once, stores=stores)
    assert killed, "the trainer was never killed"
    assert [run.stage for run in list_runs(paths.runs)] == ["done"], "it was all one run"
    assert verify_snapshot(paths.snapshots, snapshot.snapshot, tiny_model) == snapshot
    assert run_learning(config, ROUTE, stores=stores) == snapshot, "the same traces are not learnt twice"

    evaluation = read_json(paths.runs / interrupted.run / "evaluation.json", Evaluation)
    assert {arm.arm for arm in evaluation.arms} == {"base", "candidate", "stable"}
    assert {arm.slice for arm in evaluation.arms} == {"all", "rest", "template=unseen"}
    stable = next(arm for arm in evaluation.arms if (arm.arm, arm.slice) == ("stable", "all"))
    assert 0.6 < stable.score.value < 1, "stable's own answers, wrong in one of six"
    pair = evaluation.pair("stable")
    assert pair is not None
    assert pair.difference.n == stable.score.n
    assert pair.difference.high < 0, "a random model is worse"

    rows = clean_store.query("SELECT snapshot, dataset FROM snapshots")
    assert rows == [{"snapshot": snapshot.snapshot, "dataset": snapshot.dataset}]
    answer = a_trace(snapshot=snapshot.snapshot, variant=snapshot.snapshot)
    clean_store.insert("traces", [answer], token="answer")
    lineage = lineage_of(config, answer.trace_id, clean_store)
    assert [step.kind for step in lineage.steps] == ["trace", "snapshot", "run", "dataset"]
    assert len(lineage.traces) >= 40
    (status,) = route_status(config, clean_store)
    assert status.next == f"tracetune rollout start --route {ROUTE} --snapshot {snapshot.snapshot}"


def test_a_route_learns_once_at_a_time(tmp_path: Path, tiny_model: Path) -> None:
    config = a_config(tmp_path, base=str(tiny_model))
    lock = paths_of(config).runs / f".{slug(ROUTE)}.lock"
    with (
        locked(lock, holder="a test is"),
        pytest.raises(LearnerError, match=f"a run of route '{ROUTE}' is at work already"),
    ):
        run_learning(config, ROUTE)


def test_a_directory_that_is_no_base_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    config = a_config(tmp_path, base="nothing-here")
    with pytest.raises(LearnerError, match="nothing-here"):
        run_learning(config, ROUTE)
    assert list_runs(paths_of(config).runs) == []


def test_stable_is_what_the_last_decision_says_else_the_configuration(
    tmp_path: Path, clean_store: Store
) -> None:
    config = a_config(tmp_path)
    assert stable_variant(config, ROUTE, clean_store) == "stable"
    table = [{"name": "stable", "stable": False}, {"name": "bot-1", "stable": True}]
    event = {
        "rollout": "r1",
        "route": ROUTE,
        "version": 3,
        "event": "promoted",
        "snapshot": "bot-1",
        "at": a_trace().started_at,
        "who": "",
        "why": "",
        "evidence": msgspec.json.encode({"table": table}).decode(),
    }
    clean_store.insert("rollouts", [event], token="event")
    assert stable_variant(config, ROUTE, clean_store) == "bot-1"
