"""Supervised fine-tuning of a LoRA adapter on winners, top to bottom: plan, rows, model, trainer, result.

`python -m learner.train_sft --run DIR` reads DIR/plan.json and writes DIR/adapter and DIR/result.json. Killed
at any moment, the same command goes on from the last whole checkpoint to the same adapter.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import TracetuneError
from gateway.traces.bodies.bodies import Bodies
from learner.base_model import base_model_digest
from learner.errors import LearnerError, LearnerRefusedError
from learner.files import locked, read_json, sha256_of, write_json
from learner.render import render
from learner.rows import read_rows
from learner.runtime import (
    ORPHAN_ENDS_WITHIN_S,
    die_with_parent,
    find_device,
    library_versions,
    quiet_libraries,
)
from learner.types import Example, Progress, TrainPlan, TrainResult

WHOLE = "whole"  # the file that marks a checkpoint as completely written
WEIGHTS = "adapter_model.safetensors"
LOSS_STEPS = 10  # at the end, whose mean loss is reported


def train_sft(run: Path) -> TrainResult:
    """Train what *run*/plan.json says, or return the result that is there already.

    Raises LearnerError for a damaged input or a full disk, LearnerRefusedError when no row fits.
    """
    result_path = run / "result.json"
    if result_path.is_file():
        return read_json(result_path, TrainResult)
    plan = read_json(run / "plan.json", TrainPlan)
    recipe = plan.recipe
    if base_model_digest(plan.base_model) != plan.base_digest:
        raise LearnerError(f"{plan.base_model}: the base model changed since this run began; start a new run")

    quiet_libraries()
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    device = find_device(recipe.threads)
    transformers.set_seed(recipe.seed)

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(plan.base_model)
    examples = read_rows(plan.dataset_dir / "train.jsonl", Example, Bodies.of(plan.keys, os.environ))
    rendered = render(tokenizer, examples, recipe.max_tokens)
    if not rendered.rows:
        raise LearnerRefusedError(
            f"all {rendered.over_length} rows are longer than {recipe.max_tokens} tokens; "
            "raise learner.train.max_tokens"
        )

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        plan.base_model, dtype=torch.bfloat16 if device.bf16 else torch.float32
    )
    lora = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=0.0,  # randomness that a resumed run could not repeat, for no gain at one epoch
        bias="none",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    steps_an_epoch = -(-len(rendered.rows) // recipe.batch_size)
    settings = SFTConfig(
        output_dir=str(run / "checkpoints"),
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, round(0.05 * recipe.epochs * steps_an_epoch)),
        per_device_train_batch_size=recipe.batch_size,
        train_sampling_strategy="group_by_length",
        max_length=None,  # rows are whole or left out, never cut
        seed=recipe.seed,
        use_cpu=device.kind == "cpu",
        bf16=device.bf16,
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=plan.checkpoint_steps,
        save_total_limit=2,  # the one before stays until the next is whole
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    reporter = _reporter(run, tokens_a_row=_mean_length(rendered.rows), batch=recipe.batch_size)
    trainer: Any = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rendered.rows),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[reporter],
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)  # progress.json has it all
    started = time.monotonic()
    outcome = trainer.train(resume_from_checkpoint=_last_whole_checkpoint(run / "checkpoints"))

    adapter = run / "adapter"
    work = run / ".adapter.work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(adapter, ignore_errors=True)
    trainer.model.save_pretrained(work)
    work.rename(adapter)
    result = TrainResult(
        adapter=sha256_of(adapter / WEIGHTS),
        device=device.kind,
        rows=len(rendered.rows),
        over_length=rendered.over_length,
        steps=outcome.global_step,
        tokens=sum(len(row["input_ids"]) for row in rendered.rows),
        seconds=round(time.monotonic() - started, 3),
        loss=_last_loss(trainer.state.log_history),
        libraries=library_versions(),
        finished_at=datetime.now(UTC),
    )
    write_json(result_path, result)
    return result


def _last_loss(history: list[dict[str, Any]]) -> float:
    """The mean loss of the last steps: unlike the trainer's own mean, the same for a resumed run."""
    losses = [float(entry["loss"]) for entry in history if "loss" in entry][-LOSS_STEPS:]
    return round(sum(losses) / len(losses), 6)


def _last_whole_checkpoint(directory: Path) -> str | None:
    """The newest checkpoint that was completely written; removes those that a kill left half-written."""
    whole: dict[int, Path] = {}
    for path in directory.glob("checkpoint-*"):
        if (path / WHOLE).is_file():
            whole[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path)
    return str(whole[max(whole)]) if whole else None


def _mean_length(rows: list[dict[str, list[int]]]) -> float:
    return sum(len(row["input_ids"]) for row in rows) / len(rows)


def _reporter(run: Path, *, tokens_a_row: float, batch: int) -> Any:
    """A trainer callback that writes progress.json at every step and marks checkpoints as whole."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc] # transformers ships no types
        """Times are of this process: a resumed run estimates from the steps it made itself."""

        def __init__(self) -> None:
            self.began: tuple[float, int] | None = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            if self.began is None:
                self.began = (time.monotonic(), state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            del args, control
            if self.began is None or "loss" not in (logs or {}):
                return
            seconds = time.monotonic() - self.began[0]
            a_step = seconds / max(1, state.global_step - self.began[1])
            progress = Progress(
                stage="train",
                done=state.global_step,
                total=state.max_steps,
                updated_at=datetime.now(UTC),
                loss=float(logs["loss"]),
                tokens_per_s=round(tokens_a_row * batch / a_step, 1) if a_step else None,
                eta_s=round(a_step * (state.max_steps - state.global_step), 1),
            )
            write_json(run / "progress.json", progress)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del control
            write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE, state.global_step)

    return Reporter()


def main(arguments: list[str]) -> int:
    """Entry of the subprocess: one line on standard error for anything a user can cause."""
    parser = argparse.ArgumentParser(prog="python -m learner.train_sft", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's folder, with plan.json")
    run: Path = parser.parse_args(arguments).run
    die_with_parent()
    try:
        with locked(run / "train.lock", holder="a trainer is", wait_s=ORPHAN_ENDS_WITHIN_S):
            result = train_sft(run)
    except TracetuneError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
