"""The demo's own base model, as prepared, through the server's forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.base_model import MAX_LENGTH, check_base_model
from learner.render import prompt_ids
from learner.serving.model import Part, ServedModel

MODEL = Path(__file__).parents[3] / "models" / "smollm2-135m-instruct"
pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="needs the demo's base model: make model"),
]


def test_the_prepared_model_knows_the_capital_of_france():
    check_base_model(MODEL)
    torch.set_num_threads(1)
    model = ServedModel(MODEL)
    assert model.tokenizer.model_max_length == MAX_LENGTH == model.max_tokens
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    tokens = prompt_ids(model.tokenizer, question)
    rows = [model.new_kv(256, None) for _ in range(2)]  # together, and one of them in two chunks
    first = model.step([Part(rows[0], tokens), Part(rows[1], tokens[:20])])[0]
    second = model.step([Part(rows[1], tokens[20:])])[0]
    assert torch.allclose(first, second, atol=1e-2)
    written: list[int] = []
    while len(written) < 12 and not (written and written[-1] in model.end_tokens):
        written.append(int(first.argmax()))
        first = model.step([Part(rows[0], written[-1:])])[0]
    assert "Paris" in model.tokenizer.decode(written)
