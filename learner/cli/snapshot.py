"""`tracetune snapshot`: list, show, verify, lineage. None of it needs torch."""

from __future__ import annotations

from pathlib import Path

import msgspec
import rich_click as click

from gateway.cli.root import config_option, json_option
from gateway.config import Config, load_config
from gateway.paths import paths_of
from gateway.traces.store import open_store
from learner.cli.show import percent, print_evaluation, print_json, print_table
from learner.evaluation import Evaluation
from learner.lineage import Lineage, lineage_of
from learner.registry import list_snapshots, load_snapshot, verify_snapshot
from learner.states import EVENTS_SQL, Event, snapshot_states
from learner.types import SnapshotManifest


@click.group()
def snapshot() -> None:
    """What was learnt: immutable, verified, with where it came from."""


@snapshot.command("list")
@config_option
@click.option("--route", help="Only this route's.")
@json_option
def list_(config_path: Path, route: str | None, as_json: bool) -> None:
    """Every snapshot with its state and its score on the holdout."""
    config = load_config(config_path)
    manifests = list_snapshots(paths_of(config).snapshots, route)
    with open_store(config) as store:
        events = [msgspec.convert(row, Event) for row in store.query(EVENTS_SQL)]
    states = snapshot_states([manifest.snapshot for manifest in manifests], events)
    if as_json:
        print_json([{"state": states[m.snapshot], **msgspec.to_builtins(m)} for m in manifests])
        return
    rows = []
    for manifest in manifests:
        evaluation = evaluation_of(manifest)
        own = next((arm for arm in evaluation.arms if arm.arm == "candidate"), None) if evaluation else None
        rows.append(
            (
                manifest.snapshot,
                states[manifest.snapshot],
                manifest.base_model,
                percent(own.score) if own else None,
                manifest.dataset,
                f"{manifest.created_at:%Y-%m-%d %H:%M} UTC",
            )
        )
    print_table(("snapshot", "state", "base model", "score", "dataset", "created"), rows)


@snapshot.command()
@config_option
@click.argument("snapshot_id", metavar="ID")
@json_option
def show(config_path: Path, snapshot_id: str, as_json: bool) -> None:
    """One snapshot: recipe, files, evaluation."""
    manifest = load_snapshot(paths_of(load_config(config_path)).snapshots, snapshot_id)
    if as_json:
        print_json(manifest)
        return
    rows: list[tuple[str, object]] = [
        ("route", manifest.route),
        ("base model", f"{manifest.base_model} ({manifest.base_digest[:12]})"),
        ("dataset", manifest.dataset),
        ("judges", ", ".join(f"{name} {version}" for name, version in manifest.judges.items())),
        ("parents", ", ".join(manifest.parents) or None),
    ]
    if manifest.recipe is not None:
        rows += [
            (f"recipe: {name}", value) for name, value in msgspec.structs.asdict(manifest.recipe).items()
        ]
    if manifest.training is not None:
        training = manifest.training
        rows.append(("training", f"{training.rows} rows, {training.steps} steps, {training.seconds:.0f} s"))
    rows += [(name, digest) for name, digest in manifest.files.items()]
    print_table((manifest.snapshot, ""), rows)
    evaluation = evaluation_of(manifest)
    if evaluation is not None:
        print_evaluation(evaluation)


@snapshot.command()
@config_option
@click.argument("snapshot_ids", metavar="[ID]...", nargs=-1)
@json_option
def verify(config_path: Path, snapshot_ids: tuple[str, ...], as_json: bool) -> None:
    """Recompute every digest of the snapshots named, or of all; the first that differs is the error."""
    config = load_config(config_path)
    root = paths_of(config).snapshots
    names = snapshot_ids or tuple(manifest.snapshot for manifest in list_snapshots(root))
    bases = {name: base_model_for(config, load_snapshot(root, name)) for name in names}
    verified = [verify_snapshot(root, name, base) for name, base in bases.items()]
    if as_json:
        print_json([manifest.snapshot for manifest in verified])
        return
    for manifest in verified:
        base = "and its base model" if bases[manifest.snapshot] else "(its base model is not here)"
        click.echo(f"{manifest.snapshot}: verified, {len(manifest.files)} files {base}")
    if not verified:
        click.echo("no snapshots yet")


@snapshot.command()
@config_option
@click.argument("name", metavar="SNAPSHOT|TRACE")
@json_option
def lineage(config_path: Path, name: str, as_json: bool) -> None:
    """From a snapshot, or from an answer by its trace id, back to the traces that were learnt from."""
    config = load_config(config_path)
    with open_store(config) as store:
        found = lineage_of(config, name, store)
    if as_json:
        print_json(found)
        return
    _print_lineage(found)


def evaluation_of(manifest: SnapshotManifest) -> Evaluation | None:
    """The figures recorded with a snapshot; None for one that was not evaluated."""
    if "arms" not in manifest.evaluation:
        return None
    return msgspec.convert({**manifest.evaluation, "wins": [], "losses": []}, Evaluation)


def base_model_for(config: Config, manifest: SnapshotManifest) -> Path | None:
    """The base model's directory, if the snapshot's route still learns on it and it is on this machine."""
    for entry in config.learner:
        base = entry.base_model
        if entry.route == manifest.route and base.name == manifest.base_model and base.is_dir():
            return base
    return None


def _print_lineage(found: Lineage) -> None:
    indent = ""
    for step in found.steps:
        click.echo(f"{indent}{step.kind} {step.name}")
        for name, value in step.facts.items():
            click.echo(f"{indent}  {name}: {value}")
        indent += "  "
