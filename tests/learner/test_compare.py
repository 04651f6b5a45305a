"""An evaluation is judged by both judges where another one gates, and says where they part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from gateway.config import Config, JudgeConfig, RolloutPolicy
from gateway.paths import paths_of
from gateway.traces.bodies.bodies import Bodies
from gateway.traces.store import Store
from judges.trace import judged_trace
from learner.autopilot import gate
from learner.cli.show import print_evaluation
from learner.cli.snapshot import evaluation_of, show
from learner.compare import compare_answers, evaluating_judges
from learner.dataset import build_dataset
from learner.evaluation import Evaluation
from learner.files import jsonl, read_json, write_bytes
from learner.generate import Answer
from learner.learn import begin_run, without_texts
from learner.overview import overview
from learner.registry import register
from learner.rows import read_rows
from learner.runs import Run
from learner.types import HoldoutRow, SnapshotManifest, TrainPlan
from tests.learner.test_registry import a_draft, an_adapter
from tests.learner.traffic import ROUTE, a_config, add, judged_traffic, judgment_on, version_of
from tests.support.inference import base_model_files
from tests.support.standing import calibrate

# The judge that trains falls for length; what was kept decides for the one that gates.
LONG = "def long(trace):\n    return min(len(trace.answer) / 400, 1.0)\n"


class Evaluated:
    """A run whose answers are written as generation writes them, and its evaluation by both judges."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config, self.store = config, store
        self.entry = config.learner[0]
        self.run: Run = begin_run(config, self.entry, build_dataset(config, ROUTE, store))
        self.folder = paths_of(config).runs / self.run.run
        self.plan = read_json(self.folder / "plan.json", TrainPlan)
        self.holdout = read_rows(self.plan.dataset_dir / "holdout.jsonl", HoldoutRow, Bodies.of(None, {}))

    def evaluate(self, candidate: dict[str, str]) -> Evaluation:
        for arm in ("base", "candidate"):
            rows = [
                Answer(
                    trace_id=row.trace.trace_id,
                    text=candidate[row.trace.trace_id] if arm == "candidate" else "{}",
                    stopped=True,
                    tokens_in=1,
                    tokens_out=1,
                    seconds=0.1,
                )
                for row in self.holdout
            ]
            write_bytes(self.folder / f"answers-{arm}.jsonl", jsonl(rows))
        judges = evaluating_judges(self.config, self.entry, self.store)
        return compare_answers(self.config, self.entry, self.folder, self.plan, "stable", judges)


@pytest.fixture
def config(tmp_path: Path, clean_store: Store) -> Config:
    """Learns by `long` and is gated by `kept`; both have judged its traffic."""
    made = a_config(tmp_path)
    (tmp_path / "long.py").write_text(LONG)
    base_model_files(tmp_path / "base")
    traces = judged_traffic(clean_store, made, 120)
    long = JudgeConfig(name="long", path=f"{tmp_path}/long.py:long")
    learner = msgspec.structs.replace(
        made.learner[0], judge="long", dataset=msgspec.structs.replace(made.learner[0].dataset, min_score=0.0)
    )
    routes = [msgspec.structs.replace(made.routes[0], rollout=RolloutPolicy(judge="kept"))]
    changed = msgspec.structs.replace(made, judges=[long, *made.judges], learner=[learner], routes=routes)
    add(
        clean_store,
        *(judgment_on(t, changed, 0.2, judge="long", version=version_of(changed)) for t in traces),
    )
    return changed


def padded(row: HoldoutRow) -> str:
    """What stable answered, with what only a judge of length likes."""
    return judged_trace(row.trace).answer + " " * 400


def manifest_of(evaluation: Evaluation) -> SnapshotManifest:
    return msgspec.structs.replace(a_draft(ROUTE), evaluation=without_texts(evaluation))


