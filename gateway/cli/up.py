"""`tracetune up`: everything that a configuration asks for, in one terminal."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from gateway.cli.root import config_option
from gateway.supervisor.plan import plan_up
from gateway.supervisor.run import supervise


@click.command()
@config_option
@click.option("--quiet", is_flag=True, help="Keep the processes' lines in DATA/logs alone.")
def up(config_path: Path, quiet: bool) -> None:
    """Run gateway, store, recorder, shipper, managed inference, judges and learner until Ctrl-C."""
    supervise(
        config_path,
        plan_up,
        echo=not quiet,
        announce="tracetune is up: base_url={url}  (tracetune status tells more; Ctrl-C stops it)",
    )
