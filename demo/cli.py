"""`tracetune demo`: the whole loop on this machine, on real parts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import rich_click as click
import yaml

from demo.run import Options, run_demo
from demo.view import View, print_json, print_report
from gateway.cli.root import json_option
from gateway.errors import ConfigError, OperationError

_HERE = Path(__file__).resolve().parent
# In a clone config/ lies beside the packages; in an installed wheel it is inside this one.
_CONFIGS = (_HERE.parent / "config" / "demo.yaml", _HERE / "config" / "demo.yaml")
_NVIDIA = Path("/proc/driver/nvidia/version")


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Another configuration."
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
    upstream: str | None,
    upstream_model: str,
    api_key_env: str,
    keep: bool,
    as_json: bool,
) -> None:
    """Run traffic, judges, training, canary, promotion and rollback, and show the figures."""
    if importlib.util.find_spec("torch") is None:
        raise OperationError("the demo trains a model and needs torch; pip install 'tracetune[learner]'")
    path = (config_path or next(path for path in _CONFIGS if path.is_file())).resolve()
    changes = _changes(upstream, upstream_model, api_key_env)
    if changes:
        path = _changed(path, changes)
    report = run_demo(Options(config_path=path, stand_in=upstream is None, keep=keep), View())
    if as_json:
        print_json(report)
        return
    print_report(report)
    _say_where_to_look(path, keep=keep)


def _changes(upstream: str | None, model: str, api_key_env: str) -> dict[str, dict[str, object]]:
    """What differs from the file, by upstream name."""
    changes: dict[str, dict[str, object]] = {}
    if upstream is not None:
        changes["frontier"] = {
            "base_url": upstream,
            "api_key": {"env": api_key_env},
            "prices": [],
            "model": model,
        }
    if _NVIDIA.exists() and importlib.util.find_spec("vllm") is not None:
        changes["local"] = {"engine": "vllm"}
    return changes


def _changed(path: Path, changes: dict[str, dict[str, object]]) -> Path:
    """A copy of *path* beside it with *changes*; what is not named stays as the file has it."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    for upstream in data["upstreams"]:
        change = dict(changes.get(upstream["name"], {}))
        model, engine = change.pop("model", None), change.pop("engine", None)
        upstream.update(change)
        if engine is not None:
            upstream["managed"]["engine"] = engine
        if model is not None:
            for arm in [*data["routes"][0]["variants"], *data["routes"][0]["fallbacks"]]:
                arm["model"] = model
    target = path.with_name("demo-changed.yaml")
    try:
        target.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def _say_where_to_look(path: Path, *, keep: bool) -> None:
    config = f"--config {path}"
    click.echo("\nWhere to look next:")
    for command in ("traces tail", "rollout status", "snapshot list", "learn status"):
        click.echo(f"  tracetune {command} {config}")
    click.echo(f"  {path}, config/judges/ticket.py, and the data directory that the file names")
    if keep:
        click.echo("Everything still runs; `kill` the supervisor that demo-data/state/processes.json names.")
