"""Answers of a base model and of an adapter on it to a list of prompts: greedy, in batches, resumable.

`python -m learner.generate --run DIR` reads DIR/generate.json and writes DIR/answers-NAME.jsonl for each arm.
The tokens that all prompts of an arm begin with (a system prompt, few-shot examples) are computed once.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import TracetuneError
from gateway.traces.bodies.bodies import Bodies, Owner
from learner.files import jsonl, locked, read_json, write_bytes, write_json
from learner.render import prompt_ids
from learner.rows import Line, lines, read_rows
from learner.runtime import ORPHAN_ENDS_WITHIN_S, die_with_parent, find_device, quiet_libraries
from learner.types import Progress, TrainPlan

MAX_PROMPT_TOKENS = 8192  # longer prompts are answered with nothing and count as cut short


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One model to ask: the base, or the adapter on it, and its prompts as messages, by trace id."""

    name: str
    adapter: Path | None
    prompts: dict[str, list[dict[str, str]]]


class SealedPrompts(msgspec.Struct, frozen=True, kw_only=True):
    """In place of prompts: the encrypted dataset that they are in."""

    plan: TrainPlan
    few_shot: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The input of one generation process, frozen in the run's folder."""

    base_model: Path
    arms: list[Arm]
    max_new_tokens: int
    batch_size: int
    threads: int | None
    sealed: SealedPrompts | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `stopped`: it ended by itself. `seconds`: if generated, its share of its batch's time."""

    trace_id: str
    text: str
    stopped: bool
    tokens_in: int | None
    tokens_out: int | None
    seconds: float


def generate(run: Path) -> None:
    """Answer what *run*/generate.json asks; answers that are there already are kept.

    Raises LearnerError for a damaged input or a full disk.
    """
    from learner.evaluation import with_prompts  # which imports this module

    job = read_json(run / "generate.json", Job)
    bodies = Bodies.of(job.sealed.plan.keys if job.sealed else None, os.environ)
    job, owners = with_prompts(job, bodies)
    quiet_libraries()
    import torch
    import transformers

    device = find_device(job.threads)
    dtype = torch.bfloat16 if device.bf16 else torch.float32
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(job.base_model)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(job.base_model, dtype=dtype)
    model.to(device.kind)
    for arm in sorted(job.arms, key=lambda arm: arm.adapter is not None):  # the bare base first
        if arm.adapter is not None:
            import peft

            model = peft.PeftModel.from_pretrained(model, arm.adapter)
        model.eval()
        kept = _Answers(run / f"answers-{arm.name}.jsonl", owners, bodies)
        _answer_arm(run, job, arm, tokenizer, model, kept)


class _Answers:
    """The file of one arm's answers, each under the key of its prompt's owner where the dataset is."""

    def __init__(self, path: Path, owners: Mapping[str, Owner], bodies: Bodies) -> None:
        self._path = path
        self._owners = owners
        self._bodies = bodies

    def read(self) -> list[Answer]:
        return read_rows(self._path, Answer, self._bodies) if self._path.is_file() else []

    def write(self, answers: Sequence[Answer]) -> None:
        if not self._bodies.encrypts:
            write_bytes(self._path, jsonl(answers))
            return
        rows = [Line([answer.trace_id], self._owners[answer.trace_id], answer) for answer in answers]
        write_bytes(self._path, lines(self._path.name, rows, self._bodies))


