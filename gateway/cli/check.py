"""`tracetune check`: would this configuration work, here and now?"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.checks import Finding, check_local, passed
from gateway.cli.root import config_option, json_option
from gateway.cli.terminal import plain_line
from gateway.config.load import load_config
from gateway.judge_checks import check_judges
from gateway.probes import check_ports, check_reachable

_COLOURS = {"ok": "green", "failed": "red", "skipped": "yellow"}


@click.command()
@config_option
@click.option("--probe/--no-probe", default=True, help="Ask upstreams and the store whether they answer.")
@json_option
def check(config_path: Path, probe: bool, as_json: bool) -> int:
    """Validate the configuration, then try what it names: secrets, judges, files, ports, upstreams, store.

    Exits 0 when nothing failed, 1 when the world said no, 2 when the file or a variable is off.
    """
    config = load_config(config_path)
    findings = [passed("configuration", f"{config_path}, {len(config.routes)} routes")]
    findings += check_local(config, os.environ)
    findings += check_judges(config, config_path)
    findings += check_ports(config)
    if probe:
        findings += check_reachable(config, os.environ)
    if as_json:
        click.echo(msgspec.json.encode(findings).decode())
    else:
        _print(findings)
    failed = [finding for finding in findings if finding.exit_code]
    for finding in failed:
        click.echo(f"tracetune: {config_path}: {finding.what}: {plain_line(finding.says)}", err=True)
    return max(finding.exit_code for finding in findings)


def _print(findings: list[Finding]) -> None:
    table = Table("what", "", "says", box=None, pad_edge=False, header_style="bold")
    for finding in findings:
        state = Text(finding.state, style=_COLOURS[finding.state])
        table.add_row(plain_line(finding.what), state, plain_line(finding.says))
    Console(markup=False).print(table)
