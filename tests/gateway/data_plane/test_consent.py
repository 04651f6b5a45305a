"""A trace that its client keeps out of training says so from its first byte on, whatever the connection knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.data_plane.headers import read_own
from tests.gateway.data_plane.test_known_heads import exchange
from tests.support.request_path import chat, config_for, post_bytes, running_gateway
from tests.support.upstream import ScriptedUpstream

PATH = "/v1/chat/completions"
BODY = json.dumps(chat()).encode()
HEADER = b"x-tracetune-training"


@pytest.mark.parametrize("value", [b"no", b"No", b"false", b"0", b"off", b"none", b"", b"whatever", b"\xff"])
def test_whoever_names_training_and_does_not_say_yes_means_no(value: bytes):
    assert not read_own([(HEADER, value)])[0].training


@pytest.mark.parametrize("value", [b"yes", b"YES", b"true", b"1", b" on "])
def test_yes_is_what_silence_means(value: bytes):
    assert read_own([(HEADER, value)])[0].training
    assert read_own([])[0].training


def test_one_no_is_enough_and_none_of_it_goes_upstream():
    for values in ([b"no", b"yes"], [b"yes", b"no"]):
        own, passed = read_own([(HEADER, value) for value in values])
        assert (own.training, passed) == (False, b"")


def test_a_head_that_says_no_is_never_taken_for_one_that_says_nothing(
    upstream: ScriptedUpstream, tmp_path: Path
):
    silent = post_bytes(BODY, PATH, "x-tracetune-session: s")
    no = post_bytes(BODY, PATH, "x-tracetune-training: no", "x-tracetune-session: s")
    yes = post_bytes(BODY, PATH, "x-tracetune-training: yes", "x-tracetune-session: s")
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway:
        exchange(gateway, silent, silent, no, no, silent, yes, no)
        traces = gateway.traces(7)

    assert [trace.training for trace in traces] == [True, True, False, False, True, True, False]


def test_nothing_that_comes_with_a_key_kept_out_of_training_is_learnt_from_whatever_its_header_says(
    upstream: ScriptedUpstream, tmp_path: Path
):
    config: dict[str, Any] = config_for(upstream.base_url)
    config["auth"] = {
        "keys": [
            {"name": "web", "key": {"env": "WEB"}},
            {"name": "clinic", "key": {"env": "CLINIC"}, "training": False},
        ]
    }
    requests = [
        post_bytes(BODY, PATH, f"authorization: Bearer {key}", *more)
        for key, more in (
            ("key-web", []),
            ("key-clinic", []),
            ("key-clinic", []),
            ("key-clinic", ["x-tracetune-training: yes"]),
            ("key-web", []),
        )
    ]
    with running_gateway(tmp_path, config, {"WEB": "key-web", "CLINIC": "key-clinic"}) as gateway:
        exchange(gateway, *requests)
        traces = gateway.traces(5)

    assert [trace.training for trace in traces] == [True, False, False, False, True]
