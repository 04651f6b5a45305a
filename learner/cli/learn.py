"""`tracetune learn`: dataset, train, evaluate, run, status. Thin over the stages in `learner`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import rich_click as click

from gateway.cli.root import config_option, json_option
from gateway.config import load_config
from gateway.paths import paths_of
from gateway.traces.store import open_store
from learner.cli.show import print_evaluation, print_json, print_table, progress_bar
from learner.evaluation import Evaluation
from learner.files import read_json
from learner.runs import Run
from learner.settings import only_route
from learner.status import route_status
from learner.types import Manifest, SnapshotManifest

route_option = click.option("--route", help="The route; may be left out when only one learns.")


@click.group()
def learn() -> None:
    """Datasets, training and evaluation of a route's own model."""


@learn.command()
@config_option
@route_option
@json_option
def dataset(config_path: Path, route: str | None, as_json: bool) -> None:
    """Build the dataset of what has been judged so far: winners to train on, a holdout, a manifest."""
    from learner.dataset import build_dataset

    config = load_config(config_path)
    with open_store(config) as store:
        manifest = build_dataset(config, only_route(config, route), store)
    if as_json:
        print_json(manifest)
        return
    _print_dataset(manifest, paths_of(config).datasets)


@learn.command()
@config_option
@route_option
@json_option
def train(config_path: Path, route: str | None, as_json: bool) -> None:
    """Build the dataset and train an adapter on it; goes on from the last checkpoint after a kill."""
    from learner.learn import run_stages

    config = load_config(config_path)
    with progress_bar() as tell:
        run = run_stages(config, only_route(config, route), until="evaluate", tell=tell)
    _print_run(run, as_json)


@learn.command()
@config_option
@route_option
@json_option
def evaluate(config_path: Path, route: str | None, as_json: bool) -> None:
    """Train if need be, then judge base, stable and candidate on the holdout."""
    from learner.learn import run_stages

    config = load_config(config_path)
    with progress_bar() as tell:
        run = run_stages(config, only_route(config, route), until="register", tell=tell)
    evaluation = read_json(paths_of(config).runs / run.run / "evaluation.json", Evaluation)
    if as_json:
        print_json(evaluation)
        return
    print_evaluation(evaluation)


@learn.command()
@config_option
@route_option
@json_option
def run(config_path: Path, route: str | None, as_json: bool) -> None:
    """Learn: dataset, train, evaluate, register. Ends with a snapshot that may start a rollout."""
    from learner.learn import run_learning

    config = load_config(config_path)
    name = only_route(config, route)
    with progress_bar() as tell:
        snapshot = run_learning(config, name, tell=tell)
    if as_json:
        print_json(snapshot)
        return
    _print_snapshot(snapshot)


@learn.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> None:
    """What each route that learns has, and what it waits for."""
    config = load_config(config_path)
    with open_store(config) as store:
        statuses = route_status(config, store)
    if as_json:
        print_json(statuses)
        return
    print_table(("route", "judge", "status", "next"), [(s.route, s.judge, s.line, s.next) for s in statuses])
    for entry in statuses:
        for note in entry.notes:
            click.echo(f"{entry.route}: {note}")


def _print_dataset(manifest: Manifest, root: Path) -> None:
    click.echo(
        f"{manifest.dataset}: {manifest.examples} examples, {manifest.holdout} held out, "
        f"of {manifest.judged} judged traces in {manifest.sessions} sessions"
    )
    rows = [*manifest.left_out.items(), *((f"held out: {name}", n) for name, n in manifest.slices.items())]
    if rows:
        print_table(("left out or held out", "traces"), rows)
    if manifest.standing is not None and (note := manifest.standing.note("train")) is not None:
        click.echo(note)
    click.echo(f"in {root / manifest.dataset}")


def _print_run(run: Run, as_json: bool) -> None:
    if as_json:
        print_json(run)
        return
    click.echo(f"{run.run}: trained on {run.dataset}, now at stage {run.stage}")
    click.echo(f"next: tracetune learn run --route {run.route}")


def _print_snapshot(snapshot: SnapshotManifest) -> None:
    print_evaluation(msgspec.convert({**snapshot.evaluation, "wins": [], "losses": []}, Evaluation))
    click.echo(f"registered {snapshot.snapshot}")
    click.echo(f"next: tracetune rollout start --route {snapshot.route} --snapshot {snapshot.snapshot}")
