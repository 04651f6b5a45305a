"""Client keys in memory: no text, no hash that is worth stealing, no comparison that tells by its time."""

from __future__ import annotations

import gc
import hmac
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import CoroutineType, FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

import httpx
import pytest

from gateway.config.secrets import Secrets
from gateway.config.types import Auth, ClientKey, Secret
from gateway.data_plane.auth import ClientKeys
from tests.support.request_path import chat, config_for, running_gateway, wait_until
from tests.support.upstream import ScriptedUpstream

KEYS = {"web": "sk-web-planted", "ops": "sk-ops-planted"}
ADMIN_KEY = "sk-admin-planted"


def made() -> ClientKeys:
    entries = [ClientKey(name=name, key=Secret(env=name.upper())) for name in KEYS]
    told = Secrets(upstreams={}, client_keys=KEYS, admin_key=ADMIN_KEY, store_password=None)
    return ClientKeys(Auth(keys=entries), told)


# What leads from an object to the program around it.
PROGRAM = (type, ModuleType, FunctionType, FrameType, CoroutineType, TracebackType)


def held_by(root: object) -> Iterator[bytes]:
    """Every string of bytes or characters that can be reached from *root* without its program."""
    seen: set[int] = set()
    found: list[Any] = [root]
    while found:
        each = found.pop()
        if id(each) in seen or isinstance(each, PROGRAM):
            continue
        seen.add(id(each))
        if isinstance(each, bytes | str):
            yield each.encode() if isinstance(each, str) else each
        found += gc.get_referents(each)


def test_no_key_is_held_as_text():
    held = list(held_by(made()))

    assert not any(key.encode() in each for key in (*KEYS.values(), ADMIN_KEY) for each in held)
    assert b"web" in held


def test_a_worker_that_read_a_key_from_a_file_keeps_none_of_it(upstream: ScriptedUpstream, tmp_path: Path):
    key = secrets.token_hex()
    (tmp_path / "key").write_text(key)
    config = config_for(upstream.base_url)
    config["auth"] = {"keys": [{"name": "web", "key": {"file": "key"}}]}
    headers = {"authorization": f"Bearer {key}", "connection": "close"}
    with running_gateway(tmp_path, config) as gateway:
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), headers=headers)
        wait_until(lambda: not gateway.server.server_state.connections)  # that of the answer has gone
        held = list(held_by([gateway.state, gateway.server]))

    assert answer.status_code == 200
    assert b"web" in held
    assert not any(key.encode() in each for each in held)


def test_the_hashes_of_a_key_have_nothing_in_common_but_the_key():
    held = [{each for each in held_by(made()) if len(each) >= 16} for _ in range(2)]

    assert held[0]
    assert held[0].isdisjoint(held[1])


@pytest.mark.parametrize(
    ("key", "name"),
    [*((key, name) for name, key in KEYS.items()), (ADMIN_KEY, "admin"), ("sk-web-plante", None), ("", None)],
)
def test_every_key_costs_one_comparison_of_whole_hashes_known_or_not(
    monkeypatch: pytest.MonkeyPatch, key: str, name: str | None
):
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def seen(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    keys = made()
    monkeypatch.setattr(hmac, "compare_digest", seen)
    client = keys.identify(b"Bearer " + key.encode())

    assert (client.name if client is not None else None) == name
    assert [(len(one), len(other)) for one, other in compared] == [(32, 32)]
    # Not with itself: what is expected was there before.
    assert all(one is not other for one, other in compared)


@pytest.mark.parametrize("value", [None, b"", b"Basic c2st", b"sk-web-planted", b"Bearer"])
def test_what_is_no_bearer_is_nobody(value: bytes | None):
    assert made().identify(value) is None


def test_the_scheme_is_read_in_any_case_and_spaces_around_the_key_do_not_count():
    client = made().identify(b"bEARER  sk-web-planted ")

    assert client is not None
    assert client.name == "web"
