"""Examples as token ids through the model's own chat template, prompt tokens out of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from learner.errors import LearnerError
from learner.types import Example

IGNORED = -100  # torch's label for a token that is not in the loss


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """Training columns, and how many examples were left out because they are longer than the limit."""

    rows: list[dict[str, list[int]]]
    over_length: int


def prompt_ids(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the assistant is to answer, as the serving path renders it."""
    encoded = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def render(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> Rendered:
    """Render *examples*; rows above *max_tokens* are left out and counted, never cut.

    A cut answer has no end, and would teach the model not to stop. Raises LearnerError when the template
    renders a prompt otherwise alone than with its answer: the model would train on a context it never meets.
    """
    rows: list[dict[str, list[int]]] = []
    over_length = 0
    for example in examples:
        prompt = prompt_ids(tokenizer, example.prompt)
        encoded = tokenizer.apply_chat_template([*example.prompt, *example.completion], return_dict=True)
        whole = list(encoded["input_ids"])
        if whole[: len(prompt)] != prompt:
            raise LearnerError(
                "the base model's chat template renders a prompt differently once it is answered "
                f"(trace {example.traces[0]}); use a base model whose template only appends"
            )
        whole = _up_to_end(whole, len(prompt), tokenizer.eos_token_id)
        if len(whole) > max_tokens:
            over_length += 1
            continue
        rows.append({"input_ids": whole, "labels": [IGNORED] * len(prompt) + whole[len(prompt) :]})
    return Rendered(rows=rows, over_length=over_length)


def _up_to_end(ids: list[int], start: int, end: int | None) -> list[int]:
    """*ids* up to the last end token after *start*: what a template adds behind it is never generated."""
    if end is None or end not in ids[start:]:
        return ids
    return ids[: len(ids) - ids[::-1].index(end)]
