"""A judge that asks a model trains once people's labels say that it may, and evaluates what was learnt."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Config, load_config
from gateway.paths import paths_of
from gateway.traces.store import Store
from judges.definition import definition_of
from judges.trace import judged_trace
from tests.learner.test_compare import Evaluated
from tests.learner.traffic import a_config, judged_traffic
from tests.support.asking import said, says
from tests.support.inference import base_model_files
from tests.support.standing import calibrate
from tests.support.upstream import ScriptedUpstream

RUBRIC = 'task: Fills in tickets.\ncriteria:\n  - {name: filled, question: "Is the ticket filled in?"}\n'
TRAFFIC = 90
PRICE = "{model: m, input: 1, output: 2}"


def verdict(question: str) -> str:
    """Yes where the answer that is shown is a ticket and nothing else."""
    shown = next(line for line in question.splitlines() if line.startswith("{"))
    try:
        ticket = json.loads(json.loads(shown)["answer"])
    except json.JSONDecodeError:
        return said("no")
    return said("yes" if isinstance(ticket, dict) and ticket else "no")


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.default = says(verdict)
        yield running


@pytest.fixture
def path(embedded_config: Config, clean_store: Store, tmp_path: Path, upstream: ScriptedUpstream) -> Path:
    """A configuration that learns by a judge that asks the scripted upstream, over traffic it has judged."""
    base_model_files(tmp_path / "base")
    (tmp_path / "rubric.yaml").write_text(RUBRIC)
    judged_traffic(clean_store, a_config(tmp_path / "traffic"), TRAFFIC)
    path = tmp_path / "cli.yaml"
    path.write_text(
        f"""
store: {{url: "embedded:{paths_of(embedded_config).data}"}}
capture: {{spool: "{tmp_path}/spool"}}
upstreams: [{{name: up, base_url: "{upstream.base_url}", default: true, prices: [{PRICE}]}}]
routes: [{{model: support-bot, variants: [{{name: stable, upstream: up, model: m}}]}}]
judges:
  - {{name: asks, kind: llm, rubric: rubric.yaml, upstream: up, model: m, limits: {{concurrent: 8}}}}
learner:
  - route: support-bot
    base_model: base
    serve_on: up
    judge: asks
    dataset: {{min_traces: 40, holdout_tags: {{template: unseen}}}}
"""
    )
    assert tracetune("judge", "run", "--config", path).returncode == 0
    return path


def tracetune(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_makes_no_dataset_before_it_is_calibrated_and_one_after(path: Path, clean_store: Store) -> None:
    refused = tracetune("learn", "dataset", "--config", path)
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1), refused.stderr
    assert "may not train: uncalibrated LLM judge; `tracetune judge calibrate asks`" in refused.stderr

    calibrated = tracetune("judge", "calibrate", "asks", "--config", path)
    assert calibrated.returncode == 0, calibrated.stderr
    assert f"on {TRAFFIC} labels from feedback" in calibrated.stdout
    assert "PROBLEM" not in calibrated.stdout

    built = tracetune("learn", "dataset", "--config", path)
    assert built.returncode == 0, built.stderr
    (row,) = clean_store.query("SELECT version FROM calibrations")
    assert row["version"] == definition_of(load_config(path).judges[0]).version


def test_a_calibration_costs_what_every_question_in_it_cost(
    path: Path, clean_store: Store, upstream: ScriptedUpstream
) -> None:
    before = len(upstream.received)

    calibrated = tracetune("judge", "calibrate", "asks", "--config", path, "--json")

    assert calibrated.returncode == 0, calibrated.stderr
    (question,) = clean_store.query("SELECT DISTINCT cost_usd FROM judgments WHERE judge = 'asks'")
    measured = json.loads(json.loads(calibrated.stdout)[0]["report"])["measured"]
    asked = len(upstream.received) - before
    assert question["cost_usd"] > 0
    assert asked == measured["judged"] > TRAFFIC, "each label, repeats, without feedback, and injections"
    assert measured["cost_usd"] == pytest.approx(asked * question["cost_usd"])


def test_it_evaluates_what_a_snapshot_answers(path: Path, clean_store: Store) -> None:
    config = load_config(path)
    version = definition_of(config.judges[0]).version
    calibrate(clean_store, "asks", version)
    scene = Evaluated(config, clean_store)

    evaluation = scene.evaluate(
        {row.trace.trace_id: judged_trace(row.trace).kept or '{"filled": "in"}' for row in scene.holdout}
    )

    base = evaluation.pair("base")
    assert (evaluation.judge, evaluation.gate) == ("asks", None)
    assert evaluation.standing is not None
    assert (evaluation.standing.version, evaluation.standing.may_gate) == (version, True)
    assert base is not None
    assert base.difference.value == 1.0, "the base leaves every ticket empty"
