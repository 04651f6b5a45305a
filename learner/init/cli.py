"""`tracetune init`: at most five questions, three files, one line to change in the app."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import rich_click as click

from gateway.config.load import DEFAULT_CONFIG, parse_config
from learner.init.machine import Machine, Provider, look
from learner.init.place import place_new, refuse_existing
from learner.init.render import (
    JUDGE_FILE,
    TASKS,
    Answers,
    Task,
    render_config,
    render_judge,
    render_judge_test,
)

DEFAULT_ROUTE = "my-app"
FILES = (DEFAULT_CONFIG.name, JUDGE_FILE, f"test_{JUDGE_FILE}")
# A server of one's own, as vLLM and others start it, when there is neither a key nor a model to run.
NO_KEY = Provider(
    name="upstream", key_env="", base_url="http://127.0.0.1:8000/v1", model="default", prices=None
)


@click.command()
@click.option("--yes", is_flag=True, help="Ask nothing; take what was found.")
@click.option("--base-url", help="The upstream your app uses now.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable with the upstream's key.")
@click.option("--upstream-model", metavar="MODEL", help="The model your app uses there.")
@click.option("--route", help="The model name your app will send. [default: my-app]")
@click.option("--task", type=click.Choice(TASKS), help="What the app does with answers.")
@click.option("--learn/--no-learn", default=None, help="Train a local model on the traffic.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to write.",
)
def init(
    yes: bool,
    base_url: str | None,
    api_key_env: str | None,
    upstream_model: str | None,
    route: str | None,
    task: Task | None,
    learn: bool | None,
    folder: Path,
) -> None:
    """Write tracetune.yaml, a judge and its test for this machine and your app."""
    refuse_existing(folder, FILES)
    machine = look(os.environ, folder)
    can_learn = machine.torch and machine.base_model is not None
    provider = _provider(machine.provider, base_url, api_key_env, upstream_model)
    _say_what_was_found(machine)
    if not yes:
        provider = _ask_provider(provider, base_url, upstream_model, can_learn=can_learn)
        route = route or click.prompt("Model name your app will send from now on", default=DEFAULT_ROUTE)
        if task is None:
            choice = click.Choice(TASKS)
            task = click.prompt("What does the app do with answers", type=choice, default="support")
        if learn is None and can_learn:
            learn = click.confirm("Train a local model on the traffic", default=True)
    if provider is None and not can_learn:
        provider = NO_KEY
    answers = Answers(
        provider=provider,
        route=route or DEFAULT_ROUTE,
        task=task or "support",
        learn=can_learn if learn is None else learn and can_learn,
    )
    config = render_config(answers, machine)
    parse_config(config, "nothing was written", folder.resolve())
    texts = (config, render_judge(answers.task), render_judge_test(answers.task))
    place_new(folder, dict(zip(FILES, texts, strict=True)))
    _say_what_to_do(folder, answers, machine)


def _provider(
    found: Provider | None, base_url: str | None, key_env: str | None, model: str | None
) -> Provider | None:
    """What the options say, over what was found."""
    if base_url is not None:
        found = Provider(
            name="upstream",
            key_env=key_env or "",
            base_url=base_url,
            model=model or (found.model if found else NO_KEY.model),
            prices=None,
        )
    if found is None:
        return None
    if key_env is not None:
        found = msgspec.structs.replace(found, key_env=key_env)
    if model is not None and model != found.model:
        found = msgspec.structs.replace(found, model=model, prices=None)
    return found


def _ask_provider(
    provider: Provider | None, base_url: str | None, model: str | None, *, can_learn: bool
) -> Provider | None:
    """Two questions at most; one that an option answered is not asked."""
    if base_url is None:
        here = "this machine's base model" if can_learn else NO_KEY.base_url
        url = click.prompt("Upstream your app uses now", default=provider.base_url if provider else here)
        if url == here and can_learn:
            return None
        if provider is None or url != provider.base_url:
            provider = msgspec.structs.replace(provider or NO_KEY, name="upstream", base_url=url, prices=None)
    assert provider is not None, "an option or the answer named one"
    if model is None:
        name = click.prompt("Model your app uses there", default=provider.model)
        if name != provider.model:
            provider = msgspec.structs.replace(provider, model=name, prices=None)
    return provider


def _say_what_was_found(machine: Machine) -> None:
    provider = machine.provider
    key = f"{provider.key_env} is set" if provider else "no provider key in the environment"
    model = str(machine.base_model) if machine.base_model else "none"
    torch = "torch installed" if machine.torch else "torch not installed"
    click.echo(f"Found: {key}; {'an NVIDIA GPU' if machine.gpu else 'no GPU'}; ", nl=False)
    click.echo(f"{machine.memory_gb:.0f} GB of memory; {torch}; base model: {model}.")


def _say_what_to_do(folder: Path, answers: Answers, machine: Machine) -> None:
    click.echo(f"Wrote {', '.join(FILES)} in {folder.resolve()}.")
    if answers.provider is None:
        click.echo(f"No provider key was found, so {machine.base_model} on this machine answers at first.")
    elif not answers.provider.key_env:
        click.echo(f"Your upstream is {answers.provider.base_url}, without a key.")
    click.echo("Next:  tracetune up")
    click.echo("In your app, change one line and the model's name:")
    click.echo(
        f'  client = OpenAI(base_url="http://127.0.0.1:{machine.port}/v1")   # model="{answers.route}"'
    )
