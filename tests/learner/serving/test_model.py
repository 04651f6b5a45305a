"""The forward pass over mixed rows computes what transformers and PEFT compute one by one."""

from __future__ import annotations

import random

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from learner.errors import LearnerError, ServingError
from learner.serving.kv import MIN_SHARED_TOKENS, longest_prefix
from learner.serving.model import Part, ServedModel
from tests.support.tiny_model import make_tiny_adapter, make_tiny_model

TOLERANCE = 1e-3
# PEFT reads an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def model(tiny_base):
    return ServedModel(tiny_base)


@pytest.fixture(scope="module")
def adapters(model, tiny_adapters):
    return [None, *(model.read_adapter(path.name, path) for path in tiny_adapters)]


@pytest.fixture(scope="module")
def reference(tiny_base, tiny_adapters):
    """Logits by transformers alone, and by PEFT for each adapter."""
    plain = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    wrapped = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base), tiny_adapters[0], adapter_name="tiny-1"
    )
    wrapped.load_adapter(tiny_adapters[1], adapter_name="tiny-2")
    wrapped.eval()

    def logits(tokens, adapter):
        with torch.inference_mode():
            if adapter is None:
                return plain(torch.tensor([tokens])).logits[0]
            wrapped.set_adapter(adapter.name)
            return wrapped(torch.tensor([tokens])).logits[0]

    return logits


def rows(seed, count, longest=40):
    source = random.Random(seed)
    return [[source.randrange(3, 280) for _ in range(source.randint(2, longest))] for _ in range(count)]


def close(left, right):
    return torch.allclose(left, right, atol=TOLERANCE, rtol=TOLERANCE)


def test_rows_of_any_length_and_adapter_in_one_pass_equal_rows_alone_in_transformers_and_peft(
    model, adapters, reference
):
    prompts = rows(1, 9)
    owners = sorted((adapters[index % 3] for index in range(9)), key=id)
    parts = [
        Part(model.new_kv(64, owner), list(prompt)) for owner, prompt in zip(owners, prompts, strict=True)
    ]
    logits = model.step(parts)
    for row, prompt, owner in zip(logits, prompts, owners, strict=True):
        assert close(row, reference(prompt, owner)[-1])


def test_a_prompt_read_in_any_chunks_beside_writing_rows_gives_the_same_logits(model, adapters, reference):
    for owner in adapters:
        prompt = rows(2, 1, longest=60)[0] + rows(3, 1)[0]
        whole = reference(prompt, owner)[-1]
        for cut in (1, 2, len(prompt) // 2, len(prompt) - 1):
            writing, reading = model.new_kv(64, owner), model.new_kv(128, owner)
            model.step([Part(writing, prompt[:5]), Part(reading, prompt[:cut])])
            both = model.step([Part(writing, prompt[5:6]), Part(reading, prompt[cut:])])
            assert close(both[1], whole)
            assert close(both[0], reference(prompt[:6], owner)[-1])


def test_a_row_that_takes_over_a_prefix_continues_as_if_it_had_read_it(model, adapters, reference):
    first, second = rows(4, 2)
    shared = rows(5, 1, longest=60)[0] + [7] * MIN_SHARED_TOKENS
    for owner in adapters:
        source = model.new_kv(256, owner)
        model.step([Part(source, shared + first)])
        found = longest_prefix([source], owner, shared + second)
        assert found is not None
        kv = model.new_kv(256, owner)
        kv.take_prefix(*found)
        logits = model.step([Part(kv, (shared + second)[found[1] :])])
        assert close(logits[0], reference(shared + second, owner)[-1])


def test_a_prefix_is_never_shared_across_adapters_nor_whole(model, adapters):
    tokens = list(range(10, 10 + 2 * MIN_SHARED_TOKENS))
    source = model.new_kv(64, adapters[1])
    model.step([Part(source, tokens)])
    assert longest_prefix([source], adapters[2], tokens) is None
    assert longest_prefix([source], None, tokens) is None
    assert longest_prefix([source], adapters[1], tokens) == (source, len(tokens) - 1)
    assert longest_prefix([source], adapters[1], tokens[: MIN_SHARED_TOKENS - 1]) is None


def test_a_directory_that_is_no_base_model_is_one_line_that_names_what_is_missing(tmp_path):
    with pytest.raises(LearnerError, match=r"lacks config\.json.*weights.*tokenizer.*chat template"):
        ServedModel(tmp_path)


def test_a_model_with_sliding_windows_is_refused_and_pointed_to_vllm(tmp_path):
    base = make_tiny_model(tmp_path / "windowed")
    config = (base / "config.json").read_text().replace('"model_type"', '"sliding_window": 64, "model_type"')
    (base / "config.json").write_text(config)
    with pytest.raises(ServingError, match="engine: vllm"):
        ServedModel(base)


def test_an_adapter_that_cannot_be_served_is_refused_with_the_reason(tmp_path, model, tiny_adapters):
    with pytest.raises(ServingError, match="no adapter here"):
        model.read_adapter("x", tmp_path)
    other = make_tiny_adapter(tmp_path / "other", make_tiny_model(tmp_path / "same", seed=4), seed=3, rank=4)
    config = (other / "adapter_config.json").read_text()
    for change, reason in (
        (('"use_dora": false', '"use_dora": true'), "use_dora"),
        (('"bias": "none"', '"bias": "all"'), "biases"),
        (('"init_lora_weights": true', '"init_lora_weights": "pissa"'), "init_lora_weights"),
        (('"peft_type": "LORA"', '"peft_type": "IA3"'), "only LoRA"),
        ((config, "{"), "not an adapter's configuration"),
    ):
        assert change[0] in config
        (other / "adapter_config.json").write_text(config.replace(*change))
        with pytest.raises(ServingError, match=reason):
            model.read_adapter("x", other)
    (other / "adapter_config.json").write_text(config)
    (other / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ServingError, match=r"adapter_model\.safetensors: cannot be read"):
        model.read_adapter("x", other)
