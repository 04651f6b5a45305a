"""`tracetune status`: what each route has, what it waits for, and the next command."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from gateway.cli.root import config_option, json_option
from gateway.config import load_config
from gateway.traces.store import open_store
from learner.cli.show import print_json, print_table
from learner.overview import Overview, RouteLine, overview


@click.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> None:
    """What each route has, what it waits for, and the next command."""
    config = load_config(config_path)
    with open_store(config) as store:
        found = overview(config, store)
    if as_json:
        print_json(found)
        return
    click.echo(what_runs(found))
    if found.capture:
        click.echo(found.capture)
    for trouble in found.troubles:
        click.echo(trouble)
    # Most have none, and a terminal is narrow.
    imports = any(line.imported for line in found.routes)
    print_table(
        (
            *("route", "traces 24 h", "failed", "judged", "judging"),
            *(("imported",) if imports else ()),
            *("has", "next"),
        ),
        [
            (
                *(line.route, line.traces, line.failed, line.judged, shown_usd(line)),
                *((line.imported,) if imports else ()),
                *(line.has, line.next),
            )
            for line in found.routes
        ],
    )
    for broken in found.broken_judges:
        click.echo(f"judge {broken.judge} judges nothing: {broken.why}")
    for note in found.notes:
        click.echo(note)


def shown_usd(line: RouteLine) -> str:
    """What judging the traces of 24 hours cost."""
    return "—" if line.judging_usd is None else f"${line.judging_usd:.4f}"


def what_runs(found: Overview) -> str:
    """The first line: which command runs how many processes here."""
    if not found.running:
        return "not running: tracetune up"
    missing = [name for name, pid in found.processes.items() if pid is None]
    restarting = f", restarting: {', '.join(missing)}" if missing else ""
    alone = "; nothing is judged or learnt until `tracetune up`" if found.command == "gateway" else ""
    return f"{found.command}: {len(found.processes)} processes{restarting}{alone}"
