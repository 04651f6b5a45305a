"""`tracetune rollout`: start, status, pause, resume, weight, promote, rollback. Works without torch."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import rich_click as click

from gateway.cli.root import config_option, json_option, user_name
from gateway.config import Config, load_config
from gateway.control.client import UnreachableError
from gateway.errors import UsageError
from gateway.paths import paths_of
from gateway.traces.store import open_store
from learner.cli.rollout_view import print_status, status_json
from learner.cli.show import print_json
from learner.errors import LearnerRefusedError
from learner.rollout.control import Control, RouteRollout, RunningRollout, running
from learner.rollout.controller import assess
from learner.rollout.decision import Decision, evidence_record
from learner.rollout.ended import ended
from learner.rollout.judges import abstention_sign, watch_judges
from learner.rollout.start import start_rollout
from learner.rollout.state import read_proposals, read_reports
from learner.settings import only_route

route_option = click.option("--route", help="The route; may be left out when only one learns.")
why_option = click.option("--why", default="by hand", show_default=True, help="Recorded with the decision.")


@click.group()
def rollout() -> None:
    """Move a route to a new snapshot, step by step, on evidence."""


@rollout.command()
@config_option
@route_option
@json_option
@click.option("--snapshot", required=True, help="The candidate; `tracetune snapshot list` shows them.")
@click.option(
    "--share", type=click.FloatRange(0, 1), help="First share of the sessions  [default: first step]"
)
@why_option
def start(
    config_path: Path, route: str | None, snapshot: str, share: float | None, why: str, as_json: bool
) -> None:
    """Load a snapshot where it will be served, freeze the policy, and give it its first share."""
    from learner.publish import publish

    config = load_config(config_path)
    name = only_route(config, route)
    with open_store(config) as store:
        started = start_rollout(
            config,
            store,
            connect(config),
            lambda chosen, upstream: publish(config, chosen, upstream),
            route=name,
            snapshot=snapshot,
            share=share,
            who=user_name(),
            why=why,
            now=datetime.now(UTC),
        )
    if as_json:
        print_json(started)
        return
    click.echo(
        f"{started.snapshot} takes {started.share:.3g} of route {name} (rollout {started.rollout}); "
        f"see `tracetune rollout status --route {name}`"
    )
    if (note := started.standing.note("gate")) is not None:
        click.echo(note)


@rollout.command()
@config_option
@route_option
@json_option
def status(config_path: Path, route: str | None, as_json: bool) -> None:
    """The evidence so far: estimates with intervals, e-values against their thresholds, what is missing."""
    config = load_config(config_path)
    if route is not None and config.route(route) is None:
        raise UsageError(f"no route {route!r}; routes: {', '.join(known.model for known in config.routes)}")
    state = paths_of(config).state
    reports, proposals = read_reports(state), read_proposals(state)
    known = True
    try:
        entries = running(connect(config), route)
    except UnreachableError as error:
        if not reports:
            raise
        click.echo(f"{error}; this is what was decided last", err=True)
        entries, known = [], False
    now = datetime.now(UTC)
    shown = []
    with open_store(config) as store:
        for entry in entries:
            if entry.rollout is not None:
                decision, evidence, policy = assess(store, entry.rollout, now)
                watched = watch_judges(config, store, entry.rollout.rollout, policy)
                record = {**evidence_record(decision, evidence, policy), **watched.record()}
                notes = [*watched.notes(), abstention_sign(evidence.figures)]
                record["notes"] = [note for note in notes if note is not None]
                shown.append((entry, policy, decision, record))
        others = ended(reports, store, {entry.route for entry, *_ in shown}, known=known)
    if route is not None:
        others = {name: report for name, report in others.items() if name == route}
    if as_json:
        print_json(status_json(shown, others, proposals))
        return
    print_status(shown, others, proposals)


@rollout.command()
@config_option
@route_option
@why_option
def pause(config_path: Path, route: str | None, why: str) -> None:
    """Hold the rollout where it is; only a rollback still happens by itself."""
    _act(load_config(config_path), route, "pause", why)


@rollout.command()
@config_option
@route_option
@why_option
def resume(config_path: Path, route: str | None, why: str) -> None:
    """Let a paused rollout go on."""
    _act(load_config(config_path), route, "resume", why)


@rollout.command()
@config_option
@route_option
@why_option
@click.argument("share", type=click.FloatRange(0, 1))
def weight(config_path: Path, route: str | None, why: str, share: float) -> None:
    """Give the candidate SHARE of the sessions. The evidence stays valid: each session's odds are kept."""
    _act(load_config(config_path), route, "weight", why, share=share)


@rollout.command()
@config_option
@route_option
@click.option("--override", metavar="REASON", help="Promote against the evidence; the reason is recorded.")
def promote(config_path: Path, route: str | None, override: str | None) -> None:
    """Make the candidate stable, if the evidence allows it."""
    config = load_config(config_path)
    control = connect(config)
    entry, current = _running(config, control, route)
    with open_store(config) as store:
        decision, evidence, policy = assess(store, current, datetime.now(UTC))
        watched = watch_judges(config, store, current.rollout, policy)
        record = {**evidence_record(decision, evidence, policy), **watched.record()}
    if watched.refusal is not None and override is None:
        raise LearnerRefusedError(f"refused: {watched.refusal}; --override REASON promotes all the same")
    if decision.kind != "promote" and override is None:
        raise LearnerRefusedError(f"refused: {_against(decision)}; --override REASON promotes all the same")
    settled = decision.kind == "promote" and watched.refusal is None
    why = decision.why if settled else f"against the evidence: {override}"
    control.act(
        current.rollout,
        "promote",
        {"version": entry.version, "who": user_name(), "why": why, "evidence": record},
    )
    click.echo(f"{current.snapshot} is stable on route {entry.route}: {why}")


@rollout.command()
@config_option
@route_option
@why_option
def rollback(config_path: Path, route: str | None, why: str) -> None:
    """Restore the variants from before the last rollout, whether it runs or was promoted."""
    config = load_config(config_path)
    control = connect(config)
    name = only_route(config, route)
    entry = next(entry for entry in running(control, name) if entry.route == name)
    control.roll_back({"route": name, "version": entry.version, "who": user_name(), "why": why})
    click.echo(f"route {name} is back on its former variants")


def connect(config: Config) -> Control:
    """The control API of the running gateway."""
    from gateway.control.client import ControlClient

    client: Control = ControlClient(config, os.environ)
    return client


def _act(config: Config, route: str | None, action: str, why: str, share: float | None = None) -> None:
    control = connect(config)
    entry, current = _running(config, control, route)
    body = {"version": entry.version, "who": user_name(), "why": why}
    if share is not None:
        body["share"] = share
    control.act(current.rollout, action, body)
    click.echo(
        f"route {entry.route}: {action}{f' {share:g}' if share is not None else ''}, {current.snapshot}"
    )


def _running(config: Config, control: Control, route: str | None) -> tuple[RouteRollout, RunningRollout]:
    name = only_route(config, route)
    entry = next((entry for entry in running(control, name) if entry.route == name), None)
    if entry is None or entry.rollout is None:
        raise UsageError(f"route {name!r} is in no rollout; `tracetune rollout start` begins one")
    return entry, entry.rollout


def _against(decision: Decision) -> str:
    """What speaks against a promotion, with the numbers."""
    if decision.kind in {"rollback", "inconclusive"}:
        return decision.why
    return "; ".join(decision.missing) or decision.why
