"""A judge that may not train holds learning up, one that may not gate a rollout; every report says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config, JudgeConfig, RolloutPolicy, load_config
from gateway.paths import paths_of
from gateway.traces.store import Store
from judges.definition import definition_of
from learner.autopilot import Autopilot
from learner.autopilot_log import read_lines
from learner.base_model import base_model_digest
from learner.dataset import build_dataset, dataset_digest, load_manifest
from learner.errors import LearnerRefusedError
from learner.learn import begin_run, run_stages
from learner.lineage import lineage_of
from learner.overview import overview
from learner.registry import register
from learner.rollout.start import start_rollout
from learner.runs import list_runs, save_run
from learner.status import route_status
from tests.learner.rollout.gateway import GatewayInMemory
from tests.learner.test_registry import a_draft, an_adapter
from tests.learner.traffic import ROUTE, a_config, judged_traffic, version_of
from tests.support.inference import base_model_files
from tests.support.standing import calibrate

NOW = datetime(2026, 11, 2, tzinfo=UTC)
WEAK = {"j": 0.3, "j_low": 0.12}
MIDDLING = {"j": 0.6, "j_low": 0.5}
GOOD = {"j": 0.9, "j_low": 0.8}
UNCALIBRATED = "judge 'kept' is uncalibrated; tracetune judge calibrate kept"
BY_ACCEPT = "judge 'kept' may gate by accept: weak_gates alone: J 0.60 on 100 labels, lower limit 0.50, under 0.6 to gate"


def accepting(config: Config, *accept: str) -> Config:
    judges = [msgspec.structs.replace(judge, accept=list(accept)) for judge in config.judges]
    return msgspec.structs.replace(config, judges=judges)


def weak(version: str, role: str) -> str:
    return (
        f"judge 'kept' ({version}) may not {role}: J 0.30 on 100 labels, lower limit 0.12, under 0.4 to train "
        f"and 0.6 to gate; correct the judge, then `tracetune judge calibrate kept`, or write "
        f"accept: [weak_{role}s] at it"
    )


@pytest.fixture
def config(tmp_path: Path, clean_store: Store) -> Config:
    """A route with enough judged traffic to learn from."""
    made = a_config(tmp_path)
    judged_traffic(clean_store, made, 90)
    return made


@pytest.fixture
def stores(clean_store: Store) -> Callable[[Config], Any]:
    @contextmanager
    def opened(_: Config) -> Iterator[Store]:
        yield clean_store

    return opened


def test_a_judge_that_may_not_train_makes_no_dataset_and_one_that_may_does(
    config: Config, clean_store: Store
):
    version = version_of(config)
    calibrate(clean_store, "kept", version, **WEAK)
    with pytest.raises(LearnerRefusedError) as refused:
        build_dataset(config, ROUTE, clean_store)
    assert str(refused.value) == f"refused: {weak(version, 'train')}"
    assert clean_store.query("SELECT count() AS n FROM datasets") == [{"n": 0}]

    calibrate(clean_store, "kept", version, **MIDDLING)
    manifest = build_dataset(config, ROUTE, clean_store)
    assert manifest.standing is not None
    assert (manifest.standing.state, manifest.standing.note("train")) == ("calibrated", None)


def test_a_dataset_says_on_whose_word_it_stands_and_so_does_what_was_learnt_from_it(
    config: Config, clean_store: Store, tmp_path: Path
):
    manifests = [build_dataset(config, ROUTE, clean_store)]
    calibrate(clean_store, "kept", version_of(config), **WEAK)
    manifests.append(build_dataset(accepting(config, "weak_trains"), ROUTE, clean_store))
    accepted = (
        "judge 'kept' may train by accept: weak_trains alone: J 0.30 on 100 labels, lower limit 0.12, "
        "under 0.4 to train and 0.6 to gate"
    )
    for manifest, said in zip(manifests, (UNCALIBRATED, accepted), strict=True):
        stored = load_manifest(paths_of(config).datasets, manifest.dataset)
        assert stored.standing is not None
        assert stored.standing.note("train") == said
        assert dataset_digest(stored)[:12] == manifest.dataset.rpartition("-")[2]
        draft = msgspec.structs.replace(a_draft(ROUTE), dataset=manifest.dataset)
        adapter = an_adapter(tmp_path / manifest.dataset, weights=manifest.dataset.encode())
        snapshot = register(paths_of(config).snapshots, adapter, draft, clean_store).snapshot
        assert lineage_of(config, snapshot, clean_store).steps[-1].facts["judge"] == said


def test_an_uncalibrated_judge_that_flips_trains_only_where_the_configuration_says_so(
    config: Config, clean_store: Store
):
    calibrate(clean_store, "kept", version_of(config), labels=0, j=None, j_low=None, flip_rate=0.02)
    with pytest.raises(
        LearnerRefusedError, match=r"may not train: uncalibrated code judge that says different"
    ):
        build_dataset(config, ROUTE, clean_store)
    (status,) = route_status(config, clean_store)
    assert status.line.startswith("waits for: judge 'kept' (")
    assert status.line.endswith(
        "`tracetune judge calibrate kept`, or write accept: [uncalibrated_trains] at it"
    )

    with pytest.raises(LearnerRefusedError):
        build_dataset(accepting(config, "weak_trains", "uncalibrated_gates"), ROUTE, clean_store)
    manifest = build_dataset(accepting(config, "uncalibrated_trains"), ROUTE, clean_store)
    assert manifest.standing is not None
    assert manifest.standing.accepted == ("uncalibrated_trains",)


def test_one_label_more_makes_no_other_dataset_of_the_same_traces(config: Config, clean_store: Store):
    calibrate(clean_store, "kept", version_of(config), **GOOD)
    first = build_dataset(config, ROUTE, clean_store)
    calibrate(clean_store, "kept", version_of(config), **{**GOOD, "j": 0.91, "labels": 101})
    assert build_dataset(config, ROUTE, clean_store).dataset == first.dataset


def test_a_run_that_was_killed_trains_no_further_once_its_judge_was_found_to_be_weak(
    config: Config, clean_store: Store, stores: Callable[[Config], Any], tmp_path: Path
):
    config = msgspec.structs.replace(
        config,
        learner=[msgspec.structs.replace(config.learner[0], base_model=base_model_files(tmp_path / "tiny"))],
    )
    paths = paths_of(config)
    run = begin_run(config, config.learner[0], build_dataset(config, ROUTE, clean_store))
    calibrate(clean_store, "kept", version_of(config), **WEAK)

    with pytest.raises(LearnerRefusedError, match=r"may not train: J 0\.30"):
        run_stages(config, ROUTE, until="evaluate", stores=stores)
    assert [state.stage for state in list_runs(paths.runs)] == ["train"], "it can go on when the judge may"
    (status,) = route_status(config, clean_store)
    assert status.line == f"waits for: {weak(version_of(config), 'train')}"

    save_run(paths.runs, run, stage="evaluate")
    assert run_stages(config, ROUTE, until="evaluate", stores=stores).stage == "evaluate", "trained already"


@pytest.mark.parametrize("command", ["dataset", "train", "evaluate", "run"])
def test_each_command_that_learns_ends_with_code_3_and_one_line(
    embedded_config: Config, clean_store: Store, tmp_path: Path, command: str
):
    base_model_files(tmp_path / "base")
    config = a_config(tmp_path)
    path = tmp_path / "cli.yaml"
    path.write_text(
        f"""
