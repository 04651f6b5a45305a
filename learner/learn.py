"""One learning run of a route: dataset, train, evaluate, register. After a kill the next call goes on.

Each stage leaves its result in the run's folder; `run.json` says how far it came. One run a route at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.config import Config, LearnerConfig
from gateway.errors import TracetuneError
from gateway.paths import paths_of
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.store import Store, open_store
from learner.base_model import base_model_digest, check_base_model
from learner.compare import compare_answers, evaluating_judges
from learner.dataset import build_dataset, load_manifest
from learner.erasing import check_whole
from learner.evaluation import Evaluation, generation_job
from learner.files import content_digest, locked, read_json, write_json
from learner.registry import load_snapshot, register
from learner.runs import STAGES, Run, Stage, run_lock, save_run, unfinished_run
from learner.script import run_script
from learner.settings import CHECKPOINT_STEPS, frozen, learner_of, recipe_of
from learner.standing import check_may, standing_of_version
from learner.types import Manifest, Progress, SnapshotManifest, TrainPlan, TrainResult

OpenStore = Callable[[Config], AbstractContextManager[Store]]
Tell = Callable[[Progress], None]

LOOK_OVER_WITHIN_S = 1.0  # whoever only looks whether a run is at work holds its lock for less

log = logging.getLogger(__name__)

_SCRIPTS = {"sft": "learner.train_sft"}


def run_learning(
    config: Config,
    route: str,
    *,
    tell: Tell = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    stores: OpenStore = open_store,
) -> SnapshotManifest:
    """Learn from the judged traces of *route* and register the result; goes on with a run that was killed.

    The store is opened only for the stages that need it. When *stop* becomes true, training ends within a few
    seconds and LearnerError says so; the next call goes on from its checkpoint. Raises LearnerRefusedError
    with the numbers while its judge may not train or there is too little to learn from, LearnerError when
    another run of the route is at work or a stage fails.
    """
    run = run_stages(config, route, until="done", tell=tell, stop=stop, stores=stores)
    assert run.snapshot is not None, "a run that is done has a snapshot"
    return load_snapshot(paths_of(config).snapshots, run.snapshot)


def run_stages(
    config: Config,
    route: str,
    *,
    until: Stage,
    tell: Tell = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    stores: OpenStore = open_store,
) -> Run:
    """As `run_learning`, but only up to where stage *until* begins; a run that is further stays there."""
    entry = learner_of(config, route)
    check_base_model(entry.base_model)
    runs = paths_of(config).runs
    lock = run_lock(runs, route)
    with locked(lock, holder=f"a run of route {route!r} is", wait_s=LOOK_OVER_WITHIN_S):
        run = unfinished_run(runs, entry)
        if run is None:
            with stores(config) as store:
                run = begin_run(config, entry, build_dataset(config, route, store))
        else:
            log.info("going on with run %s at stage %s", run.run, run.stage)
            _check_still_may_train(config, entry, run, stores)
        try:
            while STAGES.index(run.stage) < STAGES.index(until):
                run = _step(config, run, tell, stop, stores)
        except TracetuneError as error:
            if not stop():
                save_run(runs, run, stage="failed", error=str(error))
            raise
        return run


def begin_run(config: Config, entry: LearnerConfig, manifest: Manifest) -> Run:
    """The run of this dataset by this recipe: the same again, where it was begun before."""
    paths = paths_of(config)
    recipe = recipe_of(entry, manifest.examples)
    base_digest = base_model_digest(entry.base_model)
    name = f"{manifest.dataset}-{content_digest((recipe, base_digest))[:6]}"
    folder = paths.runs / name
    if (folder / "run.json").is_file():
        run = read_json(folder / "run.json", Run)
        return run if run.stage != "failed" else save_run(paths.runs, run, stage="train", error=None)
    plan = TrainPlan(
        route=entry.route,
        dataset=manifest.dataset,
        dataset_dir=paths.datasets / manifest.dataset,
        base_model=entry.base_model,
        base_digest=base_digest,
        recipe=recipe,
        checkpoint_steps=CHECKPOINT_STEPS,
        keys=KeySource.of(config) if config.privacy.master_key is not None else None,
    )
    write_json(folder / "plan.json", plan)
    now = datetime.now(UTC)
    run = Run(
        run=name,
        route=entry.route,
        dataset=manifest.dataset,
        section=frozen(entry),
        stage="train",
        started_at=now,
        updated_at=now,
    )
    return save_run(paths.runs, run)


def train(
    config: Config, run: Run, *, tell: Tell = lambda _: None, stop: Callable[[], bool] = lambda: False
) -> TrainResult:
    """Train what the run's plan says, in a process of its own; goes on from the last checkpoint."""
    folder = paths_of(config).runs / run.run
    plan = read_json(folder / "plan.json", TrainPlan)
    if not (folder / "result.json").is_file():
        run_script(_SCRIPTS[plan.recipe.method], folder, tell=tell, stop=stop)
    return read_json(folder / "result.json", TrainResult)


