"""`tracetune gateway`: the gateway alone, its traces captured up to the spool (or to a remote store)."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from gateway.cli.root import config_option
from gateway.supervisor.plan import plan_capture, plan_gateway
from gateway.supervisor.run import supervise


@click.command()
@config_option
@click.option("--quiet", is_flag=True, help="Keep the processes' lines in DATA/logs alone.")
def gateway(config_path: Path, quiet: bool) -> None:
    """Run the gateway alone; traces wait in the spool for `up`, or go to a remote store."""
    supervise(
        config_path,
        lambda config, path: [*plan_capture(config, path), *plan_gateway(config, path)],
        echo=not quiet,
        announce="gateway is up: base_url={url}  (Ctrl-C stops it)",
        command="gateway",
    )
