"""`tracetune traces quarantine`: rows that the store refused for good, why, and how they get another try."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from gateway.cli.root import config_option, json_option
from gateway.config import load_config
from gateway.errors import OperationError
from gateway.paths import paths_of
from gateway.traces.erasure.erasures import ErasureList
from gateway.traces.spool.quarantine import put_back, refused_files


@click.command()
@click.option("--put-back", "again", is_flag=True, help="Hand all that is whole to the shipper again.")
@config_option
@json_option
def quarantine(again: bool, config_path: Path, as_json: bool) -> None:
    """Show the rows that the store refused, by reason, or put them back once the reason is gone."""
    paths = paths_of(load_config(config_path))
    spool = paths.spool
    files = refused_files(spool)
    if again:
        try:
            done = [put_back(spool, refused.path, ErasureList(paths.state)) for refused in files]
        except OSError as error:
            raise OperationError(f"the spool {spool} cannot be written: {error.strerror}") from error
        erased = sum(one.erased for one in done)
        left_out = f"; {erased} of erased subjects or sessions are removed" if erased else ""
        click.echo(f"{sum(one.rows for one in done)} rows go to the store again{left_out}")
        return
    for refused in files:
        for reason, count in refused.reasons.items():
            line = {"file": str(refused.path), "rows": count, "reason": reason}
            click.echo(json.dumps(line) if as_json else f"{refused.path.name}  {count} rows  {reason}")
    if not files and not as_json:
        click.echo("nothing was refused")
