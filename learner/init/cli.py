"""`tracetune init`: at most five questions, three files, one line to change in the app."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import rich_click as click

from gateway.cli.new_files import place_new, refuse_existing
from gateway.config.load import DEFAULT_CONFIG, parse_config
from gateway.errors import UsageError
from learner.init.machine import Machine, Provider, look
from learner.init.questions import Questions
from learner.init.render import (
    JUDGE_FILE,
    TASKS,
    Answers,
    render_config,
    render_judge,
    render_judge_test,
)
from learner.init.upstream import (
    NO_KEY,
    host_of,
    upstream_at,
    upstream_of,
    upstream_url,
    variable_name,
    with_model,
)
from learner.serving.vllm_python import VLLM_PYTHON

DEFAULT_ROUTE = "my-app"
_BASE_MODEL = "this machine's base model"  # answers where no upstream does
FILES = (DEFAULT_CONFIG.name, JUDGE_FILE, f"test_{JUDGE_FILE}")


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
    task: str | None,
    learn: bool | None,
    folder: Path,
) -> None:
    """Write tracetune.yaml, a judge and its test for this machine and your app."""
    refuse_existing(folder, FILES)
    if api_key_env is not None:
        variable_name(api_key_env, os.environ)
    machine = look(os.environ, folder)
    can_learn = machine.torch and machine.base_model is not None
    _say_what_was_found(machine)
    questions = Questions(silent=yes)
    provider = _upstream(questions, machine, base_url, api_key_env, can_learn=can_learn)
    if provider is not None:
        model = upstream_model or questions.ask("Model your app uses there", provider.model)
        provider = with_model(provider, model)
    route = route or questions.ask("Model name your app will send from now on", DEFAULT_ROUTE)
    task = task or questions.choose("What does the app do with answers", TASKS, "support")
    if learn is None and can_learn and questions.left:
        learn = questions.confirm("Train a local model on the traffic", default=True)
    answers = Answers(provider=provider, route=route, task=task, learn=can_learn and learn is not False)
    config = render_config(answers, machine)
    parse_config(config, "nothing was written", folder.resolve())
    texts = (config, render_judge(answers.task), render_judge_test(answers.task))
    place_new(folder, dict(zip(FILES, texts, strict=True)))
    _say_what_to_do(folder, answers, machine)


def _upstream(
    questions: Questions, machine: Machine, base_url: str | None, key_env: str | None, *, can_learn: bool
) -> Provider | None:
    """The upstream with its key, by two questions at most; None: the base model answers."""
    found = machine.provider
    if base_url is None:
        known = upstream_of(key_env, found) if key_env else found
        if known is None and key_env:
            raise UsageError(f"whose key {key_env} holds is not known; name its upstream with --base-url")
        nothing = _BASE_MODEL if can_learn else NO_KEY.base_url
        base_url = questions.ask(
            "Upstream your app uses now",
            known.base_url if known else nothing,
            lambda text: text if text == nothing else upstream_url(text),
        )
        if base_url == nothing == _BASE_MODEL:
            return None
    provider = upstream_at(base_url, found, key_env)
    if key_env is None and base_url != NO_KEY.base_url and not os.environ.get(provider.key_env):
        question = f"Environment variable with the key for {host_of(base_url)}"
        question += "" if provider.key_env else " (empty: none)"
        name = questions.ask(question, provider.key_env, lambda text: variable_name(text, os.environ))
        provider = msgspec.structs.replace(provider, key_env=name)
    return provider


def _say_what_was_found(machine: Machine) -> None:
    provider = machine.provider
    key = f"{provider.key_env} is set" if provider else "no provider key in the environment"
    model = str(machine.base_model) if machine.base_model else "none"
    torch = "torch installed" if machine.torch else "torch not installed"
    vllm = "with vLLM" if machine.vllm else "no vLLM that starts"
    gpu = f"an NVIDIA GPU, {vllm}" if machine.gpu else "no GPU"
    click.echo(f"Found: {key}; {gpu}; ", nl=False)
    click.echo(f"{machine.memory_gb:.0f} GB of memory; {torch}; base model: {model}.")


def _say_what_to_do(folder: Path, answers: Answers, machine: Machine) -> None:
    click.echo(f"Wrote {', '.join(FILES)} in {folder.resolve()}.")
    if answers.provider is None:
        click.echo(f"No provider key was found, so {machine.base_model} on this machine answers at first.")
    else:
        _say_which_key(answers.provider, machine.provider)
    if machine.gpu and not machine.vllm and (answers.learn or answers.provider is None):
        click.echo("The small server (engine: peft) runs the model; tracetune.yaml says how to take vLLM.")
    elif machine.vllm and os.environ.get(VLLM_PYTHON):
        click.echo(f"vLLM runs the model; `tracetune up` needs {VLLM_PYTHON} as it is set now.")
    click.echo("Next:  tracetune up")
    click.echo("In your app, change one line and the model's name:")
    click.echo(
        f'  client = OpenAI(base_url="http://127.0.0.1:{machine.port}/v1")   # model="{answers.route}"'
    )


def _say_which_key(provider: Provider, found: Provider | None) -> None:
    name, url = provider.key_env, provider.base_url
    if not name:
        owned = f" ({found.key_env} belongs to {found.base_url})" if found else ""
        click.echo(f"No key goes to {url}{owned}; to send one, write api_key: {{env: NAME}} there.")
        return
    unset = "" if os.environ.get(name) else "; it is not set yet: export it before `tracetune up`"
    click.echo(f"The key in {name} goes to {url} and nowhere else{unset}.")
