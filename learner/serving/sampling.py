"""Choosing the next token. Pure, but for the generator that a row brings."""

from __future__ import annotations

import msgspec
import torch


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How a request wants its tokens chosen. Temperature 0 is greedy; `seed` makes sampling repeatable."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    def generator(self) -> torch.Generator:
        """A source of randomness of the request's own, seeded by it or by the system."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token after *logits* [vocabulary].

    With `top_p` below 1 the choice is among the fewest tokens whose probabilities reach it.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, tokens = probabilities.sort(descending=True)
        # A token stays while those before it have not reached top_p; the first one always does.
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
        return int(tokens[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
