"""`tracetune judge run`: judges what is not judged yet, once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import rich_click as click
from rich.progress import Progress

from gateway.cli.progress import bars
from gateway.cli.root import config_option, json_option
from gateway.config import Config, JudgeConfig, load_config
from gateway.traces.store import Store, open_store
from judges.budget import Budget
from judges.cli.named import named_judges
from judges.definition import definition_of
from judges.errors import JudgeError
from judges.executor import executor_of
from judges.once import count_left, judge_once
from judges.passes import version_of
from judges.sandbox import IMPORT_WITHIN_S
from judges.slow_import import told_when_slow


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What `judge run` came to for one judge; `error` where its file could not be used.

    `paused`: which limit ended it, and when it goes on; `left` traces are not judged then.
    """

    judge: str
    version: str | None
    judged: int
    abstained: int
    left: int = 0
    paused: str | None = None
    error: str | None = None


@click.command()
@click.argument("names", metavar="[NAME]…", nargs=-1)
@config_option
@json_option
def run(names: tuple[str, ...], config_path: Path, *, as_json: bool) -> int:
    """Judge what is not judged yet, once, with all judges or those named. Safe to interrupt and repeat.

    Exits 2 where a judge's file cannot be used, 1 where its upstream refuses; the others judge all the same.
    """
    config = load_config(config_path)
    entries = named_judges(config, names, config_path)
    results: list[Ran] = []
    failed = 0
    with open_store(config) as store, bars() as progress:
        for entry in entries:
            try:
                results.append(_run(config, store, entry, progress))
            except JudgeError as error:  # the others are judged nevertheless
                results.append(Ran(judge=entry.name, version=None, judged=0, abstained=0, error=str(error)))
                failed = max(failed, error.exit_code)
    if as_json:
        click.echo(msgspec.json.encode(results))
    else:
        for result in results:
            _tell(result)
    for result in results:
        if result.error is not None:
            click.echo(f"tracetune: judge {result.judge}: {result.error}", err=True)
    return failed


def _tell(ran: Ran) -> None:
    if ran.error is None:
        click.echo(f"{ran.judge}: {ran.judged} judged, {ran.abstained} abstained")
    if ran.paused is not None:
        click.echo(f"{ran.paused}; {ran.left} traces are left")


def _run(config: Config, store: Store, entry: JudgeConfig, progress: Progress) -> Ran:
    definition = definition_of(entry)
    version = version_of(entry, definition)
    with executor_of(config, entry, definition) as executor:
        with told_when_slow(definition, IMPORT_WITHIN_S):
            executor.start()
        task = progress.add_task(entry.name, total=count_left(store, version))
        budget = Budget(entry.name, entry.limits)
        tally = judge_once(
            store,
            executor,
            version,
            stored=lambda stored: progress.advance(task, stored.total),
            budget=budget,
        )
    paused = budget.told() if budget.exhausted() else None
    return Ran(
        judge=entry.name,
        version=definition.version,
        judged=tally.judged,
        abstained=tally.abstained,
        left=0 if paused is None else count_left(store, version),
        paused=paused,
    )
