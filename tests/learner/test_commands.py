"""`tracetune learn` and `tracetune snapshot` as a person types them, on a real store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import Config, load_config
from gateway.paths import paths_of
from gateway.traces.store import Store
from learner.registry import WEIGHTS, register
from tests.learner.test_registry import a_draft, an_adapter
from tests.learner.traffic import JUDGE, ROUTE, judged_traffic

YAML = """
store: {{url: "embedded:{data}"}}
capture: {{spool: "{data}/spool"}}
upstreams: [{{name: up, base_url: "http://127.0.0.1:9/v1", default: true}}]
routes: [{{model: support-bot, variants: [{{name: stable, upstream: up, model: m}}]}}]
judges: [{{name: kept, path: "judge.py:kept"}}]
learner: [{{route: support-bot, base_model: base, serve_on: up, judge: kept, dataset: {{min_traces: 40}}}}]
"""
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def config_path(tmp_path: Path, embedded_config: Config) -> Path:
    (tmp_path / "judge.py").write_text(JUDGE)
    path = tmp_path / "tracetune.yaml"
    path.write_text(YAML.format(data=paths_of(embedded_config).data))
    return path


@pytest.fixture
def call(config_path: Path) -> Call:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway.cli.root", *arguments, "--config", str(config_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_too_few_judged_traces_end_with_code_3_and_one_line(call: Call, clean_store: Store) -> None:
    del clean_store
    done = call("learn", "dataset")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "0 of 40 judged traces" in done.stderr


def test_dataset_and_status_print_json_and_tables(call: Call, config_path: Path, clean_store: Store) -> None:
    judged_traffic(clean_store, load_config(config_path), 60)
    assert json.loads(call("learn", "status", "--json").stdout)[0]["judged"] == 60
    manifest = json.loads(call("learn", "dataset", "--json").stdout)
    assert manifest["judged"] == 60
    shown = call("learn", "dataset", "--route", ROUTE).stdout
    assert f"{manifest['examples']} examples, {manifest['holdout']} held out" in shown


def test_a_route_that_does_not_exist_ends_with_code_2(call: Call, clean_store: Store) -> None:
    del clean_store
    done = call("learn", "dataset", "--route", "suport-bot")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "routes that learn: support-bot" in done.stderr


def test_a_base_model_that_is_none_ends_with_code_1(call: Call, clean_store: Store) -> None:
    del clean_store
    done = call("learn", "run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "there is no base model here" in done.stderr


def test_snapshots_are_listed_shown_and_verified_without_torch(
    call: Call, config_path: Path, clean_store: Store, tmp_path: Path
) -> None:
    root = paths_of(load_config(config_path)).snapshots
    snapshot = register(root, an_adapter(tmp_path / "a"), a_draft(ROUTE), clean_store).snapshot
    listed = json.loads(call("snapshot", "list", "--json").stdout)
    assert {"snapshot": snapshot, "state": "candidate"}.items() <= next(
        entry for entry in listed if entry["snapshot"] == snapshot
    ).items()
    assert json.loads(call("snapshot", "show", snapshot, "--json").stdout)["route"] == ROUTE
    assert f"{snapshot}: verified, 2 files" in call("snapshot", "verify", snapshot).stdout
    path = root / snapshot / WEIGHTS
    path.chmod(0o644)
    path.write_bytes(b"other")
    done = call("snapshot", "verify", snapshot)
    assert done.returncode == 1
    assert "was changed: its sha256" in done.stderr


def test_no_command_of_the_learner_imports_torch_to_start() -> None:
    code = (
        "import sys, learner.cli.learn, learner.cli.snapshot, learner.status, learner.registry; "
        "print(sorted({'torch', 'transformers', 'peft', 'trl', 'datasets', 'datasketch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
