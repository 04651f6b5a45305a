"""The model in memory, and one forward pass over rows of different lengths, adapters and phases.

The tokens of all rows stand one after the other in a single row, with no padding: a row whose prompt is
being read brings many, a row that is writing brings one. Linear layers see all tokens at once; attention
goes row by row over that row's own keys and values. So rows come and go between any two passes, and none
sees another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from torch.nn.functional import scaled_dot_product_attention

from learner.base_model import check_base_model
from learner.errors import ServingError
from learner.serving.kv import KvShape, RowKv
from learner.serving.lora import Adapter, Groups, attach, load_adapter

_ATTENTION = "tracetune_rows"


class Part(msgspec.Struct, frozen=True):
    """What one row brings to a pass: tokens that follow those its keys and values already cover."""

    kv: RowKv
    tokens: list[int]


class _Span(msgspec.Struct, frozen=True):
    """A part's place in the batch, and its mask (None: a single token, which sees all before it)."""

    kv: RowKv
    start: int
    stop: int
    past: int
    mask: torch.Tensor | None


class ServedModel:
    """Base model, tokenizer, and the forward pass. Not thread-safe: one thread computes."""

    def __init__(self, directory: Path, *, device: str | None = None) -> None:
        """Load *directory*: fp32 on a CPU (bf16 is slower without instructions for it), bf16 on a GPU.

        Raises LearnerError when it is no base model, ServingError when it cannot be served.
        """
        check_base_model(directory)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        transformers.AttentionInterface.register(_ATTENTION, _attend)
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                directory, dtype=self.dtype, attn_implementation=_ATTENTION
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ServingError(f"{directory}: the model cannot be loaded: {error}") from error
        config = model.config
        _check_attention(directory, config)
        self._model = model.to(self.device).eval()
        self._groups = Groups()
        self._shapes = attach(self._model, self._groups)
        self._kv_shape = KvShape(
            layers=config.num_hidden_layers,
            heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        )
        self.max_tokens: int = config.max_position_embeddings
        self.end_tokens = _end_tokens(model.generation_config, self.tokenizer)

    def new_kv(self, capacity: int, adapter: Adapter | None) -> RowKv:
        """Room for *capacity* tokens of a row that uses *adapter*."""
        return RowKv(self._kv_shape, capacity, adapter, self.device, self.dtype)

    def read_adapter(self, name: str, path: Path) -> Adapter:
        """Read an adapter for this model; safe from any thread. Raises ServingError."""
        return load_adapter(name, path, self._shapes, device=self.device, dtype=self.dtype)

    @torch.inference_mode()
    def step(self, parts: Sequence[Part]) -> torch.Tensor:
        """Logits [parts, vocabulary] after the last token of each part, in fp32 on the CPU.

        Parts that use the same adapter must stand together. Afterwards each part's tokens are in its `kv`.
        """
        spans = _spans(parts, self.device)
        self._groups.current = _groups(spans)
        tokens = [token for part in parts for token in part.tokens]
        positions = [span.past + offset for span in spans for offset in range(span.stop - span.start)]
        output = self._model(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            use_cache=False,
            logits_to_keep=torch.tensor([span.stop - 1 for span in spans], device=self.device),
            spans=spans,
        )
        for part in parts:
            part.kv.tokens.extend(part.tokens)
        logits: torch.Tensor = output.logits[0].float().cpu()
        return logits


def _spans(parts: Sequence[Part], device: torch.device) -> list[_Span]:
    spans = []
    start = 0
    for part in parts:
        past, count = len(part.kv.tokens), len(part.tokens)
        mask = None
        if count > 1:  # token i of the part sees the past and the part up to itself
            mask = torch.ones((count, past + count), dtype=torch.bool, device=device).tril(past)
        spans.append(_Span(part.kv, start, start + count, past, mask))
        start += count
    return spans


def _groups(spans: Sequence[_Span]) -> list[tuple[Adapter, int, int]]:
    groups: list[tuple[Adapter, int, int]] = []
    for span in spans:
        adapter = span.kv.adapter
        if adapter is None:
            continue
        if groups and groups[-1][0] is adapter and groups[-1][2] == span.start:
            groups[-1] = (adapter, groups[-1][1], span.stop)
        else:
            groups.append((adapter, span.start, span.stop))
    return groups


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    spans: Sequence[_Span],
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention call for a batch of spans; tensors are [1, heads, tokens, width]."""
    assert attention_mask is None, "the batch carries its own masks"
    _one, heads, tokens, width = query.shape
    kv_heads = key.shape[1]
    output = query.new_empty((tokens, heads, width))
    for span in spans:
        keys, values = span.kv.extend(
            module.layer_idx,
            span.past,
            key[0, :, span.start : span.stop],
            value[0, :, span.start : span.stop],
        )
        count = span.stop - span.start
        # Query heads that share a key head become more queries of it: nothing is copied to repeat keys.
        grouped = query[0, :, span.start : span.stop].reshape(kv_heads, -1, width)
        mask = span.mask if span.mask is None else span.mask.repeat(heads // kv_heads, 1)
        attended = scaled_dot_product_attention(
            grouped[None], keys[None], values[None], attn_mask=mask, scale=scaling
        )
        output[span.start : span.stop] = attended.view(heads, count, width).transpose(0, 1)
    return output[None], None


def _check_attention(directory: Path, config: Any) -> None:
    """Raise ServingError unless every layer attends to all that came before."""
    layers = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    plain = all(layer == "full_attention" for layer in layers) if layers else not windowed
    if not plain or not hasattr(config, "num_attention_heads"):
        raise ServingError(
            f"{directory}: {config.model_type} needs more than full attention; "
            "serve it with managed: {engine: vllm}"
        )


def _end_tokens(generation: Any, tokenizer: Any) -> frozenset[int]:
    ends = generation.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)
