"""`tracetune judge`: one file for each command, thin over the functions that do it."""

from __future__ import annotations

import rich_click as click

from judges.cli.calibrate import calibrate
from judges.cli.listing import list_judges
from judges.cli.new import new
from judges.cli.run import run
from judges.cli.trying import try_judge


@click.group()
def judge() -> None:
    """Say how good answers are: write a judge, try it, run it over the stored traces, list those you have."""


for _command in (new, try_judge, run, list_judges, calibrate):
    judge.add_command(_command)
