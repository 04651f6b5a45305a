"""Where an answer comes from: trace, snapshot, run, dataset, and the traces that were learnt from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.config import Config
from gateway.paths import paths_of
from learner.dataset import load_manifest
from learner.errors import LearnerError
from learner.files import read_jsonl
from learner.registry import list_snapshots, load_snapshot
from learner.rows import TraceIds
from learner.types import SnapshotManifest

if TYPE_CHECKING:
    from gateway.traces.store import Store


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One station on the way back, with what is known of it."""

    kind: Literal["trace", "snapshot", "run", "dataset"]
    name: str
    facts: dict[str, str]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """The way back, the newest station first; `traces` are the ids that were learnt from."""

    steps: list[Step]
    traces: list[str]


def lineage_of(config: Config, name: str, store: Store) -> Lineage:
    """The lineage of a snapshot, or of the answer with trace id *name*.

    Raises LearnerError when it is neither, or when no snapshot gave that answer.
    """
    paths = paths_of(config)
    steps: list[Step] = []
    snapshot = name
    if name not in {manifest.snapshot for manifest in list_snapshots(paths.snapshots)}:
        rows = store.query(
            "SELECT route, variant, snapshot, started_at FROM traces WHERE trace_id = {trace:String}",
            {"trace": name},
        )
        if not rows:
            raise LearnerError(f"{name!r} is neither a snapshot nor a trace; `tracetune snapshot list`")
        if rows[0]["snapshot"] is None:
            raise LearnerError(
                f"trace {name} was answered by variant {rows[0]['variant']!r}, not by a snapshot"
            )
        snapshot = rows[0]["snapshot"]
        facts = {"route": rows[0]["route"], "answered": f"{rows[0]['started_at']:%Y-%m-%d %H:%M:%S} UTC"}
        steps.append(Step(kind="trace", name=name, facts=facts))
    manifest = load_snapshot(paths.snapshots, snapshot)
    steps.append(_snapshot_step(manifest))
    if manifest.run is not None and manifest.training is not None:
        steps.append(_run_step(manifest, manifest.run))
    if manifest.dataset is None:
        return Lineage(steps=steps, traces=[])
    dataset = load_manifest(paths.datasets, manifest.dataset)
    examples = read_jsonl(paths.datasets / manifest.dataset / "train.jsonl", TraceIds)
    traces = [trace for example in examples for trace in example.traces]
    facts = {
        "learnt from": f"{len(traces)} traces in {dataset.examples} examples",
        "held out": f"{dataset.holdout} traces",
        "between": f"{dataset.first_trace_at:%Y-%m-%d %H:%M} and {dataset.last_trace_at:%Y-%m-%d %H:%M} UTC",
        "judged by": f"{dataset.judge} {dataset.judge_version}",
    }
    if dataset.standing is not None and (note := dataset.standing.note("train")) is not None:
        facts["judge"] = note
    steps.append(Step(kind="dataset", name=dataset.dataset, facts=facts))
    return Lineage(steps=steps, traces=traces)


def _snapshot_step(manifest: SnapshotManifest) -> Step:
    facts = {
        "route": manifest.route,
        "base model": f"{manifest.base_model} ({manifest.base_digest[:12]})",
        "parents": ", ".join(manifest.parents) or "none",
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC",
    }
    gate = manifest.evaluation.get("gate")
    if gate is not None:
        facts["evaluated for the gate by"] = f"{gate['judge']} {gate['judge_version']}"
    return Step(kind="snapshot", name=manifest.snapshot, facts=facts)


def _run_step(manifest: SnapshotManifest, run: str) -> Step:
    training, recipe = manifest.training, manifest.recipe
    assert training is not None, "a run has a result"
    assert recipe is not None, "a run has a recipe"
    facts = {
        "method": f"{recipe.method}, LoRA rank {recipe.lora_rank}, learning rate {recipe.learning_rate:g}",
        "training": f"{training.rows} rows, {training.steps} steps on {training.device}",
        "libraries": ", ".join(f"{name} {version}" for name, version in training.libraries.items()),
    }
    return Step(kind="run", name=run, facts=facts)
