"""Text comes out whole, whatever the cut: pieces joined are the answer, and never show a stop string."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from learner.serving.sampling import Sampling, choose
from learner.serving.text import TextStream


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base)


def pieces_of(tokenizer, tokens, stop):
    stream = TextStream(tokenizer, stop)
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces
    return [*pieces, stream.finish()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40), stop=st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_pieces_joined_are_the_text_up_to_its_first_stop_string(tokenizer, text, stop):
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    cuts = [text.find(string) for string in stop if string in text]
    assert "".join(pieces_of(tokenizer, tokens, stop)) == text[: min(cuts, default=len(text))]


def test_a_character_of_many_tokens_comes_out_whole_and_an_unfinished_one_at_the_end(tokenizer):
    tokens = tokenizer("🎉!", add_special_tokens=False)["input_ids"]
    assert [piece for piece in pieces_of(tokenizer, tokens, []) if piece] == ["🎉", "!"]
    assert "".join(pieces_of(tokenizer, tokens[:2], [])) == tokenizer.decode(tokens[:2])


def test_greedy_takes_the_likeliest_and_a_small_top_p_does_too():
    logits = torch.tensor([0.1, 2.0, 1.9, -1.0])
    for sampling in (Sampling(temperature=0), Sampling(temperature=1, top_p=0.01, seed=1)):
        assert choose(logits, sampling, sampling.generator()) == 1


@settings(max_examples=40, deadline=None)
@given(top_p=st.floats(0.05, 1.0), seed=st.integers(0, 2**31))
def test_top_p_never_takes_a_token_outside_the_fewest_that_reach_it(top_p, seed):
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    sampling = Sampling(temperature=1, top_p=top_p, seed=seed)
    chosen = choose(probabilities.log(), sampling, sampling.generator())
    assert probabilities[:chosen].sum() < top_p or chosen == 0
