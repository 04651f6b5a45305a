"""Training on a tiny random model, in processes of its own, killed as the machine would kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from learner.base_model import base_model_digest
from learner.files import jsonl, write_bytes, write_json
from learner.runtime import MODEL_ENVIRONMENT
from learner.train_sft import WHOLE
from learner.types import Example, Recipe, TrainPlan, TrainResult
from tests.support.tiny_model import make_tiny_model

RECIPE = Recipe(
    method="sft",
    epochs=1.0,
    learning_rate=1e-3,
    batch_size=2,
    lora_rank=8,
    lora_alpha=16,
    max_tokens=200,
    seed=7,
    threads=1,
)
WITHIN_S = 150.0


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def an_example(number: int, answer: str = "") -> Example:
    return Example(
        traces=[f"t{number}"],
        prompt=[{"role": "user", "content": f"what is {number} and {number}?"}],
        completion=[{"role": "assistant", "content": answer or f"it is {2 * number}"}],
        score=1.0,
    )


def a_run(folder: Path, model: Path, examples: list[Example], checkpoint_steps: int = 4) -> Path:
    write_bytes(folder / "train.jsonl", jsonl(examples))
    plan = TrainPlan(
        route="r",
        dataset="d",
        dataset_dir=folder,
        base_model=model,
        base_digest=base_model_digest(model),
        recipe=RECIPE,
        checkpoint_steps=checkpoint_steps,
    )
    write_json(folder / "plan.json", plan)
    return folder


def start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "learner.train_sft", "--run", str(run)],
        env={**os.environ, **MODEL_ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(run: Path) -> TrainResult:
    import msgspec

    process = start(run)
    out, err = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, err
    return msgspec.json.decode(out.splitlines()[-1], type=TrainResult)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.005)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(400)  # three processes that each import torch
def test_a_killed_run_ends_with_the_same_adapter(tmp_path: Path, tiny_model: Path) -> None:
    examples = [an_example(number) for number in range(40)]
    whole = trained(a_run(tmp_path / "whole", tiny_model, examples))
    run = a_run(tmp_path / "killed", tiny_model, examples)
    process = start(run)
    wait_for(run / "checkpoints" / "checkpoint-8" / WHOLE, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "result.json").exists(), "it was killed too late to show anything"
    # what a kill in the middle of writing the next checkpoint leaves behind
    (run / "checkpoints" / "checkpoint-9999").mkdir()

    resumed = trained(run)
    assert resumed.adapter == whole.adapter
    assert resumed.steps == whole.steps == 20
    assert trained(run) == resumed, "a finished run is not trained again"