def _answer_arm(run: Path, job: Job, arm: Arm, tokenizer: Any, model: Any, kept: _Answers) -> None:
    answers = kept.read()
    done = {answer.trace_id for answer in answers}
    prompts = {key: prompt_ids(tokenizer, messages) for key, messages in arm.prompts.items()}
    decoder = Decoder(model, tokenizer, common_prefix(list(prompts.values())), job.max_new_tokens)
    open_ids = sorted((key for key in prompts if key not in done), key=lambda key: (len(prompts[key]), key))
    for start in range(0, len(open_ids), job.batch_size):
        keys = open_ids[start : start + job.batch_size]
        answers += _timed(decoder.answer, keys, [prompts[key] for key in keys])
        kept.write(answers)
        progress = Progress(
            stage=f"answers of {arm.name}",
            done=len(answers),
            total=len(prompts),
            updated_at=datetime.now(UTC),
        )
        write_json(run / "progress.json", progress)


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all prompts begin with."""
    if not prompts:
        return []
    first, last = min(prompts), max(prompts)  # in sorted order, these two differ the earliest
    length = next(
        (at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first)
    )
    return first[:length]


def _timed(
    answer: Callable[[Sequence[list[int]]], list[tuple[str, bool, int]]],
    keys: Sequence[str],
    prompts: Sequence[list[int]],
) -> list[Answer]:
    started = time.monotonic()
    replies = answer(prompts)
    share = (time.monotonic() - started) / len(keys)
    return [
        Answer(
            trace_id=key,
            text=text,
            stopped=stopped,
            tokens_in=len(prompt),
            tokens_out=tokens_out,
            seconds=round(share, 4),
        )
        for key, prompt, (text, stopped, tokens_out) in zip(keys, prompts, replies, strict=True)
    ]


class Decoder:
    """Greedy decoding of batches whose prompts begin with the same tokens, which are computed once."""

    def __init__(self, model: Any, tokenizer: Any, shared: Sequence[int], max_new_tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._ends = _end_tokens(model, tokenizer)
        # At least one token of each prompt must be computed in its batch: the one that predicts the answer.
        self._shared = list(shared[:-1])
        self._prefix = self._compute(self._shared) if self._shared else None

    def answer(self, prompts: Sequence[list[int]]) -> list[tuple[str, bool, int]]:
        """(text, ended by itself, tokens) of each prompt; one above MAX_PROMPT_TOKENS gets ("", False, 0)."""
        import torch

        fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= MAX_PROMPT_TOKENS]
        replies: list[tuple[str, bool, int]] = [("", False, 0)] * len(prompts)
        if fitting:
            with torch.inference_mode():
                written = self._decode([prompts[index][len(self._shared) :] for index in fitting])
            for index, ids in zip(fitting, written, strict=True):
                stopped = ids[-1] in self._ends
                text = self._tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=True)
                replies[index] = (text, stopped, len(ids))
        return replies

    def _decode(self, rests: Sequence[list[int]]) -> list[list[int]]:
        """Tokens written for each prompt, the end token included."""
        import torch

        device = self._model.device
        width = max(len(rest) for rest in rests)
        # Padding stands between the shared tokens and the rest; it is masked and takes no position.
        ids = torch.tensor([[0] * (width - len(rest)) + rest for rest in rests], device=device)
        mask = torch.tensor(
            [[1] * len(self._shared) + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests],
            device=device,
        )
        cache = copy.deepcopy(self._prefix)
        if cache is not None:
            cache.batch_repeat_interleave(len(rests))
        written: list[list[int]] = [[] for _ in rests]
        open_rows = set(range(len(rests)))
        for _ in range(self._max_new_tokens):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            chosen = output.logits[:, -1].argmax(-1)
            for row, token in enumerate(chosen.tolist()):
                if row in open_rows:
                    written[row].append(token)
                    if token in self._ends:
                        open_rows.discard(row)
            if not open_rows:
                break
            ids = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        return written

    def _compute(self, ids: Sequence[int]) -> Any:
        import torch

        with torch.inference_mode():
            given = torch.tensor([list(ids)], device=self._model.device)
            return self._model(input_ids=given, use_cache=True, logits_to_keep=1).past_key_values


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's generation settings."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)


def main(arguments: list[str]) -> int:
    """Entry of the subprocess: one line on standard error for anything a user can cause."""
    parser = argparse.ArgumentParser(prog="python -m learner.generate", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's folder, with generate.json")
    run: Path = parser.parse_args(arguments).run
    die_with_parent()
    try:
        with locked(run / "generate.lock", holder="a generation is", wait_s=ORPHAN_ENDS_WITHIN_S):
            generate(run)
    except TracetuneError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(130)
