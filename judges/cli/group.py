"""The group `tracetune judge`, which each command adds itself to, and the bar that they show."""

from __future__ import annotations

import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@click.group()
def judge() -> None:
    """Say how good answers are: list your judges, try one, run them over the stored traces."""


def progress_bar() -> Progress:
    """How far a command is, on standard error; nothing where that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
