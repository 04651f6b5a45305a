"""`tracetune traces erase`: forgets a person, and says in one table what that took."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli.root import config_option, json_option
from gateway.cli.terminal import plain_line
from gateway.config import load_config
from gateway.data_plane.auth import ADMIN_CLIENT
from gateway.errors import OperationError, RefusedError, UsageError
from gateway.judge_checks import python_path
from gateway.traces.erasure.erase import Erased, TouchedSnapshot, Unlearnt
from gateway.traces.erasure.erase import erase as erase_everywhere
from gateway.traces.erasure.whom import Whom
from gateway.traces.store import open_store


@click.command()
@click.option(
    "--subject", help="Whom to forget, as the app names him: x-tracetune-user, safety_identifier or user."
)
@click.option("--session", help="In place of a subject: a session, as the app names it.")
@click.option("--client", "only", multiple=True, help="Only of this client key's traffic; may be repeated.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def erase(
    subject: str | None,
    session: str | None,
    only: tuple[str, ...],
    yes: bool,
    config_path: Path,
    as_json: bool,
) -> None:
    """Erase everything of a subject or of a session, wherever it is kept or still on its way.

    It cannot be undone. Killed at any point, the same command goes on; where nothing is found, it says why.
    """
    if (subject is None) == (session is None) or not (subject or session):
        raise UsageError("name whom to forget: either --subject or --session")
    config = load_config(config_path)
    if not yes:
        _ask(as_json=as_json)
    keys = config.auth.keys if config.auth else []
    whom = Whom(
        kind="session" if subject is None else "subject",
        name=subject or session or "",
        clients=["", ADMIN_CLIENT, *(key.name for key in keys)],
        only=only,
    )
    console = Console(stderr=True, highlight=False)
    with open_store(config) as store, console.status("erasing") as status:
        done = erase_everywhere(
            config,
            store,
            whom,
            unlearn=lambda erasure: _unlearn(config_path, erasure),
            tell=lambda doing: status.update(f"erasing: {doing}"),
        )
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        Console(highlight=False).print(_table(done))
        if done.nothing is not None:
            click.echo(
                plain_line(
                    f"Nothing was found of this {done.kind}: {done.nothing}. What is on its way is kept out."
                )
            )
    _raise_what_is_left(done)


def _ask(*, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise UsageError("erasing cannot be undone, and nobody is here to be asked; say --yes")
    click.confirm("This cannot be undone. Erase?", abort=True, err=True)


def _unlearn(config_path: Path, erasure: str) -> Unlearnt:
    """Asked of the learner's own package in a process: the gateway imports none of it."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "learner.erasing", "--config", str(config_path), "--erasure", erasure],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": python_path()},
        check=False,
    )
    if done.returncode != 0:
        raise OperationError(
            f"what was learnt could not be gone through (status {done.returncode}; the line above says why); "
            "what is on its way is kept out: repeat the command when that is mended"
        )
    return msgspec.json.decode(done.stdout, type=Unlearnt)


def _table(done: Erased) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    clients = ", ".join(client or "without a key" for client in done.clients)
    rows: list[tuple[str, object]] = [
        ("erasure", done.erasure),
        ("clients", clients),
        ("traces in the store", done.traces),
        ("judgments", done.judgments),
        ("feedback", done.feedback),
        ("images kept once a session", done.blobs),
        ("rows in spool and quarantine", done.spool),
        ("records in shared memory", done.memory),
        ("keys destroyed", done.keys),
    ]
    if done.damaged:
        rows.append(("damaged records of nobody known", done.damaged))
    rows += [
        (f"dataset {one.dataset}", f"lost {one.train} rows to learn from, {one.holdout} held out")
        for one in done.unlearnt.datasets
    ]
    rows += [(f"snapshot {one.snapshot}", _fate(one)) for one in done.unlearnt.snapshots]
    if done.unnamed:
        rows.append(
            ("left", f"{done.unnamed} traces without a subject in the same sessions; --session erases them")
        )
    for name, value in rows:
        table.add_row(Text(name, "dim"), Text(plain_line(str(value))))
    return table


def _fate(one: TouchedSnapshot) -> str:
    if one.serves:
        return f"learnt from them and still serves route {one.route} ({one.state})"
    return f"retired; `tracetune learn run --route {one.route}` trains without them"


def _raise_what_is_left(done: Erased) -> None:
    """What keeps the erasure from being whole. Raises OperationError, RefusedError."""
    if done.unlearnt.at_work:
        routes = ", ".join(done.unlearnt.at_work)
        raise OperationError(
            f"all is erased but what a learning run of {routes} has in its memory; end it and repeat this"
        )
    serving = [one for one in done.unlearnt.snapshots if one.serves]
    if serving:
        named = ", ".join(f"{one.snapshot} on route {one.route}" for one in serving)
        raise RefusedError(
            f"the rows are erased, but {named} learnt from them and still serves; roll it back (`tracetune "
            "rollout rollback`), or train without them and promote that, and repeat this to retire it"
        )
