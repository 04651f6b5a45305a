"""How `tracetune rollout status` looks."""

from __future__ import annotations

from typing import Any

import msgspec
import rich_click as click

from learner.cli.show import print_table
from learner.rollout.control import RouteRollout
from learner.rollout.decision import Decision
from learner.rollout.policy import FrozenPolicy
from learner.rollout.state import Proposal, Report

Shown = tuple[RouteRollout, FrozenPolicy, Decision, dict[str, Any]]  # with the decision's record

_DIGITS = {"ms": "{:.0f}", "USD per session": "{:.6f}"}


def status_json(
    shown: list[Shown], others: dict[str, Report], proposals: dict[str, Proposal]
) -> dict[str, Any]:
    """Everything that the table shows, and the rest."""
    return {
        "rollouts": [
            {
                "route": entry.route,
                "version": entry.version,
                "rollout": entry.rollout and msgspec.structs.replace(entry.rollout, policy={}),
                "policy": policy,
                "policy_digest": policy.digest,
                "proposed": entry.route in proposals,
                **record,
            }
            for entry, policy, _, record in shown
        ],
        "ended": others,
    }


def print_status(shown: list[Shown], others: dict[str, Report], proposals: dict[str, Proposal]) -> None:
    """One block for each rollout that runs, one line for each that ended."""
    for entry, policy, decision, record in shown:
        _print_one(entry, policy, decision, record, proposals.get(entry.route))
    for report in others.values():
        why = report.decision.why if report.decision else report.error
        click.echo(
            f"{report.route}: {report.snapshot} {report.action} at {report.at:%Y-%m-%d %H:%M} UTC: {why}"
        )
    if not shown and not others:
        click.echo("no rollout; `tracetune rollout start --snapshot ID` begins one")


def _print_one(
    entry: RouteRollout,
    policy: FrozenPolicy,
    decision: Decision,
    record: dict[str, Any],
    proposal: Proposal | None,
) -> None:
    assert entry.rollout is not None, "only rollouts that run are shown"
    paused = ", paused" if entry.rollout.paused else ""
    click.echo(
        f"{entry.route}: {entry.rollout.snapshot} at {entry.rollout.share:.3g} of the sessions{paused}; "
        f"{decision.units_candidate} candidate and {decision.units_stable} stable sessions counted, "
        f"{decision.maturing} still open"
    )
    print_table(
        ("measured", policy.candidate.variant, policy.stable.variant, "difference", "at all times within"),
        [_estimate_row(estimate) for estimate in record["estimates"]],
    )
    click.echo()
    print_table(
        ("test", "claim", "e-value", "needed", ""),
        [
            (m.role, m.claim, f"{m.e:.3g}", f"{m.threshold:g}", "proven" if m.passed else "")
            for m in decision.measures
        ],
    )
    click.echo()
    if proposal is not None:
        click.echo(f"may be promoted: `tracetune rollout promote --route {entry.route}` ({proposal.why})")
    for note in record["notes"]:
        click.echo(note)
    click.echo(f"{decision.kind.replace('_', ' ')}: {decision.why}")
    for line in decision.missing:
        click.echo(f"  missing: {line}")


def _unknown(estimate: dict[str, Any]) -> str:
    return f", {estimate['unknown']} sessions unknown" if estimate["unknown"] else ""


def _estimate_row(estimate: dict[str, Any]) -> tuple[str, ...]:
    shape = _DIGITS.get(estimate["unit"], "{:.3f}")
    candidate, stable = estimate["candidate"], estimate["stable"]
    known = candidate is not None and stable is not None
    return (
        f"{estimate['name']} ({estimate['unit']}){_unknown(estimate)}",
        shape.format(candidate) if candidate is not None else "—",
        shape.format(stable) if stable is not None else "—",
        shape.format(candidate - stable) if known else "—",
        f"{shape.format(estimate['low'])} … {shape.format(estimate['high'])}",
    )