def test_a_candidate_that_learnt_to_please_its_own_judge_is_told_of_with_the_numbers(
    config: Config, clean_store: Store, tmp_path: Path
):
    scene = Evaluated(config, clean_store)
    evaluation = scene.evaluate({row.trace.trace_id: padded(row) for row in scene.holdout})

    assert evaluation.judge == "long"
    assert evaluation.standing is not None
    found = evaluation.gate
    assert found is not None
    assert (found.judge, found.judge_version) == ("kept", found.standing.version)
    trained, gated = evaluation.pair("stable"), next(p.result for p in found.pairs if p.against == "stable")
    assert trained is not None
    assert trained.difference.value > 0.5
    assert gated.difference.value < -0.5, "what is kept is never padded"
    gap = found.gap
    assert gap is not None
    assert gap.gap.value == pytest.approx(trained.difference.value - gated.difference.value)
    assert gap.gap.n == trained.difference.n
    assert gap.sign is not None
    assert evaluation.notes == [
        "judge 'long' is uncalibrated; tracetune judge calibrate long",
        "judge 'kept' is uncalibrated; tracetune judge calibrate kept",
        gap.sign,
    ]

    passes, why = gate(manifest_of(evaluation), config.routes[0].rollout)
    assert not passes, "the judge that gates decides what may go to the canary"
    assert f"{gated.difference.value:+.3f} against stable" in why

    draft = manifest_of(evaluation)
    snapshot = register(paths_of(config).snapshots, an_adapter(tmp_path / "adapter"), draft, clean_store)
    assert evaluation_of(snapshot) == msgspec.structs.replace(evaluation, wins=[], losses=[])
    shown = CliRunner().invoke(
        show, ["--config", str(tmp_path / "tracetune.yaml"), snapshot.snapshot], env={"COLUMNS": "200"}
    )
    assert shown.exit_code == 0, shown.output
    for part in (*evaluation.notes, "by kept, which gates", "gap between the judges against stable: "):
        assert part in shown.stdout
    assert (
        f"{ROUTE}: {snapshot.snapshot} on held-out prompts: {gap.sign}" in overview(config, clean_store).notes
    )


def test_two_judges_that_agree_raise_no_sign(config: Config, clean_store: Store):
    scene = Evaluated(config, clean_store)
    evaluation = scene.evaluate({row.trace.trace_id: judged_trace(row.trace).answer for row in scene.holdout})
    assert evaluation.gate is not None
    assert evaluation.gate.gap is not None
    assert evaluation.gate.gap.gap.value == 0
    assert evaluation.gate.gap.sign is None


def test_one_judge_that_does_both_judges_once_and_has_no_gap(config: Config, clean_store: Store):
    routes = [msgspec.structs.replace(config.routes[0], rollout=RolloutPolicy())]
    scene = Evaluated(msgspec.structs.replace(config, routes=routes), clean_store)
    evaluation = scene.evaluate({row.trace.trace_id: padded(row) for row in scene.holdout})
    assert evaluation.gate is None
    assert evaluation.notes == ["judge 'long' is uncalibrated; tracetune judge calibrate long"]


def test_an_evaluation_by_a_gating_judge_that_may_not_gate_says_so(
    config: Config, clean_store: Store, capsys: pytest.CaptureFixture[str]
):
    version = evaluating_judges(config, config.learner[0], clean_store).gates
    assert version is not None
    calibrate(clean_store, "kept", version.standing.version, j=0.5, j_low=0.41)
    scene = Evaluated(config, clean_store)
    evaluation = scene.evaluate({row.trace.trace_id: padded(row) for row in scene.holdout})
    print_evaluation(evaluation)
    assert (
        "may not gate: J 0.50 on 100 labels, lower limit 0.41, under 0.6 to gate" in capsys.readouterr().out
    )


def test_evaluations_from_before_judges_had_a_standing_are_still_read():
    old: dict[str, Any] = {
        "dataset": "d",
        "judge": "j",
        "judge_version": "v",
        "few_shot": 0,
        "arms": [],
        "pairs": [],
        "wins": [],
        "losses": [],
        "evaluated_at": "2026-11-01T00:00:00Z",
    }
    assert msgspec.convert(old, Evaluation).notes == []
