"""`tracetune judge list`: what each judge is, and how far it got."""

from __future__ import annotations

from pathlib import Path

import msgspec
import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.cli.root import config_option, json_option
from gateway.config import JudgeConfig, load_config
from gateway.traces.store import Store, open_store
from gateway.traces.types import Calibration
from judges.calibration.stored import latest_calibration
from judges.coverage import Coverage, coverage
from judges.definition import definition_of
from judges.errors import JudgeFileError
from judges.passes import version_of
from judges.standing import Standing, calibration_text, standing_by
from judges.usable import why_unusable


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `judge list`. `error`: why it cannot be used; a file that cannot be read has no version."""

    name: str
    file: str
    version: str | None = None
    coverage: Coverage | None = None
    calibration: Calibration | None = None
    standing: Standing | None = None
    error: str | None = None


@click.command(name="list")
@config_option
@json_option
def list_judges(config_path: Path, *, as_json: bool) -> None:
    """Each judge with its version, how much of the store it has judged, and why it cannot be used."""
    config = load_config(config_path)
    unusable = why_unusable(config)
    with open_store(config) as store:
        listed = [_listed(store, entry, unusable.get(entry.name)) for entry in config.judges]
    if as_json:
        click.echo(msgspec.json.encode(listed))
        return
    table = Table("judge", "version", "judged", "abstained", "of", "mean", "calibration", "may")
    for entry in listed:
        found = entry.coverage
        table.add_row(
            escape(entry.name),
            entry.version or "—",
            *([str(found.judged), str(found.abstained), str(found.traces)] if found else ["—"] * 3),
            "—" if found is None or found.mean is None else f"{found.mean:.3f}",
            calibration_text(entry.calibration, entry.standing),
            entry.standing.may_what if entry.standing else "—",
        )
    Console().print(table if listed else f"no judges in {config_path}; add one under `judges:`")
    for entry in listed:
        if entry.error is not None:
            click.echo(f"{entry.name} judges nothing: {entry.error}")
        elif entry.standing is not None and not (entry.standing.may_train and entry.standing.may_gate):
            click.echo(f"{entry.name} may {entry.standing.may_what}: {entry.standing.why}")


def _listed(store: Store, entry: JudgeConfig, error: str | None) -> Listed:
    try:
        version = version_of(entry, definition_of(entry))
    except JudgeFileError:
        return Listed(name=entry.name, file=entry.path or entry.made_of, error=error)
    calibration = latest_calibration(store, entry.name, version.version)
    return Listed(
        name=entry.name,
        file=entry.path or entry.made_of,
        version=version.version,
        coverage=coverage(store, version),
        calibration=calibration,
        standing=standing_by(entry, version.version, calibration),
        error=error,
    )