def evaluate(
    config: Config,
    run: Run,
    *,
    tell: Tell = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    stores: OpenStore = open_store,
) -> Evaluation:
    """Generate the answers to the holdout in a process of its own, then judge and compare them."""
    entry = learner_of(config, run.route)
    folder = paths_of(config).runs / run.run
    if (folder / "evaluation.json").is_file():
        return read_json(folder / "evaluation.json", Evaluation)
    plan = read_json(folder / "plan.json", TrainPlan)
    if not (folder / "generate.json").is_file():
        write_json(folder / "generate.json", generation_job(entry, folder, plan))
    run_script("learner.generate", folder, tell=tell, stop=stop)
    with stores(config) as store:
        stable = stable_variant(config, run.route, store)
        judges = evaluating_judges(config, entry, store)
    return compare_answers(config, entry, folder, plan, stable, judges)


def register_run(config: Config, run: Run, *, stores: OpenStore = open_store) -> SnapshotManifest:
    """Make the run's adapter a snapshot with its lineage, on disk and in the store. Safe to repeat."""
    paths = paths_of(config)
    folder = paths.runs / run.run
    plan = read_json(folder / "plan.json", TrainPlan)
    training = read_json(folder / "result.json", TrainResult)
    evaluation = read_json(folder / "evaluation.json", Evaluation)
    manifest = load_manifest(paths.datasets, run.dataset)
    check_whole(paths.datasets / run.dataset, run.started_at)
    draft = SnapshotManifest(
        snapshot="",
        route=run.route,
        kind="adapter",
        files={},
        base_model=plan.base_model.name,
        base_digest=plan.base_digest,
        recipe=plan.recipe,
        training=training,
        run=run.run,
        dataset=run.dataset,
        judges={manifest.judge: manifest.judge_version},
        parents=[],
        evaluation=without_texts(evaluation),
        created_at=evaluation.evaluated_at,
    )
    with stores(config) as store:
        return register(paths.snapshots, folder / "adapter", draft, store)


def without_texts(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation for the snapshot's manifest: figures only. Answers stay in the run, erasable."""
    content: dict[str, Any] = msgspec.to_builtins(evaluation)
    del content["wins"], content["losses"]
    return content


def stable_variant(config: Config, route: str, store: Store) -> str:
    """The name of the variant that is stable now: of the route's last decision, else of the configuration."""
    rows = store.query(
        "SELECT evidence FROM rollouts WHERE route = {route:String} ORDER BY version DESC, at DESC LIMIT 1",
        {"route": route},
    )
    variants = msgspec.json.decode(rows[0]["evidence"]).get("table", []) if rows else []
    for variant in variants:
        if variant["stable"]:
            return str(variant["name"])
    configured = config.route(route)
    assert configured is not None, "gateway.config.check saw to it"
    return configured.stable.name


def _check_still_may_train(config: Config, entry: LearnerConfig, run: Run, stores: OpenStore) -> None:
    """What was found out about the judge since the dataset was built counts until the training is done."""
    if run.stage != "train":
        return
    manifest = load_manifest(paths_of(config).datasets, run.dataset)
    with stores(config) as store:
        check_may(standing_of_version(config, entry, manifest.judge_version, store), "train")


def _step(config: Config, run: Run, tell: Tell, stop: Callable[[], bool], stores: OpenStore) -> Run:
    """Do the stage that *run* stands at."""
    runs = paths_of(config).runs
    if run.stage == "train":
        train(config, run, tell=tell, stop=stop)
        return save_run(runs, run, stage="evaluate")
    if run.stage == "evaluate":
        evaluate(config, run, tell=tell, stop=stop, stores=stores)
        return save_run(runs, run, stage="register")
    snapshot = register_run(config, run, stores=stores)
    return save_run(runs, run, stage="done", snapshot=snapshot.snapshot)
