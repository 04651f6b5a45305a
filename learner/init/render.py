"""Renders what `init` writes: the configuration, the judge, its test. Pure."""

from __future__ import annotations

import math
import re

import msgspec
import yaml

from judges.templates import FUNCTION, MODULE, TEMPLATES, judge_test_text, judge_text
from learner.init.machine import Machine, Provider

TASKS = TEMPLATES
JUDGE_FILE = f"{MODULE}.py"
JUDGE_NAME = FUNCTION
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")  # needs no quotes, unless YAML has a meaning for it
_NOT_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}  # what YAML reads as something else
# It needs another transformers than training does, and so an environment of its own.
_TO_VLLM = (
    "    # vLLM makes more of the GPU. To switch: python3 -m venv .venv-vllm,",
    "    # .venv-vllm/bin/pip install 'vllm>=0.32,<0.34', and write engine: vllm;",
    "    # then export TRACETUNE_VLLM_PYTHON=$PWD/.venv-vllm/bin/python before `tracetune up`.",
)


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What the person decided, or what `--yes` takes."""

    provider: Provider | None  # None: the base model on this machine answers
    route: str
    task: str  # one of TASKS
    learn: bool


def render_judge(task: str) -> str:
    """The judge of the template for *task*."""
    return judge_text(task)


def render_judge_test(task: str) -> str:
    """The test that goes with it; `pytest` runs it beside the judge."""
    return judge_test_text(task)


def render_config(answers: Answers, machine: Machine) -> str:
    """A configuration that `tracetune up` runs as it is, with a comment at each line a person may change."""
    return "\n".join(
        [
            "# Written by `tracetune init`, yours to edit: a valid change takes effect at once, an invalid",
            "# one is reported and ignored. `tracetune check` says whether all of it can be reached.",
            f"listen: {{host: 127.0.0.1, port: {machine.port}}}",
            "",
            "store:",
            "  url: embedded:./data          # traces stay on this machine",
            "",
            "upstreams:",
            *_upstream(answers.provider),
            *_trained_upstream(answers, machine),
            "",
            "routes:",
            f'  - model: {_quoted(answers.route)}  # what your app sends as "model"',
            "    sticky_by: session          # one session, one variant",
            "    variants:",
            *_stable(answers, machine),
            "    rollout: {autonomy: ask}    # observe | ask | auto: who decides on a promotion",
            "",
            "judges:",
            f'  - {{name: {JUDGE_NAME}, path: "{JUDGE_FILE}:{JUDGE_NAME}"}}',
            "",
            *_learner(answers, machine),
            "",
        ]
    )


def _upstream(provider: Provider | None) -> list[str]:
    if provider is None:
        return []
    return [
        f"  - name: {provider.name}",
        f"    base_url: {_quoted(provider.base_url)}",
        *([f"    api_key: {{env: {_quoted(provider.key_env)}}}"] if provider.key_env else []),
        "    default: true               # also takes every model name that no route below serves",
        *_prices(provider),
    ]


def _prices(provider: Provider) -> list[str]:
    if provider.prices is None:
        return [
            "    # prices: [{model: NAME, input: 0.15, output: 0.60}]   # USD per million tokens;",
            "    #          without prices the cost of an answer is unknown, and cannot be compared",
        ]
    price_in, price_out = provider.prices
    return [
        "    prices:                     # USD per million tokens; check them against your contract",
        f"      - {{model: {_quoted(provider.model)}, input: {price_in:g}, output: {price_out:g}}}",
    ]


def _stable(answers: Answers, machine: Machine) -> list[str]:
    provider = answers.provider
    if provider is not None:
        return [f"      - {{name: stable, upstream: {provider.name}, model: {_quoted(provider.model)}}}"]
    assert machine.base_model is not None, "without an upstream the base model answers"
    return [f"      - {{name: stable, upstream: trained, model: {_quoted(machine.base_model.name)}}}"]


def _trained_upstream(answers: Answers, machine: Machine) -> list[str]:
    if machine.base_model is None or not (answers.learn or answers.provider is None):
        return []
    engine = "vllm" if machine.vllm else "peft"
    return [
        "  - name: trained               # the base model and its snapshots; `up` runs this server itself",
        f"    base_url: http://127.0.0.1:{machine.serve_port}/v1",
        "    price_per_hour: 0.10        # USD that this machine costs: the price of a snapshot's answers",
        f"    managed: {{engine: {engine}, model: {_quoted(str(machine.base_model))}}}",
        *(_TO_VLLM if machine.gpu and not machine.vllm else []),
    ]


def _learner(answers: Answers, machine: Machine) -> list[str]:
    entry = (
        f"{{route: {_quoted(answers.route)}, serve_on: trained, judge: {JUDGE_NAME}, "
        f"base_model: {_quoted(str(machine.base_model or './models/NAME'))}}}"
    )
    if answers.learn and machine.base_model is not None:
        return ["learner:                        # trains when 200 judged traces are there", f"  - {entry}"]
    return [
        "# To train: pip install 'tracetune[learner]', put a base model beside this file, add an upstream",
        "# `trained` with `managed: {engine: peft, model: ./models/NAME}`, and then:",
        "# learner:",
        f"#   - {entry}",
    ]


def _quoted(text: str) -> str:
    """*text* as a YAML scalar on one line that reads back as the same text."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")