store: {{url: "embedded:{paths_of(embedded_config).data}"}}
capture: {{spool: "{tmp_path}/spool"}}
upstreams: [{{name: up, base_url: "http://127.0.0.1:9/v1", default: true}}]
routes: [{{model: support-bot, variants: [{{name: stable, upstream: up, model: m}}]}}]
judges: [{{name: kept, path: "judge.py:kept"}}]
learner: [{{route: support-bot, base_model: base, serve_on: up, judge: kept, dataset: {{min_traces: 40}}}}]
"""
    )
    calibrate(clean_store, "kept", version_of(config), **WEAK)
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", "learn", command, "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ},
    )
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert weak(version_of(config), "train") in done.stderr


class Starts:
    def __init__(self) -> None:
        self.started: list[str] = []

    def __call__(self, route: str, snapshot: str, why: str) -> None:
        del route, why
        self.started.append(snapshot)


def ticked(config: Config, store: Store, pilot: Autopilot, starts: Starts | None = None) -> list[str]:
    """What the autopilot has said by now, after one more look."""
    state = paths_of(config).state
    pilot.tick(config, store, GatewayInMemory(config), starts or Starts(), datetime.now(UTC))
    return [f"{line.action}: {line.reason}" for line in read_lines(state)]


def autopilot(config: Config, tmp_path: Path) -> Autopilot:
    return Autopilot(tmp_path / "tracetune.yaml", paths_of(config).state)


def test_the_autopilot_waits_for_a_judge_that_may_not_train_and_says_so_once(
    config: Config, clean_store: Store, tmp_path: Path
):
    version = version_of(config)
    calibrate(clean_store, "kept", version, **WEAK)
    pilot = autopilot(config, tmp_path)
    try:
        expected = [f"wait: waits for: {weak(version, 'train')}"]
        assert ticked(config, clean_store, pilot) == expected
        assert pilot.learning is None
        # As if as long had passed as it leaves between two looks.
        pilot._look_again.clear()
        assert ticked(config, clean_store, pilot) == expected
        pilot._look_again.clear()
        calibrate(clean_store, "kept", version, **MIDDLING)
        assert ticked(config, clean_store, pilot)[1:] == ["learn: 90 new judged traces"]
        assert pilot.learning == ROUTE
    finally:
        pilot.stop()


def candidate(config: Config, store: Store, tmp_path: Path) -> str:
    """A snapshot that a run of the route came to, and that nothing speaks against."""
    run = begin_run(config, config.learner[0], build_dataset(config, ROUTE, store))
    base_digest = base_model_digest(config.learner[0].base_model)
    draft = msgspec.structs.replace(
        a_draft(ROUTE), dataset=run.dataset, run=run.run, evaluation={}, base_digest=base_digest
    )
    snapshot = register(paths_of(config).snapshots, an_adapter(tmp_path / "adapter"), draft, store).snapshot
    save_run(paths_of(config).runs, run, stage="done", snapshot=snapshot)
    return snapshot


@pytest.fixture
def ready(config: Config, tmp_path: Path) -> Config:
    """As `config`, with a base model and a policy that may start by itself."""
    base_model_files(tmp_path / "base")
    routes = [msgspec.structs.replace(config.routes[0], rollout=RolloutPolicy(autonomy="auto"))]
    upstreams = [msgspec.structs.replace(config.upstreams[0], price_per_hour=1.0)]
    return msgspec.structs.replace(config, routes=routes, upstreams=upstreams)


def start(config: Config, store: Store, gateway: GatewayInMemory, snapshot: str) -> Any:
    return start_rollout(
        config,
        store,
        gateway,
        lambda *_: None,
        route=ROUTE,
        snapshot=snapshot,
        share=None,
        who="ops",
        why="",
        now=NOW,
    )


def test_a_judge_that_may_train_and_not_gate_starts_no_rollout(
    ready: Config, clean_store: Store, tmp_path: Path
):
    version = version_of(ready)
    calibrate(clean_store, "kept", version, **MIDDLING)
    snapshot = candidate(ready, clean_store, tmp_path)
    refusal = (
        f"judge 'kept' ({version}) may not gate: J 0.60 on 100 labels, lower limit 0.50, under 0.6 to gate; "
        "correct the judge, then `tracetune judge calibrate kept`, or write accept: [weak_gates] at it"
    )
    gateway = GatewayInMemory(ready)
    with pytest.raises(LearnerRefusedError) as refused:
        start(ready, clean_store, gateway, snapshot)
    assert str(refused.value) == f"refused: {refusal}"
    assert gateway.events == []

    pilot, starts = autopilot(ready, tmp_path), Starts()
    assert ticked(ready, clean_store, pilot, starts) == [f"wait: waits for: {refusal}"]
    assert starts.started == []
    (status,) = route_status(ready, clean_store)
    assert status.line == f"{snapshot} waits for: {refusal}"
    assert status.next == "tracetune judge calibrate kept"
    (line,) = overview(ready, clean_store).routes
    assert (line.has, line.next) == (status.line, status.next)

    calibrate(clean_store, "kept", version, **GOOD)
    pilot._look_again.clear()
    ticked(ready, clean_store, pilot, starts)
    assert starts.started == [snapshot]


@pytest.mark.parametrize(
    ("numbers", "accept", "said"),
    [
        (None, [], UNCALIBRATED),
        (
            MIDDLING,
            ["weak_gates"],
            BY_ACCEPT,
        ),
        (GOOD, ["weak_gates"], None),
    ],
    ids=["uncalibrated", "accepted", "earned"],
)
def test_what_starts_on_a_judges_word_says_so_in_the_event_and_in_every_status(
    ready: Config, clean_store: Store, tmp_path: Path, numbers: Any, accept: list[str], said: str | None
):
    config = accepting(ready, *accept)
    if numbers is not None:
        calibrate(clean_store, "kept", version_of(config), **numbers)
    snapshot = candidate(config, clean_store, tmp_path)
    gateway = GatewayInMemory(config)
    started = start(config, clean_store, gateway, snapshot)

    assert started.standing.note("gate") == said
    (event,) = gateway.events
    assert event.evidence["judge"]["note"] == said
    assert event.evidence["judge"]["version"] == definition_of(config.judges[0]).version
    (status,) = route_status(config, clean_store)
    assert status.notes == ([said] if said else [])
    assert overview(config, clean_store).notes == ([f"{ROUTE}: {said}"] if said else [])


def test_a_gating_judge_whose_file_is_gone_keeps_no_status_from_being_told(
    ready: Config, clean_store: Store, tmp_path: Path
):
    other = JudgeConfig(name="other", path=f"{tmp_path}/gone.py:other")
    routes = [msgspec.structs.replace(ready.routes[0], rollout=RolloutPolicy(judge="other"))]
    config = msgspec.structs.replace(ready, judges=[*ready.judges, other], routes=routes)
    (status,) = route_status(config, clean_store)
    assert status.notes == [UNCALIBRATED]
    found = overview(config, clean_store)
    assert [broken.judge for broken in found.broken_judges] == ["other"]


def test_status_as_a_person_reads_it_says_that_the_judge_is_uncalibrated(
    embedded_config: Config, clean_store: Store, tmp_path: Path
):
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 10)
    path = tmp_path / "tracetune.yaml"
    text = path.read_text()
    assert load_config(path).learner
    path.write_text(text.replace(str(paths_of(config).data), str(paths_of(embedded_config).data)))
    for command in (["learn", "status"], ["status"]):
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli.root", *command, "--config", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"{ROUTE}: {UNCALIBRATED}\n" in done.stdout
    shown = json.loads(
        subprocess.run(
            [sys.executable, "-m", "gateway.cli.root", "status", "--json", "--config", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    )
    assert shown["notes"] == [f"{ROUTE}: {UNCALIBRATED}"]
