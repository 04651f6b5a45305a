"""`tracetune judge new`: a judge to start from, and its test."""

from __future__ import annotations

from pathlib import Path

import msgspec
import rich_click as click

from gateway.cli.new_files import place_new, refuse_existing
from gateway.cli.root import json_option
from gateway.errors import OperationError, UsageError
from judges.templates import TEMPLATES, judge_test_text, judge_text


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What `judge new` wrote: a judge named *judge* in *file*, and its test."""

    judge: str
    file: str
    test: str


@click.command()
@click.argument("name", required=False)
@click.option("--template", type=click.Choice(TEMPLATES), required=True, help="What your app does.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to write.  [default: here]",
)
@json_option
def new(name: str | None, template: str, folder: Path, *, as_json: bool) -> None:
    """Write a judge of a few lines and its test, to be edited. Its NAME [default: TEMPLATE_judge].

    Nothing is ever overwritten: exits 2 where a file is there.
    """
    name = name or f"{template}_judge"
    module = f"judge_{name}"  # never the name of a module of Python's, nor of ours
    names = (f"{module}.py", f"test_{module}.py")
    try:
        texts = (judge_text(template, name), judge_test_text(template, name, module))
        refuse_existing(folder, names)
    except (ValueError, OperationError) as error:
        raise UsageError(str(error)) from error
    place_new(folder, dict(zip(names, texts, strict=True)))
    judge_file, test_file = (str(folder / written) for written in names)
    if as_json:
        click.echo(msgspec.json.encode(Written(judge=name, file=judge_file, test=test_file)))
        return
    click.echo(f"Wrote {judge_file} and {test_file}. Next:")
    click.echo(f"  tracetune judge try {judge_file}     # over your latest traces; stores nothing")
    click.echo(f"  pytest {test_file}     # pip install pytest")
    click.echo("In tracetune.yaml, so that every trace is judged (paths there start from that file):")
    click.echo("judges:")
    click.echo(f'  - {{name: {name}, path: "{judge_file}:{name}"}}')
