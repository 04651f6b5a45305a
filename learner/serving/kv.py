"""Keys and values of one row, and how a new row takes over those of an equal prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import torch

from learner.serving.lora import Adapter

MIN_SHARED_TOKENS = 16  # below this, copying costs as much as computing


class KvShape(msgspec.Struct, frozen=True, kw_only=True):
    """What one token of one row takes."""

    layers: int
    heads: int
    width: int


class RowKv:
    """Keys and values of the tokens in `tokens`, computed with `adapter`; room for `capacity` tokens.

    Memory is touched only where it is written, so a generous capacity costs address space, not memory.
    """

    def __init__(
        self, shape: KvShape, capacity: int, adapter: Adapter | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.adapter = adapter
        self.capacity = capacity
        self.tokens: list[int] = []
        self._data = torch.empty(
            (shape.layers, 2, shape.heads, capacity, shape.width), device=device, dtype=dtype
        )
        self._layers = [(layer[0], layer[1]) for layer in self._data]

    def extend(
        self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [heads, n, width] at *start*; returns all keys and values up to there, as views."""
        stored_keys, stored_values = self._layers[layer]
        stop = start + keys.shape[1]
        stored_keys[:, start:stop] = keys
        stored_values[:, start:stop] = values
        return stored_keys[:, :stop], stored_values[:, :stop]

    def take_prefix(self, source: RowKv, length: int) -> None:
        """Become a copy of the first *length* tokens of *source*."""
        assert not self.tokens
        assert self.adapter is source.adapter, "another adapter computes other keys and values"
        self._data[:, :, :, :length] = source._data[:, :, :, :length]
        self.tokens = source.tokens[:length]


def longest_prefix(
    candidates: Iterable[RowKv], adapter: Adapter | None, prompt: Sequence[int]
) -> tuple[RowKv, int] | None:
    """The candidate that shares most of *prompt*, and how many tokens; None below MIN_SHARED_TOKENS.

    The prompt's last token is never shared: computing it is what predicts the first token of the answer.
    """
    best: tuple[RowKv, int] | None = None
    for candidate in candidates:
        if candidate.adapter is not adapter:
            continue
        shared = _common(candidate.tokens, prompt, len(prompt) - 1)
        if shared >= MIN_SHARED_TOKENS and (best is None or shared > best[1]):
            best = (candidate, shared)
    return best


def _common(left: Sequence[int], right: Sequence[int], limit: int) -> int:
    end = min(len(left), len(right), limit)
    return next((index for index in range(end) if left[index] != right[index]), end)
