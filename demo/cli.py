"""`tracetune demo`: the whole loop on this machine, on real parts."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import rich_click as click

from demo.configuration import Plan, RealUpstream, plan_of
from demo.engine import NVIDIA, serves_with_vllm
from demo.occupants import occupants
from demo.signals import ended_as_by_ctrl_c
from demo.view import View, print_json, print_report
from gateway.cli.root import json_option
from gateway.errors import OperationError
from gateway.paths import paths_of
from learner.serving.vllm_python import VLLM_PYTHON

_REMEDY = "pip install 'tracetune[learner,demo]'"
_HERE = Path(__file__).resolve().parent
# In a clone config/ lies beside the packages; in an installed wheel it is inside this one.
_CONFIGS = (_HERE.parent / "config" / "demo.yaml", _HERE / "config" / "demo.yaml")


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Another configuration."
)
@click.option(
    "--dir",
    "place",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its data and its model go.  [default: the clone, else the current directory]",
)
@click.option("--upstream", metavar="URL", help="A real upstream in place of the demo's stand-in.")
@click.option(
    "--upstream-model", metavar="MODEL", default="gpt-4o-mini", show_default=True, help="Its model."
)
@click.option("--api-key-env", metavar="NAME", default="OPENAI_API_KEY", show_default=True, help="Its key.")
@click.option("--keep", is_flag=True, help="Leave everything running in the end.")
@json_option
def demo(
    config_path: Path | None,
    place: Path | None,
    upstream: str | None,
    upstream_model: str,
    api_key_env: str,
    keep: bool,
    as_json: bool,
) -> None:
    """Run traffic, judges, training, canary, promotion and rollback, and show the figures."""
    missing = [module for module in ("torch", "openai") if importlib.util.find_spec(module) is None]
    if missing:
        needs = " and ".join(missing)
        raise OperationError(f"the demo trains and asks a model and needs {needs}; {_REMEDY}")
    from demo.run import Options, run_demo

    own = next(path for path in _CONFIGS if path.is_file())
    if config_path is None and own != _CONFIGS[0]:
        place = place or Path.cwd()  # an installation is no place to write to
    real = None
    if upstream is not None:
        real = RealUpstream(url=upstream, model=upstream_model, key_env=api_key_env)
    gpu = NVIDIA.exists()
    vllm = serves_with_vllm(os.environ, gpu=gpu)
    plan = plan_of((config_path or own).resolve(), real, os.environ, place=place, vllm=vllm)
    if gpu and not vllm:
        click.echo(
            f"There is a GPU but no vLLM, so our own server is used; {VLLM_PYTHON} names one", err=True
        )
    options = Options(plan=plan, own_model=config_path is None, stand_in=real is None, keep=keep)
    with ended_as_by_ctrl_c():
        report = run_demo(options, View())
    if as_json:
        print_json(report)
        return
    print_report(report)
    _say_where_to_look(plan, keep=keep)


def _say_where_to_look(plan: Plan, *, keep: bool) -> None:
    data = paths_of(plan.config).data
    click.echo("\nWhere to look next:")
    for command in ("traces tail", "rollout status", "snapshot list", "learn status"):
        click.echo(f"  tracetune {command} --config {plan.path}")
    judge = plan.config.judges[0].file if plan.config.judges else ""
    click.echo(f"  {plan.path}, {judge}, {data}")
    if keep:
        pids = " ".join(str(one.pid) for one in occupants(data, []))
        click.echo(f"Everything still runs; stop it with: kill {pids}")
