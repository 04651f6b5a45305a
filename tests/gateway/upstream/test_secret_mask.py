"""Secrets in answers: none passes, however an answer falls into pieces, and nothing else changes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config.secrets import UpstreamSecrets
from gateway.config.types import FixedHeader, Secret, Upstream
from gateway.upstream.secret_mask import MIN_SECRET_BYTES, SecretMask

# Few letters, so that secrets begin, overlap and repeat within each other often.
letters = st.text("ab", min_size=MIN_SECRET_BYTES, max_size=12).map(str.encode)
secrets = st.lists(letters, max_size=3)
texts = st.lists(st.one_of(letters, st.text("abc", max_size=4).map(str.encode)), max_size=8).map(b"".join)


def in_pieces(mask: SecretMask, pieces: list[bytes]) -> bytes:
    """What passes of an answer that comes in *pieces*."""
    passed, held = b"", b""
    for piece in pieces[:-1]:
        if not held and mask.leaves(piece):
            passed += piece
            continue
        masked = mask.piece(held + piece)
        passed, held = passed + masked.passed, masked.held
    return passed + mask.whole(held + pieces[-1])


@given(secrets, texts, st.lists(st.integers(0, 100)))
@example([b"abababab", b"abababababab"], b"cabababababababc", [9, 11])
def test_the_pieces_an_answer_comes_in_make_no_difference(found: list[bytes], text: bytes, cuts: list[int]):
    mask = SecretMask(found)
    ends = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[start:end] for start, end in pairwise(ends)] or [b""]

    assert in_pieces(mask, pieces) == mask.whole(text)


@given(secrets, texts)
def test_no_secret_passes_and_all_else_stays_in_its_place(found: list[bytes], text: bytes):
    masked = SecretMask(found).whole(text)

    assert not any(secret in masked for secret in found)
    assert len(masked) == len(text)
    assert all(new in (old, ord("*")) for new, old in zip(masked, text, strict=True))
    if not any(secret in text for secret in found):
        assert masked == text


@given(secrets, texts)
def test_only_what_a_secret_may_go_on_from_is_held(found: list[bytes], text: bytes):
    held = SecretMask(found).piece(text).held

    assert not held or any(secret.startswith(held) and secret != held for secret in found)


@pytest.mark.parametrize("text", [b"data: {}\n\n", b'{"a": 1}', b"", b"sk-other"])
def test_what_does_not_come_near_a_secret_is_not_held(text: bytes):
    assert SecretMask([b"sk-planted"]).leaves(text)
    assert SecretMask([b"sk-planted"]).piece(text) == (text, b"")


def test_of_two_secrets_that_begin_alike_the_longer_is_meant_where_it_is_there():
    mask = SecretMask([b"sk-planted", b"sk-planted-more"])

    assert mask.whole(b"sk-planted-more, sk-planted-mor") == b"*" * 15 + b", " + b"*" * 10 + b"-mor"
    assert mask.piece(b"say sk-planted") == (b"say ", b"sk-planted")


def test_a_short_word_is_no_secret():
    assert SecretMask([b"a" * (MIN_SECRET_BYTES - 1)]).whole(b"a" * 20) == b"a" * 20


def test_what_an_upstream_and_its_proxy_are_told_is_masked_and_fixed_headers_are_not():
    upstream = Upstream(
        name="up",
        base_url="http://up.example/v1",
        headers=[
            FixedHeader(name="X-Token", secret=Secret(env="TOKEN")),
            FixedHeader(name="x-team", value="search-team"),
        ],
    )
    told = UpstreamSecrets(
        key="key-of-ours",
        headers=(("x-token", "token-of-ours"), ("x-team", "search-team")),
        proxy_auth="user:password",
    )
    mask = SecretMask.of(upstream, told)
    quoted = [b"key-of-ours", b"token-of-ours", b"user:password", b"dXNlcjpwYXNzd29yZA=="]

    assert [mask.whole(each) for each in quoted] == [b"*" * len(each) for each in quoted]
    assert mask.whole(b"search-team") == b"search-team"
    assert mask.headers([(b"a", b"say token-of-ours"), (b"b", b"c")]) == [
        (b"a", b"say *************"),
        (b"b", b"c"),
    ]
