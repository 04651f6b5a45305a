"""Generation on a tiny random model, against the library's own and against plain sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.base_model import base_model_digest
from learner.errors import LearnerError, LearnerRefusedError
from learner.files import jsonl, read_jsonl, write_bytes, write_json
from learner.generate import Answer, Arm, Decoder, Job, common_prefix, generate
from learner.render import IGNORED, prompt_ids, render
from learner.train_sft import train_sft
from learner.types import Example, Recipe, TrainPlan
from tests.support.tiny_model import make_tiny_model

pytestmark = pytest.mark.model

QUESTIONS = ("hi", "what is the time?", "please swap the lamp in C4821 for a blue one", "why")
SYSTEM = {"role": "system", "content": "You are brief."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def prompts_of(tokenizer: Any) -> list[list[int]]:
    return [prompt_ids(tokenizer, [SYSTEM, {"role": "user", "content": text}]) for text in QUESTIONS]


def test_batches_with_a_shared_beginning_answer_as_each_prompt_alone(loaded) -> None:
    import torch

    model, tokenizer = loaded
    prompts = prompts_of(tokenizer)
    shared = common_prefix(prompts)
    assert len(shared) > len(tokenizer(SYSTEM["content"])["input_ids"])
    together = Decoder(model, tokenizer, shared, 12).answer(prompts)
    for prompt, (text, stopped, count) in zip(prompts, together, strict=True):
        given = torch.tensor([prompt])
        alone = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=12
        )
        written = alone[0, len(prompt) :].tolist()
        assert text == tokenizer.decode(written, skip_special_tokens=True)
        assert (stopped, count) == (written[-1] == tokenizer.eos_token_id, len(written))


def test_common_prefix_is_what_all_begin_with() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == [1, 2]
    assert common_prefix([[1, 2]]) == [1, 2]
    assert common_prefix([[1], [2]]) == []
    assert common_prefix([]) == []


def test_answers_that_are_there_already_are_kept(tmp_path: Path, folder: Path) -> None:
    prompts = {f"t{n}": [SYSTEM, {"role": "user", "content": text}] for n, text in enumerate(QUESTIONS)}
    arms = [Arm(name="base", adapter=None, prompts=prompts)]
    write_json(
        tmp_path / "generate.json",
        Job(base_model=folder, arms=arms, max_new_tokens=4, batch_size=2, threads=1),
    )
    kept = Answer(trace_id="t1", text="kept", stopped=True, tokens_in=1, tokens_out=1, seconds=0.0)
    write_bytes(tmp_path / "answers-base.jsonl", jsonl([kept]))
    generate(tmp_path)
    answers = {answer.trace_id: answer for answer in read_jsonl(tmp_path / "answers-base.jsonl", Answer)}
    assert set(answers) == set(prompts)
    assert answers["t1"] == kept


def test_prompt_tokens_are_not_in_the_loss_and_the_end_is(loaded) -> None:
    _, tokenizer = loaded
    example = Example(
        traces=["t"],
        prompt=[SYSTEM, {"role": "user", "content": "hi"}],
        completion=[{"role": "assistant", "content": "yes"}],
        score=1.0,
    )
    (row,) = render(tokenizer, [example], 500).rows
    prompt = prompt_ids(tokenizer, example.prompt)
    assert row["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    assert tokenizer.decode(row["labels"][len(prompt) :]) == "yes<|im_end|>"
    assert row["input_ids"][: len(prompt)] == prompt


def test_rows_that_are_too_long_are_left_out_and_counted_never_cut(loaded) -> None:
    _, tokenizer = loaded
    examples = [
        Example(
            traces=[f"t{n}"],
            prompt=[{"role": "user", "content": "x" * n}],
            completion=[{"role": "assistant", "content": "yes"}],
            score=1.0,
        )
        for n in (5, 400)
    ]
    rendered = render(tokenizer, examples, 100)
    assert (len(rendered.rows), rendered.over_length) == (1, 1)


def test_a_template_that_renders_a_prompt_otherwise_once_answered_is_refused(loaded) -> None:
    import copy

    _, tokenizer = loaded
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{% if add_generation_prompt %}ask:{% endif %}" + tokenizer.chat_template
    example = Example(
        traces=["t-1"],
        prompt=[{"role": "user", "content": "hi"}],
        completion=[{"role": "assistant", "content": "yes"}],
        score=1.0,
    )
    with pytest.raises(LearnerError, match=r"renders a prompt differently .*t-1"):
        render(other, [example], 100)


def a_plan(run: Path, folder: Path, *, max_tokens: int, digest: str) -> None:
    example = Example(
        traces=["t"],
        prompt=[{"role": "user", "content": "hello there"}],
        completion=[{"role": "assistant", "content": "yes"}],
        score=1.0,
    )
    write_bytes(run / "train.jsonl", jsonl([example]))
    recipe = Recipe(
        method="sft",
        epochs=1.0,
        learning_rate=1e-3,
        batch_size=1,
        lora_rank=8,
        lora_alpha=16,
        max_tokens=max_tokens,
        seed=1,
    )
    plan = TrainPlan(
        route="r",
        dataset="d",
        dataset_dir=run,
        base_model=folder,
        base_digest=digest,
        recipe=recipe,
        checkpoint_steps=5,
    )
    write_json(run / "plan.json", plan)


def test_a_dataset_whose_rows_are_all_too_long_is_refused_with_the_setting(
    tmp_path: Path, folder: Path
) -> None:
    a_plan(tmp_path, folder, max_tokens=16, digest=base_model_digest(folder))
    with pytest.raises(LearnerRefusedError, match=r"all 1 rows .* 16 tokens; raise learner.train.max_tokens"):
        train_sft(tmp_path)


def test_a_base_model_that_changed_since_the_run_began_is_refused(tmp_path: Path, folder: Path) -> None:
    a_plan(tmp_path, folder, max_tokens=100, digest="0" * 64)
    with pytest.raises(LearnerError, match="changed since this run began"):
        train_sft(tmp_path)
