"""LoRA adapters beside the base weights: any row of a batch may use any of them, and none changes the model.

An adapter is data: loading one adds tensors to a dictionary, unloading forgets them. A batch says which
of its tokens belong to which adapter, and every linear layer adds that adapter's low-rank product to
those tokens. PEFT computes the same sum through several modules a layer, which costs half of the
throughput on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from learner.errors import ServingError
from learner.serving.linear import product

OUTPUT_HEAD = "lm_head"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Settings that change what a layer computes, beyond adding a low-rank product. vLLM refuses them too.
_NOT_PLAIN = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "modules_to_save",
    "layer_replication",
    "fan_in_fan_out",
    "alpha_pattern",
    "alora_invocation_tokens",
)


class _AdapterConfig(msgspec.Struct, kw_only=True):
    peft_type: str
    lora_alpha: float
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: bool | str = True


class Adapter:
    """A loaded adapter. Immutable, so rows in flight keep using it after its name is unloaded."""

    def __init__(self, name: str, path: Path, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.name = name
        self.path = path
        # module name -> (down [in, r], up [r, out]); `up` carries the scaling
        self.pairs = dict(pairs)


class Groups:
    """Which tokens of the batch being computed belong to which adapter; set before each forward pass."""

    def __init__(self) -> None:
        self.current: list[tuple[Adapter, int, int]] = []  # (adapter, first token, past the last token)


class LoraLinear(nn.Module):
    """A linear layer that adds each adapter's product to the tokens that are its own."""

    def __init__(self, name: str, base: nn.Linear, groups: Groups) -> None:
        super().__init__()
        self.name = name
        self._product = product(base)
        self._groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._product(x)
        for adapter, start, stop in self._groups.current:
            pair = adapter.pairs.get(self.name)
            if pair is not None:
                down, up = pair
                # The batch is one row of tokens, [1, tokens, width], so these are views, changed in place.
                y[0, start:stop].addmm_(x[0, start:stop] @ down, up)
        return y


def attach(model: nn.Module, groups: Groups) -> dict[str, torch.Size]:
    """Put a LoraLinear in the place of every linear layer; returns the shapes of those an adapter may target.

    The output head may not be: it sees only the tokens that are asked for, and vLLM does not adapt it either.
    """
    shapes: dict[str, torch.Size] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, LoraLinear(name, module, groups))
            if name != OUTPUT_HEAD:
                shapes[name] = module.weight.shape
    return shapes


def load_adapter(
    name: str, path: Path, shapes: Mapping[str, torch.Size], *, device: torch.device, dtype: torch.dtype
) -> Adapter:
    """Read a PEFT folder. Raises ServingError naming what is missing or cannot be served."""
    config = _read_config(path)
    try:
        tensors = load_file(path / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ServingError(f"{path / ADAPTER_WEIGHTS}: cannot be read: {error}") from error
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for key in sorted(tensors):
        module = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        if key.endswith(".lora_B.weight"):
            continue  # read with its other half
        up = tensors.get(f"{_PREFIX}{module}.lora_B.weight")
        if not key.endswith(".lora_A.weight") or up is None:
            raise ServingError(f"{path}: {key} is not half of a plain LoRA pair; train a plain LoRA")
        down = tensors[key]
        if shapes.get(module) != (up.shape[0], down.shape[1]) or up.shape[1] != down.shape[0]:
            raise ServingError(
                f"{path}: {module} does not fit this base model; it was trained on another one"
            )
        rank = down.shape[0]
        scaling = config.lora_alpha / (math.sqrt(rank) if config.use_rslora else rank)
        pairs[module] = (
            down.to(device, dtype).t().contiguous(),
            (up.to(device, torch.float32) * scaling).to(dtype).t().contiguous(),
        )
    if not pairs:
        raise ServingError(f"{path / ADAPTER_WEIGHTS}: holds no LoRA weights")
    return Adapter(name, path, pairs)


def _read_config(path: Path) -> _AdapterConfig:
    file = path / ADAPTER_CONFIG
    try:
        raw: dict[str, Any] = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        config = msgspec.convert(raw, _AdapterConfig)
    except OSError as error:
        raise ServingError(f"{file}: no adapter here: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ServingError(f"{file}: not an adapter's configuration: {error}") from error
    for setting in _NOT_PLAIN:
        if raw.get(setting):
            raise ServingError(f"{file}: {setting} cannot be served; train a plain LoRA")
    if config.peft_type != "LORA" or config.bias != "none":
        raise ServingError(f"{file}: only LoRA adapters without biases can be served")
    if config.init_lora_weights not in {True, False, "gaussian"}:
        raise ServingError(f"{file}: init_lora_weights changed the base weights; it cannot be served")
    return config
