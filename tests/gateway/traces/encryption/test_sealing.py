"""A sealed text opens only with its key, where it was put, and as it was; everything else says so."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.traces.bodies.bodies import Bodies
from gateway.traces.encryption.keyring import Keyring
from gateway.traces.encryption.master_key import LocalWrapper
from gateway.traces.encryption.sealing import (
    DamagedBodyError,
    Sealer,
    is_sealed,
    parse_sealed,
    read_unsealed,
    unseal,
    unsealed,
)
from gateway.traces.markers import ERASED, ERASED_REASON, unreadable, why_text_unreadable

PLACE = "traces.request of t1"


@pytest.fixture
def keys(tmp_path: Path) -> Keyring:
    return Keyring.open(tmp_path / "keyring.sqlite", LocalWrapper(b"m" * 32))


@given(text=st.text())
def test_what_is_sealed_reads_back(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    key = _key(tmp_path_factory)
    sealed = Sealer().seal(text, key, PLACE)
    assert is_sealed(sealed)
    assert json.loads(sealed)["x_tracetune"]["key"] == key.id
    assert unseal(parse_sealed(sealed, PLACE), key, PLACE) == text


_KEYS: dict[str, Keyring] = {}


def _key(factory: pytest.TempPathFactory):
    if "one" not in _KEYS:
        _KEYS["one"] = Keyring.open(factory.mktemp("keys") / "keyring.sqlite", LocalWrapper(b"m" * 32))
    return _KEYS["one"].key_for("app", "ann", "s1")


def test_two_texts_that_are_equal_are_not_seen_to_be(keys: Keyring) -> None:
    key, sealer = keys.key_for("app", "ann", "s1"), Sealer()
    assert sealer.seal("hello", key, PLACE) != sealer.seal("hello", key, PLACE)


def test_every_flipped_bit_is_an_error_that_names_the_row_and_no_text(keys: Keyring) -> None:
    key = keys.key_for("app", "ann", "s1")
    sealed = parse_sealed(Sealer().seal("the planted text", key, PLACE), PLACE)
    data = base64.b64decode(sealed.data)
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(DamagedBodyError) as error:
            unseal(type(sealed)(sealed.sealed, sealed.key, base64.b64encode(flipped).decode()), key, PLACE)
        assert PLACE in str(error.value)
        assert "planted" not in str(error.value)


def test_a_text_that_is_cut_off_or_no_sealed_text_is_an_error_that_names_the_row(keys: Keyring) -> None:
    keys.key_for("app", "ann", "s1")
    sealed = Sealer().seal("the planted text", keys.key_for("app", "ann", "s1"), PLACE)
    for cut in range(len('{"x_tracetune":{"sealed":'), len(sealed)):
        with pytest.raises(DamagedBodyError, match=PLACE):
            Bodies(lambda: keys).text(sealed[:cut], PLACE)


def test_a_text_that_was_moved_to_another_row_or_column_does_not_open(keys: Keyring) -> None:
    key = keys.key_for("app", "ann", "s1")
    sealed = parse_sealed(Sealer().seal("hello", key, PLACE), PLACE)
    for elsewhere in ("traces.request of t2", "traces.response of t1"):
        with pytest.raises(DamagedBodyError, match=elsewhere):
            unseal(sealed, key, elsewhere)


def test_a_body_whose_key_was_destroyed_reads_as_erased(keys: Keyring) -> None:
    sealed = Sealer().seal("hello", keys.key_for("app", "ann", "s1"), PLACE)
    keys.destroy("app", "ann")
    assert Bodies(lambda: keys).text(sealed, PLACE) == ERASED
    assert why_text_unreadable(ERASED) == ERASED_REASON
    assert why_text_unreadable(unreadable("why")) == "why"
    assert why_text_unreadable('{"x_tracetune":{"error":"connect"}}') is None


def test_without_a_master_key_an_encrypted_body_says_what_is_missing(keys: Keyring) -> None:
    sealed = Sealer().seal("hello", keys.key_for("app", "ann", "s1"), PLACE)
    with pytest.raises(ConfigError, match=f"{PLACE} is encrypted; name the key .* as privacy.master_key"):
        Bodies(lambda: None).text(sealed, PLACE)


@given(
    text=st.text() | st.sampled_from(['{"x_tracetune":{"sealed":1}}', '{"x_tracetune":{"literal":"a"}}', "{"])
)
def test_what_a_client_sends_is_never_taken_for_a_form_of_ours(text: str) -> None:
    forged = unsealed(unsealed(text))
    assert not is_sealed(forged)
    assert read_unsealed(read_unsealed(forged)) == text
